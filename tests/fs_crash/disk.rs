//! A file system in memory, and the changes that make one state of it the next.
//!
//! The recorder serves it while a workload runs; afterwards the same changes, some of them left out or torn, make the states
//! that a crash may leave.

use std::collections::{BTreeMap, HashMap};
use std::ffi::{OsStr, OsString};
use std::fs;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{PermissionsExt, lchown};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fs::{AtFlags, CWD, Timespec, Timestamps, UTIME_OMIT, XattrFlags, setxattr, utimensat};

/// Names an inode; the root directory's is 1.
pub type Ino = u64;
pub const ROOT: Ino = 1;

/// Times before this, in seconds since 1970, were set by a workload; later ones are of the time when it ran.
const SET_BEFORE: i64 = 1_000_000_000;

/// The unit that storage writes whole or not at all.
pub const SECTOR: u64 = 512;

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Body {
    Dir(BTreeMap<OsString, Ino>),
    File(Arc<Vec<u8>>),
    Symlink(OsString),
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Inode {
    pub body: Body,
    pub mode: u32,
    pub owner: (u32, u32),
    /// Time of the last change, in seconds since 1970, where it was set and nothing was changed since ([`set_time`]).
    pub mtime: Option<i64>,
    pub xattrs: BTreeMap<OsString, Vec<u8>>,
}

/// A time of change, in seconds since 1970, as an [`Inode`] has it.
pub fn set_time(seconds: i64) -> Option<i64> {
    (seconds < SET_BEFORE).then_some(seconds)
}

/// A name in a directory.
pub type Slot = (Ino, OsString);

/// One change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Op {
    /// A new inode under a new name.
    Make {
        at: Slot,
        ino: Ino,
        inode: Inode,
    },
    Link {
        at: Slot,
        ino: Ino,
    },
    Unlink {
        at: Slot,
    },
    Rename {
        from: Slot,
        to: Slot,
        exchange: bool,
    },
    Write {
        ino: Ino,
        offset: u64,
        bytes: Arc<Vec<u8>>,
    },
    SetLen {
        ino: Ino,
        len: u64,
    },
    Punch {
        ino: Ino,
        offset: u64,
        len: u64,
    },
    Mode {
        ino: Ino,
        mode: u32,
    },
    Owner {
        ino: Ino,
        owner: (u32, u32),
    },
    Time {
        ino: Ino,
        mtime: Option<i64>,
    },
    Xattr {
        ino: Ino,
        name: OsString,
        value: Option<Vec<u8>>,
    },
}

impl Op {
    /// Whether syncing an inode, or only its content, makes this durable.
    pub fn is_covered(&self, synced: Ino, content_only: bool) -> bool {
        match self {
            Op::Write { ino, .. } | Op::SetLen { ino, .. } | Op::Punch { ino, .. } => {
                *ino == synced
            }
            Op::Mode { ino, .. }
            | Op::Owner { ino, .. }
            | Op::Time { ino, .. }
            | Op::Xattr { ino, .. } => *ino == synced && !content_only,
            entries => entries.slots().iter().any(|slot| slot.0 == synced),
        }
    }

    /// The names that it gives or takes.
    fn slots(&self) -> Vec<&Slot> {
        match self {
            Op::Make { at, .. } | Op::Link { at, .. } | Op::Unlink { at } => vec![at],
            Op::Rename { from, to, .. } => vec![from, to],
            _ => Vec::new(),
        }
    }

    /// Whether this can only persist if the earlier change did: changes of one name persist in their order.
    pub fn needs(&self, earlier: &Op) -> bool {
        let slots = self.slots();
        earlier.slots().iter().any(|slot| slots.contains(slot))
    }

    /// Sectors of the file that it touches: what may be there of it without the rest.
    pub fn sectors(&self) -> usize {
        match self {
            Op::Write { offset, bytes, .. } => {
                let end = offset + bytes.len() as u64;
                (end.div_ceil(SECTOR) - offset / SECTOR) as usize
            }
            _ => 1,
        }
    }

    /// The parts of a write, by sector; it makes the file as long as itself all the same.
    pub fn torn(&self, keep: impl Fn(usize) -> bool) -> Vec<Op> {
        let Op::Write { ino, offset, bytes } = self else {
            return vec![self.clone()];
        };
        let (mut ops, mut at) = (Vec::new(), 0);
        for sector in 0..self.sectors() {
            let room = SECTOR - (offset + at as u64) % SECTOR;
            let end = bytes.len().min(at + room as usize);
            if keep(sector) {
                ops.push(Op::Write {
                    ino: *ino,
                    offset: offset + at as u64,
                    bytes: Arc::new(bytes[at..end].to_vec()),
                });
            }
            at = end;
        }
        if !ops.is_empty() {
            ops.push(Op::Write {
                ino: *ino,
                offset: offset + bytes.len() as u64,
                bytes: Arc::default(),
            });
        }
        ops
    }
}

/// See the module.
#[derive(Debug, Clone)]
pub struct Disk {
    pub inodes: HashMap<Ino, Inode>,
}

impl Default for Disk {
    fn default() -> Self {
        let root = Inode {
            body: Body::Dir(BTreeMap::new()),
            mode: 0o755,
            owner: (0, 0),
            mtime: None,
            xattrs: BTreeMap::new(),
        };
        Disk {
            inodes: HashMap::from([(ROOT, root)]),
        }
    }
}

impl Disk {
    pub fn entries(&self, dir: Ino) -> Option<&BTreeMap<OsString, Ino>> {
        match &self.inodes.get(&dir)?.body {
            Body::Dir(entries) => Some(entries),
            _ => None,
        }
    }

    fn entries_mut(&mut self, dir: Ino) -> Option<&mut BTreeMap<OsString, Ino>> {
        let inode = self.inodes.get_mut(&dir)?;
        match &mut inode.body {
            Body::Dir(entries) => {
                inode.mtime = None;
                Some(entries)
            }
            _ => None,
        }
    }

    pub fn lookup(&self, dir: Ino, name: &OsStr) -> Option<Ino> {
        self.entries(dir)?.get(name).copied()
    }

    /// Number of names.
    pub fn links(&self, ino: Ino) -> u32 {
        let dirs = self.inodes.values().filter_map(|inode| match &inode.body {
            Body::Dir(entries) => Some(entries),
            _ => None,
        });
        dirs.flat_map(BTreeMap::values)
            .filter(|&&i| i == ino)
            .count() as u32
    }

    fn file(&mut self, ino: Ino) -> Option<&mut Vec<u8>> {
        let inode = self.inodes.get_mut(&ino)?;
        match &mut inode.body {
            Body::File(bytes) => {
                inode.mtime = None;
                Some(Arc::make_mut(bytes))
            }
            _ => None,
        }
    }

    fn take(&mut self, slot: &Slot) -> Option<Ino> {
        self.entries_mut(slot.0)?.remove(&slot.1)
    }

    fn put(&mut self, slot: &Slot, ino: Ino) {
        if let Some(entries) = self.entries_mut(slot.0) {
            entries.insert(slot.1.clone(), ino);
        }
    }

    /// Makes the change, of what is there. Content of a file that was never made goes nowhere.
    pub fn apply(&mut self, op: &Op) {
        match op {
            Op::Make { at, ino, inode } => {
                self.inodes.insert(*ino, inode.clone());
                self.put(at, *ino);
            }
            Op::Link { at, ino } => {
                if self.inodes.contains_key(ino) {
                    self.put(at, *ino);
                }
            }
            Op::Unlink { at } => {
                self.take(at);
            }
            Op::Rename { from, to, exchange } => {
                if let Some(moved) = self.take(from) {
                    let replaced = self.take(to);
                    self.put(to, moved);
                    if let Some(replaced) = replaced.filter(|_| *exchange) {
                        self.put(from, replaced);
                    }
                }
            }
            Op::Write { ino, offset, bytes } => {
                if let Some(file) = self.file(*ino) {
                    let (start, end) = (*offset as usize, *offset as usize + bytes.len());
                    if file.len() < end {
                        file.resize(end, 0);
                    }
                    file[start..end].copy_from_slice(bytes);
                }
            }
            Op::SetLen { ino, len } => {
                if let Some(file) = self.file(*ino) {
                    file.resize(*len as usize, 0);
                }
            }
            Op::Punch { ino, offset, len } => {
                if let Some(file) = self.file(*ino) {
                    let end = ((offset + len) as usize).min(file.len());
                    let start = (*offset as usize).min(end);
                    file[start..end].fill(0);
                }
            }
            Op::Mode { ino, mode } => {
                if let Some(inode) = self.inodes.get_mut(ino) {
                    inode.mode = *mode;
                }
            }
            Op::Owner { ino, owner } => {
                if let Some(inode) = self.inodes.get_mut(ino) {
                    inode.owner = *owner;
                }
            }
            Op::Time { ino, mtime } => {
                if let Some(inode) = self.inodes.get_mut(ino) {
                    inode.mtime = *mtime;
                }
            }
            Op::Xattr { ino, name, value } => {
                if let Some(inode) = self.inodes.get_mut(ino) {
                    match value {
                        Some(value) => inode.xattrs.insert(name.clone(), value.clone()),
                        None => inode.xattrs.remove(name),
                    };
                }
            }
        }
    }

    /// Calls `visit` with the path of every inode below a directory, those of directories before what is in them.
    pub fn walk<'a>(
        &'a self,
        dir: Ino,
        path: &Path,
        visit: &mut impl FnMut(&Path, Ino, &'a Inode),
    ) {
        for (name, &ino) in self.entries(dir).into_iter().flatten() {
            let (path, inode) = (path.join(name), &self.inodes[&ino]);
            visit(&path, ino, inode);
            self.walk(ino, &path, visit);
        }
    }

    /// Equal for equal trees: names, kinds, attributes, content and which names are links of each other.
    pub fn hash(&self) -> blake3::Hash {
        let (mut hash, mut seen) = (blake3::Hasher::new(), HashMap::new());
        self.walk(ROOT, Path::new(""), &mut |path, ino, inode| {
            let next = seen.len();
            let number = *seen.entry(ino).or_insert(next);
            let attributes = (inode.mode, inode.owner, inode.mtime, &inode.xattrs);
            hash.update(format!("{path:?} {number} {attributes:?} ").as_bytes());
            match &inode.body {
                Body::Dir(_) => hash.update(b"dir"),
                Body::File(bytes) => hash.update(blake3::hash(bytes).as_bytes()),
                Body::Symlink(to) => hash.update(format!("{to:?}").as_bytes()),
            };
        });
        hash.finalize()
    }

    /// Writes the tree into an empty directory.
    pub fn write_to(&self, dir: &Path) -> io::Result<()> {
        let mut first: HashMap<Ino, PathBuf> = HashMap::new();
        let mut made = Vec::new();
        let mut done = Ok(());
        self.walk(ROOT, dir, &mut |path, ino, inode| {
            let mut make = || {
                if let Some(first) = first.get(&ino) {
                    return fs::hard_link(first, path);
                }
                first.insert(ino, path.to_path_buf());
                made.push((path.to_path_buf(), inode));
                match &inode.body {
                    Body::Dir(_) => fs::create_dir(path),
                    Body::Symlink(to) => std::os::unix::fs::symlink(to, path),
                    Body::File(bytes) => fs::write(path, &**bytes),
                }
            };
            if done.is_ok() {
                done = make();
            }
        });
        // What is in a directory changes its times, and may need rights that it does not give.
        done.and_then(|()| {
            made.iter()
                .rev()
                .try_for_each(|(path, inode)| inode.mark(path))
        })
    }
}

impl Inode {
    /// Gives the attributes to what was just made.
    fn mark(&self, path: &Path) -> io::Result<()> {
        let me = (
            rustix::process::geteuid().as_raw(),
            rustix::process::getegid().as_raw(),
        );
        if self.owner != me {
            lchown(path, Some(self.owner.0), Some(self.owner.1))?;
        }
        if !matches!(self.body, Body::Symlink(_)) {
            fs::set_permissions(path, fs::Permissions::from_mode(self.mode))?;
        }
        for (name, value) in &self.xattrs {
            setxattr(path, name.as_bytes(), value, XattrFlags::empty())?;
        }
        let Some(seconds) = self.mtime else {
            return Ok(());
        };
        let time = |tv_sec, tv_nsec| Timespec { tv_sec, tv_nsec };
        let times = Timestamps {
            last_access: time(0, UTIME_OMIT),
            last_modification: time(seconds, 0),
        };
        Ok(utimensat(CWD, path, &times, AtFlags::SYMLINK_NOFOLLOW)?)
    }
}
