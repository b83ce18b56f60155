//! Directories that were made in a directory and given their owner and mode afterwards.
//!
//! The daemon makes every entry for itself alone first. A sync of the directory above makes its name durable, and without owner and
//! mode there could be a directory after a power loss that nobody may use for whom it was made. So these are synced with it.

use std::sync::{Arc, Weak};

use rustix::io::Errno;

use super::Fs;
use super::errno::{FsError, Result};
use super::node::Node;
use super::sync::lock;
use super::writeback::SYNC_ALL_ABOVE;

/// What was made in one directory and is to be synced with it.
#[derive(Default, Clone)]
pub(super) struct Made {
    few: Vec<Weak<Node>>,
    /// How many there were besides, ever, and how many of those are synced.
    others: u64,
    others_synced: u64,
}

impl Made {
    /// A directory was made, or moved here soon after that.
    pub(super) fn add(&mut self, node: &Arc<Node>) {
        if self.few.len() < SYNC_ALL_ABOVE {
            self.few.push(Arc::downgrade(node));
        } else {
            self.add_unknown();
        }
    }

    /// A directory was moved here that may have been made just before.
    pub(super) fn add_unknown(&mut self) {
        self.others += 1;
    }

    /// It is there no more; whether it was among the few.
    pub(super) fn remove(&mut self, node: &Arc<Node>) -> bool {
        let before = self.few.len();
        self.few.retain(|made| made.as_ptr() != Arc::as_ptr(node));
        self.few.len() < before
    }

    /// Whether there are directories to sync of which it is not known which they are.
    pub(super) fn has_unknown(&self) -> bool {
        self.others > self.others_synced || self.few.iter().any(|made| made.strong_count() == 0)
    }

    /// These are synced; what was made since is not.
    fn synced(&mut self, earlier: &Made) {
        (self.few).retain(|made| !earlier.few.iter().any(|done| done.ptr_eq(made)));
        self.others_synced = self.others_synced.max(earlier.others);
    }
}

impl Fs {
    /// Makes owner and mode of the directories that were made in one durable; with all of its file system, where that can be done, if
    /// they are many, or somebody has forgotten one or the directory itself since.
    pub(super) fn sync_made(&self, dir: &Node) -> Result<()> {
        let made = lock(&dir.made).clone();
        let backing = dir.backing()?;
        let unknown = made.has_unknown() || self.nodes.noted(backing.key).is_some();
        if !unknown || !self.sync_whole(&backing)? {
            for node in made.few.iter().filter_map(Weak::upgrade) {
                match node.backing()?.sync_dir() {
                    // Its mode may keep even the owner out.
                    Err(FsError::Backing(Errno::ACCESS)) => {
                        if !self.sync_whole(&backing)? {
                            log::warn!("{}: not synced", lock(&node.name).display());
                        }
                    }
                    synced => synced?,
                }
            }
        }
        lock(&dir.made).synced(&made);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_made_between_two_syncs_of_the_same_is_not_taken_for_synced() {
        let mut made = Made::default();
        (0..5).for_each(|_| made.add_unknown());
        let (first, second) = (made.clone(), made.clone());
        made.synced(&first);
        assert!(!made.has_unknown());
        (0..3).for_each(|_| made.add_unknown());
        made.synced(&second);
        assert!(made.has_unknown());
        made.synced(&made.clone());
        assert!(!made.has_unknown());
    }
}
