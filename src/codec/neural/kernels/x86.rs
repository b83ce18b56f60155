//! AVX2 and AVX-512BW kernels.
//!
//! Products of an input within +-3072 and a weight add up in 32-bit elements: ten or five pairs of them stay
//! below 2^31, and the elements are then summed in 64 bits.

use std::arch::x86_64::*;

use super::super::contexts::CONTEXTS;
use super::super::mixer::{INPUTS, Row, SETS};
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

const _: () = assert!(INPUTS.is_multiple_of(32) && SETS == 8 && CONTEXTS == 16);

/// Errors up to this size change no weight: an input is at most 3072.
const NOTHING: i32 = 5;

/// The sums of eight vectors of eight numbers.
#[inline]
#[target_feature(enable = "avx2")]
fn sums(v: [__m256i; 8]) -> [i32; 8] {
    let low = _mm256_hadd_epi32(_mm256_hadd_epi32(v[0], v[1]), _mm256_hadd_epi32(v[2], v[3]));
    let high = _mm256_hadd_epi32(_mm256_hadd_epi32(v[4], v[5]), _mm256_hadd_epi32(v[6], v[7]));
    let a = _mm256_permute2x128_si256::<0x20>(low, high);
    let b = _mm256_permute2x128_si256::<0x31>(low, high);
    let mut out = [0; 8];
    // SAFETY: the store fills the array.
    unsafe { _mm256_storeu_si256(out.as_mut_ptr().cast(), _mm256_add_epi32(a, b)) };
    out
}

impl Kernel for Avx2 {
    #[inline(always)]
    fn dots(self, weights: &[Row], rows: &[u32; SETS], inputs: &Row) -> [i32; SETS] {
        // SAFETY: AVX2 was detected when `self` was made; every load lies within a row.
        unsafe {
            let mut v = [_mm256_setzero_si256(); SETS];
            for (v, &row) in v.iter_mut().zip(rows) {
                let w = &weights[row as usize].0;
                let mut sum = _mm256_setzero_si256();
                for i in (0..INPUTS).step_by(16) {
                    let w = _mm256_loadu_si256(w.as_ptr().add(i).cast());
                    let x = _mm256_loadu_si256(inputs.0.as_ptr().add(i).cast());
                    sum = _mm256_add_epi32(sum, _mm256_srai_epi32::<8>(_mm256_madd_epi16(w, x)));
                }
                *v = sum;
            }
            sums(v)
        }
    }

    #[inline(always)]
    fn train(self, weights: &mut [Row], rows: &[u32; SETS], inputs: &Row, e: &[i32; SETS]) {
        for (&row, &e) in rows.iter().zip(e) {
            if e.abs() <= NOTHING {
                continue;
            }
            let w = &mut weights[row as usize].0;
            // SAFETY: AVX2 was detected when `self` was made; every load and store lies within a row.
            unsafe {
                let e = _mm256_set1_epi16(e as i16);
                for i in (0..INPUTS).step_by(16) {
                    let at = w.as_mut_ptr().add(i).cast();
                    let w = _mm256_loadu_si256(at);
                    let x = _mm256_loadu_si256(inputs.0.as_ptr().add(i).cast());
                    _mm256_storeu_si256(at, _mm256_adds_epi16(w, _mm256_mulhrs_epi16(x, e)));
                }
            }
        }
    }

    #[inline(always)]
    fn gather(self, table: &[u32], index: &[u32; CONTEXTS]) -> [u32; CONTEXTS] {
        super::Scalar.gather(table, index)
    }

    #[inline(always)]
    fn rates(self, table: &[u16; 128], counts: &[u32; CONTEXTS]) -> [u32; CONTEXTS] {
        super::Scalar.rates(table, counts)
    }

    #[inline(always)]
    fn prefetch<T>(self, at: &T) {
        // SAFETY: a prefetch has no effect but on caches; every x86-64 has it.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(std::ptr::from_ref(at).cast()) }
    }
}

impl Kernel for Avx512 {
    #[inline(always)]
    fn dots(self, weights: &[Row], rows: &[u32; SETS], inputs: &Row) -> [i32; SETS] {
        // SAFETY: AVX-512 F and BW were detected when `self` was made; every load lies within a row.
        unsafe {
            let mut v = [_mm256_setzero_si256(); SETS];
            for (v, &row) in v.iter_mut().zip(rows) {
                let w = &weights[row as usize].0;
                let mut sum = _mm512_setzero_si512();
                for i in (0..INPUTS).step_by(32) {
                    let w = _mm512_loadu_si512(w.as_ptr().add(i).cast());
                    let x = _mm512_loadu_si512(inputs.0.as_ptr().add(i).cast());
                    sum = _mm512_add_epi32(sum, _mm512_srai_epi32::<8>(_mm512_madd_epi16(w, x)));
                }
                *v = _mm256_add_epi32(
                    _mm512_castsi512_si256(sum),
                    _mm512_extracti64x4_epi64::<1>(sum),
                );
            }
            sums(v)
        }
    }

    #[inline(always)]
    fn train(self, weights: &mut [Row], rows: &[u32; SETS], inputs: &Row, e: &[i32; SETS]) {
        for (&row, &e) in rows.iter().zip(e) {
            if e.abs() <= NOTHING {
                continue;
            }
            let w = &mut weights[row as usize].0;
            // SAFETY: AVX-512 F and BW were detected when `self` was made; every load and store lies within a row.
            unsafe {
                let e = _mm512_set1_epi16(e as i16);
                for i in (0..INPUTS).step_by(32) {
                    let at = w.as_mut_ptr().add(i);
                    let w = _mm512_loadu_si512(at.cast());
                    let x = _mm512_loadu_si512(inputs.0.as_ptr().add(i).cast());
                    _mm512_storeu_si512(at.cast(), _mm512_adds_epi16(w, _mm512_mulhrs_epi16(x, e)));
                }
            }
        }
    }

    #[inline(always)]
    fn gather(self, table: &[u32], index: &[u32; CONTEXTS]) -> [u32; CONTEXTS] {
        let mut out = [0; CONTEXTS];
        // SAFETY: AVX-512 was detected when `self` was made; indices are clamped to the table, which is not empty.
        unsafe {
            let last = _mm512_set1_epi32((table.len() - 1) as i32);
            let at = _mm512_min_epu32(_mm512_loadu_si512(index.as_ptr().cast()), last);
            let v = _mm512_i32gather_epi32::<4>(at, table.as_ptr().cast());
            _mm512_storeu_si512(out.as_mut_ptr().cast(), v);
        }
        out
    }

    #[inline(always)]
    fn rates(self, table: &[u16; 128], counts: &[u32; CONTEXTS]) -> [u32; CONTEXTS] {
        let mut out = [0; CONTEXTS];
        // SAFETY: AVX-512 F and BW were detected when `self` was made; every load and store lies within the arrays.
        unsafe {
            let t0 = _mm512_loadu_si512(table.as_ptr().cast());
            let t1 = _mm512_loadu_si512(table.as_ptr().add(32).cast());
            let t2 = _mm512_loadu_si512(table.as_ptr().add(64).cast());
            let t3 = _mm512_loadu_si512(table.as_ptr().add(96).cast());
            // The upper half of every number looks up something, too, which is then cleared.
            let n = _mm512_loadu_si512(counts.as_ptr().cast());
            let a = _mm512_permutex2var_epi16(t0, n, t1);
            let b = _mm512_permutex2var_epi16(t2, n, t3);
            let upper = _mm512_test_epi16_mask(n, _mm512_set1_epi32(64));
            let r = _mm512_mask_blend_epi16(upper, a, b);
            let r = _mm512_and_si512(r, _mm512_set1_epi32(0xffff));
            _mm512_storeu_si512(out.as_mut_ptr().cast(), r);
        }
        out
    }

    #[inline(always)]
    fn prefetch<T>(self, at: &T) {
        // SAFETY: a prefetch has no effect but on caches; every x86-64 has it.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(std::ptr::from_ref(at).cast()) }
    }
}
