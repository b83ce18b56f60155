//! `vortex-compress` and `vortex-decompress`: at every moment there is one whole file of the content at least.

use std::fs;
use std::path::Path;
use std::process::Command;

use vortex_fs::store::{BlockSource, Library, SegmentReader};

use crate::disk::Disk;
use crate::tree::{Seen, Tree};
use crate::world::{World, noise};

const PLAIN: &str = "a";
const SEGMENT: &str = "a.vortex";

fn compress(args: &[&str], path: &Path) {
    done(env!("CARGO_BIN_EXE_vortex-compress"), args, path);
}

fn decompress(args: &[&str], path: &Path) {
    done(env!("CARGO_BIN_EXE_vortex-decompress"), args, path);
}

fn done(program: &str, args: &[&str], path: &Path) {
    let mut command = Command::new(program);
    let output = command.args(["-j", "1"]).args(args).arg(path).output();
    let output = output.unwrap();
    assert!(output.status.success(), "{output:?}");
}

/// What the file and its segment hold.
fn tree(plain: Option<&[u8]>, segment: Option<&[u8]>) -> Tree {
    let both = [(PLAIN, plain), (SEGMENT, segment)];
    let there = both.into_iter().filter_map(|(name, content)| {
        let content = content?;
        Some((name.into(), Seen::file(content)))
    });
    there.collect()
}

/// Reads both of what a crash left; unfinished files beside them are nobody's.
fn recover(disk: &Disk) -> Result<Tree, String> {
    let dir = tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir());
    let dir = dir.map_err(|e| e.to_string())?;
    disk.write_to(dir.path()).map_err(|e| e.to_string())?;
    let plain = fs::read(dir.path().join(PLAIN)).ok();
    let path = dir.path().join(SEGMENT);
    let decoded = || {
        let library = Library::default();
        let reader = SegmentReader::open(&path, &library)?;
        let mut content = vec![0; reader.len() as usize];
        reader.read_at(&mut content, 0).map(|()| content)
    };
    let segment = path.exists().then(decoded).transpose();
    let segment = segment.map_err(|e| e.to_string())?;
    Ok(tree(plain.as_deref(), segment.as_deref()))
}

/// Stops the work, from one of these trees to the next, at every moment.
fn survives(mut world: World, name: &str, trees: [Tree; 3], work: impl FnOnce(&Path)) {
    let [first, rest @ ..] = trees;
    world.begin_with(first);
    for tree in rest {
        world.will(|seen| *seen = tree);
    }
    work(world.recorder.path());
    world.survives_every_crash_as(name, &mut recover);
}

#[test]
fn compressing_a_file() {
    let Some(world) = World::bare() else {
        return;
    };
    let content = noise(40_000, 1);
    fs::write(world.recorder.path().join(PLAIN), &content).unwrap();
    let content = Some(&content[..]);
    let trees = [
        tree(content, None),
        tree(content, content),
        tree(None, content),
    ];
    survives(world, "compress", trees, |root| {
        compress(&["--block-size", "16K"], &root.join(PLAIN));
    });
}

#[test]
fn compressing_a_file_over_an_older_segment() {
    let Some(world) = World::bare() else {
        return;
    };
    let (old, new) = (noise(5000, 2), noise(40_000, 1));
    let path = world.recorder.path().join(PLAIN);
    fs::write(&path, &old).unwrap();
    compress(&[], &path);
    fs::write(&path, &new).unwrap();
    let (old, new) = (Some(&old[..]), Some(&new[..]));
    let trees = [tree(new, old), tree(new, new), tree(None, new)];
    survives(world, "compress over", trees, |root| {
        compress(&["-f", "--block-size", "16K"], &root.join(PLAIN));
    });
}

#[test]
fn decompressing_a_segment() {
    let Some(world) = World::bare() else {
        return;
    };
    let content = noise(40_000, 1);
    let path = world.recorder.path().join(PLAIN);
    fs::write(&path, &content).unwrap();
    compress(&["--block-size", "16K"], &path);
    let content = Some(&content[..]);
    let trees = [
        tree(None, content),
        tree(content, content),
        tree(content, None),
    ];
    survives(world, "decompress", trees, |root| {
        decompress(&[], &root.join(SEGMENT));
    });
}
