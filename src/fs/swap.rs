//! Swaps: another backing file takes a file's place, with the same content, and nobody notices.
//!
//! The new file is complete and durable before it gets the name, the segment wins while both forms exist, and the old form is
//! gone for good before anything else happens to the file. So a crash at any moment leaves the file as it was before or after.
//! Open handles go on with the new file.

use std::os::fd::AsFd;
use std::sync::Arc;

use rustix::fs::{self as sys, AtFlags, Mode, OFlags};

use super::Fs;
use super::attr;
use super::backing::{Backing, InodeKey, copy_attributes, proc_path};
use super::cache::next_instance;
use super::content::{Content, Plain, Segmented};
use super::errno::Result;
use super::namespace::backing_name;
use super::node::Node;
use super::rename::End;
use super::stat::{ctime_of, pin_ctime, shown_ctime};
use super::sync::{lock, write};
use crate::store::{TempFile, names};
use crate::sync::atomic::Ordering;

/// How a swap ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// The new file is in place, durably.
    Swapped,
    /// The file was written, renamed, linked or removed since the snapshot; nothing was done.
    Changed,
}

impl Fs {
    /// Puts `temp`, which holds the file's content at `version` in this form, in its place.
    ///
    /// The caller keeps the name from changing: it holds the namespace, or the directory's entries, exclusively. With
    /// `one_of_many`, only this name of a file with several is moved to the new file.
    pub(super) fn swap_in(
        &self,
        at: End<'_>,
        node: &Arc<Node>,
        version: u64,
        temp: TempFile,
        form: names::Kind,
        one_of_many: bool,
    ) -> Result<Outcome> {
        let _storing = lock(&node.storing);
        let content = &mut *write(&node.content);
        let old = node.backing()?;
        let Some(found) = self.find(at.dir, at.name)? else {
            return Ok(Outcome::Changed);
        };
        let stat = old.stat()?;
        let split = one_of_many && stat.st_nlink > 1;
        if node.version.load(Ordering::SeqCst) != version
            || InodeKey::new(&found.stat, found.form) != old.key
            || (stat.st_nlink > 1 && !split)
        {
            return Ok(Outcome::Changed);
        }
        let [_, mut mtime, ctime] = attr::times(&stat);
        let mut shown = shown_ctime(node, ctime);
        if let Content::Segment(open) = content {
            mtime = open.mtime.unwrap_or(mtime);
            shown = ctime_of(node, open)?;
        }
        copy_attributes(&old, &stat, mtime, temp.file())?;
        temp.file().sync_all()?;

        // Everything that can fail comes before the new file has the name.
        let path = OFlags::PATH | OFlags::CLOEXEC;
        let fd = sys::open(proc_path(temp.file().as_fd()), path, Mode::empty())?;
        let (backing, _) = Backing::from_fd(fd, form)?;
        let file = Arc::clone(temp.file());
        let fresh = match (node.is_held(), form) {
            (false, _) => Content::Closed,
            (true, names::Kind::Segment) => {
                let open = Segmented::open(file, true, self.options.block_size)?;
                Content::Segment(Box::new(open))
            }
            (true, names::Kind::Other) => Content::Plain(Plain {
                file,
                writable: true,
            }),
        };
        let dir = at.dir.backing()?;
        let dir_fd = dir.reopen_dir()?;
        let new_name = backing_name(at.name, form);
        temp.rename_to(dir.as_fd(), &new_name)?;
        let mut synced = sys::fsync(&dir_fd);
        if new_name != found.backing_name {
            let removed =
                synced.and_then(|()| sys::unlinkat(&*dir, &found.backing_name, AtFlags::empty()));
            if let Err(error) = removed {
                if form == names::Kind::Other {
                    // The segment stays and wins over the plain file, so that one goes again.
                    sys::unlinkat(&*dir, &new_name, AtFlags::empty())?;
                    return Err(error.into());
                }
                log::warn!("{}: {error}", found.backing_name.display());
            }
            // A segment that came back would win over what is written to the plain file from here on; a plain file would come to
            // light where the segment is renamed.
            synced = synced.and(sys::fsync(&dir_fd));
        }
        // From here on the name is the new file's, also where that may not be durable: open handles must follow it.
        if split {
            synced?;
            return Ok(Outcome::Swapped);
        }
        if let Content::Segment(open) = content {
            self.account(open.dirty_bytes(), 0);
            self.unmark_dirty(node);
        }
        *content = fresh;
        self.nodes.rebase(node, backing);
        node.instance.store(next_instance(), Ordering::SeqCst);
        *lock(&node.peeked) = None;
        self.stale.add(node.id);
        self.stale.add(at.dir.id);
        lock(&node.logged).clear();
        pin_ctime(node, shown)?;
        if synced.is_err() {
            lock(&node.new_in).add(dir);
        }
        synced?;
        Ok(Outcome::Swapped)
    }
}
