//! A repair: the file is there at every moment, as it was or repaired, under all of its names; and the damaged original is there
//! until the user gives it up.

use std::collections::BTreeSet;
use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;
use std::process::Command;
use std::sync::Arc;

use vortex_fs::segment::{LostBlocks, Segment, Severity};
use vortex_fs::store::damaged::{self, Record};
use vortex_fs::store::repair::{Diagnosis, diagnose};
use vortex_fs::store::{Access, Archive, Depth};

use crate::disk::Disk;
use crate::tree::{Seen, Tree};
use crate::world::{World, noise, stored_names};

/// Damages the root slot that is not current, so that the content can be read before and after.
fn damage(path: &std::path::Path) {
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .open(path)
        .unwrap();
    let mut slots = [0; 1024];
    file.read_exact_at(&mut slots, 512).unwrap();
    let empty = slots.chunks(512).position(|slot| slot == [0; 512]);
    let at = 512 + 512 * empty.expect("one slot is empty") as u64;
    file.write_all_at(b"not a root at all", at).unwrap();
    file.sync_all().unwrap();
}

#[test]
fn repairing_a_damaged_segment() {
    let Some(mut world) = World::new() else {
        return;
    };
    world.open();
    world.segment("a", &noise(40_000, 3));
    world.segment("b", &noise(500, 4));
    world.close();
    let path = world.recorder.path().join("a.vortex");
    damage(&path);
    world.begin();
    let archive = Archive::open(world.recorder.path(), Access::Write).unwrap();
    let original = Arc::new(File::open(&path).unwrap());
    let library = archive.library();
    let found = diagnose(original.clone(), &path, library, Depth::Content, &|_| {}).unwrap();
    let Diagnosis::Repairable(patient) = found else {
        panic!("it is damaged");
    };
    assert_eq!(patient.report().worst(), Some(Severity::Warning));
    assert!(patient.lost_bytes().is_empty());
    let temp = damaged::temp_for(&path, Some(&archive)).unwrap();
    patient.rebuild(&temp, LostBlocks::Marked, library).unwrap();
    let record = Record::now(patient.size(), &[]);
    let done = damaged::replace(&path, &original, &|| true, temp, Some(&archive), record).unwrap();
    world.is_durable();
    let names = stored_names(done.original.parent().unwrap());
    assert_eq!(names, ["1.json", "1.vortex"]);
    drop((archive, original, patient));
    world.survives_every_crash("repair");
}

/// Where a [`Patient::tree`] has the damaged original that is kept.
const KEPT: &str = "(kept)";

/// The command itself.
fn repair(args: &[&str], path: &Path) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_vortex-fs"));
    let done = command.args(["repair", "--jobs", "1"]).args(args).arg(path);
    let done = done.output().unwrap();
    assert!(matches!(done.status.code(), Some(0 | 2)), "{done:?}");
}

/// A damaged file with all of its names, and what a repair makes of it.
struct Patient {
    names: &'static [&'static str],
    /// Where the original is kept, below the archive's directory.
    kept: &'static str,
    damaged: Vec<u8>,
    repaired: Vec<u8>,
}

impl Patient {
    /// Tries the repair of what is on the disk now.
    fn of(disk: &Disk, names: &'static [&'static str], kept: &'static str) -> Patient {
        let dir = tempfile::tempdir().unwrap();
        disk.write_to(dir.path()).unwrap();
        let path = dir.path().join(names[0]);
        let damaged = fs::read(&path).unwrap();
        repair(&[], &path);
        let repaired = fs::read(&path).unwrap();
        assert_ne!(damaged, repaired, "it is damaged");
        Patient {
            names,
            kept,
            damaged,
            repaired,
        }
    }

    /// The files as they are stored, with this under all names.
    fn tree(&self, content: &[u8], kept: bool) -> Tree {
        let names = self.names.iter().map(|name| (name.into(), content));
        let kept = kept.then_some((KEPT.into(), &self.damaged[..]));
        let files = names.chain(kept);
        files
            .map(|(name, bytes)| (name, Seen::file(bytes)))
            .collect()
    }

    fn found(&self, root: &Path) -> Tree {
        let names = self.names.iter().map(|name| (*name, *name));
        let read = |(name, path): (&str, &str)| {
            let bytes = fs::read(root.join(path)).ok()?;
            Some((name.into(), Seen::file(&bytes)))
        };
        names.chain([(KEPT, self.kept)]).filter_map(read).collect()
    }

    /// What the next writer finds of what a crash left, after any reader and before one more repair.
    fn recover(&self, disk: &Disk) -> Result<Tree, String> {
        let dir = tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir());
        let dir = dir.map_err(|e| e.to_string())?;
        let root = dir.path();
        disk.write_to(root).map_err(|e| e.to_string())?;
        let known = [&self.damaged, &self.repaired].map(|bytes| Seen::file(bytes));
        let before = self.found(root);
        if !self.names.iter().all(|name| {
            before
                .get(Path::new(name))
                .is_some_and(|s| known.contains(s))
        }) {
            return Err(format!("a reader finds {before:?}"));
        }
        let is_archive = root.join(".vortex").exists();
        if is_archive {
            Archive::open(root, Access::Write).map_err(|e| e.to_string())?;
            let left = stored_names(&root.join(".vortex/tmp"));
            let intents = fs::read_dir(root.join(".vortex/damaged"))
                .into_iter()
                .flatten();
            let intents = intents.filter(|e| {
                e.as_ref()
                    .is_ok_and(|e| e.path().extension() == Some("repaired".as_ref()))
            });
            if !left.is_empty() || intents.count() > 0 {
                return Err(format!("unfinished files stay: {left:?}"));
            }
        }
        let tree = self.found(root);
        let files = |names: &[&str]| -> BTreeSet<u64> {
            let ino = |name| fs::metadata(root.join(name)).map_or(0, |m| m.ino());
            names.iter().map(ino).collect()
        };
        if files(self.names).len() != 1 {
            return Err("the names lead to several files".to_string());
        }
        let given_up = tree == self.tree(&self.repaired, false);
        repair(&[], &root.join(self.names[0]));
        let again = self.found(root);
        if again != self.tree(&self.repaired, !given_up) || files(self.names).len() != 1 {
            return Err(format!("repaired once more: {again:?}"));
        }
        Ok(tree)
    }

    /// Stops a repair, as it is done by `workload`, at every moment.
    fn survives(self, mut world: World, name: &str, workload: impl FnOnce(&Path)) {
        // The original's second name comes before the change of the first, and goes again if that fails.
        world.begin_with(self.tree(&self.damaged, false));
        for tree in [
            self.tree(&self.damaged, true),
            self.tree(&self.repaired, true),
        ] {
            world.will(|seen| *seen = tree);
        }
        workload(world.recorder.path());
        world.is_durable();
        world.survives_every_crash_as(name, &mut |disk| self.recover(disk));
    }
}

/// Loses the payload of a block, in place.
fn lose_a_block(path: &Path) {
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .open(path)
        .unwrap();
    let segment = Segment::open(Arc::new(file.try_clone().unwrap())).unwrap();
    let (_, entry) = segment.entries().next().unwrap().unwrap();
    file.write_all_at(b"nothing that was there", entry.offset + 5)
        .unwrap();
    file.sync_all().unwrap();
}

/// An archive with a segment that is damaged.
fn with_damage(names: &[&str]) -> Option<World> {
    let mut world = World::new()?;
    world.open();
    world.segment("a", &noise(20_000, 3));
    world.segment("b", &noise(500, 4));
    world.close();
    let root = world.recorder.path();
    lose_a_block(&root.join("a.vortex"));
    for name in names {
        let path = root.join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::hard_link(root.join("a.vortex"), path).unwrap();
    }
    Some(world)
}

const ONE: &[&str] = &["a.vortex"];
const SEVERAL: &[&str] = &["a.vortex", "d/b.vortex", "d/c.vortex"];
const ORIGINAL: &str = ".vortex/damaged/1.vortex";

#[test]
fn repairing_a_file_that_has_lost_a_block() {
    let Some(mut world) = with_damage(&[]) else {
        return;
    };
    let patient = Patient::of(&world.begin(), ONE, ORIGINAL);
    patient.survives(world, "repair of lost blocks", |root| repair(&[], root));
}

#[test]
fn repairing_a_file_with_several_names() {
    let Some(mut world) = with_damage(&SEVERAL[1..]) else {
        return;
    };
    let patient = Patient::of(&world.begin(), SEVERAL, ORIGINAL);
    patient.survives(world, "repair of several names", |root| repair(&[], root));
}

#[test]
fn recovering_from_a_repair_that_was_stopped_between_two_names() {
    let Some(mut world) = with_damage(&SEVERAL[1..]) else {
        return;
    };
    let patient = Patient::of(&world.begin(), SEVERAL, ORIGINAL);
    let root = world.recorder.path();
    let kept = root.join(".vortex/damaged");
    fs::create_dir(&kept).unwrap();
    fs::hard_link(root.join("a.vortex"), kept.join("1.vortex")).unwrap();
    fs::write(kept.join("1.repaired"), &patient.repaired).unwrap();
    fs::remove_file(root.join("d/b.vortex")).unwrap();
    fs::hard_link(kept.join("1.repaired"), root.join("d/b.vortex")).unwrap();
    // Whoever writes next finishes it, so nothing else is ever seen by a writer.
    world.begin_with(patient.tree(&patient.repaired, true));
    drop(Archive::open(world.recorder.path(), Access::Write).unwrap());
    world.is_durable();
    world.survives_every_crash_as("recovery of a repair", &mut |disk| patient.recover(disk));
}

#[test]
fn repairing_a_file_that_is_in_no_archive() {
    let Some(mut world) = World::bare() else {
        return;
    };
    let elsewhere = tempfile::tempdir().unwrap();
    fs::write(elsewhere.path().join("a"), noise(20_000, 3)).unwrap();
    let mut compress = Command::new(env!("CARGO_BIN_EXE_vortex-compress"));
    let done = compress
        .args(["--block-size", "16K"])
        .arg(elsewhere.path().join("a"));
    assert!(done.status().unwrap().success());
    let path = world.recorder.path().join("a.vortex");
    fs::copy(elsewhere.path().join("a.vortex"), &path).unwrap();
    lose_a_block(&path);
    let patient = Patient::of(&world.begin(), ONE, "a.vortex.damaged");
    patient.survives(world, "repair in no archive", |root| {
        repair(&[], &root.join("a.vortex"))
    });
}

#[test]
fn giving_up_an_original() {
    let Some(mut world) = with_damage(&[]) else {
        return;
    };
    let patient = Patient::of(&world.begin(), ONE, ORIGINAL);
    repair(&[], world.recorder.path());
    world.begin_with(patient.tree(&patient.repaired, true));
    world.will(|seen| *seen = patient.tree(&patient.repaired, false));
    repair(&["--discard-originals"], world.recorder.path());
    world.is_durable();
    world.survives_every_crash_as("giving up", &mut |disk| patient.recover(disk));
}
