//! Set-user-id and set-group-id bits, which a file loses when somebody changes its content who may not set them.
//!
//! The kernel would see to it, but would ask for an extended attribute before each write to do so: a second request for every
//! one of them. Told that the daemon does it (`FUSE_HANDLE_KILLPRIV_V2`), it asks once for each file, and says with a write whether the
//! bits are to go. With a new size and with `fallocate` it says so in a place that fuser does not show, so there the caller's
//! rights are looked up.

use std::fs;
use std::io;
use std::sync::{Arc, OnceLock};

use fuser::{INodeNo, Notifier, Request};

use super::adapter::{Adapter, node};
use crate::fs::{Fs, FsError};

/// The number of `CAP_FSETID`, which lets a process keep the bits.
const FSETID: u32 = 4;

/// Who takes the bits away, and how the kernel hears of it.
#[derive(Default)]
pub(super) struct SetIds {
    /// Whether the daemon does; else the kernel.
    pub(super) ours: bool,
    /// Set before the first request.
    pub(super) kernel: Arc<OnceLock<Notifier>>,
}

impl Adapter {
    /// To be called before content changes: takes the bits away that do not survive it, unless the caller may `keep` them.
    pub(super) fn take_set_ids(
        &self,
        fs: &Fs,
        ino: INodeNo,
        keep: impl FnOnce() -> bool,
    ) -> Result<(), FsError> {
        if !self.set_ids.ours || !fs.take_set_ids(node(ino), keep)? {
            return Ok(());
        }
        // It goes by the bits that it remembers when it runs a program.
        let told = (self.set_ids.kernel.get()).map(|kernel| kernel.inval_inode(ino, -1, 0));
        match told {
            Some(Err(e)) if e.kind() != io::ErrorKind::NotFound => Err(FsError::Internal),
            _ => Ok(()),
        }
    }
}

/// Whether the caller may leave the bits where they are. Other users than root are taken not to, and so is who is root in a user namespace
/// that is not the daemon's: its rights end there.
pub(super) fn may_keep(req: &Request) -> bool {
    let status = || fs::read_to_string(format!("/proc/{}/status", req.pid()));
    req.uid() == 0
        && status().is_ok_and(|status| has_capability(&status, FSETID))
        && same_users(req.pid())
}

/// Whether a process lives in the daemon's user namespace, as far as that shows without the right to trace it: by how its users are numbered.
fn same_users(pid: u32) -> bool {
    let of = |process: &str| fs::read_to_string(format!("/proc/{process}/uid_map"));
    match (of("self"), of(&pid.to_string())) {
        (Ok(ours), Ok(theirs)) => ours == theirs,
        // A kernel without user namespaces.
        (Err(e), _) => e.kind() == io::ErrorKind::NotFound,
        (Ok(_), Err(_)) => false,
    }
}

/// Whether a process with this `/proc/PID/status` has an effective capability.
fn has_capability(status: &str, number: u32) -> bool {
    let line = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
    let bits = line.and_then(|bits| u64::from_str_radix(bits.trim(), 16).ok());
    bits.is_some_and(|bits| bits >> number & 1 == 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn capabilities_are_read_from_the_status_of_a_process() {
        let status =
            |bits: &str| format!("Name:\tsh\nCapPrm:\t000001ffffffffff\nCapEff:\t{bits}\n");
        assert!(has_capability(&status("000001ffffffffff"), FSETID));
        assert!(has_capability(&status("0000000000000010"), FSETID));
        assert!(!has_capability(&status("000001ffffffffef"), FSETID));
        assert!(!has_capability(&status("no number"), FSETID));
        assert!(!has_capability("Name:\tsh\n", FSETID));
    }
}
