//! Tables of powers of two, computed at compile time by integer arithmetic.
//!
//! `2^(-1/32)` is known to 60 bits below; every entry is a rounded product of its powers. A test shows that no
//! entry lies near a rounding boundary, so any correct way to compute the tables gives the same integers.

/// Entries of [`EXP_EIGHTHS`] that are not zero.
pub const EIGHTHS: usize = 64;
/// Entries of [`EXP_THIRTY_SECONDS`].
pub const THIRTY_SECONDS: usize = 512;

/// `round(127 * 2^(-i/8))`: weight of a slot whose score is `i` below the best.
pub const EXP_EIGHTHS: [u8; EIGHTHS] = eighths();
/// `round(2^16 * 2^(-i/32))`: weight of a byte whose logit is `i` below the best.
pub const EXP_THIRTY_SECONDS: [u32; THIRTY_SECONDS] = thirty_seconds();
/// `round(2^30 * 2^(-i/32))` for one octave; `EXP_THIRTY_SECONDS` are its rounding shifts.
pub const OCTAVE: [u32; 32] = octave();

/// `floor(2^(-i/32) * 2^60)` up to a few units, by 32nd roots through integer square roots of 2^-1.
const fn power(i: usize) -> u64 {
    // 2^(-1/2), 2^(-1/4), ... 2^(-1/32) in 60 fraction bits, each the root of the one before.
    let mut roots = [0u64; 5];
    let mut k = 0;
    let mut last = 1u128 << 59;
    while k < 5 {
        last = isqrt(last << 60);
        roots[k] = last as u64;
        k += 1;
    }
    let mut out = 1u128 << 60;
    let mut k = 0;
    while k < 5 {
        if i & (16 >> k) != 0 {
            out = (out * roots[k] as u128) >> 60;
        }
        k += 1;
    }
    out as u64
}

const fn isqrt(n: u128) -> u128 {
    let mut low = 0u128;
    let mut high = 1u128 << 61;
    while high - low > 1 {
        let mid = (low + high) / 2;
        if mid * mid <= n {
            low = mid;
        } else {
            high = mid;
        }
    }
    low
}

const fn eighths() -> [u8; EIGHTHS] {
    let mut t = [0; EIGHTHS];
    let mut i = 0;
    while i < EIGHTHS {
        let p = power((i % 8) * 4) as u128 * 127;
        let s = 60 + i / 8;
        t[i] = ((p + (1 << (s - 1))) >> s) as u8;
        i += 1;
    }
    t
}

const fn octave() -> [u32; 32] {
    let mut t = [0; 32];
    let mut i = 0;
    while i < 32 {
        t[i] = ((power(i) + (1 << 29)) >> 30) as u32;
        i += 1;
    }
    t
}

const fn thirty_seconds() -> [u32; THIRTY_SECONDS] {
    let mut t = [0; THIRTY_SECONDS];
    let mut i = 0;
    while i < THIRTY_SECONDS {
        let s = 44 + i / 32;
        t[i] = ((power(i % 32) + (1 << (s - 1))) >> s) as u32;
        i += 1;
    }
    t
}

/// Weight of a byte whose logit is `below` the best: from the octave table, at least 1.
#[inline(always)]
pub fn byte_weight(below: u32) -> u32 {
    if below >= THIRTY_SECONDS as u32 {
        return 1;
    }
    let s = 14 + below / 32;
    ((OCTAVE[(below % 32) as usize] + (1 << (s - 1))) >> s).max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_lie_far_from_rounding_boundaries() {
        let check = |value: f64, whole_octave: bool, got: u32, margin: f64| {
            // Whole octaves are exact in binary, their halves round up by definition.
            assert_eq!((value + 0.5).floor(), f64::from(got));
            let distance = (value - value.floor() - 0.5).abs();
            assert!(
                whole_octave || distance > margin,
                "{value} is near a boundary"
            );
        };
        for (i, &t) in EXP_EIGHTHS.iter().enumerate() {
            check(
                127.0 * (-(i as f64) / 8.0).exp2(),
                i % 8 == 0,
                t.into(),
                1e-4,
            );
        }
        for (i, &t) in EXP_THIRTY_SECONDS.iter().enumerate() {
            check(65536.0 * (-(i as f64) / 32.0).exp2(), i % 32 == 0, t, 1e-5);
        }
        assert!(
            127.0 * (-(EIGHTHS as f64) / 8.0).exp2() < 0.5,
            "the entry after the last rounds to 0"
        );
    }

    #[test]
    fn octave_table_gives_the_same_weights() {
        for i in 0..THIRTY_SECONDS as u32 {
            assert_eq!(byte_weight(i), EXP_THIRTY_SECONDS[i as usize].max(1), "{i}");
        }
        assert_eq!(byte_weight(u32::MAX), 1);
    }
}
