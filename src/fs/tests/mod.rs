//! The promises of docs/SEMANTICS.md that one file alone can not show. Each test is named for its promise.

mod attributes;
mod concurrency;
mod content;
mod damage;
mod decode_once;
mod disk_cache;
mod durability;
mod names;
mod readahead;
mod readonly;
mod space;
mod starts;
mod swaps;

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use rustix::fs::OFlags;

use super::*;
use crate::codec::Encoded;
use crate::store::{Encoding, KeyRun, SealOptions, seal};

pub(super) const RDONLY: i32 = 0;
pub(super) const RDWR: i32 = OFlags::RDWR.bits() as i32;
pub(super) const APPEND: i32 = (OFlags::WRONLY.bits() | OFlags::APPEND.bits()) as i32;

/// Block size of the files that these tests make.
pub(super) const BLOCK: usize = 16 << 10;

pub(super) fn options() -> FsOptions {
    FsOptions {
        cache_bytes: 4 << 20,
        block_size: BLOCK as u32,
        commit_after: Duration::from_secs(3600),
        commit_closed_after: Duration::from_secs(3600),
        jobs: 2,
        ..FsOptions::default()
    }
}

/// An archive in a temporary directory, as a file system.
pub(super) struct Mounted {
    pub(super) dir: tempfile::TempDir,
    pub(super) fs: Arc<Fs>,
}

impl Drop for Mounted {
    fn drop(&mut self) {
        self.fs.abandon();
    }
}

pub(super) fn me() -> Caller {
    Caller {
        uid: rustix::process::geteuid().as_raw(),
        gid: rustix::process::getegid().as_raw(),
        umask: 0o022,
    }
}

pub(super) fn os(name: &str) -> &OsStr {
    OsStr::new(name)
}

/// Bytes that compress a little and differ by seed.
pub(super) fn data(len: usize, seed: u8) -> Vec<u8> {
    let mut x = u32::from(seed).wrapping_mul(2_654_435_761) | 1;
    let mut next = |i: usize| {
        x = x.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        if i.is_multiple_of(3) {
            seed
        } else {
            (x >> 24) as u8 & 0x3f
        }
    };
    (0..len).map(&mut next).collect()
}

/// Bytes that do not compress.
pub(super) fn noise(len: usize) -> Vec<u8> {
    let mut buf = vec![0; len];
    let mut done = 0;
    while done < len {
        done += rustix::rand::getrandom(&mut buf[done..], rustix::rand::GetRandomFlags::empty())
            .unwrap();
    }
    buf
}

impl Mounted {
    pub(super) fn new() -> Mounted {
        Self::with(options())
    }

    pub(super) fn with(options: FsOptions) -> Mounted {
        let dir = tempfile::tempdir().unwrap();
        Archive::init(dir.path()).unwrap();
        let archive = Archive::open(dir.path(), Access::Write).unwrap();
        Mounted {
            fs: Fs::new(archive, options).unwrap(),
            dir,
        }
    }

    /// Ends the file system, in order or as by `kill -9`, and makes it anew.
    pub(super) fn again(self, in_order: bool) -> Mounted {
        self.again_as(in_order, Access::Write)
    }

    pub(super) fn again_as(mut self, in_order: bool, access: Access) -> Mounted {
        if in_order {
            self.fs.shutdown().unwrap();
        }
        self.fs.abandon();
        let spare = Mounted::new();
        let options = self.fs.options().clone();
        drop(std::mem::replace(&mut self.fs, Arc::clone(&spare.fs)));
        let archive = Archive::open(self.dir.path(), access).unwrap();
        self.fs = Fs::new(archive, options).unwrap();
        self
    }

    /// A path in the backing directory.
    pub(super) fn backing(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub(super) fn node(&self, path: &str) -> Result<NodeId> {
        self.fs.resolve(Path::new(path))
    }

    pub(super) fn create(&self, name: &str) -> (NodeId, Fh) {
        let (node, _, fh) = self
            .fs
            .create(NodeId::ROOT, os(name), 0o644, RDWR, me())
            .unwrap();
        (node, fh)
    }

    pub(super) fn open(&self, path: &str, flags: i32) -> Fh {
        self.fs.open(self.node(path).unwrap(), flags).unwrap()
    }

    /// Makes a file with this content and closes it.
    pub(super) fn put(&self, name: &str, content: &[u8]) -> NodeId {
        let (node, fh) = self.create(name);
        assert_eq!(self.fs.write(fh, 0, content).unwrap(), content.len());
        self.fs.release(fh).unwrap();
        node
    }

    pub(super) fn get(&self, path: &str) -> Result<Vec<u8>> {
        let fh = self.fs.open(self.node(path)?, RDONLY)?;
        let read = self.fs.read(fh, 0, 16 << 20);
        self.fs.release(fh)?;
        read
    }

    pub(super) fn attr(&self, path: &str) -> Attr {
        self.fs.getattr(self.node(path).unwrap(), None).unwrap()
    }

    /// Logical names in a directory, sorted, without the dots.
    pub(super) fn names(&self, path: &str) -> Vec<String> {
        let fh = self.fs.opendir(self.node(path).unwrap()).unwrap();
        let mut names = Vec::new();
        let mut offset = 0;
        while let Some(entries) =
            Some(self.fs.readdir(fh, offset).unwrap()).filter(|e| !e.is_empty())
        {
            offset = entries.last().unwrap().offset;
            names.extend(
                entries
                    .iter()
                    .map(|e| String::from_utf8_lossy(e.name.as_bytes()).into_owned()),
            );
        }
        self.fs.releasedir(fh).unwrap();
        names.retain(|name| name != "." && name != "..");
        names.sort();
        names
    }

    pub(super) fn sealed(&self, snapshot: &Snapshot<'_>) -> crate::store::TempFile {
        let temp = self.fs.archive().temp_file().unwrap();
        let options = SealOptions {
            block_size: BLOCK as u32,
            encoding: Encoding::Fresh,
            key_run: KeyRun::NONE,
            primer: None,
            jobs: 1,
            progress: None,
            cancel: None,
        };
        seal(snapshot, &temp, self.fs.archive().library(), &options).unwrap();
        temp
    }

    pub(super) fn pack(&self, path: &str) -> Outcome {
        let snapshot = self.fs.snapshot(Path::new(path)).unwrap();
        let temp = self.sealed(&snapshot);
        self.fs.finish_repack(snapshot, temp).unwrap()
    }
}

/// An encoder for packing in place: smaller than what fresh writes make.
pub(super) fn smaller(data: &[u8]) -> Encoded {
    Encoded {
        codec: crate::codec::CodecId::Zstd,
        payload: zstd::bulk::compress(data, 19).unwrap(),
        ..crate::codec::encode_fresh(data)
    }
}
