//! The mixer's vector arithmetic: scalar code is the definition, AVX2 and AVX-512 twins must equal it.
//!
//! A kernel is a token: whoever holds one may run it, because only [`Avx2::detect`] and [`Avx512::detect`] make one.

mod scalar;
#[cfg(target_arch = "x86_64")]
mod x86;

pub(super) use scalar::Scalar;
#[cfg(target_arch = "x86_64")]
pub(super) use x86::{Avx2, Avx512};

use super::mixer::INPUTS;

/// Sums and updates over one row of weights.
pub(super) trait Kernel: Copy {
    /// The exact sum of products of weights and inputs. Inputs lie within +-3072, so the sum of any
    /// twenty products fits 32 bits.
    fn dot(self, weights: &[i16; INPUTS], inputs: &[i16; INPUTS]) -> i64;

    /// `weight += round(input * e / 2^15)`, saturating, for every weight.
    fn train(self, weights: &mut [i16; INPUTS], inputs: &[i16; INPUTS], e: i16);

    /// Asks for the cache line of `at`, if the machine knows how.
    fn prefetch<T>(self, at: &T);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cases() -> impl Iterator<Item = ([i16; INPUTS], [i16; INPUTS], i16)> {
        let mut s = 1u64;
        let mut next = move || {
            s = s
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            (s >> 40) as i16
        };
        (0..2000).map(move |i| {
            let mut w = [0; INPUTS];
            let mut x = [0; INPUTS];
            for k in 0..INPUTS {
                w[k] = if i % 5 == 0 {
                    i16::MAX - (next() & 1)
                } else {
                    next()
                };
                x[k] = if i % 5 == 0 { 3071 } else { next() % 3072 };
                if i % 7 == 0 {
                    w[k] = i16::MIN;
                }
            }
            (w, x, next().max(-32767))
        })
    }

    fn equals_scalar<K: Kernel>(k: K) {
        for (w, x, e) in cases() {
            assert_eq!(k.dot(&w, &x), Scalar.dot(&w, &x));
            let (mut a, mut b) = (w, w);
            k.train(&mut a, &x, e);
            Scalar.train(&mut b, &x, e);
            assert_eq!(a, b);
        }
    }

    #[test]
    fn scalar_is_the_exact_sum() {
        for (w, x, e) in cases() {
            let sum: i64 = w
                .iter()
                .zip(&x)
                .map(|(&w, &x)| i64::from(w) * i64::from(x))
                .sum();
            assert_eq!(Scalar.dot(&w, &x), sum);
            let mut t = w;
            Scalar.train(&mut t, &x, e);
            for k in 0..INPUTS {
                let d = (i64::from(x[k]) * i64::from(e) + (1 << 14)) >> 15;
                assert_eq!(i64::from(t[k]), (i64::from(w[k]) + d).clamp(-32768, 32767));
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
