//! The second bank of contexts, which wide blocks have: mostly what followed before where the past was alike. Changing one changes the format.
//!
//! A wide block has one lane, so every byte before its place is known.

use super::around;
use super::contexts::{CONTEXTS, delta, hash};
use super::lane::{Finder, Lane};
use super::plan::{Kind, Plan};
use super::slots::Sizes;

/// Sizes of the contexts' regions. Larger ones pay (2^14: 0.3 %), but two predictors have to find room in 64 MiB.
pub(super) const SIZES: Sizes = [12; CONTEXTS];
/// Entries of a table that is looked up by a hash.
const HASHED: usize = 1 << 16;
/// Bytes of a field that are compared with those of the field above.
const COMPARED: usize = 12;

/// What selects the second bank's weights, beside the bits of the byte and how many contexts are known; each below 256.
pub(super) type Selectors = [u32; 4];

/// The last four bytes, newest lowest, that followed one byte, two, three, and a place: a column and the byte above, or a word's letters.
pub(super) struct Followers {
    one: Vec<u32>,
    two: Vec<u32>,
    three: Vec<u32>,
    place: Vec<u32>,
}

impl Followers {
    pub(super) fn new() -> Self {
        Followers {
            one: Vec::new(),
            two: Vec::new(),
            three: Vec::new(),
            place: Vec::new(),
        }
    }

    fn tables(&self) -> [&Vec<u32>; 4] {
        [&self.one, &self.two, &self.three, &self.place]
    }

    fn tables_mut(&mut self) -> [&mut Vec<u32>; 4] {
        [
            &mut self.one,
            &mut self.two,
            &mut self.three,
            &mut self.place,
        ]
    }

    pub(super) fn reset(&mut self) {
        for (table, len) in (self.tables_mut())
            .into_iter()
            .zip([256, 1 << 16, HASHED, HASHED])
        {
            table.clear();
            table.resize(len, 0);
        }
    }

    /// Gives back its memory: the block is not wide.
    pub(super) fn clear(&mut self) {
        *self = Followers::new();
    }

    pub(super) fn copy_from(&mut self, other: &Self) {
        for (table, from) in self.tables_mut().into_iter().zip(other.tables()) {
            table.clone_from(from);
        }
    }

    /// Bytes that it takes.
    pub(super) fn memory(&self) -> usize {
        self.tables().iter().map(|table| 4 * table.capacity()).sum()
    }

    /// The lane's next byte is `y`.
    #[inline(always)]
    pub(super) fn learn(&mut self, lane: &Lane, block: &[u8], plan: &Plan, y: u8) {
        let past = lane.past;
        for entry in [
            &mut self.one[past as usize & 0xff],
            &mut self.two[past as usize & 0xffff],
            &mut self.three[of_three(past)],
            &mut self.place[of_place(lane, block, plan)],
        ] {
            *entry = *entry << 8 | u32::from(y);
        }
    }
}

/// The entry of the last three bytes.
#[inline(always)]
fn of_three(past: u64) -> usize {
    hashed(past as u32 & 0xff_ffff)
}

/// The entry of the place where the next byte lies.
#[inline(always)]
fn of_place(lane: &Lane, block: &[u8], plan: &Plan) -> usize {
    let pos = lane.start + lane.t;
    hashed(match plan.kind {
        Kind::Binary if plan.stride == 0 => lane.past as u32 >> 8 & 0xffff,
        Kind::Binary => {
            (plan.place(pos) as u32) << 8 | u32::from(lane.byte(block, pos, plan.stride))
        }
        Kind::Text => lane.word.wrapping_add((lane.past as u32 & 0xff) << 3),
    })
}

#[inline(always)]
fn hashed(value: u32) -> usize {
    (value.wrapping_mul(0x9e37_79b1) >> 16) as usize
}

/// Fills `out` with the hashes of the lane's second sixteen contexts before its next byte; what selects weights with them.
#[inline(always)]
pub(super) fn contexts(
    lane: &Lane,
    block: &[u8],
    finder: &Finder,
    plan: &Plan,
    followers: &Followers,
    out: &mut [u32; CONTEXTS],
) -> Selectors {
    let pos = lane.start + lane.t;
    let past = lane.past;
    let low = |n: u32| past & ((1u64 << (8 * n)) - 1);
    let (p1, p2) = (low(1), past >> 8 & 0xff);

    // At the alignment pointer, if there is one: this byte, the one before, the one at its own pointer, and the next one.
    let (mut a, mut aw, mut aa, mut next) = (0u64, 0u64, 0u64, 0u64);
    if let Some(pointer) = around::pointer(lane, block, finder) {
        (a, aw, aa) = (256 | pointer.byte, pointer.before, pointer.up);
        if finder.known(pointer.at) > pointer.at + 1 {
            next = 256 | u64::from(block[pointer.at + 1]);
        }
    }
    let after1 = u64::from(followers.one[p1 as usize]);
    let after2 = u64::from(followers.two[low(2) as usize]);
    let after3 = u64::from(followers.three[of_three(past)]);
    let here = u64::from(followers.place[of_place(lane, block, plan)]);
    let newest = |after: u64| after & 0xff;
    let newest2 = |after: u64| after & 0xffff;

    let above;
    let v: [u64; CONTEXTS] = match plan.kind {
        Kind::Binary => {
            let r = plan.stride;
            let byte = |back: usize| u64::from(lane.byte(block, pos, back));
            let column = plan.place(pos) as u64;
            let (mut n, mut nn, mut nnn, mut nw) = (0, 0, 0, 0);
            if r > 0 {
                (n, nn, nnn, nw) = (byte(r), byte(2 * r), byte(3 * r), byte(r + 1));
            }
            above = nn;
            [
                p1,
                low(3),
                low(6),
                p1 | newest2(after1) << 8,
                low(2) | newest(after2) << 16,
                newest2(after2),
                p1 | n << 8 | nw << 16,
                newest2(here),
                n | nn << 8 | nnn << 16,
                newest2(after3),
                column << 8 | newest(here),
                p1 | newest2(here) << 8,
                p1 | newest(after3) << 8 | n << 16,
                a | newest(here) << 9 | newest(after2) << 17,
                after1 & 0xff_ffff,
                next | a << 9 | p1 << 18,
            ]
        }
        Kind::Text => {
            let field = lane.field as u64;
            let at = pos - lane.field_start;
            let within = at.min(31) as u64;
            let (mut f, mut f1, mut fw) = (0u64, 0u64, 0u64);
            // How this field differs first from the one above: 2 without that, 0 not at all.
            let mut differs = 2u64;
            if let Some(up) = around::field_above(lane, block, pos) {
                let q = up.at;
                (f, f1, fw) = (up.byte, up.after, up.before);
                let room = at.min(COMPARED).min(q);
                let first = (1..=room).rev().find(|j| block[pos - j] != block[q - j]);
                differs = first.map_or(0, |j| {
                    let (x, y) = (u64::from(block[pos - j]), u64::from(block[q - j]));
                    3 + u64::from(x > y) | (j.min(7) as u64) << 3 | delta(x, y) << 8
                });
            }
            let g = (lane.second_field_above(pos)).map_or(0, |q| u64::from(block[q]));
            let column = lane.line_above + (pos - lane.line);
            let (mut n, mut ne) = (0, 0);
            if column + 1 < lane.line {
                (n, ne) = (u64::from(block[column]), u64::from(block[column + 1]));
            }
            let word = u64::from(lane.word);
            let head = u64::from(lane.line_head);
            above = f;
            [
                f | g << 8 | differs << 16,
                field | differs << 8 | within << 40,
                n | ne << 8 | p1 << 16,
                a | f << 9 | p1 << 18,
                newest2(after3),
                newest2(after2),
                f | differs << 8 | field << 32,
                f | f1 << 8 | differs << 16,
                head | field << 32 | within << 40,
                head | word << 32,
                a | aa << 9 | p1 << 17,
                newest2(here),
                field | within << 8 | low(2) << 16,
                p1 | newest(here) << 8 | newest(after2) << 16,
                after1 & 0xff_ffff,
                f | p1 << 8 | fw << 16 | aw << 24 | a << 32,
            ]
        }
    };
    for c in 0..CONTEXTS {
        out[c] = hash(CONTEXTS + c, v[c]);
    }
    [a & 0xff, p2, above, newest(after2)].map(|s| s as u32)
}
