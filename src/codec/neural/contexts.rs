//! The contexts: which parts of the past a counter table is keyed by. Changing one changes the format.

use super::around;
use super::lane::{Finder, Lane, NONE};
use super::plan::{Kind, Plan};
use super::slots::Sizes;

/// Counter tables.
pub(super) const CONTEXTS: usize = 16;

/// Bytes from the alignment pointer on that one context of text looks at, as far as they are known.
const AHEAD: usize = 4;

/// Whether what [`contexts`] finds for lane `lane` stays the same while other lanes go on.
#[inline(always)]
pub(super) fn are_settled(lane: &Lane, finder: &Finder, kind: Kind) -> bool {
    let q = lane.aligned as usize;
    kind == Kind::Binary || lane.aligned == NONE || finder.known(q) >= q + AHEAD
}

/// Sizes of the contexts' regions, for records and for text.
pub(super) fn sizes(kind: Kind) -> Sizes {
    match kind {
        Kind::Binary => [
            14, 15, 15, 14, 14, 14, 14, 14, 14, 14, 14, 14, 15, 11, 15, 12,
        ],
        Kind::Text => [
            11, 11, 14, 14, 15, 11, 15, 15, 14, 14, 14, 14, 14, 14, 15, 15,
        ],
    }
}

/// Bytes that small selectors use, besides the hashes.
#[derive(Clone, Copy, Default)]
pub(super) struct Near {
    /// State of the alignment pointer; 0: none.
    pub(super) trust: u8,
    /// Byte above (one record up, or the same place in the field above).
    pub(super) above: u8,
    /// Column in the record, or field.
    pub(super) column: u32,
    pub(super) previous: u8,
}

/// `x - y` modulo 256.
#[inline(always)]
pub(super) fn delta(x: u64, y: u64) -> u64 {
    x.wrapping_sub(y) & 0xff
}

/// Hash of a context's value.
#[inline(always)]
pub(super) fn hash(c: usize, value: u64) -> u32 {
    let x = value
        .wrapping_add(c as u64 + 1)
        .wrapping_mul(0x9e37_79b9_7f4a_7c15);
    ((x ^ x >> 29).wrapping_mul(0xd6e8_feb8_6659_fd93) >> 32) as u32
}

/// Fills `out` with the hashes of lane `lane`'s contexts before its next byte.
#[inline(always)]
pub(super) fn contexts(
    lane: &Lane,
    block: &[u8],
    finder: &Finder,
    plan: &Plan,
    out: &mut [u32; CONTEXTS],
) -> Near {
    let pos = lane.start + lane.t;
    let past = lane.past;
    let p = |i: u32| (past >> (8 * (i - 1))) & 0xff;
    let low = |n: u32| past & ((1u64 << (8 * n)) - 1);
    let byte = |back: usize| u64::from(lane.byte(block, pos, back));
    let p1 = p(1);

    let (mut a, mut aw, mut aa, mut ahead, mut trust) = (0u64, 0u64, 0u64, 0u64, 0u64);
    if let Some(pointer) = around::pointer(lane, block, finder) {
        (a, aw, aa) = (pointer.byte, pointer.before, pointer.up);
        trust = 1 + u64::from(lane.misses.min(3));
        let known = (finder.known(pointer.at) - pointer.at).min(AHEAD);
        for j in 0..known {
            ahead |= u64::from(block[pointer.at + j]) << (8 * j);
        }
    }
    let ok = u64::from(trust > 0);

    let mut near = Near {
        trust: trust as u8,
        above: 0,
        column: 0,
        previous: p1 as u8,
    };
    let v: [u64; CONTEXTS] = match plan.kind {
        Kind::Binary => {
            let r = plan.stride;
            let col = if r > 0 {
                ((pos + plan.phase) % r) as u64
            } else {
                0
            };
            // Ten bits of the column below the others, the eleventh far above them.
            let key = col & 1023 | col >> 10 << 48;
            let far = usize::MAX;
            let n = byte(if r > 0 { r } else { far });
            let nn = byte(if r > 0 { 2 * r } else { far });
            let nnn = byte(if r > 0 { 3 * r } else { far });
            let ne = if r > 1 { byte(r - 1) } else { 0 };
            let nw = if r > 0 { byte(r + 1) } else { 0 };
            let nww = byte(if r > 0 { r + 2 } else { far });
            near.above = n as u8;
            near.column = col as u32;
            [
                low(2),
                low(4),
                n | delta(p1, nw) << 8 | delta(p(2), nww) << 16,
                if r > 0 { n | nn << 8 } else { p(2) | p(3) << 8 },
                p(3) | p(4) << 8,
                a | p1 << 8 | trust << 16,
                a | aa << 8 | ok << 16,
                (p1 + a).wrapping_sub(aw) & 0xff | a << 8 | ok << 16,
                p(4) | n << 8,
                key | delta(3 * n + nnn, 3 * nn) << 10,
                key | p1 << 10,
                key | delta(2 * n, nn) << 10,
                key | ((p1 + n).wrapping_sub(nw) & 0xff) << 10 | n << 18,
                p(2),
                n | ne << 8 | p1 << 16,
                key,
            ]
        }
        Kind::Text => {
            let field = lane.field as u64;
            let (mut f, mut f1, mut fw) = (0u64, 0u64, 0u64);
            if let Some(above) = around::field_above(lane, block, pos) {
                (f, f1, fw) = (above.byte, above.after, above.before);
            }
            let column = pos - lane.line;
            let n_at = lane.line_above + column;
            let n = if n_at < lane.line {
                u64::from(block[n_at])
            } else {
                0
            };
            let word = u64::from(lane.word);
            let within = (pos - lane.field_start).min(31) as u64;
            near.above = f as u8;
            near.column = field as u32;
            [
                0,
                p1,
                low(2),
                low(3),
                u64::from(lane.word) | p1 << 32,
                a | trust << 8,
                ahead | p1 << 32,
                word | u64::from(lane.word_before) << 32,
                f | f1 << 8 | field << 16,
                field | within << 8 | p1 << 16,
                column.min(255) as u64 | n << 8,
                p(2) | p(3) << 8 | p(4) << 16,
                f | delta(p1, fw) << 8 | within << 16 | field << 24,
                (u64::from(lane.field_before) << 32 | word).wrapping_add(field),
                f | f1 << 8 | p1 << 16 | field << 24 | word << 32,
                past,
            ]
        }
    };
    for c in 0..CONTEXTS {
        out[c] = hash(c, v[c]);
    }
    near
}
