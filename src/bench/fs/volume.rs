//! One file system, made and mounted; unmounted when dropped.

use std::ffi::OsString;
use std::fs::{self, File};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;
use std::time::Duration;

use rustix::mount::UnmountFlags;

use super::error::{Result, at};
use super::stage::{Stage, run};
use super::system::System;

/// The extended attribute of our mount's root that names its daemon.
const DAEMON: &str = "user.vortex.daemon";

/// See the module.
pub(super) struct Volume<'a> {
    stage: &'a Stage<'a>,
    /// What it is.
    pub(super) system: System,
    /// What is mounted: an image, or a directory.
    what: PathBuf,
    /// Where its files are seen.
    pub(super) root: PathBuf,
    mounted: bool,
    read_only: bool,
    /// What it lies on, unmounted after it.
    below: Option<Box<Volume<'a>>>,
}

impl<'a> Volume<'a> {
    /// An empty file system that takes `bytes` of any files.
    pub(super) fn empty(stage: &'a Stage<'a>, system: System, bytes: u64) -> Result<Volume<'a>> {
        if matches!(system, System::Ours | System::Bindfs) {
            return Volume::over(stage, system, bytes, |_| Ok(()));
        }
        let image = stage.path("image");
        let room = 2 * bytes + (1 << 30);
        let made = File::create(&image).and_then(|file| file.set_len(room));
        made.map_err(at(&image))?;
        let mkfs = match system {
            System::Btrfs => "mkfs.btrfs",
            _ => "mkfs.ext4",
        };
        // As many inodes as small files need.
        let options: &[&str] = match system {
            System::Btrfs => &["-q"],
            _ => &["-q", "-i", "8192", "-E", "lazy_itable_init=0"],
        };
        run(Command::new(mkfs).args(options).arg(&image))?;
        Volume::mounted(stage, system, image, None)
    }

    /// One that shows a directory on ext4, which `fill` fills before.
    pub(super) fn over(
        stage: &'a Stage<'a>,
        system: System,
        bytes: u64,
        fill: impl FnOnce(&Path) -> Result<()>,
    ) -> Result<Volume<'a>> {
        let disk = Volume::empty(stage, System::Ext4, bytes)?;
        let folder = disk.root.join("archive");
        fs::create_dir(&folder).map_err(at(&folder))?;
        fill(&folder)?;
        Volume::mounted(stage, system, folder, Some(disk))
    }

    /// One that shows the directory of another, which must outlive it.
    pub(super) fn beside(stage: &'a Stage<'a>, system: System, what: &Path) -> Result<Volume<'a>> {
        Volume::mounted(stage, system, what.to_path_buf(), None)
    }

    /// An image of the files in `source`, with blocks of `block_size` bytes.
    pub(super) fn image(
        stage: &'a Stage<'a>,
        system: System,
        source: &Path,
        bytes: u64,
        block_size: u32,
    ) -> Result<Volume<'a>> {
        // The program that reads an image lies on the same ground as ours.
        let disk = match system {
            System::Squashfuse => Some(Volume::empty(stage, System::Ext4, bytes)?),
            _ => None,
        };
        let image = match &disk {
            Some(disk) => disk.root.join("image"),
            None => stage.path("image"),
        };
        let size = block_size.to_string();
        if system == System::Erofs {
            let make = |codec: &str| {
                let mut mkfs = Command::new("mkfs.erofs");
                run(mkfs
                    .arg(format!("-z{codec}"))
                    .arg(format!("-C{size}"))
                    .arg(&image)
                    .arg(source))
            };
            make("zstd").or_else(|_| make("lz4hc"))?;
        } else {
            let mut make = Command::new("mksquashfs");
            make.arg(source).arg(&image);
            run(make.args([
                "-comp",
                "zstd",
                "-b",
                &size,
                "-noappend",
                "-no-progress",
                "-quiet",
            ]))?;
        }
        Volume::mounted(stage, system, image, disk)
    }

    fn mounted(
        stage: &'a Stage<'a>,
        system: System,
        what: PathBuf,
        below: Option<Volume<'a>>,
    ) -> Result<Volume<'a>> {
        let mut volume = Volume {
            stage,
            system,
            what,
            root: stage.folder(system.name())?,
            mounted: false,
            read_only: false,
            below: below.map(Box::new),
        };
        volume.mount()?;
        Ok(volume)
    }

    /// The directory or image that it shows.
    pub(super) fn what(&self) -> &Path {
        &self.what
    }

    /// Mounts it.
    pub(super) fn mount(&mut self) -> Result<()> {
        self.stage.check_stop()?;
        let mut command = match self.system {
            System::Ours => self.stage.vortex("mount"),
            System::Squashfuse => Command::new("squashfuse"),
            System::Bindfs => Command::new("bindfs"),
            _ => {
                let mut mount = Command::new("mount");
                let options = match self.system {
                    System::Btrfs => "loop,compress=zstd:3",
                    _ => "loop",
                };
                mount.args(["-t", self.system.name(), "-o", options]);
                mount
            }
        };
        if self.system == System::Bindfs {
            // As ours: what was read stays in the page cache, and the kernel may remember attributes and names.
            command.args(["-o", "kernel_cache,attr_timeout=60,entry_timeout=60"]);
        }
        if self.read_only {
            command.args(["-o", "ro"]);
        }
        run(command.arg(&self.what).arg(&self.root))?;
        self.mounted = true;
        Ok(())
    }

    /// Unmounts it; what was written to it is on the disk below then.
    pub(super) fn unmount(&mut self) -> Result<()> {
        if self.mounted {
            let mut command = match self.system {
                System::Ours => self.stage.vortex("umount"),
                _ => Command::new("umount"),
            };
            run(command.arg(&self.root))?;
            self.mounted = false;
        }
        Ok(())
    }

    /// Mounts it so that nobody can write, from now on.
    pub(super) fn make_read_only(&mut self) -> Result<()> {
        self.read_only = true;
        self.remount()
    }

    /// Mounts it anew with all caches empty.
    pub(super) fn make_cold(&mut self) -> Result<()> {
        self.unmount()?;
        self.stage.drop_caches()?;
        self.mount()
    }

    /// Mounts it anew; what lies below keeps its caches.
    pub(super) fn remount(&mut self) -> Result<()> {
        self.unmount()?;
        self.mount()
    }

    /// The most memory that the daemon of a FUSE file system has had, in bytes.
    pub(super) fn peak_memory(&self) -> Option<u64> {
        let pid = match self.system {
            System::Ours => {
                let mut value = [0; 4096];
                let len = rustix::fs::getxattr(&self.root, DAEMON, &mut value).ok()?;
                let identity: serde_json::Value = serde_json::from_slice(value.get(..len)?).ok()?;
                identity.get("pid")?.as_u64()?
            }
            System::Squashfuse | System::Bindfs => serving(&self.root)?,
            _ => return None,
        };
        let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
        let line = status.lines().find_map(|l| l.strip_prefix("VmHWM:"))?;
        let kib: u64 = line.split_whitespace().next()?.parse().ok()?;
        Some(kib << 10)
    }
}

/// The process that was told to mount something at `root`.
fn serving(root: &Path) -> Option<u64> {
    let last = [root.as_os_str().as_bytes(), b"\0"].concat();
    let pids = fs::read_dir("/proc").ok()?.flatten();
    let mut pids = pids.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    pids.find(|pid: &u64| {
        fs::read(format!("/proc/{pid}/cmdline")).is_ok_and(|words| words.ends_with(&last))
    })
}

impl Drop for Volume<'_> {
    fn drop(&mut self) {
        for _ in 0..10 {
            if self.unmount().is_ok() {
                break;
            }
            thread::sleep(Duration::from_millis(200));
        }
        if self.mounted {
            let _ = rustix::mount::unmount(&self.root, UnmountFlags::DETACH);
        }
        self.below = None;
        if self.what.is_file() {
            let _ = fs::remove_file(&self.what);
        }
    }
}

/// The names of the files below a directory, relative to it, in order.
pub(super) fn files_below(folder: &Path) -> Result<Vec<OsString>> {
    let found = crate::bench::files::files(&[folder.to_path_buf()]).map_err(at(folder))?;
    let inside = |path: &PathBuf| path.strip_prefix(folder).ok().map(|p| p.as_os_str().into());
    Ok(found.iter().filter_map(inside).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_daemon_is_found_by_where_it_has_mounted() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().join("mnt");
        assert_eq!(serving(&root), None);
        let mut daemon = Command::new("tail")
            .args(["-f", "/dev/null"])
            .arg(&root)
            .stderr(std::process::Stdio::null())
            .spawn()
            .unwrap();
        let pid = u64::from(daemon.id());
        let found = (0..1000).find_map(|_| {
            thread::sleep(Duration::from_millis(10));
            serving(&root)
        });
        assert_eq!(found, Some(pid));
        assert_eq!(serving(dir.path()), None);
        daemon.kill().unwrap();
        daemon.wait().unwrap();
    }
}
