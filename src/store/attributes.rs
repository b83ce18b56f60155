//! Carries a file's attributes over to the file that replaces it.
//!
//! Mode and times always; owner, group and extended attributes (ACLs among them) as far as the user may.

use std::fs::File;
use std::io;
use std::os::unix::fs::MetadataExt;

use rustix::fs::{
    Gid, Mode, Timespec, Timestamps, Uid, XattrFlags, fchmod, fchown, fgetxattr, flistxattr,
    fsetxattr, futimens,
};

/// Largest list of names and largest value of extended attributes that Linux knows.
const MAX_XATTR: usize = 1 << 16;
const SET_ID_BITS: u32 = 0o6000;

/// Gives `to` the attributes of `from`; answers whether it now has all of them.
///
/// # Errors
/// Mode or times can not be set.
pub fn copy_attributes(from: &File, to: &File) -> io::Result<bool> {
    let meta = from.metadata()?;
    let mut mode = meta.mode() & 0o7777;
    let owner = copy_owner(&meta, to);
    if !owner {
        // Another owner must not gain what the bits would give.
        mode &= !SET_ID_BITS;
    }
    fchmod(to, Mode::from_raw_mode(mode))?;
    let xattrs = copy_xattrs(from, to);
    let time = |sec, nsec| Timespec {
        tv_sec: sec,
        tv_nsec: nsec,
    };
    let times = Timestamps {
        last_access: time(meta.atime(), meta.atime_nsec()),
        last_modification: time(meta.mtime(), meta.mtime_nsec()),
    };
    futimens(to, &times)?;
    Ok(owner && xattrs)
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

/// Whether all extended attributes were copied.
fn copy_xattrs(from: &File, to: &File) -> bool {
    let mut names = vec![0; MAX_XATTR];
    let len = match flistxattr(from, &mut names) {
        Ok(len) => len,
        Err(e) => return e == rustix::io::Errno::NOTSUP,
    };
    let mut all = true;
    let mut value = vec![0; MAX_XATTR];
    for name in names
        .get(..len)
        .unwrap_or_default()
        .split(|&b| b == 0)
        .filter(|n| !n.is_empty())
    {
        let copied = fgetxattr(from, name, &mut value).and_then(|len| {
            fsetxattr(
                to,
                name,
                value.get(..len).unwrap_or_default(),
                XattrFlags::empty(),
            )
        });
        if let Err(error) = copied {
            log::debug!(
                "extended attribute {}: {error}",
                String::from_utf8_lossy(name)
            );
            all = false;
        }
    }
    all
}
