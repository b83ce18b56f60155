//! Times, sizes, extended attributes.

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
