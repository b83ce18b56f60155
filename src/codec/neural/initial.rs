//! The initial state: mixer weights and what bit histories mean, learnt once from recordings.
//!
//! `initial.bin` is part of the format: it holds, per kind of contexts, [`INPUTS`] weights (i16, little-endian),
//! [`MATCHES`], [`GUESS_CELLS`] and then `CONTEXTS * HISTORIES` log odds (i8, in units of 17/256); then, again per kind, weights and
//! histories of the second bank. The ignored tests `learn_initial_state` and `learn_second_bank` make it.

use super::contexts::CONTEXTS;
use super::history::HISTORIES;
use super::mixer::INPUTS;
use super::plan::Kind;
use super::tables::squash;
use super::work::{Expectations, GUESS_CELLS, NET};

/// Cells of the match model: by length of the match.
pub(super) const MATCHES: usize = 32;
/// Unit of the stored log odds.
pub(super) const UNIT: i32 = 17;
/// What a network's log odds weigh at first if it does not say: the other first weights were learnt without one.
const NET_WEIGHT: i16 = 5000;
/// Bytes per kind, and of its second bank.
pub(super) const SIZE: usize = 2 * INPUTS + MATCHES + GUESS_CELLS + CONTEXTS * HISTORIES;
pub(super) const SECOND: usize = 2 * INPUTS + CONTEXTS * HISTORIES;
/// How many sightings a learnt cell counts for.
const TRUST: u32 = 10;

pub(super) static LEARNT: &[u8; 2 * SIZE + 2 * SECOND] = include_bytes!("initial.bin");

/// The initial state for one kind of contexts.
pub(super) struct Initial {
    pub(super) banks: [InitialBank; 2],
    pub(super) matched: Expectations,
    pub(super) guessed: Expectations,
}

/// That of a bank.
pub(super) struct InitialBank {
    pub(super) weights: [i16; INPUTS],
    pub(super) histories: Vec<u32>,
}

impl InitialBank {
    fn learnt(weights: &[u8], histories: &[u8]) -> Self {
        let mut out = InitialBank {
            weights: [0; INPUTS],
            histories: histories.iter().map(cell).collect(),
        };
        for (w, raw) in out.weights.iter_mut().zip(weights.chunks_exact(2)) {
            *w = i16::from_le_bytes([raw[0], raw[1]]);
        }
        out.weights[NET] = NET_WEIGHT;
        out
    }
}

impl Initial {
    pub(super) fn learnt(kind: Kind) -> Self {
        let n = usize::from(kind == Kind::Text);
        let (firsts, seconds) = LEARNT.split_at(2 * SIZE);
        let (weights, cells) = firsts[n * SIZE..][..SIZE].split_at(2 * INPUTS);
        let (matched, cells) = cells.split_at(MATCHES);
        let (guessed, histories) = cells.split_at(GUESS_CELLS);
        let (more_weights, more_histories) = seconds[n * SECOND..][..SECOND].split_at(2 * INPUTS);
        Initial {
            banks: [
                InitialBank::learnt(weights, histories),
                InitialBank::learnt(more_weights, more_histories),
            ],
            matched: matched.iter().map(cell).collect(),
            guessed: guessed.iter().map(cell).collect(),
        }
    }
}

/// The cell of stored log odds.
fn cell(raw: &u8) -> u32 {
    (squash(i32::from(*raw as i8) * UNIT) as u32) << 16 | TRUST
}
