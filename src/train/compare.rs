//! Held-out blocks as the codec packs them, beside zstd -19 and xz -9e.

use super::evaluate::HeldOut;
use crate::codec;
use crate::engine::Model;
use rayon::prelude::*;
use std::io::{self, Write};
use std::sync::Arc;

/// Blocks that are compressed at most.
const BLOCKS: usize = 32;

/// Compressed sizes in bytes of the same held-out blocks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
pub struct Comparison {
    /// Blocks that were compressed, at most 32.
    pub blocks: usize,
    /// Their bytes.
    pub bytes: u64,
    /// By our codec with the new model, each block alone and from nothing.
    pub packed: u64,
    /// The same with the model that the run started from.
    pub packed_before: Option<u64>,
    /// `zstd -19`, the blocks of a source as one stream.
    pub zstd_19: u64,
    /// `xz -9e`, the blocks of a source as one stream.
    pub xz_9e: u64,
}

/// Compresses up to 32 of the blocks, spread over them; nothing if there are none.
///
/// # Errors
/// A compressor has no memory.
pub(super) fn compare(
    held_out: &[HeldOut],
    after: &Arc<Model>,
    before: Option<&Arc<Model>>,
) -> io::Result<Option<Comparison>> {
    let n = held_out.len().min(BLOCKS);
    if n == 0 {
        return Ok(None);
    }
    let some: Vec<&HeldOut> = (0..n).map(|i| &held_out[i * held_out.len() / n]).collect();
    let packed = |model: &Arc<Model>| -> u64 {
        some.par_iter()
            .map(|h| {
                codec::encode_packed(&h.block, Some(model), None)
                    .payload
                    .len() as u64
            })
            .sum()
    };
    let streams: Vec<Vec<u8>> = some
        .chunk_by(|a, b| a.source == b.source)
        .map(|of_source| of_source.iter().flat_map(|h| h.block.to_vec()).collect())
        .collect();
    let peers = streams
        .par_iter()
        .map(|stream| {
            Ok((
                zstd::bulk::compress(stream, 19)?.len() as u64,
                xz_9e(stream)?.len() as u64,
            ))
        })
        .collect::<io::Result<Vec<(u64, u64)>>>()?;
    Ok(Some(Comparison {
        blocks: n,
        bytes: some.iter().map(|h| h.block.len() as u64).sum(),
        packed: packed(after),
        packed_before: before.map(packed),
        zstd_19: peers.iter().map(|p| p.0).sum(),
        xz_9e: peers.iter().map(|p| p.1).sum(),
    }))
}

fn xz_9e(data: &[u8]) -> io::Result<Vec<u8>> {
    const EXTREME: u32 = 1 << 31;
    let mut options = liblzma::stream::LzmaOptions::new_preset(9 | EXTREME)?;
    // More than the data gains nothing and takes ten times as much memory.
    options.dict_size(4 << 20);
    let mut filters = liblzma::stream::Filters::new();
    filters.lzma2(&options);
    let check = liblzma::stream::Check::Crc64;
    let stream = liblzma::stream::Stream::new_stream_encoder(&filters, check)?;
    let mut xz = liblzma::write::XzEncoder::new_stream(Vec::new(), stream);
    xz.write_all(data)?;
    xz.finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn xz_is_what_the_program_makes() {
        // `xz -9e` of these bytes, in size.
        let data: Vec<u8> = (0..4000u32).flat_map(|i| (i * i).to_le_bytes()).collect();
        assert_eq!(xz_9e(&data).unwrap().len(), 7676);
    }
}
