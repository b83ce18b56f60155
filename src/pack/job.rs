//! A whole job: find the files, check that there is room, work on them in parallel, add up.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use super::file::{Encoder, How, decode_file, encode_file};
use super::primers::{Choice, choose};
use super::protocol::{Event, FileOutcome, FileReport, Job, Summary, escape, unescape};
use super::room::{Group, Plan};
use super::walk::{PassedOver, Target, walk};
use super::{Defaults, Direction, PackError};
use crate::fs::Fs;
use crate::segment::DEFAULT_BLOCK;
use crate::store::Cancel;

/// Progress is told at most this often.
const TELL_EVERY: Duration = Duration::from_millis(100);

/// A file of at least so many blocks a thread is worked on by all threads together, smaller ones by one thread each.
const BLOCKS_PER_THREAD: u64 = 4;

/// Who hears of it.
type Say<'a> = &'a (dyn Fn(Event) + Sync);

/// Does the job. `say` is told the plan, the progress and each file; the last word is the summary.
///
/// # Errors
/// The job could not begin. What fails for one file is in its report and in the summary.
pub fn run(
    fs: &Fs,
    job: &Job,
    direction: Direction,
    defaults: &Defaults,
    cancel: &Cancel,
    say: Say<'_>,
) -> Result<Summary, PackError> {
    let begun = Instant::now();
    let threads = job
        .jobs
        .unwrap_or_else(|| thread::available_parallelism().map_or(1, usize::from))
        // Each needs much memory; where that is short, one after another.
        .clamp(
            1,
            if fs.options().decoders.is_some() {
                1
            } else {
                1024
            },
        );
    // A profile that is not there, or a block size that cannot be, is told before the tree is walked.
    let encoder = match direction {
        Direction::Pack => Some(Encoder::new(fs, Some(job), defaults)?),
        Direction::Unpack => None,
    };
    let summary = Mutex::new(Summary::default());
    let report = |report: FileReport| {
        let mut summary = summary.lock().unwrap_or_else(PoisonError::into_inner);
        summary.count(&report);
        say(Event::File(report));
    };
    let paths: Vec<PathBuf> = job.paths.iter().map(|p| unescape(p)).collect();
    let mut passed_over = |dir: &Path, why: &PassedOver| report(passed_over(dir, why));
    let targets = walk(fs, &paths, cancel, &mut passed_over)?;
    let is_large = large_with(threads, encoder.as_ref());
    let needed = match (direction, job.dry_run) {
        // It only adds up.
        (Direction::Unpack, true) => 0,
        _ => {
            let (large, small) = targets.iter().partition(|t| is_large(t));
            let group = |targets, at_once| Group { targets, at_once };
            let plan = Plan {
                fs,
                encoder: encoder.as_ref(),
                groups: vec![group(large, 1), group(small, threads)],
            };
            plan.check()?
        }
    };
    let bytes = targets.iter().map(|t| units(t, direction)).sum();
    let files = targets.len() as u64;
    say(Event::Plan { files, bytes });
    let choice = match &encoder {
        Some(encoder) => {
            let how = How {
                threads,
                dry_run: job.dry_run,
                cancel,
                tell: &|_| (),
            };
            choose(fs, &targets, encoder, needed, how)
        }
        None => Choice::default(),
    };
    let work = Work {
        fs,
        encoder,
        choice,
        dry_run: job.dry_run,
        threads,
        cancel,
        progress: Progress::new(say),
        report: &report,
    };
    work.run(targets);
    let mut summary = summary.into_inner().unwrap_or_else(PoisonError::into_inner);
    summary.seconds = begun.elapsed().as_secs_f64();
    summary.cancelled = cancel.is_cancelled();
    Ok(summary)
}

/// Whether a file is worked on by all threads together, and not by one beside others.
fn large_with(threads: usize, encoder: Option<&Encoder>) -> impl Fn(&Target) -> bool + use<> {
    let block = encoder.map_or(DEFAULT_BLOCK, |e| e.block_size);
    let from = u64::from(block) * BLOCKS_PER_THREAD * threads as u64;
    move |target| threads > 1 && target.attr.size >= from
}

/// Units of progress that a file is: packing encodes each byte and then compares it, unpacking only decodes.
fn units(target: &Target, direction: Direction) -> u64 {
    match direction {
        Direction::Pack => target.attr.size.saturating_mul(2),
        Direction::Unpack => target.attr.size,
    }
}

fn passed_over(dir: &Path, why: &PassedOver) -> FileReport {
    FileReport {
        path: escape(dir),
        outcome: match why {
            PassedOver::Unreadable(error) if error.is_damage() => FileOutcome::Damaged,
            _ => FileOutcome::Failed,
        },
        why: Some(why.to_string()),
        ..FileReport::default()
    }
}

struct Work<'a> {
    fs: &'a Fs,
    /// None to unpack.
    encoder: Option<Encoder>,
    choice: Choice,
    dry_run: bool,
    threads: usize,
    cancel: &'a Cancel,
    progress: Progress<'a>,
    report: &'a (dyn Fn(FileReport) + Sync),
}

impl Work<'_> {
    /// Large files one after another with all threads, then small ones with a thread each.
    fn run(&self, targets: Vec<Target>) {
        let (large, mut small): (Vec<_>, Vec<_>) = targets
            .into_iter()
            .partition(large_with(self.threads, self.encoder.as_ref()));
        for target in &large {
            self.one(target, self.threads);
        }
        // The longest first, so that no thread is left alone with one at the end.
        small.sort_by_key(|t| std::cmp::Reverse(t.attr.size));
        let next = AtomicUsize::new(0);
        let take = || {
            while let Some(target) = small.get(next.fetch_add(1, Ordering::Relaxed)) {
                self.one(target, 1);
            }
        };
        thread::scope(|scope| {
            for _ in 1..self.threads.min(small.len()) {
                // With fewer threads than wanted it takes longer, that is all.
                let _ = thread::Builder::new()
                    .name("pack".into())
                    .spawn_scoped(scope, take);
            }
            take();
        });
    }

    fn one(&self, target: &Target, threads: usize) {
        if self.cancel.is_cancelled() {
            return;
        }
        let direction = if self.encoder.is_some() {
            Direction::Pack
        } else {
            Direction::Unpack
        };
        let told = AtomicU64::new(0);
        let total = units(target, direction);
        let tell = |bytes: u64| {
            let before = told.fetch_add(bytes, Ordering::Relaxed);
            // A second attempt is no second progress.
            self.progress.add(bytes.min(total.saturating_sub(before)));
        };
        let how = How {
            threads,
            dry_run: self.dry_run,
            cancel: self.cancel,
            tell: &tell,
        };
        let report = match &self.encoder {
            Some(encoder) => {
                let primer = self.choice.of(&target.path);
                encode_file(self.fs, target, encoder, primer, how)
            }
            None => decode_file(self.fs, target, how),
        };
        tell(total);
        if let Some(report) = report {
            (self.report)(report);
        }
    }
}

/// Tells how far the job is, not too often.
struct Progress<'a> {
    done: AtomicU64,
    told: Mutex<Instant>,
    say: Say<'a>,
}

impl<'a> Progress<'a> {
    fn new(say: Say<'a>) -> Self {
        Progress {
            done: AtomicU64::new(0),
            told: Mutex::new(Instant::now()),
            say,
        }
    }

    fn add(&self, bytes: u64) {
        let done = self.done.fetch_add(bytes, Ordering::Relaxed) + bytes;
        let Ok(mut told) = self.told.try_lock() else {
            return;
        };
        if told.elapsed() >= TELL_EVERY {
            *told = Instant::now();
            drop(told);
            (self.say)(Event::Progress { bytes: done });
        }
    }
}
