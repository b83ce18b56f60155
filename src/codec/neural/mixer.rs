//! The online logistic mixer: several weight sets chosen by small contexts, and a second layer over them.
//!
//! Inputs are log odds in 1/256 as i16; weights are i16 with 1.0 = 2^14. A dot product is the exact sum, so its value
//! does not depend on the order of summation; an update rounds each weight once (`train`).

use super::kernels::Kernel;
use super::tables::{LIMIT, squash};

/// Inputs of the first layer, padded to whole vectors.
pub(super) const INPUTS: usize = 96;
/// Weight sets of the first layer.
pub(super) const SETS: usize = 8;

/// Rows of each weight set: what selects them has at most 8 bits.
pub(super) const ROWS: usize = 256;
/// Rows of each of the second layer's two weight sets.
pub(super) const FINAL_ROWS: [usize; 2] = [256, 2048];

/// One lane's inputs and what the layers made of them.
#[derive(Clone)]
pub(super) struct Mix {
    pub(super) x: [i16; INPUTS],
    pub(super) rows: [u32; SETS],
    pub(super) finals: [u32; 2],
    q: [i32; SETS],
    z: [i32; 2],
}

impl Mix {
    pub(super) fn new() -> Self {
        Mix {
            x: [0; INPUTS],
            rows: [0; SETS],
            finals: [0; 2],
            q: [0; SETS],
            z: [0; 2],
        }
    }
}

/// All weights of a block.
pub(super) struct Mixer {
    weights: Vec<[i16; INPUTS]>,
    finals: Vec<[i32; SETS]>,
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
        self.weights.resize(SETS * ROWS, *init);
        self.finals.clear();
        self.finals
            .resize(FINAL_ROWS.iter().sum(), [65536 / SETS as i32; SETS]);
    }

    #[cfg(test)]
    pub(super) fn first_row(&self) -> &[i16; INPUTS] {
        &self.weights[0]
    }

    /// Log odds of the next bit.
    #[inline(always)]
    pub(super) fn predict<K: Kernel>(&self, k: K, m: &mut Mix) -> i32 {
        for (q, &row) in m.q.iter_mut().zip(&m.rows) {
            *q = (k.dot(&self.weights[row as usize], &m.x) >> 14)
                .clamp(-i64::from(LIMIT), i64::from(LIMIT)) as i32;
        }
        for (z, &row) in m.z.iter_mut().zip(&m.finals) {
            let w = &self.finals[row as usize];
            let sum: i64 = w
                .iter()
                .zip(&m.q)
                .map(|(&w, &q)| i64::from(w) * i64::from(q))
                .sum();
            *z = (sum >> 16).clamp(-i64::from(LIMIT), i64::from(LIMIT)) as i32;
        }
        (m.z[0] + m.z[1]) >> 1
    }

    /// Learns bit `y`; `rate` and `final_rate` are learning rates in units of 2^-16.
    #[inline(always)]
    pub(super) fn update<K: Kernel>(&mut self, k: K, m: &Mix, y: u32, rate: i32, final_rate: i32) {
        let target = (y as i32) << 16;
        for (&z, &row) in m.z.iter().zip(&m.finals) {
            let e = i64::from(target - squash(z)) * i64::from(final_rate);
            for (w, &q) in self.finals[row as usize].iter_mut().zip(&m.q) {
                *w += ((e * i64::from(q) + (1 << 23)) >> 24) as i32;
            }
        }
        for (&q, &row) in m.q.iter().zip(&m.rows) {
            let e = ((target - squash(q)) * rate.min(1024)) >> 11;
            k.train(
                &mut self.weights[row as usize],
                &m.x,
                e.clamp(-32767, 32767) as i16,
            );
        }
    }
}
