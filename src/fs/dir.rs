//! Listing directories.
//!
//! A listing is a snapshot taken when it is read from the start, so entries that are removed or added while it is read
//! neither hide nor repeat others.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::ffi::{OsStr, OsString};
use std::ops::Deref;
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;
use std::sync::Arc;

use rustix::fs::{Dir, FileType};

use super::Fs;
use super::attr::{Attr, Kind};
use super::backing::{Backing, stat_entry};
use super::errno::Result;
use super::handles::Fh;
use super::namespace::backing_name;
use super::node::{Node, NodeId};
use super::sync::{lock, read};
use crate::store::names;

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
    pub(super) form: names::Kind,
}

/// All entries as they were when the listing began.
pub(super) type Listing = Vec<DirEntry>;

/// The rest of a listing: the two dots first, if it is all of it.
#[derive(Debug, Clone)]
pub struct Entries {
    listing: Arc<Listing>,
    from: usize,
}

impl Deref for Entries {
    type Target = [DirEntry];

    fn deref(&self) -> &[DirEntry] {
        self.listing.get(self.from..).unwrap_or_default()
    }
}

impl Fs {
    /// All entries after `offset`, which is 0 or the offset of an entry; none at the end.
    ///
    /// # Errors
    /// What the backing file system answers.
    pub fn readdir(&self, fh: Fh, offset: u64) -> Result<Entries> {
        let handle = self.handles.dir(fh)?;
        let mut kept = lock(&handle.listing);
        let listing = match kept.as_ref().filter(|_| offset > 0) {
            Some(listing) => Arc::clone(listing),
            None => Arc::clone(kept.insert(Arc::new(self.list(&handle.node)?))),
        };
        Ok(Entries {
            listing,
            from: usize::try_from(offset).unwrap_or(usize::MAX),
        })
    }

    /// As [`Fs::lookup`] of an entry that was listed, in fewer system calls.
    ///
    /// # Errors
    /// As [`Fs::lookup`].
    pub fn lookup_listed(&self, parent: NodeId, entry: &DirEntry) -> Result<(NodeId, Attr)> {
        self.throttle();
        {
            let _names = read(&self.namespace);
            let dir = self.node(parent)?;
            let _entries = read(&dir.entries);
            let raw = backing_name(&entry.name, entry.form);
            let below = dir.backing()?;
            let hidden = || {
                let segment = names::segment_name(&entry.name);
                entry.form == names::Kind::Other
                    && entry.kind == Kind::File
                    && !matches!(stat_entry(below.as_fd(), &segment), Ok(None))
            };
            // Whatever has changed since is found out by looking it up.
            if let Ok((backing, stat)) = Backing::open(below.as_fd(), &raw, entry.form)
                && Kind::of(&stat) == entry.kind
                && !hidden()
            {
                let node = self.nodes.intern(backing, entry.kind)?;
                self.is_named(&node, &dir, &entry.name);
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
        let backing = dir.backing()?;
        let mut listing: Listing = Vec::new();
        for entry in Dir::read_from(backing.reopen_dir()?)? {
            let entry = entry?;
            let raw = OsStr::from_bytes(entry.file_name().to_bytes());
            if raw == names::PRIVATE_DIR && dir.id == NodeId::ROOT {
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
            listing.push(DirEntry {
                ino: entry.ino(),
                offset: 0,
                kind,
                name,
                form,
            });
        }
        // Whoever wants no more than to begin gets the dots.
        listing.sort_by_key(|entry| !entry.is_dot());
        remove_hidden(&mut listing);
        self.nodes.show_inos(&mut listing, dir, backing.key.dev);
        for (at, entry) in listing.iter_mut().enumerate() {
            entry.offset = at as u64 + 1;
        }
        Ok(listing)
    }
}

impl DirEntry {
    /// Whether it is `.` or `..`.
    #[must_use]
    pub fn is_dot(&self) -> bool {
        matches!(self.name.as_bytes(), b"." | b"..")
    }
}

/// Where both a segment and something else have a name, the segment wins.
fn remove_hidden(listing: &mut Listing) {
    let mut known: HashMap<&OsStr, usize> = HashMap::with_capacity(listing.len());
    let mut hidden = vec![false; listing.len()];
    for (at, entry) in listing.iter().enumerate() {
        let loser = match known.entry(&entry.name) {
            Entry::Vacant(free) => {
                free.insert(at);
                None
            }
            Entry::Occupied(_) if entry.form == names::Kind::Other => Some(at),
            Entry::Occupied(mut other) => Some(other.insert(at)),
        };
        if let Some(slot) = loser.and_then(|at| hidden.get_mut(at)) {
            *slot = true;
        }
    }
    let mut hidden = hidden.into_iter();
    listing.retain(|_| !hidden.next().unwrap_or(false));
}
