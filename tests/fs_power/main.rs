//! Power loss: an ext4 of its own is shut down under a busy archive, as if the plug were pulled, and mounted again.
//!
//! What `fsync` answered for must be there, every file must be as it was at one moment, and nothing may be damaged.
//! Needs root, loop devices, mkfs.ext4 and python3 (for one ioctl); without them it says so and does nothing.

use std::ffi::OsStr;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use vortex_fs::fs::{Caller, Fs, FsError, FsOptions, NodeId, RenameFlags};
use vortex_fs::store::{Access, Archive};

const RDWR: i32 = 2;
const FILES: usize = 3;
const LEN: usize = 3 * 16384 + 5;

/// `EXT4_IOC_SHUTDOWN` with the flag that keeps the journal from being written out.
const SHUTDOWN: &str = "import fcntl, os, struct, sys
fd = os.open(sys.argv[1], os.O_RDONLY)
fcntl.ioctl(fd, 0x8004587d, struct.pack('I', 2))";

fn run(command: &str, args: &[&OsStr]) -> bool {
    let status = Command::new(command)
        .args(args)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status();
    status.is_ok_and(|status| status.success())
}

/// A file system in a file.
struct Disk {
    dir: tempfile::TempDir,
}

impl Disk {
    fn new() -> Option<Disk> {
        let dir = tempfile::tempdir().unwrap();
        let image = dir.path().join("image");
        std::fs::File::create(&image)
            .unwrap()
            .set_len(64 << 20)
            .unwrap();
        std::fs::create_dir(dir.path().join("mnt")).unwrap();
        let disk = Disk { dir };
        let made = run("mkfs.ext4", &["-q".as_ref(), image.as_ref()]);
        (made && run("python3", &["--version".as_ref()]) && disk.mount()).then_some(disk)
    }

    fn path(&self) -> std::path::PathBuf {
        self.dir.path().join("mnt")
    }

    fn mount(&self) -> bool {
        let image = self.dir.path().join("image");
        run(
            "mount",
            &[
                "-o".as_ref(),
                "loop".as_ref(),
                image.as_ref(),
                self.path().as_ref(),
            ],
        )
    }

    fn unmount(&self) -> bool {
        run("umount", &[self.path().as_ref()])
    }

    fn pull_the_plug(&self) {
        assert!(run(
            "python3",
            &["-c".as_ref(), SHUTDOWN.as_ref(), self.path().as_ref()]
        ));
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        self.unmount();
    }
}

fn open(root: &Path) -> Arc<Fs> {
    let archive = Archive::open(root, Access::Write).unwrap();
    let options = FsOptions {
        block_size: 16 << 10,
        commit_after: Duration::from_millis(30),
        commit_closed_after: Duration::from_millis(10),
        ..FsOptions::default()
    };
    Fs::new(archive, options).unwrap()
}

fn me() -> Caller {
    Caller {
        uid: 0,
        gid: 0,
        umask: 0,
    }
}

/// What a file holds at a version: nothing but the version, so that a mixture shows.
fn content(version: u64) -> Vec<u8> {
    version.to_le_bytes().repeat(LEN / 8 + 1)[..LEN].to_vec()
}

/// The version that these bytes are.
fn version(bytes: &[u8]) -> Option<u64> {
    let version = u64::from_le_bytes(bytes.first_chunk().copied()?);
    (content(version) == bytes).then_some(version)
}

fn create(fs: &Fs, name: &str, version: u64, sync: bool) -> Result<(), FsError> {
    let (node, _, fh) = fs.create(NodeId::ROOT, name.as_ref(), 0o644, RDWR, me())?;
    let written = fs.write(fh, 0, &content(version)).map(drop);
    let done = written.and_then(|()| if sync { fs.fsync(fh, false) } else { Ok(()) });
    fs.release(fh)?;
    fs.forget(node, 1);
    done
}

fn read(fs: &Fs, name: &str) -> Result<Vec<u8>, FsError> {
    let fh = fs.open(fs.resolve(Path::new(name))?, 0)?;
    let bytes = fs.read(fh, 0, 1 << 20);
    fs.release(fh)?;
    bytes
}

#[test]
fn synced_content_survives_power_loss() {
    for round in 0..4 {
        let Some(disk) = Disk::new() else {
            println!("skipped: needs root, loop devices, mkfs.ext4 and python3");
            return;
        };
        Archive::init(&disk.path()).unwrap();
        let fs = open(&disk.path());
        for file in 0..FILES {
            create(&fs, &format!("f{file}"), 0, true).unwrap();
        }
        create(&fs, "config", 0, true).unwrap();
        let (stop, synced) = (AtomicBool::new(false), [const { AtomicU64::new(0) }; FILES]);
        let (new, configs) = (AtomicU64::new(0), AtomicU64::new(0));
        std::thread::scope(|scope| {
            let (fs, stop, new, configs) = (&fs, &stop, &new, &configs);
            for (file, synced) in synced.iter().enumerate() {
                scope.spawn(move || {
                    let node = fs.resolve(Path::new(&format!("f{file}"))).unwrap();
                    let fh = fs.open(node, RDWR).unwrap();
                    for version in 1.. {
                        let done = fs
                            .write(fh, 0, &content(version))
                            .and_then(|_| fs.fsync(fh, file == 0));
                        if done.is_err() || stop.load(Ordering::SeqCst) {
                            break;
                        }
                        synced.store(version, Ordering::SeqCst);
                    }
                });
            }
            scope.spawn(move || {
                for i in 0.. {
                    if create(fs, &format!("n{i}"), i, true).is_err() || stop.load(Ordering::SeqCst)
                    {
                        break;
                    }
                    new.store(i + 1, Ordering::SeqCst);
                }
            });
            scope.spawn(move || {
                let root = NodeId::ROOT;
                for version in 1.. {
                    let done = create(fs, "temp", version, false).and_then(|()| {
                        fs.rename(
                            root,
                            "temp".as_ref(),
                            root,
                            "config".as_ref(),
                            RenameFlags::Replace,
                        )
                    });
                    if done.is_err() || stop.load(Ordering::SeqCst) {
                        break;
                    }
                    configs.store(version, Ordering::SeqCst);
                }
            });
            std::thread::sleep(Duration::from_millis(300 + 150 * round));
            // A disk that is busy with others may take a while to the first promise.
            let synced = || synced.iter().any(|s| s.load(Ordering::SeqCst) > 0);
            let begun = Instant::now();
            while (!synced() || new.load(Ordering::SeqCst) == 0)
                && begun.elapsed() < Duration::from_secs(60)
            {
                std::thread::sleep(Duration::from_millis(5));
            }
            disk.pull_the_plug();
            stop.store(true, Ordering::SeqCst);
        });
        fs.abandon();
        drop(fs);
        assert!(disk.unmount() && disk.mount());

        let fs = open(&disk.path());
        for (file, synced) in synced.iter().enumerate() {
            let bytes = read(&fs, &format!("f{file}")).unwrap();
            let found = version(&bytes).unwrap_or_else(|| panic!("f{file} is torn"));
            let synced = synced.load(Ordering::SeqCst);
            assert!(found >= synced, "f{file}: {found} of {synced}");
        }
        let new = new.load(Ordering::SeqCst);
        for i in 0..new {
            assert_eq!(version(&read(&fs, &format!("n{i}")).unwrap()), Some(i));
        }
        let config = version(&read(&fs, "config").unwrap()).expect("config is torn or empty");
        assert!(config <= configs.load(Ordering::SeqCst) + 1);
        let versions: u64 = synced.iter().map(|s| s.load(Ordering::SeqCst)).sum();
        assert!(versions > 0 && new > 0, "nothing was synced");
        println!("round {round}: {versions} versions, {new} new files, {config} renames");
        fs.abandon();
    }
}
