//! Random operations on a segment and on a plain model of a file give the same content, before and after opening again.

use std::sync::Arc;

use proptest::prelude::*;
use vortex_fs::segment::{MemStorage, SealedWriter, Segment, check};

use crate::support::{BS, Content, content, put, raw};

#[derive(Debug, Clone)]
enum Op {
    Write { block: u64, len: u32, fill: u8 },
    Hole { block: u64 },
    Resize { size: u64 },
    Commit,
    Reopen,
    SealAndMakeLive,
}

fn op() -> impl Strategy<Value = Op> {
    // Blocks around the border of two index pages.
    let block = prop_oneof![0..4u64, 1022..1026u64];
    let size = (block.clone(), 0..=BS).prop_map(|(b, n)| b * u64::from(BS) + u64::from(n));
    prop_oneof![
        6 => (block.clone(), 1..300u32, 1..=255u8).prop_map(|(block, len, fill)| Op::Write { block, len, fill }),
        1 => (block.clone(), Just(BS), 1..=255u8).prop_map(|(block, len, fill)| Op::Write { block, len, fill }),
        2 => block.prop_map(|block| Op::Hole { block }),
        3 => size.prop_map(|size| Op::Resize { size }),
        3 => Just(Op::Commit),
        1 => Just(Op::Reopen),
        1 => Just(Op::SealAndMakeLive),
    ]
}

fn resize(model: &mut Content, size: u64) {
    model.size = size;
    model.blocks.retain(|&block, bytes| {
        let room = size.saturating_sub(block * u64::from(BS));
        bytes.truncate(usize::try_from(room).unwrap_or(usize::MAX));
        !bytes.is_empty()
    });
}

/// Copies all blocks as they are to a sealed segment.
fn seal(segment: &Segment) -> Arc<MemStorage> {
    let storage = Arc::new(MemStorage::default());
    let mut writer = SealedWriter::new(storage.clone(), BS).unwrap();
    for found in segment.entries() {
        let (block, entry) = found.unwrap();
        writer
            .copy(block, &entry, &segment.read_payload(&entry).unwrap())
            .unwrap();
    }
    writer.finish(segment.logical_size()).unwrap();
    storage
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]
    #[test]
    fn a_segment_holds_what_a_plain_file_would(ops in proptest::collection::vec(op(), 1..40)) {
        let mut storage = Arc::new(MemStorage::default());
        let mut segment = Segment::create(storage.clone(), BS).unwrap();
        let (mut now, mut durable) = (Content::default(), Content::default());
        for op in ops {
            match op {
                Op::Write { block, len, fill } => {
                    let bytes = vec![fill; len as usize];
                    put(&mut segment, block, &bytes).unwrap();
                    now.blocks.insert(block, bytes);
                    let size = now.size.max(block * u64::from(BS) + u64::from(len));
                    segment.set_logical_size(size).unwrap();
                    now.size = size;
                }
                Op::Hole { block } => {
                    segment.set_entry(block, None).unwrap();
                    now.blocks.remove(&block);
                }
                Op::Resize { size } => {
                    segment.set_logical_size(size).unwrap();
                    resize(&mut now, size);
                }
                Op::Commit => {
                    segment.commit().unwrap();
                    durable = now.clone();
                }
                Op::Reopen => {
                    segment = Segment::open_or_create(storage.clone(), BS).unwrap();
                    now = durable.clone();
                }
                Op::SealAndMakeLive => {
                    segment.commit().unwrap();
                    storage = seal(&segment);
                    segment = Segment::open(storage.clone()).unwrap();
                    prop_assert_eq!(content(&segment).unwrap(), now.clone());
                    segment.make_live().unwrap();
                    durable = now.clone();
                }
            }
            prop_assert_eq!(content(&segment).unwrap(), now.clone());
            let blocks: Vec<u64> = segment.entries().map(|e| e.unwrap().0).collect();
            prop_assert_eq!(segment.next_data(2).unwrap(), blocks.iter().copied().find(|&b| b >= 2));
            prop_assert_eq!(segment.next_hole(1022).unwrap(), (1022..).find(|b| !blocks.contains(b)).unwrap());
        }
        segment.commit().unwrap();
        let report = check(storage.clone(), |_, _, _| Ok(())).unwrap();
        // Appends to a file that never saw a commit are worth a note, and only that.
        prop_assert!(report.findings.is_empty() || segment.summary().generation == 0, "{:?}", report);
        prop_assert!(report.is_sound(), "{:?}", report);
        prop_assert_eq!(report.blocks, now.blocks.len() as u64);
        let again = Segment::open(storage).unwrap();
        prop_assert_eq!(again.live_bytes(), segment.live_bytes());
    }
}

#[test]
fn sealing_a_compressed_block_again_keeps_its_cut() {
    let storage = Arc::new(MemStorage::default());
    let mut segment = Segment::create(storage, BS).unwrap();
    let entry = segment.append(&raw(b"0123456789")).unwrap();
    segment.set_entry(0, Some(entry)).unwrap();
    segment.set_logical_size(10).unwrap();
    segment.set_logical_size(4).unwrap();
    let again = Segment::open(seal(&segment)).unwrap();
    assert_eq!(content(&again).unwrap().blocks[&0], b"0123");
    assert_eq!(again.entry(0).unwrap().unwrap().decoded_len, 10);
}
