//! The cache of start states: a state is made once for all who wait, and a failure is everyone's own.

mod error {
    pub use crate::store::StoreError;
}
#[path = "../../../src/store/start_cache.rs"]
#[allow(dead_code)]
mod states;

use std::sync::Arc;

use crate::codec::Start;
use shuttle::sync::atomic::{AtomicU64, Ordering};
use shuttle::thread;

use crate::run::{all, many};
use error::StoreError;
use states::{Key, StartCache};

schedules! {
    all two_readers_share_one_state,
    many who_waited_for_a_failure_tries_again,
    many readers_and_clearing_agree_on_the_bytes,
}

fn key(number: u16) -> Key {
    Key::Segment { table: 1, number }
}

fn state() -> Start {
    Start::then(None, b"seen", None)
}

fn two_readers_share_one_state() {
    let shared = Arc::new((StartCache::default(), AtomicU64::new(0)));
    let read = {
        let shared = Arc::clone(&shared);
        move || {
            let (cache, calls) = &*shared;
            let made = cache.get_or_make(key(1), || {
                calls.fetch_add(1, Ordering::SeqCst);
                Ok(state())
            });
            made.unwrap()
        }
    };
    let other = thread::spawn(read.clone());
    let mine = read();
    assert!(Arc::ptr_eq(&mine, &other.join().unwrap()), "one for both");
    assert_eq!(shared.1.load(Ordering::SeqCst), 1, "made once");
}

fn who_waited_for_a_failure_tries_again() {
    let shared = Arc::new((StartCache::default(), AtomicU64::new(0)));
    let readers: Vec<_> = (0..3)
        .map(|_| {
            let shared = Arc::clone(&shared);
            thread::spawn(move || {
                let (cache, calls) = &*shared;
                let made =
                    cache.get_or_make(key(1), || match calls.fetch_add(1, Ordering::SeqCst) {
                        0 => Err(StoreError::Cancelled),
                        _ => Ok(state()),
                    });
                made.is_err()
            })
        })
        .collect();
    let failed = readers.into_iter().map(|r| r.join().unwrap());
    assert_eq!(failed.filter(|failed| *failed).count(), 1, "its own alone");
    assert_eq!(shared.1.load(Ordering::SeqCst), 2);
}

fn readers_and_clearing_agree_on_the_bytes() {
    let cost = state().memory();
    let cache = Arc::new(StartCache::new(2 * cost));
    let readers: Vec<_> = (0..3u16)
        .map(|reader| {
            let cache = Arc::clone(&cache);
            thread::spawn(move || {
                for step in 0..3 {
                    if reader == 2 && step == 1 {
                        cache.clear();
                    }
                    cache
                        .get_or_make(key((reader + step) % 3), || Ok(state()))
                        .unwrap();
                    assert!(cache.bytes() <= 2 * cost);
                }
            })
        })
        .collect();
    for reader in readers {
        reader.join().unwrap();
    }
    let held = (0..3).filter(|&n| cache.get(key(n)).is_some()).count();
    assert_eq!(
        cache.bytes(),
        held * cost,
        "what is counted is what is held"
    );
}
