//! The daemon's figures, gathered when somebody asks: nothing is added up for them that the work itself does not keep.

use std::net::SocketAddr;
use std::sync::{Arc, OnceLock};

use crate::codec::CodecId;
use crate::fs::{BOUNDS, Fs, Latency};
use crate::pack::idle::IdleView;
use crate::pack::protocol::escape;
use crate::pack::scrub::ScrubView;
use crate::pack::status::{Bucket, Cache, Decode, DiskCache, Memory, Requests, Status, Writes};
use crate::pack::tally::Tally;
use crate::store::Access;

/// Where all figures of a daemon come from.
pub(super) struct Figures {
    fs: Arc<Fs>,
    mountpoint: String,
    metrics: Option<SocketAddr>,
    memory_limit: Option<u64>,
    pub(super) tally: Arc<Tally>,
    /// Set when they have been started.
    pub(super) scrub: OnceLock<ScrubView>,
    pub(super) idle: OnceLock<IdleView>,
}

impl Figures {
    pub(super) fn new(
        fs: &Arc<Fs>,
        mountpoint: &std::path::Path,
        metrics: Option<SocketAddr>,
        memory_limit: Option<u64>,
    ) -> Arc<Figures> {
        Arc::new(Figures {
            fs: Arc::clone(fs),
            mountpoint: escape(mountpoint),
            metrics,
            memory_limit,
            tally: Arc::default(),
            scrub: OnceLock::new(),
            idle: OnceLock::new(),
        })
    }

    /// All figures as they are now.
    pub(super) fn status(&self) -> Status {
        let (stats, activity) = (self.fs.stats(), self.fs.activity());
        let starts = self.fs.archive().library().starts();
        let codecs = CodecId::ALL.iter().zip(&stats.decoding);
        Status {
            pid: std::process::id(),
            version: env!("CARGO_PKG_VERSION").to_string(),
            mountpoint: Some(self.mountpoint.clone()),
            read_only: self.fs.archive().access() == Access::Read,
            uptime: activity.uptime().as_secs(),
            metrics: self.metrics.map(|addr| addr.to_string()),
            memory: Memory {
                resident: resident(),
                limit: self.memory_limit,
            },
            requests: Requests {
                served: activity.served(),
                running: activity.running(),
                open: stats.handles,
                nodes: stats.nodes,
            },
            cache: Cache {
                bytes: stats.cache_bytes,
                limit: self.fs.cache_limit(),
                hits: stats.cache_hits,
                misses: stats.decoded_blocks,
            },
            starts: Cache {
                bytes: starts.bytes() as u64,
                limit: starts.limit() as u64,
                hits: starts.hits(),
                misses: starts.made(),
            },
            disk_cache: stats.disk_cache.map(|d| DiskCache {
                bytes: d.bytes,
                limit: d.limit,
                hits: d.hits,
                misses: d.misses,
                stored: d.stored,
                evicted: d.evicted,
                damaged: d.damaged,
            }),
            decode: codecs.map(|(codec, took)| decode(*codec, took)).collect(),
            writes: Writes {
                dirty_bytes: stats.dirty_bytes,
                dirty_files: stats.dirty_files,
                stored_blocks: stats.stored_blocks,
                commits: stats.commits,
            },
            packing: self.tally.packing(),
            idle: self.idle.get().map(IdleView::status),
            scrub: self.scrub.get().map(ScrubView::status),
        }
    }
}

fn decode(codec: CodecId, took: &Latency) -> Decode {
    let bucket = |(n, &blocks): (usize, &u64)| {
        let micros = u64::try_from(Latency::bound(n).as_micros()).unwrap_or(u64::MAX);
        Bucket {
            up_to: (n < BOUNDS).then_some(micros),
            blocks,
        }
    };
    let buckets = took.buckets.iter().enumerate().map(bucket);
    Decode {
        codec: codec.name().to_string(),
        blocks: took.count(),
        nanos: took.nanos,
        latency: buckets.filter(|b| b.blocks > 0).collect(),
    }
}

/// Resident bytes of this process; 0 where the system does not say.
pub(super) fn resident() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|l| l.strip_prefix("VmRSS:"));
    let kib = line.and_then(|l| l.trim().strip_suffix(" kB")?.parse::<u64>().ok());
    kib.unwrap_or(0) * 1024
}
