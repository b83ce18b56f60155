//! Trees of thousands of directories in each other: what works on whole archives takes neither a descriptor nor stack for each, nor
//! the square of the time.

use std::ffi::OsStr;
use std::fs;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use rustix::fs::{AtFlags, Mode, OFlags};
use tempfile::TempDir;
use vortex_fs::store::{Access, Archive};

use crate::common::*;

const DEPTH: usize = 3000;
/// What the kernel lets a process have open in the programs that are run here.
const DESCRIPTORS: usize = 64;

/// A directory that is removed however deep it is.
struct Deep(TempDir);

impl Deep {
    fn path(&self) -> &Path {
        self.0.path()
    }
}

impl Drop for Deep {
    fn drop(&mut self) {
        let _ = Command::new("rm").arg("-rf").arg(self.path()).status();
    }
}

fn open(dir: impl AsFd, name: impl AsRef<OsStr>) -> OwnedFd {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    rustix::fs::openat(dir, name.as_ref(), flags, Mode::empty()).unwrap()
}

/// An archive with a file `a.dat` and a chain of directories, each with a sibling, and the last of them.
fn deep(content: &[u8]) -> (Deep, OwnedFd) {
    let (dir, path) = with_file("a.dat", content);
    let dir = Deep(dir);
    Archive::init(dir.path()).unwrap();
    run(
        vortex_compress().args(["--block-size", "16K"]).arg(&path),
        GOOD,
    );
    let mut at = open(rustix::fs::CWD, dir.path());
    for _ in 0..DEPTH {
        for name in ["down", "zz"] {
            rustix::fs::mkdirat(&at, name, Mode::from_raw_mode(0o755)).unwrap();
        }
        at = open(&at, "down");
    }
    (dir, at)
}

/// The program with few descriptors and little stack.
fn confined() -> Command {
    let mut command = Command::new("sh");
    let limits = format!("ulimit -n {DESCRIPTORS}; ulimit -s 1024; exec \"$0\" \"$@\"");
    command.args(["-c", &limits, env!("CARGO_BIN_EXE_vortex-fs")]);
    command.env("RUST_MIN_STACK", (512 << 10).to_string());
    command.env_remove("VORTEX_LOG");
    command
}

fn link(from: impl AsFd, name: &str, to: impl AsFd, new: &str) {
    rustix::fs::linkat(from, name, to, new, AtFlags::empty()).unwrap();
}

#[test]
fn a_repair_finds_names_at_any_depth() {
    let content = records(2 << 14);
    let (dir, last) = deep(&content);
    let segment = dir.path().join("a.dat.vortex");
    let sound = fs::read(&segment).unwrap();
    link(
        open(rustix::fs::CWD, dir.path()),
        "a.dat.vortex",
        &last,
        "b.dat.vortex",
    );
    let mut bad = sound.clone();
    bad[100] ^= 1;
    fs::write(&segment, &bad).unwrap();
    run(confined().arg("repair").arg(&segment), GOOD);
    let stat = |name| rustix::fs::statat(&last, name, AtFlags::empty()).unwrap();
    let repaired = fs::metadata(&segment).unwrap();
    assert_eq!(
        (stat("b.dat.vortex").st_ino, stat("b.dat.vortex").st_nlink),
        (repaired.ino(), 2)
    );
    assert!(run(confined().arg("cat").arg(&segment), GOOD).stdout == content);

    // One that was stopped before it had changed a name is finished by whoever writes next.
    let kept = dir.path().join(".vortex/damaged");
    fs::write(&segment, &bad).unwrap();
    fs::hard_link(&segment, kept.join("7.vortex")).unwrap();
    fs::write(kept.join("7.repaired"), &sound).unwrap();
    let nothing = dir.path().join("zz");
    run(confined().args(["unpack", "--dry-run"]).arg(&nothing), GOOD);
    run(confined().arg("unpack").arg(&nothing), GOOD);
    assert!(!kept.join("7.repaired").exists());
    assert!(fs::read(&segment).unwrap() == sound);
    assert_eq!(
        stat("b.dat.vortex").st_ino,
        fs::metadata(&segment).unwrap().ino()
    );
    assert_eq!(fs::metadata(kept.join("7.vortex")).unwrap().nlink(), 1);
}

#[test]
fn what_a_file_at_any_depth_needs_is_not_pruned() {
    let (dir, last) = deep(&records(100));
    let model = tiny_model(4);
    let file = dir.path().join("tiny.safetensors");
    fs::write(&file, &model).unwrap();
    let archive = Archive::open(dir.path(), Access::Write).unwrap();
    let profile = archive.models().profile(file.to_str().unwrap()).unwrap();
    archive.models().store(&profile).unwrap();
    drop(archive);
    fs::remove_file(file).unwrap();
    let segment = dir.path().join("m.dat.vortex");
    segment_that_needs(&model, &records(3000), &segment);
    let top = open(rustix::fs::CWD, dir.path());
    rustix::fs::renameat(&top, "m.dat.vortex", &last, "m.dat.vortex").unwrap();
    let models = || names_in(&dir.path().join(".vortex/models"));
    let stored = models();
    assert_eq!(stored.len(), 1);
    // Files too deep for a path are told not to have been looked at.
    run(
        confined().args(["repair", "--prune"]).arg(dir.path()),
        PARTIAL,
    );
    assert_eq!(models(), stored);
    rustix::fs::unlinkat(&last, "m.dat.vortex", AtFlags::empty()).unwrap();
    run(
        confined().args(["repair", "--prune"]).arg(dir.path()),
        PARTIAL,
    );
    assert!(models().is_empty());
}

#[test]
fn files_at_any_depth_are_packed_and_unpacked() {
    let (dir, last) = deep(b"little");
    let content = csv(400);
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::CLOEXEC;
    let file = rustix::fs::openat(&last, "log.csv", flags, Mode::from_raw_mode(0o644)).unwrap();
    std::io::Write::write_all(&mut fs::File::from(file), &content).unwrap();
    let exists = |name| rustix::fs::statat(&last, name, AtFlags::empty()).is_ok();
    let begun = Instant::now();
    let told = stdout(&run(confined().arg("pack").arg(dir.path()), GOOD));
    assert!(exists("log.csv.vortex") && !exists("log.csv"), "{told}");
    let told = stdout(&run(confined().arg("unpack").arg(dir.path()), GOOD));
    assert!(exists("log.csv") && !exists("log.csv.vortex"), "{told}");
    println!(
        "{DEPTH} levels: packed and unpacked in {:?}",
        begun.elapsed()
    );
    // Going through it from its root for each directory takes ten times as long.
    assert!(
        begun.elapsed() < Duration::from_secs(30),
        "{:?}",
        begun.elapsed()
    );
}
