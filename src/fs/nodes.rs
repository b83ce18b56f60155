//! Nodes: one for each backing inode that somebody holds.
//!
//! A node lives while it was looked up more often than forgotten, is open, or has content to store. The inode number that
//! it shows never changes meanwhile, even when a swap replaces the backing inode, and no two nodes show the same.
//!
//! Each holds a descriptor, of which a process may have only so many, or is parked (`super::parking`).

use std::collections::{HashMap, HashSet};
use std::os::fd::AsFd;
use std::sync::Arc;

use super::attr::Kind;
use super::backing::{Backing, InodeKey};
use super::below::Below;
use super::crowd::Crowd;
use super::dir::DirEntry;
use super::errno::{FsError, Result};
use super::inode_handle::HandleMount;
use super::node::{Node, NodeId};
use super::parking::NodeLimits;
use super::sync::{lock, read, write};
use super::unsynced::{MOST_NOTED, Noted, NotedTogether};
use crate::store::names;
use crate::sync::RwLock;
use crate::sync::atomic::{AtomicUsize, Ordering};

#[derive(Default)]
pub(super) struct Tables {
    pub(super) by_id: HashMap<NodeId, Arc<Node>>,
    by_key: HashMap<InodeKey, Arc<Node>>,
    shown: HashSet<u64>,
    pub(super) dirs: usize,
    noted: Noted,
    /// Those that nobody needs any more but for the names to sync with them.
    kept: HashMap<NodeId, Arc<Node>>,
}

/// All nodes.
pub(super) struct Nodes {
    pub(super) tables: RwLock<Tables>,
    pub(super) limits: NodeLimits,
    /// Descriptors that they hold.
    pub(super) open: Arc<AtomicUsize>,
    /// Where nodes can be parked.
    pub(super) mount: Option<Arc<HandleMount>>,
    pub(super) crowd: Arc<Crowd>,
}

impl Nodes {
    /// The root directory's, to grow up to the limits.
    ///
    /// # Errors
    /// The system is short of something.
    pub(super) fn new(root: Backing, limits: NodeLimits) -> Result<Nodes> {
        let nodes = Nodes {
            tables: RwLock::new(Tables::default()),
            limits,
            open: Arc::default(),
            mount: HandleMount::of(root.as_fd()).map(Arc::new),
            crowd: Arc::default(),
        };
        let root = nodes.intern(root, Kind::Dir)?.backing()?;
        write(&nodes.tables).noted = Noted::below(root);
        Ok(nodes)
    }

    pub(super) fn get(&self, id: NodeId) -> Result<Arc<Node>> {
        read(&self.tables)
            .by_id
            .get(&id)
            .cloned()
            .ok_or(FsError::Stale)
    }

    /// The node and a hold on it, taken together so that it can not be dropped in between. It is to be pinned then.
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
        let node = {
            let tables = read(&self.tables);
            let node = tables.by_key.get(&key)?;
            node.looked_up();
            Arc::clone(node)
        };
        if let Err(FsError::Stale) = self.pin(&node) {
            let tables = &mut *write(&self.tables);
            if tables.give_up(&node, key) {
                node.lookups.fetch_sub(1, Ordering::SeqCst);
                tables.reap(&node);
                return None;
            }
        }
        Some(node)
    }

    /// The node of a backing inode, if it has one; counts nothing.
    pub(super) fn peek(&self, key: InodeKey) -> Option<Arc<Node>> {
        let node = read(&self.tables).by_key.get(&key).cloned()?;
        // One whose inode is gone is not that of another with the same number.
        (!matches!(self.pin(&node), Err(FsError::Stale))).then_some(node)
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
    ///
    /// # Errors
    /// The system is short of something.
    pub(super) fn intern(&self, backing: Backing, kind: Kind) -> Result<Arc<Node>> {
        let tables = &mut *write(&self.tables);
        let key = backing.key;
        let known = tables.by_key.get(&key).cloned();
        let other = match &known {
            Some(node) => write(&node.below).take(backing)?,
            None => Some(backing),
        };
        let node = match (known, other) {
            (Some(node), None) => node,
            (gone, Some(backing)) => {
                gone.map(|gone| tables.give_up(&gone, key));
                tables.add(Below::new(backing, &self.open), kind)
            }
            (None, None) => return Err(FsError::Internal),
        };
        node.looked_up();
        self.tell_if_crowded(tables.by_id.len());
        Ok(node)
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
        let fresh = Below::new(backing, &self.open);
        let old = std::mem::replace(&mut *write(&node.below), fresh);
        tables.part(node, old.key());
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
            .filter_map(|node| node.backing().ok());
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

    /// A new node.
    fn add(&mut self, below: Below, kind: Kind) -> Arc<Node> {
        let key = below.key();
        let ino = self.free_ino(key.ino);
        self.shown.insert(ino);
        let is_root = self.by_id.is_empty();
        let id = if is_root { NodeId::ROOT } else { NodeId(ino) };
        let node = Arc::new(Node::new(id, ino, kind, below));
        self.by_id.insert(id, Arc::clone(&node));
        self.by_key.insert(key, Arc::clone(&node));
        self.dirs += usize::from(kind == Kind::Dir);
        node
    }

    /// The node was parked and its inode is gone: whoever has its number now is another. Not if it is open again; whether it is gone.
    fn give_up(&mut self, node: &Node, key: InodeKey) -> bool {
        let gone = write(&node.below).give_up();
        if gone {
            self.part(node, key);
        }
        gone
    }

    /// The node is found by this key no more.
    fn part(&mut self, node: &Node, key: InodeKey) {
        let present = |there: &Arc<Node>| std::ptr::eq(Arc::as_ptr(there), node);
        if self.by_key.get(&key).is_some_and(present) {
            self.by_key.remove(&key);
        }
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
        self.part(node, node.key());
        self.shown.remove(&node.ino);
        self.noted.take(&new_in);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MANY: NodeLimits = NodeLimits {
        open: 1000,
        all: 1000,
    };

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
        let nodes = Nodes::new(backing(&dir, "."), MANY).unwrap();
        let node = nodes.intern(backing(&dir, "a"), Kind::File).unwrap();
        assert_eq!(
            nodes.intern(backing(&dir, "a"), Kind::File).unwrap().id,
            node.id
        );
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
        let nodes = Nodes::new(backing(&dir, "."), MANY).unwrap();
        let first = nodes.intern(backing(&dir, "a"), Kind::File).unwrap();
        nodes.forget(first.id, 1);
        let second = nodes.intern(backing(&dir, "a"), Kind::File).unwrap();
        assert_eq!(first.id, second.id);
        nodes.reap(&first);
        assert!(Arc::ptr_eq(&nodes.get(second.id).unwrap(), &second));
        assert!(nodes.find(second.key()).is_some());
    }

    #[test]
    fn inode_number_survives_a_swap_and_is_not_shown_twice() {
        let temp = tempfile::tempdir().unwrap();
        for name in ["a", "b"] {
            std::fs::write(temp.path().join(name), "").unwrap();
        }
        let dir = std::fs::File::open(temp.path()).unwrap();
        let nodes = Nodes::new(backing(&dir, "."), MANY).unwrap();
        let node = nodes.intern(backing(&dir, "a"), Kind::File).unwrap();
        let key = backing(&dir, "a").key;
        nodes.rebase(&node, backing(&dir, "b"));
        assert_eq!(nodes.find(backing(&dir, "b").key).unwrap().id, node.id);
        assert_eq!(node.ino, key.ino);
        let other = nodes.intern(backing(&dir, "a"), Kind::File).unwrap();
        assert_ne!((other.id, other.ino), (node.id, node.ino));
    }
}
