//! Where a file's models come from: built in, in the archive around the file, or named by the user.

use std::path::Path;

use super::with_path;
use crate::cli::CliError;
use crate::store::{Access, Archive, ModelStore, Profile};

/// The models within reach of a file. Holds the archive's lock if it was opened for writing.
#[derive(Debug)]
pub struct Models {
    archive: Option<Archive>,
    outside: ModelStore,
}

impl Models {
    /// Only the built-in models.
    #[must_use]
    pub fn built_in() -> Models {
        Models {
            archive: None,
            outside: ModelStore::new(None),
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
        let archive = Archive::open(&root, access).map_err(with_path(&root))?;
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
            self.store().add_loaded(&profile.model);
        }
        Ok(self)
    }

    /// The profile of this name.
    ///
    /// # Errors
    /// It can not be found or read, or is no model.
    pub fn profile(&self, name: &str) -> Result<Profile, CliError> {
        self.store()
            .profile(name)
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

    /// All of them.
    #[must_use]
    pub fn store(&self) -> &ModelStore {
        self.archive.as_ref().map_or(&self.outside, Archive::models)
    }

    /// The archive, if the file is in one.
    #[must_use]
    pub fn archive(&self) -> Option<&Archive> {
        self.archive.as_ref()
    }
}
