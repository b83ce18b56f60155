//! Blocks to store, and a plain reading of a segment's whole content.

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

/// The whole content of a segment of raw blocks.
pub fn content(segment: &Segment) -> Result<Vec<u8>> {
    assert!(
        segment.logical_size() < 1 << 28,
        "a test segment can not be this large"
    );
    let mut out = vec![0; segment.logical_size() as usize];
    for found in segment.entries() {
        let (block, entry) = found?;
        let decoded = segment.read_payload(&entry)?;
        assert_eq!(entry.codec, CodecId::Raw);
        if crc32c::crc32c(&decoded) != entry.decoded_crc {
            return Err(SegmentError::Refused("decoded bytes differ"));
        }
        let start = (block * u64::from(segment.block_size())) as usize;
        let end = out.len().min(start + segment.block_size() as usize);
        entry.copy_to(&decoded, 0, &mut out[start..end]);
    }
    Ok(out)
}

/// Opens and reads everything.
pub fn read_back(storage: Arc<dyn Storage>) -> Result<Vec<u8>> {
    content(&Segment::open(storage)?)
}
