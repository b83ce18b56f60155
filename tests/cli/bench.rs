//! `vortex-fs bench codec`: figures of files, beside those of other compressors.

use std::os::unix::fs::PermissionsExt;

use crate::common::*;

#[test]
fn figures_of_files_and_their_sum() {
    let (dir, path) = with_file("a.csv", &csv(2000));
    std::fs::write(dir.path().join("b.bin"), records(2000)).unwrap();
    let report = json(&run(
        vortex_fs()
            .args(["bench", "codec", "--peer", "xz,gzip", "--peer", "zstd"])
            .args(["--reads", "5", "--block-size", "16K", "--json"])
            .arg(dir.path()),
        GOOD,
    ));
    let number = |v: &serde_json::Value| v.as_f64().unwrap();
    let (files, total) = (report["files"].as_array().unwrap(), &report["total"]);
    assert_eq!(files.len(), 2);
    for row in files.iter().chain([total]) {
        assert!(number(&row["stored"]) < number(&row["bytes"]), "{row}");
        for speed in ["pack_mb_s", "pack_verified_mb_s", "unpack_mb_s"] {
            assert!(number(&row[speed]) > 0.0, "{row}");
        }
        for reads in [&row["first_touch"], &row["primed"]] {
            assert!(number(&reads["p50_ms"]) > 0.0, "{row}");
            assert!(
                number(&reads["p99_ms"]) >= number(&reads["p50_ms"]),
                "{row}"
            );
        }
        for peer in ["gzip", "xz", "zstd"] {
            let figures = &row["peers"][peer];
            let ratio = number(&row["stored"]) / number(&figures["stored"]);
            assert!(
                (number(&figures["stored_ours_to_peer"]) - ratio).abs() < 1e-9,
                "{row}"
            );
        }
        assert!(number(&row["memory"]["per_thread"]) > 100_000.0, "{row}");
    }
    assert_eq!(files[0]["first_touch"]["reads"], 5);
    assert_eq!(total["primed"]["reads"], 6);
    let sum: f64 = files.iter().map(|row| number(&row["stored"])).sum();
    assert_eq!(number(&total["stored"]), sum);
    assert!(number(&total["blocks"]["neural"]) > 0.0, "{total}");

    // The size is that of the file that vortex-compress writes.
    run(
        vortex_compress()
            .args(["-k", "--block-size", "16K"])
            .arg(&path),
        GOOD,
    );
    let segment = std::fs::metadata(dir.path().join("a.csv.vortex")).unwrap();
    assert_eq!(files[0]["stored"], segment.len());
}

#[test]
fn table_ends_with_all_files() {
    let (dir, _path) = with_file("a.csv", &csv(40));
    let output = run(
        vortex_fs()
            .args(["bench", "codec", "--peer", "xz"])
            .arg(dir.path()),
        GOOD,
    );
    let text = stdout(&output);
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!(lines.len(), 7, "{text}");
    assert!(
        lines[0].contains("bits/B") && lines[1].ends_with("a.csv"),
        "{text}"
    );
    assert!(
        lines[2].contains("ours / xz") && lines[3].starts_with("blocks: "),
        "{text}"
    );
    assert!(
        lines[4].contains("start state") && lines[5].ends_with("all files"),
        "{text}"
    );
    assert!(output.stderr.is_empty(), "a bar without a terminal");
}

#[test]
fn missing_program_is_named_and_a_present_one_is_run() {
    let (dir, path) = with_file("a.csv", &csv(40));
    let bench = || {
        let mut command = vortex_fs();
        command
            .args(["bench", "codec", "--json", "--peer", "zpaq"])
            .arg(&path);
        command
    };
    let without = run(bench().env("PATH", dir.path()), GOOD);
    let said = String::from_utf8_lossy(&without.stderr).into_owned();
    assert_eq!(said.lines().count(), 1, "{said}");
    assert!(said.contains("zpaq is not installed"), "{said}");
    assert_eq!(json(&without)["peers_missing"][0], "zpaq");

    let bin = tempfile::tempdir().unwrap();
    let program = bin.path().join("zpaq");
    let script = "#!/bin/sh\ncase $1 in a) cp \"$3\" \"$2\" ;; x) cp \"$2\" data ;; esac\n";
    std::fs::write(&program, script).unwrap();
    std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o755)).unwrap();
    let path = format!("{}:/usr/bin:/bin", bin.path().display());
    let found = json(&run(bench().env("PATH", &path), GOOD));
    let row = &found["total"];
    assert_eq!(row["peers"]["zpaq"]["stored"], row["bytes"]);

    std::fs::write(&program, "#!/bin/sh\necho no memory >&2\nexit 2\n").unwrap();
    let line = complaint(bench().env("PATH", &path), FAILED);
    assert!(
        line.contains("zpaq") && line.contains("no memory"),
        "{line}"
    );
}

#[test]
fn missing_file_is_named() {
    let line = complaint(
        vortex_fs().args(["bench", "codec", "/no/such/file"]),
        FAILED,
    );
    assert!(line.contains("/no/such/file: no such file"), "{line}");
}

#[test]
fn parts_of_a_model_are_told_apart() {
    let (dir, path) = with_file("a.csv", &csv(1000));
    std::fs::write(dir.path().join("b.bin"), records(1000)).unwrap();
    std::fs::write(dir.path().join("empty"), b"").unwrap();
    let bench = |path: &std::path::Path| {
        let mut command = vortex_fs();
        command
            .args(["bench", "model", "--bytes", "8K", "--json"])
            .arg(path);
        command
    };
    let report = json(&run(&mut bench(dir.path()), GOOD));
    let files = report["files"].as_array().unwrap();
    assert_eq!(files.len(), 2);
    let bits = |costs: &serde_json::Value, i: usize| costs[i]["bits_per_byte"].as_f64().unwrap();
    let ways = ["statistics", "present", "recent", "model", "both"];
    for (i, way) in ways.into_iter().enumerate() {
        let mean = (bits(&files[0]["costs"], i) * bits(&files[1]["costs"], i)).sqrt();
        assert_eq!(report["mean"][i]["way"], way);
        assert!((bits(&report["mean"], i) - mean).abs() < 1e-9, "{report}");
    }
    // A trained model needs its past.
    assert!(
        bits(&report["mean"], 3) < bits(&report["mean"], 1),
        "{report}"
    );

    std::fs::write(&path, b"").unwrap();
    let line = complaint(&mut bench(&path), FAILED);
    assert!(line.contains("no bytes to measure"), "{line}");
}
