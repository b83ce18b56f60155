//! `vortex-decompress`: segments back to files, with the conventions of gzip.
//!
//! Every block is checked before anything gets its final name; the segment is removed only after the file is synced.

use std::io;
use std::path::{Path, PathBuf};

use serde::Serialize;

use super::files::{
    Destination, Fate, Input, Models, NewFile, decode_range, decode_whole, for_each_path,
    worker_threads,
};
use super::{CliError, Outcome, Progress, Range, print_json};
use crate::store::names::{self, Kind};
use crate::store::{Access, Archive, BlockSource};

/// Decompress FILE.vortex back to FILE, and remove the segments once that is safe
///
/// Every block is checked before FILE appears. Owner, mode, times and extended attributes are kept. The segment is removed
/// after the file was synced; -k and -o keep it. Without FILE, or with -, standard input is decompressed to standard output.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  vortex-decompress march.csv.vortex          march.csv.vortex becomes march.csv
  vortex-decompress -c march.csv.vortex | head
  vortex-decompress < logs.tar.vortex | tar t")]
pub(crate) struct Args {
    /// Segments to decompress; - is standard input
    #[arg(value_name = "FILE", default_value = "-", hide_default_value = true)]
    files: Vec<PathBuf>,
    /// Write to OUT instead of FILE without .vortex and keep the segment; - is standard output
    #[arg(short, long, value_name = "OUT", conflicts_with = "stdout")]
    output: Option<PathBuf>,
    /// A model file that the segments need, if it is neither built in nor in an archive around them
    #[arg(long, value_name = "NAME|FILE")]
    profile: Option<String>,
    /// The bytes of a primer that the segments need, if it is not in an archive around them
    #[arg(long, value_name = "FILE")]
    primer: Option<PathBuf>,
    /// Worker threads; one for each processor unless given
    #[arg(short, long, value_name = "N")]
    jobs: Option<usize>,
    /// Keep the segments
    #[arg(short, long)]
    keep: bool,
    /// Remove the segments with -o, too
    #[arg(long, conflicts_with_all = ["keep", "stdout"])]
    rm: bool,
    /// Write to standard output and keep the segments
    #[arg(short = 'c', long)]
    stdout: bool,
    /// Overwrite existing files; remove segments that have several names or extended attributes that get lost
    #[arg(short, long)]
    force: bool,
    /// Print sizes as JSON, one list entry for every file
    #[arg(long)]
    json: bool,
}

#[derive(Serialize)]
struct Row {
    source: String,
    output: String,
    logical: u64,
}

pub(crate) fn run(args: Args) -> Result<Outcome, CliError> {
    if args.output.is_some() && args.files.len() > 1 {
        return Err(CliError::failed("-o takes one input file")
            .remedy("decompress the files one by one, or without -o"));
    }
    if args.rm && args.files.iter().any(|file| args.to_stdout(file)) {
        return Err(CliError::failed(
            "nothing is removed for what goes to standard output, where it may get lost",
        )
        .remedy("name a file with -o"));
    }
    if args.json && args.files.iter().any(|file| args.to_stdout(file)) {
        return Err(
            CliError::failed("--json and decompressed data can not share standard output")
                .remedy("use -o"),
        );
    }
    let mut rows = Vec::new();
    let outcome = for_each_path(&args.files, |path| {
        rows.push(decompress_one(path, &args)?);
        Ok(Outcome::Good)
    })?;
    if args.json {
        print_json(&rows)?;
    }
    Ok(outcome)
}

impl Args {
    fn to_stdout(&self, file: &Path) -> bool {
        let dash = Path::new("-");
        self.stdout || self.output.as_deref().unwrap_or(file) == dash
    }

    /// What becomes of a segment.
    fn fate(&self, input: &Input) -> Fate {
        let keeps = self.keep || input.is_stdin() || (self.output.is_some() && !self.rm);
        match keeps {
            true => Fate::Kept,
            false => Fate::Removed { force: self.force },
        }
    }
}

fn decompress_one(path: &Path, args: &Args) -> Result<Row, CliError> {
    let jobs = worker_threads(args.jobs);
    let input = Input::open(path)?;
    if args.to_stdout(path) {
        let models = models_of(&input, args)?;
        let reader = models.reader(&input)?;
        let progress = Progress::bytes(input.path.display().to_string(), reader.len());
        decode_range(
            &reader,
            Range {
                offset: 0,
                length: None,
            },
            &mut io::stdout().lock(),
            jobs,
            &progress,
        )?;
        return Ok(Row {
            source: input.path.display().to_string(),
            output: "-".into(),
            logical: reader.len(),
        });
    }
    let fate = args.fate(&input);
    let destination = Destination {
        path: output_path(path, args)?,
        replace: args.force,
    };
    destination.check(&input, fate)?;
    let around = Models::around(destination.folder(), Access::Write)?;
    let _lock = match fate {
        Fate::Removed { .. } => around.lock_also(path)?,
        Fate::Kept => None,
    };
    let models = models_of(&input, args)?;
    let reader = models.reader(&input)?;
    let new = NewFile::for_destination(&destination)?;
    let progress = Progress::bytes(input.path.display().to_string(), reader.len());
    decode_whole(&reader, new.temp().file(), jobs, &progress)?;
    new.succeed(&input, &destination, fate)?;
    Ok(Row {
        source: input.path.display().to_string(),
        output: destination.path.display().to_string(),
        logical: reader.len(),
    })
}

fn models_of(input: &Input, args: &Args) -> Result<Models, CliError> {
    let models = if input.is_stdin() {
        Models::built_in()
    } else {
        Models::around(&input.path, Access::Read)?
    };
    models
        .with_profile(args.profile.as_deref())?
        .with_primer(args.primer.as_deref())
}

/// `FILE` of `FILE.vortex`; inside an archive, what the archive calls that logical file when it is plain.
fn output_path(path: &Path, args: &Args) -> Result<PathBuf, CliError> {
    if let Some(output) = &args.output {
        return Ok(output.clone());
    }
    let name = path
        .file_name()
        .ok_or_else(|| CliError::failed("has no file name").on(path))?;
    let (logical, Kind::Segment) = names::logical_name(name, true) else {
        return Err(CliError::failed("does not end in .vortex")
            .on(path)
            .remedy("name the new file with -o"));
    };
    let folder = path.parent().unwrap_or(Path::new(""));
    Ok(match Archive::find(path) {
        Some(_) => folder.join(names::other_name(&logical)),
        None => folder.join(logical),
    })
}
