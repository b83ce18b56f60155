//! `vortex-fs train`: teaches a model one's own data.

mod inputs;
mod summary;
pub(super) mod worker;

use super::{Cancel, CliError, Outcome, print, print_json, show_bytes, warn};
use crate::engine::Model;
use crate::profiles;
use crate::store::models::{MAX_MODEL_BYTES, read_bounded};
use crate::train::{self, Checkpoint, Corpus, Goal, Plan, Progress, Settings, TrainError, Workers};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use std::fs::File;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Train a model on files like those to be packed, and write it as a profile
///
/// Data are files, directories, patterns, mounted archives or backing directories of archives, whose segments are decoded
/// as they are read; links inside directories are not followed. About a tenth is held out and only measured. Ctrl-C saves a checkpoint
/// and the model as far as it is trained.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  \
    vortex-fs train --data /data/plant7 --config configs/fast.yaml --out plant7.safetensors --minutes 30\n  \
    vortex-fs train --data /data/archive --config configs/fast.yaml --init fast --out plant7.safetensors --minutes 10\n  \
    vortex-fs train --data /data/plant7 --config configs/fast.yaml --out plant7.safetensors \\\n    \
    --resume plant7.safetensors.checkpoint             after an interruption\n  \
    vortex-fs train --data /data/plant7 --config big.yaml --out plant7.safetensors --listen 10.0.0.1:7070\n      \
    and on other machines: vortex-fs train-worker 10.0.0.1:7070")]
pub(crate) struct Args {
    /// Files, directories, patterns and archives to learn from
    #[arg(long, value_name = "PATH", num_args = 1.., required = true)]
    data: Vec<PathBuf>,
    /// Sizes of the model and settings of the training (YAML)
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
    /// Where the profile goes; replaced at every evaluation. A file that is no profile is never replaced
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
    /// Start from this profile: a built-in name, or a file of the same sizes
    #[arg(long, value_name = "NAME|FILE", conflicts_with = "resume")]
    init: Option<String>,
    /// Go on with an interrupted run; length and seed are its own
    #[arg(long, value_name = "CHECKPOINT")]
    resume: Option<PathBuf>,
    /// Stop after this time
    #[arg(long, value_name = "N", value_parser = positive)]
    minutes: Option<f64>,
    /// Stop after this many steps; 0 leaves the weights of --init's model as they are and only learns anew what the codec's mixer begins with beside
    /// it [default: training.steps of the configuration, unless --minutes is given]
    #[arg(long, value_name = "N")]
    steps: Option<u64>,
    /// Seed of the starting weights and of the order of the data [default: 1]
    #[arg(long, value_name = "S")]
    seed: Option<u64>,
    /// Minutes between two checkpoints, which go to OUT.checkpoint
    #[arg(long, value_name = "N", default_value_t = 5.0, value_parser = positive)]
    checkpoint_minutes: f64,
    /// Write metrics.jsonl and metrics.csv, a line every 20 steps, and metrics.svg, a plot of them, to this directory
    #[arg(long, value_name = "DIR")]
    log: Option<PathBuf>,
    /// Let other machines take part that run `vortex-fs train-worker ADDRESS:PORT`; they come and go at any time. Whoever reaches this
    /// address can see and spoil the training
    #[arg(long, value_name = "ADDRESS:PORT")]
    listen: Option<String>,
    /// Begin when so many workers are there
    #[arg(long, value_name = "N", requires = "listen", value_parser = clap::value_parser!(u16).range(1..=256))]
    workers: Option<u16>,
    /// Print the summary as JSON
    #[arg(long)]
    json: bool,
}

fn positive(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(v) if v > 0.0 && v <= 1e9 => Ok(v),
        _ => Err("must be a number above 0".to_string()),
    }
}

pub(crate) fn run(args: Args) -> Result<Outcome, CliError> {
    check_out(&args.out)?;
    let settings = Settings::read(&args.config).map_err(explain)?;
    let resume = args.resume.as_deref().map(Checkpoint::read);
    let resume = resume.transpose().map_err(explain)?;
    let init = args.init.as_deref().map(read_profile).transpose()?;
    if args.steps == Some(0) && args.log.is_some() {
        return Err(CliError::failed("no steps leave no record").remedy("leave --log out"));
    }
    if args.steps == Some(0) && init.is_none() && resume.is_none() {
        return Err(CliError::failed("no steps make no model")
            .remedy("name the profile to start from with --init, or give more --steps"));
    }
    let found = inputs::find(&args.data)?;
    found.damaged.iter().for_each(warn);
    let corpus = Corpus::new(found.inputs, settings.dataset.window_size).map_err(explain)?;
    let cancel = Cancel::on_signals()
        .map_err(|e| CliError::failed(format!("can not handle signals: {e}")))?;
    let workers = match &args.listen {
        Some(address) => Some(listen(address, &args, &settings)?),
        None => None,
    };
    if !args.json {
        announce(&settings, &corpus)?;
    }
    if let Some(workers) = &workers {
        let line = format!("workers are let in at {}", workers.address());
        match args.json {
            true => warn(line),
            false => print(line)?,
        }
    }
    let mut checkpoint = args.out.clone().into_os_string();
    checkpoint.push(".checkpoint");
    let checkpoint = PathBuf::from(checkpoint);
    let goal = Goal {
        out: &args.out,
        checkpoint: &checkpoint,
        checkpoint_every: Duration::from_secs_f64(args.checkpoint_minutes * 60.0),
        plan: plan(&args, resume.as_ref()),
        init: init.as_deref(),
        resume: resume.as_ref(),
        log: args.log.as_deref(),
        workers: workers.as_ref(),
    };
    let bar = bar();
    let mut watch = |p: Progress| show(&bar, p);
    let stop = || cancel.is_raised();
    let summary = train::train(&settings, &corpus, &goal, &stop, &mut watch);
    bar.finish_and_clear();
    let summary = summary.map_err(|e| after_start(e, &checkpoint))?;
    let result = summary::Report::new(&args, &summary, corpus.damaged());
    if args.json {
        print_json(&result)?;
    } else {
        result.print()?;
    }
    if !summary.complete {
        warn(format_args!(
            "stopped after {} steps; go on with --resume {}",
            summary.steps,
            checkpoint.display()
        ));
    }
    let whole = found.damaged.is_empty() && corpus.damaged() == 0;
    Ok(match (whole, summary.complete) {
        (false, _) => Outcome::Damaged,
        (true, false) => Outcome::Partial,
        (true, true) => Outcome::Good,
    })
}

fn listen(address: &str, args: &Args, settings: &Settings) -> Result<Workers, CliError> {
    let workers = Workers::listen(address, settings).map_err(|e| {
        CliError::failed(e.to_string())
            .remedy("name an address of this machine and a port that is free, as in 10.0.0.1:7070")
    })?;
    Ok(workers.at_least(args.workers.unwrap_or(0).into()))
}

fn announce(settings: &Settings, corpus: &Corpus) -> Result<(), CliError> {
    let (bytes, held_out) = corpus.sizes();
    print(format_args!(
        "training on {} of {} sources, {} held out, {} multiply-accumulates a byte",
        show_bytes(bytes),
        corpus.sources().len(),
        show_bytes(held_out),
        settings.config().macs_per_byte()
    ))
}

/// What was asked for; what was not is as in the run to go on with.
fn plan(args: &Args, resume: Option<&Checkpoint>) -> Plan {
    let asked = args.steps.is_some() || args.minutes.is_some();
    let of_run = resume.map(Checkpoint::plan);
    let limits = match of_run {
        Some(plan) if !asked => (plan.steps, plan.minutes),
        _ => (args.steps, args.minutes),
    };
    Plan {
        seed: args.seed.or(of_run.map(|p| p.seed)).unwrap_or(1),
        steps: limits.0,
        minutes: limits.1,
    }
}

/// Whatever is no model, such as one of the files to learn from, is not replaced.
fn check_out(out: &Path) -> Result<(), CliError> {
    let there = match std::fs::metadata(out) {
        Ok(there) if there.is_dir() || there.is_file() && there.len() == 0 => return Ok(()),
        Ok(there) => there,
        Err(_) => return Ok(()),
    };
    let is_model = there.is_file() && there.len() <= MAX_MODEL_BYTES && {
        let bytes = std::fs::read(out).map_err(|e| CliError::io(out, &e))?;
        Model::from_bytes(&bytes).is_ok()
    };
    match is_model {
        true => Ok(()),
        false => Err(
            CliError::failed("exists and is no model, so it is not replaced")
                .on(out)
                .remedy("name another file with --out, or remove it"),
        ),
    }
}

fn read_profile(name: &str) -> Result<Vec<u8>, CliError> {
    if let Some(bytes) = profiles::builtin(name) {
        return Ok(bytes.to_vec());
    }
    match File::open(name).and_then(read_bounded) {
        Ok(bytes) => Ok(bytes),
        Err(e) if e.kind() == ErrorKind::NotFound => {
            Err(CliError::failed("neither a built-in profile nor a file")
                .on(name)
                .remedy(profiles::remedy(name)))
        }
        Err(e) => Err(CliError::io(name, &e)),
    }
}

fn explain(error: TrainError) -> CliError {
    let text = error.to_string();
    match error {
        TrainError::Io { path, error } => CliError::io(path, &error),
        TrainError::Settings { path, reason } => CliError::failed(reason)
            .on(path)
            .remedy("docs/TRAINING.md lists the keys, and configs/ has examples"),
        TrainError::Data { files: 0, .. } => CliError::failed("there is no file to learn from")
            .remedy("name files or directories of telemetry with --data"),
        TrainError::Data { .. } => CliError::failed(text)
            .remedy("name longer files with --data, or lower dataset.window_size"),
        TrainError::Shorter { .. } => {
            CliError::failed(text).remedy("leave out files that are still written")
        }
        TrainError::Decode { damaged: true, .. } => CliError::damaged(text),
        TrainError::BadCheckpoint { .. } => CliError::damaged(text)
            .remedy("begin a new run from the profile that it saved, with --init"),
        TrainError::Mismatch { .. } => CliError::failed(text)
            .remedy("repeat the command that began the run, or begin a new one from its profile with --init"),
        TrainError::Unfinished { path } => CliError::failed(text).remedy(format!(
            "go on with it by --resume {}, or remove it",
            path.display()
        )),
        TrainError::Import(e) => CliError::failed(format!("--init: {e}"))
            .remedy("name a profile that was trained with this --config"),
        _ => CliError::failed(text),
    }
}

/// A failure of a run under way, some of which may be saved.
fn after_start(error: TrainError, checkpoint: &Path) -> CliError {
    let full = matches!(&error, TrainError::Io { error, .. } if matches!(error.kind(),
        ErrorKind::StorageFull | ErrorKind::QuotaExceeded | ErrorKind::FileTooLarge));
    let begun = !matches!(
        error,
        TrainError::Unfinished { .. } | TrainError::Mismatch { .. }
    );
    let failure = explain(error);
    match (full, begun && checkpoint.exists()) {
        (true, true) => failure.remedy(format!(
            "free some space, then go on with --resume {}",
            checkpoint.display()
        )),
        (true, false) => failure.remedy("free some space, or name another place with --out"),
        _ => failure,
    }
}

fn bar() -> ProgressBar {
    let bar = ProgressBar::with_draw_target(Some(1000), ProgressDrawTarget::stderr_with_hz(4));
    if let Ok(style) = ProgressStyle::with_template("{wide_bar} {msg} eta {eta}") {
        bar.set_style(style);
    }
    bar
}

fn show(bar: &ProgressBar, p: Progress) {
    bar.set_position((p.done * 1000.0) as u64);
    let held_out = p
        .held_out
        .map_or(String::new(), |h| format!(", held out {h:.3}"));
    let workers = match p.workers {
        0 => String::new(),
        n => format!(", {n} workers"),
    };
    bar.set_message(format!(
        "step {}, {:.3} bits/byte{held_out}{workers}, {}/s",
        p.step,
        p.train,
        show_bytes(p.speed as u64)
    ));
}
