//! The logistic distribution in integers: what the bits of a number are, given its expectation and its mean distance from it.

use super::super::tables::odds;
use super::FAR;
use super::linear::FRACTION;

/// Steps of the table per unit, as a power of two, and units on each side of zero.
const STEP_BITS: u32 = 6;
const UNITS: usize = 16;
const SIZE: usize = 2 * UNITS << STEP_BITS;
/// Fraction bits of the distribution's argument, and of a probability.
const Z_BITS: u32 = 12;
const P_BITS: u32 = 30;
/// Fraction bits of `1 / scale`, whose unit is that of a distance, 1 / 2^[`FRACTION`].
const INVERSE_BITS: u32 = 32;
/// 2 ln 2 in units of 2^-[`INVERSE_BITS`]: the mean distance of a logistic distribution in scales.
const MEAN_DISTANCE: i64 = 5_954_088_944;
/// Smallest mean distance, about a tenth of a number.
const LEAST: i64 = 24;
/// Scale in bytes' units from which the lower bytes of a number tell nothing, and from which more wraps are counted.
const FLAT: i64 = 64 << FRACTION;
const WIDE: i64 = 16 << FRACTION;

/// A scale of the distribution.
#[derive(Clone, Copy)]
pub(super) struct Spread {
    /// 1 / scale, with [`INVERSE_BITS`].
    inverse: i64,
    /// With [`FRACTION`] bits.
    scale: i64,
}

impl Spread {
    /// The distribution with this mean distance from its expectation, which has [`FRACTION`] bits.
    #[inline(always)]
    pub(super) fn of(distance: i64) -> Self {
        let distance = distance.clamp(LEAST, FAR);
        Spread {
            inverse: (MEAN_DISTANCE / distance).max(1),
            scale: distance * 47_274 >> 16,
        }
    }

    /// Log odds of the upper half of the `2 * half` numbers from `low` on.
    #[inline(always)]
    pub(super) fn upper(&self, mean: i64, low: i64, half: i64) -> i16 {
        let below = |v: i64| cdf(argument((v << FRACTION) - HALF - mean, self.inverse));
        let middle = below(low + half);
        log_odds(middle - below(low), below(low + 2 * half) - middle)
    }

    /// Log odds of the upper half of the `2 * half` values of a byte from `low` on, if `shift` bits, `known`, of the number lie below
    /// the byte, and any above it.
    #[inline(always)]
    pub(super) fn wrapped(&self, mean: i64, known: i64, shift: u32, low: i64, half: i64) -> i16 {
        // In units of the byte.
        let mean = (mean - (known << FRACTION)) >> shift;
        let scale = self.scale >> shift;
        if scale > FLAT {
            return 0;
        }
        let mut inverse = (self.inverse << shift).min(1 << (INVERSE_BITS + 8));
        if shift > 0 {
            // Only the numbers that end in `known` are possible. Where few of them are near, they lie further apart than the
            // middles between them.
            let apart = (HALF + scale * 3 / 4).min(2 * HALF);
            inverse = (inverse << FRACTION) / apart;
        }
        let turns = if scale > WIDE { 3 } else { 1 };
        let centre = mean >> (FRACTION + 8);
        let below = |v: i64| cdf(argument((v << FRACTION) - HALF - mean, inverse));
        let (mut zero, mut one) = (0, 0);
        for turn in centre - turns..=centre + turns {
            let low = low + 256 * turn;
            let middle = below(low + half);
            zero += middle - below(low);
            one += below(low + 2 * half) - middle;
        }
        log_odds(zero, one)
    }
}

/// Half a number: it stands for all that is rounded to it.
const HALF: i64 = 1 << (FRACTION - 1);

/// How many scales `distance` is, with [`Z_BITS`].
#[inline(always)]
fn argument(distance: i64, inverse: i64) -> i64 {
    // Neither factor is so large that the product overflows: what is far is cut off before.
    let limit = FAR.min((1 << 62) / inverse);
    (distance.clamp(-limit, limit) * inverse) >> (INVERSE_BITS - Z_BITS)
}

/// Log odds of two probabilities of [`P_BITS`]; 0 where both are too small to tell.
#[inline(always)]
fn log_odds(zero: i64, one: i64) -> i16 {
    let sum = zero + one;
    if sum < 64 {
        return 0;
    }
    odds(((one << 16) / sum).clamp(16, 65520) as i32) as i16
}

/// `exp(-1/64) * 2^62`, by its Taylor series.
const fn step() -> u128 {
    let mut term: i128 = 1 << 62;
    let mut sum: i128 = 1 << 62;
    let mut k: i128 = 1;
    while k < 16 {
        term = -term / (64 * k);
        sum += term;
        k += 1;
    }
    sum as u128
}

const fn table() -> [i32; SIZE + 2] {
    let one: u128 = 1 << 62;
    let mut out = [0; SIZE + 2];
    let k = step();
    let mut e = one;
    let mut i = 0;
    while i <= SIZE / 2 {
        // At z = i / 64: 1 / (1 + exp(-z)).
        let p = (((1 << P_BITS) * one + (one + e) / 2) / (one + e)) as i32;
        out[SIZE / 2 + i] = p;
        out[SIZE / 2 - i] = (1 << P_BITS) - p;
        e = (e * k) >> 62;
        i += 1;
    }
    out[SIZE + 1] = out[SIZE];
    out
}

static CDF: [i32; SIZE + 2] = table();

/// Probability ([`P_BITS`]) of less than `z`, which has [`Z_BITS`].
#[inline(always)]
fn cdf(z: i64) -> i64 {
    let limit = (UNITS as i64) << Z_BITS;
    let at = z.clamp(-limit, limit) + limit;
    let i = (at >> (Z_BITS - STEP_BITS)) as usize;
    let part = at & ((1 << (Z_BITS - STEP_BITS)) - 1);
    let (low, high) = (i64::from(CDF[i]), i64::from(CDF[i + 1]));
    low + ((high - low) * part >> (Z_BITS - STEP_BITS))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn logistic(z: f64) -> f64 {
        1.0 / (1.0 + (-z).exp())
    }

    #[test]
    fn the_table_is_the_logistic_function() {
        for z in (-80_000..80_000).step_by(37) {
            let exact = logistic(f64::from(z as i32) / f64::from(1 << Z_BITS));
            let p = cdf(z) as f64 / f64::from(1 << P_BITS);
            assert!((p - exact).abs() < 1e-5, "{z}: {p} {exact}");
        }
    }

    /// Probability of each number from `from` on, as the distribution rounds them.
    fn masses(from: i64, n: i64, mean: f64, scale: f64) -> Vec<f64> {
        let below = |v: f64| logistic((v - 0.5 - mean) / scale);
        (from..from + n)
            .map(|v| below(v as f64 + 1.0) - below(v as f64))
            .collect()
    }

    fn check(got: i16, zero: f64, one: f64, what: &str) {
        let exact = ((one / zero).ln() * 256.0).clamp(-2000.0, 2000.0);
        let off = (f64::from(got) - exact).abs();
        assert!(off < 40.0 + exact.abs() / 20.0, "{what}: {got} {exact}");
    }

    #[test]
    fn bits_have_the_probabilities_of_their_numbers() {
        for distance in [3.0, 40.0, 700.0] {
            let spread = Spread::of((distance * 256.0) as i64);
            let scale = distance / (2.0 * 2f64.ln());
            for mean in [-301.3, -0.2, 77.5, 900.0] {
                let fixed = (mean * 256.0) as i64;
                let sum = |from: i64, n: i64| masses(from, n, mean, scale).iter().sum::<f64>();
                for half in [1i64, 16, 256] {
                    let low = mean as i64 - half;
                    let what = format!("{distance} {mean} {half}");
                    check(
                        spread.upper(fixed, low, half),
                        sum(low, half),
                        sum(low + half, half),
                        &what,
                    );
                    if half < 256 && distance < 60.0 {
                        let low = low.rem_euclid(256) & !(2 * half - 1);
                        let wraps = |from: i64| -> f64 {
                            (-20..20).map(|turn| sum(from + 256 * turn, half)).sum()
                        };
                        let got = spread.wrapped(fixed, 0, 0, low, half);
                        check(got, wraps(low), wraps(low + half), &what);
                    }
                }
            }
        }
    }

    #[test]
    fn upper_bytes_go_to_the_numbers_nearby() {
        // 0x1234 is expected, and its lower byte came.
        let spread = Spread::of(20 << FRACTION);
        let bit = |b: u32| {
            let before = (0x12i64 >> (b + 1)) << (b + 1);
            let odds = spread.wrapped(0x1234 << FRACTION, 0x34, 8, before, 1 << b);
            (odds > 1000, odds < -1000)
        };
        for b in 0..8 {
            assert_eq!(bit(b), (0x12 >> b & 1 == 1, 0x12 >> b & 1 == 0), "{b}");
        }
    }

    #[test]
    fn extremes_stay_within_range() {
        for distance in [0, 1, 1 << 20, 1 << 40] {
            let spread = Spread::of(distance);
            for mean in [-(1i64 << 42), 0, 1 << 42] {
                for shift in [0, 8, 16, 24] {
                    spread.wrapped(mean, (1 << shift) - 1, shift, 128, 64);
                }
                spread.upper(mean, -(1 << 31), 1 << 31);
            }
        }
    }
}
