//! One field's steps: which float a code stands for, exactly, and which code is nearest to a float.
//!
//! Everything here is integer arithmetic: a float is its bits, a real number is an integer times a power of two.

use super::Width;

/// The floats `((code - origin) * unit + offset) * 2^exponent`, each rounded to the nearest float, ties to even.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Scale {
    /// Distance of neighbouring codes; positive.
    pub(super) unit: i64,
    pub(super) offset: i64,
    pub(super) exponent: i16,
    /// The code whose float is `offset`.
    pub(super) origin: i32,
}

impl Scale {
    /// The bits of the float that `code` stands for; none if it is no normal number.
    pub(super) fn float(&self, code: u32, width: Width) -> Option<u64> {
        let steps = i128::from(code) - i128::from(self.origin);
        let x = steps * i128::from(self.unit) + i128::from(self.offset);
        round(x, self.exponent.into(), width)
    }

    /// The code whose float is nearest to the float with these bits. It may be beyond what a field holds; none for what is no
    /// number, far too large, or a negative zero. Halves go up. Part of the format.
    pub(super) fn nearest(&self, bits: u64, width: Width) -> Option<i64> {
        let (mantissa, exponent) = width.split(bits)?;
        let shift = exponent - i32::from(self.exponent);
        let x = match shift {
            // A mantissa has at most 53 bits and a sign.
            72.. if mantissa != 0 => return None,
            0.. => i128::from(mantissa) << shift.min(71),
            _ => i128::from(mantissa) >> (-shift).min(127),
        };
        let (unit, x) = (i128::from(self.unit), x - i128::from(self.offset));
        let steps = (2 * x + unit).div_euclid(2 * unit);
        i64::try_from(steps + i128::from(self.origin)).ok()
    }
}

/// The bits of the float nearest to `x * 2^exponent`, ties to even; none beyond the normal numbers.
fn round(x: i128, exponent: i32, width: Width) -> Option<u64> {
    if x == 0 {
        return Some(0);
    }
    let digits = width.digits();
    let m = x.unsigned_abs();
    let len = (u128::BITS - m.leading_zeros()) as i32;
    let mut top = exponent + len - 1;
    let mut q = if len <= digits {
        m << (digits - len)
    } else {
        let shift = len - digits;
        let (q, rest, half) = (m >> shift, m & ((1 << shift) - 1), 1 << (shift - 1));
        q + u128::from(rest > half || rest == half && q & 1 == 1)
    };
    if q >> digits != 0 {
        q >>= 1;
        top += 1;
    }
    width.join(x < 0, top, q as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn next(state: &mut u64) -> u64 {
        *state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        *state >> 11
    }

    /// Rounding is what the processor does when it converts or multiplies.
    #[test]
    fn rounding_is_that_of_ieee_754() {
        let mut state = 1;
        for i in 0..200_000 {
            let x = (next(&mut state) as i64).wrapping_shl(i % 12) >> (next(&mut state) % 50);
            let x = if i % 2 == 0 { x } else { -x };
            let (double, single) = (x as f64, x as f32);
            assert_eq!(
                round(x.into(), 0, Width::Double),
                Some(double.to_bits()),
                "{x}"
            );
            assert_eq!(
                round(x.into(), 0, Width::Single),
                Some(single.to_bits().into()),
                "{x}"
            );
            let y = next(&mut state) as i64 >> (i % 40);
            let product = i128::from(x) * i128::from(y);
            assert_eq!(
                round(product, -70, Width::Double),
                Some((product as f64 * 2f64.powi(-70)).to_bits())
            );
        }
    }

    #[test]
    fn beyond_the_normal_numbers_there_is_no_float() {
        assert_eq!(
            round(1, 127, Width::Single),
            Some(2f32.powi(127).to_bits().into())
        );
        assert_eq!(round(1, 128, Width::Single), None);
        assert_eq!(round((1 << 25) - 1, 103, Width::Single), None);
        assert_eq!(
            round(1, -126, Width::Single),
            Some(f32::MIN_POSITIVE.to_bits().into())
        );
        assert_eq!(round(1, -127, Width::Single), None);
        assert_eq!(
            round(-1, 1023, Width::Double),
            Some((-(2f64.powi(1023))).to_bits())
        );
        assert_eq!(round(-1, 1024, Width::Double), None);
        assert_eq!(round(1, -1023, Width::Double), None);
    }

    #[test]
    fn every_code_is_nearest_to_its_float() {
        let mut state = 5;
        for i in 0..2000 {
            let scale = Scale {
                unit: (1 << 61) | (next(&mut state) as i64),
                offset: (next(&mut state) as i64) << (i % 10),
                exponent: -(next(&mut state) as i16 % 80) - 30,
                origin: next(&mut state) as i32 % 70_000,
            };
            for _ in 0..50 {
                let code = next(&mut state) as u32 % (1 << 16);
                for width in [Width::Single, Width::Double] {
                    let bits = scale.float(code, width).unwrap();
                    assert_eq!(scale.nearest(bits, width), Some(code.into()), "{scale:?}");
                }
            }
        }
    }

    #[test]
    fn what_is_no_number_has_no_code() {
        let scale = Scale {
            unit: 1 << 61,
            offset: 0,
            exponent: -70,
            origin: 0,
        };
        for x in [f64::NAN, f64::INFINITY, -0.0, 1e300, 1e-310] {
            assert_eq!(scale.nearest(x.to_bits(), Width::Double), None, "{x}");
        }
        for x in [f32::NAN, f32::NEG_INFINITY, -0.0, 1e-40] {
            assert_eq!(
                scale.nearest(x.to_bits().into(), Width::Single),
                None,
                "{x}"
            );
        }
        assert_eq!(scale.nearest(0, Width::Double), Some(0));
        assert_eq!(scale.nearest(1e-200f64.to_bits(), Width::Double), Some(0));
    }
}
