//! A repair: the file is there at every moment, as it was or repaired.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use vortex_fs::segment::{LostBlocks, Severity};
use vortex_fs::store::damaged::{self, Record};
use vortex_fs::store::repair::{Diagnosis, diagnose};
use vortex_fs::store::{Access, Archive, Depth};

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
    let kept = damaged::replace(&path, &original, &|| true, temp, Some(&archive), record).unwrap();
    world.is_durable();
    let names = stored_names(kept.parent().unwrap());
    assert_eq!(names, ["1.json", "1.vortex"]);
    drop((archive, original));
    world.survives_every_crash("repair");
}
