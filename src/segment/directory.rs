//! The directory: the tables of models and start states, and the list of index pages.
//!
//! Layout: docs/FORMAT.md, "Directory"; change both or neither.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::codec::ModelId;

use super::SIZE_MAX;
use super::page::{MAX_PAGE_LEN, MIN_PAGE_LEN, PAGE_BLOCKS};
use super::starts::Starts;
use super::wire::{Cursor, put_varint};

/// No directory is longer than this: room for some 350 million blocks, 20 TiB of 64 KiB each. Decoded it takes up to ten times as
/// much memory.
pub(super) const MAX_DIRECTORY_LEN: u32 = 4 << 20;

/// Entries name models in one byte, and 0 is none.
pub(super) const MAX_MODELS: usize = 255;

const SHORT: &str = "it ends inside a field";

/// Where one index page lies and what its bytes must hash to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct PageRef {
    pub(super) offset: u64,
    pub(super) len: u32,
    pub(super) crc: u32,
}

impl PageRef {
    /// The next entry of a list of pages, and its page's number; `next` is the number after that of the entry before.
    pub(super) fn decode(at: &mut Cursor<'_>, next: u64) -> Result<(u64, Self), &'static str> {
        let number = at
            .varint()
            .and_then(|gap| next.checked_add(gap))
            .ok_or("page number out of range")?;
        let offset = at.varint().ok_or(SHORT)?;
        let len = at.varint32().ok_or(SHORT)?;
        let crc = at.u32().ok_or(SHORT)?;
        if !(MIN_PAGE_LEN..=MAX_PAGE_LEN).contains(&len) || offset > SIZE_MAX - u64::from(len) {
            return Err("page out of range");
        }
        Ok((number, PageRef { offset, len, crc }))
    }

    pub(super) fn end(&self) -> u64 {
        self.offset.saturating_add(u64::from(self.len))
    }
}

/// A directory, decoded.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Directory {
    pub(super) models: Vec<ModelId>,
    pub(super) starts: Arc<Starts>,
    pub(super) pages: BTreeMap<u64, PageRef>,
}

impl Directory {
    pub(super) fn encode(&self, block_size: u32, out: &mut Vec<u8>) {
        out.push(self.models.len() as u8);
        for model in &self.models {
            out.extend(model.0);
        }
        self.starts.encode(block_size, &self.models, out);
        let mut next = 0;
        for (&number, page) in &self.pages {
            put_varint(out, number.wrapping_sub(next));
            put_varint(out, page.offset);
            put_varint(out, u64::from(page.len));
            out.extend(page.crc.to_le_bytes());
            next = number + 1;
        }
    }

    /// Decodes the directory of a segment of `logical_size` bytes; an error says what is impossible.
    pub(super) fn decode(
        raw: &[u8],
        block_size: u32,
        logical_size: u64,
    ) -> Result<Self, &'static str> {
        let mut at = Cursor::new(raw);
        let mut directory = Directory::decode_tables(&mut at, block_size)?;
        directory.decode_pages(&mut at, block_size, logical_size)?;
        Ok(directory)
    }

    /// Decodes the tables only, up to where the list of pages begins.
    pub(super) fn decode_tables(
        at: &mut Cursor<'_>,
        block_size: u32,
    ) -> Result<Self, &'static str> {
        let mut models = Vec::new();
        for _ in 0..at.u8().ok_or(SHORT)? {
            models.push(ModelId(at.array().ok_or(SHORT)?));
        }
        Ok(Directory {
            starts: Arc::new(Starts::decode(at, block_size, &models)?),
            models,
            pages: BTreeMap::new(),
        })
    }

    /// Decodes the rest, the list of pages.
    pub(super) fn decode_pages(
        &mut self,
        at: &mut Cursor<'_>,
        block_size: u32,
        logical_size: u64,
    ) -> Result<(), &'static str> {
        let mut pages = Vec::new();
        let mut next = 0u64;
        while !at.is_empty() {
            let (number, page) = PageRef::decode(at, next)?;
            let start = number
                .checked_mul(PAGE_BLOCKS)
                .and_then(|b| b.checked_mul(u64::from(block_size)));
            if start.is_none_or(|s| s >= logical_size) {
                return Err("page beyond the logical size");
            }
            pages.push((number, page));
            next = number + 1;
        }
        self.pages = pages.into_iter().collect();
        if overlap(self.pages.values()) {
            return Err("two pages share bytes");
        }
        Ok(())
    }
}

/// Whether two of the pages share a byte.
fn overlap<'a>(pages: impl Iterator<Item = &'a PageRef>) -> bool {
    let mut ranges: Vec<(u64, u64)> = pages.map(|page| (page.offset, page.end())).collect();
    ranges.sort_unstable();
    ranges.windows(2).any(|two| two[0].1 > two[1].0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::segment::MIN_BLOCK;
    use proptest::prelude::*;

    fn directory() -> impl Strategy<Value = Directory> {
        let page = (0..1u64 << 50, MIN_PAGE_LEN..=MAX_PAGE_LEN, any::<u32>())
            .prop_map(|(offset, len, crc)| PageRef { offset, len, crc });
        // Pages lie in any order, and apart.
        let apart = |(at, (number, mut page)): (u64, (u64, PageRef))| {
            page.offset += (at ^ 1) << 52;
            (number, page)
        };
        let models = proptest::collection::vec(any::<[u8; 16]>().prop_map(ModelId), 0..4);
        (
            models,
            proptest::collection::btree_map(0..1u64 << 30, page, 0..9),
        )
            .prop_map(move |(models, pages)| Directory {
                models,
                starts: Arc::default(),
                pages: (0..).zip(pages).map(apart).collect(),
            })
    }

    proptest! {
        #[test]
        fn directories_read_back(directory in directory()) {
            let mut raw = Vec::new();
            directory.encode(MIN_BLOCK, &mut raw);
            prop_assert_eq!(Directory::decode(&raw, MIN_BLOCK, SIZE_MAX), Ok(directory));
        }

        #[test]
        fn whatever_decodes_encodes_to_the_same_bytes(raw in proptest::collection::vec(any::<u8>(), 0..60)) {
            if let Ok(directory) = Directory::decode(&raw, MIN_BLOCK, 1 << 40) {
                let mut again = Vec::new();
                directory.encode(MIN_BLOCK, &mut again);
                prop_assert_eq!(again, raw);
            }
        }
    }

    #[test]
    fn pages_that_share_bytes_and_pages_too_short_are_refused() {
        let page = |offset, len| PageRef {
            offset,
            len,
            crc: 1,
        };
        for (first, second, good) in [
            (page(40, 20), page(60, 20), true),
            (page(60, 20), page(40, 20), true),
            (page(40, 20), page(59, 20), false),
            (page(59, 20), page(40, 20), false),
            (page(40, 20), page(40, 20), false),
            (page(40, 16), page(60, 20), false),
        ] {
            let directory = Directory {
                pages: BTreeMap::from([(0, first), (1, second)]),
                ..Directory::default()
            };
            let mut raw = Vec::new();
            directory.encode(MIN_BLOCK, &mut raw);
            let decoded = Directory::decode(&raw, MIN_BLOCK, SIZE_MAX);
            assert_eq!(decoded.is_ok(), good, "{first:?} {second:?}");
        }
    }

    #[test]
    fn a_page_beyond_the_logical_size_is_refused() {
        let page = PageRef {
            offset: 40,
            len: 20,
            crc: 1,
        };
        let directory = Directory {
            models: Vec::new(),
            starts: Arc::default(),
            pages: BTreeMap::from([(1, page)]),
        };
        let mut raw = Vec::new();
        directory.encode(MIN_BLOCK, &mut raw);
        let page_bytes = PAGE_BLOCKS * u64::from(MIN_BLOCK);
        assert!(Directory::decode(&raw, MIN_BLOCK, page_bytes).is_err());
        assert!(Directory::decode(&raw, MIN_BLOCK, page_bytes + 1).is_ok());
    }
}
