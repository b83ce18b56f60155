//! Walking the index in block order, one page at a time.

use std::sync::Arc;

use super::Segment;
use super::entry::BlockEntry;
use super::error::Result;
use super::page::Page;

/// The entries of a segment in block order; see [`Segment::entries`].
pub struct Entries<'a> {
    segment: &'a Segment,
    /// The page that holds `next`, with its number.
    page: Option<(u64, Arc<Page>)>,
    /// The first block not yet given.
    next: Option<u64>,
}

impl Segment {
    /// All entries from a block on, ascending; an unreadable page is one error, then the walk goes on after it.
    #[must_use]
    pub fn entries_from(&self, block: u64) -> Entries<'_> {
        Entries {
            segment: self,
            page: None,
            next: Some(block),
        }
    }

    /// All entries, ascending; an unreadable page is one error, then the walk goes on after it.
    #[must_use]
    pub fn entries(&self) -> Entries<'_> {
        self.entries_from(0)
    }

    /// The first block at or after this one that has an entry.
    ///
    /// # Errors
    /// An index page on the way can not be read or is damaged.
    pub fn next_data(&self, block: u64) -> Result<Option<u64>> {
        self.entries_from(block)
            .next()
            .map(|found| found.map(|(block, _)| block))
            .transpose()
    }

    /// The first block at or after this one that has no entry. It may lie beyond the logical size.
    ///
    /// # Errors
    /// An index page on the way can not be read or is damaged.
    pub fn next_hole(&self, block: u64) -> Result<u64> {
        let mut hole = block;
        for found in self.entries_from(block) {
            if found?.0 != hole {
                break;
            }
            hole = hole.saturating_add(1);
        }
        Ok(hole)
    }

    /// The first page at or after `number` that the segment has, in memory or on disk.
    pub(super) fn next_page(&self, number: u64) -> Option<u64> {
        let dirty = self.dirty.range(number..).next().map(|(&n, _)| n);
        let clean = self.directory.pages.range(number..).next().map(|(&n, _)| n);
        dirty.into_iter().chain(clean).min()
    }
}

impl Iterator for Entries<'_> {
    type Item = Result<(u64, BlockEntry)>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            let from = self.next?;
            if let Some((number, page)) = &self.page {
                if let Some(&(block, entry)) = page.from(from).first() {
                    self.next = block.checked_add(1);
                    return Some(Ok((block, entry)));
                }
                self.next = Page::block_after(*number);
                self.page = None;
                continue;
            }
            let Some(number) = self.segment.next_page(Page::number(from)) else {
                self.next = None;
                return None;
            };
            self.next = Some(from.max(Page::first_block(number)?));
            match self.segment.page(number) {
                Ok(page) => self.page = Some((number, page.unwrap_or_default())),
                Err(error) => {
                    self.next = Page::block_after(number);
                    return Some(Err(error));
                }
            }
        }
    }
}
