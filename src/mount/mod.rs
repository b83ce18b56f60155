//! The mount: FUSE adapter, daemon, and what the `mount` and `umount` commands need.
//!
//! The adapter turns one kernel request into one call of [`crate::fs::Fs`] and its result into one
//! reply; it decides nothing about files. A panic inside a call answers `EIO` and is logged, it
//! never takes the daemon down. Nothing outside this module knows fuser.
//!
//! The daemon owns the archive for as long as it runs. It is ready when the caller's prompt
//! returns, and everything is durable when it is gone.

mod adapter;
mod buffer;
mod check;
mod control;
mod convert;
mod daemon;
mod evict;
mod exposition;
mod figures;
mod kernel;
mod linger;
mod listing;
mod logfile;
mod memory;
mod metrics;
mod options;
mod passthrough;
mod privileges;
mod requests;
mod session;
mod set_ids;
mod spawn;
mod status;
mod syslog;
mod table;
mod umount;

pub use check::{absolute, check_backing, check_mountpoint, hides_entries};
pub use daemon::{MountSettings, serve};
pub use memory::LEAST_MEMORY;
pub use metrics::MetricsAddr;
pub use options::{OptionError, Options};
pub use spawn::{DAEMON_ENV, in_background, launch};
pub use status::status;
pub use table::{MountEntry, find_mount, vortex_mounts};
pub use umount::{Unmounted, umount};

/// What the environment refuses: each message is one line and says what to do.
#[derive(Debug, thiserror::Error)]
pub enum MountError {
    /// The mountpoint, the backing directory or the system does not allow the mount.
    #[error("{0}")]
    Refused(String),
    /// The archive could not be opened.
    #[error(transparent)]
    Store(#[from] crate::store::StoreError),
    /// The last commit failed: what was written since the previous one may be lost.
    #[error("{0}")]
    NotDurable(String),
}
