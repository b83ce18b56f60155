//! `vortex-fs train`: what it learns from, what it leaves behind, and how it refuses what it can not do.

use std::fs;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use rustix::mount::{MountFlags, UnmountFlags, mount, unmount};
use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

use crate::common::*;

pub(crate) const YAML: &str = "\
model: {d_model: 32, n_layers: 1, n_heads: 2, n_kv_heads: 1, ffn: 32, features: [previous, above]}
compressive_memory: {window_size: 8, compression_rate: 4, max_compressed_len: 8}
dataset: {window_size: 64, stride: 32}
training: {batch_size: 2, learning_rate: 0.01, warmup_steps: 5}
";

/// A configuration and data to learn from.
pub(crate) struct Place(TempDir);

impl Place {
    pub(crate) fn new() -> Place {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("tiny.yaml"), YAML).unwrap();
        fs::create_dir(dir.path().join("data")).unwrap();
        for i in 0..3 {
            let path = dir.path().join(format!("data/{i}.csv"));
            fs::write(path, csv(600 + 10 * i)).unwrap();
        }
        Place(dir)
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// A run over `data` that leaves its profile at `out`.
    pub(crate) fn train(&self, out: &str, steps: u32) -> Command {
        self.train_on(&self.path("data"), &self.path(out), steps)
    }

    fn train_on(&self, data: &Path, out: &Path, steps: u32) -> Command {
        let mut command = vortex_fs();
        // More threads would wait for each other on a busy machine.
        command.env("CANDLE_NUM_THREADS", "1");
        command.arg("train").arg("--data").arg(data);
        command.arg("--config").arg(self.path("tiny.yaml"));
        command.arg("--out").arg(out);
        command.args(["--steps", &steps.to_string()]);
        command
    }

    pub(crate) fn read(&self, name: &str) -> Vec<u8> {
        fs::read(self.path(name)).unwrap()
    }

    /// What is there besides what [`Place::new`] made.
    pub(crate) fn left(&self) -> Vec<String> {
        let mut names = names_in(self.0.path());
        names.retain(|name| name != "data" && name != "tiny.yaml");
        names
    }
}

/// Short messages of known words, which a file is too short to learn.
fn messages(place: &Place) {
    let words = "pump valve motor sensor pressure temperature flow alarm cleared raised restart nominal overheat vibration";
    let words: Vec<&str> = words.split(' ').collect();
    let dice = noise(30 * 100);
    for i in 0..3 {
        fs::remove_file(place.path(&format!("data/{i}.csv"))).unwrap();
    }
    for (i, dice) in dice.chunks(100).enumerate() {
        let text: Vec<&str> = dice.iter().map(|&d| words[usize::from(d) % 14]).collect();
        fs::write(place.path(&format!("data/{i:02}.log")), text.join(" ")).unwrap();
    }
}

#[test]
fn no_steps_leave_a_profile_its_model_and_make_none_from_nothing() {
    let place = Place::new();
    let refused = complaint(&mut place.train("a", 0), FAILED);
    assert!(refused.contains("--init"), "{refused}");
    assert_eq!(place.left(), [""; 0]);
    // Nor is anything replaced that is no file.
    let socket = UnixListener::bind(place.path("socket")).unwrap();
    let said = complaint(&mut place.train("socket", 5), FAILED);
    assert!(said.contains("no model"), "{said}");
    drop(socket);
    fs::remove_file(place.path("socket")).unwrap();
    let endless = complaint(place.train("a", 5).args(["--init", "/dev/zero"]), FAILED);
    assert!(endless.contains("16 MiB"), "{endless}");
    run(&mut place.train("a", 20), GOOD);
    let mut again = place.train("b", 0);
    again.arg("--init").arg(place.path("a"));
    let text = stdout(&run(&mut again, GOOD));
    assert!(text.contains("0 steps"), "{text}");
    let recorded = complaint(again.arg("--log").arg(place.path("log")), FAILED);
    assert!(recorded.contains("no record"), "{recorded}");
    assert!(
        place.read("b") == place.read("a"),
        "learnt from the same data"
    );
    assert_eq!(place.left(), ["a", "b"]);
}

#[test]
fn summary_says_what_was_learnt_and_whether_it_beats_what_it_started_from() {
    let place = Place::new();
    messages(&place);
    let log = place.path("log");
    let first = run(place.train("a", 20).arg("--log").arg(&log), GOOD);
    let text = stdout(&first);
    assert!(
        first.stderr.is_empty(),
        "no progress bar without a terminal"
    );
    for part in ["perplexity", "zstd -19", "xz -9e", "times smaller"] {
        assert!(text.contains(part), "{part}: {text}");
    }
    assert!(!text.contains("beat"), "{text}");
    assert_eq!(
        names_in(&log),
        ["metrics.csv", "metrics.jsonl", "metrics.svg"]
    );

    let start = |steps: u32, out: &str, from: &str| {
        let mut command = place.train(out, steps);
        command.arg("--init").arg(place.path(from));
        command
    };
    let text = stdout(&run(&mut start(300, "b", "a"), GOOD));
    let verdict: Vec<&str> = text.lines().filter(|l| l.contains(" beats ")).collect();
    assert!(
        verdict.len() == 1 && verdict[0].contains("% smaller"),
        "{text}"
    );
    assert!(text.contains("\nexported: "), "{text}");

    let result = json(&run(start(300, "b", "a").arg("--json"), GOOD));
    assert_eq!(result["complete"], true);
    assert_eq!(result["steps"], 300);
    let figure = |name: &str| result["held_out"][name].as_f64().unwrap();
    let bits = figure("bits_per_byte");
    assert!((figure("perplexity") - bits.exp2()).abs() < 1e-9);
    assert!((figure("ratio") - 8.0 / bits).abs() < 1e-9);
    assert_eq!(result["verdict"]["better"], true);
    assert!(result["verdict"]["packed_change"].as_f64().unwrap() < -1.0);
    assert!(result["verdict"]["model_change"].as_f64().unwrap() < -1.0);
    let exported = |by: &str| result["exported"][by].as_f64().unwrap();
    assert!(exported("engine") < 1.01 * exported("floats") && exported("floats") > 0.0);
    let packed = &result["packed"];
    let size = |name: &str| packed[name].as_u64().unwrap();
    assert!(size("packed") < size("packed_before"));
    assert!(size("packed") < size("xz_9e") && size("packed") < size("zstd_19"));
    let held_out = ["09", "19", "29"].map(|i| place.read(&format!("data/{i}.log")).len() as u64);
    assert_eq!(size("bytes"), held_out.iter().sum::<u64>());
    assert!(size("zstd_19") > 100 && size("xz_9e") > 100);

    // And the other way round: a run that forgets is told so.
    let yaml = YAML.replace("learning_rate: 0.01", "learning_rate: 10.0");
    fs::write(place.path("tiny.yaml"), yaml).unwrap();
    let text = stdout(&run(&mut start(3, "c", "b"), GOOD));
    assert!(text.contains("does not beat"), "{text}");
    assert_eq!(place.left(), ["a", "b", "c", "log"]);
}

/// Files, a pattern, the backing directory of an archive and segments outside of one are the same data.
#[test]
fn archive_is_learnt_from_as_the_files_in_it() {
    let place = Place::new();
    run(&mut place.train("files", 20), GOOD);
    let profile = place.read("files");
    let pattern = place.path("da*/?.csv");
    run(
        &mut place.train_on(&pattern, &place.path("pattern"), 20),
        GOOD,
    );
    assert!(place.read("pattern") == profile);

    run(vortex_fs().arg("pack").arg(place.path("data")), GOOD);
    let names = names_in(&place.path("data"));
    assert_eq!(
        names,
        [".vortex", "0.csv.vortex", "1.csv.vortex", "2.csv.vortex"]
    );
    // A swap that was interrupted leaves both: the segment counts.
    fs::write(place.path("data/1.csv"), noise(5000)).unwrap();
    run(&mut place.train("archive", 20), GOOD);
    assert!(place.read("archive") == profile);

    // A damaged file of the archive is named and left out, a damaged block too.
    fs::remove_file(place.path("data/1.csv")).unwrap();
    let cut = place.path("data/0.csv.vortex");
    fs::write(&cut, &fs::read(&cut).unwrap()[..40]).unwrap();
    let output = run(&mut place.train("damaged", 20), DAMAGED);
    let warning = String::from_utf8(output.stderr).unwrap();
    assert!(
        warning.contains("0.csv.vortex") && warning.contains("repair"),
        "{warning}"
    );
    assert!(place.path("damaged").exists());
}

#[test]
fn interrupted_run_goes_on_to_the_same_profile() {
    let place = Place::new();
    let whole = run(place.train("whole", 600).arg("--json"), GOOD);
    let mut child = place
        .train("parts", 600)
        .arg("--log")
        .arg(place.path("log"))
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let metrics = place.path("log/metrics.jsonl");
    wait_until("metrics", || {
        fs::metadata(&metrics).is_ok_and(|m| m.len() > 0)
    });
    kill_process(Pid::from_child(&child), Signal::INT).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(PARTIAL));
    assert!(place.path("parts").exists());

    // Nothing is overwritten by a run that does not go on with it.
    let line = complaint(&mut place.train("parts", 600), FAILED);
    assert!(
        line.contains("unfinished") && line.contains("--resume"),
        "{line}"
    );
    let resume = |steps: u32| {
        let mut command = place.train("parts", steps);
        command.arg("--resume").arg(place.path("parts.checkpoint"));
        command
    };
    let line = complaint(&mut resume(700), FAILED);
    assert!(line.contains("length or seed"), "{line}");
    let output = run(resume(600).arg("--json"), GOOD);
    assert!(place.read("parts") == place.read("whole"));
    assert_eq!(json(&output)["model"], json(&whole)["model"]);
    assert_eq!(json(&output)["held_out"], json(&whole)["held_out"]);
    assert_eq!(place.left(), ["log", "parts", "whole"]);
}

#[test]
fn progress_is_shown_on_a_terminal() {
    let place = Place::new();
    let train = place.train("a", 100);
    let spawn = "import pty, sys; sys.exit(pty.spawn(sys.argv[1:]) >> 8)";
    let output = Command::new("python3")
        .args(["-c", spawn])
        .arg(train.get_program())
        .args(train.get_args())
        .stdin(Stdio::null())
        .output();
    let Ok(output) = output else {
        return skip("no python3");
    };
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{text}");
    for part in ["step ", "bits/byte", "KiB/s", "eta "] {
        assert!(text.contains(part), "{part}: {text}");
    }
}

#[test]
fn what_is_no_model_is_never_replaced_by_one() {
    let place = Place::new();
    let data = place.path("data");
    for name in ["data/1.csv", "tiny.yaml"] {
        let before = place.read(name);
        let line = complaint(&mut place.train_on(&data, &place.path(name), 1), FAILED);
        assert!(
            line.contains(name) && line.contains("exists and is no model, so it is not replaced; "),
            "{line}"
        );
        assert!(place.read(name) == before);
    }
    assert_eq!(names_in(&data), ["0.csv", "1.csv", "2.csv"]);
    assert!(place.left().is_empty());
    // A model is, by the next one.
    run(&mut place.train("a", 1), GOOD);
    let first = place.read("a");
    run(&mut place.train("a", 3), GOOD);
    assert!(place.read("a") != first);
}

#[test]
fn bad_input_is_one_line_and_leaves_nothing() {
    let place = Place::new();
    let refused = |command: &mut Command, code: i32, parts: &[&str]| {
        let line = complaint(command, code);
        for part in parts {
            assert!(line.contains(part), "{part}: {line}");
        }
        assert!(line.contains("; "), "no remedy: {line}");
    };
    let out = place.path("out");
    let data = |data: &Path| place.train_on(data, &out, 5);

    let empty = tempfile::tempdir().unwrap();
    refused(&mut data(empty.path()), FAILED, &["no file", "--data"]);
    fs::write(empty.path().join("short"), [7; 63]).unwrap();
    fs::write(empty.path().join("nothing"), []).unwrap();
    let parts = ["none of 2 files has 64 bytes", "dataset.window_size"];
    refused(&mut data(empty.path()), FAILED, &parts);
    refused(
        &mut data(&place.path("gone")),
        FAILED,
        &["gone: no such file"],
    );
    refused(
        &mut data(&place.path("*.bin")),
        FAILED,
        &["matches no file"],
    );
    refused(
        &mut data(Path::new("/dev/null")),
        FAILED,
        &["neither file nor"],
    );
    let segment = empty.path().join("a.vortex");
    fs::write(&segment, noise(500)).unwrap();
    refused(&mut data(&segment), DAMAGED, &["not a vortex segment"]);

    for (from, to, part) in [
        ("n_layers: 1", "n_layers: many", "line 1, column"),
        ("n_layers: 1", "layers: 1", "layers"),
        ("stride: 32", "stride: -1", "line 3"),
        ("batch_size: 2", "batch_size: 0", "batch_size"),
        ("model:", "module:", "module"),
        ("model: {", "model: [", "line"),
    ] {
        let wrong = place.path("data/wrong.yaml");
        fs::write(&wrong, YAML.replace(from, to)).unwrap();
        let mut command = place.train("out", 5);
        refused(
            command.arg("--init").arg("fast"),
            FAILED,
            &["--init", "--config"],
        );
        let mut command = vortex_fs();
        command.args(["train", "--data"]).arg(place.path("data"));
        command.arg("--config").arg(&wrong).arg("--out").arg(&out);
        refused(
            &mut command,
            FAILED,
            &["wrong.yaml", part, "docs/TRAINING.md"],
        );
        fs::remove_file(&wrong).unwrap();
    }

    let csv = place.path("data/1.csv");
    let with = |option: &str, value: &Path| {
        let mut command = place.train("out", 5);
        command.arg(option).arg(value);
        command
    };
    refused(&mut with("--init", &csv), FAILED, &["--init", "--config"]);
    let name = Path::new("quick");
    refused(&mut with("--init", name), FAILED, &["quick", "fast"]);
    refused(
        &mut with("--resume", &csv),
        DAMAGED,
        &["1.csv", "no checkpoint"],
    );
    refused(&mut with("--resume", &out), FAILED, &["no such file"]);
    refused(&mut with("--log", &csv), FAILED, &["1.csv"]);
    let to = |out: &Path| place.train_on(&place.path("data"), out, 5);
    let nowhere = place.path("none/out");
    refused(&mut to(&nowhere), FAILED, &["none/out: no such file"]);
    refused(
        &mut to(&place.path("data")),
        FAILED,
        &["data: is a directory"],
    );
    assert_eq!(place.left(), [""; 0]);

    // A checkpoint of another configuration.
    let mut child = place.train("out", 1_000_000).spawn().unwrap();
    let checkpoint = place.path("out.checkpoint");
    wait_until("checkpoint", || checkpoint.exists());
    kill_process(Pid::from_child(&child), Signal::INT).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(PARTIAL));
    let before = place.read("out.checkpoint");
    fs::write(place.path("tiny.yaml"), YAML.replace("0.01", "0.02")).unwrap();
    refused(
        &mut with("--resume", &checkpoint),
        FAILED,
        &["another configuration", "--init"],
    );
    assert!(place.read("out.checkpoint") == before);
    assert_eq!(place.left(), ["out", "out.checkpoint"]);
}

/// The second checkpoint finds no room beside the first.
#[test]
fn full_disk_leaves_the_last_checkpoint_and_nothing_half_written() {
    let place = Place::new();
    let disk = tempfile::tempdir().unwrap();
    let small = |size: &std::ffi::CStr| {
        let flags = MountFlags::empty();
        mount("tmpfs", disk.path(), "tmpfs", flags, Some(size)).is_ok()
    };
    let train = || {
        let mut command = place.train_on(&place.path("data"), &disk.path().join("m"), 30);
        command.args(["--checkpoint-minutes", "0.00001"]);
        complaint(&mut command, FAILED)
    };
    if !small(c"size=256k") {
        return skip("no permission to mount a tmpfs");
    }
    let line = train();
    let left = names_in(disk.path());
    unmount(disk.path(), UnmountFlags::DETACH).unwrap();
    assert!(
        line.contains("no space left") && line.contains("free some space"),
        "{line}"
    );
    assert_eq!(left, [""; 0], "the first finds no room either");

    assert!(small(c"size=640k"));
    let line = train();
    let left = names_in(disk.path());
    fs::copy(disk.path().join("m.checkpoint"), place.path("m.checkpoint")).unwrap();
    unmount(disk.path(), UnmountFlags::DETACH).unwrap();
    assert!(
        line.contains("no space left") && line.contains("go on with --resume"),
        "{line}"
    );
    assert_eq!(left, ["m.checkpoint"]);
    let mut command = place.train("m", 30);
    run(
        command.arg("--resume").arg(place.path("m.checkpoint")),
        GOOD,
    );
    run(&mut place.train("whole", 30), GOOD);
    assert!(place.read("m") == place.read("whole"));
}

/// The same for who may mount nothing: a limit on the length of files.
#[test]
fn checkpoint_that_can_not_be_written_ends_the_run_and_leaves_nothing() {
    let place = Place::new();
    let train = place.train("m", 30);
    let mut limited = Command::new("sh");
    limited.args(["-c", "trap '' XFSZ; ulimit -f 400; exec \"$0\" \"$@\""]);
    limited.arg(train.get_program()).args(train.get_args());
    let line = complaint(&mut limited, FAILED);
    assert!(line.contains("m.checkpoint: file too large"), "{line}");
    assert!(line.contains("free some space"), "{line}");
    assert_eq!(place.left(), [""; 0]);
}
