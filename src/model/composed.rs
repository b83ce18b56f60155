//! The operations again, composed from Candle's elementary ones: slow, obvious, with Candle's own gradients.
//!
//! Integers come from rounding with the gradient passed straight through: `x + (round(x) - x).detach()`.

use crate::engine::Config;
use crate::engine::arith::{norm_shift, score_shift};
use candle_core::{D, DType, Device, Result, Tensor};

fn straight_through(x: &Tensor, q: &Tensor) -> Result<Tensor> {
    x + (q - x)?.detach()
}

fn rounded(x: &Tensor) -> Result<Tensor> {
    straight_through(x, &(x + 0.5)?.floor()?)
}

/// `clamp(rounding_shift(x, shift), low, high)`.
pub(super) fn requantise(x: &Tensor, shift: u32, low: f64, high: f64) -> Result<Tensor> {
    rounded(&(x / f64::from(1u32 << shift))?)?.clamp(low, high)
}

/// The norm, whose reciprocal's rounding is passed through as well.
pub(super) fn norm(x: &Tensor) -> Result<Tensor> {
    let d = x.dim(D::Minus1)?;
    let q = norm_shift(d);
    let unit = f64::from(1u32 << q);
    let s = x.abs()?.sum_keepdim(D::Minus1)?.maximum(1.0)?;
    let exact = (s.recip()? * (d as f64 * 28.0 * unit))?;
    let n = Tensor::full((d as f64 * 28.0 * unit) as f32, s.shape(), &Device::Cpu)?;
    let r = straight_through(&exact, &n.div(&s)?.floor()?)?;
    rounded(&(x.broadcast_mul(&r)? / unit)?)?.clamp(-127.0, 127.0)
}

/// Attention by masks over all slots of a segment. Shapes as in [`super::attention::Attention`], batch of one.
pub(super) fn attention(c: &Config, qkv: &Tensor, ckv: &Tensor, bias: &Tensor) -> Result<Tensor> {
    let (d, hd, kvw, m) = (c.d(), c.head_dim(), c.kv_width(), &c.compressive_memory);
    let (positions, slots) = (qkv.dim(0)?, ckv.dim(0)?);
    let all = Tensor::cat(&[&qkv.narrow(1, d, 2 * kvw)?, ckv], 0)?;
    // Which bias belongs to a pair, and whether the pair exists.
    let (mut index, mut mask) = (Vec::new(), Vec::new());
    for t in 0..positions {
        let exist = c.compressed_at(t);
        for j in 0..positions {
            let seen = j <= t && j >= m.compression_rate * exist;
            index.push(if seen { (t - j) as u32 } else { 0 });
            mask.push(if seen { 0f32 } else { -1e6 });
        }
        for slot in 0..slots {
            let seen = slot < exist && slot + m.max_compressed_len >= exist;
            index.push(if seen {
                (c.recent_slots() + exist - 1 - slot) as u32
            } else {
                0
            });
            mask.push(if seen { 0f32 } else { -1e6 });
        }
    }
    let n = positions + slots;
    let index = Tensor::from_vec(index, positions * n, &Device::Cpu)?;
    let mask = Tensor::from_vec(mask, (positions, n), &Device::Cpu)?;
    let mut heads = Vec::new();
    for h in 0..c.model.n_heads {
        let g = h * c.kv_heads() / c.model.n_heads;
        let (k, v) = (all.narrow(1, g * hd, hd)?, all.narrow(1, kvw + g * hd, hd)?);
        let products = qkv
            .narrow(1, h * hd, hd)?
            .contiguous()?
            .matmul(&k.t()?.contiguous()?)?;
        let bias = bias
            .get(h)?
            .index_select(&index, 0)?
            .reshape((positions, n))?;
        let s = ((rounded(&(products / f64::from(1u32 << score_shift(hd)))?)? + bias)? + &mask)?;
        let best = s.max_keepdim(1)?.detach();
        let below = s.broadcast_sub(&best)?;
        let smooth = ((&below * (std::f64::consts::LN_2 / 8.0))?.exp()? * 127.0)?;
        let kept = below.ge(-63.5)?.to_dtype(DType::F32)?;
        let e = (straight_through(&smooth, &(&smooth + 0.5)?.floor()?)? * kept)?;
        // The product's gradient is exp's own times e / smooth: close to e, as in the fused form.
        let sum = e.sum_keepdim(1)?;
        let half = (&sum * 0.5)?.floor()?.detach();
        let numerator = e.matmul(&v.contiguous()?)?;
        let exact = numerator.broadcast_div(&sum)?;
        let floor = numerator
            .broadcast_add(&half)?
            .broadcast_div(&sum)?
            .floor()?;
        heads.push(straight_through(&exact, &floor)?);
    }
    Tensor::cat(&heads, 1)
}
