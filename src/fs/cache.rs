//! The cache of decoded blocks.
//!
//! Bounded in bytes; least recently used blocks go first. A block that several readers want at once is decoded once and
//! the others wait; different blocks decode in parallel. Errors go to everyone who waited and are not cached.

use std::collections::HashMap;
use std::sync::Arc;

use lru::LruCache;

use super::errno::{FsError, Result};
use super::sync::lock;
use crate::sync::atomic::{AtomicU64, Ordering};
use crate::sync::{Condvar, Mutex, PoisonError};

/// What a cached block costs beyond its bytes, roughly.
const ENTRY_OVERHEAD: u64 = 128;

/// Names immutable bytes: one opening of one segment file, and an offset in it that is never reused meanwhile.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Key {
    /// Number of the segment instance, from [`next_instance`].
    pub(super) instance: u64,
    /// Where the payload begins.
    pub(super) offset: u64,
}

/// A number that no other segment instance of this process has.
pub(super) fn next_instance() -> u64 {
    static NEXT: std::sync::atomic::AtomicU64 = std::sync::atomic::AtomicU64::new(1);
    NEXT.fetch_add(1, Ordering::Relaxed)
}

pub(super) type Block = Arc<Vec<u8>>;

struct Flight {
    outcome: Mutex<Option<Result<Block>>>,
    done: Condvar,
}

struct Inner {
    blocks: LruCache<Key, Block>,
    bytes: u64,
    flights: HashMap<Key, Arc<Flight>>,
}

impl Inner {
    /// Gives up what was not used for longest.
    fn shrink(&mut self, limit: u64) {
        while self.bytes > limit {
            let Some((_, old)) = self.blocks.pop_lru() else {
                return;
            };
            self.bytes -= old.len() as u64 + ENTRY_OVERHEAD;
        }
    }
}

/// See the module.
pub(super) struct BlockCache {
    inner: Mutex<Inner>,
    limit: AtomicU64,
    hits: AtomicU64,
    misses: AtomicU64,
}

/// What the cache has done so far.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct CacheStats {
    pub(super) hits: u64,
    pub(super) misses: u64,
    pub(super) bytes: u64,
}

impl BlockCache {
    pub(super) fn new(limit: u64) -> Self {
        let inner = Inner {
            blocks: LruCache::unbounded(),
            bytes: 0,
            flights: HashMap::new(),
        };
        let (hits, misses) = (AtomicU64::new(0), AtomicU64::new(0));
        BlockCache {
            inner: Mutex::new(inner),
            limit: AtomicU64::new(limit),
            hits,
            misses,
        }
    }

    /// The block `key`, from the cache or from `decode`, which is called without any lock held.
    pub(super) fn get_or_decode(
        &self,
        key: Key,
        decode: impl FnOnce() -> Result<Vec<u8>>,
    ) -> Result<Block> {
        let flight = {
            let mut inner = lock(&self.inner);
            if let Some(block) = inner.blocks.get(&key) {
                self.hits.fetch_add(1, Ordering::Relaxed);
                return Ok(Arc::clone(block));
            }
            if let Some(flight) = inner.flights.get(&key) {
                let flight = Arc::clone(flight);
                drop(inner);
                self.hits.fetch_add(1, Ordering::Relaxed);
                return flight.wait();
            }
            let flight = Arc::new(Flight {
                outcome: Mutex::new(None),
                done: Condvar::new(),
            });
            inner.flights.insert(key, Arc::clone(&flight));
            flight
        };
        self.misses.fetch_add(1, Ordering::Relaxed);
        let landing = Landing {
            cache: self,
            key,
            flight: &flight,
        };
        let outcome = decode().map(Arc::new);
        if let Ok(block) = &outcome {
            self.insert(key, Arc::clone(block));
        }
        *lock(&flight.outcome) = Some(outcome.clone());
        drop(landing);
        outcome
    }

    /// Whether the block `key` is there, or is being decoded.
    pub(super) fn has_or_decodes(&self, key: Key) -> bool {
        let inner = lock(&self.inner);
        inner.blocks.contains(&key) || inner.flights.contains_key(&key)
    }

    /// The block `key` if it is there, without counting as a use.
    pub(super) fn get(&self, key: Key) -> Option<Block> {
        lock(&self.inner).blocks.peek(&key).cloned()
    }

    /// Puts a block in that need not be decoded, because it was just encoded.
    pub(super) fn insert(&self, key: Key, block: Block) {
        let cost = block.len() as u64 + ENTRY_OVERHEAD;
        if cost > self.limit() {
            return;
        }
        let mut inner = lock(&self.inner);
        inner.bytes += cost;
        if let Some(old) = inner.blocks.put(key, block) {
            inner.bytes -= old.len() as u64 + ENTRY_OVERHEAD;
        }
        inner.shrink(self.limit());
    }

    /// Bytes that it holds at most.
    pub(super) fn limit(&self) -> u64 {
        self.limit.load(Ordering::Relaxed)
    }

    /// From now on it holds at most so many bytes.
    pub(super) fn set_limit(&self, limit: u64) {
        self.limit.store(limit, Ordering::Relaxed);
        lock(&self.inner).shrink(limit);
    }

    pub(super) fn stats(&self) -> CacheStats {
        CacheStats {
            hits: self.hits.load(Ordering::Relaxed),
            misses: self.misses.load(Ordering::Relaxed),
            bytes: lock(&self.inner).bytes,
        }
    }
}

impl Flight {
    fn wait(&self) -> Result<Block> {
        let mut outcome = lock(&self.outcome);
        loop {
            if let Some(outcome) = &*outcome {
                return outcome.clone();
            }
            outcome = self
                .done
                .wait(outcome)
                .unwrap_or_else(PoisonError::into_inner);
        }
    }
}

/// Ends a flight even if decoding panics, so that nobody waits for ever.
struct Landing<'a> {
    cache: &'a BlockCache,
    key: Key,
    flight: &'a Flight,
}

impl Drop for Landing<'_> {
    fn drop(&mut self) {
        lock(&self.cache.inner).flights.remove(&self.key);
        lock(&self.flight.outcome).get_or_insert(Err(FsError::Internal));
        self.flight.done.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Barrier;
    use std::time::Duration;

    fn key(offset: u64) -> Key {
        Key {
            instance: 1,
            offset,
        }
    }

    #[test]
    fn one_block_is_decoded_once_for_all_who_wait() {
        let (cache, calls, start) = (BlockCache::new(1 << 20), AtomicU64::new(0), Barrier::new(8));
        std::thread::scope(|s| {
            for _ in 0..8 {
                s.spawn(|| {
                    start.wait();
                    let block = cache.get_or_decode(key(0), || {
                        calls.fetch_add(1, Ordering::Relaxed);
                        std::thread::sleep(Duration::from_millis(50));
                        Ok(vec![7; 100])
                    });
                    assert_eq!(*block.unwrap(), vec![7; 100]);
                });
            }
        });
        assert_eq!(calls.into_inner(), 1);
        assert_eq!((cache.stats().hits, cache.stats().misses), (7, 1));
    }

    #[test]
    fn different_blocks_decode_at_the_same_time() {
        let (cache, both) = (BlockCache::new(1 << 20), Barrier::new(2));
        std::thread::scope(|s| {
            for offset in 0..2 {
                let (cache, both) = (&cache, &both);
                s.spawn(move || {
                    cache.get_or_decode(key(offset), || {
                        both.wait();
                        Ok(vec![])
                    })
                });
            }
        });
    }

    #[test]
    fn bytes_stay_within_the_limit_and_the_oldest_go() {
        let cache = BlockCache::new(10 * (1000 + ENTRY_OVERHEAD));
        for offset in 0..100 {
            cache
                .get_or_decode(key(offset), || Ok(vec![0; 1000]))
                .unwrap();
        }
        assert_eq!(cache.stats().bytes, 10 * (1000 + ENTRY_OVERHEAD));
        cache.get_or_decode(key(99), || panic!("cached")).unwrap();
        let misses = cache.stats().misses;
        cache.get_or_decode(key(0), || Ok(vec![0; 1000])).unwrap();
        assert_eq!(cache.stats().misses, misses + 1);
        cache
            .get_or_decode(key(1000), || Ok(vec![0; 1 << 20]))
            .unwrap();
        assert!(cache.stats().bytes <= 10 * (1000 + ENTRY_OVERHEAD));
        cache.set_limit(3000);
        assert_eq!(cache.stats().bytes, 2 * (1000 + ENTRY_OVERHEAD));
        cache.get_or_decode(key(0), || panic!("cached")).unwrap();
    }

    #[test]
    fn errors_and_panics_are_not_cached() {
        let cache = BlockCache::new(1 << 20);
        assert!(
            cache
                .get_or_decode(key(0), || Err(FsError::NotFound))
                .is_err()
        );
        let panicked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            cache.get_or_decode(key(0), || panic!("a bug in a codec"))
        }));
        assert!(panicked.is_err());
        assert_eq!(*cache.get_or_decode(key(0), || Ok(vec![1])).unwrap(), [1]);
    }
}
