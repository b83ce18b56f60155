//! Names: made, replaced, exchanged, removed.

use std::path::Path;

use vortex_fs::fs::{NodeId, RenameFlags};

use crate::tree::{Seen, Tree, me};
use crate::world::{RDWR, ROOT, World, noise, os};

fn rename(world: &mut World, from: &str, to: &str, flags: RenameFlags) {
    world.will(|tree: &mut Tree| {
        let (moved, replaced) = (
            tree.remove(Path::new(from)).unwrap(),
            tree.remove(Path::new(to)),
        );
        tree.insert(to.into(), moved);
        if let Some(replaced) = replaced.filter(|_| flags == RenameFlags::Exchange) {
            tree.insert(from.into(), replaced);
        }
    });
    let fs = world.fs();
    fs.rename(ROOT, os(from), ROOT, os(to), flags).unwrap();
    world.sync_dir(ROOT);
}

#[test]
fn making_a_directory_and_a_file_in_it() {
    let Some(mut world) = World::new() else {
        return;
    };
    world.open();
    world.begin();
    world.will(|tree| {
        tree.insert("d".into(), Seen::dir());
    });
    let (dir, _) = world.fs().mkdir(ROOT, os("d"), 0o700, me()).unwrap();
    world.sync_dir(ROOT);
    let fh = world.create(dir, "f", "d/f");
    world.write(fh, "d/f", 0, &noise(5000, 1));
    world.sync(fh, false);
    world.fs().release(fh).unwrap();
    world.survives_every_crash("directory and file");
}

/// As on ext4, a synced file is there after a crash, and so are the new directories above it.
#[test]
fn syncing_a_file_in_new_directories() {
    let Some(mut world) = World::new() else {
        return;
    };
    world.open();
    world.begin();
    let mut dir = ROOT;
    for (name, path) in [("d", "d"), ("e", "d/e")] {
        world.will(|tree| {
            tree.insert(path.into(), Seen::dir());
        });
        dir = world.fs().mkdir(dir, os(name), 0o700, me()).unwrap().0;
    }
    let fh = world.create(dir, "f", "d/e/f");
    world.write(fh, "d/e/f", 0, &noise(5000, 1));
    world.sync(fh, false);
    world.fs().release(fh).unwrap();
    world.survives_every_crash("file in new directories");
}

/// So many directories are synced with all that lies on their file system.
#[test]
fn syncing_a_file_in_many_new_directories() {
    let Some(mut world) = World::new() else {
        return;
    };
    world.open();
    world.begin();
    let (mut dir, mut path) = (ROOT, std::path::PathBuf::new());
    for _ in 0..10 {
        path.push("d");
        let made = path.clone();
        world.will(|tree| {
            tree.insert(made, Seen::dir());
        });
        dir = world.fs().mkdir(dir, os("d"), 0o700, me()).unwrap().0;
    }
    path.push("f");
    let path = path.to_str().unwrap();
    let fh = world.create(dir, "f", path);
    world.write(fh, path, 0, &noise(5000, 1));
    world.sync(fh, false);
    world.fs().release(fh).unwrap();
    world.survives_every_crash("file in many new directories");
}

/// The kernel may forget all of it meanwhile, and then asks for it by name, or lists it, from the root on.
#[test]
fn syncing_a_file_in_new_directories_after_they_were_forgotten() {
    for listed in [false, true] {
        let Some(mut world) = World::new() else {
            return;
        };
        world.open();
        world.begin();
        world.will(|tree| {
            tree.insert("d".into(), Seen::dir());
        });
        let (dir, _) = world.fs().mkdir(ROOT, os("d"), 0o700, me()).unwrap();
        let fh = world.create(dir, "f", "d/f");
        let file = world.fs().node_of_handle(fh).unwrap();
        world.fs().release(fh).unwrap();
        for node in [file, dir] {
            world.fs().forget(node, 1);
        }
        assert_eq!(world.fs().stats().nodes, 1, "the root alone");
        let dir = look_up(&world, ROOT, "d", listed);
        let file = look_up(&world, dir, "f", listed);
        let fh = world.fs().open(file, RDWR).unwrap();
        world.write(fh, "d/f", 0, &noise(5000, 1));
        world.sync(fh, false);
        world.fs().release(fh).unwrap();
        world.survives_every_crash(&format!("file that was forgotten, listed: {listed}"));
    }
}

fn look_up(world: &World, dir: NodeId, name: &str, listed: bool) -> NodeId {
    let fs = world.fs();
    if !listed {
        return fs.lookup(dir, os(name)).unwrap().0;
    }
    let fh = fs.opendir(dir).unwrap();
    let entries = fs.readdir(fh, 0).unwrap();
    let entry = entries.iter().find(|e| e.name == os(name)).unwrap();
    let found = fs.lookup_listed(dir, entry).unwrap().0;
    fs.releasedir(fh).unwrap();
    found
}

/// A sync of a file that was just renamed makes the new name durable, whatever it was and replaced, and of both if they changed places.
#[test]
fn syncing_a_file_that_was_renamed() {
    for (source, target) in [(true, true), (true, false), (false, true), (false, false)] {
        for flags in [RenameFlags::Replace, RenameFlags::Exchange] {
            for renamed in ["e/b", "a"] {
                let Some(mut world) = World::new() else {
                    return;
                };
                if renamed == "a" && flags == RenameFlags::Replace {
                    continue;
                }
                if !source {
                    world.plain("a", &noise(5000, 1));
                }
                world.dir("e");
                if !target {
                    world.plain("e/b", &noise(5000, 2));
                }
                world.open();
                if source {
                    world.segment("a", &noise(5000, 1));
                }
                let dir = world.node("e");
                if target {
                    let fh = world.create(dir, "b", "e/b");
                    world.write(fh, "e/b", 0, &noise(5000, 2));
                    world.sync(fh, false);
                    world.fs().release(fh).unwrap();
                }
                let (a, b) = (world.node("a"), world.node("e/b"));
                world.begin();
                move_over(&mut world, "a", dir, "e/b", flags);
                let now = if renamed == "a" { b } else { a };
                let fh = world.fs().open(now, RDWR).unwrap();
                world.sync(fh, false);
                world.fs().release(fh).unwrap();
                let what = format!("{source} over {target}, {flags:?}, sync of {renamed}");
                world.survives_every_crash(&what);
            }
        }
    }
}

fn move_over(world: &mut World, from: &str, dir: NodeId, to: &str, flags: RenameFlags) {
    world.will(|tree: &mut Tree| {
        let moved = tree.remove(Path::new(from)).unwrap();
        let replaced = tree.insert(to.into(), moved);
        if let Some(replaced) = replaced.filter(|_| flags == RenameFlags::Exchange) {
            tree.insert(from.into(), replaced);
        }
    });
    let name = Path::new(to).file_name().unwrap();
    world.fs().rename(ROOT, os(from), dir, name, flags).unwrap();
}

/// Also if the kernel forgets it meanwhile, and then asks for it by one of them.
#[test]
fn syncing_a_file_with_two_new_names() {
    for forgotten in [false, true] {
        let Some(mut world) = World::new() else {
            return;
        };
        world.dir("d");
        world.open();
        let dir = world.node("d");
        world.begin();
        let mut fh = world.create(ROOT, "a", "a");
        world.will(|tree| {
            tree.insert("d/b".into(), Seen::file(b""));
        });
        let node = world.fs().node_of_handle(fh).unwrap();
        world.fs().link(node, dir, os("b")).unwrap();
        if forgotten {
            world.fs().release(fh).unwrap();
            world.fs().forget(node, 2);
            fh = world.fs().open(world.node("a"), RDWR).unwrap();
        }
        let content = Seen::file(&noise(5000, 1));
        // Until it is synced, the second name may be missing.
        world.will(|tree| {
            tree.remove(Path::new("d/b"));
            tree.insert("a".into(), content.clone());
        });
        world.will(|tree| {
            tree.insert("d/b".into(), content);
        });
        world.fs().write(fh, 0, &noise(5000, 1)).unwrap();
        world.sync(fh, false);
        world.fs().release(fh).unwrap();
        world.survives_every_crash(&format!("two new names, forgotten: {forgotten}"));
    }
}

/// Every pair of a segment and a plain file, and both ways.
#[test]
fn renaming_over_and_exchanging() {
    for (source, target) in [(true, true), (true, false), (false, true), (false, false)] {
        for flags in [RenameFlags::Replace, RenameFlags::Exchange] {
            let Some(mut world) = World::new() else {
                return;
            };
            for (name, segment, seed) in [("a", source, 1), ("b", target, 2)] {
                if !segment {
                    world.plain(name, &noise(9000, seed));
                }
            }
            world.open();
            for (name, segment, seed) in [("a", source, 1), ("b", target, 2)] {
                if segment {
                    world.segment(name, &noise(9000, seed));
                }
            }
            world.begin();
            rename(&mut world, "a", "b", flags);
            let form = |segment| if segment { "segment" } else { "plain" };
            let (source, target) = (form(source), form(target));
            world.survives_every_crash(&format!("{source} over {target}, {flags:?}"));
        }
    }
}

#[test]
fn moving_between_directories() {
    let Some(mut world) = World::new() else {
        return;
    };
    world.open();
    world.segment("a", &noise(9000, 1));
    world.will(|tree| {
        tree.insert("d".into(), Seen::dir());
    });
    let (dir, _) = world.fs().mkdir(ROOT, os("d"), 0o700, me()).unwrap();
    world.begin();
    let fh = world.fs().open(world.node("a"), RDWR).unwrap();
    let old = world.content("a");
    world.write(fh, "a", 100, b"not stored yet");
    let new = world.content("a");
    // Nothing is replaced, so the content need not be stored before the name changes.
    for content in [old, new] {
        world.will(|tree: &mut Tree| {
            tree.remove(Path::new("a"));
            tree.insert("d/b".into(), Seen::file(&content));
        });
    }
    let fs = world.fs();
    fs.rename(ROOT, os("a"), dir, os("b"), RenameFlags::Replace)
        .unwrap();
    world.sync(fh, false);
    world.fs().release(fh).unwrap();
    world.survives_every_crash("move");
}

#[test]
fn removing_files() {
    let Some(mut world) = World::new() else {
        return;
    };
    world.plain("plain", &noise(9000, 1));
    // As an interrupted swap leaves it: the segment wins, and what it hides never comes back.
    world.plain("twin", b"older");
    world.open();
    world.segment("segment", &noise(9000, 2));
    world.close();
    let dir = world.recorder.path().to_path_buf();
    std::fs::copy(dir.join("segment.vortex"), dir.join("twin.vortex")).unwrap();
    let content = world.content("segment");
    world.will(|tree| {
        tree.insert("twin".into(), Seen::file(&content));
    });
    world.open();
    world.begin();
    for name in ["plain", "segment", "twin"] {
        world.will(|tree| {
            tree.remove(Path::new(name)).unwrap();
        });
        world.fs().unlink(ROOT, os(name)).unwrap();
        world.sync_dir(ROOT);
    }
    world.survives_every_crash("unlink");
}

#[test]
fn linking_and_writing_through_either_name() {
    let Some(mut world) = World::new() else {
        return;
    };
    world.open();
    world.segment("a", &noise(9000, 1));
    world.begin();
    world.will(|tree| {
        let linked = tree[Path::new("a")].clone();
        tree.insert("b".into(), linked);
    });
    world.fs().link(world.node("a"), ROOT, os("b")).unwrap();
    world.sync_dir(ROOT);
    let fh = world.fs().open(world.node("b"), RDWR).unwrap();
    let mut content = world.content("a");
    content[50..60].fill(7);
    world.will(|tree| {
        for name in ["a", "b"] {
            tree.insert(name.into(), Seen::file(&content));
        }
    });
    world.fs().write(fh, 50, &[7; 10]).unwrap();
    world.sync(fh, true);
    world.fs().release(fh).unwrap();
    world.survives_every_crash("link");
}
