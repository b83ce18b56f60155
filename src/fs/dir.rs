//! Listing directories.
//!
//! A listing is a snapshot taken when it is read from the start, so entries that are removed or added while it is read
//! neither hide nor repeat others.

use std::collections::HashMap;
use std::ffi::{OsStr, OsString};
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;

use rustix::fs::{Dir, FileType};

use super::Fs;
use super::attr::{Attr, Kind};
use super::backing::{Backing, InodeKey, stat_entry};
use super::errno::Result;
use super::handles::Fh;
use super::namespace::backing_name;
use super::nodes::{Node, NodeId};
use super::sync::{lock, read};
use crate::store::names;

/// Entries that one call gives at most.
const MAX_ENTRIES: usize = 1024;

/// One entry of a directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DirEntry {
    /// Inode number.
    pub ino: u64,
    /// Where to go on after this entry.
    pub offset: u64,
    /// What it is.
    pub kind: Kind,
    /// Logical name.
    pub name: OsString,
    /// How it is kept.
    form: names::Kind,
}

/// All entries as they were when the listing began.
pub(super) type Listing = Vec<DirEntry>;

impl Fs {
    /// Some entries after `offset`, which is 0 or the offset of an entry; none at the end.
    ///
    /// # Errors
    /// What the backing file system answers.
    pub fn readdir(&self, fh: Fh, offset: u64) -> Result<Vec<DirEntry>> {
        let handle = self.handles.dir(fh)?;
        let mut listing = lock(&handle.listing);
        if offset == 0 || listing.is_none() {
            *listing = Some(self.list(&handle.node)?);
        }
        let from = usize::try_from(offset).unwrap_or(usize::MAX);
        let rest = listing
            .as_deref()
            .and_then(|all| all.get(from..))
            .unwrap_or_default();
        Ok(rest.get(..MAX_ENTRIES).unwrap_or(rest).to_vec())
    }

    /// As [`Fs::lookup`] of an entry that was listed, in fewer system calls.
    ///
    /// # Errors
    /// As [`Fs::lookup`].
    pub fn lookup_listed(&self, parent: NodeId, entry: &DirEntry) -> Result<(NodeId, Attr)> {
        self.nodes.throttle();
        {
            let _names = read(&self.namespace);
            let dir = self.node(parent)?;
            let _entries = read(&dir.entries);
            let raw = backing_name(&entry.name, entry.form);
            // Whatever has changed since is found out by looking it up.
            if let Ok((backing, stat)) = Backing::open(dir.backing().as_fd(), &raw, entry.form)
                && Kind::of(&stat) == entry.kind
            {
                let node = self.nodes.intern(backing, entry.kind);
                node.set_name(dir.id, &entry.name);
                let attr = self
                    .refresh(&node)
                    .and_then(|()| self.attr_by(&node, Some(stat)))
                    .inspect_err(|_| self.nodes.forget(node.id, 1))?;
                return Ok((node.id, attr));
            }
        }
        self.lookup(parent, &entry.name)
    }

    fn list(&self, dir: &Node) -> Result<Listing> {
        let _names = read(&self.namespace);
        let _entries = read(&dir.entries);
        let backing = dir.backing();
        let mut listing: Listing = Vec::new();
        // Where a name is in the listing, and whether it is a segment there.
        let mut known: HashMap<OsString, (usize, bool)> = HashMap::new();
        for entry in Dir::read_from(backing.reopen_dir()?)? {
            let entry = entry?;
            let raw = OsStr::from_bytes(entry.file_name().to_bytes());
            if raw == names::PRIVATE_DIR && dir.id == NodeId::ROOT {
                continue;
            }
            if raw == "." || raw == ".." {
                let ino = self.dot(dir, raw, entry.ino());
                listing.push(DirEntry {
                    ino,
                    offset: 0,
                    kind: Kind::Dir,
                    name: raw.to_os_string(),
                    form: names::Kind::Other,
                });
                continue;
            }
            let mut file_type = entry.file_type();
            if file_type == FileType::Unknown {
                let Some(stat) = stat_entry(backing.as_fd(), raw)? else {
                    continue;
                };
                file_type = FileType::from_raw_mode(stat.st_mode);
            }
            let kind = Kind::from_file_type(file_type);
            let (name, form) = names::logical_name(raw, kind == Kind::File);
            let segment = form == names::Kind::Segment;
            let key = InodeKey {
                dev: backing.key.dev,
                ino: entry.ino(),
                segment,
            };
            let ino = self.nodes.shown_ino(key);
            let shown = DirEntry {
                ino,
                offset: 0,
                kind,
                name: name.clone(),
                form,
            };
            match known.get_mut(&name) {
                None => {
                    known.insert(name, (listing.len(), segment));
                    listing.push(shown);
                }
                // Both a segment and something else have this name: the segment wins.
                Some((at, is_segment)) if segment && !*is_segment => {
                    *is_segment = true;
                    if let Some(slot) = listing.get_mut(*at) {
                        *slot = shown;
                    }
                }
                Some(_) => {}
            }
        }
        for (at, entry) in listing.iter_mut().enumerate() {
            entry.offset = at as u64 + 1;
        }
        Ok(listing)
    }

    fn dot(&self, dir: &Node, name: &OsStr, backing_ino: u64) -> u64 {
        if name == "." || dir.id == NodeId::ROOT {
            return dir.ino;
        }
        let key = InodeKey {
            dev: dir.backing().key.dev,
            ino: backing_ino,
            segment: false,
        };
        self.nodes.shown_ino(key)
    }
}
