//! Attributes: what `stat` shows of a node, and requests to change them.

use rustix::fs::{FileType, Stat, Timespec};
use rustix::time::{ClockId, clock_gettime};

/// A point in time: seconds since 1970, which may be negative, and nanoseconds.
pub type Time = (i64, u32);

/// What a node is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Kind {
    /// Regular file, whether kept as a segment or plain.
    File,
    /// Directory.
    Dir,
    /// Symbolic link.
    Symlink,
    /// Named pipe.
    Fifo,
    /// Socket.
    Socket,
    /// Character device.
    Char,
    /// Block device.
    Block,
}

impl Kind {
    pub(super) fn from_file_type(file_type: FileType) -> Kind {
        match file_type {
            FileType::Directory => Kind::Dir,
            FileType::Symlink => Kind::Symlink,
            FileType::Fifo => Kind::Fifo,
            FileType::Socket => Kind::Socket,
            FileType::CharacterDevice => Kind::Char,
            FileType::BlockDevice => Kind::Block,
            _ => Kind::File,
        }
    }

    pub(super) fn of(stat: &Stat) -> Kind {
        Kind::from_file_type(FileType::from_raw_mode(stat.st_mode))
    }
}

/// What `stat` shows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Attr {
    /// Inode number.
    pub ino: u64,
    /// Logical size in bytes.
    pub size: u64,
    /// Stored size in units of 512 bytes.
    pub blocks: u64,
    /// Last access.
    pub atime: Time,
    /// Last change of the content.
    pub mtime: Time,
    /// Last change of content or attributes.
    pub ctime: Time,
    /// What it is.
    pub kind: Kind,
    /// Permission bits with set-uid, set-gid and sticky: the lower twelve bits of the mode.
    pub perm: u16,
    /// Number of names.
    pub nlink: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Device number of a device node.
    pub rdev: u64,
    /// Preferred size of reads and writes.
    pub blksize: u32,
}

/// A time to set.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SetTime {
    /// The current time.
    Now,
    /// This time.
    At(Time),
}

/// A request to change attributes; what is `None` stays.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct SetAttr {
    /// New permission bits.
    pub mode: Option<u32>,
    /// New owner.
    pub uid: Option<u32>,
    /// New group.
    pub gid: Option<u32>,
    /// New size.
    pub size: Option<u64>,
    /// New time of last access.
    pub atime: Option<SetTime>,
    /// New time of last change of the content.
    pub mtime: Option<SetTime>,
}

/// On whose behalf an entry is made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Caller {
    /// Owner of what is made.
    pub uid: u32,
    /// Its group, unless the directory gives its own (set-gid).
    pub gid: u32,
    /// Permission bits to take away.
    pub umask: u32,
}

/// Figures of the file system.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StatFs {
    /// Size of all blocks counted here.
    pub bsize: u32,
    /// Fragment size, the unit of the counts.
    pub frsize: u32,
    /// Total.
    pub blocks: u64,
    /// Free.
    pub bfree: u64,
    /// Free for unprivileged users.
    pub bavail: u64,
    /// Inodes.
    pub files: u64,
    /// Free inodes.
    pub ffree: u64,
    /// Longest name.
    pub namelen: u32,
}

/// The present time by the clock that file systems stamp files with, so that stamps of both kinds can be compared.
pub(super) fn now() -> Time {
    let t = clock_gettime(ClockId::RealtimeCoarse);
    (t.tv_sec, u32::try_from(t.tv_nsec).unwrap_or(0))
}

pub(super) fn timespec(time: Time) -> Timespec {
    Timespec {
        tv_sec: time.0,
        tv_nsec: i64::from(time.1) as _,
    }
}

/// The times in a `stat`.
pub(super) fn times(stat: &Stat) -> [Time; 3] {
    let pair = |sec, nsec| (sec, u32::try_from(nsec).unwrap_or(0));
    [
        pair(stat.st_atime, stat.st_atime_nsec),
        pair(stat.st_mtime, stat.st_mtime_nsec),
        pair(stat.st_ctime, stat.st_ctime_nsec),
    ]
}

/// The attributes that a `stat` of the backing inode gives, before the segment's own figures.
pub(super) fn from_stat(stat: &Stat, ino: u64) -> Attr {
    let [atime, mtime, ctime] = times(stat);
    Attr {
        ino,
        size: u64::try_from(stat.st_size).unwrap_or(0),
        blocks: u64::try_from(stat.st_blocks).unwrap_or(0),
        atime,
        mtime,
        ctime,
        kind: Kind::of(stat),
        perm: (stat.st_mode & 0o7777) as u16,
        nlink: u32::try_from(stat.st_nlink).unwrap_or(u32::MAX),
        uid: stat.st_uid,
        gid: stat.st_gid,
        rdev: stat.st_rdev,
        blksize: u32::try_from(stat.st_blksize).unwrap_or(4096),
    }
}
