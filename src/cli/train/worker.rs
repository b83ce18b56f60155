//! `vortex-fs train-worker`: computes for a training run on another machine.

use crate::cli::{CliError, Outcome, print, print_json};
use crate::train::{Done, TrainError, work};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde::Serialize;
use std::time::{Duration, Instant};

/// Take part in the training run of another machine
///
/// Needs no data and keeps nothing. The run is `vortex-fs train --listen` by the same version of this program; the machine's cores should be of
/// the same kind as its own, if the run is to repeat exactly. Ctrl-C ends at once, and the run goes on without it.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  \
    vortex-fs train-worker 10.0.0.1:7070\n  \
    vortex-fs train-worker 10.0.0.1:7070 --wait 3600     started before the run")]
pub(crate) struct Args {
    /// Where the run listens
    #[arg(value_name = "ADDRESS:PORT")]
    address: String,
    /// Seconds to wait for the run to begin
    #[arg(long, value_name = "N", default_value_t = 60)]
    wait: u32,
    /// Print what was done as JSON
    #[arg(long)]
    json: bool,
}

#[derive(Serialize)]
struct Report {
    jobs: u64,
    segments: u64,
    bytes: u64,
    seconds: f64,
}

pub(crate) fn run(args: Args) -> Result<Outcome, CliError> {
    let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr_with_hz(4));
    if let Ok(style) = ProgressStyle::with_template("{spinner} {msg}") {
        bar.set_style(style);
    }
    let mut begun = Instant::now();
    let mut watch = |done: Done| {
        if done.jobs == 0 {
            // Until now it waited for the run to begin.
            begun = Instant::now();
        }
        bar.tick();
        bar.set_message(format!(
            "{} segments in {:.0} s",
            done.segments,
            begun.elapsed().as_secs_f64()
        ));
    };
    let wait = Duration::from_secs(args.wait.into());
    let done = work(&args.address, wait, &mut watch);
    bar.finish_and_clear();
    let done = done.map_err(explain)?;
    let seconds = begun.elapsed().as_secs_f64();
    if args.json {
        print_json(&Report {
            jobs: done.jobs,
            segments: done.segments,
            bytes: done.bytes,
            seconds,
        })?;
    } else {
        print(format_args!(
            "the run is over: {} segments in {seconds:.1} s",
            done.segments
        ))?;
    }
    Ok(Outcome::Good)
}

fn explain(error: TrainError) -> CliError {
    let failure = CliError::failed(error.to_string());
    match error {
        TrainError::Remote { .. } => failure.remedy(
            "see whether `vortex-fs train --listen` of this version runs there, and start this again",
        ),
        _ => failure,
    }
}
