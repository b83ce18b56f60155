//! `--memory-limit`: how the daemon's memory is shared out, and the thread that sees to it that the whole stays within the limit.
//!
//! Caches and unstored bytes get shares of what is left after the daemon's own needs. What an allocator keeps, or a burst of requests
//! takes, is seen in the resident size: before that reaches the limit, the cache of decoded blocks gives way, and what is free goes
//! back to the system.

use std::io;
use std::sync::Arc;
use std::sync::mpsc::{self, RecvTimeoutError, Sender};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use super::figures::resident;
use crate::fs::{Fs, FsOptions};
use crate::store::DEFAULT_START_BYTES;

/// The least that a daemon can do with: `--memory-limit` must not be lower.
pub const LEAST_MEMORY: u64 = 320 << 20;
/// What threads, models and requests under way need.
const OWN: u64 = 64 << 20;
/// What one who encodes or decodes neural blocks needs: the state of the codec, and one that a block starts from, wide ones.
const CODEC: u64 = 68 << 20;
/// What a node takes at most, with its name.
const NODE: u64 = 1 << 10;
/// The cache is never made smaller than this.
const LEAST_CACHE: u64 = 2 << 20;
/// How often it looks at the resident size.
const TICK: Duration = Duration::from_millis(100);

/// Shares of the memory, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Budget {
    /// Decoded blocks.
    pub(super) cache: u64,
    /// Start states.
    pub(super) starts: usize,
    /// Written bytes that are not stored.
    pub(super) dirty: u64,
    /// Threads that decode neural blocks at a time, if they have to be few.
    pub(super) decoders: Option<usize>,
    /// Nodes to keep.
    pub(super) nodes: usize,
}

impl Budget {
    /// The shares of `limit`, with a cache of at most `cache` bytes.
    pub(super) fn new(limit: Option<u64>, cache: u64) -> Budget {
        let usual = FsOptions::default().total_dirty_bytes;
        let nodes = FsOptions::default().nodes;
        let Some(limit) = limit else {
            return Budget {
                cache,
                starts: DEFAULT_START_BYTES,
                dirty: usual,
                decoders: None,
                nodes,
            };
        };
        // Of what the daemon itself needs.
        let nodes = usize::try_from(limit / 16 / NODE).map_or(nodes, |few| nodes.min(few));
        let more = limit.saturating_sub(LEAST_MEMORY) / (128 << 20);
        let decoders = 1 + more.min(7);
        // One more is the packer.
        let rest = limit.saturating_sub(OWN + (decoders + 1) * CODEC);
        // Encoding takes a block once more.
        let dirty = (rest / 8).min(usual);
        let starts = (rest / 2).min(DEFAULT_START_BYTES as u64);
        Budget {
            cache: cache.min(rest - starts - 2 * dirty),
            starts: usize::try_from(starts).unwrap_or(DEFAULT_START_BYTES),
            dirty,
            decoders: usize::try_from(decoders).ok(),
            nodes,
        }
    }
}

/// Makes the allocator give back what is freed. To be called before there are other threads.
pub(super) fn allocate_thriftily() {
    #[cfg(target_env = "gnu")]
    // SAFETY: these calls set numbers of the allocator's own, and there is one thread.
    unsafe {
        libc::mallopt(libc::M_ARENA_MAX, 4);
        libc::mallopt(libc::M_MMAP_THRESHOLD, 64 << 10);
        libc::mallopt(libc::M_TRIM_THRESHOLD, 1 << 20);
    }
}

fn give_back_what_is_free() {
    #[cfg(target_env = "gnu")]
    // SAFETY: it looks at free memory only, under the allocator's own locks.
    unsafe {
        libc::malloc_trim(0);
    }
}

/// Watches the resident size; it ends when it is dropped.
pub(super) struct Governor {
    stop: Option<Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Governor {
    pub(super) fn start(fs: &Arc<Fs>, limit: u64) -> io::Result<Governor> {
        let (stop, stopped) = mpsc::channel();
        let fs = Arc::clone(fs);
        let thread = thread::Builder::new()
            .name("memory".into())
            .spawn(move || {
                while stopped.recv_timeout(TICK) == Err(RecvTimeoutError::Timeout) {
                    govern(&fs, limit);
                }
            })?;
        Ok(Governor {
            stop: Some(stop),
            thread: Some(thread),
        })
    }
}

impl Drop for Governor {
    fn drop(&mut self) {
        self.stop = None;
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// One look: above fifteen sixteenths of the limit memory is given back, down to seven eighths of it.
fn govern(fs: &Fs, limit: u64) {
    let (high, aim) = (limit / 16 * 15, limit / 8 * 7);
    let now = resident();
    let most = fs.options().cache_bytes;
    let cache = fs.cache_limit();
    if now <= high {
        if now < aim / 8 * 7 && cache < most {
            fs.limit_cache((cache + most / 16).min(most));
        }
        return;
    }
    give_back_what_is_free();
    let now = resident();
    if now <= high {
        return;
    }
    let least = LEAST_CACHE.min(most);
    let held = fs.stats().cache_bytes;
    fs.limit_cache(held.saturating_sub(now - aim).clamp(least, most));
    if held <= least {
        fs.archive().library().starts().clear();
    }
    give_back_what_is_free();
    log::debug!(
        "{now} bytes of memory: the cache is cut from {cache} to {}",
        fs.cache_limit()
    );
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_fit_into_the_limit_and_the_cache_is_as_small_as_asked_for() {
        for limit in [LEAST_MEMORY, 364 << 20, 448 << 20, 1 << 30, 1 << 40] {
            let b = Budget::new(Some(limit), u64::MAX);
            let codecs = (b.decoders.unwrap() as u64 + 1) * CODEC;
            let all = b.cache + b.starts as u64 + 2 * b.dirty + codecs + OWN;
            assert!(all <= limit, "{b:?}");
            // Two wide start states, and some blocks of the largest size.
            assert!(b.cache >= 20 << 20 && b.starts >= 60 << 20 && b.dirty >= 8 << 20);
            assert_eq!(Budget::new(Some(limit), 1 << 20).cache, 1 << 20);
        }
        let free = Budget::new(None, 256 << 20);
        assert_eq!((free.cache, free.dirty), (256 << 20, 64 << 20));
    }
}
