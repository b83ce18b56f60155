//! What lies below a node: a backing inode, which it holds open, or knows by its handle alone.
//!
//! An open descriptor keeps the inode, and so its number, from being used again. A handle costs no descriptor; who uses it finds out
//! whether the inode is still there.

use std::os::fd::AsFd;
use std::sync::Arc;

use super::backing::{Backing, InodeKey};
use super::errno::{FsError, Result};
use super::inode_handle::{HandleMount, InodeHandle};
use crate::store::names;
use crate::sync::atomic::{AtomicUsize, Ordering};

/// See the module.
#[derive(Debug, Clone)]
pub(super) enum Below {
    Open(Arc<Open>),
    Parked(Arc<Parked>),
    /// Was parked, and was not there any more when it was looked for. It never comes back, as another node may stand for it by then.
    Gone(InodeKey),
}

/// A backing inode that is held open.
#[derive(Debug)]
pub(super) struct Open {
    backing: Arc<Backing>,
    /// Of all nodes: those that hold theirs open.
    count: Arc<AtomicUsize>,
}

/// A backing inode that is known by its handle.
#[derive(Debug)]
pub(super) struct Parked {
    key: InodeKey,
    handle: InodeHandle,
    mount: Arc<HandleMount>,
    count: Arc<AtomicUsize>,
}

impl Drop for Open {
    fn drop(&mut self) {
        self.count.fetch_sub(1, Ordering::SeqCst);
    }
}

impl Parked {
    fn open(&self) -> Result<Backing> {
        let form = if self.key.segment {
            names::Kind::Segment
        } else {
            names::Kind::Other
        };
        let (backing, _) = Backing::from_fd(self.mount.open(&self.handle)?, form)?;
        if backing.key == self.key {
            Ok(backing)
        } else {
            Err(FsError::Stale)
        }
    }
}

impl Below {
    /// Holds it open, which `count` counts.
    pub(super) fn new(backing: Backing, count: &Arc<AtomicUsize>) -> Below {
        count.fetch_add(1, Ordering::SeqCst);
        Below::Open(Arc::new(Open {
            backing: Arc::new(backing),
            count: Arc::clone(count),
        }))
    }

    pub(super) fn key(&self) -> InodeKey {
        match self {
            Below::Open(open) => open.backing.key,
            Below::Parked(parked) => parked.key,
            Below::Gone(key) => *key,
        }
    }

    pub(super) fn is_open(&self) -> bool {
        matches!(self, Below::Open(_))
    }

    /// The inode, opened for as long as the answer lives if it is not held open.
    ///
    /// # Errors
    /// `ESTALE` if it is gone; the system is short of something.
    pub(super) fn backing(&self) -> Result<Arc<Backing>> {
        match self {
            Below::Open(open) => Ok(Arc::clone(&open.backing)),
            Below::Parked(parked) => parked.open().map(Arc::new),
            Below::Gone(_) => Err(FsError::Stale),
        }
    }

    /// Holds it open from now on, by what its handle opened.
    pub(super) fn reopened(&mut self, backing: Arc<Backing>) {
        if let Below::Parked(parked) = self
            && backing.key == parked.key
        {
            parked.count.fetch_add(1, Ordering::SeqCst);
            let count = Arc::clone(&parked.count);
            *self = Below::Open(Arc::new(Open { backing, count }));
        }
    }

    /// Takes an open inode with this one's key to hold it open by; gives it back if it is another, that got the number since.
    ///
    /// # Errors
    /// That can not be told.
    pub(super) fn take(&mut self, backing: Backing) -> Result<Option<Backing>> {
        match self {
            // Nobody else can have its number.
            Below::Open(_) => Ok(None),
            Below::Gone(_) => Ok(Some(backing)),
            Below::Parked(parked) => match parked.mount.handle_of(backing.as_fd())? {
                (handle, _) if handle != parked.handle => Ok(Some(backing)),
                (_, here) => {
                    if here {
                        self.reopened(Arc::new(backing));
                    }
                    Ok(None)
                }
            },
        }
    }

    /// Gives it up for good if it is parked and the inode is gone; whether it is given up.
    pub(super) fn give_up(&mut self) -> bool {
        if let Below::Parked(parked) = self
            && matches!(parked.open(), Err(FsError::Stale))
        {
            *self = Below::Gone(parked.key);
        }
        matches!(self, Below::Gone(_))
    }

    /// Holds it open no more, if it can be opened again: not one without a name, which only a descriptor keeps alive. Whether it did.
    pub(super) fn park(&mut self, mount: &Arc<HandleMount>) -> bool {
        let Below::Open(open) = self else {
            return false;
        };
        let named = open.backing.stat().is_ok_and(|stat| stat.st_nlink > 0);
        let Some((handle, true)) = named
            .then(|| mount.handle_of(open.backing.as_fd()).ok())
            .flatten()
        else {
            return false;
        };
        *self = Below::Parked(Arc::new(Parked {
            key: open.backing.key,
            handle,
            mount: Arc::clone(mount),
            count: Arc::clone(&open.count),
        }));
        true
    }
}
