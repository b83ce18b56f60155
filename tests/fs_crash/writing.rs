//! Content: written, overwritten, cut, extended, given back.

use vortex_fs::fs::RenameFlags;
use vortex_fs::store::Archive;

use crate::tree::Tree;
use crate::world::{RDWR, ROOT, World, noise, os};

const BLOCK: usize = 16 << 10;

#[test]
fn making_an_archive_of_a_directory() {
    let Some(mut world) = World::bare() else {
        return;
    };
    world.plain("a", b"was there before");
    world.begin();
    Archive::init(world.recorder.path()).unwrap();
    world.open();
    world.segment("b", b"new");
    world.survives_every_crash_of_its_making("making an archive");
}

#[test]
fn creating_writing_and_appending() {
    let Some(mut world) = World::new() else {
        return;
    };
    world.open();
    world.begin();
    let fh = world.create(ROOT, "a", "a");
    world.write(fh, "a", 0, &noise(2 * BLOCK + 100, 1));
    world.sync(fh, false);
    world.write(fh, "a", 2 * BLOCK + 100, &noise(3000, 2));
    world.sync(fh, true);
    world.fs().release(fh).unwrap();
    world.survives_every_crash("create, write, append");
}

/// Where the file system below cannot be synced as a whole, as that of these tests cannot, a batch is synced file by file.
#[test]
fn committing_many_files_together_when_it_ends() {
    let Some(mut world) = World::new() else {
        return;
    };
    world.open();
    // What most of them hold stays what it was, though it is written, so that any of them may be stored first.
    let names: Vec<_> = (0..8).map(|n| n.to_string()).collect();
    for name in names.iter().map(String::as_str).chain(["a"]) {
        world.segment(name, &noise(5000, 1));
    }
    world.begin();
    for name in &names {
        let fh = world.fs().open(world.node(name), RDWR).unwrap();
        world.write(fh, name, 100, &noise(5000, 1)[100..200]);
        world.fs().release(fh).unwrap();
    }
    let fh = world.fs().open(world.node("a"), RDWR).unwrap();
    world.write(fh, "a", 100, &noise(3000, 2));
    world.fs().shutdown().unwrap();
    world.is_durable();
    world.survives_every_crash("batch");
}

/// Whole blocks go dead again and again, so their space is given back after each commit.
#[test]
fn overwriting_in_the_middle_and_as_a_whole() {
    let Some(mut world) = World::new() else {
        return;
    };
    world.open();
    world.segment("a", &noise(3 * BLOCK, 1));
    world.begin();
    let fh = world.fs().open(world.node("a"), RDWR).unwrap();
    world.write(fh, "a", 5000, &noise(2 * BLOCK, 2));
    world.sync(fh, true);
    for seed in 3..5 {
        world.write(fh, "a", 0, &noise(3 * BLOCK, seed));
        world.sync(fh, true);
    }
    world.fs().release(fh).unwrap();
    world.survives_every_crash("overwrite");
}

#[test]
fn cutting_and_extending() {
    let Some(mut world) = World::new() else {
        return;
    };
    world.open();
    world.segment("a", &noise(2 * BLOCK + 700, 1));
    world.begin();
    let fh = world.fs().open(world.node("a"), RDWR).unwrap();
    for size in [BLOCK + 50, 3 * BLOCK, 700, 0, 100] {
        world.truncate("a", size);
        world.sync(fh, false);
    }
    world.write(fh, "a", 40, b"after all the cuts");
    world.sync(fh, true);
    world.fs().release(fh).unwrap();
    world.survives_every_crash("truncate");
}

#[test]
fn punching_holes() {
    const PUNCH: i32 = 3;
    let Some(mut world) = World::new() else {
        return;
    };
    world.open();
    world.segment("a", &noise(4 * BLOCK, 1));
    world.begin();
    let fh = world.fs().open(world.node("a"), RDWR).unwrap();
    let (from, len) = (BLOCK / 2, 2 * BLOCK);
    let (mut half, mut content) = (world.content("a"), world.content("a"));
    content[from..from + len].fill(0);
    // Whole blocks and the pieces beside them are changes of their own.
    for (start, end) in [(from, BLOCK), (2 * BLOCK, from + len)] {
        half[start..end].fill(0);
        world.will_be("a", &half);
    }
    world.will_be("a", &content);
    world
        .fs()
        .fallocate(fh, PUNCH, from as u64, len as u64)
        .unwrap();
    world.sync(fh, true);
    world.fs().release(fh).unwrap();
    world.survives_every_crash("punch");
}

/// What is not synced may be there or not, but each file as a whole, and the next sync takes all of it.
#[test]
fn several_files_written_and_stored_at_the_end() {
    let Some(mut world) = World::new() else {
        return;
    };
    world.open();
    for (name, seed) in [("a", 1), ("b", 2), ("c", 3)] {
        world.segment(name, &noise(BLOCK + 10, seed));
    }
    world.begin();
    let (old, new) = (
        |seed| noise(BLOCK + 10, seed),
        |seed| noise(2 * BLOCK, seed),
    );
    for (name, seed) in [("a", 11), ("b", 12), ("c", 13)] {
        let fh = world.fs().open(world.node(name), RDWR).unwrap();
        assert_eq!(world.fs().write(fh, 0, &new(seed)).unwrap(), 2 * BLOCK);
        world.fs().release(fh).unwrap();
    }
    // Files are stored together, so that after a crash some may be new and others old.
    for mask in 0..8 {
        for (bit, name) in ["a", "b", "c"].into_iter().enumerate() {
            let seed = bit as u64 + 1;
            let content = if mask >> bit & 1 == 1 {
                new(10 + seed)
            } else {
                old(seed)
            };
            let seen = crate::tree::Seen::file(&content);
            world.will_with(name, seen);
        }
        world.may_be();
    }
    world.fs().shutdown().unwrap();
    world.is_durable();
    world.survives_every_crash("store several");
}

/// Replaced without a sync, as editors that forget it do.
#[test]
fn replacing_a_file_by_a_new_one_without_a_sync() {
    let Some(mut world) = World::new() else {
        return;
    };
    world.open();
    world.segment("a", &noise(BLOCK + 10, 1));
    world.begin();
    let fh = world.create(ROOT, "a.new", "a.new");
    world.write(fh, "a.new", 0, &noise(2 * BLOCK, 2));
    world.fs().release(fh).unwrap();
    world.will(|tree: &mut Tree| {
        let moved = tree.remove(std::path::Path::new("a.new")).unwrap();
        tree.insert("a".into(), moved);
    });
    let fs = world.fs();
    fs.rename(ROOT, os("a.new"), ROOT, os("a"), RenameFlags::Replace)
        .unwrap();
    world.sync_dir(ROOT);
    world.survives_every_crash("replace without a sync");
}

/// The same, where what replaces it was there before the archive, and so is written in place.
#[test]
fn replacing_a_file_by_a_plain_one_without_a_sync() {
    replaces_by_a_plain_one("replace by a plain file without a sync", false);
}

/// The kernel may forget the file between writing and renaming, and all that is known of it is dropped then.
#[test]
fn replacing_a_file_by_a_plain_one_that_was_forgotten() {
    replaces_by_a_plain_one("replace by a plain file that was forgotten", true);
}

fn replaces_by_a_plain_one(workload: &str, forgotten: bool) {
    let Some(mut world) = World::new() else {
        return;
    };
    world.plain("a", &noise(2000, 1));
    world.plain("b", &noise(2000, 2));
    world.open();
    world.begin();
    let node = world.node("a");
    let fh = world.fs().open(node, RDWR).unwrap();
    world.write(fh, "a", 100, b"changed in place");
    world.fs().release(fh).unwrap();
    if forgotten {
        world.fs().forget(node, 1);
        assert_eq!(world.fs().stats().nodes, 1, "the root alone");
    }
    world.will(|tree: &mut Tree| {
        let moved = tree.remove(std::path::Path::new("a")).unwrap();
        tree.insert("b".into(), moved);
    });
    let fs = world.fs();
    fs.rename(ROOT, os("a"), ROOT, os("b"), RenameFlags::Replace)
        .unwrap();
    world.sync_dir(ROOT);
    world.survives_every_crash(workload);
}
