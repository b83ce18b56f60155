//! Repair of one damaged segment: what can be healed or read goes into a new one, the rest is named exactly.
//!
//! Nothing is changed here but the temporary file; [`super::damaged`] puts it in place and keeps the original.

use std::collections::BTreeSet;
use std::fs::File;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use super::decode::decode_entry;
use super::error::StoreError;
use super::library::Library;
use super::temp::TempFile;
use super::verify::{Depth, verify_storage};
use crate::segment::{
    self, BlockEntry, Healed, LostBlocks, Report, SealedWriter, Segment, SegmentError, Severity,
    StartEntry, Storage,
};

/// What a look at a segment says about repairing it.
pub enum Diagnosis {
    /// Nothing to repair.
    Sound,
    /// All its damage is marked by an earlier repair: the bytes of these ranges are lost.
    Marked(Box<Patient>),
    /// A repair will bring back all but the lost bytes.
    Repairable(Box<Patient>),
    /// Nothing can be read, for this reason.
    Hopeless(SegmentError),
}

/// A damaged segment that opens, maybe with its index healed.
pub struct Patient {
    segment: Segment,
    report: Report,
    lost: BTreeSet<u64>,
    healed: Vec<Healed>,
}

/// Looks at a segment: decodes everything, heals what can be healed, and decodes that. `path` is for messages.
///
/// # Errors
/// I/O errors; a model or primer that blocks need is missing or damaged, so that nobody can tell what is lost.
pub fn diagnose(
    file: Arc<File>,
    path: &Path,
    library: &Library,
    depth: Depth,
    progress: &(dyn Fn(u64) + Sync),
) -> Result<Diagnosis, StoreError> {
    if let Ok(segment) = Segment::open(Arc::clone(&file) as Arc<dyn Storage>) {
        check_needs(&segment, library)?;
    }
    let storage = Arc::clone(&file) as Arc<dyn Storage>;
    let report = match verify_storage(Arc::clone(&storage), path, library, depth, progress) {
        Ok(report) => report,
        // The healing looks once more at what the disk does not give.
        Err(e) if e.is_medium_error() => Report::default(),
        Err(e) => return Err(e),
    };
    if report.summary.is_some() && report.worst() < Some(Severity::Warning) {
        return Ok(Diagnosis::Sound);
    }
    let decodes = |segment: &Segment, block: u64, entry: &BlockEntry| {
        decode_entry(segment, block, entry, library).is_ok()
    };
    let healing = segment::heal(storage, &decodes);
    let segment = match Segment::open(Arc::clone(&healing.storage)) {
        Ok(segment) => segment,
        Err(error) => return Ok(Diagnosis::Hopeless(error)),
    };
    check_needs(&segment, library)?;
    let after = verify_storage(healing.storage, path, library, Depth::Content, progress)?;
    let damage = after
        .findings
        .iter()
        .filter(|f| f.severity == Severity::Damage);
    let lost: BTreeSet<u64> = damage.flat_map(|f| f.blocks.clone()).collect();
    let patient = Box::new(Patient {
        segment,
        report,
        lost,
        healed: healing.healed,
    });
    Ok(match patient.is_marked() {
        true => Diagnosis::Marked(patient),
        false => Diagnosis::Repairable(patient),
    })
}

impl Patient {
    /// What was wrong before anything was healed.
    #[must_use]
    pub fn report(&self) -> &Report {
        &self.report
    }

    /// What was healed.
    #[must_use]
    pub fn healed(&self) -> &[Healed] {
        &self.healed
    }

    /// Bytes of the content.
    #[must_use]
    pub fn size(&self) -> u64 {
        self.segment.logical_size()
    }

    /// The ranges of the content whose bytes are lost, ascending and not touching.
    #[must_use]
    pub fn lost_bytes(&self) -> Vec<Range<u64>> {
        let unit = u64::from(self.segment.block_size());
        let mut ranges: Vec<Range<u64>> = Vec::new();
        for &block in &self.lost {
            let start = block.saturating_mul(unit);
            let held = match self.segment.entry(block) {
                Ok(Some(entry)) => u64::from(entry.visible_len),
                _ => unit,
            };
            let end = start.saturating_add(held).min(self.size());
            match ranges.last_mut() {
                Some(last) if last.end == start => last.end = end,
                _ if start < end => ranges.push(start..end),
                _ => {}
            }
        }
        ranges
    }

    /// Whether nothing is wrong but blocks that an earlier repair marked.
    fn is_marked(&self) -> bool {
        let serious = self.report.findings.iter();
        let mut serious = serious
            .filter(|f| f.severity >= Severity::Warning)
            .peekable();
        serious.peek().is_some()
            && serious.all(|f| {
                let lost = |block| matches!(self.segment.entry(block), Ok(Some(e)) if e.is_lost());
                f.part == segment::Part::Payload
                    && !f.blocks.is_empty()
                    && f.blocks.clone().all(lost)
            })
    }

    /// Writes the repaired segment to an empty temporary file, and reads and decodes all of it again.
    ///
    /// # Errors
    /// I/O errors; `ReadBack` if it is not what it should be.
    pub fn rebuild(
        &self,
        temp: &TempFile,
        fate: LostBlocks,
        library: &Library,
    ) -> Result<(), StoreError> {
        let storage = Arc::clone(temp.file()) as Arc<dyn Storage>;
        let writer = SealedWriter::new(Arc::clone(&storage), self.segment.block_size())?
            .with_profile(self.segment.summary().made_with);
        segment::salvage(&self.segment, &self.lost, fate, writer)?;
        let name = Path::new("repaired segment");
        let found = verify_storage(Arc::clone(&storage), name, library, Depth::Content, &|_| {})?;
        let rebuilt = Segment::open(storage)?;
        if rebuilt.logical_size() != self.size() {
            return Err(StoreError::ReadBack { block: 0 });
        }
        let serious = found.findings.iter();
        for finding in serious.filter(|f| f.severity >= Severity::Warning) {
            let marked = |block| self.lost.contains(&block) && fate == LostBlocks::Marked;
            if finding.blocks.is_empty() || !finding.blocks.clone().all(marked) {
                let block = finding.blocks.start;
                return Err(StoreError::ReadBack { block });
            }
        }
        self.compare(&rebuilt)
    }

    /// Both segments have the same blocks but for the lost ones; each was decoded and has its entry's checksum.
    fn compare(&self, rebuilt: &Segment) -> Result<(), StoreError> {
        let content = |e: &BlockEntry| (e.decoded_crc, e.decoded_len, e.visible_len);
        let kept = |(block, _): &(u64, BlockEntry)| !self.lost.contains(block);
        // An index page that can not be read has all its blocks in `lost`.
        let mut before = self.segment.entries().flatten().filter(kept);
        let after: Vec<_> = rebuilt.entries().collect::<Result<_, _>>()?;
        for (block, entry) in after.into_iter().filter(kept) {
            match before.next() {
                Some((b, e)) if b == block && content(&e) == content(&entry) => {}
                _ => return Err(StoreError::ReadBack { block }),
            }
        }
        match before.next() {
            None => Ok(()),
            Some((block, _)) => Err(StoreError::ReadBack { block }),
        }
    }
}

/// All models and primers that blocks and start states need are there and good.
fn check_needs(segment: &Segment, library: &Library) -> Result<(), StoreError> {
    let blocks = segment.entries().flatten().filter_map(|(_, e)| e.model);
    let models: BTreeSet<_> = blocks.chain(segment.starts().models()).collect();
    for id in models {
        library.models().get(id)?;
    }
    for start in segment.starts().entries() {
        if let StartEntry::Primer(id) = start {
            library.primed(*id)?;
        }
    }
    Ok(())
}
