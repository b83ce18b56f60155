//! Times, sizes, extended attributes.

use std::os::unix::fs::FileExt;

use super::*;

fn tick() {
    std::thread::sleep(Duration::from_millis(12));
}

#[test]
fn storing_does_not_change_times() {
    let m = Mounted::new();
    let (node, fh) = m.create("a");
    m.fs.write(fh, 0, &data(3 * BLOCK, 1)).unwrap();
    let before = m.fs.getattr(node, None).unwrap();
    tick();
    m.fs.fsync(fh, false).unwrap();
    let after = m.fs.getattr(node, None).unwrap();
    assert_eq!((before.mtime, before.ctime), (after.mtime, after.ctime));
    m.fs.release(fh).unwrap();
    let closed = m.fs.getattr(node, None).unwrap();
    assert_eq!((before.mtime, before.ctime), (closed.mtime, closed.ctime));
    let m = m.again(true);
    assert_eq!(m.attr("a").mtime, before.mtime);
}

#[test]
fn times_set_while_content_is_unstored_stay() {
    let m = Mounted::new();
    let (node, fh) = m.create("a");
    m.fs.write(fh, 0, b"content").unwrap();
    let time = SetTime::At((-5, 123_456_789));
    let set = SetAttr {
        mtime: Some(time),
        atime: Some(time),
        ..SetAttr::default()
    };
    assert_eq!(
        m.fs.setattr(node, None, set).unwrap().mtime,
        (-5, 123_456_789)
    );
    m.fs.release(fh).unwrap();
    let m = m.again(true);
    assert_eq!(m.attr("a").mtime, (-5, 123_456_789));
}

#[test]
fn changes_move_the_times_forward() {
    let m = Mounted::new();
    let (node, fh) = m.create("a");
    let mut last = m.fs.getattr(node, None).unwrap();
    let set = |set| move |m: &Mounted| m.fs.setattr(node, None, set).map(drop).unwrap();
    type Change<'a> = Box<dyn Fn(&Mounted) + 'a>;
    let changes: [(bool, Change<'_>); 5] = [
        (
            true,
            Box::new(|m| m.fs.write(fh, 0, b"x").map(drop).unwrap()),
        ),
        (
            true,
            Box::new(set(SetAttr {
                size: Some(9),
                ..SetAttr::default()
            })),
        ),
        (
            false,
            Box::new(set(SetAttr {
                mode: Some(0o600),
                ..SetAttr::default()
            })),
        ),
        (true, Box::new(|m| m.fs.fallocate(fh, 3, 0, 4).unwrap())),
        (
            false,
            Box::new(|m| m.fs.setxattr(node, os("user.a"), b"v", 0).unwrap()),
        ),
    ];
    for (step, (content, change)) in changes.iter().enumerate() {
        tick();
        change(&m);
        let now = m.fs.getattr(node, None).unwrap();
        assert!(now.ctime > last.ctime, "step {step}");
        assert_eq!(now.mtime > last.mtime, *content, "step {step}");
        last = now;
        m.fs.fsync(fh, true).unwrap();
        assert_eq!(
            m.fs.getattr(node, None).unwrap().ctime,
            last.ctime,
            "step {step}"
        );
    }
}

#[test]
fn closed_segment_shows_its_logical_size_and_stored_blocks() {
    let m = Mounted::new();
    m.put("a", &vec![7; 50 * BLOCK]);
    let m = m.again(true);
    let attr = m.attr("a");
    assert_eq!(attr.size, 50 * BLOCK as u64);
    assert!(
        attr.blocks * 512 < 10 * BLOCK as u64,
        "{} blocks",
        attr.blocks
    );
    assert_eq!(m.fs.stats().decoded_blocks, 0);
}

#[test]
fn extended_attributes_survive_packing_and_unpacking() {
    let m = Mounted::new();
    std::fs::write(m.backing("p"), data(9 * BLOCK, 1)).unwrap();
    let node = m.node("p").unwrap();
    m.fs.setxattr(node, os("user.long"), &data(3000, 9), 0)
        .unwrap();
    m.fs.setxattr(node, os("user.b"), b"", 0).unwrap();
    m.fs.setattr(
        node,
        None,
        SetAttr {
            mode: Some(0o4751),
            ..SetAttr::default()
        },
    )
    .unwrap();
    assert_eq!(m.pack("p"), Outcome::Swapped);
    assert!(m.backing("p.vortex").is_file() && !m.backing("p").exists());
    assert_eq!(m.fs.getxattr(node, os("user.long")).unwrap(), data(3000, 9));
    assert_eq!(m.fs.getxattr(node, os("user.b")).unwrap(), b"");
    assert_eq!(m.attr("p").perm, 0o4751);
    m.fs.removexattr(node, os("user.b")).unwrap();
    assert_eq!(m.fs.listxattr(node).unwrap(), b"user.long\0");
    assert_eq!(
        m.fs.getxattr(node, os("user.b")).unwrap_err().errno(),
        rustix::io::Errno::NODATA.raw_os_error()
    );
}

#[test]
fn packing_and_unpacking_give_nobody_rights_that_a_directory_hands_down() {
    // Owner all, user 1 all, group and others nothing: what each new file in `.vortex/tmp` is given.
    let entries: [(u16, u16, u32); 5] = [
        (1, 7, u32::MAX),
        (2, 7, 1),
        (4, 0, u32::MAX),
        (16, 7, u32::MAX),
        (32, 0, u32::MAX),
    ];
    let mut acl = 2u32.to_le_bytes().to_vec();
    for (tag, perm, id) in entries {
        acl.extend_from_slice(&tag.to_le_bytes());
        acl.extend_from_slice(&perm.to_le_bytes());
        acl.extend_from_slice(&id.to_le_bytes());
    }
    let m = Mounted::new();
    let set = rustix::fs::setxattr(
        m.backing(".vortex/tmp"),
        "system.posix_acl_default",
        &acl,
        rustix::fs::XattrFlags::empty(),
    );
    if set.is_err() {
        println!("skipped: no ACLs here");
        return;
    }
    std::fs::write(m.backing("p"), data(9 * BLOCK, 1)).unwrap();
    let node = m.node("p").unwrap();
    let mode = SetAttr {
        mode: Some(0o640),
        ..SetAttr::default()
    };
    m.fs.setattr(node, None, mode).unwrap();
    let as_before = |form: &str| {
        assert!(m.backing(form).is_file(), "{form}");
        assert_eq!(m.fs.listxattr(node).unwrap(), b"", "{form}");
        assert_eq!(m.attr("p").perm, 0o640, "{form}");
    };
    assert_eq!(m.pack("p"), Outcome::Swapped);
    as_before("p.vortex");
    let snapshot = m.fs.snapshot(Path::new("p")).unwrap();
    let plain = m.fs.archive().temp_file().unwrap();
    let swapped = m.fs.finish_unpack(snapshot, plain).unwrap();
    assert_eq!(swapped, Outcome::Swapped);
    as_before("p");
}

/// Reads from files that `f` makes on this thread: how many, and of how many bytes together.
fn reads_of(f: impl FnOnce()) -> (u64, u64) {
    let io = std::fs::File::open("/proc/thread-self/io").unwrap();
    let look = || {
        let mut text = [0; 512];
        let n = io.read_at(&mut text, 0).unwrap();
        let text = String::from_utf8_lossy(&text[..n]);
        let field = |name: &str| -> u64 {
            let value = text.lines().find_map(|line| line.strip_prefix(name));
            value.unwrap().trim().parse().unwrap()
        };
        (field("syscr:"), field("rchar:"), n as u64)
    };
    let (calls, bytes, told) = look();
    f();
    let (calls_now, bytes_now, _) = look();
    // The first look counts among what the second one tells.
    (calls_now - calls - 1, bytes_now - bytes - told)
}

#[test]
fn stat_of_a_segment_takes_one_small_read_and_then_none() {
    let m = Mounted::new();
    let len = 40 * BLOCK + 5;
    for name in ["fresh", "packed"] {
        m.put(name, &data(len, 1));
    }
    assert_eq!(m.pack("packed"), Outcome::Swapped);
    let m = m.again(true);
    for name in ["fresh", "packed"] {
        let mut attr = None;
        let (calls, bytes) = reads_of(|| {
            attr = m.fs.lookup(NodeId::ROOT, os(name)).ok();
        });
        let (node, attr) = attr.unwrap();
        assert_eq!(attr.size, len as u64);
        assert_eq!(calls, 1, "{name}");
        assert!(bytes <= 2048, "{name}: {bytes} bytes");
        let again = reads_of(|| {
            for _ in 0..10 {
                assert_eq!(m.fs.getattr(node, None).unwrap().size, len as u64);
                assert_eq!(m.node(name).unwrap(), node);
            }
        });
        assert_eq!(again, (0, 0), "{name}");
    }
}
