//! Damaged and hostile files: an error or the right content, never wrong content, a panic or a huge allocation.

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;

use proptest::prelude::*;
use vortex_fs::segment::{
    Finding, HEADER_LEN, MAGIC, MemStorage, Part, SealedWriter, Segment, SegmentError, Severity,
    Storage, VERSION, check, peek,
};

use crate::support::{BS, Content, content, keyed, put, raw, read_back, with_model};

/// A live segment of three commits, and its content.
fn live() -> (Vec<u8>, Content) {
    let storage = Arc::new(MemStorage::default());
    let mut segment = Segment::create(storage.clone(), BS).unwrap();
    for text in [&b"one"[..], b"two", b"three, and longer"] {
        put(&mut segment, 0, text).unwrap();
        put(&mut segment, 2, text).unwrap();
        segment
            .set_logical_size(2 * u64::from(BS) + text.len() as u64)
            .unwrap();
        segment.commit().unwrap();
    }
    (storage.to_vec(), content(&segment).unwrap())
}

/// A sealed segment, and its content.
fn sealed() -> (Vec<u8>, Content) {
    let storage = Arc::new(MemStorage::default());
    let mut writer = SealedWriter::new(storage.clone(), BS).unwrap();
    writer.push(0, &with_model(b"beginning", 1)).unwrap();
    writer.push(1500, &raw(b"end")).unwrap();
    writer.finish(1500 * u64::from(BS) + 3).unwrap();
    (storage.to_vec(), read_back(storage).unwrap())
}

/// The sealed segment after it was made live.
fn upgraded() -> (Vec<u8>, Content) {
    let (bytes, want) = sealed();
    let storage = Arc::new(MemStorage::new(bytes));
    Segment::open(storage.clone()).unwrap().make_live().unwrap();
    (storage.to_vec(), want)
}

/// A sealed segment with start states.
fn started() -> (Vec<u8>, Content) {
    let storage = Arc::new(MemStorage::default());
    keyed(storage.clone());
    (storage.to_vec(), read_back(storage).unwrap())
}

/// The same after it was made live and after some key blocks were overwritten and others made holes.
fn overwritten() -> (Vec<u8>, Content) {
    let storage = Arc::new(MemStorage::new(started().0));
    let mut segment = Segment::open(storage.clone()).unwrap();
    segment.make_live().unwrap();
    put(&mut segment, 0, b"new").unwrap();
    segment.set_entry(1, None).unwrap();
    segment.commit().unwrap();
    (storage.to_vec(), content(&segment).unwrap())
}

/// Does everything that can be done with a file; whatever it holds, nothing may panic.
fn exercise(bytes: Vec<u8>) -> Option<Content> {
    let storage = Arc::new(MemStorage::new(bytes));
    let _ = peek(&*storage);
    let _ = check(storage.clone(), |_, _, _| Ok(()));
    let mut segment = Segment::open(storage).ok()?;
    let found = content(&segment);
    let _ = (
        segment.next_data(1),
        segment.next_hole(0),
        segment.entry(1500),
    );
    let _ = segment.make_live();
    let _ = put(&mut segment, 1, b"more");
    let _ = segment.set_logical_size(u64::from(BS) + 4);
    let _ = segment.commit();
    found.ok()
}

#[test]
fn every_truncation_gives_an_error_or_the_right_content() {
    for (bytes, want) in [live(), sealed(), upgraded(), started(), overwritten()] {
        // A file of length zero is an empty segment by definition.
        for len in 1..bytes.len() {
            let found = exercise(bytes[..len].to_vec());
            assert!(
                found.is_none_or(|f| f == want),
                "cut to {len} of {} bytes",
                bytes.len()
            );
        }
        assert_eq!(exercise(bytes), Some(want));
    }
}

#[test]
fn every_changed_bit_gives_an_error_or_the_right_content_and_check_names_what_is_lost() {
    for (bytes, want) in [live(), sealed(), upgraded(), started(), overwritten()] {
        for bit in 0..bytes.len() * 8 {
            let mut bad = bytes.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            let found = exercise(bad.clone());
            let lost = found.is_none();
            assert!(found.is_none_or(|f| f == want), "bit {bit}");
            let report = check(Arc::new(MemStorage::new(bad)), |_, _, _| Ok(())).unwrap();
            assert_eq!(report.is_sound(), !lost, "bit {bit}: {report:?}");
        }
    }
}

#[test]
fn check_finds_a_change_of_every_byte_that_anything_reads() {
    for (name, (bytes, _)) in [
        ("live", live()),
        ("sealed", sealed()),
        ("upgraded", upgraded()),
        ("started", started()),
        ("overwritten", overwritten()),
    ] {
        let storage = Arc::new(MemStorage::new(bytes.clone()));
        let summary = Segment::open(storage).unwrap().summary();
        let mut unseen = 0;
        let mut seen = BTreeMap::new();
        for at in 0..bytes.len() {
            // The part that is named for each changed bit of the byte holds it.
            let parts: Vec<String> = (0..8)
                .filter_map(|bit| {
                    let mut bad = bytes.clone();
                    bad[at] ^= 1 << bit;
                    let report = check(Arc::new(MemStorage::new(bad)), |_, _, _| Ok(())).unwrap();
                    if report.findings.is_empty() {
                        return None;
                    }
                    let holds = |f: &&Finding| f.range.contains(&(at as u64));
                    let named = report.findings.iter().find(holds);
                    let named = named.unwrap_or_else(|| panic!("{name}, byte {at}: {report:?}"));
                    Some(named.part.to_string())
                })
                .collect();
            assert!(matches!(parts.len(), 0 | 8), "{name}, byte {at}: {parts:?}");
            match parts.into_iter().next() {
                Some(part) => *seen.entry(part).or_insert(0) += 1,
                None => unseen += 1,
            }
        }
        println!("{name}: {unseen} bytes that nothing reads; every bit found of bytes in {seen:?}");
        assert!(seen.len() >= 4, "header, directory, pages and payloads");
        // Dead ranges; behind the current root; between header and slots of what was born live.
        let dead = bytes.len() - summary.live_bytes as usize;
        let padding = match name {
            "live" => (512 - HEADER_LEN) + (512 - 56),
            "upgraded" | "overwritten" => 512 - 56,
            _ => 0,
        };
        assert_eq!(unseen, dead + padding, "{name}");
    }
}

#[test]
fn damage_in_one_block_is_an_error_of_that_block_only() {
    let (mut bytes, _) = sealed();
    bytes[HEADER_LEN] ^= 1;
    let storage = Arc::new(MemStorage::new(bytes));
    let segment = Segment::open(storage.clone()).unwrap();
    let payload = |block| segment.read_payload(&segment.entry(block).unwrap().unwrap());
    assert!(matches!(
        payload(0),
        Err(SegmentError::Checksum {
            part: Part::Payload,
            offset: 40,
            ..
        })
    ));
    assert_eq!(payload(1500).unwrap(), b"end");
    let report = check(storage, |_, _, _| Ok(())).unwrap();
    assert_eq!((report.blocks, report.findings.len()), (2, 1));
    let finding = &report.findings[0];
    assert_eq!(
        (finding.severity, finding.part),
        (Severity::Damage, Part::Payload)
    );
    assert_eq!(
        (finding.blocks.clone(), finding.range.clone()),
        (0..1, 40..49)
    );
}

#[test]
fn a_lost_index_page_costs_its_own_blocks_only_and_can_be_cut_away() {
    let (bytes, _) = upgraded();
    let sealed_len = sealed().0.len();
    // The second page is the last part of the index before the directory; find it by damaging bytes backwards.
    let lost = (0..sealed_len).rev().find_map(|at| {
        let mut bad = bytes.clone();
        bad[at] ^= 1;
        let segment = Segment::open(Arc::new(MemStorage::new(bad))).ok()?;
        segment.entry(1500).is_err().then_some(segment)
    });
    let mut segment = lost.expect("some byte belongs to the second page");
    let first = segment.entry(0).unwrap().unwrap();
    assert_eq!(segment.read_payload(&first).unwrap(), b"beginning");
    let walked: Vec<_> = segment.entries().collect();
    assert!(matches!(
        &walked[..],
        [
            Ok((0, _)),
            Err(SegmentError::Checksum {
                part: Part::Page,
                ..
            })
        ]
    ));
    let report = check(segment.storage().clone(), |_, _, _| Ok(())).unwrap();
    assert_eq!(report.findings[0].blocks, 1024..1501);
    segment.set_logical_size(9).unwrap();
    segment.commit().unwrap();
    assert_eq!(
        read_back(segment.storage().clone()).unwrap().blocks[&0],
        b"beginning"
    );
}

#[test]
fn a_segment_that_was_sealed_is_not_empty_because_its_root_slots_are_zeros() {
    let (mut bytes, _) = upgraded();
    let slots = bytes.len() - 1024;
    bytes[slots..].fill(0);
    let error = read_back(Arc::new(MemStorage::new(bytes))).err().unwrap();
    assert!(matches!(error, SegmentError::NoRoot { .. }), "{error}");
}

#[test]
fn a_segment_that_was_sealed_is_not_empty_because_its_beginning_is_zeros() {
    let storage = Arc::new(MemStorage::default());
    let mut writer = SealedWriter::new(storage.clone(), BS).unwrap();
    writer.push(0, &raw(&[7; 5000])).unwrap();
    writer.push(3, &raw(&[8; 100])).unwrap();
    writer.finish(4 * u64::from(BS)).unwrap();
    let in_place = Arc::new(MemStorage::default());
    let mut segment = Segment::create(in_place.clone(), BS).unwrap();
    let block = segment.append(&with_model(b"packed in place", 1)).unwrap();
    segment.set_entry(0, Some(block)).unwrap();
    segment.set_logical_size(BS.into()).unwrap();
    segment.commit().unwrap();
    for (kind, (sound, _)) in [
        ("packed in place", (in_place.to_vec(), Content::default())),
        ("sealed", sealed()),
        ("long", (storage.to_vec(), Content::default())),
        ("started", started()),
        ("upgraded", upgraded()),
        ("overwritten", overwritten()),
    ] {
        let lost: &[usize] = match kind {
            "long" => &[512, 1536, 4096],
            "packed in place" => &[512, 1024, 1536],
            _ => &[512],
        };
        for &zeros in lost {
            let mut bytes = sound.clone();
            let zeros = zeros.min(bytes.len());
            bytes[..zeros].fill(0);
            let storage = Arc::new(MemStorage::new(bytes));
            let opened = Segment::open(storage.clone()).map(drop);
            assert!(
                opened.as_ref().is_err_and(SegmentError::is_damage),
                "{kind}, {zeros} zeros: {opened:?}"
            );
            let report = check(storage, |_, _, _| Ok(())).unwrap();
            let worst = report.worst();
            assert_eq!(worst, Some(Severity::Damage), "{kind}, {zeros} zeros");
        }
    }
}

#[test]
fn an_entry_beyond_the_logical_size_is_refused() {
    let page = |size| {
        let mut page = vec![1, 0, 80, 7];
        page.extend([0xf9, 0x7f, 0, 0, 0, 0]);
        page.extend(crc32c::crc32c(b"payload").to_le_bytes());
        page.extend(crc32c::crc32c(b"payload").to_le_bytes());
        read_back(Arc::new(MemStorage::new(forge_sealed(
            size,
            b"payload",
            &page,
            &[0],
        ))))
    };
    assert_eq!(page(7).unwrap().blocks[&0], b"payload");
    assert!(matches!(
        page(6),
        Err(SegmentError::Invalid {
            part: Part::Page,
            ..
        })
    ));
}

#[test]
fn bad_decoded_bytes_and_overlaps_are_reported() {
    let (bytes, _) = sealed();
    let storage: Arc<dyn Storage> = Arc::new(MemStorage::new(bytes));
    let report = check(storage.clone(), |block, _, _| {
        if block == 0 {
            Err("bad".into())
        } else {
            Ok(())
        }
    })
    .unwrap();
    assert_eq!(
        (report.findings.len(), &report.findings[0].what[..]),
        (1, "bad")
    );

    let mut segment = Segment::open(storage.clone()).unwrap();
    segment.make_live().unwrap();
    let shared = segment.entry(0).unwrap();
    segment.set_entry(1, shared).unwrap();
    segment.commit().unwrap();
    let report = check(storage, |_, _, _| Ok(())).unwrap();
    assert!(
        report.worst() == Some(Severity::Warning) && report.findings[0].what.contains("overlaps"),
        "{report:?}"
    );
}

#[test]
fn other_files_and_other_versions_are_named_as_such() {
    let open = |bytes: &[u8]| {
        Segment::open(Arc::new(MemStorage::new(bytes.to_vec())))
            .err()
            .unwrap()
    };
    assert!(matches!(
        open(b"time,value\n1,2\n"),
        SegmentError::NotASegment { .. }
    ));
    assert!(matches!(open(b"x"), SegmentError::NotASegment { .. }));
    let mut newer = sealed().0;
    newer[8] = 9;
    let error = open(&newer);
    assert!(matches!(
        error,
        SegmentError::UnknownVersion {
            found: 9,
            supported: VERSION
        }
    ));
    assert!(
        error.to_string().contains('9') && error.to_string().contains('0'),
        "{error}"
    );
}

/// A file that claims to be enormous and reads as zeros behind its first bytes.
struct Endless(Vec<u8>);

impl Storage for Endless {
    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize> {
        for (at, byte) in (offset..).zip(buf.iter_mut()) {
            *byte = self.0.get(at as usize).copied().unwrap_or(0);
        }
        Ok(buf.len())
    }
    fn write_all_at(&self, _: &[u8], _: u64) -> io::Result<()> {
        Err(io::ErrorKind::ReadOnlyFilesystem.into())
    }
    fn sync_data(&self) -> io::Result<()> {
        Ok(())
    }
    fn len(&self) -> io::Result<u64> {
        Ok(1 << 62)
    }
    fn punch_hole(&self, _: u64, _: u64) -> io::Result<()> {
        Ok(())
    }
    fn set_len(&self, _: u64) -> io::Result<()> {
        Ok(())
    }
}

/// A header with these fields and a sound checksum.
fn forge_header(form: u8, log2: u8, a: u64, b: u64, len: u32, crc: u32) -> Vec<u8> {
    let mut out = MAGIC.to_vec();
    out.extend([VERSION, form, log2, 0]);
    out.extend(a.to_le_bytes());
    out.extend(b.to_le_bytes());
    out.extend(len.to_le_bytes());
    out.extend(crc.to_le_bytes());
    out.extend(crc32c::crc32c(&out).to_le_bytes());
    out
}

/// A sealed segment with this index page and table of start states after `payload`, all checksums sound.
fn forge_sealed(logical_size: u64, payload: &[u8], page: &[u8], starts: &[u8]) -> Vec<u8> {
    let page_at = HEADER_LEN + payload.len();
    let mut directory = vec![1];
    directory.extend([7; 16]);
    directory.extend(starts);
    directory.push(0);
    directory.push(page_at as u8);
    directory.push(page.len() as u8);
    directory.extend(crc32c::crc32c(page).to_le_bytes());
    let at = (page_at + page.len()) as u64;
    let mut out = forge_header(
        1,
        14,
        logical_size,
        at,
        directory.len() as u32,
        crc32c::crc32c(&directory),
    );
    out.extend(payload);
    out.extend(page);
    out.extend(directory);
    out
}

#[test]
fn a_length_that_nothing_backs_is_refused_before_it_is_allocated() {
    for len in [u32::MAX, (64 << 20) + 1] {
        let storage = Arc::new(Endless(forge_header(1, 14, 1 << 40, 4096, len, 0)));
        let error = Segment::open(storage).err().unwrap();
        assert!(
            matches!(
                error,
                SegmentError::Invalid {
                    part: Part::Directory,
                    ..
                }
            ),
            "{error}"
        );
    }
}

proptest! {
    #[test]
    fn garbage_never_panics(bytes in proptest::collection::vec(any::<u8>(), 0..4000)) {
        exercise(bytes);
    }

    #[test]
    fn forged_headers_never_panic(
        form in 0..3u8, log2 in 12..22u8, a: u64, b: u64, len: u32, crc: u32, small: bool,
        rest in proptest::collection::vec(any::<u8>(), 0..3000)
    ) {
        let (a, b) = if small { (a % 8 * 512, b % 2000) } else { (a, b) };
        let mut bytes = forge_header(form, log2, a, b, len % 4000, crc);
        bytes.extend(&rest);
        exercise(bytes.clone());
        let _ = peek(&Endless(bytes));
        let end = rest.len().min(64) as u64;
        let directory = crc32c::crc32c(&rest[..end as usize]);
        let mut sound = forge_header(1, 14, a, HEADER_LEN as u64, end as u32, directory);
        sound.extend(&rest);
        exercise(sound);
    }

    #[test]
    fn forged_indexes_never_panic(
        size in 0..1u64 << 26, page in proptest::collection::vec(any::<u8>(), 0..100),
        directory in proptest::collection::vec(any::<u8>(), 0..8)
    ) {
        exercise(forge_sealed(size, b"payload", &page, &directory));
        exercise(forge_sealed(size, b"payload", &page, &[0]));
    }

    #[test]
    fn forged_entries_never_panic(
        size in 0..1u64 << 26, gap in 0..3u8, offset in 0..120u8, len in 0..20u8, missing in 0..20u8, hidden in 0..3u8,
        codec in 0..4u8, model in 0..3u8, start in 0..3u8, crcs: [u8; 8], right: bool
    ) {
        let mut page = vec![1, gap, offset, len, missing, hidden, codec, model, start];
        page.extend(crcs);
        if right {
            let at = usize::from(offset / 2).saturating_sub(HEADER_LEN).min(7);
            let payload = &b"payload"[at..(at + usize::from(len)).min(7)];
            page[9..13].copy_from_slice(&crc32c::crc32c(payload).to_le_bytes());
        }
        exercise(forge_sealed(size, b"payload", &page, &[0]));
    }
}
