//! Modes, owners, times and extended attributes, of whatever has them; and symlinks.

use std::path::Path;

use vortex_fs::fs::{Caller, RenameFlags, SetAttr, SetTime};
use vortex_fs::pack::Direction;
use vortex_fs::pack::protocol::Job;

use crate::tree::{Attributes, Seen, What, me};
use crate::world::{RDWR, ROOT, World, noise, os};

/// Seconds since 1970 that no workload runs at.
const THEN: i64 = 86_400;
const OTHERS: (u32, u32) = (1234, 5678);
const FOR_OTHERS: Caller = Caller {
    uid: OTHERS.0,
    gid: OTHERS.1,
    umask: 0,
};
const XATTR: &str = "user.colour";

/// What has attributes, each by its name in the root directory.
const FORMS: [&str; 3] = ["segment", "plain", "directory"];

fn with_all_forms() -> Option<World> {
    let mut world = World::new()?;
    world.plain("plain", &noise(5000, 1));
    world.dir("directory");
    world.open();
    world.segment("segment", &noise(5000, 2));
    Some(world)
}

/// A change of what has a name.
type Change<'a> = &'a dyn Fn(&mut World, &str);

/// Makes changes of each form of a file, and of a directory, each of them synced.
fn survives(name: &str, changes: &[Change<'_>]) {
    for form in FORMS {
        let Some(mut world) = with_all_forms() else {
            return;
        };
        world.begin();
        for change in changes {
            change(&mut world, form);
            let node = world.node(form);
            if form == "directory" {
                world.sync_dir(node);
            } else {
                let fh = world.fs().open(node, RDWR).unwrap();
                world.sync(fh, false);
                world.fs().release(fh).unwrap();
            }
        }
        world.survives_every_crash(&format!("{name} of a {form}"));
    }
}

fn set(world: &mut World, name: &str, set: SetAttr, will: impl FnOnce(&mut Attributes)) {
    world.will_have(name, will);
    world.fs().setattr(world.node(name), None, set).unwrap();
}

fn set_mode(world: &mut World, name: &str, mode: u32) {
    let new = SetAttr {
        mode: Some(mode),
        ..SetAttr::default()
    };
    set(world, name, new, |attributes| attributes.mode = mode);
}

fn set_owner(world: &mut World, name: &str, owner: (u32, u32)) {
    let new = SetAttr {
        uid: Some(owner.0),
        gid: Some(owner.1),
        ..SetAttr::default()
    };
    set(world, name, new, |attributes| attributes.owner = owner);
}

fn set_time(world: &mut World, name: &str, seconds: i64) {
    let new = SetAttr {
        mtime: Some(SetTime::At((seconds, 0))),
        ..SetAttr::default()
    };
    set(world, name, new, |attributes| {
        attributes.mtime = Some(seconds);
    });
}

fn set_xattr(world: &mut World, name: &str, value: Option<&str>) {
    world.will_have(name, |attributes| match value {
        Some(value) => drop(attributes.xattrs.insert(XATTR.into(), value.into())),
        None => drop(attributes.xattrs.remove(os(XATTR))),
    });
    let (fs, node) = (world.fs(), world.node(name));
    match value {
        Some(value) => fs.setxattr(node, os(XATTR), value.as_bytes(), 0).unwrap(),
        None => fs.removexattr(node, os(XATTR)).unwrap(),
    }
}

/// Whether this process may give files away; says so if not.
fn may_give_away() -> bool {
    let may = me().uid == 0;
    if !may {
        println!("skipped: only root may give files to others");
    }
    may
}

#[test]
fn changing_modes() {
    survives(
        "chmod",
        &[
            &|world, name| set_mode(world, name, 0o755),
            &|world, name| set_mode(world, name, 0o700),
        ],
    );
}

#[test]
fn changing_owners() {
    if may_give_away() {
        survives("chown", &[&|world, name| set_owner(world, name, OTHERS)]);
    }
}

#[test]
fn changing_times() {
    survives(
        "utimens",
        &[
            &|world, name| set_time(world, name, THEN),
            &|world, name| set_time(world, name, 2 * THEN),
        ],
    );
}

/// Storing what was written before must not take the time back that was set after it.
#[test]
fn setting_the_time_of_what_is_not_stored_yet() {
    let Some(mut world) = with_all_forms() else {
        return;
    };
    world.begin();
    let fh = world.fs().open(world.node("segment"), RDWR).unwrap();
    let old = world.content("segment");
    world.write(fh, "segment", 5000, &noise(700, 3));
    let new = world.content("segment");
    // The time may be there before the content is.
    for content in [old, new] {
        world.will_be("segment", &content);
        world.will_have("segment", |attributes| attributes.mtime = Some(THEN));
    }
    set_time(&mut world, "segment", THEN);
    world.sync(fh, false);
    world.fs().release(fh).unwrap();
    world.survives_every_crash("utimens of what is not stored");
}

/// Packing in place writes to the file; when it is done the time is what it was.
#[test]
fn packing_a_file_with_two_names_that_has_a_time() {
    let Some(mut world) = World::new() else {
        return;
    };
    world.open();
    world.segment("a", &b"temperature=21.5\n".repeat(1000));
    set_time(&mut world, "a", THEN);
    let linked = world.seen("a");
    world.will_with("b", linked);
    world.fs().link(world.node("a"), ROOT, os("b")).unwrap();
    world.begin();
    let kept = world.seen("a");
    for mtime in [None, kept.attributes.mtime] {
        let mut seen = kept.clone();
        seen.attributes.mtime = mtime;
        for name in ["a", "b"] {
            world.will_with(name, seen.clone());
        }
        world.may_be();
    }
    assert_eq!(world.job(Direction::Pack, Job::default()).done, 1);
    world.is_durable();
    world.survives_every_crash("pack in place what has a time");
}

#[test]
fn setting_replacing_and_removing_extended_attributes() {
    survives(
        "xattr",
        &[
            &|world, name| set_xattr(world, name, Some("red")),
            &|world, name| set_xattr(world, name, Some("blue")),
            &|world, name| set_xattr(world, name, None),
        ],
    );
}

/// What takes the place of a file has its attributes when it has the name, synced or not.
#[test]
fn packing_and_unpacking_what_just_got_other_attributes() {
    if !may_give_away() {
        return;
    }
    let changes: [&dyn Fn(&mut World); 4] = [
        &|world| set_mode(world, "a", 0o640),
        &|world| set_owner(world, "a", OTHERS),
        &|world| set_xattr(world, "a", Some("red")),
        &|world| set_time(world, "a", THEN),
    ];
    for direction in [Direction::Pack, Direction::Unpack] {
        let Some(mut world) = World::new() else {
            return;
        };
        world.open();
        world.segment("a", &b"temperature=21.5\n".repeat(1000));
        world.begin();
        // Each may be there without the others.
        let old = world.seen("a");
        for mask in 0..1 << changes.len() {
            let has = |bit: u32| mask >> bit & 1 == 1;
            let mut seen = old.clone();
            let attributes = &mut seen.attributes;
            if has(0) {
                attributes.mode = 0o640;
            }
            if has(1) {
                attributes.owner = OTHERS;
            }
            if has(2) {
                attributes.xattrs.insert(XATTR.into(), "red".into());
            }
            if has(3) {
                attributes.mtime = Some(THEN);
            }
            world.will_with("a", seen);
            world.may_be();
        }
        for change in changes {
            change(&mut world);
        }
        assert_eq!(world.job(direction, Job::default()).done, 1);
        world.is_durable();
        world.survives_every_crash(&format!("{direction:?} with new attributes"));
    }
}

#[test]
fn making_renaming_and_removing_symlinks() {
    let Some(mut world) = World::new() else {
        return;
    };
    world.open();
    world.segment("old", &noise(5000, 1));
    world.begin();
    let link = |world: &World, name: &str, target: &str| {
        let made = world.fs().symlink(ROOT, os(name), os(target), me());
        made.unwrap();
    };
    for (name, target) in [("link", "where/ever"), ("new", "../else")] {
        world.will(|tree| {
            tree.insert(name.into(), Seen::symlink(target));
        });
        link(&world, name, target);
        world.sync_dir(ROOT);
    }
    // Over another one, and over a segment, which lies under another name.
    for target in ["link", "old"] {
        world.will(|tree| {
            let moved = tree.remove(Path::new("new")).unwrap();
            tree.insert(target.into(), moved);
        });
        let fs = world.fs();
        fs.rename(ROOT, os("new"), ROOT, os(target), RenameFlags::Replace)
            .unwrap();
        world.sync_dir(ROOT);
        world.will(|tree| {
            tree.insert("new".into(), Seen::symlink("again"));
        });
        link(&world, "new", "again");
        world.sync_dir(ROOT);
    }
    world.will(|tree| {
        tree.remove(Path::new("new"));
    });
    world.fs().unlink(ROOT, os("new")).unwrap();
    world.sync_dir(ROOT);
    world.survives_every_crash("symlinks");
}

/// The daemon makes every directory for itself alone and then gives it to whom it is for. A sync of the one above covers that, or it could
/// be there and its owner not be able to use it.
#[test]
fn making_a_directory_for_somebody_else() {
    if !may_give_away() {
        return;
    }
    for renamed in [false, true] {
        let Some(mut world) = with_all_forms() else {
            return;
        };
        let dir = world.node("directory");
        world.begin();
        may_be_given_away(&mut world, "directory/new", Seen::dir());
        world.fs().mkdir(dir, os("new"), 0o755, FOR_OTHERS).unwrap();
        if renamed {
            world.will(|tree| {
                tree.remove(Path::new("directory/new"));
            });
            may_be_given_away(&mut world, "new", Seen::dir());
            let fs = world.fs();
            fs.rename(dir, os("new"), ROOT, os("new"), RenameFlags::Replace)
                .unwrap();
        }
        world.sync_dir(if renamed { ROOT } else { dir });
        world.survives_every_crash(&format!("mkdir for others, renamed: {renamed}"));
    }
}

/// Whoever reads what was synced, or what took the place of a file, must be able to.
#[test]
fn writing_a_file_for_somebody_else() {
    if !may_give_away() {
        return;
    }
    for replacing in [false, true] {
        let Some(mut world) = World::new() else {
            return;
        };
        world.open();
        world.segment("old", &noise(5000, 1));
        world.begin();
        may_be_given_away(&mut world, "new", Seen::file(b""));
        let made = world.fs().create(ROOT, os("new"), 0o644, RDWR, FOR_OTHERS);
        let fh = made.unwrap().2;
        may_be_given_away(&mut world, "new", Seen::file(&noise(7000, 2)));
        world.fs().write(fh, 0, &noise(7000, 2)).unwrap();
        if replacing {
            world.will(|tree| {
                let moved = tree.remove(Path::new("new")).unwrap();
                tree.insert("old".into(), moved);
            });
            let fs = world.fs();
            fs.rename(ROOT, os("new"), ROOT, os("old"), RenameFlags::Replace)
                .unwrap();
            world.sync_dir(ROOT);
        } else {
            world.sync(fh, true);
        }
        world.fs().release(fh).unwrap();
        world.survives_every_crash(&format!("file for others, replacing: {replacing}"));
    }
}

/// What was made may be found with its owner and mode or without.
fn may_be_given_away(world: &mut World, name: &str, mut seen: Seen) {
    let (mine, made) = ((me().uid, me().gid), seen.attributes.mode);
    let given = if seen.what == What::Dir { 0o755 } else { 0o644 };
    for (mode, owner) in [(made, mine), (made, OTHERS), (given, mine), (given, OTHERS)] {
        seen.attributes.mode = mode;
        seen.attributes.owner = owner;
        world.will_with(name, seen.clone());
        world.may_be();
    }
}
