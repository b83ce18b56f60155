//! Training: from files to a model file.
//!
//! Promises: data are fetched block by block and never loaded as a whole; the order of the windows follows from the seed; the held-out
//! part of the data is never trained on; profiles and checkpoints are replaced in one step, so each is always whole; a
//! run that goes on from a checkpoint ends as one that never stopped, bit by bit; what is reported as held-out bits per byte is what the
//! integer engine gives on whole blocks.

mod checkpoint;
mod compare;
mod data;
mod evaluate;
mod exported;
mod gradient;
mod metrics;
mod optimiser;
mod replace;
mod run;
mod settings;
mod workers;
mod yaml;

pub use checkpoint::{Checkpoint, Plan};
pub use compare::Comparison;
pub use data::{BLOCK, Corpus, Decoder, Input, Source};
pub use evaluate::{Score, evaluate_block, evaluate_reaching, mean, perplexity, ratio};
pub use exported::Exported;
pub use metrics::Line;
pub use run::{Goal, Progress, Summary, train};
pub use settings::{Dataset, Settings, Training};
pub use workers::{Done, Workers, work};

use std::path::PathBuf;

/// Why training can not start or go on.
#[derive(Debug, thiserror::Error)]
pub enum TrainError {
    /// A file of the user's can not be read or written.
    #[error("{path}: {error}", path = path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// The system's reason.
        error: std::io::Error,
    },
    /// The configuration file is wrong.
    #[error("{path}: {reason}", path = path.display())]
    Settings {
        /// The file.
        path: PathBuf,
        /// One line.
        reason: String,
    },
    /// There is nothing to train on.
    #[error("none of {files} files has {window} bytes, as many as a training window")]
    Data {
        /// Files that were looked at.
        files: usize,
        /// Bytes of a window.
        window: usize,
    },
    /// A file was cut while it was trained on.
    #[error("{path}: became shorter while it was trained on", path = path.display())]
    Shorter {
        /// The file.
        path: PathBuf,
    },
    /// A block can not be decoded.
    #[error("{line}")]
    Decode {
        /// File, reason and remedy.
        line: String,
        /// Whether bytes on disk are wrong, as against a failing system or a missing model.
        damaged: bool,
    },
    /// The file is no checkpoint, or a damaged one.
    #[error("{path}: {reason}", path = path.display())]
    BadCheckpoint {
        /// The file.
        path: PathBuf,
        /// One line.
        reason: String,
    },
    /// The run can not go on as the one of the checkpoint.
    #[error("{path}: is the checkpoint of a run with another {what}", path = path.display())]
    Mismatch {
        /// The checkpoint.
        path: PathBuf,
        /// What differs.
        what: &'static str,
    },
    /// A run that is not resumed would overwrite the checkpoint of one that was interrupted.
    #[error("{path}: is the checkpoint of an unfinished run", path = path.display())]
    Unfinished {
        /// The checkpoint.
        path: PathBuf,
    },
    /// The model to start from does not fit.
    #[error(transparent)]
    Import(#[from] crate::model::ImportError),
    /// The engine refuses the exported model.
    #[error(transparent)]
    Engine(#[from] crate::engine::EngineError),
    /// Candle failed.
    #[error("training step: {0}")]
    Candle(#[from] candle_core::Error),
    /// The other compressors failed.
    #[error("comparison with zstd and xz: {0}")]
    Compare(std::io::Error),
    /// The other side of a run on several machines.
    #[error("{address}: {reason}")]
    Remote {
        /// Its address, or that to listen on.
        address: String,
        /// One line.
        reason: String,
    },
    /// The plot could not be drawn.
    #[error("plot: {0}")]
    Plot(String),
}

impl TrainError {
    fn io(path: impl Into<PathBuf>) -> impl FnOnce(std::io::Error) -> TrainError {
        let path = path.into();
        move |error| TrainError::Io { path, error }
    }

    fn is_damage(&self) -> bool {
        matches!(self, TrainError::Decode { damaged: true, .. })
    }
}
