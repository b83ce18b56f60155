//! When the background packer works: at the lowest priority, a block at a time, and hardly at all while others are at work.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::paced::{Stop, machine_is_loaded};
use crate::fs::Fs;

/// The mount is in use if somebody asked it for something within this time.
const QUIET: Duration = Duration::from_millis(100);
/// How often it looks whether the mount is still in use.
const LOOK: Duration = Duration::from_millis(10);
/// While the mount is in use it rests that much longer than a block takes, and at least this long.
const BUSY_SHARE: u32 = 20;
const BUSY_REST: Duration = Duration::from_secs(1);
/// The same while more wants to run than there are processors.
const LOADED_SHARE: u32 = 3;

/// Rests between blocks.
pub(super) struct Rester {
    fs: Arc<Fs>,
    stop: Arc<Stop>,
    /// When the block at hand was begun.
    begun: Mutex<Instant>,
    rests: AtomicU64,
    rested: AtomicU64,
}

impl Rester {
    pub(super) fn new(fs: &Arc<Fs>, stop: &Arc<Stop>) -> Rester {
        Rester {
            fs: Arc::clone(fs),
            stop: Arc::clone(stop),
            begun: Mutex::new(Instant::now()),
            rests: AtomicU64::new(0),
            rested: AtomicU64::new(0),
        }
    }

    /// Rests so far, and milliseconds of all together.
    pub(super) fn so_far(&self) -> (u64, u64) {
        let load = |n: &AtomicU64| n.load(Ordering::Relaxed);
        (load(&self.rests), load(&self.rested))
    }

    /// To be called after each block: returns when the next one may be begun. `resting` is called before a rest.
    pub(super) fn rest(&self, resting: impl FnOnce()) {
        let mut begun = self.begun.lock().unwrap_or_else(PoisonError::into_inner);
        let worked = begun.elapsed();
        if self.is_wanted() || machine_is_loaded(1.0) {
            resting();
            let now = Instant::now();
            self.rests.fetch_add(1, Ordering::Relaxed);
            self.while_wanted(now, worked);
            let rested = u64::try_from(now.elapsed().as_millis()).unwrap_or(0);
            self.rested.fetch_add(rested, Ordering::Relaxed);
        }
        *begun = Instant::now();
    }

    /// Work that is no block begins: what came before does not count for the next rest.
    pub(super) fn begin(&self) {
        *self.begun.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
    }

    fn is_wanted(&self) -> bool {
        !self.fs.activity().is_quiet(QUIET)
    }

    fn while_wanted(&self, now: Instant, worked: Duration) {
        if !self.is_wanted() {
            self.stop.sleep(worked * LOADED_SHARE);
        }
        let longest = BUSY_REST.max(worked * BUSY_SHARE);
        while self.is_wanted() && now.elapsed() < longest {
            if !self.stop.sleep(LOOK) {
                return;
            }
        }
    }
}

/// Lowest priority for this thread and those that it starts; on Linux `nice` is a thread's own. The priority of its reads and
/// writes follows from that: the lowest of those that are not put off for ever, because others may wait for its locks.
pub(super) fn be_humble() {
    if let Err(e) = rustix::process::nice(19) {
        log::debug!("nice: {e}");
    }
}
