//! Where file systems are compared: a temporary directory for images, mountpoints and data, gone when dropped.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

use tempfile::TempDir;

use super::error::{FsBenchError, Result, at};

const DROP_CACHES: &str = "/proc/sys/vm/drop_caches";

/// The directory, the program itself and how it mounts.
pub(super) struct Stage<'a> {
    dir: TempDir,
    program: PathBuf,
    mount_options: Vec<String>,
    made: AtomicU32,
    stop: &'a (dyn Fn() -> bool + Sync),
}

impl<'a> Stage<'a> {
    /// Makes the directory in `parent`.
    pub(super) fn set(
        parent: &Path,
        mount_options: Vec<String>,
        stop: &'a (dyn Fn() -> bool + Sync),
    ) -> Result<Stage<'a>> {
        if !rustix::process::geteuid().is_root() {
            return Err(FsBenchError::NotRoot);
        }
        let mut builder = tempfile::Builder::new();
        let dir = builder.prefix("vortex-bench-").tempdir_in(parent);
        let dir = dir.map_err(at(parent))?;
        let program = std::env::current_exe().map_err(at(Path::new("/proc/self/exe")))?;
        Ok(Stage {
            dir,
            program,
            mount_options,
            made: AtomicU32::new(0),
            stop,
        })
    }

    /// A path for something new, whose name begins with `name`.
    pub(super) fn path(&self, name: &str) -> PathBuf {
        let number = self.made.fetch_add(1, Ordering::Relaxed);
        self.dir.path().join(format!("{name}-{number}"))
    }

    /// A new empty directory.
    pub(super) fn folder(&self, name: &str) -> Result<PathBuf> {
        let path = self.path(name);
        fs::create_dir(&path).map_err(at(&path))?;
        Ok(path)
    }

    /// A subcommand of this program.
    pub(super) fn vortex(&self, name: &str) -> Command {
        let mut command = Command::new(&self.program);
        command.arg(name);
        if name == "mount" {
            command.args(&self.mount_options);
        }
        command
    }

    /// Fails once the user wants to stop.
    pub(super) fn check_stop(&self) -> Result<()> {
        if (self.stop)() {
            return Err(FsBenchError::Stopped);
        }
        Ok(())
    }

    /// Stores what is dirty and empties the system's caches of files and names.
    pub(super) fn drop_caches(&self) -> Result<()> {
        rustix::fs::sync();
        fs::write(DROP_CACHES, "3").map_err(at(Path::new(DROP_CACHES)))
    }
}

/// Runs a program to its end.
pub(super) fn run(command: &mut Command) -> Result<()> {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    let words: Vec<String> = words.map(|word| word.display().to_string()).collect();
    let failed = |message: String| FsBenchError::Command {
        command: words.join(" "),
        message,
    };
    command.stdin(Stdio::null()).stdout(Stdio::null());
    let output = command.output().map_err(|e| failed(e.to_string()))?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    let last = said.lines().rev().find(|line| !line.trim().is_empty());
    Err(failed(match last {
        Some(line) => line.trim().to_owned(),
        None => output.status.to_string(),
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failing_program_is_told_with_its_last_words() {
        let error = run(Command::new("sh").args(["-c", "echo first; echo last >&2; exit 3"]));
        let text = error.unwrap_err().to_string();
        assert!(text.ends_with("failed: last"), "{text}");
        let text = run(Command::new("false").arg("x")).unwrap_err().to_string();
        assert!(text.starts_with("`false x` failed: exit status"), "{text}");
        assert!(run(&mut Command::new("/no/such/program")).is_err());
    }
}
