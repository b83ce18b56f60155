//! What blocks need beyond their own payload: models, primers, and the start states that were made already.

use std::sync::Arc;

use super::error::StoreError;
use super::models::ModelStore;
use super::primers::PrimerStore;
use super::start_cache::{Key, StartCache};
use crate::codec::{PrimerId, Start};

/// See the module. One is shared by all readers of an archive.
#[derive(Debug)]
pub struct Library {
    models: ModelStore,
    primers: PrimerStore,
    starts: StartCache,
}

impl Default for Library {
    fn default() -> Self {
        Library::new(ModelStore::new(None), PrimerStore::new(None))
    }
}

impl Library {
    /// These models and primers; no start state is made yet.
    #[must_use]
    pub fn new(models: ModelStore, primers: PrimerStore) -> Self {
        Library {
            models,
            primers,
            starts: StartCache::default(),
        }
    }

    /// The models.
    #[must_use]
    pub fn models(&self) -> &ModelStore {
        &self.models
    }

    /// The primers.
    #[must_use]
    pub fn primers(&self) -> &PrimerStore {
        &self.primers
    }

    /// The start states.
    #[must_use]
    pub fn starts(&self) -> &StartCache {
        &self.starts
    }

    /// The state after a primer.
    ///
    /// # Errors
    /// `MissingPrimer`, `BadPrimer` if its file is damaged, I/O errors.
    pub fn primed(&self, id: PrimerId) -> Result<Arc<Start>, StoreError> {
        self.starts.get_or_make(Key::Primer(id), || {
            Ok(Start::then(None, &self.primers.load(id)?))
        })
    }
}
