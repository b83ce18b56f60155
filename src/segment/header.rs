//! The first 40 bytes of a segment: what it is, which form, and where to find the rest.
//!
//! It is written once in a live segment's life, and switched once when a sealed one becomes live; it lies within one
//! sector, which storage writes whole or not at all. Layout: docs/FORMAT.md, "Header"; change both or neither.

use super::error::{Part, Result, SegmentError};
use super::wire::Cursor;
use super::{MAX_BLOCK, MIN_BLOCK, SIZE_MAX, VERSION};

/// A segment's first eight bytes. Not text, and damaged visibly by transfers that convert line ends.
pub const MAGIC: [u8; 8] = *b"\x89VXS\r\n\x1a\n";

/// Bytes of a header.
pub const HEADER_LEN: usize = 40;

const CRC_AT: usize = HEADER_LEN - 4;

/// Whether a segment takes writes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Form {
    /// Two root slots; blocks are appended and the index retargeted.
    Live,
    /// Written once from front to back, as small as can be.
    Sealed,
}

/// A header, decoded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Header {
    pub(super) block_size: u32,
    pub(super) body: Body,
}

/// What depends on the form.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Body {
    Live {
        roots_offset: u64,
    },
    Sealed {
        /// See [`Summary::made_with`](super::Summary::made_with).
        made_with: u8,
        logical_size: u64,
        directory: DirectoryRef,
    },
}

/// Where the directory is and what its bytes must hash to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct DirectoryRef {
    pub(super) offset: u64,
    pub(super) len: u32,
    pub(super) crc: u32,
}

impl DirectoryRef {
    /// The byte after the directory.
    pub(super) fn end(self) -> u64 {
        self.offset.saturating_add(u64::from(self.len))
    }
}

impl Header {
    pub(super) fn encode(&self) -> [u8; HEADER_LEN] {
        let (form, made_with, a, b, len, crc) = match self.body {
            Body::Live { roots_offset } => (0, 0, roots_offset, 0, 0, 0),
            Body::Sealed {
                made_with,
                logical_size,
                directory: d,
            } => (1, made_with, logical_size, d.offset, d.len, d.crc),
        };
        let mut out = [0; HEADER_LEN];
        out[..8].copy_from_slice(&MAGIC);
        out[8] = VERSION;
        out[9] = form;
        out[10] = self.block_size.ilog2() as u8;
        out[11] = made_with;
        out[12..20].copy_from_slice(&a.to_le_bytes());
        out[20..28].copy_from_slice(&b.to_le_bytes());
        out[28..32].copy_from_slice(&len.to_le_bytes());
        out[32..36].copy_from_slice(&crc.to_le_bytes());
        let own = crc32c::crc32c(&out[..CRC_AT]);
        out[CRC_AT..].copy_from_slice(&own.to_le_bytes());
        out
    }

    /// Decodes the file's first bytes; `raw` may be longer than a header.
    pub(super) fn decode(raw: &[u8]) -> Result<Self> {
        let start = raw.get(..8).unwrap_or(raw);
        if !MAGIC.starts_with(start) || start.is_empty() {
            return Err(SegmentError::NotASegment {
                got: start.to_vec(),
            });
        }
        if let Some(&found) = raw.get(8).filter(|&&v| v != VERSION) {
            return Err(SegmentError::UnknownVersion {
                found,
                supported: VERSION,
            });
        }
        let short = SegmentError::Truncated {
            part: Part::Header,
            offset: 0,
            expected: HEADER_LEN as u64,
            got: raw.len() as u64,
        };
        let Some(raw) = raw.first_chunk::<HEADER_LEN>() else {
            return Err(short);
        };
        let mut at = Cursor::new(&raw[9..]);
        let fields = (|| {
            Some((
                (at.u8()?, at.u8()?, at.u8()?),
                at.u64()?,
                at.u64()?,
                at.u32()?,
                at.u32()?,
                at.u32()?,
            ))
        })();
        let Some(((form, log2, made_with), a, b, len, crc, expected)) = fields else {
            return Err(short);
        };
        let got = crc32c::crc32c(&raw[..CRC_AT]);
        if got != expected {
            return Err(SegmentError::Checksum {
                part: Part::Header,
                offset: 0,
                expected,
                got,
            });
        }
        let invalid = |reason| {
            Err(SegmentError::Invalid {
                part: Part::Header,
                offset: 0,
                reason,
            })
        };
        let block_size = match 1u32.checked_shl(log2.into()) {
            Some(size @ MIN_BLOCK..=MAX_BLOCK) => size,
            _ => return invalid("block size out of range"),
        };
        let body = match form {
            0 if made_with != 0 || b != 0 || len != 0 || crc != 0 => {
                return invalid("reserved fields are not zero");
            }
            0 if a % 512 != 0 || !(512..=SIZE_MAX).contains(&a) => {
                return invalid("root slots out of place");
            }
            0 => Body::Live { roots_offset: a },
            1 if a > SIZE_MAX => return invalid("logical size out of range"),
            1 if !(HEADER_LEN as u64..=SIZE_MAX).contains(&b) => {
                return invalid("directory out of place");
            }
            1 => Body::Sealed {
                made_with,
                logical_size: a,
                directory: DirectoryRef {
                    offset: b,
                    len,
                    crc,
                },
            },
            _ => return invalid("unknown form"),
        };
        Ok(Header { block_size, body })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIVE: Header = Header {
        block_size: MIN_BLOCK,
        body: Body::Live { roots_offset: 512 },
    };
    const SEALED: Header = Header {
        block_size: MAX_BLOCK,
        body: Body::Sealed {
            made_with: 9,
            logical_size: 7,
            directory: DirectoryRef {
                offset: 40,
                len: 9,
                crc: 0xdead_beef,
            },
        },
    };

    #[test]
    fn headers_read_back() {
        for header in [LIVE, SEALED] {
            assert_eq!(Header::decode(&header.encode()).unwrap(), header);
        }
    }

    #[test]
    fn a_change_of_any_bit_and_any_shortening_is_refused() {
        for header in [LIVE, SEALED] {
            let good = header.encode();
            for len in 0..HEADER_LEN {
                assert!(Header::decode(&good[..len]).is_err(), "{len} bytes");
            }
            for bit in 0..HEADER_LEN * 8 {
                let mut bad = good;
                bad[bit / 8] ^= 1 << (bit % 8);
                assert!(Header::decode(&bad).is_err(), "bit {bit}");
            }
        }
    }

    #[test]
    fn an_unknown_version_is_named() {
        let mut raw = LIVE.encode();
        raw[8] = 3;
        let error = Header::decode(&raw).unwrap_err();
        assert!(matches!(
            error,
            SegmentError::UnknownVersion {
                found: 3,
                supported: VERSION
            }
        ));
    }
}
