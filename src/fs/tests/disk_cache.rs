//! The disk cache: fast after a remount, never wrong, never larger than it may be.

use std::collections::BTreeMap;
use std::os::unix::fs::PermissionsExt;
use std::time::{Duration, Instant};

use super::*;

const BLOCKS: usize = 11;
/// What the file of a block takes.
const FILE: u64 = (BLOCK as u64 + 32).next_multiple_of(4096);

/// A packed file in an archive with a disk cache of so many bytes, and its content. Nothing was read yet.
fn packed(cache: &Path, bytes: u64, key_blocks: u8) -> (Mounted, Vec<u8>) {
    let m = Mounted::with(FsOptions {
        disk_cache: Some(DiskCacheOptions {
            dir: cache.to_path_buf(),
            bytes,
        }),
        ..options()
    });
    let content = starts::alike(BLOCKS, 1);
    m.put("a", &content);
    let report = starts::pack(&m, "a", key_blocks);
    assert_eq!(report.blocks[2], BLOCKS as u64, "{report:?}");
    (m.again(true), content)
}

fn stats(m: &Mounted) -> DiskCacheStats {
    m.fs.stats().disk_cache.unwrap()
}

/// Reads block after block, each of which is given the time to be kept.
fn read_all(m: &Mounted, content: &[u8]) {
    let fh = m.open("a", RDONLY);
    for block in 0..BLOCKS {
        read_block(m, fh, content, block);
    }
    m.fs.release(fh).unwrap();
    // Some were decoded ahead.
    wait(|| stats(m).stored >= stats(m).misses);
}

/// Waits, but not for ever: what is not kept is no failure.
fn wait(done: impl Fn() -> bool) {
    let begun = Instant::now();
    while !done() && begun.elapsed() < Duration::from_secs(6) {
        std::thread::sleep(Duration::from_millis(1));
    }
}

fn read_block(m: &Mounted, fh: Fh, content: &[u8], block: usize) {
    let before = stats(m);
    let at = block * BLOCK;
    let read = m.fs.read(fh, at as u64, BLOCK).unwrap();
    assert!(read == content[at..at + BLOCK], "block {block}");
    wait(|| stats(m).stored > before.stored || stats(m).misses == before.misses);
}

fn decoded(m: &Mounted) -> u64 {
    m.fs.stats().decoding[CodecId::Neural as usize].count()
}

fn blocks_in(dir: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let files = std::fs::read_dir(dir).unwrap().map(|e| e.unwrap().path());
    files
        .filter(|path| path.extension().is_some_and(|e| e == "block"))
        .map(|path| (path.clone(), std::fs::read(path).unwrap()))
        .collect()
}

#[test]
fn what_was_decoded_once_is_not_decoded_after_a_remount() {
    for key_blocks in [0, 4] {
        let dir = tempfile::tempdir().unwrap();
        let (m, content) = packed(&dir.path().join("cache"), 1 << 30, key_blocks);
        read_all(&m, &content);
        assert_eq!((stats(&m).hits, decoded(&m)), (0, BLOCKS as u64));
        assert_eq!(stats(&m).stored, BLOCKS as u64);
        let m = m.again(true);
        read_all(&m, &content);
        assert_eq!((stats(&m).hits, stats(&m).misses), (BLOCKS as u64, 0));
        assert_eq!(decoded(&m), 0);
        wait(|| stats(&m).bytes > 0);
        assert_eq!(stats(&m).bytes, BLOCKS as u64 * FILE);
        // Written anew, the block is another one.
        let fh = m.open("a", RDWR);
        m.fs.write(fh, 5, b"changed").unwrap();
        m.fs.fsync(fh, false).unwrap();
        let mut changed = content;
        changed[5..12].copy_from_slice(b"changed");
        assert!(m.fs.read(fh, 0, BLOCK).unwrap() == changed[..BLOCK]);
        m.fs.release(fh).unwrap();
        let m = m.again(true);
        assert!(m.get("a").unwrap() == changed);
    }
}

#[test]
fn a_damaged_moved_or_forged_file_never_gives_wrong_bytes() {
    let dir = tempfile::tempdir().unwrap();
    let cache = dir.path().join("cache");
    let (m, content) = packed(&cache, 1 << 30, 0);
    read_all(&m, &content);
    let mut m = m.again(true);
    let good = blocks_in(&cache);
    assert_eq!(good.len(), BLOCKS);
    type Spoil = fn(&[u8], &[u8]) -> Vec<u8>;
    let spoils: [Spoil; 7] = [
        |raw, _| {
            let mut raw = raw.to_vec();
            raw[100] ^= 1;
            raw
        },
        |raw, _| {
            let mut raw = raw.to_vec();
            raw[3] ^= 0x80;
            raw
        },
        |raw, _| raw[..raw.len() - 1].to_vec(),
        |raw, _| [raw, &[0]].concat(),
        |_, _| Vec::new(),
        // Sound, and another block's.
        |_, other| other.to_vec(),
        // As somebody makes it who does not know the secret: all that can be known is right.
        |raw, _| {
            let data = vec![0x55; raw.len() - 32];
            [blake3::hash(&data).as_bytes().as_slice(), &data].concat()
        },
    ];
    for (n, spoil) in spoils.iter().enumerate() {
        let now = blocks_in(&cache);
        assert_eq!(now.len(), BLOCKS);
        let mut others = now.values().cycle().skip(1);
        for (path, raw) in &now {
            std::fs::write(path, spoil(raw, others.next().unwrap())).unwrap();
        }
        read_all(&m, &content);
        assert_eq!(stats(&m).damaged, BLOCKS as u64, "{n}");
        // They were decoded again, and kept.
        m = m.again(true);
        assert!(blocks_in(&cache) == good, "{n}");
    }
    // What is no file is none of ours, and hangs nobody.
    for path in good.keys() {
        std::fs::remove_file(path).unwrap();
        rustix::fs::mkfifoat(
            rustix::fs::CWD,
            path,
            rustix::fs::Mode::from_raw_mode(0o600),
        )
        .unwrap();
    }
    read_all(&m, &content);
    // A new secret makes all that is there worthless.
    m = m.again(true);
    read_all(&m, &content);
    drop(m.again(true));
}

#[test]
fn it_stays_within_its_size_and_what_was_not_used_for_longest_goes() {
    let dir = tempfile::tempdir().unwrap();
    let cache = dir.path().join("cache");
    let (m, content) = packed(&cache, 5 * FILE + 100, 0);
    let fh = m.open("a", RDONLY);
    // In no order that would be read ahead.
    for block in [0, 2, 4, 6, 8, 10, 5] {
        read_block(&m, fh, &content, block);
        assert!(stats(&m).bytes <= 5 * FILE);
    }
    assert_eq!((stats(&m).stored, stats(&m).evicted), (7, 2));
    m.fs.release(fh).unwrap();
    let m = m.again(true);
    assert_eq!(blocks_in(&cache).len(), 5);
    let fh = m.open("a", RDONLY);
    // The oldest is used again, so that the next one goes instead.
    for block in [4, 7] {
        read_block(&m, fh, &content, block);
    }
    m.fs.release(fh).unwrap();
    let m = m.again(true);
    let fh = m.open("a", RDONLY);
    for block in [4, 10, 8, 5, 7] {
        read_block(&m, fh, &content, block);
    }
    assert_eq!((stats(&m).hits, stats(&m).misses), (5, 0));
    read_block(&m, fh, &content, 6);
    assert_eq!(stats(&m).misses, 1);
    let bytes: usize = blocks_in(&cache).values().map(Vec::len).sum();
    assert!(bytes as u64 <= 5 * FILE);
}

#[test]
fn it_may_be_deleted_at_any_time() {
    let dir = tempfile::tempdir().unwrap();
    let cache = dir.path().join("cache");
    let (m, content) = packed(&cache, 1 << 30, 0);
    read_all(&m, &content);
    for path in blocks_in(&cache).keys() {
        std::fs::remove_file(path).unwrap();
    }
    std::fs::remove_file(cache.join("secret")).unwrap();
    m.fs.limit_cache(0);
    read_all(&m, &content);
    assert_eq!(blocks_in(&cache).len(), BLOCKS, "kept again");
    std::fs::remove_dir_all(&cache).unwrap();
    read_all(&m, &content);
    read_all(&m, &content);
    assert!(
        blocks_in(&cache).len() >= BLOCKS - 1,
        "kept in a new directory"
    );
    let mode = std::fs::metadata(&cache).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o700);
    let m = m.again(true);
    read_all(&m, &content);
    assert!(stats(&m).hits >= BLOCKS as u64 - 1);
    // What a killed daemon left is no hindrance.
    std::fs::write(cache.join("new"), b"half a blo").unwrap();
    m.fs.limit_cache(0);
    for path in blocks_in(&cache).keys() {
        std::fs::remove_file(path).unwrap();
    }
    read_all(&m, &content);
    assert_eq!(blocks_in(&cache).len(), BLOCKS);
}

#[test]
fn a_directory_that_is_not_its_own_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let try_dir = |path: &Path| {
        let archive = tempfile::tempdir().unwrap();
        Archive::init(archive.path()).unwrap();
        let archive = Archive::open(archive.path(), Access::Write).unwrap();
        let options = FsOptions {
            disk_cache: Some(DiskCacheOptions {
                dir: path.to_path_buf(),
                bytes: 1 << 20,
            }),
            ..options()
        };
        match Fs::new(archive, options) {
            Ok(fs) => {
                fs.abandon();
                String::new()
            }
            Err(e) => e.to_string(),
        }
    };
    let make = |name: &str, mode: u32| {
        let path = dir.path().join(name);
        std::fs::create_dir(&path).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
        path
    };
    assert_eq!(try_dir(&make("good", 0o700)), "");
    assert_eq!(try_dir(&dir.path().join("good")), "", "it is a cache now");
    let said = try_dir(&make("open", 0o750));
    assert!(said.contains("chmod 700"), "{said}");
    let full = make("full", 0o700);
    std::fs::write(full.join("letter"), b"dear").unwrap();
    let said = try_dir(&full);
    assert!(said.contains("holds other files"), "{said}");
    assert!(std::fs::read(full.join("letter")).unwrap() == b"dear");
    std::os::unix::fs::symlink(dir.path().join("good"), dir.path().join("link")).unwrap();
    assert!(!try_dir(&dir.path().join("link")).is_empty());
    assert!(!try_dir(&dir.path().join("none/deeper")).is_empty());
    let used = dir.path().join("used");
    let (_m, _) = packed(&used, 1 << 20, 0);
    let said = try_dir(&used);
    assert!(said.contains("another mount"), "{said}");
}
