//! What `repair` did, for people and as JSON.

use std::ops::Range;
use std::path::Path;

use serde::Serialize;

use crate::cli::{CliError, Outcome, print, show_bytes, warn};
use crate::segment::{SegmentError, Severity};
use crate::store::damaged::{Kept, Replaced};
use crate::store::names::unescape;
use crate::store::repair::Patient;
use crate::store::{BadCopy, Thing};

/// All that was done.
#[derive(Debug, Default, Serialize)]
pub(super) struct Report {
    /// Nothing was changed.
    dry_run: bool,
    /// Segments that were looked at.
    files: u64,
    /// Segments that are sound and were left alone.
    sound: u64,
    /// Bytes of content that are lost, all files together.
    lost_bytes: u64,
    /// Segments that were not sound.
    damaged: Vec<Entry>,
    /// What else was done: copies restored, unused ones removed, originals discarded.
    done: Vec<Fixed>,
    /// Files that could not be dealt with.
    failed: Vec<String>,
    #[serde(skip)]
    outcomes: Vec<Outcome>,
}

#[derive(Debug, Serialize)]
struct Entry {
    path: String,
    #[serde(flatten)]
    report: FileReport,
}

/// What became of a segment, or of a copy that can not be restored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Status {
    /// Nothing is wrong with it.
    Sound,
    /// A repaired one took its place.
    Repaired,
    /// What is lost of it was marked by an earlier repair.
    Marked,
    /// Nothing can be read of it; it was left as it is.
    Unreadable,
}

/// One file's result.
#[derive(Debug, Serialize)]
pub(super) struct FileReport {
    status: Status,
    /// What was wrong.
    found: Vec<String>,
    /// What was made whole again.
    healed: Vec<String>,
    /// Ranges of the content that are lost, first byte and end.
    lost: Vec<(u64, u64)>,
    /// Whether something may be missing that nobody can name: changes of the last commit, or a hole at the end.
    maybe_more: bool,
    /// What was wrong that is no block.
    #[serde(skip)]
    structure: Vec<String>,
    /// Whether lost ranges now read as zeros.
    pub(super) filled: bool,
    /// Where the damaged original is.
    original: Option<String>,
    /// All names of a repaired file that has several.
    names: Vec<String>,
}

impl FileReport {
    fn new(status: Status) -> FileReport {
        FileReport {
            status,
            found: Vec::new(),
            healed: Vec::new(),
            lost: Vec::new(),
            maybe_more: false,
            structure: Vec::new(),
            filled: false,
            original: None,
            names: Vec::new(),
        }
    }

    /// A segment that needs nothing.
    pub(super) fn sound() -> FileReport {
        FileReport::new(Status::Sound)
    }

    /// A segment of which nothing can be read.
    pub(super) fn hopeless(error: &SegmentError) -> FileReport {
        FileReport {
            found: vec![error.to_string()],
            ..FileReport::new(Status::Unreadable)
        }
    }

    /// A copy of a model or primer that no other can restore.
    pub(super) fn lost_copy(bad: &BadCopy) -> FileReport {
        FileReport {
            found: vec![format!(
                "{}: {}, and no other copy is good",
                bad.thing,
                bad.what()
            )],
            ..FileReport::new(Status::Unreadable)
        }
    }

    /// A segment that opens.
    pub(super) fn of(patient: &Patient, status: Status) -> FileReport {
        let serious = patient.report().findings.iter();
        let serious = serious.filter(|f| f.severity >= Severity::Warning);
        let structure = serious.clone().filter(|f| f.blocks.is_empty());
        let healed = patient.healed().iter();
        let pair = |r: Range<u64>| (r.start, r.end);
        FileReport {
            structure: structure.map(|f| f.what.clone()).collect(),
            found: serious.map(|f| f.what.clone()).collect(),
            maybe_more: patient.healed().iter().any(|h| h.loses),
            healed: healed
                .map(|h| format!("{} at byte {}: {}", h.part, h.range.start, h.what))
                .collect(),
            lost: patient.lost_bytes().into_iter().map(pair).collect(),
            ..FileReport::new(status)
        }
    }

    /// Says what the repaired file took the place of.
    pub(super) fn replaced(&mut self, done: Replaced) {
        self.original = Some(done.original.display().to_string());
        if done.names.len() > 1 {
            let names = done.names.iter().map(|name| name.display().to_string());
            self.names = names.collect();
        }
    }

    /// Whether nothing is lost.
    fn is_whole(&self) -> bool {
        self.lost.is_empty() && !self.maybe_more
    }

    fn lost_bytes(&self) -> u64 {
        self.lost.iter().map(|(start, end)| end - start).sum()
    }

    fn outcome(&self) -> Outcome {
        match self.status {
            Status::Sound => Outcome::Good,
            Status::Repaired if self.is_whole() => Outcome::Good,
            Status::Repaired | Status::Marked | Status::Unreadable => Outcome::Damaged,
        }
    }

    /// The lines about it, each without the path.
    fn lines(&self, dry_run: bool) -> Vec<String> {
        let mut lines = self.structure.clone();
        lines.extend(self.healed.iter().cloned());
        let ranges = self.lost.iter();
        let ranges = ranges.map(|(start, end)| format!("bytes {start} to {}", end - 1));
        match self.status {
            Status::Sound => {}
            Status::Unreadable => lines.push(format!(
                "nothing can be read, left as it is: {}; restore it from a backup",
                self.found.join("; ")
            )),
            Status::Marked => lines.extend(ranges.map(|r| {
                format!(
                    "{r} are lost since an earlier repair; write them anew, or use --fill-zeros"
                )
            })),
            Status::Repaired => {
                let now = match self.filled {
                    true => "are lost and read as zeros now",
                    false => "are lost; reading them fails until they are written anew",
                };
                lines.extend(ranges.map(|r| format!("{r} {now}")));
                let done = match (dry_run, self.is_whole()) {
                    (true, true) => "can be repaired, nothing is lost",
                    (true, false) => "can be repaired, all else is readable",
                    (false, true) => "repaired, nothing is lost",
                    (false, false) => "repaired, all else is readable",
                };
                let all = match self.names.len() {
                    0 => String::new(),
                    n => format!(" under all of its {n} names"),
                };
                lines.push(match &self.original {
                    Some(original) => {
                        format!("{done}{all}; the damaged original is kept as {original}")
                    }
                    None => done.to_string(),
                });
            }
        }
        lines
    }
}

/// Something that was done and cost nothing.
#[derive(Debug, Serialize)]
pub(super) struct Fixed {
    what: &'static str,
    path: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    detail: Option<String>,
}

impl Fixed {
    /// A copy of a model or primer was written anew from the other one.
    pub(super) fn restored(path: &Path, bad: &BadCopy) -> Fixed {
        Fixed {
            what: "restored",
            path: path.display().to_string(),
            detail: Some(format!("{}, {}", bad.thing, bad.what())),
        }
    }

    /// A model or primer was removed that nothing names.
    pub(super) fn pruned(path: &Path, thing: Thing) -> Fixed {
        Fixed {
            what: "removed",
            path: path.display().to_string(),
            detail: Some(format!("{thing}, which no file needs")),
        }
    }

    /// A damaged original was removed.
    pub(super) fn discarded(kept: &Kept) -> Fixed {
        let was = kept.record.as_ref().map(|r| unescape(&r.file));
        Fixed {
            what: "discarded",
            path: kept.path.display().to_string(),
            detail: was.map(|was| format!("the damaged original of {}", was.display())),
        }
    }

    fn line(&self, dry_run: bool) -> String {
        let would = if dry_run { "would be " } else { "" };
        match &self.detail {
            Some(detail) => format!("{}: {would}{}: {detail}", self.path, self.what),
            None => format!("{}: {would}{}", self.path, self.what),
        }
    }
}

impl Report {
    /// Nothing done yet.
    pub(super) fn new(dry_run: bool) -> Report {
        Report {
            dry_run,
            ..Report::default()
        }
    }

    /// Counts and shows one file's result.
    pub(super) fn take(
        &mut self,
        path: &Path,
        done: Result<FileReport, CliError>,
        json: bool,
    ) -> Result<(), CliError> {
        let report = match done {
            Ok(report) => report,
            Err(error) => {
                self.failed(error);
                return Ok(());
            }
        };
        self.files += 1;
        self.outcomes.push(report.outcome());
        for line in report.lines(self.dry_run).iter().filter(|_| !json) {
            print(format_args!("{}: {line}", path.display()))?;
        }
        if report.status == Status::Sound {
            self.sound += 1;
            return Ok(());
        }
        self.lost_bytes += report.lost_bytes();
        self.damaged.push(Entry {
            path: path.display().to_string(),
            report,
        });
        Ok(())
    }

    /// Counts and shows something that was done beside.
    pub(super) fn fixed(&mut self, fixed: Fixed, json: bool) -> Result<(), CliError> {
        if !json {
            print(fixed.line(self.dry_run))?;
        }
        self.outcomes.push(Outcome::Good);
        self.done.push(fixed);
        Ok(())
    }

    /// Counts and shows a failure.
    pub(super) fn failed(&mut self, error: CliError) {
        warn(&error);
        self.outcomes.push(error.outcome());
        self.failed.push(error.to_string());
    }

    /// How it all went.
    pub(super) fn outcome(&self) -> Outcome {
        Outcome::of_all(self.outcomes.iter().copied())
    }

    /// The sum of it all, where originals were to be discarded and nothing else.
    pub(super) fn discarding_line(&self) -> String {
        let would = if self.dry_run { "would be " } else { "" };
        let mut line = match self.done.len() {
            1 => format!("1 original {would}discarded"),
            n => format!("{n} originals {would}discarded"),
        };
        self.tell_failed(&mut line);
        line
    }

    fn tell_failed(&self, line: &mut String) {
        if !self.failed.is_empty() {
            line.push_str(&format!("; {} could not be dealt with", self.failed.len()));
        }
    }

    /// The sum of it all.
    pub(super) fn closing_line(&self) -> String {
        let with = |status| {
            self.damaged
                .iter()
                .filter(|e| e.report.status == status)
                .count()
        };
        let mut line = format!("{} files checked, {} sound", self.files, self.sound);
        let repaired = if self.dry_run {
            "can be repaired"
        } else {
            "repaired"
        };
        for (status, word) in [
            (Status::Repaired, repaired),
            (Status::Marked, "repaired before"),
            (Status::Unreadable, "unreadable"),
        ] {
            match with(status) {
                0 => {}
                n => line.push_str(&format!(", {n} {word}")),
            }
        }
        if self.lost_bytes > 0 {
            line.push_str(&format!(
                "; {} of content lost",
                show_bytes(self.lost_bytes)
            ));
        }
        self.tell_failed(&mut line);
        line
    }
}
