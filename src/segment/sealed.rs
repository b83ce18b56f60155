//! Writing a sealed segment: once, from front to back, as small as the format allows.

use std::sync::Arc;

use crate::codec::{CodecId, Encoded, ModelId, PrimerId};

use super::directory::{Directory, MAX_DIRECTORY_LEN, MAX_MODELS, PageRef};
use super::entry::BlockEntry;
use super::error::{Result, SegmentError};
use super::header::{Body, DirectoryRef, Form, HEADER_LEN, Header};
use super::page::{Page, block_end};
use super::peek::Summary;
use super::starts::{Builder, StartEntry};
use super::storage::Storage;
use super::writer::new_entry;
use super::{SIZE_MAX, valid_block_size};

/// Writes a sealed segment to an empty file.
///
/// The header comes last, so an unfinished file is not a segment. Nothing is synced: sync the file, then rename it to its
/// place.
pub struct SealedWriter {
    storage: Arc<dyn Storage>,
    block_size: u32,
    made_with: u8,
    directory: Directory,
    /// Finished pages, whose offsets in the directory still count from 0.
    index: Vec<u8>,
    page: Page,
    last: Option<u64>,
    starts: Builder,
    /// The last start state that a block was coded from.
    last_start: u16,
    /// Where the visible content ends so far.
    content_end: u64,
    tail: u64,
}

impl SealedWriter {
    /// Starts a segment in a file of length zero.
    ///
    /// # Errors
    /// The block size is not allowed, or the file is not empty.
    pub fn new(storage: Arc<dyn Storage>, block_size: u32) -> Result<Self> {
        if !valid_block_size(block_size) {
            return Err(SegmentError::Refused(
                "the block size is not a power of two from 16 KiB to 1 MiB",
            ));
        }
        if !storage.is_empty()? {
            return Err(SegmentError::Refused(
                "a sealed segment is written to an empty file only",
            ));
        }
        Ok(SealedWriter {
            storage,
            block_size,
            made_with: 0,
            directory: Directory::default(),
            index: Vec::new(),
            page: Page::default(),
            last: None,
            starts: Builder::default(),
            last_start: 0,
            content_end: 0,
            tail: HEADER_LEN as u64,
        })
    }

    /// The same, saying what its blocks are made with: see [`Summary::made_with`].
    #[must_use]
    pub fn with_profile(mut self, made_with: u8) -> Self {
        self.made_with = made_with;
        self
    }

    /// Bytes of a block.
    #[must_use]
    pub fn block_size(&self) -> u32 {
        self.block_size
    }

    /// Appends a block. Blocks come in ascending order; one left out is a hole.
    ///
    /// # Errors
    /// The block is out of order or larger than the block size, 255 models are named already, or the write failed.
    pub fn push(&mut self, block: u64, encoded: &Encoded) -> Result<BlockEntry> {
        self.push_from(block, encoded, 0)
    }

    /// As [`SealedWriter::push`], of a block that was encoded with this start state at hand, and used it or not.
    ///
    /// # Errors
    /// As for [`SealedWriter::push`]; also if the block needs a start state and this one is not in the table.
    pub fn push_from(&mut self, block: u64, encoded: &Encoded, start: u16) -> Result<BlockEntry> {
        if encoded.started && start == 0 {
            return Err(SegmentError::Refused("the block needs its start state"));
        }
        let start = if encoded.started { start } else { 0 };
        let entry = new_entry(encoded, self.tail, self.block_size, start)?;
        self.put(block, entry, &encoded.payload)
    }

    /// Makes a start state of the state `parent` (0: cold) and a block that was pushed; answers its number.
    ///
    /// # Errors
    /// The block needs a model and `parent` is not cold, it was coded from another state than `parent`, 255 models are named already, or
    /// there would be too many states or blocks in one.
    pub fn add_start(&mut self, parent: u16, payload: &BlockEntry) -> Result<u16> {
        if payload.range().end > self.tail {
            return Err(SegmentError::Refused(
                "the entry's payload was never appended",
            ));
        }
        let payload = *payload;
        self.name(payload.model)?;
        self.starts
            .push(StartEntry::Block { parent, payload })
            .map_err(SegmentError::Refused)
    }

    /// Makes a start state of a primer; answers its number.
    ///
    /// # Errors
    /// There would be too many states.
    pub fn add_primer(&mut self, primer: PrimerId) -> Result<u16> {
        self.starts
            .push(StartEntry::Primer(primer))
            .map_err(SegmentError::Refused)
    }

    /// Appends a block of another segment with the same block size, as it is: its entry and its payload. A start state that
    /// the entry names must be in the table of this one.
    ///
    /// # Errors
    /// As for [`SealedWriter::push`]; also if the payload is not the entry's.
    pub fn copy(&mut self, block: u64, entry: &BlockEntry, payload: &[u8]) -> Result<BlockEntry> {
        if payload.len() != entry.len as usize {
            return Err(SegmentError::Refused("the payload is not the entry's"));
        }
        if let Some(reason) = entry.fault(self.block_size) {
            return Err(SegmentError::Refused(reason));
        }
        self.put(
            block,
            BlockEntry {
                offset: self.tail,
                ..*entry
            },
            payload,
        )
    }

    /// Appends the payload of a start state of another segment, as it is, for [`SealedWriter::add_start`] and for blocks that
    /// share it; answers its entry here.
    ///
    /// # Errors
    /// The payload is not the entry's, the segment is full, or the write failed.
    pub fn keep(&mut self, entry: &BlockEntry, payload: &[u8]) -> Result<BlockEntry> {
        let kept = BlockEntry {
            offset: self.tail,
            ..*entry
        };
        if payload.len() != entry.len as usize {
            return Err(SegmentError::Refused("the payload is not the entry's"));
        }
        if let Some(reason) = kept.fault(self.block_size) {
            return Err(SegmentError::Refused(reason));
        }
        self.storage.write_all_at(payload, self.tail)?;
        self.tail = kept.range().end;
        Ok(kept)
    }

    /// Makes a block of a payload that [`SealedWriter::keep`] appended. Two blocks never share one.
    ///
    /// # Errors
    /// As for [`SealedWriter::push`]; also if the payload was never appended.
    pub fn share(&mut self, block: u64, entry: &BlockEntry) -> Result<()> {
        if entry.range().end > self.tail {
            return Err(SegmentError::Refused(
                "the entry's payload was never appended",
            ));
        }
        self.place(block, *entry, &[])
    }

    /// Says that the bytes of a block are lost: `len` of them, of which the content of the file has all.
    ///
    /// # Errors
    /// As for [`SealedWriter::push`].
    pub fn push_lost(&mut self, block: u64, len: u32) -> Result<()> {
        let entry = BlockEntry {
            offset: self.tail,
            len: 0,
            decoded_len: len,
            visible_len: len,
            codec: CodecId::Lost,
            model: None,
            start: 0,
            payload_crc: crc32c::crc32c(&[]),
            decoded_crc: 0,
        };
        if let Some(reason) = entry.fault(self.block_size) {
            return Err(SegmentError::Refused(reason));
        }
        self.place(block, entry, &[])
    }

    fn put(&mut self, block: u64, entry: BlockEntry, payload: &[u8]) -> Result<BlockEntry> {
        self.place(block, entry, payload)?;
        self.tail = entry.range().end;
        Ok(entry)
    }

    /// The table names `model`.
    fn name(&mut self, model: Option<ModelId>) -> Result<()> {
        let new = model.filter(|m| !self.directory.models.contains(m));
        if new.is_some() && self.directory.models.len() >= MAX_MODELS {
            return Err(SegmentError::Refused("a segment names at most 255 models"));
        }
        self.directory.models.extend(new);
        Ok(())
    }

    /// Makes an entry the next block's, and writes `payload` at the tail, which stays where it is.
    fn place(&mut self, block: u64, entry: BlockEntry, payload: &[u8]) -> Result<()> {
        if self.last.is_some_and(|last| block <= last) {
            return Err(SegmentError::Refused(
                "blocks of a sealed segment come in ascending order",
            ));
        }
        let content_end =
            block_end(block, entry.visible_len, self.block_size).filter(|&end| end <= SIZE_MAX);
        let Some(content_end) = content_end.filter(|_| entry.range().end <= SIZE_MAX) else {
            return Err(SegmentError::Refused(
                "the block lies beyond the largest file",
            ));
        };
        if usize::from(entry.start) > self.starts.len() {
            return Err(SegmentError::Refused(
                "the block's start state is not in the table",
            ));
        }
        self.name(entry.model)?;
        self.storage.write_all_at(payload, self.tail)?;
        if let Some(last) = self
            .last
            .filter(|&last| Page::number(last) != Page::number(block))
        {
            self.end_page(Page::number(last));
        }
        self.page.set(block, Some(entry));
        self.last = Some(block);
        self.last_start = self.last_start.max(entry.start);
        self.content_end = content_end;
        Ok(())
    }

    /// Writes the index and the header. The content is `logical_size` bytes. Start states beyond the last that a block was coded
    /// from are left out.
    ///
    /// # Errors
    /// A block lies beyond the logical size, or a write failed.
    pub fn finish(mut self, logical_size: u64) -> Result<Summary> {
        if logical_size < self.content_end || logical_size > SIZE_MAX {
            return Err(SegmentError::Refused("the logical size cuts off a block"));
        }
        if let Some(last) = self.last {
            self.end_page(Page::number(last));
        }
        self.directory.starts =
            Arc::new(std::mem::take(&mut self.starts).finish_first(self.last_start));
        for page in self.directory.pages.values_mut() {
            page.offset = page.offset.saturating_add(self.tail);
        }
        let mut raw = std::mem::take(&mut self.index);
        let start = raw.len();
        self.directory.encode(self.block_size, &mut raw);
        let bytes = raw.get(start..).unwrap_or_default();
        let directory = DirectoryRef {
            offset: self.tail.saturating_add(start as u64),
            len: u32::try_from(bytes.len()).unwrap_or(u32::MAX),
            crc: crc32c::crc32c(bytes),
        };
        if directory.len > MAX_DIRECTORY_LEN || directory.end() > SIZE_MAX {
            return Err(SegmentError::Refused("the segment file is full"));
        }
        self.storage.write_all_at(&raw, self.tail)?;
        let header = Header {
            block_size: self.block_size,
            body: Body::Sealed {
                made_with: self.made_with,
                logical_size,
                directory,
            },
        };
        self.storage.write_all_at(&header.encode(), 0)?;
        Ok(Summary {
            form: Form::Sealed,
            block_size: self.block_size,
            logical_size,
            generation: 0,
            live_bytes: directory.end(),
            made_with: self.made_with,
        })
    }

    fn end_page(&mut self, number: u64) {
        let start = self.index.len();
        std::mem::take(&mut self.page).encode(
            self.block_size,
            &self.directory.models,
            &mut self.index,
        );
        let bytes = self.index.get(start..).unwrap_or_default();
        let page = PageRef {
            offset: start as u64,
            len: bytes.len() as u32,
            crc: crc32c::crc32c(bytes),
        };
        self.directory.pages.insert(number, page);
    }
}
