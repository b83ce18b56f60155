//! Runs that learn, repeat, stop, go on, and fail.

use super::*;
use crate::train::Input;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};
use tempfile::TempDir;

pub(in crate::train) const YAML: &str = "model: {d_model: 32, n_layers: 1, n_heads: 2, n_kv_heads: 1, ffn: 32, features: [previous, above]}\n\
    compressive_memory: {window_size: 8, compression_rate: 4, max_compressed_len: 8}\n\
    dataset: {window_size: 64, stride: 32}\n\
    training: {batch_size: 2, learning_rate: 0.01, warmup_steps: 5}\n";

/// A place for a run, and data that it can learn.
pub(in crate::train) struct Place {
    dir: TempDir,
    settings: Settings,
    corpus: Corpus,
}

impl Place {
    fn new() -> Place {
        let dir = tempfile::tempdir().unwrap();
        let text: Vec<u8> = b"time=17:00:01 state=ok temperature=21\n".repeat(20);
        let corpus = Place::corpus(dir.path(), &text);
        Place {
            dir,
            settings: Settings::parse(YAML).unwrap(),
            corpus,
        }
    }

    pub(in crate::train) fn corpus(dir: &Path, text: &[u8]) -> Corpus {
        let inputs = (0..10).map(|i| {
            let path = dir.join(format!("data{i}.log"));
            std::fs::write(&path, text).unwrap();
            Input {
                path,
                len: text.len() as u64,
                decoder: None,
            }
        });
        Corpus::new(inputs.collect(), 64).unwrap()
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// What is in the directory besides the data.
    fn left(&self) -> Vec<String> {
        let entries = std::fs::read_dir(self.dir.path()).unwrap();
        let mut names: Vec<String> = entries
            .map(|e| e.unwrap().file_name().into_string().unwrap())
            .filter(|name| !name.starts_with("data"))
            .collect();
        names.sort();
        names
    }

    /// A run to `out` that is stopped after some steps.
    fn run(
        &self,
        out: &str,
        init: Option<&[u8]>,
        resume: Option<&Checkpoint>,
        stop_after: u32,
    ) -> Result<Summary, TrainError> {
        self.run_as(out, init, resume, stop_after, plan())
    }

    fn run_as(
        &self,
        out: &str,
        init: Option<&[u8]>,
        resume: Option<&Checkpoint>,
        stop_after: u32,
        plan: Plan,
    ) -> Result<Summary, TrainError> {
        let (polls, log) = (AtomicU32::new(0), self.path(&format!("{out}.log")));
        let goal = Goal {
            out: &self.path(out),
            checkpoint: &self.path(&format!("{out}.checkpoint")),
            checkpoint_every: Duration::ZERO,
            plan,
            init,
            resume,
            log: Some(&log),
            workers: None,
        };
        let stop = || polls.fetch_add(1, Ordering::Relaxed) >= stop_after;
        train(&self.settings, &self.corpus, &goal, &stop, &mut |_| ())
    }

    fn read(&self, name: &str) -> Vec<u8> {
        std::fs::read(self.path(name)).unwrap()
    }

    fn checkpoint(&self, name: &str) -> Checkpoint {
        Checkpoint::read(&self.path(name)).unwrap()
    }
}

fn plan() -> Plan {
    Plan {
        seed: 3,
        steps: Some(40),
        minutes: None,
    }
}

#[test]
fn a_run_learns_and_repeats_exactly_and_starts_from_a_model() {
    let place = Place::new();
    let summary = place.run("a", None, None, 99).unwrap();
    assert!(summary.complete && summary.steps == 40);
    assert!(mean(&summary.after).unwrap() < 6.0, "{:?}", summary.after);
    let first = place.read("a");
    assert_eq!(first.len(), summary.model_bytes);
    assert_eq!(summary.model, crate::codec::ModelId::of(&first).to_string());
    let comparison = summary.comparison.unwrap();
    assert_eq!(comparison.bytes, 760, "the file that is held out");
    assert!(comparison.packed < 100 && comparison.packed_before.is_none());
    let exported = summary.exported.unwrap();
    assert!(
        exported.floats > 0.1 && exported.loss().abs() < 1.0,
        "{exported:?}"
    );

    place.run("b", None, None, 99).unwrap();
    assert!(
        place.read("b") == first,
        "the same seed gives the same file"
    );

    let continued = place.run("c", Some(&first), None, 99).unwrap();
    let before = continued.before.unwrap();
    assert_eq!(before, summary.after);
    assert!(mean(&continued.after) < mean(&before));
    assert!(continued.comparison.unwrap().packed_before.is_some());
    assert_eq!(place.left(), ["a", "a.log", "b", "b.log", "c", "c.log"]);
}

#[test]
fn a_model_comes_with_first_weights_for_the_mixer_and_no_steps_learn_only_those() {
    let place = Place::new();
    place.run("a", None, None, 99).unwrap();
    let first = place.read("a");
    let learnt = Model::from_bytes(&first)
        .unwrap()
        .mixer()
        .map(<[i16]>::to_vec);
    let learnt = learnt.unwrap();

    let config = place.settings.config();
    let without = export(&config, &import(&config, &first).unwrap(), None).unwrap();
    assert!(Model::from_bytes(&without).unwrap().mixer().is_none() && without != first);
    let none = Plan {
        steps: Some(0),
        ..plan()
    };
    let summary = place.run_as("b", Some(&without), None, 99, none).unwrap();
    assert!(summary.complete && summary.steps == 0);
    assert_eq!(summary.before.unwrap(), summary.after);
    assert!(place.read("b") == first, "the same model, the same data");

    // A stop after the last step.
    let stopped = place.run("d", None, None, 40).unwrap();
    assert!(!stopped.complete && stopped.steps == 40);
    assert!(
        Model::from_bytes(&place.read("d"))
            .unwrap()
            .mixer()
            .is_none()
    );
    let checkpoint = place.checkpoint("d.checkpoint");
    assert!(
        place
            .run("d", None, Some(&checkpoint), 99)
            .unwrap()
            .complete
    );
    assert!(place.read("d") == first);

    let stopped = place.run("c", Some(&first), None, 5).unwrap();
    assert!(!stopped.complete);
    let kept = Model::from_bytes(&place.read("c")).unwrap();
    assert_eq!(kept.mixer(), Some(&learnt[..]));
}

/// 13 steps, then 10, then the rest, against 40 in one go; with a model to start from and without.
#[test]
fn a_resumed_run_ends_bit_by_bit_as_one_that_never_stopped() {
    let place = Place::new();
    let steps = |log: &str| -> Vec<(u64, f64, Option<f64>)> {
        let text = String::from_utf8(place.read(log)).unwrap();
        text.lines()
            .map(|l| serde_json::from_str::<Line>(l).unwrap())
            .map(|l| (l.step, (l.train_bpb * 1e9).round(), l.held_out_bpb))
            .collect()
    };
    let mut init: Option<Vec<u8>> = None;
    for round in ["fresh", "started"] {
        let (whole, parts) = (format!("{round}-whole"), format!("{round}-parts"));
        let expected = place.run(&whole, init.as_deref(), None, 99).unwrap();
        let name = format!("{parts}.checkpoint");
        let stopped = place.run(&parts, init.as_deref(), None, 13).unwrap();
        assert!(!stopped.complete && stopped.steps == 13);
        assert!(Model::from_bytes(&place.read(&parts)).is_ok());
        for (from, after) in [(13, 10), (23, 99)] {
            let checkpoint = place.checkpoint(&name);
            assert_eq!((checkpoint.steps(), checkpoint.plan()), (from, &plan()));
            let summary = place.run(&parts, None, Some(&checkpoint), after).unwrap();
            assert_eq!(summary.complete, after == 99);
            if summary.complete {
                assert_eq!(summary.before, expected.before);
                assert_eq!(summary.after, expected.after);
                assert_eq!(summary.comparison, expected.comparison);
            }
        }
        assert!(place.read(&parts) == place.read(&whole), "{round}");
        let record = |run: &str| steps(&format!("{run}.log/metrics.jsonl"));
        assert_eq!(record(&parts), record(&whole));
        assert!(!place.path(&name).exists(), "nothing is left to go on with");
        init = Some(place.read(&whole));
    }
}

#[test]
fn a_run_does_not_go_on_from_what_is_not_its_own() {
    let place = Place::new();
    place.run("a", None, None, 5).unwrap();
    let whole = place.read("a.checkpoint");
    let resume = |place: &Place, plan: Plan| {
        let checkpoint = place.checkpoint("a.checkpoint");
        let goal = Goal {
            out: &place.path("a"),
            checkpoint: &place.path("a.checkpoint"),
            checkpoint_every: Duration::ZERO,
            plan,
            init: None,
            resume: Some(&checkpoint),
            log: None,
            workers: None,
        };
        let stop = || unreachable!("no step is tried");
        train(&place.settings, &place.corpus, &goal, &stop, &mut |_| ()).unwrap_err()
    };
    let seed = Plan { seed: 4, ..plan() };
    assert!(resume(&place, seed).to_string().contains("length or seed"));
    let mut other = place;
    other.settings.training.learning_rate = 0.02;
    assert!(resume(&other, plan()).to_string().contains("configuration"));
    other.settings.training.learning_rate = 0.01;
    other.corpus = Place::corpus(other.dir.path(), &[b'x'; 700]);
    assert!(resume(&other, plan()).to_string().contains("data"));

    // A new run would overwrite hours of work.
    let error = other.run("a", None, None, 5).unwrap_err();
    assert!(matches!(error, TrainError::Unfinished { .. }), "{error}");
    assert!(other.read("a.checkpoint") == whole);

    for at in (0..whole.len()).step_by(whole.len() / 60) {
        let mut changed = whole.clone();
        changed[at] ^= 4;
        for bytes in [&changed[..], &whole[..at]] {
            std::fs::write(other.path("bad"), bytes).unwrap();
            let read = Checkpoint::read(&other.path("bad")).map(drop);
            assert!(
                matches!(read, Err(TrainError::BadCheckpoint { .. })),
                "byte {at}"
            );
        }
    }
}

#[test]
fn a_place_that_can_not_be_written_is_an_error_and_leaves_nothing() {
    let place = Place::new();
    std::fs::create_dir(place.path("folder")).unwrap();
    for out in ["none/model", "folder"] {
        let result = place.run(out, None, None, 0);
        assert!(matches!(result, Err(TrainError::Io { .. })), "{out}");
        assert_eq!(place.left(), ["folder"]);
    }
}
