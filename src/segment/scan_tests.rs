use std::sync::Arc;

use super::*;
use crate::codec::{CodecId, Encoded, ModelId, encode_fresh};
use crate::segment::{MemStorage, SealedWriter, Segment};

/// A sealed segment with so many blocks, every `apart`-th of all; their content depends on `seed`.
fn sealed(block_size: u32, blocks: u64, apart: u64, seed: u64) -> MemStorage {
    let storage = Arc::new(MemStorage::default());
    let mut writer = SealedWriter::new(storage.clone(), block_size).unwrap();
    for block in 0..blocks {
        let content = (block + (seed << 32)).to_le_bytes();
        writer.push(block * apart, &encode_fresh(&content)).unwrap();
    }
    writer
        .finish(blocks * apart * u64::from(block_size))
        .unwrap();
    MemStorage::new(storage.to_vec())
}

/// The places in `tail` from which a whole index seems to begin, each with the number of its pages.
fn whole(tail: &Tail, storage: &dyn Storage, sizes: &[u32]) -> Vec<(u32, usize)> {
    let mut places = Vec::new();
    for at in 0..tail.bytes.len() {
        let list = tail.list_after(at, &mut { TABLES });
        if let Some(list) = list
            && let Some(pages) = tail.pages_from(list)
            && let Verdict::Whole(_) = tail.confirm(storage, at..list, sizes, &mut { u64::MAX })
        {
            places.push((pages, at));
        }
    }
    places
}

#[test]
fn the_longest_of_several_indexes_is_taken() {
    const PAGES: u64 = 1500;
    let sizes = [MIN_BLOCK];
    // What pages hash to decides whether a part of the directory looks like a whole one.
    let (storage, tail, places) = (0..20)
        .find_map(|seed| {
            let storage = sealed(MIN_BLOCK, PAGES, 1024, seed);
            let tail = Tail::read(&storage).unwrap();
            let places = whole(&tail, &storage, &sizes);
            let part = |place: &(u32, usize)| u64::from(place.0) < PAGES;
            places.iter().any(part).then_some((storage, tail, places))
        })
        .expect("a part that looks like a whole index");
    let right = *places.iter().max().unwrap();
    assert_eq!(u64::from(right.0), PAGES);
    let found = find_index(&storage);
    let smallest = found.first().expect("it is found");
    let Body::Sealed {
        logical_size,
        directory,
        ..
    } = smallest.header.body
    else {
        panic!("a live segment was found");
    };
    assert_eq!(directory.offset, tail.offset + right.1 as u64);
    assert_eq!(smallest.header.block_size, MIN_BLOCK);
    assert_eq!(logical_size, (PAGES - 1) * 1024 * u64::from(MIN_BLOCK) + 8);
}

#[test]
fn a_damaged_page_leaves_no_part_of_an_index_to_be_taken_for_the_whole() {
    const PAGES: u64 = 1500;
    for seed in 0..4 {
        let storage = sealed(MIN_BLOCK, PAGES, 1024, seed);
        let segment = Segment::open(Arc::new(MemStorage::new(storage.to_vec()))).unwrap();
        for nth in [1, 0, 2] {
            let page = segment.directory.pages.values().nth(nth).unwrap();
            storage.write_all_at(&[0; 17], page.offset).unwrap();
            assert!(find_index(&storage).is_empty(), "seed {seed}, {nth}");
        }
    }
}

#[test]
fn the_index_of_a_file_of_40_gib_is_found_where_its_beginning_is_zeros() {
    // More bytes of pages than may be read in vain.
    const BLOCKS: u64 = 640 << 10;
    let storage = sealed(64 << 10, BLOCKS, 1, 0);
    let whole = Segment::open(Arc::new(MemStorage::new(storage.to_vec()))).unwrap();
    let pages: u64 = whole
        .directory
        .pages
        .values()
        .map(|p| u64::from(p.len))
        .sum();
    assert!(pages > 8 << 20, "{pages}");
    storage.write_all_at(&[0; 1600], 0).unwrap();
    assert!(lost_its_beginning(&storage).unwrap());
    assert!(Segment::open(Arc::new(MemStorage::new(storage.to_vec()))).is_err());
    let found = find_index(&storage);
    let sizes: Vec<_> = found.iter().map(|f| f.header.block_size).collect();
    assert!(sizes.contains(&(64 << 10)), "{sizes:?}");
}

#[test]
fn a_directory_of_more_than_256_kib_is_found() {
    const PAGES: u64 = 32_000;
    let storage = sealed(MAX_BLOCK, PAGES, 1024, 0);
    let whole = Segment::open(Arc::new(MemStorage::new(storage.to_vec()))).unwrap();
    storage.write_all_at(&[0; 40], 0).unwrap();
    let found = find_index(&storage);
    let last = found.last().expect("it is found");
    assert_eq!(last.header.block_size, MAX_BLOCK);
    let Body::Sealed { directory, .. } = last.header.body else {
        panic!("a live segment was found");
    };
    assert!(directory.len > 256 << 10, "{directory:?}");
    assert_eq!(whole.directory.pages.len() as u64, PAGES);
}

/// Tables of thousands of states are found, though from many places in their midst something like a table begins.
#[test]
fn an_index_with_many_start_states_is_found() {
    const STATES: u64 = 20_000;
    let storage = Arc::new(MemStorage::default());
    let mut writer = SealedWriter::new(storage.clone(), MIN_BLOCK).unwrap();
    let mut state = 0;
    for n in 0..STATES {
        let data = n.wrapping_mul(0x9e37_79b9_7f4a_7c15).to_le_bytes();
        let first = n % 16 == 0;
        let block = Encoded {
            model: first.then_some(ModelId([7; 16])),
            ..encode_fresh(&data)
        };
        let entry = writer.push(n, &block).unwrap();
        let parent = if first { 0 } else { state };
        state = writer.add_start(parent, &entry).unwrap();
    }
    let last = Encoded {
        codec: CodecId::Neural,
        started: true,
        payload: vec![1, 2, 3],
        ..encode_fresh(b"something")
    };
    writer.push_from(STATES, &last, state).unwrap();
    writer.finish((STATES + 1) * u64::from(MIN_BLOCK)).unwrap();
    let found = find_index(&MemStorage::new(storage.to_vec()));
    assert!(found.iter().any(|f| f.header.block_size == MIN_BLOCK));
    assert!(found.iter().all(|f| f.was_packed));
}
