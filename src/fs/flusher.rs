//! The background: commits what is due, stores what is too much, and ends in order or at once.

use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use super::Fs;
use super::content::Content;
use super::errno::Result;
use super::sync::{lock, read};
use super::writeback::{Asked, Signal};
use crate::store::Access;
use crate::sync::{PoisonError, thread};

/// How often the flusher looks for what is due.
const TICK: Duration = Duration::from_millis(250);

/// Starts the flusher. It ends with the file system.
pub(super) fn start(fs: &Arc<Fs>) -> Result<()> {
    let (weak, signal) = (Arc::downgrade(fs), Arc::clone(&fs.writeback.signal));
    let thread = thread::Builder::new()
        .name("flusher".into())
        .spawn(move || run(&weak, &signal))?;
    *lock(&fs.flusher) = Some(thread);
    Ok(())
}

/// Holds no reference to the file system while it waits, so that it can go away.
fn run(fs: &Weak<Fs>, signal: &Signal) {
    loop {
        let asked = signal.wait();
        if asked.stop {
            return;
        }
        let Some(fs) = fs.upgrade() else { return };
        fs.flush_due(asked.store);
        fs.relieve_unsynced();
    }
}

impl Signal {
    /// Waits for a tick, or until something is asked.
    fn wait(&self) -> Asked {
        let mut asked = lock(&self.asked);
        if !asked.store && !asked.stop {
            asked = self
                .wake
                .wait_timeout(asked, TICK)
                .unwrap_or_else(PoisonError::into_inner)
                .0;
        }
        let now = *asked;
        asked.store = false;
        now
    }

    fn stop(&self) {
        lock(&self.asked).stop = true;
        self.wake.notify_all();
    }

    fn stopping(&self) -> bool {
        lock(&self.asked).stop
    }
}

impl Fs {
    /// Commits files that are due; if asked, stores full blocks of files that hold many.
    fn flush_due(&self, store: bool) {
        let now = Instant::now();
        let mut due = Vec::new();
        for node in self.dirty_nodes() {
            if self.writeback.signal.stopping() {
                return;
            }
            let (is_due, is_large) = match &*read(&node.content) {
                Content::Segment(open) => (
                    open.due.is_none_or(|due| due <= now),
                    open.dirty_bytes() > self.options.file_dirty_bytes,
                ),
                _ => (true, false),
            };
            if store && is_large {
                self.store_or_note(&node, true);
            }
            if is_due && !self.discard_if_gone(&node) {
                due.push(node);
            }
        }
        if !due.is_empty()
            && let Err(error) = self.commit_batch(due)
        {
            log::error!(
                "committing in the background: {error}; what was written stays in memory and is tried again"
            );
        }
    }

    /// Commits everything and stops the background. Further changes are committed by `fsync` only.
    ///
    /// # Errors
    /// What could not be committed; it is lost if the process ends.
    pub fn shutdown(&self) -> Result<()> {
        self.readahead.stop();
        self.stop_flusher();
        let outcome = match self.archive.access() {
            Access::Read => Ok(()),
            Access::Write => {
                let committed = self.commit_all();
                self.sync_all_names().and(committed)
            }
        };
        // Last: what is read ahead may wait for the disk, and what was written is not to wait for that.
        self.readahead.wait();
        outcome
    }

    /// Stops without committing, as `kill -9` would: what was not committed is lost.
    pub fn abandon(&self) {
        self.readahead.stop();
        self.stop_flusher();
        self.readahead.wait();
    }

    fn stop_flusher(&self) {
        self.writeback.signal.stop();
        let flusher = lock(&self.flusher).take();
        if let Some(flusher) = flusher
            && flusher.thread().id() != thread::current().id()
            && flusher.join().is_err()
        {
            log::error!("the flusher ended by a panic");
        }
    }
}

impl Drop for Fs {
    fn drop(&mut self) {
        self.readahead.stop();
        self.writeback.signal.stop();
    }
}
