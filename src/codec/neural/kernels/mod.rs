//! The mixer's vector arithmetic: scalar code is the definition, AVX2 and AVX-512 twins must equal it.
//!
//! A kernel is a token: whoever holds one may run it, because only [`Avx2::detect`] and [`Avx512::detect`] make one.

mod scalar;
#[cfg(target_arch = "x86_64")]
mod x86;

pub(super) use scalar::Scalar;
#[cfg(target_arch = "x86_64")]
pub(super) use x86::{Avx2, Avx512};

use super::contexts::CONTEXTS;
use super::guess::INPUTS;
use super::mixer::{ROWS, Row, SETS, SUMS};

/// Sums and updates over one row of weights.
pub(super) trait Kernel: Copy {
    /// For every set `s`: the sum over pairs of inputs of `(w0 * x0 + w1 * x1) >> 8`, weights being its row `rows[s]`; zeros beyond
    /// the sets. Inputs lie within +-3072, so nothing overflows.
    fn dots(self, weights: &[[Row; ROWS]; SETS], rows: &[u8; SETS], inputs: &Row) -> [i32; SUMS];

    /// `weight += round(input * e[s] / 2^15)`, saturating, for every weight of row `rows[s]` of set `s`.
    fn train(
        self,
        weights: &mut [[Row; ROWS]; SETS],
        rows: &[u8; SETS],
        inputs: &Row,
        e: &[i32; SUMS],
    );

    /// [`squash`](super::tables::squash) of every number.
    fn squash(self, x: &[i32; SUMS]) -> [i32; SUMS];

    /// `table[index[i]]` for every `i`. An index beyond the table is a bug of the caller; scalar code panics on it.
    fn gather(self, table: &[u32], index: &[u32; CONTEXTS]) -> [u32; CONTEXTS];

    /// `table[n & 127]` for every count `n`.
    fn rates(self, table: &[u16; 128], counts: &[u32; CONTEXTS]) -> [u32; CONTEXTS];

    /// What the `cells` at `at` say of a guess, a number each: its log odds, by how often they were seen; the last one is
    /// [`ONE`](super::guess::ONE) instead. And the sum of those, each times its weight. A cell beyond the table is a bug of the caller, as for [`Kernel::gather`].
    fn weigh(
        self,
        cells: &[u32],
        at: &[u32; INPUTS],
        weights: &[i32; INPUTS],
    ) -> ([i32; INPUTS], i64);

    /// The `cells` at `at`, which are different ones, learn whether the guess was right: [`updated`](super::history::updated) at the rate for its count.
    /// Whether one of them changed.
    fn learn(self, cells: &mut [u32], at: &[u32; INPUTS], y: u32, rates: &[u32; 256]) -> bool;

    /// Asks for the cache line of `at`, if the machine knows how.
    fn prefetch<T>(self, at: &T);
}

#[cfg(test)]
mod tests {
    use super::super::mixer::INPUTS;
    use super::*;
    use crate::codec::neural::guess;

    struct Noise(u64);

    impl Noise {
        fn next(&mut self) -> u32 {
            self.0 = (self.0)
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            (self.0 >> 33) as u32
        }
    }

    struct Case {
        weights: Box<[[Row; ROWS]; SETS]>,
        rows: [u8; SETS],
        inputs: Row,
        errors: [i32; SUMS],
    }

    fn cases() -> impl Iterator<Item = Case> {
        let mut noise = Noise(1);
        (0..2000).map(move |i| {
            let mut weights = Box::new([[Row([0; INPUTS]); ROWS]; SETS]);
            let mut inputs = Row([0; INPUTS]);
            let mut rows = [0; SETS];
            for s in 0..SETS {
                rows[s] = noise.next() as u8;
                for k in 0..INPUTS {
                    weights[s][usize::from(rows[s])].0[k] = match i % 5 {
                        0 => i16::MAX - (noise.next() & 1) as i16,
                        1 => i16::MIN,
                        _ => noise.next() as i16,
                    };
                }
            }
            for k in 0..INPUTS {
                inputs.0[k] = if i % 5 < 2 {
                    3072
                } else {
                    noise.next() as i16 % 3073
                };
            }
            let mut errors = [0; SUMS];
            for e in &mut errors {
                let size = [8, 70_000, 65_535][i % 3];
                *e = (noise.next() as i32 % size).clamp(-32767, 32767);
                if noise.next() & 1 == 0 {
                    *e = -*e;
                }
            }
            Case {
                weights,
                rows,
                inputs,
                errors,
            }
        })
    }

    fn equals_scalar<K: Kernel>(k: K) {
        for c in cases() {
            let expected = Scalar.dots(&c.weights, &c.rows, &c.inputs);
            assert_eq!(k.dots(&c.weights, &c.rows, &c.inputs), expected);
            let (mut a, mut b) = (c.weights.clone(), c.weights);
            k.train(&mut a, &c.rows, &c.inputs, &c.errors);
            Scalar.train(&mut b, &c.rows, &c.inputs, &c.errors);
            let rows = |w: &[[Row; ROWS]; SETS]| w.map(|set| set.map(|row| row.0));
            assert!(rows(&a) == rows(&b));
            assert_eq!(k.squash(&c.errors), Scalar.squash(&c.errors));
            let small = c.errors.map(|e| e % 4000);
            assert_eq!(k.squash(&small), Scalar.squash(&small));
        }
        let mut noise = Noise(2);
        let table: Vec<u32> = (0..5000).map(|_| noise.next()).collect();
        let mut rates = [0u16; 128];
        rates.iter_mut().for_each(|r| *r = noise.next() as u16);
        for _ in 0..2000 {
            let mut index = [0; CONTEXTS];
            let mut counts = [0; CONTEXTS];
            for c in 0..CONTEXTS {
                index[c] = noise.next() % 5000;
                counts[c] = noise.next();
            }
            assert_eq!(k.gather(&table, &index), Scalar.gather(&table, &index));
            assert_eq!(k.rates(&rates, &counts), Scalar.rates(&rates, &counts));
        }
        let mut rates = [0; 256];
        rates.iter_mut().for_each(|r| *r = noise.next() % 40961);
        let mut cells: Vec<u32> = (0..999).map(|_| noise.next() << 10 | 1).collect();
        let mut same = cells.clone();
        for n in 0..20_000 {
            // Different ones; in time some are sure, some lose their way.
            let first = noise.next() % 100;
            let at: [u32; guess::INPUTS] =
                std::array::from_fn(|i| first + 120 * i as u32 + noise.next() % 20);
            let weights = std::array::from_fn(|_| (noise.next() as i32 % (1 << 21)) - (1 << 20));
            let weighed = k.weigh(&cells, &at, &weights);
            assert_eq!(weighed, Scalar.weigh(&same, &at, &weights));
            let y = u32::from(n < 10_000 || noise.next().is_multiple_of(3));
            let before = cells.clone();
            let changed = k.learn(&mut cells, &at, y, &rates);
            assert_eq!(changed, cells != before);
            assert_eq!(Scalar.learn(&mut same, &at, y, &rates), changed);
            assert!(cells == same);
        }
    }

    #[test]
    fn scalar_is_the_exact_sum() {
        for c in cases() {
            let sums = Scalar.dots(&c.weights, &c.rows, &c.inputs);
            let mut after = c.weights.clone();
            Scalar.train(&mut after, &c.rows, &c.inputs, &c.errors);
            assert_eq!(sums[SETS..], [0; SUMS - SETS]);
            for s in 0..SETS {
                let row = usize::from(c.rows[s]);
                let product =
                    |k: usize| i64::from(c.weights[s][row].0[k]) * i64::from(c.inputs.0[k]);
                let sum: i64 = (0..INPUTS / 2)
                    .map(|k| (product(2 * k) + product(2 * k + 1)) >> 8)
                    .sum();
                assert_eq!(i64::from(sums[s]), sum);
                for k in 0..INPUTS {
                    let d = (i64::from(c.inputs.0[k]) * i64::from(c.errors[s]) + (1 << 14)) >> 15;
                    let w = (i64::from(c.weights[s][row].0[k]) + d).clamp(-32768, 32767);
                    assert_eq!(i64::from(after[s][row].0[k]), w);
                }
            }
        }
    }

    #[cfg(target_arch = "x86_64")]
    #[test]
    fn vector_kernels_equal_scalar() {
        match Avx2::detect() {
            Some(k) => equals_scalar(k),
            None => println!("skipped: no AVX2"),
        }
        match Avx512::detect() {
            Some(k) => equals_scalar(k),
            None => println!("skipped: no AVX-512"),
        }
    }
}
