//! Who works on a file from the side while it is written, stored, packed and unpacked: the scrub, and those who change its extended
//! attributes.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;

use rustix::io::Errno;
use shuttle::sync::atomic::{AtomicU64, Ordering};

use crate::fs::{Fs, FsError, RenameFlags, SetAttr};
use crate::one_file::{
    RDWR, ROOT, World, content, me, open_file, os, pack, spawn, unpack, version,
};
use crate::run::many;
use crate::second_look::damage;
use crate::segment::Storage;

schedules! {
    many the_scrub_takes_nothing_for_damage_that_others_do,
    many the_scrub_finds_damage_whatever_others_do,
    many extended_attributes_stay_while_it_is_stored_and_swapped,
}

/// A file that others may come between two reads of.
struct Stepwise {
    file: File,
    reads: AtomicU64,
}

impl Storage for Stepwise {
    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize> {
        self.reads.fetch_add(1, Ordering::SeqCst);
        FileExt::read_at(&self.file, buf, offset)
    }

    fn write_all_at(&self, _: &[u8], _: u64) -> io::Result<()> {
        unreachable!("a check changes nothing")
    }

    fn sync_data(&self) -> io::Result<()> {
        unreachable!("a check changes nothing")
    }

    fn len(&self) -> io::Result<u64> {
        Ok(self.file.metadata()?.len())
    }

    fn punch_hole(&self, _: u64, _: u64) -> io::Result<()> {
        unreachable!("a check changes nothing")
    }

    fn set_len(&self, _: u64) -> io::Result<()> {
        unreachable!("a check changes nothing")
    }
}

/// What the scrub finds wrong with a file of the backing directory; nothing if it is not there.
fn scrub(fs: &Fs, path: &Path) -> Vec<String> {
    let slowly = |file| {
        let reads = AtomicU64::new(0);
        Arc::new(Stepwise { file, reads }) as Arc<dyn Storage>
    };
    let wait = || {
        // The clock that stamps files goes on meanwhile.
        std::thread::sleep(std::time::Duration::from_millis(3));
        shuttle::thread::yield_now();
        true
    };
    match damage(path, fs.archive().library(), &slowly, &wait) {
        Ok(lines) => lines,
        Err(error) if error.raw_os_error() == Some(Errno::NOENT.raw_os_error()) => Vec::new(),
        Err(error) => panic!("{error}"),
    }
}

fn the_scrub_takes_nothing_for_damage_that_others_do() {
    let world = World::with("a", &content(1));
    let writer = spawn(&world.fs, |fs| {
        let fh = open_file(fs, "a", RDWR).unwrap();
        for version in [2, 3, 2, 3] {
            fs.write(fh, 0, &content(version)).unwrap();
            fs.fsync(fh, true).unwrap();
        }
        let set = SetAttr {
            size: Some(100),
            ..SetAttr::default()
        };
        let node = fs.node_of_handle(fh).unwrap();
        fs.setattr(node, None, set).unwrap();
        fs.fsync(fh, true).unwrap();
        fs.write(fh, 0, &content(3)).unwrap();
        fs.fsync(fh, true).unwrap();
        fs.unlink(ROOT, os("a")).unwrap();
        assert_eq!(version(&fs.read(fh, 0, 1 << 20).unwrap()), 3);
        fs.release(fh).unwrap();
    });
    let packer = spawn(&world.fs, |fs| match pack(fs, "a") {
        Ok(_) | Err(FsError::NotFound) => {}
        Err(error) => panic!("{error}"),
    });
    let path = world.dir.path().join("a.vortex");
    let scrubber = spawn(&world.fs, move |fs| {
        for _ in 0..2 {
            assert_eq!(scrub(fs, &path), [""; 0]);
        }
    });
    for thread in [writer, packer, scrubber] {
        thread.join().unwrap();
    }
}

/// The first block is damaged; the file is written elsewhere, and packed, which fails and leaves it alone.
fn the_scrub_finds_damage_whatever_others_do() {
    let world = World::with("a", &content(1));
    let path = world.dir.path().join("a.vortex");
    // Where the first payload of a live segment lies.
    let file = File::options().read(true).write(true).open(&path).unwrap();
    let mut byte = [0];
    FileExt::read_exact_at(&file, &mut byte, 3000).unwrap();
    FileExt::write_all_at(&file, &[!byte[0]], 3000).unwrap();
    let writer = spawn(&world.fs, |fs| {
        let fh = open_file(fs, "a", RDWR).unwrap();
        for byte in [1, 2] {
            fs.write(fh, content(1).len() as u64, &[byte; 100]).unwrap();
            fs.fsync(fh, true).unwrap();
        }
        fs.release(fh).unwrap();
    });
    let scrubber = spawn(&world.fs, move |fs| {
        let lines = scrub(fs, &path);
        assert!(
            lines.len() == 1 && lines[0].starts_with("bytes 0 to "),
            "{lines:?}"
        );
    });
    writer.join().unwrap();
    scrubber.join().unwrap();
}

fn extended_attributes_stay_while_it_is_stored_and_swapped() {
    let world = World::with("a", &content(1));
    world.fs.mkdir(ROOT, os("d"), 0o700, me()).unwrap();
    let node = world.fs.resolve(Path::new("a")).unwrap();
    let get = move |fs: &Fs, name: &str| match fs.getxattr(node, os(name)) {
        Ok(value) => Some(value),
        Err(error) if error.errno() == Errno::NODATA.raw_os_error() => None,
        Err(error) => panic!("{error}"),
    };
    for name in ["user.kept", "user.gone"] {
        world.fs.setxattr(node, os(name), b"0", 0).unwrap();
    }
    let setter = spawn(&world.fs, move |fs| {
        for value in [b"1", b"2"] {
            fs.setxattr(node, os("user.set"), value, 0).unwrap();
            assert_eq!(get(fs, "user.set").unwrap(), value);
        }
        fs.removexattr(node, os("user.gone")).unwrap();
        assert_eq!(get(fs, "user.gone"), None);
    });
    let looker = spawn(&world.fs, move |fs| {
        let mut last = None;
        for _ in 0..2 {
            let now = get(fs, "user.set");
            assert!(now >= last, "{now:?} after {last:?}");
            last = now;
            assert_eq!(get(fs, "user.kept").unwrap(), b"0");
        }
    });
    let writer = spawn(&world.fs, move |fs| {
        let fh = fs.open(node, RDWR).unwrap();
        fs.write(fh, 0, &content(2)).unwrap();
        fs.fsync(fh, true).unwrap();
        fs.release(fh).unwrap();
    });
    let packer = spawn(&world.fs, |fs| {
        pack(fs, "a").unwrap();
        // A file that changes places with a directory becomes a plain one, without keeping others from names meanwhile.
        fs.rename(ROOT, os("a"), ROOT, os("d"), RenameFlags::Exchange)
            .unwrap();
        pack(fs, "d").unwrap();
        unpack(fs, "d").unwrap();
    });
    for thread in [setter, looker, writer, packer] {
        thread.join().unwrap();
    }
    let list = world.fs.listxattr(node).unwrap();
    let names: std::collections::BTreeSet<_> = list.split_inclusive(|&b| b == 0).collect();
    assert_eq!(names, [&b"user.kept\0"[..], b"user.set\0"].into());
    assert_eq!(get(&world.fs, "user.set").unwrap(), b"2");
    assert_eq!(version(&world.after_remount("d")), 2);
}
