//! No block and no key block is decoded twice for those who read at the same time or one after another.

use std::sync::Barrier;

use super::*;

/// A file of one group: four key blocks, and others that start from them.
fn packed(blocks: usize, key_blocks: u8, options: FsOptions) -> (Mounted, Vec<u8>) {
    let m = Mounted::with(options);
    let content = starts::alike(blocks, 1);
    m.put("a", &content);
    let report = starts::pack(&m, "a", key_blocks);
    assert!(key_blocks == 0 || report.started > 0, "{report:?}");
    (m.again(true), content)
}

fn decoded(m: &Mounted) -> u64 {
    m.fs.stats().decoding[CodecId::Neural as usize].count()
}

#[test]
fn many_readers_of_one_neural_block_have_it_decoded_once() {
    let (m, content) = packed(12, 4, options());
    let handles: Vec<_> = (0..8).map(|_| m.open("a", RDONLY)).collect();
    for block in [9, 2, 11] {
        let start = Barrier::new(handles.len());
        let before = decoded(&m);
        std::thread::scope(|s| {
            for &fh in &handles {
                let (m, start, content) = (&m, &start, &content);
                s.spawn(move || {
                    start.wait();
                    let at = block * BLOCK + 100;
                    let read = m.fs.read(fh, at as u64, 500).unwrap();
                    assert!(read == content[at..at + 500]);
                });
            }
        });
        assert_eq!(decoded(&m), before + 1, "block {block}");
    }
}

#[test]
fn a_second_random_read_in_a_group_decodes_no_key_block_again() {
    let (m, content) = packed(16, 4, options());
    let starts = m.fs.archive().library().starts();
    let read = |block: usize| {
        // Opened and closed each time, as programs do.
        let fh = m.open("a", RDONLY);
        let at = block * BLOCK + 7;
        assert!(m.fs.read(fh, at as u64, 100).unwrap() == content[at..at + 100]);
        m.fs.release(fh).unwrap();
    };
    read(10);
    let made = starts.made();
    assert!(made >= 1, "the group's state had to be made");
    for block in [12, 6, 15, 8] {
        read(block);
    }
    assert_eq!((starts.made(), decoded(&m)), (made, 5));
    // Also when the cache of blocks has nothing any more.
    m.fs.limit_cache(0);
    read(13);
    assert_eq!((starts.made(), decoded(&m)), (made, 6));
}

#[test]
fn read_ahead_decodes_nothing_twice_in_a_cache_of_few_blocks() {
    let (mut m, content) = packed(16, 0, options());
    for blocks in [0, 1, 2, 3, 5, 8] {
        m = m.again(true);
        m.fs.limit_cache(blocks * (BLOCK as u64 + 200));
        let fh = m.open("a", RDONLY);
        // As the kernel asks: 8 blocks at a time.
        for at in (0..content.len()).step_by(8 * BLOCK) {
            let read = m.fs.read(fh, at as u64, 8 * BLOCK).unwrap();
            assert!(read == content[at..at + 8 * BLOCK]);
        }
        std::thread::sleep(Duration::from_millis(300));
        assert_eq!(decoded(&m), 16, "with room for {blocks} blocks");
    }
}
