//! Commit: what makes changes durable, in an order that survives a crash at any point.
//!
//! 1. `prepare_commit` appends changed pages and the directory (before the first commit: writes the header too);
//! 2. the caller syncs;
//! 3. `finish_commit` writes the slot that is not current;
//! 4. the caller syncs;
//! 5. `committed` clears the slot before it and gives dead ranges back to the file system.
//!
//! The caller may release the segment while it syncs: changes made meanwhile belong to the next commit. But it runs one
//! commit at a time: a `prepare_commit` before the last one's `committed` takes that one for failed. Case analysis of every
//! step: docs/FORMAT.md, "Commit".

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::{Arc, PoisonError};

use super::directory::{MAX_DIRECTORY_LEN, PageRef};
use super::error::{Part, Result, SegmentError};
use super::header::{Body, DirectoryRef, Header};
use super::page::{Page, block_end};
use super::peek::{BORN_LIVE_DATA, BORN_LIVE_ROOTS};
use super::ranges::RangeSet;
use super::root::{Root, SLOT_LEN};
use super::starts::Starts;
use super::storage::{read_part, read_up_to};
use super::writer::Unsynced;
use super::{SIZE_MAX, Segment};

/// The unit in which dead ranges are given back: a block of the usual file systems.
pub(super) const HOLE_UNIT: u64 = 4096;

/// Bytes that are written once more at a time.
const CHUNK: u64 = 1 << 20;

/// A commit between its first write and its last sync.
pub(super) struct Pending {
    root: Root,
    /// The caller has synced all but the root.
    synced: bool,
    /// The root was handed to the file.
    written: bool,
    pages: Vec<(u64, Arc<Page>)>,
    payloads: Vec<Unsynced>,
    dead: RangeSet,
}

impl Segment {
    /// Commits: after it, everything set before survives power loss. Does nothing if nothing changed.
    ///
    /// # Errors
    /// A write or sync failed. The previous commit stays valid, the changes stay in memory, the commit can be repeated.
    pub fn commit(&mut self) -> Result<()> {
        if !self.is_dirty() {
            return Ok(());
        }
        self.prepare_commit()?;
        self.storage.sync_data()?;
        self.finish_commit()?;
        self.storage.sync_data()?;
        self.committed();
        Ok(())
    }

    /// Step 1. If an earlier commit was left unfinished its writes are repeated, since a failed sync may have lost them.
    ///
    /// # Errors
    /// The segment is sealed, a write failed, or a payload of the unfinished commit is lost.
    pub fn prepare_commit(&mut self) -> Result<()> {
        self.require_live()?;
        self.reclaim_unfinished()?;
        if !self.changed {
            return Ok(());
        }
        self.trim()?;
        if !self.header_durable {
            self.storage.write_all_at(&self.first_sectors(), 0)?;
        }
        let index = self.encode_index()?;
        self.storage.write_all_at(&index.raw, self.tail)?;
        for old in index.replaced {
            self.live_bytes = self.live_bytes.saturating_sub(old.end - old.start);
            self.dead.insert(old);
        }
        if self.directory_ref.is_none() {
            self.live_bytes = self.live_bytes.saturating_add(BORN_LIVE_DATA);
        }
        self.live_bytes = self.live_bytes.saturating_add(index.raw.len() as u64);
        self.tail = self.tail.saturating_add(index.raw.len() as u64);
        self.directory.pages = index.pages;
        self.keep_starts(index.starts);
        self.directory_ref = Some(index.directory);
        let pages: Vec<_> = std::mem::take(&mut self.dirty).into_iter().collect();
        let cache = self.cache.get_mut().unwrap_or_else(PoisonError::into_inner);
        for (number, page) in &pages {
            cache.put(*number, Arc::clone(page));
        }
        self.size_bound = self.size_bound.max(self.logical_size);
        let root = Root {
            generation: self.generation + 1,
            logical_size: self.logical_size,
            directory: index.directory,
            live_bytes: self.live_bytes,
            end: self.tail,
        };
        self.changed = false;
        self.pending = Some(Pending {
            root,
            synced: false,
            written: false,
            pages,
            payloads: std::mem::take(&mut self.unsynced),
            dead: std::mem::take(&mut self.dead),
        });
        Ok(())
    }

    /// Step 3: the caller has synced what [`Segment::prepare_commit`] wrote.
    ///
    /// # Errors
    /// The write failed; repeat this, or the whole commit.
    pub fn finish_commit(&mut self) -> Result<()> {
        let offset = self.slot_offset(self.target_slot());
        let Some(pending) = &mut self.pending else {
            return Ok(());
        };
        pending.synced = true;
        pending.payloads.clear();
        self.header_durable = true;
        self.durable_end = pending.root.end;
        self.storage.write_all_at(&pending.root.encode(), offset)?;
        pending.written = true;
        Ok(())
    }

    /// Step 5: the caller has synced what [`Segment::finish_commit`] wrote.
    ///
    /// Clears the older root and gives dead ranges back. Neither needs to succeed, so neither can fail.
    pub fn committed(&mut self) {
        let target = self.target_slot();
        let Some(pending) = self.pending.take_if(|p| p.written) else {
            return;
        };
        if let Some(older) = self.slot {
            let _ = self
                .storage
                .write_all_at(&[0; SLOT_LEN], self.slot_offset(older));
        }
        self.slot = Some(target);
        self.generation = pending.root.generation;
        for hole in self.scraps.take_aligned(pending.dead, HOLE_UNIT) {
            // A hole that can not be punched costs space until the segment is written anew, nothing else.
            let _ = self.storage.punch_hole(hole.start, hole.end - hole.start);
        }
    }

    /// Takes the table that was written: what only the one before it named is dead.
    fn keep_starts(&mut self, starts: Arc<Starts>) {
        let before = std::mem::replace(&mut self.directory.starts, starts);
        for gone in before.payloads() {
            if !self.directory.starts.keeps(&gone.range()) {
                self.dead.insert(gone.range());
                self.live_bytes = self.live_bytes.saturating_sub(gone.len.into());
            }
        }
    }

    fn target_slot(&self) -> usize {
        self.slot.map_or(0, |current| 1 - current)
    }

    fn slot_offset(&self, slot: usize) -> u64 {
        self.roots_offset.saturating_add((slot * SLOT_LEN) as u64)
    }

    /// Takes back a commit that did not come to its end, so that the next one does its work again.
    fn reclaim_unfinished(&mut self) -> Result<()> {
        let Some(pending) = &self.pending else {
            return Ok(());
        };
        // After a failed sync the system may hold bytes as clean that never reached the device. The checksums prove that
        // they are still what was written, before they are written once more and after.
        let payloads = || pending.payloads.iter().chain(&self.unsynced);
        if let Some((offset, raw)) = &self.rescued {
            self.storage.write_all_at(raw, *offset)?;
        }
        self.rescued = None;
        payloads().try_for_each(|lost| self.check_payload(lost))?;
        let end = self.tail.next_multiple_of(HOLE_UNIT);
        let mut at = self.durable_end;
        while (!self.header_durable || payloads().next().is_some()) && at < end {
            let next = end.min((at / CHUNK + 1) * CHUNK);
            let mut raw = vec![0; (next - at) as usize];
            let held = read_up_to(&*self.storage, &mut raw, at)?;
            raw.truncate(held);
            // Written in place they would go where the failed write should have gone, and ext4 would not take note that
            // this space holds content now. Given back first, whole blocks get new space.
            self.storage.punch_hole(at, next - at)?;
            if let Err(error) = self.storage.write_all_at(&raw, at) {
                self.rescued = Some((at, raw));
                return Err(error.into());
            }
            at = next;
        }
        payloads().try_for_each(|lost| self.check_payload(lost))?;
        self.tail = end;
        let Some(pending) = self.pending.take() else {
            return Ok(());
        };
        if !pending.synced {
            for (number, page) in pending.pages {
                self.dirty.entry(number).or_insert(page);
            }
        }
        self.unsynced.splice(0..0, pending.payloads);
        self.dead.extend(pending.dead);
        self.changed = true;
        Ok(())
    }

    fn check_payload(&self, payload: &Unsynced) -> Result<()> {
        let Unsynced { offset, len, crc } = *payload;
        read_part(&*self.storage, Part::Payload, offset, len.into(), crc).map(drop)
    }

    /// Drops what was set beyond the logical size.
    fn trim(&mut self) -> Result<()> {
        let ends = |(_, page): (&u64, &Arc<Page>)| {
            let (block, entry) = page.entries().last()?;
            block_end(*block, entry.visible_len, self.block_size)
        };
        if self
            .dirty
            .iter()
            .filter_map(ends)
            .any(|end| end > self.logical_size)
        {
            self.cut_content(self.logical_size)?;
        }
        Ok(())
    }

    fn first_sectors(&self) -> Vec<u8> {
        let header = Header {
            block_size: self.block_size,
            body: Body::Live {
                roots_offset: BORN_LIVE_ROOTS,
            },
        };
        let mut out = header.encode().to_vec();
        out.resize(BORN_LIVE_DATA as usize, 0);
        out
    }

    /// The bytes of dirty pages and of a directory that names them, as they would be at the tail.
    fn encode_index(&self) -> Result<Index> {
        let mut directory = self.directory.clone();
        let mut raw = Vec::new();
        let mut replaced: Vec<Range<u64>> = self
            .directory_ref
            .iter()
            .map(|d| d.offset..d.end())
            .collect();
        let place = |start: usize, raw: &[u8]| {
            let bytes = raw.get(start..).unwrap_or_default();
            let len = u32::try_from(bytes.len()).unwrap_or(u32::MAX);
            (
                self.tail.saturating_add(start as u64),
                len,
                crc32c::crc32c(bytes),
            )
        };
        for (&number, page) in &self.dirty {
            let old = if page.entries().is_empty() {
                directory.pages.remove(&number)
            } else {
                let start = raw.len();
                page.encode(self.block_size, &directory.models, &mut raw);
                let (offset, len, crc) = place(start, &raw);
                directory.pages.insert(number, PageRef { offset, len, crc })
            };
            replaced.extend(old.map(|p| p.offset..p.end()));
        }
        if directory.pages.is_empty() {
            // Nothing is left that needs a start state.
            directory.starts = Arc::default();
        }
        let start = raw.len();
        directory.encode(self.block_size, &mut raw);
        let (offset, len, crc) = place(start, &raw);
        if len > MAX_DIRECTORY_LEN || self.tail > SIZE_MAX - raw.len() as u64 {
            return Err(SegmentError::Refused("the segment file is full"));
        }
        Ok(Index {
            raw,
            starts: directory.starts,
            pages: directory.pages,
            directory: DirectoryRef { offset, len, crc },
            replaced,
        })
    }
}

/// An index about to be written.
struct Index {
    raw: Vec<u8>,
    starts: Arc<Starts>,
    pages: BTreeMap<u64, PageRef>,
    directory: DirectoryRef,
    /// What of the index on disk it replaces.
    replaced: Vec<Range<u64>>,
}
