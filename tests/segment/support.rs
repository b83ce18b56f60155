//! Blocks to store, and a plain reading of a segment's whole content.

use std::collections::BTreeMap;
use std::sync::Arc;

use vortex_fs::codec::{CodecId, Encoded, ModelId};
use vortex_fs::segment::{Result, Segment, SegmentError, Storage};

/// The smallest block size: most tests want many blocks of few bytes.
pub const BS: u32 = vortex_fs::segment::MIN_BLOCK;

/// `bytes` as a raw block.
pub fn raw(bytes: &[u8]) -> Encoded {
    Encoded {
        codec: CodecId::Raw,
        model: None,
        payload: bytes.to_vec(),
        decoded_len: bytes.len() as u32,
        decoded_crc: crc32c::crc32c(bytes),
    }
}

/// `bytes` as a raw block that names a model.
pub fn with_model(bytes: &[u8], model: u8) -> Encoded {
    Encoded {
        model: Some(ModelId([model; 16])),
        ..raw(bytes)
    }
}

/// Appends `bytes` and makes them the content of `block`.
pub fn put(segment: &mut Segment, block: u64, bytes: &[u8]) -> Result<()> {
    let entry = segment.append(&raw(bytes))?;
    segment.set_entry(block, Some(entry))
}

/// A file's size, and its blocks without the zeros at their ends; equal exactly if the files read the same.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Content {
    pub size: u64,
    pub blocks: BTreeMap<u64, Vec<u8>>,
}

/// What a segment of raw blocks holds.
pub fn content(segment: &Segment) -> Result<Content> {
    let (size, unit) = (segment.logical_size(), u64::from(segment.block_size()));
    let mut blocks = BTreeMap::new();
    for found in segment.entries() {
        let (block, entry) = found?;
        let decoded = segment.read_payload(&entry)?;
        if entry.codec != CodecId::Raw || crc32c::crc32c(&decoded) != entry.decoded_crc {
            return Err(SegmentError::Refused("not the bytes that were stored"));
        }
        let mut bytes = vec![0; size.saturating_sub(block * unit).min(unit) as usize];
        entry.copy_to(&decoded, 0, &mut bytes);
        bytes.truncate(
            bytes
                .iter()
                .rposition(|&b| b != 0)
                .map_or(0, |last| last + 1),
        );
        if !bytes.is_empty() {
            blocks.insert(block, bytes);
        }
    }
    Ok(Content { size, blocks })
}

/// What a file of these bytes holds.
pub fn of(bytes: &[u8]) -> Content {
    let mut blocks = BTreeMap::new();
    for (block, bytes) in bytes.chunks(BS as usize).enumerate() {
        if let Some(last) = bytes.iter().rposition(|&b| b != 0) {
            blocks.insert(block as u64, bytes[..=last].to_vec());
        }
    }
    Content {
        size: bytes.len() as u64,
        blocks,
    }
}

/// Opens and reads everything.
pub fn read_back(storage: Arc<dyn Storage>) -> Result<Content> {
    content(&Segment::open(storage)?)
}
