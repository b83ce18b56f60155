//! Models: those stored in the archive and those built in, loaded once and shared.
//!
//! A block names its model by content hash, so a model file is never changed, only added. An archive keeps each twice: as it is
//! in `.vortex/models`, and compressed in `.vortex/copies`.

use std::borrow::Cow;
use std::collections::HashMap;
use std::ffi::OsString;
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use super::error::StoreError;
use super::twins::{BOTH, Condition, Copy, Twins};
use crate::codec::{Effort, ModelId};
use crate::engine::Model;
use crate::profiles;

/// Largest model file that is read, in bytes.
pub const MAX_MODEL_BYTES: u64 = 16 << 20;
/// Names no profile: blocks are coded without a model.
pub const NO_PROFILE: &str = "none";
const EXTENSION: &str = ".safetensors";
/// Ends the name of a second copy, a zstd frame.
const COPY_EXTENSION: &str = ".safetensors.zst";
/// Anyone who may read the archive may read its models.
const MODE: u32 = 0o644;
const NOT_ITS_NAME: &str = "its content does not match its name";

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

    /// How much time packing with it may take.
    #[must_use]
    pub fn effort(&self) -> Effort {
        self.model.config().effort
    }

    /// Bytes that an archive's two copies take at most.
    #[must_use]
    pub fn cost(&self) -> u64 {
        2 * self.bytes.len() as u64
    }
}

/// Finds models by id, and profiles by name, path or id.
#[derive(Debug)]
pub struct ModelStore {
    files: Twins,
    loaded: Mutex<HashMap<ModelId, Arc<Model>>>,
    /// Bytes that models which are not stored would have saved.
    missed: Mutex<HashMap<ModelId, u64>>,
}

impl ModelStore {
    /// Models of the directory `dir`, if there is one, and the built-in ones.
    #[must_use]
    pub fn new(dir: Option<OwnedFd>) -> Self {
        Self::of(Twins::new(dir, None))
    }

    /// Models that are kept twice, and the built-in ones.
    #[must_use]
    pub fn of(files: Twins) -> Self {
        ModelStore {
            files,
            loaded: Mutex::new(HashMap::new()),
            missed: Mutex::new(HashMap::new()),
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

    /// Stores a model in the archive, twice and durably, so that the archive carries all that its blocks need. A copy that is good
    /// already stays.
    ///
    /// # Errors
    /// I/O errors.
    pub fn store(&self, profile: &Profile) -> Result<(), StoreError> {
        self.add_loaded(&profile.model);
        let id = profile.id();
        for copy in BOTH {
            if self.condition(id, copy)?.is_good() {
                self.files
                    .sync(copy)
                    .map_err(StoreError::io(path_of(id, copy)))?;
            } else {
                self.write(id, copy, &profile.bytes)?;
            }
        }
        Ok(())
    }

    /// Whether blocks that are `saves` bytes smaller for this model may name it: because the archive has the model, or because
    /// all that were offered so far would have saved what its two copies take. So an archive never becomes much larger for a
    /// model than it would be without, and little larger than it would be had the model been there from the beginning.
    ///
    /// # Errors
    /// I/O errors.
    pub fn earns(&self, profile: &Profile, saves: u64) -> Result<bool, StoreError> {
        let id = profile.id();
        for copy in BOTH {
            if self.condition(id, copy)?.is_good() {
                return Ok(true);
            }
        }
        let mut missed = self.missed.lock().unwrap_or_else(PoisonError::into_inner);
        let sum = missed.entry(id).or_default();
        *sum = sum.saturating_add(saves);
        Ok(*sum >= profile.cost())
    }

    /// As [`ModelStore::profile`]; [`NO_PROFILE`] is none.
    ///
    /// # Errors
    /// As [`ModelStore::profile`].
    pub fn profile_or_none(&self, name: &str) -> Result<Option<Profile>, StoreError> {
        (name != NO_PROFILE).then(|| self.profile(name)).transpose()
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

    /// Ids of the models of which the archive has a copy, in order.
    ///
    /// # Errors
    /// I/O errors.
    pub fn stored(&self) -> Result<Vec<ModelId>, StoreError> {
        let id = |extension| move |name: &str| name.strip_suffix(extension)?.parse().ok();
        let list = |copy, extension| {
            self.files
                .list(copy, id(extension))
                .map_err(StoreError::io(dir_of(copy)))
        };
        let mut ids: Vec<ModelId> = list(Copy::First, EXTENSION)?;
        ids.extend(list(Copy::Second, COPY_EXTENSION)?);
        ids.sort();
        ids.dedup();
        Ok(ids)
    }

    /// How a copy of the archive is.
    ///
    /// # Errors
    /// I/O errors, except that a disk which gives no bytes makes the copy a bad one.
    pub fn condition(&self, id: ModelId, copy: Copy) -> Result<Condition, StoreError> {
        match self.read(id, copy) {
            Ok(Some(_)) => Ok(Condition::Good),
            Ok(None) => Ok(Condition::Missing),
            Err(error) => error.into_condition(),
        }
    }

    /// Puts missing and bad copies of a model right, from the good one or from the built-in model; answers which.
    ///
    /// # Errors
    /// `BadModel` or `MissingModel` if no good one is left, I/O errors.
    pub fn restore(&self, id: ModelId) -> Result<Vec<Copy>, StoreError> {
        let profile = self.find(id)?.ok_or(StoreError::MissingModel(id))?;
        let mut restored = Vec::new();
        for copy in BOTH {
            if !self.condition(id, copy)?.is_good() {
                self.write(id, copy, &profile.bytes)?;
                restored.push(copy);
            }
        }
        Ok(restored)
    }

    /// Removes both copies of a model. The caller has made sure that no block of the archive names it, and that none can come to.
    ///
    /// # Errors
    /// I/O errors.
    pub(super) fn remove(&self, id: ModelId) -> Result<(), StoreError> {
        for copy in BOTH {
            self.files
                .remove(copy, &file_name(id, copy))
                .map_err(StoreError::io(path_of(id, copy)))?;
        }
        Ok(())
    }

    /// The built-in model with this id, else the first good copy of the archive.
    fn find(&self, id: ModelId) -> Result<Option<Profile>, StoreError> {
        let built_in = profiles::NAMES
            .iter()
            .filter_map(|n| profiles::builtin(n).map(|b| (n, b)));
        for (name, bytes) in built_in {
            if ModelId::of(bytes) == id {
                return Profile::load(name, bytes.into()).map(Some);
            }
        }
        let name = || path_of(id, Copy::First).display().to_string();
        let first = match self.read(id, Copy::First) {
            Ok(Some(bytes)) => return Profile::load(&name(), bytes.into()).map(Some),
            other => other,
        };
        match self.read(id, Copy::Second) {
            Ok(Some(bytes)) => {
                let why = first.err().map_or("is missing".into(), |e| e.to_string());
                log::warn!(
                    "model {id} {why}: its second copy serves; `vortex-fs repair` restores the first"
                );
                Profile::load(&name(), bytes.into()).map(Some)
            }
            Ok(None) => first.map(|_| None).map_err(no_other),
            Err(second) => Err(no_other(first.err().unwrap_or(second))),
        }
    }

    /// A model's bytes from one of its copies, if it is there; checked against the id.
    fn read(&self, id: ModelId, copy: Copy) -> Result<Option<Vec<u8>>, StoreError> {
        let path = path_of(id, copy);
        let Some(raw) = self
            .files
            .read(copy, &file_name(id, copy), MAX_MODEL_BYTES)
            .map_err(StoreError::io(&path))?
        else {
            return Ok(None);
        };
        let bytes = match copy {
            Copy::First => Ok(raw),
            Copy::Second => unpacked(&raw),
        };
        match bytes {
            Ok(bytes) if ModelId::of(&bytes) == id => Ok(Some(bytes)),
            _ => Err(StoreError::BadModel {
                name: path.display().to_string(),
                reason: NOT_ITS_NAME.to_string(),
            }),
        }
    }

    fn write(&self, id: ModelId, copy: Copy, bytes: &[u8]) -> Result<(), StoreError> {
        let write = || {
            let bytes = match copy {
                Copy::First => Cow::Borrowed(bytes),
                Copy::Second => Cow::Owned(zstd::encode_all(bytes, 19)?),
            };
            self.files.write(copy, &file_name(id, copy), &bytes, MODE)
        };
        write().map_err(StoreError::io(path_of(id, copy)))
    }
}

/// A bad copy, where the other one does not serve either.
fn no_other(error: StoreError) -> StoreError {
    match error {
        StoreError::BadModel { name, reason } => StoreError::BadModel {
            name,
            reason: format!("{reason}; restore it from a backup"),
        },
        other => other,
    }
}

/// Whether the program itself has this model.
#[must_use]
pub fn is_built_in(id: ModelId) -> bool {
    let mut built_in = profiles::NAMES.iter().filter_map(|n| profiles::builtin(n));
    built_in.any(|bytes| ModelId::of(bytes) == id)
}

fn file_name(id: ModelId, copy: Copy) -> OsString {
    match copy {
        Copy::First => format!("{id}{EXTENSION}").into(),
        Copy::Second => format!("{id}{COPY_EXTENSION}").into(),
    }
}

fn dir_of(copy: Copy) -> &'static Path {
    match copy {
        Copy::First => Path::new(".vortex/models"),
        Copy::Second => Path::new(".vortex/copies"),
    }
}

/// Where a copy lies, below the archive's directory.
#[must_use]
pub fn path_of(id: ModelId, copy: Copy) -> PathBuf {
    dir_of(copy).join(file_name(id, copy))
}

/// The content of a second copy. A frame that asks for a larger window than any model needs is none.
fn unpacked(raw: &[u8]) -> io::Result<Vec<u8>> {
    let mut decoder = zstd::Decoder::new(raw)?;
    decoder.window_log_max(MAX_MODEL_BYTES.ilog2())?;
    read_bounded(decoder)
}

/// All bytes of what may be a model file.
///
/// # Errors
/// I/O errors, and more than [`MAX_MODEL_BYTES`].
pub fn read_bounded(from: impl Read) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    from.take(MAX_MODEL_BYTES + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > MAX_MODEL_BYTES {
        return Err(io::Error::new(
            io::ErrorKind::FileTooLarge,
            "larger than any model this version reads (16 MiB)",
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
    fn a_model_earns_its_place_by_what_it_would_have_saved() {
        let dir = tempfile::tempdir().unwrap();
        let store = store_in(dir.path());
        let profile = store.profile("fast").unwrap();
        let half = profile.cost() / 2;
        assert!(!store.earns(&profile, 0).unwrap());
        assert!(!store.earns(&profile, half).unwrap());
        assert!(!store.earns(&profile, half - 1).unwrap());
        assert!(store.earns(&profile, 1).unwrap());
        let other = store_in(dir.path());
        assert!(!other.earns(&profile, half).unwrap());
        other.store(&profile).unwrap();
        assert!(other.earns(&profile, 0).unwrap());
        assert!(store.profile_or_none(NO_PROFILE).unwrap().is_none());
        assert!(store.profile_or_none("nosuch").is_err());
    }

    #[test]
    fn either_copy_serves_and_restores_the_other() {
        let root = tempfile::tempdir().unwrap();
        let open = || {
            let dir = |name| {
                let path = root.path().join(name);
                std::fs::create_dir_all(&path).unwrap();
                Some(File::open(path).unwrap().into())
            };
            ModelStore::of(Twins::new(dir("models"), dir("copies")))
        };
        // A model that is not built in: only the copies can serve.
        let mut bytes = profiles::builtin("fast").unwrap().to_vec();
        *bytes.last_mut().unwrap() ^= 1;
        let profile = Profile::load("other", bytes.into()).unwrap();
        let id = profile.id();
        open().store(&profile).unwrap();
        let paths = BOTH.map(|copy| {
            let path = path_of(id, copy);
            root.path().join(path.strip_prefix(".vortex").unwrap())
        });
        let good = paths.clone().map(|path| std::fs::read(path).unwrap());
        type Spoil = fn(&Path);
        let spoil: [(&str, Spoil); 3] = [
            ("cut", |path| std::fs::write(path, "x").unwrap()),
            ("missing", |path| std::fs::remove_file(path).unwrap()),
            ("flipped", |path| {
                let mut raw = std::fs::read(path).unwrap();
                raw[40] ^= 1;
                std::fs::write(path, raw).unwrap();
            }),
        ];
        for (what, spoil) in spoil {
            for (at, copy) in BOTH.into_iter().enumerate() {
                spoil(&paths[at]);
                assert!(!open().condition(id, copy).unwrap().is_good(), "{what}");
                assert_eq!(open().get(id).unwrap().id(), profile.model.id(), "{what}");
                assert_eq!(open().stored().unwrap(), [id]);
                assert_eq!(open().restore(id).unwrap(), [copy]);
                let now = paths.clone().map(|path| std::fs::read(path).unwrap());
                assert!(now == good, "{what}");
                assert_eq!(open().restore(id).unwrap(), []);
            }
        }
        // Storing it anew heals too.
        std::fs::write(&paths[0], "x").unwrap();
        open().store(&profile).unwrap();
        assert_eq!(open().restore(id).unwrap(), []);
        paths
            .iter()
            .for_each(|path| std::fs::write(path, "x").unwrap());
        assert!(matches!(open().get(id), Err(StoreError::BadModel { .. })));
        assert!(matches!(
            open().restore(id),
            Err(StoreError::BadModel { .. })
        ));
        open().remove(id).unwrap();
        assert!(matches!(open().get(id), Err(StoreError::MissingModel(_))));
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
