//! The definition of the kernels, for every machine.

use super::super::contexts::CONTEXTS;
use super::super::guess::{COUNT_LIMIT, INPUTS, ONE};
use super::super::history;
use super::super::mixer::{ROWS, Row, SETS, SUMS};
use super::super::tables;
use super::Kernel;

/// Plain code.
#[derive(Clone, Copy)]
pub(in super::super) struct Scalar;

impl Kernel for Scalar {
    #[inline(always)]
    fn dots(self, weights: &[[Row; ROWS]; SETS], rows: &[u8; SETS], inputs: &Row) -> [i32; SUMS] {
        let mut out = [0; SUMS];
        for ((out, set), &row) in out.iter_mut().zip(weights).zip(rows) {
            let pairs = set[usize::from(row)].0.chunks_exact(2);
            *out = pairs
                .zip(inputs.0.chunks_exact(2))
                .map(|(w, x)| {
                    (i32::from(w[0]) * i32::from(x[0]) + i32::from(w[1]) * i32::from(x[1])) >> 8
                })
                .sum();
        }
        out
    }

    #[inline(always)]
    fn train(
        self,
        weights: &mut [[Row; ROWS]; SETS],
        rows: &[u8; SETS],
        inputs: &Row,
        e: &[i32; SUMS],
    ) {
        for ((set, &row), &e) in weights.iter_mut().zip(rows).zip(e) {
            for (w, &x) in set[usize::from(row)].0.iter_mut().zip(&inputs.0) {
                let d = (i32::from(x) * e + (1 << 14)) >> 15;
                *w = w.saturating_add(d as i16);
            }
        }
    }

    #[inline(always)]
    fn squash(self, x: &[i32; SUMS]) -> [i32; SUMS] {
        x.map(tables::squash)
    }

    #[inline(always)]
    fn gather(self, table: &[u32], index: &[u32; CONTEXTS]) -> [u32; CONTEXTS] {
        index.map(|i| table[i as usize])
    }

    #[inline(always)]
    fn rates(self, table: &[u16; 128], counts: &[u32; CONTEXTS]) -> [u32; CONTEXTS] {
        counts.map(|n| u32::from(table[(n & 127) as usize]))
    }

    #[inline(always)]
    fn weigh(
        self,
        cells: &[u32],
        at: &[u32; INPUTS],
        weights: &[i32; INPUTS],
    ) -> ([i32; INPUTS], i64) {
        let mut x = at.map(|at| {
            let cell = cells[at as usize];
            let confidence = (cell & 1023).min(30) as i32;
            tables::odds(((cell >> 16) as i32).max(1)) * (102 + confidence * 5) >> 8
        });
        x[INPUTS - 1] = ONE;
        let products = weights
            .iter()
            .zip(&x)
            .map(|(&w, &x)| i64::from(w) * i64::from(x));
        (x, products.sum())
    }

    #[inline(always)]
    fn learn(self, cells: &mut [u32], at: &[u32; INPUTS], y: u32, rates: &[u32; 256]) -> bool {
        let mut changed = false;
        for &at in at {
            let cell = &mut cells[at as usize];
            let rate = rates[(*cell & COUNT_LIMIT) as usize];
            let before = *cell;
            *cell = history::updated(before, y, COUNT_LIMIT, rate);
            changed |= *cell != before;
        }
        changed
    }

    #[inline(always)]
    fn prefetch<T>(self, _at: &T) {}
}
