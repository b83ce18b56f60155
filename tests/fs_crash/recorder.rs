//! A mounted file system that notes every change that is made to it and every sync, in their order.

use std::collections::{BTreeMap, HashMap};
use std::ffi::OsStr;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use fuser::{
    BackgroundSession, BsdFileFlags, Config, Errno, FileAttr, FileHandle, FileType, Filesystem,
    FopenFlags, Generation, INodeNo, LockOwner, OpenFlags, RenameFlags, ReplyAttr, ReplyCreate,
    ReplyData, ReplyDirectory, ReplyEmpty, ReplyEntry, ReplyOpen, ReplyStatfs, ReplyWrite,
    ReplyXattr, Request, TimeOrNow, WriteFlags,
};

use crate::disk::{Body, Disk, Ino, Inode, Op, Slot, set_time};
use crate::tree::Tree;

/// Nothing is cached by the kernel, so that every call arrives here.
const TTL: Duration = Duration::ZERO;
const GENERATION: Generation = Generation(0);
const BLOCK: u64 = 4096;

/// What happened, or what the test says about it.
#[derive(Debug, Clone)]
pub enum Event {
    Change(Op),
    Sync {
        ino: Ino,
        content_only: bool,
    },
    /// From here on this tree may be found.
    Attempt(Tree),
    /// From here on nothing older than this tree may be found.
    Durable(Tree),
}

#[derive(Default)]
struct State {
    disk: Disk,
    /// Times of access, content change and attribute change.
    times: HashMap<Ino, [SystemTime; 3]>,
    last: Ino,
    events: Vec<Event>,
}

/// The recorded file system, mounted until this is dropped.
pub struct Recorder {
    state: Arc<Mutex<State>>,
    mount: Option<BackgroundSession>,
    watch: Option<Child>,
    dir: tempfile::TempDir,
}

/// Ends the mount where this program can not: killed in the middle of a call that it would have to answer itself, it does not end before.
const WATCH: &str = r#"
while sleep 1; do
    case $(sed 's/.*) //' "/proc/$1/stat" 2>/dev/null) in
        Z* | X* | '') umount -f "$2"; umount -l "$2"; rmdir "$2"; exit ;;
    esac
done"#;

fn watch(mount: &Path) -> Option<Child> {
    let mut watch = Command::new("sh");
    watch.args(["-c", WATCH, "sh", &std::process::id().to_string()]);
    watch.arg(mount).process_group(0);
    let none = Stdio::null;
    watch
        .stdin(none())
        .stdout(none())
        .stderr(none())
        .spawn()
        .ok()
}

impl Recorder {
    /// `None`, with the reason printed, where this machine can not mount.
    pub fn mount() -> Option<Recorder> {
        let dir = tempfile::tempdir().unwrap();
        let state = Arc::new(Mutex::new(State {
            last: crate::disk::ROOT,
            ..State::default()
        }));
        match fuser::spawn_mount(Served(Arc::clone(&state)), dir.path(), &Config::default()) {
            Ok(mount) => Some(Recorder {
                state,
                mount: Some(mount),
                watch: watch(dir.path()),
                dir,
            }),
            Err(e) => {
                println!("skipped: cannot mount a FUSE file system: {e}");
                None
            }
        }
    }

    pub fn path(&self) -> &Path {
        self.dir.path()
    }

    pub fn say(&self, event: Event) {
        lock(&self.state).events.push(event);
    }

    /// Takes all that was recorded so far, and what the file system holds now.
    pub fn take(&self) -> (Vec<Event>, Disk) {
        let mut state = lock(&self.state);
        (std::mem::take(&mut state.events), state.disk.clone())
    }
}

impl Drop for Recorder {
    fn drop(&mut self) {
        if let Some(mount) = self.mount.take()
            && let Err(e) = mount.umount_and_join()
        {
            // A test that failed may have left files open.
            eprintln!("{}: {e}", self.dir.path().display());
            let _ = rustix::mount::unmount(self.dir.path(), rustix::mount::UnmountFlags::DETACH);
        }
        if let Some(mut watch) = self.watch.take() {
            let _ = watch.kill();
            let _ = watch.wait();
        }
    }
}

fn lock(state: &Mutex<State>) -> MutexGuard<'_, State> {
    state.lock().unwrap_or_else(|e| e.into_inner())
}

struct Served(Arc<Mutex<State>>);

impl State {
    /// Makes a change and notes it.
    fn change(&mut self, op: Op) {
        self.disk.apply(&op);
        self.events.push(Event::Change(op));
    }

    fn make(&mut self, at: Slot, body: Body, mode: u32) -> Result<FileAttr, Errno> {
        if self.disk.entries(at.0).is_none() {
            return Err(Errno::ENOTDIR);
        }
        if self.disk.lookup(at.0, &at.1).is_some() {
            return Err(Errno::EEXIST);
        }
        self.last += 1;
        let ino = self.last;
        let owner = (
            rustix::process::geteuid().as_raw(),
            rustix::process::getegid().as_raw(),
        );
        let inode = Inode {
            body,
            mode: mode & 0o7777,
            owner,
            mtime: None,
            xattrs: BTreeMap::new(),
        };
        let dir = at.0;
        self.change(Op::Make { at, ino, inode });
        self.times.insert(ino, [SystemTime::now(); 3]);
        self.touch(dir, true);
        self.attr(ino)
    }

    /// The inode was changed just now, and its content if so said.
    fn touch(&mut self, ino: Ino, content: bool) {
        let now = SystemTime::now();
        let [_, modified, changed] = self.times.entry(ino).or_insert([UNIX_EPOCH; 3]);
        *changed = now;
        if content {
            *modified = now;
        }
    }

    /// Sets the time of the last change; that of most changes is not worth a note.
    fn set_modified(&mut self, ino: Ino, at: SystemTime) {
        self.times.entry(ino).or_insert([UNIX_EPOCH; 3])[1] = at;
        let since = at.duration_since(UNIX_EPOCH).unwrap_or_default();
        let mtime = set_time(since.as_secs().cast_signed());
        if (self.disk.inodes.get(&ino)).is_some_and(|inode| inode.mtime != mtime) {
            self.change(Op::Time { ino, mtime });
        }
    }

    fn find(&self, parent: INodeNo, name: &OsStr) -> Result<Ino, Errno> {
        self.disk.lookup(parent.0, name).ok_or(Errno::ENOENT)
    }

    fn inode(&self, ino: Ino) -> Result<&Inode, Errno> {
        self.disk.inodes.get(&ino).ok_or(Errno::ENOENT)
    }

    fn attr(&self, ino: Ino) -> Result<FileAttr, Errno> {
        let inode = self.inode(ino)?;
        let (kind, size, nlink) = match &inode.body {
            Body::Dir(_) => (FileType::Directory, 0, 2),
            Body::File(bytes) => (
                FileType::RegularFile,
                bytes.len() as u64,
                self.disk.links(ino),
            ),
            Body::Symlink(to) => (FileType::Symlink, to.len() as u64, self.disk.links(ino)),
        };
        let [atime, mtime, ctime] = self.times.get(&ino).copied().unwrap_or([UNIX_EPOCH; 3]);
        Ok(FileAttr {
            ino: INodeNo(ino),
            size,
            blocks: size.next_multiple_of(BLOCK) / 512,
            atime,
            mtime,
            ctime,
            crtime: UNIX_EPOCH,
            kind,
            perm: inode.mode as u16,
            nlink,
            uid: inode.owner.0,
            gid: inode.owner.1,
            rdev: 0,
            blksize: BLOCK as u32,
            flags: 0,
        })
    }
}

fn slot(parent: INodeNo, name: &OsStr) -> Slot {
    (parent.0, name.to_os_string())
}

fn empty(result: Result<(), Errno>, reply: ReplyEmpty) {
    match result {
        Ok(()) => reply.ok(),
        Err(e) => reply.error(e),
    }
}

fn entry(result: Result<FileAttr, Errno>, reply: ReplyEntry) {
    match result {
        Ok(attr) => reply.entry(&TTL, &attr, GENERATION),
        Err(e) => reply.error(e),
    }
}

fn time(time: TimeOrNow) -> SystemTime {
    match time {
        TimeOrNow::Now => SystemTime::now(),
        TimeOrNow::SpecificTime(at) => at,
    }
}

impl Served {
    fn state(&self) -> MutexGuard<'_, State> {
        lock(&self.0)
    }
}

impl Filesystem for Served {
    fn lookup(&self, _req: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        let state = self.state();
        entry(
            state.find(parent, name).and_then(|ino| state.attr(ino)),
            reply,
        );
    }

    fn getattr(&self, _req: &Request, ino: INodeNo, _fh: Option<FileHandle>, reply: ReplyAttr) {
        match self.state().attr(ino.0) {
            Ok(attr) => reply.attr(&TTL, &attr),
            Err(e) => reply.error(e),
        }
    }

    fn setattr(
        &self,
        _req: &Request,
        ino: INodeNo,
        mode: Option<u32>,
        uid: Option<u32>,
        gid: Option<u32>,
        size: Option<u64>,
        atime: Option<TimeOrNow>,
        mtime: Option<TimeOrNow>,
        _ctime: Option<SystemTime>,
        _fh: Option<FileHandle>,
        _crtime: Option<SystemTime>,
        _chgtime: Option<SystemTime>,
        _bkuptime: Option<SystemTime>,
        _flags: Option<BsdFileFlags>,
        reply: ReplyAttr,
    ) {
        let state = &mut *self.state();
        let ino = ino.0;
        let Ok(old) = state.attr(ino) else {
            return reply.error(Errno::ENOENT);
        };
        if let Some(mode) = mode {
            let mode = mode & 0o7777;
            state.change(Op::Mode { ino, mode });
        }
        if uid.is_some() || gid.is_some() {
            let owner = (uid.unwrap_or(old.uid), gid.unwrap_or(old.gid));
            state.change(Op::Owner { ino, owner });
        }
        if let Some(len) = size {
            state.change(Op::SetLen { ino, len });
        }
        state.touch(ino, size.is_some());
        let times = state.times.entry(ino).or_insert([UNIX_EPOCH; 3]);
        times[0] = atime.map_or(times[0], time);
        if let Some(mtime) = mtime {
            state.set_modified(ino, time(mtime));
        }
        match state.attr(ino) {
            Ok(attr) => reply.attr(&TTL, &attr),
            Err(e) => reply.error(e),
        }
    }

    fn readlink(&self, _req: &Request, ino: INodeNo, reply: ReplyData) {
        match self.state().inode(ino.0).map(|inode| &inode.body) {
            Ok(Body::Symlink(to)) => reply.data(to.as_encoded_bytes()),
            _ => reply.error(Errno::EINVAL),
        }
    }

    fn mknod(
        &self,
        _req: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        _umask: u32,
        _rdev: u32,
        reply: ReplyEntry,
    ) {
        let body = Body::File(Arc::default());
        entry(self.state().make(slot(parent, name), body, mode), reply);
    }

    fn mkdir(
        &self,
        _req: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        _umask: u32,
        reply: ReplyEntry,
    ) {
        let body = Body::Dir(BTreeMap::new());
        entry(self.state().make(slot(parent, name), body, mode), reply);
    }

    fn symlink(
        &self,
        _req: &Request,
        parent: INodeNo,
        name: &OsStr,
        target: &Path,
        reply: ReplyEntry,
    ) {
        let body = Body::Symlink(target.into());
        entry(self.state().make(slot(parent, name), body, 0o777), reply);
    }

    fn unlink(&self, _req: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        let state = &mut *self.state();
        let done = state.find(parent, name).map(|ino| {
            let at = slot(parent, name);
            state.change(Op::Unlink { at });
            state.touch(ino, false);
            state.touch(parent.0, true);
        });
        empty(done, reply);
    }

    fn rmdir(&self, req: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        let full = {
            let state = self.state();
            let found = state.find(parent, name).ok();
            let entries = found.and_then(|ino| state.disk.entries(ino));
            entries.is_some_and(|entries| !entries.is_empty())
        };
        if full {
            return reply.error(Errno::ENOTEMPTY);
        }
        self.unlink(req, parent, name, reply);
    }

    fn rename(
        &self,
        _req: &Request,
        parent: INodeNo,
        name: &OsStr,
        newparent: INodeNo,
        newname: &OsStr,
        flags: RenameFlags,
        reply: ReplyEmpty,
    ) {
        let state = &mut *self.state();
        let done = state.find(parent, name).and_then(|ino| {
            let target = state.find(newparent, newname).ok();
            if flags.contains(RenameFlags::RENAME_NOREPLACE) && target.is_some() {
                return Err(Errno::EEXIST);
            }
            let exchange = flags.contains(RenameFlags::RENAME_EXCHANGE);
            if exchange && target.is_none() {
                return Err(Errno::ENOENT);
            }
            if target != Some(ino) {
                let (from, to) = (slot(parent, name), slot(newparent, newname));
                state.change(Op::Rename { from, to, exchange });
            }
            for inode in [Some(ino), target].into_iter().flatten() {
                state.touch(inode, false);
            }
            state.touch(parent.0, true);
            state.touch(newparent.0, true);
            Ok(())
        });
        empty(done, reply);
    }

    fn link(
        &self,
        _req: &Request,
        ino: INodeNo,
        newparent: INodeNo,
        newname: &OsStr,
        reply: ReplyEntry,
    ) {
        let state = &mut *self.state();
        if state.find(newparent, newname).is_ok() {
            return reply.error(Errno::EEXIST);
        }
        let (at, ino) = (slot(newparent, newname), ino.0);
        state.change(Op::Link { at, ino });
        state.touch(ino, false);
        state.touch(newparent.0, true);
        entry(state.attr(ino), reply);
    }

    fn create(
        &self,
        _req: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        _umask: u32,
        _flags: i32,
        reply: ReplyCreate,
    ) {
        let body = Body::File(Arc::default());
        match self.state().make(slot(parent, name), body, mode) {
            Ok(attr) => reply.created(
                &TTL,
                &attr,
                GENERATION,
                FileHandle(0),
                FopenFlags::FOPEN_DIRECT_IO,
            ),
            Err(e) => reply.error(e),
        }
    }

    fn open(&self, _req: &Request, _ino: INodeNo, _flags: OpenFlags, reply: ReplyOpen) {
        reply.opened(FileHandle(0), FopenFlags::FOPEN_DIRECT_IO);
    }

    fn read(
        &self,
        _req: &Request,
        ino: INodeNo,
        _fh: FileHandle,
        offset: u64,
        size: u32,
        _flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        reply: ReplyData,
    ) {
        match self.state().inode(ino.0).map(|inode| &inode.body) {
            Ok(Body::File(bytes)) => {
                let start = bytes.len().min(offset as usize);
                let end = bytes.len().min(start + size as usize);
                reply.data(&bytes[start..end]);
            }
            _ => reply.error(Errno::EISDIR),
        }
    }

    fn write(
        &self,
        _req: &Request,
        ino: INodeNo,
        _fh: FileHandle,
        offset: u64,
        data: &[u8],
        _write_flags: WriteFlags,
        _flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        let state = &mut *self.state();
        let (ino, bytes) = (ino.0, Arc::new(data.to_vec()));
        state.change(Op::Write { ino, offset, bytes });
        state.touch(ino, true);
        reply.written(data.len() as u32);
    }

    fn fallocate(
        &self,
        _req: &Request,
        ino: INodeNo,
        _fh: FileHandle,
        offset: u64,
        len: u64,
        mode: i32,
        reply: ReplyEmpty,
    ) {
        use rustix::fs::FallocateFlags as Flags;
        let punch = Flags::PUNCH_HOLE | Flags::KEEP_SIZE;
        if Flags::from_bits_retain(mode.cast_unsigned()) != punch {
            return reply.error(Errno::EOPNOTSUPP);
        }
        let (state, ino) = (&mut *self.state(), ino.0);
        state.change(Op::Punch { ino, offset, len });
        state.touch(ino, true);
        reply.ok();
    }

    fn flush(
        &self,
        _req: &Request,
        _ino: INodeNo,
        _fh: FileHandle,
        _lock_owner: LockOwner,
        reply: ReplyEmpty,
    ) {
        reply.ok();
    }

    fn fsync(
        &self,
        _req: &Request,
        ino: INodeNo,
        _fh: FileHandle,
        datasync: bool,
        reply: ReplyEmpty,
    ) {
        self.state().events.push(Event::Sync {
            ino: ino.0,
            content_only: datasync,
        });
        reply.ok();
    }

    fn fsyncdir(
        &self,
        req: &Request,
        ino: INodeNo,
        fh: FileHandle,
        datasync: bool,
        reply: ReplyEmpty,
    ) {
        self.fsync(req, ino, fh, datasync, reply);
    }

    fn readdir(
        &self,
        _req: &Request,
        ino: INodeNo,
        _fh: FileHandle,
        offset: u64,
        mut reply: ReplyDirectory,
    ) {
        let state = self.state();
        let Some(entries) = state.disk.entries(ino.0) else {
            return reply.error(Errno::ENOTDIR);
        };
        let dots = [(OsStr::new("."), ino.0), (OsStr::new(".."), ino.0)];
        let others = entries.iter().map(|(name, ino)| (name.as_os_str(), *ino));
        for (at, (name, ino)) in dots.into_iter().chain(others).enumerate() {
            let next = at as u64 + 1;
            let kind = state
                .attr(ino)
                .map_or(FileType::RegularFile, |attr| attr.kind);
            if next > offset && reply.add(INodeNo(ino), next, kind, name) {
                break;
            }
        }
        reply.ok();
    }

    fn statfs(&self, _req: &Request, _ino: INodeNo, reply: ReplyStatfs) {
        let many = 1 << 20;
        reply.statfs(
            many,
            many,
            many,
            many,
            many,
            BLOCK as u32,
            255,
            BLOCK as u32,
        );
    }

    fn setxattr(
        &self,
        _req: &Request,
        ino: INodeNo,
        name: &OsStr,
        value: &[u8],
        _flags: i32,
        _position: u32,
        reply: ReplyEmpty,
    ) {
        let (state, ino) = (&mut *self.state(), ino.0);
        let (name, value) = (name.to_os_string(), Some(value.to_vec()));
        state.change(Op::Xattr { ino, name, value });
        state.touch(ino, false);
        reply.ok();
    }

    fn getxattr(&self, _req: &Request, ino: INodeNo, name: &OsStr, size: u32, reply: ReplyXattr) {
        let state = self.state();
        match state.inode(ino.0).map(|inode| inode.xattrs.get(name)) {
            Ok(Some(value)) => give(value, size, reply),
            Ok(None) => reply.error(Errno::ENODATA),
            Err(e) => reply.error(e),
        }
    }

    fn listxattr(&self, _req: &Request, ino: INodeNo, size: u32, reply: ReplyXattr) {
        let state = self.state();
        let mut names = Vec::new();
        for name in state.inode(ino.0).iter().flat_map(|i| i.xattrs.keys()) {
            names.extend(name.as_encoded_bytes());
            names.push(0);
        }
        give(&names, size, reply);
    }

    fn removexattr(&self, _req: &Request, ino: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        let (state, ino) = (&mut *self.state(), ino.0);
        match state.inode(ino).map(|inode| inode.xattrs.get(name)) {
            Ok(Some(_)) => {
                let (name, value) = (name.to_os_string(), None);
                state.change(Op::Xattr { ino, name, value });
                state.touch(ino, false);
                reply.ok();
            }
            Ok(None) => reply.error(Errno::ENODATA),
            Err(e) => reply.error(e),
        }
    }
}

fn give(value: &[u8], size: u32, reply: ReplyXattr) {
    match size as usize {
        0 => reply.size(value.len() as u32),
        room if room < value.len() => reply.error(Errno::ERANGE),
        _ => reply.data(value),
    }
}
