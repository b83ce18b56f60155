//! Packing and unpacking, with and without a mount.

use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use super::support::{Archive, fails, kill, noise, ok, telemetry, vortex};

fn pack(archive: &Archive) -> Command {
    let mut command = vortex();
    command.arg("pack").arg(archive.backing());
    command
}

fn unpack(archive: &Archive) -> Command {
    let mut command = vortex();
    command.arg("unpack").arg(archive.backing());
    command
}

fn summary(command: &mut Command) -> serde_json::Value {
    serde_json::from_str(&ok(command.arg("--json"))).expect("JSON")
}

/// Fills a mounted archive; gives names and contents back.
fn fill(archive: &Archive) -> Vec<(String, Vec<u8>)> {
    fs::create_dir_all(archive.at("2024/line")).unwrap();
    let mut files = vec![
        ("noise".to_string(), noise(20_000)),
        ("tiny".to_string(), b"one line\n".to_vec()),
        ("empty".to_string(), Vec::new()),
    ];
    for i in 0..6u64 {
        files.push((
            format!("2024/line/{i}.bin"),
            telemetry(9_000 + 3_000 * i as usize, i),
        ));
    }
    for (name, data) in &files {
        fs::write(archive.at(name), data).unwrap();
    }
    files
}

fn check(archive: &Archive, files: &[(String, Vec<u8>)]) {
    for (name, data) in files {
        assert!(&fs::read(archive.at(name)).unwrap() == data, "{name}");
    }
}

#[test]
fn pack_through_the_daemon_shrinks_and_unpack_restores() {
    let Some(archive) = Archive::mounted() else {
        return;
    };
    let files = fill(&archive);
    let logical: u64 = files.iter().map(|(_, d)| d.len() as u64).sum();
    archive.remount(&[]);
    let fresh = archive.stored();
    let done = summary(&mut pack(&archive));
    assert_eq!(done["files"], files.len());
    assert_eq!(done["logical"], logical);
    assert_eq!(
        (&done["failed"], &done["skipped"], &done["damaged"]),
        (&0.into(), &0.into(), &0.into())
    );
    assert!(done["done"].as_u64().unwrap() >= 6, "{done}");
    let packed = archive.stored();
    assert!(packed < fresh, "{packed} after {fresh}");
    check(&archive, &files);
    archive.remount(&[]);
    check(&archive, &files);

    let again = summary(&mut pack(&archive));
    assert_eq!(again["done"], 0, "nothing is re-encoded twice: {again}");

    let done = summary(&mut unpack(&archive));
    assert_eq!(
        (&done["failed"], &done["skipped"]),
        (&0.into(), &0.into()),
        "{done}"
    );
    check(&archive, &files);
    for (name, data) in &files {
        assert!(
            &fs::read(archive.backing().join(name)).unwrap() == data,
            "{name} is plain"
        );
        assert!(
            !archive.backing().join(format!("{name}.vortex")).exists(),
            "{name}"
        );
    }
    archive.remount(&[]);
    check(&archive, &files);
}

#[test]
fn pack_and_unpack_work_without_a_mount() {
    let Some(archive) = Archive::unmounted() else {
        return;
    };
    for i in 0..4u64 {
        fs::write(
            archive.backing().join(format!("f{i}")),
            telemetry(30_000, i),
        )
        .unwrap();
    }
    let before = archive.stored();
    ok(&mut pack(&archive));
    assert!(archive.stored() < before);
    assert!(archive.backing().join("f0.vortex").exists() && !archive.backing().join("f0").exists());
    archive.mount(&["--read-only"]);
    for i in 0..4u64 {
        assert!(fs::read(archive.at(&format!("f{i}"))).unwrap() == telemetry(30_000, i));
    }
    archive.umount();
    ok(&mut unpack(&archive));
    for i in 0..4u64 {
        assert!(fs::read(archive.backing().join(format!("f{i}"))).unwrap() == telemetry(30_000, i));
    }
}

#[test]
fn single_files_are_named_in_any_form() {
    let Some(archive) = Archive::mounted() else {
        return;
    };
    for name in ["a", "b", "c", "d"] {
        fs::write(
            archive.at(name),
            telemetry(30_000, u64::from(name.as_bytes()[0])),
        )
        .unwrap();
    }
    archive.remount(&[]);
    let size = |name: &str| fs::metadata(archive.backing().join(name)).map_or(0, |m| m.len());
    let fresh = size("a.vortex");
    let done = summary(
        vortex()
            .arg("pack")
            .arg(archive.backing().join("a.vortex"))
            .arg(archive.at("b")),
    );
    assert_eq!(
        (&done["files"], &done["done"]),
        (&2.into(), &2.into()),
        "{done}"
    );
    assert!(size("a.vortex") < fresh);
    assert!(size("c.vortex") >= fresh * 9 / 10, "others are left alone");
    ok(vortex().arg("unpack").arg(archive.at("a")));
    assert_eq!(size("a"), 30_000);
    ok(vortex().arg("pack").arg(archive.backing().join("a")));
    assert_eq!(size("a"), 0);
}

#[test]
fn attributes_survive_packing() {
    let Some(archive) = Archive::mounted() else {
        return;
    };
    fs::write(archive.at("f"), telemetry(40_000, 1)).unwrap();
    rustix::fs::setxattr(
        archive.at("f"),
        "user.unit",
        b"bar",
        rustix::fs::XattrFlags::empty(),
    )
    .unwrap();
    fs::set_permissions(
        archive.at("f"),
        std::os::unix::fs::PermissionsExt::from_mode(0o600),
    )
    .unwrap();
    Command::new("touch")
        .args(["-d", "2001-02-03 04:05:06.789"])
        .arg(archive.at("f"))
        .status()
        .unwrap();
    let show = || {
        let m = fs::metadata(archive.at("f")).unwrap();
        let mut value = [0; 16];
        let len = rustix::fs::getxattr(archive.at("f"), "user.unit", &mut value).unwrap();
        (
            m.len(),
            m.mode(),
            m.mtime(),
            m.mtime_nsec(),
            m.uid(),
            m.ino(),
            value[..len].to_vec(),
        )
    };
    let before = show();
    ok(&mut pack(&archive));
    assert_eq!(show(), before);
    ok(&mut unpack(&archive));
    assert_eq!(show(), before);
}

#[test]
fn dry_run_changes_nothing_and_says_what_would_be() {
    let Some(archive) = Archive::mounted() else {
        return;
    };
    let files = fill(&archive);
    archive.remount(&[]);
    let listing = || {
        let output = Command::new("find")
            .arg(archive.backing())
            .args([
                "-name",
                ".vortex",
                "-prune",
                "-o",
                "-printf",
                "%p %s %T@ %i\n",
            ])
            .output();
        output.unwrap().stdout
    };
    let before = listing();
    let planned = summary(pack(&archive).arg("--dry-run"));
    assert_eq!(listing(), before);
    let done = summary(&mut pack(&archive));
    assert_eq!(
        (&planned["after"], &planned["done"]),
        (&done["after"], &done["done"])
    );
    check(&archive, &files);
}

#[test]
fn reading_and_writing_go_on_while_packing() {
    let Some(archive) = Archive::mounted() else {
        return;
    };
    let files = fill(&archive);
    archive.remount(&[]);
    let stop = AtomicBool::new(false);
    std::thread::scope(|s| {
        s.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                check(&archive, &files);
            }
        });
        s.spawn(|| {
            let mut file = OpenOptions::new()
                .append(true)
                .create(true)
                .open(archive.at("log"))
                .unwrap();
            let mut lines = 0;
            while !stop.load(Ordering::Relaxed) {
                writeln!(file, "line {lines}").unwrap();
                lines += 1;
            }
            drop(file);
            let expected: String = (0..lines).map(|i| format!("line {i}\n")).collect();
            assert!(
                fs::read_to_string(archive.at("log")).unwrap() == expected,
                "the log is whole"
            );
        });
        // Also when an assertion fails.
        let _stop = SetOnDrop(&stop);
        for _ in 0..2 {
            let output = pack(&archive).output().unwrap();
            assert!(matches!(output.status.code(), Some(0 | 3)), "{output:?}");
            let output = unpack(&archive).output().unwrap();
            assert!(matches!(output.status.code(), Some(0 | 3)), "{output:?}");
        }
    });
    archive.remount(&[]);
    check(&archive, &files);
}

struct SetOnDrop<'a>(&'a AtomicBool);

impl Drop for SetOnDrop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

#[test]
fn packed_file_is_written_to_again() {
    let Some(archive) = Archive::mounted() else {
        return;
    };
    let mut data = telemetry(50_000, 1);
    fs::write(archive.at("f"), &data).unwrap();
    ok(&mut pack(&archive));
    let mut file = OpenOptions::new()
        .append(true)
        .open(archive.at("f"))
        .unwrap();
    file.write_all(b"more").unwrap();
    data.extend(b"more");
    std::os::unix::fs::FileExt::write_all_at(
        &File::options().write(true).open(archive.at("f")).unwrap(),
        b"mid",
        20_000,
    )
    .unwrap();
    data[20_000..20_003].copy_from_slice(b"mid");
    drop(file);
    assert!(fs::read(archive.at("f")).unwrap() == data);
    archive.remount(&[]);
    assert!(fs::read(archive.at("f")).unwrap() == data);
    ok(&mut pack(&archive));
    assert!(fs::read(archive.at("f")).unwrap() == data);
}

#[test]
fn hard_links_stay_links() {
    let Some(archive) = Archive::mounted() else {
        return;
    };
    let data = telemetry(40_000, 1);
    fs::write(archive.at("a"), &data).unwrap();
    fs::hard_link(archive.at("a"), archive.at("b")).unwrap();
    archive.remount(&[]);
    ok(&mut pack(&archive));
    for name in ["a", "b"] {
        assert!(fs::read(archive.at(name)).unwrap() == data, "{name}");
        assert_eq!(fs::metadata(archive.at(name)).unwrap().nlink(), 2);
    }
    OpenOptions::new()
        .append(true)
        .open(archive.at("a"))
        .unwrap()
        .write_all(b"x")
        .unwrap();
    assert_eq!(fs::metadata(archive.at("b")).unwrap().len(), 40_001);
}

#[test]
fn damaged_file_is_reported_and_left_alone() {
    let Some(archive) = Archive::mounted() else {
        return;
    };
    fs::write(archive.at("good"), telemetry(40_000, 1)).unwrap();
    fs::write(archive.at("bad"), telemetry(40_000, 2)).unwrap();
    archive.umount();
    let path = archive.backing().join("bad.vortex");
    let mut raw = fs::read(&path).unwrap();
    let middle = raw.len() / 2;
    raw[middle] ^= 0x40;
    fs::write(&path, &raw).unwrap();
    let output = pack(&archive).output().unwrap();
    assert_eq!(output.status.code(), Some(2), "{output:?}");
    assert!(
        String::from_utf8_lossy(&output.stderr).contains("bad"),
        "{output:?}"
    );
    assert!(fs::read(&path).unwrap() == raw, "left as it was");
    archive.mount(&[]);
    assert!(fs::read(archive.at("good")).unwrap() == telemetry(40_000, 1));
    assert!(fs::read(archive.at("bad")).is_err());
}

#[test]
fn idle_files_are_packed_in_the_background() {
    let Some(archive) = Archive::unmounted() else {
        return;
    };
    archive.mount(&["--pack", "idle", "--pack-after", "1"]);
    let data = telemetry(40_000, 1);
    fs::write(archive.at("f"), &data).unwrap();
    File::open(archive.at("f")).unwrap().sync_all().unwrap();
    let blocks = || fs::metadata(archive.at("f")).unwrap().blocks();
    let fresh = blocks();
    // At the lowest priority, on a machine with much else to do, it takes its time.
    let begun = Instant::now();
    while blocks() >= fresh {
        assert!(
            begun.elapsed() < Duration::from_secs(300),
            "it does not shrink"
        );
        std::thread::sleep(Duration::from_millis(10));
    }
    assert!(fs::read(archive.at("f")).unwrap() == data);
}

#[test]
fn paths_that_are_in_no_archive_are_refused() {
    let Some(archive) = Archive::mounted() else {
        return;
    };
    let outside = archive.outside();
    fs::write(outside.join("f"), b"x").unwrap();
    let said = fails(vortex().arg("pack").arg(outside.join("f")), 1);
    assert!(said.contains("vortex-compress"), "{said}");
    fails(vortex().arg("pack").arg(outside.join("none")), 1);
    fails(
        vortex().arg("pack").arg(archive.backing().join(".vortex")),
        1,
    );
    let said = fails(pack(&archive).args(["--profile", "nosuch"]), 1);
    assert!(said.contains("nosuch"), "{said}");
    assert!(!outside.join(".vortex").exists());
}

#[test]
fn interrupted_pack_leaves_every_file_whole_and_the_daemon_running() {
    let Some(archive) = Archive::mounted() else {
        return;
    };
    for i in 0..12u64 {
        fs::write(archive.at(&format!("f{i}")), telemetry(20_000, i)).unwrap();
    }
    archive.remount(&[]);
    let child = pack(&archive)
        .args(["--jobs", "1"])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    std::thread::sleep(std::time::Duration::from_millis(500));
    kill(child.id(), "-INT");
    let output = child.wait_with_output().unwrap();
    // A fast machine may be done by then.
    assert!(matches!(output.status.code(), Some(0 | 3)), "{output:?}");
    for i in 0..12u64 {
        assert!(
            fs::read(archive.at(&format!("f{i}"))).unwrap() == telemetry(20_000, i),
            "f{i}"
        );
    }
    let done = summary(&mut pack(&archive));
    assert_eq!(
        (&done["files"], &done["failed"]),
        (&12.into(), &0.into()),
        "{done}"
    );
}

#[test]
fn two_jobs_take_turns() {
    let Some(archive) = Archive::mounted() else {
        return;
    };
    for i in 0..6u64 {
        fs::write(archive.at(&format!("f{i}")), telemetry(15_000, i)).unwrap();
    }
    archive.remount(&[]);
    let first = pack(&archive).stdout(Stdio::null()).spawn().unwrap();
    let second = pack(&archive).stdout(Stdio::null()).spawn().unwrap();
    for child in [first, second] {
        let output = child.wait_with_output().unwrap();
        assert!(output.status.success(), "{output:?}");
    }
    assert_eq!(summary(&mut pack(&archive))["done"], 0);
}

#[test]
fn socket_of_a_dead_daemon_is_no_obstacle() {
    let Some(archive) = Archive::mounted() else {
        return;
    };
    fs::write(archive.at("f"), telemetry(20_000, 1)).unwrap();
    File::open(archive.at("f")).unwrap().sync_all().unwrap();
    archive.crash();
    assert!(archive.backing().join(".vortex/control.sock").exists());
    ok(&mut pack(&archive));
    archive.mount(&[]);
    assert!(fs::read(archive.at("f")).unwrap() == telemetry(20_000, 1));
}

#[test]
fn others_may_not_command_the_daemon() {
    let Some(archive) = Archive::mounted() else {
        return;
    };
    let mode = fs::metadata(archive.backing().join(".vortex/control.sock"))
        .unwrap()
        .mode();
    assert_eq!(mode & 0o7777, 0o600);
}

#[test]
fn dry_run_on_a_plain_directory_leaves_no_trace() {
    let Some(archive) = Archive::unmounted() else {
        return;
    };
    fs::write(archive.backing().join("f"), telemetry(20_000, 1)).unwrap();
    let planned = summary(pack(&archive).arg("--dry-run"));
    assert_eq!(planned["done"], 1, "{planned}");
    assert_eq!(fs::read_dir(archive.backing()).unwrap().count(), 1);
    assert!(fs::read(archive.backing().join("f")).unwrap() == telemetry(20_000, 1));
}

#[test]
fn archives_below_are_left_to_their_own_lock() {
    let Some(archive) = Archive::unmounted() else {
        return;
    };
    let (outer, inner) = (archive.backing(), archive.backing().join("logs/inner"));
    fs::create_dir_all(&inner).unwrap();
    for dir in [&outer, &inner] {
        fs::write(dir.join("a.bin"), telemetry(60_000, 1)).unwrap();
        ok(vortex().args(["pack", "--dry-run"]).arg(dir));
    }
    ok(vortex().arg("pack").arg(&inner));
    // Something that would become smaller.
    let model = inner.join(".vortex/models/not-a-model");
    fs::write(&model, telemetry(60_000, 2)).unwrap();
    ok(vortex().arg("unpack").arg(&inner));
    let line = fails(vortex().arg("pack").arg(&outer), 3);
    assert!(
        line.contains("logs/inner: is an archive of its own and was left alone"),
        "{line}"
    );
    let untouched = || {
        assert!(outer.join("a.bin.vortex").exists());
        assert!(inner.join("a.bin").exists(), "it is the other archive's");
        assert!(model.exists());
    };
    untouched();
    archive.mount(&[]);
    for path in [
        "logs/inner",
        "logs/inner/a.bin",
        "logs/inner/.vortex/models",
    ] {
        let line = fails(vortex().arg("pack").arg(archive.at(path)), 3);
        assert!(line.contains("is an archive of its own"), "{line}");
    }
    untouched();
    archive.umount();
    // With one copy of the line that makes it an archive left it is still one.
    fs::remove_file(inner.join(".vortex/format")).unwrap();
    fails(vortex().arg("pack").arg(&outer), 3);
    untouched();
}

#[test]
fn profiles_of_an_archive_are_listed_wherever_it_is_named() {
    use vortex_fs::store::{self, Access};
    let Some(archive) = Archive::unmounted() else {
        return;
    };
    store::Archive::init(&archive.backing()).unwrap();
    {
        let backing = store::Archive::open(&archive.backing(), Access::Write).unwrap();
        let edge = backing.models().profile("edge").unwrap();
        backing.models().store(&edge).unwrap();
    }
    archive.mount(&[]);
    fs::create_dir(archive.at("below")).unwrap();
    let stored = |path: &Path| {
        let rows = ok(vortex().args(["profiles", "--json"]).arg(path));
        let rows: Vec<serde_json::Value> = serde_json::from_str(&rows).unwrap();
        let names = rows.iter().filter(|row| row["stored_in_archive"] == true);
        names.map(|row| row["name"].to_string()).collect::<Vec<_>>()
    };
    for path in [archive.backing(), archive.mnt(), archive.at("below")] {
        assert_eq!(stored(&path), ["\"edge\""], "{}", path.display());
    }
    let said = fails(vortex().arg("profiles").arg(archive.outside()), 1);
    assert!(said.contains("is in no archive"), "{said}");
    // One that is damaged does not hide the others.
    let id = "0123456789abcdef".repeat(2);
    let models = archive.backing().join(".vortex/models");
    fs::write(models.join(format!("{id}.safetensors")), "no model").unwrap();
    let listed = vortex()
        .args(["profiles", "--json"])
        .arg(archive.backing())
        .output()
        .unwrap();
    assert_eq!(listed.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&listed.stderr).contains(&id));
    let rows: Vec<serde_json::Value> = serde_json::from_slice(&listed.stdout).unwrap();
    assert_eq!(rows.len(), 3, "{rows:?}");
}
