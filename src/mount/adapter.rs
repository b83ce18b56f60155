//! From a call of [`Fs`] to a reply: `Ok` becomes the value, `Err` the errno, a panic `EIO`.

use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Duration;

use fuser::{
    Errno, FileHandle, Generation, INodeNo, RenameFlags, ReplyEmpty, ReplyEntry, ReplyXattr,
    Request,
};
use rustix::fs::OFlags;

use super::convert::file_attr;
use super::figures::Figures;
use super::linger::Linger;
use super::listing::Listings;
use super::passthrough::Passthrough;
use super::set_ids::SetIds;
use crate::fs::{Attr, Caller, Fh, Fs, FsError, NodeId};

/// How long the kernel may answer from what it was told where everything changes through this mount, or is told to it.
const TTL: Duration = Duration::from_secs(60);

/// The same for a read-only mount, beside which there may be a writer.
const TTL_READ_ONLY: Duration = Duration::from_secs(1);

/// A node number is not used again while the kernel knows it, so one generation will do.
pub(super) const GENERATION: Generation = Generation(0);

/// The name under which the root directory says who serves it: hidden from listings.
pub(super) const DAEMON_XATTR: &str = "user.vortex.daemon";

/// The name under which it gives its figures to the daemon's own user and root.
pub(super) const STATUS_XATTR: &str = "user.vortex.status";

thread_local! {
    static IN_CALL: Cell<bool> = const { Cell::new(false) };
}

/// Whether a panic of this thread, now, is caught and answered.
pub(super) fn in_call() -> bool {
    IN_CALL.get()
}

/// [`Fs`] as fuser's trait.
pub(super) struct Adapter {
    fs: Arc<Fs>,
    pub(super) read_only: bool,
    /// How long the kernel may answer from what it was told.
    pub(super) ttl: Duration,
    /// The value of [`DAEMON_XATTR`].
    pub(super) identity: Vec<u8>,
    figures: Arc<Figures>,
    pub(super) linger: Linger,
    pub(super) listings: Listings,
    pub(super) passthrough: Passthrough,
    pub(super) set_ids: SetIds,
}

impl Adapter {
    pub(super) fn new(
        fs: Arc<Fs>,
        read_only: bool,
        identity: Vec<u8>,
        figures: Arc<Figures>,
    ) -> Self {
        Self {
            fs,
            read_only,
            ttl: if read_only { TTL_READ_ONLY } else { TTL },
            identity,
            figures,
            linger: Linger::new(),
            listings: Listings::new(),
            passthrough: Passthrough::default(),
            set_ids: SetIds::default(),
        }
    }

    /// The value of [`STATUS_XATTR`].
    pub(super) fn figures(&self, req: &Request) -> Result<Vec<u8>, Errno> {
        if req.uid() != 0 && req.uid() != rustix::process::geteuid().as_raw() {
            return Err(Errno::EACCES);
        }
        serde_json::to_vec(&self.figures.status()).map_err(|_| Errno::EIO)
    }

    /// Runs the operation that a request is for; whatever goes wrong becomes an errno, a panic `EIO`.
    pub(super) fn call<T>(
        &self,
        req: &Request,
        op: &str,
        node: INodeNo,
        f: impl FnOnce(&Fs) -> Result<T, FsError>,
    ) -> Result<T, Errno> {
        self.linger.asked(req.pid());
        self.run(op, node, f)
    }

    /// The same for what nobody is named to ask for.
    pub(super) fn run<T>(
        &self,
        op: &str,
        node: INodeNo,
        f: impl FnOnce(&Fs) -> Result<T, FsError>,
    ) -> Result<T, Errno> {
        IN_CALL.set(true);
        let result = {
            let _request = self.fs.activity().enter();
            catch_unwind(AssertUnwindSafe(|| f(&self.fs)))
        };
        IN_CALL.set(false);
        match result {
            Ok(Ok(value)) => Ok(value),
            Ok(Err(error)) => {
                let errno = Errno::from_i32(error.errno());
                // Damage is named by the file system, once for each block.
                if errno == Errno::EIO && !error.is_damage() {
                    log::error!("{op}: {error}");
                } else {
                    log::debug!("{op} of node {}: {error}", node.0);
                }
                Err(errno)
            }
            Err(_) => {
                log::error!(
                    "{op} of node {}: internal error (panic), answered EIO",
                    node.0
                );
                Err(Errno::EIO)
            }
        }
    }

    pub(super) fn entry(&self, made: Result<(NodeId, Attr), Errno>, reply: ReplyEntry) {
        match made {
            Ok((node, attr)) => reply.entry(&self.ttl, &file_attr(node, &attr), GENERATION),
            Err(errno) => reply.error(errno),
        }
    }
}

pub(super) fn node(ino: INodeNo) -> NodeId {
    NodeId(ino.0)
}

pub(super) fn handle(fh: FileHandle) -> Fh {
    Fh(fh.0)
}

pub(super) fn caller(req: &Request, umask: u32) -> Caller {
    Caller {
        uid: req.uid(),
        gid: req.gid(),
        umask,
    }
}

/// Open flags without `O_APPEND`: the kernel knows the end of the file and says where each write goes. It may send what a
/// memory map changed through any handle, also through one that was opened to append.
pub(super) fn positional(flags: i32) -> i32 {
    flags & !OFlags::APPEND.bits().cast_signed()
}

pub(super) fn rename_flags(flags: RenameFlags) -> Result<crate::fs::RenameFlags, FsError> {
    if flags.is_empty() {
        Ok(crate::fs::RenameFlags::Replace)
    } else if flags == RenameFlags::RENAME_NOREPLACE {
        Ok(crate::fs::RenameFlags::NoReplace)
    } else if flags == RenameFlags::RENAME_EXCHANGE {
        Ok(crate::fs::RenameFlags::Exchange)
    } else {
        Err(FsError::Invalid)
    }
}

pub(super) fn empty(done: Result<(), Errno>, reply: ReplyEmpty) {
    match done {
        Ok(()) => reply.ok(),
        Err(errno) => reply.error(errno),
    }
}

pub(super) fn xattr(value: Result<Vec<u8>, Errno>, size: u32, reply: ReplyXattr) {
    match value {
        Ok(value) => match u32::try_from(value.len()) {
            Ok(len) if size == 0 => reply.size(len),
            Ok(len) if len <= size => reply.data(&value),
            _ => reply.error(Errno::ERANGE),
        },
        Err(errno) => reply.error(errno),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fs::FsOptions;
    use crate::store::{Access, Archive};

    #[test]
    fn panic_in_a_call_is_an_io_error_and_the_next_call_works() {
        let dir = tempfile::tempdir().expect("temp dir");
        let archive = Archive::open(dir.path(), Access::Read).expect("a plain directory");
        let fs = Fs::new(archive, FsOptions::default()).expect("file system");
        let figures = Figures::new(&fs, dir.path(), None, None);
        let adapter = Adapter::new(fs, true, Vec::new(), figures);
        let panicked: Result<(), Errno> = adapter.run("test", INodeNo::ROOT, |_| {
            assert!(in_call());
            panic!("a bug")
        });
        assert_eq!(panicked, Err(Errno::EIO));
        assert!(!in_call());
        let attr = adapter.run("getattr", INodeNo::ROOT, |fs| {
            fs.getattr(NodeId::ROOT, None)
        });
        assert!(attr.is_ok());
    }

    #[test]
    fn rename_flags_are_told_apart_and_others_refused() {
        assert!(rename_flags(RenameFlags::empty()).is_ok());
        let both = RenameFlags::RENAME_NOREPLACE | RenameFlags::RENAME_EXCHANGE;
        for bad in [both, RenameFlags::RENAME_WHITEOUT] {
            assert!(rename_flags(bad).is_err(), "{bad}");
        }
    }
}
