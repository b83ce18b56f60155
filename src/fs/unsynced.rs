//! Which directories an `fsync` must sync besides: those in which names may not be durable yet.
//!
//! A node knows in which directories it got a name since they were last synced. When it is dropped, they are noted, and who is
//! looked up in them from then on is taken for new there.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use super::Fs;
use super::backing::{Backing, InodeKey};
use super::errno::Result;
use super::nodes::Node;
use super::sync::lock;
use crate::sync::atomic::Ordering;

/// Noted directories above which the whole file system is synced instead.
pub(super) const MOST_NOTED: usize = 1024;

/// Directories in which one file may have new names before they are synced: it keeps a descriptor of each.
pub(super) const MOST_NEW: usize = 16;

/// Tells one new name from another.
fn next() -> u64 {
    static NEXT: AtomicU64 = AtomicU64::new(1);
    NEXT.fetch_add(1, Ordering::Relaxed)
}

/// A directory in which a node has a name that may not be durable.
#[derive(Clone)]
pub(super) struct NewName {
    dir: Arc<Backing>,
    id: u64,
}

/// All of those of a node.
#[derive(Default)]
pub(super) struct NewNames(Vec<NewName>);

impl NewNames {
    /// The node has a new name in a directory.
    pub(super) fn add(&mut self, dir: Arc<Backing>) {
        self.0.retain(|name| name.dir.key != dir.key);
        self.0.push(NewName { dir, id: next() });
    }

    /// The node has this new name alone: a rename that is durable makes what came before it so.
    pub(super) fn set(&mut self, dir: Arc<Backing>) {
        self.0.clear();
        self.add(dir);
    }

    pub(super) fn len(&self) -> usize {
        self.0.len()
    }
}

/// Directories with names that may not be durable, of nodes that were dropped; each with what was noted last.
#[derive(Default)]
pub(super) struct Noted(HashMap<InodeKey, u64>);

impl Noted {
    /// Notes where a node that is dropped has new names.
    pub(super) fn keep(&mut self, names: &NewNames) {
        for name in &names.0 {
            self.add(name.dir.key);
        }
    }

    pub(super) fn add(&mut self, dir: InodeKey) {
        self.0.insert(dir, next());
    }

    pub(super) fn get(&self, dir: InodeKey) -> Option<u64> {
        self.0.get(&dir).copied()
    }

    /// The directory was synced after this was the last that was noted.
    pub(super) fn synced(&mut self, dir: InodeKey, last: u64) {
        if self.get(dir) == Some(last) {
            self.0.remove(&dir);
        }
    }

    pub(super) fn all(&self) -> Vec<(InodeKey, u64)> {
        self.0.iter().map(|(&dir, &last)| (dir, last)).collect()
    }

    pub(super) fn len(&self) -> usize {
        self.0.len()
    }
}

impl Fs {
    /// Makes new names of a node durable, and those of new directories above it.
    ///
    /// They are new until all are durable: who syncs the same file at the same time must not be answered earlier.
    pub(super) fn sync_names(&self, node: &Arc<Node>) -> Result<()> {
        let mut found: Vec<(Arc<Node>, NewName)> = Vec::new();
        let mut above = vec![Arc::clone(node)];
        while let Some(node) = above.pop() {
            let names = lock(&node.new_in).0.clone();
            for name in names {
                if found.iter().all(|(_, known)| known.id != name.id) {
                    // The kernel knows the directories above whatever is open.
                    above.extend(self.nodes.peek(name.dir.key));
                    found.push((Arc::clone(&node), name));
                }
            }
        }
        for (_, name) in &found {
            self.sync_entries(&name.dir)?;
        }
        for (node, name) in &found {
            lock(&node.new_in).0.retain(|there| there.id != name.id);
        }
        Ok(())
    }

    /// Makes the names in a directory durable.
    pub(super) fn sync_entries(&self, dir: &Backing) -> Result<()> {
        let noted = self.nodes.noted(dir.key);
        dir.sync_dir()?;
        if let Some(last) = noted {
            self.nodes.forget_noted(&[(dir.key, last)]);
        }
        Ok(())
    }

    /// Bounds what is noted.
    pub(super) fn relieve_noted(&self) {
        let Some(noted) = self.nodes.much_noted() else {
            return;
        };
        match rustix::fs::syncfs(self.archive.root_fd()) {
            Ok(()) => self.nodes.forget_noted(&noted),
            Err(error) => log::debug!("syncing new names: {error}"),
        }
    }
}
