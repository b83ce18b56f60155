//! Renaming, atomic for every pair of segment and plain file.

use std::ffi::OsStr;
use std::sync::Arc;

use rustix::fs::{self as sys, AtFlags};

use super::Fs;
use super::attr::Kind;
use super::backing::InodeKey;
use super::errno::{FsError, Result};
use super::namespace::{Found, backing_name, remove_twin};
use super::node::{Node, NodeId};
use super::sync::{lock, read, write};
use crate::store::names;
use crate::sync::atomic::Ordering;

/// What a rename does if the new name is taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum RenameFlags {
    /// Replace it.
    #[default]
    Replace,
    /// Fail.
    NoReplace,
    /// Exchange the two.
    Exchange,
}

/// One end of a rename.
#[derive(Clone, Copy)]
pub(super) struct End<'a> {
    pub(super) dir: &'a Arc<Node>,
    pub(super) name: &'a OsStr,
}

impl Fs {
    /// Renames an entry.
    ///
    /// Where a plain file replaces a segment, or is exchanged with one, one of them is converted first.
    ///
    /// # Errors
    /// `ENOENT`, `EEXIST`, `EISDIR`, `ENOTDIR`, `EINVAL` for exchanging a segment that has several names with
    /// something that can not become one, what the backing file system answers.
    pub fn rename(
        &self,
        parent: NodeId,
        name: &OsStr,
        new_parent: NodeId,
        new_name: &OsStr,
        flags: RenameFlags,
    ) -> Result<()> {
        self.require_writable()?;
        let (from_dir, to_dir) = (self.node(parent)?, self.node(new_parent)?);
        from_dir.require_dir()?;
        to_dir.require_dir()?;
        if flags != RenameFlags::NoReplace {
            self.convert_ahead((&from_dir, name), (&to_dir, new_name));
        }
        let _names = self.changing()?;
        let (low, high) = if from_dir.id <= to_dir.id {
            (&from_dir, &to_dir)
        } else {
            (&to_dir, &from_dir)
        };
        let _low = write(&low.entries);
        let _high = (low.id != high.id).then(|| write(&high.entries));
        let (from, to) = (
            End {
                dir: &from_dir,
                name,
            },
            End {
                dir: &to_dir,
                name: new_name,
            },
        );
        let source = self.find(from.dir, name)?.ok_or(FsError::NotFound)?;
        let target = self.find(to.dir, new_name)?;
        let node = |found: &Found| self.nodes.peek(InodeKey::new(&found.stat, found.form));
        let (moved, exchanged) = (node(&source), target.as_ref().and_then(node));
        let _replaced = match &target {
            Some(target) => self.hold_if_known(target)?,
            None => None,
        };
        match (flags, target) {
            (RenameFlags::Exchange, Some(target)) => self.exchange(from, &source, to, &target)?,
            (RenameFlags::Exchange, None) => return Err(FsError::NotFound),
            (RenameFlags::NoReplace, Some(_)) => return Err(FsError::Exists),
            (_, None) if new_name.len() > names::NAME_MAX => return Err(FsError::NameTooLong),
            (_, None) => self.move_to(from, &source, to, &backing_name(new_name, source.form))?,
            (RenameFlags::Replace, Some(target)) => self.replace(from, &source, to, &target)?,
        }
        self.renamed(to, moved.as_ref());
        move_made(&from_dir, &to_dir, moved.as_ref());
        if flags == RenameFlags::Exchange {
            self.renamed(from, exchanged.as_ref());
            move_made(&to_dir, &from_dir, exchanged.as_ref());
        }
        Ok(())
    }

    /// Notes that what has this name now got it just now; `moved` is its node, if that was known before.
    pub(super) fn renamed(&self, to: End<'_>, moved: Option<&Arc<Node>>) {
        // A directory is always held open.
        let Ok(dir) = to.dir.backing() else { return };
        // It may have another backing inode than before.
        let found = self.find(to.dir, to.name).ok().flatten();
        let node = (found.as_ref())
            .and_then(|found| self.nodes.peek(InodeKey::new(&found.stat, found.form)));
        let Some(node) = node.as_ref().or(moved) else {
            return self.nodes.note(&dir);
        };
        node.set_name(to.dir.id, to.name);
        if found.is_some_and(|it| it.kind() == Kind::Dir || it.stat.st_nlink == 1) {
            lock(&node.new_in).set(dir);
        } else {
            self.has_new_name(node, dir);
        }
    }

    /// Makes a plain file that is about to meet a segment one too, without keeping others from their names meanwhile.
    /// What this misses is converted under the locks.
    fn convert_ahead(&self, from: (&Arc<Node>, &OsStr), to: (&Arc<Node>, &OsStr)) {
        let form = |(dir, name): (&Arc<Node>, &OsStr)| {
            let _names = read(&self.namespace);
            let _entries = read(&dir.entries);
            let found = self.find(dir, name).ok()??;
            (found.kind() == Kind::File).then_some(found)
        };
        let (Some(source), Some(target)) = (form(from), form(to)) else {
            return;
        };
        if !source.is_segment() && target.is_segment() && source.stat.st_nlink == 1 {
            self.seal_in_place(from.0, from.1)
                .unwrap_or_else(|error| log::debug!("{}: {error}", from.1.display()));
        }
    }

    fn move_to(&self, from: End<'_>, source: &Found, to: End<'_>, new: &OsStr) -> Result<()> {
        let (from_fd, to_fd) = (from.dir.backing()?, to.dir.backing()?);
        if source.is_segment() {
            remove_twin(&from_fd, from.name)?;
        }
        Ok(sys::renameat(
            &*from_fd,
            &source.backing_name,
            &*to_fd,
            new,
        )?)
    }

    fn replace(&self, from: End<'_>, source: &Found, to: End<'_>, target: &Found) -> Result<()> {
        if (source.stat.st_dev, source.stat.st_ino) == (target.stat.st_dev, target.stat.st_ino) {
            return Ok(());
        }
        match (source.kind() == Kind::Dir, target.kind() == Kind::Dir) {
            (true, false) => return Err(FsError::NotADirectory),
            (false, true) => return Err(FsError::IsADirectory),
            _ => {}
        }
        // What was safe under the new name must not be lost to content that is only in memory.
        if source.kind() == Kind::File {
            let hold = self.hold_found(from.dir, from.name, source)?;
            self.settle_content(&hold.node)?;
        }
        match (source.is_segment(), target.is_segment()) {
            (true, true) => {
                remove_twin(&*to.dir.backing()?, to.name)?;
                self.move_to(from, source, to, &target.backing_name)
            }
            (true, false) => {
                // Until the plain file is gone, and for ever if it stays, the segment wins over it.
                self.move_to(from, source, to, &names::segment_name(to.name))?;
                self.remove_replaced(from, to, target)
            }
            (false, false) => {
                let new = names::other_name(to.name);
                if target.kind() == Kind::Dir || new == target.backing_name {
                    return self.move_to(from, source, to, &target.backing_name);
                }
                // Under a foreign entry's own name a plain file would be taken for a segment.
                self.move_to(from, source, to, &new)?;
                self.remove_replaced(from, to, target)
            }
            (false, true) => {
                if let Some(source) = self.convert(from, source, names::Kind::Segment)? {
                    return self.move_to(from, &source, to, &target.backing_name);
                }
                self.convert_name(to, target, names::Kind::Other)
                    .and_then(|target| self.move_to(from, source, to, &target.backing_name))
                    .inspect_err(|_| self.stale.add_name(to.dir.id, to.name))
            }
        }
    }

    /// Removes what lies under another name than that which replaced it, once that is there for good. If that fails, the names are
    /// changed all the same, which the kernel does not expect.
    fn remove_replaced(&self, from: End<'_>, to: End<'_>, old: &Found) -> Result<()> {
        let dir = to.dir.backing()?;
        let removed = dir.sync_dir().and_then(|()| {
            let name = &old.backing_name;
            Ok(sys::unlinkat(&*dir, name, AtFlags::empty())?)
        });
        removed.inspect_err(|_| {
            self.renamed(to, None);
            for end in [from, to] {
                self.stale.add_name(end.dir.id, end.name);
            }
        })
    }

    /// Makes content and attributes durable: what is kept in memory, or what went through to a plain file, be it before its node was last
    /// forgotten. The caller holds the node, so that nobody closes the file before it is synced.
    fn settle_content(&self, node: &Arc<Node>) -> Result<()> {
        let plain = !node.is_segment();
        // A new file may be stored by now, but without its attributes.
        let is_new = !lock(&node.new_in).is_empty();
        if (plain || is_new)
            && let Err(error) = self.load(node, false)
        {
            // Its mode may keep even the owner out by now.
            log::warn!("{}: not synced: {error}", lock(&node.name).display());
            return Ok(());
        }
        if plain || is_new || node.dirty.load(Ordering::SeqCst) {
            self.commit(node, true)?;
        }
        Ok(())
    }

    fn exchange(&self, from: End<'_>, source: &Found, to: End<'_>, target: &Found) -> Result<()> {
        let swap = |a: &OsStr, b: &OsStr| {
            let (from_fd, to_fd) = (from.dir.backing()?, to.dir.backing()?);
            sys::renameat_with(&*from_fd, a, &*to_fd, b, sys::RenameFlags::EXCHANGE)
                .map_err(FsError::from)
        };
        for (end, found) in [(from, source), (to, target)] {
            let foreign = found.backing_name != backing_name(end.name, found.form);
            if foreign && (source.kind() != Kind::Dir || target.kind() != Kind::Dir) {
                // Under a foreign entry's own name a plain file would be taken for a segment.
                return Err(FsError::Invalid);
            }
            if found.is_segment() {
                remove_twin(&*end.dir.backing()?, end.name)?;
            }
        }
        if source.is_segment() == target.is_segment() {
            return swap(&source.backing_name, &target.backing_name);
        }
        let (plain_end, plain, segment_end, segment) = if source.is_segment() {
            (to, target, from, source)
        } else {
            (from, source, to, target)
        };
        let sealed = self.convert(plain_end, plain, names::Kind::Segment)?;
        let opened = match sealed {
            Some(_) => None,
            None => self.convert(segment_end, segment, names::Kind::Other)?,
        };
        let (plain, segment) = match (&sealed, &opened) {
            (Some(sealed), _) => (sealed, segment),
            (None, Some(opened)) => (plain, opened),
            (None, None) => return Err(FsError::Invalid),
        };
        if source.is_segment() {
            swap(&segment.backing_name, &plain.backing_name)
        } else {
            swap(&plain.backing_name, &segment.backing_name)
        }
    }
}

/// A directory that was just made is synced with that in which its name is now, also where it may be one that nobody knows any more.
fn move_made(from: &Node, to: &Node, moved: Option<&Arc<Node>>) {
    if moved.is_some_and(|node| node.kind != Kind::Dir) {
        return;
    }
    let known = moved.filter(|node| lock(&from.made).remove(node));
    let unknown = lock(&from.made).has_unknown();
    match known {
        Some(node) => lock(&to.made).add(node),
        None if unknown => lock(&to.made).add_unknown(),
        None => {}
    }
}
