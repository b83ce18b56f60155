//! Reading a segment as a file: the blocks that a range touches, checked and decoded.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::error::StoreError;
use super::models::ModelStore;
use super::seal::BlockSource;
use crate::codec;
use crate::segment::{self, BlockEntry, Segment, Storage};

/// Reads, checks and decodes one stored block. Its length is the entry's `decoded_len`.
///
/// # Errors
/// Damage (payload checksum, codec, decoded checksum), a missing model, I/O errors.
pub fn decode_entry(
    segment: &Segment,
    block: u64,
    entry: &BlockEntry,
    models: &ModelStore,
) -> Result<Vec<u8>, StoreError> {
    let payload = segment.read_payload(entry)?;
    decode_payload(block, entry, &payload, models)
}

/// As [`decode_entry`], for a reader that no longer borrows the segment whose storage this is.
///
/// # Errors
/// As [`decode_entry`]; also a wrong checksum if the block was overwritten meanwhile.
pub fn decode_stored(
    storage: &dyn Storage,
    block: u64,
    entry: &BlockEntry,
    models: &ModelStore,
) -> Result<Vec<u8>, StoreError> {
    let payload = segment::read_payload(storage, entry)?;
    decode_payload(block, entry, &payload, models)
}

/// Decodes a payload whose checksum was good, and checks the decoded bytes.
pub(super) fn decode_payload(
    block: u64,
    entry: &BlockEntry,
    payload: &[u8],
    models: &ModelStore,
) -> Result<Vec<u8>, StoreError> {
    let model = entry.model.map(|id| models.get(id)).transpose()?;
    let data = codec::decode(
        entry.codec,
        model.as_deref(),
        payload,
        entry.decoded_len as usize,
    )
    .map_err(|source| StoreError::Decode { block, source })?;
    let got = crc32c::crc32c(&data);
    if got != entry.decoded_crc {
        return Err(StoreError::Checksum {
            block,
            expected: entry.decoded_crc,
            got,
        });
    }
    Ok(data)
}

/// A segment file opened for reading its logical bytes.
pub struct SegmentReader<'m> {
    segment: Segment,
    models: &'m ModelStore,
    path: PathBuf,
}

impl<'m> SegmentReader<'m> {
    /// Opens the segment at `path`.
    ///
    /// # Errors
    /// I/O errors; a file that is no segment or is damaged.
    pub fn open(path: &Path, models: &'m ModelStore) -> Result<Self, StoreError> {
        let file = File::open(path).map_err(StoreError::io(path))?;
        Self::from_file(Arc::new(file), path, models)
    }

    /// Reads a segment from an open file; `path` is for messages.
    ///
    /// # Errors
    /// As [`SegmentReader::open`].
    pub fn from_file(
        file: Arc<File>,
        path: &Path,
        models: &'m ModelStore,
    ) -> Result<Self, StoreError> {
        let segment = Segment::open(file as Arc<dyn Storage>)?;
        Ok(SegmentReader {
            segment,
            models,
            path: path.to_path_buf(),
        })
    }

    /// The segment itself.
    #[must_use]
    pub fn segment(&self) -> &Segment {
        &self.segment
    }

    /// The path it was opened by.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The bytes of one block: as many as the logical size gives it, zeros where nothing is stored.
    ///
    /// # Errors
    /// Damage, a missing model, I/O errors.
    pub fn read_block(&self, block: u64) -> Result<Vec<u8>, StoreError> {
        let size = u64::from(self.segment.block_size());
        let start = block.saturating_mul(size);
        let len = self.segment.logical_size().saturating_sub(start).min(size);
        let mut data = vec![0; usize::try_from(len).unwrap_or(usize::MAX)];
        if let Some(entry) = self.segment.entry(block)? {
            entry.copy_to(
                &decode_entry(&self.segment, block, &entry, self.models)?,
                0,
                &mut data,
            );
        }
        Ok(data)
    }
}

impl BlockSource for SegmentReader<'_> {
    fn len(&self) -> u64 {
        self.segment.logical_size()
    }

    fn read_at(&self, buf: &mut [u8], offset: u64) -> Result<(), StoreError> {
        let size = u64::from(self.segment.block_size());
        let (mut at, mut rest) = (offset, buf);
        while !rest.is_empty() {
            let data = self.read_block(at / size)?;
            let from = usize::try_from(at % size).unwrap_or(usize::MAX);
            let part = data.get(from..).unwrap_or_default();
            let n = part.len().min(rest.len());
            if n == 0 {
                return Err(StoreError::io(&self.path)(
                    std::io::ErrorKind::UnexpectedEof.into(),
                ));
            }
            let (head, tail) = rest.split_at_mut(n);
            head.copy_from_slice(&part[..n]);
            (at, rest) = (at + n as u64, tail);
        }
        Ok(())
    }

    fn next_data(&self, offset: u64) -> Result<Option<u64>, StoreError> {
        if offset >= self.len() {
            return Ok(None);
        }
        let size = u64::from(self.segment.block_size());
        let Some(block) = self.segment.next_data(offset / size)? else {
            return Ok(None);
        };
        let at = offset.max(block.saturating_mul(size));
        Ok((at < self.len()).then_some(at))
    }
}
