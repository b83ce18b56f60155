//! Has nodes give up their descriptors, or the kernel forget files that it does not need, before the daemon has as many descriptors
//! open as it may, and has the kernel forget attributes that have changed by themselves.
//!
//! The kernel would keep what it once looked up until it is short of memory itself, and a node holds a descriptor as long.

use std::ffi::OsString;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use fuser::{INodeNo, Notifier};

use super::MountError;
use super::daemon::refused;
use crate::fs::{Fs, NodeId};

/// How often it looks whether the file system is still there, and which attributes have changed.
const TICK: Duration = Duration::from_secs(1);

/// How long it rests when nothing more can be given up.
const REST: Duration = Duration::from_millis(50);

/// Threads that forget names, and how many names one has at least.
const THREADS: usize = 8;
const SHARE: usize = 64;

fn forget(kernel: &Notifier, (parent, name): &(NodeId, OsString)) {
    if let Err(e) = kernel.inval_entry(INodeNo(parent.0), name) {
        log::debug!("forgetting {}: {e}", name.display());
    }
}

/// Starts the thread. It ends with the file system.
pub(super) fn start(fs: &Arc<Fs>, kernel: Notifier) -> Result<(), MountError> {
    let (weak, crowd) = (Arc::downgrade(fs), fs.crowd());
    // From here on they are kept.
    drop(fs.take_stale());
    let run = move || {
        loop {
            crowd.wait(TICK);
            let Some(fs) = weak.upgrade() else {
                return;
            };
            let parked = fs.park_nodes();
            let going = fs.dispensable();
            let (stale, renamed) = (fs.take_stale(), fs.take_stale_names());
            drop(fs);
            for node in stale {
                // From a negative offset on: no content.
                if let Err(e) = kernel.inval_inode(INodeNo(node.0), -1, 0) {
                    log::debug!("forgetting the attributes of node {}: {e}", node.0);
                }
            }
            if going.is_empty() && parked == 0 {
                thread::sleep(REST);
            }
            let names: Vec<_> = going.into_iter().chain(renamed).collect();
            // Each waits until its directory is free, like those who make files there: one alone would be too slow for them.
            thread::scope(|scope| {
                for share in names.chunks(names.len().div_ceil(THREADS).max(SHARE)) {
                    scope.spawn(|| share.iter().for_each(|name| forget(&kernel, name)));
                }
            });
        }
    };
    let thread = thread::Builder::new().name("evict".into());
    thread.spawn(run).map(drop).map_err(refused)
}
