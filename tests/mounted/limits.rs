//! Limits: memory, open files, sizes of files and blocks, the disk cache.

use std::fs::{self, File};
use std::io::Read;
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt};
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use rustix::fs::{Advice, fadvise};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use vortex_fs::pack::client;
use vortex_fs::pack::status::Status;

use crate::disk::Disk;
use crate::support::*;

const MIB: u64 = 1 << 20;

fn status(archive: &Archive) -> Status {
    client::status(&archive.backing()).expect("a daemon")
}

fn next(state: &mut u64) -> u64 {
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    *state
}

/// Reads and writes at random for so long, compares what it reads, and tells the largest resident size that was seen.
fn random_load(archive: &Archive, threads: u64, time: Duration) -> u64 {
    let pid = archive.daemon();
    let (over, most, done) = (AtomicBool::new(false), AtomicU64::new(0), AtomicU64::new(0));
    let ready = AtomicU64::new(0);
    std::thread::scope(|scope| {
        for thread in 0..threads {
            let (over, done, ready) = (&over, &done, &ready);
            scope.spawn(move || {
                let mut state = 77 + thread;
                let mut files: Vec<(File, Vec<u8>)> = (0..6)
                    .map(|n| {
                        let name = archive.at(&format!("f{thread}.{n}"));
                        let content = fs::read(&name).unwrap();
                        let file = File::options().read(true).write(true).open(name).unwrap();
                        (file, content)
                    })
                    .collect();
                ready.fetch_add(1, Ordering::Relaxed);
                while !over.load(Ordering::Relaxed) {
                    let which = next(&mut state) as usize % files.len();
                    let (file, content) = &mut files[which];
                    let len = 1 + next(&mut state) as usize % (256 << 10);
                    let at = next(&mut state) as usize % (content.len() - len);
                    match next(&mut state) % 10 {
                        0..6 => {
                            // From the daemon, not from the kernel.
                            fadvise(&*file, 0, None, Advice::DontNeed).unwrap();
                            let mut read = vec![0; len];
                            file.read_exact_at(&mut read, at as u64).unwrap();
                            assert!(read == content[at..at + len]);
                        }
                        6..9 => {
                            let new = match next(&mut state) % 2 {
                                0 => noise(len),
                                _ => telemetry(len, next(&mut state)),
                            };
                            file.write_all_at(&new, at as u64).unwrap();
                            content[at..at + len].copy_from_slice(&new);
                        }
                        _ => file.sync_data().unwrap(),
                    }
                    done.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
        let mut begun = None;
        while begun.is_none_or(|b: Instant| b.elapsed() < time) {
            let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
            let line = status.lines().find_map(|l| l.strip_prefix("VmRSS:"));
            let kib: u64 = line
                .unwrap()
                .trim()
                .trim_end_matches(" kB")
                .parse()
                .unwrap();
            most.fetch_max(kib * 1024, Ordering::Relaxed);
            if begun.is_none() && ready.load(Ordering::Relaxed) == threads {
                begun = Some(Instant::now());
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        over.store(true, Ordering::Relaxed);
    });
    println!("{} reads, writes and syncs", done.into_inner());
    most.into_inner()
}

/// 24 files of 4 MiB, a third of them packed, under a limit that holds a part of them.
fn memory_under_load(limit: u64, cache: u64, time: Duration) {
    let Some(archive) = Archive::unmounted() else {
        return;
    };
    let threads = 4;
    archive.mount(&[]);
    for thread in 0..threads {
        for n in 0..6 {
            let content = telemetry(1 << 20, thread * 10 + n).repeat(4);
            fs::write(archive.at(&format!("f{thread}.{n}")), content).unwrap();
        }
        let some = archive.at(&format!("f{thread}.0"));
        // Of the other profile's blocks states and decoders take more, after a long run of key blocks most.
        let (kib, keys, profile) = match thread {
            0 => (1200, "16", "default"),
            _ => (300, "4", "fast"),
        };
        let file = File::options().write(true).open(&some).unwrap();
        file.set_len(kib << 10).unwrap();
        let how = ["--key-blocks", keys, "--profile", profile];
        ok(vortex().arg("pack").args(how).arg(&some));
    }
    let size = |mib: u64| format!("{mib}M");
    archive.remount(&[
        "--memory-limit",
        &size(limit),
        "--cache-size",
        &size(cache),
        "--pack",
        "idle",
        "--pack-after",
        "1",
    ]);
    let most = random_load(&archive, threads, time);
    let now = status(&archive);
    println!(
        "at most {:.1} MiB resident under a limit of {limit} MiB, cache {:.1} of {:.1} MiB",
        most as f64 / MIB as f64,
        now.cache.bytes as f64 / MIB as f64,
        now.cache.limit as f64 / MIB as f64
    );
    assert!(most <= limit * MIB, "{most}");
    assert_eq!(now.memory.limit, Some(limit * MIB));
    assert!(now.cache.bytes <= cache * MIB && now.cache.limit <= cache * MIB);
    assert!(now.cache.misses > 100, "it was no load: {now:?}");
    archive.umount();
}

#[test]
fn memory_stays_within_the_limit_under_a_random_load() {
    memory_under_load(320, 256, Duration::from_secs(15));
}

#[test]
#[ignore = "takes ten minutes; run it before a release"]
fn memory_stays_within_the_limit_for_long() {
    memory_under_load(320, 256, Duration::from_secs(600));
}

#[test]
fn limits_that_cannot_be_held_are_refused() {
    let Some(archive) = Archive::unmounted() else {
        return;
    };
    let refused = |args: &[&str]| {
        let said = archive.mount_command(args).output().unwrap();
        assert_eq!(said.status.code(), Some(1), "{said:?}");
        String::from_utf8_lossy(&said.stderr).into_owned()
    };
    assert!(refused(&["--memory-limit", "10M"]).contains("320M"));
    refused(&["--disk-cache-size", "1G"]);
    let inside = archive.backing().join("cache");
    let said = refused(&["--disk-cache", inside.to_str().unwrap()]);
    assert!(said.contains("outside of the archive"), "{said}");
    let inside = archive.mnt();
    let said = refused(&["--disk-cache", inside.to_str().unwrap()]);
    assert!(said.contains("outside of the archive"), "{said}");
    let open = archive.outside();
    fs::set_permissions(&open, fs::Permissions::from_mode(0o755)).unwrap();
    let said = refused(&["--disk-cache", open.to_str().unwrap()]);
    assert!(said.contains("chmod 700"), "{said}");
}

#[test]
fn ten_thousand_files_are_open_at_once() {
    const MOST: u64 = 10_000;
    let Some(archive) = Archive::unmounted() else {
        return;
    };
    // The daemon has two descriptors for each file; where the system allows fewer, as many files as that is.
    let maximum = getrlimit(Resource::Nofile).maximum;
    let wanted = maximum.map_or(3 * MOST, |most| most.max(3 * MOST));
    let limit = |n| Rlimit {
        current: Some(n),
        maximum: maximum.map(|most| most.max(n)),
    };
    let allowed = match setrlimit(Resource::Nofile, limit(wanted)) {
        Ok(()) => wanted,
        Err(_) => maximum.unwrap_or(0),
    };
    setrlimit(Resource::Nofile, limit(allowed)).unwrap();
    let files_open = MOST.min(allowed.saturating_sub(400) / 2);
    assert!(files_open > 1000, "a limit of {allowed} open files");
    // The daemon has to raise its own.
    let mut mount = Command::new("sh");
    mount.args(["-c", "ulimit -Sn 256; exec \"$@\"", "sh"]);
    mount.arg(env!("CARGO_BIN_EXE_vortex-fs")).arg("mount");
    ok(mount.arg(archive.backing()).arg(archive.mnt()));
    let begun = Instant::now();
    let mut files = Vec::new();
    for n in 0..files_open {
        let path = archive.at(&format!("f{n}"));
        let file = File::options()
            .read(true)
            .write(true)
            .create_new(true)
            .open(path);
        let file = file.unwrap_or_else(|e| panic!("file {n}: {e}"));
        file.write_all_at(&n.to_le_bytes(), 0).unwrap();
        files.push(file);
    }
    assert!(status(&archive).requests.open >= files_open);
    for (n, file) in files.iter().enumerate().rev() {
        let mut read = [0; 8];
        file.read_exact_at(&mut read, 0).unwrap();
        assert_eq!(u64::from_le_bytes(read), n as u64);
    }
    println!(
        "{files_open} files written, open and read in {:?}",
        begun.elapsed()
    );
    drop(files);
    wait_until("all to be closed", || status(&archive).requests.open == 0);
    archive.umount();
}

#[test]
fn files_of_a_tebibyte_are_written_read_packed_and_unpacked_by_what_is_in_them() {
    const SIZE: u64 = 1 << 40;
    let Some(archive) = Archive::mounted() else {
        return;
    };
    let begun = Instant::now();
    let (head, tail) = (telemetry(100_000, 1), telemetry(70_000, 2));
    let path = archive.at("huge");
    let file = File::options()
        .read(true)
        .write(true)
        .create_new(true)
        .open(&path)
        .unwrap();
    file.write_all_at(&head, 0).unwrap();
    file.write_all_at(&tail, SIZE - tail.len() as u64).unwrap();
    file.write_all_at(b"between", SIZE / 2 + 5).unwrap();
    file.sync_all().unwrap();
    let read = |at: u64, len: usize| {
        fadvise(&file, 0, None, Advice::DontNeed).unwrap();
        let mut read = vec![1; len];
        file.read_exact_at(&mut read, at).unwrap();
        read
    };
    let check = |what: &str| {
        assert_eq!(fs::metadata(&path).unwrap().len(), SIZE, "{what}");
        assert!(read(0, head.len()) == head, "{what}");
        assert!(read(SIZE - tail.len() as u64, tail.len()) == tail, "{what}");
        assert!(read(SIZE / 2, 12) == *b"\0\0\0\0\0between", "{what}");
        assert!(read(SIZE / 3, 300_000).iter().all(|&b| b == 0), "{what}");
        let mut beyond = [0; 10];
        assert_eq!(file.read_at(&mut beyond, SIZE).unwrap(), 0);
        let took = fs::metadata(&path).unwrap().blocks() * 512;
        assert!(took < 2 * MIB, "{what}: {took} bytes on the disk");
        println!("{what}: {took} bytes, {:?}", begun.elapsed());
    };
    check("written");
    for command in ["pack", "unpack", "pack"] {
        ok(vortex().arg(command).arg(&path));
        check(command);
    }
    let du = ok(Command::new("du").arg("-k").arg(&path));
    let kib: u64 = du.split_whitespace().next().unwrap().parse().unwrap();
    assert!(kib < 2048, "{du}");
    // Into a hole of the packed file, and cut to nothing much.
    file.write_all_at(b"late", SIZE / 4).unwrap();
    assert!(read(SIZE / 4 - 1, 6) == *b"\0late\0");
    check("written again");
    ok(vortex().arg("verify").arg(archive.backing()));
    file.set_len(10).unwrap();
    assert!(read(0, 10) == head[..10]);
    drop(file);
    archive.remount(&[]);
    assert!(fs::read(&path).unwrap() == head[..10]);
    let took = begun.elapsed();
    assert!(took < Duration::from_secs(120), "it took {took:?}");
    archive.umount();
}

#[test]
fn every_block_size_keeps_what_is_written_overwritten_cut_and_packed() {
    let Some(archive) = Archive::unmounted() else {
        return;
    };
    let mut all = Vec::new();
    for size in ["16K", "32K", "64K", "128K", "256K", "512K", "1M"] {
        archive.mount(&["--block-size", size]);
        let mut content = telemetry(2_300_000, 3);
        let path = archive.at(size);
        fs::write(&path, &content).unwrap();
        let file = File::options().read(true).write(true).open(&path).unwrap();
        for at in [0, 16_383, 65_535, 1_048_575, 2_299_990] {
            let new = b"0123456789";
            file.write_all_at(new, at as u64).unwrap();
            content[at..at + new.len()].copy_from_slice(new);
        }
        file.set_len(2_200_001).unwrap();
        content.truncate(2_200_001);
        file.sync_all().unwrap();
        let blksize = fs::metadata(&path).unwrap().blksize();
        drop(file);
        archive.remount(&["--block-size", size]);
        assert!(fs::read(&path).unwrap() == content, "{size}");
        assert!(matches!(blksize, 16_384..=1_048_576), "{blksize}");
        let report = ok(vortex()
            .args(["stat", "--json"])
            .arg(archive.backing().join(format!("{size}.vortex"))));
        let unit = vortex_fs::cli::parse_size(size).unwrap();
        assert!(
            report.contains(&format!("\"block_size\": {unit}")),
            "{report}"
        );
        // What is packed is cut here, so that it does not take long.
        let part = archive.at(&format!("{size}.part"));
        fs::write(&part, &content[..300_001]).unwrap();
        ok(vortex().args(["pack", "--block-size", size]).arg(&part));
        archive.remount(&[]);
        let mut read = Vec::new();
        File::open(&part).unwrap().read_to_end(&mut read).unwrap();
        assert!(read == content[..300_001], "{size}");
        all.push((path, content));
        archive.umount();
    }
    // One mount has them all.
    archive.mount(&["--block-size", "1M"]);
    for (path, content) in &all {
        assert!(fs::read(path).unwrap() == *content);
    }
    ok(vortex().arg("verify").arg(archive.backing()));
    archive.umount();
}

fn disk_cache(archive: &Archive) -> vortex_fs::pack::status::DiskCache {
    status(archive).disk_cache.expect("a disk cache")
}

#[test]
fn packed_data_that_was_read_once_stays_fast_across_remounts() {
    let Some(archive) = Archive::mounted() else {
        return;
    };
    let content = telemetry(1_500_000, 1);
    fs::write(archive.at("f"), &content).unwrap();
    ok(vortex().arg("pack").arg(archive.mnt()));
    let cache = archive.outside().join("cache");
    let options = [
        "--disk-cache",
        cache.to_str().unwrap(),
        "--disk-cache-size",
        "100M",
    ];
    archive.remount(&options);
    let begun = Instant::now();
    assert!(fs::read(archive.at("f")).unwrap() == content);
    let cold = begun.elapsed();
    wait_until("it to be kept", || {
        let now = disk_cache(&archive);
        now.stored == now.misses && now.misses > 0
    });
    archive.remount(&options);
    let begun = Instant::now();
    assert!(fs::read(archive.at("f")).unwrap() == content);
    let warm = begun.elapsed();
    let now = disk_cache(&archive);
    println!("{cold:?} decoded, {warm:?} from the disk cache");
    assert_eq!(now.misses, 0);
    assert!(now.hits >= 23 && warm < cold / 2, "{now:?}");
    let mode = fs::metadata(&cache).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o700);
    // A second mount at the same place has its own.
    let mode_of = |entry: fs::DirEntry| entry.metadata().unwrap().permissions().mode() & 0o777;
    assert!(
        fs::read_dir(&cache)
            .unwrap()
            .all(|e| mode_of(e.unwrap()) == 0o600)
    );
    // A daemon that was killed leaves what the next one can use.
    archive.crash();
    archive.mount(&options);
    assert!(fs::read(archive.at("f")).unwrap() == content);
    assert_eq!(disk_cache(&archive).misses, 0);
    // Read-only mounts have it as well.
    archive.umount();
    archive.mount(&[&options[..], &["--read-only"]].concat());
    assert!(fs::read(archive.at("f")).unwrap() == content);
    let json = ok(vortex().args(["status", "--json"]).arg(archive.mnt()));
    let now: Status = serde_json::from_str(&json).unwrap();
    assert_eq!(now.disk_cache.unwrap().misses, 0);
    archive.umount();
}

#[test]
fn a_full_disk_below_the_disk_cache_harms_nobody() {
    let Some(disk) = Disk::new(80) else { return };
    let Some(archive) = Archive::mounted() else {
        return;
    };
    let content = telemetry(400_000, 1);
    fs::write(archive.at("f"), &content).unwrap();
    ok(vortex().arg("pack").arg(archive.mnt()));
    let cache = disk.path().join("cache");
    archive.remount(&["--disk-cache", cache.to_str().unwrap()]);
    // Less is left than the cache leaves to others, and then nothing at all.
    for fill in [20 << 20, 100 << 20] {
        let _ = fs::write(disk.path().join("fill"), vec![1; fill]);
        archive.remount(&["--disk-cache", cache.to_str().unwrap()]);
        assert!(fs::read(archive.at("f")).unwrap() == content);
        assert_eq!(disk_cache(&archive).stored, 0);
        fs::write(archive.at("g"), &content).unwrap();
    }
    archive.umount();
    let kept = fs::read_dir(&cache).unwrap().map(|e| e.unwrap().path());
    let kept: Vec<_> = kept
        .filter(|p| p.extension().is_some_and(|e| e == "block"))
        .collect();
    assert!(kept.is_empty(), "{kept:?}");
    // So does a disk that only can be read.
    drop(disk);
}
