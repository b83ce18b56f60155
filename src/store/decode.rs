//! Decoding stored blocks: payload, model, start state, checksums.
//!
//! A start state is replayed once and then shared ([`super::StartCache`]). Chains of states are walked, not recursed into, and their
//! length is bounded by the segment's table.

use std::sync::Arc;

use super::error::StoreError;
use super::library::Library;
use super::start_cache::Key;
use crate::codec::{self, Start};
use crate::segment::{self, BlockEntry, Segment, StartEntry, Starts, Storage};

/// Reads, checks and decodes one stored block. Its length is the entry's `decoded_len`.
///
/// # Errors
/// Damage (payload checksum, codec, decoded checksum) of the block or of what it starts from, a missing model or primer, I/O errors.
pub fn decode_entry(
    segment: &Segment,
    block: u64,
    entry: &BlockEntry,
    library: &Library,
) -> Result<Vec<u8>, StoreError> {
    decode_stored(
        &**segment.storage(),
        segment.starts(),
        block,
        entry,
        library,
    )
}

/// As [`decode_entry`], for a reader that no longer borrows the segment whose storage and start states these are.
///
/// # Errors
/// As [`decode_entry`]; also a wrong checksum if the block was overwritten meanwhile.
pub fn decode_stored(
    storage: &dyn Storage,
    starts: &Starts,
    block: u64,
    entry: &BlockEntry,
    library: &Library,
) -> Result<Vec<u8>, StoreError> {
    let payload = segment::read_payload(storage, entry)?;
    decode_payload(storage, starts, block, entry, &payload, library)
}

/// Decodes a payload whose checksum was good, and checks the decoded bytes.
///
/// # Errors
/// As [`decode_entry`].
pub fn decode_payload(
    storage: &dyn Storage,
    starts: &Starts,
    block: u64,
    entry: &BlockEntry,
    payload: &[u8],
    library: &Library,
) -> Result<Vec<u8>, StoreError> {
    let start = match entry.start {
        0 => None,
        number => Some(state(storage, starts, number, library).map_err(|e| e.of_start(block))?),
    };
    let data = decode_from(start.as_deref(), block, entry, payload, library)?;
    if let Some(number) = starts.made_by(entry) {
        // The next blocks start from this state, which this thread's codec is in, unless a model was at work: then it is made while the bytes
        // are at hand, because they are dear.
        let key = Key::Segment {
            table: starts.id(),
            number,
        };
        let make = || {
            Ok(codec::state_after(
                start.as_deref(),
                &data,
                entry.codec,
                payload,
            ))
        };
        library.starts().get_or_make(key, make)?;
    }
    Ok(data)
}

fn decode_from(
    start: Option<&Start>,
    block: u64,
    entry: &BlockEntry,
    payload: &[u8],
    library: &Library,
) -> Result<Vec<u8>, StoreError> {
    let model = entry.model.map(|id| library.models().get(id)).transpose()?;
    let len = entry.decoded_len as usize;
    let data = codec::decode(entry.codec, model.as_deref(), payload, len, start)
        .map_err(|source| StoreError::Decode { block, source })?;
    let got = crc32c::crc32c(&data);
    if got != entry.decoded_crc {
        return Err(StoreError::Checksum {
            block,
            expected: entry.decoded_crc,
            got,
        });
    }
    Ok(data)
}

/// Start state `number` of a table.
fn state(
    storage: &dyn Storage,
    starts: &Starts,
    number: u16,
    library: &Library,
) -> Result<Arc<Start>, StoreError> {
    let key = |number| Key::Segment {
        table: starts.id(),
        number,
    };
    // Down to a state that is at hand; every parent has a smaller number. What is damaged on the way is told by its checksum, before
    // anything is decoded.
    let mut at = number;
    let mut found = None;
    let mut missing = Vec::new();
    while at != 0 && found.is_none() {
        found = library.starts().get(key(at));
        match starts.get(at) {
            _ if found.is_some() => {}
            Some(StartEntry::Primer(id)) => found = Some(library.primed(*id)?),
            Some(StartEntry::Block { parent, payload }) => {
                let raw = segment::read_payload(storage, payload)?;
                missing.push((at, *parent, payload, raw));
                at = *parent;
            }
            None => return Err(StoreError::NoStart(at)),
        }
    }
    for (number, parent, payload, raw) in missing.into_iter().rev() {
        let before = found.take();
        let make = || {
            let start = before.as_deref().filter(|_| payload.start != 0);
            let data = decode_from(start, 0, payload, &raw, library)?;
            Ok(codec::state_after(
                before.as_deref(),
                &data,
                payload.codec,
                &raw,
            ))
        };
        found = Some(library.starts().get_or_make(key(number), make)?);
        // Blocks after the run need this one, and hardly any the one before.
        library.starts().demote(key(parent));
    }
    found.ok_or(StoreError::NoStart(number))
}
