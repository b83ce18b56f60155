//! Stride detection: the length of the records of a block, if it has any.
//!
//! The score of a stride is the mean magnitude, in bits, of the byte differences at that distance; a stride is taken if it clearly
//! beats the typical one, and the smallest of equally good ones, so multiples of a record do not win. A long one must halve the
//! score of all short ones: after 256 records a counter of one byte is the same again.

const SAMPLES: usize = 8;
const SAMPLE_LEN: usize = 1024;
/// Longest stride that is tried: a record of some 250 wide counters.
pub const MAX_STRIDE: usize = 2047;
/// Longest short stride.
const SHORT: usize = 512;

/// `floor(16 * (1 + log2 |d|))` of a byte difference, 0 for none.
const COST: [u8; 256] = cost();

const fn cost() -> [u8; 256] {
    let mut t = [0; 256];
    let mut i = 1;
    while i < 256usize {
        let d = if i > 128 { 256 - i } else { i };
        t[i] = 16 + (d as u128).pow(16).ilog2() as u8;
        i += 1;
    }
    t
}

/// Length in bytes of the records of `block`, 0 if none is found. A pure function of the bytes.
pub fn detect(block: &[u8]) -> u16 {
    let longest = MAX_STRIDE.min(block.len() / 4);
    if longest < 2 {
        return 0;
    }
    // Mean cost per stride in 1/256 of a cost unit.
    let scores: Vec<u32> = (1..=longest).map(|r| score(block, r)).collect();
    let (short, long) = scores.split_at(longest.min(SHORT));
    let least = |scores: &[u32]| scores.iter().copied().min();
    let best = least(short).unwrap_or(0);
    if let Some(far) = least(long).filter(|&far| 2 * far < best) {
        return (SHORT + smallest(long, far)) as u16;
    }
    let mut sorted = short.to_vec();
    let (_, &mut median, _) = sorted.select_nth_unstable(short.len() / 2);
    if u64::from(best) * 100 > u64::from(median) * 85 {
        return 0;
    }
    smallest(short, best) as u16
}

/// The first of the strides from 1 on that are nearly as good as the best score.
fn smallest(scores: &[u32], best: u32) -> usize {
    let good = best + best * 3 / 100 + 51;
    scores.iter().position(|&s| s <= good).map_or(0, |i| i + 1)
}

fn score(block: &[u8], stride: usize) -> u32 {
    let (mut sum, mut count) = (0u64, 0u64);
    let step = (block.len() / SAMPLES).max(SAMPLE_LEN);
    for start in (0..block.len()).step_by(step) {
        let from = start.max(stride);
        let to = (start + SAMPLE_LEN).min(block.len());
        if from < to {
            let (new, old) = (&block[from..to], &block[from - stride..to - stride]);
            sum += new
                .iter()
                .zip(old)
                .map(|(a, b)| u64::from(COST[usize::from(a.wrapping_sub(*b))]))
                .sum::<u64>();
            count += (to - from) as u64;
        }
    }
    (sum * 256 / count.max(1)) as u32
}

#[cfg(test)]
mod tests {
    use super::*;

    fn noise(state: &mut u32) -> u8 {
        *state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (*state >> 24) as u8
    }

    #[test]
    fn finds_the_record_and_not_its_multiple() {
        let mut s = 1;
        for len in [3usize, 12, 24, 32, 100] {
            let block: Vec<u8> = (0..20_000)
                .map(|i| {
                    if i % len == 0 {
                        (i / len) as u8
                    } else {
                        (i % len * 77) as u8 ^ (noise(&mut s) & 3)
                    }
                })
                .collect();
            assert_eq!(usize::from(detect(&block)), len);
        }
    }

    #[test]
    fn finds_records_longer_than_most() {
        let mut s = 3;
        for len in [SHORT + 1, 1544, MAX_STRIDE] {
            let first: Vec<u8> = (0..len).map(|_| noise(&mut s)).collect();
            let records = (0..20_000 / len).flat_map(|k| {
                let mut record = first.clone();
                record[7] = k as u8;
                record
            });
            assert_eq!(usize::from(detect(&records.collect::<Vec<_>>())), len);
        }
    }

    #[test]
    fn noise_and_short_blocks_have_no_stride() {
        let mut s = 7;
        let block: Vec<u8> = (0..20_000).map(|_| noise(&mut s)).collect();
        assert_eq!(detect(&block), 0);
        for n in 0..8 {
            assert_eq!(detect(&block[..n]), 0);
        }
    }
}
