//! `vortex-fs pack`

use std::path::PathBuf;

use super::mount::parse_block_size;
use super::repack::{self, Work};
use super::{CliError, Outcome};
use crate::pack::Direction;

/// Makes files in an archive as small as they get
///
/// Re-encodes files with the neural codec, in place. Each file is read back, decoded and compared before it replaces the old form,
/// and a file that is written meanwhile is left alone. Works on a mounted archive through its daemon. A directory that is in
/// no archive becomes one. Files that are packed already are not touched.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  vortex-fs pack /data/archive
  vortex-fs pack /data/archive/2023 /data/archive/2024/line7.dat.vortex
  vortex-fs pack --dry-run --json /data/archive")]
pub(crate) struct Args {
    /// Backing directories and files, or paths in a mounted archive
    #[arg(required = true)]
    paths: Vec<PathBuf>,
    /// Profile to encode with: a name, a model file, or `none` [default: the mount's, or `fast`]
    #[arg(long, value_name = "NAME|FILE")]
    profile: Option<String>,
    /// Threads [default: one a core]
    #[arg(short, long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1024))]
    jobs: Option<u16>,
    /// Block size, a power of two from 16K to 1M [default: the mount's, or 64K]
    #[arg(long, value_name = "SIZE", value_parser = parse_block_size)]
    block_size: Option<u32>,
    /// Blocks at the start of every 1024 that teach the others, 0 to 16: more is smaller on disk and slower at random; with 0 every
    /// block stands alone [default: 4, or 16 if the profile says so, or a primer where that is smaller]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u8).range(0..=16))]
    key_blocks: Option<u8>,
    /// Encode and report, but change nothing
    #[arg(short = 'n', long)]
    dry_run: bool,
    /// Report as JSON
    #[arg(long)]
    json: bool,
}

pub(crate) fn run(args: Args) -> Result<Outcome, CliError> {
    repack::run(Work {
        direction: Direction::Pack,
        paths: args.paths,
        profile: args.profile,
        jobs: args.jobs.map(usize::from),
        block_size: args.block_size,
        key_blocks: args.key_blocks,
        dry_run: args.dry_run,
        json: args.json,
    })
}
