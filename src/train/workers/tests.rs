//! Runs with workers that work, come late, go, lie and say nothing; and workers of such leaders.

use super::wire::{self, ALIVE, END, HELLO, JOB, REFUSED, RESULT};
use super::*;
use crate::train::gradient::{Gradient, gradient, model_of};
use crate::train::run::tests::{Place, YAML};
use crate::train::{Corpus, Goal, Plan, Settings, Summary, TrainError, train};
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

const STEPS: u64 = 30;
const SEGMENT: usize = 64 * 3;
const PATIENCE: Duration = Duration::from_secs(60);

/// Those of other runs, with segments for all in a step.
fn settings() -> Settings {
    let yaml = YAML.replace("batch_size: 2", "batch_size: 12");
    assert_ne!(yaml, YAML);
    Settings::parse(&yaml).unwrap()
}

fn corpus(dir: &Path) -> Corpus {
    Place::corpus(dir, &b"time=17:00:01 state=ok temperature=21\n".repeat(20))
}

fn listen() -> Workers {
    Workers::with_patience("127.0.0.1:0", &settings(), PATIENCE).unwrap()
}

/// A run; its result, and the profile that it made.
fn run(workers: Option<&Workers>) -> (Result<Summary, TrainError>, Vec<u8>) {
    run_of(STEPS, workers, &|| false)
}

fn run_of(
    steps: u64,
    workers: Option<&Workers>,
    stop: &dyn Fn() -> bool,
) -> (Result<Summary, TrainError>, Vec<u8>) {
    let dir = tempfile::tempdir().unwrap();
    let (out, checkpoint) = (dir.path().join("out"), dir.path().join("checkpoint"));
    let goal = Goal {
        out: &out,
        checkpoint: &checkpoint,
        checkpoint_every: Duration::from_secs(3600),
        plan: Plan {
            seed: 3,
            steps: Some(steps),
            minutes: None,
        },
        init: None,
        resume: None,
        log: Some(&dir.path().join("log")),
        workers,
    };
    let result = train(&settings(), &corpus(dir.path()), &goal, stop, &mut |_| ());
    (result, std::fs::read(&out).unwrap_or_default())
}

fn worker_of(workers: &Workers) -> JoinHandle<Result<Done, TrainError>> {
    let address = workers.address().to_string();
    thread::spawn(move || work(&address, PATIENCE, &mut |_| ()))
}

#[test]
fn whoever_computes_the_file_is_the_same() {
    let alone = run(None).1;
    assert!(!alone.is_empty());
    for count in 1..=3 {
        let workers = listen().at_least(count);
        let there: Vec<_> = (0..count).map(|_| worker_of(&workers)).collect();
        let (summary, file) = run(Some(&workers));
        assert!(summary.unwrap().complete && file == alone, "{count}");
        let done: Vec<Done> = there
            .into_iter()
            .map(|t| t.join().unwrap().unwrap())
            .collect();
        let segments: u64 = done.iter().map(|d| d.segments).sum();
        // The leader's own threads take some as well.
        assert!((1..12 * STEPS).contains(&segments), "{done:?}");
        assert!(
            done.iter()
                .all(|d| d.bytes == 64 * d.segments && d.jobs <= d.segments)
        );
    }
}

#[test]
fn who_comes_late_takes_part_and_a_stop_sends_it_home() {
    let workers = listen();
    let (polls, late) = (AtomicU32::new(0), std::cell::OnceCell::new());
    let segments = Arc::new(AtomicU64::new(0));
    let come = || {
        let (address, segments) = (workers.address().to_string(), Arc::clone(&segments));
        let mut watch = move |done: Done| segments.store(done.segments, Ordering::SeqCst);
        thread::spawn(move || work(&address, PATIENCE, &mut watch))
    };
    let stop = || {
        if polls.fetch_add(1, Ordering::Relaxed) >= 3 {
            late.get_or_init(come);
        }
        segments.load(Ordering::SeqCst) > 0
    };
    // Steps go on until it has done something.
    let complete = run_of(100_000, Some(&workers), &stop).0.unwrap().complete;
    assert!(!complete && segments.load(Ordering::SeqCst) > 0);
    drop(workers);
    let done = late.into_inner().unwrap().join().unwrap().unwrap();
    assert!(done.segments > 0 && done.jobs > 0);
}

/// A connection that was greeted as a worker's with a thousand threads.
fn greeted(workers: &Workers) -> TcpStream {
    let mut stream = TcpStream::connect(workers.address()).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.write_all(&hello(wire::version())).unwrap();
    stream
}

fn hello(version: &str) -> Vec<u8> {
    let mut hello = HELLO.to_vec();
    hello.extend(1000u16.to_le_bytes());
    hello.extend((version.len() as u16).to_le_bytes());
    hello.extend(version.as_bytes());
    hello
}

/// Reads the welcome and one job; how many segments it has.
fn take_job(stream: &mut TcpStream) -> usize {
    assert_eq!(wire::read_array(stream).unwrap(), HELLO);
    wire::read_text(stream).unwrap();
    assert_eq!(wire::read_array(stream).unwrap(), [JOB, 1]);
    let count = u32::from_le_bytes(wire::read_array(stream).unwrap()) as usize;
    let mut rest = vec![0; 4 * parameters() + count * SEGMENT];
    stream.read_exact(&mut rest).unwrap();
    count
}

fn parameters() -> usize {
    let shapes = crate::engine::tensor_shapes(&settings().config());
    shapes
        .iter()
        .map(|(_, shape)| shape.iter().product::<usize>())
        .sum()
}

#[test]
fn what_a_worker_took_and_did_not_bring_is_computed_here() {
    let alone = run(None).1;
    let whole = |count: usize| count * (8 + 4 * parameters());
    let lie = |loss: f64| {
        move |count| [&[RESULT][..], &loss.to_le_bytes(), &vec![0; whole(count)]].concat()
    };
    let (no_number, endless, less) = (lie(f64::NAN), lie(f64::INFINITY), lie(-1.0));
    type Answer<'a> = &'a (dyn Fn(usize) -> Vec<u8> + Sync);
    let answers: [Answer<'_>; 8] = [
        &no_number,
        &endless,
        &less,
        // Gone at once; gone in the middle of the last gradient; something else; once alive.
        &|_| vec![],
        &|count| [vec![RESULT], vec![0; whole(count) - 1]].concat(),
        &|_| vec![7],
        &|_| vec![ALIVE; 100],
        &|_| b"GET / HTTP/1.1\r\n\r\n".to_vec(),
    ];
    for answer in answers {
        let workers = listen().at_least(1);
        let mut stream = greeted(&workers);
        let file = thread::scope(|scope| {
            scope.spawn(move || {
                let count = take_job(&mut stream);
                // It may be hung up on before it has said all.
                let _ = stream.write_all(&answer(count));
            });
            run(Some(&workers)).1
        });
        assert!(file == alone);
    }
}

#[test]
fn who_says_nothing_is_waited_for_no_longer_than_it_may() {
    let silence = Duration::from_millis(300);
    let workers = Workers::with_patience("127.0.0.1:0", &settings(), silence).unwrap();
    let workers = workers.at_least(1);
    let mut silent = greeted(&workers);
    let (_, file) = thread::scope(|scope| {
        let asked = scope.spawn(|| take_job(&mut silent));
        let made = run(Some(&workers));
        assert!(asked.join().unwrap() > 0);
        made
    });
    assert!(file == run(None).1);
}

#[test]
fn who_is_alive_and_brings_nothing_is_given_up_in_the_end_and_soon_after_a_stop() {
    for (silence, stops) in [(Duration::from_millis(300), false), (PATIENCE, true)] {
        let workers = Workers::with_patience("127.0.0.1:0", &settings(), silence).unwrap();
        let workers = workers.at_least(1);
        let mut lazy = greeted(&workers);
        let (asked, begun) = (AtomicBool::new(false), Instant::now());
        let (summary, file) = thread::scope(|scope| {
            scope.spawn(|| {
                take_job(&mut lazy);
                asked.store(true, Ordering::SeqCst);
                while lazy.write_all(&[ALIVE]).is_ok() {
                    thread::sleep(Duration::from_millis(20));
                }
            });
            run_of(STEPS, Some(&workers), &|| {
                stops && asked.load(Ordering::SeqCst)
            })
        });
        assert_eq!(summary.unwrap().complete, !stops);
        assert!(stops || file == run(None).1);
        assert!(begun.elapsed() < PATIENCE);
    }
}

#[test]
fn a_run_does_not_begin_with_workers_that_are_gone() {
    let workers = listen().at_least(1);
    let gone = greeted(&workers);
    workers.wait(&|| false);
    assert_eq!(workers.count(), 1);
    drop(gone);
    let polls = AtomicU32::new(0);
    workers.wait(&|| polls.fetch_add(1, Ordering::Relaxed) == 3);
    assert_eq!(workers.count(), 0);
    let there = worker_of(&workers);
    workers.wait(&|| false);
    // Who comes when all is done is sent home.
    let mut late = greeted(&workers);
    workers.end();
    assert_eq!(there.join().unwrap().unwrap(), Done::default());
    assert_eq!(wire::read_array(&mut late).unwrap(), HELLO);
    wire::read_text(&mut late).unwrap();
    assert_eq!(wire::read_array(&mut late).unwrap(), [END]);
}

#[test]
fn strangers_and_other_versions_are_no_workers() {
    let workers = listen();
    let mut strangers: Vec<TcpStream> = (0..30)
        .map(|i| {
            let mut stream = TcpStream::connect(workers.address()).unwrap();
            match i % 3 {
                0 => stream.write_all(&[i; 100]).unwrap(),
                1 => stream.write_all(&HELLO[..5]).unwrap(),
                _ => {}
            }
            stream
        })
        .collect();
    assert!(run(Some(&workers)).0.unwrap().complete);
    strangers.clear();

    let workers = listen().at_least(1);
    let mut other = TcpStream::connect(workers.address()).unwrap();
    other.write_all(&hello("0.0.0-other")).unwrap();
    let good = worker_of(&workers);
    let text = thread::scope(|scope| {
        let asked = scope.spawn(move || {
            assert_eq!(wire::read_array(&mut other).unwrap(), REFUSED);
            wire::read_text(&mut other).unwrap()
        });
        assert!(run(Some(&workers)).0.unwrap().complete);
        asked.join().unwrap()
    });
    assert!(text.contains(wire::version()), "{text}");
    good.join().unwrap().unwrap();
}

#[test]
fn a_segment_that_can_not_be_read_ends_the_step_and_no_worker() {
    let dir = tempfile::tempdir().unwrap();
    let (corpus, settings) = (corpus(dir.path()), settings());
    let config = settings.config();
    let params = crate::model::initial(&config, 1).unwrap();
    let model = model_of(&config, &params).unwrap();
    let workers = listen().at_least(1);
    let there = worker_of(&workers);
    workers.wait(&|| false);
    let segment = |index| match index {
        7 => Err(TrainError::Shorter {
            path: "gone".into(),
        }),
        _ => corpus.segment(&config, &settings.dataset, 1, index),
    };
    let local =
        |segment: &_| -> Result<Gradient, TrainError> { Ok(gradient(&model, &params, segment)?) };
    let go_on = || false;
    let failed = workers.gradients(&params, (0, 12), &segment, &local, &go_on);
    assert!(matches!(failed, Err(TrainError::Shorter { .. })));
    let good = workers
        .gradients(&params, (8, 12), &segment, &local, &go_on)
        .unwrap()
        .unwrap();
    assert_eq!(good.len(), 12);
    for (index, gradient) in (8..).zip(good) {
        assert_eq!(gradient, local(&segment(index).unwrap()).unwrap());
    }
    workers.end();
    there.join().unwrap().unwrap();
}

/// What a worker says of a leader that answers with these bytes and then closes the connection.
fn work_for(answer: &[u8]) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    thread::scope(|scope| {
        scope.spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut hello = [0; 12];
            stream.read_exact(&mut hello).unwrap();
            stream.write_all(answer).unwrap();
            // What it still says is read: otherwise closing would take back what was sent.
            stream.shutdown(std::net::Shutdown::Write).unwrap();
            let _ = stream.read_to_end(&mut Vec::new());
        });
        let error = work(&address, Duration::ZERO, &mut |_| ())
            .unwrap_err()
            .to_string();
        assert!(
            error.starts_with(&address) && !error.contains('\n'),
            "{error}"
        );
        error
    })
}

#[test]
fn a_worker_tells_a_leader_that_is_none_in_one_line() {
    let text = |kind: [u8; 8], text: &str| {
        let mut bytes = kind.to_vec();
        wire::write_text(&mut bytes, text).unwrap();
        bytes
    };
    let config = serde_json::to_string(&settings().config()).unwrap();
    let welcome = |window: usize| {
        let json = format!("{{\"config\":{config},\"window\":{window}}}");
        text(HELLO, &json)
    };
    let long = [&HELLO[..], &u32::MAX.to_le_bytes()].concat();
    let odd = config.replace("\"d_model\":32", "\"d_model\":33");
    assert_ne!(odd, config);
    let odd = text(HELLO, &format!("{{\"config\":{odd},\"window\":64}}"));
    for (answer, says) in [
        (&b"HTTP/1.1 400 Bad Request"[..], "is no training run"),
        (b"", "is no training run: it closed the connection"),
        (&long, "is no training run"),
        (&text(HELLO, "{}"), "is no training run"),
        (&odd, "is no training run: its configuration is not valid"),
        (&welcome(0), "configuration is not valid"),
        (&welcome(1 << 40), "configuration is not valid"),
        (&text(REFUSED, "full"), "refuses: full"),
        (&welcome(64), "the run is lost: it closed the connection"),
    ] {
        let said = work_for(answer);
        assert!(said.contains(says), "{said}");
    }
    let job = |flag: u8, count: u32| [&[JOB, flag][..], &count.to_le_bytes()].concat();
    for (after, says) in [
        (vec![9], "asks for something else"),
        (job(2, 1), "job is not valid"),
        (job(1, 0), "job is not valid"),
        (job(0, u32::MAX), "job is not valid"),
        (job(1, 1), "it closed the connection"),
    ] {
        let said = work_for(&[welcome(64), after].concat());
        assert!(
            said.contains(says) && said.contains("the run is lost"),
            "{said}"
        );
    }
}

#[test]
fn an_address_that_nobody_listens_on_or_that_is_none_is_an_error() {
    let address = {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        listener.local_addr().unwrap().to_string()
    };
    for (address, wait) in [(&*address, 300), ("nowhere", 0), ("127.0.0.1:x", 0)] {
        let error = work(address, Duration::from_millis(wait), &mut |_| ()).unwrap_err();
        assert!(error.to_string().contains("can not be reached"), "{error}");
    }
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    assert!(Workers::listen(&address, &settings()).is_err());
    assert!(Workers::listen("nowhere", &settings()).is_err());
}
