//! All directories of an archive, one after the other, however deep they lie.
//!
//! A walk goes down and up by one name at a time relative to an open directory, so neither the stack nor the number of descriptors nor
//! the length of a path grows with the depth. Symlinks are not followed.

use std::ffi::{OsStr, OsString};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rustix::fs::{self, AtFlags, Dir, FileType, Mode, OFlags, Stat};
use rustix::io::Errno;

use super::error::StoreError;
use super::format;
use super::names::PRIVATE_DIR;

const DIRECTORY: OFlags = OFlags::RDONLY
    .union(OFlags::DIRECTORY)
    .union(OFlags::NOFOLLOW)
    .union(OFlags::CLOEXEC);

/// A file, whatever its names.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct FileId(u64, u64);

impl FileId {
    pub(super) fn of(stat: &Stat) -> FileId {
        FileId(stat.st_dev, stat.st_ino)
    }
}

/// What a walk looks into, and what it makes of directories that this process may not read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Reach {
    /// What belongs to this archive, as far as this process may see it: not the archives below it.
    Own,
    /// Every directory but the archive's private one; one that may not be read is an error.
    All,
}

/// A directory that a walk came to.
pub(super) struct Folder<'a> {
    pub(super) dir: BorrowedFd<'a>,
    /// Below the archive's directory; empty for that itself.
    pub(super) path: &'a Path,
    /// What is in it that is no directory.
    pub(super) entries: &'a [(OsString, Stat)],
}

/// Whether a walk goes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Next {
    Folder,
    End,
}

/// Calls `visit` for the directory `root` and every one below it.
///
/// # Errors
/// I/O errors, those of `visit`, and a directory that is moved while the walk is below it.
pub(super) fn walk(
    root: BorrowedFd<'_>,
    reach: Reach,
    visit: &mut dyn FnMut(&Folder<'_>) -> Result<Next, StoreError>,
) -> Result<(), StoreError> {
    let fail = |path: &Path, e: Errno| StoreError::io(shown(path))(e.into());
    let mut path = PathBuf::new();
    let mut here = fs::openat(root, ".", DIRECTORY, Mode::empty()).map_err(|e| fail(&path, e))?;
    // The directories above, and what is left of theirs.
    let mut above: Vec<(FileId, Vec<OsString>)> = Vec::new();
    let mut inner = match enter(&here, &path, reach, visit)? {
        Some(inner) => inner,
        None => return Ok(()),
    };
    loop {
        let Some(name) = inner.pop() else {
            let Some((id, left)) = above.pop() else {
                return Ok(());
            };
            here = up(&here, id).map_err(|e| StoreError::io(shown(&path))(e))?;
            path.pop();
            inner = left;
            continue;
        };
        if name == PRIVATE_DIR && (reach == Reach::Own || above.is_empty()) {
            continue;
        }
        let below = match fs::openat(&here, &name, DIRECTORY, Mode::empty()) {
            Ok(below) => below,
            Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => continue,
            Err(Errno::ACCESS) if reach == Reach::Own => continue,
            Err(e) => return Err(fail(&path.join(name), e)),
        };
        if reach == Reach::Own && is_other_archive(below.as_fd()) {
            continue;
        }
        let id = fs::fstat(&here).map_err(|e| fail(&path, e))?;
        path.push(name);
        above.push((FileId::of(&id), std::mem::take(&mut inner)));
        here = below;
        inner = match enter(&here, &path, reach, visit)? {
            Some(inner) => inner,
            None => return Ok(()),
        };
    }
}

/// Shows a directory to `visit`; answers the names of those in it, or none where the walk ends.
fn enter(
    here: &OwnedFd,
    path: &Path,
    reach: Reach,
    visit: &mut dyn FnMut(&Folder<'_>) -> Result<Next, StoreError>,
) -> Result<Option<Vec<OsString>>, StoreError> {
    let fail = |path: &Path, e: Errno| StoreError::io(shown(path))(e.into());
    let (mut inner, mut entries) = (Vec::new(), Vec::new());
    for entry in Dir::read_from(here).map_err(|e| fail(path, e))? {
        let entry = entry.map_err(|e| fail(path, e))?;
        let name = OsStr::from_bytes(entry.file_name().to_bytes());
        if name == "." || name == ".." {
            continue;
        }
        match fs::statat(here, name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) if FileType::from_raw_mode(stat.st_mode) == FileType::Directory => {
                inner.push(name.to_os_string());
            }
            Ok(stat) => entries.push((name.to_os_string(), stat)),
            Err(Errno::NOENT) => {}
            Err(Errno::ACCESS) if reach == Reach::Own => {}
            Err(e) => return Err(fail(&path.join(name), e)),
        }
    }
    let folder = Folder {
        dir: here.as_fd(),
        path,
        entries: &entries,
    };
    Ok((visit(&folder)? == Next::Folder).then_some(inner))
}

/// The directory above, which must be the one that the walk came from.
fn up(here: &OwnedFd, id: FileId) -> io::Result<OwnedFd> {
    let up = fs::openat(here, "..", DIRECTORY, Mode::empty())?;
    match FileId::of(&fs::fstat(&up)?) == id {
        true => Ok(up),
        false => Err(io::Error::other(
            "was moved while the archive was looked through; try again",
        )),
    }
}

fn is_other_archive(folder: BorrowedFd<'_>) -> bool {
    fs::openat(folder, PRIVATE_DIR, DIRECTORY, Mode::empty())
        .is_ok_and(|private| format::is_private_dir(private.as_fd()))
}

fn shown(path: &Path) -> &Path {
    match path.as_os_str().is_empty() {
        true => Path::new("."),
        false => path,
    }
}
