//! Packed files whose blocks start from others: written to, cut, damaged.

use std::os::unix::fs::FileExt;

use super::*;
use crate::segment::Segment;
use crate::store::{KeyRun, SealReport};

/// Blocks that have much in common and nothing that a block could know by itself.
pub(super) fn alike(blocks: usize, seed: u64) -> Vec<u8> {
    let mut x = 0x9e37_79b9_7f4a_7c15u64;
    let mut step = |seed: u64| {
        x = x.wrapping_add(seed).wrapping_mul(0xd129_0df5_9a3c_7f1b);
        x ^ x >> 29
    };
    let pool: Vec<u8> = (0..BLOCK).map(|_| (step(1) >> 40) as u8).collect();
    (0..blocks * BLOCK / 64)
        .flat_map(|_| {
            let at = (step(seed | 1) >> 20) as usize % (BLOCK - 64);
            pool[at..at + 64].to_vec()
        })
        .collect()
}

pub(super) fn pack(m: &Mounted, path: &str, key_blocks: u8) -> SealReport {
    let snapshot = m.fs.snapshot(Path::new(path)).unwrap();
    let temp = m.fs.archive().temp_file().unwrap();
    let profile = m.fs.archive().models().profile("fast").unwrap();
    let options = SealOptions {
        block_size: BLOCK as u32,
        encoding: Encoding::Packed(crate::store::Packing::with(Some(profile))),
        key_run: KeyRun::of(key_blocks),
        primer: None,
        jobs: 2,
        progress: None,
        cancel: None,
    };
    let report = seal(&snapshot, &temp, m.fs.archive().library(), &options).unwrap();
    assert_eq!(
        m.fs.finish_repack(snapshot, temp).unwrap(),
        Outcome::Swapped
    );
    report
}

fn whole(m: &Mounted, path: &str) -> Vec<u8> {
    let fh = m.open(path, RDONLY);
    let bytes = m.fs.read(fh, 0, 1 << 24).unwrap();
    m.fs.release(fh).unwrap();
    bytes
}

fn cut(m: &Mounted, path: &str, size: u64) {
    let id = m.fs.resolve(Path::new(path)).unwrap();
    let set = SetAttr {
        size: Some(size),
        ..SetAttr::default()
    };
    m.fs.setattr(id, None, set).unwrap();
}

#[test]
fn blocks_stay_readable_when_those_they_start_from_are_overwritten_or_cut_off() {
    for key_blocks in [1, 2, 4] {
        let m = Mounted::new();
        let mut content = alike(7, 3);
        m.put("a", &content);
        assert_eq!(pack(&m, "a", key_blocks).started, 6);
        let m = m.again(true);
        let fh = m.open("a", RDWR);
        m.fs.write(fh, 10, b"a part of the first key block")
            .unwrap();
        content[10..39].copy_from_slice(b"a part of the first key block");
        m.fs.write(fh, BLOCK as u64, &data(BLOCK, 9)).unwrap();
        content[BLOCK..2 * BLOCK].copy_from_slice(&data(BLOCK, 9));
        m.fs.fsync(fh, false).unwrap();
        assert!(whole(&m, "a") == content);
        let m = m.again(true);
        assert!(whole(&m, "a") == content, "{key_blocks} key blocks");
        let fh = m.open("a", RDWR);
        cut(&m, "a", 3 * BLOCK as u64 - 5);
        cut(&m, "a", 4 * BLOCK as u64);
        content.truncate(3 * BLOCK - 5);
        content.resize(4 * BLOCK, 0);
        m.fs.fsync(fh, false).unwrap();
        let m = m.again(true);
        assert!(whole(&m, "a") == content, "{key_blocks} key blocks");
        assert_eq!(m.pack("a"), Outcome::Swapped);
        assert!(whole(&m, "a") == content);
        cut(&m, "a", 0);
        let fh = m.open("a", RDWR);
        m.fs.write(fh, 0, b"fresh").unwrap();
        m.fs.fsync(fh, false).unwrap();
        let m = m.again(true);
        assert_eq!(whole(&m, "a"), b"fresh");
    }
}

#[test]
fn a_damaged_key_block_fails_reads_of_what_starts_from_it_with_eio() {
    let m = Mounted::new();
    let content = alike(6, 5);
    m.put("a", &content);
    pack(&m, "a", 2);
    let entries: Vec<_> = {
        let file = std::fs::File::open(m.backing("a.vortex")).unwrap();
        let segment = Segment::open(Arc::new(file)).unwrap();
        segment.entries().map(|e| e.unwrap().1).collect()
    };
    let m = m.again(true);
    let file = std::fs::File::options()
        .read(true)
        .write(true)
        .open(m.backing("a.vortex"))
        .unwrap();
    let mut byte = [0];
    let at = entries[1].offset + 9;
    file.read_exact_at(&mut byte, at).unwrap();
    file.write_all_at(&[byte[0] ^ 0x10], at).unwrap();
    let fh = m.open("a", RDONLY);
    assert!(m.fs.read(fh, 0, BLOCK).unwrap() == content[..BLOCK]);
    for block in 1..6 {
        let error = m.fs.read(fh, block * BLOCK as u64, 1).unwrap_err();
        assert!(error.is_damage(), "{error}");
        assert_eq!(error.errno(), rustix::io::Errno::IO.raw_os_error());
    }
}

#[test]
fn files_with_several_names_keep_their_key_blocks_when_they_are_packed_in_place() {
    let m = Mounted::new();
    let content = alike(5, 7);
    m.put("a", &content);
    pack(&m, "a", 2);
    let before = std::fs::metadata(m.backing("a.vortex")).unwrap().len();
    let snapshot = m.fs.snapshot(Path::new("a")).unwrap();
    let asked = std::sync::atomic::AtomicU64::new(0);
    let encode = |block: &[u8]| {
        asked.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        smaller(block)
    };
    m.fs.repack_in_place(&snapshot, 2, &encode, &|_| {})
        .unwrap();
    drop(snapshot);
    assert_eq!(asked.into_inner(), 3, "all but the key blocks");
    let m = m.again(true);
    assert!(whole(&m, "a") == content);
    let after = std::fs::metadata(m.backing("a.vortex")).unwrap().len();
    assert!(after <= before + 4096, "{before} {after}");
}
