//! Carries a file's attributes over to the file that replaces it.
//!
//! Mode and times always; owner, group and extended attributes (ACLs among them) as far as the user may.

use std::fs::File;
use std::io;
use std::os::unix::fs::MetadataExt;

use rustix::fs::{
    Gid, Mode, Timespec, Timestamps, Uid, XattrFlags, fchmod, fchown, fgetxattr, flistxattr,
    fremovexattr, fsetxattr, futimens,
};
use rustix::io::Errno;

/// Largest list of names and largest value of extended attributes that Linux knows.
const MAX_XATTR: usize = 1 << 16;
const SET_ID_BITS: u32 = 0o6000;
const ACL: &str = "system.posix_acl_access";

/// Attributes of a file that another could not be given.
#[derive(Debug, Default)]
pub struct Lost {
    /// Its owner or group, and with them the bits that lend their rights to whoever runs it.
    pub owner: bool,
    /// Why extended attributes are missing, and the name of the first.
    pub xattr: Option<(String, io::Error)>,
}

impl Lost {
    /// Whether it has all of them.
    #[must_use]
    pub fn nothing(&self) -> bool {
        !self.owner && self.xattr.is_none()
    }
}

/// Gives `to` the attributes of `from`; answers which it could not be given.
///
/// # Errors
/// Mode or times can not be set, or `to` keeps an ACL that `from` may not have.
pub fn copy_attributes(from: &File, to: &File) -> io::Result<Lost> {
    let meta = from.metadata()?;
    drop_inherited_acl(to)?;
    let mut mode = meta.mode() & 0o7777;
    let owner = copy_owner(&meta, to);
    if !owner {
        // Another owner must not gain what the bits would give.
        mode &= !SET_ID_BITS;
    }
    fchmod(to, Mode::from_raw_mode(mode))?;
    let xattr = copy_xattrs(from, to).err();
    let time = |sec, nsec| Timespec {
        tv_sec: sec,
        tv_nsec: nsec,
    };
    let times = Timestamps {
        last_access: time(meta.atime(), meta.atime_nsec()),
        last_modification: time(meta.mtime(), meta.mtime_nsec()),
    };
    futimens(to, &times)?;
    Ok(Lost {
        owner: !owner,
        xattr,
    })
}

/// Takes away the ACL that a new file was given by its directory: the wider mode of the file that it replaces would let in all whom
/// the directory's ACL names.
///
/// # Errors
/// It can not be taken away.
pub fn drop_inherited_acl(to: &File) -> io::Result<()> {
    match fremovexattr(to, ACL) {
        Ok(()) | Err(Errno::NODATA | Errno::NOTSUP) => Ok(()),
        Err(e) => Err(e.into()),
    }
}

/// Gives `to` the mode of a file that the user creates by ordinary means.
///
/// # Errors
/// The mode can not be set.
pub fn set_default_mode(to: &File) -> io::Result<()> {
    let mask = rustix::process::umask(Mode::from_raw_mode(0o077));
    rustix::process::umask(mask);
    Ok(fchmod(to, Mode::from_raw_mode(0o666).difference(mask))?)
}

/// Whether both owner and group are now the same.
fn copy_owner(meta: &std::fs::Metadata, to: &File) -> bool {
    let (uid, gid) = (Uid::from_raw(meta.uid()), Gid::from_raw(meta.gid()));
    if fchown(to, Some(uid), Some(gid)).is_ok() {
        return true;
    }
    let _ = fchown(to, None, Some(gid));
    to.metadata()
        .is_ok_and(|now| now.uid() == meta.uid() && now.gid() == meta.gid())
}

/// Copies all extended attributes that it can.
///
/// # Errors
/// Why one could not be copied, and its name; empty if not even the names can be read.
fn copy_xattrs(from: &File, to: &File) -> Result<(), (String, io::Error)> {
    let mut names = vec![0; MAX_XATTR];
    let len = match flistxattr(from, &mut names) {
        Ok(len) => len,
        Err(Errno::NOTSUP) => return Ok(()),
        Err(e) => return Err((String::new(), e.into())),
    };
    let names = names.get(..len).unwrap_or_default().split(|&b| b == 0);
    let mut result = Ok(());
    for name in names.filter(|name| !name.is_empty()) {
        if let Err(e) = copy_xattr(from, to, name)
            && result.is_ok()
        {
            result = Err((String::from_utf8_lossy(name).into_owned(), e.into()));
        }
    }
    result
}

fn copy_xattr(from: &File, to: &File, name: &[u8]) -> Result<(), Errno> {
    let mut value = vec![0; MAX_XATTR];
    let len = fgetxattr(from, name, &mut value)?;
    value.truncate(len);
    fsetxattr(to, name, &value, XattrFlags::empty()).or_else(|e| {
        // What the system gives every file here, such as a security label, need not be set.
        let mut there = vec![0; MAX_XATTR];
        match fgetxattr(to, name, &mut there) {
            Ok(len) if there.get(..len) == Some(&value) => Ok(()),
            _ => Err(e),
        }
    })
}
