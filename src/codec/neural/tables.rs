//! The logistic function and its inverse in integers, computed at compile time.
//!
//! Probabilities have 16 bits (1..=65535 of 65536); stretched probabilities (log odds) are in units of 1/256 and
//! lie within +-[`LIMIT`]. Both tables follow from one 62-bit constant, so every machine has the same ones.

/// Largest magnitude of a log odds value: 12 in units of 1/256.
pub(crate) const LIMIT: i32 = 12 * 256 - 1;

/// Entries of [`STRETCH`]: it is indexed by the upper 12 bits of a probability.
pub(crate) const STRETCH_LEN: usize = 4096;

/// `exp(-1/256) * 2^62`, by its Taylor series.
const fn step() -> u128 {
    let mut term: i128 = 1 << 62;
    let mut sum: i128 = 1 << 62;
    let mut k: i128 = 1;
    while k < 16 {
        term = -term / (256 * k);
        sum += term;
        k += 1;
    }
    sum as u128
}

const SIZE: usize = 2 * LIMIT as usize + 2;

const fn squash_table() -> [u16; SIZE] {
    let one: u128 = 1 << 62;
    let mut out = [0u16; SIZE];
    let k = step();
    let mut e = one;
    let mut i = 0;
    while i <= LIMIT as usize {
        let p = ((65536 * one + (one + e) / 2) / (one + e)) as u32;
        let p = if p > 65535 { 65535 } else { p };
        out[LIMIT as usize + i] = p as u16;
        out[LIMIT as usize - i] = (65536 - p) as u16;
        e = (e * k) >> 62;
        i += 1;
    }
    out
}

/// The logistic function of -[`LIMIT`]..=[`LIMIT`], and one entry more.
pub(crate) static SQUASH: [u16; SIZE] = squash_table();

const fn stretch_table() -> [i16; STRETCH_LEN] {
    let squash = squash_table();
    let mut out = [0i16; STRETCH_LEN];
    let mut x = 0usize;
    let mut i = STRETCH_LEN / 2;
    while i < STRETCH_LEN {
        while x < LIMIT as usize && (squash[LIMIT as usize + x] as usize) < i * 16 + 8 {
            x += 1;
        }
        out[i] = x as i16;
        out[STRETCH_LEN - 1 - i] = -(x as i16);
        i += 1;
    }
    out
}

/// Log odds of `(i + 1/2) / 4096`.
pub(crate) static STRETCH: [i16; STRETCH_LEN] = stretch_table();

/// Probability (16 bits, never 0) of log odds `x`, which is clamped to +-[`LIMIT`].
#[inline(always)]
pub(crate) fn squash(x: i32) -> i32 {
    i32::from(SQUASH[(x.clamp(-LIMIT, LIMIT) + LIMIT) as usize])
}

/// Log odds of a probability `p` of 65536 (1..=65535), roughly: the logarithm is linear between powers of two.
///
/// A conversion of an integer below 2^24 to f32 is exact, and its bits are exponent and mantissa: no rounding is involved.
#[inline(always)]
pub(crate) fn odds(p: i32) -> i32 {
    let yes = (p as f32).to_bits() as i32;
    let no = ((65536 - p) as f32).to_bits() as i32;
    ((yes >> 8) - (no >> 8)) * 355 >> 16
}

/// What bit `y` costs where a 1 has probability `p` of 65536 (1..=65535), in 1/256 bit: the logarithm is a parabola between powers
/// of two.
#[inline(always)]
pub(crate) fn cost(p: i32, y: u32) -> i32 {
    let p = if y == 1 { p } else { 65536 - p };
    let linear = ((p as f32).to_bits() >> 15) as i32;
    let m = linear & 255;
    (143 << 8) - linear - (m * (256 - m) * 88 >> 16)
}

/// Log odds of a 16-bit probability.
#[inline(always)]
pub(crate) fn stretch(p: u32) -> i32 {
    i32::from(STRETCH[(p >> 4) as usize & (STRETCH_LEN - 1)])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn squash_is_the_logistic_function() {
        for x in (-LIMIT..=LIMIT).step_by(7) {
            let exact = 65536.0 / (1.0 + (-f64::from(x) / 256.0).exp());
            assert!((f64::from(squash(x)) - exact).abs() <= 1.0, "{x}");
        }
        assert_eq!(squash(0), 32768);
        assert_eq!((squash(i32::MIN), squash(i32::MAX)), (1, 65535));
    }

    #[test]
    fn cost_is_nearly_the_logarithm() {
        for p in 1..65536 {
            let exact = -(f64::from(p) / 65536.0).log2() * 256.0;
            // Two roundings down, and how far the parabola is off: 2.2.
            let off = f64::from(cost(p, 1)) - exact;
            assert!((-2.0..=4.5).contains(&off), "{p}: {off}");
            assert_eq!(cost(p, 1), cost(65536 - p, 0));
        }
    }

    #[test]
    fn stretch_inverts_squash() {
        for i in 0..STRETCH_LEN as u32 {
            let p = i * 16 + 8;
            let x = stretch(p);
            assert!(
                squash(x - 1) <= p as i32 + 1 && squash(x + 1) >= p as i32 - 1,
                "{i}"
            );
            assert_eq!(stretch(65535 - p), -x);
        }
    }
}
