//! What can go wrong in the store, with the path or block it happened to.

use std::io;
use std::path::PathBuf;

use super::twins::Condition;
use crate::codec::{CodecError, ModelId, PrimerId};
use crate::segment::SegmentError;

/// An error of the store. `Damaged` and its like mean that bytes on disk are wrong; the others leave data intact.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// A system call failed.
    #[error("{path}: {source}")]
    Io {
        /// What was worked on.
        path: PathBuf,
        /// The system's answer.
        source: io::Error,
    },
    /// The directory has no `.vortex`.
    #[error("{0}: not a vortex-fs archive (it has no .vortex directory)")]
    NotAnArchive(PathBuf),
    /// Others could put what they like into files through the private directory.
    #[error("{path}: its .vortex directory {fault}; {remedy}")]
    Untrusted {
        /// The archive.
        path: PathBuf,
        /// What is wrong with the directory.
        fault: String,
        /// What to do.
        remedy: &'static str,
    },
    /// Another process writes to the archive.
    #[error(
        "{0}: the archive is in use by another writer; unmount it first, or mount with --read-only"
    )]
    Busy(PathBuf),
    /// The archive was made by another version.
    #[error(
        "{path}: archive format {found:?} is not known to this version; use the version that wrote it or a newer one"
    )]
    UnknownFormat {
        /// The archive.
        path: PathBuf,
        /// First line of its format file.
        found: String,
    },
    /// The archive's format file does not say which version made it.
    #[error(
        "{0}: is damaged, and its copy in copies too; if this version made the archive, write the line `vortex-fs {format}` to it",
        format = super::format::FORMAT
    )]
    DamagedFormat(PathBuf),
    /// A block names a model that is neither in the archive nor built in.
    #[error(
        "model {0} is missing; copy its file into the archive's .vortex/models, or name it with --profile"
    )]
    MissingModel(ModelId),
    /// A model file does not load.
    #[error("{name}: not a usable model: {reason}")]
    BadModel {
        /// Path or name of the model.
        name: String,
        /// Why it does not load.
        reason: String,
    },
    /// A block starts from a primer that is not in the archive.
    #[error(
        "primer {0} is missing; copy its file into the archive's .vortex/primers, or name its bytes with --primer"
    )]
    MissingPrimer(PrimerId),
    /// A primer's file is damaged.
    #[error("primer {id} is damaged: {reason}; restore .vortex/primers/{id} from a backup")]
    BadPrimer {
        /// The primer.
        id: PrimerId,
        /// What is wrong with it.
        reason: String,
    },
    /// No profile has this name.
    #[error("no profile {name:?}: {remedy}")]
    UnknownProfile {
        /// The name asked for.
        name: String,
        /// Known names, or how to get this one.
        remedy: String,
    },
    /// The segment's structure is damaged or the segment can not be read.
    #[error(transparent)]
    Segment(#[from] SegmentError),
    /// A block's payload does not decode.
    #[error("block {block} does not decode: {source}")]
    Decode {
        /// The block's number in its file.
        block: u64,
        /// What the codec found.
        source: CodecError,
    },
    /// A block decodes to bytes that do not match their checksum.
    #[error(
        "block {block} decodes to other bytes than were stored (checksum {got:08x}, expected {expected:08x})"
    )]
    Checksum {
        /// The block's number in its file.
        block: u64,
        /// The checksum in the index.
        expected: u32,
        /// The checksum of what was decoded.
        got: u32,
    },
    /// The bytes that a block was coded from are damaged.
    #[error("block {block} was coded from bytes before it that are lost: {source}")]
    Start {
        /// The block's number in its file.
        block: u64,
        /// What is wrong with those.
        source: Box<StoreError>,
    },
    /// A block names a start state that its segment does not have.
    #[error("the segment has no start state {0}")]
    NoStart(u16),
    /// A freshly sealed segment does not read back as its source; the source was left as it was.
    #[error("block {block} does not read back as it was written; the original was left untouched")]
    ReadBack {
        /// The block's number in its file.
        block: u64,
    },
    /// A segment is too damaged to tell which models and primers it names.
    #[error(
        "{0}: is damaged, so what it needs is not known; repair it first, and discard originals that do not open"
    )]
    Unclear(PathBuf),
    /// A damaged file that is in no archive has several names, and only one of them would lead to what replaces it.
    #[error(
        "it has {0} names and is in no archive; remove all but one, repair that, and link it again"
    )]
    SeveralNames(u64),
    /// A damaged file has names that do not lie in its archive, or where this process may not look.
    #[error(
        "it has {names} names, of which {here} can be changed in this archive; move the others into it, or remove them"
    )]
    NamesElsewhere {
        /// All its names.
        names: u64,
        /// Those that were found.
        here: u64,
    },
    /// A repaired file has taken some names of the damaged one but can not take this one.
    #[error(
        "{path}: the repair of this file is not finished: {source}; mend that and repair or mount again, or mount with --read-only"
    )]
    UnfinishedRepair {
        /// The name that still leads to the damaged file, below the archive's directory.
        path: PathBuf,
        /// The system's answer.
        source: io::Error,
    },
    /// A damaged file's owner or extended attributes can not be given to what replaces it.
    #[error("its owner or extended attributes can not be kept; run this as its owner or as root")]
    Attributes,
    /// Somebody changed the file that was being worked on.
    #[error("it was changed meanwhile; nothing was done, try again")]
    Changed,
    /// The work was cancelled.
    #[error("cancelled")]
    Cancelled,
}

impl StoreError {
    /// Names the path that an I/O error happened to.
    pub fn io(path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> StoreError {
        let path = path.into();
        move |source| StoreError::Io { path, source }
    }

    /// This failure to read one of two copies, as the condition that the copy is in.
    ///
    /// # Errors
    /// The failure itself, where it says nothing of the copy.
    pub(super) fn into_condition(self) -> Result<Condition, StoreError> {
        match self.spoils() {
            Some(why) => Ok(Condition::Bad(why)),
            None => Err(self),
        }
    }

    /// Why the copy is bad, if the failure says so.
    pub(super) fn spoils(&self) -> Option<String> {
        match self {
            StoreError::BadModel { reason, .. } | StoreError::BadPrimer { reason, .. } => {
                Some(reason.clone())
            }
            StoreError::Io { source, .. }
                if self.is_medium_error() || source.kind() == io::ErrorKind::FileTooLarge =>
            {
                Some(source.to_string())
            }
            _ => None,
        }
    }

    /// This failure to make a start state, as a failure to read a block that needs it.
    pub(super) fn of_start(self, block: u64) -> StoreError {
        match self {
            // Clear enough, and no fault of the block.
            StoreError::MissingPrimer(_)
            | StoreError::BadPrimer { .. }
            | StoreError::MissingModel(_)
            | StoreError::BadModel { .. } => self,
            other => StoreError::Start {
                block,
                source: Box::new(other),
            },
        }
    }

    /// Whether bytes on disk are wrong, as against a failing system or a mistaken call.
    #[must_use]
    pub fn is_damage(&self) -> bool {
        match self {
            StoreError::Segment(e) => e.is_damage(),
            StoreError::Decode { .. }
            | StoreError::Checksum { .. }
            | StoreError::NoStart(_)
            | StoreError::DamagedFormat(_)
            | StoreError::BadPrimer { .. } => true,
            StoreError::Start { source, .. } => source.is_damage(),
            _ => false,
        }
    }

    /// Whether the disk does not give its bytes back.
    #[must_use]
    pub fn is_medium_error(&self) -> bool {
        self.raw_os_error() == Some(rustix::io::Errno::IO.raw_os_error())
    }

    /// The system's error number behind this error, if there is one.
    #[must_use]
    pub fn raw_os_error(&self) -> Option<i32> {
        match self {
            StoreError::Io { source, .. } | StoreError::UnfinishedRepair { source, .. } => {
                source.raw_os_error()
            }
            StoreError::Segment(SegmentError::Io(source)) => source.raw_os_error(),
            StoreError::Start { source, .. } => source.raw_os_error(),
            _ => None,
        }
    }
}
