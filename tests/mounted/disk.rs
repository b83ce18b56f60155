//! A small ext4 of its own, for an archive that runs full or loses power. Needs root and a loop device. Its image lies in
//! memory, so that tests do not wait for the machine's disk.

use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use super::support::has;

/// `EXT4_IOC_SHUTDOWN` with the flag that keeps the journal from being written out.
const SHUTDOWN: &str = "import fcntl, os, struct, sys
fd = os.open(sys.argv[1], os.O_RDONLY)
fcntl.ioctl(fd, 0x8004587d, struct.pack('I', 2))";

/// A file system in a file, mounted; taken away at the end.
pub struct Disk {
    dir: tempfile::TempDir,
}

impl Disk {
    /// One of so many MiB; none, with the reason printed, where that is not possible.
    pub fn new(mebibytes: u64) -> Option<Disk> {
        Disk::made_with(mebibytes, &[])
    }

    /// One without a journal, for [`Disk::fail_writes`]: with a journal it would turn read-only.
    pub fn without_journal(mebibytes: u64) -> Option<Disk> {
        Disk::made_with(mebibytes, &["-O", "^has_journal"])
    }

    fn made_with(mebibytes: u64, options: &[&str]) -> Option<Disk> {
        if !has("mkfs.ext4") || !has("python3") {
            return None;
        }
        let disk = Disk {
            dir: tempfile::tempdir().expect("a temporary directory"),
        };
        fs::create_dir(disk.memory()).expect("mkdir");
        fs::create_dir(disk.path()).expect("mkdir");
        let mut tmpfs = Command::new("mount");
        let made = quiet(tmpfs.args(["-t", "tmpfs", "none"]).arg(disk.memory())) && {
            let image = File::create(disk.image()).expect("create");
            image.set_len(mebibytes << 20).expect("set_len");
            // Nothing is kept for root, who would otherwise find room on a full disk.
            let mut mkfs = Command::new("mkfs.ext4");
            mkfs.args(["-q", "-m", "0"]).args(options);
            quiet(mkfs.arg(disk.image())) && disk.mount()
        };
        if !made {
            println!("skipped: no loop device, or not root");
        }
        made.then_some(disk)
    }

    fn memory(&self) -> PathBuf {
        self.dir.path().join("memory")
    }

    fn image(&self) -> PathBuf {
        self.memory().join("image")
    }

    /// Its root directory.
    pub fn path(&self) -> PathBuf {
        self.dir.path().join("root")
    }

    fn mount(&self) -> bool {
        let mut mount = Command::new("mount");
        quiet(mount.args(["-o", "loop"]).args([self.image(), self.path()]))
    }

    /// Stops all writing at once, as a power cut does. What was not durable is lost at [`Disk::power_up`].
    #[track_caller]
    pub fn pull_the_plug(&self) {
        let mut python = Command::new("python3");
        assert!(quiet(python.args(["-c", SHUTDOWN]).arg(self.path())));
    }

    /// Mounts it again, with nothing but what the disk holds. Nobody may use it.
    #[track_caller]
    pub fn power_up(&self) {
        let unmounted = quiet(Command::new("umount").arg(self.path()));
        assert!(unmounted && self.mount(), "the disk is in use");
    }

    /// From now on the device takes nothing where nothing was written before. The system learns that when it writes out what it
    /// took, tells it to one `fsync`, and forgets those bytes.
    #[track_caller]
    pub fn fail_writes(&self) {
        let root = File::open(self.path()).expect("open");
        rustix::fs::syncfs(&root).expect("syncfs");
        let stat = rustix::fs::statvfs(self.memory()).expect("statvfs");
        self.limit((stat.f_blocks - stat.f_bfree) * stat.f_frsize);
    }

    /// The device takes everything again.
    #[track_caller]
    pub fn heal(&self) {
        self.limit(1 << 30);
    }

    #[track_caller]
    fn limit(&self, bytes: u64) {
        let mut mount = Command::new("mount");
        mount.args(["-o", &format!("remount,size={bytes}")]);
        assert!(quiet(mount.arg(self.memory())));
    }

    /// Takes all of its space, or what is left of it, but about `left` bytes, until [`Disk::free`].
    #[track_caller]
    pub fn fill(&self, left: u64) {
        let path = self.path().join("filler");
        let filler = OpenOptions::new().append(true).create(true).open(path);
        let mut filler = filler.expect("create");
        for size in [1 << 20, 4096] {
            let piece = vec![0x5a; size];
            while self.available() >= left + size as u64 && filler.write_all(&piece).is_ok() {}
            // What it takes for certain is known only then.
            let _ = filler.sync_all();
            while self.available() >= left + size as u64 && filler.write_all(&piece).is_ok() {}
        }
    }

    /// Gives back what [`Disk::fill`] took.
    #[track_caller]
    pub fn free(&self) {
        fs::remove_file(self.path().join("filler")).expect("the filler");
        // ext4 gives the blocks back with the next commit of its journal.
        let root = File::open(self.path()).expect("open");
        rustix::fs::syncfs(&root).expect("syncfs");
    }

    /// Bytes that can be written.
    pub fn available(&self) -> u64 {
        let stat = rustix::fs::statvfs(self.path()).expect("statvfs");
        stat.f_bavail * stat.f_frsize
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        for at in [self.path(), self.memory()] {
            let _ = Command::new("umount").arg("-l").arg(at).output();
        }
    }
}

fn quiet(command: &mut Command) -> bool {
    let command = command.stdout(Stdio::null()).stderr(Stdio::null());
    command.status().is_ok_and(|status| status.success())
}
