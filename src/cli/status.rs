//! `vortex-fs status`

use std::path::PathBuf;
use std::thread;
use std::time::Duration;

use super::{CliError, Outcome, print, print_json, print_lines, show_bytes};
use crate::mount;
use crate::pack::protocol::unescape;
use crate::pack::status::{Cache, Decode, Idle, IdleState, Status};

/// Tells what the daemon of a mount does: its caches, what waits to be stored, packing, scrub
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  vortex-fs status /mnt/telemetry
  vortex-fs status --watch 2 /mnt/telemetry
  vortex-fs status --json /mnt/telemetry")]
pub(crate) struct Args {
    /// Where the archive is mounted, or a path below
    mountpoint: PathBuf,
    /// Tell it again every so many seconds, until Ctrl-C
    #[arg(long, value_name = "SECONDS", value_parser = parse_seconds)]
    watch: Option<Duration>,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

pub(crate) fn run(args: Args) -> Result<Outcome, CliError> {
    loop {
        let status = mount::status(&args.mountpoint)?;
        if args.json {
            print_json(&status)?;
        } else {
            show(&status)?;
        }
        let Some(pause) = args.watch else {
            return Ok(Outcome::Good);
        };
        thread::sleep(pause);
        if !args.json {
            print("")?;
        }
    }
}

fn parse_seconds(text: &str) -> Result<Duration, String> {
    let seconds = text.parse::<f64>().ok();
    let seconds = seconds.filter(|&s| (0.1..=86_400.0).contains(&s));
    seconds
        .map(Duration::from_secs_f64)
        .ok_or_else(|| format!("`{text}` is no number of seconds from 0.1 to 86400"))
}

fn show(s: &Status) -> Result<(), CliError> {
    let mountpoint = s.mountpoint.as_deref().map(unescape).unwrap_or_default();
    print(format_args!(
        "{}: process {}, version {}, up {}{}",
        mountpoint.display(),
        s.pid,
        s.version,
        show_seconds(s.uptime),
        if s.read_only { ", read-only" } else { "" }
    ))?;
    print_lines(format_args!(
        "memory     {} resident{}\n\
         requests   {} answered, {} under way; {} files open, {} known\n\
         cache      {}\n\
         starts     {}",
        show_bytes(s.memory.resident),
        (s.memory.limit).map_or(String::new(), |l| format!(" of {}", show_bytes(l))),
        s.requests.served,
        s.requests.running,
        s.requests.open,
        s.requests.nodes,
        cache(&s.cache),
        cache(&s.starts),
    ))?;
    if let Some(d) = &s.disk_cache {
        print(format_args!(
            "disk cache {} of {}; {} hits, {} misses; {} stored, {} evicted, {} damaged",
            show_bytes(d.bytes),
            show_bytes(d.limit),
            d.hits,
            d.misses,
            d.stored,
            d.evicted,
            d.damaged
        ))?;
    }
    for codec in s.decode.iter().filter(|d| d.blocks > 0) {
        print(format_args!("decode     {}", decode(codec)))?;
    }
    print(format_args!(
        "writes     {} in {} files not yet stored; {} blocks stored, {} commits",
        show_bytes(s.writes.dirty_bytes),
        s.writes.dirty_files,
        s.writes.stored_blocks,
        s.writes.commits
    ))?;
    let p = &s.packing;
    print(format_args!(
        "packing    {} files packed, {} instead of {}, {} saved; {} not smaller, {} unpacked, {} skipped, {} failed",
        p.packed,
        show_bytes(p.after),
        show_bytes(p.before),
        show_bytes(p.saved),
        p.left,
        p.unpacked,
        p.skipped,
        p.failed
    ))?;
    if let Some(job) = &p.job {
        print(format_args!(
            "job        {} of {} files: {}",
            job.command,
            job.files,
            share(job.done, job.bytes)
        ))?;
    }
    if let Some(idle) = &s.idle {
        print(format_args!("idle       {}", idle_line(idle)))?;
    }
    if let Some(scrub) = &s.scrub {
        print(format_args!(
            "scrub      {}, {} segments and {} checked, {} damaged",
            if scrub.running { "running" } else { "waiting" },
            scrub.files,
            show_bytes(scrub.bytes),
            scrub.damaged
        ))?;
    }
    if let Some(addr) = &s.metrics {
        print(format_args!("metrics    http://{addr}/metrics"))?;
    }
    Ok(())
}

fn cache(c: &Cache) -> String {
    format!(
        "{} of {}; {} hits, {} misses ({} hits)",
        show_bytes(c.bytes),
        show_bytes(c.limit),
        c.hits,
        c.misses,
        share(c.hits, c.hits + c.misses)
    )
}

fn decode(d: &Decode) -> String {
    let mean = d.nanos / d.blocks.max(1) / 1000;
    format!(
        "{}: {} blocks, {} on average, half within {}, 99% within {}",
        d.codec,
        d.blocks,
        show_micros(mean),
        quantile(d, 0.5),
        quantile(d, 0.99)
    )
}

/// The bound of the bucket that holds this quantile.
fn quantile(d: &Decode, share: f64) -> String {
    let mut sum = 0;
    for bucket in &d.latency {
        sum += bucket.blocks;
        if sum as f64 >= share * d.blocks as f64 {
            return bucket.up_to.map_or("more".to_string(), show_micros);
        }
    }
    "-".to_string()
}

fn idle_line(idle: &Idle) -> String {
    let state = match (idle.state, &idle.file) {
        (IdleState::Packing | IdleState::Resting, Some(file)) => {
            let rests = match idle.state {
                IdleState::Resting => ", resting",
                _ => "",
            };
            let done = share(idle.file_done, idle.file_bytes);
            format!("packing {} ({done}{rests})", unescape(file).display())
        }
        (IdleState::Looking, _) => "looking for files".to_string(),
        _ => match &idle.error {
            Some(error) => format!("can not pack: {error}"),
            None => "waiting".to_string(),
        },
    };
    format!(
        "{state}; {} files and {} to pack, {} need nothing; rested {} times, {} in all",
        idle.queue_files,
        show_bytes(idle.queue_bytes),
        idle.settled,
        idle.rests,
        show_seconds(idle.rested / 1000)
    )
}

fn share(part: u64, all: u64) -> String {
    match all {
        0 => "-".to_string(),
        all => format!("{:.1}%", 100.0 * part as f64 / all as f64),
    }
}

fn show_micros(micros: u64) -> String {
    match micros {
        0..1000 => format!("{micros} us"),
        1000..1_000_000 => format!("{:.1} ms", micros as f64 / 1e3),
        _ => format!("{:.1} s", micros as f64 / 1e6),
    }
}

fn show_seconds(s: u64) -> String {
    match s {
        0..60 => format!("{s} s"),
        60..3600 => format!("{} min {} s", s / 60, s % 60),
        3600..86_400 => format!("{} h {} min", s / 3600, s % 3600 / 60),
        _ => format!("{} d {} h", s / 86_400, s % 86_400 / 3600),
    }
}
