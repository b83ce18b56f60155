//! Segments written once and kept: every later version must read them, and this one must write the same bytes.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use vortex_fs::segment::{Form, MemStorage, SealedWriter, Segment, Severity, check};

use crate::support::{BS, Content, content, keyed, put, raw, read_back};

fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/golden")
        .join(name)
}

/// A block of text records, whole or cut.
fn records(len: usize) -> Vec<u8> {
    let lines = (0..)
        .flat_map(|n: u32| format!("{n:06},{:05}\n", n.wrapping_mul(7919) % 100_000).into_bytes());
    lines.take(len).collect()
}

/// What both golden segments hold: a whole block, a hole, a short last block.
fn golden_content() -> Content {
    let blocks = [(0, records(BS as usize)), (2, records(100))].into();
    Content {
        size: 2 * u64::from(BS) + 100,
        blocks,
    }
}

fn sealed() -> Vec<u8> {
    let storage = Arc::new(MemStorage::default());
    let mut writer = SealedWriter::new(storage.clone(), BS).unwrap();
    writer.push(0, &raw(&records(BS as usize))).unwrap();
    writer.push(2, &raw(&records(100))).unwrap();
    writer.finish(2 * u64::from(BS) + 100).unwrap();
    storage.to_vec()
}

/// Two commits; the second replaces one block, cuts another, and leaves dead bytes behind.
fn live() -> Vec<u8> {
    let storage = Arc::new(MemStorage::default());
    let mut segment = Segment::create(storage.clone(), BS).unwrap();
    put(&mut segment, 0, b"to be replaced").unwrap();
    put(&mut segment, 2, &records(300)).unwrap();
    put(&mut segment, 3, b"to be cut off").unwrap();
    segment.set_logical_size(3 * u64::from(BS) + 13).unwrap();
    segment.commit().unwrap();
    put(&mut segment, 0, &records(BS as usize)).unwrap();
    segment.set_logical_size(2 * u64::from(BS) + 100).unwrap();
    segment.commit().unwrap();
    storage.to_vec()
}

#[test]
fn golden_segments_hold_what_they_always_held() {
    for (name, form, written) in [
        ("live.vortex", Form::Live, live()),
        ("sealed.vortex", Form::Sealed, sealed()),
    ] {
        let kept = fs::read(golden(name)).unwrap();
        assert!(kept == written, "{name} is no longer written as it was");
        let storage = Arc::new(MemStorage::new(kept));
        let segment = Segment::open(storage.clone()).unwrap();
        assert_eq!((segment.form(), segment.block_size()), (form, BS));
        assert_eq!(content(&segment).unwrap(), golden_content(), "{name}");
        assert_eq!(
            (segment.next_hole(0).unwrap(), segment.next_data(1).unwrap()),
            (1, Some(2))
        );
        let report = check(storage, |_, _, _| Ok(())).unwrap();
        assert!(
            report.findings.iter().all(|f| f.severity == Severity::Note),
            "{name}: {report:?}"
        );
    }
}

fn started() -> Vec<u8> {
    let storage = Arc::new(MemStorage::default());
    keyed(storage.clone());
    storage.to_vec()
}

#[test]
fn golden_start_states_are_what_they_always_were() {
    let kept = fs::read(golden("started.vortex")).unwrap();
    assert!(
        kept == started(),
        "started.vortex is no longer written as it was"
    );
    let storage = Arc::new(MemStorage::new(kept));
    assert_eq!(Segment::open(storage.clone()).unwrap().starts().len(), 3);
    let found = read_back(storage).unwrap();
    assert_eq!(
        (found.blocks.len(), &found.blocks[&6][..]),
        (7, &b"primed"[..])
    );
}

/// A whole block, a lost one, a short last block.
fn lost() -> Vec<u8> {
    let storage = Arc::new(MemStorage::default());
    let mut writer = SealedWriter::new(storage.clone(), BS).unwrap();
    writer.push(0, &raw(&records(BS as usize))).unwrap();
    writer.push_lost(1, BS).unwrap();
    writer.push(2, &raw(&records(100))).unwrap();
    writer.finish(2 * u64::from(BS) + 100).unwrap();
    storage.to_vec()
}

#[test]
fn a_golden_lost_block_stays_lost() {
    let kept = fs::read(golden("lost.vortex")).unwrap();
    assert!(kept == lost(), "lost.vortex is no longer written as it was");
    let storage = Arc::new(MemStorage::new(kept));
    let segment = Segment::open(storage.clone()).unwrap();
    let entries: Vec<_> = segment.entries().map(|e| e.unwrap().1).collect();
    assert_eq!(
        entries.iter().map(|e| e.is_lost()).collect::<Vec<_>>(),
        [false, true, false]
    );
    let report = check(storage, |_, _, _| Ok(())).unwrap();
    assert_eq!(report.findings.len(), 1, "{report:?}");
    assert_eq!(report.findings[0].blocks, 1..2);
    assert_eq!(report.worst(), Some(Severity::Damage));
}

/// Blocks of three index pages, with one that has none between them.
fn paged_blocks() -> [(u64, Vec<u8>); 4] {
    [0, 1023, 1024, 3500].map(|block| (block, records(20 + block as usize / 100)))
}

fn paged() -> Vec<u8> {
    let storage = Arc::new(MemStorage::default());
    let mut writer = SealedWriter::new(storage.clone(), BS).unwrap();
    for (block, data) in paged_blocks() {
        writer.push(block, &raw(&data)).unwrap();
    }
    writer.finish(4000 * u64::from(BS)).unwrap();
    storage.to_vec()
}

#[test]
fn golden_pages_lead_to_the_blocks_they_always_led_to() {
    let kept = fs::read(golden("paged.vortex")).unwrap();
    assert!(
        kept == paged(),
        "paged.vortex is no longer written as it was"
    );
    let storage = Arc::new(MemStorage::new(kept));
    let segment = Segment::open(storage.clone()).unwrap();
    let found = content(&segment).unwrap();
    assert_eq!(found.size, 4000 * u64::from(BS));
    assert_eq!(found.blocks, paged_blocks().into());
    assert_eq!(segment.next_data(1025).unwrap(), Some(3500));
    let report = check(storage, |_, _, _| Ok(())).unwrap();
    assert_eq!(report.findings, []);
}

#[test]
#[ignore = "run by hand once for each version of the format; it never replaces a file"]
fn write_golden_segments() {
    for (name, bytes) in [
        ("live.vortex", live()),
        ("sealed.vortex", sealed()),
        ("started.vortex", started()),
        ("lost.vortex", lost()),
        ("paged.vortex", paged()),
    ] {
        let path = golden(name);
        if !path.exists() {
            fs::write(path, bytes).unwrap();
        }
    }
}
