//! The engine's inner loops, once per instruction set, chosen at run time.
//!
//! Scalar is the definition; every other kernel gives the same integers (property-tested). Matrices are packed
//! in lines of 16 outputs times 4 inputs; stored bytes are `weight + 128`, so that VNNI can take them as the unsigned
//! operand, and 128 times the sum of the inputs is subtracted at the end. Keys and values of attention are packed
//! the same way: keys with the slots as outputs, values with the slots as inputs.

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
mod scalar;

use super::EngineError;
use std::sync::OnceLock;

/// 16 outputs x 4 inputs of a packed matrix.
#[derive(Debug, Clone, Copy)]
#[repr(C, align(64))]
pub(super) struct Line(pub [u8; 64]);

impl Line {
    /// A line of zero weights.
    pub(super) const ZERO: Line = Line([128; 64]);
}

/// A matrix of `n` outputs and `k` inputs; line `(n / 16) * (k / 4) + k / 4`.
#[derive(Debug, Clone)]
pub(super) struct Packed {
    pub lines: Vec<Line>,
    pub n: usize,
    pub k: usize,
}

impl Packed {
    /// Packs rows of `k` weights, one row an output.
    pub(super) fn new<'a>(rows: impl ExactSizeIterator<Item = &'a [i8]>, k: usize) -> Self {
        let n = rows.len();
        let mut lines = vec![Line::ZERO; n / 16 * (k / 4)];
        for (o, row) in rows.enumerate() {
            for (i, &w) in row.iter().enumerate() {
                lines[o / 16 * (k / 4) + i / 4].0[o % 16 * 4 + i % 4] = biased(w);
            }
        }
        Packed { lines, n, k }
    }
}

/// The stored form of a weight.
#[inline(always)]
pub(super) const fn biased(w: i8) -> u8 {
    (w as u8) ^ 0x80
}

/// The loops that have one version per instruction set.
pub(super) trait Ops {
    /// `out[lane][o] = sum_i x[lane][i] * w[o][i]`, for `w` of `n` outputs and `k` inputs.
    fn gemm(x: &[i8], lanes: usize, w: &[Line], n: usize, k: usize, out: &mut [i32]);
    /// Turns raw products into attention weights `e`; returns their sum. Slots with a very low bias get 0.
    fn softmax(products: &mut [i32], shift: u32, bias: &[i32], e: &mut [i8]) -> u32;
    /// Turns 256 logits into the weights of the 256 bytes.
    fn byte_weights(logits: &[i32], out: &mut [u32; 256]);
}

/// Work that is compiled once for every instruction set.
pub(super) trait Job {
    /// Does the work with the loops of `O`. Must be `#[inline(always)]`, so that it is compiled for the instruction set.
    fn run<O: Ops>(self);
}

/// An instruction set that the engine has loops for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kernel {
    /// Portable code: the definition.
    Scalar,
    /// x86-64 with AVX2.
    Avx2,
    /// x86-64 with AVX-512 BW, VL and VNNI.
    Avx512,
}

impl Kernel {
    /// All kernels, slowest first.
    pub const ALL: [Kernel; 3] = [Kernel::Scalar, Kernel::Avx2, Kernel::Avx512];

    /// The name that `VORTEX_KERNEL` takes.
    pub fn name(self) -> &'static str {
        match self {
            Kernel::Scalar => "scalar",
            Kernel::Avx2 => "avx2",
            Kernel::Avx512 => "avx512",
        }
    }

    /// Whether this processor has the instructions.
    pub fn is_supported(self) -> bool {
        match self {
            Kernel::Scalar => true,
            #[cfg(target_arch = "x86_64")]
            Kernel::Avx2 => is_x86_feature_detected!("avx2"),
            #[cfg(target_arch = "x86_64")]
            Kernel::Avx512 => {
                is_x86_feature_detected!("avx512f")
                    && is_x86_feature_detected!("avx512bw")
                    && is_x86_feature_detected!("avx512vl")
                    && is_x86_feature_detected!("avx512vnni")
            }
            #[cfg(not(target_arch = "x86_64"))]
            _ => false,
        }
    }

    /// The kernel of this process: the fastest supported one, or the one that the environment variable
    /// `VORTEX_KERNEL` names. Decided once.
    ///
    /// # Errors
    /// [`EngineError::Kernel`] if the variable names none, or one that is not supported here.
    pub fn chosen() -> Result<Kernel, EngineError> {
        static CHOSEN: OnceLock<Result<Kernel, EngineError>> = OnceLock::new();
        CHOSEN
            .get_or_init(|| Self::choose(std::env::var("VORTEX_KERNEL").ok().as_deref()))
            .clone()
    }

    fn choose(forced: Option<&str>) -> Result<Kernel, EngineError> {
        let mut fastest_first = Self::ALL.into_iter().rev().filter(|k| k.is_supported());
        match forced {
            None => Ok(fastest_first.next().unwrap_or(Kernel::Scalar)),
            Some(name) => fastest_first
                .find(|k| k.name() == name)
                .ok_or_else(|| EngineError::Kernel(name.to_string())),
        }
    }

    pub(super) fn run(self, job: impl Job) {
        match self {
            Kernel::Scalar => job.run::<scalar::Scalar>(),
            #[cfg(target_arch = "x86_64")]
            Kernel::Avx2 => avx2::run(job),
            #[cfg(target_arch = "x86_64")]
            Kernel::Avx512 => avx512::run(job),
            #[cfg(not(target_arch = "x86_64"))]
            _ => job.run::<scalar::Scalar>(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    struct All {
        x: Vec<i8>,
        lanes: usize,
        w: Packed,
        bias: Vec<i32>,
    }

    #[derive(Default, Debug, PartialEq)]
    struct Results {
        gemm: Vec<i32>,
        e: Vec<i8>,
        sum: u32,
        bytes: Vec<u32>,
    }

    struct Check<'a>(&'a All, &'a mut Results);

    impl Job for Check<'_> {
        fn run<O: Ops>(self) {
            let Check(a, r) = self;
            r.gemm = vec![0; a.lanes * a.w.n];
            O::gemm(&a.x, a.lanes, &a.w.lines, a.w.n, a.w.k, &mut r.gemm);
            let mut products = r.gemm[..a.w.n].to_vec();
            r.e = vec![1; a.w.n];
            r.sum = O::softmax(&mut products, 7, &a.bias, &mut r.e);
            let logits: Vec<i32> = (0..256).map(|i| r.gemm[i % a.w.n] >> (i / 64)).collect();
            let mut bytes = [0; 256];
            O::byte_weights(&logits, &mut bytes);
            r.bytes = bytes.to_vec();
        }
    }

    fn results(kernel: Kernel, a: &All) -> Results {
        let mut r = Results::default();
        kernel.run(Check(a, &mut r));
        r
    }

    fn int8() -> impl Strategy<Value = i8> {
        prop_oneof![4 => -127i8..=127, 1 => Just(127), 1 => Just(-127)]
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(200))]
        #[test]
        fn every_kernel_equals_scalar(
            (lanes, tiles, k4) in (1usize..=16, 1usize..=9, 1usize..=40),
            seed in proptest::collection::vec(int8(), 997),
            bias in proptest::collection::vec(prop_oneof![-127i32..=127, Just(-(1 << 20))], 144),
        ) {
            let (n, k) = (tiles * 16, k4 * 4);
            let take = |from: usize, len: usize| -> Vec<i8> { (0..len).map(|i| seed[(from + i * 7) % 997]).collect() };
            let rows: Vec<Vec<i8>> = (0..n).map(|o| take(o * 31, k)).collect();
            let mut bias = bias[..n].to_vec();
            bias[0] = 5;
            let a = All { x: take(3, lanes * k), lanes, w: Packed::new(rows.iter().map(Vec::as_slice), k), bias };
            let want = results(Kernel::Scalar, &a);
            for (l, x) in a.x.chunks(k).enumerate() {
                for (o, row) in rows.iter().enumerate() {
                    let dot: i32 = row.iter().zip(x).map(|(&w, &x)| i32::from(w) * i32::from(x)).sum();
                    prop_assert_eq!(want.gemm[l * n + o], dot);
                }
            }
            for kernel in Kernel::ALL.into_iter().filter(|k| k.is_supported()) {
                prop_assert_eq!(&results(kernel, &a), &want, "{}", kernel.name());
            }
        }
    }

    #[test]
    fn forcing_a_kernel_gives_it_or_an_error() {
        assert_eq!(Kernel::choose(Some("scalar")), Ok(Kernel::Scalar));
        assert!(Kernel::choose(Some("sse9")).is_err());
        assert!(Kernel::choose(None).is_ok());
    }
}
