//! Temporary files: written aside, then renamed into place or gone.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use rustix::fs::{self, AtFlags, Mode, OFlags, RenameFlags};

/// A file in a directory on the same file system as its destination. Dropping it removes it.
#[derive(Debug)]
pub struct TempFile {
    dir: OwnedFd,
    name: OsString,
    file: Arc<File>,
    armed: bool,
}

impl TempFile {
    /// Creates a file, readable and writable by its owner alone, under a fresh name that begins with `prefix`.
    ///
    /// # Errors
    /// Whatever the system answers.
    pub fn create_in(dir: BorrowedFd<'_>, prefix: &str) -> io::Result<Self> {
        static COUNTER: AtomicU64 = AtomicU64::new(0);
        let dir = dir.try_clone_to_owned()?;
        loop {
            let n = COUNTER.fetch_add(1, Ordering::Relaxed);
            let name = OsString::from(format!("{prefix}{}-{n}.tmp", std::process::id()));
            let flags =
                OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC | OFlags::NOFOLLOW;
            match fs::openat(&dir, &name, flags, Mode::from_raw_mode(0o600)) {
                Ok(fd) => {
                    return Ok(TempFile {
                        dir,
                        name,
                        file: Arc::new(File::from(fd)),
                        armed: true,
                    });
                }
                Err(rustix::io::Errno::EXIST) => {}
                Err(e) => return Err(e.into()),
            }
        }
    }

    /// The temporary name, in the directory that it was created in.
    #[must_use]
    pub fn name(&self) -> &OsStr {
        &self.name
    }

    /// The open file.
    #[must_use]
    pub fn file(&self) -> &Arc<File> {
        &self.file
    }

    /// Renames the file to `name` in `dir`, replacing what is there. The directory is not synced.
    ///
    /// # Errors
    /// Whatever the system answers; the temporary file is then removed.
    pub fn rename_to(self, dir: BorrowedFd<'_>, name: &OsStr) -> io::Result<Arc<File>> {
        self.rename_with(dir, name, RenameFlags::empty())
    }

    /// Renames the file to `name` in `dir`, and fails with `AlreadyExists` if there is one.
    ///
    /// # Errors
    /// Whatever the system answers; the temporary file is then removed.
    pub fn rename_new(self, dir: BorrowedFd<'_>, name: &OsStr) -> io::Result<Arc<File>> {
        self.rename_with(dir, name, RenameFlags::NOREPLACE)
    }

    fn rename_with(
        mut self,
        dir: BorrowedFd<'_>,
        name: &OsStr,
        flags: RenameFlags,
    ) -> io::Result<Arc<File>> {
        fs::renameat_with(&self.dir, &self.name, dir, name, flags)?;
        self.armed = false;
        Ok(Arc::clone(&self.file))
    }
}

impl Drop for TempFile {
    fn drop(&mut self) {
        if self.armed
            && let Err(e) = fs::unlinkat(self.dir.as_fd(), &self.name, AtFlags::empty())
        {
            log::warn!("temporary file {}: {e}", self.name.display());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(dir: &std::path::Path) -> Vec<OsString> {
        let mut all: Vec<_> = std::fs::read_dir(dir)
            .unwrap()
            .map(|e| e.unwrap().file_name())
            .collect();
        all.sort();
        all
    }

    #[test]
    fn dropped_file_is_gone_and_renamed_file_stays() {
        let dir = tempfile::tempdir().unwrap();
        let fd = File::open(dir.path()).unwrap();
        drop(TempFile::create_in(fd.as_fd(), "x").unwrap());
        assert!(names(dir.path()).is_empty());
        TempFile::create_in(fd.as_fd(), "x")
            .unwrap()
            .rename_to(fd.as_fd(), OsStr::new("kept"))
            .unwrap();
        assert_eq!(names(dir.path()), ["kept"]);
        let again = TempFile::create_in(fd.as_fd(), "x").unwrap();
        assert_eq!(
            again
                .rename_new(fd.as_fd(), OsStr::new("kept"))
                .unwrap_err()
                .kind(),
            io::ErrorKind::AlreadyExists
        );
        assert_eq!(names(dir.path()), ["kept"]);
    }
}
