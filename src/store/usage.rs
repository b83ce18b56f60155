//! Which models and primers an archive needs, proven by looking through all of it; and removing those that it does not.

use std::collections::BTreeSet;
use std::fs::File;
use std::path::Path;
use std::sync::Arc;

use rustix::fs::{self, FileType, Mode, OFlags};

use super::archive::{Access, Archive};
use super::damaged;
use super::error::StoreError;
use super::library::Thing;
use super::names::{self, Kind};
use super::regular::open_regular;
use super::tree::{self, Next, Reach};
use crate::segment::{Segment, StartEntry};

/// Models and primers of which the archive has a copy and that none of its segments names, damaged originals included.
///
/// # Errors
/// I/O errors; `Unclear` if a segment is so damaged that nobody knows what it names.
pub fn unused(archive: &Archive) -> Result<Vec<Thing>, StoreError> {
    let needed = needed(archive)?;
    let stored = archive.library().stored()?;
    Ok(stored.into_iter().filter(|t| !needed.contains(t)).collect())
}

/// Removes the models and primers that [`unused`] finds, with both of their copies, and answers which those were. The writer's lock
/// keeps everybody from coming to need one meanwhile.
///
/// # Errors
/// `Busy` without the writer's lock; as for [`unused`].
pub fn prune(archive: &Archive) -> Result<Vec<Thing>, StoreError> {
    if archive.access() != Access::Write {
        return Err(StoreError::Busy(archive.root().to_path_buf()));
    }
    let unused = unused(archive)?;
    if !unused.is_empty() {
        settle(archive)?;
    }
    for thing in &unused {
        match *thing {
            Thing::Model(id) => archive.models().remove(id)?,
            Thing::Primer(id) => archive.library().primers().remove(id)?,
            // Every archive needs it; it is never among them.
            Thing::Format => {}
        }
    }
    Ok(unused)
}

/// Makes the names in all folders durable: a segment that was removed must not come back after a power loss that its model does not
/// come back from. Each folder by itself, because some may lie on other disks.
fn settle(archive: &Archive) -> Result<(), StoreError> {
    tree::walk(archive.root_fd(), Reach::All, &mut |folder| {
        fs::fsync(folder.dir)
            .map_err(|e| StoreError::io(archive.root().join(folder.path))(e.into()))?;
        Ok(Next::Folder)
    })
}

/// Every model and primer that a segment of the archive names.
fn needed(archive: &Archive) -> Result<BTreeSet<Thing>, StoreError> {
    let mut needed = BTreeSet::new();
    tree::walk(archive.root_fd(), Reach::All, &mut |folder| {
        for (name, stat) in folder.entries {
            let is_file = FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile;
            if is_file && names::logical_name(name, true).1 == Kind::Segment {
                let path = archive.root().join(folder.path).join(name);
                let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
                let file = fs::openat(folder.dir, name, flags, Mode::empty());
                let file = file.map_err(|e| StoreError::io(&path)(e.into()))?;
                names_of(file.into(), &path, &mut needed)?;
            }
        }
        Ok(Next::Folder)
    })?;
    for original in damaged::kept_in(archive)? {
        let file = open_regular(&original.path).map_err(StoreError::io(&original.path))?;
        names_of(file, &original.path, &mut needed)?;
    }
    Ok(needed)
}

/// Adds what a segment names: all of its table of models, of which some may be named by no block any more.
fn names_of(file: File, path: &Path, needed: &mut BTreeSet<Thing>) -> Result<(), StoreError> {
    let segment = Segment::open(Arc::new(file)).map_err(|e| match e {
        crate::segment::SegmentError::Io(e) => StoreError::io(path)(e),
        damage if damage.is_damage() => StoreError::Unclear(path.to_path_buf()),
        other => other.into(),
    })?;
    needed.extend(segment.models().iter().map(|id| Thing::Model(*id)));
    for start in segment.starts().entries() {
        if let StartEntry::Primer(id) = start {
            needed.insert(Thing::Primer(*id));
        }
    }
    Ok(())
}
