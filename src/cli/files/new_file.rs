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
use crate::cli::{CliError, make_removed_if_killed, warn};
use crate::store::TempFile;
use crate::store::attributes::{Lost, copy_attributes, set_default_mode};

/// What becomes of a file when its successor is complete.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    /// It stays.
    Kept,
    /// It is removed.
    Removed {
        /// Although it has other names, or extended attributes that can not be kept.
        force: bool,
    },
}

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
    /// The name is taken and may not be replaced, leads to no regular file, or to `source` itself; `source` can not be removed without
    /// surprise.
    pub fn check(&self, source: &Input, fate: Fate) -> Result<(), CliError> {
        if let Fate::Removed { force } = fate {
            source.check_removable(force)?;
        }
        // A link to a device, as /dev/stdout is one, is not replaced either.
        match std::fs::metadata(&self.path) {
            Ok(there) if there.is_dir() => {
                return Err(CliError::failed("is a directory")
                    .on(&self.path)
                    .remedy("name the new file with -o"));
            }
            Ok(there) if !there.is_file() => {
                return Err(
                    CliError::failed("is no regular file, and is not replaced by one")
                        .on(&self.path)
                        .remedy("write to it with -c and `>`"),
                );
            }
            _ => {}
        }
        match std::fs::symlink_metadata(&self.path) {
            Ok(_) if source.is_at(&self.path) => Err(CliError::failed("is the input itself")
                .on(&self.path)
                .remedy("name another file with -o")),
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

/// A file in the making. Dropping it without [`NewFile::succeed`] removes it.
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

    /// Puts the file in the place of `source`: gives it its attributes, syncs it, puts it under its name, syncs the directory, and
    /// then removes `source` if that is its `fate`.
    ///
    /// # Errors
    /// `source` was changed meanwhile, or would be removed although extended attributes of it can not be kept; the name is taken and may
    /// not be replaced; I/O errors. Nothing is left then, and `source` is there.
    pub fn succeed(
        self,
        source: &Input,
        destination: &Destination,
        fate: Fate,
    ) -> Result<(), CliError> {
        let fail = |e: io::Error| CliError::io(&self.path, &e);
        let file = self.temp.file();
        let lost = match source.is_stdin() {
            true => set_default_mode(file).map(|()| Lost::default()),
            false => copy_attributes(&source.file, file),
        };
        let lost = lost.map_err(fail)?;
        if let Some((name, error)) = &lost.xattr {
            let why = format!("its extended attribute {name} can not be kept: {error}");
            match fate {
                Fate::Removed { force: false } => {
                    return Err(CliError::failed(why)
                        .on(&source.path)
                        .remedy("use -k to keep the original, or -f to lose what only it has"));
                }
                _ => warn(CliError::failed(why).on(&source.path)),
            }
        }
        if lost.owner && matches!(fate, Fate::Removed { .. }) {
            let why = "its owner and group can not be kept; it is yours now";
            warn(CliError::failed(why).on(&source.path));
        }
        file.sync_all().map_err(fail)?;
        source.check_unchanged()?;
        self.publish(destination.replace)?;
        match fate {
            Fate::Kept => Ok(()),
            Fate::Removed { .. } => source.remove(),
        }
    }

    /// Puts the file, which is synced, under its name, and syncs the directory.
    fn publish(self, replace: bool) -> Result<(), CliError> {
        let NewFile {
            temp,
            folder,
            path,
            _guard,
        } = self;
        let fail = |e: io::Error| CliError::io(&path, &e);
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
