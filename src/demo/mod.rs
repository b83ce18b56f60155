//! The whole way through, on data of this machine: record, mount, copy in, pack, read back, compare, clean up.
//!
//! Everything happens in one temporary directory that is removed at the end, also if a step fails or the user stops it.
//! The program's own commands do the work, as a user would call them.

mod counters;
mod record;
mod stage;

use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use std::{fs, io};

use rayon::prelude::*;
use serde::Serialize;

pub use record::Pace;

use crate::bench::peers::PeerSizes;
use crate::store::names;
use stage::Stage;

/// Bytes of a read at a random place.
const READ_BYTES: usize = 4096;

/// What stops a demo.
#[derive(Debug, thiserror::Error)]
pub enum DemoError {
    /// The machine can not mount.
    #[error("{0}")]
    NoFuse(String),
    /// A system call failed.
    #[error("{}: {source}", path.display())]
    Io {
        /// What was worked on.
        path: PathBuf,
        /// The system's answer.
        source: io::Error,
    },
    /// One of the program's commands failed; it has said why.
    #[error("`{command}` failed: {message}")]
    Command {
        /// The command line.
        command: String,
        /// What it said.
        message: String,
    },
    /// A file read back is not what was written.
    #[error("{} does not read back as it was written; please report this", .0.display())]
    Different(PathBuf),
    /// The user stopped it.
    #[error("stopped; everything that the demo made is removed")]
    Stopped,
}

/// How the demo goes.
pub struct Plan<'a> {
    /// Length and rate of the recording.
    pub pace: Pace,
    /// Profile to pack with; the default one if absent.
    pub profile: Option<String>,
    /// Told of each step.
    pub say: &'a dyn Fn(&str),
    /// Asked now and then whether to stop.
    pub stop: &'a (dyn Fn() -> bool + Sync),
}

/// Sizes of one file, in bytes.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Row {
    /// Its name.
    pub name: String,
    /// As it was recorded.
    pub recorded: u64,
    /// As the backing directory holds it after packing.
    pub packed: u64,
    /// As other compressors make it.
    #[serde(flatten)]
    pub peers: PeerSizes,
}

/// What was measured.
#[derive(Debug, Default, Serialize)]
pub struct Report {
    /// One row a file.
    pub files: Vec<Row>,
    /// Disk space of the archive before packing.
    pub disk_written: u64,
    /// Disk space of the archive after packing.
    pub disk_packed: u64,
    /// Seconds that `pack` took, with checking what it made.
    pub pack_seconds: f64,
    /// Seconds to read all files through a new mount.
    pub read_seconds: f64,
    /// Milliseconds of the median read of 4 KiB at a random place of a packed file, the first read of that file.
    pub random_read_milliseconds: f64,
}

impl Report {
    /// Sums over all files.
    #[must_use]
    pub fn total(&self) -> Row {
        let mut total = Row {
            name: "all files".to_owned(),
            ..Row::default()
        };
        for row in &self.files {
            total.recorded += row.recorded;
            total.packed += row.packed;
            total.peers.add(&row.peers);
        }
        total
    }
}

/// Runs the demo.
///
/// # Errors
/// Any [`DemoError`]; nothing is left behind then either.
pub fn run(plan: &Plan<'_>) -> Result<Report, DemoError> {
    let stage = Stage::set(plan.stop)?;
    let say = plan.say;
    say(&format!(
        "Recording counters of this machine for {:.0} s, {} times a second",
        plan.pace.duration.as_secs_f64(),
        plan.pace.rate
    ));
    let recorded =
        record::record(stage.recordings(), plan.pace, plan.stop).map_err(at(stage.recordings()))?;
    let bytes: u64 = recorded
        .iter()
        .map(|path| len(path))
        .sum::<Result<_, _>>()?;
    say(&format!(
        "  {} files, {bytes} bytes: binary records, and the same as CSV",
        recorded.len()
    ));

    stage.mount(say)?;
    say("Copying them into the mount");
    for path in &recorded {
        stage.check_stop()?;
        copy_and_sync(path, &in_folder(stage.mountpoint(), path))?;
    }
    compare(&recorded, &stage)?;
    stage.umount(say)?;
    let mut report = Report {
        disk_written: disk_use(stage.archive())?,
        ..Report::default()
    };
    say(&format!(
        "  they read back the same; the archive takes {} bytes of disk",
        report.disk_written
    ));

    let begun = Instant::now();
    let profile = plan
        .profile
        .iter()
        .flat_map(|name| ["--profile", name.as_str()]);
    stage.command(
        say,
        profile
            .fold(stage.vortex("pack"), |mut command, word| {
                command.arg(word);
                command
            })
            .arg(stage.archive()),
    )?;
    report.pack_seconds = begun.elapsed().as_secs_f64();
    report.disk_packed = disk_use(stage.archive())?;
    say(&format!(
        "  the archive takes {} bytes of disk",
        report.disk_packed
    ));

    stage.mount(say)?;
    say(&format!(
        "Reading {READ_BYTES} bytes at a random place of each file, none of it cached"
    ));
    report.random_read_milliseconds = random_reads(&recorded, &stage)?.as_secs_f64() * 1000.0;
    stage.umount(say)?;
    stage.mount(say)?;
    say("Reading everything, none of it cached");
    let begun = Instant::now();
    compare(&recorded, &stage)?;
    report.read_seconds = begun.elapsed().as_secs_f64();
    say("  every byte is what was recorded");
    stage.umount(say)?;

    say("Compressing the recordings with gzip -9, zstd -19 and xz -9, to compare");
    report.files = recorded
        .par_iter()
        .map(|path| row(path, &stage))
        .collect::<Result<_, _>>()?;
    Ok(report)
}

fn at(path: &Path) -> impl FnOnce(io::Error) -> DemoError + '_ {
    move |source| DemoError::Io {
        path: path.to_owned(),
        source,
    }
}

fn len(path: &Path) -> Result<u64, DemoError> {
    fs::metadata(path).map(|m| m.len()).map_err(at(path))
}

fn in_folder(folder: &Path, path: &Path) -> PathBuf {
    folder.join(path.file_name().unwrap_or_default())
}

fn copy_and_sync(from: &Path, to: &Path) -> Result<(), DemoError> {
    fs::copy(from, to).map_err(at(to))?;
    fs::File::open(to)
        .and_then(|file| file.sync_all())
        .map_err(at(to))
}

/// Reads every file through the mount and compares it with its recording.
fn compare(recorded: &[PathBuf], stage: &Stage<'_>) -> Result<(), DemoError> {
    recorded.par_iter().try_for_each(|path| {
        stage.check_stop()?;
        let mounted = in_folder(stage.mountpoint(), path);
        let same = fs::read(&mounted).map_err(at(&mounted))? == fs::read(path).map_err(at(path))?;
        if same {
            Ok(())
        } else {
            Err(DemoError::Different(mounted))
        }
    })
}

/// Reads a small piece of each file at a random place and gives the median time of one.
fn random_reads(recorded: &[PathBuf], stage: &Stage<'_>) -> Result<Duration, DemoError> {
    let mut times = Vec::with_capacity(recorded.len());
    let mut random = 0x2545_f491_4f6c_dd1d_u64;
    for path in recorded {
        stage.check_stop()?;
        random = random
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        let expected = fs::read(path).map_err(at(path))?;
        let last_start = expected.len().saturating_sub(READ_BYTES);
        let start = usize::try_from(random >> 33).unwrap_or(0) % (last_start + 1);
        let expected = expected.get(start..).unwrap_or_default();
        let expected = expected.get(..READ_BYTES).unwrap_or(expected);
        let mounted = in_folder(stage.mountpoint(), path);
        let mut got = vec![0; expected.len()];
        let begun = Instant::now();
        fs::File::open(&mounted)
            .and_then(|file| file.read_exact_at(&mut got, start as u64))
            .map_err(at(&mounted))?;
        times.push(begun.elapsed());
        if got != expected {
            return Err(DemoError::Different(mounted));
        }
    }
    times.sort();
    Ok(times.get(times.len() / 2).copied().unwrap_or_default())
}

/// Disk space of all files of an archive but its models and temporary files.
fn disk_use(archive: &Path) -> Result<u64, DemoError> {
    let mut sum = 0;
    for entry in fs::read_dir(archive).map_err(at(archive))? {
        let metadata = entry.and_then(|e| e.metadata()).map_err(at(archive))?;
        if metadata.is_file() {
            sum += metadata.blocks() * 512;
        }
    }
    Ok(sum)
}

fn row(path: &Path, stage: &Stage<'_>) -> Result<Row, DemoError> {
    stage.check_stop()?;
    let name = path.file_name().unwrap_or_default();
    let segment = stage.archive().join(names::segment_name(name));
    let packed = len(&segment).or_else(|_| len(&stage.archive().join(names::other_name(name))))?;
    let data = fs::read(path).map_err(at(path))?;
    Ok(Row {
        name: name.display().to_string(),
        recorded: data.len() as u64,
        packed,
        peers: PeerSizes::of(&data).map_err(at(path))?,
    })
}
