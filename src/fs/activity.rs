//! Who uses the file system just now: background work looks here to keep out of the way.

use std::time::{Duration, Instant};

use crate::sync::atomic::{AtomicU64, Ordering};

/// Requests of users, as against the daemon's own work.
#[derive(Debug)]
pub struct Activity {
    begun: Instant,
    running: AtomicU64,
    served: AtomicU64,
    /// When the last one ended, in milliseconds since `begun`, plus one.
    last: AtomicU64,
}

impl Default for Activity {
    fn default() -> Self {
        Activity {
            begun: Instant::now(),
            running: AtomicU64::new(0),
            served: AtomicU64::new(0),
            last: AtomicU64::new(0),
        }
    }
}

/// A request under way; it ends when this is dropped.
#[derive(Debug)]
pub struct Request<'a>(&'a Activity);

impl Activity {
    /// Counts a request that begins.
    pub fn enter(&self) -> Request<'_> {
        self.running.fetch_add(1, Ordering::Relaxed);
        Request(self)
    }

    /// Requests that ended.
    #[must_use]
    pub fn served(&self) -> u64 {
        self.served.load(Ordering::Relaxed)
    }

    /// Requests under way.
    #[must_use]
    pub fn running(&self) -> u64 {
        self.running.load(Ordering::Relaxed)
    }

    /// Whether nobody has asked for anything for so long.
    #[must_use]
    pub fn is_quiet(&self, time: Duration) -> bool {
        let quiet = match self.last.load(Ordering::Relaxed) {
            0 => Duration::MAX,
            last => self
                .begun
                .elapsed()
                .saturating_sub(Duration::from_millis(last - 1)),
        };
        self.running() == 0 && quiet >= time
    }

    /// For how long there has been a file system.
    #[must_use]
    pub fn uptime(&self) -> Duration {
        self.begun.elapsed()
    }
}

impl Drop for Request<'_> {
    fn drop(&mut self) {
        let activity = self.0;
        let now = u64::try_from(activity.begun.elapsed().as_millis()).unwrap_or(u64::MAX - 1);
        activity.last.store(now + 1, Ordering::Relaxed);
        activity.served.fetch_add(1, Ordering::Relaxed);
        activity.running.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_quiet_when_the_last_request_is_long_over() {
        let activity = Activity::default();
        assert!(activity.is_quiet(Duration::from_secs(9)));
        let request = activity.enter();
        assert!(!activity.is_quiet(Duration::ZERO));
        assert_eq!((activity.running(), activity.served()), (1, 0));
        drop(request);
        assert_eq!((activity.running(), activity.served()), (0, 1));
        assert!(activity.is_quiet(Duration::ZERO));
        assert!(!activity.is_quiet(Duration::from_secs(9)));
        std::thread::sleep(Duration::from_millis(20));
        assert!(activity.is_quiet(Duration::from_millis(10)));
    }
}
