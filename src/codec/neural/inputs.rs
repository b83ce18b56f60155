//! From slots to mixer inputs and back, for all contexts at once, in passes that compile to vector code.
//!
//! Each context gives two inputs: its counter's log odds, weighed by how often it was seen, and those of what followed
//! its bit history in other contexts of its kind. A context that was never seen gives zeros.

use super::contexts::CONTEXTS;
use super::history::{HISTORIES, Histories, history};
use super::kernels::Kernel;
use super::mixer::INPUTS;
use super::slots;
use super::tables::odds;

/// One bit's slots and what was looked up for them.
#[derive(Clone)]
pub(super) struct Inputs {
    /// The slots, as read; after [`learn`], as they must be written back.
    pub(super) slots: [u32; CONTEXTS],
    histories: [u32; CONTEXTS],
    cells: [u32; CONTEXTS],
}

impl Inputs {
    pub(super) fn new() -> Self {
        Inputs {
            slots: [0; CONTEXTS],
            histories: [0; CONTEXTS],
            cells: [0; CONTEXTS],
        }
    }
}

/// Looks up what followed the histories of the slots.
#[inline(always)]
pub(super) fn look_up<K: Kernel>(k: K, i: &mut Inputs, histories: &Histories) {
    for c in 0..CONTEXTS {
        i.histories[c] = (c * HISTORIES) as u32 + history(i.slots[c]);
    }
    i.cells = k.gather(histories.cells(), &i.histories);
}

/// Fills the first `3 * CONTEXTS` mixer inputs and returns how many contexts were seen before.
#[inline(always)]
pub(super) fn fill(i: &Inputs, x: &mut [i16; INPUTS]) -> u32 {
    let mut known = 0;
    for c in 0..CONTEXTS {
        let s = i.slots[c];
        let n = (s & 0x7f) as i32;
        let conf = n.min(30);
        let seen = -i32::from(n > 0);
        known += seen & 1;
        let p = (s >> 16) as i32;
        x[c] = ((odds(p.max(1)) * (102 + conf * 5)) >> 8 & seen) as i16;
        x[CONTEXTS + c] = (odds(((i.cells[c] >> 16) as i32).max(1)) & seen) as i16;
        x[2 * CONTEXTS + c] = (((p - 32768) * conf) >> 10 & seen) as i16;
    }
    known as u32
}

/// Learns bit `y`: updates the histories' cells, and the slots in `i`.
#[inline(always)]
pub(super) fn learn<K: Kernel>(k: K, i: &mut Inputs, histories: &mut Histories, y: u32) {
    let rates = k.rates(&slots::RATE, &i.slots);
    for c in 0..CONTEXTS {
        i.slots[c] = slots::updated(i.slots[c], rates[c], y);
    }
    let rates = k.rates(&slots::RATE, &i.cells);
    for c in 0..CONTEXTS {
        i.cells[c] = super::history::updated(i.cells[c], y, 127, rates[c]);
    }
    for c in 0..CONTEXTS {
        histories.set(i.histories[c] as usize, i.cells[c]);
    }
}
