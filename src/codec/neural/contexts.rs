//! The contexts: which parts of the past a counter table is keyed by. Changing one changes the format.

use super::lane::{Lane, NONE};
use super::plan::{Kind, Plan};

/// Counter tables.
pub(super) const CONTEXTS: usize = 32;

/// Bytes that small selectors use, besides the hashes.
#[derive(Clone, Copy, Default)]
pub(super) struct Near {
    /// Byte that the alignment pointer stands at (0: none) and the pointer's state.
    pub(super) aligned: u8,
    pub(super) trust: u8,
    /// Byte above (one record up, or the same place in the field above).
    pub(super) above: u8,
    /// Column in the record, or field.
    pub(super) column: u32,
    pub(super) previous: u8,
}

/// Hash of a context's value.
#[inline(always)]
fn hash(c: usize, value: u64) -> u32 {
    let x = value
        .wrapping_add(c as u64 + 1)
        .wrapping_mul(0x9e37_79b9_7f4a_7c15);
    ((x ^ x >> 29).wrapping_mul(0xd6e8_feb8_6659_fd93) >> 32) as u32
}

/// Fills `out` with the hashes of lane `lane`'s contexts before its byte `t`.
#[inline(always)]
pub(super) fn contexts(
    lane: &Lane,
    block: &[u8],
    t: usize,
    trail: &[u32],
    plan: &Plan,
    out: &mut [u32; CONTEXTS],
) -> Near {
    let pos = lane.start + t;
    let past = lane.past;
    let p = |i: u32| (past >> (8 * (i - 1))) & 0xff;
    let low = |n: u32| past & ((1u64 << (8 * n)) - 1);
    let byte = |back: usize| u64::from(lane.byte(block, t, back));
    let p1 = p(1);

    // The alignment pointer: byte there, before there, and at its own pointer.
    let (mut a, mut aw, mut aa, mut ahead, mut trust) = (0u64, 0u64, 0u64, 0u64, 0u64);
    if lane.aligned != NONE {
        let q = lane.aligned as usize;
        a = u64::from(block[q]);
        aw = if q > 0 { u64::from(block[q - 1]) } else { 0 };
        let up = trail[q];
        aa = if up != NONE {
            u64::from(block[up as usize])
        } else {
            0
        };
        trust = 1 + u64::from(lane.misses.min(3));
        let known = (block.len() - q).min(4);
        for j in 0..known {
            ahead |= if safe_ahead(lane, q, j, t) {
                u64::from(block[q + j]) << (8 * j)
            } else {
                0
            };
        }
    }
    let ok = u64::from(trust > 0);
    let delta = |x: u64, y: u64| x.wrapping_sub(y) & 0xff;
    let rise = delta(p1, aw);

    let mut v = [0u64; CONTEXTS];
    v[0] = 0;
    v[1] = p1;
    v[2] = low(2);
    v[3] = low(3);
    v[4] = low(4);
    v[5] = low(6);
    v[6] = u64::from(lane.word) | p1 << 32;
    v[7] = p(2) | p(3) << 8;
    v[8] = a | trust << 8;
    v[9] = a | p1 << 8 | trust << 16;
    v[10] = a | aa << 8 | ok << 16;
    v[11] = (p1 + a).wrapping_sub(aw) & 0xff | a << 8 | ok << 16;
    v[12] = a | rise << 8 | p(2) << 16 | ok << 24;
    v[13] = delta(2 * a, aa) | rise << 8 | ok << 16;
    v[14] = ahead | p1 << 32;
    v[15] = a | p1 << 8 | p(2) << 16;

    let mut near = Near {
        aligned: a as u8,
        trust: trust as u8,
        above: 0,
        column: 0,
        previous: p1 as u8,
    };
    match plan.kind {
        Kind::Binary => {
            let r = plan.stride;
            let col = if r > 0 { (pos % r) as u64 } else { 0 };
            let far = usize::MAX;
            let n = byte(if r > 0 { r } else { far });
            let nn = byte(if r > 0 { 2 * r } else { far });
            let ne = if r > 1 { byte(r - 1) } else { 0 };
            let nw = if r > 0 { byte(r + 1) } else { 0 };
            let mut above = 0;
            if r > 3 {
                for j in 0..4 {
                    above |= byte(r - j) << (8 * j);
                }
            }
            v[16] = col | n << 10;
            v[17] = col | p1 << 10;
            v[18] = col | n << 10 | p1 << 18;
            v[19] = col | n << 10 | nn << 18;
            v[20] = col | delta(2 * n, nn) << 10;
            v[21] = col | ((p1 + n).wrapping_sub(nw) & 0xff) << 10 | n << 18;
            v[22] = p(2);
            v[23] = n | p1 << 8 | p(2) << 16 | col << 24;
            v[24] = n | ne << 8 | p1 << 16;
            v[25] = col;
            v[26] = delta(n, nn) | p1 << 8 | delta(p1, nw) << 16 | col << 24;
            v[27] = above | col << 32;
            v[28] = above & 0xff_ffff | p1 << 24 | col << 32;
            v[29] = col | p1 << 10 | p(2) << 18 | p(3) << 26 | n << 34;
            v[30] = ahead & 0xffff | n << 16 | col << 24 | ok << 40;
            v[31] = above & 0xffff | p1 << 16 | p(2) << 24 | col << 32;
            near.above = n as u8;
            near.column = col as u32;
        }
        Kind::Text => {
            let field = lane.field as u64;
            let (mut f, mut f1, mut fw) = (0u64, 0u64, 0u64);
            if let Some(q) = lane.field_above(pos) {
                f = u64::from(block[q]);
                f1 = if q + 1 < pos {
                    u64::from(block[q + 1])
                } else {
                    0
                };
                fw = if q > lane.start {
                    u64::from(block[q - 1])
                } else {
                    0
                };
            }
            let column = pos - lane.line;
            let n_at = lane.line_above + column;
            let n = if n_at < lane.line {
                u64::from(block[n_at])
            } else {
                0
            };
            let word = u64::from(lane.word);
            let head = u64::from(lane.line_head);
            let within = (pos - lane.field_start).min(31) as u64;
            v[16] = word | u64::from(lane.word_before) << 32;
            v[17] = low(5);
            v[18] = f | p1 << 8;
            v[19] = f | f1 << 8 | field << 16;
            v[20] = field | word << 8;
            v[21] = field | within << 8 | p1 << 16;
            v[22] = column.min(255) as u64 | n << 8;
            v[23] = n | p1 << 8;
            v[24] = p(2) | p(3) << 8 | p(4) << 16;
            v[25] = field | f << 8 | low(2) << 16;
            v[26] = f | delta(p1, fw) << 8 | within << 16 | field << 24;
            v[27] = (head << 32 | word).wrapping_add(field << 20);
            v[28] = (u64::from(lane.field_before) << 32 | word).wrapping_add(field);
            v[29] = f | f1 << 8 | p1 << 16 | field << 24 | word << 32;
            v[30] = past;
            v[31] = n | f << 8 | a << 16 | p1 << 24;
            near.above = f as u8;
            near.column = field as u32;
        }
    }
    for (c, (out, v)) in out.iter_mut().zip(v).enumerate() {
        *out = hash(c, v);
    }
    near
}

/// Whether byte `q + j` is known before step `t`: a pointer's lane offset is below `t`, so `j` more may not be.
#[inline(always)]
fn safe_ahead(lane: &Lane, q: usize, j: usize, t: usize) -> bool {
    j == 0 || lane_offset(lane, q) + j < t
}

#[inline(always)]
fn lane_offset(lane: &Lane, q: usize) -> usize {
    q % lane.whole.max(1)
}
