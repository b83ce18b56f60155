//! Where the demo happens: a temporary directory with an archive, a mountpoint and recordings, gone when dropped.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use rustix::mount::UnmountFlags;
use tempfile::TempDir;

use super::DemoError;

const FUSE_DEVICE: &str = "/dev/fuse";

/// The stage. Dropping it unmounts what is mounted and removes the directory.
pub struct Stage<'a> {
    dir: TempDir,
    program: PathBuf,
    recordings: PathBuf,
    archive: PathBuf,
    mountpoint: PathBuf,
    mounted: AtomicBool,
    stop: &'a (dyn Fn() -> bool + Sync),
}

impl<'a> Stage<'a> {
    /// Checks that this machine can mount, and makes the directories.
    ///
    /// # Errors
    /// `NoFuse`, I/O errors.
    pub fn set(stop: &'a (dyn Fn() -> bool + Sync)) -> Result<Stage<'a>, DemoError> {
        check_fuse()?;
        let made = || -> io::Result<Stage<'a>> {
            let dir = tempfile::Builder::new().prefix("vortex-demo-").tempdir()?;
            let [recordings, archive, mountpoint] =
                ["recordings", "archive", "mnt"].map(|n| dir.path().join(n));
            for folder in [&recordings, &archive, &mountpoint] {
                fs::create_dir(folder)?;
            }
            let program = std::env::current_exe()?;
            Ok(Stage {
                dir,
                program,
                recordings,
                archive,
                mountpoint,
                mounted: AtomicBool::new(false),
                stop,
            })
        };
        made().map_err(super::at(&std::env::temp_dir()))
    }

    /// Where recordings lie.
    pub fn recordings(&self) -> &Path {
        &self.recordings
    }

    /// The backing directory.
    pub fn archive(&self) -> &Path {
        &self.archive
    }

    /// Where the archive is mounted.
    pub fn mountpoint(&self) -> &Path {
        &self.mountpoint
    }

    /// Mounts the archive.
    ///
    /// # Errors
    /// The command fails.
    pub fn mount(&self, say: &dyn Fn(&str)) -> Result<(), DemoError> {
        self.mounted.store(true, Ordering::Relaxed);
        self.command(
            say,
            self.vortex("mount")
                .arg(&self.archive)
                .arg(&self.mountpoint),
        )
    }

    /// Unmounts it, and returns when all is durable.
    ///
    /// # Errors
    /// The command fails.
    pub fn umount(&self, say: &dyn Fn(&str)) -> Result<(), DemoError> {
        self.command(say, self.vortex("umount").arg(&self.mountpoint))?;
        self.mounted.store(false, Ordering::Relaxed);
        Ok(())
    }

    /// Fails once the user wants to stop.
    ///
    /// # Errors
    /// `Stopped`.
    pub fn check_stop(&self) -> Result<(), DemoError> {
        if (self.stop)() {
            Err(DemoError::Stopped)
        } else {
            Ok(())
        }
    }

    /// A subcommand of this program.
    pub fn vortex(&self, name: &str) -> Command {
        let mut command = Command::new(&self.program);
        command.arg(name);
        command
    }

    /// Shows a command, runs it, and passes on what it prints.
    ///
    /// # Errors
    /// It fails, or the user wants to stop.
    pub fn command(&self, say: &dyn Fn(&str), command: &mut Command) -> Result<(), DemoError> {
        self.check_stop()?;
        let words: Vec<String> = command
            .get_args()
            .map(|word| word.display().to_string())
            .collect();
        let shown = format!("vortex-fs {}", words.join(" "));
        say(&format!("$ {shown}"));
        let failed = |message: String| DemoError::Command {
            command: shown.clone(),
            message,
        };
        let output = self.output_of(command).map_err(|e| failed(e.to_string()))?;
        self.check_stop()?;
        if !output.status.success() {
            return Err(failed(
                String::from_utf8_lossy(&output.stderr).trim().to_owned(),
            ));
        }
        for line in String::from_utf8_lossy(&output.stdout).lines() {
            say(&format!("  {line}"));
        }
        Ok(())
    }

    /// Runs to the end; tells the command to end too if the user wants to stop.
    fn output_of(&self, command: &mut Command) -> io::Result<std::process::Output> {
        let mut child = command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()?;
        let mut told = false;
        // What these commands print fits into a pipe.
        while child.try_wait()?.is_none() {
            if (self.stop)() && !told {
                told = true;
                let pid = rustix::process::Pid::from_child(&child);
                let _ = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
            }
            thread::sleep(Duration::from_millis(20));
        }
        child.wait_with_output()
    }
}

impl Drop for Stage<'_> {
    fn drop(&mut self) {
        if self.mounted.load(Ordering::Relaxed) {
            let unmounted = self
                .vortex("umount")
                .arg(&self.mountpoint)
                .stdin(Stdio::null())
                .stderr(Stdio::null())
                .status();
            if !unmounted.is_ok_and(|status| status.success()) {
                // Nothing was mounted yet, or its daemon is gone.
                let _ = rustix::mount::unmount(&self.mountpoint, UnmountFlags::DETACH);
            }
        }
        log::debug!("removing {}", self.dir.path().display());
    }
}

/// Says what is missing before anything is recorded.
fn check_fuse() -> Result<(), DemoError> {
    let no_fuse = |text: &str| Err(DemoError::NoFuse(text.to_owned()));
    match File::options().read(true).write(true).open(FUSE_DEVICE) {
        Ok(_) => {}
        Err(e) if e.kind() == io::ErrorKind::PermissionDenied => {
            return no_fuse(
                "/dev/fuse: permission denied; run as root, or give yourself access to it",
            );
        }
        Err(_) => {
            return no_fuse(
                "/dev/fuse: this machine can not mount; load the kernel module with `modprobe fuse`, or start the \
                 container with --device /dev/fuse --cap-add SYS_ADMIN",
            );
        }
    }
    let is_root = rustix::process::geteuid().is_root();
    let path = std::env::var_os("PATH").unwrap_or_default();
    if !is_root && !std::env::split_paths(&path).any(|folder| folder.join("fusermount3").is_file())
    {
        return no_fuse(
            "fusermount3: not found, and only root can mount without it; install fuse3",
        );
    }
    Ok(())
}
