//! Index pages: the entries of 1024 consecutive blocks.
//!
//! Decoding checks every field, so an entry taken from a page is in range; only whether the file still holds its payload
//! is left to the read. Layout: docs/FORMAT.md, "Index page"; change both or neither.

use crate::codec::{CodecId, ModelId};

use super::entry::{BlockEntry, model_number};
use super::wire::{Cursor, put_varint, put_zigzag};

/// Blocks that one page covers.
pub(super) const PAGE_BLOCKS: u64 = 1024;

/// No page is shorter than this: one entry.
pub(super) const MIN_PAGE_LEN: u32 = 17;

/// No page is longer than this.
pub(super) const MAX_PAGE_LEN: u32 = 64 << 10;

/// The entries of one page by block number, ascending.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Page {
    entries: Vec<(u64, BlockEntry)>,
}

impl Page {
    /// The page that covers `block`.
    pub(super) fn number(block: u64) -> u64 {
        block / PAGE_BLOCKS
    }

    /// The first block of a page; `None` if there can be no such page.
    pub(super) fn first_block(number: u64) -> Option<u64> {
        number.checked_mul(PAGE_BLOCKS)
    }

    /// The first block after a page.
    pub(super) fn block_after(number: u64) -> Option<u64> {
        number.checked_add(1).and_then(Self::first_block)
    }

    pub(super) fn entries(&self) -> &[(u64, BlockEntry)] {
        &self.entries
    }

    fn find(&self, block: u64) -> Result<usize, usize> {
        self.entries.binary_search_by_key(&block, |e| e.0)
    }

    pub(super) fn get(&self, block: u64) -> Option<&BlockEntry> {
        self.find(block)
            .ok()
            .and_then(|at| self.entries.get(at))
            .map(|e| &e.1)
    }

    /// The entries of `block` and later blocks.
    pub(super) fn from(&self, block: u64) -> &[(u64, BlockEntry)] {
        let at = self.find(block).unwrap_or_else(|at| at);
        self.entries.get(at..).unwrap_or_default()
    }

    /// Sets or removes the entry of one block; answers what it was.
    pub(super) fn set(&mut self, block: u64, entry: Option<BlockEntry>) -> Option<BlockEntry> {
        match (self.find(block), entry) {
            (Ok(at), Some(new)) => self
                .entries
                .get_mut(at)
                .map(|e| std::mem::replace(&mut e.1, new)),
            (Ok(at), None) => Some(self.entries.remove(at).1),
            (Err(at), Some(new)) => {
                self.entries.insert(at, (block, new));
                None
            }
            (Err(_), None) => None,
        }
    }

    /// Removes and answers the entries of `block` and later blocks.
    pub(super) fn cut(&mut self, block: u64) -> Vec<(u64, BlockEntry)> {
        let at = self.find(block).unwrap_or_else(|at| at);
        self.entries.split_off(at)
    }

    /// Appends the page's bytes to `out`.
    ///
    /// # Panics
    /// An entry names a model that `models` lacks.
    pub(super) fn encode(&self, block_size: u32, models: &[ModelId], out: &mut Vec<u8>) {
        put_varint(out, self.entries.len() as u64);
        let mut next_slot = 0;
        let mut next_offset = 0u64;
        for (block, e) in &self.entries {
            let slot = block % PAGE_BLOCKS;
            put_varint(out, slot.wrapping_sub(next_slot));
            put_zigzag(out, e.offset.wrapping_sub(next_offset) as i64);
            put_varint(out, u64::from(e.len));
            put_varint(out, u64::from(block_size.saturating_sub(e.decoded_len)));
            put_varint(out, u64::from(e.decoded_len.saturating_sub(e.visible_len)));
            out.push(e.codec as u8);
            out.push(model_number(models, e.model));
            put_varint(out, u64::from(e.start));
            out.extend(e.payload_crc.to_le_bytes());
            out.extend(e.decoded_crc.to_le_bytes());
            next_slot = slot + 1;
            next_offset = e.range().end;
        }
    }

    /// Decodes page `number` of a segment of `logical_size` bytes with so many start states; an error says what is impossible.
    pub(super) fn decode(
        raw: &[u8],
        number: u64,
        block_size: u32,
        models: &[ModelId],
        starts: usize,
        logical_size: u64,
    ) -> Result<Self, &'static str> {
        const SHORT: &str = "it ends inside an entry";
        let mut at = Cursor::new(raw);
        let count = at.varint().ok_or(SHORT)?;
        if count == 0 || count > PAGE_BLOCKS {
            return Err("entry count out of range");
        }
        let mut entries = Vec::with_capacity((count as usize).min(raw.len() / 16 + 1));
        let mut next_slot = 0u64;
        let mut next_offset = 0u64;
        for _ in 0..count {
            let gap = at.varint().ok_or(SHORT)?;
            let slot = next_slot
                .checked_add(gap)
                .filter(|&s| s < PAGE_BLOCKS)
                .ok_or("block outside the page")?;
            let delta = at.zigzag().ok_or(SHORT)?;
            let offset = next_offset
                .checked_add_signed(delta)
                .ok_or("payload offset out of range")?;
            let len = at.varint32().ok_or(SHORT)?;
            let missing = at.varint32().ok_or(SHORT)?;
            let hidden = at.varint32().ok_or(SHORT)?;
            let decoded_len = block_size
                .checked_sub(missing)
                .ok_or("decoded length out of range")?;
            let visible_len = decoded_len
                .checked_sub(hidden)
                .ok_or("visible length out of range")?;
            let codec = at.u8().and_then(CodecId::from_u8).ok_or("unknown codec")?;
            let model = match at.u8().ok_or(SHORT)? {
                0 => None,
                k => Some(
                    *models
                        .get(usize::from(k) - 1)
                        .ok_or("model not in the table")?,
                ),
            };
            let start = at
                .varint()
                .and_then(|s| u16::try_from(s).ok())
                .filter(|&s| usize::from(s) <= starts)
                .ok_or("start state not in the table")?;
            let (payload_crc, decoded_crc) = (at.u32().ok_or(SHORT)?, at.u32().ok_or(SHORT)?);
            let entry = BlockEntry {
                offset,
                len,
                decoded_len,
                visible_len,
                codec,
                model,
                start,
                payload_crc,
                decoded_crc,
            };
            if let Some(reason) = entry.fault(block_size) {
                return Err(reason);
            }
            let block = Self::first_block(number).and_then(|b| b.checked_add(slot));
            let end = block.and_then(|b| block_end(b, visible_len, block_size));
            match (block, end) {
                (Some(block), Some(end)) if end <= logical_size => entries.push((block, entry)),
                _ => return Err("block beyond the logical size"),
            }
            next_slot = slot + 1;
            next_offset = entry.range().end;
        }
        if !at.is_empty() {
            return Err("bytes follow the last entry");
        }
        Ok(Page { entries })
    }
}

/// Where the visible bytes of a block end in the file's content.
pub(super) fn block_end(block: u64, visible_len: u32, block_size: u32) -> Option<u64> {
    block
        .checked_mul(u64::from(block_size))?
        .checked_add(u64::from(visible_len))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::segment::MIN_BLOCK;
    use proptest::prelude::*;

    const MODELS: [ModelId; 2] = [ModelId([1; 16]), ModelId([2; 16])];
    const STARTS: usize = 300;
    const SIZE: u64 = 4096 * MIN_BLOCK as u64;

    fn entry() -> impl Strategy<Value = BlockEntry> {
        let lens = (1..=MIN_BLOCK).prop_flat_map(|d| (Just(d), 1..=d));
        (
            0..1u64 << 62,
            0..=MIN_BLOCK,
            lens,
            0..3u8,
            0..3usize,
            0..=STARTS as u16,
            any::<(u32, u32)>(),
        )
            .prop_map(
                |(
                    offset,
                    len,
                    (decoded_len, visible_len),
                    codec,
                    model,
                    start,
                    (payload_crc, decoded_crc),
                )| BlockEntry {
                    start: if codec == 2 && model == 0 { start } else { 0 },
                    offset,
                    len,
                    decoded_len,
                    visible_len,
                    codec: CodecId::ALL[usize::from(codec)],
                    model: model.checked_sub(1).map(|m| MODELS[m]),
                    payload_crc,
                    decoded_crc,
                },
            )
    }

    fn page() -> impl Strategy<Value = Page> {
        proptest::collection::btree_map(2048..3072u64, entry(), 1..20).prop_map(|map| Page {
            entries: map.into_iter().collect(),
        })
    }

    fn encode(page: &Page) -> Vec<u8> {
        let mut raw = Vec::new();
        page.encode(MIN_BLOCK, &MODELS, &mut raw);
        raw
    }

    #[test]
    fn the_longest_page_is_within_the_limit() {
        let far = BlockEntry {
            offset: 1 << 62,
            len: 1 << 20,
            decoded_len: 1,
            visible_len: 1,
            codec: CodecId::Neural,
            model: Some(MODELS[1]),
            start: u16::MAX,
            payload_crc: u32::MAX,
            decoded_crc: u32::MAX,
        };
        let near = BlockEntry { offset: 40, ..far };
        let entries = (0..PAGE_BLOCKS)
            .map(|b| (b, if b % 2 == 0 { far } else { near }))
            .collect();
        assert!(encode(&Page { entries }).len() <= MAX_PAGE_LEN as usize);
    }

    proptest! {
        #[test]
        fn pages_read_back(page in page()) {
            prop_assert_eq!(Page::decode(&encode(&page), 2, MIN_BLOCK, &MODELS, STARTS, SIZE), Ok(page));
        }

        #[test]
        fn every_shortening_is_refused(page in page()) {
            let raw = encode(&page);
            for len in 0..raw.len() {
                prop_assert!(Page::decode(&raw[..len], 2, MIN_BLOCK, &MODELS, STARTS, SIZE).is_err());
            }
        }

        #[test]
        fn whatever_decodes_is_in_range(raw in proptest::collection::vec(any::<u8>(), 0..80)) {
            if let Ok(page) = Page::decode(&raw, 2, MIN_BLOCK, &MODELS, STARTS, SIZE) {
                prop_assert_eq!(encode(&page), raw);
                for (block, e) in page.entries() {
                    prop_assert!((2048..3072).contains(block) && e.fault(MIN_BLOCK).is_none());
                }
            }
        }

        #[test]
        fn setting_and_cutting_keep_order(page in page(), block in 2048..3072u64, e in entry()) {
            let mut changed = page.clone();
            prop_assert_eq!(changed.set(block, Some(e)), page.get(block).copied());
            prop_assert_eq!(changed.get(block), Some(&e));
            prop_assert!(changed.entries().is_sorted_by_key(|e| e.0));
            let tail = changed.from(block).to_vec();
            prop_assert_eq!(changed.cut(block), tail);
            prop_assert!(changed.entries().iter().all(|e| e.0 < block));
        }
    }
}
