//! One file in the place of another under all names that it has in an archive, as one step for whoever writes next.
//!
//! The intent is durable before the first name changes: `damaged/N.vortex` is the file that is replaced and `damaged/N.repaired`
//! the one that replaces it. Each name is changed atomically; a crash between two of them leaves the intent, and the next writer
//! goes on from it before anything can be written under either.

use std::ffi::{OsStr, OsString};
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rustix::fs::{self, AtFlags, Dir, FileType, Mode, OFlags, Stat};
use rustix::io::Errno;

use super::error::StoreError;
use super::names::{PRIVATE_DIR, SEGMENT_SUFFIX};
use super::tree::{self, FileId, Folder, Next, Reach};

/// Where damaged originals and intents are kept, below the private directory.
pub(super) const KEPT_DIR: &str = "damaged";
const TEMP_DIR: &str = "tmp";
const REPAIRED: &str = ".repaired";
const DIRECTORY: OFlags = OFlags::RDONLY
    .union(OFlags::DIRECTORY)
    .union(OFlags::NOFOLLOW)
    .union(OFlags::CLOEXEC);

/// Names of `file` in the archive at `root`, below it and sorted, of which no more than `most` are looked for. Those in its private
/// directory and in archives below it are not its to change, and those that this process may not see are not found.
///
/// # Errors
/// I/O errors.
pub(super) fn names_of(
    root: BorrowedFd<'_>,
    file: FileId,
    most: usize,
) -> Result<Vec<PathBuf>, StoreError> {
    let mut found = Vec::new();
    tree::walk(root, Reach::Own, &mut |folder| {
        found.extend(names_in(folder, file).map(|name| folder.path.join(name)));
        Ok(match found.len() >= most {
            true => Next::End,
            false => Next::Folder,
        })
    })?;
    found.truncate(most);
    found.sort();
    Ok(found)
}

fn names_in<'a>(folder: &'a Folder<'_>, file: FileId) -> impl Iterator<Item = &'a OsStr> {
    let is_it = move |stat: &Stat| {
        FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile && FileId::of(stat) == file
    };
    let all = folder.entries.iter();
    all.filter(move |(_, stat)| is_it(stat))
        .map(|(name, _)| name.as_os_str())
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
    let file = FileId::of(&original);
    // One more is the original's own.
    let most = usize::try_from(original.st_nlink.saturating_sub(1)).unwrap_or(usize::MAX);
    let mut names = Vec::new();
    tree::walk(root, Reach::Own, &mut |folder| {
        let before = names.len();
        for name in names_in(folder, file) {
            let path = folder.path.join(name);
            replace(kept, &intent, temp_dir.as_fd(), folder.dir, name).map_err(|e| {
                StoreError::UnfinishedRepair {
                    path: path.clone(),
                    source: e.into(),
                }
            })?;
            names.push(path);
        }
        if names.len() > before {
            fs::fsync(folder.dir).map_err(|e| StoreError::io(folder.path)(e.into()))?;
        }
        Ok(match names.len() >= most {
            true => Next::End,
            false => Next::Folder,
        })
    })?;
    names.sort();
    fs::unlinkat(kept, &intent, AtFlags::empty()).map_err(in_private(intent.as_os_str()))?;
    fs::fsync(kept).map_err(in_private(""))?;
    Ok(names)
}

/// Gives one name to the file that waits as `intent`, in one step.
fn replace(
    kept: BorrowedFd<'_>,
    intent: &OsStr,
    temp_dir: BorrowedFd<'_>,
    folder: BorrowedFd<'_>,
    name: &OsStr,
) -> Result<(), Errno> {
    let mut temp = intent.to_os_string();
    temp.push(".relink");
    fs::linkat(kept, intent, temp_dir, &temp, AtFlags::empty())?;
    fs::renameat(temp_dir, &temp, folder, name).inspect_err(|_| {
        let _ = fs::unlinkat(temp_dir, &temp, AtFlags::empty());
    })
}

fn in_private(name: impl AsRef<OsStr>) -> impl Fn(Errno) -> StoreError {
    let path = Path::new(PRIVATE_DIR).join(KEPT_DIR).join(name.as_ref());
    move |e| StoreError::io(&path)(io::Error::from(e))
}
