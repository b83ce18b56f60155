//! Why a measurement does not come about.

use std::io;
use std::process::ExitStatus;

use crate::engine::EngineError;
use crate::store::StoreError;

/// See the module.
#[derive(Debug, thiserror::Error)]
pub enum BenchError {
    /// The file could not be read, or not be sealed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The model could not be run.
    #[error(transparent)]
    Engine(#[from] EngineError),
    /// What was stored is not what is read.
    #[error("byte {0} and after do not read back as they were stored")]
    Differs(u64),
    /// Another compressor could not be run.
    #[error("{name}: {source}")]
    Peer {
        /// The compressor.
        name: &'static str,
        /// The system's answer.
        source: io::Error,
    },
    /// Another compressor's program failed.
    #[error("{name}: {status}: {message}")]
    PeerFailed {
        /// The compressor.
        name: &'static str,
        /// How it ended.
        status: ExitStatus,
        /// The last line that it said.
        message: String,
    },
    /// Another compressor gave other bytes back.
    #[error("{0} does not give the file back as it was")]
    PeerDiffers(&'static str),
}

impl BenchError {
    /// Whether stored bytes are wrong, as against a failing system.
    #[must_use]
    pub fn is_damage(&self) -> bool {
        match self {
            BenchError::Store(StoreError::ReadBack { .. }) | BenchError::Differs(_) => true,
            BenchError::Store(e) => e.is_damage(),
            _ => false,
        }
    }

    /// For `map_err` on what the system answers to another compressor.
    pub(super) fn peer(name: &'static str) -> impl Fn(io::Error) -> BenchError {
        move |source| BenchError::Peer { name, source }
    }
}
