//! AVX2 and AVX-512BW kernels.
//!
//! Products of an input within +-3072 and a weight add up in 32-bit elements: ten or five pairs of them stay
//! below 2^31, and the elements are then summed in 64 bits.

use std::arch::x86_64::*;

use super::super::contexts::CONTEXTS;
use super::super::mixer::{INPUTS, ROWS, Row, SETS, SUMS};
use super::super::tables::{LIMIT, SQUASH};
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

const _: () = assert!(INPUTS.is_multiple_of(32) && SETS <= SUMS && SUMS == 8 && CONTEXTS == 16);

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

/// Looks up eight numbers at once.
#[inline]
#[target_feature(enable = "avx2")]
fn squash(x: &[i32; SUMS]) -> [i32; SUMS] {
    let mut out = [0; SUMS];
    // SAFETY: load and store fill the arrays. An index lies within 0..=2 * LIMIT, and each look-up reads its entry and the next: the
    // table ends with one more.
    unsafe {
        let limit = _mm256_set1_epi32(LIMIT);
        let x = _mm256_loadu_si256(x.as_ptr().cast());
        let x = _mm256_min_epi32(x, limit);
        let at = _mm256_max_epi32(_mm256_add_epi32(x, limit), _mm256_setzero_si256());
        let both = _mm256_i32gather_epi32::<2>(SQUASH.as_ptr().cast(), at);
        let p = _mm256_and_si256(both, _mm256_set1_epi32(0xffff));
        _mm256_storeu_si256(out.as_mut_ptr().cast(), p);
    }
    out
}

const _: () = assert!(SQUASH.len() == 2 * LIMIT as usize + 2);

impl Kernel for Avx2 {
    #[inline(always)]
    fn dots(self, weights: &[[Row; ROWS]; SETS], rows: &[u8; SETS], inputs: &Row) -> [i32; SUMS] {
        // SAFETY: AVX2 was detected when `self` was made; every load lies within a row.
        unsafe {
            let mut v = [_mm256_setzero_si256(); SUMS];
            for ((v, set), &row) in v.iter_mut().zip(weights).zip(rows) {
                let w = &set[usize::from(row)].0;
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
    fn train(
        self,
        weights: &mut [[Row; ROWS]; SETS],
        rows: &[u8; SETS],
        inputs: &Row,
        e: &[i32; SUMS],
    ) {
        for ((set, &row), &e) in weights.iter_mut().zip(rows).zip(e) {
            let w = &mut set[usize::from(row)].0;
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
    fn squash(self, x: &[i32; SUMS]) -> [i32; SUMS] {
        // SAFETY: AVX2 was detected when `self` was made.
        unsafe { squash(x) }
    }

    #[inline(always)]
    fn gather(self, table: &[u32], index: &[u32; CONTEXTS]) -> [u32; CONTEXTS] {
        let mut out = [0; CONTEXTS];
        let mut at = *index;
        // SAFETY: AVX2 was detected when `self` was made; indices are clamped to the table, which is not empty.
        unsafe {
            let last = _mm256_set1_epi32((table.len() - 1) as i32);
            for i in [0, 8] {
                let to = at.as_mut_ptr().add(i).cast();
                _mm256_storeu_si256(to, _mm256_min_epu32(_mm256_loadu_si256(to), last));
            }
            for i in 0..CONTEXTS {
                out[i] = *table.get_unchecked(at[i] as usize);
            }
        }
        out
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
    fn dots(self, weights: &[[Row; ROWS]; SETS], rows: &[u8; SETS], inputs: &Row) -> [i32; SUMS] {
        // SAFETY: AVX-512 F and BW were detected when `self` was made; every load lies within a row.
        unsafe {
            let mut v = [_mm256_setzero_si256(); SUMS];
            for ((v, set), &row) in v.iter_mut().zip(weights).zip(rows) {
                let w = &set[usize::from(row)].0;
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
    fn train(
        self,
        weights: &mut [[Row; ROWS]; SETS],
        rows: &[u8; SETS],
        inputs: &Row,
        e: &[i32; SUMS],
    ) {
        for ((set, &row), &e) in weights.iter_mut().zip(rows).zip(e) {
            let w = &mut set[usize::from(row)].0;
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
    fn squash(self, x: &[i32; SUMS]) -> [i32; SUMS] {
        // SAFETY: AVX2 was detected when `self` was made.
        unsafe { squash(x) }
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
