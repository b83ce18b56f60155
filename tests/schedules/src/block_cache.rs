//! The cache of decoded blocks: a block is decoded once for all who wait, nobody waits for ever, and the bound holds.

#[path = "../../../src/fs/cache.rs"]
#[allow(dead_code)]
mod cache;
#[path = "../../../src/fs/errno.rs"]
#[allow(dead_code)]
mod errno;
#[path = "../../../src/fs/sync.rs"]
#[allow(dead_code)]
mod sync;

use std::sync::Arc;

use shuttle::sync::atomic::{AtomicU64, Ordering};
use shuttle::thread;

use crate::run::{all, many};
use cache::{BlockCache, Key};
use errno::FsError;

schedules! {
    all two_readers_share_one_decoding,
    many a_failure_is_told_to_all_who_wait_and_not_kept,
    many many_readers_stay_within_the_bound,
}

fn key(offset: u64) -> Key {
    Key {
        instance: 1,
        offset,
    }
}

fn two_readers_share_one_decoding() {
    let shared = Arc::new((BlockCache::new(1 << 20), AtomicU64::new(0)));
    let read = {
        let shared = Arc::clone(&shared);
        move || {
            let (cache, calls) = &*shared;
            let block = cache.get_or_decode(key(0), || {
                calls.fetch_add(1, Ordering::SeqCst);
                Ok(vec![7; 100])
            });
            assert_eq!(*block.unwrap(), [7; 100]);
        }
    };
    let other = thread::spawn(read.clone());
    read();
    other.join().unwrap();
    let (cache, calls) = &*shared;
    assert_eq!(calls.load(Ordering::SeqCst), 1, "decoded once");
    assert_eq!((cache.stats().hits, cache.stats().misses), (1, 1));
}

fn a_failure_is_told_to_all_who_wait_and_not_kept() {
    let shared = Arc::new((BlockCache::new(1 << 20), AtomicU64::new(0)));
    let readers: Vec<_> = (0..3)
        .map(|_| {
            let shared = Arc::clone(&shared);
            thread::spawn(move || {
                let (cache, calls) = &*shared;
                let first = cache.get_or_decode(key(0), || {
                    // Only the first attempt fails.
                    match calls.fetch_add(1, Ordering::SeqCst) {
                        0 => Err(FsError::NotFound),
                        _ => Ok(vec![1]),
                    }
                });
                match first {
                    Ok(block) => assert_eq!(*block, [1]),
                    Err(error) => assert!(matches!(error, FsError::NotFound)),
                }
                // Right after a failure another attempt may still be told of the same one.
                match cache.get_or_decode(key(0), || Ok(vec![1])) {
                    Ok(block) => assert_eq!(*block, [1]),
                    Err(error) => assert!(matches!(error, FsError::NotFound)),
                }
            })
        })
        .collect();
    for reader in readers {
        reader.join().unwrap();
    }
    let calls = shared.1.load(Ordering::SeqCst);
    let end = shared.0.get_or_decode(key(0), || Ok(vec![1])).unwrap();
    assert_eq!(*end, [1], "after {calls} attempts");
}

fn many_readers_stay_within_the_bound() {
    const LIMIT: u64 = 2 * (1000 + 128);
    let cache = Arc::new(BlockCache::new(LIMIT));
    let readers: Vec<_> = (0..3u64)
        .map(|reader| {
            let cache = Arc::clone(&cache);
            thread::spawn(move || {
                for step in 0..4 {
                    let n = (reader + step) % 3;
                    if step == 3 {
                        cache.insert(key(n), Arc::new(vec![n as u8; 1000]));
                    }
                    let block = cache.get_or_decode(key(n), || Ok(vec![n as u8; 1000]));
                    assert_eq!(*block.unwrap(), vec![n as u8; 1000]);
                    assert!(cache.stats().bytes <= LIMIT);
                }
            })
        })
        .collect();
    for reader in readers {
        reader.join().unwrap();
    }
    let stats = cache.stats();
    assert_eq!(stats.hits + stats.misses, 12);
    assert_eq!(stats.bytes, LIMIT, "what is counted is what is held");
}
