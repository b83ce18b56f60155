//! More files than there may be descriptors. Every node has one, and one more while it is open or has something to store.
//!
//! When there are many, whoever serves the kernel has it forget some ([`Fs::dispensable`]), files that were closed are committed
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
        let most_closed = self.nodes.most / 4;
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

    /// Slows down who looks up faster than others are forgotten. The kernel keeps others out of the directory meanwhile, also
    /// those that forget, so it is for a moment only.
    pub(super) fn throttle(&self) {
        for waited in 0..50 {
            let descriptors = self.nodes.most.saturating_mul(2);
            let open = self.handles.len();
            let used = self.nodes.len() + open + self.dirty_files();
            let forgettable = self.nodes.files().saturating_sub(open);
            let short = used > descriptors / 20 * 19;
            if used <= descriptors / 4 * 3
                || forgettable <= descriptors / 16
                || waited >= 5 && !short
            {
                return;
            }
            thread::sleep(Duration::from_millis(1));
        }
    }
}
