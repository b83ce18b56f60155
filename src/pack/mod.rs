//! Packing: which files to re-encode, and how a re-encoded file replaces the old one.
//!
//! A file is replaced only by what was read back, decoded and compared with it, and only if nobody wrote to it meanwhile.
//! Whatever goes wrong with one file leaves that file as it was and the others to be worked on. A job is a pure function of a
//! file system, a list of paths and options; it runs in the daemon that has the archive mounted, on behalf of
//! a client ([`protocol`]), or in a command that holds the archive itself.

pub mod client;
mod file;
pub mod idle;
mod job;
pub mod locate;
mod paced;
mod plain;
mod primers;
pub mod protocol;
mod rest;
mod room;
pub mod scrub;
mod second_look;
mod settled;
pub mod status;
pub mod tally;
mod walk;

#[cfg(test)]
mod again_tests;
#[cfg(test)]
mod tests;

use std::path::PathBuf;

pub use job::run;

use crate::fs::FsError;
use crate::segment::DEFAULT_BLOCK;
use crate::store::StoreError;

/// Profile used where nothing else is said.
pub const DEFAULT_PROFILE: &str = "fast";

/// What a job uses where it does not say.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Defaults {
    /// Profile to encode with.
    pub profile: String,
    /// Bytes in a block.
    pub block_size: u32,
}

impl Default for Defaults {
    fn default() -> Self {
        Defaults {
            profile: DEFAULT_PROFILE.to_string(),
            block_size: DEFAULT_BLOCK,
        }
    }
}

/// Which way a job goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Direction {
    /// To packed segments.
    Pack,
    /// To plain files.
    Unpack,
}

/// Why a job could not be done at all. What happens to single files is reported by them.
#[derive(Debug, thiserror::Error)]
pub enum PackError {
    /// A path of the job is not there or cannot be read.
    #[error("{}: {}", .0.display(), .1)]
    Path(PathBuf, FsError),
    /// A path of the job is neither a file nor a directory.
    #[error("{}: is neither a regular file nor a directory", .0.display())]
    NotPackable(PathBuf),
    /// The job names a block size that no segment has.
    #[error("a block can not have {0} bytes; ask for a power of two from 16384 to 1048576")]
    BlockSize(u32),
    /// The profile is not usable, or the archive fails.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The archive fails.
    #[error(transparent)]
    Fs(#[from] FsError),
    /// New forms might not fit beside the old ones.
    #[error(
        "{}: with what is dealt with beside it, it needs up to {needed} bytes more than what is there, and only {free} are free; \
         free some space first",
        path.display()
    )]
    NoSpace {
        /// The largest file.
        path: PathBuf,
        /// Bytes that the job may need at one moment.
        needed: u64,
        /// Bytes that there are.
        free: u64,
    },
    /// Stopped before anything was done.
    #[error("cancelled")]
    Cancelled,
}
