//! Packing files that nobody has written for a while, one at a time, in the idle hours of processor and disk.
//!
//! The tree is looked through again and again, less often the longer that takes. A file that did not become smaller is
//! remembered with its time of change and not tried again until that changes.

use std::collections::HashMap;
use std::io;
use std::path::PathBuf;
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use super::file::{Encoder, How, encode_file};
use super::primers::choose;
use super::protocol::FileOutcome;
use super::room::{Group, Plan};
use super::walk::{Target, walk};
use super::{Defaults, PackError};
use crate::fs::{Fs, Time};
use crate::store::Cancel;

/// The tree is looked through at most this often, and never takes more than a tenth of the time.
const PAUSE: Duration = Duration::from_secs(60);

/// Most files that are remembered as not worth packing.
const MEMORY: usize = 1 << 20;

/// When and how to pack.
#[derive(Debug, Clone)]
pub struct IdleSettings {
    /// How long a file must not have been written.
    pub after: Duration,
    /// Profile and block size.
    pub defaults: Defaults,
}

/// The background packer; it works until it is told to stop.
#[derive(Debug)]
pub struct Idle {
    shared: Arc<Shared>,
    thread: JoinHandle<()>,
}

#[derive(Debug, Default)]
struct Shared {
    cancel: Cancel,
    stopped: Mutex<bool>,
    wake: Condvar,
}

impl Idle {
    /// Starts it.
    ///
    /// # Errors
    /// No more threads.
    pub fn start(fs: Arc<Fs>, settings: IdleSettings) -> io::Result<Idle> {
        let shared = Arc::new(Shared::default());
        let packer = Packer {
            fs,
            settings,
            shared: Arc::clone(&shared),
            settled: HashMap::new(),
        };
        let thread = thread::Builder::new()
            .name("idle-pack".into())
            .spawn(move || packer.run())?;
        Ok(Idle { shared, thread })
    }

    /// Ends it at the next block and waits for that.
    pub fn stop(self) {
        self.shared.cancel.cancel();
        *self
            .shared
            .stopped
            .lock()
            .unwrap_or_else(PoisonError::into_inner) = true;
        self.shared.wake.notify_all();
        if self.thread.join().is_err() {
            log::error!("the background packer ended early");
        }
    }
}

impl Shared {
    /// Sleeps; whether to go on afterwards.
    fn sleep(&self, time: Duration) -> bool {
        let stopped = self.stopped.lock().unwrap_or_else(PoisonError::into_inner);
        let (stopped, _) = self
            .wake
            .wait_timeout_while(stopped, time, |stopped| !*stopped)
            .unwrap_or_else(PoisonError::into_inner);
        !*stopped
    }
}

struct Packer {
    fs: Arc<Fs>,
    settings: IdleSettings,
    shared: Arc<Shared>,
    /// Files with nothing to gain, by inode, as long as they are unchanged.
    settled: HashMap<u64, (Time, u64)>,
}

impl Packer {
    fn run(mut self) {
        be_humble();
        let pause = (self.settings.after / 2).clamp(Duration::from_millis(200), PAUSE);
        let mut wait = pause;
        while self.shared.sleep(wait) {
            let begun = Instant::now();
            match self.round() {
                Ok(()) => {}
                Err(PackError::Cancelled) => return,
                Err(e) => log::warn!("packing in the background: {e}"),
            }
            wait = pause.max(begun.elapsed() * 9);
        }
    }

    fn round(&mut self) -> Result<(), PackError> {
        let encoder = Encoder::new(&self.fs, None, &self.settings.defaults)?;
        let mut failed = |dir: &std::path::Path, e: &crate::fs::FsError| {
            log::debug!("{}: {e}", dir.display());
        };
        let found = walk(
            &self.fs,
            &[PathBuf::new()],
            &self.shared.cancel,
            &mut failed,
        )?;
        if self.settled.len() > MEMORY {
            self.settled.clear();
        }
        let now = std::time::SystemTime::now();
        let idle = found.into_iter().filter(|t| {
            age(t, now) >= self.settings.after
                && self.settled.get(&t.attr.ino) != Some(&(t.attr.mtime, t.attr.size))
        });
        let idle: Vec<_> = idle.collect();
        let how = How {
            threads: 1,
            dry_run: false,
            cancel: &self.shared.cancel,
            tell: &|_| (),
        };
        let choice = choose(&self.fs, &idle, &encoder, 0, how);
        for target in idle {
            let alone = Group {
                targets: vec![&target],
                at_once: 1,
            };
            let plan = Plan {
                fs: &self.fs,
                encoder: Some(&encoder),
                groups: vec![alone],
            };
            match plan.check() {
                Ok(_) => {}
                Err(error @ PackError::NoSpace { .. }) => {
                    log::debug!("not packed: {error}");
                    continue;
                }
                Err(error) => return Err(error),
            }
            let primer = choice.of(&target.path);
            let Some(report) = encode_file(&self.fs, &target, &encoder, primer, how) else {
                return Err(PackError::Cancelled);
            };
            match report.outcome {
                FileOutcome::Done => log::info!(
                    "{}: packed, {} bytes instead of {}",
                    target.path.display(),
                    report.after,
                    report.before
                ),
                FileOutcome::Skipped => continue,
                FileOutcome::Failed | FileOutcome::Damaged => log::warn!(
                    "{}: not packed: {}",
                    target.path.display(),
                    report.why.as_deref().unwrap_or("unknown")
                ),
                FileOutcome::Already | FileOutcome::Left => {}
            }
            let state = (target.attr.mtime, target.attr.size);
            self.settled.insert(target.attr.ino, state);
        }
        Ok(())
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

/// Lowest priority for this thread and those it starts; on Linux `nice` is a thread's own.
pub(super) fn be_humble() {
    if let Err(e) = rustix::process::nice(19) {
        log::debug!("nice: {e}");
    }
}
