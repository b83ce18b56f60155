//! Finding the files to work on.

use std::collections::HashSet;
use std::path::{Path, PathBuf};

use super::PackError;
use crate::fs::{Attr, Fh, Fs, FsError, Kind, NodeId};
use crate::store::Cancel;

/// A file to work on. Each inode is named once, by the first of its names that was met.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Target {
    /// Logical path.
    pub(super) path: PathBuf,
    /// Its attributes when it was found.
    pub(super) attr: Attr,
}

/// A node that is known for as long as this lives.
pub(super) struct Held<'a> {
    fs: &'a Fs,
    pub(super) id: NodeId,
}

impl<'a> Held<'a> {
    pub(super) fn resolve(fs: &'a Fs, path: &Path) -> Result<Held<'a>, FsError> {
        Ok(Held {
            fs,
            id: fs.resolve(path)?,
        })
    }
}

impl Drop for Held<'_> {
    fn drop(&mut self) {
        self.fs.forget(self.id, 1);
    }
}

struct OpenDir<'a> {
    fs: &'a Fs,
    fh: Fh,
}

impl Drop for OpenDir<'_> {
    fn drop(&mut self) {
        // It was open; there is nothing else to say.
        let _ = self.fs.releasedir(self.fh);
    }
}

/// The regular files at and below `paths`, in the order of the paths and then of names. Directories that cannot be read are
/// told to `failed` and passed over.
///
/// # Errors
/// One of the paths is not there, or is neither file nor directory; cancelled.
pub(super) fn walk(
    fs: &Fs,
    paths: &[PathBuf],
    cancel: &Cancel,
    failed: &mut dyn FnMut(&Path, &FsError),
) -> Result<Vec<Target>, PackError> {
    let mut targets = Vec::new();
    let mut seen = HashSet::new();
    let mut push = |path: PathBuf, attr: Attr| {
        if seen.insert(attr.ino) {
            targets.push(Target { path, attr });
        }
    };
    for path in paths {
        let at = |e| PackError::Path(path.clone(), e);
        let start = Held::resolve(fs, path).map_err(at)?;
        let attr = fs.getattr(start.id, None).map_err(at)?;
        match attr.kind {
            Kind::File => push(path.clone(), attr),
            Kind::Dir => {
                let mut waiting = vec![path.clone()];
                while let Some(dir) = waiting.pop() {
                    if cancel.is_cancelled() {
                        return Err(PackError::Cancelled);
                    }
                    match list(fs, &dir) {
                        Ok(mut entries) => {
                            entries.sort_by(|a, b| a.0.cmp(&b.0));
                            for (path, attr) in entries.iter().filter(|e| e.1.kind == Kind::File) {
                                push(path.clone(), *attr);
                            }
                            let dirs = entries.into_iter().filter(|e| e.1.kind == Kind::Dir);
                            waiting.extend(dirs.map(|e| e.0).rev());
                        }
                        Err(error) => failed(&dir, &error),
                    }
                }
            }
            _ => return Err(PackError::NotPackable(path.clone())),
        }
    }
    Ok(targets)
}

/// Files and directories in a directory. What vanishes meanwhile is left out.
fn list(fs: &Fs, dir: &Path) -> Result<Vec<(PathBuf, Attr)>, FsError> {
    let node = Held::resolve(fs, dir)?;
    let open = OpenDir {
        fs,
        fh: fs.opendir(node.id)?,
    };
    let (mut found, mut offset) = (Vec::new(), 0);
    loop {
        let entries = fs.readdir(open.fh, offset)?;
        let Some(last) = entries.last() else {
            return Ok(found);
        };
        offset = last.offset;
        for entry in &*entries {
            let wanted = matches!(entry.kind, Kind::File | Kind::Dir);
            if !wanted || entry.is_dot() {
                continue;
            }
            if let Ok((id, attr)) = fs.lookup(node.id, &entry.name) {
                fs.forget(id, 1);
                found.push((dir.join(&entry.name), attr));
            }
        }
    }
}
