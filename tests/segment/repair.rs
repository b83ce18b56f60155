//! Healing and salvage: what is damaged comes back, or is named and stays an error; nothing ever reads as other bytes.

use std::collections::BTreeSet;
use std::sync::Arc;

use vortex_fs::segment::{
    BlockEntry, Healing, LostBlocks, MemStorage, Part, SealedWriter, Segment, SegmentError,
    Severity, Storage, check, heal, salvage,
};

use crate::support::{BS, Content, content, keyed, put, raw, read_back, started, with_model};

fn mem(bytes: Vec<u8>) -> Arc<MemStorage> {
    Arc::new(MemStorage::new(bytes))
}

/// A live segment of two commits, and its content.
fn live() -> (Vec<u8>, Content) {
    let storage = Arc::new(MemStorage::default());
    let mut segment = Segment::create(storage.clone(), BS).unwrap();
    for text in [&b"one"[..], b"second, and longer"] {
        put(&mut segment, 0, text).unwrap();
        put(&mut segment, 2, text).unwrap();
        let size = 2 * u64::from(BS) + text.len() as u64;
        segment.set_logical_size(size).unwrap();
        segment.commit().unwrap();
    }
    (storage.to_vec(), content(&segment).unwrap())
}

/// A sealed segment with start states of neural payloads, and its content.
fn sealed() -> (Vec<u8>, Content) {
    let storage = Arc::new(MemStorage::default());
    let mut writer = SealedWriter::new(storage.clone(), BS).unwrap();
    let first = writer.push(0, &raw(b"a key block")).unwrap();
    let one = writer.add_start(0, &first).unwrap();
    for block in 1..4 {
        let text = [block as u8; 20];
        writer.push_from(block, &started(&text), one).unwrap();
    }
    writer.push(1500, &with_model(b"end", 1)).unwrap();
    writer.finish(1500 * u64::from(BS) + 3).unwrap();
    (storage.to_vec(), read_back(storage).unwrap())
}

/// Blocks that a check of the healed segment finds damaged.
fn lost_blocks(storage: &Arc<dyn Storage>) -> BTreeSet<u64> {
    let report = check(Arc::clone(storage), |_, entry, payload| {
        let sound = crc32c::crc32c(&payload) == entry.decoded_crc;
        sound.then_some(()).ok_or_else(|| "other bytes".to_string())
    });
    let findings = report.unwrap().findings.into_iter();
    let mut lost: BTreeSet<u64> = findings
        .filter(|f| f.severity == Severity::Damage)
        .flat_map(|f| f.blocks)
        .collect();
    let segment = Segment::open(Arc::clone(storage)).unwrap();
    for (block, entry) in segment.entries().flatten() {
        if crate::support::read_starts(&segment, &entry).is_err() {
            lost.insert(block);
        }
    }
    lost
}

/// All payloads of these tests are the bytes themselves.
fn decodes(segment: &Segment, _: u64, entry: &BlockEntry) -> bool {
    let payload = segment.read_payload(entry);
    payload.is_ok_and(|p| p.len() == entry.decoded_len as usize)
}

/// Repairs, and answers what was lost and the repaired segment.
fn repair(bytes: Vec<u8>, fate: LostBlocks) -> Result<(BTreeSet<u64>, Vec<u8>), SegmentError> {
    let Healing { storage, .. } = heal(mem(bytes), &decodes);
    let segment = Segment::open(storage.clone())?;
    let lost = lost_blocks(&storage);
    let new = Arc::new(MemStorage::default());
    let writer = SealedWriter::new(new.clone(), segment.block_size()).unwrap();
    salvage(&segment, &lost, fate, writer).unwrap();
    Ok((lost, new.to_vec()))
}

/// What a repaired segment holds, and the blocks that it says are lost.
fn outcome(bytes: Vec<u8>) -> (Content, BTreeSet<u64>) {
    let storage = mem(bytes);
    let segment = Segment::open(storage.clone()).unwrap();
    let marked: BTreeSet<u64> = segment
        .entries()
        .map(Result::unwrap)
        .filter(|(_, e)| e.is_lost())
        .map(|(b, _)| b)
        .collect();
    let report = check(storage.clone(), |_, _, _| Ok(())).unwrap();
    let damaged: BTreeSet<u64> = report
        .findings
        .iter()
        .flat_map(|f| f.blocks.clone())
        .collect();
    assert_eq!(damaged, marked, "{report:?}");
    // Without the marked blocks it reads as any other.
    let rest = Arc::new(MemStorage::default());
    let writer = SealedWriter::new(rest.clone(), BS).unwrap();
    salvage(&segment, &marked, LostBlocks::Zeros, writer).unwrap();
    (read_back(rest).unwrap(), marked)
}

#[test]
fn every_flipped_bit_is_healed_or_costs_its_own_blocks_only() {
    for (bytes, want) in [live(), sealed()] {
        let (mut healed, mut lossy) = (0, 0);
        for bit in 0..bytes.len() * 8 {
            let mut bad = bytes.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            let (lost, repaired) = repair(bad, LostBlocks::Marked).unwrap();
            let (mut got, marked) = outcome(repaired);
            assert_eq!(marked, lost, "bit {bit}");
            for block in &lost {
                got.blocks.extend(
                    want.blocks
                        .get_key_value(block)
                        .map(|(b, c)| (*b, c.clone())),
                );
            }
            assert_eq!(got, want, "bit {bit}");
            // Raw payloads have no second checksum, and the key block is one.
            lossy += usize::from(!lost.is_empty());
            healed += usize::from(lost.is_empty());
        }
        let bits = bytes.len() * 8;
        println!("of {bits} bits {healed} cost nothing, {lossy} the blocks that they lie in");
        assert!(lossy > 0 && healed > 4 * lossy, "{healed} {lossy}");
    }
}

#[test]
fn every_zeroed_byte_run_is_named_and_never_reads_as_other_bytes() {
    for (bytes, want) in [live(), sealed()] {
        let mut opened = 0;
        for at in (0..bytes.len()).step_by(7) {
            let mut bad = bytes.clone();
            let end = (at + 21).min(bad.len());
            bad[at..end].fill(0xa5);
            let Ok((lost, repaired)) = repair(bad, LostBlocks::Marked) else {
                continue;
            };
            opened += 1;
            let (mut got, marked) = outcome(repaired);
            assert_eq!(marked, lost, "byte {at}");
            for block in &lost {
                got.blocks.extend(
                    want.blocks
                        .get_key_value(block)
                        .map(|(b, c)| (*b, c.clone())),
                );
            }
            assert_eq!(got, want, "byte {at}");
        }
        assert!(opened > 5, "{opened}");
    }
}

#[test]
fn the_older_root_serves_where_the_state_of_the_newest_is_lost() {
    let storage = Arc::new(MemStorage::default());
    let mut segment = Segment::create(storage.clone(), BS).unwrap();
    put(&mut segment, 0, b"older").unwrap();
    segment.set_logical_size(5).unwrap();
    segment.commit().unwrap();
    let older = content(&segment).unwrap();
    put(&mut segment, 0, b"newer").unwrap();
    segment.prepare_commit().unwrap();
    segment.finish_commit().unwrap();
    // The crash comes before the older root is cleared, and takes the newer directory.
    let mut bytes = storage.to_vec();
    let end = bytes.len();
    bytes[end - 10..].fill(0x77);
    assert!(read_back(mem(bytes.clone())).is_err());
    let healing = heal(mem(bytes.clone()), &decodes);
    assert_eq!(healing.healed.last().unwrap().part, Part::Root);
    assert!(healing.healed.last().unwrap().what.contains("before"));
    assert!(
        healing.healed.last().unwrap().loses,
        "it is not the last commit"
    );
    let (lost, repaired) = repair(bytes.clone(), LostBlocks::Marked).unwrap();
    assert!(lost.is_empty());
    assert_eq!(outcome(repaired).0, older);

    // A single changed bit of it costs nothing at all.
    let mut bytes = storage.to_vec();
    bytes[end - 3] ^= 4;
    let (lost, repaired) = repair(bytes, LostBlocks::Marked).unwrap();
    assert!(lost.is_empty());
    assert_eq!(outcome(repaired).0.blocks[&0], b"newer");
}

#[test]
fn the_index_at_the_end_serves_where_the_header_is_lost() {
    let (sealed, want) = sealed();
    let storage = mem(sealed.clone());
    Segment::open(storage.clone()).unwrap().make_live().unwrap();
    let upgraded = storage.to_vec();
    let (live, live_want) = live();
    for (what, bytes, want, gone) in [
        ("header", &sealed, &want, 0..40),
        ("header and first payload", &sealed, &want, 0..50),
        ("header", &live, &live_want, 0..100),
        ("header and both roots", &live, &live_want, 0..1536),
        ("both roots", &live, &live_want, 512..1536),
    ] {
        let mut bad = bytes.clone();
        bad[gone.clone()].fill(0x5a);
        let (lost, repaired) = repair(bad, LostBlocks::Marked).expect(what);
        let (mut got, _) = outcome(repaired);
        assert_eq!(lost.contains(&0), gone.end == 50, "{what}");
        if gone.end == 50 {
            // The key block is lost, and what starts from it.
            assert_eq!(lost, [0, 1, 2, 3].into());
            for block in lost {
                got.blocks.insert(block, want.blocks[&block].clone());
            }
        }
        assert_eq!(&got, want, "{what}");
    }
    // Where more follows the index it is not looked for.
    let mut bad = upgraded;
    bad[..40].fill(0);
    assert!(repair(bad, LostBlocks::Marked).is_err());
}

#[test]
fn a_segment_that_begins_with_zeros_is_not_taken_for_an_empty_one() {
    let storage = Arc::new(MemStorage::default());
    let mut writer = SealedWriter::new(storage.clone(), BS).unwrap();
    for block in 0..3 {
        writer.push(block, &raw(&[block as u8 + 1; 900])).unwrap();
    }
    writer.finish(2 * u64::from(BS) + 900).unwrap();
    let want = read_back(storage.clone()).unwrap();
    let mut bytes = storage.to_vec();
    bytes[..1600].fill(0);
    let report = check(mem(bytes.clone()), |_, _, _| Ok(())).unwrap();
    assert!(!report.is_sound() && report.findings[0].what.contains("zeros"));
    let (lost, repaired) = repair(bytes, LostBlocks::Marked).unwrap();
    assert_eq!(lost, [0, 1].into());
    assert_eq!(outcome(repaired).0.blocks[&2], want.blocks[&2]);
}

/// A disk that does not give some of its sectors.
struct BadSectors {
    bytes: MemStorage,
    bad: std::ops::Range<u64>,
}

impl Storage for BadSectors {
    fn read_at(&self, buf: &mut [u8], offset: u64) -> std::io::Result<usize> {
        if offset < self.bad.end && self.bad.start < offset + buf.len() as u64 {
            return Err(std::io::Error::from_raw_os_error(5));
        }
        self.bytes.read_at(buf, offset)
    }
    fn write_all_at(&self, _: &[u8], _: u64) -> std::io::Result<()> {
        unreachable!("nothing is written to a damaged file")
    }
    fn sync_data(&self) -> std::io::Result<()> {
        Ok(())
    }
    fn len(&self) -> std::io::Result<u64> {
        self.bytes.len()
    }
    fn punch_hole(&self, _: u64, _: u64) -> std::io::Result<()> {
        unreachable!("nothing is written to a damaged file")
    }
    fn set_len(&self, _: u64) -> std::io::Result<()> {
        unreachable!("nothing is written to a damaged file")
    }
}

#[test]
fn sectors_that_the_disk_does_not_give_cost_what_is_in_them() {
    let storage = Arc::new(MemStorage::default());
    let mut writer = SealedWriter::new(storage.clone(), BS).unwrap();
    for block in 0..4 {
        writer.push(block, &raw(&[block as u8 + 1; 700])).unwrap();
    }
    writer.finish(3 * u64::from(BS) + 700).unwrap();
    let want = read_back(storage.clone()).unwrap();
    for (bad, gone) in [(0..512, vec![0]), (1024..1536, vec![1, 2])] {
        let bytes = MemStorage::new(storage.to_vec());
        let healing = heal(Arc::new(BadSectors { bytes, bad }), &decodes);
        let segment = Segment::open(healing.storage.clone()).unwrap();
        let lost = lost_blocks(&healing.storage);
        assert_eq!(lost, gone.iter().copied().collect());
        let new = Arc::new(MemStorage::default());
        let writer = SealedWriter::new(new.clone(), BS).unwrap();
        salvage(&segment, &lost, LostBlocks::Marked, writer).unwrap();
        let (got, _) = outcome(new.to_vec());
        for (block, bytes) in &got.blocks {
            assert_eq!(bytes, &want.blocks[block]);
        }
        assert_eq!(got.blocks.len() + gone.len(), 4);
    }
}

#[test]
fn lost_blocks_are_an_error_until_overwritten_or_zeros_if_asked_for() {
    let (mut bytes, want) = live();
    let entry = |bytes: &[u8], block| {
        let segment = Segment::open(mem(bytes.to_vec())).unwrap();
        segment.entry(block).unwrap()
    };
    let payload = entry(&bytes, 2).unwrap().range();
    bytes[payload.start as usize] ^= 1;
    let (lost, zeros) = repair(bytes.clone(), LostBlocks::Zeros).unwrap();
    assert_eq!(lost, [2].into());
    let mut without = want.clone();
    without.blocks.remove(&2);
    assert_eq!(read_back(mem(zeros)).unwrap(), without);

    let (_, marked) = repair(bytes, LostBlocks::Marked).unwrap();
    let lost = entry(&marked, 2).unwrap();
    assert!(
        lost.is_lost() && lost.len == 0 && lost.visible_len == 18,
        "{lost:?}"
    );
    // It counts as data, outlives commits and cutting, and is gone once it is overwritten.
    let storage = mem(marked);
    let mut segment = Segment::open(storage.clone()).unwrap();
    assert_eq!(segment.next_data(1).unwrap(), Some(2));
    segment.make_live().unwrap();
    put(&mut segment, 0, b"other").unwrap();
    segment.set_logical_size(2 * u64::from(BS) + 5).unwrap();
    segment.commit().unwrap();
    let lost = entry(&storage.to_vec(), 2).unwrap();
    assert!(lost.is_lost() && lost.visible_len == 5);
    put(&mut segment, 2, b"again").unwrap();
    segment.commit().unwrap();
    assert_eq!(read_back(storage.clone()).unwrap().blocks[&2], b"again");
    assert!(
        check(storage, |_, _, _| Ok(()))
            .unwrap()
            .findings
            .is_empty()
    );
}

#[test]
fn what_starts_from_a_lost_key_block_is_lost_and_all_else_keeps_its_states() {
    let storage = Arc::new(MemStorage::default());
    keyed(storage.clone());
    let want = read_back(storage.clone()).unwrap();
    let sound = storage.to_vec();
    let segment = Segment::open(storage).unwrap();
    let second = segment.entry(1).unwrap().unwrap().range();
    let mut bytes = sound.clone();
    bytes[second.start as usize..second.end as usize].fill(0);
    let (lost, repaired) = repair(bytes, LostBlocks::Marked).unwrap();
    assert_eq!(lost, [1, 2, 4].into());
    let (got, _) = outcome(repaired.clone());
    for block in [0, 3, 5, 6] {
        assert_eq!(got.blocks[&block], want.blocks[&block], "block {block}");
    }
    let repaired = Segment::open(mem(repaired)).unwrap();
    let starts = repaired.starts();
    assert_eq!(starts.len(), 2, "the state after the lost block is gone");
    let entry = |block| repaired.entry(block).unwrap().unwrap();
    assert_eq!((entry(3).start, entry(6).start), (1, 2));
    assert!(starts.made_by(&entry(0)).is_some(), "it shares its payload");

    // A segment that is sound comes out the same but for the order of its payloads.
    let (lost, whole) = repair(sound.clone(), LostBlocks::Marked).unwrap();
    assert!(lost.is_empty() && whole.len() == sound.len());
    assert_eq!(read_back(mem(whole)).unwrap(), want);
}

#[test]
fn two_start_states_of_one_payload_are_noticed() {
    let storage = Arc::new(MemStorage::default());
    let mut writer = SealedWriter::new(storage.clone(), BS).unwrap();
    let first = writer.push(0, &raw(b"first")).unwrap();
    let one = writer.add_start(0, &first).unwrap();
    let two = writer.add_start(one, &first).unwrap();
    writer.push_from(1, &started(b"second"), two).unwrap();
    writer.finish(u64::from(BS) + 6).unwrap();
    let report = check(storage, |_, _, _| Ok(())).unwrap();
    assert_eq!(report.worst(), Some(Severity::Warning), "{report:?}");
    assert!(report.findings[0].what.contains("overlaps"));
}
