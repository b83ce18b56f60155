//! Integer arithmetic that the engine and the training forward pass share.

/// Integers below this are exact in f32.
pub const EXACT: i64 = 1 << 24;
/// Largest magnitude of the residual stream, in units of 1/64.
pub const RESIDUAL_MAX: i32 = 2047;
/// Mean magnitude of a normed vector.
pub const NORM_MEAN: i32 = 28;
/// Largest magnitude of an int8 activation or weight.
pub const INT8_MAX: i32 = 127;
/// Shift of the biases of attention: trained in units of two octaves, used in units of 1/8 octave.
pub const BIAS_EXPONENT: u32 = 4;
/// Embeddings are in units of 1/64.
pub const EMBEDDING_EXPONENT: u32 = 6;

/// `floor(x / 2^s + 1/2)`.
#[inline(always)]
pub const fn rounding_shift(x: i32, s: u32) -> i32 {
    if s == 0 { x } else { (x + (1 << (s - 1))) >> s }
}

/// Clamps to -127..=127.
#[inline(always)]
pub const fn clamp8(x: i32) -> i32 {
    if x > INT8_MAX {
        INT8_MAX
    } else if x < -INT8_MAX {
        -INT8_MAX
    } else {
        x
    }
}

/// Exponent of the unit of a weight matrix with this inner dimension: 6 up to 255, 7 up to 1023, then 8.
///
/// Wider sums need smaller weights; the unit follows so that the weights keep their resolution.
pub const fn weight_exponent(inner: usize) -> u32 {
    let mut e = 6;
    let mut k = 256;
    while k <= inner {
        e += 1;
        k *= 4;
    }
    e
}

/// Shift of `q.k` to units of 1/8 octave, near `8 / ln 2 / sqrt(head_dim)` of the real product.
pub const fn score_shift(head_dim: usize) -> u32 {
    6 + head_dim.ilog2().div_ceil(2)
}

/// Fraction bits of the reciprocal in [`norm`]: the most for which every intermediate is below 2^24.
pub const fn norm_shift(d: usize) -> u32 {
    let mut q = 1;
    let a = d as i64 * NORM_MEAN as i64;
    let tail = d as i64 * RESIDUAL_MAX as i64;
    while (a << (q + 1)) + (1 << q) + tail < EXACT {
        q += 1;
    }
    q
}

/// Scales `x` to a mean magnitude of [`NORM_MEAN`], clamped to int8.
///
/// `s = max(1, sum |x|)`, `r = floor(d * 28 * 2^q / s)`, `y = clamp8(floor((x r + 2^(q-1)) / 2^q))`. Since
/// `|x| <= s`, `|x r| <= d * 28 * 2^q`, so all is below 2^24.
#[inline(always)]
pub fn norm(x: &[i32], y: &mut [i8], q: u32) {
    let s: i32 = x.iter().map(|v| v.abs()).sum::<i32>().max(1);
    let r = ((x.len() as i32 * NORM_MEAN) << q) / s;
    let half = 1 << (q - 1);
    for (o, &v) in y.iter_mut().zip(x) {
        *o = ((v * r + half) >> q).clamp(-INT8_MAX, INT8_MAX) as i8;
    }
}

/// Division by an invariant `d` through one multiplication (Granlund and Montgomery 1994, theorem 4.2).
///
/// `floor(n m / 2^(25+l)) = floor(n / d)` for `0 <= n < 2^25`, `0 < d < 2^24`, `l = ceil(log2 d)`,
/// `m = ceil(2^(25+l) / d) <= 2^26`.
#[derive(Debug, Clone, Copy)]
pub struct Reciprocal {
    /// Multiplier.
    pub m: u32,
    /// Shift.
    pub shift: u32,
}

impl Reciprocal {
    /// Prepares the division by `d`.
    #[inline(always)]
    pub const fn new(d: u32) -> Self {
        let l = u32::BITS - (d - 1).leading_zeros();
        let shift = 25 + l;
        Self {
            m: (1u64 << shift).div_ceil(d as u64) as u32,
            shift,
        }
    }

    /// `n / d`.
    #[inline(always)]
    pub const fn divide(self, n: u32) -> u32 {
        ((n as u64 * self.m as u64) >> self.shift) as u32
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reciprocal_division_is_exact() {
        for d in (1..(1u32 << 17))
            .step_by(7)
            .chain([1, 2, 127, 1 << 17, 1027 * 127])
        {
            let r = Reciprocal::new(d);
            for k in [0, 1, 2, 5, 100, 255, 256, ((1 << 25) - 1) / d] {
                for n in [(k * d).wrapping_sub(1), k * d, k * d + 1, k * d + d - 1] {
                    if n < 1 << 25 {
                        assert_eq!(r.divide(n), n / d, "{n} / {d}");
                    }
                }
            }
        }
    }

    #[test]
    fn norm_reaches_its_mean_and_stays_exact() {
        let x: Vec<i32> = (0..64).map(|i| (i * 37 % 101) - 50).collect();
        let mut y = vec![0i8; 64];
        norm(&x, &mut y, norm_shift(64));
        let mean = y.iter().map(|&v| i32::from(v).abs()).sum::<i32>() as f64 / 64.0;
        assert!((mean - 28.0).abs() < 1.5, "{mean}");
        norm(&[0; 64], &mut y, norm_shift(64));
        assert_eq!(y, [0; 64]);
    }
}
