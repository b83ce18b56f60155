//! `vortex-fs bench`: size and speed on the user's own files.

use std::io;
use std::path::PathBuf;

use serde::Serialize;

use super::files::Models;
use super::mount::parse_block_size;
use super::{CliError, Outcome, percent, print, print_json};
use crate::bench::codec::{self, Row};
use crate::bench::peers::PeerSizes;
use crate::pack::DEFAULT_PROFILE;
use crate::store::KeyRun;

/// Measure size and speed on your own files, without storing anything
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  vortex-fs bench codec /data/march
  vortex-fs bench codec --peers --block-size 256K --json vibration.bin")]
pub(crate) struct Args {
    #[command(subcommand)]
    part: Part,
}

#[derive(Debug, clap::Subcommand)]
enum Part {
    Codec(CodecArgs),
}

/// Encode and decode files block by block in memory, with one thread
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  vortex-fs bench codec /data/march
  vortex-fs bench codec --peers --block-size 256K --json vibration.bin")]
struct CodecArgs {
    /// Files and directories
    #[arg(value_name = "PATH", required = true)]
    paths: Vec<PathBuf>,
    /// Model to measure: a name that `vortex-fs profiles` lists, or a .safetensors file
    #[arg(long, value_name = "NAME|FILE", default_value = DEFAULT_PROFILE)]
    profile: String,
    /// Bytes of a block
    #[arg(long, value_name = "SIZE", default_value = "64K", value_parser = parse_block_size)]
    block_size: u32,
    /// Blocks at the start of every 1024 that teach the others, 0 to 16
    #[arg(long, value_name = "N", default_value_t = KeyRun::default().blocks, value_parser = clap::value_parser!(u8).range(0..=16))]
    key_blocks: u8,
    /// Also compress each whole file with gzip -9, zstd -19 and xz -9
    #[arg(long)]
    peers: bool,
    /// Print a JSON list
    #[arg(long)]
    json: bool,
}

/// One file's figures, with those of other compressors if they were asked for.
#[derive(Serialize)]
struct Measured {
    #[serde(flatten)]
    row: Row,
    #[serde(flatten)]
    peers: Option<PeerSizes>,
}

pub(crate) fn run(args: Args) -> Result<Outcome, CliError> {
    let Part::Codec(args) = args.part;
    let profile = Models::built_in().profile(&args.profile)?;
    let mut all = Vec::new();
    for path in codec::files(&args.paths).map_err(|e| CliError::failed(e.to_string()))? {
        let fail = |e: io::Error| match e.kind() {
            io::ErrorKind::InvalidData => {
                CliError::damaged(e.to_string()).remedy("please report this")
            }
            _ => CliError::io(&path, &e),
        };
        let data = std::fs::read(&path).map_err(fail)?;
        let row = codec::measure(
            &path,
            &data,
            args.block_size as usize,
            &profile.model,
            KeyRun::of(args.key_blocks),
        )
        .map_err(fail)?;
        let peers = args
            .peers
            .then(|| PeerSizes::of(&data))
            .transpose()
            .map_err(fail)?;
        let measured = Measured { row, peers };
        if !args.json {
            if all.is_empty() {
                print(heading(args.peers))?;
            }
            print(line(&measured))?;
        }
        all.push(measured);
    }
    if args.json {
        print_json(&all)?;
    } else if all.len() > 1 {
        print(line(&total(&all)))?;
    }
    Ok(Outcome::Good)
}

fn heading(peers: bool) -> String {
    let figures = format!(
        "{:>12} {:>12} {:>7} {:>7} {:>9} {:>9} {:>9}",
        "bytes", "stored", "share", "bits/B", "pack MB/s", "read MB/s", "worst ms"
    );
    if peers {
        format!(
            "{figures} {:>12} {:>12} {:>12}  file",
            "gzip -9", "zstd -19", "xz -9"
        )
    } else {
        figures + "  file"
    }
}

fn line(measured: &Measured) -> String {
    let row = &measured.row;
    let mut line = format!(
        "{:>12} {:>12} {:>7} {:>7.3} {:>9.3} {:>9.3} {:>9.1}",
        row.bytes,
        row.stored,
        percent(row.stored, row.bytes),
        row.bits_per_byte,
        row.pack_mb_s,
        row.unpack_mb_s,
        row.slowest_block_ms
    );
    if let Some(peers) = &measured.peers {
        line += &format!(
            " {:>12} {:>12} {:>12}",
            peers.gzip_9, peers.zstd_19, peers.xz_9
        );
    }
    line + "  " + &row.path
}

/// Sums of sizes; speeds over all the bytes; the worst of the worst.
fn total(all: &[Measured]) -> Measured {
    let bytes: u64 = all.iter().map(|m| m.row.bytes).sum();
    let stored: u64 = all.iter().map(|m| m.row.stored).sum();
    let seconds = |speed: fn(&Row) -> f64| -> f64 {
        all.iter()
            .map(|m| m.row.bytes as f64 / 1e6 / speed(&m.row).max(1e-9))
            .sum::<f64>()
            .max(1e-9)
    };
    let mut blocks = [0; 4];
    for m in all {
        for (sum, n) in blocks.iter_mut().zip(m.row.blocks) {
            *sum += n;
        }
    }
    let peers = all
        .iter()
        .filter_map(|m| m.peers.as_ref())
        .copied()
        .reduce(|mut sum, one| {
            sum.add(&one);
            sum
        });
    let row = Row {
        path: "all files".to_owned(),
        bytes,
        stored,
        bits_per_byte: 8.0 * stored as f64 / (bytes as f64).max(1.0),
        pack_mb_s: bytes as f64 / 1e6 / seconds(|row| row.pack_mb_s),
        unpack_mb_s: bytes as f64 / 1e6 / seconds(|row| row.unpack_mb_s),
        blocks,
        slowest_block_ms: all
            .iter()
            .map(|m| m.row.slowest_block_ms)
            .fold(0.0, f64::max),
    };
    Measured { row, peers }
}
