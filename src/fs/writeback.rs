//! Storing what was written: dirty blocks are encoded and appended, commits make them the file's content on disk.
//!
//! A block stays in memory until it is in the segment, and a failed store or commit changes nothing that was committed
//! before. The order of a commit is the segment's (`Segment::commit`); the file's lock is not held while the disk syncs.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;

use super::Fs;
use super::backing::set_mtime;
use super::cache::Key;
use super::content::{Content, Segmented, ToStore};
use super::errno::{FsError, Result};
use super::node::{Node, NodeId};
use super::stat::{ctime_of, pin_ctime};
use super::sync::{lock, read, write};
use crate::codec::{self, Encoded};
use crate::sync::atomic::{AtomicU64, Ordering};
use crate::sync::{Condvar, Mutex};

/// Blocks that are encoded before they are appended.
const BATCH: usize = 64;

/// Stores outside the lock before a commit stores the rest under it.
const PASSES: usize = 3;

/// Files in one batch above which the whole file system is synced at once.
pub(super) const SYNC_ALL_ABOVE: usize = 8;

/// What is to be stored, and who is told.
#[derive(Default)]
pub(super) struct Writeback {
    pub(super) dirty: Mutex<BTreeMap<NodeId, Arc<Node>>>,
    /// Held by who commits because there are too many.
    pub(super) relieving: Mutex<()>,
    pub(super) bytes: AtomicU64,
    pub(super) stored: AtomicU64,
    pub(super) commits: AtomicU64,
    pub(super) signal: Arc<Signal>,
}

/// How the flusher is spoken to.
#[derive(Default)]
pub(super) struct Signal {
    pub(super) asked: Mutex<Asked>,
    pub(super) wake: Condvar,
}

/// What the flusher is asked for.
#[derive(Debug, Default, Clone, Copy)]
pub(super) struct Asked {
    /// Some file holds so much that its full blocks should be stored now.
    pub(super) store: bool,
    pub(super) stop: bool,
}

impl Fs {
    pub(super) fn dirty_bytes(&self) -> u64 {
        self.writeback.bytes.load(Ordering::Relaxed)
    }

    pub(super) fn account(&self, before: u64, after: u64) {
        if after >= before {
            self.writeback
                .bytes
                .fetch_add(after - before, Ordering::Relaxed);
        } else {
            self.writeback
                .bytes
                .fetch_sub(before - after, Ordering::Relaxed);
        }
    }

    /// Under the exclusive lock of the node's content.
    pub(super) fn mark_dirty(&self, node: &Arc<Node>) {
        if !node.dirty.swap(true, Ordering::SeqCst) {
            lock(&self.writeback.dirty).insert(node.id, Arc::clone(node));
        }
    }

    /// Under the exclusive lock of the node's content.
    pub(super) fn unmark_dirty(&self, node: &Node) {
        // Once it is not dirty it may be dropped, and its successor be on the list under the same number.
        let mut dirty = lock(&self.writeback.dirty);
        if node.dirty.swap(false, Ordering::SeqCst) {
            dirty.remove(&node.id);
        }
    }

    pub(super) fn dirty_files(&self) -> usize {
        lock(&self.writeback.dirty).len()
    }

    pub(super) fn dirty_nodes(&self) -> Vec<Arc<Node>> {
        lock(&self.writeback.dirty).values().cloned().collect()
    }

    /// Called by writers: bounds what is only in memory.
    pub(super) fn relieve(&self, node: &Arc<Node>) {
        let mine = match &*read(&node.content) {
            Content::Segment(open) => open.dirty_bytes(),
            _ => 0,
        };
        if mine > 2 * self.options.file_dirty_bytes {
            self.store_or_note(node, true);
        } else if mine > self.options.file_dirty_bytes {
            lock(&self.writeback.signal.asked).store = true;
            self.writeback.signal.wake.notify_all();
        }
        if self.dirty_bytes() > self.options.total_dirty_bytes {
            for node in self.dirty_nodes() {
                if self.dirty_bytes() <= self.options.total_dirty_bytes / 2 {
                    break;
                }
                self.store_or_note(&node, false);
            }
        }
    }

    /// Stores blocks of a file; a failure is told to the file's next caller.
    pub(super) fn store_or_note(&self, node: &Arc<Node>, only_full: bool) {
        let _storing = lock(&node.storing);
        if let Err(error) = self.store(node, only_full) {
            node.fail_later(&error);
        }
    }

    /// Encodes and appends blocks. The caller holds `storing`.
    fn store(&self, node: &Arc<Node>, only_full: bool) -> Result<()> {
        let taken = match &*read(&node.content) {
            Content::Segment(open) => open.to_store(only_full),
            _ => return Ok(()),
        };
        for batch in taken.chunks(BATCH) {
            let encoded = self.encode(batch);
            if let Content::Segment(open) = &mut *write(&node.content) {
                self.append(node, open, batch, &encoded)?;
            }
        }
        Ok(())
    }

    fn encode(&self, blocks: &[ToStore]) -> Vec<Encoded> {
        in_parallel(self.options.jobs, blocks, |taken| {
            codec::encode_fresh(&taken.data)
        })
    }

    /// Appends encoded blocks, under the exclusive lock of the content.
    fn append(
        &self,
        node: &Node,
        open: &mut Segmented,
        blocks: &[ToStore],
        encoded: &[Encoded],
    ) -> Result<()> {
        let before = open.dirty_bytes();
        let outcome = self.keeping_times(node, open, |open| {
            self.append_blocks(node, open, blocks, encoded)
        });
        self.account(before, open.dirty_bytes());
        outcome
    }

    /// Changes the segment file without changing the times that the file shows.
    pub(super) fn keeping_times<T>(
        &self,
        node: &Node,
        open: &mut Segmented,
        change: impl FnOnce(&mut Segmented) -> Result<T>,
    ) -> Result<T> {
        let shown = ctime_of(node, open)?;
        let outcome = change(open);
        self.stale.add(node.id);
        restore_times(node, open, shown)?;
        outcome
    }

    fn append_blocks(
        &self,
        node: &Node,
        open: &mut Segmented,
        blocks: &[ToStore],
        encoded: &[Encoded],
    ) -> Result<()> {
        open.make_live()?;
        open.segment.set_logical_size(open.size())?;
        let instance = node.instance.load(Ordering::SeqCst);
        for (taken, encoded) in blocks.iter().zip(encoded) {
            if !open.is_current(taken) {
                continue;
            }
            let entry = open.segment.append(encoded)?;
            if let Err(error) = open.segment.set_entry(taken.block, Some(entry)) {
                open.segment.discard(&entry);
                return Err(error.into());
            }
            open.stored(taken);
            self.cache.insert(
                Key {
                    instance,
                    offset: entry.offset,
                },
                Arc::clone(&taken.data),
            );
            self.writeback.stored.fetch_add(1, Ordering::Relaxed);
        }
        Ok(())
    }

    /// First half of a commit: everything is written except the root. The caller holds `storing` and syncs next.
    /// Answers the file to sync, `None` if there is nothing to commit.
    pub(super) fn prepare(&self, node: &Arc<Node>) -> Result<Option<Arc<std::fs::File>>> {
        for _ in 0..PASSES {
            self.store(node, false)?;
            match &*read(&node.content) {
                Content::Segment(open) if open.has_dirty_blocks() => {}
                _ => break,
            }
        }
        let mut content = write(&node.content);
        let Content::Segment(open) = &mut *content else {
            return Ok(None);
        };
        let rest = open.to_store(false);
        if !rest.is_empty() {
            let encoded = self.encode(&rest);
            self.append(node, open, &rest, &encoded)?;
        }
        self.keeping_times(node, open, |open| {
            if open.is_clean() {
                return Ok(());
            }
            open.make_live()?;
            open.segment.set_logical_size(open.size())?;
            Ok(open.segment.prepare_commit()?)
        })?;
        if open.is_clean() {
            self.settle(node, open);
            return Ok(None);
        }
        Ok(Some(Arc::clone(&open.file)))
    }

    /// Second half: writes the root of what [`Fs::prepare`] wrote and the caller synced. The caller syncs again.
    pub(super) fn write_root(&self, node: &Node) -> Result<()> {
        if let Content::Segment(open) = &mut *write(&node.content) {
            self.keeping_times(node, open, |open| Ok(open.segment.finish_commit()?))?;
        }
        Ok(())
    }

    /// The end of a commit, after the second sync.
    pub(super) fn conclude(&self, node: &Node) -> Result<()> {
        if let Content::Segment(open) = &mut *write(&node.content) {
            self.keeping_times(node, open, |open| {
                open.segment.committed();
                Ok(())
            })?;
            self.settle(node, open);
        }
        self.writeback.commits.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }

    /// Takes a file off the dirty list if nothing of it is left to store.
    fn settle(&self, node: &Node, open: &mut Segmented) {
        if open.is_clean() {
            open.due = None;
            self.unmark_dirty(node);
        } else {
            // Who closed it during the commit could not know that it would be due anew.
            let after = if node.is_held() {
                self.options.commit_after
            } else {
                self.options.commit_closed_after
            };
            open.due = Some(std::time::Instant::now() + after);
        }
    }

    /// Commits one file and makes it durable; `attributes` too if asked.
    pub(super) fn commit(&self, node: &Arc<Node>, attributes: bool) -> Result<()> {
        {
            let _storing = lock(&node.storing);
            let sync = |file: &std::fs::File| {
                if attributes {
                    file.sync_all()
                } else {
                    file.sync_data()
                }
            };
            if let Some(file) = self.prepare(node)? {
                file.sync_data()?;
                self.write_root(node)?;
                sync(&file)?;
                self.conclude(node)?;
                // The end of a commit writes, too, and the system takes that for a change of the content.
                let keeps_time = matches!(&*read(&node.content), Content::Segment(open) if open.has_given_time());
                if attributes && keeps_time {
                    file.sync_all()?;
                }
            } else {
                match &*read(&node.content) {
                    Content::Segment(open) => sync(&open.file)?,
                    Content::Plain(plain) => sync(&plain.file)?,
                    Content::Closed => {}
                }
            }
        }
        self.close_if_unused(node);
        Ok(())
    }

    /// Commits files together: one sync serves many. A failure is told to the file's next caller, and answered.
    pub(super) fn commit_batch(&self, mut nodes: Vec<Arc<Node>>) -> Result<()> {
        nodes.sort_by_key(|node| node.id);
        let mut outcome = Ok(());
        {
            let _storing: Vec<_> = nodes.iter().map(|node| lock(&node.storing)).collect();
            let mut note = |node: &Node, error: FsError| {
                node.fail_later(&error);
                if let Content::Segment(open) = &mut *write(&node.content) {
                    open.due = Some(std::time::Instant::now() + self.options.commit_after);
                }
                outcome = Err(error);
            };
            let mut under_way = Vec::new();
            for node in &nodes {
                match self.prepare(node) {
                    Ok(Some(file)) => under_way.push((node, file)),
                    Ok(None) => {}
                    Err(error) => note(node, error),
                }
            }
            type Step<'a> = &'a dyn Fn(&Fs, &Node) -> Result<()>;
            let steps: [Step<'_>; 2] = [&|fs, node| fs.write_root(node), &|fs, node| {
                fs.conclude(node)
            }];
            let root = self.nodes.get(NodeId::ROOT)?.backing()?;
            for step in steps {
                let near = |node: &Node| node.key().dev == root.key.dev;
                let many = under_way.iter().filter(|(node, _)| near(node)).count() > SYNC_ALL_ABOVE;
                let together = many && self.sync_whole(&root).unwrap_or(false);
                under_way.retain(|(node, file)| {
                    let synced = if together && near(node) {
                        Ok(())
                    } else {
                        file.sync_data().map_err(FsError::from)
                    };
                    synced
                        .and_then(|()| step(self, node))
                        .map_err(|error| note(node, error))
                        .is_ok()
                });
            }
        }
        for node in &nodes {
            self.close_if_unused(node);
        }
        outcome
    }

    /// Commits everything.
    pub(super) fn commit_all(&self) -> Result<()> {
        self.commit_batch(self.dirty_nodes())
    }

    /// Forgets the unstored content of a file that has no name left and that nobody can reach any more; whether it is one.
    pub(super) fn discard_if_gone(&self, node: &Arc<Node>) -> bool {
        if node.is_reachable() {
            return false;
        }
        {
            let _storing = lock(&node.storing);
            let mut content = write(&node.content);
            // Under both locks, since a swap takes the name from one backing file and gives it to another.
            let unlinked = (node.backing().and_then(|backing| backing.stat()))
                .is_ok_and(|stat| stat.st_nlink == 0);
            if node.is_reachable() || !unlinked {
                return false;
            }
            if let Content::Segment(open) = &mut *content {
                let before = open.dirty_bytes();
                open.discard();
                self.account(before, 0);
            }
            self.unmark_dirty(node);
        }
        self.close_if_unused(node);
        true
    }
}

/// Undoes what our own writing did to the backing file's times.
fn restore_times(node: &Node, open: &Segmented, shown_ctime: super::attr::Time) -> Result<()> {
    if let Some(mtime) = open.mtime {
        // Only the owner may set times; where the daemon is somebody else, storing counts as changing.
        match set_mtime(std::os::fd::AsFd::as_fd(&*open.file), mtime) {
            Ok(()) | Err(FsError::Backing(rustix::io::Errno::PERM)) => {}
            Err(e) => return Err(e),
        }
    }
    pin_ctime(node, shown_ctime)
}

/// Calls `work` for every item on up to `jobs` threads; answers in the order of the items.
pub(super) fn in_parallel<T: Sync, R: Send>(
    jobs: usize,
    items: &[T],
    work: impl Fn(&T) -> R + Sync,
) -> Vec<R> {
    let jobs = jobs.min(items.len());
    if jobs <= 1 {
        return items.iter().map(work).collect();
    }
    let next = AtomicUsize::new(0);
    let mut done: Vec<(usize, R)> = Vec::with_capacity(items.len());
    let run = || {
        let mut mine = Vec::new();
        loop {
            let at = next.fetch_add(1, Ordering::Relaxed);
            let Some(item) = items.get(at) else {
                return mine;
            };
            mine.push((at, work(item)));
        }
    };
    std::thread::scope(|scope| {
        let others: Vec<_> = (1..jobs).map(|_| scope.spawn(run)).collect();
        done.extend(run());
        for other in others {
            match other.join() {
                Ok(mine) => done.extend(mine),
                Err(panic) => std::panic::resume_unwind(panic),
            }
        }
    });
    done.sort_by_key(|(at, _)| *at);
    done.into_iter().map(|(_, result)| result).collect()
}
