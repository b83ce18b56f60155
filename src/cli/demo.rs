//! `vortex-fs demo`: shows the whole way through on data of this machine.

use std::time::Duration;

use super::{Cancel, CliError, Outcome, percent, print, print_json, print_lines, warn};
use crate::demo::{self, DemoError, Pace, Plan, Report, Row};

/// Record telemetry of this machine, mount, pack and read it back, in a temporary directory
///
/// Records counters of /proc as binary records and as CSV, copies them into a mounted archive, packs it, mounts it again,
/// compares every byte, shows sizes beside gzip -9, zstd -19 and xz -9, and removes everything. Needs /dev/fuse.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  vortex-fs demo
  vortex-fs demo --seconds 20")]
pub(crate) struct Args {
    /// Length of the recording
    #[arg(long, value_name = "N", default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=3600))]
    seconds: u32,
    /// Samples a second
    #[arg(long, value_name = "N", default_value_t = 200, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    rate: u32,
    /// Model to pack with: a name that `vortex-fs profiles` lists, or a .safetensors file
    #[arg(long, value_name = "NAME|FILE")]
    profile: Option<String>,
    /// Print sizes and times as JSON, and the steps to standard error
    #[arg(long)]
    json: bool,
}

pub(crate) fn run(args: Args) -> Result<Outcome, CliError> {
    let cancel = Cancel::on_signals().map_err(|e| CliError::io("signals", &e))?;
    // A reader that goes away must not keep the demo from cleaning up.
    let say = |line: &str| {
        if args.json {
            warn(line);
        } else {
            let _ = print(line);
        }
    };
    let plan = Plan {
        pace: Pace {
            duration: Duration::from_secs(args.seconds.into()),
            rate: args.rate,
        },
        profile: args.profile.clone(),
        say: &say,
        stop: &|| cancel.is_raised(),
    };
    let report = demo::run(&plan).map_err(failure)?;
    if args.json {
        print_json(&report)?
    } else {
        show(&report)?
    }
    Ok(Outcome::Good)
}

fn failure(error: DemoError) -> CliError {
    match &error {
        DemoError::Io { path, source } => CliError::io(path, source),
        DemoError::Different(_) => CliError::damaged(error.to_string()),
        _ => CliError::failed(error.to_string()),
    }
}

fn show(report: &Report) -> Result<(), CliError> {
    let total = report.total();
    print_lines(format_args!(
        "\n{:<14} {:>10} {:>10} {:>10} {:>10} {:>10} {:>8}",
        "bytes", "recorded", "gzip -9", "zstd -19", "xz -9", "packed", "of xz"
    ))?;
    for row in report.files.iter().chain([&total]) {
        print(line(row))?;
    }
    let mib = |bytes: u64| bytes as f64 / f64::from(1 << 20);
    print_lines(format_args!(
        "\nPacked {:.1} MiB in {:.1} s, checking included; read back in {:.1} s; \
         median random read of 4 KiB {:.1} ms.\nEvery byte came back. Nothing is left behind.",
        mib(total.recorded),
        report.pack_seconds,
        report.read_seconds,
        report.random_read_milliseconds
    ))
}

fn line(row: &Row) -> String {
    format!(
        "{:<14} {:>10} {:>10} {:>10} {:>10} {:>10} {:>8}",
        row.name,
        row.recorded,
        row.peers.gzip_9,
        row.peers.zstd_19,
        row.peers.xz_9,
        row.packed,
        percent(row.packed, row.peers.xz_9)
    )
}
