//! What other compressors make of the same bytes, each at the strongest of its usual levels.

use std::io::{self, Write};

use serde::Serialize;

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
        let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
        gzip.write_all(data)?;
        let mut xz = liblzma::write::XzEncoder::new(Vec::new(), 9);
        xz.write_all(data)?;
        Ok(PeerSizes {
            gzip_9: gzip.finish()?.len() as u64,
            zstd_19: zstd::bulk::compress(data, 19)?.len() as u64,
            xz_9: xz.finish()?.len() as u64,
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
}
