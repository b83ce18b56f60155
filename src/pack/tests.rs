//! Whole jobs on an archive in a temporary directory: which files start from primers.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use safetensors::SafeTensors;

use super::protocol::{Job, Summary};
use super::{Defaults, Direction, PackError, run};
use crate::codec::PrimerId;
use crate::engine::{Effort, METADATA_KEY, Model, metadata};
use crate::fs::{Fs, FsOptions};
use crate::profiles;
use crate::segment::{Segment, StartEntry};
use crate::store::twins::BOTH;
use crate::store::{
    Access, Archive, Cancel, Depth, StoreError, decode_entry, models, primers, repair, usage,
};

/// Bytes of one kind of noise: those of one kind have pieces in common, whatever their seed.
fn alike(len: usize, kind: u64, seed: u64) -> Vec<u8> {
    let mut x = 0x9e37_79b9_7f4a_7c15u64;
    let mut step = |seed: u64| {
        x = x.wrapping_add(seed).wrapping_mul(0xd129_0df5_9a3c_7f1b);
        x ^ x >> 29
    };
    let pool: Vec<u8> = (0..16_000).map(|_| (step(kind) >> 40) as u8).collect();
    let mut out = vec![0, 1, 2, 3];
    while out.len() < len {
        let at = (step(seed | 1) >> 20) as usize % (pool.len() - 64);
        out.extend(&pool[at..at + 64]);
    }
    out.truncate(len);
    out
}

pub(super) struct Packed {
    pub(super) dir: tempfile::TempDir,
    files: Vec<(PathBuf, Vec<u8>)>,
}

impl Packed {
    pub(super) fn new() -> Packed {
        let dir = tempfile::tempdir().unwrap();
        Archive::init(dir.path()).unwrap();
        Packed {
            dir,
            files: Vec::new(),
        }
    }

    pub(super) fn put(&mut self, name: &str, data: Vec<u8>) {
        std::fs::write(self.dir.path().join(name), &data).unwrap();
        self.files.push((name.into(), data));
    }

    pub(super) fn archive(&self) -> Archive {
        Archive::open(self.dir.path(), Access::Write).unwrap()
    }

    pub(super) fn pack(&self, job: Job) -> Summary {
        let fs = Fs::new(self.archive(), FsOptions::default()).unwrap();
        let done = pack_all(&fs, job);
        fs.shutdown().unwrap();
        done
    }

    /// The primers that a file's segment names.
    fn primers_of(&self, name: &str) -> Vec<PrimerId> {
        let path = self.dir.path().join(format!("{name}.vortex"));
        let file = std::fs::File::open(path).unwrap();
        let segment = Segment::open(Arc::new(file)).unwrap();
        let primer = |entry: &StartEntry| match entry {
            StartEntry::Primer(id) => Some(*id),
            StartEntry::Block { .. } => None,
        };
        segment
            .starts()
            .entries()
            .iter()
            .filter_map(primer)
            .collect()
    }

    pub(super) fn check(&self) {
        let fs = Fs::new(self.archive(), FsOptions::default()).unwrap();
        for (path, data) in &self.files {
            let fh = fs.open(fs.resolve(Path::new(path)).unwrap(), 0).unwrap();
            assert!(fs.read(fh, 0, 1 << 24).unwrap() == *data, "{path:?}");
            fs.release(fh).unwrap();
        }
        fs.shutdown().unwrap();
    }
}

fn pack_all(fs: &Arc<Fs>, job: Job) -> Summary {
    let job = Job {
        paths: vec![String::new()],
        jobs: Some(2),
        ..job
    };
    let (defaults, cancel) = (Defaults::default(), Cancel::default());
    let done = run(fs, &job, Direction::Pack, &defaults, &cancel, &|_| ()).unwrap();
    assert_eq!((done.failed, done.damaged, done.skipped), (0, 0, 0));
    done
}

fn six_alike() -> Packed {
    let mut packed = Packed::new();
    for seed in 0..6 {
        packed.put(&format!("{seed}.bin"), alike(30_000, 1, seed));
    }
    packed
}

#[test]
fn files_of_a_kind_share_a_primer_and_later_ones_find_it() {
    let mut packed = six_alike();
    packed.put("alone.dat", alike(30_000, 7, 1));
    let done = packed.pack(Job::default());
    assert!(done.after * 5 < done.before * 2, "{done:?}");
    let [id] = packed.primers_of("0.bin")[..] else {
        panic!("a primer is used");
    };
    for name in ["1.bin", "3.bin", "5.bin"] {
        assert_eq!(packed.primers_of(name), [id]);
    }
    packed.check();
    packed.put("late.bin", alike(30_000, 1, 99));
    let done = packed.pack(Job::default());
    assert_eq!((done.done, done.already), (1, 7));
    assert_eq!(packed.primers_of("late.bin"), [id]);
    let archive = packed.archive();
    let primers = archive.library().primers();
    assert_eq!(primers.stored().unwrap(), [id]);
    let kinds = primers.kinds().unwrap();
    assert_eq!((kinds.len(), kinds[0].0), (1, id));
    assert!(kinds[0].1.starts_with("bin-binary-0xxx-"), "{kinds:?}");
    drop(archive);
    packed.check();
}

/// What a file was packed with shows even where its blocks use no model.
#[test]
fn a_named_profile_has_files_packed_again_that_were_packed_with_another_and_only_once() {
    let mut packed = Packed::new();
    let lines = |n: u32| format!("{n},{},ok\n", n.wrapping_mul(2_654_435_761) >> 21).into_bytes();
    packed.put("a.csv", (0..1500).flat_map(lines).collect());
    let with = |profile: &str| {
        packed.pack(Job {
            profile: Some(profile.to_string()),
            ..Job::default()
        })
    };
    let counts = |done: Summary| (done.done, done.already, done.left);
    let made_with = || {
        let file = std::fs::File::open(packed.dir.path().join("a.csv.vortex")).unwrap();
        let segment = Segment::open(Arc::new(file)).unwrap();
        (segment.models().len(), segment.summary().made_with)
    };
    assert_eq!(counts(packed.pack(Job::default())), (1, 0, 0));
    let (models, fast) = made_with();
    assert_eq!(models, 0, "the model is of no use here");
    assert!(fast > 1);
    assert_eq!(counts(with("fast")), (0, 1, 0));
    assert_eq!(counts(with("none")), (1, 0, 0));
    assert_eq!(counts(with("none")), (0, 1, 0));
    assert_eq!(counts(with("edge")), (1, 0, 0));
    let (_, edge) = made_with();
    assert!(![0, 1, fast].contains(&edge));
    assert_eq!(counts(with("edge")), (0, 1, 0));
    assert_eq!(counts(packed.pack(Job::default())), (0, 1, 0));
    assert_eq!(counts(with("default")), (1, 0, 0));
    assert!(![0, 1, fast, edge].contains(&made_with().1));
    assert_eq!(counts(with("default")), (0, 1, 0));
    // Larger than it is now, and wanted all the same.
    let dense = std::fs::metadata(packed.dir.path().join("a.csv.vortex")).unwrap();
    assert_eq!(counts(with("fast")), (1, 0, 0));
    let usual = std::fs::metadata(packed.dir.path().join("a.csv.vortex")).unwrap();
    assert!(usual.len() > dense.len());
    assert_eq!(counts(with("fast")), (0, 1, 0));
    packed.check();
}

#[test]
fn files_that_others_may_not_read_lend_no_sample_to_those_that_they_may() {
    let mut packed = Packed::new();
    for seed in 0..12 {
        packed.put(&format!("{seed}.bin"), alike(30_000, 1, 2 * seed));
        let path = packed.dir.path().join(format!("{seed}.bin"));
        let mode = if seed % 2 == 0 { 0o600 } else { 0o644 };
        std::fs::set_permissions(path, std::os::unix::fs::PermissionsExt::from_mode(mode)).unwrap();
    }
    packed.pack(Job::default());
    let of = |seed| packed.primers_of(&format!("{seed}.bin"));
    assert_eq!((of(0).len(), of(1).len()), (1, 1));
    assert_ne!(of(0), of(1));
    for seed in 2..12 {
        assert_eq!(of(seed), of(seed % 2), "{seed}");
    }
    packed.check();
}

#[test]
fn a_primer_that_is_gone_from_the_archive_is_not_used_from_memory() {
    let mut packed = six_alike();
    let fs = Fs::new(packed.archive(), FsOptions::default()).unwrap();
    pack_all(&fs, Job::default());
    let [id] = packed.primers_of("0.bin")[..] else {
        panic!("a primer is used");
    };
    for n in 0..6 {
        std::fs::remove_file(packed.dir.path().join(format!("{n}.bin.vortex"))).unwrap();
    }
    let copies = BOTH.map(|copy| packed.dir.path().join(primers::path_of(id, copy)));
    for copy in &copies {
        std::fs::remove_file(copy).unwrap();
    }
    packed.files.clear();
    packed.put("late.bin", alike(30_000, 1, 99));
    pack_all(&fs, Job::default());
    assert_eq!(packed.primers_of("late.bin"), []);
    fs.shutdown().unwrap();
    drop(fs);
    packed.check();
}

#[test]
fn a_primer_of_which_one_copy_is_gone_is_used_once_it_has_two_again() {
    let mut packed = six_alike();
    packed.pack(Job::default());
    let [id] = packed.primers_of("0.bin")[..] else {
        panic!("a primer is used");
    };
    let copies = BOTH.map(|copy| packed.dir.path().join(primers::path_of(id, copy)));
    std::fs::remove_file(&copies[0]).unwrap();
    packed.put("late.bin", alike(30_000, 1, 99));
    packed.pack(Job::default());
    assert_eq!(packed.primers_of("late.bin"), [id]);
    assert!(copies.iter().all(|copy| copy.exists()));
    packed.check();
}

#[test]
fn no_primer_is_made_for_files_unlike_each_other_nor_against_the_callers_will() {
    let mut packed = Packed::new();
    for seed in 0..4 {
        packed.put(&format!("{seed}.bin"), alike(9_000, 2 * seed + 1, seed));
    }
    packed.pack(Job::default());
    assert_eq!(packed.archive().library().primers().stored().unwrap(), []);
    packed.check();

    let packed = six_alike();
    let dry = Job {
        dry_run: true,
        ..Job::default()
    };
    let would = packed.pack(dry).after;
    assert_eq!(packed.archive().library().primers().stored().unwrap(), []);
    let keyed = Job {
        key_blocks: Some(4),
        ..Job::default()
    };
    let without = packed.pack(keyed).after;
    assert!(would * 2 < without, "{would} {without}");
    assert_eq!(packed.archive().library().primers().stored().unwrap(), []);
    assert_eq!(packed.primers_of("0.bin"), []);
    packed.check();
}

#[test]
fn a_file_whose_name_leaves_no_room_for_a_segments_stays_plain() {
    let mut packed = Packed::new();
    let longest = "n".repeat(248);
    packed.put(&longest, vec![b'x'; 100_000]);
    packed.put(&"m".repeat(255), vec![b'x'; 100_000]);
    let done = packed.pack(Job::default());
    assert_eq!((done.done, done.left, done.failed), (1, 1, 0));
    assert!(packed.dir.path().join(format!("{longest}.vortex")).exists());
    packed.check();
}

#[test]
fn a_block_size_that_no_segment_has_is_refused_before_anything_is_done() {
    let packed = six_alike();
    let fs = Fs::new(packed.archive(), FsOptions::default()).unwrap();
    for block_size in [0, 1, 5000, 8 << 10, 2 << 20, u32::MAX] {
        let job = Job {
            paths: vec![String::new()],
            block_size: Some(block_size),
            ..Job::default()
        };
        let (defaults, cancel) = (Defaults::default(), Cancel::default());
        let done = run(&fs, &job, Direction::Pack, &defaults, &cancel, &|_| ());
        assert!(matches!(done, Err(PackError::BlockSize(b)) if b == block_size));
    }
    fs.shutdown().unwrap();
}

/// Text that the built-in model makes smaller; if it is short by far less than the model takes itself.
fn readings(seconds: u64) -> Vec<u8> {
    let mut x = 0x9e37_79b9_7f4a_7c15u64;
    let mut text = Vec::new();
    for second in 0..seconds {
        x ^= x << 13;
        x ^= x >> 7;
        x ^= x << 17;
        let (value, tenth, second) = (20 + (x >> 32) % 4, (x >> 40) % 10, second % 60);
        text.extend(
            format!("2024-03-01T12:00:{second:02}Z,temperature={value}.{tenth},ok\n").bytes(),
        );
    }
    text
}

#[test]
fn the_default_model_is_left_out_until_it_saves_what_it_takes() {
    let mut packed = Packed::new();
    packed.put("a.csv", readings(125));
    assert_eq!(packed.pack(Job::default()).done, 1);
    assert_eq!(packed.archive().models().stored().unwrap(), []);
    let segment = |packed: &Packed| {
        let file = std::fs::File::open(packed.dir.path().join("a.csv.vortex")).unwrap();
        Segment::open(Arc::new(file)).unwrap()
    };
    assert!(segment(&packed).models().is_empty());
    packed.check();

    // Who names it wants it.
    let mut packed = Packed::new();
    packed.put("a.csv", readings(125));
    let named = Job {
        profile: Some("fast".to_string()),
        ..Job::default()
    };
    assert_eq!(packed.pack(named).done, 1);
    let with = segment(&packed);
    assert_eq!(packed.archive().models().stored().unwrap(), with.models());
    assert_eq!(with.models().len(), 1);
    // The archive has it, so further files may use it.
    packed.put("b.csv", readings(125));
    assert_eq!(packed.pack(Job::default()).done, 1);
    packed.check();
}

/// `fast` with dense coding, which is content with less.
fn dense(dir: &Path) -> String {
    let bytes = profiles::builtin("fast").unwrap();
    let mut config = Model::from_bytes(bytes).unwrap().config().clone();
    config.effort = Effort::Dense;
    let metadata = HashMap::from([(METADATA_KEY.to_string(), metadata(&config, true).unwrap())]);
    let tensors = SafeTensors::deserialize(bytes).unwrap();
    let path = dir.join("dense.safetensors");
    std::fs::write(
        &path,
        safetensors::serialize(tensors.tensors(), Some(metadata)).unwrap(),
    )
    .unwrap();
    path.to_str().unwrap().to_string()
}

/// Positions, with more digits than can be guessed.
fn positions(len: usize) -> Vec<u8> {
    let line = |n: u64| {
        let digits = |k: u64| (n * 4 + k).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 44;
        format!(
            "{{\"class\":\"TPV\",\"device\":\"/dev/ttyUSB0\",\"time\":\"2024-03-01T12:{:02}:{:02}Z\",\"lat\":48.{:07},\"lon\":11.{:07}}}\n",
            n / 60 % 60,
            n % 60,
            digits(1),
            digits(2)
        )
    };
    (0..).flat_map(|n| line(n).into_bytes()).take(len).collect()
}

/// Files of a few blocks have key blocks, of which the first may need the model; then every block needs it.
#[test]
fn the_first_key_block_has_the_model_where_that_pays_for_all_blocks() {
    let mut packed = Packed::new();
    packed.put("a.json", positions(40_000));
    let elsewhere = tempfile::tempdir().unwrap();
    let named = Job {
        profile: Some(dense(elsewhere.path())),
        block_size: Some(16 << 10),
        ..Job::default()
    };
    assert_eq!(packed.pack(named).done, 1);
    packed.check();
    let path = packed.dir.path().join("a.json.vortex");
    let segment = Segment::open(Arc::new(std::fs::File::open(&path).unwrap())).unwrap();
    let Some(StartEntry::Block { parent: 0, payload }) = segment.starts().get(1) else {
        panic!("there is a key block");
    };
    let model = payload.model.expect("it has the model");
    let last = segment.entries().last().unwrap().unwrap().1;
    assert!(last.start != 0 && last.model.is_none(), "{last:?}");
    drop(segment);

    // The key block's payload is read after its block was written over, and the model can not be pruned.
    let fs = Fs::new(packed.archive(), FsOptions::default()).unwrap();
    let file = fs
        .open(fs.resolve(Path::new("a.json")).unwrap(), 2)
        .unwrap();
    fs.write(file, 100, b"written over").unwrap();
    fs.release(file).unwrap();
    fs.shutdown().unwrap();
    drop(fs);
    packed.files[0].1[100..112].copy_from_slice(b"written over");
    packed.check();
    let archive = packed.archive();
    assert_eq!(usage::prune(&archive).unwrap(), []);
    assert_eq!(archive.models().stored().unwrap(), [model]);
    drop(archive);

    // Without it no block can be read, which is no damage.
    for copy in BOTH {
        let file = packed.dir.path().join(models::path_of(model, copy));
        std::fs::remove_file(file).unwrap();
    }
    let archive = packed.archive();
    let segment = Segment::open(Arc::new(std::fs::File::open(&path).unwrap())).unwrap();
    for block in segment.entries() {
        let (block, entry) = block.unwrap();
        let read = decode_entry(&segment, block, &entry, archive.library());
        match read {
            Ok(_) => assert_eq!(block, 0, "it was written over"),
            Err(StoreError::MissingModel(id)) => assert_eq!(id, model),
            Err(other) => panic!("{other}"),
        }
    }
    for depth in [Depth::Checksums, Depth::Content] {
        let file = Arc::new(std::fs::File::open(&path).unwrap());
        let diagnosis = repair::diagnose(file, &path, archive.library(), depth, &|_| ());
        assert!(matches!(diagnosis, Err(StoreError::MissingModel(_))));
    }
}
