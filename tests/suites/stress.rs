//! fio and stress-ng: load from many sides at once. Nothing fails, and the daemon keeps no more than it may.

use std::fs;
use std::path::PathBuf;
use std::process::Command;
use std::thread::sleep;
use std::time::{Duration, Instant};

use super::disk::Disk;
use super::root;
use super::support::{Archive, has, ok, sh, vortex, wait_until};

/// Decoded blocks that the daemon may keep, in MiB, and what `mount` is told.
const CACHE: u64 = 16;
const OPTIONS: &[&str] = &["--cache-size", "16M", "--allow-other"];

/// Unstored bytes that the daemon may hold, in MiB (docs/SEMANTICS.md).
const UNSTORED: u64 = 64;

/// Room for stacks, tables and what the allocator keeps, in MiB.
const SLACK: u64 = 32;

/// Four jobs at once that write, and read back and compare.
const JOBS: &str = "
[global]
size=16m
verify=crc32c
verify_fatal=1
fallocate=none
buffer_compress_percentage=60
end_fsync=1
[random]
rw=randwrite
bsrange=512-128k
bs_unaligned
fsync=200
[sequential]
rw=write
bs=64k
[mapped]
rw=randrw
bs=4k
ioengine=mmap
[direct]
rw=randwrite
bs=16k
direct=1
";

/// Stressors of file systems, one process each, all at the same time. Left out: those that need other file systems, change
/// the whole machine, or write 128 MiB at least.
const STRESSORS: &str = "access chdir chmod chown dentry dir dirdeep dirmany dup fallocate fcntl file-ioctl filename flock \
    fpunch fsize fstat getdent handle hdd inotify iomix lease link locka lockf lockofd mknod open rename symlink sync-file \
    touch utime xattr";

/// What the daemon holds: resident memory in KiB, and open files.
#[derive(Debug, Clone, Copy)]
struct Held {
    memory: u64,
    files: usize,
}

fn open_files(archive: &Archive) -> Vec<PathBuf> {
    let files = fs::read_dir(format!("/proc/{}/fd", archive.daemon())).unwrap();
    (files.flatten())
        .filter_map(|fd| fs::read_link(fd.path()).ok())
        .collect()
}

fn held(archive: &Archive) -> Held {
    let of = format!("/proc/{}", archive.daemon());
    let status = fs::read_to_string(format!("{of}/status")).unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS:"));
    let memory = line.unwrap().split_whitespace().nth(1).unwrap();
    Held {
        memory: memory.parse().unwrap(),
        files: fs::read_dir(format!("{of}/fd")).unwrap().count(),
    }
}

/// What it holds when it has opened all that it needs: the last of it only after the mount is there.
fn at_rest(archive: &Archive) -> Held {
    let mut before = held(archive);
    wait_until("the daemon to be at rest", || {
        sleep(Duration::from_secs(1));
        let now = held(archive);
        let same = now.files == before.files;
        before = now;
        same
    });
    before
}

/// An archive on a disk of its own, where the program is there and this is root.
fn archive(program: &str) -> Option<(Disk, Archive)> {
    if !root() || !has(program) {
        return None;
    }
    let disk = Disk::new(512)?;
    let archive = Archive::on(&disk)?;
    archive.mount(OPTIONS);
    Some((disk, archive))
}

/// Runs a load twice: memory stays in its bound and does not grow with the second run, and no file stays open when all are
/// gone.
fn load_twice(archive: &Archive, load: impl Fn()) {
    let fresh = at_rest(archive);
    let after = [(), ()].map(|()| {
        load();
        held(archive)
    });
    println!("memory in KiB and open files: {fresh:?}, then {after:?}");
    let bound = fresh.memory + ((CACHE + UNSTORED + SLACK) << 10);
    assert!(after[1].memory < bound, "{after:?}, bound {bound} KiB");
    let grown = after[1].memory.saturating_sub(after[0].memory);
    assert!(grown < SLACK << 10, "{grown} KiB more: {after:?}");
    sh(&archive.mnt(), "rm -rf -- *");
    let begun = Instant::now();
    wait_until("all files to be closed", || {
        let now = held(archive);
        if begun.elapsed() > Duration::from_secs(50) {
            println!("still open: {:?}", open_files(archive));
            sleep(Duration::from_secs(5));
        }
        now.files <= fresh.files
    });
}

#[test]
fn four_jobs_read_what_they_wrote() {
    let Some((_disk, archive)) = archive("fio") else {
        return;
    };
    let jobs = archive.outside().join("jobs.fio");
    fs::write(&jobs, JOBS).unwrap();
    load_twice(&archive, || {
        let mut fio = Command::new("fio");
        ok(fio.arg(&jobs).current_dir(archive.mnt()));
    });
    let mut fio = Command::new("fio");
    ok(fio.arg(&jobs).current_dir(archive.mnt()));
    let sums = sh(&archive.mnt(), "md5sum *");
    archive.remount(OPTIONS);
    assert_eq!(sh(&archive.mnt(), "md5sum *"), sums);
    archive.umount();
    ok(vortex().arg("verify").arg(archive.backing()));
}

#[test]
fn stressors_all_at_once_find_nothing_wrong() {
    let Some((_disk, archive)) = archive("stress-ng") else {
        return;
    };
    load_twice(&archive, || {
        let mut stress = Command::new("stress-ng");
        for stressor in STRESSORS.split_whitespace() {
            stress.args([&format!("--{stressor}"), "1"]);
        }
        stress.args(["--hdd-bytes", "8m", "--iomix-bytes", "8m"]);
        stress.args(["--fallocate-bytes", "16m", "--dentries", "500"]);
        stress.args(["--timeout", "10s", "--verify", "--temp-path"]);
        ok(stress.arg(archive.mnt()));
    });
    archive.umount();
    ok(vortex().arg("verify").arg(archive.backing()));
}
