//! `vortex-fs bench`: size and speed on the user's own files.

mod codec;
mod fs;
mod model;

use super::{CliError, Outcome};

/// Measure size and speed on your own files, and keep nothing
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  vortex-fs bench codec /data/march
  vortex-fs bench codec --peer xz,zstd --block-size 256K --json vibration.bin
  vortex-fs bench fs --quick /data/march
  vortex-fs bench model /data/march")]
pub(crate) struct Args {
    #[command(subcommand)]
    part: Part,
}

#[derive(Debug, clap::Subcommand)]
enum Part {
    Codec(codec::Args),
    Fs(fs::Args),
    Model(model::Args),
}

pub(crate) fn run(args: Args) -> Result<Outcome, CliError> {
    match args.part {
        Part::Codec(args) => codec::run(args),
        Part::Fs(args) => fs::run(args),
        Part::Model(args) => model::run(args),
    }
}
