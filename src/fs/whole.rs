//! Syncing a whole file system at once, where that makes everything on it durable.

use rustix::fs as sys;

use super::Fs;
use super::backing::Backing;
use super::errno::Result;
use super::node::NodeId;

/// The kinds of file systems, as `statfs` tells them, of which `syncfs` is known to write everything to the disk: ext4 and its
/// elders, XFS, Btrfs, F2FS, bcachefs, ZFS, overlays and tmpfs. That of FUSE, for one, does not reach the disk.
const WHOLE: [u64; 8] = [
    0xef53,
    0x5846_5342,
    0x9123_683e,
    0xf2f5_2010,
    0xca45_1a4e,
    0x2fc1_2fc1,
    0x794c_7630,
    0x0102_1994,
];

impl Fs {
    /// Makes all durable that is on the file system of a directory, if that can be done at once; whether it was.
    pub(super) fn sync_whole(&self, dir: &Backing) -> Result<bool> {
        // Of others the magic number has 32 bits as well, but may be told as a negative one.
        let kind = sys::fstatfs(dir)?.f_type.cast_unsigned() & 0xffff_ffff;
        if !WHOLE.contains(&kind) {
            return Ok(false);
        }
        let root = self.nodes.get(NodeId::ROOT)?.backing()?;
        if dir.key.dev == root.key.dev {
            sys::syncfs(self.archive.root_fd())?;
        } else {
            sys::syncfs(dir.reopen_dir()?)?;
        }
        Ok(true)
    }
}
