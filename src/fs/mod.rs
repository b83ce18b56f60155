//! The file system's operations on an archive: names, attributes, content. It knows nothing of FUSE.
//!
//! Promises are listed in docs/SEMANTICS.md, each with its test. In short: what `fsync` answered for survives power loss;
//! what was not synced is committed within seconds; a damaged block fails only reads that touch it, and never reads as
//! wrong bytes; files that are open stay usable whatever happens to their names.
//!
//! # Locks
//! Taken in this order, any of them left out:
//! 1. `Fs::namespace`: shared by every operation on names, exclusive while a file changes between segment and plain;
//! 2. `Node::entries` of directories, by ascending node number: shared to look up, exclusive to change;
//! 3. `Node::storing`: one stores or commits a file at a time (the flusher takes many, by ascending node number);
//! 4. `Node::content`: exclusive to change the content, shared to plan a read;
//! 5. node table, handle table, dirty list, cache, the node's small mutexes: leaves, of which none is held while
//!    another is taken, except that the dirty list and the node table may be.
//!
//! Decoding and encoding happen outside 4 (and 5), except for the last of several attempts against a busy writer.

mod acl;
mod activity;
mod attr;
mod backing;
mod below;
mod cache;
mod content;
mod convert;
mod course;
mod crowd;
mod depth;
mod dir;
mod disk_cache;
mod disk_files;
mod edit;
mod errno;
mod files;
mod flusher;
mod handles;
mod inode_handle;
mod latency;
mod made;
mod namespace;
mod node;
mod nodes;
mod parking;
mod permits;
mod read;
mod readahead;
mod rename;
mod repack;
mod second_look;
mod setattr;
mod space;
mod stale;
mod stat;
mod swap;
mod sync;
mod unsynced;
mod whole;
mod writeback;
mod xattr;

#[cfg(test)]
mod tests;

use std::ffi::OsString;
use std::path::Path;
use std::sync::{Arc, Weak};
use std::time::Duration;

pub use activity::Activity;
pub use attr::{Attr, Caller, Kind, SetAttr, SetTime, StatFs, Time};
pub use backing::{grow_descriptor_table, raise_file_limit};
pub use crowd::Crowd;
pub use dir::{DirEntry, Entries};
pub use disk_cache::{DiskCacheOptions, DiskCacheStats};
pub use edit::{SEEK_DATA, SEEK_HOLE};
pub use errno::{FsError, Result};
pub use handles::Fh;
pub use latency::{BOUNDS, Latency};
pub use node::NodeId;
pub use rename::RenameFlags;
pub use repack::Snapshot;
pub use stat::FsStats;
pub use swap::Outcome;

use crate::codec::CodecId;
use crate::segment::{DEFAULT_BLOCK, valid_block_size};
use crate::store::{Access, Archive, names};
use crate::sync::thread::JoinHandle;
use crate::sync::{Mutex, RwLock, RwLockReadGuard};
use backing::Backing;
use cache::BlockCache;
use disk_cache::DiskCache;
use handles::Handles;
use latency::Histogram;
use node::Node;
use nodes::Nodes;
use parking::NodeLimits;
use permits::Permits;
use readahead::ReadAhead;
use stale::Stale;
use sync::read;
use writeback::Writeback;

/// How the file system behaves.
#[derive(Debug, Clone)]
pub struct FsOptions {
    /// Bound of the cache of decoded blocks, in bytes.
    pub cache_bytes: u64,
    /// Block size of new files: a power of two from 16 KiB to 1 MiB.
    pub block_size: u32,
    /// Written bytes that one file holds in memory before its full blocks are stored.
    pub file_dirty_bytes: u64,
    /// Written bytes that all files together hold in memory before writers wait.
    pub total_dirty_bytes: u64,
    /// After how long changes are committed without anybody asking.
    pub commit_after: Duration,
    /// The same for files that were closed.
    pub commit_closed_after: Duration,
    /// Threads that encode blocks for one file.
    pub jobs: usize,
    /// Threads that decode neural blocks at a time, if they are to be few: each takes some 50 MiB meanwhile, and then keeps nothing.
    pub decoders: Option<usize>,
    /// Nodes to keep, at some 700 bytes each, before the kernel is to forget files that nobody has open.
    pub nodes: usize,
    /// Descriptors that nodes may hold; half of those that the process may have if that is not said.
    pub node_descriptors: Option<usize>,
    /// Where decoded blocks are kept beyond this process, if anywhere.
    pub disk_cache: Option<DiskCacheOptions>,
}

impl Default for FsOptions {
    fn default() -> Self {
        FsOptions {
            cache_bytes: 256 << 20,
            block_size: DEFAULT_BLOCK,
            file_dirty_bytes: 8 << 20,
            total_dirty_bytes: 64 << 20,
            commit_after: Duration::from_secs(5),
            commit_closed_after: Duration::from_secs(1),
            jobs: std::thread::available_parallelism()
                .map_or(1, usize::from)
                .min(8),
            decoders: None,
            nodes: 1 << 19,
            node_descriptors: None,
            disk_cache: None,
        }
    }
}

/// An archive as a file system. Shared by all threads that serve requests.
///
/// Call [`Fs::shutdown`] at the end; what is dropped without it loses what was not yet committed, as by `kill -9`.
pub struct Fs {
    archive: Archive,
    options: FsOptions,
    nodes: Nodes,
    handles: Handles,
    cache: BlockCache,
    namespace: RwLock<()>,
    writeback: Writeback,
    flusher: Mutex<Option<JoinHandle<()>>>,
    readahead: ReadAhead,
    activity: Activity,
    stale: Stale,
    disk_cache: Option<DiskCache>,
    decoders: Option<Permits>,
    /// By codec, how long decoding a block took those who wanted it.
    decoding: [Histogram; CodecId::ALL.len()],
    /// Itself, for threads that must not keep it alive.
    this: Weak<Fs>,
}

impl Fs {
    /// Makes an archive a file system and, if it is open for writing, starts committing in the background.
    ///
    /// # Errors
    /// The root can not be opened; an impossible block size; a disk cache that is not ours.
    pub fn new(archive: Archive, options: FsOptions) -> Result<Arc<Fs>> {
        if !valid_block_size(options.block_size) {
            return Err(FsError::Invalid);
        }
        backing::raise_file_limit();
        let (root, _) = Backing::open(archive.root_fd(), ".".as_ref(), names::Kind::Other)?;
        let disk_cache = match options.disk_cache.clone() {
            Some(wanted) => {
                let dir = wanted.dir.clone();
                Some(DiskCache::open(wanted).map_err(|e| FsError::DiskCache(dir, Arc::new(e)))?)
            }
            None => None,
        };
        // The rest is for files that are open.
        let half = || usize::try_from(backing::file_limit() / 2).unwrap_or(usize::MAX);
        let limits = NodeLimits {
            open: options.node_descriptors.unwrap_or_else(half),
            all: options.nodes,
        };
        let nodes = Nodes::new(root, limits)?;
        let fs = Arc::new_cyclic(|this| Fs {
            nodes,
            handles: Handles::default(),
            cache: BlockCache::new(options.cache_bytes),
            namespace: RwLock::new(()),
            writeback: Writeback::default(),
            flusher: Mutex::new(None),
            readahead: ReadAhead::default(),
            activity: Activity::default(),
            stale: Stale::default(),
            disk_cache,
            decoders: options.decoders.map(Permits::new),
            decoding: Default::default(),
            this: Weak::clone(this),
            archive,
            options,
        });
        if fs.archive.access() == Access::Write {
            flusher::start(&fs)?;
        }
        Ok(fs)
    }

    /// The archive below.
    #[must_use]
    pub fn archive(&self) -> &Archive {
        &self.archive
    }

    /// The options it was made with.
    #[must_use]
    pub fn options(&self) -> &FsOptions {
        &self.options
    }

    /// Bytes that the cache of decoded blocks holds at most.
    #[must_use]
    pub fn cache_limit(&self) -> u64 {
        self.cache.limit()
    }

    /// Bounds the cache of decoded blocks from now on.
    pub fn limit_cache(&self, bytes: u64) {
        self.cache.set_limit(bytes);
    }

    /// The requests of its users.
    #[must_use]
    pub fn activity(&self) -> &Activity {
        &self.activity
    }

    /// The node at a logical path relative to the root; counts a lookup, to be taken back by [`Fs::forget`].
    ///
    /// # Errors
    /// `ENOENT`, `ENOTDIR`; symlinks are not followed.
    pub fn resolve(&self, path: &Path) -> Result<NodeId> {
        let mut at = self.nodes.get(NodeId::ROOT)?;
        for part in path.components() {
            let name = match part {
                std::path::Component::Normal(name) => name,
                std::path::Component::CurDir | std::path::Component::RootDir => continue,
                std::path::Component::ParentDir | std::path::Component::Prefix(_) => {
                    return Err(FsError::Invalid);
                }
            };
            let looked_up = self.lookup(at.id, name);
            if at.id != NodeId::ROOT {
                self.forget(at.id, 1);
            }
            at = self.nodes.get(looked_up?.0)?;
        }
        Ok(at.id)
    }

    /// Tells when there are so many nodes that some should be forgotten.
    #[must_use]
    pub fn crowd(&self) -> Arc<Crowd> {
        Arc::clone(&self.nodes.crowd)
    }

    /// If nodes hold too many descriptors, has those of files that nobody has open give theirs up, where the system allows that:
    /// answers how many.
    #[must_use]
    pub fn park_nodes(&self) -> usize {
        self.nodes.park()
    }

    /// Names, each with its directory's node, that whoever looked them up should forget, because there are too many.
    #[must_use]
    pub fn dispensable(&self) -> Vec<(NodeId, OsString)> {
        self.nodes.dispensable()
    }

    fn node(&self, id: NodeId) -> Result<Arc<Node>> {
        self.nodes.get(id)
    }

    /// Leave to change something, with the namespace held shared.
    fn changing(&self) -> Result<RwLockReadGuard<'_, ()>> {
        self.require_writable()?;
        Ok(read(&self.namespace))
    }

    fn require_writable(&self) -> Result<()> {
        match self.archive.access() {
            Access::Write => Ok(()),
            Access::Read => Err(FsError::ReadOnly),
        }
    }
}
