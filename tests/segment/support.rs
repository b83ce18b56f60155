//! Blocks to store, and a plain reading of a segment's whole content.

use std::collections::BTreeMap;
use std::sync::Arc;

use vortex_fs::codec::{CodecId, Encoded, ModelId, PrimerId};
use vortex_fs::segment::{
    BlockEntry, Result, SealedWriter, Segment, SegmentError, StartEntry, Storage,
};

/// The smallest block size: most tests want many blocks of few bytes.
pub const BS: u32 = vortex_fs::segment::MIN_BLOCK;

/// `bytes` as a raw block.
pub fn raw(bytes: &[u8]) -> Encoded {
    Encoded {
        codec: CodecId::Raw,
        model: None,
        model_saves: 0,
        started: false,
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

/// `bytes` as a block that was coded from a start state, though its payload is the same as without.
pub fn started(bytes: &[u8]) -> Encoded {
    Encoded {
        codec: CodecId::Neural,
        started: true,
        ..raw(bytes)
    }
}

/// A sealed segment of two key blocks, three that start from them, one cold block, and one that starts from a primer.
pub fn keyed(storage: Arc<dyn Storage>) {
    let mut writer = SealedWriter::new(storage, BS).unwrap();
    let first = writer.push(0, &raw(&[5; 6000])).unwrap();
    let one = writer.add_start(0, &first).unwrap();
    let second = writer.push_from(1, &started(b"second"), one).unwrap();
    let two = writer.add_start(one, &second).unwrap();
    for block in 2..5 {
        let state = if block == 3 { one } else { two };
        writer
            .push_from(block, &started(&[block as u8; 9]), state)
            .unwrap();
    }
    writer.push_from(5, &raw(b"cold"), two).unwrap();
    let primed = writer.add_primer(PrimerId([8; 16])).unwrap();
    writer.push_from(6, &started(b"primed"), primed).unwrap();
    writer.add_start(two, &first).unwrap();
    writer.finish(6 * u64::from(BS) + 6).unwrap();
}

/// Reads all payloads that a block starts from.
pub fn read_starts(segment: &Segment, entry: &BlockEntry) -> Result<()> {
    let mut at = entry.start;
    while let Some(StartEntry::Block { parent, payload }) = segment.starts().get(at) {
        segment.read_payload(payload)?;
        at = *parent;
    }
    Ok(())
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
        read_starts(segment, &entry)?;
        if (entry.codec == CodecId::Raw) != (entry.start == 0)
            || crc32c::crc32c(&decoded) != entry.decoded_crc
        {
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
