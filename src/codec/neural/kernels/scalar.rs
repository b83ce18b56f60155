//! The definition of the kernels, for every machine.

use super::super::mixer::INPUTS;
use super::Kernel;

/// Plain code.
#[derive(Clone, Copy)]
pub(in super::super) struct Scalar;

impl Kernel for Scalar {
    #[inline(always)]
    fn dot(self, weights: &[i16; INPUTS], inputs: &[i16; INPUTS]) -> i64 {
        let mut sum = 0;
        for (w, x) in weights.chunks(16).zip(inputs.chunks(16)) {
            let part: i32 = w
                .iter()
                .zip(x)
                .map(|(&w, &x)| i32::from(w) * i32::from(x))
                .sum();
            sum += i64::from(part);
        }
        sum
    }

    #[inline(always)]
    fn train(self, weights: &mut [i16; INPUTS], inputs: &[i16; INPUTS], e: i16) {
        for (w, &x) in weights.iter_mut().zip(inputs) {
            let d = (i32::from(x) * i32::from(e) + (1 << 14)) >> 15;
            *w = w.saturating_add(d as i16);
        }
    }

    #[inline(always)]
    fn prefetch<T>(self, _at: &T) {}
}
