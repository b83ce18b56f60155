//! One zstd frame per block.

use super::CodecError;

/// What fresh writes use.
pub(super) const FAST: i32 = 3;
/// What packing tries.
pub(super) const BEST: i32 = 19;

/// One frame, or the bytes themselves (never smaller than raw, so never chosen) if zstd fails.
pub(super) fn encode(data: &[u8], level: i32) -> Vec<u8> {
    ::zstd::bulk::compress(data, level).unwrap_or_else(|_| data.to_vec())
}

/// Decodes one frame into at most `len` bytes.
pub(super) fn decode(payload: &[u8], len: usize) -> Result<Vec<u8>, CodecError> {
    ::zstd::bulk::decompress(payload, len).map_err(|e| CodecError::Zstd(e.to_string()))
}
