//! Packing what is packed already, or was stored by another way: files never grow by it unless somebody wants just that form.

use std::os::fd::AsFd;
use std::path::PathBuf;
use std::sync::Arc;

use super::protocol::Job;
use super::tests::Packed;
use crate::codec::CodecId;
use crate::segment::{Form, Segment};
use crate::store::{Cancel, Encoding, KeyRun, PlainFile, SealOptions, seal};

/// Readings of a slow sensor, one a line.
fn lines() -> Vec<u8> {
    let line = |n: u32| format!("{},{:.2},ok\n", 1_600_000_000 + n, f64::from(n * n % 977));
    (0..12_000).flat_map(|n| line(n).into_bytes()).collect()
}

impl Packed {
    fn segment(&self, name: &str) -> (PathBuf, Segment) {
        let path = self.dir.path().join(format!("{name}.vortex"));
        let file = Arc::new(std::fs::File::open(&path).unwrap());
        (path, Segment::open(file).unwrap())
    }
}

fn with_blocks_of(size: u32) -> Job {
    Job {
        block_size: Some(size),
        ..Job::default()
    }
}

#[test]
fn a_packed_file_that_another_block_size_would_make_larger_is_left_as_it_is() {
    let mut packed = Packed::new();
    packed.put("a.csv", lines());
    packed.pack(Job::default());
    let path = packed.segment("a.csv").0;
    let before = std::fs::read(&path).unwrap();
    for dry_run in [true, false] {
        let done = packed.pack(Job {
            dry_run,
            ..with_blocks_of(16 << 10)
        });
        assert_eq!((done.left, done.done, done.already), (1, 0, 0));
        assert_eq!(done.after, done.before);
    }
    assert_eq!(std::fs::read(&path).unwrap(), before);
    packed.check();

    // It would have grown: packed that way at first it is larger, and the other way round it is replaced.
    let mut other = Packed::new();
    other.put("a.csv", lines());
    let small = other.pack(with_blocks_of(16 << 10));
    assert!(small.after > before.len() as u64, "{small:?}");
    let done = other.pack(with_blocks_of(64 << 10));
    assert_eq!((done.done, done.left), (1, 0));
    assert_eq!(other.segment("a.csv").1.summary().block_size, 64 << 10);
    other.check();
}

#[test]
fn a_sealed_segment_of_quick_blocks_is_packed() {
    let mut packed = Packed::new();
    packed.put("a.csv", lines());
    // As a file is stored that was plain when somebody wrote to it.
    let plain = packed.dir.path().join("a.csv");
    let archive = packed.archive();
    let temp = archive.temp_file().unwrap();
    let options = SealOptions {
        block_size: 64 << 10,
        encoding: Encoding::Fresh,
        key_run: KeyRun::NONE,
        primer: None,
        jobs: 1,
        progress: None,
        cancel: Some(&Cancel::default()),
    };
    let source = PlainFile::new(Arc::new(std::fs::File::open(&plain).unwrap()), &plain).unwrap();
    seal(&source, &temp, archive.library(), &options).unwrap();
    let root = std::fs::File::open(packed.dir.path()).unwrap();
    temp.rename_to(root.as_fd(), "a.csv.vortex".as_ref())
        .unwrap();
    std::fs::remove_file(&plain).unwrap();
    drop(archive);
    let codecs = |segment: &Segment| {
        let codec = |block: crate::segment::Result<(u64, crate::segment::BlockEntry)>| {
            block.unwrap().1.codec
        };
        segment.entries().map(codec).collect::<Vec<_>>()
    };
    let (_, segment) = packed.segment("a.csv");
    assert_eq!(segment.summary().form, Form::Sealed);
    assert!(codecs(&segment).iter().all(|&c| c == CodecId::Zstd));
    packed.check();

    let done = packed.pack(Job::default());
    assert_eq!((done.done, done.already, done.left), (1, 0, 0));
    assert!(done.after < done.before, "{done:?}");
    let (_, segment) = packed.segment("a.csv");
    assert!(codecs(&segment).iter().all(|&c| c == CodecId::Neural));
    packed.check();
    assert_eq!(packed.pack(Job::default()).already, 1);
}
