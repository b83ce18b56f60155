//! `vortex-compress`: what it writes, what it removes, what it keeps.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::time::{Duration, SystemTime};

use crate::common::*;

#[test]
fn file_becomes_segment_and_comes_back() {
    for content in [
        records(100_000),
        csv(3000),
        Vec::new(),
        b"x".to_vec(),
        vec![0; 70_000],
    ] {
        let (dir, path) = with_file("a.dat", &content);
        run(vortex_compress().arg(&path), GOOD);
        assert_eq!(names_in(dir.path()), ["a.dat.vortex"]);
        run(vortex_decompress().arg(with_suffix(&path)), GOOD);
        assert_eq!(names_in(dir.path()), ["a.dat"]);
        assert!(
            fs::read(&path).unwrap() == content,
            "{} bytes",
            content.len()
        );
    }
}

#[test]
fn telemetry_gets_smaller() {
    let (_dir, path) = with_segment(&records(40_000));
    assert!(fs::metadata(path).unwrap().len() < 10_000);
}

#[test]
fn noise_grows_by_little() {
    let (_dir, path) = with_segment(&noise(20_000));
    let stored = fs::metadata(path).unwrap().len();
    assert!(stored < 20_000 + 200, "{stored}");
}

#[test]
fn keep_output_and_stdout_leave_the_original() {
    let content = csv(100);
    let (dir, path) = with_file("a.csv", &content);
    run(vortex_compress().arg("-k").arg(&path), GOOD);
    assert_eq!(names_in(dir.path()), ["a.csv", "a.csv.vortex"]);
    let to_stdout = run(vortex_compress().arg("-c").arg(&path), GOOD).stdout;
    assert_eq!(names_in(dir.path()), ["a.csv", "a.csv.vortex"]);
    assert_eq!(to_stdout, fs::read(with_suffix(&path)).unwrap());
    let out = dir.path().join("other");
    run(
        vortex_compress().arg("-k").arg("-o").arg(&out).arg(&path),
        GOOD,
    );
    assert_eq!(fs::read(&out).unwrap(), to_stdout);
    assert_eq!(fs::read(&path).unwrap(), content);
}

#[test]
fn output_to_another_name_removes_the_original() {
    let (dir, path) = with_file("a.csv", &csv(100));
    run(
        vortex_compress()
            .arg("-o")
            .arg(dir.path().join("b.vortex"))
            .arg(&path),
        GOOD,
    );
    assert_eq!(names_in(dir.path()), ["b.vortex"]);
}

#[test]
fn standard_input_goes_to_standard_output() {
    let content = records(5_000);
    for args in [&[][..], &["-"], &["-c", "-"], &["-o", "-"]] {
        let segment = run_with_stdin(vortex_compress().args(args), &content, GOOD).stdout;
        assert!(segment.len() < content.len() / 2);
        let back = run_with_stdin(vortex_decompress().args(args), &segment, GOOD).stdout;
        assert!(back == content, "{args:?}");
    }
}

#[test]
fn pipes_are_spooled() {
    let program = env!("CARGO_BIN_EXE_vortex-fs");
    let script =
        format!("seq 1 4000 | '{program}' compress | '{program}' decompress | cmp - <(seq 1 4000)");
    run(
        std::process::Command::new("bash").args(["-o", "pipefail", "-c", &script]),
        GOOD,
    );
}

#[test]
fn redirected_input_starts_where_its_reader_left_it() {
    let (_dir, path) = with_file("a.txt", b"first line\nsecond line\n");
    let program = env!("CARGO_BIN_EXE_vortex-fs");
    let script = format!(
        "(read first; '{program}' compress | '{program}' decompress) < '{}'",
        path.display()
    );
    let output = run(
        std::process::Command::new("bash").args(["-c", &script]),
        GOOD,
    );
    assert_eq!(stdout(&output), "second line\n");
}

#[test]
fn mode_and_times_are_kept_both_ways() {
    let (_dir, path) = with_file("a.csv", &csv(100));
    let then = SystemTime::UNIX_EPOCH + Duration::new(1_000_000_000, 123_456_789);
    fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
    let times = fs::FileTimes::new().set_modified(then).set_accessed(then);
    fs::File::options()
        .write(true)
        .open(&path)
        .unwrap()
        .set_times(times)
        .unwrap();
    for step in [
        vortex_compress().arg(&path),
        vortex_decompress().arg(with_suffix(&path)),
    ] {
        run(step, GOOD);
        let now = if path.exists() {
            path.clone()
        } else {
            with_suffix(&path)
        };
        let meta = fs::metadata(&now).unwrap();
        assert_eq!(meta.mode() & 0o7777, 0o640);
        assert_eq!(
            (meta.mtime(), meta.mtime_nsec()),
            (1_000_000_000, 123_456_789)
        );
    }
}

#[test]
fn owner_and_extended_attributes_are_kept() {
    let (_dir, path) = with_file("a.csv", &csv(100));
    let set = rustix::fs::setxattr(
        &path,
        "user.sensor",
        b"pump 7",
        rustix::fs::XattrFlags::CREATE,
    );
    if set.is_err() {
        return skip("no extended attributes here");
    }
    if is_root() {
        std::os::unix::fs::chown(&path, Some(12), Some(34)).unwrap();
    }
    let owner = |m: fs::Metadata| (m.uid(), m.gid());
    let before = owner(fs::metadata(&path).unwrap());
    run(vortex_compress().arg(&path), GOOD);
    let mut value = [0; 64];
    let len = rustix::fs::getxattr(with_suffix(&path), "user.sensor", &mut value[..]).unwrap();
    assert_eq!(&value[..len], b"pump 7");
    assert_eq!(owner(fs::metadata(with_suffix(&path)).unwrap()), before);
}

#[test]
fn nothing_is_overwritten_without_force() {
    let (dir, path) = with_file("a.csv", &csv(100));
    fs::write(with_suffix(&path), "precious").unwrap();
    let line = complaint(vortex_compress().arg(&path), FAILED);
    assert!(
        line.contains("a.csv.vortex: exists already") && line.contains("-f"),
        "{line}"
    );
    assert_eq!(fs::read(with_suffix(&path)).unwrap(), b"precious");
    assert_eq!(names_in(dir.path()), ["a.csv", "a.csv.vortex"]);
    run(vortex_compress().arg("-f").arg(&path), GOOD);
    assert_eq!(names_in(dir.path()), ["a.csv.vortex"]);
    fs::write(&path, "also precious").unwrap();
    complaint(vortex_decompress().arg(with_suffix(&path)), FAILED);
    assert_eq!(fs::read(&path).unwrap(), b"also precious");
    run(vortex_decompress().arg("-f").arg(with_suffix(&path)), GOOD);
    assert_eq!(fs::read(&path).unwrap(), csv(100));
}

#[test]
fn surprising_originals_are_refused() {
    let (dir, path) = with_file("a.csv", &csv(10));
    let link = dir.path().join("link.csv");
    symlink(&path, &link).unwrap();
    assert!(complaint(vortex_compress().arg(&link), FAILED).contains("symbolic link"));
    run(vortex_compress().arg("-k").arg(&link), GOOD);
    let second = dir.path().join("second.csv");
    fs::hard_link(&path, &second).unwrap();
    assert!(complaint(vortex_compress().arg(&path), FAILED).contains("2 names"));
    run(vortex_compress().arg("-f").arg(&path), GOOD);
    assert_eq!(fs::read(&second).unwrap(), csv(10));
    assert!(
        complaint(vortex_compress().arg(with_suffix(&path)), FAILED).contains("ends in .vortex")
    );
}

#[test]
fn several_files_at_once_and_one_of_them_missing() {
    let (dir, path) = with_file("a.csv", &csv(10));
    fs::write(dir.path().join("b.csv"), csv(20)).unwrap();
    let line = complaint(
        vortex_compress()
            .arg(&path)
            .arg(dir.path().join("none"))
            .arg(dir.path().join("b.csv")),
        PARTIAL,
    );
    assert!(line.contains("none: no such file"), "{line}");
    assert_eq!(names_in(dir.path()), ["a.csv.vortex", "b.csv.vortex"]);
}

#[test]
fn every_block_size_and_number_of_jobs_gives_the_same_content() {
    let content = records(40_000);
    let (_dir, path) = with_file("a.bin", &content);
    let mut of_size = Vec::new();
    for (size, jobs) in [("16K", "1"), ("16K", "3"), ("32K", "2"), ("1M", "2")] {
        let segment = run(
            vortex_compress()
                .args(["-c", "--block-size", size, "-j", jobs])
                .arg(&path),
            GOOD,
        )
        .stdout;
        let back = run_with_stdin(vortex_decompress().args(["-j", jobs]), &segment, GOOD).stdout;
        assert!(back == content, "{size} {jobs}");
        of_size.push(segment);
    }
    assert!(
        of_size[0] == of_size[1],
        "the number of jobs changes the segment"
    );
}

#[test]
fn json_tells_sizes() {
    let (_dir, path) = with_file("a.csv", &csv(300));
    let rows = json(&run(vortex_compress().arg("--json").arg(&path), GOOD));
    assert_eq!(rows[0]["logical"], csv(300).len());
    assert_eq!(
        rows[0]["stored"],
        fs::metadata(with_suffix(&path)).unwrap().len()
    );
}

#[test]
fn killed_run_leaves_only_the_original() {
    let content = records(8_000_000);
    let (dir, path) = with_file("a.bin", &content);
    let mut child = vortex_compress()
        .args(["-j", "1"])
        .arg(&path)
        .spawn()
        .unwrap();
    let deadline = SystemTime::now() + Duration::from_secs(20);
    while names_in(dir.path()).len() < 2 && SystemTime::now() < deadline {
        std::thread::sleep(Duration::from_millis(2));
    }
    let pid = rustix::process::Pid::from_child(&child);
    rustix::process::kill_process(pid, rustix::process::Signal::INT).unwrap();
    let status = child.wait().unwrap();
    assert_eq!(
        std::os::unix::process::ExitStatusExt::signal(&status),
        Some(2),
        "{status}"
    );
    assert_eq!(names_in(dir.path()), ["a.bin"]);
    assert!(fs::read(&path).unwrap() == content);
}

#[test]
fn segment_inside_an_archive_needs_its_lock() {
    let (dir, path) = with_file("a.csv", &csv(100));
    vortex_fs::store::Archive::init(dir.path()).unwrap();
    let held =
        vortex_fs::store::Archive::open(dir.path(), vortex_fs::store::Access::Write).unwrap();
    let line = complaint(vortex_compress().arg(&path), FAILED);
    assert!(line.contains("in use"), "{line}");
    assert_eq!(fs::read(&path).unwrap(), csv(100));
    drop(held);
    run(vortex_compress().arg(&path), GOOD);
    assert!(with_suffix(&path).exists() && !path.exists());
}
