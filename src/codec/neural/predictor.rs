//! The predictor: statistics, mixer and final correction of one block.
//!
//! Within a step, the lanes' half bytes are coded one after another: lane 0's first four bits, lane 1's, ..., then lane
//! 0's last four bits, and so on. Each bit is predicted from everything coded before it and learnt at once.

use super::apm::{self, Apm, Cell};
use super::contexts::{CONTEXTS, Near, contexts, sizes};
use super::history::{self, Histories};
use super::initial::Initial;
use super::inputs::{self, Inputs};
use super::kernels::Kernel;
use super::lane::{Finder, Lane, NONE};
use super::mixer::{FINAL_ROWS, Mix, Mixer};
#[cfg(test)]
use super::mixer::{INPUTS, SETS};
use super::net::Tree;
use super::plan::{Kind, MAX_LANES, Plan};
use super::slots::{RATE, Slots};
use super::tables::{squash, stretch};

/// First input after the contexts' three groups.
const EXTRA: usize = 3 * CONTEXTS;

/// Lanes whose bits are predicted together, before either learns its own.
pub(super) const PAIR: usize = 2;

/// A lane's contexts for the current byte, and what its current bit is predicted from.
#[derive(Clone)]
struct Work {
    hashes: [u32; CONTEXTS],
    near: Near,
    buckets: [u32; CONTEXTS],
    inputs: Inputs,
    mix: Mix,
    cells: [Cell; 2],
    match_cell: u32,
    /// Bits of this byte so far behind a leading 1.
    partial: u32,
    /// The byte that the match expects, behind a leading 1; 0: none.
    expected: u32,
    /// The network's prediction of the byte.
    tree: Tree,
}

/// The adaptive state of one block.
pub(super) struct Predictor {
    plan: Plan,
    pub(super) lanes: Vec<Lane>,
    finder: Finder,
    slots: Slots,
    histories: Histories,
    mixer: Mixer,
    apms: [Apm; 2],
    matches: Vec<u32>,
    work: Vec<Work>,
    /// Whether this block has a network.
    net: bool,
    initial: [Initial; 2],
    /// One row for every weight set: how the start state is learnt.
    #[cfg(test)]
    pub(super) one_row: bool,
    rate: i32,
    step: i32,
}

impl Default for Predictor {
    fn default() -> Self {
        Self::new()
    }
}

impl Predictor {
    pub(super) fn new() -> Self {
        let work = Work {
            hashes: [0; CONTEXTS],
            near: Near::default(),
            buckets: [0; CONTEXTS],
            inputs: Inputs::new(),
            mix: Mix::new(),
            cells: [Cell::default(); 2],
            match_cell: NONE,
            partial: 1,
            expected: 0,
            tree: Tree::new(),
        };
        Predictor {
            plan: Plan {
                lanes: 1,
                kind: Kind::Binary,
                stride: 0,
                phase: 0,
            },
            lanes: Vec::new(),
            finder: Finder::new(),
            slots: Slots::new(),
            histories: Histories::new(),
            mixer: Mixer::new(),
            apms: [Apm::new(), Apm::new()],
            matches: Vec::new(),
            net: false,
            work: vec![work; MAX_LANES],
            initial: [Initial::learnt(Kind::Binary), Initial::learnt(Kind::Text)],
            #[cfg(test)]
            one_row: false,
            rate: 0,
            step: 0,
        }
    }

    /// Forgets everything and prepares for a block of `len` bytes.
    pub(super) fn reset(&mut self, plan: Plan, len: usize, net: bool) {
        self.finder.reset();
        self.slots.reset(&sizes(plan.kind), len);
        let initial = &self.initial[usize::from(plan.kind == Kind::Text)];
        self.histories.reset(&initial.histories);
        self.mixer.reset(&initial.weights);
        self.apms[0].reset();
        self.apms[1].reset();
        self.matches.clear();
        self.matches.extend_from_slice(&initial.matches);
        self.step = 0;
        self.lanes.clear();
        self.begin(plan, 0, len, net);
    }

    /// Takes over what `other` learnt.
    pub(super) fn copy_from(&mut self, other: &Self) {
        self.finder.copy_from(&other.finder);
        self.slots.copy_from(&other.slots);
        self.histories.copy_from(&other.histories);
        self.mixer.copy_from(&other.mixer);
        self.apms[0].copy_from(&other.apms[0]);
        self.apms[1].copy_from(&other.apms[1]);
        self.matches.clone_from(&other.matches);
        self.step = other.step;
        self.lanes.clone_from(&other.lanes);
    }

    /// Prepares for a block of `len` bytes that follows `seen` ones.
    pub(super) fn begin(&mut self, plan: Plan, seen: usize, len: usize, net: bool) {
        self.plan = plan;
        self.net = net;
        let whole = len.div_ceil(plan.lanes).max(1);
        let last = self.lanes.drain(..).next_back();
        for l in 0..plan.lanes {
            let start = (l * whole).min(len);
            let mut lane = Lane::new(seen + start, whole.min(len - start));
            if let (0, Some(before)) = (l, &last) {
                lane = before.clone();
                lane.resume(seen, whole.min(len));
            }
            self.lanes.push(lane);
        }
        self.finder.begin(seen, len, whole);
    }

    /// Bytes of memory that the state takes.
    pub(super) fn memory(&self) -> usize {
        self.slots.memory()
            + self.finder.memory()
            + self.mixer.memory()
            + 2 * apm::MEMORY
            + (1 << 17)
    }

    /// Prepares every lane for its byte `t`.
    #[inline(always)]
    pub(super) fn begin_byte<K: Kernel>(&mut self, k: K, block: &[u8], t: usize) {
        let step = self.step;
        self.rate = 600 + 600 * 64 / (64 + step);
        self.step += 1;
        for (lane, w) in self
            .lanes
            .iter()
            .zip(&mut self.work)
            .filter(|(l, _)| t < l.len)
        {
            w.near = contexts(lane, block, t, &self.finder, &self.plan, &mut w.hashes);
            w.partial = 1;
            w.expected = if lane.matched != NONE {
                u32::from(block[lane.matched as usize]) | 256
            } else {
                0
            };
            self.slots.prefetch(k, &w.hashes);
        }
    }

    /// Takes the network's weights for lane `l`'s next byte.
    pub(super) fn expect(&mut self, l: usize, weights: &[u32; 256]) {
        self.work[l].tree.set(weights);
    }

    /// Starts a half byte of lane `l`.
    #[inline(always)]
    pub(super) fn begin_half<K: Kernel>(&mut self, k: K, l: usize) {
        let w = &mut self.work[l];
        self.slots.find_all(k, &w.hashes, &mut w.buckets);
    }

    /// After lane `l`'s first four bits: the second half byte's contexts.
    #[inline(always)]
    pub(super) fn turn<K: Kernel>(&mut self, k: K, l: usize) {
        let w = &mut self.work[l];
        let salt = w.partial.wrapping_mul(0x9e37_79b1);
        for h in &mut w.hashes {
            let x = h.wrapping_add(salt).wrapping_mul(0x85eb_ca6b);
            *h = x ^ x >> 15;
        }
        self.slots.prefetch(k, &w.hashes);
    }

    /// Probabilities (16 bits) that the next bits of `N` lanes from `first` on are 1. `b` counts bits down from 7.
    ///
    /// Every stage is done for all of them before the next: their latencies overlap.
    #[inline(always)]
    pub(super) fn predict<K: Kernel, const N: usize>(
        &mut self,
        k: K,
        first: usize,
        b: u32,
    ) -> [i32; N] {
        let mut out = [0; N];
        let Some(work) = self.work.get_mut(first..first + N) else {
            return out;
        };
        for w in work.iter_mut() {
            let node = node(w.partial, b);
            w.inputs.slots = self.slots.read(k, &w.buckets, node);
        }
        for w in work.iter_mut() {
            inputs::look_up(k, &mut w.inputs, &self.histories);
        }
        for (i, w) in work.iter_mut().enumerate() {
            let known = inputs::fill(&w.inputs, &mut w.mix.x.0).min(31);
            let lane = &self.lanes[first + i];
            let p = if self.net {
                stretch(w.tree.p(w.partial))
            } else {
                0
            };
            w.extras(lane, &self.matches, p, known, b);
            #[cfg(test)]
            if self.one_row {
                w.mix.choose([0; SETS]);
            }
        }
        for w in work.iter_mut() {
            self.mixer.predict(k, &mut w.mix);
        }
        for (out, w) in out.iter_mut().zip(work) {
            let odds = w.mix.odds();
            let p0 = squash(odds);
            let near = &w.near;
            let (p1, c1) = self.apms[0].refine(w.partial | u32::from(near.previous) << 8, odds);
            let (p2, c2) = self.apms[1].refine(w.partial | u32::from(near.above) << 8, odds);
            w.cells = [c1, c2];
            *out = ((2 * p0 + p1 + p2) >> 2).clamp(1, 65535);
        }
        out
    }

    /// Learns the bits `y` of `N` lanes from `first` on, one lane after another.
    #[inline(always)]
    pub(super) fn update<K: Kernel, const N: usize>(
        &mut self,
        k: K,
        first: usize,
        b: u32,
        y: [u32; N],
    ) {
        let Some(work) = self.work.get_mut(first..first + N) else {
            return;
        };
        for (w, y) in work.iter_mut().zip(y) {
            let node = node(w.partial, b);
            self.mixer.update(k, &w.mix, y, self.rate, 400);
            inputs::learn(k, &mut w.inputs, &mut self.histories, y);
            self.slots.write(&w.buckets, node, &w.inputs.slots);
            if w.match_cell != NONE {
                let hit = u32::from(w.match_cell & 1 == y);
                let cell = &mut self.matches[(w.match_cell >> 1) as usize];
                let rate = u32::from(RATE[(*cell & 127) as usize]);
                *cell = history::updated(*cell, hit, 127, rate);
            }
            self.apms[0].update(w.cells[0], y, 4);
            self.apms[1].update(w.cells[1], y, 4);
            w.partial = w.partial * 2 + y;
        }
    }

    /// All lanes have their byte `t`.
    pub(super) fn end_byte(&mut self, block: &[u8], t: usize) {
        self.finder.step(&mut self.lanes, block, t, &self.plan);
    }

    /// The kind of contexts in use.
    #[cfg(test)]
    pub(super) fn kind(&self) -> Kind {
        self.plan.kind
    }

    /// The first weight row, and all cells of matches and histories.
    #[cfg(test)]
    pub(super) fn learnt(&self) -> (&[i16; INPUTS], Vec<u32>) {
        (
            self.mixer.first_row(),
            [&self.matches[..], self.histories.cells()].concat(),
        )
    }

    /// The byte that lane `l` has just completed.
    pub(super) fn byte(&self, l: usize) -> u8 {
        self.work[l].partial as u8
    }
}

impl Work {
    /// The inputs beside the contexts', and the rows of weights.
    #[inline(always)]
    fn extras(&mut self, lane: &Lane, matches: &[u32], net: i32, known: u32, b: u32) {
        let x = &mut self.mix.x.0;
        // The match: a learned confidence in the expected bit.
        self.match_cell = NONE;
        x[EXTRA] = 0;
        x[EXTRA + 1] = 0;
        let mut length = 0;
        if self.expected >> (b + 1) == self.partial {
            let i = (lane.match_len.min(15) + lane.match_len.min(400) / 32).min(27);
            let bit = (self.expected >> b) & 1;
            self.match_cell = i * 2 | bit;
            let p = matches[i as usize] >> 16;
            let st = stretch(p);
            let half = (p as i32 - 32768) >> 5;
            x[EXTRA] = if bit == 1 { st } else { -st } as i16;
            x[EXTRA + 1] = if bit == 1 { half } else { -half } as i16;
            length = 1 + lane.match_len.min(32) / 2;
        }
        x[EXTRA + 2] = 256;
        x[EXTRA + 3] = net as i16;
        let near = &self.near;
        let column = near.column & 255;
        self.mix.choose([
            self.partial,
            length.min(15) * 16 + known / 2,
            column,
            u32::from(near.aligned),
            u32::from(near.above),
            u32::from(near.previous),
            u32::from(near.trust) * 32 + lane.followed.min(31),
            b * 32 + known,
        ]);
        self.mix.finals = [self.partial, FINAL_ROWS[0] as u32 + column * 8 + b];
    }
}

/// The node of the half byte's tree: 1..=15.
#[inline(always)]
fn node(partial: u32, b: u32) -> usize {
    if b >= 4 {
        partial as usize
    } else {
        let done = 3 - b;
        ((partial & ((1 << done) - 1)) | 1 << done) as usize
    }
}
