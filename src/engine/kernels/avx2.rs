//! AVX2: bytes are widened to 16 bits and multiplied in pairs, which can not saturate.

use super::{Job, Line, Ops};
use crate::engine::tables::{OCTAVE, THIRTY_SECONDS};
use std::arch::x86_64::*;

struct Avx2;

pub(super) fn run(job: impl Job) {
    #[target_feature(enable = "avx2")]
    fn inner(job: impl Job) {
        job.run::<Avx2>();
    }
    // SAFETY: `Kernel::run` is reached with `Avx2` only if `is_supported` found the feature.
    unsafe { inner(job) }
}

impl Ops for Avx2 {
    #[inline(always)]
    fn gemm(x: &[i8], lanes: usize, w: &[Line], n: usize, k: usize, out: &mut [i32]) {
        assert!(x.len() >= lanes * k && out.len() >= lanes * n && w.len() >= n / 16 * (k / 4));
        // SAFETY: only `run` above hands out this type; the lengths are checked.
        unsafe { gemm(x, lanes, w, n, k, out) }
    }

    #[inline(always)]
    fn softmax(products: &mut [i32], shift: u32, bias: &[i32], e: &mut [i8]) -> u32 {
        assert!(
            products.len().is_multiple_of(16)
                && bias.len() >= products.len()
                && e.len() >= products.len()
        );
        // SAFETY: as above.
        unsafe { softmax(products, shift, bias, e) }
    }

    #[inline(always)]
    fn byte_weights(logits: &[i32], out: &mut [u32; 256]) {
        let best = logits.iter().copied().max().unwrap_or(0);
        for (o, l) in out.iter_mut().zip(logits) {
            let below = ((best - l) as u32).min(THIRTY_SECONDS as u32);
            let s = 14 + below / 32;
            *o = ((OCTAVE[(below % 32) as usize] + (1 << (s - 1))) >> s).max(1);
        }
    }
}

#[target_feature(enable = "avx2")]
unsafe fn gemm(x: &[i8], lanes: usize, w: &[Line], n: usize, k: usize, out: &mut [i32]) {
    for lane in 0..lanes {
        let x = &x[lane * k..(lane + 1) * k];
        let correction = _mm256_set1_epi32(128 * x.iter().map(|&v| i32::from(v)).sum::<i32>());
        for tile in 0..n / 16 {
            let lines = &w[tile * (k / 4)..(tile + 1) * (k / 4)];
            let mut acc = [_mm256_setzero_si256(); 4];
            for (line, x) in lines.iter().zip(x.chunks_exact(4)) {
                let x = i32::from_le_bytes([x[0] as u8, x[1] as u8, x[2] as u8, x[3] as u8]);
                let x = _mm256_broadcastq_epi64(_mm_cvtepi8_epi16(_mm_cvtsi32_si128(x)));
                for (i, acc) in acc.iter_mut().enumerate() {
                    // SAFETY: a line is 64 bytes, i < 4.
                    let w = unsafe { _mm_loadu_si128(line.0.as_ptr().add(16 * i).cast()) };
                    *acc = _mm256_add_epi32(*acc, _mm256_madd_epi16(_mm256_cvtepu8_epi16(w), x));
                }
            }
            for half in 0..2 {
                let pairs = _mm256_hadd_epi32(acc[2 * half], acc[2 * half + 1]);
                let sums =
                    _mm256_sub_epi32(_mm256_permute4x64_epi64::<0b11_01_10_00>(pairs), correction);
                // SAFETY: out holds lanes * n values, tile < n / 16.
                unsafe {
                    _mm256_storeu_si256(
                        out.as_mut_ptr().add(lane * n + tile * 16 + half * 8).cast(),
                        sums,
                    )
                };
            }
        }
    }
}

/// `round(127 * 2^20 * 2^(-i/8))`.
pub(super) const EIGHTHS_20: [i32; 8] = {
    let mut t = [0; 8];
    let mut i = 0;
    while i < 8 {
        t[i] = ((OCTAVE[4 * i] as u64 * 127 + (1 << 9)) >> 10) as i32;
        i += 1;
    }
    t
};

#[target_feature(enable = "avx2")]
unsafe fn softmax(products: &mut [i32], shift: u32, bias: &[i32], e: &mut [i8]) -> u32 {
    let mut best = i32::MIN;
    for (p, b) in products.iter_mut().zip(bias) {
        *p = ((*p + (1 << (shift - 1))) >> shift) + b;
        best = best.max(*p);
    }
    // SAFETY: the table is 32 bytes.
    let table = unsafe { _mm256_loadu_si256(EIGHTHS_20.as_ptr().cast()) };
    let mut sum = _mm256_setzero_si256();
    for (p, e) in products.chunks_exact(8).zip(e.chunks_exact_mut(8)) {
        // SAFETY: p holds 8 values.
        let p = unsafe { _mm256_loadu_si256(p.as_ptr().cast()) };
        let below = _mm256_sub_epi32(_mm256_set1_epi32(best), p);
        let below = _mm256_min_epi32(below, _mm256_set1_epi32(80));
        let s = _mm256_add_epi32(_mm256_srli_epi32::<3>(below), _mm256_set1_epi32(19));
        let value = _mm256_permutevar8x32_epi32(table, below);
        let half = _mm256_sllv_epi32(_mm256_set1_epi32(1), s);
        let value = _mm256_srlv_epi32(
            _mm256_add_epi32(value, half),
            _mm256_add_epi32(s, _mm256_set1_epi32(1)),
        );
        sum = _mm256_add_epi32(sum, value);
        let mut wide = [0i32; 8];
        // SAFETY: wide holds 8 values.
        unsafe { _mm256_storeu_si256(wide.as_mut_ptr().cast(), value) };
        for (e, v) in e.iter_mut().zip(wide) {
            *e = v as i8;
        }
    }
    let mut parts = [0u32; 8];
    // SAFETY: parts holds 8 values.
    unsafe { _mm256_storeu_si256(parts.as_mut_ptr().cast(), sum) };
    parts.iter().sum()
}
