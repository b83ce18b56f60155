//! System calls on the backing directory.
//!
//! Entries are reached by one name relative to an open directory and never through a symlink; an inode that is open is
//! reopened through `/proc/self/fd`. So nothing in the backing directory can lead outside it.

use std::ffi::OsStr;
use std::fs::File;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;

use rustix::fs::{self, AtFlags, Mode, OFlags, Stat, Timestamps, UTIME_NOW, UTIME_OMIT};
use rustix::io::{Errno, fcntl_dupfd_cloexec};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use super::attr::{SetTime, Time, timespec};
use super::errno::Result;
use crate::store::attributes::drop_inherited_acl;
use crate::store::names;

/// Descriptors that the table has room for from the beginning, at 8 bytes each.
const DESCRIPTORS: i32 = (1 << 14) - 1;

/// What identifies a backing inode, and whether its content is a segment's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct InodeKey {
    pub(super) dev: u64,
    pub(super) ino: u64,
    pub(super) segment: bool,
}

impl InodeKey {
    pub(super) fn new(stat: &Stat, form: names::Kind) -> Self {
        InodeKey {
            dev: stat.st_dev,
            ino: stat.st_ino,
            segment: form == names::Kind::Segment,
        }
    }
}

/// An open backing inode, of any type. It can be neither read nor written, but it pins the inode.
#[derive(Debug)]
pub(super) struct Backing {
    fd: OwnedFd,
    pub(super) key: InodeKey,
    pub(super) form: names::Kind,
}

impl Backing {
    /// Opens the entry `name` of `dir`, whatever it is.
    pub(super) fn open(
        dir: BorrowedFd<'_>,
        name: &OsStr,
        form: names::Kind,
    ) -> Result<(Backing, Stat)> {
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        Self::from_fd(fs::openat(dir, name, flags, Mode::empty())?, form)
    }

    pub(super) fn from_fd(fd: OwnedFd, form: names::Kind) -> Result<(Backing, Stat)> {
        let stat = fs::fstat(&fd)?;
        Ok((
            Backing {
                key: InodeKey::new(&stat, form),
                fd,
                form,
            },
            stat,
        ))
    }

    pub(super) fn stat(&self) -> Result<Stat> {
        Ok(fs::fstat(&self.fd)?)
    }

    pub(super) fn is_segment(&self) -> bool {
        self.form == names::Kind::Segment
    }

    /// A path of this process that names the inode itself.
    pub(super) fn proc_path(&self) -> PathBuf {
        proc_path(self.fd.as_fd())
    }

    /// Opens the inode for reading or writing.
    pub(super) fn reopen(&self, flags: OFlags) -> Result<File> {
        Ok(File::from(fs::open(
            self.proc_path(),
            flags | OFlags::CLOEXEC | OFlags::NOCTTY,
            Mode::empty(),
        )?))
    }

    /// Opens the directory for listing and syncing.
    pub(super) fn reopen_dir(&self) -> Result<OwnedFd> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        Ok(fs::open(self.proc_path(), flags, Mode::empty())?)
    }

    /// Makes the names in the directory durable.
    pub(super) fn sync_dir(&self) -> Result<()> {
        Ok(fs::fsync(self.reopen_dir()?)?)
    }

    pub(super) fn set_times(&self, atime: Option<SetTime>, mtime: Option<SetTime>) -> Result<()> {
        let times = Timestamps {
            last_access: stamp(atime),
            last_modification: stamp(mtime),
        };
        Ok(fs::utimensat(
            fs::CWD,
            self.proc_path(),
            &times,
            AtFlags::empty(),
        )?)
    }

    pub(super) fn set_owner(&self, uid: Option<u32>, gid: Option<u32>) -> Result<()> {
        let (uid, gid) = (uid.map(fs::Uid::from_raw), gid.map(fs::Gid::from_raw));
        Ok(fs::chownat(&self.fd, "", uid, gid, AtFlags::EMPTY_PATH)?)
    }

    pub(super) fn set_mode(&self, mode: u32) -> Result<()> {
        Ok(fs::chmodat(
            fs::CWD,
            self.proc_path(),
            Mode::from_raw_mode(mode & 0o7777),
            AtFlags::empty(),
        )?)
    }
}

impl AsFd for Backing {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

pub(super) fn proc_path(fd: BorrowedFd<'_>) -> PathBuf {
    PathBuf::from(format!("/proc/self/fd/{}", fd.as_raw_fd()))
}

/// Sets the content's time of change and leaves the time of access.
pub(super) fn set_mtime(fd: BorrowedFd<'_>, mtime: Time) -> Result<()> {
    let times = Timestamps {
        last_access: stamp(None),
        last_modification: timespec(mtime),
    };
    Ok(fs::futimens(fd, &times)?)
}

fn stamp(time: Option<SetTime>) -> fs::Timespec {
    match time {
        None => fs::Timespec {
            tv_sec: 0,
            tv_nsec: UTIME_OMIT,
        },
        Some(SetTime::Now) => fs::Timespec {
            tv_sec: 0,
            tv_nsec: UTIME_NOW,
        },
        Some(SetTime::At(time)) => timespec(time),
    }
}

/// `stat` of an entry, `None` if there is none. A name that is too long names nothing.
pub(super) fn stat_entry(dir: BorrowedFd<'_>, name: &OsStr) -> Result<Option<Stat>> {
    match fs::statat(dir, name, AtFlags::SYMLINK_NOFOLLOW) {
        Ok(stat) => Ok(Some(stat)),
        Err(Errno::NOENT | Errno::NAMETOOLONG) => Ok(None),
        Err(e) => Err(e.into()),
    }
}

/// Copies owner, mode, times and extended attributes from one inode to another.
///
/// Owner and attributes that the system does not let this process set are left out. An ACL that the new inode was given by its
/// directory goes.
pub(super) fn copy_attributes(from: &Backing, stat: &Stat, mtime: Time, to: &File) -> Result<()> {
    drop_inherited_acl(to)?;
    let same_owner = own_alike(stat, to)?;
    super::xattr::copy_all(&from.proc_path(), to)?;
    let mode = match same_owner {
        true => stat.st_mode & 0o7777,
        // Another owner's rights must not be lent to whoever runs it.
        false => stat.st_mode & 0o1777,
    };
    fs::fchmod(to, Mode::from_raw_mode(mode))?;
    let [atime, _, _] = super::attr::times(stat);
    let times = Timestamps {
        last_access: timespec(atime),
        last_modification: timespec(mtime),
    };
    Ok(fs::futimens(to, &times)?)
}

/// Gives an inode the owner and group that `stat` names, if the system lets this process; whether it has them.
pub(super) fn own_alike(stat: &Stat, to: &File) -> Result<bool> {
    let owners = |stat: &Stat| (stat.st_uid, stat.st_gid);
    if owners(&fs::fstat(to)?) != owners(stat) {
        let (uid, gid) = (
            fs::Uid::from_raw(stat.st_uid),
            fs::Gid::from_raw(stat.st_gid),
        );
        match fs::fchown(to, Some(uid), Some(gid)) {
            Ok(()) | Err(Errno::PERM) => {}
            Err(e) => return Err(e.into()),
        }
    }
    Ok(owners(&fs::fstat(to)?) == owners(stat))
}

/// Files that this process may have open.
pub(super) fn file_limit() -> u64 {
    getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX)
}

/// Makes the table of descriptors large enough for a usual tree. To be called before there are other threads: the kernel lets
/// a process that has some wait for all processors, some 10 ms, each time that the table doubles.
pub fn grow_descriptor_table() {
    let grown = fs::open("/", OFlags::PATH | OFlags::CLOEXEC, Mode::empty())
        .and_then(|any| fcntl_dupfd_cloexec(any, DESCRIPTORS));
    if let Err(e) = grown {
        log::debug!("the table of descriptors grows later: {e}");
    }
}

/// Lets this process open as many files as it is allowed: every node that the kernel knows holds one open.
pub fn raise_file_limit() {
    const ENOUGH: u64 = 1 << 20;
    let limit = getrlimit(Resource::Nofile);
    let wanted = |maximum: Option<u64>| Rlimit {
        current: maximum,
        maximum,
    };
    if limit.maximum.is_some_and(|most| most < ENOUGH)
        && setrlimit(Resource::Nofile, wanted(Some(ENOUGH))).is_ok()
    {
        return;
    }
    let most = limit
        .maximum
        .map_or(ENOUGH, |most| most.max(limit.current.unwrap_or(most)));
    if let Err(e) = setrlimit(
        Resource::Nofile,
        Rlimit {
            current: Some(most),
            maximum: limit.maximum,
        },
    ) {
        log::warn!("the limit of open files stays at {:?}: {e}", limit.current);
    }
}
