//! What the source files under test take for `crate::sync`: the scheduler's primitives, each a point where it may switch.

pub(crate) use shuttle::sync::{
    Condvar, Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard, atomic,
};
pub(crate) use shuttle::thread;
