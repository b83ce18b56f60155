//! Reading a segment as a file: the blocks that a range touches, checked and decoded.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::decode::decode_entry;
use super::error::StoreError;
use super::library::Library;
use super::seal::BlockSource;
use crate::segment::{Segment, Storage};

/// A segment file opened for reading its logical bytes.
pub struct SegmentReader<'m> {
    segment: Arc<Segment>,
    library: &'m Library,
    path: PathBuf,
}

impl<'m> SegmentReader<'m> {
    /// Opens the segment at `path`.
    ///
    /// # Errors
    /// I/O errors; a file that is no segment or is damaged.
    pub fn open(path: &Path, library: &'m Library) -> Result<Self, StoreError> {
        let file = File::open(path).map_err(StoreError::io(path))?;
        Self::from_file(Arc::new(file), path, library)
    }

    /// Reads a segment from an open file; `path` is for messages.
    ///
    /// # Errors
    /// As [`SegmentReader::open`].
    pub fn from_file(
        file: Arc<File>,
        path: &Path,
        library: &'m Library,
    ) -> Result<Self, StoreError> {
        let segment = Segment::open(file as Arc<dyn Storage>)?;
        Ok(Self::of(Arc::new(segment), path, library))
    }

    /// Reads a segment that is open already. Readers of the same one share its start states.
    #[must_use]
    pub fn of(segment: Arc<Segment>, path: &Path, library: &'m Library) -> Self {
        SegmentReader {
            segment,
            library,
            path: path.to_path_buf(),
        }
    }

    /// The segment itself.
    #[must_use]
    pub fn segment(&self) -> &Arc<Segment> {
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
    /// Damage, a missing model or primer, I/O errors.
    pub fn read_block(&self, block: u64) -> Result<Vec<u8>, StoreError> {
        let size = u64::from(self.segment.block_size());
        let start = block.saturating_mul(size);
        let len = self.segment.logical_size().saturating_sub(start).min(size);
        let mut data = vec![0; usize::try_from(len).unwrap_or(usize::MAX)];
        if let Some(entry) = self.segment.entry(block)? {
            entry.copy_to(
                &decode_entry(&self.segment, block, &entry, self.library)?,
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
