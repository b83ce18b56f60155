//! The bytes that a command works on: a named file, or standard input.

use std::fs::{File, Metadata};
use std::io::{self, IsTerminal, Seek};
use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fs::{Mode, OFlags};

use crate::cli::CliError;

/// An open input that can be read at any offset.
#[derive(Debug)]
pub struct Input {
    /// What messages call it.
    pub path: PathBuf,
    /// The bytes. Standard input is spooled to an unnamed file if it is a pipe.
    pub file: Arc<File>,
    /// None for standard input.
    before: Option<Metadata>,
}

impl Input {
    /// Opens `path`, where `-` is standard input.
    ///
    /// # Errors
    /// I/O errors, a directory or special file, a terminal as standard input.
    pub fn open(path: &Path) -> Result<Input, CliError> {
        if path == Path::new("-") {
            return Input::stdin();
        }
        let fail = |e: io::Error| missing_or(path, &e);
        let kind_of = |kind: std::fs::FileType| match () {
            () if kind.is_dir() => Err(CliError::failed("is a directory")
                .on(path)
                .remedy("name files inside it")),
            () if !kind.is_file() => Err(CliError::failed("is no regular file")
                .on(path)
                .remedy("read it into standard input, as `-`")),
            () => Ok(()),
        };
        // Asked before opening, which may act on a device; and after it, as it may be another file by then. The open of a pipe
        // would wait for its writer.
        kind_of(std::fs::metadata(path).map_err(fail)?.file_type())?;
        let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC | OFlags::NOCTTY;
        let file = rustix::fs::open(path, flags, Mode::empty()).map_err(|e| fail(e.into()))?;
        let file = File::from(file);
        let before = file.metadata().map_err(fail)?;
        kind_of(before.file_type())?;
        Ok(Input {
            path: path.to_owned(),
            file: Arc::new(file),
            before: Some(before),
        })
    }

    fn stdin() -> Result<Input, CliError> {
        let path = PathBuf::from("standard input");
        let fail = |e: io::Error| CliError::io("standard input", &e);
        let stdin = io::stdin();
        if stdin.is_terminal() {
            return Err(CliError::failed("standard input is a terminal")
                .remedy("name a file, or see --help"));
        }
        let mut given = File::from(stdin.as_fd().try_clone_to_owned().map_err(fail)?);
        let from_its_start = given.metadata().map_err(fail)?.is_file()
            && given.stream_position().map_err(fail)? == 0;
        let file = if from_its_start {
            given
        } else {
            let mut spool = tempfile::tempfile().map_err(|e| {
                CliError::io(std::env::temp_dir(), &e)
                    .remedy("set TMPDIR to a directory with space")
            })?;
            io::copy(&mut given, &mut spool).map_err(fail)?;
            spool
        };
        Ok(Input {
            path,
            file: Arc::new(file),
            before: None,
        })
    }

    /// Whether it is standard input, which has no name and no attributes to keep.
    #[must_use]
    pub fn is_stdin(&self) -> bool {
        self.before.is_none()
    }

    /// Refuses an input that can not be removed without surprise once its successor is complete.
    ///
    /// # Errors
    /// A symbolic link; with `force` not given, also a file with several names.
    pub(super) fn check_removable(&self, force: bool) -> Result<(), CliError> {
        let Some(before) = &self.before else {
            return Ok(());
        };
        let named =
            std::fs::symlink_metadata(&self.path).map_err(|e| CliError::io(&self.path, &e))?;
        if named.is_symlink() {
            return Err(CliError::failed("is a symbolic link")
                .on(&self.path)
                .remedy("use -k to keep it, or name the file that it points to"));
        }
        if before.nlink() > 1 && !force {
            return Err(
                CliError::failed(format!("has {} names (hard links)", before.nlink()))
                    .on(&self.path)
                    .remedy("use -k to keep it, or -f to remove this name only"),
            );
        }
        Ok(())
    }

    /// Fails if the file was written, or another put in its place, since it was opened.
    ///
    /// # Errors
    /// It was changed, or can not be looked at any more.
    pub fn check_unchanged(&self) -> Result<(), CliError> {
        let Some(before) = &self.before else {
            return Ok(());
        };
        let now = std::fs::metadata(&self.path).map_err(|e| CliError::io(&self.path, &e))?;
        let stamp = |m: &Metadata| (m.dev(), m.ino(), m.len(), m.mtime(), m.mtime_nsec());
        if stamp(before) == stamp(&now) {
            return Ok(());
        }
        Err(
            CliError::failed("was changed meanwhile and is left as it is")
                .on(&self.path)
                .remedy("run the command again"),
        )
    }

    /// Whether `path` is a name of this file.
    pub(super) fn is_at(&self, path: &Path) -> bool {
        let id = |m: &Metadata| (m.dev(), m.ino());
        let named = std::fs::symlink_metadata(path);
        named.is_ok_and(|named| self.before.as_ref().is_some_and(|b| id(b) == id(&named)))
    }

    /// Removes the named file, if it is still what was read; does nothing for standard input.
    ///
    /// # Errors
    /// It was changed, or another file has its name now; I/O errors.
    pub fn remove(&self) -> Result<(), CliError> {
        if self.is_stdin() {
            return Ok(());
        }
        self.check_unchanged()?;
        std::fs::remove_file(&self.path).map_err(|e| {
            CliError::io(&self.path, &e)
                .remedy("the new file is complete; remove the old one by hand")
        })
    }
}

/// A file that is not there may be there as a segment, or the other way round.
fn missing_or(path: &Path, error: &io::Error) -> CliError {
    let plain = CliError::io(path, error);
    if error.kind() != io::ErrorKind::NotFound {
        return plain;
    }
    let mut as_segment = path.as_os_str().to_owned();
    as_segment.push(crate::store::names::SEGMENT_SUFFIX);
    let as_segment = PathBuf::from(as_segment);
    if as_segment.is_file() {
        return plain.remedy(format!("there is {}", as_segment.display()));
    }
    plain
}
