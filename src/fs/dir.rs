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
use super::attr::Kind;
use super::backing::{InodeKey, stat_entry};
use super::errno::Result;
use super::handles::Fh;
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
