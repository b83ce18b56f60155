//! Which blocks of a file are coded one after another, so that the others start from what those teach.
//!
//! The first blocks of each group are its *key run*: the first is coded cold, each later one from the state after those before
//! it. All other blocks of the group start from the state after the run, and so decode independently of each other. Or the
//! whole file starts from a primer; then there is no key run.

use std::sync::Arc;

use crate::codec::{self, Effort, Encoded, PrimerId, Start};
use crate::segment::{
    self, BlockEntry, MAX_START_BYTES, MAX_START_DEPTH, MAX_STARTS, SealedWriter,
};

/// Key runs after which no more begin within groups.
const MOST_RENEWED: usize = 256;

/// The shape of key runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KeyRun {
    /// Key blocks in a group, 0 to 16; 0 makes every block cold. Together they have at most 1 MiB, so large blocks have
    /// shorter runs.
    pub blocks: u8,
    /// Blocks in a group. Files with very many groups have longer ones.
    pub group: u64,
}

impl Default for KeyRun {
    fn default() -> Self {
        KeyRun {
            blocks: 4,
            group: 1024,
        }
    }
}

impl KeyRun {
    /// Every block is cold.
    pub const NONE: KeyRun = KeyRun {
        blocks: 0,
        group: 1024,
    };

    /// The usual one for this effort.
    #[must_use]
    pub fn usual(effort: Effort) -> KeyRun {
        match effort {
            Effort::Usual => KeyRun::default(),
            Effort::Dense => KeyRun::of(MAX_START_DEPTH),
        }
    }

    /// So many key blocks in groups of the usual length.
    #[must_use]
    pub fn of(blocks: u8) -> KeyRun {
        KeyRun {
            blocks,
            ..KeyRun::default()
        }
    }

    /// The same with runs so short that a state is made of no more bytes than it may, and with groups so long that a file of
    /// `count` blocks has no more start states than a segment may.
    fn fitted(self, count: u64, block_size: u32) -> KeyRun {
        let bytes = u8::try_from(MAX_START_BYTES / block_size.max(1)).unwrap_or(u8::MAX);
        let blocks = self.blocks.min(MAX_START_DEPTH).min(bytes);
        let mut group = self.group.max(1);
        while count.div_ceil(group).saturating_mul(blocks.into()) > MAX_STARTS as u64 {
            group = group.saturating_mul(2);
        }
        KeyRun { blocks, group }
    }
}

/// A sample that blocks start from, with the state after it.
#[derive(Debug, Clone)]
pub struct Primer {
    /// Its name.
    pub id: PrimerId,
    /// The state after its bytes.
    pub state: Arc<Start>,
}

/// Where the blocks of a file that is being sealed start.
pub(super) struct Starting {
    run: KeyRun,
    /// Blocks of the file.
    count: u64,
    /// The group that the states below are of.
    group: u64,
    /// Key blocks that it has by now, and those of all groups and renewals.
    made: u8,
    total: usize,
    number: u16,
    state: Option<Arc<Start>>,
}

impl Starting {
    /// Without a primer, key runs of this shape; `count` is the number of the file's blocks.
    pub(super) fn new(
        run: KeyRun,
        primer: Option<&Primer>,
        count: u64,
        writer: &mut SealedWriter,
    ) -> segment::Result<Self> {
        let run = match primer {
            Some(_) => KeyRun {
                blocks: 0,
                group: u64::MAX,
            },
            None => run.fitted(count, writer.block_size()),
        };
        Ok(Starting {
            run,
            count,
            group: 0,
            made: 0,
            total: 0,
            number: primer.map_or(Ok(0), |p| writer.add_primer(p.id))?,
            state: primer.map(|p| Arc::clone(&p.state)),
        })
    }

    /// Goes on to the group of `block`, which is not before the present one.
    pub(super) fn enter(&mut self, block: u64) {
        let group = block / self.run.group;
        if group != self.group {
            (self.group, self.made, self.number, self.state) = (group, 0, 0, None);
        }
    }

    /// Whether `block`, of the present group, is to be a key block. The last of a group would be none's.
    pub(super) fn is_key(&self, block: u64) -> bool {
        let next = block.saturating_add(1);
        let room = self.made < self.run.blocks && self.total < MAX_STARTS;
        room && next < self.count && self.has(next)
    }

    /// Key blocks that a run has.
    pub(super) fn run_length(&self) -> usize {
        usize::from(self.run.blocks)
    }

    /// Whether the run has as many blocks as make a short one, once more.
    pub(super) fn is_long_yet(&self) -> bool {
        self.made > 0 && self.made.is_multiple_of(KeyRun::default().blocks)
    }

    /// Whether a run may begin within the group: there is one to replace, and the table has room.
    pub(super) fn may_renew(&self) -> bool {
        self.run.blocks > 1 && self.total < MOST_RENEWED * usize::from(self.run.blocks)
    }

    /// Blocks from `block` to the end of the group or the file.
    pub(super) fn left(&self, block: u64) -> u64 {
        let end = self.group.saturating_add(1).saturating_mul(self.run.group);
        end.min(self.count).saturating_sub(block)
    }

    /// A new key run begins at the next block.
    pub(super) fn renew(&mut self) {
        (self.made, self.number, self.state) = (0, 0, None);
    }

    /// Whether a block belongs to the present group.
    pub(super) fn has(&self, block: u64) -> bool {
        block / self.run.group == self.group
    }

    /// The state that the next block starts from, and its number in the segment's table; cold has number 0.
    pub(super) fn now(&self) -> (u16, Option<&Start>) {
        (self.number, self.state.as_deref())
    }

    /// A key block was written.
    pub(super) fn add(
        &mut self,
        writer: &mut SealedWriter,
        entry: &BlockEntry,
        data: &[u8],
        encoded: &Encoded,
    ) -> segment::Result<()> {
        let number = writer.add_start(self.number, entry)?;
        let state =
            codec::state_after(self.state.as_deref(), data, encoded.codec, &encoded.payload);
        (self.number, self.state) = (number, Some(Arc::new(state)));
        self.made += 1;
        self.total += 1;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn groups_grow_until_the_table_holds_all_states() {
        let run = KeyRun::default();
        assert_eq!(run.fitted(1 << 20, 1 << 16), run);
        let largest = KeyRun::of(200).fitted(u64::MAX, 1 << 16);
        assert_eq!(largest.blocks, MAX_START_DEPTH);
        assert!(u64::MAX.div_ceil(largest.group) * 16 <= MAX_STARTS as u64);
        assert_eq!(KeyRun::NONE.fitted(u64::MAX, 1 << 16), KeyRun::NONE);
        for (block_size, blocks) in [(1 << 14, 9), (1 << 18, 4), (1 << 19, 2), (1 << 20, 1)] {
            assert_eq!(KeyRun::of(9).fitted(9, block_size).blocks, blocks);
        }
    }
}
