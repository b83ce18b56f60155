//! `vortex-compress`: `vortex-fs compress` under a name of its own.

use std::process::ExitCode;

fn main() -> ExitCode {
    vortex_fs::cli::vortex_compress()
}
