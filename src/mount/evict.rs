//! Has the kernel forget files that it does not need, before the daemon has as many descriptors open as it may, and attributes that
//! have changed by themselves.
//!
//! The kernel would keep what it once looked up until it is short of memory itself, and a node holds a descriptor as long.

use std::sync::Arc;
use std::thread;
use std::time::Duration;

use fuser::{INodeNo, Notifier};

use super::MountError;
use super::daemon::refused;
use crate::fs::Fs;

/// How often it looks whether the file system is still there, and which attributes have changed.
const TICK: Duration = Duration::from_secs(1);

/// How long it rests when nothing more can be forgotten.
const REST: Duration = Duration::from_millis(50);

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
            let going = fs.dispensable();
            let (stale, renamed) = (fs.take_stale(), fs.take_stale_names());
            drop(fs);
            for node in stale {
                // From a negative offset on: no content.
                if let Err(e) = kernel.inval_inode(INodeNo(node.0), -1, 0) {
                    log::debug!("forgetting the attributes of node {}: {e}", node.0);
                }
            }
            if going.is_empty() {
                thread::sleep(REST);
            }
            for (parent, name) in going.into_iter().chain(renamed) {
                if let Err(e) = kernel.inval_entry(INodeNo(parent.0), &name) {
                    log::debug!("forgetting {}: {e}", name.display());
                }
            }
        }
    };
    let thread = thread::Builder::new().name("evict".into());
    thread.spawn(run).map(drop).map_err(refused)
}
