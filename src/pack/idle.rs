//! Packing files that nobody has written for a while, one at a time, in the idle hours of processor and disk.
//!
//! The tree is looked through again and again, less often the longer that takes. A file that has nothing to gain is
//! remembered with its time of change and not tried again until that changes. After each block it rests while others are at work.

use std::io;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use super::file::{Encoder, How, encode_file};
use super::paced::Stop;
use super::primers::choose;
use super::protocol::{FileOutcome, FileReport, escape};
use super::rest::{Rester, be_humble};
use super::room::{Group, Plan};
use super::settled::Settled;
use super::status::{self, IdleState};
use super::tally::Tally;
use super::walk::{PassedOver, Target, walk};
use super::{Defaults, Direction, PackError};
use crate::fs::{Fs, NodeId};
use crate::store::Cancel;

/// The tree is looked through at most this often, and never takes more than a tenth of the time.
const PAUSE: Duration = Duration::from_secs(60);

/// When and how to pack.
#[derive(Debug, Clone)]
pub struct IdleSettings {
    /// How long a file must not have been written.
    pub after: Duration,
    /// Profile and block size.
    pub defaults: Defaults,
}

/// The background packer; it works until it is told to stop.
pub struct Idle {
    shared: Arc<Shared>,
    thread: JoinHandle<()>,
}

struct Shared {
    cancel: Cancel,
    stop: Arc<Stop>,
    rester: Rester,
    state: Mutex<State>,
    file_done: AtomicU64,
}

#[derive(Default)]
struct State {
    is: IdleState,
    files: u64,
    bytes: u64,
    file: Option<PathBuf>,
    file_bytes: u64,
    settled: u64,
    looks: u64,
    error: Option<String>,
}

impl Idle {
    /// Starts it. What it does to files is added to the tally.
    ///
    /// # Errors
    /// No more threads.
    pub fn start(fs: Arc<Fs>, settings: IdleSettings, tally: Arc<Tally>) -> io::Result<Idle> {
        let stop = Arc::new(Stop::default());
        let shared = Arc::new(Shared {
            cancel: Cancel::default(),
            rester: Rester::new(&fs, &stop),
            stop,
            state: Mutex::default(),
            file_done: AtomicU64::new(0),
        });
        let packer = Packer {
            fs,
            settings,
            shared: Arc::clone(&shared),
            tally,
            settled: None,
            looked: Duration::ZERO,
        };
        let thread = thread::Builder::new()
            .name("idle-pack".into())
            .spawn(move || packer.run())?;
        Ok(Idle { shared, thread })
    }

    /// A view of it that outlives it.
    #[must_use]
    pub fn view(&self) -> IdleView {
        IdleView(Arc::clone(&self.shared))
    }

    /// Ends it at the next block and waits for that.
    pub fn stop(self) {
        self.shared.cancel.cancel();
        self.shared.stop.stop();
        if self.thread.join().is_err() {
            log::error!("the background packer ended early");
        }
    }
}

/// Tells what a background packer is at.
#[derive(Clone)]
pub struct IdleView(Arc<Shared>);

impl IdleView {
    /// What it is at.
    #[must_use]
    pub fn status(&self) -> status::Idle {
        let (rests, rested) = self.0.rester.so_far();
        let state = self.0.state();
        status::Idle {
            state: state.is,
            queue_files: state.files,
            queue_bytes: state.bytes,
            file: state.file.as_deref().map(escape),
            file_bytes: state.file_bytes,
            file_done: self
                .0
                .file_done
                .load(Ordering::Relaxed)
                .min(state.file_bytes),
            settled: state.settled,
            looks: state.looks,
            rests,
            rested,
            error: state.error.clone(),
        }
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// After each block.
    fn block(&self, bytes: u64) {
        self.file_done.fetch_add(bytes, Ordering::Relaxed);
        let before = self.state().is;
        self.rester.rest(|| self.state().is = IdleState::Resting);
        self.state().is = before;
    }
}

struct Packer {
    fs: Arc<Fs>,
    settings: IdleSettings,
    shared: Arc<Shared>,
    tally: Arc<Tally>,
    /// None until the first look.
    settled: Option<Settled>,
    /// How long the last look took, without the packing.
    looked: Duration,
}

impl Packer {
    fn run(mut self) {
        be_humble();
        let pause = (self.settings.after / 2).clamp(Duration::from_millis(200), PAUSE);
        let mut wait = pause;
        while self.shared.stop.sleep(wait) {
            let ended = self.look();
            if let Some(settled) = &mut self.settled {
                settled.keep(self.fs.archive(), true);
                self.shared.state().settled = settled.len() as u64;
            }
            let error = match ended {
                Ok(()) => None,
                Err(PackError::Cancelled) => return,
                Err(e) => Some(e.to_string()),
            };
            let mut state = self.shared.state();
            if let Some(e) = error.as_ref().filter(|_| error != state.error) {
                // The next looks may well end alike.
                log::warn!("packing in the background: {e}");
            }
            state.error = error;
            state.is = IdleState::Waiting;
            (state.files, state.bytes) = (0, 0);
            (state.file, state.file_bytes) = (None, 0);
            drop(state);
            wait = pause.max(self.looked * 9);
        }
    }

    /// Looks through the tree, and packs what is idle.
    fn look(&mut self) -> Result<(), PackError> {
        self.shared.state().is = IdleState::Looking;
        self.shared.state().looks += 1;
        self.shared.rester.begin();
        let begun = Instant::now();
        let (fs, shared) = (Arc::clone(&self.fs), Arc::clone(&self.shared));
        let encoder = Encoder::new(&fs, None, &self.settings.defaults)?;
        let mut settled = (self.settled.take())
            .unwrap_or_else(|| Settled::load(fs.archive(), &encoder.told_apart_by()));
        settled.look();
        let mut all = true;
        let mut failed = |dir: &std::path::Path, why: &PassedOver| {
            log::debug!("{}: {why}", dir.display());
            all &= matches!(why, PassedOver::OtherArchive);
        };
        let found = walk(&fs, &[PathBuf::new()], &shared.cancel, &mut failed);
        let found = match found {
            Ok(found) => found,
            Err(e) => {
                self.settled = Some(settled);
                return Err(e);
            }
        };
        let now = std::time::SystemTime::now();
        // All are asked for, so that those which are there are not forgotten.
        let idle = found
            .into_iter()
            .filter(|t| !settled.has(t) && age(t, now) >= self.settings.after);
        let idle: Vec<_> = idle.collect();
        if all {
            settled.forget_missing();
        }
        self.looked = begun.elapsed();
        let done = self.pack(&fs, idle, &encoder, &mut settled);
        self.settled = Some(settled);
        done
    }

    fn pack(
        &self,
        fs: &Fs,
        idle: Vec<Target>,
        encoder: &Encoder,
        settled: &mut Settled,
    ) -> Result<(), PackError> {
        let shared = &*self.shared;
        let tell = |bytes| shared.block(bytes);
        let how = How {
            threads: 1,
            dry_run: false,
            cancel: &shared.cancel,
            tell: &tell,
        };
        {
            let mut state = shared.state();
            state.files = idle.len() as u64;
            state.bytes = idle.iter().map(|t| t.attr.size).sum();
            state.settled = settled.len() as u64;
        }
        let choice = choose(fs, &idle, encoder, 0, how);
        for target in idle {
            shared.file_done.store(0, Ordering::Relaxed);
            {
                let mut state = shared.state();
                state.is = IdleState::Packing;
                state.file_bytes = target.attr.size.saturating_mul(2);
                state.file = Some(target.path.clone());
            }
            shared.rester.begin();
            if is_still_idle(fs, &target) && has_room(fs, encoder, &target)? {
                let primer = choice.of(&target.path);
                let Some(report) = encode_file(fs, &target, encoder, primer, how) else {
                    return Err(PackError::Cancelled);
                };
                self.tell(&target, &report);
                if report.outcome != FileOutcome::Skipped {
                    settled.add(&target, stays_as_large(&report));
                    settled.keep(fs.archive(), false);
                }
            } else if shared.cancel.is_cancelled() {
                return Err(PackError::Cancelled);
            }
            let mut state = shared.state();
            state.files = state.files.saturating_sub(1);
            state.bytes = state.bytes.saturating_sub(target.attr.size);
            state.settled = settled.len() as u64;
        }
        Ok(())
    }

    fn tell(&self, target: &Target, report: &FileReport) {
        self.tally.count(report, Direction::Pack);
        match report.outcome {
            FileOutcome::Done => log::info!(
                "{}: packed, {} bytes instead of {}",
                target.path.display(),
                report.after,
                report.before
            ),
            FileOutcome::Failed | FileOutcome::Damaged => log::warn!(
                "{}: not packed: {}",
                target.path.display(),
                report.why.as_deref().unwrap_or("unknown")
            ),
            FileOutcome::Already | FileOutcome::Left | FileOutcome::Skipped => {}
        }
    }
}

/// Whether a file was encoded, and is not packed all the same: it would be encoded again if it were not remembered.
fn stays_as_large(report: &FileReport) -> bool {
    match report.outcome {
        FileOutcome::Left => report.worked > 0,
        // It became a plain file.
        FileOutcome::Done => report.after >= report.logical,
        _ => false,
    }
}

/// Whether nobody has written to the file since it was found, or has it open for that.
fn is_still_idle(fs: &Fs, target: &Target) -> bool {
    let Ok(held) = super::walk::Held::resolve(fs, &target.path) else {
        return false;
    };
    let same = fs.getattr(held.id, None).is_ok_and(|now| {
        (now.ino, now.mtime, now.size) == (target.attr.ino, target.attr.mtime, target.attr.size)
    });
    same && !fs.is_open_for_writing(NodeId(target.attr.ino))
}

/// Whether the new form fits beside the old one.
fn has_room(fs: &Fs, encoder: &Encoder, target: &Target) -> Result<bool, PackError> {
    let alone = Group {
        targets: vec![target],
        at_once: 1,
    };
    let plan = Plan {
        fs,
        encoder: Some(encoder),
        groups: vec![alone],
    };
    match plan.check() {
        Ok(_) => Ok(true),
        Err(error @ PackError::NoSpace { .. }) => {
            log::debug!("not packed: {error}");
            Ok(false)
        }
        Err(error) => Err(error),
    }
}

/// How long ago the content was changed; nothing for a time in the future.
fn age(target: &Target, now: std::time::SystemTime) -> Duration {
    let (secs, _) = target.attr.mtime.max(target.attr.ctime);
    let now = now
        .duration_since(std::time::UNIX_EPOCH)
        .map_or(0, |d| i64::try_from(d.as_secs()).unwrap_or(i64::MAX));
    Duration::from_secs(u64::try_from(now.saturating_sub(secs)).unwrap_or(0))
}
