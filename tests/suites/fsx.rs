//! fsx, the file system exerciser: random reads, writes, memory maps, truncations, holes and allocations, each read compared
//! with what it must be. On files of every form, and on files that change form under it.

use std::fs::{self, File};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use super::disk::Disk;
use super::support::{Archive, has, kill, ok, vortex};

const OPERATIONS: &str = "10000";

/// Seeds that each kind of file is tried with: five, or as many as `FSX_SEEDS` says; those of one kind begin here.
fn seeds(first: u64) -> impl Iterator<Item = u64> {
    let told = std::env::var("FSX_SEEDS").ok().and_then(|n| n.parse().ok());
    first..first + told.unwrap_or(5)
}

/// About what one operation adds to the log.
const BYTES_LOGGED: u64 = 60;

/// Largest file, in bytes: 16 blocks, and where blocks are packed, which is slow in a build for tests, 4.
const LARGEST: usize = 256 << 10;
const LARGEST_PACKED: usize = 64 << 10;

const WEIGHTS: &str = "
[weights]
close_open = 1
read = 10
write = 10
mapread = 5
mapwrite = 5
truncate = 3
fsync = 1
fdatasync = 1
invalidate = 1
punch_hole = 2
posix_fallocate = 1
posix_fadvise = 1
sendfile = 1
copy_file_range = 1
";

/// Blocks are small and hardly any stay decoded, so that most reads which the kernel asks for decode one.
const OPTIONS: &[&str] = &["--block-size", "16K", "--cache-size", "32K"];

/// A run on the file `f<seed>`.
struct Run<'a> {
    archive: &'a Archive,
    name: String,
    child: Child,
    begun: Instant,
}

impl Run<'_> {
    fn start(archive: &Archive, seed: u64, largest: usize) -> Run<'_> {
        let (name, out) = (name(seed), archive.outside());
        // What is written to a map reaches the archive at once, or when the kernel likes.
        let config = format!(
            "nomsyncafterwrite = {}\nflen = {largest}\n[opsize]\nmin = 1\nmax = {}\n{WEIGHTS}",
            seed.is_multiple_of(2),
            largest / 4
        );
        fs::write(out.join(format!("{name}.toml")), config).unwrap();
        let log = File::create(out.join(format!("{name}.log"))).unwrap();
        let child = Command::new("fsx")
            .args(["-v", "-N", OPERATIONS, "-S", &seed.to_string()])
            .arg("-f")
            .arg(out.join(format!("{name}.toml")))
            .arg("-P")
            .arg(&out)
            .arg(archive.at(&name))
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .unwrap();
        Run {
            archive,
            name,
            child,
            begun: Instant::now(),
        }
    }

    fn is_running(&mut self) -> bool {
        self.child.try_wait().unwrap().is_none()
    }

    /// Waits for so many operations more; whether it still runs then.
    fn goes_on(&mut self, operations: u64) -> bool {
        let (log, file) = (self.log(), self.archive.at(&self.name));
        let size = || fs::metadata(&log).unwrap().len();
        let enough = size() + operations * BYTES_LOGGED;
        while self.is_running() && (size() < enough || !file.exists()) {
            sleep(Duration::from_millis(5));
        }
        self.is_running()
    }

    fn log(&self) -> PathBuf {
        self.archive.outside().join(format!("{}.log", self.name))
    }

    /// Holds it still during something; not if it has ended meanwhile.
    fn pause<T>(&mut self, during: impl FnOnce() -> T) -> Option<T> {
        // Not waited for yet, so the number is still its own.
        self.is_running().then(|| {
            kill(self.child.id(), "-STOP");
            let outcome = during();
            kill(self.child.id(), "-CONT");
            outcome
        })
    }

    /// Waits for the end and requires that nothing was wrong; answers the content.
    fn finish(mut self) -> (PathBuf, Vec<u8>) {
        let status = self.child.wait().unwrap();
        let log = fs::read_to_string(self.log()).unwrap();
        assert!(status.success(), "{}: {status}\n{log}", self.name);
        println!("{}: {:.1} s", self.name, self.begun.elapsed().as_secs_f64());
        let path = self.archive.at(&self.name);
        let content = fs::read(&path).unwrap();
        (path, content)
    }
}

impl Drop for Run<'_> {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn archive() -> Option<(Disk, Archive)> {
    if !has("fsx") {
        return None;
    }
    let disk = Disk::new(64)?;
    let archive = Archive::on(&disk)?;
    Some((disk, archive))
}

/// Compares what the runs left with what is there after a remount, and verifies the archive.
fn settle(archive: &Archive, left: &[(PathBuf, Vec<u8>)]) {
    archive.remount(OPTIONS);
    for (path, content) in left {
        assert!(&fs::read(path).unwrap() == content, "{}", path.display());
    }
    archive.umount();
    ok(vortex().arg("verify").arg(archive.backing()));
}

/// Packs or unpacks a file; whether it took another form.
fn repack(archive: &Archive, name: &str, command: &[&str]) -> bool {
    let output = vortex()
        .args(command)
        .arg("--json")
        .arg(archive.at(name))
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    // 3: it was written meanwhile, or has several names and cannot be unpacked.
    assert!(
        matches!(output.status.code(), Some(0 | 3)),
        "{command:?}: {said}"
    );
    let summary: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(
        (&summary["failed"], &summary["damaged"]),
        (&0.into(), &0.into()),
        "{summary}"
    );
    summary["done"] == 1
}

#[test]
fn plain_files_hold_what_was_written() {
    let Some((_disk, archive)) = archive() else {
        return;
    };
    for seed in seeds(1) {
        fs::write(archive.backing().join(format!("f{seed}")), b"plain").unwrap();
    }
    archive.mount(OPTIONS);
    let left: Vec<_> = seeds(1)
        .map(|seed| Run::start(&archive, seed, LARGEST).finish())
        .collect();
    settle(&archive, &left);
    for (path, content) in left {
        let backing = archive.backing().join(path.file_name().unwrap());
        assert!(fs::read(backing).unwrap() == content, "it stayed plain");
    }
}

#[test]
fn fresh_segments_hold_what_was_written() {
    let Some((_disk, archive)) = archive() else {
        return;
    };
    archive.mount(OPTIONS);
    let left: Vec<_> = seeds(1001)
        .map(|seed| Run::start(&archive, seed, LARGEST).finish())
        .collect();
    settle(&archive, &left);
}

#[test]
fn files_packed_between_operations_hold_what_was_written() {
    let Some((_disk, archive)) = archive() else {
        return;
    };
    archive.mount(OPTIONS);
    let commands: [&[&str]; 4] = [
        &["pack", "--block-size", "16K"],
        &["pack", "--key-blocks", "1"],
        &["unpack"],
        &["pack", "--block-size", "32K", "--key-blocks", "0"],
    ];
    let (mut left, mut done) = (Vec::new(), [0; 4]);
    for seed in seeds(2001) {
        let mut run = Run::start(&archive, seed, LARGEST_PACKED);
        let mut turn = (0..commands.len()).cycle();
        while run.goes_on(1000) {
            let turn = turn.next().unwrap();
            let changed = run.pause(|| repack(&archive, &name(seed), commands[turn]));
            done[turn] += u32::from(changed == Some(true));
        }
        left.push(run.finish());
    }
    println!("fsx: files took another form {done:?} times");
    assert!(done.iter().all(|&n| n > 0), "{done:?}");
    settle(&archive, &left);
}

#[test]
fn files_packed_during_operations_hold_what_was_written() {
    let Some((_disk, archive)) = archive() else {
        return;
    };
    archive.mount(OPTIONS);
    let (mut left, mut done) = (Vec::new(), 0);
    for seed in seeds(3001) {
        let mut run = Run::start(&archive, seed, LARGEST_PACKED);
        for turn in 0.. {
            if !run.goes_on(0) {
                break;
            }
            // With a second name it is packed block by block while it is written; otherwise as a whole, if at all.
            let (name, second) = (archive.at(&run.name), archive.at("second"));
            if turn % 8 == 0 {
                let _ = fs::hard_link(name, second);
            } else if turn % 8 == 6 {
                let _ = fs::remove_file(second);
            }
            done += u32::from(repack(&archive, &run.name, &["pack"]));
        }
        let _ = fs::remove_file(archive.at("second"));
        left.push(run.finish());
    }
    println!("fsx: files were packed {done} times while they were written");
    assert!(done > 0);
    settle(&archive, &left);
}

fn name(seed: u64) -> String {
    format!("f{seed}")
}
