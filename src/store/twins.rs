//! Files that are kept twice: models and primers, which whole archives hang on.
//!
//! The first copy lies under its own name in `.vortex/models` or `.vortex/primers`, the second one in `.vortex/copies`. Each is
//! written under a temporary name, synced, renamed and its directory synced, before anything may name what is in it.

use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, OwnedFd};

use rustix::fs::{self, AtFlags, Mode, OFlags};

use super::temp::TempFile;

/// Which of two copies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Copy {
    /// The one that is read.
    First,
    /// The one that serves when the first does not.
    Second,
}

/// Both, in the order in which they are read.
pub const BOTH: [Copy; 2] = [Copy::First, Copy::Second];

/// How one copy is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Condition {
    /// Its content is what its name says.
    Good,
    /// It is not there.
    Missing,
    /// It is there and is of no use, for this reason.
    Bad(String),
}

impl Condition {
    /// Whether it can be used.
    #[must_use]
    pub fn is_good(&self) -> bool {
        *self == Condition::Good
    }
}

/// The directories of the two copies; neither outside of an archive, and only the first in one that was never written since
/// copies are kept.
#[derive(Debug, Default)]
pub struct Twins {
    first: Option<OwnedFd>,
    second: Option<OwnedFd>,
}

impl Twins {
    /// Copies in these directories.
    #[must_use]
    pub fn new(first: Option<OwnedFd>, second: Option<OwnedFd>) -> Self {
        Twins { first, second }
    }

    /// The directory of a copy.
    #[must_use]
    pub fn dir(&self, copy: Copy) -> Option<&OwnedFd> {
        match copy {
            Copy::First => self.first.as_ref(),
            Copy::Second => self.second.as_ref(),
        }
    }

    /// The bytes of a file, if it is there.
    ///
    /// # Errors
    /// I/O errors; `FileTooLarge` if it has more than `limit` bytes.
    pub fn read(&self, copy: Copy, name: &OsStr, limit: u64) -> io::Result<Option<Vec<u8>>> {
        let Some(file) = self.open(copy, name)? else {
            return Ok(None);
        };
        let len = file.metadata()?.len();
        let mut bytes = Vec::new();
        if len <= limit {
            bytes.reserve_exact(len as usize + 1);
            (&file).take(limit + 1).read_to_end(&mut bytes)?;
        }
        // It may have grown since.
        if len > limit || bytes.len() as u64 > limit {
            return Err(io::Error::new(
                io::ErrorKind::FileTooLarge,
                format!("larger than any such file that this version reads ({limit} bytes)"),
            ));
        }
        Ok(Some(bytes))
    }

    /// The first bytes of a file, if it is there, at most `limit` of them.
    ///
    /// # Errors
    /// I/O errors.
    pub fn read_up_to(&self, copy: Copy, name: &OsStr, limit: u64) -> io::Result<Option<Vec<u8>>> {
        let Some(file) = self.open(copy, name)? else {
            return Ok(None);
        };
        let mut bytes = Vec::new();
        file.take(limit).read_to_end(&mut bytes)?;
        Ok(Some(bytes))
    }

    fn open(&self, copy: Copy, name: &OsStr) -> io::Result<Option<File>> {
        let Some(dir) = self.dir(copy) else {
            return Ok(None);
        };
        const READ: OFlags = OFlags::RDONLY
            .union(OFlags::NOFOLLOW)
            .union(OFlags::CLOEXEC)
            .union(OFlags::NONBLOCK);
        match fs::openat(dir, name, READ, Mode::empty()) {
            Ok(fd) => Ok(Some(File::from(fd))),
            Err(rustix::io::Errno::NOENT) => Ok(None),
            Err(e) => Err(e.into()),
        }
    }

    /// Writes a file durably, in place of one of that name. Does nothing outside of an archive.
    ///
    /// # Errors
    /// I/O errors.
    pub fn write(&self, copy: Copy, name: &OsStr, bytes: &[u8], mode: u32) -> io::Result<()> {
        let Some(dir) = self.dir(copy) else {
            return Ok(());
        };
        let temp = TempFile::create_in(dir.as_fd(), "new")?;
        (&**temp.file()).write_all(bytes)?;
        fs::fchmod(temp.file().as_fd(), Mode::from_raw_mode(mode))?;
        temp.file().sync_all()?;
        temp.rename_to(dir.as_fd(), name)?;
        Ok(fs::fsync(dir)?)
    }

    /// Makes the name of a file durable that somebody else may have put there.
    ///
    /// # Errors
    /// I/O errors.
    pub fn sync(&self, copy: Copy) -> io::Result<()> {
        match self.dir(copy) {
            Some(dir) => Ok(fs::fsync(dir)?),
            None => Ok(()),
        }
    }

    /// Removes a file, if it is there.
    ///
    /// # Errors
    /// I/O errors.
    pub fn remove(&self, copy: Copy, name: &OsStr) -> io::Result<()> {
        let Some(dir) = self.dir(copy) else {
            return Ok(());
        };
        match fs::unlinkat(dir, name, AtFlags::empty()) {
            Ok(()) => Ok(fs::fsync(dir)?),
            Err(rustix::io::Errno::NOENT) => Ok(()),
            Err(e) => Err(e.into()),
        }
    }

    /// What `parse` makes of the names in a directory.
    ///
    /// # Errors
    /// I/O errors.
    pub fn list<T>(&self, copy: Copy, parse: impl Fn(&str) -> Option<T>) -> io::Result<Vec<T>> {
        let Some(dir) = self.dir(copy) else {
            return Ok(Vec::new());
        };
        let mut found = Vec::new();
        for entry in fs::Dir::read_from(dir)? {
            found.extend(entry?.file_name().to_str().ok().and_then(&parse));
        }
        Ok(found)
    }
}
