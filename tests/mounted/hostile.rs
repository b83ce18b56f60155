//! Hostile users and hostile backing directories: nobody reads or writes what his own rights do not allow, nothing hangs, and no
//! name moves a cursor. Most of it needs root, to play a user without rights against it.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::Read;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::Path;
use std::process::{Command, Output};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use rustix::fs::{CWD, FileType, Mode, RenameFlags, mknodat, renameat_with};

use super::support::{
    Archive, fails, has, is_alive, kill, ok, sh, telemetry, vortex, wait_gone, wait_until,
};

/// A user without any rights.
const NOBODY: u32 = 65534;

/// An archive that nobody may look into, if this is root and can mount.
fn archive() -> Option<Archive> {
    if !rustix::process::geteuid().is_root() {
        println!("skipped: needs root to act as another user");
        return None;
    }
    if !has("setpriv") || !has("timeout") {
        return None;
    }
    let archive = Archive::unmounted()?;
    let dir = archive.backing();
    let dir = dir.parent().expect("a parent");
    fs::set_permissions(dir, PermissionsExt::from_mode(0o755)).unwrap();
    Some(archive)
}

/// Runs a shell script as the user without rights.
fn as_nobody(dir: &Path, script: &str) -> Output {
    Command::new("timeout")
        .args(["20", "setpriv", "--reuid", "65534", "--regid", "65534"])
        .args(["--clear-groups", "sh", "-c", script])
        .current_dir(dir)
        .output()
        .expect("setpriv runs")
}

fn said(output: &Output) -> String {
    [&output.stdout[..], &output.stderr]
        .concat()
        .escape_ascii()
        .to_string()
}

/// Runs the program, which must not hang, and answers what it wrote.
fn ends(args: &[&str], path: &Path) -> Output {
    let mut command = Command::new("timeout");
    command
        .arg("20")
        .arg(vortex().get_program())
        .args(args)
        .arg(path);
    let output = command.output().expect("it runs");
    assert_ne!(output.status.code(), Some(124), "{command:?} hangs");
    output
}

/// Every name below a directory with its inode, mode, owner and content; the private directory left out.
fn everything(dir: &Path) -> BTreeMap<String, (u64, u32, u32, Vec<u8>)> {
    let mut found = BTreeMap::new();
    let mut waiting = vec![dir.to_path_buf()];
    while let Some(dir) = waiting.pop() {
        for entry in fs::read_dir(dir).unwrap().map(Result::unwrap) {
            if entry.file_name() == ".vortex" {
                continue;
            }
            let (path, meta) = (entry.path(), entry.metadata().unwrap());
            let content = match meta.file_type() {
                kind if kind.is_file() => fs::read(&path).unwrap(),
                kind if kind.is_symlink() => fs::read_link(&path)
                    .unwrap()
                    .as_os_str()
                    .as_bytes()
                    .to_vec(),
                _ => Vec::new(),
            };
            if meta.is_dir() {
                waiting.push(path.clone());
            }
            let name = path.to_string_lossy().into_owned();
            found.insert(name, (meta.ino(), meta.mode(), meta.uid(), content));
        }
    }
    found
}

/// A field of `/proc/PID/status` of every thread.
fn status(pid: u32, field: &str) -> Vec<String> {
    let tasks = fs::read_dir(format!("/proc/{pid}/task")).unwrap();
    let of = |text: String| {
        let line = text
            .lines()
            .find_map(|l| l.strip_prefix(field)?.strip_prefix(':'));
        line.map(|value| value.trim().to_string())
    };
    let texts =
        tasks.filter_map(|task| fs::read_to_string(task.unwrap().path().join("status")).ok());
    texts.filter_map(of).collect()
}

#[test]
fn the_daemon_keeps_only_what_it_needs() {
    const SYS_ADMIN: u64 = 1 << 21;
    const DAC_READ_SEARCH: u64 = 1 << 2;
    // CHOWN, DAC_OVERRIDE, FOWNER, FSETID, MKNOD, SETFCAP.
    const WRITING: u64 = 1 | 1 << 1 | 1 << 3 | 1 << 4 | 1 << 27 | 1 << 31;
    let Some(archive) = archive() else { return };
    let secret = archive.outside().join("inherited");
    fs::write(&secret, "x").unwrap();
    for (options, allowed) in [
        (
            &["--allow-other"][..],
            SYS_ADMIN | DAC_READ_SEARCH | WRITING,
        ),
        (&["--read-only"], SYS_ADMIN | DAC_READ_SEARCH),
    ] {
        // What the caller has open is not the daemon's.
        let mut shell = Command::new("sh");
        shell.args([
            "-euc",
            "exec 7<\"$1\"; exec 8>>\"$1\"; shift; exec \"$@\"",
            "sh",
        ]);
        let mount = archive.mount_command(options);
        ok(shell
            .arg(&secret)
            .arg(mount.get_program())
            .args(mount.get_args()));
        let pid = archive.daemon();
        for set in ["CapPrm", "CapEff"] {
            let found = status(pid, set);
            assert!(found.len() > 4, "{found:?}");
            for caps in found {
                let caps = u64::from_str_radix(&caps, 16).unwrap();
                assert_eq!(caps & !allowed, 0, "{set} {caps:#x}, {options:?}");
            }
        }
        for (field, wanted) in [
            ("CapInh", 0),
            ("CapAmb", 0),
            ("NoNewPrivs", 1),
            ("Umask", 0o77),
        ] {
            for value in status(pid, field) {
                let radix = if field == "Umask" { 8 } else { 16 };
                assert_eq!(u64::from_str_radix(&value, radix), Ok(wanted), "{field}");
            }
        }
        let limits = fs::read_to_string(format!("/proc/{pid}/limits")).unwrap();
        let core = limits
            .lines()
            .find(|l| l.starts_with("Max core file size"))
            .unwrap();
        assert_eq!(core.split_whitespace().nth(4), Some("0"), "{core}");
        // Its own user may not look into it, not even root without the right to trace anybody.
        let look = |pid: &str| {
            let mut look = Command::new("setpriv");
            look.args([
                "--bounding-set=-sys_ptrace",
                "--inh-caps=-sys_ptrace",
                "sh",
                "-c",
            ]);
            let dd = format!("dd count=0 if=/proc/{pid}/mem; exit $?");
            look.arg(dd).output().unwrap()
        };
        assert!(look("$$").status.success(), "it may look into itself");
        let refused = look(&pid.to_string());
        let said = String::from_utf8_lossy(&refused.stderr).into_owned();
        assert!(
            !refused.status.success() && said.contains("Permission denied"),
            "{said}"
        );
        for fd in fs::read_dir(format!("/proc/{pid}/fd")).unwrap() {
            let to = fs::read_link(fd.unwrap().path()).unwrap_or_default();
            assert_ne!(to, secret, "the daemon holds what its caller had open");
        }
        // It can still unmount when it is told to end.
        kill(pid, "-TERM");
        wait_gone(pid);
        assert_eq!(fs::read_dir(archive.mnt()).unwrap().count(), 0);
    }
    // And do all that users of the mount may do.
    archive.mount(&["--allow-other", "-o", "dev,suid"]);
    let mnt = archive.mnt();
    sh(
        &mnt,
        "mkdir all; chmod 1777 all; echo x >f; chown 1:2 f; chmod 6755 f; mknod null c 1 3; mkfifo p; touch -d @1 f",
    );
    let meta = fs::metadata(mnt.join("f")).unwrap();
    assert_eq!(
        (meta.uid(), meta.gid(), meta.mode() & 0o7777),
        (1, 2, 0o6755)
    );
    let done = as_nobody(
        &mnt.join("all"),
        "umask 22; echo mine >g && chmod 600 g && rm ../f",
    );
    assert_ne!(done.status.code(), Some(0), "{}", said(&done));
    let meta = fs::metadata(mnt.join("all/g")).unwrap();
    assert_eq!((meta.uid(), meta.mode() & 0o7777), (NOBODY, 0o600));
    archive.umount();
}

#[test]
fn no_path_leads_another_user_beyond_his_rights() {
    let Some(archive) = archive() else { return };
    let (backing, outside) = (archive.backing(), archive.outside());
    fs::write(outside.join("secret"), "outside").unwrap();
    fs::set_permissions(outside.join("secret"), PermissionsExt::from_mode(0o600)).unwrap();
    fs::write(backing.join("plain"), "plain secret").unwrap();
    fs::write(backing.join("packed"), telemetry(100_000, 3)).unwrap();
    for name in ["plain", "packed"] {
        fs::set_permissions(backing.join(name), PermissionsExt::from_mode(0o600)).unwrap();
    }
    ok(vortex().arg("pack").arg(&backing));
    assert!(backing.join("packed.vortex").exists());
    symlink("../outside/secret", backing.join("link")).unwrap();
    symlink(outside.join("secret"), backing.join("link.vortex")).unwrap();
    symlink("..", backing.join("up")).unwrap();
    symlink(".vortex", backing.join("private")).unwrap();
    fs::hard_link(outside.join("secret"), backing.join("hard")).unwrap();
    fs::create_dir(backing.join("all")).unwrap();
    fs::set_permissions(backing.join("all"), PermissionsExt::from_mode(0o777)).unwrap();
    fs::create_dir(backing.join("all/.vortex")).unwrap();
    let before = (everything(&backing), everything(&outside));
    archive.mount(&["--allow-other"]);
    let mnt = archive.mnt();
    for path in [
        "plain",
        "packed",
        "packed.vortex",
        "link",
        "link.vortex",
        "hard",
        "all/../plain",
        "all/../../outside/secret",
        "up/outside/secret",
        "private/format",
        ".vortex/format",
        ".vortex/lock",
        ".vortex~plain",
        "all/.vortex/../../packed",
    ] {
        for script in [
            "cat <\"$0\"",
            "echo x >>\"$0\"",
            "echo x >\"$0\"",
            "chmod 777 \"$0\"",
        ] {
            let done = as_nobody(&mnt, &script.replace("$0", path));
            assert!(
                !done.status.success(),
                "{script} of {path}: {}",
                said(&done)
            );
            assert!(
                done.stdout.is_empty(),
                "{script} of {path}: {}",
                said(&done)
            );
        }
        assert!(
            !as_nobody(&mnt, &format!("rm {path}")).status.success(),
            "rm {path}"
        );
    }
    // Names that look like the archive's own are those of ordinary files.
    let done = as_nobody(
        &mnt.join("all"),
        "for n in packed.vortex x.vortex~plain .vortex~plain; do echo mine >$n; test \"$(cat $n)\" = mine; rm $n; done",
    );
    assert!(done.status.success(), "{}", said(&done));
    archive.umount();
    assert!(before == (everything(&backing), everything(&outside)));
}

#[test]
fn commands_of_another_user_do_no_more_than_he_may() {
    let Some(archive) = archive() else { return };
    let backing = archive.backing();
    let content = telemetry(100_000, 3);
    for (name, mode) in [("public", 0o644), ("secret", 0o600)] {
        fs::write(backing.join(name), &content).unwrap();
        fs::set_permissions(backing.join(name), PermissionsExt::from_mode(mode)).unwrap();
    }
    ok(vortex().arg("pack").arg(&backing));
    let program = vortex().get_program().to_string_lossy().into_owned();
    let before = everything(&backing);
    for mounted in [false, true] {
        if mounted {
            archive.mount(&["--allow-other"]);
        }
        for command in [
            "pack .",
            "unpack .",
            "repair .",
            "pack public.vortex",
            "unpack public.vortex",
            "unpack ../mnt/public",
            "repair secret.vortex",
            "compress -f public.vortex",
            "decompress public.vortex",
            "decompress -c secret.vortex",
            "cat secret.vortex",
            "verify secret.vortex",
            "stat secret.vortex",
            "umount ../mnt",
        ] {
            let done = as_nobody(&backing, &format!("{program} {command}"));
            assert!(!done.status.success(), "{command}: {}", said(&done));
            assert!(done.stdout.len() < 2000, "{command}: {}", said(&done));
        }
        let done = as_nobody(&backing, &format!("{program} cat public.vortex"));
        assert!(done.stdout == content, "{}", said(&done));
        assert!(everything(&backing) == before);
    }
    archive.umount();
}

#[test]
fn special_files_in_the_backing_directory_hang_nothing_and_are_shown_as_what_they_are() {
    let Some(archive) = archive() else { return };
    let (backing, outside) = (archive.backing(), archive.outside());
    fs::write(outside.join("secret"), telemetry(50_000, 9)).unwrap();
    fs::write(backing.join("good"), telemetry(50_000, 1)).unwrap();
    let private = Mode::from_raw_mode(0o600);
    for dir in [&backing, &backing.join("sub")] {
        fs::create_dir_all(dir).unwrap();
        for name in ["pipe", "pipe.vortex", "x~plain"] {
            mknodat(CWD, dir.join(name), FileType::Fifo, private, 0).unwrap();
        }
        let tape = rustix::fs::makedev(9, 0);
        mknodat(
            CWD,
            dir.join("tape.vortex"),
            FileType::CharacterDevice,
            private,
            tape,
        )
        .unwrap();
        drop(std::os::unix::net::UnixListener::bind(dir.join("socket.vortex")).unwrap());
        symlink(outside.join("secret"), dir.join("link.vortex")).unwrap();
        symlink("/dev/zero", dir.join("zero")).unwrap();
        symlink("loop", dir.join("loop")).unwrap();
        fs::create_dir(dir.join("dir.vortex")).unwrap();
        fs::write(dir.join("text.vortex"), "no segment").unwrap();
    }
    fs::create_dir(backing.join("sub/.vortex")).unwrap();
    symlink("/etc", backing.join("sub/.vortex/tmp")).unwrap();
    let before = everything(&outside);
    for command in ["pack", "verify", "stat", "repair", "unpack"] {
        let done = ends(&[command], &backing);
        assert!(
            done.status.code().is_some_and(|code| code < 5),
            "{command}: {}",
            said(&done)
        );
    }
    for name in [
        "pipe.vortex",
        "tape.vortex",
        "socket.vortex",
        "link.vortex",
        "zero",
        "loop",
        "dir.vortex",
        "text.vortex",
    ] {
        for command in [
            &["verify"][..],
            &["cat"],
            &["stat"],
            &["decompress", "-c"],
            &["compress", "-k", "-f"],
            &["pack"],
            &["repair"],
            &["unpack"],
        ] {
            // Those are made a segment of that name, as asked.
            if command[0] == "compress" && ["text.vortex", "link.vortex"].contains(&name) {
                continue;
            }
            let done = ends(command, &backing.join(name));
            // A link is followed by whoever names it, a directory looked through, and anything may be asked about.
            let may = command == ["stat"] || ["link.vortex", "dir.vortex"].contains(&name);
            assert!(
                may || !done.status.success(),
                "{command:?} {name}: {}",
                said(&done)
            );
        }
    }
    assert_eq!(before.len(), 1);
    assert!(
        before
            .iter()
            .all(|(name, found)| everything(&outside).get(name) == Some(found))
    );
    archive.mount(&["--allow-other"]);
    for dir in [archive.mnt(), archive.at("sub")] {
        let listed = Command::new("timeout")
            .args(["20", "ls", "-l"])
            .arg(&dir)
            .output()
            .unwrap();
        assert!(listed.status.success(), "{}", said(&listed));
        let kind = |name: &str| fs::symlink_metadata(dir.join(name)).unwrap().mode() >> 12;
        assert_eq!(
            [
                "pipe",
                "pipe.vortex",
                "tape.vortex",
                "socket.vortex",
                "link.vortex",
                "dir.vortex"
            ]
            .map(kind),
            [1, 1, 2, 12, 10, 4]
        );
        let read = Command::new("timeout")
            .args(["20", "cat"])
            .arg(dir.join("text"))
            .output()
            .unwrap();
        assert!(
            said(&read).contains("Input/output error"),
            "{}",
            said(&read)
        );
    }
    assert!(fs::read(archive.at("good")).unwrap() == telemetry(50_000, 1));
    for command in ["pack", "unpack"] {
        let done = ends(&[command], &archive.mnt());
        assert!(
            done.status.code().is_some_and(|code| code < 5),
            "{command}: {}",
            said(&done)
        );
    }
    archive.umount();
}

#[test]
fn a_private_directory_that_another_user_planted_is_not_used() {
    let Some(archive) = archive() else { return };
    let (backing, outside) = (archive.backing(), archive.outside());
    fs::set_permissions(&backing, PermissionsExt::from_mode(0o1777)).unwrap();
    fs::set_permissions(&outside, PermissionsExt::from_mode(0o700)).unwrap();
    fs::write(outside.join("keep"), "x").unwrap();
    fs::write(backing.join("f"), telemetry(50_000, 1)).unwrap();
    let planted = as_nobody(
        &backing,
        "mkdir .vortex && cd .vortex && echo 'vortex-fs 0' >format && ln -s ../../outside tmp && ln -s ../../outside/log log && ln -s /etc/hostname control.sock",
    );
    assert!(planted.status.success(), "{}", said(&planted));
    let before = (everything(&backing), everything(&outside));
    let refused = [
        fails(&mut archive.mount_command(&["--allow-other"]), 1),
        fails(vortex().arg("pack").arg(&backing), 1),
        fails(vortex().arg("pack").arg(backing.join("f")), 1),
        fails(vortex().arg("compress").arg(backing.join("f")), 1),
    ];
    for line in refused {
        assert!(
            line.contains("user 65534") || line.contains("control.sock"),
            "{line}"
        );
    }
    assert!(before == (everything(&backing), everything(&outside)));
    assert_eq!(
        as_nobody(&backing.join(".vortex"), "ls | wc -l").stdout,
        b"4\n"
    );
    // The same in a directory of its own is an archive of that user, and its links lead nowhere.
    let own = backing.join("own");
    fs::rename(backing.join(".vortex"), outside.join("planted")).unwrap();
    fs::create_dir(&own).unwrap();
    fs::rename(outside.join("planted"), own.join(".vortex")).unwrap();
    std::os::unix::fs::chown(&own, Some(NOBODY), None).unwrap();
    fails(vortex().arg("mount").arg(&own).arg(archive.mnt()), 1);
    fs::remove_file(own.join(".vortex/tmp")).unwrap();
    fails(vortex().arg("mount").arg(&own).arg(archive.mnt()), 1);
    fs::remove_file(own.join(".vortex/log")).unwrap();
    let hostname = fs::metadata("/etc/hostname")
        .map(|m| (m.mode(), m.ino()))
        .ok();
    ok(vortex().arg("mount").arg(&own).arg(archive.mnt()));
    archive.umount();
    assert_eq!(
        fs::metadata("/etc/hostname")
            .map(|m| (m.mode(), m.ino()))
            .ok(),
        hostname
    );
    assert_eq!(everything(&outside), before.1);
}

/// Set where the next function is to act.
const LIAR: &str = "VORTEX_TEST_LIAR";

#[test]
#[ignore = "the other process of the next test"]
fn answers_for_a_daemon() {
    if std::env::var_os(LIAR).is_none() {
        return;
    }
    let listener = std::os::unix::net::UnixListener::bind("control.sock").unwrap();
    println!("ready");
    let mut heard = [0; 9];
    let n = listener.accept().unwrap().0.read(&mut heard).unwrap();
    println!("heard {:?}", &heard[..n]);
}

#[test]
fn another_users_process_that_answers_for_a_daemon_is_not_asked() {
    let Some(archive) = archive() else { return };
    let backing = archive.backing();
    fs::write(backing.join("f"), telemetry(50_000, 1)).unwrap();
    ok(vortex().arg("pack").arg(&backing));
    fs::set_permissions(backing.join(".vortex"), PermissionsExt::from_mode(0o777)).unwrap();
    let heard = archive.outside().join("heard");
    let mut liar = Command::new("timeout")
        .args(["60", "setpriv", "--reuid", "65534", "--regid", "65534"])
        .arg("--clear-groups")
        .arg(std::env::current_exe().unwrap())
        .args([
            "--ignored",
            "--exact",
            "--nocapture",
            "hostile::answers_for_a_daemon",
        ])
        .env(LIAR, "1")
        .current_dir(backing.join(".vortex"))
        .stdout(File::create(&heard).unwrap())
        .spawn()
        .unwrap();
    wait_until("the socket", || {
        fs::read_to_string(&heard).unwrap().contains("ready")
    });
    let line = fails(vortex().arg("pack").arg(&backing), 1);
    assert!(line.contains("user 65534"), "{line}");
    liar.wait().unwrap();
    let heard = fs::read_to_string(&heard).unwrap();
    assert!(heard.contains("heard []"), "no request was sent: {heard}");
}

#[test]
fn no_name_in_a_message_moves_a_cursor_or_adds_a_line() {
    let Some(archive) = archive() else { return };
    let backing = archive.backing();
    let names: [&[u8]; 4] = [
        b"new\nline: good",
        b"esc\x1b[2J\x1b]0;title\x07",
        b"not utf-8 \xff\xfe\x9b2J",
        b"back\x08\x0d\xe2\x80\xae",
    ];
    let clean = |what: &str, text: &[u8]| {
        let text = String::from_utf8_lossy(text);
        let bad = |c: char| c.is_control() && c != '\n' || c == '\u{202e}';
        assert!(!text.contains(bad), "{what}: {text:?}");
        assert!(
            text.lines()
                .all(|l| l != "line: good" && !l.starts_with("line: good")),
            "{what}: {text:?}"
        );
    };
    for name in names {
        let name = std::ffi::OsStr::from_bytes(name);
        let mut file = name.to_os_string();
        file.push(".vortex");
        fs::write(
            backing.join(&file),
            b"\x89VXS\r\n\x1a\n\0broken segment, longer than a header is",
        )
        .unwrap();
        for command in [
            &["verify"][..],
            &["cat"],
            &["stat"],
            &["decompress"],
            &["compress"],
            &["pack"],
        ] {
            let done = ends(command, &backing.join(&file));
            clean(&format!("{command:?}"), &done.stdout);
            clean(&format!("{command:?}"), &done.stderr);
            assert!(!done.status.success(), "{command:?}: {}", said(&done));
            let lines = done.stderr.iter().filter(|&&b| b == b'\n').count();
            assert!(lines <= 1, "{command:?}: {}", said(&done));
        }
    }
    for command in ["verify", "stat", "pack", "unpack"] {
        let done = ends(&["-vvv", command], &backing);
        clean(command, &done.stdout);
        clean(command, &done.stderr);
    }
    archive.mount(&[]);
    for name in names {
        let name = std::ffi::OsStr::from_bytes(name);
        assert!(fs::read(archive.mnt().join(name)).is_err());
    }
    let done = ends(&["pack"], &archive.mnt());
    clean("pack through the daemon", &done.stderr);
    archive.umount();
    let log = fs::read(backing.join(".vortex/log")).unwrap();
    clean("the log", &log);
    assert!(
        String::from_utf8_lossy(&log).contains("new\\nline: good"),
        "{}",
        log.escape_ascii()
    );
}

#[test]
fn a_name_that_changes_between_a_file_and_a_link_leads_nowhere_else() {
    let Some(archive) = archive() else { return };
    let (backing, outside) = (archive.backing(), archive.outside());
    let (mine, secret) = (telemetry(60_000, 1), telemetry(60_000, 2));
    fs::write(outside.join("secret"), &secret).unwrap();
    fs::create_dir(outside.join("dir")).unwrap();
    fs::write(outside.join("dir/f"), &secret).unwrap();
    fs::write(backing.join("f"), &mine).unwrap();
    fs::create_dir(backing.join("d")).unwrap();
    fs::write(backing.join("d/f"), &mine).unwrap();
    symlink(outside.join("secret"), backing.join("other")).unwrap();
    symlink(outside.join("dir"), backing.join("other-d")).unwrap();
    let before = everything(&outside);
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                for (a, b) in [("f", "other"), ("d", "other-d"), ("f.vortex", "other")] {
                    let (a, b) = (backing.join(a), backing.join(b));
                    let _ = renameat_with(CWD, a, CWD, b, RenameFlags::EXCHANGE);
                    std::thread::sleep(Duration::from_micros(200));
                }
            }
        });
        for _ in 0..6 {
            for command in ["pack", "verify", "unpack"] {
                ends(&[command], &backing);
            }
        }
        stop.store(true, Ordering::Relaxed);
    });
    assert_eq!(everything(&outside), before);
    ends(&["unpack"], &backing);
    for (name, (_, mode, _, content)) in everything(&backing) {
        if mode >> 12 != 8 {
            continue;
        }
        // The segment may have got another name.
        let content = match content.starts_with(b"\x89VXS") {
            true => ends(&["cat"], Path::new(&name)).stdout,
            false => content,
        };
        assert!(
            content == mine,
            "{name} holds what was outside, or is damaged"
        );
    }
    let daemon_alive = |pid| is_alive(pid);
    archive.mount(&[]);
    assert!(daemon_alive(archive.daemon()));
    archive.umount();
}

#[test]
fn packing_another_users_file_neither_takes_it_nor_lends_the_packers_rights() {
    let Some(archive) = archive() else { return };
    let backing = archive.backing();
    let content = telemetry(60_000, 5);
    fs::write(backing.join("f"), &content).unwrap();
    sh(&backing, "chown 65534:65534 .; chown 1:1 f; chmod 6755 f");
    let program = env!("CARGO_BIN_EXE_vortex-fs");
    let refused = |command: &str, name: &str| {
        let done = as_nobody(&backing, &format!("{program} {command} ."));
        assert_eq!(done.status.code(), Some(3), "{}", said(&done));
        assert!(said(&done).contains("owner"), "{}", said(&done));
        let meta = fs::metadata(backing.join(name)).unwrap();
        assert_eq!((meta.uid(), meta.mode() & 0o7777), (1, 0o6755), "{command}");
    };
    refused("pack", "f");
    assert!(fs::read(backing.join("f")).unwrap() == content);
    // Who may keep the owner keeps the bits.
    ok(vortex().arg("pack").arg(&backing));
    refused("unpack", "f.vortex");
    // Of a file of his own everybody keeps them.
    sh(&backing, "chown 65534:65534 f.vortex; chmod 6755 f.vortex");
    let done = as_nobody(&backing, &format!("{program} unpack ."));
    assert!(done.status.success(), "{}", said(&done));
    let meta = fs::metadata(backing.join("f")).unwrap();
    assert_eq!((meta.uid(), meta.mode() & 0o7777), (NOBODY, 0o6755));
    assert!(fs::read(backing.join("f")).unwrap() == content);
}
