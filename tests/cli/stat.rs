//! `vortex-fs stat`: figures of files and trees.

use std::fs;

use crate::common::*;

#[test]
fn figures_of_a_segment() {
    let content = records(40_000);
    let (_dir, segment) = with_segment(&content);
    let all = json(&run(
        vortex_fs().args(["stat", "--json"]).arg(&segment),
        GOOD,
    ));
    let stored = fs::metadata(&segment).unwrap().len();
    let one = &all[0];
    assert_eq!(one["form"], "sealed");
    assert_eq!(one["logical"], 40_000);
    assert_eq!(one["stored"], stored);
    assert_eq!(one["block_size"], 16384);
    let blocks = &one["blocks"];
    let sum: u64 = ["raw", "zstd", "neural", "holes"]
        .iter()
        .map(|k| blocks[*k].as_u64().unwrap())
        .sum();
    assert_eq!(sum, 3);
    assert!((one["ratio"].as_f64().unwrap() - 40_000.0 / stored as f64).abs() < 1e-9);
    assert!((one["bits_per_byte"].as_f64().unwrap() - stored as f64 * 8.0 / 40_000.0).abs() < 1e-9);
    let text = stdout(&run(vortex_fs().arg("stat").arg(&segment), GOOD));
    assert!(
        text.contains("logical size:") && text.contains("(40000 bytes)"),
        "{text}"
    );
}

#[test]
fn totals_of_a_tree_count_hard_links_once() {
    let (dir, segment) = with_segment(&records(10_000));
    fs::create_dir(dir.path().join("sub")).unwrap();
    fs::write(dir.path().join("sub/plain.txt"), vec![b'x'; 1000]).unwrap();
    fs::hard_link(&segment, dir.path().join("sub/b.dat.vortex")).unwrap();
    let all = json(&run(
        vortex_fs().args(["stat", "--json"]).arg(dir.path()),
        GOOD,
    ));
    let one = &all[0];
    assert_eq!(
        (one["files"].as_u64(), one["segments"].as_u64()),
        (Some(2), Some(1))
    );
    assert_eq!(one["logical"], 11_000);
    assert_eq!(one["stored"], fs::metadata(&segment).unwrap().len() + 1000);
}

#[test]
fn damaged_file_of_a_tree_is_named_and_the_rest_counted() {
    let (dir, _segment) = with_segment(&records(10_000));
    fs::write(dir.path().join("bad.vortex"), "this is no segment at all").unwrap();
    let output = run(
        vortex_fs().args(["stat", "--json"]).arg(dir.path()),
        DAMAGED,
    );
    assert!(String::from_utf8_lossy(&output.stderr).contains("bad.vortex: not a vortex segment"));
    assert_eq!(json(&output)[0]["logical"], 10_000);
}
