//! The predictor: statistics, mixer and final correction of one block.
//!
//! Within a step, the lanes' half bytes are coded one after another: lane 0's first four bits, lane 1's, ..., then lane
//! 0's last four bits, and so on. Each bit is predicted from everything coded before it and learnt at once.

use super::apm::{Apm, Cell};
use super::contexts::{CONTEXTS, Near, contexts};
use super::history::{self, Histories};
use super::inputs::{self, Inputs};
use super::kernels::Kernel;
use super::lane::{Finder, Lane, NONE};
#[cfg(test)]
use super::mixer::INPUTS;
use super::mixer::{FINAL_ROWS, Mix, Mixer, ROWS};
use super::net::Tree;
use super::plan::{Kind, MAX_LANES, Plan};
use super::slots::{RATE, Slots};
use super::start::Start;
use super::tables::{squash, stretch};

/// First input after the contexts' two groups.
const EXTRA: usize = 2 * CONTEXTS;

/// A lane's contexts for the current byte.
#[derive(Clone)]
struct Work {
    hashes: [u32; CONTEXTS],
    near: Near,
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
    starts: [Start; 2],
    /// One row for every weight set: how the start state is learnt.
    #[cfg(test)]
    pub(super) one_row: bool,
    rate: i32,
    step: i32,
    // The half byte in progress.
    lane: usize,
    buckets: [u32; CONTEXTS],
    inputs: Inputs,
    mix: Mix,
    cells: [Cell; 2],
    match_cell: u32,
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
            partial: 1,
            expected: 0,
            tree: Tree::new(),
        };
        Predictor {
            plan: Plan {
                lanes: 1,
                kind: Kind::Binary,
                stride: 0,
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
            starts: [Start::learnt(Kind::Binary), Start::learnt(Kind::Text)],
            #[cfg(test)]
            one_row: false,
            rate: 0,
            step: 0,
            lane: 0,
            buckets: [0; CONTEXTS],
            inputs: Inputs::new(),
            mix: Mix::new(),
            cells: [Cell::default(); 2],
            match_cell: NONE,
        }
    }

    /// Forgets everything and prepares for a block of `len` bytes.
    pub(super) fn reset(&mut self, plan: Plan, len: usize, net: bool) {
        self.plan = plan;
        self.net = net;
        let whole = len.div_ceil(plan.lanes).max(1);
        self.lanes.clear();
        for l in 0..plan.lanes {
            let start = (l * whole).min(len);
            self.lanes
                .push(Lane::new(start, whole.min(len - start), whole));
        }
        self.finder.reset(len);
        let bits = (len.max(1024).next_power_of_two().ilog2() - 2).clamp(8, 13);
        self.slots.reset(CONTEXTS, bits);
        let start = &self.starts[usize::from(plan.kind == Kind::Text)];
        self.histories.reset(&start.histories);
        self.mixer.reset(&start.weights);
        self.apms[0].reset(65536);
        self.apms[1].reset(65536);
        self.matches.clear();
        self.matches.extend_from_slice(&start.matches);
        self.step = 0;
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
            w.near = contexts(
                lane,
                block,
                t,
                &self.finder.trail,
                &self.plan,
                &mut w.hashes,
            );
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
    pub(super) fn begin_half(&mut self, l: usize) {
        self.lane = l;
        let w = &self.work[l];
        for (c, (bucket, &hash)) in self.buckets.iter_mut().zip(&w.hashes).enumerate() {
            *bucket = self.slots.find(c, hash);
        }
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

    /// Probability (16 bits) that the next bit is 1. `b` counts bits down from 7.
    #[inline(always)]
    pub(super) fn predict<K: Kernel>(&mut self, k: K, b: u32) -> i32 {
        let w = &self.work[self.lane];
        let lane = &self.lanes[self.lane];
        let node = node(w.partial, b);
        self.slots.read(&self.buckets, node, &mut self.inputs.slots);
        let known = inputs::prepare(&mut self.inputs, &self.histories, &mut self.mix.x);
        let x = &mut self.mix.x;
        let known = known.min(31);
        // The match: a learned confidence in the expected bit.
        self.match_cell = NONE;
        x[EXTRA] = 0;
        x[EXTRA + 1] = 0;
        let mut length = 0;
        if w.expected >> (b + 1) == w.partial {
            let i = (lane.match_len.min(15) + lane.match_len.min(400) / 32).min(27);
            let bit = (w.expected >> b) & 1;
            self.match_cell = i * 2 | bit;
            let p = self.matches[i as usize] >> 16;
            let st = stretch(p);
            let half = (p as i32 - 32768) >> 5;
            x[EXTRA] = if bit == 1 { st } else { -st } as i16;
            x[EXTRA + 1] = if bit == 1 { half } else { -half } as i16;
            length = 1 + lane.match_len.min(32) / 2;
        }
        x[EXTRA + 2] = 256;
        x[EXTRA + 3] = if self.net {
            stretch(w.tree.p(w.partial)) as i16
        } else {
            0
        };
        let near = &w.near;
        let mut rows = [
            w.partial,
            length.min(15) * 16 + known / 2,
            near.column & 255,
            u32::from(near.aligned),
            u32::from(near.above),
            u32::from(near.previous),
            u32::from(near.trust) * 32 + lane.followed.min(31),
            b * 32 + known,
        ];
        let mut base = 0;
        #[cfg(test)]
        if self.one_row {
            rows = [0; 8];
        }
        for row in &mut rows {
            *row += base;
            base += ROWS as u32;
        }
        self.mix.rows = rows;
        self.mix.finals = [
            w.partial,
            FINAL_ROWS[0] as u32 + (near.column & 255) * 8 + b,
        ];
        let odds = self.mixer.predict(k, &mut self.mix);
        let p0 = squash(odds);
        let (p1, c1) =
            self.apms[0].refine((w.partial | u32::from(near.previous) << 8) as usize, odds);
        let (p2, c2) = self.apms[1].refine((w.partial | u32::from(near.above) << 8) as usize, odds);
        self.cells = [c1, c2];
        ((2 * p0 + p1 + p2) >> 2).clamp(1, 65535)
    }

    /// Learns bit `y`.
    #[inline(always)]
    pub(super) fn update<K: Kernel>(&mut self, k: K, b: u32, y: u32) {
        let w = &mut self.work[self.lane];
        let node = node(w.partial, b);
        self.mixer.update(k, &self.mix, y, self.rate, 400);
        inputs::learn(&mut self.inputs, &mut self.histories, y);
        self.slots.write(&self.buckets, node, &self.inputs.slots);
        if self.match_cell != NONE {
            let hit = u32::from(self.match_cell & 1 == y);
            let cell = &mut self.matches[(self.match_cell >> 1) as usize];
            *cell = history::updated(*cell, hit, 127, u32::from(RATE[(*cell & 127) as usize]));
        }
        self.apms[0].update(self.cells[0], y, 4);
        self.apms[1].update(self.cells[1], y, 4);
        w.partial = w.partial * 2 + y;
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
