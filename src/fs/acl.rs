//! Default access control lists: what a directory hands down to what is made in it.

use std::ffi::OsStr;

use rustix::io::Errno;

use super::backing::Backing;
use super::errno::{FsError, Result};
use super::xattr;

/// Permissions of the owner, of the group or all that a list names, and of others, in a list's entries.
const USER_OBJ: u16 = 0x01;
const GROUP_OBJ: u16 = 0x04;
const MASK: u16 = 0x10;
const OTHER: u16 = 0x20;
const HEADER: usize = 4;
const ENTRY: usize = 8;

/// The mode of a new entry in `parent` for which `mode` is asked: a default list takes the place of the caller's umask.
pub(super) fn mode_below(parent: &Backing, mode: u32, umask: u32) -> Result<u32> {
    let name = OsStr::new("system.posix_acl_default");
    match xattr::get(&parent.proc_path(), name) {
        Ok(list) => Ok(mode & (0o7000 | permissions(&list))),
        Err(FsError::Backing(Errno::NODATA | Errno::OPNOTSUPP)) => Ok(mode & !umask),
        Err(e) => Err(e),
    }
}

/// The permissions that a list grants, as a mode shows them.
fn permissions(list: &[u8]) -> u32 {
    let entries = list.get(HEADER..).unwrap_or_default().chunks_exact(ENTRY);
    let of = |wanted: u16| {
        entries.clone().find_map(|entry| match entry {
            [a, b, c, d, ..] if u16::from_le_bytes([*a, *b]) == wanted => {
                Some(u32::from(u16::from_le_bytes([*c, *d])) & 7)
            }
            _ => None,
        })
    };
    let group = of(MASK).or_else(|| of(GROUP_OBJ));
    of(USER_OBJ).unwrap_or(0) << 6 | group.unwrap_or(0) << 3 | of(OTHER).unwrap_or(0)
}
