//! A node: what is known of one backing inode, and who uses it.
//!
//! It holds the inode open, or is parked: then it keeps a handle of it, and opens it for as long as it takes to answer. Who holds a node
//! pins it, so that its inode stays whatever happens to its names; one whose last name is about to go must be held before.

use std::collections::HashSet;
use std::ffi::{OsStr, OsString};
use std::sync::Arc;

use super::attr::{Kind, Time};
use super::backing::{Backing, InodeKey};
use super::below::Below;
use super::cache::next_instance;
use super::content::Content;
use super::errno::{FsError, Result};
use super::inode_handle::HandleMount;
use super::made::Made;
use super::sync::{lock, read, write};
use super::unsynced::NewNames;
use crate::segment::{Starts, Summary};
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
    pub(super) below: RwLock<Below>,
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
    /// Of a directory: what was made in it and is to be synced with it.
    pub(super) made: Mutex<Made>,
    /// Directories to sync with the node.
    pub(super) new_in: Mutex<NewNames>,
    /// A failure in the background that no caller knows of yet.
    pub(super) failed: Mutex<Option<FsError>>,
    /// The last name it was looked up by.
    pub(super) name: Mutex<OsString>,
    /// The directory that has this name.
    parent: AtomicU64,
    /// Whether it was called dispensable since it was last looked up.
    pub(super) dispensed: AtomicBool,
    /// Damaged blocks that the log already names; `u64::MAX` stands for the whole file.
    pub(super) logged: Mutex<HashSet<u64>>,
    /// Handles that may write.
    pub(super) writers: AtomicU64,
    pub(super) lookups: AtomicU64,
    pub(super) holds: AtomicU64,
}

impl Node {
    pub(super) fn new(id: NodeId, ino: u64, kind: Kind, below: Below) -> Node {
        Node {
            id,
            ino,
            kind,
            below: RwLock::new(below),
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
            made: Mutex::default(),
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

    /// The backing inode, opened for as long as the answer lives if the node is parked.
    ///
    /// # Errors
    /// `ESTALE` if the node is parked and the inode is gone; it can not be opened.
    pub(super) fn backing(&self) -> Result<Arc<Backing>> {
        // Opened with no lock held, as that may have to read from the disk.
        let below = read(&self.below).clone();
        below.backing()
    }

    pub(super) fn key(&self) -> InodeKey {
        read(&self.below).key()
    }

    pub(super) fn is_segment(&self) -> bool {
        self.key().segment
    }

    /// Parks it no more; whether it was. Who holds it before keeps it so.
    ///
    /// # Errors
    /// As [`Node::backing`].
    pub(super) fn pin(&self) -> Result<bool> {
        let below = read(&self.below).clone();
        if below.is_open() {
            return Ok(false);
        }
        let backing = below.backing()?;
        write(&self.below).reopened(backing);
        Ok(true)
    }

    /// Parks it if nobody uses it and its inode can be opened again; whether it did.
    pub(super) fn park(&self, mount: &Arc<HandleMount>) -> bool {
        let mut below = write(&self.below);
        // Who holds it from here on waits to pin it.
        self.can_be_parked() && below.park(mount)
    }

    /// Whether it is no directory, nobody has it open and it has nothing to store.
    pub(super) fn can_be_parked(&self) -> bool {
        // In this order: who makes it dirty holds it.
        self.kind != Kind::Dir && !self.is_held() && !self.dirty.load(Ordering::SeqCst)
    }

    /// Changes attributes of the backing inode while nothing is stored, which would hide that they changed, and no swap copies them.
    pub(super) fn change_attributes<T>(
        &self,
        change: impl FnOnce(&Backing) -> Result<T>,
    ) -> Result<T> {
        let _content = read(&self.content);
        change(&*self.backing()?)
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

    /// Counts a lookup.
    pub(super) fn looked_up(&self) {
        self.lookups.fetch_add(1, Ordering::SeqCst);
        self.dispensed.store(false, Ordering::Relaxed);
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
