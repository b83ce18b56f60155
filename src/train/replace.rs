//! Files that are replaced in one step, or not at all.

use super::TrainError;
use std::fs::Permissions;
use std::io::{self, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use tempfile::NamedTempFile;

/// Puts `bytes` at `path`, durably: whoever looks finds what was there before or all of them. A failure leaves nothing behind.
///
/// # Errors
/// [`TrainError::Io`] that names `path`.
pub(super) fn replace(path: &Path, bytes: &[u8]) -> Result<(), TrainError> {
    let attempt = || -> io::Result<()> {
        let mut file = NamedTempFile::new_in(directory(path))?;
        file.write_all(bytes)?;
        file.as_file()
            .set_permissions(Permissions::from_mode(0o644))?;
        file.as_file().sync_all()?;
        file.persist(path).map_err(|e| e.error)?;
        std::fs::File::open(directory(path))?.sync_all()
    };
    attempt().map_err(TrainError::io(path))
}

/// Finds out whether a file can be put at `path`, before hours of work are spent on it.
///
/// # Errors
/// As [`replace`], also if a directory has that name.
pub(super) fn check(path: &Path) -> Result<(), TrainError> {
    if path.is_dir() {
        return Err(TrainError::io(path)(io::ErrorKind::IsADirectory.into()));
    }
    NamedTempFile::new_in(directory(path))
        .map(drop)
        .map_err(TrainError::io(path))
}

fn directory(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if parent != Path::new("") => parent,
        _ => Path::new("."),
    }
}
