//! More files than there may be descriptors. Every node has one unless it is parked, and one more while it is open or has something
//! to store.
//!
//! When there are many, some are parked, or the kernel is asked to forget them (`super::parking`), files that were closed are committed
//! before they are due, and who makes or looks up more waits for a moment.

use std::time::Duration;

use super::Fs;
use super::sync::lock;
use crate::sync::{Condvar, Mutex, PoisonError, thread};

/// Tells that there are more nodes than descriptors will do for.
#[derive(Default)]
pub struct Crowd {
    crowded: Mutex<bool>,
    wake: Condvar,
}

impl Crowd {
    /// Waits until there are too many nodes, or for so long.
    pub fn wait(&self, timeout: Duration) {
        let mut crowded = lock(&self.crowded);
        if !*crowded {
            crowded = (self.wake.wait_timeout(crowded, timeout))
                .unwrap_or_else(PoisonError::into_inner)
                .0;
        }
        *crowded = false;
    }

    pub(super) fn tell(&self) {
        *lock(&self.crowded) = true;
        self.wake.notify_all();
    }
}

impl Fs {
    /// Called, with no lock held, before a file is made or opened to be written.
    pub(super) fn thin_out(&self) {
        let most_closed = self.nodes.limits.open / 4;
        let many = || self.dirty_files() > most_closed.saturating_add(self.handles.len());
        if many() {
            // Others wait for the one who does it.
            let _one = lock(&self.writeback.relieving);
            if many() {
                let mut closed = self.dirty_nodes();
                closed.retain(|node| !node.is_held());
                if let Err(error) = self.commit_batch(closed) {
                    log::debug!("committing files that were closed: {error}");
                }
            }
        }
        self.throttle();
    }

    /// Slows down who looks up, or opens, faster than others are parked or forgotten. The kernel keeps others out of the directory meanwhile, also
    /// those that forget, so it is for a moment only.
    pub(super) fn throttle(&self) {
        for waited in 0..50 {
            let descriptors = self.nodes.limits.open.saturating_mul(2);
            let (held, open) = (self.nodes.descriptors(), self.handles.len());
            let used = held + open + self.dirty_files();
            let forgettable = held.saturating_sub(self.nodes.dirs() + open);
            let short = used > descriptors / 20 * 19;
            let few = used <= descriptors / 4 * 3 || forgettable <= descriptors / 16;
            let most = self.nodes.most();
            let many = self.nodes.len() > most.saturating_add(most / 2);
            if (few && !many) || (waited >= 5 && !short) {
                return;
            }
            self.nodes.crowd.tell();
            thread::sleep(Duration::from_millis(1));
        }
    }
}
