//! `vortex-fs repair`: brings back what can be read, names the rest, touches nothing that is sound.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use vortex_fs::segment::{BlockEntry, Segment};
use vortex_fs::store::{Access, Archive};

use crate::common::*;

const BLOCK: usize = 1 << 14;

fn entries(path: &Path) -> Vec<BlockEntry> {
    let file = fs::File::open(path).unwrap();
    let segment = Segment::open(std::sync::Arc::new(file)).unwrap();
    segment.entries().map(|e| e.unwrap().1).collect()
}

/// Overwrites a range of bytes, which no checksum can put right.
fn spoil(path: &Path, at: u64, len: usize) {
    let mut raw = fs::read(path).unwrap();
    let range = at as usize..(at as usize + len).min(raw.len());
    raw[range].iter_mut().for_each(|b| *b = !*b);
    // In place, so that it stays the same file.
    fs::write(path, raw).unwrap();
}

fn repair(args: &[&str], path: &Path, code: i32) -> serde_json::Value {
    json(&run(
        vortex_fs().args(["repair", "--json"]).args(args).arg(path),
        code,
    ))
}

/// An archive with one small packed file, and the path of its segment.
fn archive(content: &[u8]) -> (tempfile::TempDir, PathBuf) {
    let (dir, path) = with_file("a.dat", content);
    Archive::init(dir.path()).unwrap();
    run(
        vortex_compress()
            .args(["--block-size", "16K", "--key-blocks", "1"])
            .arg(&path),
        GOOD,
    );
    (dir, with_suffix(&path))
}

/// All that a file has but its access time.
fn identity(path: &Path) -> (u64, u64, i64, i64, i64, i64, Vec<u8>) {
    let m = fs::metadata(path).unwrap();
    let times = (m.mtime(), m.mtime_nsec(), m.ctime(), m.ctime_nsec());
    let raw = fs::read(path).unwrap();
    (m.ino(), m.nlink(), times.0, times.1, times.2, times.3, raw)
}

#[test]
fn sound_files_are_not_touched() {
    let (dir, segment) = archive(&records(3 * BLOCK));
    fs::write(dir.path().join("plain"), "x").unwrap();
    let before = identity(&segment);
    let report = repair(&[], dir.path(), GOOD);
    assert_eq!((&report["files"], &report["sound"]), (&1.into(), &1.into()));
    assert_eq!(identity(&segment), before);
    assert!(!dir.path().join(".vortex/damaged").exists());
    repair(&["--fill-zeros", "--checksums"], &segment, GOOD);
    assert_eq!(identity(&segment), before);
}

#[test]
fn lost_blocks_are_named_exactly_and_everything_else_comes_back() {
    let content = records(3 * BLOCK - 100);
    let (dir, segment) = archive(&content);
    fs::set_permissions(&segment, fs::Permissions::from_mode(0o640)).unwrap();
    let xattr = rustix::fs::setxattr(
        &segment,
        "user.note",
        b"kept",
        rustix::fs::XattrFlags::empty(),
    );
    let all = entries(&segment);
    // Block 0 is the key block; of the last one all others are independent.
    spoil(&segment, all[2].offset + 3, 40);
    let damaged = fs::read(&segment).unwrap();
    let meta = fs::metadata(&segment).unwrap();

    let planned = repair(&["--dry-run"], dir.path(), DAMAGED);
    assert_eq!(
        fs::read(&segment).unwrap(),
        damaged,
        "a dry run changes nothing"
    );
    let lost = serde_json::json!([[2 * BLOCK, content.len()]]);
    assert_eq!(planned["damaged"][0]["lost"], lost);
    let report = repair(&[], dir.path(), DAMAGED);
    assert_eq!(report["damaged"][0]["lost"], lost);
    assert_eq!(report["damaged"][0]["status"], "repaired");
    assert_eq!(report["lost_bytes"], content.len() - 2 * BLOCK);

    let now = fs::metadata(&segment).unwrap();
    let kept = (
        meta.mode(),
        meta.uid(),
        meta.gid(),
        meta.mtime(),
        meta.mtime_nsec(),
    );
    assert_eq!(
        (
            now.mode(),
            now.uid(),
            now.gid(),
            now.mtime(),
            now.mtime_nsec()
        ),
        kept
    );
    if xattr.is_ok() {
        let mut value = [0; 9];
        let len = rustix::fs::getxattr(&segment, "user.note", &mut value).unwrap();
        assert_eq!(&value[..len], b"kept");
    }
    let original = dir.path().join(".vortex/damaged/1.vortex");
    assert_eq!(fs::read(&original).unwrap(), damaged);
    assert_eq!(fs::metadata(&original).unwrap().ino(), meta.ino());
    let record: serde_json::Value =
        serde_json::from_slice(&fs::read(original.with_extension("json")).unwrap()).unwrap();
    assert_eq!(
        (&record["file"], &record["lost"]),
        (&"a.dat.vortex".into(), &lost)
    );

    // What is lost is an error, all else reads.
    let range = format!("0:{}", 2 * BLOCK);
    let got = run(
        vortex_fs().args(["cat", "--range", &range]).arg(&segment),
        GOOD,
    );
    assert!(got.stdout == content[..2 * BLOCK]);
    let range = format!("{}:1", 2 * BLOCK);
    let line = complaint(
        vortex_fs().args(["cat", "--range", &range]).arg(&segment),
        DAMAGED,
    );
    assert!(line.contains("lost"), "{line}");
    run(vortex_fs().arg("verify").arg(dir.path()), DAMAGED);

    // Once more there is nothing to do; zeros come only if asked for.
    let before = identity(&segment);
    let again = repair(&[], dir.path(), DAMAGED);
    assert_eq!(again["damaged"][0]["status"], "marked");
    assert_eq!(again["damaged"][0]["lost"], lost);
    assert_eq!(identity(&segment), before);
    repair(&["--fill-zeros"], dir.path(), DAMAGED);
    let mut zeros = content.clone();
    zeros[2 * BLOCK..].fill(0);
    assert!(run(vortex_fs().arg("cat").arg(&segment), GOOD).stdout == zeros);
    repair(&[], dir.path(), GOOD);

    // The originals stay until they are given up.
    let told = stdout(&run(vortex_fs().arg("verify").arg(dir.path()), GOOD));
    assert!(
        told.contains("note: 2 damaged originals are kept"),
        "{told}"
    );
    let kept = names_in(&dir.path().join(".vortex/damaged"));
    assert_eq!(kept, ["1.json", "1.vortex", "2.json", "2.vortex"]);
    let would = repair(&["--discard-originals", "--dry-run"], dir.path(), GOOD);
    assert_eq!(would["done"].as_array().unwrap().len(), 2);
    assert_eq!(names_in(&dir.path().join(".vortex/damaged")).len(), 4);
    repair(&["--discard-originals"], dir.path(), GOOD);
    assert!(names_in(&dir.path().join(".vortex/damaged")).is_empty());
}

#[test]
fn a_flipped_bit_is_healed_without_loss() {
    let content = csv(600);
    let (_dir, segment) = with_segment(&content);
    let sound = fs::read(&segment).unwrap();
    let kept = with_original(&segment);
    // Header, first payload, index page and directory.
    for at in [1, 9, 14, 34, 60, sound.len() - 30, sound.len() - 5] {
        let mut raw = sound.clone();
        raw[at] ^= 0x10;
        fs::write(&segment, &raw).unwrap();
        run(vortex_fs().arg("verify").arg(&segment), DAMAGED);
        let text = stdout(&run(vortex_fs().arg("repair").arg(&segment), GOOD));
        assert!(
            text.contains("put right") && text.contains("nothing is lost"),
            "{text}"
        );
        assert!(run(vortex_fs().arg("cat").arg(&segment), GOOD).stdout == content);
        assert_eq!(fs::read(&kept).unwrap(), raw, "byte {at}");
        repair(&["--discard-originals"], &segment, GOOD);
        assert!(!kept.exists());
    }
}

#[test]
fn a_lost_header_is_made_anew_and_what_nobody_knows_is_told() {
    let content = noise(3 * BLOCK - 7);
    let (_dir, segment) = with_segment(&content);
    spoil(&segment, 0, 40);
    let damaged = fs::read(&segment).unwrap();
    let report = repair(&["--dry-run"], &segment, DAMAGED);
    assert_eq!(report["damaged"][0]["lost"], serde_json::json!([]));
    assert_eq!(report["damaged"][0]["maybe_more"], true);
    assert_eq!(fs::read(&segment).unwrap(), damaged);
    let text = stdout(&run(vortex_fs().arg("repair").arg(&segment), DAMAGED));
    assert!(
        text.contains("made anew") && !text.contains("nothing is lost"),
        "{text}"
    );
    assert!(run(vortex_fs().arg("cat").arg(&segment), GOOD).stdout == content);
    run(vortex_fs().arg("verify").arg(&segment), GOOD);
}

fn with_original(segment: &Path) -> PathBuf {
    let mut name = segment.as_os_str().to_owned();
    name.push(".damaged");
    name.into()
}

#[test]
fn originals_beside_a_file_are_numbered_and_other_files_stay() {
    let (dir, segment) = with_segment(&noise(3 * BLOCK));
    let all = entries(&segment);
    let bystander = dir.path().join("a.dat.vortex.damaged-x");
    fs::write(&bystander, "mine").unwrap();
    for block in [0, 2] {
        spoil(&segment, entries(&segment)[block].offset, 9);
        repair(&[], &segment, DAMAGED);
    }
    assert_eq!(all.len(), 3);
    let mut want = [
        "a.dat.vortex",
        "a.dat.vortex.damaged",
        "a.dat.vortex.damaged-2",
    ]
    .to_vec();
    want.push("a.dat.vortex.damaged-x");
    assert_eq!(names_in(dir.path()), want);
    repair(&["--discard-originals"], &segment, GOOD);
    assert_eq!(
        names_in(dir.path()),
        ["a.dat.vortex", "a.dat.vortex.damaged-x"]
    );
}

#[test]
fn originals_of_a_file_whose_name_is_no_text_are_numbered_too() {
    let (dir, segment) = with_segment(&noise(3 * BLOCK));
    let name: &std::ffi::OsStr = std::os::unix::ffi::OsStrExt::from_bytes(b"a\xff\n.vortex");
    let odd = dir.path().join(name);
    fs::rename(segment, &odd).unwrap();
    let files = || fs::read_dir(dir.path()).unwrap().count();
    for repairs in [1, 2] {
        spoil(&odd, entries(&odd)[repairs].offset, 9);
        repair(&[], &odd, DAMAGED);
        assert_eq!(files(), 1 + repairs);
    }
    repair(&["--discard-originals"], &odd, GOOD);
    assert_eq!(files(), 1);
}

#[test]
fn many_files_are_repaired_at_once_and_all_originals_kept() {
    let (dir, first) = archive(&noise(2 * BLOCK));
    spoil(&first, entries(&first)[1].offset, 9);
    let damaged = fs::read(&first).unwrap();
    for name in ["b", "c", "d", "e", "f", "g", "h"] {
        fs::write(dir.path().join(format!("{name}.vortex")), &damaged).unwrap();
    }
    let report = repair(&["--jobs", "8"], dir.path(), DAMAGED);
    let repaired = report["damaged"].as_array().unwrap();
    assert_eq!(
        (repaired.len(), &report["failed"]),
        (8, &serde_json::json!([]))
    );
    let kept = dir.path().join(".vortex/damaged");
    assert_eq!(names_in(&kept).len(), 16);
    for entry in repaired {
        assert_eq!(
            fs::read(entry["original"].as_str().unwrap()).unwrap(),
            damaged
        );
    }
    let mut files = Vec::new();
    for name in names_in(&kept).iter().filter(|n| n.ends_with("json")) {
        let record: serde_json::Value =
            serde_json::from_slice(&fs::read(kept.join(name)).unwrap()).unwrap();
        files.push(record["file"].as_str().unwrap().to_owned());
    }
    files.sort();
    assert_eq!((files.len(), &files[0][..]), (8, "a.dat.vortex"));
    files.dedup();
    assert_eq!(files.len(), 8, "each record is that of another file");
}

#[test]
fn an_interrupted_repair_is_finished_by_the_next_one() {
    let content = records(2 * BLOCK);
    let (dir, segment) = archive(&content);
    spoil(&segment, entries(&segment)[1].offset, 20);
    // As far as a repair comes before the new file takes the name: record and second name.
    let kept = dir.path().join(".vortex/damaged");
    fs::create_dir(&kept).unwrap();
    fs::write(kept.join("1.json"), "{}").unwrap();
    fs::hard_link(&segment, kept.join("1.vortex")).unwrap();
    fs::write(dir.path().join(".vortex/tmp/1-1.tmp"), "half").unwrap();
    let report = repair(&[], dir.path(), DAMAGED);
    assert_eq!(report["damaged"][0]["status"], "repaired");
    assert_eq!(names_in(&kept), ["1.json", "1.vortex"]);
    assert_eq!(fs::metadata(&segment).unwrap().nlink(), 1);
    assert_eq!(fs::metadata(kept.join("1.vortex")).unwrap().nlink(), 1);
    assert!(names_in(&dir.path().join(".vortex/tmp")).is_empty());
}

#[test]
fn a_file_with_several_names_stays_one_file() {
    let content = records(3 * BLOCK);
    let (dir, segment) = archive(&content);
    let names = ["z.dat.vortex", "d/a.dat.vortex", "d/e/plainly named"];
    fs::create_dir_all(dir.path().join("d/e")).unwrap();
    let names = names.map(|name| dir.path().join(name));
    for name in &names {
        fs::hard_link(&segment, name).unwrap();
    }
    spoil(&segment, entries(&segment)[2].offset, 20);
    let damaged = fs::read(&segment).unwrap();
    let report = repair(&[], dir.path(), DAMAGED);
    let entry = &report["damaged"][0];
    assert_eq!(
        (&report["files"], &entry["status"]),
        (&1.into(), &"repaired".into())
    );
    assert_eq!(entry["names"].as_array().unwrap().len(), 4);
    let ino = |path: &Path| fs::metadata(path).unwrap().ino();
    for name in &names {
        assert_eq!(ino(name), ino(&segment), "{}", name.display());
    }
    assert_eq!(fs::metadata(&segment).unwrap().nlink(), 4);
    let kept = dir.path().join(".vortex/damaged");
    assert_eq!(names_in(&kept), ["1.json", "1.vortex"]);
    assert_eq!(fs::metadata(kept.join("1.vortex")).unwrap().nlink(), 1);
    assert_eq!(fs::read(kept.join("1.vortex")).unwrap(), damaged);
    let record: serde_json::Value =
        serde_json::from_slice(&fs::read(kept.join("1.json")).unwrap()).unwrap();
    assert_eq!(record["also"].as_array().unwrap().len(), 3);
    let range = format!("0:{}", 2 * BLOCK);
    let cat = vortex_fs()
        .args(["cat", "--range", &range])
        .arg(&names[1])
        .output()
        .unwrap();
    assert!(cat.stdout == content[..2 * BLOCK]);
    // Found under whichever name is given; all of them are changed.
    repair(&["--fill-zeros"], &names[0], DAMAGED);
    assert_eq!(fs::metadata(&names[2]).unwrap().nlink(), 4);
    assert_eq!(ino(&names[2]), ino(&segment));
    let told = stdout(&run(
        vortex_fs()
            .args(["repair", "--discard-originals"])
            .arg(dir.path()),
        GOOD,
    ));
    assert!(told.ends_with("2 originals discarded\n"), "{told}");
}

#[test]
fn a_segment_is_found_by_a_later_name_and_repaired_under_all() {
    let content = records(3 * BLOCK);
    let (dir, segment) = archive(&content);
    let folder = dir.path().join("later");
    fs::create_dir(&folder).unwrap();
    let names = ["plainly named", "later/a.dat.vortex", "later/plainly named"];
    let names = names.map(|name| dir.path().join(name));
    spoil(&segment, entries(&segment)[2].offset, 20);
    for name in &names {
        fs::hard_link(&segment, name).unwrap();
    }
    fs::remove_file(&segment).unwrap();
    let report = repair(&[], dir.path(), DAMAGED);
    assert_eq!(report["files"], 1);
    let [entry] = &report["damaged"].as_array().unwrap()[..] else {
        panic!("{report}");
    };
    assert_eq!(entry["names"].as_array().unwrap().len(), 3, "{report}");
    for name in &names {
        let metadata = fs::metadata(name).unwrap();
        assert_eq!(metadata.nlink(), 3, "{}", name.display());
    }
    let range = format!("0:{}", 2 * BLOCK);
    let mut cat = vortex_fs();
    cat.args(["cat", "--range", &range]).arg(&names[1]);
    assert!(run(&mut cat, GOOD).stdout == content[..2 * BLOCK]);
}

#[test]
fn a_repair_that_can_not_change_a_name_is_finished_by_the_next_writer() {
    if !rustix::process::geteuid().is_root() {
        println!("skipped: needs root to change the flags of a directory");
        return;
    }
    let content = records(2 * BLOCK);
    let (dir, segment) = archive(&content);
    let folder = dir.path().join("fixed");
    fs::create_dir(&folder).unwrap();
    let other = folder.join("b.dat.vortex");
    fs::hard_link(&segment, &other).unwrap();
    spoil(&segment, entries(&segment)[1].offset, 20);
    let chattr = |flag: &str| {
        let done = std::process::Command::new("chattr")
            .arg(flag)
            .arg(&folder)
            .output();
        done.is_ok_and(|done| done.status.success())
    };
    if !chattr("+i") {
        println!("skipped: needs a file system with immutable directories");
        return;
    }
    let line = complaint(vortex_fs().arg("repair").arg(dir.path()), FAILED);
    let opened = Archive::open(dir.path(), Access::Write).map(drop);
    let reader = Archive::open(dir.path(), Access::Read).map(drop);
    assert!(chattr("-i"));
    assert!(
        line.contains("fixed/b.dat.vortex: the repair of this file is not finished"),
        "{line}"
    );
    assert!(opened.is_err_and(|e| e.to_string().contains("not finished")));
    reader.unwrap();
    drop(Archive::open(dir.path(), Access::Write).unwrap());
    assert_eq!(
        fs::metadata(&other).unwrap().ino(),
        fs::metadata(&segment).unwrap().ino()
    );
    assert_eq!(
        names_in(&dir.path().join(".vortex/damaged")),
        ["1.json", "1.vortex"]
    );
    assert!(names_in(&dir.path().join(".vortex/tmp")).is_empty());
}

#[test]
fn what_can_not_be_repaired_is_left_as_it_is() {
    let content = records(2 * BLOCK);
    let (dir, segment) = archive(&content);
    let sound = fs::read(&segment).unwrap();
    // Names that do not lie in the archive: a repair would part them. So do those in an archive below it.
    spoil(&segment, entries(&segment)[1].offset, 20);
    let elsewhere = tempfile::tempdir().unwrap();
    let inner = dir.path().join("inner");
    fs::create_dir(&inner).unwrap();
    Archive::init(&inner).unwrap();
    for other in [elsewhere.path(), &inner] {
        let other = other.join("b.dat.vortex");
        fs::hard_link(&segment, &other).unwrap();
        let before = identity(&segment);
        let line = complaint(vortex_fs().arg("repair").arg(&segment), FAILED);
        assert!(line.contains("2 names, of which 1 can be"), "{line}");
        assert_eq!(identity(&segment), before);
        fs::remove_file(other).unwrap();
    }
    fs::remove_dir_all(inner).unwrap();
    let (_apart, alone) = with_segment(&content);
    spoil(&alone, entries(&alone)[0].offset, 20);
    fs::hard_link(&alone, elsewhere.path().join("b")).unwrap();
    let line = complaint(vortex_fs().arg("repair").arg(&alone), FAILED);
    assert!(line.contains("2 names and is in no archive"), "{line}");
    // Nothing to read.
    fs::write(&segment, vec![0x33; sound.len()]).unwrap();
    let before = identity(&segment);
    let report = repair(&[], dir.path(), DAMAGED);
    assert_eq!(report["damaged"][0]["status"], "unreadable");
    assert_eq!(identity(&segment), before);
    let plain = dir.path().join("plain");
    fs::write(&plain, "no segment").unwrap();
    let line = complaint(vortex_fs().arg("repair").arg(&plain), DAMAGED);
    assert!(line.contains("not a vortex segment"), "{line}");
    // Somebody else writes to the archive.
    let writer = Archive::open(dir.path(), Access::Write).unwrap();
    let line = complaint(vortex_fs().arg("repair").arg(dir.path()), FAILED);
    assert!(line.contains("in use"), "{line}");
    run(
        vortex_fs().args(["repair", "--dry-run"]).arg(dir.path()),
        DAMAGED,
    );
    drop(writer);
}

#[test]
fn archives_below_a_directory_are_left_to_their_own_lock() {
    let (dir, segment) = archive(&noise(2 * BLOCK));
    spoil(&segment, entries(&segment)[1].offset, 20);
    let before = identity(&segment);
    let outer = tempfile::tempdir().unwrap();
    let inner = outer.path().join("inner");
    fs::rename(dir.path(), &inner).unwrap();
    let line = complaint(vortex_fs().arg("repair").arg(outer.path()), FAILED);
    assert!(line.contains("inner: is an archive of its own"), "{line}");
    assert_eq!(identity(&inner.join("a.dat.vortex")).6, before.6);
    fs::create_dir(dir.path()).unwrap();
}

#[test]
fn a_segment_whose_model_is_missing_is_not_taken_for_damaged() {
    let (dir, _) = with_file("x", b"");
    let segment = dir.path().join("a.vortex");
    let model = tiny_model(4);
    segment_that_needs(&model, &records(3000), &segment);
    let before = identity(&segment);
    let line = complaint(vortex_fs().arg("repair").arg(&segment), FAILED);
    assert!(line.contains("model"), "{line}");
    assert_eq!(identity(&segment), before);
}

#[test]
fn a_lost_or_damaged_format_does_not_cost_the_archive() {
    let content = noise(2 * BLOCK);
    let (dir, segment) = archive(&content);
    for name in ["format", "copies/format"] {
        let path = dir.path().join(".vortex").join(name);
        let good = fs::read(&path).unwrap();
        for at in 0..good.len() - 1 {
            let mut bad = good.clone();
            bad[at] ^= 1;
            fs::write(&path, &bad).unwrap();
            if at % 5 > 0 {
                assert_eq!(
                    Archive::open(dir.path(), Access::Read)
                        .map(drop)
                        .map_err(|e| e.to_string()),
                    Ok(())
                );
                continue;
            }
            let out = run(vortex_fs().arg("verify").arg(dir.path()), DEGRADED);
            assert!(stdout(&out).contains("format"), "{}", stdout(&out));
            assert!(run(vortex_fs().arg("cat").arg(&segment), GOOD).stdout == content);
            let report = repair(&[], dir.path(), GOOD);
            assert_eq!(report["done"][0]["what"], "restored", "{report}");
            assert_eq!(fs::read(&path).unwrap(), good);
        }
        fs::remove_file(&path).unwrap();
        run(vortex_fs().arg("verify").arg(dir.path()), DEGRADED);
        // Whoever writes next writes it.
        repair(&[], &segment, GOOD);
        assert_eq!(fs::read(&path).unwrap(), good);
    }
    for name in ["format", "copies/format"] {
        fs::write(dir.path().join(".vortex").join(name), "vortex-fs q\n").unwrap();
    }
    let line = complaint(vortex_fs().arg("repair").arg(dir.path()), DAMAGED);
    assert!(line.contains("write the line `vortex-fs 0`"), "{line}");
    fs::write(dir.path().join(".vortex/format"), "vortex-fs 0\n").unwrap();
    repair(&[], dir.path(), GOOD);
    run(vortex_fs().arg("verify").arg(dir.path()), GOOD);
}

/// Where the copies of all models and primers of an archive lie.
fn copies(root: &Path) -> Vec<PathBuf> {
    let dirs = ["models", "primers", "copies"].map(|dir| root.join(".vortex").join(dir));
    let files = dirs
        .iter()
        .flat_map(|dir| names_in(dir).into_iter().map(|n| dir.join(n)));
    let others = ["index", "format"];
    files
        .filter(|p| !others.iter().any(|other| p.ends_with(other)))
        .collect()
}

/// An archive whose one file needs a model and a primer, and the content.
fn with_needs() -> (tempfile::TempDir, Vec<u8>) {
    let content = noise(20_000).repeat(2);
    let (dir, path) = with_file("a.dat", &content);
    Archive::init(dir.path()).unwrap();
    let sample = tempfile::NamedTempFile::new().unwrap();
    fs::write(sample.path(), &content[..20_000]).unwrap();
    run(
        vortex_compress()
            .arg("--primer")
            .arg(sample.path())
            .arg(&path),
        GOOD,
    );
    // A model of the archive that is not built in.
    let model = tiny_model(9);
    let file = dir.path().join("tiny.safetensors");
    fs::write(&file, &model).unwrap();
    let archive = Archive::open(dir.path(), Access::Write).unwrap();
    let profile = archive.models().profile(file.to_str().unwrap()).unwrap();
    archive.models().store(&profile).unwrap();
    let fast = archive.models().profile("fast").unwrap();
    archive.models().store(&fast).unwrap();
    drop(archive);
    fs::remove_file(file).unwrap();
    segment_that_needs(&model, &records(3000), &dir.path().join("b.dat.vortex"));
    (dir, content)
}

#[test]
fn copies_of_models_and_primers_are_checked_and_restored_from_each_other() {
    let (dir, content) = with_needs();
    let all = copies(dir.path());
    assert_eq!(all.len(), 6, "two models and a primer, twice: {all:?}");
    run(vortex_fs().arg("verify").arg(dir.path()), GOOD);
    let segment = dir.path().join("a.dat.vortex");
    for path in &all {
        let good = fs::read(path).unwrap();
        let mode = fs::metadata(path).unwrap().mode();
        for at in [11, good.len() / 2] {
            let mut bad = good.clone();
            bad[at] ^= 1;
            fs::write(path, &bad).unwrap();
            let out = run(
                vortex_fs().args(["verify", "--checksums"]).arg(dir.path()),
                DEGRADED,
            );
            let name = path.file_name().unwrap().to_str().unwrap();
            assert!(stdout(&out).contains(name), "{}", stdout(&out));
            // The other copy serves meanwhile.
            assert!(run(vortex_fs().arg("cat").arg(&segment), GOOD).stdout == content);
            fs::write(path, &bad).unwrap();
            let report = repair(&["--checksums"], dir.path(), GOOD);
            assert_eq!(report["done"][0]["what"], "restored", "{report}");
            assert_eq!(fs::read(path).unwrap(), good);
        }
        fs::remove_file(path).unwrap();
        run(
            vortex_fs().args(["verify", "--checksums"]).arg(dir.path()),
            DEGRADED,
        );
        repair(&["--checksums"], dir.path(), GOOD);
        assert_eq!(fs::read(path).unwrap(), good);
        assert_eq!(fs::metadata(path).unwrap().mode(), mode);
    }
    run(vortex_fs().arg("verify").arg(dir.path()), GOOD);
}

#[test]
fn every_flipped_byte_of_models_primers_and_the_format_is_found_and_restored() {
    use vortex_fs::store::Depth;
    let dir = tempfile::tempdir().unwrap();
    Archive::init(dir.path()).unwrap();
    let file = dir.path().join("tiny.safetensors");
    let model = tiny_model(9);
    fs::write(&file, &model).unwrap();
    let archive = Archive::open(dir.path(), Access::Write).unwrap();
    let profile = archive.models().profile(file.to_str().unwrap()).unwrap();
    archive.models().store(&profile).unwrap();
    archive.library().primers().add(&csv(40)).unwrap();
    let mut all = copies(dir.path());
    all.extend([".vortex/format", ".vortex/copies/format"].map(|name| dir.path().join(name)));
    assert_eq!(
        all.len(),
        6,
        "a model, a primer and the format, twice: {all:?}"
    );
    assert_eq!(archive.bad_copies(Depth::Checksums).unwrap(), []);
    for path in &all {
        let below = path.strip_prefix(dir.path()).unwrap();
        let good = fs::read(path).unwrap();
        // The newline at the end of the format's line may be missing.
        let read = good.len() - usize::from(path.ends_with("format"));
        // Whatever the byte, a hash of all of them tells; of a model's many some are enough.
        let step = if good.len() > 4096 { 13 } else { 1 };
        let (mut flipped, mut same) = (0, 0);
        for at in (0..read).step_by(step) {
            let mut bad = good.clone();
            bad[at] ^= 1 << (at % 8);
            fs::write(path, &bad).unwrap();
            let found = archive.bad_copies(Depth::Checksums).unwrap();
            flipped += 1;
            if found.is_empty() && path.extension().is_some_and(|e| e == "zst") {
                // A bit of a zstd frame that says the same either way.
                let content = zstd::decode_all(&bad[..]).unwrap();
                assert!(content == model, "byte {at}");
                same += 1;
                continue;
            }
            assert!(
                found.len() == 1 && found[0].path == below && found[0].other_serves,
                "byte {at} of {}: {found:?}",
                below.display()
            );
            if at % 1301 == 0 || at + 1 == read {
                archive.restore(found[0].thing).unwrap();
                assert!(
                    fs::read(path).unwrap() == good,
                    "byte {at} of {}",
                    below.display()
                );
            }
        }
        fs::write(path, &good).unwrap();
        assert!(same * 100 < flipped, "{same} of {flipped}");
        println!(
            "{}: {flipped} of {read} bytes flipped, {same} say the same",
            below.display()
        );
    }
    assert_eq!(archive.bad_copies(Depth::Content).unwrap(), []);
}

#[test]
fn only_models_and_primers_that_nothing_names_are_removed() {
    let (dir, content) = with_needs();
    let unused = Archive::open(dir.path(), Access::Write).unwrap();
    let primer = unused
        .library()
        .primers()
        .add(b"a sample of nothing")
        .unwrap();
    unused.library().primers().note(primer, "nothing").unwrap();
    drop(unused);
    let before = copies(dir.path());
    let told = stdout(&run(vortex_fs().arg("verify").arg(dir.path()), GOOD));
    assert!(
        told.contains(&format!("note: no file needs primer {primer}")),
        "{told}"
    );
    let line = complaint(
        vortex_fs()
            .args(["repair", "--prune"])
            .arg(dir.path().join("a.dat.vortex")),
        PARTIAL,
    );
    assert!(line.contains("archive's directory"), "{line}");
    let report = repair(&["--prune"], dir.path(), GOOD);
    let left = copies(dir.path());
    // The built-in model was stored for a block that did not need it in the end.
    let gone: Vec<_> = before.iter().filter(|p| !left.contains(p)).collect();
    assert_eq!(gone.len(), 2 * report["done"].as_array().unwrap().len());
    assert!(
        gone.iter().any(|p| p.ends_with(primer.to_string())),
        "{gone:?}"
    );
    assert!(
        !fs::read_to_string(dir.path().join(".vortex/primers/index"))
            .unwrap()
            .contains(&primer.to_string())
    );
    assert!(
        run(
            vortex_fs().arg("cat").arg(dir.path().join("a.dat.vortex")),
            GOOD
        )
        .stdout
            == content
    );
    run(vortex_fs().arg("verify").arg(dir.path()), GOOD);

    // What a kept original names stays, and so does everything while a file can not be read.
    let segment = dir.path().join("b.dat.vortex");
    spoil(&segment, entries(&segment)[0].offset, 30);
    let kept = copies(dir.path());
    repair(&["--prune"], dir.path(), DAMAGED);
    assert_eq!(copies(dir.path()), kept);
    repair(&["--discard-originals"], dir.path(), GOOD);
    let sound = fs::read(dir.path().join("a.dat.vortex")).unwrap();
    fs::write(dir.path().join("a.dat.vortex"), &sound[100..]).unwrap();
    run(
        vortex_fs().args(["repair", "--prune"]).arg(dir.path()),
        DAMAGED,
    );
    assert_eq!(copies(dir.path()), kept);
    fs::remove_file(dir.path().join("a.dat.vortex")).unwrap();
    repair(&["--prune"], dir.path(), DAMAGED);
    assert!(
        copies(dir.path()).is_empty(),
        "nothing needs any of them now"
    );
}
