//! The predictor: statistics, mixer and final correction of one block, for all lanes.
//!
//! A step codes one byte of every lane, bit by bit. For each bit every lane predicts from the same state
//! ([`Predictor::predict`]); then every lane learns, in lane order ([`Predictor::update`]).

use super::apm::{Apm, Cell};
use super::contexts::{CONTEXTS, Near, contexts};
use super::history::{self, HISTORIES, Histories, history};
use super::lane::{Finder, Lane, NONE};
use super::mixer::{FINAL_ROWS, INPUTS, Mix, Mixer, ROWS, SETS, weight};
use super::plan::{MAX_LANES, Plan};
use super::slots::{RATE, Slots, updated};
use super::tables::{squash, stretch};

const HALF: usize = CONTEXTS;
/// First input after the contexts' four groups.
const EXTRA: usize = 4 * CONTEXTS;

/// A lane's work for the current byte and bit.
#[derive(Clone)]
struct Work {
    hashes: [u32; CONTEXTS],
    buckets: [u32; CONTEXTS],
    histories: [u16; CONTEXTS],
    near: Near,
    /// Bits of this byte so far behind a leading 1.
    partial: u32,
    mix: Mix,
    odds: i32,
    cells: [Cell; 2],
    match_cell: u32,
    expected: u32,
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
    start: [u32; HISTORIES],
    weights: [i16; INPUTS],
    rate: i32,
    step: i32,
    net: bool,
}

fn first_weights() -> [i16; INPUTS] {
    let mut w = [0; INPUTS];
    w[..CONTEXTS].fill(weight(100));
    w[HALF..2 * HALF].fill(weight(50));
    w[2 * HALF..3 * HALF].fill(weight(120));
    w[3 * HALF..4 * HALF].fill(weight(50));
    w[EXTRA..EXTRA + 4].fill(weight(200));
    w
}

impl Predictor {
    pub(super) fn new() -> Self {
        let work = Work {
            hashes: [0; CONTEXTS],
            buckets: [0; CONTEXTS],
            histories: [0; CONTEXTS],
            near: Near::default(),
            partial: 1,
            mix: Mix::new(),
            odds: 0,
            cells: [Cell::default(); 2],
            match_cell: NONE,
            expected: 0,
        };
        Predictor {
            plan: Plan {
                lanes: 1,
                kind: super::plan::Kind::Binary,
                stride: 0,
            },
            lanes: Vec::new(),
            finder: Finder::new(),
            slots: Slots::new(),
            histories: Histories::new(),
            mixer: Mixer::new(),
            apms: [Apm::new(), Apm::new()],
            matches: Vec::new(),
            work: vec![work; MAX_LANES],
            start: history::start(),
            weights: first_weights(),
            rate: 0,
            step: 0,
            net: false,
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
        self.histories.reset(CONTEXTS, &self.start);
        self.mixer.reset(&self.weights);
        self.apms[0].reset(65536);
        self.apms[1].reset(65536);
        self.matches.clear();
        self.matches.resize(64 * 2, (3 << 30) | 2);
        self.step = 0;
    }

    /// Prepares every lane for its byte `t`; `trees` holds the network's partial sums.
    pub(super) fn begin_byte(&mut self, block: &[u8], t: usize) {
        let step = self.step;
        self.rate = 160 + 600 * 64 / (64 + step);
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
            for c in 0..CONTEXTS {
                w.buckets[c] = self.slots.find(c, w.hashes[c]);
            }
        }
    }

    /// After the first four bits: the second half byte's buckets.
    pub(super) fn middle(&mut self, t: usize) {
        for (_, w) in self
            .lanes
            .iter()
            .zip(&mut self.work)
            .filter(|(l, _)| t < l.len)
        {
            for c in 0..CONTEXTS {
                let h = w.hashes[c]
                    .wrapping_add(w.partial.wrapping_mul(0x9e37_79b1))
                    .wrapping_mul(0x85eb_ca6b);
                w.buckets[c] = self.slots.find(c, h ^ h >> 15);
            }
        }
    }

    /// Probability (16 bits) that the next bit of lane `l` is 1. `b` counts bits down from 7.
    #[inline(always)]
    pub(super) fn predict(&mut self, l: usize, b: u32) -> i32 {
        let w = &mut self.work[l];
        let lane = &self.lanes[l];
        let node = if b >= 4 {
            w.partial as usize
        } else {
            (w.partial as usize & ((1 << (3 - b)) - 1)) | 1 << (3 - b)
        };
        let x = &mut w.mix.x;
        let mut known = 0;
        for c in 0..CONTEXTS {
            let s = self.slots.slot(w.buckets[c], node);
            let n = (s & 0x7f) as i32;
            let p = s >> 16;
            let h = history(s);
            w.histories[c] = h as u16;
            let conf = n.min(30);
            let ind = self.histories.p(c, h);
            let seen = i32::from(n > 0);
            known += seen;
            x[c] = (stretch(p) * (12 + 18 * conf / 30) / 30 * seen) as i16;
            x[HALF + c] = (((p as i32 - 32768) >> 5) * conf / 60) as i16;
            x[2 * HALF + c] = (stretch(ind) * seen) as i16;
            x[3 * HALF + c] = (((ind as i32 - 32768) >> 6) * seen) as i16;
        }
        // The match: a learned confidence in the expected bit.
        w.match_cell = NONE;
        x[EXTRA] = 0;
        x[EXTRA + 1] = 0;
        let mut length = 0;
        if w.expected >> (b + 1) == w.partial {
            length = (lane.match_len.min(15) + lane.match_len.min(400) / 32).min(27);
            let bit = (w.expected >> b) & 1;
            let i = length * 2;
            w.match_cell = i | bit;
            let p = self.matches[i as usize] >> 16;
            let st = stretch(p);
            let half = (p as i32 - 32768) >> 5;
            x[EXTRA] = if bit == 1 { st } else { -st } as i16;
            x[EXTRA + 1] = if bit == 1 { half } else { -half } as i16;
            length = 1 + lane.match_len.min(32) / 2;
        }
        x[EXTRA + 2] = 256;
        let near = &w.near;
        let bit8 = |v: u32| v * 8 + b;
        let mut rows = [
            w.partial,
            bit8(length.min(15) * 16 + (known as u32) / 2),
            bit8(near.column & 255),
            bit8(u32::from(near.aligned)),
            bit8(u32::from(near.above)),
            bit8(u32::from(near.previous)),
            bit8(u32::from(near.trust) * 32 + lane.followed.min(31)),
            bit8(u32::from(near.trust) * 32 + known as u32 / 2),
        ];
        let mut base = 0;
        for (row, size) in rows.iter_mut().zip(ROWS) {
            *row += base;
            base += size as u32;
        }
        w.mix.rows = rows;
        w.mix.finals = [w.partial, FINAL_ROWS[0] as u32 + bit8(near.column & 255)];
        w.odds = self.mixer.predict(&mut w.mix);
        let p0 = squash(w.odds);
        let (p1, c1) =
            self.apms[0].refine((w.partial | u32::from(near.previous) << 8) as usize, w.odds);
        let (p2, c2) =
            self.apms[1].refine((w.partial | u32::from(near.above) << 8) as usize, w.odds);
        w.cells = [c1, c2];
        ((2 * p0 + p1 + p2) >> 2).clamp(1, 65535)
    }

    /// Learns bit `y` of lane `l`.
    #[inline(always)]
    pub(super) fn update(&mut self, l: usize, b: u32, y: u32) {
        let w = &mut self.work[l];
        let node = if b >= 4 {
            w.partial as usize
        } else {
            (w.partial as usize & ((1 << (3 - b)) - 1)) | 1 << (3 - b)
        };
        self.mixer.update(&w.mix, y, self.rate, 130);
        for c in 0..CONTEXTS {
            let s = self.slots.slot_mut(w.buckets[c], node);
            *s = updated(*s, y);
            self.histories.update(c, usize::from(w.histories[c]), y);
        }
        if w.match_cell != NONE {
            let hit = u32::from(w.match_cell & 1 == y);
            let cell = &mut self.matches[(w.match_cell & !1) as usize];
            *cell = history::updated(*cell, hit, 255);
        }
        self.apms[0].update(w.cells[0], y, 5);
        self.apms[1].update(w.cells[1], y, 5);
        w.partial = w.partial * 2 + y;
    }

    /// All lanes have their byte `t`.
    pub(super) fn end_byte(&mut self, block: &[u8], t: usize) {
        self.finder.step(&mut self.lanes, block, t, &self.plan);
    }

    /// The byte that lane `l` has just completed.
    pub(super) fn byte(&self, l: usize) -> u8 {
        self.work[l].partial as u8
    }
}

const _: () = assert!(SETS == 8 && RATE.len() == 128);
