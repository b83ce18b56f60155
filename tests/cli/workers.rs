//! `vortex-fs train --listen` and `vortex-fs train-worker`: a run on several machines, all of which are this one here.

use std::fs;
use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};

use rustix::process::{Pid, Signal, kill_process};

use crate::common::*;
use crate::train::{Place, YAML};

/// A place whose steps have segments for all.
fn place() -> Place {
    let place = Place::new();
    let yaml = YAML.replace("batch_size: 2", "batch_size: 12");
    assert_ne!(yaml, YAML);
    fs::write(place.path("tiny.yaml"), yaml).unwrap();
    place
}

/// A run that waits for a worker, and where.
fn leader(place: &Place, out: &str, steps: u32, options: &[&str]) -> (Child, String) {
    let mut child = place
        .train(out, steps)
        .args(["--listen", "127.0.0.1:0", "--workers", "1"])
        .args(options)
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let address = lines
        .find_map(|line| {
            let line = line.unwrap();
            line.strip_prefix("workers are let in at ")
                .map(str::to_owned)
        })
        .unwrap();
    // What else it prints has to go somewhere.
    std::thread::spawn(move || lines.for_each(drop));
    (child, address)
}

fn worker(address: &str) -> Command {
    let mut command = vortex_fs();
    command.env("CANDLE_NUM_THREADS", "1");
    command.args(["train-worker", address, "--json"]);
    command
}

#[test]
fn a_run_with_a_worker_makes_the_same_profile() {
    let place = place();
    run(&mut place.train("alone", 60), GOOD);
    let (mut child, address) = leader(&place, "shared", 60, &[]);
    let done = json(&run(&mut worker(&address), GOOD));
    assert!(done["segments"].as_u64().unwrap() > 0, "{done}");
    assert_eq!(
        done["bytes"].as_u64(),
        done["segments"].as_u64().map(|n| 64 * n)
    );
    assert_eq!(child.wait().unwrap().code(), Some(GOOD));
    assert!(place.read("shared") == place.read("alone"));
}

#[test]
fn a_run_goes_on_without_a_worker_that_was_killed() {
    let place = place();
    run(&mut place.train("alone", 200), GOOD);
    let log = place.path("log");
    let (mut child, address) = leader(&place, "shared", 200, &["--log", log.to_str().unwrap()]);
    let mut killed = worker(&address).stdout(Stdio::null()).spawn().unwrap();
    let metrics = log.join("metrics.jsonl");
    wait_until("metrics", || {
        fs::metadata(&metrics).is_ok_and(|m| m.len() > 0)
    });
    killed.kill().unwrap();
    killed.wait().unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(GOOD));
    assert!(place.read("shared") == place.read("alone"));
}

#[test]
fn a_run_that_waits_for_workers_can_be_stopped_and_gone_on_with_alone() {
    let place = place();
    run(&mut place.train("alone", 30), GOOD);
    let (mut child, _) = leader(&place, "shared", 30, &[]);
    let checkpoint = place.path("shared.checkpoint");
    wait_until("checkpoint", || checkpoint.exists());
    kill_process(Pid::from_child(&child), Signal::INT).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(PARTIAL));
    run(
        place.train("shared", 30).arg("--resume").arg(checkpoint),
        GOOD,
    );
    assert!(place.read("shared") == place.read("alone"));
}

#[test]
fn whom_nobody_hears_and_what_can_not_be_listened_on_is_told_in_one_line() {
    let place = place();
    let nobody = complaint(worker("127.0.0.1:1").args(["--wait", "0"]), FAILED);
    assert!(
        nobody.contains("127.0.0.1:1") && nobody.contains("--listen"),
        "{nobody}"
    );
    let mut nowhere = place.train("out", 5);
    let line = complaint(nowhere.args(["--listen", "127.0.0.1:99999"]), FAILED);
    assert!(
        line.contains("127.0.0.1:99999") && line.contains("port"),
        "{line}"
    );
    assert_eq!(place.left(), [""; 0]);
    run(place.train("out", 5).args(["--workers", "2"]), FAILED);
}
