//! What can be wrong with a segment, or with a request to change one.

use std::fmt;
use std::io;

/// The part of a segment that an error speaks of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Part {
    /// The first bytes of the file.
    Header,
    /// One of the two root slots.
    Root,
    /// The list of models and index pages.
    Directory,
    /// One page of the block index.
    Page,
    /// The coded bytes of one block.
    Payload,
}

impl fmt::Display for Part {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Part::Header => "header",
            Part::Root => "root slot",
            Part::Directory => "index directory",
            Part::Page => "index page",
            Part::Payload => "block payload",
        })
    }
}

/// Why a segment could not be read or changed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SegmentError {
    /// The file below failed.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// The file does not begin as a segment does.
    #[error("not a segment: it begins with {} instead of the segment magic", Hex(.got))]
    NotASegment {
        /// The file's first bytes, at most eight.
        got: Vec<u8>,
    },
    /// The segment was written by another version of the format.
    #[error(
        "segment format version {found} is not supported; this program reads version {supported}"
    )]
    UnknownVersion {
        /// The version in the file.
        found: u8,
        /// The version that this program reads and writes.
        supported: u8,
    },
    /// The file ends inside a part.
    #[error("{part} at byte {offset} is cut off: {expected} bytes expected, {got} there")]
    Truncated {
        /// Which part.
        part: Part,
        /// Where it begins.
        offset: u64,
        /// Its length.
        expected: u64,
        /// How much of it the file holds.
        got: u64,
    },
    /// A part is not what was written.
    #[error(
        "{part} at byte {offset} is damaged: checksum {expected:08x} expected, {got:08x} found"
    )]
    Checksum {
        /// Which part.
        part: Part,
        /// Where it begins.
        offset: u64,
        /// The stored checksum.
        expected: u32,
        /// The checksum of the bytes that are there.
        got: u32,
    },
    /// A part has a sound checksum, if it has one, but impossible content.
    #[error("{part} at byte {offset} is invalid: {reason}")]
    Invalid {
        /// Which part.
        part: Part,
        /// Where it begins.
        offset: u64,
        /// What is impossible about it.
        reason: &'static str,
    },
    /// Neither root slot holds a root, though one was written.
    #[error("both root slots at byte {offset} are damaged")]
    NoRoot {
        /// Where the two slots begin.
        offset: u64,
    },
    /// The request can not be met; the segment is unchanged.
    #[error("{0}")]
    Refused(&'static str),
}

impl SegmentError {
    /// Whether the segment's bytes are at fault, not the device below or the caller.
    #[must_use]
    pub fn is_damage(&self) -> bool {
        !matches!(self, SegmentError::Io(_) | SegmentError::Refused(_))
    }
}

/// Result of an operation on a segment.
pub type Result<T> = std::result::Result<T, SegmentError>;

struct Hex<'a>(&'a [u8]);

impl fmt::Display for Hex<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.is_empty() {
            return f.write_str("nothing");
        }
        self.0.iter().try_for_each(|b| write!(f, "{b:02x}"))
    }
}
