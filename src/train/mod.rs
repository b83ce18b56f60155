//! Training: from files to a model file.
//!
//! Promises: data are memory-mapped and never loaded as a whole; the order of the windows follows from the seed; the held-out
//! part of the data is never trained on; the output file is replaced in one step, so it is always a whole
//! model; what is reported as held-out bits per byte is what the integer engine gives on whole blocks.

mod data;
mod evaluate;
mod optimiser;
mod run;
mod settings;

pub use data::{BLOCK, Corpus, Source};
pub use evaluate::{Score, evaluate_block, evaluate_held_out};
pub use run::{Goal, Progress, Summary, train};
pub use settings::{Dataset, Settings, Training};

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
    #[error("no data: {0}")]
    Data(String),
    /// The model to start from does not fit.
    #[error(transparent)]
    Import(#[from] crate::model::ImportError),
    /// The engine refuses the exported model.
    #[error(transparent)]
    Engine(#[from] crate::engine::EngineError),
    /// Candle failed.
    #[error("training step: {0}")]
    Candle(#[from] candle_core::Error),
}

impl TrainError {
    fn io(path: impl Into<PathBuf>) -> impl FnOnce(std::io::Error) -> TrainError {
        let path = path.into();
        move |error| TrainError::Io { path, error }
    }
}
