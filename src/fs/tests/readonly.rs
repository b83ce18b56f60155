//! Archives opened for reading.

use super::*;

#[test]
fn read_only_archive_refuses_every_change() {
    let m = Mounted::new();
    let content = data(2 * BLOCK, 1);
    m.put("a", &content);
    m.fs.mkdir(NodeId::ROOT, os("d"), 0o755, me()).unwrap();
    let m = m.again_as(true, Access::Read);
    let (root, node) = (NodeId::ROOT, m.node("a").unwrap());
    let results = [
        m.fs.create(root, os("n"), 0o644, RDWR, me()).map(drop),
        m.fs.mkdir(root, os("n"), 0o755, me()).map(drop),
        m.fs.mknod(root, os("n"), 0o100_644, 0, me()).map(drop),
        m.fs.symlink(root, os("n"), os("t"), me()).map(drop),
        m.fs.link(node, root, os("n")).map(drop),
        m.fs.unlink(root, os("a")),
        m.fs.rmdir(root, os("d")),
        m.fs.rename(root, os("a"), root, os("n"), RenameFlags::Replace),
        m.fs.setattr(node, None, SetAttr::default()).map(drop),
        m.fs.setxattr(node, os("user.x"), b"", 0),
        m.fs.removexattr(node, os("user.x")),
        m.fs.open(node, RDWR).map(drop),
        m.fs.open(node, OFlags::TRUNC.bits() as i32).map(drop),
        m.fs.snapshot(Path::new("a")).map(drop),
    ];
    for (i, result) in results.into_iter().enumerate() {
        assert!(matches!(result, Err(FsError::ReadOnly)), "{i}: {result:?}");
    }
    assert!(m.get("a").unwrap() == content);
    assert_eq!(m.names(""), ["a", "d"]);
}

#[test]
fn reader_beside_a_writer_sees_what_was_committed() {
    let m = Mounted::new();
    let (_, fh) = m.create("a");
    m.fs.write(fh, 0, &data(4 * BLOCK, 1)).unwrap();
    m.fs.fsync(fh, false).unwrap();
    let archive = Archive::open(m.dir.path(), Access::Read).unwrap();
    let reader = Fs::new(archive, options()).unwrap();
    let node = reader.resolve(Path::new("a")).unwrap();
    let seen = reader.open(node, RDONLY).unwrap();
    assert!(reader.read(seen, 0, 1 << 20).unwrap() == data(4 * BLOCK, 1));
    for round in 2..6 {
        // Every block is overwritten, so what the reader knew is given back to the file system.
        m.fs.write(fh, 0, &data(4 * BLOCK + 5, round)).unwrap();
        m.fs.fsync(fh, false).unwrap();
        let read = reader.read(seen, 0, 1 << 20).unwrap();
        let known = [
            data(4 * BLOCK, 1),
            data(4 * BLOCK + 5, round - 1),
            data(4 * BLOCK + 5, round),
        ];
        assert!(known.contains(&read), "round {round}");
        std::thread::sleep(Duration::from_millis(12));
        let attr = reader.getattr(node, None).unwrap();
        assert_eq!(attr.size, 4 * BLOCK as u64 + 5);
        assert!(
            reader.read(seen, 0, 1 << 20).unwrap() == data(4 * BLOCK + 5, round),
            "round {round}"
        );
    }
}

/// Between any two of its reads the writer may commit, and give back what the reader is about to read.
#[test]
fn reader_beside_a_busy_writer_never_takes_a_commit_for_damage() {
    let m = Mounted::new();
    let (_, fh) = m.create("a");
    let write = |seed| {
        m.fs.write(fh, 0, &data(4 * BLOCK, seed)).unwrap();
        m.fs.fsync(fh, true).unwrap();
    };
    write(1);
    let end = std::time::Instant::now() + Duration::from_secs(3);
    std::thread::scope(|threads| {
        threads.spawn(|| {
            let seeds = (1..4).cycle();
            seeds
                .take_while(|_| std::time::Instant::now() < end)
                .for_each(write);
        });
        for _ in 0..2 {
            threads.spawn(|| {
                while std::time::Instant::now() < end {
                    let archive = Archive::open(m.dir.path(), Access::Read).unwrap();
                    let reader = Fs::new(archive, options()).unwrap();
                    for _ in 0..20 {
                        let (node, attr) = reader.lookup(NodeId::ROOT, os("a")).unwrap();
                        assert_eq!(attr.size, 4 * BLOCK as u64);
                        let fh = reader.open(node, RDONLY).unwrap();
                        let read = reader.read(fh, 0, 1 << 20).unwrap();
                        assert!((1..4).any(|seed| read == data(4 * BLOCK, seed)));
                        reader.release(fh).unwrap();
                        reader.forget(node, 1);
                    }
                }
            });
        }
    });
}
