//! Feature bytes: what the model sees of a block before it predicts a byte.
//!
//! A lane never looks before its own start: every byte that a feature names lies in the same lane, before the
//! predicted byte, or the feature is 0. So a block can be decoded with all lanes in lockstep, and a lane's features do not depend on
//! other lanes. `column` is the predicted byte's position in its record, counted from the start of the block.

use super::Feature;

/// Writes the features of the byte at `pos` of `block`, in the lane that starts at `lane_start`, to `out`.
///
/// `stride` is the length of a record in bytes, 0 if the block has none. Only `block[lane_start..pos]` is read, and
/// nothing of it that does not exist: `pos` may be `block.len()`. `out` is as long as `features`.
#[inline]
pub fn write(
    features: &[Feature],
    block: &[u8],
    pos: usize,
    lane_start: usize,
    stride: u16,
    out: &mut [u8],
) {
    let seen = block.get(lane_start..pos).unwrap_or(&[]);
    let stride = usize::from(stride);
    let back = |n: usize| match n {
        0 => 0,
        n => seen.len().checked_sub(n).map_or(0, |i| seen[i]),
    };
    // Bytes of the records above exist only where the byte itself does: `above_next` is no record byte when the stride is 1.
    let above = |records: usize, left: usize| match stride {
        0 => 0,
        s => back(records * s + left),
    };
    for (o, f) in out.iter_mut().zip(features) {
        *o = match f {
            Feature::Previous => back(1),
            Feature::Previous2 => back(2),
            Feature::Previous3 => back(3),
            Feature::Previous4 => back(4),
            Feature::Above => above(1, 0),
            Feature::Above2 => above(2, 0),
            Feature::AboveLeft => above(1, 1),
            Feature::AboveNext => back(stride.saturating_sub(1)),
            Feature::Gradient => back(1).wrapping_add(above(1, 0)).wrapping_sub(above(1, 1)),
            Feature::Linear => above(1, 0).wrapping_mul(2).wrapping_sub(above(2, 0)),
            Feature::Column => match stride {
                0 => 0,
                s => (pos % s).min(255) as u8,
            },
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use Feature::*;

    const ALL: [Feature; 11] = [
        Previous, Previous2, Previous3, Previous4, Above, Above2, AboveLeft, AboveNext, Gradient,
        Linear, Column,
    ];

    fn get(block: &[u8], pos: usize, lane_start: usize, stride: u16) -> [u8; 11] {
        let mut out = [99; 11];
        write(&ALL, block, pos, lane_start, stride, &mut out);
        out
    }

    #[test]
    fn features_name_the_bytes_of_the_record_above() {
        let block: Vec<u8> = (0..100).map(|i| (i * i % 251) as u8).collect();
        let b = |i: usize| block[i];
        assert_eq!(
            get(&block, 50, 0, 8),
            [
                b(49),
                b(48),
                b(47),
                b(46),
                b(42),
                b(34),
                b(41),
                b(43),
                b(49).wrapping_add(b(42)).wrapping_sub(b(41)),
                b(42).wrapping_mul(2).wrapping_sub(b(34)),
                2,
            ]
        );
    }

    #[test]
    fn a_lane_sees_nothing_before_its_start() {
        let block = [7u8; 64];
        assert_eq!(get(&block, 32, 32, 4), [0; 11]);
        assert_eq!(get(&block, 33, 32, 4), [7, 0, 0, 0, 0, 0, 0, 0, 7, 0, 1]);
        assert_eq!(get(&block, 37, 32, 0), [7, 7, 7, 7, 0, 0, 0, 0, 7, 0, 0]);
        assert_eq!(
            get(&block, 37, 32, 1)[7],
            0,
            "the predicted byte itself is never seen"
        );
    }

    #[test]
    fn only_the_past_is_read() {
        let block = [9u8; 16];
        assert_eq!(get(&block, 10, 2, 3), get(&block[..10], 10, 2, 3));
    }
}
