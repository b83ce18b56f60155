//! What the encoder finds out about a block and tells the decoder: lanes, kind of contexts, record strides.

/// Largest record stride.
pub(crate) const MAX_STRIDE: usize = 1023;
/// Largest number of lanes.
pub(crate) const MAX_LANES: usize = 16;

/// Which contexts a block uses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Records, messages, samples.
    Binary,
    /// Lines of text with fields.
    Text,
}

/// The plan of one block.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Plan {
    pub(crate) lanes: usize,
    pub(crate) kind: Kind,
    /// Record length in bytes; 0: none.
    pub(crate) stride: usize,
}

impl Plan {
    /// A plan for `data`, found by counting.
    pub(crate) fn find(data: &[u8]) -> Self {
        let lanes = 1;
        let text = data
            .iter()
            .filter(|&&b| b == 9 || b == 10 || b == 13 || (32..127).contains(&b))
            .count();
        let kind = if text * 20 >= data.len() * 19 {
            Kind::Text
        } else {
            Kind::Binary
        };
        Plan {
            lanes,
            kind,
            stride: stride(data),
        }
    }
}

/// The record length whose byte-wise differences are smallest, or 0 if none stands out.
fn stride(data: &[u8]) -> usize {
    let n = data.len().min(32768);
    let max = 512.min(n / 4);
    if max < 2 {
        return 0;
    }
    let mut cost = [0u32; 256];
    for (d, c) in cost.iter_mut().enumerate() {
        let d = (d as i32).min(256 - d as i32) as u32;
        *c = if d == 0 {
            0
        } else {
            16 + 16 * d.ilog2() + (16 * d >> d.ilog2()) - 16
        };
    }
    let mut scores = vec![0u64; max + 1];
    for (r, score) in scores.iter_mut().enumerate().skip(1) {
        let sum: u64 = data[r..n]
            .iter()
            .zip(&data[..n - r])
            .map(|(a, b)| u64::from(cost[a.wrapping_sub(*b) as usize]))
            .sum();
        *score = sum * 1024 / (n - r + 1) as u64;
    }
    let best = scores[1..].iter().copied().min().unwrap_or(0);
    let mut sorted = scores[1..].to_vec();
    sorted.sort_unstable();
    if best * 100 > sorted[sorted.len() / 2] * 85 {
        return 0;
    }
    (1..=max)
        .find(|&r| scores[r] * 100 <= best * 103 + 20480)
        .unwrap_or(0)
}
