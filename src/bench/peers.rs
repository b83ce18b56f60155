//! What other compressors make of the same bytes, each at the strongest of its usual levels and with one thread.

use std::io::{self, Read, Write};
use std::path::Path;
use std::time::{Duration, Instant};

use serde::Serialize;

use super::error::BenchError;
use super::programs;

/// Another compressor.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Peer {
    /// Built in.
    Gzip,
    /// Built in.
    Zstd,
    /// Built in.
    Xz,
    /// A program.
    Brotli,
    /// A program.
    Zpaq,
}

impl Peer {
    /// All of them.
    pub const ALL: [Peer; 5] = [Peer::Gzip, Peer::Zstd, Peer::Xz, Peer::Brotli, Peer::Zpaq];

    /// Its name, also that of its program.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Peer::Gzip => "gzip",
            Peer::Zstd => "zstd",
            Peer::Xz => "xz",
            Peer::Brotli => "brotli",
            Peer::Zpaq => "zpaq",
        }
    }

    /// What it is run with.
    #[must_use]
    pub fn settings(self) -> &'static str {
        match self {
            Peer::Gzip | Peer::Xz => "-9",
            Peer::Zstd => "-19",
            Peer::Brotli => "-q 11 -w 24",
            Peer::Zpaq => "-m5 -t1",
        }
    }

    /// Whether it is built in or its program is on PATH.
    #[must_use]
    pub fn is_installed(self) -> bool {
        match self {
            Peer::Gzip | Peer::Zstd | Peer::Xz => true,
            Peer::Brotli | Peer::Zpaq => programs::on_path(self.name()),
        }
    }

    /// Compresses `data` as one file, decompresses it and compares. Programs work in files in the directory `scratch`, which
    /// is left as it was.
    ///
    /// # Errors
    /// It cannot be run, fails, or gives other bytes back.
    pub fn run(self, data: &[u8], scratch: &Path) -> Result<PeerRun, BenchError> {
        let (run, back) = match self {
            Peer::Brotli | Peer::Zpaq => programs::run(self, data, scratch)?,
            _ => self
                .run_built_in(data)
                .map_err(BenchError::peer(self.name()))?,
        };
        if back == data {
            Ok(run)
        } else {
            Err(BenchError::PeerDiffers(self.name()))
        }
    }

    fn run_built_in(self, data: &[u8]) -> io::Result<(PeerRun, Vec<u8>)> {
        let start = Instant::now();
        let packed = match self {
            Peer::Gzip => gzip_9(data)?,
            Peer::Zstd => zstd::bulk::compress(data, 19)?,
            _ => xz_9(data)?,
        };
        let pack = start.elapsed();
        let mut back = Vec::with_capacity(data.len());
        let start = Instant::now();
        match self {
            Peer::Gzip => flate2::read::GzDecoder::new(&packed[..]).read_to_end(&mut back)?,
            Peer::Zstd => zstd::stream::read::Decoder::new(&packed[..])?.read_to_end(&mut back)?,
            _ => liblzma::read::XzDecoder::new(&packed[..]).read_to_end(&mut back)?,
        };
        let unpack = start.elapsed();
        let stored = packed.len() as u64;
        let run = PeerRun {
            stored,
            pack,
            unpack,
        };
        Ok((run, back))
    }
}

/// What a compressor made of some bytes, and how long it took.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct PeerRun {
    /// Bytes that it made.
    pub stored: u64,
    /// Time of compressing; a program's from its start to its end.
    pub pack: Duration,
    /// Time of decompressing, likewise.
    pub unpack: Duration,
}

impl PeerRun {
    /// Adds another file's.
    pub(super) fn add(&mut self, other: &PeerRun) {
        self.stored += other.stored;
        self.pack += other.pack;
        self.unpack += other.unpack;
    }
}

fn gzip_9(data: &[u8]) -> io::Result<Vec<u8>> {
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
    gzip.write_all(data)?;
    gzip.finish()
}

fn xz_9(data: &[u8]) -> io::Result<Vec<u8>> {
    let mut xz = liblzma::write::XzEncoder::new(Vec::new(), 9);
    xz.write_all(data)?;
    xz.finish()
}

/// Compressed sizes in bytes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct PeerSizes {
    /// `gzip -9`
    pub gzip_9: u64,
    /// `zstd -19`
    pub zstd_19: u64,
    /// `xz -9`
    pub xz_9: u64,
}

impl PeerSizes {
    /// Compresses `data` with each.
    ///
    /// # Errors
    /// A compressor has no memory.
    pub fn of(data: &[u8]) -> io::Result<PeerSizes> {
        Ok(PeerSizes {
            gzip_9: gzip_9(data)?.len() as u64,
            zstd_19: zstd::bulk::compress(data, 19)?.len() as u64,
            xz_9: xz_9(data)?.len() as u64,
        })
    }

    /// Adds another file's sizes.
    pub fn add(&mut self, other: &PeerSizes) {
        self.gzip_9 += other.gzip_9;
        self.zstd_19 += other.zstd_19;
        self.xz_9 += other.xz_9;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn peers_compress() {
        let data = b"a line of telemetry 12345\n".repeat(1000);
        let sizes = PeerSizes::of(&data).unwrap();
        for size in [sizes.gzip_9, sizes.zstd_19, sizes.xz_9] {
            assert!((20..1000).contains(&size), "{sizes:?}");
        }
    }

    #[test]
    fn every_installed_peer_gives_the_bytes_back() {
        let dir = tempfile::tempdir().unwrap();
        let data = b"a line of telemetry 12345\n".repeat(1000);
        for peer in Peer::ALL.into_iter().filter(|peer| peer.is_installed()) {
            for data in [&data[..], b"", b"x"] {
                let run = peer.run(data, dir.path()).unwrap();
                assert!(run.stored > 0 || data.is_empty(), "{peer:?}");
                assert!(data.len() < 2 || run.stored < 2000, "{peer:?}: {run:?}");
            }
        }
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
    }
}
