//! `bench fs`: how fast the mounted file system is beside others, on the same disk and in the same run.
//!
//! Every file system is made in a file on one disk and mounted. Rounds go over all file systems in turn, so that what else the
//! machine does falls on all of them. What is read is compared with what was written. Figures are for people: no test may
//! depend on them.

mod error;
mod figures;
mod ingest;
mod logger;
mod metadata;
mod neural;
mod read;
mod stage;
mod system;
mod telemetry;
mod volume;

use std::cell::RefCell;
use std::fs;
use std::path::{Path, PathBuf};

use serde::Serialize;

pub use error::FsBenchError;
use error::{Result, at};
pub use figures::{Figure, Row};
use figures::{Sample, figure};
use stage::Stage;
pub use system::System;
use volume::{Volume, files_below};

/// What is measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Workload {
    /// `cp` of telemetry into the file system, and until it is durable.
    Ingest,
    /// Eight files that grow by 200 bytes at a time, synced every second.
    Logger,
    /// Reads of what the system's page cache holds.
    Warm,
    /// Reads of what only the daemon's cache of decoded blocks holds.
    Cache,
    /// Reads of compressed files with all caches empty: in order, and 4 KiB at random places.
    Cold,
    /// Reads of a packed file with all caches empty, by one core and by all.
    Neural,
    /// Reads of files that are kept as they are.
    Plain,
    /// `find` and `ls -lR` over many files.
    Metadata,
}

impl Workload {
    /// All of them.
    pub const ALL: [Workload; 8] = [
        Workload::Ingest,
        Workload::Logger,
        Workload::Warm,
        Workload::Cache,
        Workload::Cold,
        Workload::Neural,
        Workload::Plain,
        Workload::Metadata,
    ];

    /// Its name on the command line.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Workload::Ingest => "ingest",
            Workload::Logger => "logger",
            Workload::Warm => "warm",
            Workload::Cache => "cache",
            Workload::Cold => "cold",
            Workload::Neural => "neural",
            Workload::Plain => "plain",
            Workload::Metadata => "metadata",
        }
    }
}

/// What to compare, and how much of it.
pub struct Plan<'a> {
    /// Files and directories to make telemetry from.
    pub data: &'a [PathBuf],
    /// Where images and mountpoints are made.
    pub folder: &'a Path,
    /// What is measured.
    pub workloads: Vec<Workload>,
    /// Beside whom.
    pub peers: Vec<System>,
    /// Rounds of each measurement.
    pub rounds: u32,
    /// Bytes that are copied in and read.
    pub bytes: u64,
    /// Appends to each file of a logger.
    pub appends: u32,
    /// Reads at random places.
    pub reads: u32,
    /// Files of the tree that is listed.
    pub files: u32,
    /// Readers, and writers, at the same time.
    pub threads: usize,
    /// Bytes of a block, ours and the peers'.
    pub block_size: u32,
    /// Bytes of our cache of decoded blocks.
    pub cache_bytes: u64,
    /// Bytes of memory for our daemon in all, if it is to have a limit.
    pub memory_limit: Option<u64>,
    /// Told of each step.
    pub say: &'a dyn Fn(&str),
    /// Asked now and then whether to stop.
    pub stop: &'a (dyn Fn() -> bool + Sync),
}

/// A peer that was not measured.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Missing {
    /// The peer.
    pub peer: System,
    /// What it lacks, or what it said.
    pub reason: String,
}

/// What was measured.
#[derive(Debug, Default, Serialize)]
pub struct Report {
    /// Peers that were asked for and not measured.
    pub missing: Vec<Missing>,
    /// In the order in which they were measured.
    pub figures: Vec<Figure>,
}

/// Measures.
///
/// # Errors
/// Any [`FsBenchError`] of ours; what goes wrong with a peer is in the report. Nothing is left behind.
pub fn run(plan: &Plan<'_>) -> Result<Report> {
    let mut options = vec![
        format!("--block-size={}", plan.block_size),
        format!("--cache-size={}", plan.cache_bytes),
    ];
    options.extend((plan.memory_limit).map(|limit| format!("--memory-limit={limit}")));
    let stage = Stage::set(plan.folder, options, plan.stop)?;
    let source = stage.folder("telemetry")?;
    let mut data = Vec::new();
    for path in plan.data {
        data.extend(crate::bench::files::files(std::slice::from_ref(path)).map_err(at(path))?);
    }
    telemetry::make(&source, &data, plan.bytes, plan.threads)?;
    let bench = Bench {
        plan,
        stage: &stage,
        files: files_below(&source)?
            .into_iter()
            .map(PathBuf::from)
            .collect(),
        source,
        missing: RefCell::default(),
    };
    let mut figures = Vec::new();
    for workload in &plan.workloads {
        (plan.say)(workload.name());
        figures.extend(match workload {
            Workload::Ingest => bench.ingest()?,
            Workload::Logger => bench.logger()?,
            Workload::Warm => bench.warm()?,
            Workload::Cache => bench.cached()?,
            Workload::Cold => bench.cold()?,
            Workload::Neural => bench.neural()?,
            Workload::Plain => bench.plain()?,
            Workload::Metadata => bench.metadata()?,
        });
    }
    Ok(Report {
        missing: bench.missing.into_inner(),
        figures,
    })
}

/// What all workloads use.
struct Bench<'a> {
    plan: &'a Plan<'a>,
    stage: &'a Stage<'a>,
    /// The telemetry, and its files relative to it.
    source: PathBuf,
    files: Vec<PathBuf>,
    missing: RefCell<Vec<Missing>>,
}

impl<'a> Bench<'a> {
    /// Ours and those of `peers` that are wanted and can be made.
    fn volumes(
        &self,
        peers: &[System],
        make: impl Fn(System) -> Result<Volume<'a>>,
    ) -> Result<Vec<Volume<'a>>> {
        let mut volumes = vec![make(System::Ours)?];
        for &peer in peers.iter().filter(|peer| self.plan.peers.contains(peer)) {
            let made = match peer.lacks() {
                Some(reason) => Err(reason),
                None => match make(peer) {
                    Ok(volume) => Ok(volume),
                    Err(FsBenchError::Stopped) => return Err(FsBenchError::Stopped),
                    Err(error) => Err(error.to_string()),
                },
            };
            match made {
                Ok(volume) => volumes.push(volume),
                Err(reason) => {
                    let missing = Missing { peer, reason };
                    let mut known = self.missing.borrow_mut();
                    if !known.iter().any(|other| other.peer == peer) {
                        known.push(missing);
                    }
                }
            }
        }
        Ok(volumes)
    }

    /// Measures each volume in turn, as often as asked; `each` gives one sample for each of `figures`.
    fn rounds(
        &self,
        figures: &[(&'static str, &'static str)],
        volumes: &mut [Volume<'a>],
        mut each: impl FnMut(&mut Volume<'a>) -> Result<Vec<Sample>>,
    ) -> Result<Vec<Figure>> {
        let none = || -> Vec<(System, Vec<Sample>)> {
            volumes.iter().map(|v| (v.system, Vec::new())).collect()
        };
        let mut measured = vec![none(); figures.len()];
        for _ in 0..self.plan.rounds {
            for (index, volume) in volumes.iter_mut().enumerate() {
                self.stage.check_stop()?;
                let samples = each(volume)?;
                let memory = volume.peak_memory();
                for (rows, mut sample) in measured.iter_mut().zip(samples) {
                    sample.peak_memory = sample.peak_memory.or(memory);
                    rows[index].1.push(sample);
                }
            }
        }
        let named = figures.iter().zip(&measured);
        Ok(named
            .map(|(&(name, unit), rows)| figure(name, unit, rows))
            .collect())
    }

    /// Copies the telemetry to a directory.
    fn copy_to(&self, folder: &Path) -> Result<()> {
        for file in &self.files {
            let (from, to) = (self.source.join(file), folder.join(file));
            let parent = to.parent().unwrap_or(folder);
            fs::create_dir_all(parent).map_err(at(parent))?;
            fs::copy(&from, &to).map_err(at(&to))?;
        }
        Ok(())
    }

    /// Compares all files below `folder` with the telemetry.
    fn compare(&self, system: System, folder: &Path) -> Result<()> {
        for file in &self.files {
            let (from, to) = (self.source.join(file), folder.join(file));
            if fs::read(&from).map_err(at(&from))? != fs::read(&to).map_err(at(&to))? {
                let system = system.name();
                return Err(FsBenchError::Different { system, path: to });
            }
        }
        Ok(())
    }
}
