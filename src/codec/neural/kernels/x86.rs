//! AVX2 and AVX-512BW kernels.
//!
//! Products of an input within +-3072 and a weight add up in 32-bit elements: ten or five pairs of them stay
//! below 2^31, and the elements are then summed in 64 bits.

use std::arch::x86_64::*;

use super::super::mixer::INPUTS;
use super::Kernel;

/// AVX2 is there.
#[derive(Clone, Copy)]
pub(in super::super) struct Avx2(());

/// AVX-512 F and BW are there.
#[derive(Clone, Copy)]
pub(in super::super) struct Avx512(());

impl Avx2 {
    /// The kernel, if this processor has it.
    pub(in super::super) fn detect() -> Option<Self> {
        is_x86_feature_detected!("avx2").then_some(Avx2(()))
    }
}

impl Avx512 {
    /// The kernel, if this processor has it.
    pub(in super::super) fn detect() -> Option<Self> {
        (is_x86_feature_detected!("avx512f")
            && is_x86_feature_detected!("avx512bw")
            && is_x86_feature_detected!("avx2"))
        .then_some(Avx512(()))
    }
}

const _: () = assert!(INPUTS.is_multiple_of(32) && INPUTS <= 160);

impl Kernel for Avx2 {
    #[inline(always)]
    fn dot(self, weights: &[i16; INPUTS], inputs: &[i16; INPUTS]) -> i64 {
        // SAFETY: AVX2 was detected when `self` was made; every load lies within the arrays.
        unsafe {
            let mut sum = _mm256_setzero_si256();
            for i in (0..INPUTS).step_by(16) {
                let w = _mm256_loadu_si256(weights.as_ptr().add(i).cast());
                let x = _mm256_loadu_si256(inputs.as_ptr().add(i).cast());
                sum = _mm256_add_epi32(sum, _mm256_madd_epi16(w, x));
            }
            let low = _mm256_cvtepi32_epi64(_mm256_castsi256_si128(sum));
            let high = _mm256_cvtepi32_epi64(_mm256_extracti128_si256(sum, 1));
            let s = _mm256_add_epi64(low, high);
            let s = _mm_add_epi64(_mm256_castsi256_si128(s), _mm256_extracti128_si256(s, 1));
            _mm_cvtsi128_si64(_mm_add_epi64(s, _mm_unpackhi_epi64(s, s)))
        }
    }

    #[inline(always)]
    fn train(self, weights: &mut [i16; INPUTS], inputs: &[i16; INPUTS], e: i16) {
        // SAFETY: AVX2 was detected when `self` was made; every load and store lies within the arrays.
        unsafe {
            let e = _mm256_set1_epi16(e);
            for i in (0..INPUTS).step_by(16) {
                let at = weights.as_mut_ptr().add(i).cast();
                let w = _mm256_loadu_si256(at);
                let x = _mm256_loadu_si256(inputs.as_ptr().add(i).cast());
                _mm256_storeu_si256(at, _mm256_adds_epi16(w, _mm256_mulhrs_epi16(x, e)));
            }
        }
    }

    #[inline(always)]
    fn prefetch<T>(self, at: &T) {
        // SAFETY: a prefetch has no effect but on caches; every x86-64 has it.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(std::ptr::from_ref(at).cast()) }
    }
}

impl Kernel for Avx512 {
    #[inline(always)]
    fn dot(self, weights: &[i16; INPUTS], inputs: &[i16; INPUTS]) -> i64 {
        // SAFETY: AVX-512 F and BW were detected when `self` was made; every load lies within the arrays.
        unsafe {
            let mut sum = _mm512_setzero_si512();
            for i in (0..INPUTS).step_by(32) {
                let w = _mm512_loadu_si512(weights.as_ptr().add(i).cast());
                let x = _mm512_loadu_si512(inputs.as_ptr().add(i).cast());
                sum = _mm512_add_epi32(sum, _mm512_madd_epi16(w, x));
            }
            let low = _mm512_cvtepi32_epi64(_mm512_castsi512_si256(sum));
            let high = _mm512_cvtepi32_epi64(_mm512_extracti64x4_epi64(sum, 1));
            _mm512_reduce_add_epi64(_mm512_add_epi64(low, high))
        }
    }

    #[inline(always)]
    fn train(self, weights: &mut [i16; INPUTS], inputs: &[i16; INPUTS], e: i16) {
        // SAFETY: AVX-512 F and BW were detected when `self` was made; every load and store lies within the arrays.
        unsafe {
            let e = _mm512_set1_epi16(e);
            for i in (0..INPUTS).step_by(32) {
                let at = weights.as_mut_ptr().add(i).cast();
                let w = _mm512_loadu_si512(at);
                let x = _mm512_loadu_si512(inputs.as_ptr().add(i).cast());
                _mm512_storeu_si512(at.cast(), _mm512_adds_epi16(w, _mm512_mulhrs_epi16(x, e)));
            }
        }
    }

    #[inline(always)]
    fn prefetch<T>(self, at: &T) {
        // SAFETY: a prefetch has no effect but on caches; every x86-64 has it.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(std::ptr::from_ref(at).cast()) }
    }
}
