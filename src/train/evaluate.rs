//! What a model costs: bits per byte of whole blocks, by the integer engine, as the codec runs it.

use super::data::Block;
use super::{Corpus, TrainError};
use crate::engine::{EngineError, Model, Reach, State, features};
use rayon::prelude::*;

/// Bits that a model needs for some bytes.
#[derive(Debug, Clone, Copy, Default, PartialEq, serde::Serialize)]
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
    evaluate_reaching(model, block, stride, Reach::All)
}

/// The same where the model attends to so much of its memory.
///
/// # Errors
/// As [`evaluate_block`].
pub fn evaluate_reaching(
    model: &Model,
    block: &[u8],
    stride: u16,
    reach: Reach,
) -> Result<Score, EngineError> {
    evaluate_lanes(model, block, stride, reach, crate::engine::MAX_LANES)
}

/// The same in so many lanes.
pub(super) fn evaluate_lanes(
    model: &Model,
    block: &[u8],
    stride: u16,
    reach: Reach,
    lanes: usize,
) -> Result<Score, EngineError> {
    let names = &model.config().model.features;
    let len = block.len().div_ceil(lanes);
    let mut state = State::new(model, lanes)?.reaching(reach);
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

/// Sources that are measured at most, spread over all of them.
const SOURCES: usize = 64;

/// A held-out block and the source that it is of.
pub(super) struct HeldOut {
    pub(super) source: String,
    pub(super) block: Block,
}

/// Held-out blocks of up to [`SOURCES`] sources, at most `most` of each, in the order of the sources.
///
/// # Errors
/// A file can not be read.
pub(super) fn held_out(corpus: &Corpus, most: usize) -> Result<Vec<HeldOut>, TrainError> {
    let all = corpus.sources().len();
    let n = all.min(SOURCES);
    let of_source = |i: usize| {
        let source = i * all / n;
        let blocks = corpus.held_out(source, most)?;
        let name = &corpus.sources()[source].name;
        Ok(blocks
            .into_iter()
            .map(|block| HeldOut {
                source: name.clone(),
                block,
            })
            .collect())
    };
    let parts = (0..n)
        .into_par_iter()
        .map(of_source)
        .collect::<Result<Vec<Vec<_>>, TrainError>>()?;
    Ok(parts.into_iter().flatten().collect())
}

/// The score of every source's held-out blocks, in the order of the sources.
///
/// # Errors
/// As [`evaluate_block`].
pub(super) fn evaluate(
    model: &Model,
    blocks: &[HeldOut],
) -> Result<Vec<(String, Score)>, EngineError> {
    let scores: Vec<Score> = blocks
        .par_iter()
        .map(|held| evaluate_block(model, &held.block, held.block.stride))
        .collect::<Result<_, EngineError>>()?;
    let mut out: Vec<(String, Score)> = Vec::new();
    for (held, score) in blocks.iter().zip(scores) {
        match out.last_mut() {
            Some((name, sum)) if *name == held.source => *sum = sum.and(score),
            _ => out.push((held.source.clone(), score)),
        }
    }
    Ok(out)
}

/// Mean over the sources of their bits per byte; nothing if nothing is held out.
pub fn mean(scores: &[(String, Score)]) -> Option<f64> {
    let sum = scores.iter().map(|(_, s)| s.bits_per_byte()).sum::<f64>();
    (!scores.is_empty()).then(|| sum / scores.len() as f64)
}

/// Original by compressed size, of data that take this many bits per byte.
pub fn ratio(bits_per_byte: f64) -> f64 {
    8.0 / bits_per_byte
}

/// Between how many equally likely bytes the model in effect chooses.
pub fn perplexity(bits_per_byte: f64) -> f64 {
    bits_per_byte.exp2()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn measures_follow_from_bits_per_byte() {
        let half = Score {
            bits: 400.0,
            bytes: 100,
        };
        let none = Score {
            bits: 0.0,
            bytes: 50,
        };
        assert_eq!(half.bits_per_byte(), 4.0);
        assert_eq!((ratio(4.0), perplexity(4.0)), (2.0, 16.0));
        assert_eq!(mean(&[("a".into(), half), ("b".into(), none)]), Some(2.0));
        assert_eq!(mean(&[]), None);
    }
}
