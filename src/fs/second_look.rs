//! Reading beside another process that writes.
//!
//! What a commit replaces is given back to the file system, so a commit between two reads looks like damage. It is damage only if it
//! is found again while the file stays the same.

use std::time::Duration;

use super::Fs;
use super::errno::{FsError, Result};
use super::node::{Node, Stamp};
use super::stat::stamp;
use crate::store::Access;
use crate::sync::thread;

/// The clock that stamps files goes on within this time.
const TICK: Duration = Duration::from_millis(10);

/// Looks at a file that never stays the same, before what is found counts all the same.
const MOST: u32 = 100;

/// Looks that found damage so far.
#[derive(Default)]
pub(super) struct Looks {
    last: Option<Stamp>,
    looks: u32,
}

impl Fs {
    /// Whether to look again, because what looks like damage may be another process's commit.
    pub(super) fn look_again(
        &self,
        node: &Node,
        error: &FsError,
        looks: &mut Looks,
    ) -> Result<bool> {
        if self.archive.access() == Access::Write || !error.is_damage() || looks.looks == MOST {
            return Ok(false);
        }
        looks.looks += 1;
        let now = stamp(&node.backing()?.stat()?);
        if looks.last.replace(now) == Some(now) {
            return Ok(false);
        }
        // What is changed from here on gets another stamp.
        thread::sleep(TICK);
        Ok(true)
    }
}
