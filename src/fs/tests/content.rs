//! Reading, writing, cutting, holes.

use super::*;
use crate::store::BlockSource;

const FL_KEEP: i32 = 1;
const FL_PUNCH: i32 = 2 | FL_KEEP;
const FL_ZERO: i32 = 16;

#[test]
fn what_was_written_is_read_before_and_after_it_is_stored() {
    let m = Mounted::new();
    let content = data(5 * BLOCK + 123, 1);
    m.put("a", &content);
    assert_eq!(m.get("a").unwrap(), content);
    let m = m.again(true);
    assert_eq!(m.get("a").unwrap(), content);
    assert_eq!(m.attr("a").size, content.len() as u64);
    assert!(m.attr("a").blocks * 512 < content.len() as u64);
}

#[test]
fn overwriting_part_of_a_block_keeps_the_rest() {
    let m = Mounted::new();
    let mut content = data(3 * BLOCK, 2);
    m.put("a", &content);
    let m = m.again(true);
    let fh = m.open("a", RDWR);
    for (at, len) in [
        (10, 5),
        (BLOCK - 3, 6),
        (BLOCK, BLOCK),
        (3 * BLOCK - 1, 100),
    ] {
        let new = data(len, 77);
        m.fs.write(fh, at as u64, &new).unwrap();
        content.resize(content.len().max(at + len), 0);
        content[at..at + len].copy_from_slice(&new);
    }
    m.fs.release(fh).unwrap();
    assert!(m.get("a").unwrap() == content);
    assert!(m.again(true).get("a").unwrap() == content);
}

#[test]
fn packed_file_takes_writes_in_place() {
    let m = Mounted::new();
    let mut content = data(4 * BLOCK, 3);
    m.put("a", &content);
    assert_eq!(m.pack("a"), Outcome::Swapped);
    let inode = std::fs::metadata(m.backing("a.vortex")).unwrap();
    let fh = m.open("a", RDWR);
    m.fs.write(fh, 100, b"fresh").unwrap();
    content[100..105].copy_from_slice(b"fresh");
    m.fs.fsync(fh, false).unwrap();
    let m = m.again(false);
    assert!(m.get("a").unwrap() == content);
    use std::os::unix::fs::MetadataExt;
    assert_eq!(
        std::fs::metadata(m.backing("a.vortex")).unwrap().ino(),
        inode.ino()
    );
}

#[test]
fn cut_off_bytes_never_come_back() {
    for stored in [false, true] {
        let m = Mounted::new();
        let node = m.put("a", &data(2 * BLOCK, 4));
        let m = if stored { m.again(true) } else { m };
        let node = if stored { m.node("a").unwrap() } else { node };
        let size = |size| SetAttr {
            size: Some(size),
            ..SetAttr::default()
        };
        m.fs.setattr(node, None, size(BLOCK as u64 + 5)).unwrap();
        m.fs.setattr(node, None, size(2 * BLOCK as u64)).unwrap();
        let mut want = data(2 * BLOCK, 4);
        want[BLOCK + 5..].fill(0);
        assert!(m.get("a").unwrap() == want, "stored {stored}");
        assert!(m.again(true).get("a").unwrap() == want, "stored {stored}");
    }
}

#[test]
fn holes_read_as_zeros_and_take_no_space() {
    let m = Mounted::new();
    let (node, fh) = m.create("a");
    m.fs.setattr(
        node,
        Some(fh),
        SetAttr {
            size: Some(1 << 40),
            ..SetAttr::default()
        },
    )
    .unwrap();
    m.fs.write(fh, (1 << 39) + 1, b"x").unwrap();
    m.fs.fsync(fh, false).unwrap();
    assert_eq!(m.fs.read(fh, 1 << 38, 100).unwrap(), [0; 100]);
    assert_eq!(m.fs.read(fh, 1 << 39, 3).unwrap(), [0, b'x', 0]);
    assert_eq!(m.fs.lseek(fh, 0, SEEK_DATA).unwrap(), 1 << 39);
    assert_eq!(m.fs.lseek(fh, 0, SEEK_HOLE).unwrap(), 0);
    assert_eq!(
        m.fs.lseek(fh, 1 << 39, SEEK_HOLE).unwrap(),
        (1 << 39) + BLOCK as u64
    );
    assert!(matches!(
        m.fs.lseek(fh, 1 << 40, SEEK_DATA),
        Err(FsError::NoSuchOffset)
    ));
    let attr = m.fs.getattr(node, None).unwrap();
    assert_eq!(attr.size, 1 << 40);
    assert!(attr.blocks <= 16, "{} blocks", attr.blocks);
}

#[test]
fn punched_and_zeroed_ranges_read_as_zeros() {
    let m = Mounted::new();
    let mut content = data(4 * BLOCK, 5);
    m.put("a", &content);
    let m = m.again(true);
    let fh = m.open("a", RDWR);
    for (mode, at, len) in [
        (FL_PUNCH, 10, 100),
        (FL_ZERO, BLOCK - 10, BLOCK + 20),
        (FL_PUNCH, 3 * BLOCK - 1, BLOCK * 9),
    ] {
        m.fs.fallocate(fh, mode, at as u64, len as u64).unwrap();
        let end = (at + len).min(content.len());
        content[at..end].fill(0);
        assert!(
            m.fs.read(fh, 0, 1 << 20).unwrap() == content,
            "{mode} {at} {len}"
        );
    }
    m.fs.fallocate(fh, FL_ZERO, 4 * BLOCK as u64 - 5, 10)
        .unwrap();
    content.resize(4 * BLOCK + 5, 0);
    m.fs.fallocate(fh, FL_KEEP, 0, 1 << 30).unwrap();
    m.fs.fallocate(fh, 0, 0, 4 * BLOCK as u64 + 9).unwrap();
    content.resize(4 * BLOCK + 9, 0);
    assert!(matches!(
        m.fs.fallocate(fh, 8, 0, 4096),
        Err(FsError::NotSupported)
    ));
    assert!(m.fs.read(fh, 0, 1 << 20).unwrap() == content);
    m.fs.release(fh).unwrap();
    assert!(m.again(true).get("a").unwrap() == content);
}

#[test]
fn appends_go_to_the_end_whatever_their_offset() {
    let m = Mounted::new();
    m.put("a", b"one");
    std::fs::write(m.backing("p"), b"one").unwrap();
    for path in ["a", "p"] {
        let fh = m.open(path, APPEND);
        m.fs.write(fh, 0, b" two").unwrap();
        m.fs.write(fh, 1, b" three").unwrap();
        assert!(matches!(m.fs.read(fh, 0, 1), Err(FsError::BadHandle)));
        m.fs.release(fh).unwrap();
        assert_eq!(m.get(path).unwrap(), b"one two three");
    }
}

#[test]
fn unlinked_file_stays_usable_until_its_last_close() {
    let m = Mounted::new();
    let content = data(2 * BLOCK, 6);
    let (node, fh) = m.create("a");
    m.fs.write(fh, 0, &content).unwrap();
    m.fs.unlink(NodeId::ROOT, os("a")).unwrap();
    m.fs.fsync(fh, false).unwrap();
    m.fs.write(fh, 5, b"later").unwrap();
    assert_eq!(m.fs.read(fh, 5, 5).unwrap(), b"later");
    assert_eq!(m.fs.getattr(node, Some(fh)).unwrap().nlink, 0);
    assert!(matches!(m.node("a"), Err(FsError::NotFound)));
    m.put("a", b"another");
    assert_eq!(m.fs.read(fh, 5, 5).unwrap(), b"later");
    m.fs.release(fh).unwrap();
    m.fs.forget(node, 1);
    m.fs.shutdown().unwrap();
    assert_eq!(m.get("a").unwrap(), b"another");
    assert_eq!(m.fs.stats().dirty_bytes, 0);
}

#[test]
fn offsets_beyond_the_largest_file_are_refused() {
    let m = Mounted::new();
    let (node, fh) = m.create("a");
    assert!(matches!(
        m.fs.write(fh, i64::MAX as u64, b"xx"),
        Err(FsError::TooLarge)
    ));
    assert!(matches!(
        m.fs.write(fh, u64::MAX, b"x"),
        Err(FsError::TooLarge)
    ));
    let set = SetAttr {
        size: Some(1 << 63),
        ..SetAttr::default()
    };
    assert!(matches!(
        m.fs.setattr(node, None, set),
        Err(FsError::TooLarge)
    ));
    m.fs.write(fh, i64::MAX as u64 - 1, b"x").unwrap();
    m.fs.fsync(fh, false).unwrap();
    assert_eq!(m.fs.read(fh, i64::MAX as u64 - 1, 10).unwrap(), b"x");
}

#[test]
fn one_block_is_decoded_once_for_many_reads() {
    let m = Mounted::new();
    m.put("a", &data(4 * BLOCK, 7));
    let m = m.again(true);
    let fh = m.open("a", RDONLY);
    for at in 0..100 {
        m.fs.read(fh, BLOCK as u64 + at, 50).unwrap();
    }
    assert_eq!(m.fs.stats().decoded_blocks, 1);
    m.fs.release(fh).unwrap();
    m.get("a").unwrap();
    assert_eq!(m.fs.stats().decoded_blocks, 4, "the cache survives a close");
}

#[test]
fn memory_for_unstored_bytes_is_bounded() {
    let m = Mounted::with(FsOptions {
        file_dirty_bytes: 8 * BLOCK as u64,
        total_dirty_bytes: 20 * BLOCK as u64,
        ..options()
    });
    for file in 0..10 {
        let (_, fh) = m.create(&format!("f{file}"));
        for block in 0..20u64 {
            m.fs.write(fh, block * BLOCK as u64, &data(BLOCK, file))
                .unwrap();
            assert!(m.fs.stats().dirty_bytes <= 21 * BLOCK as u64);
        }
        m.fs.release(fh).unwrap();
    }
    for file in 0..10 {
        let fh = m.open(&format!("f{file}"), RDONLY);
        for block in 0..20u64 {
            assert!(m.fs.read(fh, block * BLOCK as u64, BLOCK).unwrap() == data(BLOCK, file));
        }
    }
}

#[test]
fn snapshot_gives_the_content_and_its_holes() {
    let m = Mounted::new();
    let (_, fh) = m.create("a");
    m.fs.write(fh, 3 * BLOCK as u64, b"end").unwrap();
    let snapshot = m.fs.snapshot(Path::new("a")).unwrap();
    assert_eq!(snapshot.len(), 3 * BLOCK as u64 + 3);
    assert_eq!(snapshot.next_data(0).unwrap(), Some(3 * BLOCK as u64));
    let mut buf = [1; 5];
    snapshot.read_at(&mut buf, 3 * BLOCK as u64 - 2).unwrap();
    assert_eq!(&buf, b"\0\0end");
    assert!(!snapshot.is_changed());
    m.fs.write(fh, 0, b"x").unwrap();
    assert!(snapshot.is_changed());
}

#[test]
fn closed_and_forgotten_files_leave_nothing_behind() {
    let m = Mounted::new();
    let root = NodeId::ROOT;
    let (dir, _) = m.fs.mkdir(root, os("d"), 0o755, me()).unwrap();
    let (node, _, fh) = m.fs.create(dir, os("a"), 0o644, RDWR, me()).unwrap();
    let weak: Vec<_> = [dir, node]
        .map(|id| Arc::downgrade(&m.fs.node(id).unwrap()))
        .into();
    m.fs.write(fh, 0, &data(3 * BLOCK, 1)).unwrap();
    m.fs.release(fh).unwrap();
    let fh = m.fs.open(node, RDWR).unwrap();
    m.fs.rename(dir, os("a"), root, os("b"), RenameFlags::Replace)
        .unwrap();
    m.fs.fsync(fh, false).unwrap();
    m.fs.release(fh).unwrap();
    let listing = m.fs.opendir(dir).unwrap();
    m.fs.readdir(listing, 0).unwrap();
    m.fs.releasedir(listing).unwrap();
    m.fs.forget(node, 1);
    m.fs.forget(dir, 1);
    assert!(weak.iter().all(|node| node.upgrade().is_none()));
    assert_eq!((m.fs.stats().nodes, m.fs.stats().handles), (1, 0));
    m.get("b").unwrap();
    drop(m);
}
