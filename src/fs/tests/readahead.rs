//! Read-ahead: who reads on finds the next blocks decoded, who jumps about does not make work.

use std::time::{Duration, Instant};

use super::*;

const BLOCKS: usize = 12;

/// A file whose blocks are neural, mounted again with nothing in the cache.
fn packed() -> (Mounted, Vec<u8>) {
    let m = Mounted::new();
    let content: Vec<u8> = (0..)
        .flat_map(|i: u32| format!("{i},{},{}\n", i * i % 977, i % 7).into_bytes())
        .take(BLOCKS * BLOCK)
        .collect();
    m.put("a", &content);
    starts::pack(&m, "a", 0);
    (m.again(true), content)
}

fn misses(m: &Mounted) -> u64 {
    m.fs.cache.stats().misses
}

/// Waits until `n` blocks were decoded.
fn wait_for(m: &Mounted, n: u64) {
    let begun = Instant::now();
    while misses(m) < n {
        assert!(begun.elapsed() < Duration::from_secs(60), "{}", misses(m));
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn a_sequential_reader_finds_the_next_blocks_decoded() {
    let (m, content) = packed();
    let jobs = m.fs.options().jobs as u64;
    let fh = m.open("a", RDONLY);
    assert!(m.fs.read(fh, 0, 1000).unwrap() == content[..1000]);
    assert_eq!(misses(&m), 1, "one read says nothing about the next");
    assert!(m.fs.read(fh, 1000, 1000).unwrap() == content[1000..2000]);
    wait_for(&m, 1 + jobs.min(BLOCKS as u64 - 1));
    let mut all = Vec::new();
    while all.len() < content.len() {
        all.extend(m.fs.read(fh, all.len() as u64, 5000).unwrap());
    }
    assert!(all == content);
    wait_for(&m, BLOCKS as u64);
    assert_eq!(misses(&m), BLOCKS as u64, "every block is decoded once");
}

#[test]
fn the_blocks_of_one_long_read_are_decoded_by_several_threads_once_each() {
    let (m, content) = packed();
    let fh = m.open("a", RDONLY);
    assert!(m.fs.read(fh, 0, content.len()).unwrap() == content);
    assert_eq!(misses(&m), BLOCKS as u64);
}

#[test]
fn random_reads_decode_what_they_touch() {
    let (m, content) = packed();
    let fh = m.open("a", RDONLY);
    for block in [7, 2, 9, 4] {
        let at = block * BLOCK + 100;
        assert!(m.fs.read(fh, at as u64, 50).unwrap() == content[at..at + 50]);
    }
    std::thread::sleep(Duration::from_millis(200));
    assert_eq!(misses(&m), 4);
}

#[test]
fn blocks_that_are_damaged_fail_the_read_that_wants_them_and_no_other() {
    use std::os::unix::fs::FileExt;

    use crate::segment::Segment;
    let (m, content) = packed();
    let file = std::fs::File::options()
        .read(true)
        .write(true)
        .open(m.backing("a.vortex"))
        .unwrap();
    let at = Segment::open(Arc::new(file.try_clone().unwrap()))
        .unwrap()
        .entry(3)
        .unwrap()
        .unwrap()
        .offset;
    let mut byte = [0];
    file.read_exact_at(&mut byte, at + 9).unwrap();
    file.write_all_at(&[byte[0] ^ 0x10], at + 9).unwrap();
    let fh = m.open("a", RDONLY);
    for block in 0..BLOCKS {
        let from = block * BLOCK;
        let read = m.fs.read(fh, from as u64, BLOCK);
        if block == 3 {
            assert!(read.unwrap_err().is_damage());
        } else {
            assert!(read.unwrap() == content[from..from + BLOCK], "{block}");
        }
    }
}
