//! The training loop.

use super::checkpoint::{Checkpoint, Parts, Plan, State};
use super::compare::{Comparison, compare};
use super::data::{Block, Key};
use super::evaluate::{evaluate, held_out, mean};
use super::exported::{Exported, exported};
use super::gradient::{Gradient, gradient, model_of};
use super::metrics::{Line, Metrics};
use super::optimiser::AdamW;
use super::replace::{check, replace};
use super::{Corpus, Score, Settings, TrainError, Workers};
use crate::codec;
use crate::engine::{Config, Model};
use crate::model::{CompressiveTransformer, Params, export, import, initial};
use rayon::prelude::*;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Steps between two lines of metrics.
const REPORT_EVERY: u64 = 20;
/// Blocks that the mixer's first weights are learnt from, and bytes of each, at most.
const MIXED: usize = 64;
const MIXED_BYTES: usize = 32 << 10;
/// Blocks at a time, between which a run can be stopped; more where there are more threads.
const MIXED_AT_ONCE: usize = 8;
/// Evaluations of a run.
const EVALUATIONS: f64 = 10.0;

/// What a run is asked for.
pub struct Goal<'a> {
    /// Where the model file goes; replaced in one step at every evaluation.
    pub out: &'a Path,
    /// Where checkpoints go; each replaces the one before in one step, and the last goes when the run is complete.
    pub checkpoint: &'a Path,
    /// Time between two checkpoints.
    pub checkpoint_every: Duration,
    /// Length and seed. Without a limit, the configuration's `training.steps`.
    pub plan: Plan,
    /// Bytes of a model file to start from.
    pub init: Option<&'a [u8]>,
    /// The run to go on with; it must have been asked for the same, and `init` is its own.
    pub resume: Option<&'a Checkpoint>,
    /// Directory for the record of the run.
    pub log: Option<&'a Path>,
    /// Other machines that take part.
    pub workers: Option<&'a Workers>,
}

/// The state of a run, for a progress display.
#[derive(Debug, Clone, Copy)]
pub struct Progress {
    /// Steps done.
    pub step: u64,
    /// Share of the run that is done, 0 to 1.
    pub done: f64,
    /// Mean bits per byte of the last steps, at most 20.
    pub train: f64,
    /// Held-out bits per byte at the last evaluation, mean over the sources.
    pub held_out: Option<f64>,
    /// Bytes trained on per second.
    pub speed: f64,
    /// Other machines that take part.
    pub workers: usize,
}

/// The result of a run.
#[derive(Debug)]
pub struct Summary {
    /// Steps done.
    pub steps: u64,
    /// Seconds spent, with those before an interruption.
    pub seconds: f64,
    /// Whether the run is complete. Otherwise its checkpoint is there.
    pub complete: bool,
    /// Held-out score of every source by the model that the run started from, if it did.
    pub before: Option<Vec<(String, Score)>>,
    /// Held-out score of every source.
    pub after: Vec<(String, Score)>,
    /// Held-out blocks packed with the model, and by other compressors; nothing if none are held out.
    pub comparison: Option<Comparison>,
    /// What exporting cost; nothing if no held-out block is as long as a segment.
    pub exported: Option<Exported>,
    /// Size of the model file.
    pub model_bytes: usize,
    /// Id of the model.
    pub model: String,
}

/// Trains a model and writes it to `goal.out`. Ends early once `stop` says so: then with a checkpoint, and the model as it is.
///
/// # Errors
/// [`TrainError`]; the files at `goal.out` and `goal.checkpoint` are then whole ones from earlier in the run, or untouched.
pub fn train(
    settings: &Settings,
    corpus: &Corpus,
    goal: &Goal<'_>,
    stop: &dyn Fn() -> bool,
    watch: &mut dyn FnMut(Progress),
) -> Result<Summary, TrainError> {
    // What can not be written is found now, not after the first part of the run.
    check(goal.out)?;
    check(goal.checkpoint)?;
    let own = |c: &&Checkpoint| c.is_at(goal.checkpoint);
    if goal.resume.filter(own).is_none() && goal.checkpoint.exists() {
        return Err(TrainError::Unfinished {
            path: goal.checkpoint.to_owned(),
        });
    }
    let mut run = Run::new(settings, corpus, goal)?;
    let mut metrics = Metrics::open(goal.log, run.state.step)?;
    if goal.resume.is_none() {
        run.save_checkpoint()?;
    }
    if let Some(workers) = goal.workers
        && run.done() < 1.0
    {
        workers.wait(stop);
        run.start = Instant::now();
    }
    let mut saved = Instant::now();
    let trained = loop {
        let done = run.done();
        if done >= 1.0 {
            break true;
        }
        if stop() {
            run.save_checkpoint()?;
            break false;
        }
        let Some((rate, norm)) = run.step(done, stop)? else {
            continue;
        };
        let evaluate = done * EVALUATIONS >= f64::from(run.state.evaluations + 1);
        if evaluate {
            run.state.evaluations = (done * EVALUATIONS) as u32;
            let model = run.save_model()?.0;
            run.state.held_out = mean(&self::evaluate(&model, &held_out(corpus, 1)?)?);
        }
        let progress = run.progress(done);
        watch(progress);
        if run.state.step % REPORT_EVERY == 0 || evaluate {
            metrics.write(Line::new(&progress, run.seconds(), rate, norm))?;
            (run.state.recent, run.state.losses) = (0.0, 0);
        }
        if evaluate {
            metrics.plot()?;
        }
        if saved.elapsed() >= goal.checkpoint_every {
            run.save_checkpoint()?;
            saved = Instant::now();
        }
    };
    goal.workers.inspect(|workers| workers.end());
    metrics.plot()?;
    // What was trained is in place before anything else can fail.
    let mut model = run.save_model()?;
    let complete = trained && run.learn_first_weights(stop)?;
    if complete {
        model = run.save_model()?;
    } else if trained {
        run.save_checkpoint()?;
    }
    let summary = run.summary(complete, model)?;
    if complete {
        // Everything is in place: nothing is left to go on with.
        std::fs::remove_file(goal.checkpoint)
            .or_else(|e| match e.kind() {
                std::io::ErrorKind::NotFound => Ok(()),
                _ => Err(e),
            })
            .map_err(TrainError::io(goal.checkpoint))?;
    }
    Ok(summary)
}

/// A run under way.
struct Run<'a> {
    settings: &'a Settings,
    config: Config,
    corpus: &'a Corpus,
    goal: &'a Goal<'a>,
    /// Steps that limit the run.
    steps: Option<u64>,
    init: Option<Vec<u8>>,
    /// First weights of the codec's mixer: those beside the model that the run started from, at the end new ones.
    first_weights: Option<Vec<i16>>,
    params: Params,
    model: CompressiveTransformer,
    optimiser: AdamW,
    state: State,
    start: Instant,
}

impl<'a> Run<'a> {
    fn new(
        settings: &'a Settings,
        corpus: &'a Corpus,
        goal: &'a Goal<'a>,
    ) -> Result<Run<'a>, TrainError> {
        let config = settings.config();
        let init = match goal.resume {
            Some(checkpoint) => checkpoint.init(),
            None => goal.init.map(<[u8]>::to_vec),
        };
        let params = match &init {
            Some(bytes) => import(&config, bytes)?,
            None => initial(&config, goal.plan.seed)?,
        };
        let first_weights = match &init {
            Some(bytes) => Model::from_bytes(bytes)?.mixer().map(<[i16]>::to_vec),
            None => None,
        };
        let t = &settings.training;
        let mut optimiser = AdamW::new(&config, &params, t.weight_decay, t.clip_norm);
        let state = match goal.resume {
            Some(checkpoint) => {
                checkpoint.check(&goal.plan, settings, corpus)?;
                checkpoint.restore(&params, &mut optimiser)?
            }
            None => State::default(),
        };
        let model = model_of(&config, &params)?;
        let limits = (goal.plan.steps, goal.plan.minutes);
        Ok(Run {
            settings,
            config,
            corpus,
            goal,
            steps: limits.0.or(limits.1.is_none().then_some(t.steps)),
            init,
            first_weights,
            params,
            model,
            optimiser,
            state,
            start: Instant::now(),
        })
    }

    /// Seconds spent, with those before an interruption.
    fn seconds(&self) -> f64 {
        self.state.seconds + self.start.elapsed().as_secs_f64()
    }

    /// Share of the run that is done.
    fn done(&self) -> f64 {
        let by_steps = match self.steps {
            Some(0) => 1.0,
            Some(n) => self.state.step as f64 / n as f64,
            None => 0.0,
        };
        let minutes = self.seconds() / 60.0;
        by_steps.max(self.goal.plan.minutes.map_or(0.0, |limit| minutes / limit))
    }

    /// One step; its learning rate and the norm of its gradient. None: there was a stop, and nothing changed.
    fn step(
        &mut self,
        done: f64,
        stop: &dyn Fn() -> bool,
    ) -> Result<Option<(f64, f32)>, TrainError> {
        let t = &self.settings.training;
        let warm = ((self.state.step + 1) as f64 / t.warmup_steps.max(1) as f64).min(1.0);
        // Cosine from the full rate to a fiftieth of it.
        let rate = t.learning_rate * warm * (0.51 + 0.49 * (std::f64::consts::PI * done).cos());
        let Some(Gradient { loss, values }) = self.mean_gradient(stop)? else {
            return Ok(None);
        };
        let norm = self.optimiser.step(&self.params, values, rate)?;
        self.state.step += 1;
        self.state.recent += loss;
        self.state.losses += 1;
        Ok(Some((rate, norm)))
    }

    fn progress(&self, done: f64) -> Progress {
        let bytes = self.settings.training.batch_size * self.settings.dataset.window_size;
        Progress {
            step: self.state.step,
            done,
            train: self.state.recent / f64::from(self.state.losses.max(1)),
            held_out: self.state.held_out,
            speed: self.state.step as f64 * bytes as f64 / self.seconds(),
            workers: self.goal.workers.map_or(0, Workers::count),
        }
    }

    fn save_checkpoint(&self) -> Result<(), TrainError> {
        let parts = Parts {
            plan: &self.goal.plan,
            settings: self.settings,
            corpus: self.corpus,
            params: &self.params,
            optimiser: &self.optimiser,
            init: self.init.as_deref(),
        };
        let state = State {
            seconds: self.seconds(),
            ..self.state.clone()
        };
        parts.write(&state, self.goal.checkpoint)
    }

    /// Exports, checks that the engine takes the file, and puts it into place.
    fn save_model(&self) -> Result<(Arc<Model>, usize), TrainError> {
        let bytes = export(&self.config, &self.params, self.first_weights.as_deref())?;
        let model = Model::from_bytes(&bytes)?;
        replace(self.goal.out, &bytes)?;
        Ok((Arc::new(model), bytes.len()))
    }

    /// What the codec's mixer learns beside the model on the data that it was trained on: its first weights from now on. False: there was a
    /// stop.
    fn learn_first_weights(&mut self, stop: &dyn Fn() -> bool) -> Result<bool, TrainError> {
        // From what all blocks begin with, whatever an earlier model was given.
        let model = Model::from_bytes(&export(&self.config, &self.params, None)?)?;
        let corpus = self.corpus;
        let learn = |&key: &Key| {
            let block = corpus.block(key)?;
            let part =
                |block: Block| codec::learn_from(&block[..block.len().min(MIXED_BYTES)], &model);
            Ok(block.map(part))
        };
        let at_once = rayon::current_num_threads().max(MIXED_AT_ONCE);
        let mut learnt = Vec::new();
        for keys in corpus.trained_on(MIXED).chunks(at_once) {
            if stop() {
                return Ok(false);
            }
            let some: Result<Vec<_>, TrainError> = keys.par_iter().map(learn).collect();
            learnt.extend(some?.into_iter().flatten());
        }
        self.first_weights = Some(codec::first_weights(&learnt));
        Ok(true)
    }

    fn summary(
        &self,
        complete: bool,
        (model, model_bytes): (Arc<Model>, usize),
    ) -> Result<Summary, TrainError> {
        let seconds = self.seconds();
        let blocks = held_out(self.corpus, 4)?;
        let init = match &self.init {
            Some(bytes) => Some(Arc::new(Model::from_bytes(bytes)?)),
            None => None,
        };
        let before = match &init {
            Some(init) => Some(evaluate(init, &blocks)?),
            None => None,
        };
        let window = self.settings.dataset.window_size;
        Ok(Summary {
            exported: exported(&self.model, &model, &blocks, window)?,
            steps: self.state.step,
            seconds,
            complete,
            before,
            after: evaluate(&model, &blocks)?,
            comparison: compare(&blocks, &model, init.as_ref()).map_err(TrainError::Compare)?,
            model_bytes,
            model: crate::codec::ModelId(model.id()).to_string(),
        })
    }

    /// Mean loss of a step's segments and its gradient, in the order of `params`.
    ///
    /// Segments are differentiated one by one, on all threads and machines, and summed in their order: the result does not depend on
    /// their number, and a segment's tensors fit the caches. None: there was a stop.
    fn mean_gradient(&self, stop: &dyn Fn() -> bool) -> Result<Option<Gradient>, TrainError> {
        let size = self.settings.training.batch_size;
        let first = self.state.step * size as u64;
        let (seed, window) = (self.goal.plan.seed, &self.settings.dataset);
        let segment = |index| self.corpus.segment(&self.config, window, seed, index);
        let local = |segment: &_| Ok(gradient(&self.model, &self.params, segment)?);
        let parts: Vec<Gradient> = match self.goal.workers {
            Some(workers) => {
                let all = workers.gradients(&self.params, (first, size), &segment, &local, stop)?;
                let Some(all) = all else { return Ok(None) };
                all
            }
            None => (first..first + size as u64)
                .into_par_iter()
                .map(|index| local(&segment(index)?))
                .collect::<Result<_, TrainError>>()?,
        };
        let mean = parts.iter().map(|part| part.loss).sum::<f64>() / size as f64;
        let mut parts = parts.into_iter().map(|part| part.values);
        let mut sum = parts.next().unwrap_or_default();
        for part in parts {
            for (sum, part) in sum.iter_mut().zip(part) {
                sum.iter_mut().zip(part).for_each(|(s, p)| *s += p);
            }
        }
        sum.iter_mut().flatten().for_each(|g| *g /= size as f32);
        Ok(Some(Gradient {
            loss: mean,
            values: sum,
        }))
    }
}

#[cfg(test)]
#[path = "run_tests.rs"]
pub(super) mod tests;
