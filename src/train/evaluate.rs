//! What a model costs: bits per byte of whole blocks, by the integer engine, as the codec runs it.

use super::{Corpus, TrainError};
use crate::engine::{EngineError, Model, State, features};
use rayon::prelude::*;

/// Bits that a model needs for some bytes.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Score {
    /// Bits.
    pub bits: f64,
    /// Bytes.
    pub bytes: u64,
}

impl Score {
    /// Bits per byte; 0 for nothing.
    pub fn bits_per_byte(&self) -> f64 {
        self.bits / (self.bytes.max(1)) as f64
    }

    /// Both together.
    pub fn and(self, other: Score) -> Score {
        Score {
            bits: self.bits + other.bits,
            bytes: self.bytes + other.bytes,
        }
    }
}

/// Bits that the model alone, without adaptive statistics, needs for a block in 16 lanes.
///
/// # Errors
/// None for 16 lanes; the engine reports errors.
pub fn evaluate_block(model: &Model, block: &[u8], stride: u16) -> Result<Score, EngineError> {
    let names = &model.config().model.features;
    let lanes = crate::engine::MAX_LANES;
    let len = block.len().div_ceil(lanes);
    let mut state = State::new(model, lanes)?;
    let mut weights = vec![[0u32; 256]; lanes];
    let mut inputs = vec![0; lanes * names.len()];
    let mut bits = 0.0;
    for t in 0..len {
        // Lanes are equally long but the last ones, so those with a byte come first.
        let active = (0..lanes).take_while(|l| l * len + t < block.len()).count();
        for (l, out) in inputs
            .chunks_exact_mut(names.len())
            .enumerate()
            .take(active)
        {
            features::write(names, block, l * len + t, l * len, stride, out);
        }
        state.step(model, &inputs, active, &mut weights);
        for (l, w) in weights.iter().enumerate().take(active) {
            let sum: u32 = w.iter().sum();
            bits += (f64::from(sum) / f64::from(w[usize::from(block[l * len + t])])).log2();
        }
    }
    Ok(Score {
        bits,
        bytes: block.len() as u64,
    })
}

/// The score of every source's held-out blocks, at most `most` blocks each, in the order of the sources.
///
/// # Errors
/// As [`evaluate_block`].
pub fn evaluate_held_out(
    model: &Model,
    corpus: &Corpus,
    most: usize,
) -> Result<Vec<(String, Score)>, TrainError> {
    let blocks: Vec<(usize, &[u8], u16)> = corpus
        .sources()
        .iter()
        .enumerate()
        .flat_map(|(i, s)| {
            corpus
                .held_out(s, most)
                .into_iter()
                .map(move |(b, stride)| (i, b, stride))
        })
        .collect();
    let scores: Vec<(usize, Score)> = blocks
        .par_iter()
        .map(|&(i, block, stride)| Ok((i, evaluate_block(model, block, stride)?)))
        .collect::<Result<_, EngineError>>()?;
    let mut out: Vec<(String, Score)> = corpus
        .sources()
        .iter()
        .map(|s| (s.name.clone(), Score::default()))
        .collect();
    for (i, score) in scores {
        out[i].1 = out[i].1.and(score);
    }
    out.retain(|(_, score)| score.bytes > 0);
    Ok(out)
}
