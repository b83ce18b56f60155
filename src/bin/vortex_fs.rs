//! `vortex-fs`: the file system and its tools, one subcommand each.

use std::process::ExitCode;

fn main() -> ExitCode {
    vortex_fs::cli::vortex_fs()
}
