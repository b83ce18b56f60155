//! A full disk: the original stays, nothing half-written is left.

use std::fs;
use std::path::Path;

use rustix::mount::{MountFlags, UnmountFlags, mount, unmount};

use crate::common::*;

/// A tmpfs of one mebibyte, unmounted when dropped.
struct SmallDisk(tempfile::TempDir);

impl SmallDisk {
    fn new() -> Option<SmallDisk> {
        let dir = tempfile::tempdir().unwrap();
        mount(
            "tmpfs",
            dir.path(),
            "tmpfs",
            MountFlags::empty(),
            Some(c"size=1m"),
        )
        .ok()?;
        Some(SmallDisk(dir))
    }

    fn path(&self) -> &Path {
        self.0.path()
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = unmount(self.path(), UnmountFlags::DETACH);
    }
}

#[test]
fn original_survives_a_full_disk() {
    let Some(disk) = SmallDisk::new() else {
        return skip("no permission to mount a tmpfs");
    };
    let (_dir, segment) = with_fresh_segment(&vec![b'x'; 3 << 20]);
    fs::copy(&segment, disk.path().join("a.dat.vortex")).unwrap();
    let line = complaint(
        vortex_decompress().arg(disk.path().join("a.dat.vortex")),
        FAILED,
    );
    assert!(line.contains("no space left"), "{line}");
    assert_eq!(names_in(disk.path()), ["a.dat.vortex"]);
    assert_eq!(
        fs::read(disk.path().join("a.dat.vortex")).unwrap(),
        fs::read(&segment).unwrap()
    );
    run(vortex_fs().arg("verify").arg(disk.path()), GOOD);

    let noise = noise(40_000);
    fs::write(disk.path().join("noise"), &noise).unwrap();
    fs::write(disk.path().join("filler"), vec![1; 1 << 20]).unwrap_err();
    let line = complaint(vortex_compress().arg(disk.path().join("noise")), FAILED);
    assert!(line.contains("no space left"), "{line}");
    assert!(fs::read(disk.path().join("noise")).unwrap() == noise);
    assert_eq!(names_in(disk.path()), ["a.dat.vortex", "filler", "noise"]);
}
