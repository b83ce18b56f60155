//! Adds up what jobs and the background packer have done to files.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use super::Direction;
use super::protocol::{Event, FileOutcome, FileReport};
use super::status::{JobProgress, Packing};

/// See the module. One is shared by all who work on the files of a mount.
#[derive(Debug, Default)]
pub struct Tally {
    jobs: AtomicU64,
    job: Mutex<Option<JobProgress>>,
    sums: Mutex<Packing>,
}

/// A job that is counted as long as this lives.
#[derive(Debug)]
pub struct Job<'a> {
    tally: &'a Tally,
    direction: Direction,
    dry_run: bool,
}

impl Tally {
    /// Counts a job that runs or waits.
    pub fn job(&self, direction: Direction, dry_run: bool) -> Job<'_> {
        self.jobs.fetch_add(1, Ordering::Relaxed);
        Job {
            tally: self,
            direction,
            dry_run,
        }
    }

    /// Counts a file that a pack or unpack dealt with for good.
    pub fn count(&self, report: &FileReport, direction: Direction) {
        let mut sums = self.sums.lock().unwrap_or_else(PoisonError::into_inner);
        match (report.outcome, direction) {
            (FileOutcome::Done, Direction::Pack) if report.after >= report.logical => {
                sums.left += 1
            }
            (FileOutcome::Done, Direction::Pack) => {
                sums.packed += 1;
                sums.logical += report.logical;
                sums.before += report.before;
                sums.after += report.after;
            }
            (FileOutcome::Done, Direction::Unpack) => sums.unpacked += 1,
            (FileOutcome::Left, Direction::Pack) if report.worked > 0 => sums.left += 1,
            (FileOutcome::Already | FileOutcome::Left, _) => {}
            (FileOutcome::Skipped, _) => sums.skipped += 1,
            (FileOutcome::Failed | FileOutcome::Damaged, _) => sums.failed += 1,
        }
    }

    /// All figures.
    #[must_use]
    pub fn packing(&self) -> Packing {
        let mut now = (self.sums.lock())
            .unwrap_or_else(PoisonError::into_inner)
            .clone();
        now.saved = now.before.saturating_sub(now.after);
        now.jobs = self.jobs.load(Ordering::Relaxed);
        now.job = self.progress().clone();
        now
    }

    fn progress(&self) -> std::sync::MutexGuard<'_, Option<JobProgress>> {
        self.job.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Job<'_> {
    /// Takes note of what the job tells.
    pub fn hear(&self, event: &Event) {
        match event {
            Event::Plan { files, bytes } => {
                let command = match self.direction {
                    Direction::Pack => "pack",
                    Direction::Unpack => "unpack",
                };
                *self.tally.progress() = Some(JobProgress {
                    command: command.to_string(),
                    files: *files,
                    bytes: *bytes,
                    done: 0,
                });
            }
            Event::Progress { bytes } => {
                if let Some(job) = &mut *self.tally.progress() {
                    job.done = *bytes;
                }
            }
            Event::File(report) if !self.dry_run => self.tally.count(report, self.direction),
            Event::Done(_) | Event::Error { .. } => *self.tally.progress() = None,
            _ => {}
        }
    }
}

impl Drop for Job<'_> {
    fn drop(&mut self) {
        self.tally.jobs.fetch_sub(1, Ordering::Relaxed);
    }
}
