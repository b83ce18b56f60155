//! Checking a whole segment: every structure and every payload, with the place of all that is wrong.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;

use crate::codec::CodecError;

use super::Segment;
use super::entry::BlockEntry;
use super::error::{Part, SegmentError};
use super::header::HEADER_LEN;
use super::page::Page;
use super::peek::{State, Summary, peek_all};
use super::root::{SLOT_LEN, SLOTS_LEN, Slot};
use super::scan::{ZEROED, lost_its_beginning};
use super::storage::Storage;

/// How bad a finding is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Severity {
    /// Odd, but no content is lost.
    Note,
    /// All content is there, but a safeguard of it is not, or a newer state may have been lost.
    Warning,
    /// Content can not be read, or is not what was written.
    Damage,
}

/// One thing that is wrong with a segment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// How bad it is.
    pub severity: Severity,
    /// Which part of the segment.
    pub part: Part,
    /// The bytes of the file that hold the part.
    pub range: Range<u64>,
    /// The blocks that are lost by it; empty if none or not known.
    pub blocks: Range<u64>,
    /// What is wrong, for people.
    pub what: String,
}

/// What a check found.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Report {
    /// Form and sizes, where the segment could be opened.
    pub summary: Option<Summary>,
    /// Blocks that were read.
    pub blocks: u64,
    /// All that is wrong, in the order of the blocks.
    pub findings: Vec<Finding>,
}

impl Finding {
    /// The bytes of the content that are lost by it, where blocks are, in a segment with this summary.
    #[must_use]
    pub fn content(&self, summary: Option<&Summary>) -> Option<Range<u64>> {
        let summary = summary.filter(|_| !self.blocks.is_empty())?;
        let size = u64::from(summary.block_size);
        let end = self.blocks.end.saturating_mul(size);
        Some(self.blocks.start.saturating_mul(size)..end.min(summary.logical_size))
    }
}

impl Report {
    /// Whether all content is there.
    #[must_use]
    pub fn is_sound(&self) -> bool {
        self.worst() < Some(Severity::Damage)
    }

    /// How bad the worst finding is; none if there is no finding.
    #[must_use]
    pub fn worst(&self) -> Option<Severity> {
        self.findings.iter().map(|f| f.severity).max()
    }

    fn damage(&mut self, part: Part, range: Range<u64>, blocks: Range<u64>, what: impl ToString) {
        self.findings.push(Finding {
            severity: Severity::Damage,
            part,
            range,
            blocks,
            what: what.to_string(),
        });
    }

    fn note(&mut self, severity: Severity, part: Part, range: Range<u64>, what: &str) {
        let what = what.to_owned();
        self.findings.push(Finding {
            severity,
            part,
            range,
            blocks: 0..0,
            what,
        });
    }
}

/// Reads everything that the newest root names; gives each sound payload to `decode`, which says what is wrong with it.
///
/// # Errors
/// The file can not be read at all. All else, unreadable blocks included, is in the report.
pub fn check(
    storage: Arc<dyn Storage>,
    mut decode: impl FnMut(u64, &BlockEntry, Vec<u8>) -> Result<(), String>,
) -> Result<Report, SegmentError> {
    let mut report = Report::default();
    let mut parts: Vec<(Part, Range<u64>)> = Vec::new();
    let peeked = match peek_all(&*storage) {
        Ok(peeked) => peeked,
        Err(e @ SegmentError::Io(_)) => return Err(e),
        Err(e) => {
            let (part, range) = match e {
                SegmentError::NoRoot { offset }
                | SegmentError::Invalid {
                    part: Part::Root,
                    offset,
                    ..
                } => (Part::Root, offset..offset.saturating_add(SLOTS_LEN as u64)),
                _ => (Part::Header, 0..HEADER_LEN as u64),
            };
            report.damage(part, range, 0..0, e);
            return Ok(report);
        }
    };
    report.summary = Some(peeked.summary);
    match &peeked.state {
        State::Bare if storage.is_empty()? => return Ok(report),
        State::Bare if lost_its_beginning(&*storage)? => {
            report.damage(Part::Header, 0..HEADER_LEN as u64, 0..0, ZEROED);
            return Ok(report);
        }
        State::Bare => report.note(
            Severity::Note,
            Part::Header,
            0..storage.len()?,
            "a first commit was begun and never finished",
        ),
        State::Sealed => parts.push((Part::Header, 0..HEADER_LEN as u64)),
        State::Live {
            roots_offset,
            slots,
            current,
        } => {
            parts.push((Part::Header, 0..HEADER_LEN as u64));
            parts.push((Part::Root, *roots_offset..roots_offset + SLOTS_LEN as u64));
            let at = |slot: usize| roots_offset + (slot * SLOT_LEN) as u64;
            if current.is_none() {
                report.note(
                    Severity::Note,
                    Part::Root,
                    at(0)..at(2),
                    "a first commit was begun and never finished",
                );
            }
            for (index, _) in slots
                .iter()
                .enumerate()
                .filter(|(_, s)| **s == Slot::Damaged)
            {
                report.note(
                    Severity::Warning,
                    Part::Root,
                    at(index)..at(index + 1),
                    "the root slot that is not current is damaged; if it held a newer state, that is lost",
                );
            }
        }
    }
    let whole = 0..peeked
        .summary
        .logical_size
        .div_ceil(peeked.summary.block_size.into());
    if let Some(directory) = peeked.directory {
        parts.push((Part::Directory, directory.offset..directory.end()));
    }
    let segment = match Segment::open(storage) {
        Ok(segment) => segment,
        Err(e) => {
            let range = peeked.directory.map_or(0..0, |d| d.offset..d.end());
            report.damage(Part::Directory, range, whole, e);
            return Ok(report);
        }
    };
    let mut keys: BTreeMap<u64, Vec<&BlockEntry>> = BTreeMap::new();
    for key in segment.starts().payloads() {
        keys.entry(key.offset).or_default().push(key);
    }
    for (&number, at) in &segment.directory.pages {
        let range = at.offset..at.end();
        parts.push((Part::Page, range.clone()));
        let page = match segment.read_page(number, at) {
            Ok(page) => page,
            Err(e) => {
                let first = Page::first_block(number).unwrap_or(u64::MAX);
                let end = Page::block_after(number).unwrap_or(u64::MAX).min(whole.end);
                report.damage(Part::Page, range, first..end, e);
                continue;
            }
        };
        for &(block, entry) in page.entries() {
            report.blocks += 1;
            let lost = block..block.saturating_add(1);
            parts.push((Part::Payload, entry.range()));
            // A block and the start state that is made of it share the payload; two states never do.
            if let Some(here) = keys.get_mut(&entry.offset)
                && let Some(shared) = here.iter().position(|k| k.len == entry.len)
            {
                here.remove(shared);
            }
            if entry.is_lost() {
                report.damage(Part::Payload, entry.range(), lost, CodecError::Lost);
                continue;
            }
            let read = segment.read_payload(&entry).map_err(|e| e.to_string());
            if let Err(what) = read.and_then(|payload| decode(block, &entry, payload)) {
                report.damage(Part::Payload, entry.range(), lost, what);
            }
        }
    }
    // The blocks that start from a payload that only the table names are not known here; decoding finds them.
    for key in keys.into_values().flatten() {
        parts.push((Part::Payload, key.range()));
        if let Err(what) = segment.read_payload(key) {
            report.damage(Part::Payload, key.range(), 0..0, what);
        }
    }
    report_overlaps(parts, &mut report);
    Ok(report)
}

fn report_overlaps(mut parts: Vec<(Part, Range<u64>)>, report: &mut Report) {
    parts.retain(|(_, range)| !range.is_empty());
    parts.sort_by_key(|(_, range)| range.start);
    let mut reached = 0;
    for (part, range) in parts {
        if range.start < reached {
            // Each part has its own checksum, so all may be well; but giving one back would take the other with it.
            let what = "it overlaps another part of the segment";
            report.note(Severity::Warning, part, range.clone(), what);
        }
        reached = reached.max(range.end);
    }
}
