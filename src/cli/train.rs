//! `vortex-fs train`: teaches a model one's own data.

use super::{Cancel, CliError, Outcome, print, show_bytes};
use crate::profiles;
use crate::train::{self, Corpus, Goal, Progress, Settings, Summary, TrainError};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use std::path::{Path, PathBuf};

/// Trains a model on files like those to be packed, and writes it as a profile.
///
/// Data are files or directories; links inside directories are not followed. About a tenth is held out and only
/// measured. Ctrl-C saves the model as far as it is trained.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  \
    vortex-fs train --data /data/plant7 --config configs/fast.yaml --out plant7.safetensors --minutes 30\n  \
    vortex-fs train --data /data/plant7 --config configs/fast.yaml --init fast --out plant7.safetensors --minutes 10")]
pub(crate) struct Args {
    /// Files and directories to learn from
    #[arg(long, value_name = "PATH", num_args = 1.., required = true)]
    data: Vec<PathBuf>,
    /// Sizes of the model and settings of the training (YAML)
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
    /// Where the profile goes; replaced at every evaluation
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
    /// Start from this profile: a built-in name, or a file of the same sizes
    #[arg(long, value_name = "NAME|FILE")]
    init: Option<String>,
    /// Stop after this time
    #[arg(long, value_name = "N", value_parser = positive)]
    minutes: Option<f64>,
    /// Stop after this many steps [default: training.steps of the configuration, unless --minutes is given]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    steps: Option<u64>,
    /// Seed of the starting weights and of the order of the data
    #[arg(long, value_name = "S", default_value_t = 1)]
    seed: u64,
    /// Write metrics.jsonl, one line of JSON every 20 steps, to this directory
    #[arg(long, value_name = "DIR")]
    log: Option<PathBuf>,
}

fn positive(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(v) if v > 0.0 && v.is_finite() => Ok(v),
        _ => Err("must be a number above 0".to_string()),
    }
}

pub(crate) fn run(args: Args) -> Result<Outcome, CliError> {
    let settings = Settings::read(&args.config).map_err(explain)?;
    let corpus = Corpus::open(&args.data, settings.dataset.window_size).map_err(explain)?;
    let init = args.init.as_deref().map(read_profile).transpose()?;
    let cancel = Cancel::on_signals()
        .map_err(|e| CliError::failed(format!("can not handle signals: {e}")))?;
    let (bytes, held_out) = corpus.sizes();
    print(format_args!(
        "training on {} of {} sources, {} held out, {} multiply-accumulates a byte",
        show_bytes(bytes),
        corpus.sources().len(),
        show_bytes(held_out),
        settings.config().macs_per_byte()
    ))?;
    let goal = Goal {
        out: &args.out,
        init: init.as_deref(),
        minutes: args.minutes,
        steps: args.steps,
        seed: args.seed,
        log: args.log.as_deref(),
    };
    let bar = bar();
    let mut watch = |p: Progress| show(&bar, p);
    let summary = train::train(
        &settings,
        &corpus,
        &goal,
        &|| cancel.is_raised(),
        &mut watch,
    )
    .map_err(explain)?;
    bar.finish_and_clear();
    report(&summary, &args.out)?;
    Ok(if cancel.is_raised() {
        Outcome::Partial
    } else {
        Outcome::Good
    })
}

fn read_profile(name: &str) -> Result<Vec<u8>, CliError> {
    if let Some(bytes) = profiles::builtin(name) {
        return Ok(bytes.to_vec());
    }
    match std::fs::read(name) {
        Ok(bytes) => Ok(bytes),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => {
            Err(CliError::failed("neither a built-in profile nor a file")
                .on(name)
                .remedy(profiles::remedy(name)))
        }
        Err(e) => Err(CliError::io(name, &e)),
    }
}

fn explain(error: TrainError) -> CliError {
    match error {
        TrainError::Io { path, error } => CliError::io(path, &error),
        TrainError::Settings { path, reason } => CliError::failed(reason).on(path),
        TrainError::Import(e) => CliError::failed(format!("--init: {e}")),
        other => CliError::failed(other.to_string()),
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
    bar.set_message(format!(
        "step {}, {:.3} bits/byte{held_out}, {}/s",
        p.step,
        p.train,
        show_bytes(p.speed as u64)
    ));
}

fn report(s: &Summary, out: &Path) -> Result<(), CliError> {
    print("held-out bits per byte of the model alone:")?;
    for (name, score) in &s.after {
        let before = s
            .before
            .as_ref()
            .and_then(|b| b.iter().find(|(n, _)| n == name));
        let before = before.map_or(String::new(), |(_, b)| {
            format!("  (before {:.3})", b.bits_per_byte())
        });
        print(format_args!(
            "{:8.3}  {name}{before}",
            score.bits_per_byte()
        ))?;
    }
    let mean = Summary::mean(&s.after);
    let verdict = match &s.before {
        None => String::new(),
        Some(b) => {
            let before = Summary::mean(b);
            let word = if mean < before { "better" } else { "worse" };
            format!(
                ", {:.1} % {word} than before",
                (mean / before - 1.0).abs() * 100.0
            )
        }
    };
    print(format_args!(
        "{}: {} after {} steps in {:.0} s, held-out mean over sources {mean:.3} bits per byte{verdict}",
        out.display(),
        show_bytes(s.model_bytes as u64),
        s.steps,
        s.seconds
    ))
}
