//! The first read of a segment: enough for `stat`, and the start of opening it.

use super::DEFAULT_BLOCK;
use super::error::{Part, Result, SegmentError};
use super::header::{Body, DirectoryRef, Form, Header};
use super::root::{Root, SLOT_LEN, SLOTS_LEN, Slot, decode_slots, newest};
use super::storage::{Storage, read_up_to};

/// Where a segment that begins its life live keeps its root slots.
pub(super) const BORN_LIVE_ROOTS: u64 = SLOT_LEN as u64;

/// Where such a segment's first payload lies.
pub(super) const BORN_LIVE_DATA: u64 = BORN_LIVE_ROOTS + SLOTS_LEN as u64;

/// What is known of a segment without its index.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Summary {
    /// Live or sealed.
    pub form: Form,
    /// Bytes of a block.
    pub block_size: u32,
    /// Bytes of the content.
    pub logical_size: u64,
    /// Commits so far; 0 for a live segment that has none, and for a sealed one.
    pub generation: u64,
    /// Bytes of the file that the current content needs: header, roots, index, payloads. The rest is dead.
    pub live_bytes: u64,
    /// Of a sealed one: what it was packed with, no profile (1) or one, as a number from 2 to 255 that tells most profiles apart. 0: it was not
    /// packed, or nobody knows.
    pub made_with: u8,
}

/// All that the first read tells.
pub(super) struct Peeked {
    pub(super) summary: Summary,
    /// `None` if nothing was committed.
    pub(super) directory: Option<DirectoryRef>,
    pub(super) state: State,
    /// Appends must go here or beyond.
    pub(super) end: u64,
}

/// What depends on the form.
pub(super) enum State {
    Sealed,
    /// No header, only zeros, if anything: an empty live segment.
    Bare,
    Live {
        roots_offset: u64,
        slots: [Slot; 2],
        /// The slot with the newest root.
        current: Option<usize>,
    },
}

/// Tells a segment's form and size, with one read; two if it was sealed once and is live now.
///
/// A file of length zero is an empty segment. So is one whose first 1536 bytes are zeros: that is what a crash during
/// the first commit may leave.
///
/// # Errors
/// The file can not be read, is not a segment, or its header or both roots are damaged.
pub fn peek(storage: &dyn Storage) -> Result<Summary> {
    peek_all(storage).map(|p| p.summary)
}

pub(super) fn peek_all(storage: &dyn Storage) -> Result<Peeked> {
    let mut buf = [0; 2048];
    let n = read_up_to(storage, &mut buf, 0)?;
    let first = buf.get(..n).unwrap_or_default();
    if first.iter().take(BORN_LIVE_DATA as usize).all(|&b| b == 0) {
        return Ok(Peeked {
            summary: empty(DEFAULT_BLOCK),
            directory: None,
            state: State::Bare,
            end: BORN_LIVE_DATA,
        });
    }
    let header = Header::decode(first)?;
    match header.body {
        Body::Sealed {
            made_with,
            logical_size,
            directory,
        } => Ok(Peeked {
            summary: Summary {
                form: Form::Sealed,
                block_size: header.block_size,
                logical_size,
                generation: 0,
                live_bytes: directory.end(),
                made_with,
            },
            directory: Some(directory),
            state: State::Sealed,
            end: directory.end(),
        }),
        Body::Live { roots_offset } => peek_live(storage, first, header.block_size, roots_offset),
    }
}

fn peek_live(
    storage: &dyn Storage,
    first: &[u8],
    block_size: u32,
    roots_offset: u64,
) -> Result<Peeked> {
    let data = roots_offset.saturating_add(SLOTS_LEN as u64);
    let inside = usize::try_from(roots_offset)
        .ok()
        .and_then(|start| first.get(start..));
    let mut buf = [0; SLOTS_LEN];
    let raw = match inside {
        Some(raw) if raw.len() >= SLOTS_LEN => raw,
        _ => {
            let n = read_up_to(storage, &mut buf, roots_offset)?;
            buf.get(..n).unwrap_or_default()
        }
    };
    if raw.len() < SLOTS_LEN {
        return Err(SegmentError::Truncated {
            part: Part::Root,
            offset: roots_offset,
            expected: SLOTS_LEN as u64,
            got: raw.len() as u64,
        });
    }
    let slots = decode_slots(raw);
    let current = newest(&slots, roots_offset)?;
    if current.is_none() && roots_offset != BORN_LIVE_ROOTS {
        // A segment that was sealed is switched to live only after its first root is durable.
        return Err(SegmentError::NoRoot {
            offset: roots_offset,
        });
    }
    let summary = current.map_or(empty(block_size), |(_, root)| summary_of(block_size, &root));
    let end = slots.iter().fold(data, |end, slot| match slot {
        Slot::Root(root) => end.max(root.end),
        _ => end,
    });
    Ok(Peeked {
        summary,
        directory: current.map(|(_, root)| root.directory),
        state: State::Live {
            roots_offset,
            slots,
            current: current.map(|(at, _)| at),
        },
        end,
    })
}

fn summary_of(block_size: u32, root: &Root) -> Summary {
    Summary {
        form: Form::Live,
        block_size,
        logical_size: root.logical_size,
        generation: root.generation,
        live_bytes: root.live_bytes,
        made_with: 0,
    }
}

fn empty(block_size: u32) -> Summary {
    Summary {
        form: Form::Live,
        block_size,
        logical_size: 0,
        generation: 0,
        live_bytes: 0,
        made_with: 0,
    }
}
