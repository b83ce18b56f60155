//! File handles of inodes (`name_to_handle_at(2)`): what an inode can be opened by again without a name and without having been
//! kept open.
//!
//! A handle outlives its inode: then opening it fails with `ESTALE`, also when another file has the same number by now. That
//! holds for file systems that put an inode's generation into its handle, and find every inode that lives by it; only those are used.
//!
//! A handle is a way past directories and their modes, so none ever comes from outside: it is asked for of a descriptor that was
//! opened by a name below the root, is kept in memory, is only opened on the mount that it came from, and opens that very inode. It
//! thus reaches nothing that keeping the descriptor open would not have reached.

use std::ffi::{c_int, c_uint};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use rustix::fs::{self, Mode, OFlags};
use rustix::io::Errno;

use super::errno::{FsError, Result};

/// File systems whose handles can be relied on: ext2 to ext4, XFS, Btrfs, F2FS, tmpfs.
const SOUND: [u64; 5] = [
    0x0000_ef53,
    0x5846_5342,
    0x9123_683e,
    0xf2f5_2010,
    0x0102_1994,
];

/// The longest handle (`MAX_HANDLE_SZ`), in bytes.
const MOST: usize = 128;

/// `struct file_handle` with room for the longest.
#[repr(C)]
struct Raw {
    bytes: c_uint,
    kind: c_int,
    handle: [u8; MOST],
}

/// Names an inode of one file system for as long as it lives.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct InodeHandle {
    kind: c_int,
    bytes: Box<[u8]>,
}

/// A mounted file system whose inodes this process may open by their handles.
#[derive(Debug)]
pub(super) struct HandleMount {
    root: OwnedFd,
    id: c_int,
}

impl HandleMount {
    /// That of a directory; `None` where the file system has no handles to rely on, or this process not the right to open them.
    pub(super) fn of(dir: BorrowedFd<'_>) -> Option<HandleMount> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let root = fs::openat(dir, ".", flags, Mode::empty()).ok()?;
        // It has 32 bits, but may be told as a negative number.
        let kind = fs::fstatfs(&root).ok()?.f_type.cast_unsigned() & 0xffff_ffff;
        let (handle, id) = handle_of(dir).ok()?;
        let mount = HandleMount { root, id };
        (SOUND.contains(&kind) && mount.open(&handle).is_ok()).then_some(mount)
    }

    /// The handle of an open inode, and whether it was opened on this mount.
    ///
    /// # Errors
    /// It has none; the system is short of something.
    pub(super) fn handle_of(&self, fd: BorrowedFd<'_>) -> Result<(InodeHandle, bool)> {
        let (handle, id) = handle_of(fd)?;
        Ok((handle, id == self.id))
    }

    /// Opens an inode so that it can be neither read nor written.
    ///
    /// # Errors
    /// `ESTALE` if it is gone; the system is short of something.
    pub(super) fn open(&self, handle: &InodeHandle) -> Result<OwnedFd> {
        let mut raw = Raw {
            bytes: handle.bytes.len() as c_uint,
            kind: handle.kind,
            handle: [0; MOST],
        };
        let room = raw.handle.get_mut(..handle.bytes.len());
        room.ok_or(FsError::Internal)?
            .copy_from_slice(&handle.bytes);
        let flags = libc::O_PATH | libc::O_NOFOLLOW | libc::O_CLOEXEC;
        // SAFETY: `raw` is a `struct file_handle` with room for as many bytes as it says, which was checked above, and lives until the
        // call, which only reads it, is over. No library wraps it.
        let fd = unsafe {
            libc::syscall(
                libc::SYS_open_by_handle_at,
                self.root.as_raw_fd(),
                &raw const raw,
                flags,
            )
        };
        let fd = match c_int::try_from(fd) {
            // SAFETY: the call has just made this descriptor, which nobody else knows.
            Ok(fd) if fd >= 0 => unsafe { OwnedFd::from_raw_fd(fd) },
            _ => {
                return Err(match last_error() {
                    Errno::STALE => FsError::Stale,
                    other => other.into(),
                });
            }
        };
        // A generation of zero matches every other.
        match handle_of(fd.as_fd())? {
            (opened, _) if opened == *handle => Ok(fd),
            _ => Err(FsError::Stale),
        }
    }
}

/// The handle of an open inode, and the number of the mount it was opened on.
fn handle_of(fd: BorrowedFd<'_>) -> Result<(InodeHandle, c_int)> {
    let mut raw = Raw {
        bytes: MOST as c_uint,
        kind: 0,
        handle: [0; MOST],
    };
    let mut mount: c_int = 0;
    // SAFETY: `raw` is a `struct file_handle` with room for as many bytes as it says, `mount` an `int`, and the name ends with a zero;
    // all of them live until the call is over. No library wraps it.
    let done = unsafe {
        libc::syscall(
            libc::SYS_name_to_handle_at,
            fd.as_raw_fd(),
            c"".as_ptr(),
            &raw mut raw,
            &raw mut mount,
            libc::AT_EMPTY_PATH,
        )
    };
    if done != 0 {
        return Err(last_error().into());
    }
    let bytes = raw.handle.get(..raw.bytes as usize);
    let bytes = bytes.ok_or(FsError::Internal)?.into();
    let kind = raw.kind;
    Ok((InodeHandle { kind, bytes }, mount))
}

fn last_error() -> Errno {
    Errno::from_io_error(&std::io::Error::last_os_error()).unwrap_or(Errno::IO)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::File;

    #[test]
    fn a_handle_opens_its_inode_under_any_name_and_no_other() {
        let temp = tempfile::tempdir().unwrap();
        let path = |name: &str| temp.path().join(name);
        std::fs::write(path("a"), "").unwrap();
        let dir = File::open(temp.path()).unwrap();
        let Some(mount) = HandleMount::of(dir.as_fd()) else {
            println!("skipped: no right to open files by their handles, or none here");
            return;
        };
        let inode = |fd: BorrowedFd<'_>| fs::fstat(fd).unwrap().st_ino;
        let file = File::open(path("a")).unwrap();
        let ((handle, here), ino) = (mount.handle_of(file.as_fd()).unwrap(), inode(file.as_fd()));
        assert!(here);
        drop(file);
        std::fs::rename(path("a"), path("b")).unwrap();
        assert_eq!(inode(mount.open(&handle).unwrap().as_fd()), ino);
        std::fs::remove_file(path("b")).unwrap();
        assert!(matches!(mount.open(&handle), Err(FsError::Stale)));
        // Others may have its number now.
        for name in 0..100 {
            std::fs::write(path(&name.to_string()), "").unwrap();
        }
        assert!(matches!(mount.open(&handle), Err(FsError::Stale)));
        let other = File::open("/proc/self/status").unwrap();
        assert!(!mount.handle_of(other.as_fd()).is_ok_and(|(_, here)| here));
    }

    #[test]
    fn file_systems_without_handles_to_rely_on_are_not_used() {
        let proc = File::open("/proc/self").unwrap();
        assert!(HandleMount::of(proc.as_fd()).is_none());
    }
}
