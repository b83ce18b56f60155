//! `vortex-fs bench codec`: what packing makes of files.

use std::path::{Path, PathBuf};

use serde::Serialize;

use crate::bench::BenchError;
use crate::bench::codec::{self, Settings};
use crate::bench::figures::{Figures, Measured, PeerFigures, Reads};
use crate::bench::files::files;
use crate::bench::peers::Peer;
use crate::cli::files::{Models, NewFile, store_failure};
use crate::cli::mount::parse_block_size;
use crate::cli::{
    CliError, Outcome, Progress, make_removed_if_killed, print, print_json, print_lines, warn,
};
use crate::pack::DEFAULT_PROFILE;
use crate::store::{KeyRun, Profile};

/// Pack files into a temporary file with one thread, unpack them, and read at single places
///
/// Sizes are of whole segments, all headers and the index included. Reads are of 4 KiB without a cache of decoded blocks: `first`
/// with no start state made, `primed` with the block's start state at hand. All that is decoded is compared.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  vortex-fs bench codec /data/march
  vortex-fs bench codec --peer xz,zpaq --reads 256 --json vibration.bin")]
pub(super) struct Args {
    /// Files and directories
    #[arg(value_name = "PATH", required = true)]
    paths: Vec<PathBuf>,
    /// Model to measure: a name that `vortex-fs profiles` lists, a .safetensors file, or `none`
    #[arg(long, value_name = "NAME|FILE", default_value = DEFAULT_PROFILE)]
    profile: String,
    /// Bytes of a block
    #[arg(long, value_name = "SIZE", default_value = "64K", value_parser = parse_block_size)]
    block_size: u32,
    /// Blocks at the start of every 1024 that teach the others, 0 to 16 [default: what the profile says: 4, or 16]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u8).range(0..=16))]
    key_blocks: Option<u8>,
    /// Single reads of each file in each case, at most
    #[arg(long, value_name = "N", default_value_t = 64)]
    reads: u64,
    /// Also run another compressor on each whole file: gzip (-9), zstd (-19), xz (-9), or the programs brotli (-q 11) and
    /// zpaq (-m5 -t1) if they are installed
    #[arg(long = "peer", value_name = "NAME", value_delimiter = ',', value_parser = parse_peer)]
    peers: Vec<Peer>,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

impl Args {
    fn key_run(&self, profile: Option<&Profile>) -> KeyRun {
        let effort = profile.map(Profile::effort).unwrap_or_default();
        (self.key_blocks).map_or(KeyRun::usual(effort), KeyRun::of)
    }
}

fn parse_peer(name: &str) -> Result<Peer, String> {
    let found = Peer::ALL.into_iter().find(|peer| peer.name() == name);
    found.ok_or_else(|| {
        let names = Peer::ALL.map(Peer::name).join(", ");
        format!("`{name}` is none of {names}")
    })
}

#[derive(Serialize)]
struct Report {
    profile: String,
    block_size: u32,
    key_blocks: u8,
    /// Peers that were asked for and are not installed.
    peers_missing: Vec<&'static str>,
    files: Vec<Figures>,
    total: Figures,
}

pub(super) fn run(args: Args) -> Result<Outcome, CliError> {
    let profile = Models::built_in().profile_or_none(&args.profile)?;
    let paths = files(&args.paths).map_err(|e| CliError::failed(e.to_string()))?;
    let (peers, missing): (Vec<Peer>, Vec<Peer>) =
        args.peers.iter().partition(|peer| peer.is_installed());
    for peer in &missing {
        let name = peer.name();
        warn(format!(
            "{name} is not installed: no program `{name}` on PATH; going on without it"
        ));
    }
    let mut sum = Measured::default();
    let mut rows = Vec::new();
    if !args.json {
        print(heading())?;
    }
    for path in &paths {
        let measured = measure(path, profile.as_ref(), &peers, &args)?;
        let figures = measured.figures(path.display().to_string());
        if !args.json {
            show(&figures)?;
        }
        sum.add(&measured);
        rows.push(figures);
    }
    let total = sum.figures("all files".to_owned());
    if args.json {
        print_json(&Report {
            profile: args.profile.clone(),
            block_size: args.block_size,
            key_blocks: args.key_run(profile.as_ref()).blocks,
            peers_missing: missing.into_iter().map(Peer::name).collect(),
            files: rows,
            total,
        })?;
    } else {
        print_lines(details(&total))?;
        show(&total)?;
    }
    Ok(Outcome::Good)
}

fn measure(
    path: &Path,
    profile: Option<&Profile>,
    peers: &[Peer],
    args: &Args,
) -> Result<Measured, CliError> {
    let fail = |e| failure(path, e);
    let len = std::fs::metadata(path)
        .map_err(|e| CliError::io(path, &e))?
        .len();
    let progress = Progress::bytes(path.display().to_string(), len.saturating_mul(3));
    let scratch = NewFile::scratch()?;
    let settings = Settings {
        profile,
        block_size: args.block_size,
        key_run: args.key_run(profile),
        reads: args.reads,
        progress: &|bytes| progress.add(bytes),
    };
    let mut measured = codec::measure(path, scratch.temp(), &settings).map_err(fail)?;
    if peers.is_empty() {
        return Ok(measured);
    }
    let data = std::fs::read(path).map_err(|e| CliError::io(path, &e))?;
    let (folder, _guard) = make_removed_if_killed(tempfile::tempdir, |dir| dir.path().into())
        .map_err(|e| CliError::io(std::env::temp_dir(), &e))?;
    for &peer in peers {
        progress.label(format!("{} on {}", peer.name(), path.display()));
        let run = peer.run(&data, folder.path()).map_err(fail)?;
        measured.peers.insert(peer, run);
    }
    Ok(measured)
}

pub(super) fn failure(path: &Path, error: BenchError) -> CliError {
    match error {
        BenchError::Store(e) if !matches!(e, crate::store::StoreError::ReadBack { .. }) => {
            store_failure(path, &e)
        }
        e if e.is_damage() => CliError::damaged(e.to_string())
            .on(path)
            .remedy("please report this"),
        e => CliError::failed(e.to_string()).on(path),
    }
}

fn heading() -> String {
    format!(
        "{:>12} {:>12} {:>7} {:>7} {:>9} {:>9} {:>11} {:>15} {:>15}  file",
        "bytes",
        "stored",
        "bits/B",
        "ratio",
        "pack MB/s",
        "verified",
        "unpack MB/s",
        "first 50/99% ms",
        "primed 50/99%"
    )
}

/// The line of a file, and one for each peer.
fn show(row: &Figures) -> Result<(), CliError> {
    print(format!(
        "{:>12} {:>12} {:>7.3} {:>7.2} {:>9.3} {:>9.3} {:>11.3} {:>15} {:>15}  {}",
        row.bytes,
        row.stored,
        row.bits_per_byte,
        row.ratio,
        row.pack_mb_s,
        row.pack_verified_mb_s,
        row.unpack_mb_s,
        pair(row.first_touch),
        pair(row.primed),
        row.path
    ))?;
    for (name, peer) in &row.peers {
        print(peer_line(name, peer, row.bytes))?;
    }
    Ok(())
}

fn pair(reads: Reads) -> String {
    format!("{:.2} / {:.2}", reads.p50_ms, reads.p99_ms)
}

fn peer_line(name: &str, peer: &PeerFigures, bytes: u64) -> String {
    format!(
        "{:>12} {:>12} {:>7.3} {:>7.2} {:>9.3} {:>9} {:>11.3}   {name} {}; ours / {name}: size {:.3}, pack speed {:.3}, unpack speed {:.3}",
        "",
        peer.stored,
        8.0 * peer.stored as f64 / (bytes as f64).max(1.0),
        bytes as f64 / (peer.stored as f64).max(1.0),
        peer.pack_mb_s,
        "",
        peer.unpack_mb_s,
        peer.settings,
        peer.stored_ours_to_peer,
        peer.pack_ours_to_peer,
        peer.unpack_ours_to_peer
    )
}

fn details(total: &Figures) -> String {
    let (b, m) = (&total.blocks, &total.memory);
    format!(
        "blocks: {} neural, {} zstd, {} raw, {} holes; {} from a start state, {} with the model\n\
         memory per decoding thread: {} bytes (predictor {}, model {}, start state {})",
        b.neural,
        b.zstd,
        b.raw,
        b.holes,
        b.started,
        b.model,
        m.per_thread,
        m.predictor,
        m.model,
        m.start_state
    )
}
