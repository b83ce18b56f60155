//! What `verify` found, for people and as JSON.

use std::path::{Path, PathBuf};

use serde::Serialize;

use crate::cli::{CliError, Outcome, print, show_bytes, warn};
use crate::segment::{Finding, Report as SegmentReport, Severity, Summary};

/// All that was found.
#[derive(Debug, Default, Serialize)]
pub(super) struct Report {
    /// Files that were read to the end.
    files: u64,
    /// Logical bytes in them.
    bytes: u64,
    damaged: Vec<File>,
    /// Files that are whole, but what keeps them safe is not; also copies of models and primers.
    warnings: Vec<File>,
    /// Files that are whole, with something odd about them.
    notes: Vec<File>,
    /// Files that could not be checked for other reasons.
    failed: Vec<String>,
}

/// A file and what is wrong with it.
#[derive(Debug, Serialize)]
struct File {
    path: String,
    parts: Vec<Part>,
}

/// One thing that is wrong.
#[derive(Debug, Default, Serialize)]
pub(super) struct Part {
    /// The blocks that are lost, first and end; absent if none is or it is not known.
    blocks: Option<(u64, u64)>,
    /// The bytes of the content that are lost, first and end.
    bytes: Option<(u64, u64)>,
    what: String,
}

/// What became of one file.
pub(super) enum Checked {
    /// Nothing is lost; what is odd all the same.
    Sound {
        bytes: u64,
        notes: Vec<Part>,
    },
    /// Nothing is lost, but what keeps it safe is damaged.
    Degraded {
        bytes: u64,
        warnings: Vec<Part>,
    },
    Damaged(Vec<Part>),
    /// It has this name no more.
    Gone,
    Failed(CliError),
}

impl Report {
    /// Counts and shows one file's result.
    pub(super) fn take(
        &mut self,
        path: PathBuf,
        checked: Checked,
        json: bool,
    ) -> Result<Outcome, CliError> {
        match checked {
            Checked::Sound { bytes, notes } => {
                self.files += 1;
                self.bytes += bytes;
                if !notes.is_empty() {
                    show(&path, &notes, "note: ", json)?;
                    self.notes.push(File::new(&path, notes));
                }
                Ok(Outcome::Good)
            }
            Checked::Degraded { bytes, warnings } => {
                self.files += 1;
                self.bytes += bytes;
                show(&path, &warnings, "warning: ", json)?;
                self.warnings.push(File::new(&path, warnings));
                Ok(Outcome::Degraded)
            }
            Checked::Damaged(damage) => {
                self.files += 1;
                show(&path, &damage, "", json)?;
                self.damaged.push(File::new(&path, damage));
                Ok(Outcome::Damaged)
            }
            Checked::Gone => Ok(Outcome::Good),
            Checked::Failed(error) => {
                warn(&error);
                self.failed.push(error.to_string());
                Ok(error.outcome())
            }
        }
    }

    /// Shows what is odd about an archive as a whole.
    pub(super) fn note(
        &mut self,
        path: &Path,
        notes: Vec<Part>,
        json: bool,
    ) -> Result<(), CliError> {
        show(path, &notes, "note: ", json)?;
        self.notes
            .extend((!notes.is_empty()).then(|| File::new(path, notes)));
        Ok(())
    }

    /// The sum of it all.
    pub(super) fn closing_line(&self) -> String {
        let mut line = format!(
            "{} files checked, {} of content: ",
            self.files,
            show_bytes(self.bytes)
        );
        match self.damaged.len() {
            0 if self.failed.is_empty() => line.push_str("no damage"),
            0 => line.push_str("no damage found"),
            1 => line.push_str("1 file is damaged; restore it from a copy, or save the rest with `vortex-fs repair`"),
            n => line.push_str(&format!(
                "{n} files are damaged; restore them from copies, or save the rest with `vortex-fs repair`"
            )),
        }
        match self.warnings.len() {
            0 => {}
            1 => line.push_str("; 1 file needs `vortex-fs repair` to be safe again"),
            n => line.push_str(&format!(
                "; {n} files need `vortex-fs repair` to be safe again"
            )),
        }
        if !self.failed.is_empty() {
            line.push_str(&format!("; {} could not be checked", self.failed.len()));
        }
        line
    }
}

fn show(path: &Path, parts: &[Part], kind: &str, json: bool) -> Result<(), CliError> {
    for part in parts.iter().filter(|_| !json) {
        print(format_args!("{}: {kind}{part}", path.display()))?;
    }
    Ok(())
}

impl Checked {
    /// What the check of a segment says.
    pub(super) fn of_report(report: &SegmentReport) -> Checked {
        let parts = |least: Severity| {
            let found = report.findings.iter().filter(move |f| f.severity >= least);
            found
                .map(|f| Part::of_finding(f, report.summary.as_ref()))
                .collect()
        };
        let bytes = report.summary.map_or(0, |s| s.logical_size);
        match report.worst() {
            Some(Severity::Damage) => Checked::Damaged(parts(Severity::Damage)),
            Some(Severity::Warning) => Checked::Degraded {
                bytes,
                warnings: parts(Severity::Warning),
            },
            Some(Severity::Note) | None => Checked::Sound {
                bytes,
                notes: parts(Severity::Note),
            },
        }
    }
}

impl File {
    fn new(path: &Path, parts: Vec<Part>) -> File {
        File {
            path: path.display().to_string(),
            parts,
        }
    }
}

impl Part {
    /// Something about a file as a whole.
    pub(super) fn of_file(what: String) -> Part {
        Part {
            what,
            ..Part::default()
        }
    }

    fn of_finding(finding: &Finding, summary: Option<&Summary>) -> Part {
        let blocks =
            (!finding.blocks.is_empty()).then_some((finding.blocks.start, finding.blocks.end));
        let bytes = finding.content(summary).map(|r| (r.start, r.end));
        Part {
            blocks,
            bytes,
            what: finding.what.clone(),
        }
    }
}

impl std::fmt::Display for Part {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.blocks {
            Some((first, end)) if end == first + 1 => write!(f, "block {first}")?,
            Some((first, end)) => write!(f, "blocks {first} to {}", end - 1)?,
            None => {}
        }
        if let Some((first, end)) = self.bytes {
            write!(f, " (bytes {first} to {})", end.saturating_sub(1))?;
        }
        if self.blocks.is_some() {
            f.write_str(": ")?;
        }
        f.write_str(&self.what)
    }
}
