//! Sealing with start states and reading through them.

use std::fs::File;
use std::os::fd::AsFd;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;

use super::*;
use crate::codec::{Effort, Start};
use crate::segment::{Segment, StartEntry, Storage};

const BLOCK: usize = 1 << 14;

/// Blocks that have much in common and nothing that a block could know by itself.
pub(crate) fn alike(len: usize, seed: u64) -> Vec<u8> {
    let mut x = 0x9e37_79b9_7f4a_7c15u64;
    let mut step = |seed: u64| {
        x = x.wrapping_add(seed).wrapping_mul(0xd129_0df5_9a3c_7f1b);
        x ^ x >> 29
    };
    let pool: Vec<u8> = (0..16_000).map(|_| (step(1) >> 40) as u8).collect();
    let mut out = Vec::with_capacity(len + 64);
    while out.len() < len {
        let at = (step(seed | 1) >> 20) as usize % (pool.len() - 64);
        out.extend(&pool[at..at + 64]);
    }
    out.truncate(len);
    out
}

fn profile() -> Profile {
    ModelStore::new(None).profile("fast").unwrap()
}

fn options(key_run: KeyRun) -> SealOptions<'static> {
    SealOptions {
        block_size: BLOCK as u32,
        encoding: Encoding::Packed(Packing::with(Some(profile()))),
        key_run,
        primer: None,
        jobs: 2,
        progress: None,
        cancel: None,
    }
}

fn sealed(
    dir: &Path,
    data: &[u8],
    library: &Library,
    options: &SealOptions<'_>,
) -> (TempFile, SealReport) {
    let path = dir.join("source");
    std::fs::write(&path, data).unwrap();
    let source = PlainFile::new(Arc::new(File::open(&path).unwrap()), &path).unwrap();
    let temp = TempFile::create_in(File::open(dir).unwrap().as_fd(), "t").unwrap();
    let report = seal(&source, &temp, library, options).unwrap();
    (temp, report)
}

fn bytes_of(temp: &TempFile) -> Vec<u8> {
    let mut bytes = vec![0; temp.file().metadata().unwrap().len() as usize];
    temp.file().read_exact_at(&mut bytes, 0).unwrap();
    bytes
}

fn read_all(temp: &TempFile, library: &Library) -> Result<Vec<u8>, StoreError> {
    let reader = SegmentReader::from_file(Arc::clone(temp.file()), Path::new("t"), library)?;
    let mut data = vec![0; reader.len() as usize];
    reader.read_at(&mut data, 0)?;
    Ok(data)
}

#[test]
fn a_dense_profile_makes_long_key_runs_and_smaller_files() {
    let dir = tempfile::tempdir().unwrap();
    let data = alike(20 * BLOCK, 5);
    let with = |effort| {
        let library = Library::default();
        let packing = Packing {
            effort,
            ..Packing::with(Some(profile()))
        };
        let options = SealOptions {
            encoding: Encoding::Packed(packing),
            ..options(KeyRun::usual(effort))
        };
        let (temp, report) = sealed(dir.path(), &data, &library, &options);
        assert!(read_all(&temp, &library).unwrap() == data);
        let segment = Segment::open(Arc::clone(temp.file()) as Arc<dyn Storage>).unwrap();
        (segment.starts().len(), report.stored)
    };
    assert_eq!(profile().effort(), Effort::Usual);
    let (usual, dense) = (with(Effort::Usual), with(Effort::Dense));
    assert_eq!((usual.0, dense.0), (4, 16));
    assert!(dense.1 < usual.1, "{dense:?} {usual:?}");
}

#[test]
fn files_of_any_length_read_back_with_any_number_of_key_blocks() {
    let dir = tempfile::tempdir().unwrap();
    for blocks in [0, 1, 3, 4, 16] {
        let long = if blocks < 4 { 3 } else { 18 };
        for len in [0, 1, BLOCK, BLOCK + 300, long * BLOCK + 777] {
            let group = if blocks < 8 { 8 } else { 32 };
            let run = KeyRun { blocks, group };
            let data = alike(len, 3);
            let (temp, report) = sealed(dir.path(), &data, &Library::default(), &options(run));
            assert!(
                read_all(&temp, &Library::default()).unwrap() == data,
                "{len} {run:?}"
            );
            let segment = Segment::open(Arc::clone(temp.file()) as _).unwrap();
            let entries: Vec<_> = segment.entries().map(|e| e.unwrap()).collect();
            let started = entries.iter().filter(|(_, e)| e.start != 0).count();
            assert_eq!(report.started, started as u64);
            if blocks == 0 || len <= BLOCK {
                assert!(started == 0 && segment.starts().is_empty());
                continue;
            }
            // All but the first of each group.
            assert_eq!(
                started,
                entries.len() - entries.len().div_ceil(group as usize),
                "{len} {run:?}"
            );
            let run = usize::from(blocks).min(entries.len() - 1);
            let last = entries[entries.len().min(group as usize) - 1].1.start;
            assert_eq!(usize::from(last), run);
            let path = dir.path().join("segment");
            std::fs::write(&path, bytes_of(&temp)).unwrap();
            let report =
                verify_segment(&path, &Library::default(), Depth::Content, &|_| {}).unwrap();
            assert_eq!(report.findings, []);
        }
    }
}

#[test]
fn segments_with_start_states_are_the_same_whatever_the_number_of_threads() {
    let dir = tempfile::tempdir().unwrap();
    let data = alike(21 * BLOCK, 5);
    let run = KeyRun {
        blocks: 2,
        group: 8,
    };
    let with = |jobs| {
        let options = SealOptions {
            jobs,
            ..options(run)
        };
        bytes_of(&sealed(dir.path(), &data, &Library::default(), &options).0)
    };
    assert!(with(1) == with(3));
}

#[test]
fn a_new_key_run_begins_where_the_data_become_others() {
    let dir = tempfile::tempdir().unwrap();
    let first = alike(10 * BLOCK, 3);
    let second: Vec<u8> = alike(20 * BLOCK, 9).iter().map(|b| b ^ 0xa5).collect();
    let starts = |data: &[u8]| {
        let run = options(KeyRun::of(2));
        let (temp, _) = sealed(dir.path(), data, &Library::default(), &run);
        assert!(read_all(&temp, &Library::default()).unwrap() == data);
        let segment = Segment::open(Arc::clone(temp.file()) as _).unwrap();
        let last = segment.entry(29).unwrap().unwrap().start;
        (segment.starts().len(), last)
    };
    assert_eq!(starts(&[&first[..], &second].concat()), (4, 4));
    assert_eq!(starts(&alike(30 * BLOCK, 3)), (2, 2));
}

#[test]
fn a_cold_block_among_others_and_holes_in_the_key_run_read_back() {
    let dir = tempfile::tempdir().unwrap();
    let mut data = alike(12 * BLOCK, 5);
    data[..2 * BLOCK].fill(0);
    data[4 * BLOCK..5 * BLOCK].fill(0);
    data[7 * BLOCK..8 * BLOCK].fill(b'x');
    let (temp, report) = sealed(
        dir.path(),
        &data,
        &Library::default(),
        &options(KeyRun::of(3)),
    );
    assert!(read_all(&temp, &Library::default()).unwrap() == data);
    assert_eq!(report.holes, 3);
    let segment = Segment::open(Arc::clone(temp.file()) as _).unwrap();
    let start = |block| segment.entry(block).unwrap().unwrap().start;
    assert_eq!([2, 3, 5, 6, 8, 11].map(start), [0, 1, 2, 3, 3, 3]);
}

#[test]
fn a_damaged_key_block_costs_what_starts_from_it_and_verify_names_all_of_that() {
    let dir = tempfile::tempdir().unwrap();
    let data = alike(12 * BLOCK, 7);
    let run = KeyRun {
        blocks: 2,
        group: 6,
    };
    let (temp, _) = sealed(dir.path(), &data, &Library::default(), &options(run));
    let segment = Segment::open(Arc::clone(temp.file()) as _).unwrap();
    let second = segment.entry(1).unwrap().unwrap();
    let mut bytes = bytes_of(&temp);
    bytes[second.offset as usize + 3] ^= 1;
    let path = dir.path().join("damaged");
    std::fs::write(&path, bytes).unwrap();
    let library = Library::default();
    let reader = SegmentReader::open(&path, &library).unwrap();
    for block in 0..12u64 {
        let range = block as usize * BLOCK..(block as usize + 1) * BLOCK;
        match reader.read_block(block) {
            Ok(got) => assert!(got == data[range] && (block == 0 || block >= 6), "{block}"),
            Err(StoreError::Start { block: named, .. }) => {
                assert!(named == block && (2..6).contains(&block));
            }
            Err(e) => assert!(e.is_damage() && block == 1, "{block}: {e}"),
        }
    }
    let report = verify_segment(&path, &library, Depth::Content, &|_| {}).unwrap();
    let lost: Vec<u64> = report.findings.iter().map(|f| f.blocks.start).collect();
    assert_eq!(lost, [1, 2, 3, 4, 5]);
}

#[test]
fn every_changed_byte_of_a_segment_with_start_states_is_found() {
    let dir = tempfile::tempdir().unwrap();
    let mut data = alike(3 * BLOCK, 9);
    // Short payloads make a short test.
    let head = data[..300].to_vec();
    for block in data.chunks_mut(BLOCK) {
        block[..300].copy_from_slice(&head);
        block[300..].fill(7);
    }
    let (temp, report) = sealed(
        dir.path(),
        &data,
        &Library::default(),
        &options(KeyRun::of(1)),
    );
    assert_eq!(report.started, 2);
    let good = bytes_of(&temp);
    let path = dir.path().join("damaged");
    for at in 0..good.len() {
        let mut bytes = good.clone();
        bytes[at] ^= 0x10;
        std::fs::write(&path, bytes).unwrap();
        let report = verify_segment(&path, &Library::default(), Depth::Content, &|_| {}).unwrap();
        assert!(!report.is_sound(), "byte {at} of {}", good.len());
    }
}

#[test]
fn many_readers_of_one_group_share_its_states_within_the_bound() {
    let dir = tempfile::tempdir().unwrap();
    let data = alike(10 * BLOCK, 11);
    let library = Library::default();
    let sealing = options(KeyRun::default());
    let (temp, _) = sealed(dir.path(), &data, &Library::default(), &sealing);
    let segment = Segment::open(Arc::clone(temp.file()) as _).unwrap();
    std::thread::scope(|s| {
        for block in (0..10u64).rev() {
            let (segment, library, data) = (&segment, &library, &data);
            s.spawn(move || {
                let entry = segment.entry(block).unwrap().unwrap();
                let got = decode_entry(segment, block, &entry, library).unwrap();
                assert!(got == data[block as usize * BLOCK..][..BLOCK]);
            });
        }
    });
    let held = library.starts().bytes();
    let largest = Start::then(None, &data[..4 * BLOCK], None).memory();
    assert!(held > 3 * largest && held <= 4 * largest, "{held}");
    assert!(4 * largest <= DEFAULT_START_BYTES);
}

#[test]
fn blocks_that_start_from_a_primer_need_it_and_find_it_in_the_archive() {
    let dir = tempfile::tempdir().unwrap();
    Archive::init(dir.path()).unwrap();
    let archive = Archive::open(dir.path(), Access::Write).unwrap();
    let library = archive.library();
    let id = library.primers().add(&alike(40_000, 1)).unwrap();
    let options = SealOptions {
        primer: Some(Primer {
            id,
            state: library.primed(id).unwrap(),
        }),
        ..options(KeyRun::default())
    };
    let data = alike(3 * BLOCK + 500, 13);
    let (temp, report) = sealed(dir.path(), &data, library, &options);
    assert_eq!(report.started, 4);
    let segment = Segment::open(Arc::clone(temp.file()) as _).unwrap();
    assert_eq!(segment.starts().entries(), [StartEntry::Primer(id)]);
    let error = read_all(&temp, &Library::default()).unwrap_err();
    assert!(
        matches!(error, StoreError::MissingPrimer(found) if found == id),
        "{error}"
    );
    assert!(!error.is_damage());
    drop(archive);
    let archive = Archive::open(dir.path(), Access::Read).unwrap();
    assert!(read_all(&temp, archive.library()).unwrap() == data);
    let given = Library::default();
    given.primers().offer(&alike(40_000, 1));
    assert!(read_all(&temp, &given).unwrap() == data);
}
