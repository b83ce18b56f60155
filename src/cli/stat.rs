//! `vortex-fs stat`: what a segment, a plain file or a whole tree holds and takes.

use std::collections::BTreeSet;
use std::fs::File;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::Serialize;

use super::files::{BlockCounts, for_each_path, walk, with_path};
use super::{CliError, Outcome, print, print_json, ratio, show_bytes, warn};
use crate::segment::{Form, Segment, StartEntry, Storage};
use crate::store::names::{self, Kind};
use crate::store::{StoreError, open_regular};

/// Show sizes, ratio, codecs, models and primers of segments or of whole directories
///
/// Reads only headers and indexes; use `vortex-fs verify` to check the data.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  vortex-fs stat march.csv.vortex
  vortex-fs stat --json /srv/archive | jq .[0].ratio")]
pub(crate) struct Args {
    /// Segments, plain files or directories
    #[arg(value_name = "PATH", required = true)]
    paths: Vec<PathBuf>,
    /// Print a JSON list with an entry for every PATH
    #[arg(long)]
    json: bool,
}

/// Figures of one file, or totals of a directory.
#[derive(Debug, Default, Serialize)]
struct Figures {
    path: String,
    /// `sealed`, `live`, `plain` or `directory`.
    form: &'static str,
    /// Regular files counted, and how many of them are segments.
    files: u64,
    segments: u64,
    /// Bytes of content.
    logical: u64,
    /// Bytes that the content takes in its file: all of a plain or sealed one, the live part of a live one.
    stored: u64,
    /// Bytes that the backing file system has set aside.
    disk: u64,
    ratio: Option<f64>,
    bits_per_byte: Option<f64>,
    block_size: Option<u32>,
    blocks: BlockCounts,
    /// Blocks that were coded from key blocks or a primer.
    started: u64,
    models: BTreeSet<String>,
    primers: BTreeSet<String>,
}

pub(crate) fn run(args: Args) -> Result<Outcome, CliError> {
    let mut all = Vec::new();
    let outcome = for_each_path(&args.paths, |path| {
        let (figures, outcome) = figures_of(path)?;
        if !args.json {
            show(&figures)?;
        }
        all.push(figures);
        Ok(outcome)
    })?;
    if args.json {
        print_json(&all)?;
    }
    Ok(outcome)
}

fn figures_of(path: &Path) -> Result<(Figures, Outcome), CliError> {
    let metadata = std::fs::metadata(path).map_err(|e| CliError::io(path, &e))?;
    if !metadata.is_dir() {
        let name = path.file_name().unwrap_or_default();
        let is_segment = names::logical_name(name, metadata.is_file()).1 == Kind::Segment;
        return Ok((file_figures(path, is_segment)?, Outcome::Good));
    }
    let mut total = Figures {
        path: path.display().to_string(),
        form: "directory",
        ..Figures::default()
    };
    let (found, failures) = walk(path);
    let mut outcomes: Vec<Outcome> = failures.iter().map(CliError::outcome).collect();
    failures.iter().for_each(warn);
    for file in found {
        match file_figures(&file.path, file.is_segment) {
            Ok(figures) => {
                total.add(&figures);
                outcomes.push(Outcome::Good);
            }
            Err(error) => {
                warn(&error);
                outcomes.push(error.outcome());
            }
        }
    }
    total.finish();
    Ok((total, Outcome::of_all(outcomes)))
}

fn file_figures(path: &Path, is_segment: bool) -> Result<Figures, CliError> {
    let fail = |e: std::io::Error| CliError::io(path, &e);
    let metadata = std::fs::metadata(path).map_err(fail)?;
    let disk = metadata.blocks().saturating_mul(512);
    let mut figures = Figures {
        path: path.display().to_string(),
        files: 1,
        disk,
        ..Figures::default()
    };
    if is_segment {
        let file = match path.is_symlink() {
            true => File::open(path),
            false => open_regular(path),
        };
        let file = file.map_err(fail)?;
        let with_path = with_path(path);
        read_index(file, &mut figures).map_err(|e| with_path(StoreError::from(e)))?;
    } else {
        figures.form = "plain";
        figures.logical = metadata.len();
        figures.stored = metadata.len();
    }
    figures.finish();
    Ok(figures)
}

fn read_index(file: File, figures: &mut Figures) -> crate::segment::Result<()> {
    let segment = Segment::open(Arc::new(file) as Arc<dyn Storage>)?;
    let summary = segment.summary();
    figures.form = match summary.form {
        Form::Sealed => "sealed",
        Form::Live => "live",
    };
    figures.segments = 1;
    figures.logical = summary.logical_size;
    figures.stored = summary.live_bytes;
    figures.block_size = Some(summary.block_size);
    let mut stored_blocks = 0;
    for entry in segment.entries() {
        let (_, entry) = entry?;
        figures.blocks.count(entry.codec);
        figures.models.extend(entry.model.map(|id| id.to_string()));
        figures.started += u64::from(entry.start != 0);
        stored_blocks += 1;
    }
    let of_states = segment.starts().models();
    figures.models.extend(of_states.map(|id| id.to_string()));
    figures
        .primers
        .extend(segment.starts().entries().iter().filter_map(primer));
    figures.blocks.holes = summary
        .logical_size
        .div_ceil(u64::from(summary.block_size))
        .saturating_sub(stored_blocks);
    Ok(())
}

fn primer(start: &StartEntry) -> Option<String> {
    match start {
        StartEntry::Primer(id) => Some(id.to_string()),
        StartEntry::Block { .. } => None,
    }
}

impl Figures {
    fn add(&mut self, file: &Figures) {
        self.files += file.files;
        self.segments += file.segments;
        self.logical = self.logical.saturating_add(file.logical);
        self.stored = self.stored.saturating_add(file.stored);
        self.disk = self.disk.saturating_add(file.disk);
        self.blocks.add(&file.blocks);
        self.started += file.started;
        self.models.extend(file.models.iter().cloned());
        self.primers.extend(file.primers.iter().cloned());
    }

    fn finish(&mut self) {
        self.ratio = ratio(self.logical, self.stored);
        self.bits_per_byte =
            (self.logical > 0).then(|| 8.0 * self.stored as f64 / self.logical as f64);
    }
}

fn show(figures: &Figures) -> Result<(), CliError> {
    let exact = |bytes: u64| {
        if bytes < 1024 {
            show_bytes(bytes)
        } else {
            format!("{} ({bytes} bytes)", show_bytes(bytes))
        }
    };
    let mut lines = vec![figures.path.clone()];
    let mut line =
        |name: &str, value: String| lines.push(format!("  {:<14}{value}", format!("{name}:")));
    line(
        "form",
        match figures.form {
            "directory" => format!(
                "directory of {} files: {} segments, {} plain",
                figures.files,
                figures.segments,
                figures.files - figures.segments
            ),
            form => form.to_owned(),
        },
    );
    line("logical size", exact(figures.logical));
    line("stored size", exact(figures.stored));
    line("on disk", exact(figures.disk));
    if let (Some(ratio), Some(bits)) = (figures.ratio, figures.bits_per_byte) {
        line("ratio", format!("{ratio:.2} ({bits:.3} bits per byte)"));
    }
    if let Some(size) = figures.block_size {
        line("block size", show_bytes(size.into()));
    }
    if figures.segments > 0 {
        line("blocks", figures.blocks.to_string());
    }
    if figures.started > 0 {
        line(
            "started",
            format!("{} blocks, from key blocks or a primer", figures.started),
        );
    }
    for primer in &figures.primers {
        line("primer", primer.clone());
    }
    for model in &figures.models {
        line("model", model.clone());
    }
    lines.into_iter().try_for_each(print)
}
