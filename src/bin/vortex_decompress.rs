//! `vortex-decompress`: `vortex-fs decompress` under a name of its own.

use std::process::ExitCode;

fn main() -> ExitCode {
    vortex_fs::cli::vortex_decompress()
}
