//! `vortex-fs repair`: brings back what can be read of damaged segments, models and primers, and names what is lost.

mod report;

use std::collections::{BTreeSet, HashMap};
use std::fs::{File, Metadata};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use rayon::prelude::*;

use self::report::{FileReport, Fixed, Report, Status};
use super::files::{Found, Models, store_failure, walk, with_path, worker_threads};
use super::{CliError, Outcome, Progress, make_removed_if_killed, print, print_json, warn};
use crate::mount::vortex_mounts;
use crate::segment::{LostBlocks, SegmentError, peek};
use crate::store::damaged::{self, Record, Replaced};
use crate::store::repair::{Diagnosis, Patient, diagnose};
use crate::store::{Access, Archive, Depth, StoreError, open_regular, usage};

/// Bring back what can be read of damaged segments, models and primers
///
/// Whatever is sound is left alone. Of a damaged segment all that can be read goes into a new one, which is decoded and compared before
/// it takes its names; the damaged original is kept. The exact ranges that are lost are named: reading them fails until they are
/// written anew. Models and primers are restored from their other copy. Exit code 2 if anything is lost.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  vortex-fs repair --dry-run /srv/archive           say what is damaged and what would be lost
  vortex-fs repair /srv/archive                     repair it; the archive must not be mounted
  vortex-fs repair march.csv.vortex                 a single segment; the original becomes march.csv.vortex.damaged
  vortex-fs repair --discard-originals /srv/archive remove the originals that repairs kept")]
pub(crate) struct Args {
    /// Segments or directories
    #[arg(value_name = "PATH", required = true)]
    paths: Vec<PathBuf>,
    /// Say what would be done and lost, and change nothing
    #[arg(long)]
    dry_run: bool,
    /// Make lost ranges read as zeros instead of as errors, also those that earlier repairs marked
    #[arg(long)]
    fill_zeros: bool,
    /// Look for damage by checksums only and decode just the damaged files: as fast as the disk reads
    #[arg(long)]
    checksums: bool,
    /// Also remove models and primers that no file of the archive needs; PATH is the archive's directory
    #[arg(long)]
    prune: bool,
    /// Remove the damaged originals that earlier repairs kept, for good, and do nothing else
    #[arg(long, conflicts_with_all = ["prune", "fill_zeros", "checksums"])]
    discard_originals: bool,
    /// A model file that the segments need, if it is neither built in nor in the archive
    #[arg(long, value_name = "NAME|FILE")]
    profile: Option<String>,
    /// The bytes of a primer that the segments need, if it is not in the archive
    #[arg(long, value_name = "FILE")]
    primer: Option<PathBuf>,
    /// Worker threads; one for each processor unless given
    #[arg(short, long, value_name = "N")]
    jobs: Option<usize>,
    /// Print a report as JSON
    #[arg(long)]
    json: bool,
}

pub(crate) fn run(args: Args) -> Result<Outcome, CliError> {
    let pool = rayon::ThreadPoolBuilder::new()
        .num_threads(worker_threads(args.jobs))
        .build()
        .map_err(|e| {
            CliError::failed(format!("no worker threads: {e}")).remedy("try fewer with --jobs")
        })?;
    let mut report = Report::new(args.dry_run);
    for path in &args.paths {
        let done = match args.discard_originals {
            true => discard(path, &args, &mut report),
            false => pool.install(|| repair(path, &args, &mut report)),
        };
        match done {
            Err(error) if error.is_broken_pipe() => return Err(error),
            Err(error) => report.failed(error),
            Ok(()) => {}
        }
    }
    if args.json {
        print_json(&report)?;
    } else if args.discard_originals {
        print(report.discarding_line())?;
    } else {
        print(report.closing_line())?;
    }
    Ok(report.outcome())
}

/// The archive around a path, locked unless nothing is to be changed, with what the user offers to read with.
fn models(path: &Path, args: &Args) -> Result<Models, CliError> {
    let access = match args.dry_run {
        true => Access::Read,
        false => Access::Write,
    };
    Models::around(path, access)?
        .with_profile(args.profile.as_deref())?
        .with_primer(args.primer.as_deref())
}

fn repair(path: &Path, args: &Args, report: &mut Report) -> Result<(), CliError> {
    let metadata = std::fs::metadata(path).map_err(|e| CliError::io(path, &e))?;
    // Names below it are made of the path; an archive's own is absolute.
    let path = &std::fs::canonicalize(path).map_err(|e| CliError::io(path, &e))?;
    refuse_mounted(path)?;
    let models = models(path, args)?;
    if let Some(archive) = models.archive() {
        restore_copies(archive, args, report)?;
    }
    let (files, failures) = match metadata.is_dir() {
        true => walk(path),
        false if metadata.is_file() => {
            let (path, is_segment) = (path.clone(), true);
            let file = Found {
                path,
                is_segment,
                metadata,
            };
            (vec![file], Vec::new())
        }
        false => {
            return Err(CliError::failed("is no regular file")
                .on(path)
                .remedy("name segments or directories"));
        }
    };
    for failure in failures {
        report.failed(failure);
    }
    let mut segments: Vec<Found> = files.into_iter().filter(|f| f.is_segment).collect();
    leave_other_archives(&mut segments, models.archive(), report);
    let progress = Progress::bytes(
        path.display().to_string(),
        segments.iter().map(content_len).sum(),
    );
    let turn = Mutex::new(());
    let work = |file: &Found| repair_file(&file.path, &models, args, &turn, &progress);
    let done: Vec<_> = segments.par_iter().map(work).collect();
    drop(progress);
    for (file, done) in segments.into_iter().zip(done) {
        report.take(&file.path, done, args.json)?;
    }
    if args.prune {
        prune(path, &models, args, report)?;
    }
    Ok(())
}

/// Takes out the files of archives below that are not the one whose lock is held.
fn leave_other_archives(files: &mut Vec<Found>, held: Option<&Archive>, report: &mut Report) {
    let held = held.map(Archive::root);
    let mut roots: HashMap<PathBuf, Option<PathBuf>> = HashMap::new();
    let mut others = BTreeSet::new();
    files.retain(|file| {
        let folder = file.path.parent().unwrap_or(&file.path);
        let root = roots
            .entry(folder.to_path_buf())
            .or_insert_with(|| Archive::find(folder));
        let ours = root.as_deref() == held;
        others.extend(root.clone().filter(|_| !ours));
        ours
    });
    for root in others {
        let error = CliError::failed("is an archive of its own and was left alone").on(&root);
        report.failed(error.remedy("name it, to repair it under its own lock"));
    }
}

/// Bytes of a file's content, as far as its header tells.
fn content_len(file: &Found) -> u64 {
    let summary = open_regular(&file.path).ok().and_then(|f| peek(&f).ok());
    summary.map_or(file.metadata.len(), |summary| summary.logical_size)
}

/// What tells whether a file was changed, however little.
fn stamp(m: &Metadata) -> (u64, u64, u64, i64, i64) {
    (m.dev(), m.ino(), m.len(), m.mtime(), m.mtime_nsec())
}

/// What a mount shows are no segments.
fn refuse_mounted(path: &Path) -> Result<(), CliError> {
    let mounts = vortex_mounts().map_err(|e| CliError::io("/proc/self/mountinfo", &e))?;
    match mounts.iter().find(|m| path.starts_with(&m.mountpoint)) {
        Some(_) => Err(CliError::failed("is in a mount, and segments lie below it")
            .on(path)
            .remedy("unmount it and name the archive's own directory")),
        None => Ok(()),
    }
}

fn repair_file(
    path: &Path,
    models: &Models,
    args: &Args,
    turn: &Mutex<()>,
    progress: &Progress,
) -> Result<FileReport, CliError> {
    let library = models.library();
    let depth = match args.checksums {
        true => Depth::Checksums,
        false => Depth::Content,
    };
    let io = |e: std::io::Error| CliError::io(path, &e);
    let file = Arc::new(open_regular(path).map_err(io)?);
    let before = stamp(&file.metadata().map_err(io)?);
    let add = |bytes| progress.add(bytes);
    let diagnosis = diagnose(Arc::clone(&file), path, library, depth, &add);
    match diagnosis.map_err(with_path(path))? {
        Diagnosis::Sound => Ok(FileReport::sound()),
        Diagnosis::Hopeless(error @ SegmentError::NotASegment { .. })
            if path.extension().is_none_or(|e| e != "vortex") =>
        {
            Err(store_failure(path, &error.into()))
        }
        Diagnosis::Hopeless(error) => Ok(FileReport::hopeless(&error)),
        Diagnosis::Marked(patient) if !args.fill_zeros => {
            Ok(FileReport::of(&patient, Status::Marked))
        }
        Diagnosis::Marked(patient) | Diagnosis::Repairable(patient) => {
            let fate = match args.fill_zeros {
                true => LostBlocks::Zeros,
                false => LostBlocks::Marked,
            };
            let mut report = FileReport::of(&patient, Status::Repaired);
            report.filled = args.fill_zeros;
            if !args.dry_run {
                let unchanged =
                    || std::fs::symlink_metadata(path).is_ok_and(|now| stamp(&now) == before);
                let done = replace(path, &file, &unchanged, &patient, fate, models, turn);
                report.replaced(done.map_err(with_path(path))?);
            }
            Ok(report)
        }
    }
}

fn replace(
    path: &Path,
    file: &File,
    unchanged: &dyn Fn() -> bool,
    patient: &Patient,
    fate: LostBlocks,
    models: &Models,
    turn: &Mutex<()>,
) -> Result<Replaced, StoreError> {
    let archive = models.archive();
    let folder = match archive {
        Some(archive) => archive.root().join(".vortex/tmp"),
        None => path.parent().unwrap_or(path).to_path_buf(),
    };
    let made = || damaged::temp_for(path, archive);
    let (temp, _guard) = make_removed_if_killed(made, |temp| folder.join(temp.name()))?;
    patient.rebuild(&temp, fate, models.library())?;
    // The numbers of kept originals are given one after the other.
    let _turn = turn.lock().unwrap_or_else(PoisonError::into_inner);
    let record = Record::now(patient.size(), &patient.lost_bytes());
    damaged::replace(path, file, unchanged, temp, archive, record)
}

/// Puts copies of models, primers and the format right, as far as a good one is left.
fn restore_copies(archive: &Archive, args: &Args, report: &mut Report) -> Result<(), CliError> {
    let fail = with_path(archive.root());
    for bad in archive.bad_copies(Depth::Content).map_err(&fail)? {
        let path = archive.root().join(&bad.path);
        if !bad.other_serves {
            report.take(&path, Ok(FileReport::lost_copy(&bad)), args.json)?;
            continue;
        }
        if !args.dry_run {
            archive.restore(bad.thing).map_err(&fail)?;
        }
        report.fixed(Fixed::restored(&path, &bad), args.json)?;
    }
    Ok(())
}

/// Removes models and primers that nothing in the archive names.
fn prune(path: &Path, models: &Models, args: &Args, report: &mut Report) -> Result<(), CliError> {
    let archive = models
        .archive()
        .filter(|a| a.root() == path)
        .ok_or_else(|| {
            CliError::failed(
                "is no archive, and all of one must be looked through to know what is needed",
            )
            .on(path)
            .remedy("name the archive's directory with --prune")
        })?;
    let unused = match args.dry_run {
        true => usage::unused(archive),
        false => usage::prune(archive),
    };
    for thing in unused.map_err(with_path(path))? {
        report.fixed(Fixed::pruned(path, thing), args.json)?;
    }
    Ok(())
}

/// Removes the kept originals of an archive, or of a single file.
fn discard(path: &Path, args: &Args, report: &mut Report) -> Result<(), CliError> {
    let metadata = std::fs::metadata(path).map_err(|e| CliError::io(path, &e))?;
    let models = models(path, args)?;
    let gone = match (models.archive(), args.dry_run) {
        (Some(archive), true) => damaged::kept_in(archive),
        (Some(archive), false) => damaged::discard_in(archive),
        (None, _) if metadata.is_dir() => {
            warn(format_args!(
                "{}: no archive, and originals of single files lie beside them; name the files",
                path.display()
            ));
            Ok(Vec::new())
        }
        (None, true) => damaged::kept_beside(path),
        (None, false) => damaged::discard_beside(path),
    };
    for kept in gone.map_err(with_path(path))? {
        report.fixed(Fixed::discarded(&kept), args.json)?;
    }
    Ok(())
}
