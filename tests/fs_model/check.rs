//! Comparing the archive with its reference.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs::{self, File};
use std::os::unix::fs::{FileExt, FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use vortex_fs::fs::{FsError, Kind, NodeId, SEEK_DATA};

use crate::world::{ATTRIBUTE, Check, World};

impl World {
    /// After a crash: every file may have lost what it was not synced for, but must be as it once was.
    pub(crate) fn accept_losses(&mut self) -> Check {
        for (path, meta) in walk(self.reference.path()) {
            if !meta.is_file() {
                continue;
            }
            let ours = self.content(&path)?;
            let history = self.history.entry(meta.ino()).or_default();
            if !history.contains(&ours) {
                return Err(format!(
                    "{}: {} bytes that it never held since the last sync, of {} states",
                    path.display(),
                    ours.len(),
                    history.len()
                ));
            }
            let real = File::options()
                .write(true)
                .open(self.reference.path().join(&path))
                .unwrap();
            real.set_len(ours.len() as u64).unwrap();
            real.write_all_at(&ours, 0).unwrap();
            *history = vec![ours];
        }
        Ok(())
    }

    pub(crate) fn content(&self, path: &Path) -> Result<Vec<u8>, String> {
        let fail = |e: FsError| format!("{}: {e}", path.display());
        let node = self.fs().resolve(path).map_err(fail)?;
        let fh = self.fs().open(node, 0).map_err(fail)?;
        let size = self.fs().getattr(node, Some(fh)).map_err(fail)?.size;
        let content = self.fs().read(fh, 0, size as usize + 10).map_err(fail)?;
        // Data must be found where bytes are not zero.
        let first = content.iter().position(|&b| b != 0);
        let found = self.fs().lseek(fh, 0, SEEK_DATA);
        if let Some(first) = first
            && found.as_ref().map_or(true, |&at| at > first as u64)
        {
            return Err(format!(
                "{}: data at {first}, found {found:?}",
                path.display()
            ));
        }
        self.fs().release(fh).map_err(fail)?;
        self.fs().forget(node, 1);
        if content.len() as u64 == size {
            Ok(content)
        } else {
            Err(format!(
                "{}: {} of {size} bytes",
                path.display(),
                content.len()
            ))
        }
    }

    pub(crate) fn compare(&self) -> Check {
        let real: BTreeMap<PathBuf, fs::Metadata> =
            walk(self.reference.path()).into_iter().collect();
        let ours = self.walk_ours()?;
        let names = |paths: Vec<&PathBuf>| format!("{paths:?}");
        if !real.keys().eq(ours.keys()) {
            return Err(format!(
                "entries {} instead of {}",
                names(ours.keys().collect()),
                names(real.keys().collect())
            ));
        }
        for (path, meta) in &real {
            let attr = ours[path];
            let node = self.fs().resolve(path).map_err(|e| e.to_string())?;
            let shown = self.fs().getattr(node, None).map_err(|e| e.to_string())?;
            let file_type = meta.file_type();
            let kind = match () {
                () if meta.is_dir() => Kind::Dir,
                () if meta.is_symlink() => Kind::Symlink,
                () if file_type.is_fifo() => Kind::Fifo,
                () => Kind::File,
            };
            if (attr, shown.kind) != (kind, kind) {
                return Err(format!(
                    "{}: {:?} instead of {kind:?}",
                    path.display(),
                    shown.kind
                ));
            }
            if u32::from(shown.perm) != meta.mode() & 0o7777 {
                return Err(format!("{}: mode {:o}", path.display(), shown.perm));
            }
            if kind != Kind::Dir && u64::from(shown.nlink) != meta.nlink() {
                return Err(format!("{}: {} links", path.display(), shown.nlink));
            }
            if kind == Kind::File {
                let real_content = fs::read(self.reference.path().join(path)).unwrap();
                let content = self.content(path)?;
                if content != real_content {
                    let at = content.iter().zip(&real_content).position(|(a, b)| a != b);
                    return Err(format!(
                        "{}: {} bytes instead of {}, first different at {at:?}",
                        path.display(),
                        content.len(),
                        real_content.len()
                    ));
                }
            }
            if matches!(kind, Kind::File | Kind::Dir) {
                let mut buf = [0; 16];
                let real = self.reference.path().join(path);
                let n = rustix::fs::getxattr(&real, ATTRIBUTE, &mut buf).ok();
                let value = self.fs().getxattr(node, OsStr::new(ATTRIBUTE)).ok();
                if value.as_deref() != n.map(|n| &buf[..n]) {
                    return Err(format!("{}: attribute {value:?}", path.display()));
                }
            }
            self.fs().forget(node, 1);
        }
        Ok(())
    }

    pub(crate) fn walk_ours(&self) -> Result<BTreeMap<PathBuf, Kind>, String> {
        let mut all = BTreeMap::new();
        let mut todo = vec![PathBuf::new()];
        while let Some(dir) = todo.pop() {
            let fail = |e: FsError| format!("{}: {e}", dir.display());
            let node = self.fs().resolve(&dir).map_err(fail)?;
            let fh = self.fs().opendir(node).map_err(fail)?;
            let mut offset = 0;
            loop {
                let entries = self.fs().readdir(fh, offset).map_err(fail)?;
                let Some(last) = entries.last() else { break };
                offset = last.offset;
                for entry in entries.iter().filter(|e| !e.is_dot()) {
                    let path = dir.join(&entry.name);
                    if entry.kind == Kind::Dir {
                        todo.push(path.clone());
                    }
                    let (found, attr) = self.fs().lookup(node, &entry.name).map_err(fail)?;
                    if attr.ino != entry.ino {
                        return Err(format!(
                            "{}: inode {} listed, {} shown",
                            path.display(),
                            entry.ino,
                            attr.ino
                        ));
                    }
                    self.fs().forget(found, 1);
                    if all.insert(path, entry.kind).is_some() {
                        return Err(format!("{} twice", entry.name.display()));
                    }
                }
            }
            self.fs().releasedir(fh).map_err(fail)?;
            if node != NodeId::ROOT {
                self.fs().forget(node, 1);
            }
        }
        Ok(all)
    }
}

fn walk(root: &Path) -> Vec<(PathBuf, fs::Metadata)> {
    let mut all = Vec::new();
    let mut todo = vec![PathBuf::new()];
    while let Some(dir) = todo.pop() {
        for entry in fs::read_dir(root.join(&dir)).unwrap() {
            let entry = entry.unwrap();
            let (path, meta) = (
                dir.join(entry.file_name()),
                entry.path().symlink_metadata().unwrap(),
            );
            if meta.is_dir() {
                todo.push(path.clone());
            }
            all.push((path, meta));
        }
    }
    all
}
