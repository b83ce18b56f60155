//! Finding the files to work on.

use std::collections::HashSet;
use std::ffi::OsString;
use std::path::{Path, PathBuf};

use super::PackError;
use crate::fs::{Attr, Fh, Fs, FsError, Kind, NodeId};
use crate::store::Cancel;
use crate::store::names::PRIVATE_DIR;

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

/// Why a walk passes a directory, or a file in it, over.
#[derive(Debug, thiserror::Error)]
pub(super) enum PassedOver {
    /// It cannot be read.
    #[error("the directory cannot be read: {0}")]
    Unreadable(#[from] FsError),
    /// Somebody may write to it who knows nothing of this archive.
    #[error(
        "is an archive of its own and was left alone; name its own directory, to work on it under its own lock"
    )]
    OtherArchive,
}

/// The regular files at and below `paths`, in the order of the paths and then of names. Directories that cannot be read, and other
/// archives, are told to `failed` and passed over.
///
/// # Errors
/// One of the paths is not there, or is neither file nor directory; cancelled.
pub(super) fn walk(
    fs: &Fs,
    paths: &[PathBuf],
    cancel: &Cancel,
    failed: &mut dyn FnMut(&Path, &PassedOver),
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
        if let Some(other) = other_archive_around(fs, path) {
            failed(other, &PassedOver::OtherArchive);
            continue;
        }
        let start = Held::resolve(fs, path).map_err(at)?;
        let attr = fs.getattr(start.id, None).map_err(at)?;
        match attr.kind {
            Kind::File => push(path.clone(), attr),
            Kind::Dir => {
                let mut way = Way::to(fs, path);
                loop {
                    if cancel.is_cancelled() {
                        return Err(PackError::Cancelled);
                    }
                    match way
                        .here()
                        .map_err(PassedOver::from)
                        .and_then(|dir| list(fs, dir))
                    {
                        Ok(mut entries) => {
                            entries.sort_by(|a, b| a.0.cmp(&b.0));
                            let (dirs, files): (Vec<_>, Vec<_>) =
                                entries.into_iter().partition(|e| e.1.kind == Kind::Dir);
                            for (name, attr) in files {
                                push(way.path.join(name), attr);
                            }
                            way.comes_by(dirs.into_iter().map(|e| e.0));
                        }
                        Err(error) => failed(&way.path, &error),
                    }
                    if !way.goes_on() {
                        break;
                    }
                }
            }
            _ => return Err(PackError::NotPackable(path.clone())),
        }
    }
    Ok(targets)
}

/// Directories that a walk holds at a time: with all of them a deep tree would take too many descriptors, with none it would be gone
/// through from its root for each.
const MOST_HELD: usize = 32;

/// The way to the directory that a walk has come to. It holds the last directories and finds others again by their names.
struct Way<'a> {
    fs: &'a Fs,
    top: &'a Path,
    path: PathBuf,
    levels: Vec<Level<'a>>,
}

struct Level<'a> {
    /// Empty for the top.
    name: OsString,
    held: Option<Held<'a>>,
    /// Directories in it that the walk has not come to, the next one last.
    left: Vec<OsString>,
}

impl<'a> Level<'a> {
    fn new(name: OsString) -> Level<'a> {
        Level {
            name,
            held: None,
            left: Vec::new(),
        }
    }
}

impl<'a> Way<'a> {
    fn to(fs: &'a Fs, top: &'a Path) -> Way<'a> {
        Way {
            fs,
            top,
            path: top.to_path_buf(),
            levels: vec![Level::new(OsString::new())],
        }
    }

    /// The directory at its end.
    fn here(&mut self) -> Result<NodeId, FsError> {
        let held = |level: &Level<'_>| level.held.as_ref().map(|held| held.id);
        let deepest = (self.levels.iter().enumerate().rev())
            .find_map(|(depth, level)| held(level).map(|id| (depth, id)));
        let (depth, mut id) = match deepest {
            Some(found) => found,
            None => {
                let top = Held::resolve(self.fs, self.top)?;
                let id = top.id;
                self.levels[0].held = Some(top);
                (0, id)
            }
        };
        for depth in depth + 1..self.levels.len() {
            id = self.fs.lookup(id, &self.levels[depth].name)?.0;
            self.levels[depth].held = Some(Held { fs: self.fs, id });
            if depth >= MOST_HELD {
                self.levels[depth - MOST_HELD].held = None;
            }
        }
        Ok(id)
    }

    /// Has it come by these directories in the last one, in this order.
    fn comes_by(&mut self, dirs: impl DoubleEndedIterator<Item = OsString>) {
        if let Some(level) = self.levels.last_mut() {
            level.left = dirs.rev().collect();
        }
    }

    /// Leads it to the next directory, if there is one.
    fn goes_on(&mut self) -> bool {
        while let Some(level) = self.levels.last_mut() {
            if let Some(name) = level.left.pop() {
                self.path.push(&name);
                self.levels.push(Level::new(name));
                return true;
            }
            self.levels.pop();
            self.path.pop();
        }
        false
    }
}

/// The first directory on the way to `path`, that included, which is the root of another archive.
fn other_archive_around<'p>(fs: &Fs, path: &'p Path) -> Option<&'p Path> {
    let on_the_way = path.ancestors().filter(|p| !p.as_os_str().is_empty());
    let is_one = |path: &&Path| Held::resolve(fs, path).is_ok_and(|dir| is_archive(fs, dir.id));
    on_the_way.filter(is_one).last()
}

/// Whether a directory is the root of another archive.
fn is_archive(fs: &Fs, dir: NodeId) -> bool {
    let has = |path: &[&str]| {
        let mut last: Option<Held<'_>> = None;
        path.iter().all(|name| {
            let above = last.as_ref().map_or(dir, |held| held.id);
            let found = fs.lookup(above, name.as_ref());
            last = found.ok().map(|(id, _)| Held { fs, id });
            last.is_some()
        })
    };
    dir != NodeId::ROOT
        && (has(&[PRIVATE_DIR, "format"]) || has(&[PRIVATE_DIR, "copies", "format"]))
}

/// Files and directories in a directory. What vanishes meanwhile is left out.
fn list(fs: &Fs, dir: NodeId) -> Result<Vec<(OsString, Attr)>, PassedOver> {
    if is_archive(fs, dir) {
        return Err(PassedOver::OtherArchive);
    }
    let open = OpenDir {
        fs,
        fh: fs.opendir(dir)?,
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
            if let Ok((id, attr)) = fs.lookup(dir, &entry.name) {
                fs.forget(id, 1);
                found.push((entry.name.clone(), attr));
            }
        }
    }
}
