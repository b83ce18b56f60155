//! The archive and its reference side by side.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::{FileExt, FileTypeExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use rustix::fs::{AtFlags, FallocateFlags, OFlags, Timestamps};
use vortex_fs::fs::{Caller, Fh, Fs, FsError, FsOptions, NodeId, RenameFlags, SetAttr, SetTime};
use vortex_fs::store::{Access, Archive, ModelStore, Profile};

use crate::ops::{HANDLES, Op, PATHS};

pub(crate) const ATTRIBUTE: &str = "user.model";

pub(crate) type Check = Result<(), String>;

struct Open {
    fh: Fh,
    file: File,
    append: bool,
}

pub struct World {
    pub(crate) backing: tempfile::TempDir,
    pub(crate) reference: tempfile::TempDir,
    pub(crate) mounted: Option<Arc<Fs>>,
    open: [Option<Open>; HANDLES],
    /// By inode of the reference: what the file held at the last sync and after every change since.
    pub(crate) history: HashMap<u64, Vec<Vec<u8>>>,
    pub(crate) profile: Profile,
    /// Blocks of packed files that were coded from a start state.
    pub(crate) started: u64,
}

fn mount(backing: &Path) -> Arc<Fs> {
    let archive = Archive::open(backing, Access::Write).expect("open the archive");
    let options = FsOptions {
        cache_bytes: 100_000,
        block_size: 16 << 10,
        file_dirty_bytes: 40_000,
        total_dirty_bytes: 80_000,
        commit_after: Duration::from_secs(3600),
        commit_closed_after: Duration::from_secs(3600),
        jobs: 2,
        decoders: None,
        nodes: 1 << 19,
        node_descriptors: None,
        disk_cache: None,
    };
    Fs::new(archive, options).expect("mount")
}

fn caller() -> Caller {
    Caller {
        uid: rustix::process::geteuid().as_raw(),
        gid: rustix::process::getegid().as_raw(),
        umask: 0,
    }
}

/// A seed whose data have much in common with those of others like it (every fourth) and nothing that a block could know by itself.
pub(crate) const ALIKE: u8 = 3;

pub(crate) fn data(len: usize, seed: u8) -> Vec<u8> {
    let noise = |len: usize, seed: u32| {
        let mut x = seed | 1;
        let mut next = || {
            x = x.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (x >> 24) as u8
        };
        (0..len).map(|_| next()).collect::<Vec<u8>>()
    };
    match seed % 4 {
        0 => vec![0; len],
        1 => (0..len).map(|i| (i / 7) as u8 ^ seed).collect(),
        2 => noise(len, seed.into()),
        _ => {
            let pieces = noise(8192, 1);
            let order = noise(len / 64 + 1, seed.into());
            let piece = |&at: &u8| pieces.chunks(64).nth(usize::from(at) / 2);
            let mut data: Vec<u8> = order.iter().filter_map(piece).flatten().copied().collect();
            data.truncate(len);
            data
        }
    }
}

fn errno(error: &io::Error) -> i32 {
    error.raw_os_error().unwrap_or(0)
}

impl World {
    pub fn new() -> World {
        let (backing, reference) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        Archive::init(backing.path()).unwrap();
        World {
            mounted: Some(mount(backing.path())),
            backing,
            reference,
            open: Default::default(),
            history: HashMap::new(),
            profile: ModelStore::new(None).profile("fast").unwrap(),
            started: 0,
        }
    }

    pub(crate) fn real(&self, path: usize) -> PathBuf {
        self.reference.path().join(PATHS[path])
    }

    /// Calls `f` with the parent directory and the name of a path.
    fn at<T>(
        &self,
        path: usize,
        f: impl FnOnce(NodeId, &OsStr) -> Result<T, FsError>,
    ) -> Result<T, FsError> {
        let path = Path::new(PATHS[path]);
        let parent = self.fs().resolve(path.parent().unwrap())?;
        let result = f(parent, path.file_name().unwrap());
        if parent != NodeId::ROOT {
            self.fs().forget(parent, 1);
        }
        result
    }

    /// Calls `f` with the node at a path.
    fn on<T>(
        &self,
        path: usize,
        f: impl FnOnce(NodeId) -> Result<T, FsError>,
    ) -> Result<T, FsError> {
        let node = self.fs().resolve(Path::new(PATHS[path]))?;
        let result = f(node);
        self.fs().forget(node, 1);
        result
    }

    /// Whether both succeeded; the errors must be the same.
    fn agree<A, B>(ours: &Result<A, FsError>, real: &io::Result<B>) -> Result<bool, String> {
        match (ours, real) {
            (Ok(_), Ok(_)) => Ok(true),
            (Err(ours), Err(real)) if ours.errno() == errno(real) => Ok(false),
            (Err(ours), Err(real)) => Err(format!("{ours} ({}) instead of {real}", ours.errno())),
            (Ok(_), Err(real)) => Err(format!("success instead of {real}")),
            (Err(ours), Ok(_)) => Err(format!("{ours} ({}) instead of success", ours.errno())),
        }
    }

    /// Notes what a file of the reference holds now.
    fn changed(&mut self, ino: u64, content: Vec<u8>) {
        self.history.entry(ino).or_default().push(content);
    }

    fn changed_file(&mut self, file: &File) {
        let meta = file.metadata().unwrap();
        let mut content = vec![0; meta.len() as usize];
        file.read_exact_at(&mut content, 0).unwrap();
        self.changed(meta.ino(), content);
    }

    fn changed_path(&mut self, path: usize) {
        let real = self.real(path);
        if real.symlink_metadata().is_ok_and(|meta| meta.is_file()) {
            self.changed_file(&File::open(real).unwrap());
        }
    }

    /// The file's content is committed: only what it holds now counts from here on.
    pub(crate) fn synced(&mut self, ino: u64) {
        if let Some(history) = self.history.get_mut(&ino) {
            history.drain(..history.len() - 1);
        }
    }

    pub fn apply(&mut self, op: &Op) -> Check {
        // The kernel follows symlinks on the way to a name; a file system does not.
        let through_link = |path: &usize| {
            let parents = Path::new(PATHS[*path]).ancestors().skip(1);
            let is_link = |dir: &Path| self.reference.path().join(dir).is_symlink();
            parents
                .filter(|dir| !dir.as_os_str().is_empty())
                .any(is_link)
        };
        if op.paths().iter().any(through_link) {
            return Ok(());
        }
        match *op {
            Op::Create { path } => {
                let ours = self.at(path, |dir, name| {
                    let flags = (OFlags::RDWR | OFlags::EXCL).bits() as i32;
                    let (node, _, fh) = self.fs().create(dir, name, 0o644, flags, caller())?;
                    self.fs().release(fh)?;
                    self.fs().forget(node, 1);
                    Ok(())
                });
                let real = File::create_new(self.real(path)).and_then(|file| {
                    file.set_permissions(fs::Permissions::from_mode(0o644))?;
                    Ok(file)
                });
                if Self::agree(&ours, &real)? {
                    self.history
                        .insert(real.unwrap().metadata().unwrap().ino(), vec![vec![]]);
                }
            }
            Op::Mkdir { path } => {
                let ours = self.at(path, |dir, name| {
                    let (node, _) = self.fs().mkdir(dir, name, 0o755, caller())?;
                    self.fs().forget(node, 1);
                    Ok(())
                });
                let real = fs::create_dir(self.real(path));
                Self::agree(&ours, &real)?;
            }
            Op::Symlink { path } => {
                let ours = self.at(path, |dir, name| {
                    let (node, _) = self
                        .fs()
                        .symlink(dir, name, OsStr::new("../to"), caller())?;
                    self.fs().forget(node, 1);
                    Ok(())
                });
                let real = std::os::unix::fs::symlink("../to", self.real(path));
                Self::agree(&ours, &real)?;
            }
            Op::Fifo { path } => {
                let ours = self.at(path, |dir, name| {
                    let (node, _) = self.fs().mknod(dir, name, 0o010_644, 0, caller())?;
                    self.fs().forget(node, 1);
                    Ok(())
                });
                let mode = rustix::fs::Mode::from_raw_mode(0o644);
                let real = rustix::fs::mknodat(
                    rustix::fs::CWD,
                    self.real(path),
                    rustix::fs::FileType::Fifo,
                    mode,
                    0,
                );
                Self::agree(&ours, &real.map_err(Into::into))?;
            }
            Op::Unlink { path } => {
                let ours = self.at(path, |dir, name| self.fs().unlink(dir, name));
                let real = rustix::fs::unlinkat(rustix::fs::CWD, self.real(path), AtFlags::empty());
                Self::agree(&ours, &real.map_err(Into::into))?;
            }
            Op::Rmdir { path } => {
                let ours = self.at(path, |dir, name| self.fs().rmdir(dir, name));
                let real = fs::remove_dir(self.real(path));
                Self::agree(&ours, &real)?;
            }
            Op::Rename { from, to, flags } => self.rename(from, to, flags)?,
            Op::Link { from, to } => {
                let ours = self.on(from, |node| {
                    self.at(to, |dir, name| {
                        self.fs().link(node, dir, name)?;
                        self.fs().forget(node, 1);
                        Ok(())
                    })
                });
                let real = fs::hard_link(self.real(from), self.real(to));
                Self::agree(&ours, &real)?;
            }
            Op::Open {
                slot,
                path,
                append,
                truncate,
            } => self.open(slot, path, append, truncate)?,
            Op::Close { slot } => {
                if let Some(open) = self.open[slot].take() {
                    self.fs().release(open.fh).map_err(|e| e.to_string())?;
                }
            }
            Op::Write {
                slot,
                at,
                len,
                seed,
            } => {
                let Some(open) = &self.open[slot] else {
                    return Ok(());
                };
                let data = data(len, seed);
                let ours = self.fs().write(open.fh, at, &data);
                let real = if open.append {
                    io::Write::write_all(&mut &open.file, &data)
                } else {
                    open.file.write_all_at(&data, at)
                };
                if Self::agree(&ours, &real)? {
                    self.changed_slot(slot);
                }
            }
            Op::Read { slot, at, len } => {
                let Some(open) = &self.open[slot] else {
                    return Ok(());
                };
                let ours = self.fs().read(open.fh, at, len);
                let mut buf = vec![0; len];
                let mut done = 0;
                while let Ok(n @ 1..) = open.file.read_at(&mut buf[done..], at + done as u64) {
                    done += n;
                }
                if ours.map_err(|e| e.to_string())? != buf[..done] {
                    return Err("other bytes".into());
                }
            }
            Op::Truncate { path, size } => {
                let set = SetAttr {
                    size: Some(size),
                    ..SetAttr::default()
                };
                if self.is_fifo_or_link(path) {
                    return Ok(());
                }
                let ours = self.on(path, |node| self.fs().setattr(node, None, set));
                let real =
                    rustix::fs::open(self.real(path), OFlags::WRONLY, rustix::fs::Mode::empty())
                        .and_then(|fd| rustix::fs::ftruncate(fd, size));
                if Self::agree(&ours, &real.map_err(Into::into))? {
                    self.changed_path(path);
                }
            }
            Op::TruncateHandle { slot, size } => {
                let Some(open) = &self.open[slot] else {
                    return Ok(());
                };
                let set = SetAttr {
                    size: Some(size),
                    ..SetAttr::default()
                };
                let node = self.node_of_slot(slot)?;
                let ours = self.fs().setattr(node, Some(open.fh), set);
                if Self::agree(&ours, &open.file.set_len(size))? {
                    self.changed_slot(slot);
                }
            }
            Op::Punch { slot, at, len } => {
                self.fallocate(
                    slot,
                    FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE,
                    at,
                    len,
                )?;
            }
            Op::Zero {
                slot,
                at,
                len,
                keep_size,
            } => {
                let keep = if keep_size {
                    FallocateFlags::KEEP_SIZE
                } else {
                    FallocateFlags::empty()
                };
                self.fallocate(slot, FallocateFlags::ZERO_RANGE | keep, at, len)?;
            }
            Op::Extend {
                slot,
                at,
                len,
                keep_size,
            } => {
                let keep = if keep_size {
                    FallocateFlags::KEEP_SIZE
                } else {
                    FallocateFlags::empty()
                };
                self.fallocate(slot, keep, at, len)?;
            }
            Op::Fsync { slot } => {
                let Some(open) = &self.open[slot] else {
                    return Ok(());
                };
                self.fs()
                    .fsync(open.fh, slot == 0)
                    .map_err(|e| e.to_string())?;
                let ino = open.file.metadata().unwrap().ino();
                self.synced(ino);
            }
            Op::Store { path } => {
                // A snapshot commits.
                if self.fs().snapshot(Path::new(PATHS[path])).is_ok() {
                    let ino = self
                        .real(path)
                        .symlink_metadata()
                        .map_err(|e| e.to_string())?
                        .ino();
                    self.synced(ino);
                }
            }
            Op::Chmod { path, mode } => {
                let set = SetAttr {
                    mode: Some(mode),
                    ..SetAttr::default()
                };
                if self.is_fifo_or_link(path) {
                    return Ok(());
                }
                let ours = self.on(path, |node| self.fs().setattr(node, None, set));
                let real = fs::set_permissions(self.real(path), fs::Permissions::from_mode(mode));
                Self::agree(&ours, &real)?;
            }
            Op::SetTimes { path, seconds } => {
                let time = SetTime::At((seconds, 7));
                let set = SetAttr {
                    mtime: Some(time),
                    atime: Some(time),
                    ..SetAttr::default()
                };
                let ours = self.on(path, |node| self.fs().setattr(node, None, set));
                let stamp = rustix::fs::Timespec {
                    tv_sec: seconds,
                    tv_nsec: 7,
                };
                let times = Timestamps {
                    last_access: stamp,
                    last_modification: stamp,
                };
                let flags = AtFlags::SYMLINK_NOFOLLOW;
                let real = rustix::fs::utimensat(rustix::fs::CWD, self.real(path), &times, flags);
                if Self::agree(&ours, &real.map_err(Into::into))? {
                    let shown = ours.unwrap();
                    if (shown.mtime, shown.atime) != ((seconds, 7), (seconds, 7)) {
                        return Err(format!("times {:?} and {:?}", shown.atime, shown.mtime));
                    }
                }
            }
            Op::SetXattr { path, value } => {
                let real = self.real(path);
                if !real
                    .symlink_metadata()
                    .is_ok_and(|m| m.is_file() || m.is_dir())
                {
                    return Ok(());
                }
                let name = OsStr::new(ATTRIBUTE);
                let ours = self.on(path, |node| self.fs().setxattr(node, name, &[value], 0));
                let real =
                    rustix::fs::setxattr(&real, name, &[value], rustix::fs::XattrFlags::empty());
                Self::agree(&ours, &real.map_err(Into::into))?;
            }
            Op::Pack { path, from } => self.pack(path, from)?,
            Op::PackInPlace { path } => self.pack_in_place(path)?,
            Op::Unpack { path } => self.unpack(path)?,
            Op::PlainFile { path, len, seed } => self.plain_file(path, len, seed)?,
            Op::Compare => self.compare()?,
            Op::Remount => {
                self.close_all();
                self.fs().shutdown().map_err(|e| e.to_string())?;
                self.mount_again();
                self.compare()?;
                for history in self.history.values_mut() {
                    history.drain(..history.len() - 1);
                }
            }
            Op::Crash => {
                self.close_all();
                self.fs().abandon();
                self.mount_again();
                self.accept_losses()?;
                self.compare()?;
            }
        }
        Ok(())
    }

    fn is_fifo_or_link(&self, path: usize) -> bool {
        self.real(path)
            .symlink_metadata()
            .is_ok_and(|m| m.is_symlink() || m.file_type().is_fifo())
    }

    fn close_all(&mut self) {
        for slot in 0..HANDLES {
            if let Some(open) = self.open[slot].take() {
                self.fs().release(open.fh).unwrap();
            }
        }
    }

    fn mount_again(&mut self) {
        // The lock is the old file system's until it is gone.
        let old = self.mounted.take().unwrap();
        assert_eq!(Arc::strong_count(&old), 1);
        drop(old);
        self.mounted = Some(mount(self.backing.path()));
    }

    pub(crate) fn fs(&self) -> &Fs {
        self.mounted.as_ref().unwrap()
    }

    fn changed_slot(&mut self, slot: usize) {
        if let Some(file) = self.open[slot]
            .as_ref()
            .map(|open| open.file.try_clone().unwrap())
        {
            self.changed_file(&file);
        }
    }

    fn node_of_slot(&self, slot: usize) -> Result<NodeId, String> {
        let open = self.open[slot].as_ref().ok_or("not open")?;
        self.fs().node_of_handle(open.fh).map_err(|e| e.to_string())
    }

    fn open(&mut self, slot: usize, path: usize, append: bool, truncate: bool) -> Check {
        if let Some(open) = self.open[slot].take() {
            self.fs().release(open.fh).map_err(|e| e.to_string())?;
        }
        if self.is_fifo_or_link(path) {
            return Ok(());
        }
        let mut flags = OFlags::RDWR;
        if append {
            flags |= OFlags::APPEND;
        }
        if truncate {
            flags |= OFlags::TRUNC;
        }
        // As open with O_CREAT does.
        self.apply(&Op::Create { path })?;
        let ours = self.on(path, |node| self.fs().open(node, flags.bits() as i32));
        let real = rustix::fs::open(self.real(path), flags, rustix::fs::Mode::empty());
        let real = real.map_err(io::Error::from);
        if Self::agree(&ours, &real)? {
            let file = File::from(real.unwrap());
            self.open[slot] = Some(Open {
                fh: ours.unwrap(),
                file,
                append,
            });
            if truncate {
                self.changed_slot(slot);
            }
        }
        Ok(())
    }

    fn fallocate(&mut self, slot: usize, mode: FallocateFlags, at: u64, len: u64) -> Check {
        let Some(open) = &self.open[slot] else {
            return Ok(());
        };
        let ours = self.fs().fallocate(open.fh, mode.bits() as i32, at, len);
        let real = rustix::fs::fallocate(&open.file, mode, at, len);
        if Self::agree(&ours, &real.map_err(Into::into))? {
            self.changed_slot(slot);
        }
        Ok(())
    }

    fn rename(&mut self, from: usize, to: usize, flags: u8) -> Check {
        let (ours_flags, real_flags) = match flags {
            0 | 1 => (RenameFlags::Replace, rustix::fs::RenameFlags::empty()),
            2 => (RenameFlags::NoReplace, rustix::fs::RenameFlags::NOREPLACE),
            _ => (RenameFlags::Exchange, rustix::fs::RenameFlags::EXCHANGE),
        };
        let source = self.real(from).symlink_metadata();
        let target = self.real(to).symlink_metadata();
        // The kernel refuses these before a file system hears of them, in an order of its own.
        let into_itself = |a: usize, b: usize| PATHS[a].starts_with(&format!("{}/", PATHS[b]));
        if into_itself(from, to) || into_itself(to, from) {
            return Ok(());
        }
        let ours = self.at(from, |dir, name| {
            self.at(to, |new_dir, new_name| {
                self.fs().rename(dir, name, new_dir, new_name, ours_flags)
            })
        });
        if let (Err(FsError::Invalid), Ok(source), Ok(target)) = (&ours, &source, &target)
            && flags == 3
            && [source, target]
                .iter()
                .any(|m| !m.is_file() || m.nlink() > 1)
        {
            // Documented: a segment with several names is not exchanged with what can not be one.
            return Ok(());
        }
        let cwd = rustix::fs::CWD;
        let real = rustix::fs::renameat_with(cwd, self.real(from), cwd, self.real(to), real_flags);
        if Self::agree(&ours, &real.map_err(Into::into))?
            && flags < 2
            && let (Ok(source), Ok(target)) = (source, target)
            && source.is_file()
            && source.ino() != target.ino()
        {
            // What replaces something is committed first.
            self.synced(source.ino());
        }
        Ok(())
    }
}

impl Drop for World {
    fn drop(&mut self) {
        self.fs().abandon();
    }
}
