//! What survives the end of the process, in order and otherwise.

use std::os::fd::AsFd;
use std::time::Instant;

use super::*;
use crate::fs::content::Content;
use crate::fs::rename::End;
use crate::fs::sync::{lock, read};
use crate::store::names;

#[test]
fn synced_content_survives_a_kill_and_unsynced_content_damages_nothing() {
    let m = Mounted::new();
    let synced = data(3 * BLOCK, 1);
    let (_, fh) = m.create("a");
    m.fs.write(fh, 0, &synced).unwrap();
    m.fs.fsync(fh, true).unwrap();
    m.fs.write(fh, 100, &data(2 * BLOCK, 2)).unwrap();
    m.fs.store_or_note(&m.fs.handles.file(fh).unwrap().node, false);
    let m = m.again(false);
    assert!(
        m.get("a").unwrap() == synced,
        "appended blocks without a commit are not content"
    );
    let fh = m.open("a", RDWR);
    m.fs.write(fh, 0, b"goes on").unwrap();
    m.fs.fsync(fh, true).unwrap();
    assert_eq!(m.again(false).get("a").unwrap()[..7], *b"goes on");
}

#[test]
fn closed_file_is_committed_without_being_asked() {
    let m = Mounted::with(FsOptions {
        commit_closed_after: Duration::ZERO,
        ..options()
    });
    let content = data(3 * BLOCK, 1);
    m.put("a", &content);
    for _ in 0..100 {
        if m.fs.stats().dirty_files == 0 {
            break;
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    assert!(m.again(false).get("a").unwrap() == content);
}

#[test]
fn open_file_is_committed_without_being_asked() {
    let m = Mounted::with(FsOptions {
        commit_after: Duration::from_millis(50),
        ..options()
    });
    let (_, fh) = m.create("a");
    m.fs.write(fh, 0, b"content").unwrap();
    for _ in 0..100 {
        if m.fs.stats().commits > 0 {
            break;
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    assert_eq!(m.again(false).get("a").unwrap(), b"content");
}

#[test]
fn a_file_that_was_closed_while_it_was_committed_is_due_as_closed_files_are() {
    let m = Mounted::with(FsOptions {
        commit_closed_after: Duration::from_secs(600),
        ..options()
    });
    let (_, fh) = m.create("a");
    let node = Arc::clone(&m.fs.handles.file(fh).unwrap().node);
    m.fs.write(fh, 0, b"content").unwrap();
    let file = m.fs.prepare(&node).unwrap().unwrap();
    m.fs.write(fh, 0, b"changed").unwrap();
    m.fs.release(fh).unwrap();
    file.sync_data().unwrap();
    m.fs.write_root(&node).unwrap();
    m.fs.conclude(&node).unwrap();
    match &*read(&node.content) {
        Content::Segment(open) => {
            let due = open.due.expect("it is dirty") - Instant::now();
            assert!(due <= m.fs.options.commit_closed_after, "{due:?}");
        }
        _ => panic!("it is open"),
    }
}

#[test]
fn many_files_are_committed_together() {
    let m = Mounted::with(FsOptions {
        commit_closed_after: Duration::ZERO,
        ..options()
    });
    for i in 0..50 {
        m.put(&format!("f{i}"), &data(100, i));
    }
    m.fs.commit_all().unwrap();
    let m = m.again(false);
    for i in 0..50 {
        assert_eq!(m.get(&format!("f{i}")).unwrap(), data(100, i));
    }
}

#[test]
fn replacing_a_file_by_rename_never_loses_both() {
    let m = Mounted::new();
    m.put("config", b"old");
    m.fs.commit_all().unwrap();
    m.put("config.tmp", b"new");
    let root = NodeId::ROOT;
    m.fs.rename(
        root,
        os("config.tmp"),
        root,
        os("config"),
        RenameFlags::Replace,
    )
    .unwrap();
    assert_eq!(m.again(false).get("config").unwrap(), b"new");
}

#[test]
fn shutdown_commits_everything() {
    let m = Mounted::new();
    let (_, fh) = m.create("open");
    m.fs.write(fh, 0, b"still open").unwrap();
    m.put("closed", b"closed");
    let m = m.again(true);
    assert_eq!(m.get("open").unwrap(), b"still open");
    assert_eq!(m.get("closed").unwrap(), b"closed");
}

#[test]
fn created_file_is_an_empty_file_after_a_kill() {
    let m = Mounted::new();
    let (_, fh) = m.create("a");
    m.fs.write(fh, 0, b"lost").unwrap();
    let m = m.again(false);
    assert_eq!(m.get("a").unwrap(), b"");
    assert_eq!(m.backing("a.vortex").metadata().unwrap().len(), 0);
    assert_eq!(names::segment_name(os("a")), "a.vortex");
}

#[test]
fn directories_with_names_to_sync_are_bounded_and_are_synced_without_being_asked() {
    let m = Mounted::new();
    // As if on another file system, which cannot be synced.
    std::fs::write(m.backing("no directory"), "").unwrap();
    let root = std::fs::File::open(m.dir.path()).unwrap();
    let (mut other, _) = Backing::open(
        root.as_fd(),
        "no directory".as_ref(),
        crate::store::names::Kind::Other,
    )
    .unwrap();
    other.key.dev ^= 1 << 40;
    let other = Arc::new(other);
    m.fs.nodes.note(&other);
    let made: Vec<_> = (0..=unsynced::MOST_NOTED)
        .map(|n| {
            let name = format!("d{n}");
            let (dir, _) = m.fs.mkdir(NodeId::ROOT, os(&name), 0o755, me()).unwrap();
            (dir, m.fs.mknod(dir, os("f"), 0o600, 0, me()).unwrap().0)
        })
        .collect();
    let key = |dir| m.fs.node(dir).unwrap().key();
    let first = key(made[0].0);
    m.fs.forget(made[0].1, 1);
    assert!(m.fs.nodes.noted(first).is_some());
    for &(_, file) in &made[1..] {
        m.fs.forget(file, 1);
    }
    until("they are synced", || m.fs.nodes.noted(first).is_none());
    assert!(
        m.fs.nodes.noted(other.key).is_some(),
        "what was not synced is forgotten"
    );
    // Nothing else keeps a directory that is gone.
    let left = Arc::downgrade(&m.fs.node(made[0].0).unwrap().backing().unwrap());
    m.fs.unlink(made[0].0, os("f")).unwrap();
    m.fs.rmdir(NodeId::ROOT, os("d0")).unwrap();
    m.fs.forget(made[0].0, 1);
    assert!(left.upgrade().is_none());
}

#[track_caller]
fn until(what: &str, mut true_now: impl FnMut() -> bool) {
    // To sync a file system takes as long as all that others have written to it.
    for _ in 0..2400 {
        if true_now() {
            return;
        }
        std::thread::sleep(Duration::from_millis(25));
    }
    panic!("waited in vain until {what}");
}

/// So many new directories.
fn dirs(m: &Mounted, count: usize) -> Vec<NodeId> {
    let make = |n| {
        let name = format!("d{n}");
        let made = m.fs.mkdir(NodeId::ROOT, os(&name), 0o755, me());
        made.unwrap().0
    };
    (0..count).map(make).collect()
}

#[test]
fn a_file_with_very_many_new_names_holds_few_directories() {
    let m = Mounted::new();
    let (file, _) = m.fs.mknod(NodeId::ROOT, os("f"), 0o600, 0, me()).unwrap();
    let node = m.fs.node(file).unwrap();
    let few = |what| {
        let new = lock(&node.new_in).len();
        assert!(new > 0 && new <= unsynced::MOST_NEW, "{new}: {what}");
    };
    let dirs = dirs(&m, 3 * unsynced::MOST_NEW);
    for &dir in &dirs {
        m.fs.link(file, dir, os("f")).unwrap();
        few("linked");
    }
    for (n, &dir) in dirs.iter().enumerate() {
        let to = dirs[(n + 1) % dirs.len()];
        m.fs.rename(dir, os("f"), to, os("g"), RenameFlags::Replace)
            .unwrap();
        few("renamed");
    }
    for &dir in &dirs {
        // As if something that is gone had got a name in it.
        m.fs.nodes.note(&m.fs.node(dir).unwrap().backing().unwrap());
        m.fs.lookup(dir, os("g")).unwrap();
        few("looked up");
    }
}

#[test]
fn a_file_with_several_new_names_is_forgotten_only_when_they_are_synced() {
    let m = Mounted::new();
    let dirs = dirs(&m, 2);
    let (file, _) = m.fs.mknod(dirs[0], os("f"), 0o600, 0, me()).unwrap();
    m.fs.link(file, dirs[1], os("f")).unwrap();
    let keys = [0, 1].map(|n: usize| m.fs.node(dirs[n]).unwrap().backing().unwrap().key);
    let new = lock(&m.fs.node(file).unwrap().new_in).len();
    assert_eq!(new, 2);
    m.fs.forget(file, 2);
    until("it is forgotten", || m.fs.node(file).is_err());
    for key in keys {
        assert!(
            m.fs.nodes.noted(key).is_none(),
            "it was forgotten too early"
        );
    }
}

#[test]
fn a_renamed_file_has_a_new_name_even_if_it_is_not_found_under_it() {
    let m = Mounted::new();
    let dir = dirs(&m, 1)[0];
    let (file, _) = m.create("f");
    let node = m.fs.node(file).unwrap();
    m.fs.sync_names(&node).unwrap();
    let to = End {
        dir: &m.fs.node(dir).unwrap(),
        name: os("f"),
    };
    m.fs.renamed(to, Some(&node));
    assert_eq!(lock(&node.new_in).len(), 1);
}
