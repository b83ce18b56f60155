//! What whoever serves the kernel should have it ask for again, since it changed without the kernel's doing.
//!
//! Storing and packing change how much a file takes on disk, and a swap the times of its directory. A rename that fails halfway
//! may leave a copy under one of a file's names, or have changed the names all the same.

use std::collections::BTreeSet;
use std::ffi::{OsStr, OsString};

use super::Fs;
use super::node::NodeId;
use super::sync::lock;
use crate::sync::Mutex;
use crate::sync::atomic::{AtomicBool, Ordering};

/// See the module.
#[derive(Default)]
pub(super) struct Stale {
    /// Whether somebody takes them.
    wanted: AtomicBool,
    attributes: Mutex<BTreeSet<NodeId>>,
    names: Mutex<BTreeSet<(NodeId, OsString)>>,
}

impl Stale {
    pub(super) fn add(&self, node: NodeId) {
        if self.wanted.load(Ordering::Relaxed) {
            lock(&self.attributes).insert(node);
        }
    }

    /// A name in a directory that may be another file's now.
    pub(super) fn add_name(&self, dir: NodeId, name: &OsStr) {
        if self.wanted.load(Ordering::Relaxed) {
            lock(&self.names).insert((dir, name.to_os_string()));
        }
    }
}

impl Fs {
    /// Nodes whose attributes have changed by themselves since this was last called; none at the first call.
    #[must_use]
    pub fn take_stale(&self) -> BTreeSet<NodeId> {
        self.stale.wanted.store(true, Ordering::Relaxed);
        std::mem::take(&mut lock(&self.stale.attributes))
    }

    /// Names, each with its directory's node, that may be other files' since this was last called.
    #[must_use]
    pub fn take_stale_names(&self) -> BTreeSet<(NodeId, OsString)> {
        std::mem::take(&mut lock(&self.stale.names))
    }
}
