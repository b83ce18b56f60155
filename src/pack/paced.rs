//! Reading slowly: at most a quarter of the time, and little of it while others are at work.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use crate::fs::Fs;
use crate::segment::Storage;

/// Bytes that are read without a rest.
const STRETCH: u64 = 1 << 20;
/// How long it rests after each stretch while others are at work.
const BUSY_REST: Duration = Duration::from_secs(1);

/// Tells a thread to end, also while it sleeps.
#[derive(Debug, Default)]
pub(super) struct Stop {
    cancelled: AtomicBool,
    stopped: Mutex<bool>,
    wake: Condvar,
}

impl Stop {
    /// Says that it is to end.
    pub(super) fn stop(&self) {
        self.cancelled.store(true, Ordering::Relaxed);
        *self.stopped.lock().unwrap_or_else(PoisonError::into_inner) = true;
        self.wake.notify_all();
    }

    /// Sleeps; whether to go on afterwards.
    pub(super) fn sleep(&self, time: Duration) -> bool {
        let stopped = self.stopped.lock().unwrap_or_else(PoisonError::into_inner);
        let (stopped, _) = self
            .wake
            .wait_timeout_while(stopped, time, |stopped| !*stopped)
            .unwrap_or_else(PoisonError::into_inner);
        !*stopped
    }

    /// Whether it is to end.
    pub(super) fn is_stopped(&self) -> bool {
        self.cancelled.load(Ordering::Relaxed)
    }
}

/// A file that is read slowly, so that others do not notice.
pub(super) struct Paced {
    file: File,
    fs: Arc<Fs>,
    stop: Arc<Stop>,
    pace: Mutex<Pace>,
}

struct Pace {
    /// Bytes read since the last rest, and how long that took.
    bytes: u64,
    took: Duration,
    /// Requests that the mount had served by then.
    served: u64,
}

impl Paced {
    pub(super) fn new(file: File, fs: &Arc<Fs>, stop: &Arc<Stop>) -> Paced {
        // What is read once shall not push out what is read often.
        let _ = rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::NoReuse);
        let pace = Pace {
            bytes: 0,
            took: Duration::ZERO,
            served: fs.activity().served(),
        };
        Paced {
            file,
            fs: Arc::clone(fs),
            stop: Arc::clone(stop),
            pace: Mutex::new(pace),
        }
    }

    fn rest(&self, read: u64, took: Duration) {
        let mut pace = self.pace.lock().unwrap_or_else(PoisonError::into_inner);
        pace.bytes += read;
        pace.took += took;
        if pace.bytes < STRETCH {
            return;
        }
        let served = self.fs.activity().served();
        let busy = served != pace.served || machine_is_loaded(0.0);
        let rest = pace.took * 3;
        self.stop
            .sleep(if busy { rest.max(BUSY_REST) } else { rest });
        *pace = Pace {
            bytes: 0,
            took: Duration::ZERO,
            served,
        };
    }
}

/// Whether more wants to run than there are processors, `own` threads of the caller left out.
pub(super) fn machine_is_loaded(own: f64) -> bool {
    let load = fs::read_to_string("/proc/loadavg").ok();
    let load = load.and_then(|text| text.split(' ').next()?.parse::<f64>().ok());
    let cores = thread::available_parallelism().map_or(1, std::num::NonZeroUsize::get);
    load.is_some_and(|load| load - own > cores as f64)
}

impl Storage for Paced {
    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize> {
        if self.stop.is_stopped() {
            return Err(io::Error::other("cancelled"));
        }
        let begun = Instant::now();
        let n = FileExt::read_at(&self.file, buf, offset)?;
        self.rest(n as u64, begun.elapsed());
        Ok(n)
    }

    fn write_all_at(&self, _: &[u8], _: u64) -> io::Result<()> {
        Err(io::ErrorKind::ReadOnlyFilesystem.into())
    }

    fn sync_data(&self) -> io::Result<()> {
        Ok(())
    }

    fn len(&self) -> io::Result<u64> {
        Ok(self.file.metadata()?.len())
    }

    fn punch_hole(&self, _: u64, _: u64) -> io::Result<()> {
        Err(io::ErrorKind::ReadOnlyFilesystem.into())
    }

    fn set_len(&self, _: u64) -> io::Result<()> {
        Err(io::ErrorKind::ReadOnlyFilesystem.into())
    }
}
