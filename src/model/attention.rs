//! Attention over the recent window and the compressed memory, for all positions of a segment at once.
//!
//! Only the slots that a position really attends to are touched, so a segment costs the same per byte
//! whatever its length. The rules are those of [`crate::engine`]; slot lists are contiguous ranges, so biases are kept
//! reversed, newest slot last.

use super::ops::{floats, floor, rounding_shift, scale, with_floats};
use crate::engine::Config;
use crate::engine::arith::score_shift;
use crate::engine::tables::EXP_EIGHTHS;
use candle_core::{CpuStorage, CustomOp3, Layout, Result, Shape, Tensor};

/// Inputs: `[batch, positions, d + 2 kv]` queries, keys and values; `[batch, slots, 2 kv]` compressed keys and
/// values; `[heads, recent + compressed]` biases. Output: `[batch, positions, d]`.
pub(super) struct Attention {
    pub config: Config,
}

/// One segment's inputs, keys and values also by channel so that inner loops run along the slots.
struct Segment<'a> {
    c: &'a Config,
    positions: usize,
    qkv: &'a [f32],
    /// `[slot][2 kv]`: positions first, then compressed slots.
    kv: Vec<f32>,
    /// `[2 kv][slot]`, rows of `row` values: the slots and 16 more, so that loops may run over the end.
    by_channel: Vec<f32>,
    row: usize,
    /// `[head]`: recent biases reversed, then compressed ones reversed.
    bias: &'a [Vec<f32>],
}

/// The slots of one position: two ranges of the segment's slots.
struct Slots {
    parts: [Part; 2],
}

#[derive(Clone, Copy)]
struct Part {
    /// First slot of the segment, number of slots.
    first: usize,
    len: usize,
    /// Where the biases of the range start, where its weights start in a row of weights.
    bias: usize,
    weight: usize,
}

impl<'a> Segment<'a> {
    fn new(c: &'a Config, qkv: &'a [f32], ckv: &[f32], bias: &'a [Vec<f32>]) -> Self {
        let (d, kvw) = (c.d(), 2 * c.kv_width());
        let positions = qkv.len() / (d + kvw);
        let mut kv: Vec<f32> = Vec::with_capacity(positions * kvw + ckv.len());
        qkv.chunks_exact(d + kvw)
            .for_each(|row| kv.extend_from_slice(&row[d..]));
        kv.extend_from_slice(ckv);
        let row = kv.len() / kvw + LANES;
        let mut by_channel = vec![0.0; row * kvw];
        for (slot, values) in kv.chunks_exact(kvw).enumerate() {
            for (i, &v) in values.iter().enumerate() {
                by_channel[i * row + slot] = v;
            }
        }
        Segment {
            c,
            positions,
            qkv,
            kv,
            by_channel,
            row,
            bias,
        }
    }

    fn slots(&self, t: usize) -> Slots {
        let m = &self.c.compressive_memory;
        let exist = self.c.compressed_at(t);
        let (oldest, recent) = (
            exist.saturating_sub(m.max_compressed_len),
            self.c.recent_slots(),
        );
        let (first, old) = (m.compression_rate * exist, exist - oldest);
        let len = t + 1 - first;
        Slots {
            parts: [
                Part {
                    first,
                    len,
                    bias: recent - len,
                    weight: 0,
                },
                Part {
                    first: self.positions + oldest,
                    len: old,
                    bias: recent + m.max_compressed_len - old,
                    weight: recent.next_multiple_of(LANES),
                },
            ],
        }
    }

    /// Length of a row of weights: one per slot, each range rounded up.
    fn weights_len(&self) -> usize {
        let compressed = self.c.compressive_memory.max_compressed_len;
        self.c.recent_slots().next_multiple_of(LANES) + compressed.next_multiple_of(LANES)
    }

    /// `out[g][j] = sum_i x[g][i] * channel(first + i)[slot j]` for `G` heads, over the slots of a position.
    fn along_slots<const G: usize>(&self, x: &[f32], first: usize, slots: &Slots, out: &mut [f32]) {
        let (hd, n) = (self.c.head_dim(), self.weights_len());
        for part in slots.parts {
            for at in (0..part.len).step_by(LANES) {
                let mut acc = [[0.0; LANES]; G];
                for i in 0..hd {
                    let row = chunk(&self.by_channel, (first + i) * self.row + part.first + at);
                    for (g, acc) in acc.iter_mut().enumerate() {
                        multiply_add(acc, x[g * hd + i], row);
                    }
                }
                for (g, acc) in acc.iter().enumerate() {
                    out[g * n + part.weight + at..][..LANES].copy_from_slice(acc);
                }
            }
        }
    }

    /// `out[g][i] = sum_j w[g][j] * slot j[first + i]` for `G` heads, over the slots of a position.
    fn along_channels<const G: usize>(
        &self,
        w: &[f32],
        first: usize,
        slots: &Slots,
        out: &mut [f32],
    ) {
        let (hd, n, kvw) = (self.c.head_dim(), self.weights_len(), 2 * self.c.kv_width());
        for channel in (0..hd).step_by(LANES) {
            let mut acc = [[0.0; LANES]; G];
            for part in slots.parts {
                for j in 0..part.len {
                    let row = chunk(&self.kv, (part.first + j) * kvw + first + channel);
                    for (g, acc) in acc.iter_mut().enumerate() {
                        multiply_add(acc, w[g * n + part.weight + j], row);
                    }
                }
            }
            for (g, acc) in acc.iter().enumerate() {
                out[g * hd + channel..][..LANES].copy_from_slice(acc);
            }
        }
    }

    /// `out[slot j][first + i] += sum_g w[g][j] * x[g][i]` for `G` heads, over the slots of a position.
    fn scatter<const G: usize>(
        &self,
        w: &[f32],
        x: &[f32],
        first: usize,
        slots: &Slots,
        out: &mut [f32],
    ) {
        let (hd, n, kvw) = (self.c.head_dim(), self.weights_len(), 2 * self.c.kv_width());
        for channel in (0..hd).step_by(LANES) {
            let x: [[f32; LANES]; G] = std::array::from_fn(|g| *chunk(x, g * hd + channel));
            for part in slots.parts {
                for j in 0..part.len {
                    let at = (part.first + j) * kvw + first + channel;
                    let mut row = *chunk(out, at);
                    for (g, x) in x.iter().enumerate() {
                        multiply_add(&mut row, w[g * n + part.weight + j], x);
                    }
                    out[at..at + LANES].copy_from_slice(&row);
                }
            }
        }
    }

    fn queries(&self, t: usize, head: usize, heads: usize) -> &[f32] {
        let (d, hd) = (self.c.d(), self.c.head_dim());
        let at = t * (d + 2 * self.c.kv_width()) + head * hd;
        &self.qkv[at..at + heads * hd]
    }

    /// The weights `e` of the slots of position `t` for `G` heads, and their sums. Gaps between the ranges hold 0.
    fn weights<const G: usize>(
        &self,
        t: usize,
        head: usize,
        key: usize,
        slots: &Slots,
        e: &mut [f32],
    ) -> [f32; G] {
        self.along_slots::<G>(self.queries(t, head, G), key, slots, e);
        let k = scale(score_shift(self.c.head_dim()));
        std::array::from_fn(|g| {
            let row = &mut e[g * self.weights_len()..(g + 1) * self.weights_len()];
            let mut best = f32::MIN;
            for part in slots.parts {
                let bias = &self.bias[head + g][part.bias..part.bias + part.len];
                for (s, b) in row[part.weight..part.weight + part.len]
                    .iter_mut()
                    .zip(bias)
                {
                    *s = rounding_shift(*s, k) + b;
                    best = best.max(*s);
                }
            }
            let mut sum = 0.0;
            for part in slots.parts {
                for s in &mut row[part.weight..part.weight + part.len] {
                    *s = WEIGHTS[(best - *s).min(64.0) as usize & 127];
                    sum += *s;
                }
            }
            sum
        })
    }

    /// Runs `step` for every group of one, two or four heads that share keys: first head, number, first key channel.
    fn groups(&self, mut step: impl FnMut(usize, usize, usize)) {
        let shared = self.c.model.n_heads / self.c.kv_heads();
        for g in 0..self.c.kv_heads() {
            let mut done = 0;
            while done < shared {
                let n = match shared - done {
                    4.. => 4,
                    2.. => 2,
                    _ => 1,
                };
                step(g * shared + done, n, g * self.c.head_dim());
                done += n;
            }
        }
    }

    fn forward(&self, out: &mut [f32]) {
        let (d, mut e) = (self.c.d(), vec![0.0; 4 * self.weights_len()]);
        for (t, out) in out.chunks_exact_mut(d).enumerate() {
            let slots = self.slots(t);
            self.groups(|head, n, key| match n {
                4 => self.forward_heads::<4>(t, head, key, &slots, &mut e, out),
                2 => self.forward_heads::<2>(t, head, key, &slots, &mut e, out),
                _ => self.forward_heads::<1>(t, head, key, &slots, &mut e, out),
            });
        }
    }

    fn forward_heads<const G: usize>(
        &self,
        t: usize,
        head: usize,
        key: usize,
        slots: &Slots,
        e: &mut [f32],
        out: &mut [f32],
    ) {
        let hd = self.c.head_dim();
        let sums = self.weights::<G>(t, head, key, slots, e);
        let out = &mut out[head * hd..(head + G) * hd];
        self.along_channels::<G>(e, key + self.c.kv_width(), slots, out);
        for (out, sum) in out.chunks_exact_mut(hd).zip(sums) {
            let half = floor(sum * 0.5);
            out.iter_mut().for_each(|o| *o = floor((*o + half) / sum));
        }
    }

    /// Gradients of `qkv`, of the compressed slots, and of the biases (as in [`Segment::bias`]).
    fn backward(&self, grad: &[f32]) -> Gradients {
        let (d, kvw) = (self.c.d(), 2 * self.c.kv_width());
        let mut back = Backward {
            dq: vec![0.0; self.positions * d],
            dkv: vec![0.0; self.kv.len()],
            dbias: self.bias.iter().map(|b| vec![0.0; b.len()]).collect(),
            p: vec![0.0; 4 * self.weights_len()],
            dp: vec![0.0; 4 * self.weights_len()],
        };
        for t in 0..self.positions {
            let slots = self.slots(t);
            let grad = &grad[t * d..(t + 1) * d];
            self.groups(|head, n, key| match n {
                4 => self.backward_heads::<4>(t, head, key, &slots, grad, &mut back),
                2 => self.backward_heads::<2>(t, head, key, &slots, grad, &mut back),
                _ => self.backward_heads::<1>(t, head, key, &slots, grad, &mut back),
            });
        }
        let (recent, compressed) = back.dkv.split_at(self.positions * kvw);
        let mut dqkv = Vec::with_capacity(self.qkv.len());
        for (q, kv) in back.dq.chunks_exact(d).zip(recent.chunks_exact(kvw)) {
            dqkv.extend_from_slice(q);
            dqkv.extend_from_slice(kv);
        }
        Gradients {
            dqkv,
            dckv: compressed.to_vec(),
            dbias: back.dbias,
        }
    }

    fn backward_heads<const G: usize>(
        &self,
        t: usize,
        head: usize,
        key: usize,
        slots: &Slots,
        grad: &[f32],
        back: &mut Backward,
    ) {
        let (d, hd, n) = (self.c.d(), self.c.head_dim(), self.weights_len());
        let value = key + self.c.kv_width();
        let grad = &grad[head * hd..(head + G) * hd];
        let sums = self.weights::<G>(t, head, key, slots, &mut back.p);
        self.along_slots::<G>(grad, value, slots, &mut back.dp);
        let k = scale(score_shift(hd));
        for (g, sum) in sums.into_iter().enumerate() {
            let (p, dp) = (
                &mut back.p[g * n..(g + 1) * n],
                &mut back.dp[g * n..(g + 1) * n],
            );
            let mut mean = 0.0;
            for part in slots.parts {
                let range = part.weight..part.weight + part.len;
                for (p, dp) in p[range.clone()].iter_mut().zip(&dp[range]) {
                    *p /= sum;
                    mean += *p * dp;
                }
            }
            // The exponent's base is 2^(1/8).
            let rate = std::f32::consts::LN_2 / 8.0;
            for part in slots.parts {
                let range = part.weight..part.weight + part.len;
                let bias = &mut back.dbias[head + g][part.bias..part.bias + part.len];
                let row = p[range.clone()].iter().zip(&mut dp[range]);
                for (b, (p, dp)) in bias.iter_mut().zip(row) {
                    let s = rate * p * (*dp - mean);
                    *b += s;
                    *dp = s * k;
                }
            }
        }
        let at = t * d + head * hd;
        self.along_channels::<G>(&back.dp, key, slots, &mut back.dq[at..at + G * hd]);
        self.scatter::<G>(
            &back.dp,
            self.queries(t, head, G),
            key,
            slots,
            &mut back.dkv,
        );
        self.scatter::<G>(&back.p, grad, value, slots, &mut back.dkv);
    }
}

struct Backward {
    dq: Vec<f32>,
    dkv: Vec<f32>,
    dbias: Vec<Vec<f32>>,
    p: Vec<f32>,
    dp: Vec<f32>,
}

/// Floats that inner loops handle at once.
const LANES: usize = 16;

/// [`EXP_EIGHTHS`] and zeros.
const WEIGHTS: [f32; 128] = {
    let mut t = [0.0; 128];
    let mut i = 0;
    while i < EXP_EIGHTHS.len() {
        t[i] = EXP_EIGHTHS[i] as f32;
        i += 1;
    }
    t
};

#[inline(always)]
fn chunk(all: &[f32], at: usize) -> &[f32; LANES] {
    all[at..].first_chunk().expect("rows are padded")
}

#[inline(always)]
fn multiply_add(acc: &mut [f32; LANES], x: f32, row: &[f32; LANES]) {
    for (a, r) in acc.iter_mut().zip(row) {
        // Without the instruction a fused multiply-add would be a slow call.
        *a = if cfg!(target_feature = "fma") {
            x.mul_add(*r, *a)
        } else {
            x * r + *a
        };
    }
}

struct Gradients {
    dqkv: Vec<f32>,
    dckv: Vec<f32>,
    dbias: Vec<Vec<f32>>,
}

impl Attention {
    /// Recent and compressed biases of every head, each part reversed. Its own inverse.
    fn reversed(&self, bias: &[f32]) -> Vec<Vec<f32>> {
        let recent = self.config.recent_slots();
        let width = recent + self.config.compressive_memory.max_compressed_len;
        bias.chunks_exact(width)
            .map(|row| {
                row[..recent]
                    .iter()
                    .rev()
                    .chain(row[recent..].iter().rev())
                    .copied()
                    .collect()
            })
            .collect()
    }
}

impl CustomOp3 for Attention {
    fn name(&self) -> &'static str {
        "compressive-attention"
    }

    fn cpu_fwd(
        &self,
        s1: &CpuStorage,
        l1: &Layout,
        s2: &CpuStorage,
        l2: &Layout,
        s3: &CpuStorage,
        l3: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let (batch, positions, width) = l1.shape().dims3()?;
        let (qkv, ckv, bias) = (
            floats(s1, l1)?,
            floats(s2, l2)?,
            self.reversed(floats(s3, l3)?),
        );
        let d = self.config.d();
        let mut out = vec![0.0; batch * positions * d];
        let inputs = qkv.chunks(positions * width).enumerate();
        out.chunks_mut(positions * d)
            .zip(inputs)
            .for_each(|(out, (b, qkv))| {
                Segment::new(&self.config, qkv, part(ckv, batch, b), &bias).forward(out);
            });
        Ok((CpuStorage::F32(out), Shape::from((batch, positions, d))))
    }

    fn bwd(
        &self,
        qkv: &Tensor,
        ckv: &Tensor,
        bias: &Tensor,
        _: &Tensor,
        grad: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        let batch = qkv.dim(0)?;
        let reversed = with_floats(bias, |b| Ok(self.reversed(b)))?;
        let all: Vec<Gradients> = with_floats(qkv, |q| {
            with_floats(ckv, |c| {
                with_floats(grad, |g| {
                    let of = |b| {
                        Segment::new(
                            &self.config,
                            part(q, batch, b),
                            part(c, batch, b),
                            &reversed,
                        )
                        .backward(part(g, batch, b))
                    };
                    Ok((0..batch).map(of).collect())
                })
            })
        })?;
        let join = |f: fn(&Gradients) -> &Vec<f32>| {
            all.iter().flat_map(|g| f(g).iter().copied()).collect()
        };
        // Summed in the order of the batch: the same on every run.
        let mut dbias = vec![0.0; bias.elem_count()];
        for g in &all {
            let flat: Vec<f32> = g.dbias.concat();
            dbias.iter_mut().zip(flat).for_each(|(d, g)| *d += g);
        }
        let dbias: Vec<f32> = self.reversed(&dbias).concat();
        Ok((
            Some(super::ops::tensor(join(|g| &g.dqkv), qkv)?),
            Some(super::ops::tensor(join(|g| &g.dckv), ckv)?),
            Some(super::ops::tensor(dbias, bias)?),
        ))
    }
}

/// The `b`-th of `batch` equal parts.
fn part(all: &[f32], batch: usize, b: usize) -> &[f32] {
    let n = all.len() / batch;
    &all[b * n..(b + 1) * n]
}
