//! The order of everything: step by step; in a step all lanes' upper half bytes, then all lanes' lower ones.
//!
//! The same code is compiled for each instruction set; which one runs makes no difference to the result.

use super::NeuralError;
use super::coder::BitCoder;
#[cfg(target_arch = "x86_64")]
use super::kernels::{Avx2, Avx512};
use super::kernels::{Kernel, Scalar};
use super::net::Net;
use super::plan::MAX_LANES;
use super::predictor::{PAIR, Predictor};
use crate::engine::Kernel as Instructions;

/// Codes `block` with a reset predictor: the encoder reads it, the decoder fills it.
pub(super) fn run<C: BitCoder>(
    p: &mut Predictor,
    block: &mut [u8],
    coder: &mut C,
    net: Option<&mut dyn Net>,
) -> Result<(), NeuralError> {
    // A kernel that cannot be had is reported where models are loaded; all give the same bytes.
    let kernel = Instructions::chosen().unwrap_or(Instructions::Scalar);
    run_with(kernel, p, block, coder, net)
}

/// As [`run`], with these instructions where the processor has them.
pub(super) fn run_with<C: BitCoder>(
    kernel: Instructions,
    p: &mut Predictor,
    block: &mut [u8],
    coder: &mut C,
    net: Option<&mut dyn Net>,
) -> Result<(), NeuralError> {
    #[cfg(target_arch = "x86_64")]
    {
        if let (Instructions::Avx512, Some(k)) = (kernel, Avx512::detect()) {
            // SAFETY: the kernel exists only where its instructions do.
            return unsafe { avx512(k, p, block, coder, net) };
        }
        if let (Instructions::Avx2, Some(k)) = (kernel, Avx2::detect()) {
            // SAFETY: the kernel exists only where its instructions do.
            return unsafe { avx2(k, p, block, coder, net) };
        }
    }
    steps(Scalar, p, block, coder, net)
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512bw,avx2,bmi1,bmi2")]
fn avx512<C: BitCoder>(
    k: Avx512,
    p: &mut Predictor,
    block: &mut [u8],
    coder: &mut C,
    net: Option<&mut dyn Net>,
) -> Result<(), NeuralError> {
    steps(k, p, block, coder, net)
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
fn avx2<C: BitCoder>(
    k: Avx2,
    p: &mut Predictor,
    block: &mut [u8],
    coder: &mut C,
    net: Option<&mut dyn Net>,
) -> Result<(), NeuralError> {
    steps(k, p, block, coder, net)
}

#[inline(always)]
fn steps<K: Kernel, C: BitCoder>(
    k: K,
    p: &mut Predictor,
    block: &mut [u8],
    coder: &mut C,
    mut net: Option<&mut dyn Net>,
) -> Result<(), NeuralError> {
    let steps = p.lanes.first().map_or(0, |l| l.len);
    let starts: Vec<usize> = p.lanes.iter().map(|l| l.start).collect();
    let mut weights = vec![[1; 256]; if net.is_some() { MAX_LANES } else { 0 }];
    for t in 0..steps {
        let active = p.lanes.iter().take_while(|l| t < l.len).count();
        if let Some(net) = net.as_deref_mut() {
            net.step(block, &starts[..active], t, &mut weights);
            for (l, weights) in weights.iter().enumerate().take(active) {
                p.expect(l, weights);
            }
        }
        p.begin_byte(k, block, t);
        for half in [4, 0] {
            for l in (0..active).step_by(PAIR) {
                if l + 1 < active {
                    half_byte::<K, C, PAIR>(k, p, block, coder, l, t, half)?;
                } else {
                    half_byte::<K, C, 1>(k, p, block, coder, l, t, half)?;
                }
            }
        }
        p.end_byte(block, t);
    }
    Ok(())
}

/// Codes four bits, down from bit `half + 3`, of `N` lanes from `first` on: for every bit all are predicted, then coded and learnt
/// in turn.
#[inline(always)]
fn half_byte<K: Kernel, C: BitCoder, const N: usize>(
    k: K,
    p: &mut Predictor,
    block: &mut [u8],
    coder: &mut C,
    first: usize,
    t: usize,
    half: u32,
) -> Result<(), NeuralError> {
    let mut bytes = [0; N];
    for i in 0..N {
        bytes[i] = u32::from(block[p.lanes[first + i].start + t]);
        p.begin_half(k, first + i);
    }
    for b in (half..half + 4).rev() {
        let odds = p.predict::<K, N>(k, first, b);
        let mut y = [0; N];
        for i in 0..N {
            y[i] = coder.code(bytes[i] >> b & 1, odds[i])?;
        }
        p.update(k, first, b, y);
    }
    for l in first..first + N {
        if half == 4 {
            p.turn(k, l);
        } else {
            // No context of this step looks at it: the encoder has known it all along.
            block[p.lanes[l].start + t] = p.byte(l);
        }
    }
    Ok(())
}
