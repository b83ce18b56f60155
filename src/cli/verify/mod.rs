//! `vortex-fs verify`: reads and checks everything, and names what is damaged.

mod report;

use std::fs::Metadata;
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use self::report::{Checked, Part, Report};
use super::files::{Found, Models, store_failure, walk, with_path, worker_threads};
use super::{CliError, Outcome, Progress, print, print_json, show_bytes};
use crate::segment::{Severity, peek};
use crate::store::{
    Access, BlockSource, Depth, PlainFile, StoreError, Thing, damaged, open_regular, usage,
    verify_segment,
};
use rayon::prelude::*;

/// How often a segment is read again that was written to while it was checked.
const TRIES: usize = 5;

/// Read and check segments or whole archives, and name every damaged block
///
/// Every checksum is checked and every block is decoded. Plain files have no checksums: they are read to the end. Models
/// and primers stored in an archive are checked against their names, both copies of each. Exit code 2 if anything is damaged, 4 if
/// everything can be read but a safeguard is damaged, which `vortex-fs repair` restores. An archive may be mounted meanwhile.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  vortex-fs verify march.csv.vortex
  vortex-fs verify --checksums /srv/archive
  vortex-fs verify --jobs 2 /srv/archive || mail -s 'archive is damaged' ops")]
pub(crate) struct Args {
    /// Segments or directories
    #[arg(value_name = "PATH", required = true)]
    paths: Vec<PathBuf>,
    /// A model file that the segments need, if it is neither built in nor in the archive
    #[arg(long, value_name = "NAME|FILE")]
    profile: Option<String>,
    /// The bytes of a primer that the segments need, if it is not in the archive
    #[arg(long, value_name = "FILE")]
    primer: Option<PathBuf>,
    /// Check checksums only and decode nothing: as fast as the disk reads, and finds all that the disk did
    #[arg(long)]
    checksums: bool,
    /// Worker threads; one for each processor unless given
    #[arg(short, long, value_name = "N")]
    jobs: Option<usize>,
    /// Print a report as JSON
    #[arg(long)]
    json: bool,
}

pub(crate) fn run(args: Args) -> Result<Outcome, CliError> {
    let jobs = worker_threads(args.jobs);
    let pool = rayon::ThreadPoolBuilder::new()
        .num_threads(jobs)
        .build()
        .map_err(|e| {
            CliError::failed(format!("no worker threads: {e}")).remedy("try fewer with --jobs")
        })?;
    let mut report = Report::default();
    let mut outcomes = Vec::new();
    let depth = match args.checksums {
        true => Depth::Checksums,
        false => Depth::Content,
    };
    for path in &args.paths {
        match targets(path, &args) {
            Ok((models, files, failures)) => {
                let progress = Progress::bytes(
                    path.display().to_string(),
                    files.iter().map(content_len).sum(),
                );
                let checked: Vec<Checked> = pool.install(|| {
                    files
                        .par_iter()
                        .map(|file| check(file, &models, depth, &progress))
                        .collect()
                });
                drop(progress);
                check_models(path, &models, depth, &mut report, &mut outcomes, args.json)?;
                let failures = failures
                    .into_iter()
                    .map(|error| (path.clone(), Checked::Failed(error)));
                for (path, checked) in files
                    .into_iter()
                    .map(|f| f.path)
                    .zip(checked)
                    .chain(failures)
                {
                    outcomes.push(report.take(path, checked, args.json)?);
                }
            }
            Err(error) => {
                outcomes.push(report.take(path.clone(), Checked::Failed(error), args.json)?)
            }
        }
    }
    let outcome = Outcome::of_all(outcomes);
    if args.json {
        print_json(&report)?;
    } else {
        print(report.closing_line())?;
    }
    Ok(outcome)
}

type Targets = (Models, Vec<Found>, Vec<CliError>);

/// The files that a path given by the user stands for, and the models that they may need.
fn targets(path: &Path, args: &Args) -> Result<Targets, CliError> {
    let metadata = std::fs::metadata(path).map_err(|e| CliError::io(path, &e))?;
    let models = Models::around(path, Access::Read)?
        .with_profile(args.profile.as_deref())?
        .with_primer(args.primer.as_deref())?;
    if metadata.is_dir() {
        let (files, failures) = walk(path);
        return Ok((models, files, failures));
    }
    if !metadata.is_file() {
        return Err(CliError::failed("is no regular file")
            .on(path)
            .remedy("name segments or directories"));
    }
    // What a link leads to is meant; what becomes one while the work goes on is not.
    let path = match path.is_symlink() {
        true => path.canonicalize().map_err(|e| CliError::io(path, &e))?,
        false => path.to_owned(),
    };
    let file = Found {
        path,
        is_segment: true,
        metadata,
    };
    Ok((models, vec![file], Vec::new()))
}

fn check(file: &Found, models: &Models, depth: Depth, progress: &Progress) -> Checked {
    for _ in 0..TRIES {
        let result = match file.is_segment {
            true => check_segment(&file.path, models, depth, progress),
            false => check_plain(&file.path, progress),
        };
        match result {
            Ok(checked) => return checked,
            // Whoever uses the archive meanwhile may remove, rename and pack files.
            Err(error) if error.is_missing() => {}
            Err(error) => return Checked::Failed(error),
        }
    }
    Checked::Gone
}

/// Bytes of a file's content, as far as its header tells.
fn content_len(file: &Found) -> u64 {
    let stored = file.metadata.len();
    if !file.is_segment {
        return stored;
    }
    let summary = open_regular(&file.path).ok().and_then(|f| peek(&f).ok());
    summary.map_or(stored, |summary| summary.logical_size)
}

/// A mount may write to the segment meanwhile, which looks like damage: what was changed is read again.
fn check_segment(
    path: &Path,
    models: &Models,
    depth: Depth,
    progress: &Progress,
) -> Result<Checked, CliError> {
    let stamp = |m: Metadata| {
        (
            m.ino(),
            m.len(),
            m.mtime(),
            m.mtime_nsec(),
            m.ctime(),
            m.ctime_nsec(),
        )
    };
    let look = || {
        std::fs::metadata(path)
            .map(stamp)
            .map_err(|e| CliError::io(path, &e))
    };
    let mut tries = 0;
    loop {
        let before = look()?;
        let result = verify_segment(path, models.library(), depth, &|bytes| progress.add(bytes));
        tries += 1;
        match result {
            Ok(report) if report.worst() < Some(Severity::Warning) => {
                return Ok(Checked::of_report(&report));
            }
            _ if tries < TRIES && look()? != before => {}
            Ok(report) => return Ok(Checked::of_report(&report)),
            Err(error) if is_medium_error(error.raw_os_error()) => {
                return Ok(Checked::Damaged(vec![Part::of_file(error.to_string())]));
            }
            Err(error) => return Err(store_failure(path, &error)),
        }
    }
}

fn check_plain(path: &Path, progress: &Progress) -> Result<Checked, CliError> {
    let mut buffer = vec![0; 1 << 18];
    let mut bytes = 0;
    let file = Arc::new(open_regular(path).map_err(|e| CliError::io(path, &e))?);
    let source = PlainFile::new(Arc::clone(&file), path).map_err(with_path(path))?;
    loop {
        // Holes hold nothing that could be damaged.
        let data = source.next_data(bytes).map_err(with_path(path))?;
        let hole = data.unwrap_or(source.len()).saturating_sub(bytes);
        bytes += hole;
        progress.add(hole);
        match file.read_at(&mut buffer, bytes) {
            Ok(0) => {
                return Ok(Checked::Sound {
                    bytes,
                    notes: Vec::new(),
                });
            }
            Ok(n) => {
                bytes += n as u64;
                progress.add(n as u64);
            }
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) if is_medium_error(e.raw_os_error()) => {
                let what = format!("can not be read from byte {bytes}: {e}");
                return Ok(Checked::Damaged(vec![Part::of_file(what)]));
            }
            Err(e) => return Err(CliError::io(path, &e)),
        }
    }
}

/// A disk that does not give its bytes back is damage too.
fn is_medium_error(code: Option<i32>) -> bool {
    code == Some(rustix::io::Errno::IO.raw_os_error())
}

/// Checks both copies of the format and of every model and primer of the archive that `path` is the root of.
fn check_models(
    path: &Path,
    models: &Models,
    depth: Depth,
    report: &mut Report,
    outcomes: &mut Vec<Outcome>,
    json: bool,
) -> Result<(), CliError> {
    let Some(archive) = models
        .archive()
        .filter(|a| path.canonicalize().is_ok_and(|p| p == a.root()))
    else {
        return Ok(());
    };
    let library = archive.library();
    let looked = (|| {
        let bad = archive.bad_copies(depth)?;
        Ok::<_, StoreError>((bad, library.stored()?))
    })();
    let (bad, stored) = match looked {
        Ok(looked) => looked,
        Err(error) => {
            let failed = Checked::Failed(store_failure(path, &error));
            outcomes.push(report.take(path.to_owned(), failed, json)?);
            return Ok(());
        }
    };
    for thing in stored.into_iter().chain([Thing::Format]) {
        let mut outcome = None;
        for copy in bad.iter().filter(|b| b.thing == thing) {
            let part = vec![Part::of_file(format!("{thing}: {}", copy.what()))];
            let checked = match copy.other_serves {
                true => Checked::Degraded {
                    bytes: 0,
                    warnings: part,
                },
                false => Checked::Damaged(part),
            };
            let at = archive.root().join(&copy.path);
            outcome = Some(report.take(at, checked, json)?);
        }
        outcomes.push(outcome.unwrap_or(Outcome::Good));
    }
    let mut notes = Vec::new();
    // Where a segment does not open nobody knows what it needs, and that is told as damage.
    for thing in usage::unused(archive).unwrap_or_default() {
        let what = format!("no file needs {thing}; `vortex-fs repair --prune` removes it");
        notes.push(Part::of_file(what));
    }
    let kept = damaged::kept_in(archive).map_err(|e| store_failure(path, &e))?;
    if !kept.is_empty() {
        let disk = kept.iter().map(|k| k.disk).sum();
        notes.push(Part::of_file(format!(
            "{} damaged originals are kept in .vortex/damaged and take {} of disk; \
             `vortex-fs repair --discard-originals` removes them",
            kept.len(),
            show_bytes(disk)
        )));
    }
    report.note(path, notes, json)
}
