//! Why a comparison of file systems does not come about.

use std::io;
use std::path::{Path, PathBuf};

/// See the module.
#[derive(Debug, thiserror::Error)]
pub enum FsBenchError {
    /// Making and mounting file systems is for root.
    #[error("bench fs makes file systems and mounts them: run it as root")]
    NotRoot,
    /// No file to make telemetry from.
    #[error(
        "none of the given files holds a byte; name files of telemetry, or directories with some"
    )]
    NoData,
    /// A system call failed.
    #[error("{}: {source}", path.display())]
    Io {
        /// What was worked on.
        path: PathBuf,
        /// The system's answer.
        source: io::Error,
    },
    /// A program failed.
    #[error("`{command}` failed: {message}")]
    Command {
        /// The command line.
        command: String,
        /// What it said last.
        message: String,
    },
    /// A file system gives other bytes back than were written to it.
    #[error("{system}: {} does not read back as it was written", path.display())]
    Different {
        /// The file system.
        system: &'static str,
        /// The file.
        path: PathBuf,
    },
    /// The user stopped it.
    #[error("stopped; everything that was made is removed")]
    Stopped,
}

/// What measuring answers.
pub(super) type Result<T> = std::result::Result<T, FsBenchError>;

/// For `map_err` on what the system answers about a path.
pub(super) fn at(path: &Path) -> impl Fn(io::Error) -> FsBenchError {
    let path = path.to_path_buf();
    move |source| FsBenchError::Io {
        path: path.clone(),
        source,
    }
}
