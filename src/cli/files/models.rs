//! Where a file's models and primers come from: built in, in the archive around the file, or named by the user.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::path::Path;

use super::{Input, with_path};
use crate::cli::CliError;
use crate::codec::PrimerId;
use crate::segment::Form;
use crate::store::{Access, Archive, Library, MAX_PRIMER, Profile, SegmentReader};

/// The models and primers within reach of a file. Holds the archive's lock if it was opened for writing.
#[derive(Debug)]
pub struct Models {
    archive: Option<Archive>,
    outside: Library,
}

impl Models {
    /// Only the built-in models.
    #[must_use]
    pub fn built_in() -> Models {
        Models {
            archive: None,
            outside: Library::default(),
        }
    }

    /// The built-in models, and those of the archive that `path` lies in.
    ///
    /// # Errors
    /// The archive is of an unknown version, can not be read or, for [`Access::Write`], has another writer.
    pub fn around(path: &Path, access: Access) -> Result<Models, CliError> {
        let Some(root) = Archive::find(path) else {
            return Ok(Models::built_in());
        };
        Models::of(&root, access)
    }

    /// Also offers the models of the archive whose directory is `root`.
    ///
    /// # Errors
    /// The archive can not be opened.
    pub fn of(root: &Path, access: Access) -> Result<Models, CliError> {
        let archive = Archive::open(root, access).map_err(with_path(root))?;
        Ok(Models {
            archive: Some(archive),
            ..Models::built_in()
        })
    }

    /// Also offers the model in a file, or of a name, that the user gave to read with.
    ///
    /// # Errors
    /// It can not be found or read, or is no model.
    pub fn with_profile(self, profile: Option<&str>) -> Result<Models, CliError> {
        if let Some(name) = profile {
            let profile = self.profile(name)?;
            self.library().models().add_loaded(&profile.model);
        }
        Ok(self)
    }

    /// The profile of this name.
    ///
    /// # Errors
    /// It can not be found or read, or is no model.
    pub fn profile(&self, name: &str) -> Result<Profile, CliError> {
        self.library()
            .models()
            .profile(name)
            .map_err(with_path(Path::new(name)))
    }

    /// The profile of this name; `none` is none.
    ///
    /// # Errors
    /// It can not be found or read, or is no model.
    pub fn profile_or_none(&self, name: &str) -> Result<Option<Profile>, CliError> {
        self.library()
            .models()
            .profile_or_none(name)
            .map_err(with_path(Path::new(name)))
    }

    /// Takes the writer's lock of the archive that `path` lies in, unless it is the one held here; nothing to do outside archives.
    ///
    /// # Errors
    /// The archive has another writer, for example a mount.
    pub fn lock_also(&self, path: &Path) -> Result<Option<Models>, CliError> {
        let held = self.archive.as_ref().map(Archive::root);
        match Archive::find(path) {
            Some(root) if held != Some(root.as_path()) => {
                Models::around(path, Access::Write).map(Some)
            }
            _ => Ok(None),
        }
    }

    /// Also offers the primer whose bytes are in a file, or the last of them if there are more than a primer has.
    ///
    /// # Errors
    /// The file can not be read, or is empty.
    pub fn with_primer(self, file: Option<&Path>) -> Result<Models, CliError> {
        if let Some(path) = file {
            self.library().primers().offer(&primer_bytes(path)?);
        }
        Ok(self)
    }

    /// Makes the bytes in a file, or the last of them, a primer of the archive, if there is one.
    ///
    /// # Errors
    /// The file can not be read, or is empty; the archive can not be written to.
    pub fn add_primer(&self, path: &Path) -> Result<PrimerId, CliError> {
        let bytes = primer_bytes(path)?;
        self.library()
            .primers()
            .add(&bytes)
            .map_err(with_path(path))
    }

    /// Opens a segment to read all of it. Outside of archives one without a byte of content was cut off or overwritten: what
    /// compresses a file, even an empty one, writes more.
    ///
    /// # Errors
    /// It is no sound segment.
    pub fn reader(&self, input: &Input) -> Result<SegmentReader<'_>, CliError> {
        let reader = SegmentReader::from_file(input.file.clone(), &input.path, self.library());
        let reader = reader.map_err(with_path(&input.path))?;
        let summary = reader.segment().summary();
        if self.archive.is_none() && summary.form == Form::Live && summary.generation == 0 {
            return Err(CliError::damaged("is empty or begins with zeros: its content is lost")
                .on(&input.path)
                .remedy("restore it from a copy; if it comes from an archive and was empty there, it is empty"));
        }
        Ok(reader)
    }

    /// All of them.
    #[must_use]
    pub fn library(&self) -> &Library {
        self.archive
            .as_ref()
            .map_or(&self.outside, Archive::library)
    }

    /// The archive, if the file is in one.
    #[must_use]
    pub fn archive(&self) -> Option<&Archive> {
        self.archive.as_ref()
    }
}

fn primer_bytes(path: &Path) -> Result<Vec<u8>, CliError> {
    let fail = |e: io::Error| CliError::io(path, &e);
    let mut file = File::open(path).map_err(fail)?;
    let len = file.metadata().map_err(fail)?.len();
    file.seek(SeekFrom::Start(len.saturating_sub(MAX_PRIMER as u64)))
        .map_err(fail)?;
    let mut bytes = Vec::new();
    file.take(MAX_PRIMER as u64)
        .read_to_end(&mut bytes)
        .map_err(fail)?;
    if bytes.is_empty() {
        return Err(CliError::failed("is empty, so it is no primer").on(path));
    }
    Ok(bytes)
}
