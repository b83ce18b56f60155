//! What the contexts of both banks look at away from the place itself: the alignment pointer, and the field above.

use super::lane::{Finder, Lane, NONE};

/// Around the alignment pointer: its place, the byte there, the one before, and the one at that place's own pointer.
pub(super) struct Pointer {
    pub(super) at: usize,
    pub(super) byte: u64,
    pub(super) before: u64,
    pub(super) up: u64,
}

/// None without a pointer.
#[inline(always)]
pub(super) fn pointer(lane: &Lane, block: &[u8], finder: &Finder) -> Option<Pointer> {
    if lane.aligned == NONE {
        return None;
    }
    let at = lane.aligned as usize;
    let up = finder.trail[at];
    Some(Pointer {
        at,
        byte: u64::from(block[at]),
        before: if at > 0 { u64::from(block[at - 1]) } else { 0 },
        up: if up != NONE {
            u64::from(block[up as usize])
        } else {
            0
        },
    })
}

/// Around the same place in the same field of the line above: the byte there, and its neighbours.
pub(super) struct Above {
    pub(super) at: usize,
    pub(super) byte: u64,
    pub(super) after: u64,
    pub(super) before: u64,
}

/// None without such a field.
#[inline(always)]
pub(super) fn field_above(lane: &Lane, block: &[u8], pos: usize) -> Option<Above> {
    let at = lane.field_above(pos)?;
    Some(Above {
        at,
        byte: u64::from(block[at]),
        after: if at + 1 < pos {
            u64::from(block[at + 1])
        } else {
            0
        },
        before: if at > lane.begin {
            u64::from(block[at - 1])
        } else {
            0
        },
    })
}
