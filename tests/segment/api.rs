//! What writing and reading a segment does when nothing goes wrong.

use std::sync::Arc;

use vortex_fs::segment::{
    DEFAULT_BLOCK, Form, MemStorage, SealedWriter, Segment, SegmentError, Storage, check, peek,
};

use crate::support::{BS, content, of, put, raw, read_back, with_model};

fn mem() -> Arc<MemStorage> {
    Arc::new(MemStorage::default())
}

#[test]
fn an_empty_file_is_an_empty_segment_and_creating_writes_nothing() {
    let storage = mem();
    assert_eq!(peek(&*storage).unwrap().logical_size, 0);
    let mut segment = Segment::open(storage.clone()).unwrap();
    assert_eq!(
        (segment.logical_size(), segment.block_size(), segment.form()),
        (0, DEFAULT_BLOCK, Form::Live)
    );
    segment.commit().unwrap();
    Segment::create(storage.clone(), BS)
        .unwrap()
        .commit()
        .unwrap();
    assert!(storage.is_empty().unwrap());
    assert!(
        check(storage, |_, _, _| Ok(()))
            .unwrap()
            .findings
            .is_empty()
    );
}

#[test]
fn committed_content_is_there_after_opening_again() {
    let storage = mem();
    let mut segment = Segment::create(storage.clone(), BS).unwrap();
    put(&mut segment, 0, b"hello").unwrap();
    put(&mut segment, 2000, b"far").unwrap();
    let size = 2000 * u64::from(BS) + 3;
    segment.set_logical_size(size).unwrap();
    assert!(segment.is_dirty());
    segment.commit().unwrap();
    assert!(!segment.is_dirty());
    let want = content(&segment).unwrap();
    assert_eq!(
        (want.size, &want.blocks[&0][..], &want.blocks[&2000][..]),
        (size, &b"hello"[..], &b"far"[..])
    );

    let again = Segment::open(storage.clone()).unwrap();
    assert_eq!(content(&again).unwrap(), want);
    assert_eq!(
        (again.next_data(1).unwrap(), again.next_data(2001).unwrap()),
        (Some(2000), None)
    );
    assert_eq!(
        (again.next_hole(0).unwrap(), again.next_hole(2000).unwrap()),
        (1, 2001)
    );
    assert_eq!(again.summary(), peek(&*storage).unwrap());
    assert_eq!(again.live_bytes(), storage.len().unwrap());
    assert!(Segment::create(storage, BS).is_err());
}

#[test]
fn what_was_not_committed_is_not_there_after_opening_again() {
    let storage = mem();
    let mut segment = Segment::create(storage.clone(), BS).unwrap();
    put(&mut segment, 0, b"one").unwrap();
    segment.set_logical_size(3).unwrap();
    segment.commit().unwrap();
    put(&mut segment, 0, b"two").unwrap();
    assert_eq!(content(&segment).unwrap(), of(b"two"));
    assert_eq!(read_back(storage).unwrap(), of(b"one"));
}

#[test]
fn appends_after_opening_go_behind_whatever_the_file_holds_and_begin_a_block() {
    let storage = mem();
    let mut segment = Segment::create(storage.clone(), BS).unwrap();
    put(&mut segment, 0, b"one").unwrap();
    segment.set_logical_size(3).unwrap();
    segment.commit().unwrap();
    put(&mut segment, 0, b"never committed").unwrap();
    let end = storage.len().unwrap();
    let entry = Segment::open(storage)
        .unwrap()
        .append(&raw(b"two"))
        .unwrap();
    assert_eq!(entry.offset, end.next_multiple_of(4096));
}

#[test]
fn content_beyond_a_cut_reads_as_zeros_when_the_file_grows_again() {
    let storage = mem();
    let mut segment = Segment::create(storage.clone(), BS).unwrap();
    for block in 0..3 {
        put(&mut segment, block, &[7; BS as usize]).unwrap();
    }
    let bs = u64::from(BS);
    segment.set_logical_size(3 * bs).unwrap();
    segment.commit().unwrap();
    segment.set_logical_size(bs + 5).unwrap();
    segment.set_logical_size(3 * bs).unwrap();
    let mut want = vec![7; BS as usize + 5];
    want.resize(3 * BS as usize, 0);
    assert_eq!(content(&segment).unwrap(), of(&want));
    segment.commit().unwrap();
    assert_eq!(read_back(storage.clone()).unwrap(), of(&want));
    segment.set_logical_size(0).unwrap();
    segment.commit().unwrap();
    assert_eq!(read_back(storage).unwrap(), of(b""));
}

#[test]
fn a_block_set_beyond_the_logical_size_is_cut_by_the_commit() {
    let storage = mem();
    let mut segment = Segment::create(storage.clone(), BS).unwrap();
    put(&mut segment, 0, &[1; 100]).unwrap();
    put(&mut segment, 5, &[2; 100]).unwrap();
    segment.set_logical_size(10).unwrap();
    segment.commit().unwrap();
    segment.set_logical_size(200).unwrap();
    segment.commit().unwrap();
    let mut want = vec![1; 10];
    want.resize(200, 0);
    assert_eq!(read_back(storage).unwrap(), of(&want));
}

#[test]
fn a_sealed_file_of_one_block_costs_less_than_100_bytes() {
    for size in [BS as usize, 1, 777] {
        let storage = mem();
        let mut writer = SealedWriter::new(storage.clone(), BS).unwrap();
        writer.push(0, &with_model(&vec![3; size], 9)).unwrap();
        let summary = writer.finish(size as u64).unwrap();
        let cost = storage.len().unwrap() - size as u64;
        assert!(cost < 100, "{cost} bytes beyond a payload of {size}");
        assert_eq!(peek(&*storage).unwrap(), summary);
        assert_eq!(read_back(storage).unwrap(), of(&vec![3; size]));
    }
}

#[test]
fn a_sealed_segment_reads_back_over_several_pages_with_holes() {
    let storage = mem();
    let mut writer = SealedWriter::new(storage.clone(), BS).unwrap();
    let blocks = [0u64, 1, 1023, 1024, 1025, 5000];
    for block in blocks {
        writer
            .push(
                block,
                &with_model(&block.to_le_bytes(), (block % 7) as u8 + 1),
            )
            .unwrap();
    }
    assert!(writer.push(5000, &raw(b"again")).is_err());
    let size = 5001 * u64::from(BS);
    writer.finish(size).unwrap();
    let segment = Segment::open(storage.clone()).unwrap();
    assert_eq!(
        (segment.form(), segment.logical_size()),
        (Form::Sealed, size)
    );
    let found: Vec<u64> = segment.entries().map(|e| e.unwrap().0).collect();
    assert_eq!(found, blocks);
    for block in blocks {
        let entry = segment.entry(block).unwrap().unwrap();
        assert_eq!(segment.read_payload(&entry).unwrap(), block.to_le_bytes());
        assert_eq!(entry.model.unwrap().0, [(block % 7) as u8 + 1; 16]);
    }
    assert_eq!(
        (segment.entry(2).unwrap(), segment.entry(u64::MAX).unwrap()),
        (None, None)
    );
    assert_eq!(segment.next_hole(1023).unwrap(), 1026);
    let report = check(storage, |_, _, _| Ok(())).unwrap();
    assert_eq!((report.blocks, report.findings.len()), (6, 0));
}

#[test]
fn a_sealed_segment_takes_writes_after_it_was_made_live_and_keeps_its_payloads() {
    let storage = mem();
    let mut writer = SealedWriter::new(storage.clone(), BS).unwrap();
    writer.push(0, &raw(&[1; BS as usize])).unwrap();
    writer.push(1, &with_model(b"tail", 4)).unwrap();
    writer.finish(u64::from(BS) + 4).unwrap();
    let mut segment = Segment::open(storage.clone()).unwrap();
    assert!(matches!(
        segment.append(&raw(b"x")),
        Err(SegmentError::Refused(_))
    ));
    let first = segment.entry(0).unwrap();
    let want = content(&segment).unwrap();
    segment.make_live().unwrap();
    segment.make_live().unwrap();
    assert_eq!(read_back(storage.clone()).unwrap(), want);
    put(&mut segment, 1, b"new tail").unwrap();
    segment.set_logical_size(u64::from(BS) + 8).unwrap();
    segment.commit().unwrap();
    let again = Segment::open(storage.clone()).unwrap();
    assert_eq!(content(&again).unwrap().blocks[&1], b"new tail");
    assert_eq!(again.entry(0).unwrap(), first);
    assert_eq!(again.summary(), peek(&*storage).unwrap());
    assert!(
        check(storage, |_, _, _| Ok(()))
            .unwrap()
            .findings
            .is_empty()
    );
}

#[test]
fn requests_that_can_not_be_met_are_refused() {
    let storage = mem();
    assert!(Segment::create(storage.clone(), 12345).is_err());
    let mut segment = Segment::create(storage.clone(), BS).unwrap();
    assert!(segment.append(&raw(b"")).is_err());
    assert!(segment.append(&raw(&vec![0; BS as usize + 1])).is_err());
    let mut entry = segment.append(&raw(b"abc")).unwrap();
    assert!(segment.set_entry(u64::MAX, Some(entry)).is_err());
    entry.offset += 1;
    assert!(segment.set_entry(0, Some(entry)).is_err());
    assert!(segment.set_logical_size(u64::MAX).is_err());
    for model in 0..255 {
        let entry = segment.append(&with_model(b"m", model)).unwrap();
        segment.set_entry(model.into(), Some(entry)).unwrap();
    }
    let entry = segment.append(&with_model(b"m", 255)).unwrap();
    assert!(segment.set_entry(255, Some(entry)).is_err());
    let writer = SealedWriter::new(storage, BS).err().unwrap();
    assert!(matches!(writer, SegmentError::Refused(_)));
}

#[test]
fn overwritten_blocks_are_given_back_to_the_file_system() {
    use std::os::unix::fs::MetadataExt;
    let file = tempfile::tempfile().unwrap();
    let storage: Arc<dyn Storage> = Arc::new(file.try_clone().unwrap());
    let mut segment = Segment::create(storage, 1 << 20).unwrap();
    let noise: Vec<u8> = (0..1u32 << 20)
        .map(|i| (i.wrapping_mul(2_654_435_761) >> 13) as u8)
        .collect();
    for _ in 0..8 {
        put(&mut segment, 0, &noise).unwrap();
        segment.set_logical_size(1 << 20).unwrap();
        segment.commit().unwrap();
    }
    file.sync_all().unwrap();
    let held = file.metadata().unwrap().blocks() * 512;
    assert!(held < 2 << 20, "{held} bytes held for one MiB");
    assert_eq!(content(&segment).unwrap().blocks[&0], noise);
}
