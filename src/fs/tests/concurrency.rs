//! Many threads on one file, and on one file system.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Instant;

use super::*;
use crate::fs::sync::lock;

const BLOCKS: u64 = 12;

/// One byte fills a region, so that a reader can tell a torn region from a whole one.
const REGION: usize = 4096;

fn racing() -> FsOptions {
    FsOptions {
        cache_bytes: 60_000,
        file_dirty_bytes: 3 * BLOCK as u64,
        total_dirty_bytes: 8 * BLOCK as u64,
        commit_after: Duration::from_millis(5),
        commit_closed_after: Duration::ZERO,
        ..options()
    }
}

fn busy(m: &Mounted, both_ways: bool) {
    let stop = AtomicBool::new(false);
    let last: Vec<AtomicU64> = (0..BLOCKS * BLOCK as u64 / REGION as u64)
        .map(|_| AtomicU64::new(0))
        .collect();
    let (done, swapped) = (AtomicU64::new(0), AtomicU64::new(0));
    std::thread::scope(|scope| {
        let (stop, last, done, swapped) = (&stop, &last, &done, &swapped);
        for writer in 0..2u64 {
            scope.spawn(move || {
                let fh = m.open("a", RDWR);
                let mut round = 1u64;
                let mut rested = Instant::now();
                while !stop.load(Ordering::Relaxed) {
                    // Each writer has regions of its own, in the same blocks as the other's.
                    let region = (round * 7 + writer) % (last.len() as u64 / 2) * 2 + writer;
                    let byte = (round % 250) as u8 + 1;
                    m.fs.write(fh, region * REGION as u64, &[byte; REGION])
                        .unwrap();
                    last[region as usize].store(u64::from(byte), Ordering::SeqCst);
                    if round.is_multiple_of(64) {
                        m.fs.fsync(fh, true).unwrap();
                        // Long enough for a swap to succeed now and then, also on a slow machine.
                        std::thread::sleep(Duration::from_millis(100) + rested.elapsed());
                        rested = Instant::now();
                    }
                    round += 1;
                }
                m.fs.release(fh).unwrap();
            });
        }
        for reader in 0..2u64 {
            scope.spawn(move || {
                let fh = m.open("a", RDONLY);
                let mut round = reader;
                while !stop.load(Ordering::Relaxed) {
                    let region = round * 5 % last.len() as u64;
                    let read = m.fs.read(fh, region * REGION as u64, REGION).unwrap();
                    // Of a plain file the backing file system decides how whole a write is.
                    let whole = read.iter().all(|b| *b == read[0]);
                    assert!(whole || both_ways, "torn region {region}");
                    done.fetch_add(1, Ordering::Relaxed);
                    round += 1;
                }
                m.fs.release(fh).unwrap();
            });
        }
        scope.spawn(move || {
            let mut unpack = false;
            while !stop.load(Ordering::Relaxed) {
                let snapshot = m.fs.snapshot(Path::new("a")).unwrap();
                let temp = m.fs.archive().temp_file().unwrap();
                let options = SealOptions {
                    block_size: BLOCK as u32,
                    encoding: Encoding::Fresh,
                    key_run: KeyRun::NONE,
                    primer: None,
                    jobs: 1,
                    progress: None,
                    cancel: None,
                };
                // The source may change while it is read; then the swap is refused.
                let outcome = if unpack {
                    super::super::convert::copy_out(&snapshot, &temp).unwrap();
                    m.fs.finish_unpack(snapshot, temp).unwrap()
                } else if seal(&snapshot, &temp, m.fs.archive().library(), &options).is_ok() {
                    m.fs.finish_repack(snapshot, temp).unwrap()
                } else {
                    Outcome::Changed
                };
                if outcome == Outcome::Swapped {
                    swapped.fetch_add(1, Ordering::Relaxed);
                    unpack = both_ways && !unpack;
                }
                std::thread::sleep(Duration::from_millis(5));
            }
        });
        scope.spawn(move || {
            while !stop.load(Ordering::Relaxed) {
                let size = m.attr("a").size;
                assert_eq!(size, BLOCKS * BLOCK as u64);
                assert_eq!(m.names(""), ["a"]);
                std::thread::sleep(Duration::from_millis(1));
            }
        });
        let begun = Instant::now();
        let enough = || done.load(Ordering::Relaxed) > 100 && swapped.load(Ordering::Relaxed) > 0;
        while begun.elapsed() < Duration::from_millis(1500)
            || !enough() && begun.elapsed() < Duration::from_secs(60)
        {
            std::thread::sleep(Duration::from_millis(10));
        }
        stop.store(true, Ordering::Relaxed);
    });
    assert!(done.into_inner() > 100);
    let content = m.get("a").unwrap();
    for (region, byte) in last.iter().enumerate() {
        let byte = byte.load(Ordering::SeqCst) as u8;
        let found = &content[region * REGION..(region + 1) * REGION];
        assert!(
            found.iter().all(|b| *b == byte),
            "region {region}: {} instead of {byte}",
            found[0]
        );
    }
    assert!(swapped.into_inner() > 0);
}

#[test]
fn readers_writers_commits_and_swaps_of_one_segment_agree() {
    let m = Mounted::with(racing());
    m.put("a", &vec![0; BLOCKS as usize * BLOCK]);
    busy(&m, false);
    let content = m.get("a").unwrap();
    assert!(m.again(true).get("a").unwrap() == content);
}

#[test]
fn readers_and_writers_of_a_plain_file_survive_packing_and_unpacking() {
    let m = Mounted::with(racing());
    std::fs::write(m.backing("a"), vec![0; BLOCKS as usize * BLOCK]).unwrap();
    busy(&m, true);
    let content = m.get("a").unwrap();
    assert!(m.again(true).get("a").unwrap() == content);
}

#[test]
fn truncation_and_appends_race_without_damage() {
    let m = Mounted::with(racing());
    m.put("a", b"");
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let (m, stop) = (&m, &stop);
        for writer in 1..=2u8 {
            scope.spawn(move || {
                let fh = m.open("a", APPEND);
                while !stop.load(Ordering::Relaxed) {
                    m.fs.write(fh, 0, &[writer; 1000]).unwrap();
                }
                m.fs.release(fh).unwrap();
            });
        }
        scope.spawn(move || {
            let node = m.node("a").unwrap();
            while !stop.load(Ordering::Relaxed) {
                std::thread::sleep(Duration::from_millis(2));
                let size = m.fs.getattr(node, None).unwrap().size;
                // To a multiple of the length of an append, so that appends stay whole.
                let set = SetAttr {
                    size: Some(size / 2000 * 1000),
                    ..SetAttr::default()
                };
                m.fs.setattr(node, None, set).unwrap();
            }
        });
        scope.spawn(move || {
            let fh = m.open("a", RDONLY);
            while !stop.load(Ordering::Relaxed) {
                let read = m.fs.read(fh, 0, 1 << 20).unwrap();
                for chunk in read.chunks(1000) {
                    assert!(chunk.iter().all(|b| *b == chunk[0] && *b != 0));
                }
            }
            m.fs.release(fh).unwrap();
        });
        std::thread::sleep(Duration::from_millis(1000));
        stop.store(true, Ordering::Relaxed);
    });
    let content = m.get("a").unwrap();
    assert!(content.len().is_multiple_of(1000));
    assert!(m.again(true).get("a").unwrap() == content);
}

#[test]
fn names_race_without_losing_a_file() {
    let m = Mounted::with(racing());
    let content = data(BLOCK + 5, 1);
    m.put("a", &content);
    let stop = AtomicBool::new(false);
    let root = NodeId::ROOT;
    m.fs.mkdir(root, os("d"), 0o755, me()).unwrap();
    let dir = m.node("d").unwrap();
    std::thread::scope(|scope| {
        let (m, stop, content) = (&m, &stop, &content);
        scope.spawn(move || {
            while !stop.load(Ordering::Relaxed) {
                m.fs.rename(root, os("a"), dir, os("b"), RenameFlags::NoReplace)
                    .unwrap();
                m.fs.rename(dir, os("b"), root, os("a"), RenameFlags::NoReplace)
                    .unwrap();
            }
        });
        scope.spawn(move || {
            while !stop.load(Ordering::Relaxed) {
                for path in ["a", "d/b"] {
                    match m.get(path) {
                        Ok(read) => assert!(read == *content),
                        Err(error) => assert!(matches!(error, FsError::NotFound), "{error}"),
                    }
                }
            }
        });
        scope.spawn(move || {
            let mut swaps = 0;
            while !stop.load(Ordering::Relaxed) {
                let Ok(snapshot) = m.fs.snapshot(Path::new("a")) else {
                    continue;
                };
                let temp = m.sealed(&snapshot);
                swaps += u32::from(m.fs.finish_repack(snapshot, temp).unwrap() == Outcome::Swapped);
            }
            println!("{swaps} swaps");
        });
        for maker in 0..2 {
            scope.spawn(move || {
                let mut i = 0;
                while !stop.load(Ordering::Relaxed) {
                    let name = format!("m{maker}-{i}");
                    let node = m.put(&name, b"short-lived");
                    assert_eq!(m.get(&name).unwrap(), b"short-lived");
                    m.fs.unlink(root, os(&name)).unwrap();
                    m.fs.forget(node, 2);
                    i += 1;
                }
            });
        }
        std::thread::sleep(Duration::from_millis(1000));
        stop.store(true, Ordering::Relaxed);
    });
    assert!(m.get("a").unwrap() == content);
    assert_eq!(m.names(""), ["a", "d"]);
}

#[test]
fn bytes_appended_while_a_range_before_them_is_punched_stay() {
    let m = Mounted::new();
    let mut expected = data(BLOCK + 1000, 1);
    let (id, fh) = m.create("a");
    m.fs.write(fh, 0, &expected).unwrap();
    let (node, end) = (m.fs.node(id).unwrap(), expected.len() as u64);
    let before = node.version.load(Ordering::SeqCst);
    std::thread::scope(|scope| {
        let storing = lock(&node.storing);
        let punching = scope.spawn(|| m.fs.fallocate(fh, 3, 100, end - 100).unwrap());
        // Once the rest of the first block is zeros it knows where the file ends, and waits to drop the second.
        while node.version.load(Ordering::SeqCst) == before {
            assert!(!punching.is_finished());
            std::thread::yield_now();
        }
        m.fs.write(fh, end, b"appended").unwrap();
        drop(storing);
        punching.join().unwrap();
    });
    expected[100..].fill(0);
    expected.extend(b"appended");
    assert!(m.get("a").unwrap() == expected);
}
