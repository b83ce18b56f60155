//! `vortex-fs bench fs`: a mounted archive beside other file systems. What is tested is the report, never a speed.

use std::path::Path;

use crate::common::*;

/// The programs that are needed when there are no peers.
const NEEDED: [&str; 6] = ["mkfs.ext4", "mount", "umount", "cp", "find", "ls"];

fn cannot_mount() -> bool {
    let root = rustix::process::geteuid().is_root();
    let able = root && Path::new("/dev/fuse").exists() && Path::new("/dev/loop-control").exists();
    if !able {
        println!("skipped: needs root, /dev/fuse and loop devices");
    }
    !able
}

/// A directory with nothing but links to the programs that are needed.
fn programs() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    for name in NEEDED {
        let places = ["/usr/bin", "/usr/sbin", "/bin", "/sbin"].map(|p| Path::new(p).join(name));
        let program = places.iter().find(|path| path.exists()).expect(name);
        std::os::unix::fs::symlink(program, dir.path().join(name)).unwrap();
    }
    dir
}

#[test]
fn every_workload_is_measured_and_missing_peers_are_named_with_their_packages() {
    if cannot_mount() {
        return;
    }
    let (dir, path) = with_file("a.csv", &csv(2000));
    let programs = programs();
    let report = json(&run(
        vortex_fs()
            .args(["bench", "fs", "--json", "--rounds", "2", "--size", "1M"])
            .args(["--appends", "20", "--reads", "20", "--files", "20", "--dir"])
            .arg(dir.path())
            .arg(&path)
            .env("PATH", programs.path()),
        GOOD,
    ));
    let figures = report["figures"].as_array().unwrap();
    for prefix in [
        "ingest",
        "logger",
        "read: page",
        "read: cache",
        "read: cold, in order",
        "read: cold, neural, in order, one core",
        "read: cold, neural, in order, all cores",
        "plain",
        "metadata",
    ] {
        let named = |f: &&serde_json::Value| f["workload"].as_str().unwrap().starts_with(prefix);
        assert!(figures.iter().any(|f| named(&f)), "{prefix}: {report}");
    }
    for figure in figures {
        let rows = figure["systems"].as_array().unwrap();
        assert_eq!(rows[0]["system"], "vortex-fs", "{figure}");
        for row in rows {
            let rounds = row["rounds"].as_array().unwrap();
            assert_eq!(rounds.len(), 2, "{figure}");
            assert!(rounds.iter().all(|v| v.as_f64().unwrap() > 0.0), "{figure}");
        }
    }
    let warm = figures
        .iter()
        .find(|f| f["workload"] == "read: page cache")
        .unwrap();
    let ratio = warm["systems"][1]["ours_to_peer"].as_f64().unwrap();
    let median = |n: usize| warm["systems"][n]["median"].as_f64().unwrap();
    assert!((ratio - median(0) / median(1)).abs() < 1e-9, "{warm}");
    let missing = report["missing"].as_array().unwrap();
    for (peer, package) in [
        ("btrfs", "btrfs-progs"),
        ("squashfs", "squashfs-tools"),
        ("squashfuse", "squashfs-tools"),
        ("erofs", "erofs-utils"),
        ("bindfs", "bindfs"),
    ] {
        let found = missing.iter().find(|m| m["peer"] == peer).expect(peer);
        assert!(
            found["reason"].as_str().unwrap().contains(package),
            "{found}"
        );
    }
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
}

#[test]
fn unknown_names_and_empty_data_are_refused() {
    for args in [["--only", "cpu"], ["--peer", "ntfs"]] {
        let output = run(
            vortex_fs().args(["bench", "fs"]).args(args).arg("/tmp"),
            FAILED,
        );
        let said = String::from_utf8(output.stderr).unwrap();
        assert!(said.contains("is none of"), "{said}");
    }
    if cannot_mount() {
        return;
    }
    let (dir, path) = with_file("a.csv", b"");
    let line = complaint(
        vortex_fs()
            .args(["bench", "fs", "--dir"])
            .arg(dir.path())
            .arg(path),
        FAILED,
    );
    assert!(line.contains("name files of telemetry"), "{line}");
}
