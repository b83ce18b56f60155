//! AVX2 and AVX-512BW kernels.
//!
//! Products of an input within +-3072 and a weight add up in 32-bit elements: ten or five pairs of them stay
//! below 2^31, and the elements are then summed in 64 bits.

use std::arch::x86_64::*;

use super::super::contexts::CONTEXTS;
use super::super::guess;
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

/// The cells at `at`, clamped to the table.
#[inline]
#[target_feature(enable = "avx2")]
fn eight(cells: &[u32], at: &mut [u32; 8]) -> __m256i {
    assert!(!cells.is_empty());
    // SAFETY: load and store fill the array; every index lies within the table.
    unsafe {
        let last = _mm256_set1_epi32((cells.len() - 1) as i32);
        let safe = _mm256_min_epu32(_mm256_loadu_si256(at.as_ptr().cast()), last);
        _mm256_storeu_si256(at.as_mut_ptr().cast(), safe);
        _mm256_i32gather_epi32::<4>(cells.as_ptr().cast(), safe)
    }
}

#[inline]
#[target_feature(enable = "avx2")]
fn weigh(cells: &[u32], at: &[u32; 8], weights: &[i32; 8]) -> ([i32; 8], i64) {
    let cell = eight(cells, &mut at.clone());
    // As `tables::odds`.
    let p = _mm256_max_epi32(_mm256_srli_epi32::<16>(cell), _mm256_set1_epi32(1));
    let bits = |p| _mm256_srai_epi32::<8>(_mm256_castps_si256(_mm256_cvtepi32_ps(p)));
    let (yes, no) = (
        bits(p),
        bits(_mm256_sub_epi32(_mm256_set1_epi32(1 << 16), p)),
    );
    let odds = _mm256_mullo_epi32(_mm256_sub_epi32(yes, no), _mm256_set1_epi32(355));
    let odds = _mm256_srai_epi32::<16>(odds);
    let seen = _mm256_and_si256(cell, _mm256_set1_epi32(1023));
    let seen = _mm256_min_epi32(seen, _mm256_set1_epi32(30));
    let trust = _mm256_mullo_epi32(seen, _mm256_set1_epi32(5));
    let trust = _mm256_add_epi32(trust, _mm256_set1_epi32(102));
    let x = _mm256_srai_epi32::<8>(_mm256_mullo_epi32(odds, trust));
    let x = _mm256_blend_epi32::<0x80>(x, _mm256_set1_epi32(guess::ONE));
    let mut out = [0; 8];
    // SAFETY: load and store fill the arrays.
    let w = unsafe {
        _mm256_storeu_si256(out.as_mut_ptr().cast(), x);
        _mm256_loadu_si256(weights.as_ptr().cast())
    };
    let even = _mm256_mul_epi32(w, x);
    let odd = _mm256_mul_epi32(_mm256_srli_epi64::<32>(w), _mm256_srli_epi64::<32>(x));
    let sum = _mm256_add_epi64(even, odd);
    let sum = _mm_add_epi64(
        _mm256_castsi256_si128(sum),
        _mm256_extracti128_si256::<1>(sum),
    );
    (out, _mm_cvtsi128_si64(sum) + _mm_extract_epi64::<1>(sum))
}

#[inline]
#[target_feature(enable = "avx2")]
fn learn(cells: &mut [u32], at: &[u32; 8], y: u32, rates: &[u32; 256]) -> bool {
    let mut at = *at;
    let cell = eight(cells, &mut at);
    let count = _mm256_and_si256(cell, _mm256_set1_epi32(255));
    // SAFETY: a count is at most 255.
    let rate = unsafe { _mm256_i32gather_epi32::<4>(rates.as_ptr().cast(), count) };
    // As `history::updated`.
    let p = _mm256_srli_epi32::<10>(cell);
    let target = _mm256_set1_epi32((y << 22) as i32 - y as i32);
    let error = _mm256_srai_epi32::<7>(_mm256_sub_epi32(target, p));
    let step = _mm256_srai_epi32::<9>(_mm256_mullo_epi32(error, rate));
    let p = _mm256_slli_epi32::<10>(_mm256_add_epi32(p, step));
    let n = _mm256_and_si256(cell, _mm256_set1_epi32(1023));
    // -1 where there is room for one more.
    let room = _mm256_cmpgt_epi32(_mm256_set1_epi32(guess::COUNT_LIMIT as i32), n);
    let new = _mm256_or_si256(p, _mm256_sub_epi32(n, room));
    let mut out = [0; 8];
    // SAFETY: the store fills the array; every index lies within the table.
    unsafe {
        _mm256_storeu_si256(out.as_mut_ptr().cast(), new);
        for (&at, &cell) in at.iter().zip(&out) {
            *cells.get_unchecked_mut(at as usize) = cell;
        }
    }
    _mm256_movemask_epi8(_mm256_cmpeq_epi32(new, cell)) != -1
}

const _: () = assert!(guess::INPUTS == 8 && guess::COUNT_LIMIT == 255);

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
    fn weigh(
        self,
        cells: &[u32],
        at: &[u32; guess::INPUTS],
        weights: &[i32; guess::INPUTS],
    ) -> ([i32; guess::INPUTS], i64) {
        // SAFETY: AVX2 was detected when `self` was made.
        unsafe { weigh(cells, at, weights) }
    }

    #[inline(always)]
    fn learn(
        self,
        cells: &mut [u32],
        at: &[u32; guess::INPUTS],
        y: u32,
        rates: &[u32; 256],
    ) -> bool {
        // SAFETY: AVX2 was detected when `self` was made.
        unsafe { learn(cells, at, y, rates) }
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
    fn weigh(
        self,
        cells: &[u32],
        at: &[u32; guess::INPUTS],
        weights: &[i32; guess::INPUTS],
    ) -> ([i32; guess::INPUTS], i64) {
        // SAFETY: AVX2 was detected when `self` was made.
        unsafe { weigh(cells, at, weights) }
    }

    #[inline(always)]
    fn learn(
        self,
        cells: &mut [u32],
        at: &[u32; guess::INPUTS],
        y: u32,
        rates: &[u32; 256],
    ) -> bool {
        // SAFETY: AVX2 was detected when `self` was made.
        unsafe { learn(cells, at, y, rates) }
    }

    #[inline(always)]
    fn prefetch<T>(self, at: &T) {
        // SAFETY: a prefetch has no effect but on caches; every x86-64 has it.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(std::ptr::from_ref(at).cast()) }
    }
}
