//! Checkpoints: all that a run needs to go on as if it had never stopped.
//!
//! One safetensors file: `weights.*`, `first.*` and `second.*` are the masters and the moments of AdamW in f32, `init` the
//! profile that the run started from, and the metadata [`Header`] as JSON. The order of the data needs no more than the seed and the step.
//! A hash covers all of it, so a file that was cut or changed is told from a good one.

use super::optimiser::AdamW;
use super::replace::replace;
use super::{Corpus, Settings, TrainError};
use crate::model::Params;
use candle_core::Tensor;
use safetensors::tensor::TensorView;
use safetensors::{Dtype, SafeTensors};
use serde::{Deserialize, Serialize};
use std::collections::HashMap;
use std::io::Read;
use std::path::{Path, PathBuf};

const METADATA_KEY: &str = "vortex-fs-checkpoint";
const VERSION: u32 = 1;
/// Longest checkpoint that is read: the largest model has far less.
const MAX_BYTES: u64 = 4 << 30;

/// How long a run goes on, and what decides the course of it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Plan {
    /// Seed of the starting values and of the order of the data.
    pub seed: u64,
    /// Steps of the run, if they limit it.
    pub steps: Option<u64>,
    /// Minutes of the run, if they limit it.
    pub minutes: Option<f64>,
}

/// How far a run is.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct State {
    /// Steps done.
    pub step: u64,
    /// Seconds spent, with those before earlier stops.
    pub seconds: f64,
    /// Evaluations done.
    pub evaluations: u32,
    /// Mean held-out bits per byte at the last of them.
    pub held_out: Option<f64>,
    /// Sum of the losses since the last line of metrics.
    pub recent: f64,
    /// Their number.
    pub losses: u32,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
struct Header {
    version: u32,
    plan: Plan,
    /// The configuration as JSON text, to be compared as such.
    settings: String,
    /// [`Corpus::fingerprint`].
    data: String,
    state: State,
}

/// A run that stopped.
pub struct Checkpoint {
    path: PathBuf,
    header: Header,
    /// The file without its hash.
    bytes: Vec<u8>,
}

/// What of a run goes into a checkpoint, beside its state.
pub(super) struct Parts<'a> {
    pub plan: &'a Plan,
    pub settings: &'a Settings,
    pub corpus: &'a Corpus,
    pub params: &'a Params,
    pub optimiser: &'a AdamW,
    pub init: Option<&'a [u8]>,
}

impl Parts<'_> {
    /// Puts a checkpoint of this run at `path`, in one step.
    ///
    /// # Errors
    /// [`TrainError::Io`]; what was at `path` before is then still there.
    pub(super) fn write(&self, state: &State, path: &Path) -> Result<(), TrainError> {
        let header = Header {
            version: VERSION,
            plan: self.plan.clone(),
            settings: text_of(self.settings),
            data: self.corpus.fingerprint(),
            state: state.clone(),
        };
        let mut tensors = Vec::new();
        for ((name, var), (first, second)) in self.params.iter().zip(self.optimiser.moments()) {
            let values = var.flatten_all()?.to_vec1::<f32>()?;
            for (kind, values) in [("weights", &values), ("first", first), ("second", second)] {
                let bytes: Vec<u8> = values.iter().flat_map(|v| v.to_le_bytes()).collect();
                tensors.push((format!("{kind}.{name}"), var.dims().to_vec(), bytes));
            }
        }
        let mut views = tensors
            .iter()
            .map(|(name, shape, bytes)| {
                let view = TensorView::new(Dtype::F32, shape.clone(), bytes)?;
                Ok((name.as_str(), view))
            })
            .collect::<Result<Vec<_>, safetensors::SafeTensorError>>()
            .map_err(crate::model::ImportError::from)?;
        if let Some(init) = self.init {
            let view = TensorView::new(Dtype::U8, vec![init.len()], init);
            views.push(("init", view.map_err(crate::model::ImportError::from)?));
        }
        let header = serde_json::to_string(&header).map_err(crate::model::ImportError::from)?;
        let metadata = HashMap::from([(METADATA_KEY.to_owned(), header)]);
        let mut bytes = safetensors::serialize(views, Some(metadata))
            .map_err(crate::model::ImportError::from)?;
        let hash = blake3::hash(&bytes);
        bytes.extend_from_slice(hash.as_bytes());
        replace(path, &bytes)
    }
}

impl Checkpoint {
    /// Reads and checks a checkpoint.
    ///
    /// # Errors
    /// It can not be read, is none, or is damaged.
    pub fn read(path: &Path) -> Result<Checkpoint, TrainError> {
        let bad = |reason: &str| TrainError::BadCheckpoint {
            path: path.to_owned(),
            reason: reason.to_owned(),
        };
        let mut bytes = Vec::new();
        std::fs::File::open(path)
            .and_then(|file| file.take(MAX_BYTES).read_to_end(&mut bytes))
            .map_err(TrainError::io(path))?;
        let at = bytes.len().saturating_sub(blake3::OUT_LEN);
        let hash = bytes.split_off(at);
        let whole = *blake3::hash(&bytes).as_bytes() == hash[..];
        let header = SafeTensors::read_metadata(&bytes)
            .ok()
            .and_then(|(_, metadata)| metadata.metadata().clone()?.remove(METADATA_KEY))
            .and_then(|json| serde_json::from_str::<Header>(&json).ok());
        match header {
            None => Err(bad("is no checkpoint of this version of the program")),
            Some(header) if header.version != VERSION => Err(bad("is of another version")),
            Some(_) if !whole => Err(bad("is damaged: its hash is wrong")),
            Some(header) => Ok(Checkpoint {
                path: path.to_owned(),
                header,
                bytes,
            }),
        }
    }

    /// What the run was asked for.
    pub fn plan(&self) -> &Plan {
        &self.header.plan
    }

    /// Steps done.
    pub fn steps(&self) -> u64 {
        self.header.state.step
    }

    /// Whether it is the file at `path`, under whatever name.
    pub(super) fn is_at(&self, path: &Path) -> bool {
        match (self.path.canonicalize(), path.canonicalize()) {
            (Ok(a), Ok(b)) => a == b,
            _ => false,
        }
    }

    /// The profile that the run started from.
    pub fn init(&self) -> Option<Vec<u8>> {
        let file = SafeTensors::deserialize(&self.bytes).ok()?;
        Some(file.tensor("init").ok()?.data().to_vec())
    }

    /// Refuses a run that would not go on as this one did.
    ///
    /// # Errors
    /// [`TrainError::Mismatch`] that names what differs.
    pub(super) fn check(
        &self,
        plan: &Plan,
        settings: &Settings,
        corpus: &Corpus,
    ) -> Result<(), TrainError> {
        let differs = [
            (self.header.settings != text_of(settings), "configuration"),
            (self.header.data != corpus.fingerprint(), "data"),
            (self.header.plan != *plan, "length or seed"),
        ];
        match differs.iter().find(|(differs, _)| *differs) {
            Some((_, what)) => Err(TrainError::Mismatch {
                path: self.path.clone(),
                what,
            }),
            None => Ok(()),
        }
    }

    /// The masters, the optimiser and how far they are.
    ///
    /// # Errors
    /// A tensor is missing or of another shape.
    pub(super) fn restore(
        &self,
        params: &Params,
        optimiser: &mut AdamW,
    ) -> Result<State, TrainError> {
        let bad = |name: &str| TrainError::BadCheckpoint {
            path: self.path.clone(),
            reason: format!("has no good tensor {name}"),
        };
        let file =
            SafeTensors::deserialize(&self.bytes).map_err(crate::model::ImportError::from)?;
        let floats = |name: &str, len: usize| -> Result<Vec<f32>, TrainError> {
            let tensor = file.tensor(name).map_err(|_| bad(name))?;
            let (values, rest) = tensor.data().as_chunks::<4>();
            if tensor.dtype() != Dtype::F32 || values.len() != len || !rest.is_empty() {
                return Err(bad(name));
            }
            Ok(values.iter().map(|&v| f32::from_le_bytes(v)).collect())
        };
        let mut moments = Vec::new();
        for (name, var) in params {
            let len = var.elem_count();
            let values = floats(&format!("weights.{name}"), len)?;
            var.set(&Tensor::from_vec(values, var.shape(), var.device())?)?;
            moments.push((
                floats(&format!("first.{name}"), len)?,
                floats(&format!("second.{name}"), len)?,
            ));
        }
        optimiser.restore(moments, self.header.state.step);
        Ok(self.header.state.clone())
    }
}

fn text_of(settings: &Settings) -> String {
    serde_json::to_string(settings).unwrap_or_default()
}
