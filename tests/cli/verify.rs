//! `vortex-fs verify`: finds all damage, names it, and finds none where there is none.

use std::fs;

use crate::common::*;

#[test]
fn sound_files_and_trees_pass() {
    let (dir, segment) = with_segment(&records(40_000));
    let text = stdout(&run(vortex_fs().arg("verify").arg(&segment), GOOD));
    assert!(
        text.contains("1 files checked") && text.contains("no damage"),
        "{text}"
    );
    fs::write(dir.path().join("plain"), "x").unwrap();
    let report = json(&run(
        vortex_fs().args(["verify", "--json"]).arg(dir.path()),
        GOOD,
    ));
    assert_eq!(report["files"], 2);
    assert_eq!(report["bytes"], 40_001);
}

#[test]
fn holes_of_plain_files_cost_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let file = fs::File::create_new(dir.path().join("sparse")).unwrap();
    for at in [0, 1 << 39, (1 << 40) - 1] {
        std::os::unix::fs::FileExt::write_all_at(&file, b"x", at).unwrap();
    }
    file.set_len(3 << 40).unwrap();
    // At the speed of memory it would take an hour.
    let mut verify = std::process::Command::new("timeout");
    verify.args(["60", env!("CARGO_BIN_EXE_vortex-fs"), "verify", "--json"]);
    let report = json(&run(verify.arg(dir.path()), GOOD));
    assert_eq!(report["bytes"], 3u64 << 40);
}

#[test]
fn every_flipped_byte_of_a_small_segment_is_damage() {
    let (_dir, segment) = with_segment(&csv(8));
    let sound = fs::read(&segment).unwrap();
    for at in 0..sound.len() {
        let mut raw = sound.clone();
        raw[at] ^= 0x41;
        fs::write(&segment, raw).unwrap();
        let report = json(&run(
            vortex_fs().args(["verify", "--json"]).arg(&segment),
            DAMAGED,
        ));
        assert!(
            !report["damaged"][0]["parts"].as_array().unwrap().is_empty(),
            "byte {at}"
        );
    }
    println!("each of {} bytes", sound.len());
}

#[test]
fn damaged_file_of_a_tree_is_named_once() {
    let (dir, segment) = with_segment(&records(40_000));
    let second = dir.path().join("b.bin");
    fs::write(&second, records(20_000)).unwrap();
    run(vortex_compress().arg(&second), GOOD);
    let mut raw = fs::read(&segment).unwrap();
    let middle = raw.len() / 2;
    raw[middle] ^= 1;
    fs::write(&segment, raw).unwrap();
    let text = stdout(&run(vortex_fs().arg("verify").arg(dir.path()), DAMAGED));
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!(lines.len(), 2, "{text}");
    assert!(lines[0].contains("a.dat.vortex: block "), "{text}");
    assert!(
        lines[1].contains("2 files checked") && lines[1].contains("1 file is damaged"),
        "{text}"
    );
}

#[test]
fn damaged_model_of_an_archive_is_found() {
    let (dir, path) = with_file("a.bin", &records(20_000));
    vortex_fs::store::Archive::init(dir.path()).unwrap();
    run(vortex_compress().arg(&path), GOOD);
    run(vortex_fs().arg("verify").arg(dir.path()), GOOD);
    let name = format!("{}.safetensors", "5".repeat(32));
    fs::write(dir.path().join(".vortex/models").join(&name), "rubbish").unwrap();
    let text = stdout(&run(vortex_fs().arg("verify").arg(dir.path()), DAMAGED));
    assert!(text.contains(&name), "{text}");
}

#[test]
fn missing_path_fails_and_the_rest_is_checked() {
    let (dir, segment) = with_segment(&csv(8));
    let output = run(
        vortex_fs()
            .arg("verify")
            .arg(dir.path().join("none"))
            .arg(&segment),
        PARTIAL,
    );
    assert!(String::from_utf8_lossy(&output.stderr).contains("none: no such file"));
    assert!(stdout(&output).contains("1 files checked"));
}

#[test]
fn a_segment_is_found_by_a_later_name_and_checked_once() {
    let (dir, segment) = with_segment(&records(40_000));
    let folder = dir.path().join("later");
    fs::create_dir(&folder).unwrap();
    // Of these only two say that it is a segment, and those are not the first to be found.
    for name in ["a.vortex", "b.vortex", "plainly named"] {
        fs::hard_link(&segment, folder.join(name)).unwrap();
    }
    fs::rename(&segment, dir.path().join("plainly named, too")).unwrap();
    let verify = |code| {
        let done = run(vortex_fs().args(["verify", "--json"]).arg(dir.path()), code);
        json(&done)
    };
    let report = verify(GOOD);
    let stored = fs::metadata(folder.join("a.vortex")).unwrap().len();
    // As a segment, and as the plain file that the other names make it.
    assert_eq!(report["files"], 2);
    assert_eq!(report["bytes"], 40_000 + stored);
    let mut raw = fs::read(folder.join("a.vortex")).unwrap();
    raw[stored as usize / 2] ^= 1;
    fs::write(folder.join("a.vortex"), raw).unwrap();
    let report = verify(DAMAGED);
    let damaged = report["damaged"].as_array().unwrap();
    assert_eq!(damaged.len(), 1, "{report}");
    let path = damaged[0]["path"].as_str().unwrap();
    assert!(path.ends_with(".vortex"), "{path}");
}

#[test]
fn files_that_are_renamed_and_removed_meanwhile_are_no_failure() {
    use std::sync::atomic::{AtomicBool, Ordering};
    let (dir, segment) = with_segment(&csv(100));
    let (segment, raw) = (segment.as_path(), fs::read(&segment).unwrap());
    fs::remove_file(segment).unwrap();
    fs::create_dir(dir.path().join("sub")).unwrap();
    let at = |prefix: &str, i: usize| dir.path().join(format!("{prefix}{i}.vortex"));
    (0..200).for_each(|i| fs::write(at("a", i), &raw).unwrap());
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let begun = std::time::Instant::now();
            while !stop.load(Ordering::Relaxed) && begun.elapsed().as_secs() < 60 {
                for (from, to) in [("a", "sub/b"), ("sub/b", "a")] {
                    (0..200).for_each(|i| fs::rename(at(from, i), at(to, i)).unwrap());
                }
                let folder = dir.path().join("sub/c/d");
                fs::create_dir_all(&folder).unwrap();
                fs::remove_dir_all(folder.parent().unwrap()).unwrap();
            }
        });
        for _ in 0..20 {
            let done = run(vortex_fs().arg("verify").arg(dir.path()), GOOD);
            assert!(
                done.stderr.is_empty(),
                "{}",
                String::from_utf8_lossy(&done.stderr)
            );
        }
        stop.store(true, Ordering::Relaxed);
    });
}
