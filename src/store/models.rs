//! Models: those stored in the archive and those built in, loaded once and shared.
//!
//! A block names its model by content hash, so a model file is never changed, only added.

use std::borrow::Cow;
use std::collections::HashMap;
use std::ffi::OsString;
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use rustix::fs::{self, AtFlags, Mode, OFlags};

use super::error::StoreError;
use super::temp::TempFile;
use crate::codec::ModelId;
use crate::engine::Model;
use crate::profiles;

/// Largest model file that is read, in bytes.
pub const MAX_MODEL_BYTES: u64 = 256 << 20;
const EXTENSION: &str = ".safetensors";

/// A model with the bytes it was loaded from and the name it was asked for by.
#[derive(Debug, Clone)]
pub struct Profile {
    /// Built-in name, path or id, as given.
    pub name: String,
    /// The model file.
    pub bytes: Cow<'static, [u8]>,
    /// The model, ready to run.
    pub model: Arc<Model>,
}

impl Profile {
    fn load(name: &str, bytes: Cow<'static, [u8]>) -> Result<Profile, StoreError> {
        let model = Model::from_bytes(&bytes).map_err(|e| StoreError::BadModel {
            name: name.to_string(),
            reason: e.to_string(),
        })?;
        Ok(Profile {
            name: name.to_string(),
            bytes,
            model: Arc::new(model),
        })
    }

    /// The model's content hash.
    #[must_use]
    pub fn id(&self) -> ModelId {
        ModelId(self.model.id())
    }
}

/// Finds models by id, and profiles by name, path or id.
#[derive(Debug)]
pub struct ModelStore {
    dir: Option<OwnedFd>,
    loaded: Mutex<HashMap<ModelId, Arc<Model>>>,
}

impl ModelStore {
    /// Models of the archive directory `dir` (`.vortex/models`), if there is one, and the built-in ones.
    #[must_use]
    pub fn new(dir: Option<OwnedFd>) -> Self {
        ModelStore {
            dir,
            loaded: Mutex::new(HashMap::new()),
        }
    }

    /// The model with this content hash.
    ///
    /// # Errors
    /// `MissingModel`, `BadModel` if its file is damaged, I/O errors.
    pub fn get(&self, id: ModelId) -> Result<Arc<Model>, StoreError> {
        let mut loaded = self.loaded.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(model) = loaded.get(&id) {
            return Ok(Arc::clone(model));
        }
        let profile = self.find(id)?.ok_or(StoreError::MissingModel(id))?;
        loaded.insert(id, Arc::clone(&profile.model));
        Ok(profile.model)
    }

    /// Makes a model known to [`ModelStore::get`] without storing it.
    pub fn add_loaded(&self, model: &Arc<Model>) {
        self.loaded
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .insert(ModelId(model.id()), Arc::clone(model));
    }

    /// Stores a model in the archive unless it is there already, so that the archive carries all that its blocks need.
    ///
    /// # Errors
    /// I/O errors.
    pub fn store(&self, profile: &Profile) -> Result<(), StoreError> {
        self.add_loaded(&profile.model);
        let Some(dir) = &self.dir else { return Ok(()) };
        let name = file_name(profile.id());
        let fail = StoreError::io(Path::new(".vortex/models").join(&name));
        let result = (|| {
            match fs::statat(dir, &name, AtFlags::SYMLINK_NOFOLLOW) {
                Ok(stat) if u64::try_from(stat.st_size) == Ok(profile.bytes.len() as u64) => {
                    return Ok(());
                }
                Ok(_) | Err(rustix::io::Errno::NOENT) => {}
                Err(e) => return Err(e.into()),
            }
            let temp = TempFile::create_in(dir.as_fd(), "model")?;
            (&**temp.file()).write_all(&profile.bytes)?;
            fs::fchmod(temp.file().as_fd(), Mode::from_raw_mode(0o644))?;
            temp.file().sync_all()?;
            temp.rename_to(dir.as_fd(), &name)?;
            Ok(fs::fsync(dir)?)
        })();
        result.map_err(fail)
    }

    /// The profile of this name: a file (a path with a slash, or ending in `.safetensors`), a built-in profile, or the id
    /// of a model in the archive.
    ///
    /// # Errors
    /// `UnknownProfile`, `BadModel`, I/O errors.
    pub fn profile(&self, name: &str) -> Result<Profile, StoreError> {
        if name.contains('/') || name.ends_with(EXTENSION) {
            let file = File::open(name).map_err(StoreError::io(name))?;
            let bytes = read_bounded(file).map_err(StoreError::io(name))?;
            return Profile::load(name, bytes.into());
        }
        if let Some(bytes) = profiles::builtin(name) {
            return Profile::load(name, bytes.into());
        }
        if let Ok(id) = name.parse::<ModelId>()
            && let Some(profile) = self.find(id)?
        {
            return Ok(profile);
        }
        Err(StoreError::UnknownProfile {
            name: name.to_string(),
            remedy: profiles::remedy(name),
        })
    }

    /// Ids of the models stored in the archive, in order.
    ///
    /// # Errors
    /// I/O errors.
    pub fn stored(&self) -> Result<Vec<ModelId>, StoreError> {
        let Some(dir) = &self.dir else {
            return Ok(Vec::new());
        };
        let fail = |e: rustix::io::Errno| StoreError::io(".vortex/models")(e.into());
        let mut ids = Vec::new();
        for entry in fs::Dir::read_from(dir).map_err(fail)? {
            let entry = entry.map_err(fail)?;
            let name = entry.file_name().to_str().unwrap_or_default();
            ids.extend(
                name.strip_suffix(EXTENSION)
                    .and_then(|stem| stem.parse::<ModelId>().ok()),
            );
        }
        ids.sort();
        Ok(ids)
    }

    /// Looks in the archive first. A stored file whose content is not what its name says counts as damaged, but a built-in
    /// model with the same id still serves.
    fn find(&self, id: ModelId) -> Result<Option<Profile>, StoreError> {
        let built_in = profiles::NAMES
            .iter()
            .filter_map(|n| profiles::builtin(n).map(|b| (n, b)));
        for (name, bytes) in built_in {
            if ModelId::of(bytes) == id {
                return Profile::load(name, bytes.into()).map(Some);
            }
        }
        let Some(dir) = &self.dir else {
            return Ok(None);
        };
        let name = file_name(id);
        let fail = || StoreError::io(Path::new(".vortex/models").join(&name));
        let bytes = match open_model(dir.as_fd(), &name) {
            Ok(file) => read_bounded(file).map_err(fail())?,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(e) => return Err(fail()(e)),
        };
        let name = name.display().to_string();
        if ModelId::of(&bytes) != id {
            let reason = "its content does not match its name; restore it from a copy".to_string();
            return Err(StoreError::BadModel { name, reason });
        }
        Profile::load(&name, bytes.into()).map(Some)
    }
}

fn file_name(id: ModelId) -> OsString {
    format!("{id}{EXTENSION}").into()
}

fn open_model(dir: BorrowedFd<'_>, name: &OsString) -> io::Result<File> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::NONBLOCK;
    Ok(File::from(fs::openat(dir, name, flags, Mode::empty())?))
}

fn read_bounded(file: File) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    file.take(MAX_MODEL_BYTES + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > MAX_MODEL_BYTES {
        return Err(io::Error::new(
            io::ErrorKind::FileTooLarge,
            "larger than any model this version reads (256 MiB)",
        ));
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn store_in(dir: &Path) -> ModelStore {
        ModelStore::new(Some(File::open(dir).unwrap().into()))
    }

    #[test]
    fn stored_model_is_found_by_id_and_damage_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let profile = ModelStore::new(None).profile("fast").unwrap();
        let store = store_in(dir.path());
        store.store(&profile).unwrap();
        store.store(&profile).unwrap();
        assert_eq!(store_in(dir.path()).stored().unwrap(), [profile.id()]);
        assert_eq!(
            store_in(dir.path()).get(profile.id()).unwrap().id(),
            profile.model.id()
        );

        let other = ModelId([7; 16]);
        assert!(matches!(store.get(other), Err(StoreError::MissingModel(id)) if id == other));
        std::fs::write(dir.path().join(format!("{other}.safetensors")), "x").unwrap();
        assert!(matches!(store.get(other), Err(StoreError::BadModel { .. })));
    }

    #[test]
    fn unknown_profile_says_what_there_is() {
        let error = ModelStore::new(None)
            .profile("nosuch")
            .unwrap_err()
            .to_string();
        assert!(error.contains("fast"), "{error}");
        assert!(
            ModelStore::new(None)
                .profile("/nonexistent/x.safetensors")
                .is_err()
        );
    }
}
