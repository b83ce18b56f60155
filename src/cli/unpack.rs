//! `vortex-fs unpack`

use std::path::PathBuf;

use super::repack::{self, Work};
use super::{CliError, Outcome};
use crate::pack::Direction;

/// Makes files in an archive plain again
///
/// What was unpacked can be read in the backing directory without vortex-fs. Each file is checked before it replaces its
/// segment. Works on a mounted archive through its daemon.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:
  vortex-fs unpack /data/archive/2024")]
pub(crate) struct Args {
    /// Backing directories and files, or paths in a mounted archive
    #[arg(required = true)]
    paths: Vec<PathBuf>,
    /// Threads [default: one a core]
    #[arg(short, long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1024))]
    jobs: Option<u16>,
    /// Report what would be done, but change nothing
    #[arg(short = 'n', long)]
    dry_run: bool,
    /// Report as JSON
    #[arg(long)]
    json: bool,
}

pub(crate) fn run(args: Args) -> Result<Outcome, CliError> {
    repack::run(Work {
        direction: Direction::Unpack,
        paths: args.paths,
        profile: None,
        jobs: args.jobs.map(usize::from),
        block_size: None,
        key_blocks: None,
        dry_run: args.dry_run,
        json: args.json,
    })
}
