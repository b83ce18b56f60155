//! The order of everything: every lane's bytes that are coded directly, and sure guesses, up to a byte that needs more; then those bytes of all lanes, first their upper half
//! bytes, then their lower ones.
//!
//! The same code is compiled for each instruction set; which one runs makes no difference to the result.

use super::NeuralError;
use super::coder::BitCoder;
use super::guess::Guess;
#[cfg(target_arch = "x86_64")]
use super::kernels::{Avx2, Avx512};
use super::kernels::{Kernel, Scalar};
use super::net::Net;
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
    let starts: Vec<usize> = p.lanes.iter().map(|l| l.start).collect();
    let mut weights = [1; 256];
    let mut guesses = [Guess::default(); PAIR];
    loop {
        let mut todo = 0u32;
        for l in 0..starts.len() {
            if let Some(guess) = next_open(k, p, block, coder, l)? {
                guesses[l] = guess;
                todo |= 1 << l;
            }
        }
        if todo == 0 {
            return Ok(());
        }
        if let Some(net) = net.as_deref_mut() {
            // It has one lane.
            net.predict(block, starts[0], p.lanes[0].t, &mut weights);
            p.expect(0, &weights);
        }
        p.begin_byte(k, block, todo, &guesses);
        for half in [4, 0] {
            for l in (0..starts.len()).step_by(PAIR) {
                match todo >> l & 3 {
                    3 => half_byte::<K, C, PAIR>(k, p, block, coder, l, half)?,
                    1 => half_byte::<K, C, 1>(k, p, block, coder, l, half)?,
                    2 => half_byte::<K, C, 1>(k, p, block, coder, l + 1, half)?,
                    _ => {}
                }
            }
        }
        for l in 0..starts.len() {
            if todo >> l & 1 != 0 {
                p.compare(l);
                p.end_byte(k, block, l, &guesses[l]);
            }
        }
    }
}

/// Codes the bytes of lane `l` that are surely guessed, up to the first one that is not, or wrongly: the guess
/// about that one, or nothing at the lane's end.
#[inline(always)]
fn next_open<K: Kernel, C: BitCoder>(
    k: K,
    p: &mut Predictor,
    block: &mut [u8],
    coder: &mut C,
    l: usize,
) -> Result<Option<Guess>, NeuralError> {
    // A byte behind one that was coded in full is likely to be another one.
    let mut open = true;
    while p.lanes[l].t < p.lanes[l].len {
        if p.direct(k, block, l, coder)? {
            continue;
        }
        let mut guess = p.guess(k, block, l, open);
        open = false;
        if !guess.is_sure() {
            return Ok(Some(guess));
        }
        let at = p.lanes[l].start + p.lanes[l].t;
        let byte = guess.byte as u8;
        if coder.code(u32::from(block[at] == byte), guess.p)? == 0 {
            guess.wrong = true;
            return Ok(Some(guess));
        }
        block[at] = byte;
        p.end_byte(k, block, l, &guess);
    }
    Ok(None)
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
    half: u32,
) -> Result<(), NeuralError> {
    let mut bytes = [0; N];
    for i in 0..N {
        let lane = &p.lanes[first + i];
        bytes[i] = u32::from(block[lane.start + lane.t]);
        p.begin_half(k, first + i);
    }
    if half == 4 {
        for i in 0..N {
            p.look_ahead(k, first + i, C::KNOWS.then_some(bytes[i]));
        }
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
            // Nothing looks at it before the byte ends: the encoder has known it all along.
            let at = p.lanes[l].start + p.lanes[l].t;
            block[at] = p.byte(l);
        }
    }
    Ok(())
}
