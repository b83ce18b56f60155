//! The running state of a model: memory of up to 16 lanes that advance in lockstep.
//!
//! Lanes never influence each other: a lane's weights are the same whatever the other lanes hold and however many there are.

use super::arith::{INT8_MAX, RESIDUAL_MAX, Reciprocal, clamp8, norm, norm_shift, rounding_shift};
use super::arith::{score_shift, weight_exponent};
use super::kernels::{Job, Line, Ops, biased};
use super::model::Layer;
use super::{Config, EngineError, Model};

/// Most lanes that a state holds.
pub const MAX_LANES: usize = 16;
/// Bias of a slot that is not attended to: far below every score.
const ABSENT: i32 = -(1 << 20);

/// How much of its memory a model attends to. Less than all of it is no way to code, but tells what the rest is worth.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Reach {
    /// The recent window and the compressed memory before it.
    #[default]
    All,
    /// The recent window alone.
    Recent,
    /// Nothing before the present byte.
    Present,
}

/// Memory of up to [`MAX_LANES`] lanes, made for one model and reset at the start of a block.
#[derive(Debug, Clone)]
pub struct State {
    shape: Shape,
    reach: Reach,
    lanes: usize,
    /// Position of the next byte in every lane.
    t: usize,
    /// Keys then values, packed, for `[layer][lane][kv head]`.
    memory: Vec<Line>,
    /// Keys and values of slots that are still within the window: `[layer][lane][slot mod pending]`.
    pending: Vec<i8>,
    /// Normed inputs of the slot that is being filled: `[layer][lane][position][channel]`.
    filling: Vec<i8>,
    scratch: Scratch,
}

/// Sizes that the loops need, from the configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Shape {
    d: usize,
    ffn: usize,
    layers: usize,
    heads: usize,
    kv_heads: usize,
    head_dim: usize,
    window: usize,
    rate: usize,
    compressed: usize,
    recent_slots: usize,
    /// Slots of the rings: recent, rounded up to 16, then compressed, rounded up to 16.
    recent_ring: usize,
    memory_ring: usize,
    pending: usize,
    features: usize,
    shifts: Shifts,
}

/// Exponents of the weights of each kind of matrix, and the shifts of norm and scores.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Shifts {
    d: u32,
    ffn: u32,
    compress: u32,
    norm: u32,
    score: u32,
}

#[derive(Debug, Clone)]
struct Scratch {
    x: Vec<i32>,
    y: Vec<i8>,
    acc: Vec<i32>,
    qkv: Vec<i8>,
    hidden: Vec<i8>,
    bias: Vec<i32>,
    scores: Vec<i32>,
    e: Vec<i8>,
    kv: Vec<i8>,
}

impl Shape {
    fn new(c: &Config) -> Self {
        let m = &c.compressive_memory;
        Shape {
            d: c.d(),
            ffn: c.ffn(),
            layers: c.model.n_layers,
            heads: c.model.n_heads,
            kv_heads: c.kv_heads(),
            head_dim: c.head_dim(),
            window: m.window_size,
            rate: m.compression_rate,
            compressed: m.max_compressed_len,
            recent_slots: c.recent_slots(),
            recent_ring: c.recent_slots().next_multiple_of(16),
            memory_ring: m.max_compressed_len.next_multiple_of(16),
            pending: m.window_size / m.compression_rate + 2,
            features: c.model.features.len(),
            shifts: Shifts {
                d: weight_exponent(c.d()),
                ffn: weight_exponent(c.ffn()),
                compress: weight_exponent(c.d() * m.compression_rate),
                norm: norm_shift(c.d()),
                score: score_shift(c.head_dim()),
            },
        }
    }

    fn slots(&self) -> usize {
        self.recent_ring + self.memory_ring
    }

    fn kv(&self) -> usize {
        self.kv_heads * self.head_dim
    }

    /// Lines of the keys, and of the values, of one head.
    fn lines(&self) -> usize {
        self.slots() * self.head_dim / 64
    }

    /// Slots of compressed memory that exist at `t`.
    fn compressed_at(&self, t: usize) -> usize {
        (t + 1).saturating_sub(self.window) / self.rate
    }
}

impl State {
    /// An empty state for `lanes` lanes.
    ///
    /// # Errors
    /// [`EngineError::Lanes`] if `lanes` is 0 or above [`MAX_LANES`].
    pub fn new(model: &Model, lanes: usize) -> Result<Self, EngineError> {
        if !(1..=MAX_LANES).contains(&lanes) {
            return Err(EngineError::Lanes(lanes));
        }
        let shape = Shape::new(model.config());
        let s = &shape;
        let widest = (s.d + 2 * s.kv()).max(s.ffn).max(256);
        let per_layer = s.layers * lanes;
        Ok(State {
            lanes,
            t: 0,
            memory: vec![Line::ZERO; per_layer * s.kv_heads * 2 * s.lines()],
            pending: vec![0; per_layer * s.pending * 2 * s.kv()],
            filling: vec![0; per_layer * s.rate * s.d],
            scratch: Scratch {
                x: vec![0; lanes * s.d],
                y: vec![0; lanes * s.d],
                acc: vec![0; lanes * widest],
                qkv: vec![0; lanes * (s.d + 2 * s.kv())],
                hidden: vec![0; lanes * s.ffn],
                bias: vec![0; s.heads * s.slots()],
                scores: vec![0; s.heads * s.slots().max(s.head_dim)],
                e: vec![0; s.heads * s.slots()],
                kv: vec![0; 2 * s.kv()],
            },
            shape,
            reach: Reach::All,
        })
    }

    /// Attends to so much of its memory from now on.
    #[must_use]
    pub fn reaching(mut self, reach: Reach) -> Self {
        self.reach = reach;
        self
    }

    /// Forgets everything: the next step is the first of a block.
    pub fn reset(&mut self) {
        // What lies in the rings is never attended to before it is written again.
        self.t = 0;
    }

    /// Bytes that it takes.
    #[must_use]
    pub fn memory(&self) -> usize {
        let s = &self.scratch;
        let words = [&s.x, &s.acc, &s.bias, &s.scores];
        let bytes = [&s.y, &s.qkv, &s.hidden, &s.e, &s.kv];
        size_of_val(&self.memory[..])
            + self.pending.len()
            + self.filling.len()
            + words.iter().map(|w| size_of_val(&w[..])).sum::<usize>()
            + bytes.iter().map(|b| b.len()).sum::<usize>()
    }

    /// Number of lanes.
    #[must_use]
    pub fn lanes(&self) -> usize {
        self.lanes
    }

    /// Advances the first `active` lanes by one byte.
    ///
    /// `features` holds the feature bytes of every lane, lane by lane; `weights[lane]` receives the weights (1 to 65536)
    /// of the 256 values of the lane's next byte. A lane that is not active at a step stays inactive until [`State::reset`].
    ///
    /// # Panics
    /// If the state was made for another architecture, or if a slice is too short for `active` lanes.
    pub fn step(
        &mut self,
        model: &Model,
        features: &[u8],
        active: usize,
        weights: &mut [[u32; 256]],
    ) {
        assert!(
            self.shape == Shape::new(model.config()),
            "state and model differ in shape"
        );
        assert!(
            active <= self.lanes
                && features.len() >= active * self.shape.features
                && weights.len() >= active
        );
        model.kernel().run(Step {
            state: self,
            model,
            features,
            active,
            weights,
        });
    }
}

struct Step<'a> {
    state: &'a mut State,
    model: &'a Model,
    features: &'a [u8],
    active: usize,
    weights: &'a mut [[u32; 256]],
}

impl Job for Step<'_> {
    #[inline(always)]
    fn run<O: Ops>(self) {
        let Step {
            state,
            model,
            features,
            active,
            weights,
        } = self;
        let s = &state.shape;
        let (d, shifts) = (s.d, s.shifts);
        let work = &mut state.scratch;
        embed(model, features, s.features, d, &mut work.x[..active * d]);
        for (i, layer) in model.layers.iter().enumerate() {
            norm_all(&work.x[..active * d], &mut work.y, d, shifts.norm);
            let mut memory = Memory {
                s,
                reach: state.reach,
                lanes: state.lanes,
                layer: i,
                t: state.t,
                lines: &mut state.memory,
                pending: &mut state.pending,
                filling: &mut state.filling,
            };
            attention::<O>(&mut memory, layer, work, active);
            add::<O>(
                &work.y,
                active,
                &layer.o,
                shifts.d - 1,
                &mut work.acc,
                &mut work.x,
            );
            norm_all(&work.x[..active * d], &mut work.y, d, shifts.norm);
            gemm::<O>(&work.y, active, &layer.up, &mut work.acc);
            for (h, &a) in work.hidden.iter_mut().zip(&work.acc[..active * s.ffn]) {
                *h = rounding_shift(a, shifts.d).clamp(0, INT8_MAX) as i8;
            }
            add::<O>(
                &work.hidden,
                active,
                &layer.down,
                shifts.ffn - 1,
                &mut work.acc,
                &mut work.x,
            );
        }
        norm_all(&work.x[..active * d], &mut work.y, d, shifts.norm);
        gemm::<O>(&work.y, active, &model.head, &mut work.acc);
        for (logits, out) in work
            .acc
            .chunks_exact_mut(256)
            .zip(weights.iter_mut())
            .take(active)
        {
            for l in logits.iter_mut() {
                *l = rounding_shift(*l, shifts.d - 1);
            }
            O::byte_weights(logits, out);
        }
        state.t += 1;
    }
}

/// Sums the embeddings of each lane's feature bytes: at most 16 of at most 127, below the residual stream's clamp.
#[inline(always)]
fn embed(model: &Model, features: &[u8], count: usize, d: usize, x: &mut [i32]) {
    for (x, bytes) in x.chunks_exact_mut(d).zip(features.chunks_exact(count)) {
        for (part, x) in x.chunks_exact_mut(16).enumerate() {
            let mut sum = [0i16; 16];
            for (f, &byte) in bytes.iter().enumerate() {
                let at = (f * 256 + usize::from(byte)) * d + part * 16;
                for (s, &w) in sum.iter_mut().zip(&model.embedding[at..at + 16]) {
                    *s += i16::from(w);
                }
            }
            x.iter_mut().zip(sum).for_each(|(x, s)| *x = i32::from(s));
        }
    }
}

#[inline(always)]
fn norm_all(x: &[i32], y: &mut [i8], d: usize, q: u32) {
    for (x, y) in x.chunks_exact(d).zip(y.chunks_exact_mut(d)) {
        norm(x, y, q);
    }
}

#[inline(always)]
fn gemm<O: Ops>(x: &[i8], lanes: usize, w: &super::kernels::Packed, out: &mut [i32]) {
    O::gemm(x, lanes, &w.lines, w.n, w.k, out);
}

/// Adds `w y` to the residual stream.
#[inline(always)]
fn add<O: Ops>(
    y: &[i8],
    lanes: usize,
    w: &super::kernels::Packed,
    shift: u32,
    acc: &mut [i32],
    x: &mut [i32],
) {
    gemm::<O>(y, lanes, w, acc);
    for (x, &a) in x.iter_mut().zip(&acc[..lanes * w.n]) {
        *x = (*x + rounding_shift(a, shift)).clamp(-RESIDUAL_MAX, RESIDUAL_MAX);
    }
}

#[inline(always)]
fn requantise(acc: &[i32], shift: u32, out: &mut [i8]) {
    for (o, &a) in out.iter_mut().zip(acc) {
        *o = clamp8(rounding_shift(a, shift)) as i8;
    }
}

/// One layer's memory of all lanes, at one step.
struct Memory<'a> {
    s: &'a Shape,
    reach: Reach,
    lanes: usize,
    layer: usize,
    t: usize,
    lines: &'a mut [Line],
    pending: &'a mut [i8],
    filling: &'a mut [i8],
}

impl Memory<'_> {
    /// Keys and values of one head, packed.
    #[inline(always)]
    fn head(&mut self, lane: usize, head: usize) -> (&mut [Line], &mut [Line]) {
        let n = self.s.lines();
        let at = ((self.layer * self.lanes + lane) * self.s.kv_heads + head) * 2 * n;
        self.lines[at..at + 2 * n].split_at_mut(n)
    }

    /// Writes a lane's keys and values, `[keys of all heads][values of all heads]`, to a slot.
    #[inline(always)]
    fn store(&mut self, lane: usize, slot: usize, kv: &[i8]) {
        let (hd, slots) = (self.s.head_dim, self.s.slots());
        let (k, v) = kv.split_at(self.s.kv());
        for (g, (k, v)) in k.chunks_exact(hd).zip(v.chunks_exact(hd)).enumerate() {
            let (keys, values) = self.head(lane, g);
            let keys = &mut keys[slot / 16 * (hd / 4)..][..hd / 4];
            for (line, k) in keys.iter_mut().zip(k.chunks_exact(4)) {
                for (o, &k) in line.0[slot % 16 * 4..][..4].iter_mut().zip(k) {
                    *o = biased(k);
                }
            }
            for (tile, v) in v.chunks_exact(16).enumerate() {
                let line = &mut values[tile * (slots / 4) + slot / 4].0;
                for (o, &v) in line.chunks_exact_mut(4).zip(v) {
                    o[slot % 4] = biased(v);
                }
            }
        }
    }

    /// Moves a slot that has left the window to compressed memory.
    #[inline(always)]
    fn mature(&mut self, lane: usize, slot: usize, kv: &mut [i8]) {
        kv.copy_from_slice(self.pending(lane, slot));
        self.store(lane, self.s.recent_ring + slot % self.s.memory_ring, kv);
    }

    #[inline(always)]
    fn pending(&mut self, lane: usize, slot: usize) -> &mut [i8] {
        let (p, width) = (self.s.pending, 2 * self.s.kv());
        let at = ((self.layer * self.lanes + lane) * p + slot % p) * width;
        &mut self.pending[at..at + width]
    }

    /// Keeps the normed inputs of this position; when they complete a slot, computes its keys and values.
    #[inline(always)]
    fn fill<O: Ops>(&mut self, layer: &Layer, work: &mut Scratch, active: usize) {
        let (d, rate, width) = (self.s.d, self.s.rate, self.s.rate * self.s.d);
        let base = self.layer * self.lanes * width;
        for lane in 0..active {
            let at = base + lane * width + self.t % rate * d;
            self.filling[at..at + d].copy_from_slice(&work.y[lane * d..(lane + 1) * d]);
        }
        if self.t % rate != rate - 1 {
            return;
        }
        gemm::<O>(
            &self.filling[base..base + self.lanes * width],
            active,
            &layer.compress,
            &mut work.acc,
        );
        requantise(&work.acc[..active * d], self.s.shifts.compress, &mut work.y);
        gemm::<O>(&work.y, active, &layer.kv, &mut work.acc);
        let kv = 2 * self.s.kv();
        for lane in 0..active {
            let slot = self.t / rate;
            requantise(
                &work.acc[lane * kv..(lane + 1) * kv],
                self.s.shifts.d,
                self.pending(lane, slot),
            );
        }
    }

    /// The bias of every slot for every head, [`ABSENT`] where a slot is not attended to.
    #[inline(always)]
    fn biases(&self, layer: &Layer, out: &mut [i32]) {
        let s = self.s;
        let compressed = s.compressed_at(self.t);
        let window = self.t + 1 - s.rate * compressed;
        let (recent, attended) = match self.reach {
            Reach::All => (window, compressed.min(s.compressed)),
            Reach::Recent => (window, 0),
            Reach::Present => (1, 0),
        };
        out.fill(ABSENT);
        // The newest slot of each ring; distances go down from there, around the end of the ring.
        let newest = self.t % s.recent_ring;
        let newest_compressed = (compressed + s.memory_ring - 1) % s.memory_ring;
        for (h, row) in out.chunks_exact_mut(s.slots()).enumerate() {
            let (row, compressed_row) = row.split_at_mut(s.recent_ring);
            let bias = &layer.bias_recent[h * s.recent_slots..(h + 1) * s.recent_slots];
            backwards(row, newest, &bias[..recent]);
            let bias = &layer.bias_memory[h * s.compressed..(h + 1) * s.compressed];
            backwards(compressed_row, newest_compressed, &bias[..attended]);
        }
    }
}

/// Writes `values` to `ring`, the first at `newest`, the following ones before it.
#[inline(always)]
fn backwards(ring: &mut [i32], newest: usize, values: &[i8]) {
    let (near, far) = values.split_at(values.len().min(newest + 1));
    let (low, high) = ring.split_at_mut(newest + 1);
    for (slot, &v) in low.iter_mut().rev().zip(near) {
        *slot = i32::from(v);
    }
    for (slot, &v) in high.iter_mut().rev().zip(far) {
        *slot = i32::from(v);
    }
}

/// From the normed stream in `work.y` to the heads' outputs in `work.y`.
#[inline(always)]
fn attention<O: Ops>(memory: &mut Memory<'_>, layer: &Layer, work: &mut Scratch, active: usize) {
    let s = memory.s;
    let (d, hd, slots, t) = (s.d, s.head_dim, s.slots(), memory.t);
    let width = d + 2 * s.kv();
    gemm::<O>(&work.y, active, &layer.qkv, &mut work.acc);
    requantise(&work.acc[..active * width], s.shifts.d, &mut work.qkv);
    memory.fill::<O>(layer, work, active);
    let compressed = s.compressed_at(t);
    let matured = t > 0 && compressed > s.compressed_at(t - 1);
    memory.biases(layer, &mut work.bias);
    let group = s.heads / s.kv_heads;
    for lane in 0..active {
        let (q, kv) = work.qkv[lane * width..(lane + 1) * width].split_at(d);
        memory.store(lane, t % s.recent_ring, kv);
        if matured {
            memory.mature(lane, compressed - 1, &mut work.kv);
        }
        for g in 0..s.kv_heads {
            let (keys, values) = memory.head(lane, g);
            let heads = g * group..(g + 1) * group;
            O::gemm(
                &q[heads.start * hd..heads.end * hd],
                group,
                keys,
                slots,
                hd,
                &mut work.scores,
            );
            let mut sums = [0u32; 128];
            for (i, h) in heads.clone().enumerate() {
                sums[i] = O::softmax(
                    &mut work.scores[i * slots..(i + 1) * slots],
                    s.shifts.score,
                    &work.bias[h * slots..(h + 1) * slots],
                    &mut work.e[i * slots..(i + 1) * slots],
                );
            }
            O::gemm(&work.e, group, values, hd, slots, &mut work.scores);
            let out = &mut work.y[lane * d + heads.start * hd..lane * d + heads.end * hd];
            for ((out, acc), &sum) in out
                .chunks_exact_mut(hd)
                .zip(work.scores.chunks_exact(hd))
                .zip(&sums)
            {
                // floor((acc + sum / 2) / sum), moved up by 128 so that it is a division of naturals.
                let by = Reciprocal::new(sum);
                let lift = (sum / 2 + 128 * sum) as i32;
                for (o, &a) in out.iter_mut().zip(acc) {
                    *o = (by.divide((a + lift) as u32) as i32 - 128) as i8;
                }
            }
        }
    }
}

#[cfg(test)]
#[path = "state_tests.rs"]
mod tests;
