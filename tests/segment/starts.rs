//! Start states: what blocks are coded from stays as long as they need it, and no longer.

use std::collections::BTreeSet;
use std::sync::Arc;

use vortex_fs::codec::{CodecId, Encoded, ModelId};
use vortex_fs::segment::{
    LostBlocks, MAX_START_DEPTH, MemStorage, SealedWriter, Segment, SegmentError, StartEntry,
    Storage, check, salvage,
};

use crate::support::{BS, content, keyed, put, raw, read_back, started, with_model};

fn mem() -> Arc<MemStorage> {
    Arc::new(MemStorage::default())
}

#[test]
fn the_table_reads_back_and_names_the_blocks_own_payloads() {
    let storage = mem();
    keyed(storage.clone());
    let segment = Segment::open(storage.clone()).unwrap();
    let starts: Vec<u16> = segment.entries().map(|e| e.unwrap().1.start).collect();
    assert_eq!(starts, [0, 1, 2, 1, 2, 0, 3]);
    // The last state, which no block starts from, is left out.
    assert_eq!(segment.starts().len(), 3);
    for (number, block) in [(1, 0), (2, 1)] {
        let Some(StartEntry::Block { parent, payload }) = segment.starts().get(number) else {
            panic!("state {number} is made of a block");
        };
        assert_eq!(*parent, number - 1);
        assert_eq!(Some(*payload), segment.entry(block).unwrap());
        assert!(segment.is_key(payload));
    }
    assert!(segment.starts().get(0).is_none() && segment.starts().get(4).is_none());
    let report = check(storage, |_, _, _| Ok(())).unwrap();
    assert_eq!((report.blocks, report.findings.len()), (7, 0));
}

#[test]
fn key_payloads_outlive_their_blocks_and_go_with_the_last_block() {
    let storage = mem();
    keyed(storage.clone());
    let mut segment = Segment::open(storage.clone()).unwrap();
    segment.make_live().unwrap();
    let before = segment.live_bytes();
    let (key, small) = (6000, 9);
    put(&mut segment, 0, b"new").unwrap();
    assert_eq!(
        segment.live_bytes(),
        before + 3,
        "the old payload is needed"
    );
    segment.set_entry(2, None).unwrap();
    assert_eq!(segment.live_bytes(), before + 3 - small);
    segment.commit().unwrap();
    put(&mut segment, 0, b"newer").unwrap();
    segment.commit().unwrap();
    let again = Segment::open(storage.clone()).unwrap();
    assert_eq!(content(&again).unwrap().blocks[&4], [4; 9]);
    assert_eq!(again.starts().len(), 3);
    let report = check(storage.clone(), |_, _, _| Ok(())).unwrap();
    assert!(report.findings.is_empty(), "{report:?}");

    segment.set_logical_size(0).unwrap();
    segment.commit().unwrap();
    assert!(segment.starts().is_empty());
    let empty = segment.live_bytes();
    assert!(before > empty + key, "{before} {empty}");
    assert_eq!(
        storage.to_vec()[40..40 + 4096 / 2],
        [5; 2048],
        "not a whole unit"
    );
    assert!(
        storage.to_vec()[4096..6000]
            .iter()
            .all(|&b| b == 0 || b == 5)
    );
    let again = Segment::open(storage.clone()).unwrap();
    assert!(again.starts().is_empty() && again.live_bytes() == empty);
    put(&mut segment, 0, b"fresh").unwrap();
    segment.set_logical_size(5).unwrap();
    segment.commit().unwrap();
    assert_eq!(read_back(storage.clone()).unwrap().blocks[&0], b"fresh");
    let report = check(storage, |_, _, _| Ok(())).unwrap();
    assert!(report.findings.is_empty(), "{report:?}");
}

#[test]
fn a_damaged_key_payload_fails_its_dependents_only_and_check_names_it() {
    let storage = mem();
    keyed(storage.clone());
    let mut segment = Segment::open(storage.clone()).unwrap();
    segment.make_live().unwrap();
    put(&mut segment, 0, b"new").unwrap();
    segment.commit().unwrap();
    let mut bytes = storage.to_vec();
    bytes[50] ^= 1;
    let storage = Arc::new(MemStorage::new(bytes));
    let segment = Segment::open(storage.clone()).unwrap();
    let reads = |block| {
        let entry = segment.entry(block).unwrap().unwrap();
        crate::support::read_starts(&segment, &entry).is_ok()
    };
    assert_eq!((0..7).filter(|&b| reads(b)).collect::<Vec<_>>(), [0, 5, 6]);
    let report = check(storage, |_, _, _| Ok(())).unwrap();
    assert_eq!(report.findings.len(), 1, "{report:?}");
    assert_eq!(report.findings[0].range, 40..6040);
    assert!(!report.is_sound());
}

/// Only the first block of a run may need a model; a copy of the segment names it, too, also if no block is that payload any more.
#[test]
fn the_first_block_of_a_state_may_need_a_model_and_a_copy_names_it() {
    let storage = mem();
    let mut writer = SealedWriter::new(storage.clone(), BS).unwrap();
    let taught = Encoded {
        codec: CodecId::Neural,
        ..with_model(&[5; 6000], 7)
    };
    let first = writer.push(0, &taught).unwrap();
    let one = writer.add_start(0, &first).unwrap();
    let second = writer.push_from(1, &started(b"second"), one).unwrap();
    let two = writer.add_start(one, &second).unwrap();
    writer.push_from(2, &started(b"third"), two).unwrap();
    writer.finish(2 * u64::from(BS) + 5).unwrap();

    let model = ModelId([7; 16]);
    let mut segment = Segment::open(storage.clone()).unwrap();
    assert_eq!(segment.models(), [model]);
    segment.make_live().unwrap();
    put(&mut segment, 0, b"new").unwrap();
    segment.commit().unwrap();
    let segment = Segment::open(storage).unwrap();
    let copied = mem();
    let writer = SealedWriter::new(copied.clone(), BS).unwrap();
    salvage(&segment, &BTreeSet::new(), LostBlocks::Marked, writer).unwrap();
    for segment in [segment, Segment::open(copied.clone()).unwrap()] {
        assert_eq!(segment.models(), [model]);
        let Some(StartEntry::Block { parent: 0, payload }) = segment.starts().get(1) else {
            panic!("the first state is made of a block");
        };
        assert_eq!(payload.model, Some(model));
        assert_eq!(segment.read_payload(payload).unwrap(), [5; 6000]);
        assert_eq!(segment.entry(2).unwrap().unwrap().start, 2);
    }
    let report = check(copied, |_, _, _| Ok(())).unwrap();
    assert!(report.findings.is_empty(), "{report:?}");
}

#[test]
fn what_can_not_be_a_start_state_is_refused() {
    let refused = |result: Result<_, SegmentError>| {
        assert!(matches!(result.map(drop), Err(SegmentError::Refused(_))));
    };
    let mut writer = SealedWriter::new(mem(), BS).unwrap();
    refused(writer.push(0, &started(b"no state")));
    refused(writer.push_from(0, &started(b"no such state"), 1));
    let zstd = Encoded {
        codec: CodecId::Zstd,
        ..started(b"not neural")
    };
    let first = writer.push(0, &raw(b"first")).unwrap();
    let one = writer.add_start(0, &first).unwrap();
    refused(writer.push_from(1, &zstd, one));
    let needs_model = writer.push(1, &with_model(b"model", 3)).unwrap();
    refused(writer.add_start(one, &needs_model).map(|_| first));
    let second = writer.push_from(2, &started(b"second"), one).unwrap();
    refused(writer.add_start(0, &second).map(|_| first));
    refused(writer.add_start(7, &first).map(|_| first));
    let mut last = one;
    for _ in 1..MAX_START_DEPTH {
        last = writer.add_start(last, &first).unwrap();
    }
    refused(writer.add_start(last, &first).map(|_| first));

    let storage = mem();
    keyed(storage.clone());
    let mut segment = Segment::open(storage.clone()).unwrap();
    segment.make_live().unwrap();
    refused(segment.append(&started(b"from a state")));
    let entry = segment.entry(4).unwrap().unwrap();
    segment.set_logical_size(0).unwrap();
    segment.commit().unwrap();
    refused(segment.set_entry(4, Some(entry)).map(|()| first));
    assert!(storage.len().unwrap() > 0);
}
