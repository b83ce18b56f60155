//! `vortex-fs cat`: content of segments, or a range of it, to standard output.

use std::io;
use std::path::{Path, PathBuf};

use super::files::{Input, Models, decode_range, for_each_path, worker_threads};
use super::{CliError, Outcome, Progress, Range, parse_range};
use crate::store::Access;

/// Write the content of segments to standard output
///
/// With --range, only the blocks that the range touches are read and decoded.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  vortex-fs cat march.csv.vortex | grep overheat
  vortex-fs cat --range 1G:4K vibration.bin.vortex | xxd")]
pub(crate) struct Args {
    /// Segments; - is standard input
    #[arg(value_name = "FILE.vortex", required = true)]
    files: Vec<PathBuf>,
    /// Only LENGTH bytes from byte OFFSET; without LENGTH, up to the end
    #[arg(long, value_name = "OFFSET:LENGTH", value_parser = parse_range)]
    range: Option<Range>,
    /// A model file that the segments need, if it is neither built in nor in an archive around them
    #[arg(long, value_name = "NAME|FILE")]
    profile: Option<String>,
    /// The bytes of a primer that the segments need, if it is not in an archive around them
    #[arg(long, value_name = "FILE")]
    primer: Option<PathBuf>,
    /// Worker threads; one for each processor unless given
    #[arg(short, long, value_name = "N")]
    jobs: Option<usize>,
}

pub(crate) fn run(args: Args) -> Result<Outcome, CliError> {
    for_each_path(&args.files, |path| cat_one(path, &args))
}

fn cat_one(path: &Path, args: &Args) -> Result<Outcome, CliError> {
    let input = Input::open(path)?;
    let models = if input.is_stdin() {
        Models::built_in()
    } else {
        Models::around(path, Access::Read)?
    };
    let models = models
        .with_profile(args.profile.as_deref())?
        .with_primer(args.primer.as_deref())?;
    let reader = models.reader(&input)?;
    let range = args.range.unwrap_or(Range {
        offset: 0,
        length: None,
    });
    let jobs = worker_threads(args.jobs);
    decode_range(
        &reader,
        range,
        &mut io::stdout().lock(),
        jobs,
        &Progress::hidden(),
    )?;
    Ok(Outcome::Good)
}
