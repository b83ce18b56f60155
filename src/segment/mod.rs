//! Segments: one logical file each, as independently decodable blocks behind a checksummed index.
//!
//! Promises:
//! - A commit is all or nothing: after a crash at any moment the segment opens as it was before or after it, and nothing
//!   that was committed before is lost. This assumes that storage writes a 512-byte sector whole or not at all.
//! - Damage is an error that names the place, never wrong bytes, a panic, or an allocation sized by an unchecked number.
//! - Payloads are opaque: encoding and decoding them is the caller's, as is the choice of the codec.
//! - A sealed segment of one block costs less than 100 bytes beyond its payload; opening any segment takes two or three reads.
//!
//! A *live* segment takes appends. A *sealed* one is written once, by [`SealedWriter`], and becomes live in place by
//! [`Segment::make_live`]. A file of length zero is an empty live segment. Bytes on disk: docs/FORMAT.md.

mod check;
mod commit;
mod directory;
mod entry;
mod error;
mod header;
mod heal;
mod page;
mod patched;
mod peek;
mod ranges;
mod reader;
mod root;
mod salvage;
mod scan;
mod sealed;
mod starts;
mod storage;
mod upgrade;
mod walk;
mod wire;
mod writer;

pub use check::{Finding, Report, Severity, check};
pub use entry::{BlockEntry, max_payload};
pub use error::{Part, Result, SegmentError};
pub use header::{Form, HEADER_LEN, MAGIC};
pub use heal::{Decodes, Healed, Healing, heal};
pub use peek::{Summary, peek};
pub use reader::{Segment, read_payload};
pub use salvage::{LostBlocks, salvage};
pub use sealed::SealedWriter;
pub use starts::{MAX_START_BYTES, MAX_START_DEPTH, MAX_STARTS, StartEntry, Starts};
pub use storage::{MemStorage, Storage};
pub use walk::Entries;

/// The version of the format that this program reads and writes. 0 until the first release fixes the format.
pub const VERSION: u8 = 0;

/// The smallest block size.
pub const MIN_BLOCK: u32 = 1 << 14;

/// The largest block size.
pub const MAX_BLOCK: u32 = 1 << 20;

/// The block size of an empty file that says nothing about it.
pub const DEFAULT_BLOCK: u32 = 1 << 16;

/// The largest logical size, and the largest offset in a file: what a signed 64-bit offset can name.
pub const SIZE_MAX: u64 = i64::MAX as u64;

/// How much longer than the block a payload may be.
pub const MAX_PAYLOAD_OVERHEAD: u32 = 4096;

/// Whether blocks of a segment may have so many bytes: a power of two from [`MIN_BLOCK`] to [`MAX_BLOCK`].
#[must_use]
pub fn valid_block_size(block_size: u32) -> bool {
    block_size.is_power_of_two() && (MIN_BLOCK..=MAX_BLOCK).contains(&block_size)
}
