//! Errors of the file system's operations, and the one table that turns them into error numbers.
//!
//! Nothing else in the crate decides an errno. Damaged data is always `EIO`.

use std::sync::Arc;

use rustix::io::Errno;

use crate::segment::SegmentError;
use crate::store::StoreError;

/// Result of a file system operation.
pub type Result<T> = std::result::Result<T, FsError>;

/// Why an operation failed. Cheap to clone: waiters for one decode share its error.
#[derive(Debug, Clone, thiserror::Error)]
pub enum FsError {
    /// The backing file system refused.
    #[error("{0}")]
    Backing(Errno),
    /// No entry has this name.
    #[error("no such file or directory")]
    NotFound,
    /// The name is taken.
    #[error("file exists")]
    Exists,
    /// A directory was needed.
    #[error("not a directory")]
    NotADirectory,
    /// Something else than a directory was needed.
    #[error("is a directory")]
    IsADirectory,
    /// The name is longer than `names::NAME_MAX`.
    #[error("file name too long")]
    NameTooLong,
    /// The archive, or the mount, is read-only.
    #[error("read-only archive")]
    ReadOnly,
    /// The node number is not known (any more).
    #[error("stale node")]
    Stale,
    /// The handle is not open, or not for this.
    #[error("bad file handle")]
    BadHandle,
    /// An argument makes no sense.
    #[error("invalid argument")]
    Invalid,
    /// Not possible on this archive.
    #[error("operation not supported")]
    NotSupported,
    /// The backing file system is full.
    #[error("no space left on the backing file system")]
    NoSpace,
    /// Beyond the largest file.
    #[error("file too large")]
    TooLarge,
    /// The directory for the disk cache can not be used.
    #[error("disk cache {}: {}", .0.display(), .1)]
    DiskCache(std::path::PathBuf, std::sync::Arc<std::io::Error>),
    /// No data or hole at or after the offset.
    #[error("no such data or hole")]
    NoSuchOffset,
    /// The store failed, or found damage.
    #[error("{0}")]
    Store(Arc<StoreError>),
    /// A write in the background failed earlier; told once to the next caller.
    #[error("an earlier write failed: {0}")]
    Deferred(Box<FsError>),
    /// The file changed between segment and plain file meanwhile. The operation is tried again; nobody sees this.
    #[error("the file is being packed or unpacked")]
    Moved,
    /// A bug made another thread panic while it worked for this caller.
    #[error("internal error")]
    Internal,
}

impl FsError {
    /// The error number that a program sees.
    #[must_use]
    pub fn errno(&self) -> i32 {
        let errno = match self {
            FsError::Backing(errno) => *errno,
            FsError::NotFound => Errno::NOENT,
            FsError::Exists => Errno::EXIST,
            FsError::NotADirectory => Errno::NOTDIR,
            FsError::IsADirectory => Errno::ISDIR,
            FsError::NameTooLong => Errno::NAMETOOLONG,
            FsError::ReadOnly => Errno::ROFS,
            FsError::Stale => Errno::STALE,
            FsError::BadHandle => Errno::BADF,
            FsError::Invalid => Errno::INVAL,
            FsError::NotSupported => Errno::OPNOTSUPP,
            FsError::NoSpace => Errno::NOSPC,
            FsError::TooLarge => Errno::FBIG,
            FsError::NoSuchOffset => Errno::NXIO,
            FsError::Store(error) => return store_errno(error),
            FsError::Deferred(error) => return error.errno(),
            FsError::Moved => Errno::AGAIN,
            FsError::Internal | FsError::DiskCache(..) => Errno::IO,
        };
        errno.raw_os_error()
    }

    /// Whether stored bytes are wrong, as against a failing system or a mistaken call.
    #[must_use]
    pub fn is_damage(&self) -> bool {
        match self {
            FsError::Store(error) => error.is_damage(),
            FsError::Deferred(error) => error.is_damage(),
            _ => false,
        }
    }

    /// The same failure, to be reported by a later call.
    pub(super) fn deferred(self) -> FsError {
        match self {
            FsError::Deferred(_) => self,
            other => FsError::Deferred(Box::new(other)),
        }
    }
}

fn store_errno(error: &StoreError) -> i32 {
    let errno = match error {
        StoreError::Io { .. } | StoreError::Segment(SegmentError::Io(_)) => {
            return error.raw_os_error().unwrap_or(Errno::IO.raw_os_error());
        }
        StoreError::Start { source, .. } => return store_errno(source),
        StoreError::Segment(SegmentError::Refused(_)) => Errno::FBIG,
        StoreError::NotAnArchive(_) => Errno::NOENT,
        StoreError::Busy(_) | StoreError::Changed => Errno::BUSY,
        StoreError::SeveralNames(_) | StoreError::NamesElsewhere { .. } => Errno::MLINK,
        StoreError::Attributes | StoreError::Untrusted { .. } => Errno::PERM,
        StoreError::Cancelled => Errno::CANCELED,
        StoreError::Segment(_)
        | StoreError::UnknownFormat { .. }
        | StoreError::DamagedFormat(_)
        | StoreError::MissingModel(_)
        | StoreError::MissingPrimer(_)
        | StoreError::BadPrimer { .. }
        | StoreError::NoStart(_)
        | StoreError::BadModel { .. }
        | StoreError::UnknownProfile { .. }
        | StoreError::Decode { .. }
        | StoreError::Checksum { .. }
        | StoreError::Unclear(_)
        | StoreError::UnfinishedRepair { .. }
        | StoreError::ReadBack { .. } => Errno::IO,
    };
    errno.raw_os_error()
}

impl From<Errno> for FsError {
    fn from(errno: Errno) -> Self {
        match errno {
            Errno::NOENT => FsError::NotFound,
            Errno::EXIST => FsError::Exists,
            Errno::NOSPC => FsError::NoSpace,
            Errno::ROFS => FsError::ReadOnly,
            other => FsError::Backing(other),
        }
    }
}

impl From<std::io::Error> for FsError {
    fn from(error: std::io::Error) -> Self {
        match error.raw_os_error() {
            Some(raw) => Errno::from_raw_os_error(raw).into(),
            None => FsError::Store(Arc::new(StoreError::io("backing file")(error))),
        }
    }
}

impl From<StoreError> for FsError {
    fn from(error: StoreError) -> Self {
        match error.raw_os_error() {
            Some(raw) if raw == Errno::NOSPC.raw_os_error() => FsError::NoSpace,
            _ => FsError::Store(Arc::new(error)),
        }
    }
}

impl From<SegmentError> for FsError {
    fn from(error: SegmentError) -> Self {
        StoreError::from(error).into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn system_errors_keep_their_number_and_damage_is_eio() {
        assert_eq!(
            FsError::from(Errno::XDEV).errno(),
            Errno::XDEV.raw_os_error()
        );
        assert_eq!(
            FsError::from(Errno::NOSPC).errno(),
            Errno::NOSPC.raw_os_error()
        );
        let full = std::io::Error::from_raw_os_error(Errno::NOSPC.raw_os_error());
        assert_eq!(
            FsError::from(StoreError::io("x")(full)).errno(),
            Errno::NOSPC.raw_os_error()
        );
        let damage = FsError::from(StoreError::Checksum {
            block: 1,
            expected: 2,
            got: 3,
        });
        assert!(damage.is_damage());
        assert_eq!(damage.deferred().errno(), Errno::IO.raw_os_error());
    }
}
