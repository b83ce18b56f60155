//! Directories that were made in a directory and given their owner and mode afterwards.
//!
//! The daemon makes every entry for itself alone first. A sync of the directory above makes its name durable, and without owner and
//! mode there could be a directory after a power loss that nobody may use for whom it was made. So these are synced with it.

use std::sync::{Arc, Weak};

use super::Fs;
use super::errno::Result;
use super::node::Node;
use super::sync::lock;
use super::writeback::SYNC_ALL_ABOVE;

/// What was made in one directory and is to be synced with it.
#[derive(Default, Clone)]
pub(super) struct Made {
    few: Vec<Weak<Node>>,
    /// How many there are besides.
    others: usize,
}

impl Made {
    /// A directory was made, or moved here soon after that.
    pub(super) fn add(&mut self, node: &Arc<Node>) {
        if self.few.len() < SYNC_ALL_ABOVE {
            self.few.push(Arc::downgrade(node));
        } else {
            self.others += 1;
        }
    }

    /// It is there no more; whether it was among the few.
    pub(super) fn remove(&mut self, node: &Arc<Node>) -> bool {
        let before = self.few.len();
        self.few.retain(|made| made.as_ptr() != Arc::as_ptr(node));
        self.few.len() < before
    }

    /// These are synced; what was made since is not.
    fn synced(&mut self, earlier: &Made) {
        (self.few).retain(|made| !earlier.few.iter().any(|done| done.ptr_eq(made)));
        self.others -= earlier.others.min(self.others);
    }
}

impl Fs {
    /// Makes owner and mode of the directories that were made in one durable; with all of its file system, where that can be done, if
    /// they are many or somebody has forgotten one.
    pub(super) fn sync_made(&self, dir: &Node) -> Result<()> {
        let made = lock(&dir.made).clone();
        let known: Vec<Arc<Node>> = made.few.iter().filter_map(Weak::upgrade).collect();
        let all_known = made.others == 0 && known.len() == made.few.len();
        if all_known || !self.sync_whole(&*dir.backing()?)? {
            known
                .iter()
                .try_for_each(|node| node.backing()?.sync_dir())?;
        }
        lock(&dir.made).synced(&made);
        Ok(())
    }
}
