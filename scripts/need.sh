# Sourced by the other scripts: makes sure that a tool is there, and says so when it has to install it.

# need PROGRAM PACKAGE: installs the Debian PACKAGE if PROGRAM is not found.
need() {
    command -v "$1" >/dev/null 2>&1 && return 0
    if ! command -v apt-get >/dev/null 2>&1; then
        echo "$1 is missing and there is no apt-get: install it (Debian calls the package $2)" >&2
        exit 1
    fi
    as_root=""
    if [ "$(id -u)" -ne 0 ]; then
        command -v sudo >/dev/null 2>&1 || {
            echo "$1 is missing: run 'apt-get install $2' as root, then this again" >&2
            exit 1
        }
        as_root="sudo"
    fi
    echo "installing $2, because $1 is missing" >&2
    if [ -z "${apt_updated:-}" ]; then
        $as_root apt-get update -qq >&2 || true
        apt_updated=1
    fi
    $as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "$2" >&2 || {
        echo "apt-get could not install $2" >&2
        exit 1
    }
}

# need_crate PROGRAM VERSION: installs this version of the crate of that name, beside what other projects use.
need_crate() {
    crates="${XDG_CACHE_HOME:-$HOME/.cache}/vortex-fs/tools"
    case ":$PATH:" in *":$crates/bin:"*) ;; *) export PATH="$crates/bin:$PATH" ;; esac
    [ "$("$1" --version 2>/dev/null)" = "$1 $2" ] && return 0
    echo "installing the crate $1 $2 into $crates" >&2
    cargo install --locked --quiet --root "$crates" "$1@$2" >&2 || {
        echo "cargo could not install $1 $2" >&2
        exit 1
    }
}

# need_rust: the one thing that these scripts do not install.
need_rust() {
    if [ -f "$HOME/.cargo/env" ]; then
        . "$HOME/.cargo/env"
    fi
    command -v cargo >/dev/null 2>&1 || {
        echo "cargo is missing: install Rust from https://rustup.rs, then run this again" >&2
        exit 1
    }
}
