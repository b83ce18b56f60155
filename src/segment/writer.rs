//! Changes to a live segment: payloads appended, entries retargeted, the file cut or extended.
//!
//! A method that fails leaves the segment as it was, so the call can be repeated once there is room again.

use std::collections::BTreeSet;
use std::sync::{Arc, PoisonError};

use crate::codec::Encoded;

use super::directory::MAX_MODELS;
use super::entry::{BlockEntry, max_payload};
use super::error::{Result, SegmentError};
use super::header::Form;
use super::page::{Page, block_end};
use super::{SIZE_MAX, Segment};

/// A payload that was appended and not yet synced.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Unsynced {
    pub(super) offset: u64,
    pub(super) len: u32,
    pub(super) crc: u32,
}

impl Segment {
    /// Appends a payload. The entry that it gets names nothing until [`Segment::set_entry`] takes it.
    ///
    /// # Errors
    /// The segment is sealed, the block is larger than its block size or was coded from a start state, or the write failed.
    pub fn append(&mut self, block: &Encoded) -> Result<BlockEntry> {
        self.require_live()?;
        if block.started {
            return Err(SegmentError::Refused(
                "a live segment takes no block that was coded from a start state",
            ));
        }
        let entry = new_entry(block, self.tail, self.block_size, 0)?;
        if entry.range().end > SIZE_MAX {
            return Err(SegmentError::Refused("the segment file is full"));
        }
        self.storage.write_all_at(&block.payload, entry.offset)?;
        self.tail = entry.range().end;
        self.unsynced.push(Unsynced {
            offset: entry.offset,
            len: entry.len,
            crc: entry.payload_crc,
        });
        Ok(entry)
    }

    /// Gives up a payload that was appended and that no block names.
    pub fn discard(&mut self, entry: &BlockEntry) {
        self.unsynced.retain(|u| u.offset != entry.offset);
        self.dead.insert(entry.range());
    }

    /// Makes a block consist of this payload, or a hole. What it was before is dead with the next commit.
    ///
    /// The entry comes from [`Segment::append`], or from [`Segment::entry`] of the same block; two blocks never share one.
    ///
    /// # Errors
    /// The segment is sealed, the entry is impossible, 255 models are named already, or the block's index page can not
    /// be read.
    pub fn set_entry(&mut self, block: u64, entry: Option<BlockEntry>) -> Result<()> {
        self.require_live()?;
        if let Some(e) = &entry {
            if let Some(reason) = e.fault(self.block_size) {
                return Err(SegmentError::Refused(reason));
            }
            if block_end(block, e.visible_len, self.block_size).is_none_or(|end| end > SIZE_MAX) {
                return Err(SegmentError::Refused(
                    "the block lies beyond the largest file",
                ));
            }
            if usize::from(e.start) > self.directory.starts.len() {
                return Err(SegmentError::Refused("the entry's start state is gone"));
            }
            if e.range().end > self.tail {
                return Err(SegmentError::Refused(
                    "the entry's payload was never appended",
                ));
            }
        } else if self.entry(block)?.is_none() {
            return Ok(());
        }
        let new_model = entry
            .and_then(|e| e.model)
            .filter(|m| !self.directory.models.contains(m));
        if new_model.is_some() && self.directory.models.len() >= MAX_MODELS {
            return Err(SegmentError::Refused("a segment names at most 255 models"));
        }
        let old = self.page_mut(Page::number(block))?.set(block, entry);
        self.directory.models.extend(new_model);
        self.account(old.as_ref(), entry.as_ref());
        Ok(())
    }

    /// Makes every block from this one on a hole. Works for blocks whose index page is lost, too.
    ///
    /// # Errors
    /// The segment is sealed, or an index page can not be read; blocks may be holes then from any later one on.
    pub fn truncate_entries(&mut self, first_dropped_block: u64) -> Result<()> {
        self.require_live()?;
        let first_page = Page::number(first_dropped_block);
        let clean = self.directory.pages.range(first_page..).map(|(&n, _)| n);
        let numbers: BTreeSet<u64> = self
            .dirty
            .range(first_page..)
            .map(|(&n, _)| n)
            .chain(clean)
            .collect();
        for number in numbers.into_iter().rev() {
            let whole = Page::first_block(number).is_some_and(|first| first >= first_dropped_block);
            match self.page(number) {
                Ok(Some(page)) if page.from(first_dropped_block).is_empty() => {}
                Ok(_) => {
                    for (_, old) in self.page_mut(number)?.cut(first_dropped_block) {
                        self.account(Some(&old), None);
                    }
                }
                Err(e) if e.is_damage() && whole => {
                    self.dirty.insert(number, Arc::default());
                    self.changed = true;
                }
                Err(e) => return Err(e),
            }
        }
        Ok(())
    }

    /// Sets the logical size. Content beyond it is gone: it reads as zeros if the file grows again.
    ///
    /// # Errors
    /// The segment is sealed, the size is beyond [`SIZE_MAX`], or an index page can not be read; the size is unchanged then.
    pub fn set_logical_size(&mut self, size: u64) -> Result<()> {
        self.require_live()?;
        if size > SIZE_MAX {
            return Err(SegmentError::Refused("the size is beyond the largest file"));
        }
        if size < self.logical_size {
            self.cut_content(size)?;
        }
        self.changed |= size != self.logical_size;
        self.logical_size = size;
        Ok(())
    }

    /// Whether a commit has anything to do.
    #[must_use]
    pub fn is_dirty(&self) -> bool {
        self.changed || self.pending.is_some()
    }

    /// Drops all content from `size` on.
    pub(super) fn cut_content(&mut self, size: u64) -> Result<()> {
        let unit = u64::from(self.block_size);
        self.truncate_entries(size.div_ceil(unit))?;
        let (block, visible) = (size / unit, (size % unit) as u32);
        if visible > 0
            && let Some(entry) = self.entry(block)?
            && entry.visible_len > visible
        {
            self.page_mut(Page::number(block))?.set(
                block,
                Some(BlockEntry {
                    visible_len: visible,
                    ..entry
                }),
            );
            self.changed = true;
        }
        Ok(())
    }

    pub(super) fn require_live(&self) -> Result<()> {
        match self.form {
            Form::Live => Ok(()),
            Form::Sealed => Err(SegmentError::Refused(
                "the segment is sealed; make it live before changing it",
            )),
        }
    }

    /// A page to change; it is dirty from here on.
    fn page_mut(&mut self, number: u64) -> Result<&mut Page> {
        let page = self.page(number)?.unwrap_or_default();
        self.cache
            .get_mut()
            .unwrap_or_else(PoisonError::into_inner)
            .pop(&number);
        Ok(Arc::make_mut(self.dirty.entry(number).or_insert(page)))
    }

    fn account(&mut self, old: Option<&BlockEntry>, new: Option<&BlockEntry>) {
        self.changed = true;
        if old.map(BlockEntry::range) == new.map(BlockEntry::range) {
            return;
        }
        // What start states are made of stays with their table.
        let owned = |e: &&BlockEntry| !self.directory.starts.keeps(&e.range());
        let (old, new) = (old.filter(owned), new.filter(owned));
        if let Some(old) = old {
            self.dead.insert(old.range());
            self.live_bytes = self.live_bytes.saturating_sub(old.len.into());
        }
        if let Some(new) = new {
            self.live_bytes = self.live_bytes.saturating_add(new.len.into());
        }
    }
}

/// The entry of a payload at `offset` that was coded from this start state.
pub(super) fn new_entry(
    block: &Encoded,
    offset: u64,
    block_size: u32,
    start: u16,
) -> Result<BlockEntry> {
    let entry = BlockEntry {
        offset,
        len: u32::try_from(block.payload.len())
            .unwrap_or(u32::MAX)
            .min(max_payload(block_size).saturating_add(1)),
        decoded_len: block.decoded_len,
        visible_len: block.decoded_len,
        codec: block.codec,
        model: block.model,
        start,
        payload_crc: crc32c::crc32c(&block.payload),
        decoded_crc: block.decoded_crc,
    };
    entry
        .fault(block_size)
        .map_or(Ok(entry), |reason| Err(SegmentError::Refused(reason)))
}
