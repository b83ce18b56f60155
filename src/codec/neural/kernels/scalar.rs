//! The definition of the kernels, for every machine.

use super::super::contexts::CONTEXTS;
use super::super::mixer::{Row, SETS};
use super::Kernel;

/// Plain code.
#[derive(Clone, Copy)]
pub(in super::super) struct Scalar;

impl Kernel for Scalar {
    #[inline(always)]
    fn dots(self, weights: &[Row], rows: &[u32; SETS], inputs: &Row) -> [i32; SETS] {
        rows.map(|row| {
            let pairs = weights[row as usize]
                .0
                .chunks_exact(2)
                .zip(inputs.0.chunks_exact(2));
            pairs
                .map(|(w, x)| {
                    (i32::from(w[0]) * i32::from(x[0]) + i32::from(w[1]) * i32::from(x[1])) >> 8
                })
                .sum()
        })
    }

    #[inline(always)]
    fn train(self, weights: &mut [Row], rows: &[u32; SETS], inputs: &Row, e: &[i32; SETS]) {
        for (&row, &e) in rows.iter().zip(e) {
            for (w, &x) in weights[row as usize].0.iter_mut().zip(&inputs.0) {
                let d = (i32::from(x) * e + (1 << 14)) >> 15;
                *w = w.saturating_add(d as i16);
            }
        }
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
    fn prefetch<T>(self, _at: &T) {}
}
