//! The command line: one file a subcommand, and the frame that all of them share.
//!
//! Promises of the frame: a result goes to standard output, everything else to standard error; a failure is
//! one line `vortex-fs: PATH: what is wrong; what to do` and an exit code of docs/CLI.md; a closed
//! pipe ends a command quietly; a panic is reported in one line and never leaves half a file behind.
//!
//! A subcommand is a module with two items, plugged into `app` by one variant and one match arm:
//!
//! ```text
//! /// What the command does, in one sentence.            (the text of --help)
//! #[derive(Debug, clap::Args)]
//! #[command(after_help = "Examples:\n  vortex-fs name a.dat.vortex")]
//! pub(crate) struct Args { .. }
//!
//! pub(crate) fn run(args: Args) -> Result<Outcome, CliError>
//! ```

mod app;
mod bench;
mod cat;
mod compress;
mod decompress;
mod demo;
mod error;
pub mod files;
mod mount;
mod pack;
mod profiles;
mod progress;
mod repack;
mod repair;
mod report;
mod signals;
mod size;
mod stat;
mod status;
mod train;
mod umount;
mod unpack;
mod verify;

pub use app::{vortex_compress, vortex_decompress, vortex_fs};
pub use error::{CliError, Outcome};
pub use progress::Progress;
pub use report::{print, print_json, print_lines, warn};
pub use signals::{Cancel, make_removed_if_killed};
pub use size::{Range, Size, parse_range, parse_size, percent, ratio, show_bytes};
