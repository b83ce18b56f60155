//! Extended attributes: the backing inode's own, none hidden and none refused.

use std::ffi::{CStr, OsStr, OsString};
use std::fs::File;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::Path;

use rustix::fs::{self, XattrFlags};
use rustix::io::Errno;

use super::errno::{FsError, Result};
use super::{Fs, NodeId};

impl Fs {
    /// Value of an extended attribute.
    ///
    /// # Errors
    /// `ENODATA` if there is none; what the backing file system answers.
    pub fn getxattr(&self, node: NodeId, name: &OsStr) -> Result<Vec<u8>> {
        get(&self.node(node)?.backing()?.proc_path(), name)
    }

    /// Names of all extended attributes, each with a zero byte after it.
    ///
    /// # Errors
    /// What the backing file system answers.
    pub fn listxattr(&self, node: NodeId) -> Result<Vec<u8>> {
        list(&self.node(node)?.backing()?.proc_path())
    }

    /// Sets an extended attribute; `flags` are `XATTR_CREATE` and `XATTR_REPLACE`.
    ///
    /// # Errors
    /// What the backing file system answers.
    pub fn setxattr(&self, node: NodeId, name: &OsStr, value: &[u8], flags: i32) -> Result<()> {
        let _names = self.changing()?;
        let flags = u32::try_from(flags)
            .ok()
            .and_then(XattrFlags::from_bits)
            .ok_or(FsError::Invalid)?;
        self.node(node)?
            .change_attributes(|backing| Ok(fs::setxattr(backing.proc_path(), name, value, flags)?))
    }

    /// Removes an extended attribute.
    ///
    /// # Errors
    /// `ENODATA` if there is none; what the backing file system answers.
    pub fn removexattr(&self, node: NodeId, name: &OsStr) -> Result<()> {
        let _names = self.changing()?;
        self.node(node)?
            .change_attributes(|backing| Ok(fs::removexattr(backing.proc_path(), name)?))
    }
}

pub(super) fn get(path: &Path, name: &OsStr) -> Result<Vec<u8>> {
    sized(|buf| fs::getxattr(path, name, buf))
}

fn list(path: &Path) -> Result<Vec<u8>> {
    sized(|buf| fs::listxattr(path, buf))
}

/// Calls `read` with a buffer that is large enough even if the value grows meanwhile.
fn sized(read: impl Fn(&mut [u8]) -> rustix::io::Result<usize>) -> Result<Vec<u8>> {
    let mut buf = vec![0; 256];
    loop {
        match read(&mut buf) {
            Ok(len) => {
                buf.truncate(len);
                return Ok(buf);
            }
            Err(Errno::RANGE) if buf.len() < 1 << 20 => buf.resize(buf.len() * 4, 0),
            Err(e) => return Err(e.into()),
        }
    }
}

/// Copies every extended attribute that this process may read and set.
pub(super) fn copy_all(from: &Path, to: &File) -> Result<()> {
    let names = match list(from) {
        Ok(names) => names,
        Err(FsError::Backing(Errno::OPNOTSUPP)) => return Ok(()),
        Err(e) => return Err(e),
    };
    for name in names.split_inclusive(|&b| b == 0) {
        let Ok(name) = CStr::from_bytes_with_nul(name) else {
            continue;
        };
        let name = OsString::from_vec(name.to_bytes().to_vec());
        let value = match get(from, &name) {
            Ok(value) => value,
            // Not this process's to read, or gone meanwhile.
            Err(FsError::Backing(
                Errno::PERM | Errno::ACCESS | Errno::OPNOTSUPP | Errno::NODATA,
            )) => continue,
            Err(e) => return Err(e),
        };
        match fs::fsetxattr(to, name.as_bytes(), &value, XattrFlags::empty()) {
            Ok(()) | Err(Errno::PERM | Errno::OPNOTSUPP) => {}
            Err(e) => return Err(e.into()),
        }
    }
    Ok(())
}
