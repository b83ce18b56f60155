//! `vortex-fs bench fs`: a mounted archive beside other file systems.

use std::path::PathBuf;

use serde::Serialize;

use crate::bench::fs::{self, Figure, FsBenchError, Plan, Report, Row, System, Workload};
use crate::cli::mount::{parse_block_size, parse_memory_limit};
use crate::cli::{
    Cancel, CliError, Outcome, parse_size, print, print_json, print_lines, show_bytes, warn,
};

/// Compare the speed of a mounted archive with that of other file systems, as root
///
/// Makes each file system in a file in a temporary directory, mounts it, and measures all of them in turn. Peers: ext4, btrfs
/// (compress=zstd:3), squashfs and squashfuse (zstd, same block size), erofs, bindfs (a directory passed through FUSE).
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  vortex-fs bench fs --quick /data/march
  vortex-fs bench fs --only ingest,cold --peer btrfs,squashfuse --json /data/march")]
pub(super) struct Args {
    /// Files and directories to make telemetry from: they are repeated with other readings
    #[arg(value_name = "DATA", required = true)]
    data: Vec<PathBuf>,
    /// Measure only these: ingest, logger, warm, cache, cold, neural, plain, metadata
    #[arg(long, value_name = "NAME", value_delimiter = ',', value_parser = parse_workload)]
    only: Vec<Workload>,
    /// Compare only with these; all if none is named
    #[arg(long = "peer", value_name = "NAME", value_delimiter = ',', value_parser = parse_system)]
    peers: Vec<System>,
    /// A quarter of everything, for a first look
    #[arg(long)]
    quick: bool,
    /// Rounds of each measurement, of which the median counts
    #[arg(long, value_name = "N", default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..))]
    rounds: u32,
    /// Bytes of telemetry that are copied in and read
    #[arg(long, value_name = "SIZE", default_value = "512M", value_parser = parse_size)]
    size: u64,
    /// Appends to each of a logger's eight files
    #[arg(long, value_name = "N", default_value_t = 100_000, value_parser = clap::value_parser!(u32).range(4..=10_000_000))]
    appends: u32,
    /// Reads at random places
    #[arg(long, value_name = "N", default_value_t = 20_000, value_parser = clap::value_parser!(u32).range(4..))]
    reads: u32,
    /// Files of the tree that is listed
    #[arg(long, value_name = "N", default_value_t = 100_000, value_parser = clap::value_parser!(u32).range(4..=10_000_000))]
    files: u32,
    /// Readers, and copies, at the same time
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=1024))]
    threads: u16,
    /// Bytes of a block, ours and the peers'
    #[arg(long, value_name = "SIZE", default_value = "64K", value_parser = parse_block_size)]
    block_size: u32,
    /// Memory of our daemon for decoded blocks
    #[arg(long, value_name = "SIZE", default_value = "256M", value_parser = parse_size)]
    cache_size: u64,
    /// Memory of our daemon in all; no limit if it is not said
    #[arg(long, value_name = "SIZE", value_parser = parse_memory_limit)]
    memory_limit: Option<u64>,
    /// Where to work; the disk there is the one that is measured
    #[arg(long, value_name = "DIR", default_value_os_t = std::env::temp_dir())]
    dir: PathBuf,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

fn parse_workload(name: &str) -> Result<Workload, String> {
    let names = Workload::ALL.map(Workload::name).join(", ");
    let found = Workload::ALL.into_iter().find(|w| w.name() == name);
    found.ok_or_else(|| format!("`{name}` is none of {names}"))
}

fn parse_system(name: &str) -> Result<System, String> {
    let names = System::PEERS.map(System::name).join(", ");
    let found = System::PEERS.into_iter().find(|s| s.name() == name);
    found.ok_or_else(|| format!("`{name}` is none of {names}"))
}

/// What was measured, and with what.
#[derive(Serialize)]
struct Shown {
    rounds: u32,
    bytes: u64,
    appends: u32,
    reads: u32,
    files: u32,
    threads: u16,
    block_size: u32,
    cache_bytes: u64,
    memory_limit: Option<u64>,
    cores: usize,
    #[serde(flatten)]
    report: Report,
}

pub(super) fn run(args: Args) -> Result<Outcome, CliError> {
    let cancel = Cancel::on_signals().map_err(|e| CliError::io("signals", &e))?;
    let part = if args.quick { 4 } else { 1 };
    let all = |named: &[_], all: &[_]| if named.is_empty() { all } else { named }.to_vec();
    let plan = Plan {
        data: &args.data,
        folder: &args.dir,
        workloads: match &args.only[..] {
            [] => Workload::ALL.to_vec(),
            only => only.to_vec(),
        },
        peers: all(&args.peers, &System::PEERS),
        rounds: if args.quick {
            args.rounds.min(3)
        } else {
            args.rounds
        },
        bytes: args.size / part,
        appends: args.appends / part as u32,
        reads: args.reads / part as u32,
        files: args.files / part as u32,
        threads: args.threads.into(),
        block_size: args.block_size,
        cache_bytes: args.cache_size,
        memory_limit: args.memory_limit,
        say: &|line| warn(format_args!("measuring {line}")),
        stop: &|| cancel.is_raised(),
    };
    let report = fs::run(&plan).map_err(failure)?;
    for missing in &report.missing {
        warn(format_args!(
            "{} is not compared: {}",
            missing.peer.name(),
            missing.reason
        ));
    }
    if !args.json {
        return show(&report).map(|()| Outcome::Good);
    }
    print_json(&Shown {
        rounds: plan.rounds,
        bytes: plan.bytes,
        appends: plan.appends,
        reads: plan.reads,
        files: plan.files,
        threads: args.threads,
        block_size: plan.block_size,
        cache_bytes: plan.cache_bytes,
        memory_limit: plan.memory_limit,
        cores: std::thread::available_parallelism().map_or(1, usize::from),
        report,
    })?;
    Ok(Outcome::Good)
}

fn failure(error: FsBenchError) -> CliError {
    match &error {
        FsBenchError::Io { path, source } => CliError::io(path, source),
        FsBenchError::Different { .. } => {
            CliError::damaged(error.to_string()).remedy("please report this")
        }
        _ => CliError::failed(error.to_string()),
    }
}

fn show(report: &Report) -> Result<(), CliError> {
    for figure in &report.figures {
        print_lines(format_args!("{} ({})", figure.workload, figure.unit))?;
        for row in &figure.systems {
            print(line(figure, row))?;
        }
    }
    Ok(())
}

fn line(figure: &Figure, row: &Row) -> String {
    let mut line = format!("  {:<11} {:>12.0}", row.system.name(), row.median);
    if let Some(ratio) = row.ours_to_peer {
        line += &format!("   ours / {}: {ratio:.2}", row.system.name());
    }
    if let Some([p50, p99]) = row.latency_us {
        line += &format!("   50 % in {p50:.0} us, 99 % in {p99:.0} us");
    }
    if let Some(memory) = row.peak_memory.filter(|_| figure.unit == "MB/s") {
        line += &format!("   daemon's memory at most {}", show_bytes(memory));
    }
    line
}
