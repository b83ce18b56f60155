//! Elementwise operations on integers in f32, each with its straight-through gradient.

use crate::engine::arith::{NORM_MEAN, RESIDUAL_MAX, norm_shift};
use candle_core::{
    CpuStorage, CustomOp1, CustomOp2, Error, Layout, Result, Shape, Storage, Tensor,
};

/// The values of a contiguous f32 storage.
pub(super) fn floats<'a>(storage: &'a CpuStorage, layout: &Layout) -> Result<&'a [f32]> {
    let CpuStorage::F32(all) = storage else {
        return Err(Error::Msg("expected f32".to_string()).bt());
    };
    match layout.contiguous_offsets() {
        Some((from, to)) => Ok(&all[from..to]),
        None => Err(Error::Msg("expected a contiguous tensor".to_string()).bt()),
    }
}

/// Runs `f` on the values of a tensor.
pub(super) fn with_floats<R>(t: &Tensor, f: impl FnOnce(&[f32]) -> Result<R>) -> Result<R> {
    let t = t.contiguous()?;
    let (storage, layout) = t.storage_and_layout();
    match &*storage {
        Storage::Cpu(s) => f(floats(s, layout)?),
        _ => Err(Error::Msg("expected a tensor on the CPU".to_string()).bt()),
    }
}

/// A tensor like `like` with these values.
pub(super) fn tensor(values: Vec<f32>, like: &Tensor) -> Result<Tensor> {
    Tensor::from_vec(values, like.shape(), like.device())
}

pub(super) fn map(x: &[f32], f: impl Fn(f32) -> f32) -> Vec<f32> {
    x.iter().map(|&x| f(x)).collect()
}

fn map2(x: &[f32], y: &[f32], f: impl Fn(f32, f32) -> f32) -> Vec<f32> {
    x.iter().zip(y).map(|(&x, &y)| f(x, y)).collect()
}

/// `2^-shift`.
pub(super) fn scale(shift: u32) -> f32 {
    1.0 / (1u32 << shift) as f32
}

/// `floor(x)` for `|x| < 2^22`, in operations that every instruction set has for whole vectors.
#[inline(always)]
pub(super) fn floor(x: f32) -> f32 {
    // Adding and taking away 1.5 * 2^23 rounds to the nearest integer.
    let nearest = (x + 12_582_912.0) - 12_582_912.0;
    if nearest > x { nearest - 1.0 } else { nearest }
}

/// `floor(x / 2^s + 1/2)` for `scale = 2^-s`: exact, `x + 2^(s-1)` is below 2^24 and scaling loses nothing.
#[inline(always)]
pub(super) fn rounding_shift(x: f32, scale: f32) -> f32 {
    floor(x * scale + 0.5)
}

/// Float masters to int8 weights: `clamp(round(w * 2^exponent), -127, 127)`; the gradient is that of `w * 2^exponent`.
pub(super) struct Quantise {
    pub exponent: u32,
}

impl Quantise {
    /// The weight of one master.
    pub(super) fn value(w: f32, exponent: u32) -> f32 {
        (w * (1u32 << exponent) as f32).round().clamp(-127.0, 127.0)
    }
}

impl CustomOp1 for Quantise {
    fn name(&self) -> &'static str {
        "quantise"
    }

    fn cpu_fwd(&self, s: &CpuStorage, l: &Layout) -> Result<(CpuStorage, Shape)> {
        let out = map(floats(s, l)?, |w| Self::value(w, self.exponent));
        Ok((CpuStorage::F32(out), l.shape().clone()))
    }

    fn bwd(&self, _: &Tensor, _: &Tensor, grad: &Tensor) -> Result<Option<Tensor>> {
        let unit = (1u32 << self.exponent) as f32;
        let out = with_floats(grad, |g| Ok(map(g, |g| g * unit)))?;
        Ok(Some(tensor(out, grad)?))
    }
}

/// Sums to activations: `clamp(rounding_shift(x, shift), low, 127)`.
pub(super) struct Requantise {
    pub shift: u32,
    pub low: f32,
    pub high: f32,
}

impl CustomOp1 for Requantise {
    fn name(&self) -> &'static str {
        "requantise"
    }

    fn cpu_fwd(&self, s: &CpuStorage, l: &Layout) -> Result<(CpuStorage, Shape)> {
        let k = scale(self.shift);
        let out = map(floats(s, l)?, |x| {
            rounding_shift(x, k).clamp(self.low, self.high)
        });
        Ok((CpuStorage::F32(out), l.shape().clone()))
    }

    fn bwd(&self, arg: &Tensor, _: &Tensor, grad: &Tensor) -> Result<Option<Tensor>> {
        let k = scale(self.shift);
        let (low, high) = (self.low / k, self.high / k);
        let out = with_floats(arg, |x| {
            with_floats(grad, |g| {
                Ok(map2(
                    x,
                    g,
                    |x, g| if x > low && x < high { g * k } else { 0.0 },
                ))
            })
        })?;
        Ok(Some(tensor(out, grad)?))
    }
}

/// The residual stream plus a shifted sum: `clamp(x + rounding_shift(sum, shift), -2047, 2047)`.
pub(super) struct Residual {
    pub shift: u32,
}

impl CustomOp2 for Residual {
    fn name(&self) -> &'static str {
        "residual"
    }

    fn cpu_fwd(
        &self,
        s1: &CpuStorage,
        l1: &Layout,
        s2: &CpuStorage,
        l2: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let (k, max) = (scale(self.shift), RESIDUAL_MAX as f32);
        let out = map2(floats(s1, l1)?, floats(s2, l2)?, |x, a| {
            (x + rounding_shift(a, k)).clamp(-max, max)
        });
        Ok((CpuStorage::F32(out), l1.shape().clone()))
    }

    fn bwd(
        &self,
        _: &Tensor,
        _: &Tensor,
        res: &Tensor,
        grad: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>)> {
        let (k, max) = (scale(self.shift), RESIDUAL_MAX as f32);
        let gx = with_floats(res, |y| {
            with_floats(grad, |g| {
                Ok(map2(y, g, |y, g| if y.abs() < max { g } else { 0.0 }))
            })
        })?;
        let ga = map(&gx, |g| g * k);
        Ok((Some(tensor(gx, grad)?), Some(tensor(ga, grad)?)))
    }
}

/// The norm of [`crate::engine::arith::norm`] over the last dimension.
///
/// `r = floor(d * 28 * 2^q / s)` is exact in f32, although the quotient is rounded before `floor`. Write
/// `n = a s + b`, `0 <= b < s`, for integers with `|n| + s < 2^24`. The quotient lies in `[a, a + 1)`, at least `1/s`
/// below `a + 1`. Rounding to nearest moves a number of magnitude at most `m` by at most `m 2^-24` and never past the
/// representable `a`; it reaches `a + 1` only if `1/s <= max(|a|, |a + 1|) 2^-24`, that is
/// `2^24 <= s max(|a|, |a + 1|) <= |n| + s`. `Config::validate` excludes that here and in attention.
pub(super) struct Norm;

impl Norm {
    fn constants(d: usize) -> (f32, f32) {
        let q = norm_shift(d);
        (((d as i32 * NORM_MEAN) << q) as f32, scale(q))
    }
}

impl CustomOp1 for Norm {
    fn name(&self) -> &'static str {
        "norm"
    }

    fn cpu_fwd(&self, s: &CpuStorage, l: &Layout) -> Result<(CpuStorage, Shape)> {
        let d = l.dims().last().copied().unwrap_or(1);
        let (n, k) = Self::constants(d);
        let x = floats(s, l)?;
        let mut out = vec![0.0; x.len()];
        out.chunks_mut(64 * d)
            .zip(x.chunks(64 * d))
            .for_each(|(out, x)| {
                for (o, x) in out.chunks_exact_mut(d).zip(x.chunks_exact(d)) {
                    let sum = absolute_sum(x).max(1.0);
                    let r = (n / sum).floor();
                    o.iter_mut()
                        .zip(x)
                        .for_each(|(o, &x)| *o = rounding_shift(x * r, k).clamp(-127.0, 127.0));
                }
            });
        Ok((CpuStorage::F32(out), l.shape().clone()))
    }

    fn bwd(&self, arg: &Tensor, _: &Tensor, grad: &Tensor) -> Result<Option<Tensor>> {
        let d = arg.dims().last().copied().unwrap_or(1);
        let unit = (d as i32 * NORM_MEAN) as f32;
        let out = with_floats(arg, |x| {
            with_floats(grad, |g| {
                let mut out = vec![0.0f32; x.len()];
                let rows = x.chunks(64 * d).zip(g.chunks(64 * d));
                out.chunks_mut(64 * d).zip(rows).for_each(|(out, (x, g))| {
                    let rows = x.chunks_exact(d).zip(g.chunks_exact(d));
                    for (o, (x, g)) in out.chunks_exact_mut(d).zip(rows) {
                        // y_i = unit x_i / s: dL/dx_j = unit / s (g_j - sign(x_j) sum_i g_i x_i / s).
                        let s = absolute_sum(x).max(1.0);
                        let r = unit / s;
                        let limit = 127.5 / r;
                        let mut along = 0.0;
                        for (o, (&x, &g)) in o.iter_mut().zip(x.iter().zip(g)) {
                            *o = if x.abs() < limit { g } else { 0.0 };
                            along += *o * x;
                        }
                        let along = along / s;
                        for (o, &x) in o.iter_mut().zip(x) {
                            let sign = if x > 0.0 {
                                1.0
                            } else if x < 0.0 {
                                -1.0
                            } else {
                                0.0
                            };
                            *o = r * (*o - sign * along);
                        }
                    }
                });
                Ok(out)
            })
        })?;
        Ok(Some(tensor(out, grad)?))
    }
}

fn absolute_sum(x: &[f32]) -> f32 {
    let mut parts = [0.0f32; 16];
    for x in x.chunks(16) {
        parts.iter_mut().zip(x).for_each(|(p, x)| *p += x.abs());
    }
    parts.iter().sum()
}

/// Sum of one embedding per feature: tables `[F * 256, d]`, rows of `F` bytes to rows of `d`.
///
/// A scatter per feature table is the backward pass; Candle's own `index_add` would dominate the training time.
pub(super) struct Embed {
    /// `[positions][features]`.
    pub bytes: std::sync::Arc<Vec<u8>>,
    pub features: usize,
}

impl CustomOp1 for Embed {
    fn name(&self) -> &'static str {
        "embed"
    }

    fn cpu_fwd(&self, s: &CpuStorage, l: &Layout) -> Result<(CpuStorage, Shape)> {
        let (_, d) = l.shape().dims2()?;
        let table = floats(s, l)?;
        let positions = self.bytes.len() / self.features;
        let mut out = vec![0.0f32; positions * d];
        let rows = self.bytes.chunks(64 * self.features);
        out.chunks_mut(64 * d).zip(rows).for_each(|(out, bytes)| {
            for (o, bytes) in out
                .chunks_exact_mut(d)
                .zip(bytes.chunks_exact(self.features))
            {
                for (f, &b) in bytes.iter().enumerate() {
                    let at = (f * 256 + usize::from(b)) * d;
                    o.iter_mut()
                        .zip(&table[at..at + d])
                        .for_each(|(o, w)| *o += w);
                }
            }
        });
        Ok((CpuStorage::F32(out), Shape::from((positions, d))))
    }

    fn bwd(&self, arg: &Tensor, _: &Tensor, grad: &Tensor) -> Result<Option<Tensor>> {
        let (_, d) = arg.dims2()?;
        let out = with_floats(grad, |g| {
            let mut out = vec![0.0f32; arg.elem_count()];
            out.chunks_mut(256 * d).enumerate().for_each(|(f, table)| {
                for (bytes, g) in self
                    .bytes
                    .chunks_exact(self.features)
                    .zip(g.chunks_exact(d))
                {
                    let at = usize::from(bytes[f]) * d;
                    table[at..at + d]
                        .iter_mut()
                        .zip(g)
                        .for_each(|(t, g)| *t += g);
                }
            });
            Ok(out)
        })?;
        Ok(Some(tensor(out, arg)?))
    }
}

#[cfg(test)]
mod tests {
    /// Numerators around every multiple are the only ones that could round the wrong way.
    fn check(n: i32, s: i32) {
        assert_eq!(
            (n as f32 / s as f32).floor() as i32,
            n.div_euclid(s),
            "{n} / {s}"
        );
    }

    #[test]
    fn f32_floor_division_of_attention_is_exact() {
        for s in (127i32..=1027 * 127)
            .step_by(61)
            .chain([127, 128, 1027 * 127])
        {
            for a in -128i32..=128 {
                for n in [a * s - 1, a * s, a * s + 1, a * s + s - 1] {
                    if n.abs() + s < 1 << 24 {
                        check(n, s);
                    }
                }
            }
        }
    }

    #[test]
    fn f32_floor_division_of_norms_is_exact() {
        use crate::engine::arith::{NORM_MEAN, RESIDUAL_MAX, norm_shift};
        for d in [16usize, 32, 64, 96, 128, 256, 512, 1040] {
            let n = (d as i32 * NORM_MEAN) << norm_shift(d);
            for s in 1..=(d as i32 * RESIDUAL_MAX) {
                check(n, s);
            }
        }
    }
}
