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
fn output_to_another_name_keeps_the_original_unless_told_to_remove_it() {
    let (dir, path) = with_file("a.csv", &csv(100));
    let out = dir.path().join("b.vortex");
    run(vortex_compress().arg("-o").arg(&out).arg(&path), GOOD);
    assert_eq!(names_in(dir.path()), ["a.csv", "b.vortex"]);
    let back = dir.path().join("c.csv");
    run(vortex_decompress().arg("-o").arg(&back).arg(&out), GOOD);
    assert_eq!(names_in(dir.path()), ["a.csv", "b.vortex", "c.csv"]);
    assert_eq!(fs::read(&back).unwrap(), csv(100));
    let (segment, plain) = (dir.path().join("d"), dir.path().join("e"));
    let rm = ["--rm", "-o"];
    run(vortex_compress().args(rm).arg(&segment).arg(&path), GOOD);
    assert_eq!(names_in(dir.path()), ["b.vortex", "c.csv", "d"]);
    run(vortex_decompress().args(rm).arg(&plain).arg(&segment), GOOD);
    assert_eq!(names_in(dir.path()), ["b.vortex", "c.csv", "e"]);
    assert_eq!(fs::read(&plain).unwrap(), csv(100));
    // A stream may lose what it is given.
    let to_stream = ["--rm", "-o", "-"];
    for command in [
        vortex_compress().args(to_stream).arg(&plain),
        vortex_decompress().args(to_stream).arg(&out),
    ] {
        let line = complaint(command, FAILED);
        assert!(line.contains("nothing is removed"), "{line}");
    }
    assert_eq!(names_in(dir.path()), ["b.vortex", "c.csv", "e"]);
}

#[test]
fn the_input_is_never_its_own_output() {
    let content = csv(100);
    let (dir, path) = with_file("a.csv", &content);
    let segment = dir.path().join("b.vortex");
    run(vortex_compress().arg("-o").arg(&segment).arg(&path), GOOD);
    let stored = fs::read(&segment).unwrap();
    let detour = |path: &std::path::Path| dir.path().join(".").join(path.file_name().unwrap());
    for args in [&["-f"][..], &["-f", "-k"], &["-f", "--rm"], &[]] {
        for out in [path.clone(), detour(&path)] {
            let mut command = vortex_compress();
            let line = complaint(command.args(args).arg("-o").arg(out).arg(&path), FAILED);
            assert!(line.contains("is the input itself"), "{line}");
        }
        for out in [segment.clone(), detour(&segment)] {
            let mut command = vortex_decompress();
            let line = complaint(command.args(args).arg("-o").arg(out).arg(&segment), FAILED);
            assert!(line.contains("is the input itself"), "{line}");
        }
    }
    assert_eq!(names_in(dir.path()), ["a.csv", "b.vortex"]);
    assert_eq!(fs::read(&path).unwrap(), content);
    assert_eq!(fs::read(&segment).unwrap(), stored);
}

#[test]
fn an_original_is_not_removed_while_only_it_has_all_of_its_attributes() {
    use std::os::unix::process::CommandExt;
    if !is_root() {
        return skip("needs root to set attributes that the owner of a file may not");
    }
    const USER: u32 = 65_534;
    let content = csv(100);
    let (dir, path) = with_file("a.csv", &content);
    let program = dir.path().join("program");
    fs::copy(env!("CARGO_BIN_EXE_vortex-fs"), &program).unwrap();
    for own in [dir.path(), &path] {
        std::os::unix::fs::chown(own, Some(USER), Some(USER)).unwrap();
    }
    // Nobody but root may give a file capabilities; these are version 2 and none.
    let capabilities = [&[0, 0, 0, 2][..], &[0; 16]].concat();
    let give = |path: &std::path::Path| {
        let flags = rustix::fs::XattrFlags::empty();
        rustix::fs::setxattr(path, "security.capability", &capabilities, flags)
    };
    if give(&path).is_err() {
        return skip("no capabilities of files here");
    }
    let user = |args: &[&str]| {
        let mut command = std::process::Command::new(&program);
        command
            .args(args)
            .uid(USER)
            .gid(USER)
            .current_dir(dir.path());
        command
    };
    let files = |there: &[&str]| {
        let all = [there, &["program"]].concat();
        assert_eq!(names_in(dir.path()), all);
    };
    let line = complaint(&mut user(&["compress", "a.csv"]), FAILED);
    assert!(
        line.contains("a.csv: its extended attribute security.capability can not be kept: ")
            && line.contains("use -k to keep the original, or -f to lose"),
        "{line}"
    );
    files(&["a.csv"]);
    assert!(complaint(&mut user(&["compress", "-k", "a.csv"]), GOOD).contains("can not be kept"));
    files(&["a.csv", "a.csv.vortex"]);
    assert!(complaint(&mut user(&["compress", "-f", "a.csv"]), GOOD).contains("can not be kept"));
    files(&["a.csv.vortex"]);
    give(&dir.path().join("a.csv.vortex")).unwrap();
    let line = complaint(&mut user(&["decompress", "a.csv.vortex"]), FAILED);
    assert!(line.contains("can not be kept: "), "{line}");
    files(&["a.csv.vortex"]);
    let line = complaint(&mut user(&["decompress", "-f", "a.csv.vortex"]), GOOD);
    assert!(line.contains("can not be kept: "), "{line}");
    files(&["a.csv"]);
    assert_eq!(fs::read(&path).unwrap(), content);
    // Without such an attribute nothing is said.
    let quiet = run(&mut user(&["compress", "a.csv"]), GOOD);
    assert!(quiet.stderr.is_empty(), "{quiet:?}");
    files(&["a.csv.vortex"]);
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
fn a_directory_that_hands_down_rights_gives_nobody_those_that_the_original_did_not() {
    let (dir, path) = with_file("a.csv", &csv(100));
    fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
    // All for the owner and user 1, nothing for others.
    let acl = [
        &2u32.to_le_bytes()[..],
        b"\x01\0\x07\0\xff\xff\xff\xff",
        b"\x02\0\x07\0\x01\0\0\0",
        b"\x04\0\0\0\xff\xff\xff\xff",
        b"\x10\0\x07\0\xff\xff\xff\xff",
        b"\x20\0\0\0\xff\xff\xff\xff",
    ]
    .concat();
    let handed_down = "system.posix_acl_default";
    let flags = rustix::fs::XattrFlags::empty();
    if rustix::fs::setxattr(dir.path(), handed_down, &acl, flags).is_err() {
        return skip("no ACLs here");
    }
    let as_before = |path: &std::path::Path| {
        let mut value = [0; 64];
        let acl = rustix::fs::getxattr(path, "system.posix_acl_access", &mut value[..]);
        assert_eq!(acl, Err(rustix::io::Errno::NODATA), "{}", path.display());
        assert_eq!(fs::metadata(path).unwrap().mode() & 0o7777, 0o640);
    };
    run(vortex_compress().arg(&path), GOOD);
    as_before(&with_suffix(&path));
    run(vortex_decompress().arg(with_suffix(&path)), GOOD);
    as_before(&path);
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
