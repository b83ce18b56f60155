//! Reading attributes: the backing inode's, with the segment's logical size and the times of what is not stored yet.

use std::sync::Arc;

use rustix::fs::{self as sys, OFlags, Stat};
use rustix::io::Errno;

use super::Fs;
use super::attr::{self, Attr, Kind, StatFs, Time};
use super::backing::{Backing, InodeKey};
use super::content::{Content, Segmented};
use super::disk_cache::{DiskCache, DiskCacheStats};
use super::errno::{FsError, Result};
use super::handles::Fh;
use super::latency::Latency;
use super::node::{CtimePin, Node, NodeId, Peeked, Stamp};
use super::second_look::Looks;
use super::sync::{lock, read};
use crate::codec::CodecId;
use crate::segment::{self, Summary};
use crate::store::names;
use crate::sync::atomic::Ordering;

/// What the file system has done and holds, for `status`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct FsStats {
    /// Blocks that were in the cache, or being decoded for another reader.
    pub cache_hits: u64,
    /// Blocks that were decoded.
    pub decoded_blocks: u64,
    /// Bytes in the cache.
    pub cache_bytes: u64,
    /// How long decoding took, by codec in the order of [`CodecId::ALL`].
    pub decoding: [Latency; CodecId::ALL.len()],
    /// Written bytes that are only in memory.
    pub dirty_bytes: u64,
    /// Files with something to commit.
    pub dirty_files: u64,
    /// Blocks stored since the start.
    pub stored_blocks: u64,
    /// Commits since the start.
    pub commits: u64,
    /// Nodes in memory.
    pub nodes: u64,
    /// Open files and directories.
    pub handles: u64,
    /// The disk cache, if there is one.
    pub disk_cache: Option<DiskCacheStats>,
}

impl Fs {
    /// Attributes of a node. The handle makes no difference, since all handles share the node.
    ///
    /// # Errors
    /// `ESTALE` for an unknown node.
    pub fn getattr(&self, id: NodeId, _fh: Option<Fh>) -> Result<Attr> {
        let node = self.node(id)?;
        self.refresh(&node)?;
        self.attr_of(&node)
    }

    /// Sizes of the backing file system; names can be `names::NAME_MAX` bytes long.
    ///
    /// # Errors
    /// What the backing file system answers.
    pub fn statfs(&self) -> Result<StatFs> {
        let stat = sys::fstatvfs(self.archive.root_fd())?;
        let narrow = |n: u64| u32::try_from(n).unwrap_or(u32::MAX);
        Ok(StatFs {
            bsize: narrow(stat.f_bsize),
            frsize: narrow(stat.f_frsize),
            blocks: stat.f_blocks,
            bfree: stat.f_bfree,
            bavail: stat.f_bavail,
            files: stat.f_files,
            ffree: stat.f_ffree,
            namelen: names::NAME_MAX as u32,
        })
    }

    /// Figures for `status`.
    #[must_use]
    pub fn stats(&self) -> FsStats {
        let cache = self.cache.stats();
        FsStats {
            cache_hits: cache.hits,
            decoded_blocks: cache.misses,
            cache_bytes: cache.bytes,
            decoding: std::array::from_fn(|codec| self.decoding[codec].now()),
            dirty_bytes: self.writeback.bytes.load(Ordering::Relaxed),
            dirty_files: lock(&self.writeback.dirty).len() as u64,
            stored_blocks: self.writeback.stored.load(Ordering::Relaxed),
            commits: self.writeback.commits.load(Ordering::Relaxed),
            nodes: self.nodes.len() as u64,
            handles: self.handles.len() as u64,
            disk_cache: self.disk_cache.as_ref().map(DiskCache::stats),
        }
    }

    pub(super) fn attr_of(&self, node: &Arc<Node>) -> Result<Attr> {
        self.attr_by(node, None)
    }

    /// The same where the backing inode's attributes may be known.
    pub(super) fn attr_by(&self, node: &Arc<Node>, known: Option<Stat>) -> Result<Attr> {
        // Locked, because storing changes times that are not to be seen, and a swap the backing file.
        let content = read(&node.content);
        let backing = node.backing()?;
        let usable = |stat: &Stat| {
            let [_, _, ctime] = attr::times(stat);
            matches!(*content, Content::Closed)
                && InodeKey::new(stat, backing.form) == backing.key
                && lock(&node.ctime).is_none_or(|pin| pin.backing == ctime)
        };
        let stat = &match known.filter(usable) {
            Some(stat) => stat,
            None => backing.stat()?,
        };
        let mut attr = attr::from_stat(stat, node.ino);
        attr.ctime = shown_ctime(node, attr.ctime);
        if node.id == NodeId::ROOT && self.archive.private_fd().is_some() {
            // The private directory's `..`.
            attr.nlink = attr.nlink.saturating_sub(1).max(1);
        }
        if node.kind != Kind::File || !backing.is_segment() {
            return Ok(attr);
        }
        attr.blksize = self.options.block_size;
        if let Content::Segment(open) = &*content {
            attr.size = open.size();
            attr.blocks += open.dirty_bytes().div_ceil(512);
            attr.mtime = open.mtime.unwrap_or(attr.mtime);
            attr.ctime = attr.ctime.max(open.changed.unwrap_or(attr.ctime));
            attr.blksize = open.segment.block_size();
            return Ok(attr);
        }
        if stat.st_size == 0 {
            return Ok(attr);
        }
        let summary = self.peek(node, &backing, stat)?;
        attr.size = summary.map_or(0, |s| s.logical_size);
        attr.blksize = summary.map_or(attr.blksize, |s| s.block_size);
        Ok(attr)
    }

    /// The figures of a segment that is not open; `None` if it is damaged, which the log says, or not ours to read.
    ///
    /// Any other failure is an error: a file must not look empty because the system is short of something.
    fn peek(&self, node: &Node, backing: &Backing, stat: &Stat) -> Result<Option<Summary>> {
        let stamp = stamp(stat);
        let mut peeked = lock(&node.peeked);
        if let Some(known) = peeked.filter(|known| known.stamp == stamp) {
            return Ok(known.summary);
        }
        let mut looks = Looks::default();
        let found = loop {
            let found = backing
                .reopen(OFlags::RDONLY)
                .and_then(|file| Ok(segment::peek(&file)?));
            match found {
                Err(error) if self.look_again(node, &error, &mut looks)? => {}
                done => break done,
            }
        };
        let summary = match found {
            Ok(summary) => Some(summary),
            Err(error) if error.is_damage() => {
                node.log_damage(None, &error);
                None
            }
            Err(FsError::Backing(Errno::ACCESS)) => None,
            Err(error) => return Err(error),
        };
        *peeked = Some(Peeked { stamp, summary });
        Ok(summary)
    }
}

pub(super) fn stamp(stat: &Stat) -> Stamp {
    let [_, mtime, ctime] = attr::times(stat);
    (ctime, mtime, stat.st_size)
}

/// The time of attribute change to show where the backing inode's is `backing`.
pub(super) fn shown_ctime(node: &Node, backing: Time) -> Time {
    lock(&node.ctime)
        .filter(|pin| pin.backing == backing)
        .map_or(backing, |pin| pin.shown)
}

/// The time of attribute change that an open segment shows.
pub(super) fn ctime_of(node: &Node, open: &Segmented) -> Result<Time> {
    let [_, _, ctime] = attr::times(&node.backing()?.stat()?);
    let shown = shown_ctime(node, ctime);
    Ok(open.changed.map_or(shown, |changed| changed.max(shown)))
}

/// Shows `shown` for the backing inode's present time of attribute change, which is our own doing.
pub(super) fn pin_ctime(node: &Node, shown: Time) -> Result<()> {
    let [_, _, backing] = attr::times(&node.backing()?.stat()?);
    *lock(&node.ctime) = Some(CtimePin { backing, shown });
    Ok(())
}
