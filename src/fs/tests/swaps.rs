//! Packing and unpacking under open files.

use std::os::unix::fs::FileExt;

use super::*;
use crate::store::BlockSource;

#[test]
fn swap_is_invisible_to_open_files() {
    let m = Mounted::new();
    let mut content = data(3 * BLOCK, 1);
    std::fs::write(m.backing("p"), &content).unwrap();
    let node = m.node("p").unwrap();
    let fh = m.fs.open(node, RDWR).unwrap();
    let before = m.fs.getattr(node, None).unwrap();
    std::thread::sleep(Duration::from_millis(12));
    assert_eq!(m.pack("p"), Outcome::Swapped);
    assert_eq!(m.node("p").unwrap(), node);
    let after = m.fs.getattr(node, None).unwrap();
    assert!(after.blocks < before.blocks);
    let rest = |a: Attr| Attr {
        blocks: 0,
        blksize: 0,
        atime: (0, 0),
        ..a
    };
    assert_eq!(rest(after), rest(before));
    m.fs.write(fh, 10, b"through the old handle").unwrap();
    content[10..32].copy_from_slice(b"through the old handle");
    assert!(m.fs.read(fh, 0, 1 << 20).unwrap() == content);
    let snapshot = m.fs.snapshot(Path::new("p")).unwrap();
    let temp = m.fs.archive().temp_file().unwrap();
    temp.file().write_all_at(&content, 0).unwrap();
    assert_eq!(
        m.fs.finish_unpack(snapshot, temp).unwrap(),
        Outcome::Swapped
    );
    assert!(std::fs::read(m.backing("p")).unwrap() == content);
    assert!(!m.backing("p.vortex").exists());
    m.fs.write(fh, 0, b"plain").unwrap();
    assert_eq!(std::fs::read(m.backing("p")).unwrap()[..5], *b"plain");
    m.fs.release(fh).unwrap();
}

#[test]
fn file_changed_meanwhile_is_left_alone() {
    let m = Mounted::new();
    m.put("a", &data(BLOCK, 1));
    std::fs::write(m.backing("p"), data(BLOCK, 1)).unwrap();
    type Change<'a> = &'a dyn Fn(&Mounted, &str);
    let root = NodeId::ROOT;
    let changes: [Change<'_>; 4] = [
        &|m, name| {
            let fh = m.open(name, RDWR);
            m.fs.write(fh, 0, b"changed").unwrap();
            m.fs.release(fh).unwrap();
        },
        &|m, name| {
            let set = SetAttr {
                size: Some(5),
                ..SetAttr::default()
            };
            m.fs.setattr(m.node(name).unwrap(), None, set).unwrap();
        },
        &|m, name| {
            m.fs.link(m.node(name).unwrap(), root, os(&format!("{name}2")))
                .map(drop)
                .unwrap()
        },
        &|m, name| {
            m.fs.unlink(root, os(name)).unwrap();
            m.put(name, b"another");
        },
    ];
    for name in ["a", "p"] {
        for (i, change) in changes.iter().enumerate() {
            let snapshot = m.fs.snapshot(Path::new(name)).unwrap();
            let temp = m.sealed(&snapshot);
            change(&m, name);
            let want = m.get(name).unwrap();
            assert_eq!(
                m.fs.finish_repack(snapshot, temp).unwrap(),
                Outcome::Changed,
                "{name} {i}"
            );
            assert!(m.get(name).unwrap() == want);
        }
    }
    let leftovers = std::fs::read_dir(m.backing(".vortex/tmp")).unwrap().count();
    assert_eq!(leftovers, 0);
}

#[test]
fn file_with_several_names_is_packed_in_place_and_stays_one_file() {
    let m = Mounted::new();
    let line = |i: usize| format!("{i},{},{:.3},ok\n", i * i % 977, (i as f64).sin());
    let mut content: Vec<u8> = (0..3000).flat_map(|i| line(i).into_bytes()).collect();
    content.truncate(3 * BLOCK + 99);
    let node = m.put("a", &content);
    m.fs.link(node, NodeId::ROOT, os("b")).unwrap();
    let snapshot = m.fs.snapshot(Path::new("a")).unwrap();
    assert_eq!((snapshot.links(), snapshot.is_segment()), (2, true));
    let before = m.fs.getattr(node, None).unwrap();
    let live = |snapshot: &Snapshot<'_>| snapshot.summary().unwrap().live_bytes;
    let stored = live(&snapshot);
    m.fs.repack_in_place(&snapshot, 2, &smaller, &|_| {})
        .unwrap();
    assert!(live(&snapshot) < stored, "{} of {stored}", live(&snapshot));
    drop(snapshot);
    assert!(m.get("b").unwrap() == content);
    assert_eq!(m.fs.getattr(node, None).unwrap().mtime, before.mtime);
    let m = m.again(false);
    assert_eq!(m.attr("a").ino, m.attr("b").ino);
    assert!(m.get("a").unwrap() == content);
}

#[test]
fn wrong_encoding_never_replaces_a_block() {
    let m = Mounted::new();
    let content = data(2 * BLOCK, 1);
    let node = m.put("a", &content);
    m.fs.link(node, NodeId::ROOT, os("b")).unwrap();
    let snapshot = m.fs.snapshot(Path::new("a")).unwrap();
    let broken = |data: &[u8]| crate::codec::encode_fresh(&vec![0; data.len()]);
    assert!(
        m.fs.repack_in_place(&snapshot, 2, &broken, &|_| {})
            .is_err()
    );
    drop(snapshot);
    assert!(m.get("a").unwrap() == content);
    assert!(m.again(true).get("b").unwrap() == content);
}

#[test]
fn snapshot_bypasses_the_cache() {
    let m = Mounted::new();
    m.put("a", &data(20 * BLOCK, 1));
    let m = m.again(true);
    let snapshot = m.fs.snapshot(Path::new("a")).unwrap();
    let mut buf = vec![0; 20 * BLOCK];
    snapshot.read_at(&mut buf, 0).unwrap();
    assert!(buf == data(20 * BLOCK, 1));
    assert_eq!(m.fs.stats().cache_bytes, 0);
}
