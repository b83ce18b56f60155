//! Decoding a segment, in parallel and in bounded memory, to a file or to a stream.

use std::fs::File;
use std::io::Write;
use std::os::unix::fs::FileExt;

use rayon::prelude::*;

use super::{block_failure, with_path};
use crate::cli::{CliError, Progress, Range};
use crate::store::{BlockSource, SegmentReader, StoreError};

/// Blocks that each worker has in hand at a time.
const BATCH_PER_JOB: u64 = 4;

/// Writes the whole content to the empty file `to`. Blocks of zeros become holes.
///
/// # Errors
/// The first damaged block, a missing model, I/O errors.
pub fn decode_whole(
    reader: &SegmentReader<'_>,
    to: &File,
    jobs: usize,
    progress: &Progress,
) -> Result<(), CliError> {
    let failure = with_path(reader.path());
    let write_failure = |e: std::io::Error| CliError::io("output file", &e);
    to.set_len(reader.len()).map_err(write_failure)?;
    let size = u64::from(reader.segment().block_size());
    let pool = pool(jobs)?;
    let mut at = 0;
    loop {
        let mut batch = Vec::new();
        while (batch.len() as u64) < jobs as u64 * BATCH_PER_JOB {
            let Some(data) = reader.next_data(at).map_err(&failure)? else {
                break;
            };
            batch.push(data / size);
            at = (data / size + 1).saturating_mul(size);
        }
        if batch.is_empty() {
            return Ok(());
        }
        pool.install(|| {
            batch.par_iter().try_for_each(|&block| {
                let data = reader
                    .read_block(block)
                    .map_err(|e| block_failure(reader.path(), block, &e))?;
                if data.iter().any(|&byte| byte != 0) {
                    to.write_all_at(&data, block * size)
                        .map_err(write_failure)?;
                }
                progress.add(data.len() as u64);
                Ok::<(), CliError>(())
            })
        })?;
    }
}

/// Writes a range of the content to `out`, decoding only the blocks that the range touches. A range that reaches
/// beyond the end is cut there.
///
/// # Errors
/// The first damaged block, after what precedes it was written; a missing model, I/O errors.
pub fn decode_range(
    reader: &SegmentReader<'_>,
    range: Range,
    out: &mut impl Write,
    jobs: usize,
    progress: &Progress,
) -> Result<(), CliError> {
    let write_failure = |e: std::io::Error| CliError::io("standard output", &e);
    let size = u64::from(reader.segment().block_size());
    let end = range
        .length
        .map_or(reader.len(), |length| range.offset.saturating_add(length))
        .min(reader.len());
    let pool = pool(jobs)?;
    let mut at = range.offset;
    while at < end {
        let first = at / size;
        let last = ((end - 1) / size).min(first + jobs as u64 * BATCH_PER_JOB - 1);
        let blocks: Vec<Result<Vec<u8>, StoreError>> = pool.install(|| {
            (first..=last)
                .into_par_iter()
                .map(|block| reader.read_block(block))
                .collect()
        });
        for (block, data) in (first..=last).zip(blocks) {
            let data = data.map_err(|e| block_failure(reader.path(), block, &e))?;
            let start = block * size;
            let from = usize::try_from(at - start).unwrap_or(usize::MAX);
            let to = usize::try_from((end - start).min(size)).unwrap_or(usize::MAX);
            let part = data.get(from..to).unwrap_or_default();
            out.write_all(part).map_err(write_failure)?;
            progress.add(part.len() as u64);
            at = start + size;
        }
    }
    out.flush().map_err(write_failure)
}

fn pool(jobs: usize) -> Result<rayon::ThreadPool, CliError> {
    rayon::ThreadPoolBuilder::new()
        .num_threads(jobs.max(1))
        .build()
        .map_err(|e| {
            CliError::failed(format!("no worker threads: {e}")).remedy("try fewer with --jobs")
        })
}
