//! Verifying a segment: structure, checksums and the decoding of every block.

use std::fs::File;
use std::path::Path;
use std::sync::Arc;

use rayon::prelude::*;

use super::error::StoreError;
use super::models::ModelStore;
use super::reader::decode_payload;
use crate::segment::{self, BlockEntry, Finding, Part, Report, Severity, Storage};

/// Payloads that are read before they are decoded in parallel.
const BATCH: usize = 32;

/// Reads and decodes everything in the segment at `path` and reports what is damaged. `progress` is called with decoded bytes.
///
/// # Errors
/// I/O errors, and models that are missing or do not load, which are no damage of this segment.
pub fn verify_segment(
    path: &Path,
    models: &ModelStore,
    progress: &(dyn Fn(u64) + Sync),
) -> Result<Report, StoreError> {
    let file = File::open(path).map_err(StoreError::io(path))?;
    let storage: Arc<dyn Storage> = Arc::new(file);
    let mut batch: Vec<(u64, BlockEntry, Vec<u8>)> = Vec::with_capacity(BATCH);
    let mut found: Vec<Finding> = Vec::new();
    let mut failed = None;
    let checked = segment::check(storage, |block, entry, payload| {
        batch.push((block, *entry, payload));
        if batch.len() == BATCH && failed.is_none() {
            match decode_batch(&batch, models, progress) {
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
    found.extend(decode_batch(&batch, models, progress)?);
    report.findings.extend(found);
    report.findings.sort_by_key(|f| f.blocks.start);
    Ok(report)
}

fn decode_batch(
    batch: &[(u64, BlockEntry, Vec<u8>)],
    models: &ModelStore,
    progress: &(dyn Fn(u64) + Sync),
) -> Result<Vec<Finding>, StoreError> {
    let results: Vec<Option<Finding>> = batch
        .par_iter()
        .map(|(block, entry, payload)| {
            let result = decode_payload(*block, entry, payload, models);
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
