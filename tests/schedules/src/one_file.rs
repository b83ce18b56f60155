//! One file: readers, writers, commits, cuts, renames and packing at the same time.
//!
//! Versions of the content have nothing in common and do not compress, so that a mixture of two shows, and what a commit makes
//! free is given back under those who still read it.

use std::ffi::OsStr;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use crate::store::{Access, Archive, BlockSource, Encoding, KeyRun, SealOptions, StoreError, seal};
use shuttle::sync::atomic::{AtomicU64, Ordering};
use shuttle::thread;

use crate::fs::{
    Attr, Caller, Fh, Fs, FsError, FsOptions, NodeId, Outcome, RenameFlags, SetAttr, SetTime, Time,
};
use crate::run::many;

schedules! {
    many reads_see_whole_writes_while_it_is_packed,
    many writes_beside_each_other_in_one_block_all_stay,
    many written_and_closed_while_it_is_packed_it_stays,
    many appends_and_cuts_leave_whole_pieces,
    many a_rename_over_it_shows_the_old_or_the_new,
    many a_second_mount_sees_what_was_committed,
    many a_plain_file_that_grows_is_opened_as_one_by_all,
    many removed_and_closed_it_leaves_nothing,
    many attributes_show_no_swap,
    many attributes_show_no_storing,
    many attributes_set_while_it_is_swapped_stay,
    many removed_and_made_anew_while_it_is_packed_it_is_the_new_one,
    many linked_while_it_is_packed_twice_it_stays_one_file,
    many linked_while_it_changes_places_it_stays_one_file,
}

const BLOCK: usize = 16 << 10;
const LEN: usize = BLOCK + 1000;
pub(crate) const RDONLY: i32 = 0;
pub(crate) const RDWR: i32 = 2;
const APPEND: i32 = 0o2002;
pub(crate) const ROOT: NodeId = NodeId::ROOT;

pub(crate) fn os(name: &str) -> &OsStr {
    OsStr::new(name)
}

pub(crate) struct World {
    pub(crate) fs: Arc<Fs>,
    pub(crate) dir: tempfile::TempDir,
}

fn open(dir: &Path, access: Access) -> Arc<Fs> {
    open_with(dir, access, None)
}

pub(crate) fn open_with(dir: &Path, access: Access, node_descriptors: Option<usize>) -> Arc<Fs> {
    let options = FsOptions {
        // One block, so that others are decoded again and again.
        cache_bytes: 18_000,
        block_size: BLOCK as u32,
        // One written block has the flusher asked, which commits all that it finds; two are stored by the writer.
        file_dirty_bytes: 12_000,
        total_dirty_bytes: 40_000,
        commit_after: Duration::ZERO,
        commit_closed_after: Duration::ZERO,
        jobs: 1,
        decoders: None,
        nodes: 1 << 19,
        node_descriptors,
        disk_cache: None,
    };
    Fs::new(Archive::open(dir, access).unwrap(), options).unwrap()
}

impl World {
    fn new() -> World {
        let shm = Path::new("/dev/shm");
        let dir = if shm.is_dir() {
            tempfile::tempdir_in(shm)
        } else {
            tempfile::tempdir()
        };
        let dir = dir.unwrap();
        Archive::init(dir.path()).unwrap();
        World {
            fs: open(dir.path(), Access::Write),
            dir,
        }
    }

    /// A file of a version, committed.
    pub(crate) fn with(name: &str, content: &[u8]) -> World {
        let world = World::new();
        let fh = create(&world.fs, name);
        world.fs.write(fh, 0, content).unwrap();
        world.fs.fsync(fh, false).unwrap();
        world.fs.release(fh).unwrap();
        world
    }

    /// Ends the mount, begins another, and answers what the file holds.
    pub(crate) fn after_remount(self, name: &str) -> Vec<u8> {
        self.fs.shutdown().unwrap();
        let left = self.fs.stats();
        assert_eq!(
            (left.dirty_files, left.dirty_bytes, left.handles),
            (0, 0, 0)
        );
        drop(self.fs);
        let fs = open(self.dir.path(), Access::Read);
        read_by_name(&fs, name).unwrap()
    }
}

pub(crate) fn me() -> Caller {
    Caller {
        uid: rustix::process::geteuid().as_raw(),
        gid: rustix::process::getegid().as_raw(),
        umask: 0,
    }
}

pub(crate) fn create(fs: &Fs, name: &str) -> Fh {
    fs.create(ROOT, os(name), 0o600, RDWR, me()).unwrap().2
}

pub(crate) fn open_file(fs: &Fs, name: &str, flags: i32) -> Result<Fh, FsError> {
    fs.open(fs.resolve(Path::new(name))?, flags)
}

pub(crate) fn read_by_name(fs: &Fs, name: &str) -> Result<Vec<u8>, FsError> {
    let fh = open_file(fs, name, RDONLY)?;
    let bytes = fs.read(fh, 0, 1 << 20)?;
    fs.release(fh)?;
    Ok(bytes)
}

pub(crate) fn content(version: u64) -> Vec<u8> {
    let mut x = version.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut next = || {
        x ^= x << 13;
        x ^= x >> 7;
        x ^= x << 17;
        (x >> 32) as u8
    };
    (0..LEN).map(|_| next()).collect()
}

/// The version that this is, whole.
pub(crate) fn version(bytes: &[u8]) -> u64 {
    let found = (1..4).find(|&version| content(version) == bytes);
    found.unwrap_or_else(|| panic!("{} bytes of no version", bytes.len()))
}

/// Bytes in memory, so that sealing needs none of the scheduler's locks in its own threads.
struct Copy(Vec<u8>);

impl BlockSource for Copy {
    fn len(&self) -> u64 {
        self.0.len() as u64
    }

    fn read_at(&self, buf: &mut [u8], offset: u64) -> Result<(), StoreError> {
        let at = offset as usize;
        buf.copy_from_slice(&self.0[at..at + buf.len()]);
        Ok(())
    }
}

/// Packs a file, as the pack job does; answers whether the result was taken.
pub(crate) fn pack(fs: &Fs, name: &str) -> Result<bool, FsError> {
    let snapshot = fs.snapshot(Path::new(name))?;
    let mut bytes = vec![0; snapshot.len() as usize];
    // Block by block, so that a write may come between.
    for (at, part) in bytes.chunks_mut(BLOCK).enumerate() {
        if snapshot.read_at(part, (at * BLOCK) as u64).is_err() {
            assert!(snapshot.is_changed());
            return Ok(false);
        }
    }
    let temp = fs.archive().temp_file()?;
    let options = SealOptions {
        block_size: BLOCK as u32,
        encoding: Encoding::Fresh,
        key_run: KeyRun::NONE,
        primer: None,
        jobs: 1,
        progress: None,
        cancel: None,
    };
    seal(&Copy(bytes), &temp, fs.archive().library(), &options)?;
    Ok(fs.finish_repack(snapshot, temp)? == Outcome::Swapped)
}

/// Makes a segment a plain file, as the unpack job does; answers whether the result was taken.
pub(crate) fn unpack(fs: &Fs, name: &str) -> Result<bool, FsError> {
    let snapshot = fs.snapshot(Path::new(name))?;
    let mut bytes = vec![0; snapshot.len() as usize];
    snapshot.read_at(&mut bytes, 0)?;
    let temp = fs.archive().temp_file()?;
    temp.file().write_all_at(&bytes, 0)?;
    Ok(fs.finish_unpack(snapshot, temp)? == Outcome::Swapped)
}

pub(crate) fn spawn<T: 'static + Send>(
    fs: &Arc<Fs>,
    work: impl FnOnce(&Fs) -> T + Send + 'static,
) -> thread::JoinHandle<T> {
    let fs = Arc::clone(fs);
    thread::spawn(move || work(&fs))
}

fn reads_see_whole_writes_while_it_is_packed() {
    let world = World::with("a", &content(1));
    let writer = spawn(&world.fs, |fs| {
        let fh = open_file(fs, "a", RDWR).unwrap();
        for version in 2..4 {
            fs.write(fh, 0, &content(version)).unwrap();
            if version == 2 {
                fs.fsync(fh, true).unwrap();
            }
        }
        fs.release(fh).unwrap();
    });
    let reader = spawn(&world.fs, |fs| {
        let fh = open_file(fs, "a", RDONLY).unwrap();
        let mut last = 1;
        for _ in 0..3 {
            let now = version(&fs.read(fh, 0, 1 << 20).unwrap());
            assert!(now >= last, "{now} after {last}");
            last = now;
        }
        fs.release(fh).unwrap();
    });
    let packer = spawn(&world.fs, |fs| pack(fs, "a").unwrap());
    for thread in [writer, reader] {
        thread.join().unwrap();
    }
    packer.join().unwrap();
    assert_eq!(version(&read_by_name(&world.fs, "a").unwrap()), 3);
    assert_eq!(version(&world.after_remount("a")), 3);
}

fn writes_beside_each_other_in_one_block_all_stay() {
    const REGION: usize = 4000;
    let mut now = content(1);
    let world = World::with("a", &now);
    let mut threads = Vec::new();
    for at in [100, 8000] {
        now[at..at + REGION].fill(2);
        threads.push(spawn(&world.fs, move |fs| {
            let fh = open_file(fs, "a", RDWR).unwrap();
            for byte in 1..3 {
                fs.write(fh, at as u64, &[byte; REGION]).unwrap();
                let seen = fs.read(fh, at as u64, REGION).unwrap();
                assert!(seen == [byte; REGION], "a writer sees its own write");
                if byte == 1 {
                    fs.fsync(fh, true).unwrap();
                }
            }
            fs.release(fh).unwrap();
        }));
    }
    threads.push(spawn(&world.fs, |fs| {
        pack(fs, "a").unwrap();
    }));
    for thread in threads {
        thread.join().unwrap();
    }
    assert!(read_by_name(&world.fs, "a").unwrap() == now);
    assert!(world.after_remount("a") == now);
}

/// A swap unlinks the file that the node had below it, which must not look as if the file were gone.
fn written_and_closed_while_it_is_packed_it_stays() {
    let world = World::with("a", &content(1));
    let node = world.fs.resolve(Path::new("a")).unwrap();
    // What creating it and looking it up counted.
    world.fs.forget(node, 2);
    let writer = spawn(&world.fs, |fs| {
        for version in 2..4 {
            let node = fs.resolve(Path::new("a")).unwrap();
            let fh = fs.open(node, RDWR).unwrap();
            fs.write(fh, 0, &content(version)).unwrap();
            fs.release(fh).unwrap();
            fs.forget(node, 1);
        }
    });
    let packer = spawn(&world.fs, |fs| pack(fs, "a").unwrap());
    writer.join().unwrap();
    packer.join().unwrap();
    assert_eq!(version(&read_by_name(&world.fs, "a").unwrap()), 3);
    assert_eq!(version(&world.after_remount("a")), 3);
}

fn appends_and_cuts_leave_whole_pieces() {
    const PIECE: usize = 9000;
    let whole = |bytes: &[u8]| {
        assert!(bytes.len().is_multiple_of(PIECE));
        for piece in bytes.chunks(PIECE) {
            assert!(piece.iter().all(|b| *b == piece[0] && *b > 0));
        }
    };
    let world = World::with("a", &[1; PIECE]);
    let mut writers = Vec::new();
    for byte in [2, 3] {
        writers.push(spawn(&world.fs, move |fs| {
            let fh = open_file(fs, "a", APPEND).unwrap();
            fs.write(fh, 0, &[byte; PIECE]).unwrap();
            fs.fsync(fh, true).unwrap();
            fs.write(fh, 0, &[byte; PIECE]).unwrap();
            fs.release(fh).unwrap();
        }));
    }
    writers.push(spawn(&world.fs, |fs| {
        let node = fs.resolve(Path::new("a")).unwrap();
        let set = SetAttr {
            size: Some(PIECE as u64),
            ..SetAttr::default()
        };
        fs.setattr(node, None, set).unwrap();
    }));
    writers.push(spawn(&world.fs, move |fs| {
        for _ in 0..2 {
            whole(&read_by_name(fs, "a").unwrap());
        }
    }));
    for writer in writers {
        writer.join().unwrap();
    }
    let now = read_by_name(&world.fs, "a").unwrap();
    whole(&now);
    assert!(now.len() <= 5 * PIECE && now[0] == 1);
    assert!(world.after_remount("a") == now);
}

fn a_rename_over_it_shows_the_old_or_the_new() {
    let world = World::with("a", &content(1));
    let old = open_file(&world.fs, "a", RDWR).unwrap();
    let mover = spawn(&world.fs, |fs| {
        let fh = create(fs, "b");
        fs.write(fh, 0, &content(2)).unwrap();
        fs.rename(ROOT, os("b"), ROOT, os("a"), RenameFlags::Replace)
            .unwrap();
        fs.fsync(fh, false).unwrap();
        fs.release(fh).unwrap();
    });
    let looker = spawn(&world.fs, |fs| {
        let mut last = 1;
        for _ in 0..2 {
            let now = version(&read_by_name(fs, "a").unwrap());
            assert!(now >= last);
            last = now;
        }
    });
    let holder = spawn(&world.fs, move |fs| {
        fs.fsync(old, false).unwrap();
        assert_eq!(version(&fs.read(old, 0, 1 << 20).unwrap()), 1);
        fs.release(old).unwrap();
    });
    let packer = spawn(&world.fs, |fs| pack(fs, "a").unwrap());
    for thread in [mover, looker, holder] {
        thread.join().unwrap();
    }
    packer.join().unwrap();
    assert_eq!(version(&world.after_remount("a")), 2);
}

fn a_second_mount_sees_what_was_committed() {
    let world = World::with("a", &content(1));
    assert!(matches!(
        Archive::open(world.dir.path(), Access::Write),
        Err(StoreError::Busy(_))
    ));
    let (begun, synced) = (Arc::new(AtomicU64::new(1)), Arc::new(AtomicU64::new(1)));
    let writer = {
        let (begun, synced) = (Arc::clone(&begun), Arc::clone(&synced));
        spawn(&world.fs, move |fs| {
            let fh = open_file(fs, "a", RDWR).unwrap();
            for version in 2..4 {
                begun.store(version, Ordering::SeqCst);
                fs.write(fh, 0, &content(version)).unwrap();
                fs.fsync(fh, true).unwrap();
                synced.store(version, Ordering::SeqCst);
            }
            fs.release(fh).unwrap();
        })
    };
    let reader = {
        let dir = world.dir.path().to_path_buf();
        thread::spawn(move || {
            let fs = open(&dir, Access::Read);
            for _ in 0..2 {
                let least = synced.load(Ordering::SeqCst);
                // Opening looks whether the file has changed.
                let now = version(&read_by_name(&fs, "a").unwrap());
                assert!((least..=begun.load(Ordering::SeqCst)).contains(&now));
            }
        })
    };
    let packer = spawn(&world.fs, |fs| pack(fs, "a").unwrap());
    writer.join().unwrap();
    reader.join().unwrap();
    packer.join().unwrap();
    assert_eq!(version(&world.after_remount("a")), 3);
}

/// The kernel lets nobody open a file through the daemon that others read from the backing file itself.
fn a_plain_file_that_grows_is_opened_as_one_by_all() {
    let world = World::with("a", &content(1));
    let path = world.dir.path().join("plain");
    std::fs::write(&path, b"line\n").unwrap();
    let reader = open(world.dir.path(), Access::Read);
    let open_as_one = |fs: &Fs| {
        for _ in 0..4 {
            let fh = open_file(fs, "plain", RDONLY).unwrap();
            assert!(fs.plain_file(fh).unwrap().is_some());
            fs.release(fh).unwrap();
        }
    };
    let readers = [(); 2].map(|()| spawn(&reader, open_as_one));
    let appender = thread::spawn(move || {
        use std::io::Write;
        let mut file = std::fs::OpenOptions::new().append(true).open(path).unwrap();
        for _ in 0..20 {
            file.write_all(b"one more\n").unwrap();
            thread::yield_now();
        }
    });
    for reader in readers {
        reader.join().unwrap();
    }
    appender.join().unwrap();
}

fn removed_and_closed_it_leaves_nothing() {
    let world = World::with("keep", &content(1));
    let fh = create(&world.fs, "a");
    let writer = spawn(&world.fs, move |fs| {
        fs.write(fh, 0, &content(2)).unwrap();
        fs.fsync(fh, true).unwrap();
        fs.write(fh, 0, &content(3)).unwrap();
        assert_eq!(version(&fs.read(fh, 0, 1 << 20).unwrap()), 3);
        fs.release(fh).unwrap();
    });
    let remover = spawn(&world.fs, |fs| {
        let node = fs.resolve(Path::new("a")).unwrap();
        fs.unlink(ROOT, os("a")).unwrap();
        // What creating it and looking it up counted.
        fs.forget(node, 2);
    });
    let packer = spawn(&world.fs, |fs| match pack(fs, "a") {
        Ok(_) | Err(FsError::NotFound) => {}
        Err(error) => panic!("{error}"),
    });
    for thread in [writer, remover, packer] {
        thread.join().unwrap();
    }
    assert!(matches!(
        world.fs.resolve(Path::new("a")),
        Err(FsError::NotFound)
    ));
    let keep = world.fs.resolve(Path::new("keep")).unwrap();
    world.fs.forget(keep, 10);
    world.fs.shutdown().unwrap();
    assert_eq!(world.fs.stats().nodes, 1, "the root alone");
    assert_eq!(version(&world.after_remount("keep")), 1);
}

/// What no storing and no swap may change.
fn shown(attr: &Attr) -> (u64, u64, Time, Time, u32) {
    (attr.ino, attr.size, attr.mtime, attr.ctime, attr.nlink)
}

/// Looks a few times at the attributes, which others must not be seen to change.
fn looks_the_same(world: &World, node: NodeId, before: Attr) -> thread::JoinHandle<()> {
    spawn(&world.fs, move |fs| {
        for _ in 0..3 {
            let now = fs.getattr(node, None).unwrap();
            assert_eq!(shown(&now), shown(&before));
        }
    })
}

fn attributes_show_no_swap() {
    let world = World::with("a", &content(1));
    let node = world.fs.resolve(Path::new("a")).unwrap();
    let set = SetAttr {
        mtime: Some(SetTime::At((1000, 5))),
        ..SetAttr::default()
    };
    let before = world.fs.setattr(node, None, set).unwrap();
    let looker = looks_the_same(&world, node, before);
    let packer = spawn(&world.fs, |fs| {
        assert!(unpack(fs, "a").unwrap());
        assert!(pack(fs, "a").unwrap());
    });
    looker.join().unwrap();
    packer.join().unwrap();
    assert_eq!(version(&world.after_remount("a")), 1);
}

fn attributes_show_no_storing() {
    let world = World::with("a", &content(1));
    let node = world.fs.resolve(Path::new("a")).unwrap();
    let fh = world.fs.open(node, RDWR).unwrap();
    world.fs.write(fh, 0, &content(2)).unwrap();
    let before = world.fs.getattr(node, None).unwrap();
    let looker = looks_the_same(&world, node, before);
    let syncer = spawn(&world.fs, move |fs| {
        fs.fsync(fh, false).unwrap();
        fs.release(fh).unwrap();
    });
    looker.join().unwrap();
    syncer.join().unwrap();
    assert_eq!(version(&world.after_remount("a")), 2);
}

/// A rename that exchanges a segment with a directory makes it a plain file, beside others who change its attributes.
fn attributes_set_while_it_is_swapped_stay() {
    let world = World::with("a", &content(1));
    world.fs.mkdir(ROOT, os("d"), 0o700, me()).unwrap();
    let node = world.fs.resolve(Path::new("a")).unwrap();
    let at: Time = (1000, 5);
    let setter = spawn(&world.fs, move |fs| {
        let (mode, mtime) = (Some(0o640), Some(SetTime::At(at)));
        for (mode, mtime) in [(mode, None), (None, mtime)] {
            let set = SetAttr {
                mode,
                mtime,
                ..SetAttr::default()
            };
            fs.setattr(node, None, set).unwrap();
        }
    });
    let mover = spawn(&world.fs, |fs| {
        fs.rename(ROOT, os("a"), ROOT, os("d"), RenameFlags::Exchange)
            .unwrap();
        pack(fs, "d").unwrap();
    });
    setter.join().unwrap();
    mover.join().unwrap();
    let now = world.fs.getattr(node, None).unwrap();
    assert_eq!((now.perm & 0o7777, now.mtime), (0o640, at));
    assert_eq!(version(&world.after_remount("d")), 1);
}

fn removed_and_made_anew_while_it_is_packed_it_is_the_new_one() {
    let world = World::with("a", &content(1));
    let node = world.fs.resolve(Path::new("a")).unwrap();
    world.fs.forget(node, 2);
    let maker = spawn(&world.fs, |fs| {
        fs.unlink(ROOT, os("a")).unwrap();
        let fh = create(fs, "a");
        fs.write(fh, 0, &content(2)).unwrap();
        fs.release(fh).unwrap();
        let node = fs.resolve(Path::new("a")).unwrap();
        fs.forget(node, 2);
    });
    let packers = [0, 1].map(|_| {
        spawn(&world.fs, |fs| match pack(fs, "a") {
            Ok(_) | Err(FsError::NotFound) => {}
            Err(error) => panic!("{error}"),
        })
    });
    maker.join().unwrap();
    for packer in packers {
        packer.join().unwrap();
    }
    assert_eq!(version(&read_by_name(&world.fs, "a").unwrap()), 2);
    assert_eq!(version(&world.after_remount("a")), 2);
}

fn linked_while_it_is_packed_twice_it_stays_one_file() {
    let world = World::with("a", &content(1));
    let linker = spawn(&world.fs, |fs| {
        let node = fs.resolve(Path::new("a")).unwrap();
        fs.link(node, ROOT, os("b")).unwrap();
        let fh = open_file(fs, "b", RDWR).unwrap();
        fs.write(fh, 0, &content(2)).unwrap();
        fs.release(fh).unwrap();
    });
    let packers = [0, 1].map(|_| spawn(&world.fs, |fs| pack(fs, "a").unwrap()));
    linker.join().unwrap();
    for packer in packers {
        packer.join().unwrap();
    }
    let [a, b] = ["a", "b"].map(|name| world.fs.resolve(Path::new(name)).unwrap());
    assert_eq!(a, b);
    assert_eq!(world.fs.getattr(a, None).unwrap().nlink, 2);
    assert_eq!(version(&read_by_name(&world.fs, "a").unwrap()), 2);
    assert_eq!(version(&world.after_remount("b")), 2);
}

/// A segment that changes places with a directory becomes a plain file, unless it has several names by then.
fn linked_while_it_changes_places_it_stays_one_file() {
    let world = World::with("a", &content(1));
    let [_, d] = ["s", "d"].map(|name| world.fs.mkdir(ROOT, os(name), 0o700, me()).unwrap().0);
    let node = world.fs.resolve(Path::new("a")).unwrap();
    let linker = spawn(&world.fs, move |fs| {
        fs.link(node, d, os("b")).unwrap();
    });
    let mover = spawn(&world.fs, |fs| {
        match fs.rename(ROOT, os("a"), ROOT, os("s"), RenameFlags::Exchange) {
            Ok(()) => "s",
            Err(FsError::Invalid) => "a",
            Err(error) => panic!("{error}"),
        }
    });
    linker.join().unwrap();
    let name = mover.join().unwrap();
    let [a, b] = [name, "d/b"].map(|name| world.fs.resolve(Path::new(name)).unwrap());
    assert_eq!((a, b), (node, node));
    assert_eq!(world.fs.getattr(node, None).unwrap().nlink, 2);
    assert_eq!(version(&world.after_remount("d/b")), 1);
}
