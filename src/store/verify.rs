//! Verifying a segment: structure, checksums and the decoding of every block.

use std::path::Path;
use std::sync::Arc;

use rayon::prelude::*;

use super::decode::decode_payload;
use super::error::StoreError;
use super::library::Library;
use super::regular::open_regular;
use crate::segment::{self, BlockEntry, Finding, Part, Report, Segment, Severity, Starts, Storage};

/// Payloads that are read before they are decoded in parallel.
const BATCH: usize = 32;

/// How much a check looks at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Depth {
    /// All checksums of what is stored: finds whatever happened to the file.
    Checksums,
    /// What it decodes to, too: also finds what a faulty machine may have stored.
    Content,
}

/// Reads everything in the segment at `path`, decodes it if `depth` says so, and reports what is damaged. `progress` is called with
/// decoded bytes.
///
/// # Errors
/// I/O errors, and models or primers that are missing or do not load, which are no damage of this segment.
pub fn verify_segment(
    path: &Path,
    library: &Library,
    depth: Depth,
    progress: &(dyn Fn(u64) + Sync),
) -> Result<Report, StoreError> {
    let file = open_regular(path).map_err(StoreError::io(path))?;
    verify_storage(Arc::new(file), path, library, depth, progress)
}

/// As [`verify_segment`], of an open segment; `path` is for messages.
///
/// # Errors
/// As [`verify_segment`].
pub fn verify_storage(
    storage: Arc<dyn Storage>,
    path: &Path,
    library: &Library,
    depth: Depth,
    progress: &(dyn Fn(u64) + Sync),
) -> Result<Report, StoreError> {
    // If it does not open, the check says why and decodes nothing.
    let starts = Segment::open(Arc::clone(&storage))
        .map(|s| Arc::clone(s.starts()))
        .unwrap_or_default();
    let source = Source {
        storage: &*storage,
        starts: &starts,
        library,
    };
    let mut batch: Vec<(u64, BlockEntry, Vec<u8>)> = Vec::with_capacity(BATCH);
    let mut found: Vec<Finding> = Vec::new();
    let mut failed = None;
    let checked = segment::check(Arc::clone(&storage), |block, entry, payload| {
        if depth == Depth::Checksums {
            progress(u64::from(entry.decoded_len));
            return Ok(());
        }
        batch.push((block, *entry, payload));
        if batch.len() == BATCH && failed.is_none() {
            match decode_batch(&batch, &source, progress) {
                Ok(more) => found.extend(more),
                Err(e) => failed = Some(e),
            }
            batch.clear();
        }
        Ok(())
    });
    let mut report = checked.map_err(|e| match e {
        segment::SegmentError::Io(source) => StoreError::io(path)(source),
        other => other.into(),
    })?;
    if let Some(e) = failed {
        return Err(e);
    }
    found.extend(decode_batch(&batch, &source, progress)?);
    report.findings.extend(found);
    report.findings.sort_by_key(|f| f.blocks.start);
    Ok(report)
}

/// Where payloads come from, and what they need.
struct Source<'a> {
    storage: &'a dyn Storage,
    starts: &'a Starts,
    library: &'a Library,
}

fn decode_batch(
    batch: &[(u64, BlockEntry, Vec<u8>)],
    source: &Source<'_>,
    progress: &(dyn Fn(u64) + Sync),
) -> Result<Vec<Finding>, StoreError> {
    let results: Vec<Option<Finding>> = batch
        .par_iter()
        .map(|(block, entry, payload)| {
            let result = decode_payload(
                source.storage,
                source.starts,
                *block,
                entry,
                payload,
                source.library,
            );
            progress(u64::from(entry.decoded_len));
            match result {
                Ok(_) => Ok(None),
                Err(e) if e.is_damage() => Ok(Some(Finding {
                    severity: Severity::Damage,
                    part: Part::Payload,
                    range: entry.range(),
                    blocks: *block..block.saturating_add(1),
                    what: e.to_string(),
                })),
                Err(e) => Err(e),
            }
        })
        .collect::<Result<_, StoreError>>()?;
    Ok(results.into_iter().flatten().collect())
}
