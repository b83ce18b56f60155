//! Changing content: write, truncate, fallocate; and seeking for data and holes.

use std::os::unix::fs::FileExt;
use std::sync::Arc;

use rustix::fs::{self as sys, FallocateFlags};
use rustix::io::Errno;

use super::Fs;
use super::attr::Kind;
use super::content::{Bases, Content, Edit, Segmented, checked_end};
use super::errno::{FsError, Result};
use super::handles::Fh;
use super::node::Node;
use super::read::{Caching, Source, source};
use super::sync::{lock, read, write};
use crate::segment::BlockEntry;
use crate::sync::atomic::Ordering;

/// Changes that are tried anew before the file is held still.
const RETRIES: u32 = 4;

/// `whence` of [`Fs::lseek`]: the next data.
pub const SEEK_DATA: i32 = 3;
/// `whence` of [`Fs::lseek`]: the next hole.
pub const SEEK_HOLE: i32 = 4;

impl Fs {
    /// Writes to an open file, at its end if it was opened with `O_APPEND`; answers how much was written.
    ///
    /// # Errors
    /// `ENOSPC` before the backing file system can not hold what is in memory, `EIO` if an old block that is partly
    /// overwritten is damaged, `EFBIG`, `EBADF`, and once the failure of an earlier write in the background.
    pub fn write(&self, fh: Fh, offset: u64, data: &[u8]) -> Result<usize> {
        let file = self.handles.writable(fh)?;
        let node = &file.node;
        node.take_failure()?;
        if data.is_empty() {
            return Ok(0);
        }
        let at = (!file.append).then_some(offset);
        again_if_moved(|| {
            self.load(node, true)?;
            if !node.is_segment() {
                return self.write_plain(node, at, data);
            }
            // If that failed for this file it is told here, and not once more.
            self.make_room(data.len() as u64)
                .map_err(|error| node.take_failure().err().unwrap_or(error))?;
            self.edit(node, at, data.len() as u64, Edit::Write(data))?;
            self.relieve(node);
            Ok(data.len())
        })
    }

    fn write_plain(&self, node: &Arc<Node>, at: Option<u64>, data: &[u8]) -> Result<usize> {
        let put = |file: &std::fs::File, offset: u64| {
            let mut done = 0;
            while let Some(rest) = data.get(done..).filter(|rest| !rest.is_empty()) {
                match file.write_at(rest, offset.saturating_add(done as u64)) {
                    Ok(n) => done += n,
                    Err(e) if e.kind() == std::io::ErrorKind::Interrupted => {}
                    Err(_) if done > 0 => break,
                    Err(e) => return Err(e.into()),
                }
            }
            Ok(done)
        };
        let offset = match at {
            Some(offset) => offset,
            None => {
                let content = write(&node.content);
                let Content::Plain(plain) = &*content else {
                    return Err(FsError::Moved);
                };
                node.version.fetch_add(1, Ordering::SeqCst);
                return put(&plain.file, plain.file.metadata()?.len());
            }
        };
        checked_end(offset, data.len() as u64)?;
        let content = read(&node.content);
        let Content::Plain(plain) = &*content else {
            return Err(FsError::Moved);
        };
        // Counted before and after, so that no snapshot taken in between passes for one of the new content.
        node.version.fetch_add(1, Ordering::SeqCst);
        let done = put(&plain.file, offset);
        node.version.fetch_add(1, Ordering::SeqCst);
        done
    }

    /// Changes `len` bytes of a segment at an offset, or at its end.
    fn edit(&self, node: &Arc<Node>, at: Option<u64>, len: u64, edit: Edit<'_>) -> Result<()> {
        let mut bases = Bases::new();
        for attempt in 0.. {
            let (missing, source) = {
                let mut content = write(&node.content);
                let open = match &mut *content {
                    Content::Segment(open) if open.writable => open,
                    Content::Segment(_) | Content::Closed => {
                        drop(content);
                        self.load(node, true)?;
                        continue;
                    }
                    Content::Plain(_) => return Err(FsError::Moved),
                };
                let start = at.unwrap_or(open.size());
                let end = checked_end(start, len)?;
                let missing = open.missing_bases(start, end, &bases)?;
                let source = source(node, open);
                if attempt >= RETRIES {
                    self.fetch(node, &source, &missing, &mut bases)?;
                }
                if missing.is_empty() || attempt >= RETRIES {
                    bases.retain(|&block, (entry, _)| open.current_entry(block) == Some(*entry));
                    let before = open.dirty_bytes();
                    open.edit(start, end, edit, &bases);
                    self.touched(node, open, before);
                    return Ok(());
                }
                (missing, source)
            };
            if let Err(error) = self.fetch(node, &source, &missing, &mut bases)
                && self.still_current(node, &missing)
            {
                return Err(error);
            }
        }
        Err(FsError::Internal)
    }

    fn fetch(
        &self,
        node: &Node,
        source: &Source,
        missing: &[(u64, BlockEntry)],
        bases: &mut Bases,
    ) -> Result<()> {
        for (block, entry) in missing {
            let decoded = self
                .decoded(source, *block, entry, Caching::Keep)
                .inspect_err(|e| node.log_damage(Some(*block), e))?;
            bases.insert(*block, (*entry, decoded));
        }
        Ok(())
    }

    fn still_current(&self, node: &Node, missing: &[(u64, BlockEntry)]) -> bool {
        match &*read(&node.content) {
            Content::Segment(open) => missing
                .iter()
                .all(|(block, entry)| open.current_entry(*block) == Some(*entry)),
            _ => false,
        }
    }

    /// Cuts or extends a regular file, which the caller holds.
    pub(super) fn truncate(&self, node: &Arc<Node>, size: u64) -> Result<()> {
        match node.kind {
            Kind::File => {}
            Kind::Dir => return Err(FsError::IsADirectory),
            _ => return Err(FsError::Invalid),
        }
        checked_end(size, 0)?;
        self.change(
            node,
            |file| Ok(file.set_len(size)?),
            |open| {
                if size == open.size() {
                    return Ok(());
                }
                if size < open.size() {
                    open.make_live()?;
                }
                open.resize(size)
            },
        )
    }

    /// Changes a file that the caller holds, while nothing of it is being stored.
    fn change(
        &self,
        node: &Arc<Node>,
        plain: impl Fn(&std::fs::File) -> Result<()>,
        segment: impl Fn(&mut Segmented) -> Result<()>,
    ) -> Result<()> {
        let _storing = lock(&node.storing);
        loop {
            self.load(node, true)?;
            let mut content = write(&node.content);
            match &mut *content {
                Content::Plain(open) => {
                    node.version.fetch_add(1, Ordering::SeqCst);
                    return plain(&open.file);
                }
                Content::Segment(open) if open.writable => {
                    let before = open.dirty_bytes();
                    let changed = segment(open);
                    self.touched(node, open, before);
                    return changed;
                }
                Content::Segment(_) | Content::Closed => {}
            }
        }
    }

    /// Reserves (which does nothing), punches or zeroes a range of an open file.
    ///
    /// # Errors
    /// `EOPNOTSUPP` for other modes, `EINVAL`, and as [`Fs::write`].
    pub fn fallocate(&self, fh: Fh, mode: i32, offset: u64, len: u64) -> Result<()> {
        let file = self.handles.writable(fh)?;
        let node = &file.node;
        let mode = FallocateFlags::from_bits_retain(mode.cast_unsigned());
        if len == 0 {
            return Err(FsError::Invalid);
        }
        let end = checked_end(offset, len)?;
        again_if_moved(|| {
            self.load(node, true)?;
            if node.is_segment() {
                return self.allocate(node, mode, offset, end);
            }
            let call = |file: &std::fs::File| Ok(sys::fallocate(file, mode, offset, len)?);
            self.change(node, call, |_| Err(FsError::Moved))
        })
    }

    fn allocate(
        &self,
        node: &Arc<Node>,
        mode: FallocateFlags,
        offset: u64,
        end: u64,
    ) -> Result<()> {
        let keep = mode.contains(FallocateFlags::KEEP_SIZE);
        match mode - FallocateFlags::KEEP_SIZE {
            FallocateFlags::PUNCH_HOLE if keep => self.zero(node, offset, end, true),
            FallocateFlags::ZERO_RANGE => self.zero(node, offset, end, keep),
            rest if rest.is_empty() && keep => Ok(()),
            rest if rest.is_empty() => self.change(
                node,
                |_| Err(FsError::Moved),
                |open| {
                    open.extend(end);
                    Ok(())
                },
            ),
            _ => Err(FsError::NotSupported),
        }
    }

    /// Makes a range of a segment read as zeros: holes where whole blocks are, zeros in the blocks at its ends.
    fn zero(&self, node: &Arc<Node>, offset: u64, end: u64, keep_size: bool) -> Result<()> {
        let (unit, size) = match &*read(&node.content) {
            Content::Segment(open) => (open.block_size(), open.size()),
            _ => return Err(FsError::Moved),
        };
        let inside = if keep_size { end.min(size) } else { end };
        if offset >= inside {
            return Ok(());
        }
        let first = offset.div_ceil(unit);
        // A last block that ends with the file is a whole block.
        let last = if inside >= size {
            inside.div_ceil(unit)
        } else {
            inside / unit
        };
        if first * unit > offset {
            self.edit(
                node,
                Some(offset),
                (first * unit).min(inside) - offset,
                Edit::Zero,
            )?;
        }
        if last * unit < inside && last >= first {
            self.edit(node, Some(last * unit), inside - last * unit, Edit::Zero)?;
        }
        self.change(
            node,
            |_| Err(FsError::Moved),
            |open| {
                if inside < open.size().min(last * unit) {
                    // It grew meanwhile, so the last block is not whole any more: once more, with the new size.
                    return Err(FsError::Moved);
                }
                if first < last {
                    open.make_live()?;
                    open.drop_blocks(first, last)?;
                }
                if !keep_size {
                    open.extend(end);
                }
                Ok(())
            },
        )
    }

    /// Offset of the next data ([`SEEK_DATA`]) or hole ([`SEEK_HOLE`]) at or after `offset`.
    ///
    /// # Errors
    /// `ENXIO` if there is none, `EINVAL` for another `whence`.
    pub fn lseek(&self, fh: Fh, offset: u64, whence: i32) -> Result<u64> {
        let node = Arc::clone(&self.handles.file(fh)?.node);
        match whence {
            SEEK_DATA => self.seek(&node, offset, true),
            SEEK_HOLE => self.seek(&node, offset, false),
            _ => Err(FsError::Invalid),
        }
    }

    pub(super) fn seek(&self, node: &Arc<Node>, offset: u64, data: bool) -> Result<u64> {
        loop {
            self.load(node, false)?;
            return match &*read(&node.content) {
                Content::Closed => continue,
                Content::Segment(open) => open.seek(offset, data),
                Content::Plain(plain) => {
                    let to = if data {
                        sys::SeekFrom::Data(offset)
                    } else {
                        sys::SeekFrom::Hole(offset)
                    };
                    sys::seek(&*plain.file, to).map_err(|e| match e {
                        Errno::NXIO => FsError::NoSuchOffset,
                        other => other.into(),
                    })
                }
            };
        }
    }
}

/// Tries again what met a file that was just packed or unpacked.
fn again_if_moved<T>(mut work: impl FnMut() -> Result<T>) -> Result<T> {
    loop {
        match work() {
            Err(FsError::Moved) => {}
            done => return done,
        }
    }
}
