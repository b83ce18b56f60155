//! `vortex-fs cat`: whole files and ranges.

use std::fs;

use crate::common::*;

#[test]
fn ranges_are_the_bytes_asked_for() {
    let content = records(60_000);
    let (_dir, segment) = with_fresh_segment(&content);
    assert!(run(vortex_fs().arg("cat").arg(&segment), GOOD).stdout == content);
    for (range, expected) in [
        ("0:1", 0..1),
        ("16383:2", 16383..16385),
        ("16K:16K", 16384..32768),
        ("10:40000", 10..40010),
        ("59999:1", 59999..60_000),
        ("59990:1000", 59990..60_000),
        ("50000:", 50000..60_000),
        ("60000:5", 0..0),
        ("1T:5", 0..0),
        ("7:0", 0..0),
    ] {
        let got = run(
            vortex_fs().args(["cat", "--range", range]).arg(&segment),
            GOOD,
        )
        .stdout;
        assert!(got == content[expected], "{range}");
    }
}

#[test]
fn only_the_blocks_of_the_range_are_decoded() {
    let content = records(60_000);
    let (_dir, segment) = with_segment(&content);
    let damaged_block = damage_a_block(&segment);
    for block in 0..60_000usize.div_ceil(16384) {
        let range = format!("{}:100", block * 16384);
        let mut cat = vortex_fs();
        cat.args(["cat", "--range", &range]).arg(&segment);
        if block == damaged_block {
            let line = complaint(&mut cat, DAMAGED);
            assert!(line.contains(&format!("block {block}")), "{line}");
        } else {
            let got = run(&mut cat, GOOD).stdout;
            assert!(got == content[block * 16384..][..100], "block {block}");
        }
    }
}

/// Flips a byte in the middle of the file, which is some block's payload, and tells which block it is.
fn damage_a_block(segment: &std::path::Path) -> usize {
    let mut raw = fs::read(segment).unwrap();
    let middle = raw.len() / 2;
    raw[middle] ^= 0x10;
    fs::write(segment, raw).unwrap();
    let report = json(&run(
        vortex_fs().args(["verify", "--json"]).arg(segment),
        DAMAGED,
    ));
    let damage = &report["damaged"][0]["parts"];
    assert_eq!(damage.as_array().unwrap().len(), 1, "{report}");
    damage[0]["blocks"][0].as_u64().unwrap() as usize
}

#[test]
fn several_files_are_joined() {
    let (dir, segment) = with_segment(b"one\n");
    let second = dir.path().join("b");
    fs::write(&second, "two\n").unwrap();
    run(vortex_compress().arg(&second), GOOD);
    let output = run(
        vortex_fs()
            .arg("cat")
            .arg(&segment)
            .arg(with_suffix(&second)),
        GOOD,
    );
    assert_eq!(stdout(&output), "one\ntwo\n");
}
