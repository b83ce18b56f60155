//! One file in the place of another under all names that it has in an archive, as one step for whoever writes next.
//!
//! The intent is durable before the first name changes: `damaged/N.vortex` is the file that is replaced and `damaged/N.repaired`
//! the one that replaces it. Each name is changed atomically; a crash between two of them leaves the intent, and the next writer
//! goes on from it before anything can be written under either.

use std::collections::BTreeSet;
use std::ffi::{OsStr, OsString};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fs::{self, AtFlags, Dir, FileType, Mode, OFlags, Stat};
use rustix::io::Errno;

use super::error::StoreError;
use super::format;
use super::names::{PRIVATE_DIR, SEGMENT_SUFFIX};

/// Where damaged originals and intents are kept, below the private directory.
pub(super) const KEPT_DIR: &str = "damaged";
const TEMP_DIR: &str = "tmp";
const REPAIRED: &str = ".repaired";
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

/// A name that a file has.
#[derive(Debug)]
pub(super) struct Name {
    folder: Arc<OwnedFd>,
    name: OsString,
    /// Below the archive's directory.
    pub(super) path: PathBuf,
}

/// Names of `file` in the archive at `root`, of which no more than `most` are looked for. Those in its private directory and in
/// archives below it are not its to change, and those that this process may not see are not found.
///
/// # Errors
/// I/O errors.
pub(super) fn names_of(
    root: BorrowedFd<'_>,
    file: FileId,
    most: usize,
) -> Result<Vec<Name>, StoreError> {
    let mut found = Vec::new();
    let top = fs::openat(root, ".", DIRECTORY, Mode::empty());
    let top = top.map_err(|e| StoreError::io(".")(e.into()))?;
    look(Arc::new(top), Path::new(""), file, most, &mut found)?;
    found.sort_by(|a, b| a.path.cmp(&b.path));
    Ok(found)
}

fn look(
    folder: Arc<OwnedFd>,
    at: &Path,
    file: FileId,
    most: usize,
    found: &mut Vec<Name>,
) -> Result<(), StoreError> {
    let fail = |path: &Path, e: Errno| StoreError::io(path)(e.into());
    for entry in Dir::read_from(&*folder).map_err(|e| fail(at, e))? {
        let entry = entry.map_err(|e| fail(at, e))?;
        let name = OsStr::from_bytes(entry.file_name().to_bytes());
        let path = at.join(name);
        if found.len() >= most {
            return Ok(());
        }
        if name == "." || name == ".." || name == PRIVATE_DIR {
            continue;
        }
        let stat = match fs::statat(&*folder, name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => stat,
            Err(Errno::NOENT | Errno::ACCESS) => continue,
            Err(e) => return Err(fail(&path, e)),
        };
        match FileType::from_raw_mode(stat.st_mode) {
            FileType::RegularFile if FileId::of(&stat) == file => found.push(Name {
                folder: Arc::clone(&folder),
                name: name.to_os_string(),
                path,
            }),
            FileType::Directory => match fs::openat(&*folder, name, DIRECTORY, Mode::empty()) {
                Ok(inner) if is_other_archive(inner.as_fd()) => {}
                Ok(inner) => look(Arc::new(inner), &path, file, most, found)?,
                Err(Errno::NOENT | Errno::ACCESS | Errno::NOTDIR | Errno::LOOP) => {}
                Err(e) => return Err(fail(&path, e)),
            },
            _ => {}
        }
    }
    Ok(())
}

fn is_other_archive(folder: BorrowedFd<'_>) -> bool {
    fs::openat(folder, PRIVATE_DIR, DIRECTORY, Mode::empty())
        .is_ok_and(|private| format::is_private_dir(private.as_fd()))
}

/// The name under which the file that replaces original `number` waits.
pub(super) fn intent_name(number: u64) -> OsString {
    format!("{number}{REPAIRED}").into()
}

/// The number of the original that is replaced by the file of this name.
pub(super) fn intent_number(name: &OsStr) -> Option<u64> {
    let number = name.to_str()?.strip_suffix(REPAIRED)?.parse().ok()?;
    (intent_name(number) == name).then_some(number)
}

/// Carries out what repairs meant to do when they were stopped. Nobody but the writer may call it.
///
/// # Errors
/// I/O errors, with the name that could not be changed. What is left to do then stays so for the next call.
pub(super) fn finish_all(root: BorrowedFd<'_>, private: BorrowedFd<'_>) -> Result<(), StoreError> {
    let kept = match fs::openat(private, KEPT_DIR, DIRECTORY, Mode::empty()) {
        Ok(kept) => kept,
        Err(Errno::NOENT) => return Ok(()),
        Err(e) => return Err(in_private("")(e)),
    };
    let mut numbers = Vec::new();
    for entry in Dir::read_from(&kept).map_err(in_private(""))? {
        let entry = entry.map_err(in_private(""))?;
        numbers.extend(intent_number(OsStr::from_bytes(
            entry.file_name().to_bytes(),
        )));
    }
    numbers
        .into_iter()
        .try_for_each(|number| finish(root, private, kept.as_fd(), number).map(drop))
}

/// Gives every name of original `number` to the file that waits to replace it; answers the names.
///
/// # Errors
/// As for [`finish_all`].
pub(super) fn finish(
    root: BorrowedFd<'_>,
    private: BorrowedFd<'_>,
    kept: BorrowedFd<'_>,
    number: u64,
) -> Result<Vec<PathBuf>, StoreError> {
    let (original, intent) = (format!("{number}{SEGMENT_SUFFIX}"), intent_name(number));
    let original = match fs::statat(kept, &original, AtFlags::SYMLINK_NOFOLLOW) {
        Ok(stat) => stat,
        Err(Errno::NOENT) => {
            log::warn!(
                "{PRIVATE_DIR}/{KEPT_DIR}/{}: what it replaces is gone; remove it if nothing is missing",
                intent.display()
            );
            return Ok(Vec::new());
        }
        Err(e) => return Err(in_private(&original)(e)),
    };
    let temp_dir = fs::openat(private, TEMP_DIR, DIRECTORY, Mode::empty());
    let temp_dir = temp_dir.map_err(|e| StoreError::io(PRIVATE_DIR)(e.into()))?;
    let names = names_of(root, FileId::of(&original), usize::MAX)?;
    let mut folders = BTreeSet::new();
    for (at, name) in names.iter().enumerate() {
        let fail = |e: Errno| StoreError::UnfinishedRepair {
            path: name.path.clone(),
            source: e.into(),
        };
        let temp = format!("{number}-{at}.relink");
        fs::linkat(kept, &intent, &temp_dir, &temp, AtFlags::empty()).map_err(fail)?;
        if let Err(e) = fs::renameat(&temp_dir, &temp, &*name.folder, &name.name) {
            let _ = fs::unlinkat(&temp_dir, &temp, AtFlags::empty());
            return Err(fail(e));
        }
        folders.insert(name.path.parent().unwrap_or(Path::new("")).to_path_buf());
    }
    for name in &names {
        if folders.remove(name.path.parent().unwrap_or(Path::new(""))) {
            fs::fsync(&*name.folder).map_err(|e| StoreError::io(&name.path)(e.into()))?;
        }
    }
    fs::unlinkat(kept, &intent, AtFlags::empty()).map_err(in_private(intent.as_os_str()))?;
    fs::fsync(kept).map_err(in_private(""))?;
    Ok(names.into_iter().map(|name| name.path).collect())
}

fn in_private(name: impl AsRef<OsStr>) -> impl Fn(Errno) -> StoreError {
    let path = Path::new(PRIVATE_DIR).join(KEPT_DIR).join(name.as_ref());
    move |e| StoreError::io(&path)(io::Error::from(e))
}
