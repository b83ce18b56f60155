//! The online logistic mixer: several weight sets chosen by small contexts, and a second layer over them, each for one bank of contexts. The
//! second layers' sums are added: over two banks they are one layer.
//!
//! Inputs are log odds in 1/256 as i16; weights are i16 with 1.0 = 2^14. A dot product is the exact sum, so its value
//! does not depend on the order of summation; an update rounds each weight once (`train`).

use super::kernels::Kernel;
use super::tables::{LIMIT, squash};

/// Inputs of the first layer, padded to whole vectors.
pub(super) const INPUTS: usize = 64;
/// Weight sets of the first layer.
pub(super) const SETS: usize = 6;
/// Sums of the first layer, padded to a whole vector with zeros.
pub(super) const SUMS: usize = 8;

/// The weights that one small context chose, or the inputs, in whole cache lines.
#[derive(Clone, Copy)]
#[repr(C, align(64))]
pub(super) struct Row(pub(super) [i16; INPUTS]);

/// Rows of each weight set: what selects them has at most 8 bits.
pub(super) const ROWS: usize = 256;
/// Weight sets of the second layer; the last one only where there are two banks.
pub(super) const FINALS: usize = 3;
/// How many of them `banks` banks have.
pub(super) const fn final_sets(banks: usize) -> usize {
    1 + banks
}

/// First row of each.
pub(super) const FINAL_AT: [u32; FINALS] = [0, 256, 256 + 2048];
/// Rows of the first two, and of all.
const FINAL_ROWS: [usize; 2] = [256 + 2048, 256 + 2048 + 2048];
/// What the sums of a bank weigh at first, together: alone, and each of two.
pub(super) const ALONE: i32 = 65536;
pub(super) const OF_TWO: [i32; 2] = [45875, 19661];

/// The second layer of all banks: its rows, and its log odds.
#[derive(Clone, Copy, Default)]
pub(super) struct Finals {
    pub(super) rows: [u32; FINALS],
    z: [i32; FINALS],
}

impl Finals {
    /// Log odds of what `banks` banks say, whose mixers added up to `sums`.
    #[inline(always)]
    pub(super) fn mix(&mut self, sums: [i32; FINALS], banks: usize) -> i32 {
        self.z = sums.map(|sum| (sum >> 12).clamp(-LIMIT, LIMIT));
        let [first, second, third] = self.z;
        if banks > 1 {
            (first + second + third) / 3
        } else {
            (first + second) >> 1
        }
    }

    /// How wrong each log odds were about bit `y`, times the learning rate in units of 2^-16.
    #[inline(always)]
    fn errors(&self, y: u32, rate: i32) -> [i32; FINALS] {
        let target = (y as i32) << 16;
        self.z.map(|z| ((target - squash(z)) * rate) >> 10)
    }
}

/// One lane's inputs and what the first layer made of them.
#[derive(Clone)]
pub(super) struct Mix {
    pub(super) x: Row,
    rows: [u8; SETS],
    q: [i32; SUMS],
}

impl Mix {
    pub(super) fn new() -> Self {
        Mix {
            x: Row([0; INPUTS]),
            rows: [0; SETS],
            q: [0; SUMS],
        }
    }
}

impl Mix {
    /// Chooses a row (below [`ROWS`]) of every weight set.
    #[inline(always)]
    pub(super) fn choose(&mut self, rows: [u32; SETS]) {
        debug_assert!(rows.iter().all(|&row| row < ROWS as u32));
        self.rows = rows.map(|row| row as u8);
    }
}

/// The weights of a bank.
pub(super) struct Mixer {
    /// [`SETS`] sets of rows.
    weights: Vec<[Row; ROWS]>,
    finals: Vec<[i32; SUMS]>,
}

impl Mixer {
    pub(super) fn new() -> Self {
        Mixer {
            weights: Vec::new(),
            finals: Vec::new(),
        }
    }

    /// First weights: `init` in every row, and `share` in the second layer.
    pub(super) fn reset(&mut self, init: &[i16; INPUTS], share: i32, banks: usize) {
        self.weights.clear();
        self.weights.resize(SETS, [Row(*init); ROWS]);
        self.finals.clear();
        self.expand(share, banks);
    }

    /// Makes room for the second layer over so many banks: new rows give the sums `share`.
    pub(super) fn expand(&mut self, share: i32, banks: usize) {
        let rows = FINAL_ROWS[banks - 1];
        self.finals.resize(rows, [share / SETS as i32; SUMS]);
    }

    pub(super) fn copy_from(&mut self, other: &Self) {
        self.weights.clone_from(&other.weights);
        self.finals.clone_from(&other.finals);
    }

    /// Bytes that the weights take.
    pub(super) fn memory(&self) -> usize {
        size_of_val(&self.weights[..]) + size_of_val(&self.finals[..])
    }

    /// A row of the first weight set.
    pub(super) fn first_row(&self) -> &[i16; INPUTS] {
        &self.weights[0][0].0
    }

    /// Mixes the inputs, and adds to the `sums` of the second layer of `finals` sets.
    #[inline(always)]
    pub(super) fn predict<K: Kernel>(
        &self,
        k: K,
        m: &mut Mix,
        finals: &Finals,
        sums: &mut [i32; FINALS],
        sets: usize,
    ) {
        let Some(weights) = self.weights.first_chunk() else {
            return;
        };
        let dots = k.dots(weights, &m.rows, &m.x);
        for s in 0..SUMS {
            m.q[s] = (dots[s] >> 6).clamp(-LIMIT, LIMIT);
        }
        for (sum, &row) in sums.iter_mut().zip(&finals.rows).take(sets) {
            let w = &self.finals[row as usize];
            for s in 0..SUMS {
                *sum += (w[s] * m.q[s]) >> 4;
            }
        }
    }

    /// Learns bit `y`; `rate` and `final_rate` are learning rates in units of 2^-16.
    #[inline(always)]
    pub(super) fn update<K: Kernel>(
        &mut self,
        k: K,
        m: &Mix,
        finals: &Finals,
        y: u32,
        (rate, final_rate): (i32, i32),
        sets: usize,
    ) {
        let errors = finals.errors(y, final_rate);
        for (e, &row) in errors.into_iter().zip(&finals.rows).take(sets) {
            // A copy, so that all weights of the row change at once.
            let mut w = self.finals[row as usize];
            for s in 0..SUMS {
                let learnt = w[s] + ((e * m.q[s] + (1 << 13)) >> 14);
                w[s] = learnt.clamp(-FINAL_LIMIT, FINAL_LIMIT);
            }
            self.finals[row as usize] = w;
        }
        let target = (y as i32) << 16;
        let mut e = k.squash(&m.q);
        for e in &mut e {
            *e = (((target - *e) * rate) >> 11).clamp(-32767, 32767);
        }
        if let Some(weights) = self.weights.first_chunk_mut() {
            k.train(weights, &m.rows, &m.x, &e);
        }
    }
}

/// Largest magnitude of a weight of the second layer, 1.0 being 2^16: products with log odds then fit 31 bits.
const FINAL_LIMIT: i32 = 1 << 18;
