//! What exporting costs: the same held-out segments by the exported integers in the engine, and by the floats that were trained.

use super::TrainError;
use super::evaluate::{HeldOut, Score, evaluate_lanes};
use crate::engine::{Model, Reach, features};
use crate::model::{CompressiveTransformer, bits_per_byte};
use rayon::prelude::*;
use std::sync::Arc;

/// Blocks of which a segment is measured, at most.
const SEGMENTS: usize = 64;

/// Bits per byte of the same segments, mean over them.
#[derive(Debug, Clone, Copy, PartialEq, serde::Serialize)]
pub struct Exported {
    /// By the exported model in the engine, which has integer probabilities.
    pub engine: f64,
    /// By the model in training.
    pub floats: f64,
}

impl Exported {
    /// How many percent more bits the exported model needs.
    #[must_use]
    pub fn loss(&self) -> f64 {
        (self.engine / self.floats - 1.0) * 100.0
    }
}

/// Measures the first segment of up to 64 blocks, spread over them; nothing if none is long enough.
///
/// # Errors
/// Those of the engine and of Candle.
pub(super) fn exported(
    trained: &CompressiveTransformer,
    model: &Model,
    held_out: &[HeldOut],
    window: usize,
) -> Result<Option<Exported>, TrainError> {
    let long: Vec<&HeldOut> = (held_out.iter())
        .filter(|h| h.block.len() >= window)
        .collect();
    let n = long.len().min(SEGMENTS);
    let names = &model.config().model.features;
    let measure = |i: usize| -> Result<(Score, f64), TrainError> {
        let block = &long[i * long.len() / n].block;
        let segment = &block[..window];
        let mut inputs = vec![0; window * names.len()];
        for (pos, out) in inputs.chunks_exact_mut(names.len()).enumerate() {
            features::write(names, segment, pos, 0, block.stride, out);
        }
        let logits = trained.forward(&Arc::new(inputs), 1)?;
        let floats = bits_per_byte(&logits, &Arc::new(segment.to_vec()))?;
        let engine = evaluate_lanes(model, segment, block.stride, Reach::All, 1)?;
        Ok((engine, f64::from(floats.to_scalar::<f32>()?)))
    };
    let both = (0..n).into_par_iter().map(measure);
    let both = both.collect::<Result<Vec<_>, TrainError>>()?;
    let mean = |of: fn(&(Score, f64)) -> f64| both.iter().map(of).sum::<f64>() / n as f64;
    Ok((n > 0).then(|| Exported {
        engine: mean(|(engine, _)| engine.bits_per_byte()),
        floats: mean(|(_, floats)| *floats),
    }))
}
