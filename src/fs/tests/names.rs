//! Names: mapping, hiding, limits, listing, renaming.

use super::*;

#[test]
fn private_directory_is_hidden_and_its_name_is_free() {
    let m = Mounted::new();
    assert!(m.names("").is_empty());
    assert!(matches!(m.node(".vortex"), Err(FsError::NotFound)));
    assert!(matches!(
        m.fs.rmdir(NodeId::ROOT, os(".vortex")),
        Err(FsError::NotFound)
    ));
    m.fs.mkdir(NodeId::ROOT, os(".vortex"), 0o755, me())
        .unwrap();
    assert_eq!(m.names(""), [".vortex"]);
    assert!(m.backing(".vortex~plain").is_dir());
    m.fs.rmdir(NodeId::ROOT, os(".vortex")).unwrap();
    assert!(m.backing(".vortex/format").is_file());
}

#[test]
fn names_that_look_like_segments_are_ordinary() {
    let m = Mounted::new();
    m.put("x.vortex", b"file");
    m.put("x", b"other");
    m.fs.symlink(NodeId::ROOT, os("l.vortex"), os("to"), me())
        .unwrap();
    m.fs.mkdir(NodeId::ROOT, os("d.vortex~plain"), 0o755, me())
        .unwrap();
    let m = m.again(true);
    assert_eq!(m.names(""), ["d.vortex~plain", "l.vortex", "x", "x.vortex"]);
    assert_eq!(m.get("x.vortex").unwrap(), b"file");
    assert_eq!(m.get("x").unwrap(), b"other");
    assert_eq!(m.fs.readlink(m.node("l.vortex").unwrap()).unwrap(), b"to");
}

#[test]
fn foreign_entries_are_shown_under_their_own_name() {
    let m = Mounted::new();
    std::fs::create_dir(m.backing("d.vortex")).unwrap();
    std::fs::write(m.backing("d.vortex/p"), b"plain").unwrap();
    std::os::unix::fs::symlink("to", m.backing("s.vortex")).unwrap();
    assert_eq!(m.names(""), ["d.vortex", "s.vortex"]);
    assert_eq!(m.get("d.vortex/p").unwrap(), b"plain");
    // A plain file must not get a name that makes it look like a segment.
    std::fs::write(m.backing("p"), b"not a segment").unwrap();
    let root = NodeId::ROOT;
    m.fs.rename(root, os("p"), root, os("s.vortex"), RenameFlags::Replace)
        .unwrap();
    assert_eq!(m.names(""), ["d.vortex", "s.vortex"]);
    assert_eq!(m.get("s.vortex").unwrap(), b"not a segment");
    std::os::unix::fs::symlink("to", m.backing("t.vortex")).unwrap();
    let exchanged = m.fs.rename(
        root,
        os("s.vortex"),
        root,
        os("t.vortex"),
        RenameFlags::Exchange,
    );
    assert!(matches!(exchanged, Err(FsError::Invalid)));
}

#[test]
fn names_may_be_as_long_as_statfs_says() {
    let m = Mounted::new();
    let longest = m.fs.statfs().unwrap().namelen as usize;
    assert_eq!(longest, 248);
    let (fits, too_long) = ("x".repeat(longest), "x".repeat(longest + 1));
    m.put(&fits, b"content");
    m.fs.link(
        m.node(&fits).unwrap(),
        NodeId::ROOT,
        os(&"y".repeat(longest)),
    )
    .unwrap();
    let root = NodeId::ROOT;
    for result in [
        m.fs.create(root, os(&too_long), 0o644, RDWR, me())
            .map(drop),
        m.fs.mkdir(root, os(&too_long), 0o755, me()).map(drop),
        m.fs.symlink(root, os(&too_long), os("to"), me()).map(drop),
        m.fs.rename(root, os(&fits), root, os(&too_long), RenameFlags::Replace),
        m.fs.lookup(root, os(&too_long)).map(drop),
        m.fs.lookup(root, os(&"x".repeat(400))).map(drop),
    ] {
        assert!(matches!(result, Err(FsError::NameTooLong)), "{result:?}");
    }
    assert_eq!(m.again(true).get(&fits).unwrap(), b"content");
}

#[test]
fn nothing_leads_out_of_the_backing_directory() {
    let m = Mounted::new();
    let outside = tempfile::tempdir().unwrap();
    std::fs::write(outside.path().join("secret"), b"secret").unwrap();
    std::os::unix::fs::symlink(outside.path(), m.backing("out")).unwrap();
    std::os::unix::fs::symlink(outside.path().join("secret"), m.backing("s.vortex")).unwrap();
    let out = m.node("out").unwrap();
    assert!(matches!(
        m.fs.lookup(out, os("secret")),
        Err(FsError::NotADirectory)
    ));
    assert!(matches!(m.fs.opendir(out), Err(FsError::NotADirectory)));
    assert!(m.fs.open(out, RDONLY).is_err());
    assert!(matches!(m.node("s"), Err(FsError::NotFound)));
    for name in ["..", ".", "", "a/b", "../x"] {
        assert!(m.fs.lookup(NodeId::ROOT, os(name)).is_err(), "{name:?}");
        assert!(
            m.fs.mkdir(NodeId::ROOT, os(name), 0o755, me()).is_err(),
            "{name:?}"
        );
    }
}

#[test]
fn listing_survives_removal_of_what_it_listed() {
    let m = Mounted::new();
    for i in 0..1500 {
        std::fs::write(m.backing(&format!("f{i:04}")), b"").unwrap();
    }
    let fh = m.fs.opendir(NodeId::ROOT).unwrap();
    let (mut seen, mut offset) = (Vec::new(), 0);
    loop {
        let entries = m.fs.readdir(fh, offset).unwrap();
        let entries = entries.iter().take(100);
        let Some(last) = entries.clone().next_back() else {
            break;
        };
        offset = last.offset;
        for entry in entries.filter(|e| e.kind == Kind::File) {
            m.fs.unlink(NodeId::ROOT, &entry.name).unwrap();
            seen.push(entry.name.clone());
        }
    }
    seen.sort();
    seen.dedup();
    assert_eq!(seen.len(), 1500);
    assert!(m.names("").is_empty());
    assert_eq!(
        m.fs.readdir(fh, 0).unwrap().len(),
        2,
        "reading from the start lists anew"
    );
}

#[test]
fn listed_inode_numbers_are_those_of_stat() {
    let m = Mounted::new();
    m.put("a", b"x");
    std::fs::write(m.backing("p"), b"y").unwrap();
    m.fs.mkdir(NodeId::ROOT, os("d"), 0o755, me()).unwrap();
    m.pack("a");
    m.pack("p");
    let fh = m.fs.opendir(NodeId::ROOT).unwrap();
    for entry in &*m.fs.readdir(fh, 0).unwrap() {
        let name = entry.name.to_str().unwrap();
        let path = if name.starts_with('.') { "" } else { name };
        assert_eq!(entry.ino, m.attr(path).ino, "{name}");
    }
}

#[test]
fn interrupted_swap_shows_the_segment_and_leaves_nothing_behind() {
    let m = Mounted::new();
    m.put("a", b"new");
    let m = m.again(true);
    std::fs::write(m.backing("a"), b"old").unwrap();
    assert_eq!(m.names(""), ["a"]);
    assert_eq!(m.get("a").unwrap(), b"new");
    let root = NodeId::ROOT;
    m.fs.rename(root, os("a"), root, os("b"), RenameFlags::Replace)
        .unwrap();
    assert_eq!(m.names(""), ["b"], "the plain twin must not come back");
    std::fs::write(m.backing("b"), b"old").unwrap();
    m.fs.unlink(root, os("b")).unwrap();
    assert!(m.names("").is_empty());
}

#[test]
fn every_pair_of_forms_is_renamed_and_exchanged() {
    for (from_plain, to_plain) in [(false, false), (false, true), (true, false), (true, true)] {
        for flags in [RenameFlags::Replace, RenameFlags::Exchange] {
            let m = Mounted::new();
            for (name, plain) in [("a", from_plain), ("b", to_plain)] {
                let content = data(2 * BLOCK + 7, name.as_bytes()[0]);
                if plain {
                    std::fs::write(m.backing(name), &content).unwrap();
                } else {
                    m.put(name, &content);
                }
            }
            let open = [m.open("a", RDWR), m.open("b", RDWR)];
            let root = NodeId::ROOT;
            m.fs.rename(root, os("a"), root, os("b"), flags).unwrap();
            let (a, b) = (data(2 * BLOCK + 7, b'a'), data(2 * BLOCK + 7, b'b'));
            assert!(m.get("b").unwrap() == a);
            if flags == RenameFlags::Exchange {
                assert!(m.get("a").unwrap() == b);
            } else {
                assert!(matches!(m.node("a"), Err(FsError::NotFound)));
            }
            for (fh, want) in open.into_iter().zip([&a, &b]) {
                assert!(
                    m.fs.read(fh, 0, 1 << 20).unwrap() == *want,
                    "open files stay what they are"
                );
                m.fs.write(fh, 0, b"usable").unwrap();
            }
            let again =
                m.fs.rename(root, os("b"), root, os("b2"), RenameFlags::NoReplace);
            again.unwrap();
        }
    }
}

#[test]
fn new_entries_belong_to_the_caller() {
    if !rustix::process::geteuid().is_root() {
        println!("skipped: needs root to give files away");
        return;
    }
    let m = Mounted::new();
    let caller = Caller {
        uid: 1234,
        gid: 2345,
        umask: 0o027,
    };
    let root = NodeId::ROOT;
    let (dir, attr) = m.fs.mkdir(root, os("d"), 0o777, caller).unwrap();
    assert_eq!((attr.uid, attr.gid, attr.perm), (1234, 2345, 0o750));
    let set = SetAttr {
        mode: Some(0o2775),
        gid: Some(77),
        ..SetAttr::default()
    };
    m.fs.setattr(dir, None, set).unwrap();
    let (_, attr, _) = m.fs.create(dir, os("f"), 0o666, RDWR, caller).unwrap();
    assert_eq!((attr.uid, attr.gid, attr.perm), (1234, 77, 0o640));
    let (_, attr) = m.fs.mkdir(dir, os("sub"), 0o777, caller).unwrap();
    assert_eq!((attr.uid, attr.gid, attr.perm), (1234, 77, 0o2750));
    let (_, attr) = m.fs.symlink(dir, os("l"), os("to"), caller).unwrap();
    assert_eq!((attr.uid, attr.gid), (1234, 77));
    let (_, attr) = m.fs.mknod(dir, os("p"), 0o010_666, 0, caller).unwrap();
    assert_eq!((attr.uid, attr.perm, attr.kind), (1234, 0o640, Kind::Fifo));
}

/// Who must be told to forget a file is told where it is now.
#[test]
fn a_file_that_was_moved_is_known_by_its_new_place() {
    let m = Mounted::new();
    let (dir, _) = m.fs.mkdir(NodeId::ROOT, os("d"), 0o755, me()).unwrap();
    std::fs::write(m.backing("plain"), "x").unwrap();
    let place = |id| m.fs.node(id).unwrap().place();
    for (from, to, flags) in [
        ("a", "a2", RenameFlags::Replace),
        ("plain", "a2", RenameFlags::Replace),
        ("b", "a2", RenameFlags::Exchange),
    ] {
        let moved = match m.node(from) {
            Ok(node) => node,
            Err(_) => m.put(from, b"content"),
        };
        let replaced = m.fs.lookup(dir, os(to));
        m.fs.rename(NodeId::ROOT, os(from), dir, os(to), flags)
            .unwrap();
        assert_eq!(place(moved), (dir, to.into()));
        if flags == RenameFlags::Exchange {
            assert_eq!(place(replaced.unwrap().0), (NodeId::ROOT, from.into()));
        }
    }
}

/// As a swap leaves it that could not remove the plain file.
#[test]
fn a_plain_file_that_a_segment_hides_is_not_found_by_its_listing() {
    let m = Mounted::new();
    std::fs::write(m.backing("a"), "older").unwrap();
    m.put("b", b"newer");
    let fh = m.fs.opendir(NodeId::ROOT).unwrap();
    let entries = m.fs.readdir(fh, 0).unwrap();
    let listed = entries.iter().find(|e| e.name == "a").unwrap();
    m.fs.shutdown().unwrap();
    std::fs::copy(m.backing("b.vortex"), m.backing("a.vortex")).unwrap();
    let (node, attr) = m.fs.lookup_listed(NodeId::ROOT, listed).unwrap();
    assert_eq!(node, m.node("a").unwrap());
    assert_eq!(attr.size, 5);
    assert_eq!(m.get("a").unwrap(), b"newer");
}
