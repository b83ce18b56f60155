//! `vortex-decompress`: names, options, sparse files.

use std::fs;
use std::os::unix::fs::MetadataExt;

use crate::common::*;

#[test]
fn keep_output_and_stdout_leave_the_segment() {
    let content = csv(500);
    let (dir, segment) = with_segment(&content);
    assert_eq!(
        run(vortex_decompress().arg("-c").arg(&segment), GOOD).stdout,
        content
    );
    run(vortex_decompress().arg("-k").arg(&segment), GOOD);
    assert_eq!(names_in(dir.path()), ["a.dat", "a.dat.vortex"]);
    let out = dir.path().join("out");
    run(vortex_decompress().arg("-o").arg(&out).arg(&segment), GOOD);
    assert_eq!(names_in(dir.path()), ["a.dat", "a.dat.vortex", "out"]);
    assert_eq!(fs::read(out).unwrap(), content);
}

#[test]
fn name_without_suffix_needs_an_output() {
    let (dir, segment) = with_segment(&csv(10));
    let renamed = dir.path().join("renamed");
    fs::rename(&segment, &renamed).unwrap();
    let line = complaint(vortex_decompress().arg(&renamed), FAILED);
    assert!(
        line.contains("does not end in .vortex") && line.contains("-o"),
        "{line}"
    );
    run(
        vortex_decompress()
            .arg("-o")
            .arg(dir.path().join("x"))
            .arg(&renamed),
        GOOD,
    );
    assert_eq!(fs::read(dir.path().join("x")).unwrap(), csv(10));
}

#[test]
fn runs_of_zeros_come_back_as_holes() {
    let mut content = vec![0; 4 << 20];
    content[..1000].copy_from_slice(&records(1000));
    let end = content.len();
    content[end - 1000..].copy_from_slice(&records(1000));
    let (dir, segment) = with_fresh_segment(&content);
    assert!(fs::metadata(&segment).unwrap().len() < 10_000);
    run(vortex_decompress().arg(&segment), GOOD);
    let back = dir.path().join("a.dat");
    assert!(fs::read(&back).unwrap() == content);
    assert!(fs::metadata(&back).unwrap().blocks() * 512 < 1 << 20);
}

#[test]
fn subcommands_are_the_programs() {
    let content = records(20_000);
    let (dir, path) = with_file("a.bin", &content);
    run(vortex_fs().arg("compress").arg(&path), GOOD);
    assert_eq!(names_in(dir.path()), ["a.bin.vortex"]);
    run(vortex_fs().arg("decompress").arg(with_suffix(&path)), GOOD);
    assert!(fs::read(&path).unwrap() == content);
}

#[test]
fn reader_that_goes_away_is_no_error() {
    let (_dir, segment) = with_fresh_segment(&vec![b'x'; 3 << 20]);
    let program = env!("CARGO_BIN_EXE_vortex-fs");
    let script = format!(
        "'{program}' cat '{}' | head -c 5; exit ${{PIPESTATUS[0]}}",
        segment.display()
    );
    let output = run(
        std::process::Command::new("bash").args(["-c", &script]),
        GOOD,
    );
    assert_eq!(stdout(&output), "xxxxx");
    assert!(
        output.stderr.is_empty(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
}
