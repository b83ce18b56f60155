//! Asking the daemon that serves a mount for its figures.

use std::path::Path;

use rustix::io::Errno;

use super::adapter::STATUS_XATTR;
use super::{MountError, table, umount};
use crate::pack::client;
use crate::pack::status::Status;

/// Figures of the daemon that serves the mount at or above `path`.
///
/// # Errors
/// It lies in no mount of ours, the daemon is dead, or the caller may not ask it.
pub fn status(path: &Path) -> Result<Status, MountError> {
    let shown = path.display();
    let refuse = |why: String| MountError::Refused(format!("{shown}: {why}"));
    let errno = |e: Errno| match e {
        Errno::NOTCONN | Errno::CONNABORTED => refuse(format!(
            "its daemon has died; take the mount away with vortex-fs umount {shown}"
        )),
        Errno::ACCESS | Errno::PERM => {
            refuse("mounted by another user; ask as that user or as root".to_string())
        }
        e => refuse(e.to_string()),
    };
    let io = |e: std::io::Error| match Errno::from_io_error(&e) {
        Some(e) => errno(e),
        None => refuse(e.to_string()),
    };
    let path = std::fs::canonicalize(path).map_err(io)?;
    let mounts = table::vortex_mounts().map_err(io)?;
    let mut mounts = mounts.iter().rev();
    let Some(mount) = mounts.find(|m| path.starts_with(&m.mountpoint)) else {
        return Err(refuse(
            "lies in no vortex-fs mount; name where an archive is mounted (see findmnt -t fuse.vortex)"
                .to_string(),
        ));
    };
    match umount::identity(&mount.mountpoint)
        .map_err(errno)?
        .archive()
    {
        // It answers there even if every thread that serves the mount is busy.
        Some(archive) => client::status(&archive).map_err(io),
        None => from_mount(&mount.mountpoint).map_err(errno),
    }
}

/// Of a read-only mount, which has no socket.
fn from_mount(mountpoint: &Path) -> Result<Status, Errno> {
    let mut value = vec![0; 64 << 10];
    let len = rustix::fs::getxattr(mountpoint, STATUS_XATTR, &mut value)?;
    let value = value.get(..len).ok_or(Errno::PROTO)?;
    serde_json::from_slice(value).map_err(|_| Errno::PROTO)
}
