//! The disk cache: decoded neural blocks in a directory of their own, so that what is read often is fast after a remount, too.
//!
//! A block's file is named by what it was decoded from and begins with a keyed hash of that name and its bytes. So a file that is
//! damaged, forged, moved or half written is as good as none, and everything there may be deleted at any time. What is
//! least recently used goes first. Writing and deleting are done by one thread that nobody waits for.

use std::io::{self, Read};
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{SyncSender, sync_channel};
use std::sync::{Arc, PoisonError, RwLock};
use std::thread::{self, JoinHandle};

use rustix::fs::{Mode, OFlags, fstat, openat};

use super::disk_files::{self, Keeper};
use crate::segment::{BlockEntry, StartEntry, Starts};

/// Blocks that wait to be written; beyond that they are not kept.
const QUEUE: usize = 8;

/// Where decoded blocks are kept, and how many.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DiskCacheOptions {
    /// The directory, absolute; it is made if need be.
    pub dir: PathBuf,
    /// Bytes on the disk at most.
    pub bytes: u64,
}

/// What the disk cache has done so far.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct DiskCacheStats {
    /// Bytes that its files take.
    pub bytes: u64,
    /// Bytes that they may take.
    pub limit: u64,
    /// Blocks that it had.
    pub hits: u64,
    /// Blocks that it had not.
    pub misses: u64,
    /// Blocks that were written.
    pub stored: u64,
    /// Blocks that made room for others.
    pub evicted: u64,
    /// Files that were not what their name says.
    pub damaged: u64,
}

/// Names a decoded block by what it is decoded from.
pub(super) type Name = [u8; 16];

/// What the thread that writes is told.
pub(super) enum Told {
    Keep(Name, Vec<u8>),
    Used(Name),
    Remove(Name),
}

/// What readers share with the thread that writes.
pub(super) struct Shared {
    pub(super) options: DiskCacheOptions,
    pub(super) dir: RwLock<OwnedFd>,
    /// Whoever does not know it can write no file that is taken for ours.
    pub(super) secret: [u8; 32],
    pub(super) bytes: AtomicU64,
    pub(super) stored: AtomicU64,
    pub(super) evicted: AtomicU64,
}

/// See the module.
pub(super) struct DiskCache {
    shared: Arc<Shared>,
    hits: AtomicU64,
    misses: AtomicU64,
    damaged: AtomicU64,
    /// None when it ends.
    tell: Option<SyncSender<Told>>,
    keeper: Option<JoinHandle<()>>,
}

impl DiskCache {
    /// Opens the directory, or makes it.
    ///
    /// # Errors
    /// What is there is not ours alone, is in use, or is no cache; I/O errors.
    pub(super) fn open(options: DiskCacheOptions) -> io::Result<DiskCache> {
        let dir = disk_files::open_dir(&options.dir)?;
        let secret = disk_files::secret(&dir)?;
        let shared = Arc::new(Shared {
            options,
            dir: RwLock::new(dir),
            secret,
            bytes: AtomicU64::new(0),
            stored: AtomicU64::new(0),
            evicted: AtomicU64::new(0),
        });
        let (tell, told) = sync_channel(QUEUE);
        let keeper = Keeper::new(Arc::clone(&shared));
        let keeper = thread::Builder::new()
            .name("disk-cache".into())
            .spawn(move || keeper.run(&told))?;
        Ok(DiskCache {
            shared,
            hits: AtomicU64::new(0),
            misses: AtomicU64::new(0),
            damaged: AtomicU64::new(0),
            tell: Some(tell),
            keeper: Some(keeper),
        })
    }

    /// The decoded bytes of a block, if they are there and have the checksum that the index names.
    pub(super) fn get(&self, name: &Name, entry: &BlockEntry) -> Option<Vec<u8>> {
        let found = self.read(name, entry.decoded_len as usize);
        let checked = match found {
            Ok(data) => data.filter(|data| crc32c::crc32c(data) == entry.decoded_crc),
            Err(_) => {
                self.misses.fetch_add(1, Ordering::Relaxed);
                return None;
            }
        };
        if checked.is_some() {
            self.hits.fetch_add(1, Ordering::Relaxed);
            self.tell(Told::Used(*name));
        } else {
            self.damaged.fetch_add(1, Ordering::Relaxed);
            self.misses.fetch_add(1, Ordering::Relaxed);
            self.tell(Told::Remove(*name));
        }
        checked
    }

    /// Keeps decoded bytes, if there is time for it.
    pub(super) fn put(&self, name: Name, data: &[u8]) {
        self.tell(Told::Keep(name, data.to_vec()));
    }

    pub(super) fn stats(&self) -> DiskCacheStats {
        let load = |n: &AtomicU64| n.load(Ordering::Relaxed);
        DiskCacheStats {
            bytes: load(&self.shared.bytes),
            limit: self.shared.options.bytes,
            hits: load(&self.hits),
            misses: load(&self.misses),
            stored: load(&self.shared.stored),
            evicted: load(&self.shared.evicted),
            damaged: load(&self.damaged),
        }
    }

    fn tell(&self, what: Told) {
        if let Some(tell) = &self.tell {
            // It is busy; what is wanted again is told again.
            let _ = tell.try_send(what);
        }
    }

    /// The bytes of a file; none if it is not what its name says.
    fn read(&self, name: &Name, len: usize) -> io::Result<Option<Vec<u8>>> {
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let file = {
            let dir = self.shared.dir.read();
            let dir = dir.unwrap_or_else(PoisonError::into_inner);
            openat(&*dir, disk_files::file_name(name), flags, Mode::empty())?
        };
        if fstat(&file)?.st_size != (32 + len) as i64 {
            return Ok(None);
        }
        let mut mac = [0; 32];
        let mut data = vec![0; len];
        let mut file = std::fs::File::from(file);
        file.read_exact(&mut mac)?;
        file.read_exact(&mut data)?;
        // Compared in constant time.
        Ok((self.shared.mac(name, &data) == mac).then_some(data))
    }
}

impl Shared {
    pub(super) fn mac(&self, name: &Name, data: &[u8]) -> blake3::Hash {
        let mut hash = blake3::Hasher::new_keyed(&self.secret);
        hash.update(name).update(data);
        hash.finalize()
    }
}

impl Drop for DiskCache {
    fn drop(&mut self) {
        self.tell = None;
        if let Some(keeper) = self.keeper.take()
            && keeper.join().is_err()
        {
            log::error!("the disk cache ended early");
        }
    }
}

/// Names what a payload decodes to: by its own bytes, its model, and the states that it starts from.
pub(super) fn name_of(payload: &[u8], entry: &BlockEntry, starts: &Starts) -> Name {
    let mut hash = blake3::Hasher::new();
    let mut add_entry = |entry: &BlockEntry, payload: &[u8]| {
        let model = entry.model.map(|id| id.to_string()).unwrap_or_default();
        hash.update(&[entry.codec as u8, model.len() as u8]);
        hash.update(model.as_bytes());
        for number in [
            entry.len,
            entry.payload_crc,
            entry.decoded_len,
            entry.decoded_crc,
            payload.len() as u32,
        ] {
            hash.update(&number.to_le_bytes());
        }
        hash.update(payload);
    };
    add_entry(entry, payload);
    let mut number = entry.start;
    let mut primer = None;
    while let Some(state) = starts.get(number) {
        match state {
            StartEntry::Primer(id) => {
                primer = Some(id.to_string());
                break;
            }
            StartEntry::Block { parent, payload } => {
                add_entry(payload, &[]);
                // Every state before has a smaller number.
                number = (*parent).min(number - 1);
            }
        }
    }
    hash.update(primer.unwrap_or_default().as_bytes());
    let mut name = [0; 16];
    name.copy_from_slice(&hash.finalize().as_bytes()[..16]);
    name
}
