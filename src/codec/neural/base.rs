//! Coding a block from bytes that came before it.
//!
//! A payload of this kind names the bytes by a checksum, so it decodes from no others:
//!
//! ```text
//! byte 0      0xb5
//! bytes 1..5  CRC-32C of the bytes that the start state has seen
//! bytes 5..   one zstd frame, with those bytes as its dictionary
//! ```

use super::NeuralError;

/// First byte of a payload that was coded from a start state.
const TAG: u8 = 0xb5;

/// Most bytes that a state remembers.
const KEPT: usize = 1 << 20;

/// Level that frames are coded at.
const LEVEL: i32 = 19;

/// What the codec knows after it has seen some bytes. It never changes and is shared between threads.
#[derive(Debug, PartialEq, Eq)]
pub struct Start {
    /// A zero byte, which no dictionary header begins with, then the last bytes seen.
    seen: Vec<u8>,
    crc: u32,
}

impl Start {
    /// The state after `before`, or none, and then `data`.
    #[must_use]
    pub fn then(before: Option<&Start>, data: &[u8]) -> Start {
        let old = before.and_then(|s| s.seen.get(1..)).unwrap_or_default();
        let new = data
            .get(data.len().saturating_sub(KEPT)..)
            .unwrap_or_default();
        let kept = old.len().min(KEPT - new.len());
        let mut seen = Vec::with_capacity(1 + kept + new.len());
        seen.push(0);
        seen.extend(old.get(old.len() - kept..).unwrap_or_default());
        seen.extend(new);
        let crc = crc32c::crc32c(&seen);
        Start { seen, crc }
    }

    /// Bytes of memory that it holds.
    #[must_use]
    pub fn memory(&self) -> usize {
        self.seen.capacity() + size_of::<Start>()
    }
}

/// Whether a payload was coded from a start state.
pub(super) fn is_started(payload: &[u8]) -> bool {
    payload.first() == Some(&TAG)
}

/// The payload of `data` after `start`; `None` if there is none.
pub(super) fn encode(data: &[u8], start: &Start) -> Option<Vec<u8>> {
    let mut coder = ::zstd::bulk::Compressor::with_dictionary(LEVEL, &start.seen).ok()?;
    let frame = coder.compress(data).ok()?;
    let mut out = vec![TAG];
    out.extend(start.crc.to_le_bytes());
    out.extend(frame);
    Some(out)
}

/// The `len` bytes of a payload of [`encode`].
pub(super) fn decode(
    payload: &[u8],
    len: usize,
    start: Option<&Start>,
) -> Result<Vec<u8>, NeuralError> {
    let start = start.ok_or(NeuralError::Start)?;
    let rest = payload.get(1..).ok_or(NeuralError::Truncated)?;
    let (crc, frame) = rest
        .split_first_chunk::<4>()
        .ok_or(NeuralError::Truncated)?;
    if u32::from_le_bytes(*crc) != start.crc {
        return Err(NeuralError::Start);
    }
    let mut coder = ::zstd::bulk::Decompressor::with_dictionary(&start.seen)
        .map_err(|_| NeuralError::Corrupt)?;
    let data = coder
        .decompress(frame, len)
        .map_err(|_| NeuralError::Corrupt)?;
    if data.len() == len {
        Ok(data)
    } else {
        Err(NeuralError::Corrupt)
    }
}
