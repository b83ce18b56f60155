//! Opening and closing files.

use std::ffi::OsStr;
use std::fs::File;
use std::sync::Arc;
use std::time::Instant;

use rustix::fs::{self as sys, Mode, OFlags};

use super::attr::{Attr, Caller, Kind, now};
use super::cache::next_instance;
use super::content::{Content, Plain, Segmented};
use super::errno::{FsError, Result};
use super::handles::{DirHandle, Fh, FileHandle, Handle};
use super::node::{Node, NodeId};
use super::second_look::Looks;
use super::stat::stamp;
use super::sync::{lock, read, write};
use super::{Fs, namespace};
use crate::segment::Storage;
use crate::store::{Access, names};
use crate::sync::Mutex;
use crate::sync::atomic::Ordering;

/// What the disk is to fetch of a file that is opened to be read, in bytes: who opens one reads most likely from its beginning,
/// and all of a small one.
pub(super) const OPEN_AHEAD: u64 = 128 << 10;

/// Keeps a node's content loaded while it lives.
pub(super) struct Hold<'a> {
    pub(super) fs: &'a Fs,
    pub(super) node: Arc<Node>,
    kept: bool,
}

impl Hold<'_> {
    /// Keeps the hold beyond this; [`Fs::unhold`] ends it.
    fn keep(mut self) -> Arc<Node> {
        self.kept = true;
        Arc::clone(&self.node)
    }
}

impl Drop for Hold<'_> {
    fn drop(&mut self) {
        if !self.kept {
            self.fs.unhold(&self.node);
        }
    }
}

impl Fs {
    /// Creates an empty file and opens it. Fails if the name is taken, whatever `flags` say.
    ///
    /// # Errors
    /// `EEXIST`, `ENAMETOOLONG`, `EROFS`, what the backing file system answers.
    pub fn create(
        &self,
        parent: NodeId,
        name: &OsStr,
        mode: u32,
        flags: i32,
        caller: Caller,
    ) -> Result<(NodeId, Attr, Fh)> {
        let flags = OFlags::from_bits_retain(flags.cast_unsigned());
        self.thin_out();
        let _names = self.changing()?;
        let dir = self.node(parent)?;
        let _entries = write(&dir.entries);
        let backing_name = self.free_name(&dir, name, names::Kind::Segment)?;
        let create =
            OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file = sys::openat(
            &*dir.backing()?,
            &backing_name,
            create,
            Mode::from_raw_mode(0o600),
        )?;
        let node = self.adopt(
            &dir,
            name,
            &backing_name,
            names::Kind::Segment,
            mode,
            caller,
        )?;
        // The file may not be readable or writable by its mode, so it is opened for good now.
        let hold = self.hold(node.id)?;
        let open = Segmented::open(Arc::new(file.into()), true, self.options.block_size);
        let attr = open
            .and_then(|open| {
                *write(&node.content) = Content::Segment(Box::new(open));
                self.attr_of(&node)
            })
            .inspect_err(|_| {
                self.forget(node.id, 1);
                namespace::undo(&dir, &backing_name);
            })?;
        let handle = FileHandle::new(hold.keep(), flags);
        let fh = self.handles.insert(Handle::File(Arc::new(handle)));
        Ok((node.id, attr, fh))
    }

    /// Opens a regular file; `O_TRUNC` empties it.
    ///
    /// # Errors
    /// `EIO` if it is a damaged segment, `EISDIR`, `EROFS`, what the backing file system answers.
    pub fn open(&self, id: NodeId, flags: i32) -> Result<Fh> {
        let flags = OFlags::from_bits_retain(flags.cast_unsigned());
        let writing = flags & OFlags::RWMODE != OFlags::RDONLY || flags.contains(OFlags::TRUNC);
        if writing {
            self.require_writable()?;
            self.thin_out();
        } else {
            self.throttle();
        }
        let hold = self.hold(id)?;
        match hold.node.kind {
            Kind::File => {}
            Kind::Dir => return Err(FsError::IsADirectory),
            Kind::Symlink => return Err(FsError::Backing(rustix::io::Errno::LOOP)),
            _ => return Err(FsError::Backing(rustix::io::Errno::NXIO)),
        }
        self.refresh(&hold.node)?;
        if writing {
            self.load_or_log(&hold.node, true)?;
        } else {
            self.load_unless_sound(&hold.node)?;
        }
        if flags.contains(OFlags::TRUNC) {
            self.truncate(&hold.node, 0)?;
        }
        let handle = FileHandle::new(hold.keep(), flags);
        Ok(self.handles.insert(Handle::File(Arc::new(handle))))
    }

    /// Whether somebody has the file open for writing.
    #[must_use]
    pub fn is_open_for_writing(&self, id: NodeId) -> bool {
        self.nodes
            .get(id)
            .is_ok_and(|node| node.writers.load(Ordering::SeqCst) > 0)
    }

    /// The backing file of an open plain file; none of a segment.
    ///
    /// # Errors
    /// The handle is not open; the file can not be opened any more.
    pub fn plain_file(&self, fh: Fh) -> Result<Option<Arc<File>>> {
        let node = Arc::clone(&self.handles.file(fh)?.node);
        if node.is_segment() {
            return Ok(None);
        }
        loop {
            self.load(&node, false)?;
            match &*read(&node.content) {
                Content::Plain(plain) => return Ok(Some(Arc::clone(&plain.file))),
                Content::Segment(_) => return Ok(None),
                // Somebody else just saw that it changed: an open that is not answered as the others are would be refused.
                Content::Closed => {}
            }
        }
    }

    /// The node that a handle has open.
    ///
    /// # Errors
    /// The handle is not open.
    pub fn node_of_handle(&self, fh: Fh) -> Result<NodeId> {
        Ok(self.handles.file(fh)?.node.id)
    }

    /// Called for every close of a descriptor: tells a failure of the background that nobody was told of.
    ///
    /// # Errors
    /// That failure.
    pub fn flush(&self, fh: Fh) -> Result<()> {
        self.handles.file(fh)?.node.take_failure()
    }

    /// Called for the last close of a handle. Unstored content is committed soon after the file's last handle is gone.
    ///
    /// # Errors
    /// The handle is not open.
    pub fn release(&self, fh: Fh) -> Result<()> {
        match self.handles.remove(fh)? {
            Handle::File(file) => self.unhold(&file.node),
            Handle::Dir(_) => return Err(FsError::BadHandle),
        }
        Ok(())
    }

    /// Makes the content and attributes of a file durable, and its name if that is new, with those of new directories above it.
    ///
    /// # Errors
    /// The commit failed, now or in the background; the content stays in memory and is tried again.
    pub fn fsync(&self, fh: Fh, datasync: bool) -> Result<()> {
        let node = Arc::clone(&self.handles.file(fh)?.node);
        if self.archive.access() == Access::Read {
            return Ok(());
        }
        node.take_failure()?;
        self.load(&node, false)?;
        // A new file got its owner and mode after it was made, and without them its user could not read it.
        let is_new = !lock(&node.new_in).is_empty();
        self.commit(&node, !datasync || is_new)?;
        self.sync_names(&node)
    }

    /// Opens a directory for listing.
    ///
    /// # Errors
    /// `ENOTDIR`.
    pub fn opendir(&self, id: NodeId) -> Result<Fh> {
        let node = self.node(id)?;
        node.require_dir()?;
        let handle = DirHandle {
            node,
            listing: Mutex::new(None),
        };
        Ok(self.handles.insert(Handle::Dir(Arc::new(handle))))
    }

    /// Closes a directory.
    ///
    /// # Errors
    /// The handle is not open.
    pub fn releasedir(&self, fh: Fh) -> Result<()> {
        self.handles.dir(fh)?;
        self.handles.remove(fh).map(drop)
    }

    /// Makes the names in a directory durable, and its own as [`Fs::fsync`] does; directories that were just made in it with their
    /// owners and modes.
    ///
    /// # Errors
    /// What the backing file system answers.
    pub fn fsyncdir(&self, fh: Fh) -> Result<()> {
        let node = Arc::clone(&self.handles.dir(fh)?.node);
        self.sync_made(&node)?;
        self.sync_entries(&*node.backing()?)?;
        self.sync_names(&node)
    }

    /// Keeps the node, its backing inode and its content until the hold is dropped.
    pub(super) fn hold(&self, id: NodeId) -> Result<Hold<'_>> {
        let hold = Hold {
            fs: self,
            node: self.nodes.hold(id)?,
            kept: false,
        };
        self.nodes.pin(&hold.node)?;
        Ok(hold)
    }

    pub(super) fn unhold(&self, node: &Arc<Node>) {
        if !self.nodes.unhold(node) {
            return;
        }
        if let Content::Segment(open) = &mut *write(&node.content)
            && let Some(due) = &mut open.due
        {
            *due = (*due).min(Instant::now() + self.options.commit_closed_after);
        }
        self.close_if_unused(node);
    }

    /// Closes the files below a node that nobody has open and that has nothing to store.
    pub(super) fn close_if_unused(&self, node: &Arc<Node>) {
        {
            let mut content = write(&node.content);
            if node.is_held() || node.dirty.load(Ordering::SeqCst) {
                return;
            }
            if let Content::Segment(open) = &*content
                && (open.changed.is_some() || !open.is_clean())
            {
                // The next opening may append where this one left unused bytes.
                node.instance.store(next_instance(), Ordering::SeqCst);
            }
            *content = Content::Closed;
        }
        self.nodes.reap(node);
    }

    fn load_or_log(&self, node: &Arc<Node>, writing: bool) -> Result<()> {
        self.load(node, writing).inspect_err(|error| {
            if error.is_damage() {
                node.log_damage(None, error);
            }
        })
    }

    /// Opens what is below a regular file's node for reading, or leaves that to the first read if it went well before and the
    /// file is still the same: most of what is opened again is in the kernel's cache.
    fn load_unless_sound(&self, node: &Arc<Node>) -> Result<()> {
        let now = stamp(&node.backing()?.stat()?);
        let sound = *lock(&node.sound) == Some(now);
        // Others may lose the right to open it meanwhile.
        if sound && rustix::process::geteuid().is_root() {
            return Ok(());
        }
        self.load_or_log(node, false)?;
        if !sound {
            *lock(&node.sound) = Some(now);
            self.expect_neighbours(node);
        }
        Ok(())
    }

    /// Opens what is below a regular file's node, for writing if `writing`.
    pub(super) fn load(&self, node: &Arc<Node>, writing: bool) -> Result<()> {
        let ready = |content: &Content| match content {
            Content::Closed => false,
            Content::Plain(plain) => plain.writable || !writing,
            Content::Segment(open) => open.writable || !writing,
        };
        if ready(&read(&node.content)) {
            return Ok(());
        }
        let mut content = write(&node.content);
        if ready(&content) {
            return Ok(());
        }
        let backing = node.backing()?;
        let file = Arc::new(backing.reopen(if writing {
            OFlags::RDWR
        } else {
            OFlags::RDONLY
        })?);
        if !writing {
            Storage::will_need(&*file, 0, OPEN_AHEAD);
        }
        *content = if backing.is_segment() {
            let mut open = self.open_segment(node, &file, writing)?;
            keep_starts(node, &mut open);
            Content::Segment(Box::new(open))
        } else {
            Content::Plain(Plain {
                file,
                writable: writing,
            })
        };
        Ok(())
    }

    fn open_segment(&self, node: &Node, file: &Arc<File>, writing: bool) -> Result<Segmented> {
        let mut looks = Looks::default();
        loop {
            match Segmented::open(Arc::clone(file), writing, self.options.block_size) {
                Err(error) if self.look_again(node, &error, &mut looks)? => {}
                done => return done,
            }
        }
    }

    /// Of an archive that another process may write to: drops what was read of a file that changed meanwhile.
    pub(super) fn refresh(&self, node: &Arc<Node>) -> Result<()> {
        if self.archive.access() == Access::Write || node.kind != Kind::File {
            return Ok(());
        }
        let stamp = stamp(&node.backing()?.stat()?);
        let mut seen = lock(&node.seen);
        if seen.replace(stamp).is_some_and(|before| before != stamp) {
            *write(&node.content) = Content::Closed;
            node.instance.store(next_instance(), Ordering::SeqCst);
        }
        Ok(())
    }

    /// Completes an entry that was just made: owner, mode, node. Removes it again if that fails.
    pub(super) fn adopt(
        &self,
        dir: &Arc<Node>,
        name: &OsStr,
        backing_name: &OsStr,
        form: names::Kind,
        mode: u32,
        caller: Caller,
    ) -> Result<Arc<Node>> {
        let below = dir.backing()?;
        namespace::take_over(dir, backing_name, form, mode, caller)
            .and_then(|(backing, kind)| self.nodes.intern(backing, kind))
            .inspect(|node| {
                node.set_name(dir.id, name);
                lock(&node.new_in).add(below);
                if node.kind == Kind::Dir {
                    lock(&dir.made).add(node);
                }
            })
            .inspect_err(|_| namespace::undo(dir, backing_name))
    }

    /// Notes that the content changed just now, under its exclusive lock.
    pub(super) fn touched(&self, node: &Arc<Node>, open: &mut Segmented, dirty_before: u64) {
        open.touch(now(), self.options.commit_after);
        node.version.fetch_add(1, Ordering::SeqCst);
        self.account(dirty_before, open.dirty_bytes());
        self.mark_dirty(node);
    }
}

/// Start states that were made for an earlier opening of the same file serve this one, too.
fn keep_starts(node: &Node, open: &mut Segmented) {
    if open.segment.starts().is_empty() {
        return;
    }
    let instance = node.instance.load(Ordering::SeqCst);
    let mut kept = lock(&node.starts);
    if let Some((at, earlier)) = &*kept
        && *at == instance
    {
        open.segment.share_starts(earlier);
    }
    *kept = Some((instance, Arc::clone(open.segment.starts())));
}
