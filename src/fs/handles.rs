//! Open files and directories.

use std::collections::HashMap;
use std::sync::Arc;

use rustix::fs::OFlags;

use super::dir::Listing;
use super::errno::{FsError, Result};
use super::node::Node;
use super::sync::{read, write};
use crate::sync::atomic::{AtomicU64, Ordering};
use crate::sync::{Mutex, RwLock};

/// Names an open file or directory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Fh(pub u64);

/// An open file.
pub(super) struct FileHandle {
    pub(super) node: Arc<Node>,
    readable: bool,
    writable: bool,
    pub(super) append: bool,
    /// Where the last read ended: one that begins there is sequential.
    last_end: AtomicU64,
}

impl FileHandle {
    pub(super) fn new(node: Arc<Node>, flags: OFlags) -> FileHandle {
        let mode = flags & OFlags::RWMODE;
        let writable = mode != OFlags::RDONLY;
        node.writers
            .fetch_add(u64::from(writable), Ordering::SeqCst);
        FileHandle {
            node,
            readable: mode != OFlags::WRONLY,
            writable,
            append: flags.contains(OFlags::APPEND),
            last_end: AtomicU64::new(0),
        }
    }

    /// Notes a read, and whether it goes on near where the last one ended. The first one never does.
    pub(super) fn is_sequential(&self, offset: u64, len: usize) -> bool {
        let end = offset.saturating_add(len as u64);
        let last = self.last_end.swap(end, Ordering::Relaxed);
        last > 0 && offset <= last && last <= end
    }
}

impl Drop for FileHandle {
    fn drop(&mut self) {
        self.node
            .writers
            .fetch_sub(u64::from(self.writable), Ordering::SeqCst);
    }
}

/// An open directory.
pub(super) struct DirHandle {
    pub(super) node: Arc<Node>,
    pub(super) listing: Mutex<Option<Arc<Listing>>>,
}

#[derive(Clone)]
pub(super) enum Handle {
    File(Arc<FileHandle>),
    Dir(Arc<DirHandle>),
}

/// All open handles.
#[derive(Default)]
pub(super) struct Handles {
    table: RwLock<HashMap<Fh, Handle>>,
    last: AtomicU64,
}

impl Handles {
    pub(super) fn insert(&self, handle: Handle) -> Fh {
        let fh = Fh(self.last.fetch_add(1, Ordering::Relaxed) + 1);
        write(&self.table).insert(fh, handle);
        fh
    }

    pub(super) fn remove(&self, fh: Fh) -> Result<Handle> {
        write(&self.table).remove(&fh).ok_or(FsError::BadHandle)
    }

    pub(super) fn file(&self, fh: Fh) -> Result<Arc<FileHandle>> {
        match read(&self.table).get(&fh) {
            Some(Handle::File(file)) => Ok(Arc::clone(file)),
            _ => Err(FsError::BadHandle),
        }
    }

    pub(super) fn dir(&self, fh: Fh) -> Result<Arc<DirHandle>> {
        match read(&self.table).get(&fh) {
            Some(Handle::Dir(dir)) => Ok(Arc::clone(dir)),
            _ => Err(FsError::BadHandle),
        }
    }

    pub(super) fn readable(&self, fh: Fh) -> Result<Arc<FileHandle>> {
        self.file(fh).and_then(|file| {
            if file.readable {
                Ok(file)
            } else {
                Err(FsError::BadHandle)
            }
        })
    }

    pub(super) fn writable(&self, fh: Fh) -> Result<Arc<FileHandle>> {
        self.file(fh).and_then(|file| {
            if file.writable {
                Ok(file)
            } else {
                Err(FsError::BadHandle)
            }
        })
    }

    pub(super) fn len(&self) -> usize {
        read(&self.table).len()
    }
}
