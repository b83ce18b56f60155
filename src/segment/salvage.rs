//! Salvage: what can be read of a segment, as a new sealed one. Payloads are copied as they are.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

use super::Segment;
use super::directory::PageRef;
use super::entry::BlockEntry;
use super::error::{Result, SegmentError};
use super::page::Page;
use super::peek::Summary;
use super::sealed::SealedWriter;
use super::starts::StartEntry;

/// What becomes of blocks that are lost.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LostBlocks {
    /// They are marked: reading them stays an error until they are overwritten.
    Marked,
    /// They become holes, which read as zeros.
    Zeros,
}

impl Segment {
    /// Whether any index page can be read, or there is none.
    pub(super) fn reads_a_page(&self) -> bool {
        self.directory.pages.is_empty() || self.pages_on_disk().any(|(_, page)| page.is_ok())
    }

    /// The index pages as the file holds them, with the blocks that they cover.
    fn pages_on_disk(&self) -> impl Iterator<Item = (Range<u64>, Result<Page>)> {
        let end = self.logical_size().div_ceil(self.block_size().into());
        let read = move |(&number, at): (&u64, &PageRef)| {
            let first = Page::first_block(number).unwrap_or(end);
            let after = Page::block_after(number).unwrap_or(end).min(end);
            (first..after, self.read_page(number, at))
        };
        self.directory.pages.iter().map(read)
    }
}

/// Copies all blocks of `segment` but those of `lost` to `writer`, whose block size is the same, with the start states that they
/// need. The content has the same size.
///
/// # Errors
/// An index page or a payload can not be read though its blocks are not in `lost`; a write failed.
pub fn salvage(
    segment: &Segment,
    lost: &BTreeSet<u64>,
    fate: LostBlocks,
    writer: SealedWriter,
) -> Result<Summary> {
    let mut copy = Copying {
        segment,
        lost,
        fate,
        writer,
        numbers: BTreeMap::new(),
        shared: BTreeMap::new(),
    };
    copy.starts()?;
    for (blocks, page) in segment.pages_on_disk() {
        match page {
            Ok(page) => {
                for (block, entry) in page.entries() {
                    copy.block(*block, entry)?;
                }
            }
            Err(_) if blocks.clone().all(|block| lost.contains(&block)) => {
                for block in blocks {
                    copy.mark(block, segment.block_size())?;
                }
            }
            Err(e) => return Err(e),
        }
    }
    copy.writer.finish(segment.logical_size())
}

struct Copying<'a> {
    segment: &'a Segment,
    lost: &'a BTreeSet<u64>,
    fate: LostBlocks,
    writer: SealedWriter,
    /// Start states, old number to new.
    numbers: BTreeMap<u16, u16>,
    /// Payloads of start states by their old offset, as they are named in the new segment.
    shared: BTreeMap<u64, BlockEntry>,
}

impl Copying<'_> {
    /// Copies the states that blocks start from which are not lost, in the order of the table.
    fn starts(&mut self) -> Result<()> {
        let table = self.segment.starts();
        let mut needed = BTreeSet::new();
        for page in self
            .segment
            .pages_on_disk()
            .filter_map(|(_, page)| page.ok())
        {
            for (block, entry) in page.entries() {
                if entry.start != 0 && !needed.contains(&entry.start) && !self.lost.contains(block)
                {
                    needed.extend(table.chain(entry.start).map(|(number, _)| number));
                }
            }
        }
        for number in needed {
            let made = match table.get(number) {
                Some(StartEntry::Primer(id)) => self.writer.add_primer(*id)?,
                Some(StartEntry::Block { parent, payload }) => {
                    let bytes = self.segment.read_payload(payload)?;
                    let start = self.number(payload.start)?;
                    let kept = self
                        .writer
                        .keep(&BlockEntry { start, ..*payload }, &bytes)?;
                    self.shared.insert(payload.offset, kept);
                    let parent = self.number(*parent)?;
                    self.writer.add_start(parent, &kept)?
                }
                None => continue,
            };
            self.numbers.insert(number, made);
        }
        Ok(())
    }

    fn number(&self, old: u16) -> Result<u16> {
        match (old, self.numbers.get(&old)) {
            (0, _) => Ok(0),
            (_, Some(&new)) => Ok(new),
            (_, None) => Err(SegmentError::Refused(
                "the block's start state is not in the table",
            )),
        }
    }

    fn block(&mut self, block: u64, entry: &BlockEntry) -> Result<()> {
        if self.lost.contains(&block) {
            return self.mark(block, entry.visible_len);
        }
        let start = self.number(entry.start)?;
        match self.shared.get(&entry.offset) {
            Some(kept) if kept.len == entry.len => {
                let offset = kept.offset;
                let entry = BlockEntry {
                    offset,
                    start,
                    ..*entry
                };
                self.writer.share(block, &entry)
            }
            _ => {
                let payload = self.segment.read_payload(entry)?;
                let entry = BlockEntry { start, ..*entry };
                self.writer.copy(block, &entry, &payload).map(drop)
            }
        }
    }

    /// A lost block of which the content had `len` bytes, or less at its end.
    fn mark(&mut self, block: u64, len: u32) -> Result<()> {
        let start = block.saturating_mul(self.segment.block_size().into());
        let left = self.segment.logical_size().saturating_sub(start);
        let len = u32::try_from(left).unwrap_or(u32::MAX).min(len);
        if self.fate == LostBlocks::Zeros || len == 0 {
            return Ok(());
        }
        self.writer.push_lost(block, len)
    }
}
