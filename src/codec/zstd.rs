//! One zstd frame per block.
//!
//! Contexts are kept between blocks: making one costs about as much as a block of 64 KiB.

use std::cell::RefCell;
use std::sync::{Mutex, PoisonError};

use ::zstd::bulk::{Compressor, Decompressor};

use super::CodecError;

/// What fresh writes use.
pub(super) const FAST: i32 = 3;
/// What packing tries.
pub(super) const BEST: i32 = 19;

/// Contexts for [`FAST`] that are kept at most, of about a megabyte each.
const KEPT: usize = 8;

/// Contexts for [`FAST`] that nobody uses now. Not by thread: threads that encode come and go.
static ENCODERS: Mutex<Vec<Compressor<'static>>> = Mutex::new(Vec::new());

thread_local! {
    /// About 160 KiB.
    static DECODER: RefCell<Option<Decompressor<'static>>> = const { RefCell::new(None) };
}

/// One frame, or the bytes themselves (never smaller than raw, so never chosen) if zstd fails.
pub(super) fn encode(data: &[u8], level: i32) -> Vec<u8> {
    let encoded = match level {
        FAST => encode_fast(data),
        level => ::zstd::bulk::compress(data, level),
    };
    encoded.unwrap_or_else(|_| data.to_vec())
}

fn encode_fast(data: &[u8]) -> std::io::Result<Vec<u8>> {
    let kept = || ENCODERS.lock().unwrap_or_else(PoisonError::into_inner);
    let known = kept().pop();
    let mut encoder = match known {
        Some(encoder) => encoder,
        None => Compressor::new(FAST)?,
    };
    // One that failed is not kept.
    let encoded = encoder.compress(data)?;
    let mut kept = kept();
    if kept.len() < KEPT {
        kept.push(encoder);
    }
    Ok(encoded)
}

/// Decodes one frame into at most `len` bytes.
pub(super) fn decode(payload: &[u8], len: usize) -> Result<Vec<u8>, CodecError> {
    let decode = |kept: &mut Option<Decompressor<'static>>| {
        let mut decoder = match kept.take() {
            Some(decoder) => decoder,
            None => Decompressor::new()?,
        };
        let decoded = decoder.decompress(payload, len)?;
        *kept = Some(decoder);
        Ok(decoded)
    };
    DECODER
        .with_borrow_mut(decode)
        .map_err(|e: std::io::Error| CodecError::Zstd(e.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kept_contexts_change_no_byte_and_survive_failures() {
        let blocks = [
            b"a line of telemetry 12345\n".repeat(2000),
            vec![0; 100],
            b"x".to_vec(),
            Vec::new(),
        ];
        for _ in 0..3 {
            for block in &blocks {
                let encoded = encode(block, FAST);
                assert_eq!(encoded, ::zstd::bulk::compress(block, FAST).unwrap());
                assert_eq!(&decode(&encoded, block.len()).unwrap(), block);
                assert!(decode(&encoded[..encoded.len() - 1], block.len()).is_err());
                if !block.is_empty() {
                    assert!(decode(&encoded, block.len() - 1).is_err());
                }
            }
        }
    }
}
