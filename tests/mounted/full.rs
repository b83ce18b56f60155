//! A backing file system that runs full, on a small file system of its own.

use std::fs::{self, File, OpenOptions};
use std::io::{ErrorKind, Write};

use super::disk::Disk;
use super::support::{Archive, noise, telemetry, vortex, wait_until};

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
