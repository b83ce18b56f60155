//! How long single reads of a segment take, without a cache of decoded blocks.
//!
//! Reads are of 4 KiB at multiples of 4 KiB, as a mount's are, one in each of equal parts of the file, in an order and at places that
//! look random and are the same in every run. The segment is in the system's page cache: what is measured is decoding.

use std::time::{Duration, Instant};

use super::error::BenchError;
use crate::store::{BlockSource, Library, SegmentReader};

/// Bytes of one read.
const READ: u64 = 4096;

/// How long each of the reads took.
#[derive(Debug, Clone, Default)]
pub struct Latencies {
    /// With no start state made: the read replays all that its block starts from.
    pub first_touch: Vec<Duration>,
    /// With the block's start state at hand: the read decodes one block.
    pub primed: Vec<Duration>,
}

impl Latencies {
    /// Adds another file's reads.
    pub(super) fn add(&mut self, other: &Latencies) {
        self.first_touch.extend(&other.first_touch);
        self.primed.extend(&other.primed);
    }
}

/// Reads at up to `reads` places and compares with `source`. `library` is the reader's own.
pub(super) fn measure(
    reader: &SegmentReader<'_>,
    library: &Library,
    source: &dyn BlockSource,
    reads: u64,
) -> Result<Latencies, BenchError> {
    let places = places(source.len(), reads);
    let read = |at: u64| timed_read(reader, source, at);
    let mut found = Latencies::default();
    for &at in &places {
        library.starts().clear();
        found.first_touch.push(read(at)?);
    }
    for &at in &places {
        // Another block that starts from the same state, so that nothing but the state is warm.
        read(neighbour(reader, at)?)?;
        found.primed.push(read(at)?);
    }
    Ok(found)
}

fn timed_read(
    reader: &SegmentReader<'_>,
    source: &dyn BlockSource,
    at: u64,
) -> Result<Duration, BenchError> {
    let len = source.len().saturating_sub(at).min(READ) as usize;
    let (mut got, mut expected) = (vec![0; len], vec![0; len]);
    source.read_at(&mut expected, at)?;
    let start = Instant::now();
    reader.read_at(&mut got, at)?;
    let took = start.elapsed();
    if got == expected {
        Ok(took)
    } else {
        Err(BenchError::Differs(at))
    }
}

/// Offset of a block beside that of `at`, with the same start state; `at` if there is none.
fn neighbour(reader: &SegmentReader<'_>, at: u64) -> Result<u64, BenchError> {
    let segment = reader.segment();
    let size = u64::from(segment.block_size());
    let block = at / size;
    let start = |block: u64| -> Result<Option<u16>, BenchError> {
        let entry = segment
            .entry(block)
            .map_err(crate::store::StoreError::from)?;
        Ok(entry.map(|e| e.start))
    };
    let own = start(block)?;
    for other in [block.checked_sub(1), block.checked_add(1)]
        .into_iter()
        .flatten()
    {
        if other.saturating_mul(size) < segment.logical_size() && start(other)? == own {
            return Ok(other * size);
        }
    }
    Ok(at)
}

/// Up to `reads` offsets below `len`, no two equal.
fn places(len: u64, reads: u64) -> Vec<u64> {
    let pages = len.div_ceil(READ);
    let n = reads.min(pages);
    let part = |i: u64| (u128::from(pages) * u128::from(i) / u128::from(n.max(1))) as u64;
    let mut found: Vec<(u64, u64)> = (0..n)
        .map(|i| {
            let (from, to) = (part(i), part(i + 1));
            (scatter(i), (from + scatter(!i) % (to - from)) * READ)
        })
        .collect();
    found.sort_unstable();
    found.into_iter().map(|(_, at)| at).collect()
}

/// A number that looks random (the finisher of SplitMix64).
fn scatter(i: u64) -> u64 {
    let mut z = i.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    z = (z ^ z >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ z >> 31
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_distinct_pages_in_every_part_of_the_file() {
        for (len, reads) in [
            (0, 64),
            (1, 64),
            (4096, 64),
            (4097, 64),
            (1 << 20, 64),
            (u64::MAX, 64),
        ] {
            let mut found = places(len, reads);
            assert_eq!(found, places(len, reads));
            found.sort_unstable();
            found.dedup();
            assert_eq!(found.len() as u64, reads.min(len.div_ceil(READ)), "{len}");
            assert!(found.iter().all(|at| at % READ == 0 && *at < len), "{len}");
        }
        let spread = places(64 << 20, 64);
        for part in 0..64 {
            assert!(spread.iter().any(|at| at >> 20 == part));
        }
        assert!(spread.windows(2).any(|w| w[0] > w[1]), "in file order");
        assert!(places(1 << 20, 0).is_empty());
    }
}
