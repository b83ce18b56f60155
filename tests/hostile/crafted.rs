//! Sizes, offsets, counts, strides, weights and chains of key blocks that nobody would write by accident.

mod models;
mod payloads;
mod segments;
mod text;

use crate::assert_cheap;
use crate::meter::measure;

/// `work` must fail, cheaply; answers what it says.
fn refused<T, E: std::fmt::Display>(what: &str, work: impl FnOnce() -> Result<T, E>) -> String {
    let (done, cost) = measure(|| work().map(drop));
    let Err(error) = done else {
        panic!("{what}: it was accepted");
    };
    println!("{what}: {error} ({} KiB, {:?})", cost.peak >> 10, cost.time);
    assert_cheap(what, cost);
    error.to_string()
}

/// `work` may succeed or fail, but cheaply.
fn bounded<T>(what: &str, work: impl FnOnce() -> T) -> T {
    let (done, cost) = measure(work);
    println!("{what}: {} KiB, {:?}", cost.peak >> 10, cost.time);
    assert_cheap(what, cost);
    done
}
