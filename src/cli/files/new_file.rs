//! A file that appears under its name complete and synced, or not at all.
//!
//! It is written under a temporary name in the directory where it will be, and removed if the command fails or is
//! killed by a signal.

use std::ffi::OsString;
use std::fs::File;
use std::io;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};

use super::Input;
use crate::cli::signals::UnfinishedFile;
use crate::cli::{CliError, make_removed_if_killed};
use crate::store::TempFile;
use crate::store::attributes::{copy_attributes, set_default_mode};

/// Where a new file goes, and whether it may replace another.
#[derive(Debug)]
pub struct Destination {
    /// The final name.
    pub path: PathBuf,
    /// Whether a file of this name is replaced.
    pub replace: bool,
}

impl Destination {
    /// Refuses at once what would be refused in the end.
    ///
    /// # Errors
    /// The name is taken and may not be replaced, or is a directory.
    pub fn check(&self) -> Result<(), CliError> {
        match std::fs::symlink_metadata(&self.path) {
            Ok(there) if there.is_dir() => Err(CliError::failed("is a directory")
                .on(&self.path)
                .remedy("name the new file with -o")),
            Ok(_) if !self.replace => Err(taken(&self.path)),
            _ => Ok(()),
        }
    }

    /// The directory that the new file will be in.
    #[must_use]
    pub fn folder(&self) -> &Path {
        match self.path.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => parent,
            _ => Path::new("."),
        }
    }
}

/// A file in the making. Dropping it without [`NewFile::publish`] removes it.
#[derive(Debug)]
pub struct NewFile {
    temp: TempFile,
    folder: File,
    path: PathBuf,
    _guard: UnfinishedFile,
}

impl NewFile {
    /// A file that will be published at `destination`.
    ///
    /// # Errors
    /// The directory can not be written.
    pub fn for_destination(destination: &Destination) -> Result<NewFile, CliError> {
        NewFile::create(destination.folder(), destination.path.clone())
    }

    /// A file that will never have a name: for output to a stream.
    ///
    /// # Errors
    /// The directory for temporary files can not be written.
    pub fn scratch() -> Result<NewFile, CliError> {
        NewFile::create(&std::env::temp_dir(), PathBuf::new())
    }

    fn create(folder_path: &Path, path: PathBuf) -> Result<NewFile, CliError> {
        let fail = |e: io::Error| CliError::io(folder_path, &e);
        let folder = File::open(folder_path).map_err(fail)?;
        let (temp, guard) = make_removed_if_killed(
            || TempFile::create_in(folder.as_fd(), ".vortex-").map_err(fail),
            |temp| folder_path.join(temp.name()),
        )?;
        Ok(NewFile {
            temp,
            folder,
            path,
            _guard: guard,
        })
    }

    /// The temporary file.
    #[must_use]
    pub fn temp(&self) -> &TempFile {
        &self.temp
    }

    /// Gives the file the attributes of `source`, syncs it, puts it under its name, and syncs the directory.
    ///
    /// # Errors
    /// The name is taken and may not be replaced; I/O errors. Nothing is left then.
    pub fn publish(self, source: &Input, replace: bool) -> Result<(), CliError> {
        let NewFile {
            temp,
            folder,
            path,
            _guard,
        } = self;
        let fail = |e: io::Error| CliError::io(&path, &e);
        let file = temp.file();
        let set = if source.is_stdin() {
            set_default_mode(file)
        } else {
            copy_attributes(&source.file, file).map(drop)
        };
        set.map_err(fail)?;
        file.sync_all().map_err(fail)?;
        let name = path.file_name().map(OsString::from).unwrap_or_default();
        let placed = if replace {
            temp.rename_to(folder.as_fd(), &name)
        } else {
            temp.rename_new(folder.as_fd(), &name)
        };
        match placed {
            Ok(_) => folder.sync_all().map_err(fail),
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => Err(taken(&path)),
            Err(e) => Err(fail(e)),
        }
    }
}

fn taken(path: &Path) -> CliError {
    CliError::failed("exists already")
        .on(path)
        .remedy("use -f to overwrite it, or -o for another name")
}
