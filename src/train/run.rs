//! The training loop.

use super::optimiser::AdamW;
use super::{Corpus, Score, Settings, TrainError, evaluate_held_out};
use crate::engine::{Config, Model};
use crate::model::{CompressiveTransformer, Params, bits_per_byte, export, import, initial};
use candle_core::{DType, Device, Tensor, Var};
use candle_nn::VarBuilder;
use rayon::prelude::*;
use std::collections::HashMap;
use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::Instant;
use tempfile::NamedTempFile;

/// Steps between two lines of metrics.
const REPORT_EVERY: u64 = 20;
/// Share of a run between two evaluations.
const EVALUATIONS: f64 = 0.1;

/// What a run is asked for.
#[derive(Debug)]
pub struct Goal<'a> {
    /// Where the model file goes; replaced in one step at every evaluation.
    pub out: &'a Path,
    /// Bytes of a model file to start from.
    pub init: Option<&'a [u8]>,
    /// Wall-clock limit.
    pub minutes: Option<f64>,
    /// Limit of steps; without it and without `minutes` the configuration's `training.steps`.
    pub steps: Option<u64>,
    /// Seed of the starting values and of the order of the data.
    pub seed: u64,
    /// Directory for `metrics.jsonl`.
    pub log: Option<&'a Path>,
}

/// The state of a run, for a progress display.
#[derive(Debug, Clone, Copy)]
pub struct Progress {
    /// Steps done.
    pub step: u64,
    /// Share of the run that is done, 0 to 1.
    pub done: f64,
    /// Mean bits per byte of the last steps.
    pub train: f64,
    /// Held-out bits per byte at the last evaluation, mean over the sources.
    pub held_out: Option<f64>,
    /// Bytes trained on per second.
    pub speed: f64,
}

/// The result of a run.
#[derive(Debug)]
pub struct Summary {
    /// Steps done.
    pub steps: u64,
    /// Wall-clock seconds.
    pub seconds: f64,
    /// Held-out score of every source, before the run if it started from a model.
    pub before: Option<Vec<(String, Score)>>,
    /// Held-out score of every source.
    pub after: Vec<(String, Score)>,
    /// Size of the model file.
    pub model_bytes: usize,
}

impl Summary {
    /// Mean over the sources of their bits per byte.
    pub fn mean(scores: &[(String, Score)]) -> f64 {
        scores.iter().map(|(_, s)| s.bits_per_byte()).sum::<f64>() / scores.len().max(1) as f64
    }
}

/// Trains a model and writes it to `goal.out`. Ends early, with everything saved, once `stop` says so.
///
/// # Errors
/// [`TrainError`]; the file at `goal.out` is then the one from the last evaluation, or untouched.
pub fn train(
    settings: &Settings,
    corpus: &Corpus,
    goal: &Goal<'_>,
    stop: &dyn Fn() -> bool,
    watch: &mut dyn FnMut(Progress),
) -> Result<Summary, TrainError> {
    let config = settings.config();
    // A place that can not be written is found now, not after the first part of the run.
    drop(unfinished(goal.out)?);
    let params = match goal.init {
        Some(bytes) => import(&config, bytes)?,
        None => initial(&config, goal.seed)?,
    };
    let before = match goal.init {
        Some(bytes) => Some(evaluate_held_out(&Model::from_bytes(bytes)?, corpus, 4)?),
        None => None,
    };
    let tensors: HashMap<String, Tensor> = params
        .iter()
        .map(|(n, v)| (n.clone(), v.as_tensor().clone()))
        .collect();
    let model = CompressiveTransformer::new(
        &config,
        VarBuilder::from_tensors(tensors, DType::F32, &Device::Cpu),
    )?;
    let t = &settings.training;
    let mut optimiser = AdamW::new(&config, &params, t.weight_decay, t.clip_norm);
    let mut metrics = Metrics::open(goal.log)?;
    let steps = goal.steps.or(goal.minutes.is_none().then_some(t.steps));
    let start = Instant::now();
    let (mut step, mut recent, mut held_out, mut next) = (0u64, Vec::new(), None, EVALUATIONS);
    loop {
        let by_steps = steps.map_or(0.0, |n| step as f64 / n as f64);
        let by_time = goal
            .minutes
            .map_or(0.0, |m| start.elapsed().as_secs_f64() / 60.0 / m);
        let done = by_steps.max(by_time);
        if done >= 1.0 || stop() {
            break;
        }
        let warm = ((step + 1) as f64 / t.warmup_steps.max(1) as f64).min(1.0);
        // Cosine from the full rate to a fiftieth of it.
        let rate = t.learning_rate * warm * (0.51 + 0.49 * (std::f64::consts::PI * done).cos());
        let (loss, grads) = gradients(&model, &params, settings, &config, corpus, goal.seed, step)?;
        let norm = optimiser.step(&params, grads, rate)?;
        recent.push(loss);
        step += 1;
        if step % REPORT_EVERY == 0 || done >= next {
            let seconds = start.elapsed().as_secs_f64();
            let bytes = step as f64 * (t.batch_size * settings.dataset.window_size) as f64;
            let train = recent.iter().sum::<f64>() / recent.len() as f64;
            recent.clear();
            if done >= next {
                next += EVALUATIONS;
                let scores = save(&config, &params, corpus, goal.out, 1)?.1;
                held_out = Some(Summary::mean(&scores));
            }
            let progress = Progress {
                step,
                done,
                train,
                held_out,
                speed: bytes / seconds,
            };
            metrics.write(&progress, seconds, rate, norm)?;
            watch(progress);
        }
    }
    let (model_bytes, after) = save(&config, &params, corpus, goal.out, 4)?;
    Ok(Summary {
        steps: step,
        seconds: start.elapsed().as_secs_f64(),
        before,
        after,
        model_bytes,
    })
}

/// Mean loss of a step's segments and its gradient, in the order of `params`.
///
/// Segments are differentiated one by one, on all threads, and summed in their order: the result does not depend on the number of
/// threads, and a segment's tensors fit the caches.
fn gradients(
    model: &CompressiveTransformer,
    params: &Params,
    settings: &Settings,
    config: &Config,
    corpus: &Corpus,
    seed: u64,
    step: u64,
) -> Result<(f64, Vec<Vec<f32>>), TrainError> {
    let size = settings.training.batch_size;
    let parts = (0..size as u64)
        .into_par_iter()
        .map(|i| {
            let segment = corpus.segment(config, &settings.dataset, seed, step * size as u64 + i);
            let loss = bits_per_byte(&model.forward(&segment.features, 1)?, &segment.targets)?;
            let grads = loss.backward()?;
            let of = |var: &Var| match grads.get(var) {
                Some(g) => g.flatten_all()?.to_vec1::<f32>(),
                None => Ok(vec![0.0; var.elem_count()]),
            };
            let grads = params
                .values()
                .map(of)
                .collect::<candle_core::Result<Vec<_>>>()?;
            Ok((f64::from(loss.to_scalar::<f32>()?), grads))
        })
        .collect::<candle_core::Result<Vec<_>>>()?;
    let mean = parts.iter().map(|(loss, _)| loss).sum::<f64>() / size as f64;
    let mut parts = parts.into_iter().map(|(_, grads)| grads);
    let mut sum = parts.next().unwrap_or_default();
    for part in parts {
        for (sum, part) in sum.iter_mut().zip(part) {
            sum.iter_mut().zip(part).for_each(|(s, p)| *s += p);
        }
    }
    sum.iter_mut().flatten().for_each(|g| *g /= size as f32);
    Ok((mean, sum))
}

/// A temporary file beside `out`.
fn unfinished(out: &Path) -> Result<NamedTempFile, TrainError> {
    let directory = match out.parent() {
        Some(p) if p != Path::new("") => p,
        _ => Path::new("."),
    };
    NamedTempFile::new_in(directory).map_err(TrainError::io(out))
}

/// Exports, checks that the engine takes the file, puts it into place, and measures it.
fn save(
    config: &Config,
    params: &Params,
    corpus: &Corpus,
    out: &Path,
    most: usize,
) -> Result<(usize, Vec<(String, Score)>), TrainError> {
    let bytes = export(config, params)?;
    let model = Model::from_bytes(&bytes)?;
    let io = || TrainError::io(out);
    let mut file = unfinished(out)?;
    file.write_all(&bytes).map_err(io())?;
    file.as_file().sync_all().map_err(io())?;
    let readable = std::os::unix::fs::PermissionsExt::from_mode(0o644);
    file.as_file().set_permissions(readable).map_err(io())?;
    file.persist(out).map_err(|e| io()(e.error))?;
    Ok((bytes.len(), evaluate_held_out(&model, corpus, most)?))
}

/// `metrics.jsonl`: one JSON object a line.
struct Metrics(Option<(PathBuf, File)>);

impl Metrics {
    fn open(directory: Option<&Path>) -> Result<Self, TrainError> {
        let Some(directory) = directory else {
            return Ok(Metrics(None));
        };
        std::fs::create_dir_all(directory).map_err(TrainError::io(directory))?;
        let path = directory.join("metrics.jsonl");
        let file = File::create(&path).map_err(TrainError::io(&path))?;
        Ok(Metrics(Some((path, file))))
    }

    fn write(
        &mut self,
        p: &Progress,
        seconds: f64,
        rate: f64,
        norm: f32,
    ) -> Result<(), TrainError> {
        let Some((path, file)) = &mut self.0 else {
            return Ok(());
        };
        let line = serde_json::json!({
            "step": p.step, "seconds": seconds, "done": p.done, "train_bpb": p.train, "held_out_bpb": p.held_out,
            "bytes_per_second": p.speed, "learning_rate": rate, "gradient_norm": norm,
        });
        writeln!(file, "{line}").map_err(TrainError::io(&*path))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicU32, Ordering};

    fn settings() -> Settings {
        Settings::parse(
            "model: {d_model: 32, n_layers: 1, n_heads: 2, n_kv_heads: 1, ffn: 32, features: [previous, above]}\n\
             compressive_memory: {window_size: 8, compression_rate: 4, max_compressed_len: 8}\n\
             dataset: {window_size: 64, stride: 32}\n\
             training: {batch_size: 2, learning_rate: 0.01, warmup_steps: 5}\n",
        )
        .unwrap()
    }

    fn goal<'a>(out: &'a Path, init: Option<&'a [u8]>, log: Option<&'a Path>) -> Goal<'a> {
        Goal {
            out,
            init,
            minutes: None,
            steps: Some(40),
            seed: 3,
            log,
        }
    }

    #[test]
    fn a_run_learns_repeats_exactly_and_can_be_continued() {
        let dir = tempfile::tempdir().unwrap();
        let data = dir.path().join("data");
        std::fs::create_dir(&data).unwrap();
        let text: Vec<u8> = b"time=17:00:01 state=ok temperature=21\n".repeat(20);
        for i in 0..10 {
            std::fs::write(data.join(format!("{i}.log")), &text).unwrap();
        }
        let (settings, out) = (settings(), dir.path().join("model"));
        let corpus = Corpus::open(&[data], 64).unwrap();
        let run = |init: Option<&[u8]>, log: Option<&Path>| {
            train(
                &settings,
                &corpus,
                &goal(&out, init, log),
                &|| false,
                &mut |_| (),
            )
            .unwrap()
        };
        let summary = run(None, Some(&dir.path().join("log")));
        assert_eq!(summary.steps, 40);
        assert!(Summary::mean(&summary.after) < 6.0, "{:?}", summary.after);
        let first = std::fs::read(&out).unwrap();
        assert_eq!(first.len(), summary.model_bytes);
        let metrics = std::fs::read_to_string(dir.path().join("log/metrics.jsonl")).unwrap();
        let last: serde_json::Value =
            serde_json::from_str(metrics.lines().last().unwrap()).unwrap();
        assert!(last["train_bpb"].as_f64().unwrap() < 7.0);

        run(None, None);
        assert!(
            std::fs::read(&out).unwrap() == first,
            "the same seed gives the same file"
        );

        let continued = run(Some(&first), None);
        let before = continued.before.unwrap();
        assert_eq!(before, summary.after);
        assert!(Summary::mean(&continued.after) < Summary::mean(&before));
    }

    #[test]
    fn a_run_that_is_stopped_saves_what_it_has() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("data");
        std::fs::write(&file, [7; 500]).unwrap();
        let corpus = Corpus::open(&[file], 64).unwrap();
        let (polls, out) = (AtomicU32::new(0), dir.path().join("model"));
        let stop = || polls.fetch_add(1, Ordering::Relaxed) >= 3;
        let summary = train(
            &settings(),
            &corpus,
            &goal(&out, None, None),
            &stop,
            &mut |_| (),
        )
        .unwrap();
        assert_eq!(summary.steps, 3);
        assert!(Model::from_bytes(&std::fs::read(&out).unwrap()).is_ok());
    }

    #[test]
    fn a_place_that_can_not_be_written_is_an_error_and_leaves_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("data");
        std::fs::write(&file, [7; 500]).unwrap();
        let corpus = Corpus::open(&[file], 64).unwrap();
        let out = dir.path().join("none/model");
        let result = train(
            &settings(),
            &corpus,
            &goal(&out, None, None),
            &|| unreachable!("no step is tried"),
            &mut |_| (),
        );
        assert!(matches!(result, Err(TrainError::Io { .. })));
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
    }
}
