//! What was measured, of one file or summed over many, and the figures that people compare.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::Serialize;

use super::latency::Latencies;
use super::peers::{Peer, PeerRun};

/// Numbers of blocks.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Blocks {
    /// Stored as they are.
    pub raw: u64,
    /// Compressed by zstd.
    pub zstd: u64,
    /// Compressed by the neural codec.
    pub neural: u64,
    /// All zeros, and not stored.
    pub holes: u64,
    /// Of all: coded from a start state.
    pub started: u64,
    /// Of all: coded with the model.
    pub model: u64,
}

/// Bytes of memory that decoding takes; of many files, the most.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Memory {
    /// What a thread keeps between blocks.
    pub predictor: u64,
    /// The model's memory while a block is decoded, 0 without one.
    pub model: u64,
    /// The largest start state; threads share it.
    pub start_state: u64,
    /// All three.
    pub per_thread: u64,
}

/// What was measured.
#[derive(Debug, Clone, Default)]
pub struct Measured {
    /// Bytes of content.
    pub bytes: u64,
    /// Bytes of the segment, all headers and the index included.
    pub stored: u64,
    /// Time of encoding and writing.
    pub encode: Duration,
    /// Time of encoding, writing, decoding again, comparing and syncing.
    pub pack: Duration,
    /// Time of decoding all blocks in order.
    pub unpack: Duration,
    /// Its blocks.
    pub blocks: Blocks,
    /// Memory of decoding.
    pub memory: Memory,
    /// Single reads.
    pub reads: Latencies,
    /// What other compressors made of the same bytes.
    pub peers: BTreeMap<Peer, PeerRun>,
}

impl Measured {
    /// Adds another file's.
    pub fn add(&mut self, other: &Measured) {
        self.bytes += other.bytes;
        self.stored += other.stored;
        self.encode += other.encode;
        self.pack += other.pack;
        self.unpack += other.unpack;
        let (b, o) = (&mut self.blocks, &other.blocks);
        b.raw += o.raw;
        b.zstd += o.zstd;
        b.neural += o.neural;
        b.holes += o.holes;
        b.started += o.started;
        b.model += o.model;
        let (m, o) = (&mut self.memory, &other.memory);
        m.predictor = m.predictor.max(o.predictor);
        m.model = m.model.max(o.model);
        m.start_state = m.start_state.max(o.start_state);
        m.per_thread = m.per_thread.max(o.per_thread);
        self.reads.add(&other.reads);
        for (&peer, run) in &other.peers {
            self.peers.entry(peer).or_default().add(run);
        }
    }

    /// The figures.
    #[must_use]
    pub fn figures(&self, path: String) -> Figures {
        let speed = |time: Duration| self.bytes as f64 / 1e6 / time.as_secs_f64().max(1e-9);
        let over = |ours: f64, theirs: f64| ours / theirs.max(f64::MIN_POSITIVE);
        let peers = self.peers.iter().map(|(peer, run)| {
            let (pack_mb_s, unpack_mb_s) = (speed(run.pack), speed(run.unpack));
            let figures = PeerFigures {
                settings: peer.settings(),
                stored: run.stored,
                pack_mb_s,
                unpack_mb_s,
                stored_ours_to_peer: over(self.stored as f64, run.stored as f64),
                pack_ours_to_peer: over(speed(self.encode), pack_mb_s),
                unpack_ours_to_peer: over(speed(self.unpack), unpack_mb_s),
            };
            (peer.name(), figures)
        });
        Figures {
            path,
            bytes: self.bytes,
            stored: self.stored,
            bits_per_byte: 8.0 * self.stored as f64 / (self.bytes as f64).max(1.0),
            ratio: self.bytes as f64 / (self.stored as f64).max(1.0),
            pack_mb_s: speed(self.encode),
            pack_verified_mb_s: speed(self.pack),
            unpack_mb_s: speed(self.unpack),
            first_touch: Reads::of(&self.reads.first_touch),
            primed: Reads::of(&self.reads.primed),
            blocks: self.blocks,
            memory: self.memory,
            peers: peers.collect(),
        }
    }
}

/// Figures of a file, or of all. Speeds are in million bytes of content a second, of one thread.
#[derive(Debug, Clone, Serialize)]
pub struct Figures {
    /// The file.
    pub path: String,
    /// Bytes of content.
    pub bytes: u64,
    /// Bytes of the segment, all headers and the index included.
    pub stored: u64,
    /// `8 * stored / bytes`.
    pub bits_per_byte: f64,
    /// `bytes / stored`.
    pub ratio: f64,
    /// Encoding alone.
    pub pack_mb_s: f64,
    /// Encoding, and the read-back and comparison that packing does.
    pub pack_verified_mb_s: f64,
    /// Decoding all blocks in order.
    pub unpack_mb_s: f64,
    /// Reads with no start state made.
    pub first_touch: Reads,
    /// Reads with the start state at hand.
    pub primed: Reads,
    /// Its blocks.
    pub blocks: Blocks,
    /// Memory of decoding.
    pub memory: Memory,
    /// Other compressors by name.
    pub peers: BTreeMap<&'static str, PeerFigures>,
}

/// Single reads of 4 KiB.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Reads {
    /// How many.
    pub reads: u64,
    /// Median in milliseconds, 0 without reads.
    pub p50_ms: f64,
    /// 99th percentile in milliseconds, 0 without reads.
    pub p99_ms: f64,
}

impl Reads {
    fn of(times: &[Duration]) -> Reads {
        let mut sorted = times.to_vec();
        sorted.sort_unstable();
        // The nearest rank: the least time that so many percent of the reads do not exceed.
        let percentile = |p: usize| {
            let rank = (sorted.len() * p).div_ceil(100).max(1);
            sorted.get(rank - 1).map_or(0.0, |t| t.as_secs_f64() * 1e3)
        };
        Reads {
            reads: sorted.len() as u64,
            p50_ms: percentile(50),
            p99_ms: percentile(99),
        }
    }
}

/// Another compressor's figures on the same bytes; ratios are ours over theirs.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct PeerFigures {
    /// What it was run with.
    pub settings: &'static str,
    /// Bytes that it makes.
    pub stored: u64,
    /// Compressing.
    pub pack_mb_s: f64,
    /// Decompressing.
    pub unpack_mb_s: f64,
    /// Below 1: ours is smaller.
    pub stored_ours_to_peer: f64,
    /// Above 1: ours encodes faster.
    pub pack_ours_to_peer: f64,
    /// Above 1: ours decodes faster.
    pub unpack_ours_to_peer: f64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_reads_that_happened() {
        let times: Vec<Duration> = (1..=200).rev().map(Duration::from_millis).collect();
        let found = Reads::of(&times);
        assert_eq!(
            (found.reads, found.p50_ms, found.p99_ms),
            (200, 100.0, 198.0)
        );
        let one = Reads::of(&times[..1]);
        assert_eq!((one.p50_ms, one.p99_ms), (200.0, 200.0));
        assert_eq!(Reads::of(&[]).p99_ms, 0.0);
    }

    #[test]
    fn speeds_of_a_sum_are_over_all_bytes_and_all_time() {
        let one = |bytes, seconds| Measured {
            bytes,
            stored: bytes / 4,
            encode: Duration::from_secs(seconds),
            peers: BTreeMap::from([(
                Peer::Xz,
                PeerRun {
                    stored: bytes / 2,
                    pack: Duration::from_secs(2 * seconds),
                    unpack: Duration::from_secs(1),
                },
            )]),
            ..Measured::default()
        };
        let mut sum = Measured::default();
        sum.add(&one(4_000_000, 1));
        sum.add(&one(8_000_000, 5));
        let figures = sum.figures("all".to_owned());
        assert_eq!(
            (figures.bytes, figures.stored, figures.pack_mb_s),
            (12_000_000, 3_000_000, 2.0)
        );
        assert_eq!((figures.bits_per_byte, figures.ratio), (2.0, 4.0));
        let xz = figures.peers["xz"];
        assert_eq!((xz.stored_ours_to_peer, xz.pack_ours_to_peer), (0.5, 2.0));
    }
}
