//! Parking: nodes of files that nobody has open give up their descriptors, and keep a handle of the inode instead.
//!
//! Long before nodes hold too many descriptors, [`super::Crowd`] is told, and whoever serves the kernel has nodes parked
//! ([`super::Fs::park_nodes`]). Where that can not be, or there are more nodes than memory is for, it has the kernel forget some
//! ([`super::Fs::dispensable`]): on a file system without handles that can be relied on, on another than the root's, and for a
//! daemon that may not open files by them, which takes root's rights.

use std::ffi::OsString;
use std::sync::Arc;

use super::errno::Result;
use super::node::{Node, NodeId};
use super::nodes::Nodes;
use super::sync::read;
use crate::sync::atomic::Ordering;

/// Above which there are too many.
#[derive(Debug, Clone, Copy)]
pub(super) struct NodeLimits {
    /// Descriptors that nodes hold.
    pub(super) open: usize,
    /// Nodes.
    pub(super) all: usize,
}

/// How many are to go, so that a quarter of `most` is free; none unless there are more than that.
fn surplus(count: usize, most: usize) -> usize {
    if count > most {
        count - most / 4 * 3
    } else {
        0
    }
}

impl Nodes {
    /// Descriptors that nodes hold.
    pub(super) fn descriptors(&self) -> usize {
        self.open.load(Ordering::Relaxed)
    }

    /// Those of them that nodes of directories hold.
    pub(super) fn dirs(&self) -> usize {
        read(&self.tables).dirs
    }

    /// Nodes above which there are too many.
    pub(super) fn most(&self) -> usize {
        if self.mount.is_some() {
            self.limits.all
        } else {
            self.limits.all.min(self.limits.open)
        }
    }

    pub(super) fn tell_if_crowded(&self, nodes: usize) {
        if nodes > self.most() || self.descriptors() > self.limits.open {
            self.crowd.tell();
        }
    }

    /// Parks a node no more. Unless somebody holds it, it may be parked again at once.
    ///
    /// # Errors
    /// `ESTALE` if its inode is gone; the system is short of something.
    pub(super) fn pin(&self, node: &Node) -> Result<()> {
        if node.pin()? && self.descriptors() > self.limits.open {
            self.crowd.tell();
        }
        Ok(())
    }

    /// If they hold too many descriptors: parks nodes that nobody uses, so many that a quarter of those allowed is free. Answers how
    /// many.
    pub(super) fn park(&self) -> usize {
        let Some(mount) = &self.mount else { return 0 };
        let surplus = surplus(self.descriptors(), self.limits.open);
        if surplus == 0 {
            return 0;
        }
        let going: Vec<_> = {
            let tables = read(&self.tables);
            let can_go = |node: &&Arc<Node>| node.can_be_parked() && read(&node.below).is_open();
            let going = tables.by_id.values().filter(can_go).take(surplus);
            going.cloned().collect()
        };
        going.iter().filter(|node| node.park(mount)).count()
    }

    /// If there are too many, or they still hold too many descriptors: names, each with its directory, of nodes that are no
    /// directories, not open and not to be stored, so many that a quarter of those allowed is free once they are gone.
    pub(super) fn dispensable(&self) -> Vec<(NodeId, OsString)> {
        let tables = read(&self.tables);
        let nodes = surplus(tables.by_id.len(), self.most());
        let surplus = nodes.max(surplus(self.descriptors(), self.limits.open));
        let can_go = |node: &&Arc<Node>| {
            node.can_be_parked()
                && (nodes > 0 || read(&node.below).is_open())
                && !node.dispensed.swap(true, Ordering::Relaxed)
        };
        let going = tables.by_id.values().filter(can_go).take(surplus);
        going.map(|node| node.place()).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fs::attr::Kind;
    use crate::fs::backing::Backing;
    use crate::fs::errno::FsError;
    use crate::store::names;
    use std::os::fd::AsFd;

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
    fn nodes_that_nobody_needs_are_named_once_when_there_are_too_many() {
        let temp = tempfile::tempdir().unwrap();
        let dir = std::fs::File::open(temp.path()).unwrap();
        let nodes = Nodes::new(backing(&dir, "."), NodeLimits { all: 8, ..MANY }).unwrap();
        let made: Vec<_> = (0..20)
            .map(|n| {
                let name = n.to_string();
                std::fs::write(temp.path().join(&name), "").unwrap();
                let node = nodes.intern(backing(&dir, &name), Kind::File).unwrap();
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

    #[test]
    fn nodes_that_nobody_uses_give_up_their_descriptors_and_stay_what_they_are() {
        let temp = tempfile::tempdir().unwrap();
        let dir = std::fs::File::open(temp.path()).unwrap();
        let limits = NodeLimits { open: 8, ..MANY };
        let nodes = Nodes::new(backing(&dir, "."), limits).unwrap();
        if nodes.mount.is_none() {
            println!("skipped: no right to open files by their handles");
            return;
        }
        let name = |n: usize| n.to_string();
        let made: Vec<_> = (0..20)
            .map(|n| {
                std::fs::write(temp.path().join(name(n)), name(n)).unwrap();
                nodes.intern(backing(&dir, &name(n)), Kind::File).unwrap()
            })
            .collect();
        let open = || nodes.open.load(Ordering::Relaxed);
        assert_eq!(open(), 21);
        nodes.hold(made[3].id).unwrap();
        made[4].dirty.store(true, Ordering::SeqCst);
        std::fs::remove_file(temp.path().join("5")).unwrap();
        assert!(nodes.park() > 0);
        assert!(nodes.dispensable().is_empty());
        // Of 21, with the root, 6 are to stay; the one without a name may be among those that were asked.
        assert!((6..=7).contains(&open()), "{}", open());
        for (n, node) in made.iter().enumerate() {
            let is_open = read(&node.below).is_open();
            assert!(is_open || !(3..=5).contains(&n), "{n}");
            let below = node.backing().unwrap();
            assert_eq!(below.key, node.key());
            let text = std::io::read_to_string(below.reopen(rustix::fs::OFlags::RDONLY).unwrap());
            assert_eq!(text.unwrap(), name(n));
            assert_eq!(read(&node.below).is_open(), is_open);
        }
        // However it is found it is the same one, and open.
        for n in (6..20).filter(|&n| !read(&made[n].below).is_open()) {
            let found = match n % 2 {
                0 => nodes.find(made[n].key()).unwrap(),
                _ => nodes.intern(backing(&dir, &name(n)), Kind::File).unwrap(),
            };
            assert!(Arc::ptr_eq(&found, &made[n]) && read(&found.below).is_open());
        }
    }

    #[test]
    fn a_file_with_the_number_of_one_that_is_gone_is_another_node() {
        let temp = tempfile::tempdir().unwrap();
        let dir = std::fs::File::open(temp.path()).unwrap();
        let limits = NodeLimits { open: 0, ..MANY };
        let nodes = Nodes::new(backing(&dir, "."), limits).unwrap();
        if nodes.mount.is_none() {
            println!("skipped: no right to open files by their handles");
            return;
        }
        for interned in [false, true] {
            let mut tries = 0;
            let gone = loop {
                tries += 1;
                if tries > 1000 {
                    println!("skipped: numbers of files are not used again here");
                    return;
                }
                std::fs::write(temp.path().join("a"), "").unwrap();
                let node = nodes.intern(backing(&dir, "a"), Kind::File).unwrap();
                assert!(nodes.park() > 0);
                assert!(!read(&node.below).is_open());
                std::fs::remove_file(temp.path().join("a")).unwrap();
                std::fs::write(temp.path().join("b"), "").unwrap();
                if backing(&dir, "b").key == node.key() {
                    break node;
                }
                nodes.forget(node.id, 1);
                std::fs::remove_file(temp.path().join("b")).unwrap();
            };
            assert!(matches!(gone.backing(), Err(FsError::Stale)));
            let found = match interned {
                true => Some(nodes.intern(backing(&dir, "b"), Kind::File).unwrap()),
                false => nodes.find(gone.key()),
            };
            let other =
                found.unwrap_or_else(|| nodes.intern(backing(&dir, "b"), Kind::File).unwrap());
            assert_ne!((other.id, other.ino), (gone.id, gone.ino));
            assert!(Arc::ptr_eq(&nodes.get(gone.id).unwrap(), &gone));
            nodes.forget(gone.id, 1);
            assert!(nodes.get(gone.id).is_err());
            // What goes takes nothing from the other.
            assert!(Arc::ptr_eq(&nodes.peek(other.key()).unwrap(), &other));
            nodes.forget(other.id, 1);
            std::fs::remove_file(temp.path().join("b")).unwrap();
        }
    }
}
