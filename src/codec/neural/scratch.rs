//! This thread's predictors: kept for their allocation, and for what they coded last, which the next start state may be made of.

use std::cell::RefCell;
use std::ops::{Deref, DerefMut};

use super::plan::Plan;
use super::predictor::Predictor;
use super::slots;

/// Predictors that are kept, at most: one that has coded what may be wanted, and one to try other ways with. Who only decodes has one.
const KEPT: usize = 2;

thread_local! {
    /// The one used last comes last.
    static FREE: RefCell<Vec<Scratch>> = const { RefCell::new(Vec::new()) };
}

/// A predictor and what it coded last.
#[derive(Default)]
pub(super) struct Scratch {
    pub(super) predictor: Predictor,
    pub(super) last: Option<Last>,
}

/// What a predictor has seen since it was reset.
#[derive(PartialEq, Eq)]
pub(super) struct Last {
    /// The start state that it took over.
    pub(super) start: Option<u64>,
    pub(super) plan: Plan,
    pub(super) data: Vec<u8>,
}

/// A predictor of this thread. It goes back when this is dropped; until then others are used.
pub(super) struct Lent(Option<Scratch>);

impl Lent {
    /// The predictor that was used longest ago, or a new one.
    pub(super) fn take() -> Self {
        let oldest = FREE.with_borrow_mut(|free| (!free.is_empty()).then(|| free.remove(0)));
        Lent(Some(oldest.unwrap_or_default()))
    }
}

impl Deref for Lent {
    type Target = Scratch;

    fn deref(&self) -> &Scratch {
        self.0.as_ref().expect("there until it is dropped")
    }
}

impl DerefMut for Lent {
    fn deref_mut(&mut self) -> &mut Scratch {
        self.0.as_mut().expect("there until it is dropped")
    }
}

impl Drop for Lent {
    fn drop(&mut self) {
        let Some(scratch) = self.0.take() else {
            return;
        };
        // Where the thread is ending there is nothing to keep it for. What is dropped may itself use the thread's storage.
        let one_more = FREE.try_with(|free| {
            let mut free = free.borrow_mut();
            free.push(scratch);
            (free.len() > KEPT).then(|| free.remove(0))
        });
        drop(one_more);
    }
}

/// The free predictor, if there is one, that has just coded `last`: it is this thread's no more.
pub(super) fn take_after(last: impl Fn(&Last) -> bool) -> Option<Predictor> {
    let found = FREE.with_borrow_mut(|free| {
        let at = free
            .iter()
            .position(|scratch| scratch.last.as_ref().is_some_and(&last))?;
        Some(free.remove(at))
    });
    if found.is_some() {
        slots::want_spare();
    }
    found.map(|scratch| scratch.predictor)
}

/// Bytes of the predictors that this thread keeps between blocks, and of the blocks that they remember, with those of a spare table.
#[must_use]
pub fn thread_memory() -> usize {
    let size =
        |s: &Scratch| s.predictor.memory() + s.last.as_ref().map_or(0, |last| last.data.capacity());
    let kept: usize = FREE.with_borrow(|free| free.iter().map(size).sum());
    kept + slots::spare_memory()
}

/// Gives back the memory that this thread keeps between blocks.
pub fn forget_thread_memory() {
    slots::forget_spare();
    // Dropped outside, as their tables use the thread's storage.
    drop(FREE.take());
}
