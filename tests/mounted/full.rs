//! A backing file system that runs full, on a small file system of its own.

use std::fs::{self, File, OpenOptions};
use std::io::{ErrorKind, Write};
use std::path::PathBuf;
use std::process::Command;

use super::support::{Archive, has, noise, telemetry, vortex, wait_until};

/// A small ext4 in a file, mounted where the archive has its backing directory; needs root and a loop device.
struct SmallDisk {
    at: PathBuf,
}

impl SmallDisk {
    fn below(archive: &Archive) -> Option<SmallDisk> {
        if !has("mkfs.ext4") {
            return None;
        }
        let image = archive.outside().join("image");
        File::create(&image).unwrap().set_len(24 << 20).unwrap();
        let run = |command: &mut Command| command.output().is_ok_and(|o| o.status.success());
        let at = archive.backing();
        let made = run(Command::new("mkfs.ext4").arg("-q").arg(&image))
            && run(Command::new("mount")
                .args(["-o", "loop"])
                .arg(&image)
                .arg(&at));
        if !made {
            println!("skipped: no loop device, or not root");
            return None;
        }
        Some(SmallDisk { at })
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.at).output();
    }
}

#[test]
fn full_disk_is_told_to_the_writer_and_costs_no_other_file() {
    let Some(archive) = Archive::unmounted() else {
        return;
    };
    let Some(_disk) = SmallDisk::below(&archive) else {
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
    let Some(archive) = Archive::unmounted() else {
        return;
    };
    let Some(_disk) = SmallDisk::below(&archive) else {
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
