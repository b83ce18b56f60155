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
/// Up to how many percent of the best cost another stride may cost to be worth a try.
const NEAR: u64 = 110;

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
    Scores::of(block).first() as u16
}

/// The record length that [`detect`] finds, and another one that may be as good, 0 if there is none.
pub fn candidates(block: &[u8]) -> [u16; 2] {
    let scores = Scores::of(block);
    let first = scores.first();
    [first, scores.second(first)].map(|r| r as u16)
}

/// Mean cost of every stride from 1 on, in 1/256 of a cost unit.
struct Scores(Vec<u32>);

impl Scores {
    /// None for blocks that are too short for records.
    fn of(block: &[u8]) -> Self {
        match MAX_STRIDE.min(block.len() / 4) {
            0 | 1 => Scores(Vec::new()),
            longest => {
                let mut scores: Vec<u32> = (1..=longest.min(SHORT))
                    .map(|r| score(block, r, u64::MAX))
                    .collect();
                // Long strides count only if one of them halves the best short score, and then those about as good as that one.
                let bound = u64::from(good(least(&scores) / 2)) + 1;
                scores.extend((SHORT + 1..=longest).map(|r| score(block, r, bound)));
                Scores(scores)
            }
        }
    }

    fn short(&self) -> &[u32] {
        &self.0[..self.0.len().min(SHORT)]
    }

    fn first(&self) -> usize {
        let (short, long) = self.0.split_at(self.short().len());
        let far = long.iter().copied().min();
        match far.filter(|&far| 2 * u64::from(far) < u64::from(least(short))) {
            Some(far) => SHORT + smallest(long, far),
            None => self.best_short(),
        }
    }

    /// The best short stride, if it clearly beats the typical one.
    fn best_short(&self) -> usize {
        let mut sorted = self.short().to_vec();
        if sorted.is_empty() {
            return 0;
        }
        let middle = sorted.len() / 2;
        let (_, &mut median, _) = sorted.select_nth_unstable(middle);
        let best = least(self.short());
        if u64::from(best) * 100 > u64::from(median) * 85 {
            return 0;
        }
        smallest(self.short(), best)
    }

    /// What may be better than `first`: a short stride instead of a long one, the very best instead of the smallest good one, or
    /// the best of those that are not made of `first`.
    fn second(&self, first: usize) -> usize {
        if first == 0 {
            return 0;
        }
        if first > SHORT {
            return self.best_short();
        }
        let best = least(self.short());
        let cost = |&r: &usize| self.0[r - 1];
        let all = 1..=self.short().len();
        if let Some(very) = all.clone().find(|r| cost(r) == best && *r != first) {
            return very;
        }
        let other = all.filter(|r| r % first != 0).min_by_key(cost);
        other
            .filter(|r| u64::from(cost(r)) * 100 <= u64::from(best) * NEAR)
            .unwrap_or(0)
    }
}

fn least(scores: &[u32]) -> u32 {
    scores.iter().copied().min().unwrap_or(0)
}

/// The first of the strides from 1 on that are nearly as good as the best score.
fn smallest(scores: &[u32], best: u32) -> usize {
    let good = good(best);
    scores.iter().position(|&s| s <= good).map_or(0, |i| i + 1)
}

/// Up to which score a stride is nearly as good as one of score `best`.
fn good(best: u32) -> u32 {
    best + best * 3 / 100 + 51
}

/// The mean cost of the differences at `stride`; [`u32::MAX`] as soon as it is known to be above `bound`.
fn score(block: &[u8], stride: usize, bound: u64) -> u32 {
    let step = (block.len() / SAMPLES).max(SAMPLE_LEN);
    let samples = || {
        (0..block.len()).step_by(step).filter_map(|start| {
            let from = start.max(stride);
            let to = (start + SAMPLE_LEN).min(block.len());
            (from < to).then_some((from, to))
        })
    };
    let count = samples().map(|(from, to)| (to - from) as u64).sum::<u64>();
    let most = bound.saturating_mul(count.max(1));
    let mut sum = 0u64;
    for (from, to) in samples() {
        let (new, old) = (&block[from..to], &block[from - stride..to - stride]);
        let costs = (new.iter().zip(old)).map(|(a, b)| COST[usize::from(a.wrapping_sub(*b))]);
        sum += u64::from(costs.map(u32::from).sum::<u32>());
        if sum * 256 > most {
            return u32::MAX;
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
    fn long_strides_that_are_given_up_would_not_have_been_taken() {
        let mut s = 9;
        for len in [1usize, 7, 24, 500, SHORT + 3, 700, 1544, 2 * SHORT + 6] {
            for clean in [1, 2, 3, 9, 200] {
                let record: Vec<u8> = (0..len).map(|_| noise(&mut s)).collect();
                let records = (0..30_000).map(|i| {
                    let n = noise(&mut s);
                    record[i % len] ^ if n.is_multiple_of(clean) { n } else { 0 }
                });
                let block: Vec<u8> = records.collect();
                let all = Scores(
                    (1..=MAX_STRIDE)
                        .map(|r| score(&block, r, u64::MAX))
                        .collect(),
                );
                let (first, fast) = (all.first(), Scores::of(&block));
                assert_eq!(fast.first(), first, "{len} {clean}");
                assert_eq!(fast.second(first), all.second(first), "{len} {clean}");
            }
        }
    }

    #[test]
    fn the_other_candidate_is_another_record() {
        // Records of 20 bytes that are halves of pairs: 40 is better still.
        let mut s = 5;
        let pairs: Vec<u8> = (0..20_000)
            .map(|i| (i % 20 * 7) as u8 ^ u8::from(i % 40 < 20) ^ (noise(&mut s) & 2))
            .collect();
        let [first, second] = candidates(&pairs);
        assert_eq!(u32::from(first), u32::from(detect(&pairs)));
        assert!(first != second && first % 20 == 0, "{first} {second}");
        assert!(second == 0 || second <= SHORT as u16);
        // Nothing but the record: no other stride is near.
        let lone: Vec<u8> = (0..20_000).map(|i| (i % 23 * 77 % 251) as u8).collect();
        assert_eq!(candidates(&lone)[0], 23);
        for n in 0..8 {
            assert_eq!(candidates(&pairs[..n]), [0, 0]);
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
