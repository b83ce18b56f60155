//! The locks, atomics and threads of what many threads share: those of the standard library.
//!
//! What takes them from here can be run under a scheduler that chooses every step: `tests/schedules` compiles the same
//! source files against a module of this name that has the scheduler's.

pub(crate) use std::sync::atomic;
pub(crate) use std::sync::{
    Condvar, Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard,
};
pub(crate) use std::thread;
