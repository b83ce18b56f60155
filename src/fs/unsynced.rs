//! Which directories an `fsync` must sync besides: those in which names may not be durable yet.
//!
//! A node knows in which directories it got a name since they were last synced. When it is dropped, its one directory is noted, and
//! who is looked up there from then on is taken for new there. A node with several is kept until they are synced.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use super::Fs;
use super::backing::{Backing, InodeKey};
use super::errno::Result;
use super::node::Node;
use super::sync::lock;
use super::writeback::SYNC_ALL_ABOVE;
use crate::sync::atomic::Ordering;

/// Noted directories above which their file systems are synced as a whole.
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

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// Directories with names that may not be durable, of nodes that were dropped; each with what was noted last. Of each file
/// system but the root's one of them stays open, to sync that by.
#[derive(Default)]
pub(super) struct Noted {
    root: Option<Arc<Backing>>,
    last: HashMap<InodeKey, u64>,
    open: HashMap<u64, Arc<Backing>>,
}

/// Noted directories of one file system.
pub(super) struct NotedTogether {
    /// One that is on the same file system.
    dir: Arc<Backing>,
    all: Vec<(InodeKey, u64)>,
}

impl Noted {
    /// None yet, in an archive with this root.
    pub(super) fn below(root: Arc<Backing>) -> Noted {
        Noted {
            root: Some(root),
            ..Noted::default()
        }
    }

    /// Notes where a node that is dropped has new names.
    pub(super) fn take(&mut self, names: &NewNames) {
        for name in &names.0 {
            self.add(&name.dir);
        }
    }

    pub(super) fn add(&mut self, dir: &Arc<Backing>) {
        self.last.insert(dir.key, next());
        if self
            .root
            .as_ref()
            .is_none_or(|root| root.key.dev != dir.key.dev)
        {
            (self.open.entry(dir.key.dev)).or_insert_with(|| Arc::clone(dir));
        }
    }

    pub(super) fn get(&self, dir: InodeKey) -> Option<u64> {
        self.last.get(&dir).copied()
    }

    /// These directories were synced after this was the last that was noted of them.
    pub(super) fn synced(&mut self, dirs: &[(InodeKey, u64)]) {
        for &(dir, last) in dirs {
            if self.get(dir) == Some(last) {
                self.last.remove(&dir);
            }
        }
        let last = &self.last;
        self.open
            .retain(|dev, _| last.keys().any(|dir| dir.dev == *dev));
    }

    /// All of them, by file system.
    pub(super) fn together(&self) -> Vec<NotedTogether> {
        let of = |dir: &Arc<Backing>| NotedTogether {
            dir: Arc::clone(dir),
            all: (self.last.iter())
                .filter(|(key, _)| key.dev == dir.key.dev)
                .map(|(&key, &last)| (key, last))
                .collect(),
        };
        self.file_systems().map(of).collect()
    }

    /// The root, and a directory of each other file system that has some.
    pub(super) fn file_systems(&self) -> impl Iterator<Item = &Arc<Backing>> {
        self.root.iter().chain(self.open.values())
    }

    pub(super) fn len(&self) -> usize {
        self.last.len()
    }
}

impl Fs {
    /// Makes new names of a node durable, and those of new directories above it.
    pub(super) fn sync_names(&self, node: &Arc<Node>) -> Result<()> {
        self.sync_names_of(vec![Arc::clone(node)])
    }

    /// The same for many nodes at once.
    ///
    /// They are new until all are durable: who syncs the same file at the same time must not be answered earlier.
    fn sync_names_of(&self, nodes: Vec<Arc<Node>>) -> Result<()> {
        let mut found: Vec<(Arc<Node>, NewName)> = Vec::new();
        let (mut seen, mut above) = (HashSet::new(), nodes);
        while let Some(node) = above.pop() {
            let names = lock(&node.new_in).0.clone();
            for name in names {
                if seen.insert(name.id) {
                    // The kernel knows the directories above whatever is open.
                    above.extend(self.nodes.peek(name.dir.key));
                    found.push((Arc::clone(&node), name));
                }
            }
        }
        let mut dirs: HashMap<InodeKey, &Backing> = HashMap::new();
        for (_, name) in &found {
            dirs.insert(name.dir.key, &name.dir);
        }
        if dirs.len() > SYNC_ALL_ABOVE {
            let mut together = HashMap::new();
            for dir in dirs.values() {
                together.entry(dir.key.dev).or_insert(*dir);
            }
            for (dev, dir) in together {
                if self.sync_whole(dir)? {
                    dirs.retain(|key, _| key.dev != dev);
                }
            }
        }
        for dir in dirs.values() {
            self.sync_entries(dir)?;
        }
        for (node, name) in &found {
            lock(&node.new_in).0.retain(|there| there.id != name.id);
        }
        Ok(())
    }

    /// Notes that a node may have a name in a directory that is not durable. Those of before are synced if they are many.
    pub(super) fn has_new_name(&self, node: &Arc<Node>, dir: Arc<Backing>) {
        if lock(&node.new_in).len() >= MOST_NEW
            && let Err(error) = self.sync_names(node)
        {
            log::debug!("syncing new names: {error}");
        }
        lock(&node.new_in).add(dir);
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

    /// Syncs what has to be kept until it is synced: directories that are noted, if they are many, and nodes with several new names
    /// that nobody needs any more. What fails is kept.
    pub(super) fn relieve_unsynced(&self) {
        for noted in self.nodes.much_noted() {
            match self.sync_whole(&noted.dir) {
                Ok(true) => self.nodes.forget_noted(&noted.all),
                Ok(false) => {}
                Err(error) => log::debug!("syncing new names: {error}"),
            }
        }
        let kept = self.nodes.kept();
        if kept.is_empty() {
            return;
        }
        if let Err(error) = self.sync_names_of(kept.clone()) {
            log::debug!("syncing new names: {error}");
        }
        for node in kept {
            self.nodes.reap(&node);
        }
    }

    /// Makes all names durable, as far as anybody knows of them, in every file system that the archive lies on.
    pub(super) fn sync_all_names(&self) -> Result<()> {
        for dir in self.nodes.file_systems() {
            self.sync_whole(&dir)?;
        }
        self.sync_names_of(self.nodes.with_new_names())
    }
}
