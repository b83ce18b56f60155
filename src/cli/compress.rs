//! `vortex-compress`: files to segments, with the conventions of gzip.
//!
//! The original is removed only after the segment was decoded and compared with it, and was synced together with its name.

use std::ffi::OsString;
use std::fs::File;
use std::io::{self, IsTerminal, Write};
use std::path::{Path, PathBuf};

use serde::Serialize;

use super::files::{
    BlockCounts, Destination, Fate, Input, Models, NewFile, for_each_path, with_path,
    worker_threads,
};
use super::mount::parse_block_size;
use super::{CliError, Outcome, Progress, percent, print_json};
use crate::pack::DEFAULT_PROFILE;
use crate::store::names::{self, SEGMENT_SUFFIX};
use crate::store::{
    Access, Encoding, KeyRun, Packing, PlainFile, Primer, Profile, SealOptions, SealReport, seal,
};

/// Block size unless the user names one: what a reader decodes at least.
const DEFAULT_BLOCK_SIZE: &str = "64K";

/// Compress files to FILE.vortex, and remove the originals once that is safe
///
/// Every FILE becomes one segment, FILE.vortex, from which any part can be read without decoding the rest (`vortex-fs cat
/// --range`). Owner, mode, times and extended attributes are kept. The original is removed after the segment
/// was read back, compared with it and synced; -k and -o keep it. Without FILE, or with -, standard input is compressed to
/// standard output.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  vortex-compress march.csv                   march.csv becomes march.csv.vortex
  vortex-compress -k --block-size 1M *.bin    keep the originals, compress in larger blocks
  vortex-compress -o /backup/a.vortex a.csv   a.csv stays; with --rm it is removed
  tar c logs | vortex-compress > logs.tar.vortex")]
pub(crate) struct Args {
    /// Files to compress; - is standard input
    #[arg(value_name = "FILE", default_value = "-", hide_default_value = true)]
    files: Vec<PathBuf>,
    /// Write to OUT instead of FILE.vortex and keep FILE; - is standard output
    #[arg(short, long, value_name = "OUT", conflicts_with = "stdout")]
    output: Option<PathBuf>,
    /// Model to compress with: a name that `vortex-fs profiles` lists, a .safetensors file, or `none`
    #[arg(long, value_name = "NAME|FILE", default_value = DEFAULT_PROFILE)]
    profile: String,
    /// Bytes that are compressed as one: 16K to 1M, a power of two. Larger is smaller on disk and slower at random
    #[arg(long, value_name = "SIZE", default_value = DEFAULT_BLOCK_SIZE, value_parser = parse_block_size)]
    block_size: u32,
    /// Blocks at the start of every 1024 that teach the others, 0 to 16: more is smaller on disk and slower at random; with 0 every
    /// block stands alone [default: what the profile says: 4, or 16]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u8).range(0..=16))]
    key_blocks: Option<u8>,
    /// A sample that all blocks may start from, instead of key blocks; of more than 1 MiB, the last. Needed to decompress: an
    /// archive around the output keeps it
    #[arg(long, value_name = "FILE", conflicts_with = "key_blocks")]
    primer: Option<PathBuf>,
    /// Worker threads; one for each processor unless given
    #[arg(short, long, value_name = "N")]
    jobs: Option<usize>,
    /// Keep the original files
    #[arg(short, long)]
    keep: bool,
    /// Remove the original files with -o, too
    #[arg(long, conflicts_with_all = ["keep", "stdout"])]
    rm: bool,
    /// Write to standard output and keep the original files
    #[arg(short = 'c', long)]
    stdout: bool,
    /// Overwrite existing files; compress files that end in .vortex, have several names, or extended attributes that get lost
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
    stored: u64,
    ratio: Option<f64>,
    profile: String,
    /// What reading it takes.
    model: Option<String>,
    block_size: u32,
    blocks: BlockCounts,
}

pub(crate) fn run(args: Args) -> Result<Outcome, CliError> {
    if args.output.is_some() && args.files.len() > 1 {
        return Err(CliError::failed("-o takes one input file")
            .remedy("compress the files one by one, or without -o"));
    }
    if args.rm && args.to_stdout(&args.files) {
        return Err(CliError::failed(
            "nothing is removed for what goes to standard output, where it may get lost",
        )
        .remedy("name a file with -o"));
    }
    if args.json && args.to_stdout(&args.files) {
        return Err(
            CliError::failed("--json and compressed data can not share standard output")
                .remedy("use -o"),
        );
    }
    let mut rows = Vec::new();
    let outcome = for_each_path(&args.files, |path| {
        rows.push(compress_one(path, &args)?);
        Ok(Outcome::Good)
    })?;
    if args.json {
        print_json(&rows)?;
    }
    Ok(outcome)
}

impl Args {
    fn to_stdout(&self, files: &[PathBuf]) -> bool {
        let dash = Path::new("-");
        self.stdout
            || match &self.output {
                Some(output) => output == dash,
                None => files.iter().any(|file| file == dash),
            }
    }

    /// What becomes of the original.
    fn fate(&self, input: &Input) -> Fate {
        let keeps = self.keep || input.is_stdin() || (self.output.is_some() && !self.rm);
        match keeps {
            true => Fate::Kept,
            false => Fate::Removed { force: self.force },
        }
    }
}

fn compress_one(path: &Path, args: &Args) -> Result<Row, CliError> {
    if args.to_stdout(&[path.to_owned()]) {
        if io::stdout().is_terminal() && !args.force {
            return Err(
                CliError::failed("compressed data are not written to a terminal")
                    .remedy("redirect the output, name a file with -o, or use -f"),
            );
        }
        let input = Input::open(path)?;
        let models = Models::built_in();
        let profile = models.profile_or_none(&args.profile)?;
        let new = NewFile::scratch()?;
        let report = seal_input(&input, &new, &models, profile.as_ref(), args)?;
        let mut file: &File = new.temp().file();
        io::Seek::rewind(&mut file).map_err(|e| CliError::io("temporary file", &e))?;
        let mut out = io::stdout().lock();
        io::copy(&mut file, &mut out)
            .and_then(|_| out.flush())
            .map_err(|e| CliError::io("standard output", &e))?;
        return Ok(row(&input, Path::new("-"), &report, profile.as_ref(), args));
    }
    let input = Input::open(path)?;
    let fate = args.fate(&input);
    let destination = Destination {
        path: output_path(path, args)?,
        replace: args.force,
    };
    destination.check(&input, fate)?;
    let models = Models::around(destination.folder(), Access::Write)?;
    let _lock = match fate {
        Fate::Removed { .. } => models.lock_also(path)?,
        Fate::Kept => None,
    };
    let profile = models.profile_or_none(&args.profile)?;
    let new = NewFile::for_destination(&destination)?;
    let report = seal_input(&input, &new, &models, profile.as_ref(), args)?;
    if let Some(profile) = profile.as_ref().filter(|_| report.modelled > 0) {
        let stored = models.library().models().store(profile);
        stored.map_err(with_path(path))?;
    }
    new.succeed(&input, &destination, fate)?;
    let row = row(&input, &destination.path, &report, profile.as_ref(), args);
    log::info!(
        "{} -> {}: {} -> {} bytes ({})",
        path.display(),
        row.output,
        row.logical,
        row.stored,
        percent(row.stored, row.logical)
    );
    Ok(row)
}

fn seal_input(
    input: &Input,
    new: &NewFile,
    models: &Models,
    profile: Option<&Profile>,
    args: &Args,
) -> Result<SealReport, CliError> {
    let failure = with_path(&input.path);
    let source = PlainFile::new(input.file.clone(), &input.path).map_err(&failure)?;
    let length = crate::store::BlockSource::len(&source);
    // Every byte is counted twice: encoded, then read back and compared.
    let progress = Progress::bytes(input.path.display().to_string(), length.saturating_mul(2));
    let primer = match &args.primer {
        Some(path) => {
            let id = models.add_primer(path)?;
            let state = models.library().primed(id).map_err(with_path(path))?;
            Some(Primer { id, state })
        }
        None => None,
    };
    let packing = Packing::with(profile.cloned());
    let options = SealOptions {
        block_size: args.block_size,
        key_run: (args.key_blocks).map_or(KeyRun::usual(packing.effort), KeyRun::of),
        encoding: Encoding::Packed(packing),
        primer,
        jobs: worker_threads(args.jobs),
        progress: Some(&|bytes| progress.add(bytes)),
        cancel: None,
    };
    seal(&source, new.temp(), models.library(), &options).map_err(failure)
}

/// `FILE.vortex`; inside an archive, what the archive calls the segment of that logical file.
fn output_path(path: &Path, args: &Args) -> Result<PathBuf, CliError> {
    if let Some(output) = &args.output {
        return Ok(output.clone());
    }
    let name = path
        .file_name()
        .ok_or_else(|| CliError::failed("has no file name").on(path))?;
    if name.as_encoded_bytes().ends_with(SEGMENT_SUFFIX.as_bytes()) && !args.force {
        return Err(CliError::failed("ends in .vortex already")
            .on(path)
            .remedy("use -f to compress it again"));
    }
    let folder = path.parent().unwrap_or(Path::new(""));
    let in_archive = crate::store::Archive::find(if folder.as_os_str().is_empty() {
        Path::new(".")
    } else {
        folder
    });
    let logical: OsString = match in_archive {
        Some(_) => names::logical_name(name, false).0,
        None => name.to_owned(),
    };
    Ok(folder.join(names::segment_name(&logical)))
}

fn row(
    input: &Input,
    output: &Path,
    report: &SealReport,
    profile: Option<&Profile>,
    args: &Args,
) -> Row {
    Row {
        source: input.path.display().to_string(),
        output: output.display().to_string(),
        logical: report.logical,
        stored: report.stored,
        ratio: super::ratio(report.logical, report.stored),
        profile: args.profile.clone(),
        model: profile
            .filter(|_| report.modelled > 0)
            .map(|profile| profile.id().to_string()),
        block_size: args.block_size,
        blocks: BlockCounts::of_report(report),
    }
}
