//! What names a block's encoding: codec ids, model ids, and an encoded block with its checksum.
//!
//! Codec ids are on disk for ever: a number is never given a second meaning.

use std::fmt;
use std::str::FromStr;

/// How a block's payload is coded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u8)]
pub enum CodecId {
    /// The bytes themselves.
    Raw = 0,
    /// One zstd frame.
    Zstd = 1,
    /// Adaptive statistics and a model driving a range coder.
    Neural = 2,
    /// Nothing: the block's bytes are lost, and its entry says so.
    Lost = 3,
}

impl CodecId {
    /// Every codec that can decode what it encodes, in the order of their ids.
    pub const ALL: [CodecId; 3] = [CodecId::Raw, CodecId::Zstd, CodecId::Neural];

    /// The codec with this number, if there is one.
    #[must_use]
    pub fn from_u8(raw: u8) -> Option<Self> {
        let mut known = Self::ALL.into_iter().chain([CodecId::Lost]);
        known.find(|c| *c as u8 == raw)
    }

    /// The name shown to users.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            CodecId::Raw => "raw",
            CodecId::Zstd => "zstd",
            CodecId::Neural => "neural",
            CodecId::Lost => "lost",
        }
    }
}

impl fmt::Display for CodecId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// The first 16 bytes of the BLAKE3 hash of `bytes`.
fn hash(bytes: &[u8]) -> [u8; 16] {
    let mut id = [0; 16];
    id.copy_from_slice(&blake3::hash(bytes).as_bytes()[..16]);
    id
}

/// Reads 32 small hex digits.
fn unhex(s: &str) -> Option<[u8; 16]> {
    if s.len() != 32 || !s.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f')) {
        return None;
    }
    let mut id = [0; 16];
    for (byte, pair) in id.iter_mut().zip(s.as_bytes().chunks(2)) {
        let digit = |d: u8| if d <= b'9' { d - b'0' } else { d - b'a' + 10 };
        *byte = digit(pair[0]) << 4 | digit(pair[1]);
    }
    Some(id)
}

/// Defines a content hash that is shown as 32 hex digits.
macro_rules! content_id {
    ($name:ident, $what:literal) => {
        #[doc = concat!("Content hash of ", $what, ": the first 16 bytes of its BLAKE3 hash. Shown as 32 hex digits.")]
        #[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub struct $name(pub [u8; 16]);

        impl $name {
            #[doc = concat!("The id of ", $what, " with these bytes.")]
            #[must_use]
            pub fn of(bytes: &[u8]) -> Self {
                $name(hash(bytes))
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.iter().try_for_each(|b| write!(f, "{b:02x}"))
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{}({self})", stringify!($name))
            }
        }

        impl FromStr for $name {
            type Err = ();

            fn from_str(s: &str) -> Result<Self, ()> {
                unhex(s).map($name).ok_or(())
            }
        }
    };
}

content_id!(ModelId, "a model file");
content_id!(PrimerId, "a primer");

/// One encoded block.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Encoded {
    /// How `payload` is coded.
    pub codec: CodecId,
    /// The model needed to decode it.
    pub model: Option<ModelId>,
    /// Bytes that the payload is smaller by for the model; where a neighbour was measured, as for that one.
    pub model_saves: u32,
    /// Whether it was coded from the start state that the encoder was given, and decodes from that one only.
    pub started: bool,
    /// The coded bytes.
    pub payload: Vec<u8>,
    /// Bytes that it decodes to, at most 1 MiB.
    pub decoded_len: u32,
    /// CRC-32C of the decoded bytes.
    pub decoded_crc: u32,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codec_numbers_name_one_codec_each() {
        for codec in CodecId::ALL {
            assert_eq!(CodecId::from_u8(codec as u8), Some(codec));
        }
        assert_eq!(CodecId::from_u8(3), Some(CodecId::Lost));
        assert_eq!(CodecId::from_u8(4), None);
    }

    #[test]
    fn model_ids_read_back_what_they_show() {
        let id = ModelId::of(b"weights");
        assert_eq!(id.to_string().parse(), Ok(id));
        assert_eq!(id.to_string().len(), 32);
        for bad in ["", "0", &"g".repeat(32), &"A".repeat(32), &"é".repeat(16)] {
            assert_eq!(bad.parse::<ModelId>(), Err(()));
        }
    }
}
