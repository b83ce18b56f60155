//! `vortex-fs bench model`: what a model and its memory are worth.

use std::path::PathBuf;

use serde::Serialize;

use crate::bench::files::files;
use crate::bench::model::{Cost, means, measure};
use crate::cli::files::Models;
use crate::cli::size::parse_size;
use crate::cli::{CliError, Outcome, Progress, print, print_json};
use crate::pack::DEFAULT_PROFILE;

use super::codec::failure;

/// Code blocks with the statistics alone, with a model alone and less and less of its memory, and with both
///
/// Each block of 64 KiB is coded cold, without key blocks. Of a model that was trained with its memory, the figures without it
/// are upper bounds.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  vortex-fs bench model /data/march
  vortex-fs bench model --profile mine.safetensors --bytes 1M --json vibration.bin")]
pub(super) struct Args {
    /// Files and directories
    #[arg(value_name = "PATH", required = true)]
    paths: Vec<PathBuf>,
    /// Model to measure: a name that `vortex-fs profiles` lists, or a .safetensors file
    #[arg(long, value_name = "NAME|FILE", default_value = DEFAULT_PROFILE)]
    profile: String,
    /// Bytes at the start of each file that are coded
    #[arg(long, value_name = "SIZE", default_value = "128K", value_parser = parse_size)]
    bytes: u64,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

#[derive(Serialize)]
struct Report {
    profile: String,
    files: Vec<Row>,
    mean: Vec<Cost>,
}

#[derive(Serialize)]
struct Row {
    path: String,
    costs: Vec<Cost>,
}

pub(super) fn run(args: Args) -> Result<Outcome, CliError> {
    let profile = Models::built_in().profile(&args.profile)?;
    let paths = files(&args.paths).map_err(|e| CliError::failed(e.to_string()))?;
    let progress = Progress::bytes("blocks", size(&paths, args.bytes));
    if !args.json {
        print(format!(
            "{:>10} {:>10} {:>10} {:>10} {:>10}  bits a byte of",
            "statistics", "no memory", "recent", "model", "both"
        ))?;
    }
    let (mut rows, mut all) = (Vec::new(), Vec::new());
    for path in &paths {
        let costs = measure(path, &profile.model, args.bytes).map_err(|e| failure(path, e))?;
        progress.add(size(std::slice::from_ref(path), args.bytes));
        let Some(costs) = costs else { continue };
        let path = path.display().to_string();
        if !args.json {
            print(line(&costs, |c| format!("{:.3}", c.bits_per_byte), &path))?;
        }
        all.push(costs.clone());
        rows.push(Row { path, costs });
    }
    if all.is_empty() {
        return Err(CliError::failed("there are no bytes to measure")
            .remedy("name files that are not empty"));
    }
    let mean = means(&all);
    if args.json {
        print_json(&Report {
            profile: args.profile,
            files: rows,
            mean,
        })?;
    } else {
        print(line(
            &mean,
            |c| format!("{:.3}", c.bits_per_byte),
            "geometric mean",
        ))?;
        print(line(
            &mean,
            |c| format!("{:.1}", c.kb_s),
            "thousand bytes a second",
        ))?;
    }
    Ok(Outcome::Good)
}

/// Bytes that are coded of these files, as far as is known.
fn size(paths: &[PathBuf], most: u64) -> u64 {
    let len = |path: &PathBuf| std::fs::metadata(path).map_or(0, |m| m.len().min(most));
    paths.iter().map(len).sum()
}

fn line(costs: &[Cost], figure: impl Fn(&Cost) -> String, of: &str) -> String {
    let figures = costs.iter().map(|c| format!("{:>10} ", figure(c)));
    figures.collect::<String>() + " " + of
}
