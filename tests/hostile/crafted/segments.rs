//! Headers, roots, directories, pages and tables of start states.

use std::io;
use std::sync::Arc;

use vortex_fs::codec::{self, CodecId, Effort, Encoded, Means, ModelId, Start};
use vortex_fs::engine::Model;
use vortex_fs::segment::{
    MAX_START_DEPTH, MemStorage, SealedWriter, Segment, Storage, check, heal,
};
use vortex_fs::store::{DEFAULT_START_BYTES, Library, StoreError, decode_entry};

use super::{bounded, refused};
use crate::mend;
use crate::meter::{Cost, MEMORY, measure};

/// A file of any length that is zeros behind its first bytes and takes no space, as a sparse file does.
struct Sparse {
    start: Vec<u8>,
    len: u64,
}

impl Storage for Sparse {
    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize> {
        let n = (self.len.saturating_sub(offset)).min(buf.len() as u64) as usize;
        for (at, byte) in (offset..).zip(&mut buf[..n]) {
            *byte = self.start.get(at as usize).copied().unwrap_or(0);
        }
        Ok(n)
    }

    fn write_all_at(&self, _buf: &[u8], _offset: u64) -> io::Result<()> {
        Err(io::ErrorKind::ReadOnlyFilesystem.into())
    }

    fn sync_data(&self) -> io::Result<()> {
        Ok(())
    }

    fn len(&self) -> io::Result<u64> {
        Ok(self.len)
    }

    fn punch_hole(&self, _offset: u64, _len: u64) -> io::Result<()> {
        Ok(())
    }

    fn set_len(&self, _len: u64) -> io::Result<()> {
        Ok(())
    }
}

fn varint(mut value: u64, out: &mut Vec<u8>) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

/// A sealed segment with 64 KiB blocks, this directory at its end, and right checksums.
fn sealed(logical_size: u64, body: &[u8], directory: &[u8]) -> Vec<u8> {
    let mut bytes = vec![0; 40];
    bytes[9..11].copy_from_slice(&[1, 16]);
    bytes[12..20].copy_from_slice(&logical_size.to_le_bytes());
    bytes[20..28].copy_from_slice(&(40 + body.len() as u64).to_le_bytes());
    bytes[28..32].copy_from_slice(&(directory.len() as u32).to_le_bytes());
    bytes.extend(body);
    bytes.extend(directory);
    mend::checksums(&mut bytes);
    bytes
}

fn open(bytes: Vec<u8>) -> Result<Segment, vortex_fs::segment::SegmentError> {
    Segment::open(Arc::new(MemStorage::new(bytes)))
}

/// One entry of a page: a raw block of `len` bytes at `offset`.
fn entry(offset: u64, len: u64) -> Vec<u8> {
    let mut page = vec![1, 0];
    varint(offset << 1, &mut page);
    varint(len, &mut page);
    varint(65_536_u64.saturating_sub(len), &mut page);
    page.extend([0, 0, 0, 0]);
    page.extend([0; 8]);
    page
}

#[test]
fn sizes_and_places_beyond_the_file_are_refused() {
    for (at, len) in [(40, 9), (28, 4), (20, 8)] {
        for value in [1 << 20, u64::from(u32::MAX), i64::MAX as u64, u64::MAX] {
            let mut bytes = sealed(1 << 30, &[], &[0, 0]);
            let Some(field) = bytes.get_mut(at..at + len) else {
                continue;
            };
            field.copy_from_slice(&value.to_le_bytes()[..len]);
            mend::checksums(&mut bytes);
            refused(&format!("{value} at {at}"), || open(bytes));
        }
    }
    for slots in [0, 511, 512, 1 << 40, i64::MAX as u64 & !511, !511] {
        let mut bytes = vec![0; 4096];
        bytes[10] = 16;
        bytes[12..20].copy_from_slice(&slots.to_le_bytes());
        bytes[512..516].copy_from_slice(b"VXRT");
        mend::checksums(&mut bytes);
        refused(&format!("roots at {slots}"), || open(bytes));
    }
}

#[test]
fn a_sparse_file_is_no_directory() {
    for len in [4 << 20, 64 << 20, u32::MAX] {
        let mut start = sealed(1 << 60, &[], &[]);
        start[28..32].copy_from_slice(&len.to_le_bytes());
        let zeros = crc32c::crc32c(&vec![0; if len == u32::MAX { 0 } else { len as usize }]);
        start[32..36].copy_from_slice(&zeros.to_le_bytes());
        let header = crc32c::crc32c(&start[..36]);
        start[36..40].copy_from_slice(&header.to_le_bytes());
        let storage = Arc::new(Sparse {
            start,
            len: 1 << 40,
        });
        refused(&format!("a directory of {len} zeros"), || {
            Segment::open(storage)
        });
    }
}

#[test]
fn the_largest_directory_is_small_in_memory() {
    let mut directory = vec![0, 0];
    // Beyond the file.
    let mut offset = 5 << 20;
    while directory.len() < (4 << 20) - 16 {
        directory.push(0);
        varint(offset, &mut directory);
        directory.push(17);
        directory.extend([0; 4]);
        offset += 17;
    }
    let bytes = sealed(1 << 60, &[], &directory);
    let storage = Arc::new(Sparse {
        len: bytes.len() as u64,
        start: bytes,
    });
    let segment = bounded("the largest directory", || Segment::open(storage));
    let segment = segment.expect("pages are looked at when they are needed");
    refused("its last page", || segment.entry(1024 * 300_000));
    let mut twice = vec![0, 0];
    for _ in 0..100_000 {
        twice.extend([0, 40, 17, 0, 0, 0, 0]);
    }
    refused("one page for all", || {
        open(sealed(1 << 60, &[0; 17], &twice))
    });
}

#[test]
fn entries_that_no_file_can_hold_are_refused() {
    let page_at = |page: &[u8]| {
        let mut directory = vec![0, 0, 0, 40];
        varint(page.len() as u64, &mut directory);
        directory.extend([0; 4]);
        open(sealed(65_536, page, &directory)).expect("the directory is sound")
    };
    for (offset, len) in [
        (40, 70_000),
        (1 << 61, 65_536),
        ((i64::MAX as u64) >> 1, 65_536),
        (40, 65_536),
        (0, 0),
    ] {
        let segment = page_at(&entry(offset, len));
        refused(&format!("{len} bytes at {offset}"), || {
            let found = segment.entry(0)?.ok_or(io::Error::other("no entry"))?;
            segment.read_payload(&found)
        });
    }
    let mut many = vec![0xff, 0xff, 0x03];
    many.extend([0; 60]);
    refused("more entries than a page has", || page_at(&many).entry(0));
}

/// A table of key blocks, each made of the one that `parent` answers for it.
fn chained(count: u64, parent: impl Fn(u64) -> u64, missing: u64) -> Vec<u8> {
    let mut directory = vec![0];
    varint(count, &mut directory);
    for n in 0..count {
        directory.push(2);
        varint(parent(n), &mut directory);
        varint(80, &mut directory);
        varint(5, &mut directory);
        varint(missing, &mut directory);
        directory.extend([0; 8]);
    }
    directory
}

#[test]
fn chains_of_key_blocks_that_no_writer_makes_are_refused() {
    let long = u64::from(MAX_START_DEPTH) + 1;
    for (what, directory) in [
        ("a chain too long", chained(long, |n| n, 65_000)),
        ("a state made of itself", chained(3, |n| n + 1, 65_000)),
        ("a state made of a later one", chained(3, |_| 3, 65_000)),
        (
            "more states than a table has",
            chained(70_000, |_| 0, 65_000),
        ),
        ("a chain from a primer", {
            let mut directory = vec![0, 2, 255];
            directory.extend([7; 16]);
            directory.extend(&chained(1, |_| 1, 65_000)[2..]);
            directory
        }),
    ] {
        refused(what, || open(sealed(1 << 30, &[], &directory)));
    }
    let most = chained(65_535, |n| if n % 16 == 0 { 0 } else { n }, 65_000);
    bounded("the largest table", || open(sealed(1 << 30, &[], &most))).expect("it is sound");
}

/// Five blocks, of which the first four are a chain and the last starts from it.
fn chain() -> Vec<u8> {
    let lines = b"2026-01-01,17.5,ok\n".repeat(900);
    let storage = Arc::new(MemStorage::default());
    let mut writer = SealedWriter::new(storage.clone(), 1 << 14).expect("a writer");
    let mut before: Option<Start> = None;
    let mut state = 0;
    for block in 0..5 {
        let encoded = codec::encode_packed(&lines[..1 << 14], None, before.as_ref());
        let entry = writer.push_from(block, &encoded, state).expect("pushed");
        if block < 4 {
            state = writer.add_start(state, &entry).expect("a state");
            let block = &lines[..1 << 14];
            let after = codec::state_after(before.as_ref(), block, encoded.codec, &encoded.payload);
            before = Some(after);
        }
    }
    writer.finish(5 << 14).expect("finished");
    storage.to_vec()
}

#[test]
fn damage_anywhere_in_a_chain_is_told_before_anything_is_decoded() {
    let bytes = chain();
    let segment = open(bytes.clone()).expect("sound");
    let entries: Vec<_> = (0..5)
        .map(|n| segment.entry(n).expect("read").expect("there"))
        .collect();
    let decode = |bytes| {
        let segment = open(bytes).expect("it opens");
        // Not by the clock, which goes on while others are at work.
        let (result, cost) =
            measure(|| decode_entry(&segment, 4, &entries[4], &Library::default()));
        (result.is_ok(), cost.time)
    };
    let (sound, whole) = decode(bytes.clone());
    assert!(sound);
    for (block, entry) in entries.iter().enumerate() {
        let mut bytes = bytes.clone();
        bytes[entry.offset as usize + entry.len as usize / 2] ^= 0x10;
        let (sound, took) = decode(bytes);
        assert!(
            !sound && took < whole / 10,
            "block {block}: {took:?} of {whole:?}"
        );
        println!("damage in block {block} of a chain: {took:?}; decoding it: {whole:?}");
    }
}

#[test]
fn a_chain_with_a_wrong_first_block_fails_before_the_others_are_decoded() {
    let mut bytes = chain();
    let library = Library::default();
    let segment = open(bytes.clone()).expect("sound");
    let last = segment.entry(4).expect("read").expect("there");
    assert_eq!(last.start, 4);
    decode_entry(&segment, 4, &last, &library).expect("it decodes");
    bytes[45] ^= 0x55;
    mend::checksums(&mut bytes);
    let segment = open(bytes).expect("its checksums are mended");
    let error = refused("a chain with a wrong first block", || {
        decode_entry(&segment, 4, &last, &Library::default())
    });
    assert!(error.contains("block 4"), "{error}");
}

#[test]
fn a_missing_primer_is_told_at_once() {
    let lines = b"2026-01-01,17.5,ok\n".repeat(300);
    let start = Start::then(None, &lines, None);
    let storage = Arc::new(MemStorage::default());
    let mut writer = SealedWriter::new(storage.clone(), 1 << 14).expect("a writer");
    let primer = writer
        .add_primer(vortex_fs::codec::PrimerId([9; 16]))
        .expect("a state");
    let encoded = codec::encode_packed(&lines, None, Some(&start));
    writer.push_from(0, &encoded, primer).expect("pushed");
    writer.finish(lines.len() as u64).expect("finished");
    let segment = open(storage.to_vec()).expect("sound");
    let entry = segment.entry(0).expect("read").expect("there");
    let found = || decode_entry(&segment, 0, &entry, &Library::default());
    refused("a missing primer", found);
    assert!(matches!(found(), Err(StoreError::MissingPrimer(_))));
}

#[test]
fn a_check_of_overlapping_parts_is_bounded() {
    let mut page = Vec::new();
    varint(1024, &mut page);
    for n in 0..1024_u64 {
        let delta: i64 = if n == 0 { 40 } else { -9 };
        page.push(0);
        varint(((delta << 1) ^ (delta >> 63)) as u64, &mut page);
        varint(9, &mut page);
        varint(65_536 - 9, &mut page);
        page.extend([0, 0, 0, 0]);
        page.extend([0; 8]);
    }
    let mut directory = vec![0, 0, 0, 40];
    varint(page.len() as u64, &mut directory);
    directory.extend([0; 4]);
    let bytes = sealed(1 << 40, &page, &directory);
    let report = bounded("a check of 1024 names of one payload", || {
        check(Arc::new(MemStorage::new(bytes)), |_, _, _| Ok(()))
    });
    assert!(report.expect("it can be read").findings.len() >= 1023);
}

#[test]
fn a_tail_in_which_everything_looks_like_an_index_is_not_searched_for_ever() {
    // From every seventh byte on: no models, no start states, and pages up to the end that share their bytes.
    let page = [0, 40, 17, 1, 2, 0, 0];
    let one_too_many = [&page[..], &[0]].concat();
    for (what, end) in [
        ("that share bytes", &page[..]),
        ("cut short", &one_too_many),
    ] {
        let mut bytes = vec![0; 4096];
        bytes.extend(page.repeat(40_000));
        bytes.extend(end);
        let storage = Arc::new(MemStorage::new(bytes));
        let checked = bounded(&format!("a check of pages {what}"), || {
            check(storage.clone(), |_, _, _| Ok(()))
        });
        checked.expect("it can be read");
        bounded(&format!("healing of pages {what}"), || {
            heal(storage, &|_, _, _| true)
        });
    }
}

/// Reads the last block of a segment in which every block starts from those before it; a bit in the middle of its payload is
/// wrong, and all checksums of what is stored are right. That costs as much as a sound file, and there is no way to tell it earlier.
fn dearest_read(
    what: &str,
    (block, blocks): (usize, u64),
    effort: Effort,
    model: Option<&Arc<Model>>,
) {
    let lines: Vec<u8> = (0..200_000u32)
        .flat_map(|n| format!("{n},{}\n", n.wrapping_mul(2_654_435_761) >> 20).into_bytes())
        .collect();
    let storage = Arc::new(MemStorage::default());
    let mut writer = SealedWriter::new(storage.clone(), block as u32).expect("a writer");
    let (mut before, mut state, mut last) = (None::<Start>, 0, None);
    for (number, data) in (0..blocks).zip(lines.chunks(block)) {
        // Of start states only the first may need a model.
        let model = model.filter(|_| number == 0 || number + 1 == blocks);
        let means = Means {
            model,
            effort,
            ..Means::default()
        };
        let dear = Encoded {
            codec: CodecId::Neural,
            model: model.map(|m| ModelId(m.id())),
            model_saves: 0,
            started: true,
            payload: Vec::new(),
            decoded_len: 0,
            decoded_crc: 0,
        };
        let encoded = codec::encode_like(&dear, data, means, before.as_ref());
        assert_eq!((encoded.codec, encoded.model), (dear.codec, dear.model));
        let entry = writer.push_from(number, &encoded, state).expect("pushed");
        last = Some(entry);
        if number + 1 < blocks {
            state = writer.add_start(state, &entry).expect("a state");
            let (codec, payload) = (encoded.codec, &encoded.payload);
            before = Some(codec::state_after(before.as_ref(), data, codec, payload));
        }
    }
    writer.finish(blocks * block as u64).expect("finished");
    let sound = storage.to_vec();
    let mut forged = sound.clone();
    let last = last.expect("there is a block");
    forged[(last.offset + u64::from(last.len) / 2) as usize] ^= 1;
    mend::checksums(&mut forged);
    let [sound, forged] = [(sound, false), (forged, true)].map(|(bytes, wrong)| {
        let segment = open(bytes).expect("sound");
        let last = segment.entry(blocks - 1).expect("read").expect("there");
        let loaded = model.cloned();
        // On a thread that has no decoder yet.
        let cost = std::thread::spawn(move || {
            let library = Library::default();
            if let Some(model) = &loaded {
                library.models().add_loaded(model);
            }
            let (read, cost) = measure(|| decode_entry(&segment, blocks - 1, &last, &library));
            assert_eq!(read.is_err_and(|error| error.is_damage()), wrong);
            cost
        });
        cost.join().expect("the thread ends")
    });
    let figures = |cost: Cost| format!("{} KiB, {:?}", cost.peak >> 10, cost.time);
    println!("{what}: {}; sound: {}", figures(forged), figures(sound));
    for cost in [forged, sound] {
        assert!(
            cost.peak <= MEMORY + DEFAULT_START_BYTES,
            "{what}: {cost:?}"
        );
    }
    assert!(
        forged.time <= 2 * sound.time,
        "{what}: {forged:?}, and sound: {sound:?}"
    );
}

#[test]
fn the_dearest_usual_read_fits_in_memory() {
    const BLOCK: usize = 64 << 10;
    let [few, many] = [(BLOCK, 5), (BLOCK, 17)];
    dearest_read("five blocks of 64 KiB", few, Effort::Usual, None);
    dearest_read(
        "seventeen blocks of 64 KiB, densely",
        many,
        Effort::Dense,
        None,
    );
    let model = Library::default()
        .models()
        .profile("fast")
        .expect("it is built in")
        .model;
    let what = "five blocks of 64 KiB with a model";
    dearest_read(what, few, Effort::Usual, Some(&model));
}

#[test]
fn the_dearest_read_of_all_fits_in_memory() {
    let large = (1 << 20, 2);
    dearest_read("two blocks of 1 MiB", large, Effort::Usual, None);
    dearest_read("two blocks of 1 MiB, densely", large, Effort::Dense, None);
}

#[test]
#[ignore = "takes a minute: a figure for the documentation"]
fn the_dearest_read_of_all_with_the_usual_model() {
    let model = Library::default()
        .models()
        .profile("fast")
        .expect("it is built in")
        .model;
    dearest_read(
        "two blocks of 1 MiB, one with a model",
        (1 << 20, 2),
        Effort::Usual,
        Some(&model),
    );
}
