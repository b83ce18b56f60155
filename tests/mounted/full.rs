//! A backing file system that runs full, on a small file system of its own.

use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind, Seek, Write};
use std::os::unix::fs::FileExt;
use std::process::Stdio;
use std::thread::sleep;
use std::time::Duration;

use super::disk::Disk;
use super::support::{Archive, noise, ok, telemetry, vortex, wait_until};

#[test]
fn full_disk_is_told_to_the_writer_and_costs_no_other_file() {
    let Some(disk) = Disk::new(24) else { return };
    let Some(archive) = Archive::on(&disk) else {
        return;
    };
    archive.mount(&[]);
    let base = noise(5 << 20);
    fs::write(archive.at("base"), &base).unwrap();
    fs::write(archive.at("small"), telemetry(20_000, 1)).unwrap();
    archive.remount(&[]);

    let mut fill = File::create(archive.at("fill")).unwrap();
    let piece = noise(1 << 20);
    let error = (0..30).find_map(|_| fill.write_all(&piece).and_then(|()| fill.sync_all()).err());
    assert_eq!(
        error.expect("24 MiB are full").kind(),
        ErrorKind::StorageFull
    );
    assert!(fs::read(archive.at("base")).unwrap() == base);
    let _ = OpenOptions::new()
        .append(true)
        .open(archive.at("small"))
        .unwrap()
        .write_all(&piece);
    drop(fill);

    // There is no room for a second form of the largest file.
    let output = vortex()
        .arg("pack")
        .arg(archive.backing())
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(
        output.status.code() == Some(1) && said.contains("free some space"),
        "{said}"
    );

    // Whether the last writes can be stored or not, umount ends and says so.
    let output = archive.umount_command().output().unwrap();
    assert!(matches!(output.status.code(), Some(0 | 1)), "{output:?}");
    archive.mount(&[]);
    assert!(fs::read(archive.at("base")).unwrap() == base);
    assert!(fs::read(archive.at("small")).unwrap()[..20_000] == telemetry(20_000, 1));

    // With room again, which the kernel gives back a moment after the name is gone, everything goes on.
    fs::remove_file(archive.at("fill")).unwrap();
    wait_until("room", || fs::write(archive.at("new"), &piece).is_ok());
    archive.remount(&[]);
    assert!(fs::read(archive.at("new")).unwrap() == piece);
    archive.umount();
    let output = vortex()
        .arg("verify")
        .arg(archive.backing())
        .output()
        .unwrap();
    assert!(output.status.success(), "{output:?}");
}

#[test]
fn what_a_full_disk_took_is_there_after_fsync_and_remount() {
    let Some(disk) = Disk::new(24) else { return };
    let Some(archive) = Archive::on(&disk) else {
        return;
    };
    archive.mount(&[]);
    let (mut fill, mut taken) = (File::create(archive.at("fill")).unwrap(), Vec::new());
    let error = loop {
        let piece = noise(64 << 10);
        match fill.write(&piece) {
            Ok(n) => taken.extend_from_slice(&piece[..n]),
            Err(error) => break error,
        }
        assert!(taken.len() < 24 << 20, "a 24 MiB disk took it all");
    };
    assert_eq!(error.kind(), ErrorKind::StorageFull);
    assert!(taken.len() > 8 << 20, "{} bytes", taken.len());
    fill.sync_all().unwrap();
    drop(fill);
    archive.remount(&[]);
    assert!(fs::read(archive.at("fill")).unwrap() == taken);
    archive.umount();
}

/// An archive on a small disk, with a file that was committed long ago.
fn small() -> Option<(Disk, Archive, Vec<u8>)> {
    let disk = Disk::new(24)?;
    let archive = Archive::on(&disk)?;
    let old = telemetry(300_000, 9);
    archive.mount(&[]);
    fs::write(archive.at("old"), &old).unwrap();
    archive.remount(&[]);
    Some((disk, archive, old))
}

fn is_full(error: &io::Error) -> bool {
    error.kind() == ErrorKind::StorageFull
}

#[test]
fn fsync_on_a_disk_that_others_filled_says_so_and_is_made_up_for() {
    let Some((disk, archive, old)) = small() else {
        return;
    };
    let data = noise(1 << 20);
    disk.fill(4 << 20);
    let mut file = File::create(archive.at("new")).unwrap();
    file.write_all(&data).unwrap();
    disk.fill(0);
    assert!(is_full(&file.sync_all().unwrap_err()));
    assert!(is_full(&file.write_all(b"more").unwrap_err()));
    assert!(
        fs::read(archive.at("new")).unwrap() == data,
        "it stays readable"
    );
    assert!(fs::read(archive.at("old")).unwrap() == old);
    // It takes a block, which there may be or not.
    let directory = archive.at("directory");
    let made = fs::create_dir(&directory);
    assert_eq!(directory.is_dir(), made.is_ok());
    assert!(made.err().is_none_or(|e| is_full(&e)));
    disk.free();
    file.sync_all().unwrap();
    // It was made durable without a remount: it is there after a kill.
    archive.crash();
    archive.mount(&[]);
    assert!(fs::read(archive.at("new")).unwrap() == data);
    assert!(fs::read(archive.at("old")).unwrap() == old);
}

#[test]
fn packed_file_that_cannot_be_written_for_lack_of_room_stays_as_it_was() {
    let Some((disk, archive, old)) = small() else {
        return;
    };
    ok(vortex().arg("pack").arg(archive.backing()));
    disk.fill(0);
    let file = OpenOptions::new()
        .write(true)
        .open(archive.at("old"))
        .unwrap();
    assert!(is_full(
        &file.write_all_at(&noise(100_000), 1000).unwrap_err()
    ));
    assert!(fs::read(archive.at("old")).unwrap() == old);
    drop(file);
    archive.remount(&[]);
    assert!(fs::read(archive.at("old")).unwrap() == old);
    disk.free();
    let file = OpenOptions::new()
        .write(true)
        .open(archive.at("old"))
        .unwrap();
    file.write_all_at(b"new", 1000).unwrap();
    file.sync_all().unwrap();
    archive.crash();
    archive.mount(&[]);
    let mut expected = old;
    expected[1000..1003].copy_from_slice(b"new");
    assert!(fs::read(archive.at("old")).unwrap() == expected);
}

#[test]
fn files_can_be_cut_and_removed_on_a_full_disk_and_their_room_is_used_again() {
    let Some((disk, archive, old)) = small() else {
        return;
    };
    for name in ["cut", "removed"] {
        fs::write(archive.at(name), noise(2 << 20)).unwrap();
    }
    archive.remount(&[]);
    disk.fill(0);
    let mut file = File::create(archive.at("new")).unwrap();
    assert!(is_full(&file.write_all(&noise(1 << 20)).unwrap_err()));
    File::create(archive.at("cut")).unwrap();
    fs::remove_file(archive.at("removed")).unwrap();
    let data = noise(2 << 20);
    wait_until("room", || {
        file.set_len(0).unwrap();
        file.rewind().unwrap();
        file.write_all(&data).and_then(|()| file.sync_all()).is_ok()
    });
    archive.crash();
    archive.mount(&[]);
    assert!(fs::read(archive.at("new")).unwrap() == data);
    assert_eq!(fs::metadata(archive.at("cut")).unwrap().len(), 0);
    assert!(fs::read(archive.at("old")).unwrap() == old);
}

#[test]
fn rename_that_needs_room_it_does_not_have_changes_nothing() {
    let Some((disk, archive, old)) = small() else {
        return;
    };
    archive.umount();
    // A plain file that is renamed over a segment becomes one first.
    let plain = noise(1 << 20);
    fs::write(archive.backing().join("plain"), &plain).unwrap();
    archive.mount(&[]);
    let unstored = noise(1 << 20);
    disk.fill(4 << 20);
    let mut file = File::create(archive.at("unstored")).unwrap();
    file.write_all(&unstored).unwrap();
    disk.fill(0);
    for name in ["plain", "unstored"] {
        let error = fs::rename(archive.at(name), archive.at("old")).unwrap_err();
        assert!(is_full(&error), "{name}: {error}");
        assert!(fs::read(archive.at("old")).unwrap() == old, "{name}");
    }
    assert!(fs::read(archive.at("plain")).unwrap() == plain);
    assert!(fs::read(archive.at("unstored")).unwrap() == unstored);
    fs::rename(archive.at("plain"), archive.at("moved")).unwrap();
    disk.free();
    fs::rename(archive.at("moved"), archive.at("old")).unwrap();
    assert!(fs::read(archive.at("old")).unwrap() == plain);
    fs::rename(archive.at("unstored"), archive.at("old")).unwrap();
    archive.crash();
    archive.mount(&[]);
    assert!(fs::read(archive.at("old")).unwrap() == unstored);
}

/// Packs or unpacks; answers what `--json` says, or how many bytes it says that it may need.
fn job(archive: &Archive, command: &str, more: &[&str]) -> Result<serde_json::Value, u64> {
    let output = vortex()
        .args([command, "--json"])
        .args(more)
        .arg(archive.backing())
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    match output.status.code() {
        Some(0) => Ok(serde_json::from_slice(&output.stdout).unwrap()),
        Some(1) if said.contains("free some space") => {
            let (before, _) = said.split_once(" bytes more than").unwrap();
            Err(before.rsplit_once(' ').unwrap().1.parse().unwrap())
        }
        code => panic!("{command}: {code:?}, {said}"),
    }
}

#[test]
fn packing_is_refused_ahead_and_needs_no_more_than_it_says() {
    for (mounted, threads) in [(true, "2"), (false, "1")] {
        let Some(disk) = Disk::new(24) else { return };
        let Some(archive) = Archive::on(&disk) else {
            return;
        };
        // One for all threads together and some for one each; hardly smaller packed than plain, and with a hole.
        let parts = [100_000, 50_000, 51_000].map(|len| (noise(len), telemetry(10_000, 1)));
        let hole = 3_000_000;
        for (i, (head, tail)) in parts.iter().enumerate() {
            let file = File::create(archive.backing().join(format!("f{i}"))).unwrap();
            file.write_all_at(head, 0).unwrap();
            let hole = if i == 0 { hole } else { 0 };
            file.write_all_at(tail, (head.len() + hole) as u64).unwrap();
        }
        let check = || {
            if !mounted {
                archive.mount(&["--read-only"]);
            }
            for (i, (head, tail)) in parts.iter().enumerate() {
                let hole = vec![0; if i == 0 { hole } else { 0 }];
                let content = [&head[..], &hole, tail].concat();
                assert!(
                    fs::read(archive.at(&format!("f{i}"))).unwrap() == content,
                    "f{i}"
                );
            }
            if !mounted {
                archive.umount();
            }
        };
        if mounted {
            archive.mount(&[]);
        }
        for (command, more) in [
            ("pack", &["--block-size", "16K", "--jobs", threads][..]),
            ("unpack", &["--jobs", threads]),
        ] {
            disk.fill(60_000);
            let before = names(&archive);
            let needed = job(&archive, command, more).unwrap_err();
            assert_eq!(names(&archive), before, "nothing was changed");
            disk.free();
            println!("{command} with {threads} threads needs {needed} bytes");
            disk.fill(needed + (32 << 10));
            let done = job(&archive, command, more).unwrap();
            assert_eq!(
                (&done["done"], &done["failed"]),
                (&3.into(), &0.into()),
                "{done}"
            );
            disk.free();
            check();
        }
    }
}

#[test]
fn disk_that_runs_full_during_packing_costs_nothing() {
    let Some((disk, archive, old)) = small() else {
        return;
    };
    // One is packed in place, because it has two names.
    let contents = [1, 2].map(|i| [noise(40_000), telemetry(20_000, i)].concat());
    for (name, content) in ["a", "b"].iter().zip(&contents) {
        fs::write(archive.at(name), content).unwrap();
    }
    fs::remove_file(archive.at("old")).unwrap();
    fs::write(archive.at("old"), &old[..50_000]).unwrap();
    fs::hard_link(archive.at("b"), archive.at("second")).unwrap();
    archive.remount(&[]);
    let check = || {
        for (name, content) in [
            ("a", &contents[0]),
            ("b", &contents[1]),
            ("second", &contents[1]),
        ] {
            assert!(&fs::read(archive.at(name)).unwrap() == content, "{name}");
        }
        assert!(fs::read(archive.at("old")).unwrap() == old[..50_000]);
    };
    let pack = |block_size: &str| {
        let mut pack = vortex();
        pack.args(["pack", "--block-size", block_size])
            .arg(archive.backing());
        pack.stdout(Stdio::null()).stderr(Stdio::null());
        pack
    };
    let mut stopped = 0;
    for (turn, block_size) in ["16K", "32K", "16K", "32K", "16K"].iter().enumerate() {
        disk.fill(2 << 20);
        let mut packing = pack(block_size).spawn().unwrap();
        sleep(Duration::from_millis(20 + 150 * turn as u64));
        disk.fill(0);
        let code = packing.wait().unwrap().code();
        assert!(matches!(code, Some(0 | 1 | 3)), "{code:?}");
        stopped += u32::from(code != Some(0));
        check();
        disk.free();
        check();
    }
    assert!(stopped > 0, "the disk was never full in time");
    ok(&mut pack("64K"));
    archive.remount(&[]);
    check();
    archive.umount();
    ok(vortex().arg("verify").arg(archive.backing()));
}

/// Names and lengths of the files in the archive's root.
fn names(archive: &Archive) -> Vec<(std::ffi::OsString, u64)> {
    let entries = fs::read_dir(archive.backing()).unwrap().map(Result::unwrap);
    let mut all: Vec<_> = entries
        .filter(|entry| entry.file_type().unwrap().is_file())
        .map(|entry| (entry.file_name(), entry.metadata().unwrap().len()))
        .collect();
    all.sort();
    all
}
