//! Names: finding, making and removing entries of directories.
//!
//! A logical name is first a segment's, then anything else's (`store::names`); the private directory has none. New files
//! are empty segments.

use std::ffi::{OsStr, OsString};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::ffi::OsStrExt;
use std::sync::Arc;

use rustix::fs::{self as sys, AtFlags, Dev, FileType, Mode, OFlags, Stat};
use rustix::io::Errno;

use super::Fs;
use super::acl;
use super::attr::{Attr, Caller, Kind};
use super::backing::{Backing, InodeKey, stat_entry};
use super::errno::{FsError, Result};
use super::files::Hold;
use super::node::{Node, NodeId};
use super::sync::{lock, read, write};
use crate::store::names;

const SETGID: u32 = 0o2000;
const S_IFMT: u32 = 0o170_000;

/// An entry as it lies in the backing directory.
pub(super) struct Found {
    pub(super) backing_name: OsString,
    pub(super) form: names::Kind,
    pub(super) stat: Stat,
}

impl Found {
    pub(super) fn kind(&self) -> Kind {
        Kind::of(&self.stat)
    }

    pub(super) fn is_segment(&self) -> bool {
        self.form == names::Kind::Segment
    }
}

impl Fs {
    /// The entry `name` of a directory; counts a lookup.
    ///
    /// # Errors
    /// `ENOENT`, `ENOTDIR`, `ENAMETOOLONG`.
    pub fn lookup(&self, parent: NodeId, name: &OsStr) -> Result<(NodeId, Attr)> {
        self.throttle();
        let _names = read(&self.namespace);
        let dir = self.node(parent)?;
        dir.require_dir()?;
        let _entries = read(&dir.entries);
        let found = match self.find(&dir, name)? {
            Some(found) => found,
            None if name.len() > names::NAME_MAX => return Err(FsError::NameTooLong),
            None => return Err(FsError::NotFound),
        };
        let node = self.node_of(&dir, name, &found)?;
        let attr = self
            .refresh(&node)
            .and_then(|()| self.attr_of(&node))
            .inspect_err(|_| self.nodes.forget(node.id, 1))?;
        Ok((node.id, attr))
    }

    /// Takes back `n` lookups of a node.
    pub fn forget(&self, id: NodeId, n: u64) {
        self.nodes.forget(id, n);
    }

    /// Makes a regular file (an empty segment), a named pipe, a socket or a device.
    ///
    /// # Errors
    /// `EEXIST`, `EINVAL` for another type, what the backing file system answers.
    pub fn mknod(
        &self,
        parent: NodeId,
        name: &OsStr,
        mode: u32,
        rdev: u64,
        caller: Caller,
    ) -> Result<(NodeId, Attr)> {
        let file_type = match FileType::from_raw_mode(mode) {
            // POSIX lets a mode without a type stand for a regular file.
            FileType::Unknown if mode & S_IFMT == 0 => FileType::RegularFile,
            known => known,
        };
        let private = Mode::from_raw_mode(0o600);
        match file_type {
            FileType::RegularFile => self.make(
                parent,
                name,
                names::Kind::Segment,
                mode,
                caller,
                |dir, name| {
                    let flags = OFlags::WRONLY
                        | OFlags::CREATE
                        | OFlags::EXCL
                        | OFlags::NOFOLLOW
                        | OFlags::CLOEXEC;
                    sys::openat(dir, name, flags, private).map(drop)
                },
            ),
            FileType::Fifo
            | FileType::Socket
            | FileType::CharacterDevice
            | FileType::BlockDevice => self.make(
                parent,
                name,
                names::Kind::Other,
                mode,
                caller,
                |dir, name| sys::mknodat(dir, name, file_type, private, rdev as Dev),
            ),
            _ => Err(FsError::Invalid),
        }
    }

    /// Makes a directory.
    ///
    /// # Errors
    /// `EEXIST`, what the backing file system answers.
    pub fn mkdir(
        &self,
        parent: NodeId,
        name: &OsStr,
        mode: u32,
        caller: Caller,
    ) -> Result<(NodeId, Attr)> {
        self.make(
            parent,
            name,
            names::Kind::Other,
            mode,
            caller,
            |dir, name| sys::mkdirat(dir, name, Mode::from_raw_mode(0o700)),
        )
    }

    /// Makes a symlink.
    ///
    /// # Errors
    /// `EEXIST`, what the backing file system answers.
    pub fn symlink(
        &self,
        parent: NodeId,
        name: &OsStr,
        target: &OsStr,
        caller: Caller,
    ) -> Result<(NodeId, Attr)> {
        self.make(parent, name, names::Kind::Other, 0, caller, |dir, name| {
            sys::symlinkat(target, dir, name)
        })
    }

    /// Gives a file another name.
    ///
    /// # Errors
    /// `EPERM` for a directory, `EEXIST`, `ENOENT` for a file without a name, what the backing file system answers.
    pub fn link(&self, id: NodeId, parent: NodeId, name: &OsStr) -> Result<(NodeId, Attr)> {
        let _names = self.changing()?;
        let (node, dir) = (self.node(id)?, self.node(parent)?);
        let _entries = write(&dir.entries);
        node.change_attributes(|backing| {
            let backing_name = self.free_name(&dir, name, backing.form)?;
            if node.kind == Kind::Dir {
                return Err(FsError::Backing(Errno::PERM));
            }
            Ok(sys::linkat(
                sys::CWD,
                backing.proc_path(),
                &*dir.backing()?,
                &backing_name,
                AtFlags::SYMLINK_FOLLOW,
            )?)
        })?;
        self.has_new_name(&node, dir.backing()?);
        let attr = self.attr_of(&node)?;
        self.nodes.find(node.key());
        Ok((node.id, attr))
    }

    /// Removes a name. The file stays usable where it is open.
    ///
    /// # Errors
    /// `ENOENT`, `EISDIR`, what the backing file system answers.
    pub fn unlink(&self, parent: NodeId, name: &OsStr) -> Result<()> {
        let _names = self.changing()?;
        let dir = self.node(parent)?;
        let _entries = write(&dir.entries);
        let found = self.find(&dir, name)?.ok_or(FsError::NotFound)?;
        if found.kind() == Kind::Dir {
            return Err(FsError::IsADirectory);
        }
        let _inode = self.hold_if_known(&found)?;
        let backing = dir.backing()?;
        if found.is_segment() {
            remove_twin(&backing, name)?;
        }
        Ok(sys::unlinkat(
            &*backing,
            &found.backing_name,
            AtFlags::empty(),
        )?)
    }

    /// Removes an empty directory.
    ///
    /// # Errors
    /// `ENOENT`, `ENOTDIR`, `ENOTEMPTY`, what the backing file system answers.
    pub fn rmdir(&self, parent: NodeId, name: &OsStr) -> Result<()> {
        let _names = self.changing()?;
        let dir = self.node(parent)?;
        let _entries = write(&dir.entries);
        let found = self.find(&dir, name)?.ok_or(FsError::NotFound)?;
        if found.kind() != Kind::Dir {
            return Err(FsError::NotADirectory);
        }
        sys::unlinkat(&*dir.backing()?, &found.backing_name, AtFlags::REMOVEDIR)?;
        if let Some(node) = self.nodes.peek(InodeKey::new(&found.stat, found.form)) {
            lock(&dir.made).remove(&node);
        }
        Ok(())
    }

    /// Target of a symlink.
    ///
    /// # Errors
    /// `EINVAL` for anything else.
    pub fn readlink(&self, id: NodeId) -> Result<Vec<u8>> {
        let node = self.node(id)?;
        if node.kind != Kind::Symlink {
            return Err(FsError::Invalid);
        }
        Ok(sys::readlinkat(&*node.backing()?, "", Vec::new())?.into_bytes())
    }

    fn make(
        &self,
        parent: NodeId,
        name: &OsStr,
        form: names::Kind,
        mode: u32,
        caller: Caller,
        call: impl FnOnce(BorrowedFd<'_>, &OsStr) -> rustix::io::Result<()>,
    ) -> Result<(NodeId, Attr)> {
        self.thin_out();
        let _names = self.changing()?;
        let dir = self.node(parent)?;
        let _entries = write(&dir.entries);
        let backing_name = self.free_name(&dir, name, form)?;
        call(dir.backing()?.as_fd(), &backing_name)?;
        let node = self.adopt(&dir, name, &backing_name, form, mode, caller)?;
        let attr = self
            .attr_of(&node)
            .inspect_err(|_| self.forget(node.id, 1))?;
        Ok((node.id, attr))
    }

    /// Backing name for a new entry, if the name is free and allowed.
    pub(super) fn free_name(
        &self,
        dir: &Node,
        name: &OsStr,
        form: names::Kind,
    ) -> Result<OsString> {
        dir.require_dir()?;
        if name.len() > names::NAME_MAX {
            return Err(FsError::NameTooLong);
        }
        match self.find(dir, name)? {
            Some(_) => Err(FsError::Exists),
            None => Ok(backing_name(name, form)),
        }
    }

    /// The entry that the logical `name` stands for.
    pub(super) fn find(&self, dir: &Node, name: &OsStr) -> Result<Option<Found>> {
        let raw = name.as_bytes();
        if raw.is_empty() || raw == b"." || raw == b".." || raw.contains(&b'/') || raw.contains(&0)
        {
            return Err(FsError::Invalid);
        }
        let backing = dir.backing()?;
        let is = |backing_name: OsString, form: names::Kind| -> Result<Option<Found>> {
            let Some(stat) = stat_entry(backing.as_fd(), &backing_name)? else {
                return Ok(None);
            };
            let regular = Kind::of(&stat) == Kind::File;
            let fits = names::logical_name(&backing_name, regular) == (name.to_os_string(), form);
            Ok(fits.then_some(Found {
                backing_name,
                form,
                stat,
            }))
        };
        if let Some(found) = is(names::segment_name(name), names::Kind::Segment)? {
            return Ok(Some(found));
        }
        let other = names::other_name(name);
        let as_it_is =
            other != name && !(dir.id == NodeId::ROOT && raw == names::PRIVATE_DIR.as_bytes());
        if let Some(found) = is(other, names::Kind::Other)? {
            return Ok(Some(found));
        }
        if as_it_is {
            is(name.to_os_string(), names::Kind::Other)
        } else {
            Ok(None)
        }
    }

    /// Notes by what name a node was looked up, which may not be durable.
    pub(super) fn is_named(&self, node: &Arc<Node>, dir: &Node, name: &OsStr) {
        node.set_name(dir.id, name);
        // A directory is always held open.
        if self.nodes.noted(dir.key()).is_some()
            && let Ok(dir) = dir.backing()
        {
            self.has_new_name(node, dir);
        }
    }

    /// Keeps the backing inode of an entry that is about to go, if it has a node: who knows that may still ask for its attributes.
    pub(super) fn hold_if_known(&self, found: &Found) -> Result<Option<Hold<'_>>> {
        let key = InodeKey::new(&found.stat, found.form);
        match self.nodes.peek(key).map(|node| self.hold(node.id)) {
            None | Some(Err(FsError::Stale)) => Ok(None),
            Some(held) => held.map(Some),
        }
    }

    /// The node of an entry that was found; counts a lookup.
    pub(super) fn node_of(&self, dir: &Node, name: &OsStr, found: &Found) -> Result<Arc<Node>> {
        let known = self.nodes.find(InodeKey::new(&found.stat, found.form));
        let node = match known {
            Some(node) => node,
            None => {
                let (backing, stat) =
                    Backing::open(dir.backing()?.as_fd(), &found.backing_name, found.form)?;
                let kind = Kind::of(&stat);
                if found.is_segment() && kind != Kind::File {
                    return Err(FsError::NotFound);
                }
                self.nodes.intern(backing, kind)?
            }
        };
        self.is_named(&node, dir, name);
        Ok(node)
    }
}

/// Backing name of a logical one.
pub(super) fn backing_name(name: &OsStr, form: names::Kind) -> OsString {
    match form {
        names::Kind::Segment => names::segment_name(name),
        names::Kind::Other => names::other_name(name),
    }
}

/// Removes the plain file that a swap to the segment `name` left behind when it was interrupted, durably: the segment, which
/// hides it, is about to go.
pub(super) fn remove_twin(dir: &Backing, name: &OsStr) -> Result<()> {
    let twin = names::other_name(name);
    match stat_entry(dir.as_fd(), &twin)? {
        Some(stat) if Kind::of(&stat) == Kind::File => {
            sys::unlinkat(dir, &twin, AtFlags::empty())?;
            dir.sync_dir()
        }
        _ => Ok(()),
    }
}

/// Gives an entry that was just made its owner and mode.
pub(super) fn take_over(
    dir: &Node,
    backing_name: &OsStr,
    form: names::Kind,
    mode: u32,
    caller: Caller,
) -> Result<(Backing, Kind)> {
    let parent = dir.backing()?;
    let (backing, stat) = Backing::open(parent.as_fd(), backing_name, form)?;
    let kind = Kind::of(&stat);
    let inherits = parent.stat()?.st_mode & SETGID != 0;
    let gid = if inherits { stat.st_gid } else { caller.gid };
    if (stat.st_uid, stat.st_gid) != (caller.uid, gid) {
        match backing.set_owner(Some(caller.uid), Some(gid)) {
            // A daemon without privileges can only make files of its own.
            Err(FsError::Backing(Errno::PERM)) if !rustix::process::geteuid().is_root() => {}
            done => done?,
        }
    }
    if kind != Kind::Symlink {
        let inherited = if inherits && kind == Kind::Dir {
            SETGID
        } else {
            0
        };
        let wanted = acl::mode_below(&parent, mode & 0o7777, caller.umask)? | inherited;
        if backing.stat()?.st_mode & 0o7777 != wanted {
            backing.set_mode(wanted)?;
        }
    }
    Ok((backing, kind))
}

/// Removes an entry that could not be completed.
pub(super) fn undo(dir: &Node, backing_name: &OsStr) {
    let removed = dir.backing().and_then(|dir| {
        let removed = sys::unlinkat(&*dir, backing_name, AtFlags::empty());
        Ok(removed.or_else(|_| sys::unlinkat(&*dir, backing_name, AtFlags::REMOVEDIR))?)
    });
    if let Err(error) = removed {
        log::warn!("{}: {error}", backing_name.display());
    }
}
