//! How long things take: a histogram that many threads add to without waiting for each other.

use std::time::Duration;

use crate::sync::atomic::{AtomicU64, Ordering};

/// Upper bounds of the buckets but the last, which has none: 32 us, and twice as long each, up to 4.2 s.
pub const BOUNDS: usize = 18;

/// The shortest bound.
const FIRST: Duration = Duration::from_micros(32);

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Histogram {
    buckets: [AtomicU64; BOUNDS + 1],
    nanos: AtomicU64,
}

/// What a histogram held at one moment.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Latency {
    /// How many took longer than the bound before and not longer than this one; the last bucket has no bound.
    pub buckets: [u64; BOUNDS + 1],
    /// Time of all together, in nanoseconds.
    pub nanos: u64,
}

impl Histogram {
    pub(super) fn add(&self, took: Duration) {
        let nanos = u64::try_from(took.as_nanos()).unwrap_or(u64::MAX);
        let at = (0..BOUNDS).find(|&n| took <= Latency::bound(n));
        if let Some(bucket) = self.buckets.get(at.unwrap_or(BOUNDS)) {
            bucket.fetch_add(1, Ordering::Relaxed);
        }
        self.nanos.fetch_add(nanos, Ordering::Relaxed);
    }

    pub(super) fn now(&self) -> Latency {
        Latency {
            buckets: std::array::from_fn(|n| self.buckets[n].load(Ordering::Relaxed)),
            nanos: self.nanos.load(Ordering::Relaxed),
        }
    }
}

impl Latency {
    /// The upper bound of bucket `n`.
    #[must_use]
    pub fn bound(n: usize) -> Duration {
        FIRST * (1 << n.min(BOUNDS - 1))
    }

    /// How many there were.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.buckets.iter().sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_duration_falls_into_the_first_bucket_that_holds_it() {
        let histogram = Histogram::default();
        let micros = [0, 32, 33, 64, 4_194_304, 4_194_305, 10_000_000];
        for &micros in &micros {
            histogram.add(Duration::from_micros(micros));
        }
        let now = histogram.now();
        assert_eq!(now.buckets[..2], [2, 2]);
        assert_eq!(now.buckets[BOUNDS - 1..], [1, 2]);
        assert_eq!(now.count(), micros.len() as u64);
        assert_eq!(now.nanos, 1000 * micros.iter().sum::<u64>());
        assert_eq!(Latency::bound(BOUNDS - 1), Duration::from_micros(4_194_304));
    }
}
