//! The initial state: mixer weights and what bit histories mean, learnt once from recordings.
//!
//! `initial.bin` is part of the format: it holds, per kind of contexts, [`INPUTS`] weights (i16, little-endian),
//! [`MATCHES`], [`GUESS_CELLS`] and then `CONTEXTS * HISTORIES` log odds (i8, in units of 17/256). The ignored test
//! `learn_initial_state` makes it.

use super::contexts::CONTEXTS;
use super::history::HISTORIES;
use super::mixer::INPUTS;
use super::plan::Kind;
use super::tables::squash;
use super::work::{Expectations, GUESS_CELLS};

/// Cells of the match model: by length of the match.
pub(super) const MATCHES: usize = 32;
/// Unit of the stored log odds.
pub(super) const UNIT: i32 = 17;
/// Bytes per kind.
pub(super) const SIZE: usize = 2 * INPUTS + MATCHES + GUESS_CELLS + CONTEXTS * HISTORIES;
/// How many sightings a learnt cell counts for.
const TRUST: u32 = 10;

static LEARNT: &[u8; 2 * SIZE] = include_bytes!("initial.bin");

/// The initial state for one kind of contexts.
pub(super) struct Initial {
    pub(super) weights: [i16; INPUTS],
    pub(super) matched: Expectations,
    pub(super) guessed: Expectations,
    pub(super) histories: Vec<u32>,
}

impl Initial {
    pub(super) fn learnt(kind: Kind) -> Self {
        let at = if kind == Kind::Text { SIZE } else { 0 };
        let (weights, cells) = LEARNT[at..at + SIZE].split_at(2 * INPUTS);
        let mut out = Initial {
            weights: [0; INPUTS],
            matched: Vec::new(),
            guessed: Vec::new(),
            histories: Vec::new(),
        };
        for (w, raw) in out.weights.iter_mut().zip(weights.chunks_exact(2)) {
            *w = i16::from_le_bytes([raw[0], raw[1]]);
        }
        let cell = |raw: &u8| (squash(i32::from(*raw as i8) * UNIT) as u32) << 16 | TRUST;
        let (matched, cells) = cells.split_at(MATCHES);
        let (guessed, histories) = cells.split_at(GUESS_CELLS);
        out.matched = matched.iter().map(cell).collect();
        out.guessed = guessed.iter().map(cell).collect();
        out.histories = histories.iter().map(cell).collect();
        out
    }
}
