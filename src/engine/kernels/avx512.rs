//! AVX-512 with VNNI: four products of unsigned weight and signed input are summed per instruction, without saturation.

use super::avx2::EIGHTHS_20;
use super::{Job, Line, Ops};
use crate::engine::tables::{OCTAVE, THIRTY_SECONDS};
use std::arch::x86_64::*;

struct Avx512;

pub(super) fn run(job: impl Job) {
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni")]
    fn inner(job: impl Job) {
        job.run::<Avx512>();
    }
    // SAFETY: `Kernel::run` is reached with `Avx512` only if `is_supported` found the features.
    unsafe { inner(job) }
}

impl Ops for Avx512 {
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
        assert!(logits.len() >= 256);
        // SAFETY: as above.
        unsafe { byte_weights(logits, out) }
    }
}

#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni")]
unsafe fn gemm(x: &[i8], lanes: usize, w: &[Line], n: usize, k: usize, out: &mut [i32]) {
    let tiles = n / 16;
    let mut lane = 0;
    while lane < lanes {
        let step = match lanes - lane {
            8.. => 8,
            4.. => 4,
            2.. => 2,
            _ => 1,
        };
        let mut corrections = [0; 8];
        for (c, x) in corrections
            .iter_mut()
            .zip(x[lane * k..(lane + step) * k].chunks_exact(k))
        {
            *c = 128 * sum(x);
        }
        let mut tile = 0;
        while tile < tiles {
            let pair = tile + 1 < tiles;
            let at = At {
                x: x[lane * k..].as_ptr(),
                w: w[tile * (k / 4)..].as_ptr(),
                k,
                n,
                out: out[lane * n + tile * 16..].as_mut_ptr(),
                corrections,
            };
            // SAFETY: `step` lanes of x and out and one or two tiles of w exist from here on.
            unsafe {
                match (step, pair) {
                    (8, true) => block::<8, 2>(at),
                    (8, false) => block::<8, 1>(at),
                    (4, true) => block::<4, 2>(at),
                    (4, false) => block::<4, 1>(at),
                    (2, true) => block::<2, 2>(at),
                    (2, false) => block::<2, 1>(at),
                    (_, true) => block::<1, 2>(at),
                    (_, false) => block::<1, 1>(at),
                }
            }
            tile += 1 + usize::from(pair);
        }
        lane += step;
    }
}

/// Sum of a row of inputs.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni")]
fn sum(x: &[i8]) -> i32 {
    let mut sums = _mm_setzero_si128();
    let (parts, rest) = x.as_chunks::<16>();
    for part in parts {
        // SAFETY: a part is 16 bytes.
        let part = unsafe { _mm_loadu_si128(part.as_ptr().cast()) };
        sums = _mm_dpbusd_epi32(sums, _mm_set1_epi8(1), part);
    }
    let sums = _mm_add_epi32(sums, _mm_shuffle_epi32::<0b01_00_11_10>(sums));
    let sums = _mm_add_epi32(sums, _mm_shuffle_epi32::<0b10_11_00_01>(sums));
    _mm_cvtsi128_si32(sums) + rest.iter().map(|&v| i32::from(v)).sum::<i32>()
}

/// Where a block of lanes and tiles starts.
struct At {
    x: *const i8,
    w: *const Line,
    k: usize,
    n: usize,
    out: *mut i32,
    corrections: [i32; 8],
}

/// `L` lanes times `T` tiles. The caller vouches for `L * k` inputs, `T * k / 4` lines, and `L` rows of outputs.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni")]
unsafe fn block<const L: usize, const T: usize>(at: At) {
    let k4 = at.k / 4;
    let mut acc = [[_mm512_setzero_si512(); T]; L];
    for i in 0..k4 {
        // SAFETY: i < k / 4, T tiles of k / 4 lines follow each other.
        let w: [__m512i; T] =
            std::array::from_fn(|t| unsafe { _mm512_load_si512(at.w.add(t * k4 + i).cast()) });
        for (l, acc) in acc.iter_mut().enumerate() {
            // SAFETY: lane l has k inputs.
            let x = unsafe { at.x.add(l * at.k + 4 * i).cast::<i32>().read_unaligned() };
            let x = _mm512_set1_epi32(x);
            for (acc, &w) in acc.iter_mut().zip(&w) {
                *acc = _mm512_dpbusd_epi32(*acc, w, x);
            }
        }
    }
    for (l, acc) in acc.iter().enumerate() {
        let correction = _mm512_set1_epi32(at.corrections[l]);
        for (t, &acc) in acc.iter().enumerate() {
            // SAFETY: lane l has a row of n outputs, T tiles lie in it.
            unsafe {
                _mm512_storeu_si512(
                    at.out.add(l * at.n + 16 * t).cast(),
                    _mm512_sub_epi32(acc, correction),
                )
            };
        }
    }
}

#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni")]
unsafe fn softmax(products: &mut [i32], shift: u32, bias: &[i32], e: &mut [i8]) -> u32 {
    let half = _mm512_set1_epi32(1 << (shift - 1));
    let count = _mm_cvtsi32_si128(shift as i32);
    let mut best = _mm512_set1_epi32(i32::MIN);
    for (p, b) in products.chunks_exact_mut(16).zip(bias.chunks_exact(16)) {
        // SAFETY: both hold 16 values.
        unsafe {
            let v = _mm512_add_epi32(_mm512_loadu_si512(p.as_ptr().cast()), half);
            let v = _mm512_add_epi32(
                _mm512_sra_epi32(v, count),
                _mm512_loadu_si512(b.as_ptr().cast()),
            );
            best = _mm512_max_epi32(best, v);
            _mm512_storeu_si512(p.as_mut_ptr().cast(), v);
        }
    }
    let best = _mm512_set1_epi32(_mm512_reduce_max_epi32(best));
    // SAFETY: the table is 32 bytes.
    let table = _mm512_broadcast_i64x4(unsafe { _mm256_loadu_si256(EIGHTHS_20.as_ptr().cast()) });
    let mut sum = _mm512_setzero_si512();
    for (p, e) in products.chunks_exact(16).zip(e.chunks_exact_mut(16)) {
        // SAFETY: p holds 16 values.
        let below = _mm512_sub_epi32(best, unsafe { _mm512_loadu_si512(p.as_ptr().cast()) });
        let below = _mm512_min_epi32(below, _mm512_set1_epi32(80));
        let s = _mm512_add_epi32(_mm512_srli_epi32::<3>(below), _mm512_set1_epi32(19));
        // The table repeats every 8 entries, the permutation looks at the low 4 bits.
        let value = _mm512_permutexvar_epi32(below, table);
        let half = _mm512_sllv_epi32(_mm512_set1_epi32(1), s);
        let value = _mm512_srlv_epi32(
            _mm512_add_epi32(value, half),
            _mm512_add_epi32(s, _mm512_set1_epi32(1)),
        );
        sum = _mm512_add_epi32(sum, value);
        // SAFETY: e holds 16 bytes.
        unsafe { _mm_storeu_si128(e.as_mut_ptr().cast(), _mm512_cvtepi32_epi8(value)) };
    }
    _mm512_reduce_add_epi32(sum) as u32
}

#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni")]
unsafe fn byte_weights(logits: &[i32], out: &mut [u32; 256]) {
    let mut best = _mm512_set1_epi32(i32::MIN);
    for l in logits[..256].chunks_exact(16) {
        // SAFETY: l holds 16 values.
        best = _mm512_max_epi32(best, unsafe { _mm512_loadu_si512(l.as_ptr().cast()) });
    }
    let best = _mm512_set1_epi32(_mm512_reduce_max_epi32(best));
    // SAFETY: the octave has 32 entries.
    let (low, high) = unsafe {
        (
            _mm512_loadu_si512(OCTAVE.as_ptr().cast()),
            _mm512_loadu_si512(OCTAVE.as_ptr().add(16).cast()),
        )
    };
    let one = _mm512_set1_epi32(1);
    for (l, o) in logits[..256].chunks_exact(16).zip(out.chunks_exact_mut(16)) {
        // SAFETY: l holds 16 values.
        let below = _mm512_sub_epi32(best, unsafe { _mm512_loadu_si512(l.as_ptr().cast()) });
        let below = _mm512_min_epi32(below, _mm512_set1_epi32(THIRTY_SECONDS as i32));
        let s = _mm512_add_epi32(_mm512_srli_epi32::<5>(below), _mm512_set1_epi32(13));
        let value = _mm512_permutex2var_epi32(low, below, high);
        let value = _mm512_add_epi32(value, _mm512_sllv_epi32(one, s));
        let value = _mm512_max_epi32(_mm512_srlv_epi32(value, _mm512_add_epi32(s, one)), one);
        // SAFETY: o holds 16 values.
        unsafe { _mm512_storeu_si512(o.as_mut_ptr().cast(), value) };
    }
}
