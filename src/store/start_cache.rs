//! The cache of start states, shared by all readers of an archive.
//!
//! Bounded in bytes; least recently used states go first. A state that several readers want at once is made once and the
//! others wait; if making it fails they try for themselves, so that each has its own error.

use std::collections::HashMap;
use std::sync::Arc;

use lru::LruCache;

use super::error::StoreError;
use crate::codec::{PrimerId, Start};
use crate::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use crate::sync::{Condvar, Mutex, MutexGuard, PoisonError};

/// Bytes of states that are kept unless something else is said.
pub const DEFAULT_START_BYTES: usize = 96 << 20;

/// Names a state.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Key {
    /// A number in the table of an open segment; see [`crate::segment::Starts::id`].
    Segment { table: u64, number: u16 },
    /// The state after a primer.
    Primer(PrimerId),
}

/// Somebody makes a state.
#[derive(Debug, Default)]
struct Flight {
    landed: Mutex<bool>,
    wake: Condvar,
}

#[derive(Debug)]
struct Inner {
    states: LruCache<Key, Arc<Start>>,
    bytes: usize,
    flights: HashMap<Key, Arc<Flight>>,
}

/// See the module.
#[derive(Debug)]
pub struct StartCache {
    inner: Mutex<Inner>,
    limit: AtomicUsize,
    hits: AtomicU64,
    made: AtomicU64,
}

impl Default for StartCache {
    fn default() -> Self {
        StartCache::new(DEFAULT_START_BYTES)
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl StartCache {
    /// A cache that holds at most `limit` bytes.
    #[must_use]
    pub fn new(limit: usize) -> Self {
        let inner = Inner {
            states: LruCache::unbounded(),
            bytes: 0,
            flights: HashMap::new(),
        };
        StartCache {
            inner: Mutex::new(inner),
            limit: AtomicUsize::new(limit),
            hits: AtomicU64::new(0),
            made: AtomicU64::new(0),
        }
    }

    /// Bytes that are held now.
    #[must_use]
    pub fn bytes(&self) -> usize {
        lock(&self.inner).bytes
    }

    /// Bytes that it holds at most.
    #[must_use]
    pub fn limit(&self) -> usize {
        self.limit.load(Ordering::Relaxed)
    }

    /// From the next state on it holds at most so many bytes.
    pub fn set_limit(&self, limit: usize) {
        self.limit.store(limit, Ordering::Relaxed);
    }

    /// How often a state was at hand.
    #[must_use]
    pub fn hits(&self) -> u64 {
        self.hits.load(Ordering::Relaxed)
    }

    /// How many states were made.
    #[must_use]
    pub fn made(&self) -> u64 {
        self.made.load(Ordering::Relaxed)
    }

    /// Bytes of the largest state that is held now.
    #[must_use]
    pub fn largest(&self) -> usize {
        let inner = lock(&self.inner);
        let sizes = inner.states.iter().map(|(_, state)| state.memory());
        sizes.max().unwrap_or(0)
    }

    /// Forgets all states, as if nothing had been read yet. Readers that hold one keep it.
    pub fn clear(&self) {
        let mut inner = lock(&self.inner);
        inner.states.clear();
        inner.bytes = 0;
    }

    /// The state `key` if it is there.
    pub(super) fn get(&self, key: Key) -> Option<Arc<Start>> {
        let found = lock(&self.inner).states.get(&key).cloned();
        self.hits
            .fetch_add(u64::from(found.is_some()), Ordering::Relaxed);
        found
    }

    /// The state `key`, from the cache or from `make`, which is called without any lock held and must not ask for `key`.
    pub(super) fn get_or_make(
        &self,
        key: Key,
        make: impl FnOnce() -> Result<Start, StoreError>,
    ) -> Result<Arc<Start>, StoreError> {
        loop {
            let flight = {
                let mut inner = lock(&self.inner);
                if let Some(state) = inner.states.get(&key) {
                    return Ok(Arc::clone(state));
                }
                match inner.flights.get(&key) {
                    Some(flight) => Arc::clone(flight),
                    None => {
                        inner.flights.insert(key, Arc::default());
                        break;
                    }
                }
            };
            let landed = lock(&flight.landed);
            drop(
                flight
                    .wake
                    .wait_while(landed, |landed| !*landed)
                    .unwrap_or_else(PoisonError::into_inner),
            );
        }
        let _landing = Landing { cache: self, key };
        let state = Arc::new(make()?);
        self.made.fetch_add(1, Ordering::Relaxed);
        self.insert(key, &state);
        Ok(state)
    }

    /// The state `key` goes before all others when there is no room, if it is there.
    pub(super) fn demote(&self, key: Key) {
        lock(&self.inner).states.demote(&key);
    }

    fn insert(&self, key: Key, state: &Arc<Start>) {
        let cost = state.memory();
        let limit = self.limit();
        if cost > limit {
            return;
        }
        let mut inner = lock(&self.inner);
        inner.bytes += cost;
        if let Some(old) = inner.states.put(key, Arc::clone(state)) {
            inner.bytes -= old.memory();
        }
        while inner.bytes > limit {
            let Some((_, old)) = inner.states.pop_lru() else {
                break;
            };
            inner.bytes -= old.memory();
        }
    }
}

/// Ends a flight even if making the state panics, so that nobody waits for ever.
struct Landing<'a> {
    cache: &'a StartCache,
    key: Key,
}

impl Drop for Landing<'_> {
    fn drop(&mut self) {
        if let Some(flight) = lock(&self.cache.inner).flights.remove(&self.key) {
            *lock(&flight.landed) = true;
            flight.wake.notify_all();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Barrier;
    use std::time::Duration;

    fn key(number: u16) -> Key {
        Key::Segment { table: 1, number }
    }

    #[test]
    fn one_state_is_made_once_for_all_who_wait() {
        let (cache, calls, start) = (StartCache::default(), AtomicU64::new(0), Barrier::new(8));
        std::thread::scope(|s| {
            for _ in 0..8 {
                s.spawn(|| {
                    start.wait();
                    let state = cache.get_or_make(key(1), || {
                        calls.fetch_add(1, Ordering::Relaxed);
                        std::thread::sleep(Duration::from_millis(50));
                        Ok(Start::then(None, b"seen", None))
                    });
                    assert_eq!(
                        state.unwrap().memory(),
                        Start::then(None, b"seen", None).memory()
                    );
                });
            }
        });
        assert_eq!(calls.into_inner(), 1);
    }

    #[test]
    fn a_failure_is_everyones_own_and_is_not_kept() {
        let (cache, calls, start) = (StartCache::default(), AtomicU64::new(0), Barrier::new(4));
        std::thread::scope(|s| {
            for _ in 0..4 {
                s.spawn(|| {
                    start.wait();
                    let failed = cache.get_or_make(key(1), || {
                        calls.fetch_add(1, Ordering::Relaxed);
                        Err(StoreError::Cancelled)
                    });
                    assert!(failed.is_err());
                });
            }
        });
        assert_eq!(calls.into_inner(), 4);
        cache
            .get_or_make(key(1), || Ok(Start::then(None, b"", None)))
            .unwrap();
    }

    #[test]
    fn a_panic_lets_others_go_on() {
        let cache = StartCache::default();
        std::thread::scope(|s| {
            let panics = s.spawn(|| cache.get_or_make(key(1), || panic!("for the test")));
            assert!(panics.join().is_err());
        });
        cache
            .get_or_make(key(1), || Ok(Start::then(None, b"", None)))
            .unwrap();
    }

    #[test]
    fn bytes_stay_within_the_limit_and_the_oldest_go() {
        let make = || Ok(Start::then(None, &[1; 10_000], None));
        let cost = make().unwrap().memory();
        let cache = StartCache::new(10 * cost);
        for number in 1..100 {
            cache.get_or_make(key(number), make).unwrap();
        }
        assert_eq!(cache.bytes(), 10 * cost);
        assert!(cache.get(key(99)).is_some() && cache.get(key(1)).is_none());
        assert_eq!(cache.largest(), cost);
        // What was made last goes first if it was demoted.
        cache.demote(key(99));
        cache.get_or_make(key(100), make).unwrap();
        assert!(cache.get(key(99)).is_none() && cache.get(key(90)).is_some());
        assert!(cache.get(key(100)).is_some());
        cache.clear();
        assert_eq!((cache.bytes(), cache.largest()), (0, 0));
        assert!(cache.get(key(99)).is_none());
        let small = StartCache::new(cost - 1);
        small.get_or_make(key(1), make).unwrap();
        assert_eq!(small.bytes(), 0);
    }
}
