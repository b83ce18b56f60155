//! A mounted archive in a temporary directory that is always unmounted.

use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use super::disk::Disk;

/// An archive and its mountpoint `mnt`.
pub struct Archive {
    dir: tempfile::TempDir,
    backing: PathBuf,
}

/// Whether mounts are possible here; says so if not.
pub fn fuse() -> bool {
    let there = Path::new("/dev/fuse").exists();
    if !there {
        println!("skipped: no /dev/fuse");
    }
    there
}

/// Whether a program is installed; says so if not.
pub fn has(program: &str) -> bool {
    let found = std::env::var_os("PATH")
        .is_some_and(|path| std::env::split_paths(&path).any(|dir| dir.join(program).is_file()));
    if !found {
        println!("skipped: no {program}");
    }
    found
}

/// The program under test.
pub fn vortex() -> Command {
    Command::new(env!("CARGO_BIN_EXE_vortex-fs"))
}

/// Runs to the end and requires success.
#[track_caller]
pub fn ok(command: &mut Command) -> String {
    let output = finish(command);
    assert!(
        output.status.success(),
        "{command:?}: {}\n{}",
        output.status,
        stderr(&output)
    );
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// Runs to the end and requires this exit code and one line on standard error, which is returned.
#[track_caller]
pub fn fails(command: &mut Command, code: i32) -> String {
    let output = finish(command);
    let said = stderr(&output);
    assert_eq!(output.status.code(), Some(code), "{command:?}: {said}");
    assert_eq!(
        said.trim_end().lines().count(),
        1,
        "{command:?} should say one line: {said}"
    );
    said
}

#[track_caller]
fn finish(command: &mut Command) -> Output {
    command
        .stdin(Stdio::null())
        .output()
        .expect("the program starts")
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// Runs a shell script in a directory and requires success.
#[track_caller]
pub fn sh(dir: &Path, script: &str) -> String {
    ok(Command::new("sh").args(["-euc", script]).current_dir(dir))
}

impl Archive {
    /// An empty archive, not yet mounted; none where mounts are not possible.
    pub fn unmounted() -> Option<Archive> {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let backing = dir.path().join("backing");
        Archive::made_of(dir, backing)
    }

    /// As [`Archive::unmounted`], on a disk of its own. The archive has to go before the disk.
    pub fn on(disk: &Disk) -> Option<Archive> {
        let dir = tempfile::tempdir().expect("a temporary directory");
        Archive::made_of(dir, disk.path().join("backing"))
    }

    fn made_of(dir: tempfile::TempDir, backing: PathBuf) -> Option<Archive> {
        if !fuse() {
            return None;
        }
        let archive = Archive { dir, backing };
        fs::create_dir(archive.backing()).expect("mkdir");
        fs::create_dir(archive.mnt()).expect("mkdir");
        Some(archive)
    }

    /// An empty archive, mounted.
    pub fn mounted() -> Option<Archive> {
        let archive = Archive::unmounted()?;
        archive.mount(&[]);
        Some(archive)
    }

    pub fn backing(&self) -> PathBuf {
        self.backing.clone()
    }

    pub fn mnt(&self) -> PathBuf {
        self.dir.path().join("mnt")
    }

    /// A path in the mount.
    pub fn at(&self, path: &str) -> PathBuf {
        self.mnt().join(path)
    }

    /// A directory beside both, for what is to be compared with.
    pub fn outside(&self) -> PathBuf {
        let path = self.dir.path().join("outside");
        fs::create_dir_all(&path).expect("mkdir");
        path
    }

    pub fn mount_command(&self, options: &[&str]) -> Command {
        let mut command = vortex();
        command
            .arg("mount")
            .arg(self.backing())
            .arg(self.mnt())
            .args(options);
        command
    }

    #[track_caller]
    pub fn mount(&self, options: &[&str]) {
        ok(&mut self.mount_command(options));
    }

    pub fn umount_command(&self) -> Command {
        let mut command = vortex();
        command.arg("umount").arg(self.mnt());
        command
    }

    #[track_caller]
    pub fn umount(&self) {
        ok(&mut self.umount_command());
    }

    #[track_caller]
    pub fn remount(&self, options: &[&str]) {
        self.umount();
        self.mount(options);
    }

    /// The daemon's process.
    #[track_caller]
    pub fn daemon(&self) -> u32 {
        let mut value = vec![0; 8192];
        let len = rustix::fs::getxattr(self.mnt(), "user.vortex.daemon", &mut value)
            .expect("the daemon's name");
        let json: serde_json::Value = serde_json::from_slice(&value[..len]).expect("JSON");
        u32::try_from(json["pid"].as_u64().expect("a number")).expect("a process")
    }

    /// Kills the daemon without warning and takes the dead mount away.
    #[track_caller]
    pub fn crash(&self) {
        let pid = self.daemon();
        kill(pid, "-KILL");
        wait_gone(pid);
        self.umount();
    }

    /// Disk space of the archive's files, its private directory left out, in bytes.
    pub fn stored(&self) -> u64 {
        let output = ok(Command::new("du")
            .args(["-s", "-B1", "--exclude=./.vortex", "."])
            .current_dir(self.backing()));
        output
            .split_whitespace()
            .next()
            .and_then(|n| n.parse().ok())
            .expect("a number from du")
    }
}

impl Drop for Archive {
    fn drop(&mut self) {
        let mounted = || {
            fs::read_to_string("/proc/self/mounts")
                .unwrap_or_default()
                .contains(&*self.mnt().to_string_lossy())
        };
        if mounted() {
            let _ = self.umount_command().output();
        }
        if mounted() {
            let _ = Command::new("umount").arg("-l").arg(self.mnt()).output();
        }
    }
}

pub fn kill(pid: u32, signal: &str) {
    ok(Command::new("kill").arg(signal).arg(pid.to_string()));
}

/// Whether any thread of a process lives.
pub fn is_alive(pid: u32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let zombie = stat
        .rsplit_once(") ")
        .is_none_or(|(_, rest)| rest.starts_with('Z'));
    let threads = || fs::read_dir(format!("/proc/{pid}/task")).map_or(0, Iterator::count);
    !zombie || threads() > 1
}

pub fn wait_gone(pid: u32) {
    wait_until("the process to end", || !is_alive(pid));
}

#[track_caller]
pub fn wait_until(what: &str, mut true_now: impl FnMut() -> bool) {
    let start = Instant::now();
    while !true_now() {
        assert!(
            start.elapsed() < Duration::from_secs(60),
            "waited in vain for {what}"
        );
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// Bytes that compress: fixed binary records of a slow random walk, as counters are.
pub fn telemetry(len: usize, seed: u64) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    let (mut values, mut out, mut time) = ([1000u32; 5], Vec::with_capacity(len + 24), 0u32);
    while out.len() < len {
        time += 100;
        out.extend(time.to_le_bytes());
        for value in &mut values {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            *value = value.wrapping_add((state % 7) as u32);
            out.extend(value.to_le_bytes());
        }
    }
    out.truncate(len);
    out
}

/// Bytes that do not compress.
pub fn noise(len: usize) -> Vec<u8> {
    let mut out = Vec::with_capacity(len);
    fs::File::open("/dev/urandom")
        .expect("urandom")
        .take(len as u64)
        .read_to_end(&mut out)
        .expect("read");
    out
}
