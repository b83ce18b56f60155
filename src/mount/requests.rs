//! One thin method a FUSE request.

use std::ffi::OsStr;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::time::SystemTime;

use fuser::{
    BsdFileFlags, CopyFileRangeFlags, Errno, FileHandle, Filesystem, FopenFlags, INodeNo,
    IoctlFlags, KernelConfig, LockOwner, OpenFlags, PollEvents, PollFlags, PollNotifier,
    RenameFlags, ReplyAttr, ReplyCreate, ReplyData, ReplyDirectory, ReplyDirectoryPlus, ReplyEmpty,
    ReplyEntry, ReplyIoctl, ReplyLseek, ReplyOpen, ReplyPoll, ReplyStatfs, ReplyWrite, ReplyXattr,
    Request, TimeOrNow, WriteFlags,
};

use super::adapter::{
    Adapter, DAEMON_XATTR, GENERATION, STATUS_XATTR, caller, empty, handle, node, positional,
    rename_flags, xattr,
};
use super::buffer::with_buffer;
use super::convert::{decode_device, file_attr, file_type, set_time};
use super::kernel::open_flags;
use super::set_ids::may_keep;
use crate::fs::{FsError, Kind, NodeId, SetAttr};

/// Begins the names of access control lists among extended attributes.
const ACL_PREFIX: &[u8] = b"system.posix_acl_";

/// Bytes of a read after which more of them may be under way at the same time.
const SHORT: u32 = 128 << 10;

impl Filesystem for Adapter {
    fn init(&mut self, _req: &Request, config: &mut KernelConfig) -> io::Result<()> {
        self.agree(config);
        Ok(())
    }

    fn lookup(&self, req: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        let found = self.call(req, "lookup", parent, |fs| fs.lookup(node(parent), name));
        if matches!(&found, Ok((_, attr)) if attr.kind != Kind::Dir) {
            self.listings.looked_up_in(parent);
        }
        self.entry(found, reply);
        self.linger.answered(req.pid());
    }

    fn forget(&self, _req: &Request, ino: INodeNo, nlookup: u64) {
        let _ = self.run("forget", ino, |fs| {
            fs.forget(node(ino), nlookup);
            Ok(())
        });
    }

    fn getattr(&self, req: &Request, ino: INodeNo, fh: Option<FileHandle>, reply: ReplyAttr) {
        match self.call(req, "getattr", ino, |fs| {
            fs.getattr(node(ino), fh.map(handle))
        }) {
            Ok(attr) => reply.attr(&self.ttl, &file_attr(NodeId(attr.ino), &attr)),
            Err(errno) => reply.error(errno),
        }
        self.linger.answered(req.pid());
    }

    fn setattr(
        &self,
        req: &Request,
        ino: INodeNo,
        mode: Option<u32>,
        uid: Option<u32>,
        gid: Option<u32>,
        size: Option<u64>,
        atime: Option<TimeOrNow>,
        mtime: Option<TimeOrNow>,
        _ctime: Option<SystemTime>,
        fh: Option<FileHandle>,
        _crtime: Option<SystemTime>,
        _chgtime: Option<SystemTime>,
        _bkuptime: Option<SystemTime>,
        _flags: Option<BsdFileFlags>,
        reply: ReplyAttr,
    ) {
        let set = SetAttr {
            mode,
            uid,
            gid,
            size,
            atime: atime.map(set_time),
            mtime: mtime.map(set_time),
        };
        match self.call(req, "setattr", ino, |fs| {
            if size.is_some() {
                self.take_set_ids(fs, ino, || may_keep(req))?;
            }
            fs.setattr(node(ino), fh.map(handle), set)
        }) {
            Ok(attr) => reply.attr(&self.ttl, &file_attr(NodeId(attr.ino), &attr)),
            Err(errno) => reply.error(errno),
        }
    }

    fn readlink(&self, req: &Request, ino: INodeNo, reply: ReplyData) {
        match self.call(req, "readlink", ino, |fs| fs.readlink(node(ino))) {
            Ok(target) => reply.data(&target),
            Err(errno) => reply.error(errno),
        }
        self.linger.answered(req.pid());
    }

    fn mknod(
        &self,
        req: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        umask: u32,
        rdev: u32,
        reply: ReplyEntry,
    ) {
        let made = self.call(req, "mknod", parent, |fs| {
            fs.mknod(
                node(parent),
                name,
                mode,
                decode_device(rdev),
                caller(req, umask),
            )
        });
        self.entry(made, reply);
    }

    fn mkdir(
        &self,
        req: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        umask: u32,
        reply: ReplyEntry,
    ) {
        let made = self.call(req, "mkdir", parent, |fs| {
            fs.mkdir(node(parent), name, mode, caller(req, umask))
        });
        self.entry(made, reply);
    }

    fn unlink(&self, req: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        empty(
            self.call(req, "unlink", parent, |fs| fs.unlink(node(parent), name)),
            reply,
        );
    }

    fn rmdir(&self, req: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        empty(
            self.call(req, "rmdir", parent, |fs| fs.rmdir(node(parent), name)),
            reply,
        );
    }

    fn symlink(
        &self,
        req: &Request,
        parent: INodeNo,
        name: &OsStr,
        target: &Path,
        reply: ReplyEntry,
    ) {
        let made = self.call(req, "symlink", parent, |fs| {
            fs.symlink(node(parent), name, target.as_os_str(), caller(req, 0))
        });
        self.entry(made, reply);
    }

    fn rename(
        &self,
        req: &Request,
        parent: INodeNo,
        name: &OsStr,
        newparent: INodeNo,
        newname: &OsStr,
        flags: RenameFlags,
        reply: ReplyEmpty,
    ) {
        let done = self.call(req, "rename", parent, |fs| {
            fs.rename(
                node(parent),
                name,
                node(newparent),
                newname,
                rename_flags(flags)?,
            )
        });
        empty(done, reply);
    }

    fn link(
        &self,
        req: &Request,
        ino: INodeNo,
        newparent: INodeNo,
        newname: &OsStr,
        reply: ReplyEntry,
    ) {
        let made = self.call(req, "link", ino, |fs| {
            fs.link(node(ino), node(newparent), newname)
        });
        self.entry(made, reply);
    }

    fn open(&self, req: &Request, ino: INodeNo, flags: OpenFlags, reply: ReplyOpen) {
        let opened = self.call(req, "open", ino, |fs| {
            let fh = fs.open(node(ino), positional(flags.0))?;
            if !self.passthrough.enabled {
                return Ok((fh, None));
            }
            let plain = fs.plain_file(fh).inspect_err(|_| {
                let _ = fs.release(fh);
            })?;
            Ok((fh, plain))
        });
        let flags = open_flags(flags);
        match opened {
            Ok((fh, Some(plain))) => {
                let fh = FileHandle(fh.0);
                self.passthrough.opened(ino, &plain, fh, flags, reply);
            }
            Ok((fh, None)) => reply.opened(FileHandle(fh.0), flags),
            Err(errno) => reply.error(errno),
        }
        self.linger.answered(req.pid());
    }

    fn read(
        &self,
        req: &Request,
        ino: INodeNo,
        fh: FileHandle,
        offset: u64,
        size: u32,
        _flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        reply: ReplyData,
    ) {
        if size > SHORT {
            self.linger.interrupt();
        }
        with_buffer(size, |buffer| {
            match self.call(req, "read", ino, |fs| {
                fs.read_into(handle(fh), offset, buffer)
            }) {
                Ok(n) => reply.data(buffer.get(..n).unwrap_or_default()),
                Err(errno) => reply.error(errno),
            }
        });
    }

    fn write(
        &self,
        req: &Request,
        ino: INodeNo,
        fh: FileHandle,
        offset: u64,
        data: &[u8],
        write_flags: WriteFlags,
        _flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        let written = self.call(req, "write", ino, |fs| {
            if write_flags.contains(WriteFlags::FUSE_WRITE_KILL_SUIDGID) {
                self.take_set_ids(fs, ino, || false)?;
            }
            fs.write(handle(fh), offset, data)
        });
        match written {
            // A request holds at most MAX_IO bytes.
            Ok(written) => reply.written(written as u32),
            Err(errno) => reply.error(errno),
        }
    }

    fn flush(
        &self,
        req: &Request,
        ino: INodeNo,
        fh: FileHandle,
        _lock_owner: LockOwner,
        reply: ReplyEmpty,
    ) {
        empty(
            self.call(req, "flush", ino, |fs| fs.flush(handle(fh))),
            reply,
        );
    }

    fn release(
        &self,
        _req: &Request,
        ino: INodeNo,
        fh: FileHandle,
        _flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        _flush: bool,
        reply: ReplyEmpty,
    ) {
        if self.passthrough.enabled {
            self.passthrough.released(ino);
        }
        empty(self.run("release", ino, |fs| fs.release(handle(fh))), reply);
        self.linger.closed();
    }

    fn fsync(
        &self,
        req: &Request,
        ino: INodeNo,
        fh: FileHandle,
        datasync: bool,
        reply: ReplyEmpty,
    ) {
        empty(
            self.call(req, "fsync", ino, |fs| fs.fsync(handle(fh), datasync)),
            reply,
        );
    }

    fn opendir(&self, req: &Request, ino: INodeNo, _flags: OpenFlags, reply: ReplyOpen) {
        match self.call(req, "opendir", ino, |fs| fs.opendir(node(ino))) {
            Ok(fh) => reply.opened(FileHandle(fh.0), FopenFlags::empty()),
            Err(errno) => reply.error(errno),
        }
        self.linger.answered(req.pid());
    }

    fn readdir(
        &self,
        req: &Request,
        ino: INodeNo,
        fh: FileHandle,
        offset: u64,
        mut reply: ReplyDirectory,
    ) {
        match self.call(req, "readdir", ino, |fs| fs.readdir(handle(fh), offset)) {
            Ok(entries) => {
                for e in &*entries {
                    if reply.add(INodeNo(e.ino), e.offset, file_type(e.kind), &e.name) {
                        break;
                    }
                }
                reply.ok();
            }
            Err(errno) => reply.error(errno),
        }
        self.linger.answered(req.pid());
    }

    fn readdirplus(
        &self,
        req: &Request,
        ino: INodeNo,
        fh: FileHandle,
        offset: u64,
        reply: ReplyDirectoryPlus,
    ) {
        self.list_with_attributes(req, ino, fh, offset, reply);
        self.linger.answered(req.pid());
    }

    fn releasedir(
        &self,
        _req: &Request,
        ino: INodeNo,
        fh: FileHandle,
        _flags: OpenFlags,
        reply: ReplyEmpty,
    ) {
        empty(
            self.run("releasedir", ino, |fs| fs.releasedir(handle(fh))),
            reply,
        );
        self.linger.closed();
    }

    fn fsyncdir(
        &self,
        req: &Request,
        ino: INodeNo,
        fh: FileHandle,
        _datasync: bool,
        reply: ReplyEmpty,
    ) {
        empty(
            self.call(req, "fsyncdir", ino, |fs| fs.fsyncdir(handle(fh))),
            reply,
        );
    }

    fn statfs(&self, req: &Request, ino: INodeNo, reply: ReplyStatfs) {
        match self.call(req, "statfs", ino, |fs| fs.statfs()) {
            Ok(s) => reply.statfs(
                s.blocks, s.bfree, s.bavail, s.files, s.ffree, s.bsize, s.namelen, s.frsize,
            ),
            Err(errno) => reply.error(errno),
        }
        self.linger.answered(req.pid());
    }

    fn setxattr(
        &self,
        req: &Request,
        ino: INodeNo,
        name: &OsStr,
        value: &[u8],
        flags: i32,
        _position: u32,
        reply: ReplyEmpty,
    ) {
        empty(
            self.call(req, "setxattr", ino, |fs| {
                fs.setxattr(node(ino), name, value, flags)
            }),
            reply,
        );
    }

    fn getxattr(&self, req: &Request, ino: INodeNo, name: &OsStr, size: u32, reply: ReplyXattr) {
        let value = if ino == INodeNo::ROOT && name == DAEMON_XATTR {
            Ok(self.identity.clone())
        } else if ino == INodeNo::ROOT && name == STATUS_XATTR {
            self.figures(req)
        } else {
            self.call(req, "getxattr", ino, |fs| fs.getxattr(node(ino), name))
                .map_err(|errno| match errno {
                    // To the kernel, which asks for each access, the want of support is an error and not the want of a list.
                    Errno::EOPNOTSUPP if name.as_bytes().starts_with(ACL_PREFIX) => Errno::NO_XATTR,
                    other => other,
                })
        };
        xattr(value, size, reply);
        self.linger.answered(req.pid());
    }

    fn listxattr(&self, req: &Request, ino: INodeNo, size: u32, reply: ReplyXattr) {
        xattr(
            self.call(req, "listxattr", ino, |fs| fs.listxattr(node(ino))),
            size,
            reply,
        );
        self.linger.answered(req.pid());
    }

    fn removexattr(&self, req: &Request, ino: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        empty(
            self.call(req, "removexattr", ino, |fs| {
                fs.removexattr(node(ino), name)
            }),
            reply,
        );
    }

    fn create(
        &self,
        req: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        umask: u32,
        flags: i32,
        reply: ReplyCreate,
    ) {
        let made = self.call(req, "create", parent, |fs| {
            fs.create(
                node(parent),
                name,
                mode,
                positional(flags),
                caller(req, umask),
            )
        });
        match made {
            Ok((id, attr, fh)) => reply.created(
                &self.ttl,
                &file_attr(id, &attr),
                GENERATION,
                FileHandle(fh.0),
                FopenFlags::FOPEN_KEEP_CACHE,
            ),
            Err(errno) => reply.error(errno),
        }
    }

    fn fallocate(
        &self,
        req: &Request,
        ino: INodeNo,
        fh: FileHandle,
        offset: u64,
        length: u64,
        mode: i32,
        reply: ReplyEmpty,
    ) {
        empty(
            self.call(req, "fallocate", ino, |fs| {
                self.take_set_ids(fs, ino, || may_keep(req))?;
                fs.fallocate(handle(fh), mode, offset, length)
            }),
            reply,
        );
    }

    fn lseek(
        &self,
        req: &Request,
        ino: INodeNo,
        fh: FileHandle,
        offset: i64,
        whence: i32,
        reply: ReplyLseek,
    ) {
        let found = self.call(req, "lseek", ino, |fs| {
            let offset = u64::try_from(offset).map_err(|_| FsError::NoSuchOffset)?;
            fs.lseek(handle(fh), offset, whence)
        });
        match found {
            Ok(position) => reply.offset(position as i64),
            Err(errno) => reply.error(errno),
        }
    }

    // The rest is refused without a word: the kernel does it itself, or does not ask again.

    fn ioctl(
        &self,
        _req: &Request,
        _ino: INodeNo,
        _fh: FileHandle,
        _flags: IoctlFlags,
        _cmd: u32,
        _in_data: &[u8],
        _out_size: u32,
        reply: ReplyIoctl,
    ) {
        reply.error(Errno::ENOTTY);
    }

    fn poll(
        &self,
        _req: &Request,
        _ino: INodeNo,
        _fh: FileHandle,
        _ph: PollNotifier,
        _events: PollEvents,
        _flags: PollFlags,
        reply: ReplyPoll,
    ) {
        reply.error(Errno::ENOSYS);
    }

    fn copy_file_range(
        &self,
        _req: &Request,
        _ino_in: INodeNo,
        _fh_in: FileHandle,
        _offset_in: u64,
        _ino_out: INodeNo,
        _fh_out: FileHandle,
        _offset_out: u64,
        _len: u64,
        _flags: CopyFileRangeFlags,
        reply: ReplyWrite,
    ) {
        reply.error(Errno::ENOSYS);
    }
}
