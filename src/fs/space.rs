//! Telling a writer of a full disk before its bytes are taken, not when they can not be stored.

use rustix::fs as sys;

use super::Fs;
use super::errno::{FsError, Result};

/// Room for the index and roots of what is stored, beyond the blocks themselves.
const RESERVE: u64 = 128 << 10;

impl Fs {
    /// Makes sure that the backing file system holds what is in memory and `len` bytes more, even uncompressed.
    ///
    /// If it may not, what is in memory is stored and committed first, which compresses it and gives dead space back.
    pub(super) fn make_room(&self, len: u64) -> Result<()> {
        if self.has_room(len)? {
            return Ok(());
        }
        let stored = self.commit_all();
        if self.has_room(len)? {
            return Ok(());
        }
        stored.and(Err(FsError::NoSpace))
    }

    fn has_room(&self, len: u64) -> Result<bool> {
        let stat = sys::fstatvfs(self.archive.root_fd())?;
        // Not `f_bfree`, not even for root: it counts blocks that a file system keeps from everybody (ext4: 2 %).
        let free = stat.f_bavail.saturating_mul(stat.f_frsize);
        Ok(self
            .dirty_bytes()
            .saturating_add(len)
            .saturating_add(RESERVE)
            <= free)
    }
}
