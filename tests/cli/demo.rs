//! `vortex-fs demo`: goes the whole way, and leaves nothing behind whatever happens.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use crate::common::*;

fn demo_in(temp: &Path) -> Command {
    let mut command = vortex_fs();
    command
        .args(["demo", "--seconds", "1", "--rate", "30", "--json"])
        .env("TMPDIR", temp);
    command
}

fn can_mount() -> bool {
    let there = fs::File::options()
        .read(true)
        .write(true)
        .open("/dev/fuse")
        .is_ok();
    if !there {
        skip("no /dev/fuse");
    }
    there
}

fn mounts_below(path: &Path) -> Vec<String> {
    let table = fs::read_to_string("/proc/self/mounts").unwrap();
    let path = path.to_str().unwrap();
    table
        .lines()
        .filter(|line| line.contains(path))
        .map(str::to_owned)
        .collect()
}

#[test]
fn demo_goes_the_whole_way_and_cleans_up() {
    if !can_mount() {
        return;
    }
    let temp = tempfile::tempdir().unwrap();
    let report = json(&run(&mut demo_in(temp.path()), GOOD));
    let files = report["files"].as_array().unwrap();
    assert!(files.len() >= 4, "{report}");
    let sum = |key: &str| {
        files
            .iter()
            .map(|file| file[key].as_u64().unwrap())
            .sum::<u64>()
    };
    assert!(
        sum("packed") > 0 && sum("packed") * 2 < sum("recorded"),
        "{report}"
    );
    assert!(
        sum("gzip_9") > 0 && sum("zstd_19") > 0 && sum("xz_9") > 0,
        "{report}"
    );
    assert_eq!(names_in(temp.path()), [""; 0]);
    assert_eq!(mounts_below(temp.path()), [""; 0]);
}

#[test]
fn interrupted_demo_leaves_nothing_behind() {
    if !can_mount() {
        return;
    }
    let temp = tempfile::tempdir().unwrap();
    let mut child = demo_in(temp.path())
        .stderr(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    let deadline = Instant::now() + Duration::from_secs(60);
    while mounts_below(temp.path()).is_empty() && Instant::now() < deadline {
        std::thread::sleep(Duration::from_millis(5));
    }
    let pid = rustix::process::Pid::from_child(&child);
    rustix::process::kill_process(pid, rustix::process::Signal::INT).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(FAILED));
    assert_eq!(names_in(temp.path()), [""; 0]);
    assert_eq!(mounts_below(temp.path()), [""; 0]);
}

#[test]
fn machine_without_fuse_is_told_what_to_do() {
    let temp = tempfile::tempdir().unwrap();
    let script = format!(
        "mount -t tmpfs none /dev && TMPDIR='{}' exec '{}' demo",
        temp.path().display(),
        env!("CARGO_BIN_EXE_vortex-fs")
    );
    let mut hidden = Command::new("unshare");
    hidden.args(["--mount", "sh", "-c"]);
    if !hidden
        .arg("mount -t tmpfs none /dev")
        .output()
        .is_ok_and(|o| o.status.success())
    {
        return skip("no permission to hide /dev/fuse");
    }
    let line = complaint(
        Command::new("unshare").args(["--mount", "sh", "-c", &script]),
        FAILED,
    );
    assert!(
        line.contains("/dev/fuse") && line.contains("modprobe fuse"),
        "{line}"
    );
    assert_eq!(names_in(temp.path()), [""; 0]);
}
