//! What blocks need beyond their own payload: models, primers, and the start states that were made already.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;

use super::error::StoreError;
use super::models::{self, ModelStore};
use super::primers::{self, PrimerStore};
use super::start_cache::{Key, StartCache};
use super::twins::{Condition, Copy};
use super::verify::Depth;
use crate::codec::{ModelId, PrimerId, Start};

/// What more than one file may need.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Thing {
    /// A model.
    Model(ModelId),
    /// A primer.
    Primer(PrimerId),
    /// The version of the archive's format, which every use of the archive needs.
    Format,
}

impl fmt::Display for Thing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Thing::Model(id) => write!(f, "model {id}"),
            Thing::Primer(id) => write!(f, "primer {id}"),
            Thing::Format => f.write_str("format version"),
        }
    }
}

/// A copy of a model, a primer or the format that is not what it should be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BadCopy {
    /// Of what.
    pub thing: Thing,
    /// Which copy.
    pub copy: Copy,
    /// Where it lies or should lie, below the archive's directory.
    pub path: PathBuf,
    /// What is wrong with it.
    pub condition: Condition,
    /// Whether it is there all the same: from the other copy, or built in.
    pub other_serves: bool,
}

impl BadCopy {
    /// What is wrong with it.
    #[must_use]
    pub fn what(&self) -> &str {
        match &self.condition {
            Condition::Good => "is good",
            Condition::Missing => "it is missing",
            Condition::Bad(why) => why,
        }
    }
}

impl fmt::Display for BadCopy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let remedy = match self.other_serves {
            true => "the other copy serves; `vortex-fs repair` restores this one",
            false => "no other copy is good; restore it from a backup",
        };
        write!(
            f,
            "{} ({}): {}; {remedy}",
            self.path.display(),
            self.thing,
            self.what()
        )
    }
}

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

    /// The same, with start states kept in `starts`.
    #[must_use]
    pub fn with_starts(self, starts: StartCache) -> Self {
        Library { starts, ..self }
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

    /// Every model and primer of which the archive has a copy.
    ///
    /// # Errors
    /// I/O errors.
    pub fn stored(&self) -> Result<Vec<Thing>, StoreError> {
        let models = self.models.stored()?.into_iter().map(Thing::Model);
        let primers = self.primers.stored()?.into_iter().map(Thing::Primer);
        Ok(models.chain(primers).collect())
    }

    /// Every copy of a model or primer of the archive that is not good, looked at as far as `depth` says; those of models
    /// always as a whole.
    ///
    /// # Errors
    /// I/O errors.
    pub fn bad_copies(&self, depth: Depth) -> Result<Vec<BadCopy>, StoreError> {
        let mut bad = Vec::new();
        let mut take = |thing, copy, path, condition: Condition, other_serves| {
            if !condition.is_good() {
                bad.push(BadCopy {
                    thing,
                    copy,
                    path,
                    condition,
                    other_serves,
                });
            }
        };
        for id in self.models.stored()? {
            let [first, second] = [Copy::First, Copy::Second].map(|c| self.models.condition(id, c));
            let (first, second) = (first?, second?);
            let path = |copy| models::path_of(id, copy);
            let thing = Thing::Model(id);
            let built_in = models::is_built_in(id);
            let serves = [second.is_good() || built_in, first.is_good() || built_in];
            take(thing, Copy::First, path(Copy::First), first, serves[0]);
            take(thing, Copy::Second, path(Copy::Second), second, serves[1]);
        }
        for id in self.primers.stored()? {
            let [first, second] =
                [Copy::First, Copy::Second].map(|c| self.primers.condition(id, c, depth));
            let (first, second) = (first?, second?);
            let path = |copy| primers::path_of(id, copy);
            let thing = Thing::Primer(id);
            let serves = [second.is_good(), first.is_good()];
            take(thing, Copy::First, path(Copy::First), first, serves[0]);
            take(thing, Copy::Second, path(Copy::Second), second, serves[1]);
        }
        Ok(bad)
    }

    /// The state after a primer.
    ///
    /// # Errors
    /// `MissingPrimer`, `BadPrimer` if its file is damaged, I/O errors.
    pub fn primed(&self, id: PrimerId) -> Result<Arc<Start>, StoreError> {
        self.starts.get_or_make(Key::Primer(id), || {
            Ok(Start::then(None, &self.primers.load(id)?, None))
        })
    }
}
