//! What a user sees of an archive: its names and what is behind them.

use std::collections::{BTreeMap, HashMap};
use std::ffi::{CStr, OsStr, OsString};
use std::fmt;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use vortex_fs::fs::{Attr, Caller, Fs, FsError, FsOptions, Kind, NodeId};
use vortex_fs::store::{Access, Archive};

use crate::disk::{Body, Disk, ROOT, set_time};

/// The longest file of a workload, in bytes.
const LONGEST: usize = 1 << 20;

/// What is behind a name.
#[derive(Clone, PartialEq, Eq)]
pub struct Seen {
    pub what: What,
    pub attributes: Attributes,
}

#[derive(Clone, PartialEq, Eq)]
pub enum What {
    Dir,
    File(Arc<Vec<u8>>),
    Symlink(OsString),
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Attributes {
    pub mode: u32,
    pub owner: (u32, u32),
    /// Time of the last change in seconds since 1970, where a workload set it ([`set_time`]).
    pub mtime: Option<i64>,
    /// Those that users give.
    pub xattrs: BTreeMap<OsString, Vec<u8>>,
}

impl Attributes {
    /// Of what this user just made.
    pub fn new(mode: u32) -> Attributes {
        Attributes {
            mode,
            owner: (me().uid, me().gid),
            mtime: None,
            xattrs: BTreeMap::new(),
        }
    }
}

impl Seen {
    fn new(what: What, mode: u32) -> Seen {
        let attributes = Attributes::new(mode);
        Seen { what, attributes }
    }

    /// A file that only its owner may read, as the workloads make them.
    pub fn file(content: &[u8]) -> Seen {
        Seen::new(What::File(Arc::new(content.to_vec())), 0o600)
    }

    /// The same of a directory.
    pub fn dir() -> Seen {
        Seen::new(What::Dir, 0o700)
    }

    pub fn symlink(target: &str) -> Seen {
        Seen::new(What::Symlink(target.into()), 0o777)
    }
}

impl fmt::Debug for Seen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.what {
            What::Dir => f.write_str("directory")?,
            What::File(content) => {
                let hash = &blake3::hash(content).to_hex()[..6];
                write!(f, "{} bytes, {hash}", content.len())?;
            }
            What::Symlink(to) => write!(f, "symlink to {to:?}")?,
        }
        let Attributes {
            mode,
            owner,
            mtime,
            xattrs,
        } = &self.attributes;
        write!(f, ", mode {mode:o}, owner {owner:?}")?;
        write!(f, ", changed {mtime:?}, attributes {xattrs:?}")
    }
}

/// By logical path.
pub type Tree = BTreeMap<PathBuf, Seen>;

/// The content that decoding showed before, by the stored bytes, and the models and primers that were there.
pub type Known = HashMap<(blake3::Hash, blake3::Hash), Arc<Vec<u8>>>;

pub fn options() -> FsOptions {
    FsOptions {
        cache_bytes: 1 << 20,
        block_size: 16 << 10,
        // Only what the workload asks for is committed.
        commit_after: Duration::from_secs(3600),
        commit_closed_after: Duration::from_secs(3600),
        jobs: 1,
        ..FsOptions::default()
    }
}

pub fn me() -> Caller {
    Caller {
        uid: rustix::process::geteuid().as_raw(),
        gid: rustix::process::getegid().as_raw(),
        umask: 0,
    }
}

/// Opens what a crash left, as a reader and then as the next writer, and answers the tree that both see. Then removes all
/// files: nothing older may come to light below them.
pub fn recover(disk: &Disk, known: &mut Known, fresh: bool) -> Result<Tree, String> {
    let shm = Path::new("/dev/shm");
    let dir = if shm.is_dir() {
        tempfile::tempdir_in(shm)
    } else {
        tempfile::tempdir()
    };
    let dir = dir.map_err(|e| e.to_string())?;
    disk.write_to(dir.path()).map_err(|e| e.to_string())?;
    let mut as_reader = None;
    if fresh {
        Archive::init(dir.path()).map_err(|e| e.to_string())?;
    } else {
        as_reader = Some(look(dir.path(), Access::Read, disk, known)?.1);
    }
    let (fs, as_writer) = look(dir.path(), Access::Write, disk, known)?;
    let temporary = std::fs::read_dir(dir.path().join(".vortex/tmp")).map_err(|e| e.to_string())?;
    if temporary.count() > 0 {
        return Err("temporary files stay".to_string());
    }
    if as_reader.is_some_and(|tree| tree != as_writer) {
        return Err("a reader sees another tree than the next writer".to_string());
    }
    let left = remove_all(&fs, &as_writer).map_err(|e| format!("removing files: {e}"))?;
    fs.abandon();
    if left > 0 {
        return Err(format!("{left} names come to light below what was removed"));
    }
    Ok(as_writer)
}

fn look(
    dir: &Path,
    access: Access,
    disk: &Disk,
    known: &mut Known,
) -> Result<(Arc<Fs>, Tree), String> {
    let archive = Archive::open(dir, access).map_err(|e| e.to_string())?;
    let fs = Fs::new(archive, options()).map_err(|e| e.to_string())?;
    let mut tree = Tree::new();
    let stored = Stored::of(disk);
    list(
        &fs,
        NodeId::ROOT,
        Path::new(""),
        &mut tree,
        &mut |path, node| {
            let key = stored.key(path);
            if let Some(content) = key.and_then(|key| known.get(&key)) {
                return Ok(Arc::clone(content));
            }
            let content = Arc::new(read(&fs, node)?);
            if let Some(key) = key {
                known.insert(key, Arc::clone(&content));
            }
            Ok(content)
        },
    )?;
    Ok((fs, tree))
}

/// The content of the files, as hashes.
struct Stored {
    files: HashMap<PathBuf, blake3::Hash>,
    library: blake3::Hash,
}

impl Stored {
    fn of(disk: &Disk) -> Stored {
        let (mut files, mut library) = (HashMap::new(), blake3::Hasher::new());
        disk.walk(ROOT, Path::new(""), &mut |path, _, inode| {
            let Body::File(bytes) = &inode.body else {
                return;
            };
            let needed = [".vortex/models", ".vortex/primers", ".vortex/copies"];
            if needed.iter().any(|dir| path.starts_with(dir)) {
                library.update(format!("{path:?}").as_bytes());
                library.update(blake3::hash(bytes).as_bytes());
            }
            files.insert(path.to_path_buf(), blake3::hash(bytes));
        });
        Stored {
            files,
            library: library.finalize(),
        }
    }

    fn key(&self, logical: &Path) -> Option<(blake3::Hash, blake3::Hash)> {
        let mut segment = logical.as_os_str().to_os_string();
        segment.push(".vortex");
        let stored = self.files.get(Path::new(&segment));
        let stored = stored.or_else(|| self.files.get(logical))?;
        Some((*stored, self.library))
    }
}

fn list(
    fs: &Arc<Fs>,
    dir: NodeId,
    path: &Path,
    tree: &mut Tree,
    content: &mut impl FnMut(&Path, NodeId) -> Result<Arc<Vec<u8>>, String>,
) -> Result<(), String> {
    let at = |error: FsError| format!("{}: {error}", path.display());
    let fh = fs.opendir(dir).map_err(at)?;
    let entries = fs.readdir(fh, 0).map_err(at)?;
    fs.releasedir(fh).map_err(at)?;
    for entry in &*entries {
        if entry.is_dot() {
            continue;
        }
        let path = path.join(&entry.name);
        let fail = |error: String| format!("{}: {error}", path.display());
        let at = |error: FsError| fail(error.to_string());
        let (node, attr) = fs.lookup(dir, &entry.name).map_err(at)?;
        let what = match entry.kind {
            Kind::Dir => What::Dir,
            Kind::Symlink => {
                let target = fs.readlink(node).map_err(at)?;
                What::Symlink(OsStr::from_bytes(&target).to_os_string())
            }
            _ => What::File(content(&path, node).map_err(fail)?),
        };
        if let What::File(content) = &what
            && content.len() as u64 != attr.size
        {
            return Err(fail(format!("{} bytes of {}", content.len(), attr.size)));
        }
        let attributes = attributes(fs, node, &attr).map_err(at)?;
        tree.insert(path.clone(), Seen { what, attributes });
        if entry.kind == Kind::Dir {
            list(fs, node, &path, tree, content)?;
        }
        fs.forget(node, 1);
    }
    Ok(())
}

fn attributes(fs: &Fs, node: NodeId, attr: &Attr) -> Result<Attributes, FsError> {
    let mut xattrs = BTreeMap::new();
    for name in fs.listxattr(node)?.split_inclusive(|&b| b == 0) {
        let name = CStr::from_bytes_with_nul(name).unwrap_or_default();
        if name.to_bytes().starts_with(b"user.") {
            let name = OsStr::from_bytes(name.to_bytes());
            xattrs.insert(name.to_os_string(), fs.getxattr(node, name)?);
        }
    }
    Ok(Attributes {
        mode: u32::from(attr.perm),
        owner: (attr.uid, attr.gid),
        mtime: set_time(attr.mtime.0),
        xattrs,
    })
}

fn read(fs: &Fs, node: NodeId) -> Result<Vec<u8>, String> {
    let read = || {
        let fh = fs.open(node, 0)?;
        let content = fs.read(fh, 0, LONGEST);
        fs.release(fh)?;
        content
    };
    read().map_err(|e: FsError| e.to_string())
}

/// Answers how many names there are afterwards.
fn remove_all(fs: &Arc<Fs>, tree: &Tree) -> Result<usize, FsError> {
    for (path, seen) in tree.iter().rev() {
        let parent = fs.resolve(path.parent().unwrap_or(Path::new("")))?;
        let name = path.file_name().unwrap_or(OsStr::new(""));
        match seen.what {
            What::Dir => fs.rmdir(parent, name)?,
            What::File(_) | What::Symlink(_) => fs.unlink(parent, name)?,
        }
        if parent != NodeId::ROOT {
            fs.forget(parent, 1);
        }
    }
    let fh = fs.opendir(NodeId::ROOT)?;
    let names = fs.readdir(fh, 0)?;
    fs.releasedir(fh)?;
    Ok(names.iter().filter(|e| !e.is_dot()).count())
}
