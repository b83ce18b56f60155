//! The training loss: mean bits per byte of the model's logits.

use super::ops::{floats, tensor, with_floats};
use candle_core::{CpuStorage, CustomOp1, Layout, Result, Shape, Tensor};
use std::sync::Arc;

/// Octaves of one unit of a logit.
const OCTAVE: f32 = 1.0 / 32.0;

/// Mean bits per byte of `[positions, 256]` logits in units of 1/32 octave, against the bytes that came.
///
/// # Errors
/// Candle's, for tensors of another shape.
pub fn bits_per_byte(logits: &Tensor, targets: &Arc<Vec<u8>>) -> Result<Tensor> {
    logits.contiguous()?.apply_op1(CrossEntropy {
        targets: Arc::clone(targets),
    })
}

struct CrossEntropy {
    targets: Arc<Vec<u8>>,
}

/// `2^((l - best) / 32)` to `out`; the best logit and the sum.
fn powers(logits: &[f32], out: &mut [f32; 256]) -> (f32, f32) {
    let best = logits.iter().copied().fold(f32::MIN, f32::max);
    let mut sum = 0.0;
    for (o, &l) in out.iter_mut().zip(logits) {
        *o = ((l - best) * OCTAVE).exp2();
        sum += *o;
    }
    (best, sum)
}

impl CustomOp1 for CrossEntropy {
    fn name(&self) -> &'static str {
        "bits-per-byte"
    }

    fn cpu_fwd(&self, s: &CpuStorage, l: &Layout) -> Result<(CpuStorage, Shape)> {
        let logits = floats(s, l)?;
        let bits: Vec<f64> = logits
            .chunks(256 * 64)
            .zip(self.targets.chunks(64))
            .map(|(logits, targets)| {
                let mut p = [0.0; 256];
                let rows = logits.chunks_exact(256).zip(targets);
                rows.map(|(row, &t)| {
                    let (best, sum) = powers(row, &mut p);
                    f64::from(sum.log2() + (best - row[usize::from(t)]) * OCTAVE)
                })
                .sum()
            })
            .collect();
        let mean = bits.iter().sum::<f64>() / self.targets.len() as f64;
        Ok((CpuStorage::F32(vec![mean as f32]), Shape::from(())))
    }

    fn bwd(&self, arg: &Tensor, _: &Tensor, grad: &Tensor) -> Result<Option<Tensor>> {
        let unit = grad.to_scalar::<f32>()? * OCTAVE / self.targets.len() as f32;
        let out = with_floats(arg, |logits| {
            let mut out = vec![0.0f32; logits.len()];
            let rows = logits.chunks(256 * 64).zip(self.targets.chunks(64));
            out.chunks_mut(256 * 64)
                .zip(rows)
                .for_each(|(out, (logits, targets))| {
                    let mut p = [0.0; 256];
                    let rows = logits.chunks_exact(256).zip(targets);
                    for (o, (row, &t)) in out.chunks_exact_mut(256).zip(rows) {
                        let (_, sum) = powers(row, &mut p);
                        o.iter_mut().zip(&p).for_each(|(o, p)| *o = unit * p / sum);
                        o[usize::from(t)] -= unit;
                    }
                });
            Ok(out)
        })?;
        Ok(Some(tensor(out, arg)?))
    }
}
