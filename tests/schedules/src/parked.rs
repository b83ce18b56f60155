//! A node gives up its descriptor while others remove, replace, link and pack the file that it stands for.

use std::path::Path;

use shuttle::thread;

use crate::fs::{Fs, NodeId, RenameFlags};
use crate::one_file::{
    RDONLY, ROOT, World, content, create, me, open_with, os, pack, read_by_name, spawn, unpack,
    version,
};
use crate::run::many;
use crate::store::Access;

schedules! {
    many removed_it_stays_the_file_that_it_is,
    many removed_under_all_of_its_names_it_stays_the_file_that_it_is,
    many replaced_it_stays_the_file_that_it_is,
    many packed_meanwhile_it_stays_the_file_that_it_is,
}

/// A file of version 1 that can be parked whenever nobody has it open, its node, and who has it parked.
fn world() -> (World, NodeId, thread::JoinHandle<()>) {
    let World { fs, dir } = World::with("a", &content(1));
    fs.shutdown().unwrap();
    drop(fs);
    // The root's alone.
    let fs = open_with(dir.path(), Access::Write, Some(1));
    let node = fs.resolve(Path::new("a")).unwrap();
    let parker = spawn(&fs, |fs| {
        for _ in 0..3 {
            let _ = fs.park_nodes();
            thread::yield_now();
        }
    });
    (World { fs, dir }, node, parker)
}

fn is_version(fs: &Fs, node: NodeId, wanted: u64) {
    let fh = fs.open(node, RDONLY).unwrap();
    assert_eq!(version(&fs.read(fh, 0, 1 << 20).unwrap()), wanted);
    fs.release(fh).unwrap();
}

fn make(fs: &Fs, name: &str, number: u64) {
    let fh = create(fs, name);
    fs.write(fh, 0, &content(number)).unwrap();
    fs.release(fh).unwrap();
}

/// Whoever knows the node sees version 1 under the same number, before and after `others` took its names, and `a` is version 2 then.
fn stays(
    world: &World,
    node: NodeId,
    parker: thread::JoinHandle<()>,
    others: Vec<thread::JoinHandle<()>>,
) {
    let fs = &world.fs;
    let ino = node.0;
    let reader = spawn(fs, move |fs| {
        assert_eq!(fs.getattr(node, None).unwrap().ino, ino);
        is_version(fs, node, 1);
    });
    for thread in others.into_iter().chain([parker, reader]) {
        thread.join().unwrap();
    }
    let _ = fs.park_nodes();
    let now = fs.getattr(node, None).unwrap();
    assert_eq!((now.ino, now.nlink), (ino, 0));
    is_version(fs, node, 1);
    assert_eq!(version(&read_by_name(fs, "a").unwrap()), 2);
}

fn removed_it_stays_the_file_that_it_is() {
    let (world, node, parker) = world();
    let remover = spawn(&world.fs, |fs| {
        fs.unlink(ROOT, os("a")).unwrap();
        make(fs, "a", 2);
    });
    stays(&world, node, parker, vec![remover]);
}

fn removed_under_all_of_its_names_it_stays_the_file_that_it_is() {
    let (world, node, parker) = world();
    let d = world.fs.mkdir(ROOT, os("d"), 0o700, me()).unwrap().0;
    world.fs.link(node, d, os("b")).unwrap();
    let first = spawn(&world.fs, |fs| {
        fs.unlink(ROOT, os("a")).unwrap();
        make(fs, "a", 2);
    });
    let second = spawn(&world.fs, move |fs| fs.unlink(d, os("b")).unwrap());
    stays(&world, node, parker, vec![first, second]);
}

fn replaced_it_stays_the_file_that_it_is() {
    let (world, node, parker) = world();
    let replacer = spawn(&world.fs, |fs| {
        make(fs, "b", 2);
        fs.rename(ROOT, os("b"), ROOT, os("a"), RenameFlags::Replace)
            .unwrap();
    });
    stays(&world, node, parker, vec![replacer]);
}

fn packed_meanwhile_it_stays_the_file_that_it_is() {
    let (world, node, parker) = world();
    let packer = spawn(&world.fs, |fs| {
        assert!(unpack(fs, "a").unwrap());
        assert!(pack(fs, "a").unwrap());
    });
    let finder = spawn(&world.fs, move |fs| {
        for _ in 0..2 {
            assert_eq!(fs.resolve(Path::new("a")).unwrap(), node);
            assert_eq!(fs.getattr(node, None).unwrap().nlink, 1);
        }
    });
    for thread in [parker, packer, finder] {
        thread.join().unwrap();
    }
    let _ = world.fs.park_nodes();
    is_version(&world.fs, node, 1);
    assert_eq!(version(&world.after_remount("a")), 1);
}
