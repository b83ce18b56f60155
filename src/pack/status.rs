//! What a daemon does: its figures, as `status`, the metrics and their JSON tell them.
//!
//! Counters begin at zero with the mount and only grow. Sizes are bytes.

use serde::{Deserialize, Serialize};

/// Figures of a daemon. Fields may be added, and are never renamed or given another meaning.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Status {
    /// Its process.
    pub pid: u32,
    /// Its version.
    pub version: String,
    /// Where it is mounted, escaped.
    pub mountpoint: Option<String>,
    /// Whether it is a read-only mount.
    pub read_only: bool,
    /// Seconds since it was mounted.
    pub uptime: u64,
    /// Where its metrics are served, `ADDRESS:PORT`.
    pub metrics: Option<String>,
    /// Its memory.
    pub memory: Memory,
    /// Requests of users of the mount.
    pub requests: Requests,
    /// The cache of decoded blocks. A read that waits for another one's decoding is a hit.
    pub cache: Cache,
    /// The cache of start states.
    pub starts: Cache,
    /// The disk cache of decoded blocks, if there is one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub disk_cache: Option<DiskCache>,
    /// How long decoding a block took those who read it, by codec.
    pub decode: Vec<Decode>,
    /// What was written.
    pub writes: Writes,
    /// Work of `pack` and `unpack` and of the background packer.
    pub packing: Packing,
    /// The background packer, if there is one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub idle: Option<Idle>,
    /// The background scrub, if there is one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub scrub: Option<ScrubStatus>,
}

/// Memory of the daemon.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Memory {
    /// Resident bytes of the process.
    pub resident: u64,
    /// Bytes that it may have, if there is a limit.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub limit: Option<u64>,
}

/// Requests of users.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Requests {
    /// Requests that were answered.
    pub served: u64,
    /// Requests under way.
    pub running: u64,
    /// Open files and directories.
    pub open: u64,
    /// Files and directories that the kernel knows.
    pub nodes: u64,
}

/// A cache in memory.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Cache {
    /// Bytes in it.
    pub bytes: u64,
    /// Bytes that it holds at most.
    pub limit: u64,
    /// How often it had what was wanted.
    pub hits: u64,
    /// How often that had to be made.
    pub misses: u64,
}

/// A cache on a disk.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct DiskCache {
    /// Bytes that its files take.
    pub bytes: u64,
    /// Bytes that they may take.
    pub limit: u64,
    /// Blocks that it had.
    pub hits: u64,
    /// Blocks that had to be decoded.
    pub misses: u64,
    /// Blocks that were written to it.
    pub stored: u64,
    /// Blocks that made room for others.
    pub evicted: u64,
    /// Files that were not what they should be, and went.
    pub damaged: u64,
}

/// Decoding with one codec.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Decode {
    /// The codec's name.
    pub codec: String,
    /// Blocks decoded.
    pub blocks: u64,
    /// Time of all together, in nanoseconds, added up over threads.
    pub nanos: u64,
    /// How many took how long; those of no duration at all are left out.
    pub latency: Vec<Bucket>,
}

/// Blocks that took longer than the bucket before says and at most this long.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Bucket {
    /// Microseconds; none for no bound.
    pub up_to: Option<u64>,
    /// How many.
    pub blocks: u64,
}

/// What was written.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Writes {
    /// Bytes that are only in memory.
    pub dirty_bytes: u64,
    /// Files with something to commit.
    pub dirty_files: u64,
    /// Blocks encoded and stored.
    pub stored_blocks: u64,
    /// Commits of a file.
    pub commits: u64,
}

/// Work on files, whoever asked for it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Packing {
    /// Jobs of `pack` and `unpack` that run or wait.
    pub jobs: u64,
    /// The job that runs.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub job: Option<JobProgress>,
    /// Files that were packed.
    pub packed: u64,
    /// Logical bytes of those.
    pub logical: u64,
    /// Stored bytes of those before and after.
    pub before: u64,
    /// See `before`.
    pub after: u64,
    /// `before` less `after`.
    pub saved: u64,
    /// Files that were encoded for nothing: as a segment they would not be smaller.
    pub left: u64,
    /// Files that were unpacked.
    pub unpacked: u64,
    /// Files that were written meanwhile.
    pub skipped: u64,
    /// Files that failed, or are damaged.
    pub failed: u64,
}

/// How far a job is, in units of its plan: bytes to encode and to compare, or to decode.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct JobProgress {
    /// `pack` or `unpack`.
    pub command: String,
    /// Files.
    pub files: u64,
    /// All units.
    pub bytes: u64,
    /// Units done.
    pub done: u64,
}

/// What the background packer is at.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum IdleState {
    /// It waits for its next look at the tree.
    #[default]
    Waiting,
    /// It looks for files that nobody has written for a while.
    Looking,
    /// It packs one.
    Packing,
    /// It rests between two blocks, because the mount is in use or the machine is loaded.
    Resting,
}

/// The background packer.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Idle {
    /// What it is at.
    pub state: IdleState,
    /// Files that are still to be packed, of those that the last look found.
    pub queue_files: u64,
    /// Logical bytes of those.
    pub queue_bytes: u64,
    /// The file at hand, escaped.
    pub file: Option<String>,
    /// How much there is to do for it, in bytes: each is encoded once and compared once.
    pub file_bytes: u64,
    /// How much of that is done.
    pub file_done: u64,
    /// Files that are remembered as having nothing to gain, and not tried again while they stay unchanged.
    pub settled: u64,
    /// Looks at the tree so far.
    pub looks: u64,
    /// Rests so far.
    pub rests: u64,
    /// Milliseconds of all rests together.
    pub rested: u64,
    /// Why the last look came to nothing, if it did.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

/// How far a scrub is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ScrubStatus {
    /// Whether it goes through the archive just now.
    pub running: bool,
    /// Segments checked in this pass, or in the last one.
    pub files: u64,
    /// Stored bytes of those.
    pub bytes: u64,
    /// Files known to be damaged, copies of models and primers among them.
    pub damaged: u64,
    /// When the last pass ended, in seconds since 1970; none if none ever did.
    pub finished: Option<u64>,
}

impl Status {
    /// What may be told to whoever can reach a port of this machine: no names of files.
    #[must_use]
    pub fn without_names(mut self) -> Status {
        if let Some(idle) = &mut self.idle {
            (idle.file, idle.error) = (None, None);
        }
        self
    }
}
