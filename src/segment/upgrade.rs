//! From sealed to live, in place: hard links to the file stay links, and no payload is copied.
//!
//! The index of a sealed segment is a valid index of a live one, so only root slots are appended. They are durable
//! before the header, which lies within one sector, is switched over to them; until then the file is sealed.

use super::SIZE_MAX;
use super::Segment;
use super::commit::HOLE_UNIT;
use super::error::{Result, SegmentError};
use super::header::{Body, Form, Header};
use super::peek::BORN_LIVE_ROOTS;
use super::root::{Root, SLOT_LEN, SLOTS_LEN};

/// Where appends may begin: not in a block where an earlier one was lost, which may look as if it could still be written.
pub(super) fn free_from(end: u64, len: u64) -> u64 {
    if len > end {
        len.checked_next_multiple_of(HOLE_UNIT).unwrap_or(u64::MAX)
    } else {
        end
    }
}

impl Segment {
    /// Makes a sealed segment live, durably; does nothing to a live one.
    ///
    /// # Errors
    /// A write or sync failed, or the file is full. The segment stays sealed; the call can be repeated.
    pub fn make_live(&mut self) -> Result<()> {
        let Some(directory) = self.directory_ref.filter(|_| self.form == Form::Sealed) else {
            return Ok(());
        };
        // Never where a segment that was born live has its slots: there, slots of zeros mean that it is empty.
        let len = self.storage.len()?;
        let free = free_from(self.tail, len).max(BORN_LIVE_ROOTS + 1);
        let roots_offset = free
            .checked_next_multiple_of(SLOT_LEN as u64)
            .unwrap_or(u64::MAX);
        let end = roots_offset.saturating_add(SLOTS_LEN as u64);
        if end > SIZE_MAX {
            return Err(SegmentError::Refused("the segment file is full"));
        }
        let root = Root {
            generation: 1,
            logical_size: self.logical_size,
            directory,
            live_bytes: self.live_bytes.saturating_add(SLOTS_LEN as u64),
            end,
        };
        let mut slots = root.encode().to_vec();
        slots.resize(SLOTS_LEN, 0);
        self.storage.write_all_at(&slots, roots_offset)?;
        self.storage.sync_data()?;
        let header = Header {
            block_size: self.block_size,
            body: Body::Live { roots_offset },
        };
        self.storage.write_all_at(&header.encode(), 0)?;
        self.storage.sync_data()?;
        self.form = Form::Live;
        self.roots_offset = roots_offset;
        self.slot = Some(0);
        self.generation = root.generation;
        self.live_bytes = root.live_bytes;
        self.header_durable = true;
        self.tail = end;
        self.durable_end = end;
        Ok(())
    }
}
