//! A full backing file system.

use rustix::mount::{MountFlags, UnmountFlags, mount, unmount};

use super::*;

/// A small file system of its own, if this process may mount one.
struct Small {
    dir: tempfile::TempDir,
}

impl Small {
    fn new(size: &str) -> Option<Small> {
        let dir = tempfile::tempdir().unwrap();
        let options = std::ffi::CString::new(format!("size={size}")).unwrap();
        match mount(
            "tmpfs",
            dir.path(),
            "tmpfs",
            MountFlags::empty(),
            options.as_c_str(),
        ) {
            Ok(()) => Some(Small { dir }),
            Err(error) => {
                println!("skipped: can not mount a small tmpfs ({error})");
                None
            }
        }
    }

    /// A new archive on it with an empty file `a`, open.
    fn fs_with_a(&self) -> (Arc<Fs>, Fh) {
        Archive::init(self.dir.path()).unwrap();
        let archive = Archive::open(self.dir.path(), Access::Write).unwrap();
        let fs = Fs::new(archive, options()).unwrap();
        let (_, _, fh) = fs.create(NodeId::ROOT, os("a"), 0o644, RDWR, me()).unwrap();
        (fs, fh)
    }
}

impl Drop for Small {
    fn drop(&mut self) {
        let _ = unmount(self.dir.path(), UnmountFlags::DETACH);
    }
}

#[test]
fn full_disk_is_told_to_the_writer_and_loses_nothing_it_took() {
    let Some(small) = Small::new("2m") else {
        return;
    };
    let (fs, fh) = small.fs_with_a();
    let mut taken = Vec::new();
    let error = loop {
        let block = noise(BLOCK);
        match fs.write(fh, taken.len() as u64, &block) {
            Ok(n) => taken.extend_from_slice(&block[..n]),
            Err(error) => break error,
        }
        assert!(taken.len() < 4 << 20);
    };
    assert_eq!(error.errno(), rustix::io::Errno::NOSPC.raw_os_error());
    assert!(taken.len() > 1 << 20, "{} bytes", taken.len());
    fs.fsync(fh, false).unwrap();
    assert!(fs.read(fh, 0, 4 << 20).unwrap() == taken);
    fs.shutdown().unwrap();
    drop(fs);
    let archive = Archive::open(small.dir.path(), Access::Write).unwrap();
    let fs = Fs::new(archive, options()).unwrap();
    let node = fs.resolve(Path::new("a")).unwrap();
    let fh = fs.open(node, RDWR).unwrap();
    assert!(fs.read(fh, 0, 4 << 20).unwrap() == taken);
    let set = SetAttr {
        size: Some(0),
        ..SetAttr::default()
    };
    fs.setattr(node, Some(fh), set).unwrap();
    fs.fsync(fh, false).unwrap();
    fs.write(fh, 0, &noise(BLOCK)).unwrap();
    fs.fsync(fh, false).unwrap();
    fs.abandon();
}

#[test]
fn failed_store_is_told_once_and_tried_again() {
    let Some(small) = Small::new("2m") else {
        return;
    };
    let (fs, fh) = small.fs_with_a();
    let content = noise(20 * BLOCK);
    fs.write(fh, 0, &content).unwrap();
    // Somebody else fills the disk before the content is stored.
    let filler = small.dir.path().join("filler");
    assert!(std::fs::write(&filler, noise(3 << 20)).is_err());
    fs.commit_all().unwrap_err();
    let told = fs.flush(fh).unwrap_err();
    assert!(matches!(told, FsError::Deferred(_)), "{told}");
    assert_eq!(told.errno(), rustix::io::Errno::NOSPC.raw_os_error());
    fs.flush(fh).unwrap();
    assert!(
        fs.read(fh, 0, 1 << 20).unwrap() == content,
        "it stays readable"
    );
    fs.fsync(fh, false).unwrap_err();
    std::fs::remove_file(filler).unwrap();
    fs.fsync(fh, false).unwrap();
    fs.abandon();
    drop(fs);
    let archive = Archive::open(small.dir.path(), Access::Write).unwrap();
    let fs = Fs::new(archive, options()).unwrap();
    let fh = fs
        .open(fs.resolve(Path::new("a")).unwrap(), RDONLY)
        .unwrap();
    assert!(fs.read(fh, 0, 1 << 20).unwrap() == content);
    fs.abandon();
}

#[test]
fn a_write_that_finds_the_disk_full_is_all_that_tells_it() {
    let Some(small) = Small::new("2m") else {
        return;
    };
    let (fs, fh) = small.fs_with_a();
    fs.write(fh, 0, &noise(20 * BLOCK)).unwrap();
    assert!(std::fs::write(small.dir.path().join("filler"), noise(3 << 20)).is_err());
    let told = fs.write(fh, 0, &noise(BLOCK)).unwrap_err();
    assert_eq!(told.errno(), rustix::io::Errno::NOSPC.raw_os_error());
    fs.flush(fh).unwrap();
    fs.abandon();
}

#[test]
fn model_that_does_not_fit_leaves_nothing_behind_and_is_stored_when_it_does() {
    let Some(small) = Small::new("2m") else {
        return;
    };
    Archive::init(small.dir.path()).unwrap();
    let archive = Archive::open(small.dir.path(), Access::Write).unwrap();
    let filler = small.dir.path().join("filler");
    let kept = |dir: &str| {
        let names = std::fs::read_dir(small.dir.path().join(dir)).unwrap();
        let names = names.map(|entry| entry.unwrap().file_name());
        names.filter(|name| name != "format").count()
    };
    // Room for none of it, for a part, and for the first copy only.
    for room in [0, 100 << 10, 400 << 10] {
        let mut bytes = (2 << 20) - room;
        while std::fs::write(&filler, noise(bytes)).is_err() {
            bytes -= 4096;
        }
        let models = archive.models();
        let profile = models.profile("fast").unwrap();
        let error = models.store(&profile).unwrap_err();
        assert_eq!(
            error.raw_os_error(),
            Some(rustix::io::Errno::NOSPC.raw_os_error())
        );
        assert!(
            kept(".vortex/models") + kept(".vortex/copies") <= 1,
            "{room}"
        );
    }
    std::fs::remove_file(filler).unwrap();
    let models = archive.models();
    let profile = models.profile("fast").unwrap();
    models.store(&profile).unwrap();
    assert_eq!((kept(".vortex/models"), kept(".vortex/copies")), (1, 1));
}
