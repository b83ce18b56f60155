//! Bad input: one clear line, the right exit code, nothing lost, nothing left behind.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use vortex_fs::store::{Access, Archive};

use crate::common::*;

/// Every command that reads the segment `path` complains in one line about it.
fn all_readers_refuse(path: &Path, code: i32, words: &str) {
    let dir = path.parent().unwrap();
    let before = (names_in(dir), fs::read(path).ok());
    for mut command in [vortex_decompress(), with_arg("cat"), with_arg("stat")] {
        let line = complaint(command.arg(path), code);
        assert!(
            line.contains(words) && line.contains(&path.display().to_string()),
            "{line}"
        );
        assert!(line.contains("; "), "no remedy: {line}");
    }
    run(vortex_fs().arg("verify").arg(path), code);
    assert_eq!((names_in(dir), fs::read(path).ok()), before);
}

fn with_arg(name: &str) -> std::process::Command {
    let mut command = vortex_fs();
    command.arg(name);
    command
}

#[test]
fn file_that_is_no_segment() {
    let (_dir, path) = with_file("a.vortex", b"just some text, long enough to have a header");
    all_readers_refuse(&path, DAMAGED, "not a vortex segment");
}

#[test]
fn segment_of_a_future_version() {
    let (_dir, segment) = with_segment(&csv(100));
    let mut raw = fs::read(&segment).unwrap();
    let version_at = vortex_fs::segment::MAGIC.len();
    raw[version_at] = 200;
    fs::write(&segment, raw).unwrap();
    all_readers_refuse(&segment, DAMAGED, "version 200");
}

#[test]
fn directory_where_a_file_is_needed() {
    let dir = tempfile::tempdir().unwrap();
    for mut command in [vortex_compress(), vortex_decompress(), with_arg("cat")] {
        let line = complaint(command.arg(dir.path()), FAILED);
        assert!(line.contains("is a directory"), "{line}");
    }
}

#[test]
fn missing_file_and_missing_directory() {
    let dir = tempfile::tempdir().unwrap();
    for mut command in [
        vortex_compress(),
        vortex_decompress(),
        with_arg("cat"),
        with_arg("stat"),
    ] {
        let line = complaint(command.arg(dir.path().join("none.vortex")), FAILED);
        assert!(line.contains("no such file or directory"), "{line}");
    }
    let (_dir, path) = with_file("a", b"x");
    let line = complaint(
        vortex_compress()
            .arg("-o")
            .arg(dir.path().join("no/b"))
            .arg(&path),
        FAILED,
    );
    assert!(line.contains("no such file or directory"), "{line}");
    assert!(path.exists());
}

#[test]
fn logical_name_leads_to_the_segment() {
    let (dir, _segment) = with_segment(b"x");
    let line = complaint(vortex_fs().arg("cat").arg(dir.path().join("a.dat")), FAILED);
    assert!(
        line.contains("there is") && line.ends_with("a.dat.vortex"),
        "{line}"
    );
}

#[test]
fn every_truncation_is_damage_and_leaves_the_segment() {
    let content = csv(8);
    let (dir, segment) = with_segment(&content);
    let sound = fs::read(&segment).unwrap();
    for len in 0..sound.len() {
        fs::write(&segment, &sound[..len]).unwrap();
        complaint(vortex_decompress().arg(&segment), DAMAGED);
        assert_eq!(names_in(dir.path()), ["a.dat.vortex"], "length {len}");
    }
    // What a file system may make of a file that was not synced.
    for zeros in [1, 511, 512, 1536, 4096, 100_000] {
        fs::write(&segment, vec![0; zeros]).unwrap();
        complaint(vortex_decompress().arg(&segment), DAMAGED);
        assert_eq!(names_in(dir.path()), ["a.dat.vortex"], "{zeros} zeros");
    }
    // What a pipe gives whose other end has failed.
    let nothing = std::process::Stdio::null();
    complaint(vortex_decompress().stdin(nothing), DAMAGED);
}

#[test]
fn an_empty_file_of_an_archive_is_empty() {
    let dir = tempfile::tempdir().unwrap();
    vortex_fs::store::Archive::init(dir.path()).unwrap();
    let segment = dir.path().join("a.dat.vortex");
    fs::write(&segment, "").unwrap();
    let output = run(vortex_decompress().arg("-c").arg(&segment), GOOD);
    assert!(output.stdout.is_empty());
}

#[test]
fn every_flipped_byte_is_damage_or_harmless() {
    let content = csv(8);
    let (dir, segment) = with_segment(&content);
    let sound = fs::read(&segment).unwrap();
    for at in 0..sound.len() {
        for flip in [0x01, 0x80] {
            let mut raw = sound.clone();
            raw[at] ^= flip;
            fs::write(&segment, &raw).unwrap();
            let output = vortex_decompress()
                .arg("-c")
                .arg(&segment)
                .output()
                .unwrap();
            match output.status.code() {
                Some(GOOD) => assert!(output.stdout == content, "byte {at}: wrong content"),
                Some(DAMAGED) => {
                    assert_eq!(output.stderr.split(|&b| b == b'\n').count(), 2, "byte {at}")
                }
                code => panic!(
                    "byte {at}: exit code {code:?}: {}",
                    String::from_utf8_lossy(&output.stderr)
                ),
            }
        }
    }
    assert_eq!(names_in(dir.path()), ["a.dat.vortex"]);
}

#[test]
fn no_permission() {
    use std::os::unix::process::CommandExt;
    let (dir, path) = with_file("a.csv", b"x");
    fs::set_permissions(&path, fs::Permissions::from_mode(0o000)).unwrap();
    let mut command = vortex_compress();
    if is_root() {
        // Root may read everything: somebody else tries.
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
        command.uid(65534).gid(65534);
        if vortex_fs()
            .arg("--version")
            .uid(65534)
            .gid(65534)
            .output()
            .is_err()
        {
            return skip("another user can not run the program here");
        }
    }
    let line = complaint(command.arg(&path), FAILED);
    assert!(line.contains("a.csv: permission denied"), "{line}");
    assert_eq!(names_in(dir.path()), ["a.csv"]);
}

#[test]
fn special_files_are_not_read_for_ever() {
    let line = complaint(vortex_compress().arg("/dev/zero"), FAILED);
    assert!(line.contains("no regular file"), "{line}");
}

#[test]
fn special_files_are_not_replaced() {
    let (dir, path) = with_file("a.csv", b"x");
    let pipe = dir.path().join("pipe");
    let mode = rustix::fs::Mode::from_raw_mode(0o600);
    rustix::fs::mknodat(rustix::fs::CWD, &pipe, rustix::fs::FileType::Fifo, mode, 0).unwrap();
    std::os::unix::fs::symlink("pipe", dir.path().join("link")).unwrap();
    for name in ["pipe", "link"] {
        let out = dir.path().join(name);
        let mut command = vortex_compress();
        let line = complaint(command.args(["-f", "-o"]).arg(out).arg(&path), FAILED);
        assert!(
            line.contains("not replaced") && line.contains("-c"),
            "{line}"
        );
    }
    assert!(!fs::symlink_metadata(&pipe).unwrap().is_file());
    assert!(dir.path().join("link").is_symlink());
    assert_eq!(names_in(dir.path()), ["a.csv", "link", "pipe"]);
}

#[test]
fn unknown_profile_and_unusable_model() {
    let (dir, path) = with_file("a.csv", b"x");
    let line = complaint(
        vortex_compress().args(["--profile", "nosuch"]).arg(&path),
        FAILED,
    );
    assert!(line.contains("nosuch") && line.contains("fast"), "{line}");
    let model = dir.path().join("model.safetensors");
    fs::write(&model, "rubbish").unwrap();
    let line = complaint(
        vortex_compress().arg("--profile").arg(&model).arg(&path),
        FAILED,
    );
    assert!(line.contains("model.safetensors"), "{line}");
    assert_eq!(names_in(dir.path()), ["a.csv", "model.safetensors"]);
}

#[test]
fn missing_model_is_named_with_what_to_do() {
    let content = records(20_000);
    let weights = tiny_model(1);
    let (dir, model) = with_file("own.safetensors", &weights);
    let path = dir.path().join("a.bin");
    let segment = with_suffix(&path);
    segment_that_needs(&weights, &content, &segment);
    let stat = json(&run(
        vortex_fs().args(["stat", "--json"]).arg(&segment),
        GOOD,
    ));
    let id = stat[0]["models"][0].as_str().unwrap().to_owned();

    let line = complaint(vortex_decompress().arg(&segment), FAILED);
    assert!(
        line.contains(&format!("model {id}")) && line.contains("--profile"),
        "{line}"
    );
    run(vortex_fs().arg("verify").arg(&segment), FAILED);
    let other = dir.path().join("other.safetensors");
    fs::write(&other, tiny_model(2)).unwrap();
    complaint(
        vortex_decompress()
            .arg("--profile")
            .arg(&other)
            .arg(&segment),
        FAILED,
    );
    assert!(segment.exists() && !path.exists());

    run(
        vortex_fs()
            .args(["verify", "--profile"])
            .arg(&model)
            .arg(&segment),
        GOOD,
    );
    assert!(
        run(
            vortex_fs()
                .args(["cat", "--profile"])
                .arg(&model)
                .arg(&segment),
            GOOD
        )
        .stdout
            == content
    );
    run(
        vortex_decompress()
            .arg("--profile")
            .arg(&model)
            .arg(&segment),
        GOOD,
    );
    assert!(fs::read(&path).unwrap() == content);
}

#[test]
fn archive_serves_the_models_that_its_segments_need() {
    let content = records(20_000);
    let (dir, path) = with_file("b.bin", &content);
    let weights = tiny_model(3);
    let (_elsewhere, model) = with_file("own.safetensors", &weights);
    Archive::init(dir.path()).unwrap();
    // A model that no block names is not stored.
    run(
        vortex_compress().arg("--profile").arg(&model).arg(&path),
        GOOD,
    );
    let archive = Archive::open(dir.path(), Access::Write).unwrap();
    assert_eq!(archive.models().stored().unwrap(), []);
    let profile = archive.models().profile(model.to_str().unwrap()).unwrap();
    archive.models().store(&profile).unwrap();
    drop(archive);
    fs::remove_file(&model).unwrap();
    let segment = dir.path().join("a.bin.vortex");
    segment_that_needs(&weights, &content, &segment);
    run(vortex_fs().arg("verify").arg(dir.path()), GOOD);
    run(vortex_decompress().arg(&segment), GOOD);
    assert!(fs::read(dir.path().join("a.bin")).unwrap() == content);
    let outside = dir
        .path()
        .parent()
        .unwrap()
        .join(format!("{}.vortex", std::process::id()));
    segment_that_needs(&weights, &content, &outside);
    let line = complaint(vortex_fs().arg("cat").arg(&outside), FAILED);
    fs::remove_file(&outside).unwrap();
    assert!(line.contains("--profile"), "{line}");
}
