//! Nodes: one for each backing inode that somebody holds.
//!
//! A node lives while it was looked up more often than forgotten, is open, or has content to store. The inode number that
//! it shows never changes meanwhile, even when a swap replaces the backing inode, and no two nodes show the same.
//!
//! Each holds a descriptor, of which a process may have only so many. Long before there are too many, [`Crowd`] is told, and whoever
//! serves the kernel has it forget some ([`super::Fs::dispensable`]).

use std::collections::{HashMap, HashSet};
use std::ffi::{OsStr, OsString};
use std::sync::Arc;

use super::attr::{Kind, Time};
use super::backing::{Backing, InodeKey};
use super::cache::next_instance;
use super::content::Content;
use super::crowd::Crowd;
use super::dir::DirEntry;
use super::errno::{FsError, Result};
use super::sync::{lock, read, write};
use super::unsynced::{MOST_NOTED, NewNames, Noted, NotedTogether};
use crate::segment::{Starts, Summary};
use crate::store::names;
use crate::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use crate::sync::{Mutex, RwLock};

/// Names a node while it lives: its inode number, except for the root directory, which is [`NodeId::ROOT`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct NodeId(pub u64);

impl NodeId {
    /// The archive's root directory.
    pub const ROOT: NodeId = NodeId(1);
}

/// A backing time of attribute change that is our own doing, and the time shown instead.
#[derive(Debug, Clone, Copy)]
pub(super) struct CtimePin {
    pub(super) backing: Time,
    pub(super) shown: Time,
}

/// Times of content and attribute change, and size, of a backing inode: the same while nobody changes it.
pub(super) type Stamp = (Time, Time, i64);

/// The figures of a segment that is not open, valid while the backing inode's times and size are these.
#[derive(Debug, Clone, Copy)]
pub(super) struct Peeked {
    pub(super) stamp: Stamp,
    pub(super) summary: Option<Summary>,
}

pub(super) struct Node {
    pub(super) id: NodeId,
    /// The inode number shown.
    pub(super) ino: u64,
    pub(super) kind: Kind,
    backing: RwLock<Arc<Backing>>,
    /// Of a directory: held shared to look names up, exclusively to change them.
    pub(super) entries: RwLock<()>,
    /// Held while blocks are stored or a commit is under way.
    pub(super) storing: Mutex<()>,
    pub(super) content: RwLock<Content>,
    /// Counts changes of the content.
    pub(super) version: AtomicU64,
    /// Names the immutable payloads of the present segment file in the block cache.
    pub(super) instance: AtomicU64,
    /// The start states of the present segment file when it was last open, and the instance that it was then.
    pub(super) starts: Mutex<Option<(u64, Arc<Starts>)>>,
    /// In the list of nodes with content to store.
    pub(super) dirty: AtomicBool,
    pub(super) peeked: Mutex<Option<Peeked>>,
    /// What the backing inode was like when it was last opened without a failure.
    pub(super) sound: Mutex<Option<Stamp>>,
    /// The backing inode as it was when it was last looked at, where another process may change it.
    pub(super) seen: Mutex<Option<Stamp>>,
    pub(super) ctime: Mutex<Option<CtimePin>>,
    /// Directories to sync with the node.
    pub(super) new_in: Mutex<NewNames>,
    /// A failure in the background that no caller knows of yet.
    pub(super) failed: Mutex<Option<FsError>>,
    /// The last name it was looked up by.
    pub(super) name: Mutex<OsString>,
    /// The directory that has this name.
    parent: AtomicU64,
    /// Whether it was called dispensable since it was last looked up.
    dispensed: AtomicBool,
    /// Damaged blocks that the log already names; `u64::MAX` stands for the whole file.
    pub(super) logged: Mutex<HashSet<u64>>,
    /// Handles that may write.
    pub(super) writers: AtomicU64,
    lookups: AtomicU64,
    holds: AtomicU64,
}

impl Node {
    fn new(id: NodeId, ino: u64, kind: Kind, backing: Backing) -> Node {
        Node {
            id,
            ino,
            kind,
            backing: RwLock::new(Arc::new(backing)),
            entries: RwLock::new(()),
            storing: Mutex::new(()),
            content: RwLock::new(Content::Closed),
            version: AtomicU64::new(0),
            instance: AtomicU64::new(next_instance()),
            starts: Mutex::new(None),
            dirty: AtomicBool::new(false),
            peeked: Mutex::new(None),
            sound: Mutex::new(None),
            seen: Mutex::new(None),
            ctime: Mutex::new(None),
            new_in: Mutex::default(),
            failed: Mutex::new(None),
            name: Mutex::new(OsString::new()),
            parent: AtomicU64::new(NodeId::ROOT.0),
            dispensed: AtomicBool::new(false),
            logged: Mutex::new(HashSet::new()),
            writers: AtomicU64::new(0),
            lookups: AtomicU64::new(0),
            holds: AtomicU64::new(0),
        }
    }

    pub(super) fn backing(&self) -> Arc<Backing> {
        Arc::clone(&read(&self.backing))
    }

    /// Changes attributes of the backing inode while nothing is stored, which would hide that they changed, and no swap copies them.
    pub(super) fn change_attributes<T>(
        &self,
        change: impl FnOnce(&Backing) -> Result<T>,
    ) -> Result<T> {
        let _content = read(&self.content);
        change(&self.backing())
    }

    /// Notes by what name it was looked up.
    pub(super) fn set_name(&self, dir: NodeId, name: &OsStr) {
        self.parent.store(dir.0, Ordering::Relaxed);
        *lock(&self.name) = name.to_os_string();
    }

    /// The last name it was looked up by, and the directory that has it.
    pub(super) fn place(&self) -> (NodeId, OsString) {
        let parent = NodeId(self.parent.load(Ordering::Relaxed));
        (parent, lock(&self.name).clone())
    }

    pub(super) fn is_held(&self) -> bool {
        self.holds.load(Ordering::SeqCst) > 0
    }

    /// Whether it is open, or the kernel knows it and may open it without a name.
    pub(super) fn is_reachable(&self) -> bool {
        self.is_held() || self.lookups.load(Ordering::SeqCst) > 0
    }

    pub(super) fn require_dir(&self) -> Result<()> {
        if self.kind == Kind::Dir {
            Ok(())
        } else {
            Err(FsError::NotADirectory)
        }
    }

    /// Says once for each damaged block that it is damaged; `None` stands for the whole file.
    pub(super) fn log_damage(&self, block: Option<u64>, error: &FsError) {
        if lock(&self.logged).insert(block.unwrap_or(u64::MAX)) {
            let name = lock(&self.name).clone();
            match block {
                Some(block) => log::error!(
                    "{} (inode {}), block {block}: {error}",
                    name.display(),
                    self.ino
                ),
                None => log::error!("{} (inode {}): {error}", name.display(), self.ino),
            }
        }
    }

    /// Keeps a failure of the background for the next caller.
    pub(super) fn fail_later(&self, error: &FsError) {
        lock(&self.failed).get_or_insert_with(|| error.clone().deferred());
    }

    /// A failure that nobody was told of; it is told once.
    pub(super) fn take_failure(&self) -> Result<()> {
        lock(&self.failed).take().map_or(Ok(()), Err)
    }
}

#[derive(Default)]
struct Tables {
    by_id: HashMap<NodeId, Arc<Node>>,
    by_key: HashMap<InodeKey, Arc<Node>>,
    shown: HashSet<u64>,
    dirs: usize,
    noted: Noted,
    /// Those that nobody needs any more but for the names to sync with them.
    kept: HashMap<NodeId, Arc<Node>>,
}

/// All nodes.
pub(super) struct Nodes {
    tables: RwLock<Tables>,
    /// Nodes above which there are too many: half as many as there may be descriptors.
    pub(super) most: usize,
    pub(super) crowd: Arc<Crowd>,
}

impl Nodes {
    /// The root directory's, to grow to `most` nodes.
    pub(super) fn new(root: Backing, most: usize) -> Nodes {
        let nodes = Nodes {
            tables: RwLock::new(Tables::default()),
            most,
            crowd: Arc::default(),
        };
        let root = nodes.intern(root, Kind::Dir).backing();
        write(&nodes.tables).noted = Noted::below(root);
        nodes
    }

    pub(super) fn get(&self, id: NodeId) -> Result<Arc<Node>> {
        read(&self.tables)
            .by_id
            .get(&id)
            .cloned()
            .ok_or(FsError::Stale)
    }

    /// The node and a hold on it, taken together so that it can not be dropped in between.
    pub(super) fn hold(&self, id: NodeId) -> Result<Arc<Node>> {
        let tables = read(&self.tables);
        let node = tables.by_id.get(&id).ok_or(FsError::Stale)?;
        node.holds.fetch_add(1, Ordering::SeqCst);
        Ok(Arc::clone(node))
    }

    /// Takes a hold back; whether it was the last.
    pub(super) fn unhold(&self, node: &Node) -> bool {
        node.holds.fetch_sub(1, Ordering::SeqCst) == 1
    }

    /// The node of a backing inode, if it has one; counts a lookup.
    pub(super) fn find(&self, key: InodeKey) -> Option<Arc<Node>> {
        let tables = read(&self.tables);
        let node = tables.by_key.get(&key)?;
        node.lookups.fetch_add(1, Ordering::SeqCst);
        node.dispensed.store(false, Ordering::Relaxed);
        Some(Arc::clone(node))
    }

    /// The node of a backing inode, if it has one; counts nothing.
    pub(super) fn peek(&self, key: InodeKey) -> Option<Arc<Node>> {
        read(&self.tables).by_key.get(&key).cloned()
    }

    /// Turns the inode numbers in a listing of `dir`, which are those of the backing directory, into those that are shown.
    pub(super) fn show_inos(&self, listing: &mut [DirEntry], dir: &Node, dev: u64) {
        let tables = read(&self.tables);
        for entry in listing {
            let key = InodeKey {
                dev,
                ino: entry.ino,
                segment: entry.form == names::Kind::Segment,
            };
            let above = entry.name == ".." && dir.id != NodeId::ROOT;
            entry.ino = if entry.is_dot() && !above {
                dir.ino
            } else {
                let node = tables.by_key.get(&key);
                node.map_or_else(|| tables.free_ino(key.ino), |node| node.ino)
            };
        }
    }

    /// The node of an open backing inode, made if it has none; counts a lookup.
    pub(super) fn intern(&self, backing: Backing, kind: Kind) -> Arc<Node> {
        let tables = &mut *write(&self.tables);
        let node = match tables.by_key.get(&backing.key) {
            Some(node) => Arc::clone(node),
            None => {
                let key = backing.key;
                let ino = tables.free_ino(key.ino);
                tables.shown.insert(ino);
                let is_root = tables.by_id.is_empty();
                let id = if is_root { NodeId::ROOT } else { NodeId(ino) };
                let node = Arc::new(Node::new(id, ino, kind, backing));
                tables.by_id.insert(id, Arc::clone(&node));
                tables.by_key.insert(key, Arc::clone(&node));
                tables.dirs += usize::from(kind == Kind::Dir);
                node
            }
        };
        node.lookups.fetch_add(1, Ordering::SeqCst);
        node.dispensed.store(false, Ordering::Relaxed);
        if tables.by_id.len() > self.most {
            self.crowd.tell();
        }
        node
    }

    /// If there are too many: names, each with its directory, of nodes that are no directories, not open and not to be stored,
    /// so many that a quarter of those allowed is free once they are gone.
    pub(super) fn dispensable(&self) -> Vec<(NodeId, OsString)> {
        let tables = read(&self.tables);
        if tables.by_id.len() <= self.most {
            return Vec::new();
        }
        let surplus = tables.by_id.len() - self.most * 3 / 4;
        let can_go = |node: &&Arc<Node>| {
            node.kind != Kind::Dir
                && !node.is_held()
                && !node.dirty.load(Ordering::SeqCst)
                && !node.dispensed.swap(true, Ordering::Relaxed)
        };
        let going = tables.by_id.values().filter(can_go).take(surplus);
        going.map(|node| node.place()).collect()
    }

    /// Nodes that are no directories.
    pub(super) fn files(&self) -> usize {
        let tables = read(&self.tables);
        tables.by_id.len() - tables.dirs
    }

    /// Takes back `n` lookups.
    pub(super) fn forget(&self, id: NodeId, n: u64) {
        let tables = &mut *write(&self.tables);
        let Some(node) = tables.by_id.get(&id).cloned() else {
            return;
        };
        let before = node.lookups.load(Ordering::SeqCst);
        node.lookups
            .store(before.saturating_sub(n), Ordering::SeqCst);
        tables.reap(&node);
    }

    /// Drops the node if nobody needs it.
    pub(super) fn reap(&self, node: &Node) {
        write(&self.tables).reap(node);
    }

    /// Gives the node another backing inode, which no other node has.
    pub(super) fn rebase(&self, node: &Arc<Node>, backing: Backing) {
        let tables = &mut *write(&self.tables);
        let key = backing.key;
        let old = std::mem::replace(&mut *write(&node.backing), Arc::new(backing));
        tables.by_key.remove(&old.key);
        let present = |there: &Arc<Node>| Arc::ptr_eq(there, node);
        if tables.by_id.get(&node.id).is_some_and(present) {
            tables.by_key.insert(key, Arc::clone(node));
        }
    }

    pub(super) fn len(&self) -> usize {
        read(&self.tables).by_id.len()
    }

    /// Notes that a directory has a name that may not be durable, of what has no node.
    pub(super) fn note(&self, dir: &Arc<Backing>) {
        write(&self.tables).noted.add(dir);
    }

    /// What was noted last of a directory with names that may not be durable.
    pub(super) fn noted(&self, dir: InodeKey) -> Option<u64> {
        read(&self.tables).noted.get(dir)
    }

    /// These directories were synced after this was noted of them.
    pub(super) fn forget_noted(&self, synced: &[(InodeKey, u64)]) {
        write(&self.tables).noted.synced(synced);
    }

    /// All that is noted, if it is too much.
    pub(super) fn much_noted(&self) -> Vec<NotedTogether> {
        let tables = read(&self.tables);
        if tables.noted.len() > MOST_NOTED {
            tables.noted.together()
        } else {
            Vec::new()
        }
    }

    /// Nodes that would be gone but for the names to sync with them.
    pub(super) fn kept(&self) -> Vec<Arc<Node>> {
        read(&self.tables).kept.values().cloned().collect()
    }

    /// Nodes with names that may not be durable.
    pub(super) fn with_new_names(&self) -> Vec<Arc<Node>> {
        let tables = read(&self.tables);
        let new = |node: &&Arc<Node>| !lock(&node.new_in).is_empty();
        tables.by_id.values().filter(new).cloned().collect()
    }

    /// A directory of each file system that any node is on, or that has names to sync.
    pub(super) fn file_systems(&self) -> Vec<Arc<Backing>> {
        let tables = read(&self.tables);
        let dirs = (tables.by_id.values())
            .filter(|node| node.kind == Kind::Dir)
            .map(|node| node.backing());
        let noted = tables.noted.file_systems().cloned();
        let each: HashMap<u64, _> = dirs.chain(noted).map(|dir| (dir.key.dev, dir)).collect();
        each.into_values().collect()
    }
}

impl Tables {
    /// A number for a new node: the backing inode's, unless a node whose inode was replaced still shows that.
    fn free_ino(&self, ino: u64) -> u64 {
        let root = |ino: &u64| *ino == NodeId::ROOT.0 && !self.by_id.is_empty();
        let taken = |ino: &u64| self.shown.contains(ino) || root(ino);
        let others = (1u64..).map(|n| (1 << 63) | ino.wrapping_add(n << 48));
        std::iter::once(ino)
            .chain(others)
            .find(|ino| !taken(ino))
            .unwrap_or(ino)
    }

    fn reap(&mut self, node: &Node) {
        let needed =
            node.id == NodeId::ROOT || node.is_reachable() || node.dirty.load(Ordering::SeqCst);
        // One that was dropped before may have a successor with its number.
        let present = |there: &Arc<Node>| std::ptr::eq(Arc::as_ptr(there), node);
        let Some(there) = self.by_id.get(&node.id).filter(|there| present(there)) else {
            return;
        };
        let new_in = lock(&node.new_in);
        if !needed && new_in.len() > 1 {
            // Noted, it would be synced under the one name that it is looked up by next.
            self.kept.insert(node.id, Arc::clone(there));
            return;
        }
        self.kept.remove(&node.id);
        if needed {
            return;
        }
        self.by_id.remove(&node.id);
        self.dirs -= usize::from(node.kind == Kind::Dir);
        let key = read(&node.backing).key;
        self.by_key.remove(&key);
        self.shown.remove(&node.ino);
        self.noted.take(&new_in);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::AsFd;

    fn backing(dir: &std::fs::File, name: &str) -> Backing {
        Backing::open(dir.as_fd(), name.as_ref(), names::Kind::Other)
            .unwrap()
            .0
    }

    #[test]
    fn node_lives_until_it_is_forgotten_and_released() {
        let temp = tempfile::tempdir().unwrap();
        std::fs::write(temp.path().join("a"), "").unwrap();
        let dir = std::fs::File::open(temp.path()).unwrap();
        let nodes = Nodes::new(backing(&dir, "."), 100);
        let node = nodes.intern(backing(&dir, "a"), Kind::File);
        assert_eq!(nodes.intern(backing(&dir, "a"), Kind::File).id, node.id);
        nodes.hold(node.id).unwrap();
        nodes.forget(node.id, 2);
        assert!(nodes.get(node.id).is_ok());
        assert!(nodes.unhold(&node));
        nodes.reap(&node);
        assert!(matches!(nodes.get(node.id), Err(FsError::Stale)));
        nodes.forget(NodeId::ROOT, 10);
        assert!(nodes.get(NodeId::ROOT).is_ok());
    }

    #[test]
    fn a_node_that_was_dropped_leaves_its_successor_alone() {
        let temp = tempfile::tempdir().unwrap();
        std::fs::write(temp.path().join("a"), "").unwrap();
        let dir = std::fs::File::open(temp.path()).unwrap();
        let nodes = Nodes::new(backing(&dir, "."), 100);
        let first = nodes.intern(backing(&dir, "a"), Kind::File);
        nodes.forget(first.id, 1);
        let second = nodes.intern(backing(&dir, "a"), Kind::File);
        assert_eq!(first.id, second.id);
        nodes.reap(&first);
        assert!(Arc::ptr_eq(&nodes.get(second.id).unwrap(), &second));
        assert!(nodes.find(second.backing().key).is_some());
    }

    #[test]
    fn inode_number_survives_a_swap_and_is_not_shown_twice() {
        let temp = tempfile::tempdir().unwrap();
        for name in ["a", "b"] {
            std::fs::write(temp.path().join(name), "").unwrap();
        }
        let dir = std::fs::File::open(temp.path()).unwrap();
        let nodes = Nodes::new(backing(&dir, "."), 100);
        let node = nodes.intern(backing(&dir, "a"), Kind::File);
        let key = backing(&dir, "a").key;
        nodes.rebase(&node, backing(&dir, "b"));
        assert_eq!(nodes.find(backing(&dir, "b").key).unwrap().id, node.id);
        assert_eq!(node.ino, key.ino);
        let other = nodes.intern(backing(&dir, "a"), Kind::File);
        assert_ne!((other.id, other.ino), (node.id, node.ino));
    }

    #[test]
    fn nodes_that_nobody_needs_are_named_once_when_there_are_too_many() {
        let temp = tempfile::tempdir().unwrap();
        let dir = std::fs::File::open(temp.path()).unwrap();
        let nodes = Nodes::new(backing(&dir, "."), 8);
        let made: Vec<_> = (0..20)
            .map(|n| {
                let name = n.to_string();
                std::fs::write(temp.path().join(&name), "").unwrap();
                let node = nodes.intern(backing(&dir, &name), Kind::File);
                node.set_name(NodeId(7), name.as_ref());
                node
            })
            .collect();
        nodes.hold(made[3].id).unwrap();
        made[4].dirty.store(true, Ordering::SeqCst);
        let named = nodes.dispensable();
        // Of 21, with the root, 6 are to stay.
        assert_eq!(named.len(), 15);
        for (parent, name) in &named {
            assert_eq!(*parent, NodeId(7));
            assert!(name != "3" && name != "4", "{named:?}");
        }
        assert_eq!(nodes.dispensable().len(), 3);
        nodes.find(backing(&dir, "5").key).unwrap();
        assert_eq!(nodes.dispensable().len(), 1);
        for node in &made {
            nodes.forget(node.id, 2);
        }
        assert!(nodes.dispensable().is_empty());
    }
}
