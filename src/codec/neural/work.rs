//! What one lane's current bit is predicted from.

use super::apm::Cell;
use super::bank::Looked;
use super::contexts::{CONTEXTS, Near};
use super::guess::Guess;
use super::history;
use super::inputs;
use super::lane::{Lane, NONE};
use super::mixer::{FINAL_AT, FINALS, Finals};
use super::net::Tree;
use super::samples;
use super::slots::RATE;
use super::tables::{cost, odds, stretch};
use super::wide::Selectors;

/// First input after the contexts' three groups.
const EXTRA: usize = 3 * CONTEXTS;
/// The input that the network's log odds are.
pub(super) const NET: usize = EXTRA + 3;
/// Cells of the guess: by its trust and the bit.
pub(super) const GUESS_CELLS: usize = 64 * 8;

/// How often an expected byte's bits came, by how much was expected of it: probability (upper 22 bits) and count.
pub(super) type Expectations = Vec<u32>;

/// A lane's contexts for the current byte, and what its current bit is predicted from.
#[derive(Clone)]
pub(super) struct Work {
    /// In each bank.
    pub(super) looked: [Looked; 2],
    pub(super) near: Near,
    pub(super) selectors: Selectors,
    /// The lane's byte that its hashes, `near` and `selectors` are ready for; none once it has begun.
    pub(super) ready_at: usize,
    pub(super) sums: [i32; FINALS],
    pub(super) finals: Finals,
    pub(super) cells: [Cell; 2],
    /// Bits of this byte so far behind a leading 1.
    pub(super) partial: u32,
    /// Probability of a 1, and what the byte's bits cost so far, in 1/256 bit.
    pub(super) p: i32,
    pub(super) cost: i32,
    matched: Expected,
    guess: Expected,
    /// The network's prediction of the byte.
    pub(super) tree: Tree,
}

/// A byte that is expected, and what its next bit's prediction came from.
#[derive(Clone, Copy)]
struct Expected {
    /// The byte behind a leading 1; 0: none.
    byte: u32,
    /// First cell of it.
    row: u32,
    /// The cell in use, and the bit; [`NONE`]: the byte's bits so far are others.
    cell: u32,
}

impl Expected {
    const NOTHING: Expected = Expected {
        byte: 0,
        row: 0,
        cell: NONE,
    };

    /// Two inputs for bit `b`, `i` cells into its row: log odds and distance from even odds.
    #[inline(always)]
    fn inputs(&mut self, cells: &Expectations, i: u32, partial: u32, b: u32) -> [i16; 2] {
        if self.byte >> (b + 1) != partial {
            self.cell = NONE;
            return [0; 2];
        }
        let bit = (self.byte >> b) & 1;
        self.cell = (self.row + i) * 2 | bit;
        let p = (cells[(self.row + i) as usize] >> 16) as i32;
        let (st, half) = (odds(p.max(1)), (p - 32768) >> 5);
        if bit == 1 {
            [st as i16, half as i16]
        } else {
            [-st as i16, -half as i16]
        }
    }

    #[inline(always)]
    fn learn(&self, cells: &mut Expectations, y: u32) {
        if self.cell != NONE {
            let right = u32::from(self.cell & 1 == y);
            let cell = &mut cells[(self.cell >> 1) as usize];
            let rate = u32::from(RATE[(*cell & 127) as usize]);
            *cell = history::updated(*cell, right, 127, rate);
        }
    }
}

impl Work {
    pub(super) fn new() -> Self {
        Work {
            looked: [Looked::new(), Looked::new()],
            near: Near::default(),
            selectors: [0; 4],
            ready_at: usize::MAX,
            sums: [0; FINALS],
            finals: Finals::default(),
            cells: [Cell::default(); 2],
            partial: 1,
            p: 1 << 15,
            cost: 0,
            matched: Expected::NOTHING,
            guess: Expected::NOTHING,
            tree: Tree::new(),
        }
    }

    /// Starts a byte; `matched` is the byte that the match expects, if there is one.
    #[inline(always)]
    pub(super) fn begin_byte(&mut self, lane: &Lane, matched: Option<u8>, guess: &Guess) {
        self.partial = 1;
        self.cost = 0;
        self.matched.byte = matched.map_or(0, |byte| u32::from(byte) | 256);
        self.matched.row = lane.match_level();
        self.guess.byte = guess.byte;
        self.guess.row = guess.trust() * 8;
    }

    /// The byte that is expected.
    #[inline(always)]
    pub(super) fn expected(&self) -> u32 {
        self.guess.byte
    }

    /// Fills the mixer's inputs and chooses its rows of weights for bit `b`; `level` and `sample`: what is known of
    /// the number that the byte is part of.
    #[inline(always)]
    pub(super) fn fill(
        &mut self,
        lane: &Lane,
        [matches, guesses]: [&Expectations; 2],
        (level, sample): (u32, [i16; samples::INPUTS]),
        net: bool,
        b: u32,
    ) {
        let looked = &mut self.looked[0];
        let x = &mut looked.mix.x.0;
        let known = inputs::fill(&looked.inputs, x).min(31);
        let matched = self.matched.inputs(matches, 0, self.partial, b);
        let guess = self.guess.inputs(guesses, b, self.partial, b);
        let net = if net {
            let p = self.tree.p(self.partial);
            [stretch(p) as i16, ((p as i32 - 32768) >> 5) as i16]
        } else {
            [0; 2]
        };
        x[EXTRA..EXTRA + 6]
            .copy_from_slice(&[matched[0], matched[1], 256, net[0], guess[0], guess[1]]);
        x[EXTRA + 6..EXTRA + 6 + samples::INPUTS].copy_from_slice(&sample);
        x[EXTRA + 6 + samples::INPUTS] = net[1];
        let length = if self.matched.cell == NONE {
            0
        } else {
            1 + lane.match_len.min(32) / 2
        };
        let near = &self.near;
        let column = near.column & 255;
        looked.mix.choose([
            length.min(15) * 16 + known / 2,
            column,
            if level > 0 {
                level * 8 + b
            } else {
                u32::from(near.above)
            },
            u32::from(near.previous),
            u32::from(near.trust) * 32 + lane.followed.min(31),
            b * 32 + known,
        ]);
        self.finals.rows = [
            FINAL_AT[0] + self.partial,
            FINAL_AT[1] + column * 8 + b,
            FINAL_AT[2] + u32::from(near.previous) * 8 + b,
        ];
    }

    /// The same for the second bank, after the first: beside its contexts it has the same inputs.
    #[inline(always)]
    pub(super) fn fill_second(&mut self, b: u32) {
        let [first, looked] = &mut self.looked;
        let x = &mut looked.mix.x.0;
        let known = inputs::fill(&looked.inputs, x).min(31);
        x[EXTRA..].copy_from_slice(&first.mix.x.0[EXTRA..]);
        let [a, before, above, after] = self.selectors;
        (looked.mix).choose([self.partial, a, before, above, after, b * 32 + known]);
    }

    /// Learns bit `y` of what was expected, and takes it.
    #[inline(always)]
    pub(super) fn learn(&mut self, [matches, guesses]: [&mut Expectations; 2], y: u32) {
        self.matched.learn(matches, y);
        self.guess.learn(guesses, y);
        self.cost += cost(self.p, y);
        self.partial = self.partial * 2 + y;
    }
}
