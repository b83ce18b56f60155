//! How many may do something at a time.

use super::sync::lock;
use crate::sync::{Condvar, Mutex, PoisonError};

/// Leaves to do something, so many at a time.
pub(super) struct Permits {
    free: Mutex<usize>,
    wake: Condvar,
}

/// One leave; it goes back when this is dropped.
pub(super) struct Permit<'a>(&'a Permits);

impl Permits {
    pub(super) fn new(free: usize) -> Permits {
        Permits {
            free: Mutex::new(free.max(1)),
            wake: Condvar::new(),
        }
    }

    /// Waits for one.
    pub(super) fn take(&self) -> Permit<'_> {
        let mut free = lock(&self.free);
        while *free == 0 {
            free = self.wake.wait(free).unwrap_or_else(PoisonError::into_inner);
        }
        *free -= 1;
        Permit(self)
    }
}

impl Drop for Permit<'_> {
    fn drop(&mut self) {
        *lock(&self.0.free) += 1;
        self.0.wake.notify_one();
    }
}
