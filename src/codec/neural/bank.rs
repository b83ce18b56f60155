//! A bank: sixteen contexts with their counters, what followed their histories, and the weights of what they say.
//!
//! A block has one, a wide block two: those of `contexts.rs`, and those of `wide.rs`.

use super::contexts::CONTEXTS;
use super::history::Histories;
use super::initial::InitialBank;
use super::inputs::Inputs;
use super::mixer::{Mix, Mixer};
use super::slots::{Sizes, Slots};

/// What a bank has learnt.
pub(super) struct Bank {
    pub(super) slots: Slots,
    pub(super) histories: Histories,
    pub(super) mixer: Mixer,
}

impl Bank {
    pub(super) fn new() -> Self {
        Bank {
            slots: Slots::new(),
            histories: Histories::new(),
            mixer: Mixer::new(),
        }
    }

    /// Forgets everything and prepares for `len` bytes, as one of so many `banks`, whose sums weigh `share` in the second layer.
    pub(super) fn reset(
        &mut self,
        initial: &InitialBank,
        sizes: &Sizes,
        len: usize,
        (share, banks): (i32, usize),
    ) {
        self.slots.reset(sizes, len);
        self.histories.reset(&initial.histories);
        self.mixer.reset(&initial.weights, share, banks);
    }

    /// Takes over what `other` learnt.
    pub(super) fn copy_from(&mut self, other: &Self) {
        self.slots.copy_from(&other.slots);
        self.histories.copy_from(&other.histories);
        self.mixer.copy_from(&other.mixer);
    }

    /// Bytes that it takes.
    pub(super) fn memory(&self) -> usize {
        self.slots.memory() + self.mixer.memory() + size_of_val(self.histories.cells())
    }
}

/// What a lane looked up in a bank for its byte.
#[derive(Clone)]
pub(super) struct Looked {
    pub(super) hashes: [u32; CONTEXTS],
    pub(super) buckets: [u32; CONTEXTS],
    pub(super) inputs: Inputs,
    pub(super) mix: Mix,
}

impl Looked {
    pub(super) fn new() -> Self {
        Looked {
            hashes: [0; CONTEXTS],
            buckets: [0; CONTEXTS],
            inputs: Inputs::new(),
            mix: Mix::new(),
        }
    }
}
