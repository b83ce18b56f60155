//! What a user sees of an archive: its names and what is behind them.

use std::collections::{BTreeMap, HashMap};
use std::ffi::OsStr;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use vortex_fs::fs::{Caller, Fs, FsError, FsOptions, Kind, NodeId};
use vortex_fs::store::{Access, Archive};

use crate::disk::{Body, Disk, ROOT};

/// The longest file of a workload, in bytes.
const LONGEST: usize = 1 << 20;

#[derive(Clone, PartialEq, Eq)]
pub enum Seen {
    Dir,
    File { content: Arc<Vec<u8>>, mode: u32 },
}

impl Seen {
    /// A file that only its owner may read, as the workloads make them.
    pub fn file(content: &[u8]) -> Seen {
        Seen::File {
            content: Arc::new(content.to_vec()),
            mode: 0o600,
        }
    }
}

impl fmt::Debug for Seen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Seen::Dir => f.write_str("directory"),
            Seen::File { content, mode } => {
                let hash = &blake3::hash(content).to_hex()[..6];
                write!(f, "{} bytes, {hash}, mode {mode:o}", content.len())
            }
        }
    }
}

/// By logical path.
pub type Tree = BTreeMap<PathBuf, Seen>;

/// What decoding showed before, by the stored bytes, and the models and primers that were there.
pub type Known = HashMap<(blake3::Hash, blake3::Hash), Seen>;

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
            if let Some(seen) = key.and_then(|key| known.get(&key)) {
                return Ok(seen.clone());
            }
            let seen = read(&fs, node)?;
            if let Some(key) = key {
                known.insert(key, seen.clone());
            }
            Ok(seen)
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
            let what = (blake3::hash(bytes), inode.mode);
            files.insert(
                path.to_path_buf(),
                blake3::hash(format!("{what:?}").as_bytes()),
            );
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
    file: &mut impl FnMut(&Path, NodeId) -> Result<Seen, String>,
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
        let at = |error: FsError| format!("{}: {error}", path.display());
        let (node, _) = fs.lookup(dir, &entry.name).map_err(at)?;
        if entry.kind == Kind::Dir {
            tree.insert(path.clone(), Seen::Dir);
            list(fs, node, &path, tree, file)?;
        } else {
            let seen = file(&path, node).map_err(|e| format!("{}: {e}", path.display()))?;
            tree.insert(path.clone(), seen);
        }
        fs.forget(node, 1);
    }
    Ok(())
}

fn read(fs: &Fs, node: NodeId) -> Result<Seen, String> {
    let read = || {
        let attr = fs.getattr(node, None)?;
        let fh = fs.open(node, 0)?;
        let content = fs.read(fh, 0, LONGEST);
        fs.release(fh)?;
        Ok::<_, FsError>((content?, attr))
    };
    let (content, attr) = read().map_err(|e| e.to_string())?;
    if content.len() as u64 != attr.size {
        return Err(format!("{} bytes of {}", content.len(), attr.size));
    }
    Ok(Seen::File {
        content: Arc::new(content),
        mode: u32::from(attr.perm),
    })
}

/// Answers how many names there are afterwards.
fn remove_all(fs: &Arc<Fs>, tree: &Tree) -> Result<usize, FsError> {
    for (path, seen) in tree.iter().rev() {
        let parent = fs.resolve(path.parent().unwrap_or(Path::new("")))?;
        let name = path.file_name().unwrap_or(OsStr::new(""));
        match seen {
            Seen::Dir => fs.rmdir(parent, name)?,
            Seen::File { .. } => fs.unlink(parent, name)?,
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
