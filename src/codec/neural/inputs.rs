//! From slots to mixer inputs and back, for all contexts at once, in passes that compile to vector code.
//!
//! Each context gives two inputs: its counter's log odds, weighed by how often it was seen, and those of what followed
//! its bit history in other contexts of its kind. A context that was never seen gives zeros.

use super::contexts::CONTEXTS;
use super::history::{Histories, history};
use super::mixer::INPUTS;
use super::slots;
use super::tables::STRETCH;

/// One bit's slots and what was looked up for them.
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

/// Fills the first `2 * CONTEXTS` mixer inputs and returns how many contexts were seen before.
#[inline(always)]
pub(super) fn prepare(i: &mut Inputs, histories: &Histories, x: &mut [i16; INPUTS]) -> u32 {
    let mut direct = [0i32; CONTEXTS];
    let mut indirect = [0i32; CONTEXTS];
    for c in 0..CONTEXTS {
        i.histories[c] = history(i.slots[c]) as u32;
    }
    for c in 0..CONTEXTS {
        i.cells[c] = histories.cell(c, i.histories[c] as usize);
        direct[c] = i32::from(STRETCH[(i.slots[c] >> 20) as usize]);
    }
    for c in 0..CONTEXTS {
        indirect[c] = i32::from(STRETCH[(i.cells[c] >> 20) as usize]);
    }
    let mut known = 0;
    let (x0, x1) = x.split_at_mut(CONTEXTS);
    for c in 0..CONTEXTS {
        let s = i.slots[c];
        let n = (s & 0x7f) as i32;
        let conf = n.min(30);
        let seen = -i32::from(n > 0);
        known += seen & 1;
        x0[c] = ((direct[c] * (102 + conf * 5)) >> 8 & seen) as i16;
        x1[c] = (indirect[c] & seen) as i16;
    }
    known as u32
}

/// Learns bit `y`: updates the histories' cells, and the slots in `i`.
#[inline(always)]
pub(super) fn learn(i: &mut Inputs, histories: &mut Histories, y: u32) {
    let mut rates = [0u32; CONTEXTS];
    for c in 0..CONTEXTS {
        rates[c] = u32::from(slots::RATE[(i.slots[c] & 0x7f) as usize]);
    }
    for c in 0..CONTEXTS {
        i.slots[c] = slots::updated(i.slots[c], rates[c], y);
    }
    for c in 0..CONTEXTS {
        rates[c] = u32::from(slots::RATE[(i.cells[c] & 0x7f) as usize]);
    }
    for c in 0..CONTEXTS {
        i.cells[c] = super::history::updated(i.cells[c], y, 127, rates[c]);
    }
    for c in 0..CONTEXTS {
        histories.set(c, i.histories[c] as usize, i.cells[c]);
    }
}
