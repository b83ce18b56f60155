//! Other forms of the same content: packed, packed again, in place, unpacked, made live.

use std::path::Path;
use std::sync::Arc;

use vortex_fs::codec::ModelId;
use vortex_fs::pack::Direction;
use vortex_fs::pack::protocol::Job;
use vortex_fs::segment::{Form, Segment, StartEntry};
use vortex_fs::store::{Access, Archive, Thing, usage};

use crate::world::{RDWR, ROOT, World, noise, os, stored_names};

const BLOCK: u32 = 16 << 10;

/// Bytes of one kind: those of one kind have pieces in common, whatever their seed.
fn alike(len: usize, seed: u64) -> Vec<u8> {
    let pool = noise(6000, 77);
    let mut out = vec![0, 1, 2, 3];
    for at in noise(2 * len / 64, seed).chunks_exact(2) {
        let at = usize::from(u16::from_le_bytes([at[0], at[1]])) % (pool.len() - 64);
        out.extend(&pool[at..at + 64]);
    }
    out.truncate(len);
    out
}

/// Packing with a model that no program brings along, so that only the archive's copy serves; its file goes into `dir`.
fn own_model(dir: &tempfile::TempDir) -> (Job, ModelId) {
    let mut bytes = include_bytes!("../../profiles/fast.safetensors").to_vec();
    *bytes.last_mut().unwrap() ^= 1;
    let path = dir.path().join("own.safetensors");
    std::fs::write(&path, &bytes).unwrap();
    let own = Job {
        profile: Some(path.to_string_lossy().into_owned()),
        ..job()
    };
    (own, ModelId::of(&bytes))
}

/// Two disk blocks of text that a model makes smaller: words of messages, in no order.
fn telemetry() -> Vec<u8> {
    const WORDS: &str = "error warning failed connection timeout server client request response interface line protocol \
        changed state down configured console user login address received packet dropped temperature pressure sensor value \
        status ready started stopped process memory network session closed opened reset link carrier";
    let words: Vec<&str> = WORDS.split_whitespace().collect();
    let mut text = String::new();
    for byte in noise(1000, 5) {
        text.push_str(words[usize::from(byte) % words.len()]);
        text.push(if byte < 216 { ' ' } else { '\n' });
    }
    text.truncate(4500);
    text.into_bytes()
}

/// What the segment of a file says of itself.
fn stored<T>(world: &World, name: &str, say: impl Fn(&Segment) -> T) -> T {
    let path = world.recorder.path().join(format!("{name}.vortex"));
    let file = std::fs::File::open(path).unwrap();
    say(&Segment::open(Arc::new(file)).unwrap())
}

fn job() -> Job {
    Job {
        block_size: Some(BLOCK),
        ..Job::default()
    }
}

#[test]
fn packing_files_of_a_kind_from_a_primer() {
    let Some(mut world) = World::new() else {
        return;
    };
    for seed in 0..4 {
        world.plain(&format!("{seed}.bin"), &alike(9000, seed));
    }
    world.open();
    world.begin();
    let done = world.job(Direction::Pack, job());
    world.is_durable();
    assert_eq!(done.done, 4, "{done:?}");
    let primers = |entry: &StartEntry| matches!(entry, StartEntry::Primer(_));
    assert!(stored(&world, "0.bin", |segment| {
        segment.starts().entries().iter().any(primers)
    }));
    assert_eq!(
        stored_names(&world.recorder.path().join(".vortex/primers")).len(),
        2
    );
    world.survives_every_crash("pack with a primer");
}

#[test]
fn packing_with_a_model_that_only_the_archive_has() {
    let Some(mut world) = World::new() else {
        return;
    };
    let elsewhere = tempfile::tempdir().unwrap();
    let (own, model) = own_model(&elsewhere);
    let text = telemetry();
    world.open();
    world.segment("a.csv", &text);
    world.begin();
    let done = world.job(Direction::Pack, own);
    world.is_durable();
    assert_eq!(done.done, 1, "{done:?}");
    let packed = stored(&world, "a.csv", |s| (s.form(), s.models().to_vec()));
    assert_eq!(packed, (Form::Sealed, vec![model]));
    // Again, with the model that the program brings along.
    let done = world.job(Direction::Pack, job());
    world.is_durable();
    assert_eq!(done.files, 1, "{done:?}");
    world.survives_every_crash("pack with a model");
}

/// A file whose removal no sync made durable may come back, and then needs its model.
#[test]
fn pruning_the_model_of_a_file_that_was_just_removed() {
    let Some(mut world) = World::new() else {
        return;
    };
    let elsewhere = tempfile::tempdir().unwrap();
    let (own, model) = own_model(&elsewhere);
    world.open();
    world.segment("a.csv", &telemetry());
    assert_eq!(world.job(Direction::Pack, own).done, 1);
    assert_eq!(stored(&world, "a.csv", |s| s.models().to_vec()), [model]);
    world.begin();
    world.will(|tree| {
        tree.remove(Path::new("a.csv"));
    });
    world.fs().unlink(ROOT, os("a.csv")).unwrap();
    world.close();
    let archive = Archive::open(world.recorder.path(), Access::Write).unwrap();
    assert_eq!(usage::prune(&archive).unwrap(), [Thing::Model(model)]);
    drop(archive);
    world.survives_every_crash("remove and prune");
}

/// The same for the primer of the last file of a kind.
#[test]
fn pruning_the_primer_of_a_file_that_was_just_removed() {
    let Some(mut world) = World::new() else {
        return;
    };
    let names: Vec<_> = (0..4).map(|seed| format!("{seed}.bin")).collect();
    for (name, seed) in names.iter().zip(0..) {
        world.plain(name, &alike(9000, seed));
    }
    world.open();
    assert_eq!(world.job(Direction::Pack, job()).done, 4);
    world.is_durable();
    let primer = stored(&world, "0.bin", |segment| {
        let mut starts = segment.starts().entries().iter();
        starts.find_map(|entry| match entry {
            StartEntry::Primer(id) => Some(*id),
            _ => None,
        })
    });
    let primer = primer.expect("it starts from a primer");
    let remove = |world: &mut World, name: &str| {
        world.will(|tree| {
            tree.remove(Path::new(name));
        });
        world.fs().unlink(ROOT, os(name)).unwrap();
    };
    for name in &names[1..] {
        remove(&mut world, name);
        world.sync_dir(ROOT);
    }
    world.begin();
    remove(&mut world, &names[0]);
    world.close();
    let archive = Archive::open(world.recorder.path(), Access::Write).unwrap();
    assert_eq!(usage::prune(&archive).unwrap(), [Thing::Primer(primer)]);
    drop(archive);
    world.survives_every_crash("remove and prune a primer");
}

/// What the private directory holds must be as safe as the files that need it, from the first one on.
#[test]
fn packing_right_after_the_archive_was_made() {
    let Some(mut world) = World::bare() else {
        return;
    };
    let elsewhere = tempfile::tempdir().unwrap();
    let (own, model) = own_model(&elsewhere);
    world.plain("a.csv", &telemetry());
    world.begin();
    Archive::init(world.recorder.path()).unwrap();
    world.open();
    assert_eq!(world.job(Direction::Pack, own).done, 1);
    world.is_durable();
    assert_eq!(stored(&world, "a.csv", |s| s.models().to_vec()), [model]);
    world.survives_every_crash_of_its_making("make an archive and pack");
}

#[test]
fn packing_writing_to_what_is_packed_and_packing_again() {
    let Some(mut world) = World::new() else {
        return;
    };
    world.open();
    world.segment("a", &alike(20_000, 1));
    world.begin();
    let keyed = Job {
        key_blocks: Some(1),
        ..job()
    };
    assert_eq!(world.job(Direction::Pack, keyed).done, 1);
    world.is_durable();
    let packed = stored(&world, "a", |s| (s.form(), s.starts().entries().len()));
    assert_eq!(packed, (Form::Sealed, 1));
    // From sealed to live, in place.
    let fh = world.fs().open(world.node("a"), RDWR).unwrap();
    world.write(fh, "a", 18_000, &noise(5000, 2));
    world.sync(fh, false);
    world.fs().release(fh).unwrap();
    assert_eq!(stored(&world, "a", Segment::form), Form::Live);
    let larger = Job {
        block_size: Some(2 * BLOCK),
        ..Job::default()
    };
    assert_eq!(world.job(Direction::Pack, larger).done, 1);
    world.is_durable();
    assert_eq!(stored(&world, "a", Segment::form), Form::Sealed);
    world.survives_every_crash("pack, write, pack again");
}

#[test]
fn unpacking() {
    let Some(mut world) = World::new() else {
        return;
    };
    world.open();
    world.segment("a", &noise(9000, 1));
    world.segment("b", &vec![5; 40_000]);
    world.begin();
    assert_eq!(world.job(Direction::Unpack, job()).done, 2);
    world.is_durable();
    assert_eq!(stored_names(world.recorder.path()), [".vortex", "a", "b"]);
    // A sync of the plain file must outlive the segment, which would win over it.
    let fh = world.fs().open(world.node("a"), RDWR).unwrap();
    world.write(fh, "a", 100, b"written to the plain file");
    world.sync(fh, true);
    world.fs().release(fh).unwrap();
    world.survives_every_crash("unpack");
}

#[test]
fn packing_a_file_with_two_names_in_place() {
    let Some(mut world) = World::new() else {
        return;
    };
    world.open();
    world.segment("a", &alike(40_000, 1));
    world.will(|tree| {
        let linked = tree[std::path::Path::new("a")].clone();
        tree.insert("b".into(), linked);
    });
    world.fs().link(world.node("a"), ROOT, os("b")).unwrap();
    world.begin();
    let done = world.job(Direction::Pack, job());
    world.is_durable();
    assert_eq!(done.done, 1, "{done:?}");
    let [_, _, neural] = world.fs().snapshot("a".as_ref()).unwrap().blocks().unwrap();
    assert!(neural > 0);
    assert!(matches!(stored(&world, "b", Segment::form), Form::Live));
    world.survives_every_crash("pack in place");
}
