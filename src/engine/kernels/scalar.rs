//! The definition of the inner loops, in portable code.

use super::{Line, Ops};
use crate::engine::arith::rounding_shift;
use crate::engine::tables::{EIGHTHS, EXP_EIGHTHS, EXP_THIRTY_SECONDS};

pub(super) struct Scalar;

impl Ops for Scalar {
    #[inline(always)]
    fn gemm(x: &[i8], lanes: usize, w: &[Line], n: usize, k: usize, out: &mut [i32]) {
        for (x, out) in x.chunks_exact(k).zip(out.chunks_exact_mut(n)).take(lanes) {
            for (tile, out) in w.chunks_exact(k / 4).zip(out.chunks_exact_mut(16)) {
                let mut acc = [0i32; 16];
                for (line, x) in tile.iter().zip(x.chunks_exact(4)) {
                    for (acc, w) in acc.iter_mut().zip(line.0.chunks_exact(4)) {
                        *acc += w
                            .iter()
                            .zip(x)
                            .map(|(&w, &x)| (i32::from(w) - 128) * i32::from(x))
                            .sum::<i32>();
                    }
                }
                out.copy_from_slice(&acc);
            }
        }
    }

    #[inline(always)]
    fn softmax(products: &mut [i32], shift: u32, bias: &[i32], e: &mut [i8]) -> u32 {
        let mut best = i32::MIN;
        for (p, b) in products.iter_mut().zip(bias) {
            *p = rounding_shift(*p, shift) + b;
            best = best.max(*p);
        }
        let mut sum = 0;
        for (p, e) in products.iter().zip(e) {
            let below = (best - p) as usize;
            let weight = if below < EIGHTHS {
                EXP_EIGHTHS[below]
            } else {
                0
            };
            sum += u32::from(weight);
            *e = weight as i8;
        }
        sum
    }

    #[inline(always)]
    fn byte_weights(logits: &[i32], out: &mut [u32; 256]) {
        let best = logits.iter().copied().max().unwrap_or(0);
        for (o, l) in out.iter_mut().zip(logits) {
            *o = EXP_THIRTY_SECONDS
                .get((best - l) as usize)
                .map_or(1, |&f| f.max(1));
        }
    }
}
