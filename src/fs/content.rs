//! The content of an open regular file: the segment or plain file below, and what is not stored yet.
//!
//! Everything here happens under the node's `content` lock and neither decodes nor waits.

use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::attr::Time;
use super::cache::Block;
use super::errno::{FsError, Result};
use crate::segment::{BlockEntry, Form, SIZE_MAX, Segment, Storage};

/// What a regular file's node holds of its content.
pub(super) enum Content {
    /// Nothing: nobody has it open and all is stored.
    Closed,
    /// A plain file, passed through.
    Plain(Plain),
    /// A segment.
    Segment(Box<Segmented>),
}

/// An open plain file.
pub(super) struct Plain {
    pub(super) file: Arc<File>,
    pub(super) writable: bool,
}

/// A block in memory that is newer than the stored one. Bytes beyond its end are zeros.
struct DirtyBlock {
    data: Arc<Vec<u8>>,
    /// The content's version when it was last changed.
    version: u64,
}

/// An open segment with its changes.
pub(super) struct Segmented {
    pub(super) segment: Segment,
    pub(super) file: Arc<File>,
    pub(super) writable: bool,
    size: u64,
    dirty: BTreeMap<u64, DirtyBlock>,
    dirty_bytes: u64,
    /// Counts changes; tells whether a block changed while it was being encoded.
    version: u64,
    /// The content's time of change where it is newer than, or must outlive, the backing file's.
    pub(super) mtime: Option<Time>,
    /// When the content was last changed, as against given another time of change.
    pub(super) changed: Option<Time>,
    /// When the changes are to be committed.
    pub(super) due: Option<Instant>,
}

/// One part of a range to read, in order.
pub(super) enum Piece {
    Zeros(usize),
    Memory {
        data: Arc<Vec<u8>>,
        start: usize,
        len: usize,
    },
    Stored {
        block: u64,
        entry: BlockEntry,
        start: usize,
        len: usize,
    },
}

/// Bytes that the stored blocks among them decode to.
pub(super) fn stored_bytes(pieces: &[Piece]) -> u64 {
    let bytes = pieces.iter().map(|piece| match piece {
        Piece::Stored { entry, .. } => u64::from(entry.decoded_len),
        _ => 0,
    });
    bytes.sum()
}

/// Decoded old blocks that a change of part of them needs.
pub(super) type Bases = HashMap<u64, (BlockEntry, Block)>;

/// A change that covers part of a block.
#[derive(Clone, Copy)]
pub(super) enum Edit<'a> {
    /// Put these bytes there.
    Write(&'a [u8]),
    /// Put zeros there.
    Zero,
}

/// A block to store.
pub(super) struct ToStore {
    pub(super) block: u64,
    pub(super) data: Arc<Vec<u8>>,
    version: u64,
}

impl Segmented {
    pub(super) fn open(file: Arc<File>, writable: bool, block_size: u32) -> Result<Segmented> {
        let segment = Segment::open_or_create(Arc::clone(&file) as Arc<dyn Storage>, block_size)?;
        Ok(Segmented {
            size: segment.logical_size(),
            segment,
            file,
            writable,
            dirty: BTreeMap::new(),
            dirty_bytes: 0,
            version: 0,
            mtime: None,
            changed: None,
            due: None,
        })
    }

    pub(super) fn size(&self) -> u64 {
        self.size
    }

    pub(super) fn dirty_bytes(&self) -> u64 {
        self.dirty_bytes
    }

    pub(super) fn block_size(&self) -> u64 {
        u64::from(self.segment.block_size())
    }

    /// Whether everything is in the segment and committed.
    pub(super) fn is_clean(&self) -> bool {
        self.dirty.is_empty()
            && !self.segment.is_dirty()
            && self.size == self.segment.logical_size()
    }

    pub(super) fn has_dirty_blocks(&self) -> bool {
        !self.dirty.is_empty()
    }

    /// Notes a change of the content at this time, to be committed after `delay` unless that is planned earlier.
    pub(super) fn touch(&mut self, now: Time, delay: Duration) {
        self.version += 1;
        self.mtime = Some(now);
        self.changed = Some(now);
        self.due.get_or_insert_with(|| Instant::now() + delay);
    }

    /// Whether its time of change is another than that at which the content was changed, so that storing it again and again must not
    /// leave the time of that.
    pub(super) fn has_given_time(&self) -> bool {
        self.mtime.is_some() && self.mtime != self.changed
    }

    /// Where each byte of `[offset, offset + len)` comes from; cut at the end of the file.
    pub(super) fn plan(&self, offset: u64, len: usize) -> Result<Vec<Piece>> {
        let unit = self.block_size();
        let end = self.size.min(offset.saturating_add(len as u64));
        let (mut at, mut pieces) = (offset, Vec::new());
        while at < end {
            let block = at / unit;
            let start = to_usize(at % unit);
            let len = to_usize(unit.min(end - block * unit)) - start;
            pieces.push(match self.dirty.get(&block) {
                Some(dirty) => Piece::Memory {
                    data: Arc::clone(&dirty.data),
                    start,
                    len,
                },
                None => match self.segment.entry(block)? {
                    Some(entry) => Piece::Stored {
                        block,
                        entry,
                        start,
                        len,
                    },
                    None => Piece::Zeros(len),
                },
            });
            at += len as u64;
        }
        Ok(pieces)
    }

    /// The entry that a read of the block would use now.
    pub(super) fn current_entry(&self, block: u64) -> Option<BlockEntry> {
        if self.dirty.contains_key(&block) {
            None
        } else {
            self.segment.entry(block).ok().flatten()
        }
    }

    /// Old blocks that a change of `[start, end)` needs and `bases` does not have as they are now.
    pub(super) fn missing_bases(
        &self,
        start: u64,
        end: u64,
        bases: &Bases,
    ) -> Result<Vec<(u64, BlockEntry)>> {
        let unit = self.block_size();
        let mut missing = Vec::new();
        if start >= end {
            return Ok(missing);
        }
        let (first, last) = (start / unit, (end - 1) / unit);
        for block in [first, last] {
            let (from, to) = (
                block * unit,
                (block * unit).saturating_add(unit).min(self.size),
            );
            if (start <= from && end >= to) || self.dirty.contains_key(&block) {
                continue;
            }
            if let Some(entry) = self.segment.entry(block)?
                && bases.get(&block).is_none_or(|(known, _)| *known != entry)
            {
                missing.push((block, entry));
            }
            if first == last {
                break;
            }
        }
        Ok(missing)
    }

    /// Changes `[start, end)`; the bases must be there. Extends the file if `end` is beyond it and this is a write.
    pub(super) fn edit(&mut self, start: u64, end: u64, edit: Edit<'_>, bases: &Bases) {
        let unit = self.block_size();
        let mut at = start;
        while at < end {
            let block = at / unit;
            let block_start = block * unit;
            let (from, to) = (
                to_usize(at - block_start),
                to_usize(unit.min(end - block_start)),
            );
            let version = self.version;
            let size = self.size;
            let before = self.dirty.get(&block).map_or(0, |dirty| dirty.data.len());
            let dirty = self.dirty.entry(block).or_insert_with(|| {
                let whole = from == 0 && block_start + to as u64 >= size.min(block_start + unit);
                let mut data = match bases.get(&block) {
                    Some((entry, old)) if !whole => visible(entry, old).to_vec(),
                    _ => Vec::new(),
                };
                data.reserve_exact(to.saturating_sub(data.len()));
                DirtyBlock {
                    data: Arc::new(data),
                    version,
                }
            });
            dirty.version = version;
            let data = Arc::make_mut(&mut dirty.data);
            if data.len() < to {
                data.resize(to, 0);
            }
            let target = data.get_mut(from..to).unwrap_or_default();
            match edit {
                Edit::Zero => target.fill(0),
                Edit::Write(bytes) => {
                    let skip = to_usize(at - start);
                    if let Some(source) = bytes.get(skip..skip + target.len()) {
                        target.copy_from_slice(source);
                    }
                }
            }
            self.dirty_bytes += (data.len() - before) as u64;
            at = block_start.saturating_add(to as u64);
        }
        self.size = self.size.max(end);
    }

    /// Makes every block in `[first, end)` a hole.
    pub(super) fn drop_blocks(&mut self, first: u64, end: u64) -> Result<()> {
        let gone: Vec<u64> = self
            .dirty
            .range(first..end)
            .map(|(&block, _)| block)
            .collect();
        for block in gone {
            self.forget_dirty(block);
        }
        let mut at = first;
        while let Some(block) = self.segment.next_data(at)?.filter(|&block| block < end) {
            self.segment.set_entry(block, None)?;
            at = block + 1;
        }
        Ok(())
    }

    /// Cuts or extends the file. What is cut off reads as zeros if it grows again.
    pub(super) fn resize(&mut self, size: u64) -> Result<()> {
        if size < self.segment.logical_size() {
            self.segment.set_logical_size(size)?;
        }
        let unit = self.block_size();
        for (_, dropped) in self.dirty.split_off(&size.div_ceil(unit)) {
            self.dirty_bytes -= dropped.data.len() as u64;
        }
        let keep = to_usize(size % unit);
        if keep > 0
            && let Some(last) = self.dirty.get_mut(&(size / unit))
            && last.data.len() > keep
        {
            self.dirty_bytes -= (last.data.len() - keep) as u64;
            Arc::make_mut(&mut last.data).truncate(keep);
            last.version = self.version;
        }
        self.size = size;
        Ok(())
    }

    /// Makes the file longer without data.
    pub(super) fn extend(&mut self, size: u64) {
        self.size = self.size.max(size);
    }

    /// First offset at or after `offset` with data, or in a hole; the end of the file is a hole.
    pub(super) fn seek(&self, offset: u64, data: bool) -> Result<u64> {
        if offset >= self.size {
            return Err(FsError::NoSuchOffset);
        }
        let unit = self.block_size();
        let mut block = offset / unit;
        if data {
            let dirty = self.dirty.range(block..).next().map(|(&block, _)| block);
            let stored = self.segment.next_data(block)?;
            let found = dirty
                .into_iter()
                .chain(stored)
                .min()
                .ok_or(FsError::NoSuchOffset)?;
            let at = found.saturating_mul(unit).max(offset);
            return if at < self.size {
                Ok(at)
            } else {
                Err(FsError::NoSuchOffset)
            };
        }
        loop {
            let hole = self.segment.next_hole(block)?;
            if !self.dirty.contains_key(&hole) || hole.saturating_mul(unit) >= self.size {
                return Ok(hole.saturating_mul(unit).clamp(offset, self.size));
            }
            block = hole + 1;
        }
    }

    /// The segment takes changes from here on.
    pub(super) fn make_live(&mut self) -> Result<()> {
        if self.segment.summary().form == Form::Sealed {
            self.segment.make_live()?;
        }
        Ok(())
    }

    /// Blocks to store: all, or those that are full and will hardly change again.
    pub(super) fn to_store(&self, only_full: bool) -> Vec<ToStore> {
        let unit = self.block_size();
        let pick = |(&block, dirty): (&u64, &DirtyBlock)| {
            let full = dirty.data.len() as u64 == unit;
            (full || !only_full).then(|| ToStore {
                block,
                data: Arc::clone(&dirty.data),
                version: dirty.version,
            })
        };
        self.dirty.iter().filter_map(pick).collect()
    }

    /// Whether the block is still as it was when it was taken to be stored.
    pub(super) fn is_current(&self, taken: &ToStore) -> bool {
        self.dirty
            .get(&taken.block)
            .is_some_and(|dirty| dirty.version == taken.version)
    }

    /// The block is stored: it need not be in memory any more.
    pub(super) fn stored(&mut self, taken: &ToStore) {
        if self.is_current(taken) {
            self.forget_dirty(taken.block);
        }
    }

    fn forget_dirty(&mut self, block: u64) {
        if let Some(gone) = self.dirty.remove(&block) {
            self.dirty_bytes -= gone.data.len() as u64;
        }
    }

    /// Forgets all that is not stored, of a file that has no name and is open nowhere.
    pub(super) fn discard(&mut self) {
        self.dirty.clear();
        self.dirty_bytes = 0;
    }
}

/// The part of a decoded block that counts.
pub(super) fn visible<'a>(entry: &BlockEntry, decoded: &'a [u8]) -> &'a [u8] {
    decoded.get(..entry.visible_len as usize).unwrap_or(decoded)
}

/// End of a range, if a file can be that large.
pub(super) fn checked_end(offset: u64, len: u64) -> Result<u64> {
    offset
        .checked_add(len)
        .filter(|&end| end <= SIZE_MAX)
        .ok_or(FsError::TooLarge)
}

/// For numbers that are bounded by a block's size or a buffer's length.
fn to_usize(n: u64) -> usize {
    usize::try_from(n).unwrap_or(usize::MAX)
}
