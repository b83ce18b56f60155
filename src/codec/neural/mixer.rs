//! The online logistic mixer: several weight sets chosen by small contexts, and a second layer over them.
//!
//! Inputs are log odds in 1/256 as i16; weights are i16 with 1.0 = 2^14. A dot product is the exact sum, so its value
//! does not depend on the order of summation; an update rounds each weight once (`train`).

use super::kernels::Kernel;
use super::tables::{LIMIT, squash};
use super::work::NET;

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

/// What a network's log odds weigh at first: the other first weights were learnt without one.
const NET_WEIGHT: i16 = 5000;

/// Rows of each weight set: what selects them has at most 8 bits.
pub(super) const ROWS: usize = 256;
/// Rows of each of the second layer's two weight sets.
pub(super) const FINAL_ROWS: [usize; 2] = [256, 2048];

/// One lane's inputs and what the layers made of them.
#[derive(Clone)]
pub(super) struct Mix {
    pub(super) x: Row,
    rows: [u8; SETS],
    pub(super) finals: [u32; 2],
    q: [i32; SUMS],
    z: [i32; 2],
}

impl Mix {
    pub(super) fn new() -> Self {
        Mix {
            x: Row([0; INPUTS]),
            rows: [0; SETS],
            finals: [0; 2],
            q: [0; SUMS],
            z: [0; 2],
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

    /// Log odds of the next bit, after [`Mixer::predict`].
    #[inline(always)]
    pub(super) fn odds(&self) -> i32 {
        (self.z[0] + self.z[1]) >> 1
    }
}

/// All weights of a block.
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

    pub(super) fn reset(&mut self, init: &[i16; INPUTS]) {
        self.weights.clear();
        let mut init = *init;
        init[NET] = NET_WEIGHT;
        self.weights.resize(SETS, [Row(init); ROWS]);
        self.finals.clear();
        self.finals
            .resize(FINAL_ROWS.iter().sum(), [65536 / SETS as i32; SUMS]);
    }

    pub(super) fn copy_from(&mut self, other: &Self) {
        self.weights.clone_from(&other.weights);
        self.finals.clone_from(&other.finals);
    }

    /// Bytes that the weights take.
    pub(super) fn memory(&self) -> usize {
        size_of_val(&self.weights[..]) + size_of_val(&self.finals[..])
    }

    #[cfg(test)]
    pub(super) fn first_row(&self) -> &[i16; INPUTS] {
        &self.weights[0][0].0
    }

    /// Mixes the inputs.
    #[inline(always)]
    pub(super) fn predict<K: Kernel>(&self, k: K, m: &mut Mix) {
        let Some(weights) = self.weights.first_chunk() else {
            return;
        };
        let sums = k.dots(weights, &m.rows, &m.x);
        for s in 0..SUMS {
            m.q[s] = (sums[s] >> 6).clamp(-LIMIT, LIMIT);
        }
        for (z, &row) in m.z.iter_mut().zip(&m.finals) {
            let w = &self.finals[row as usize];
            let mut sum = 0;
            for s in 0..SUMS {
                sum += (w[s] * m.q[s]) >> 4;
            }
            *z = (sum >> 12).clamp(-LIMIT, LIMIT);
        }
    }

    /// Learns bit `y`; `rate` and `final_rate` are learning rates in units of 2^-16.
    #[inline(always)]
    pub(super) fn update<K: Kernel>(&mut self, k: K, m: &Mix, y: u32, rate: i32, final_rate: i32) {
        let target = (y as i32) << 16;
        for (&z, &row) in m.z.iter().zip(&m.finals) {
            let e = ((target - squash(z)) * final_rate) >> 10;
            // A copy, so that all weights of the row change at once.
            let mut w = self.finals[row as usize];
            for s in 0..SUMS {
                let learnt = w[s] + ((e * m.q[s] + (1 << 13)) >> 14);
                w[s] = learnt.clamp(-FINAL_LIMIT, FINAL_LIMIT);
            }
            self.finals[row as usize] = w;
        }
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
