//! Unmounting: detach, then wait until the daemon has made everything durable and is gone.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use rustix::io::Errno;
use rustix::mount::UnmountFlags;

use super::adapter::DAEMON_XATTR;
use super::check::absolute;
use super::session::Identity;
use super::{MountError, table};
use crate::pack::client;
use crate::pack::protocol::unescape;

/// How an unmount went.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unmounted {
    /// Everything is durable and the daemon is gone.
    Clean,
    /// The daemon was dead already; its mount is detached. Durable is what had been committed.
    DaemonWasDead,
}

/// Unmounts `mountpoint`. `waiting` is called once if the daemon takes longer than a moment.
///
/// # Errors
/// It is no mount of ours, it is busy, the caller may not, or the last commit failed.
pub fn umount(mountpoint: &Path, waiting: impl FnOnce()) -> Result<Unmounted, MountError> {
    let shown = mountpoint.display();
    let refuse = |why: String| MountError::Refused(format!("{shown}: {why}"));
    let path = absolute(mountpoint).map_err(|e| refuse(e.to_string()))?;
    let entry = table::find_mount(&path).map_err(|e| refuse(e.to_string()))?;
    let Some(entry) = entry else {
        return Err(refuse(
            "nothing is mounted here; see vortex-fs mount, or findmnt".to_string(),
        ));
    };
    if !entry.is_vortex() {
        let kind = String::from_utf8_lossy(&entry.fstype).into_owned();
        return Err(refuse(format!(
            "this is no vortex-fs mount but {kind}; use umount"
        )));
    }
    let daemon = match identity(&path) {
        Ok(identity) => Daemon::of(identity.pid, identity.archive().as_deref()),
        Err(Errno::NOTCONN | Errno::CONNABORTED) => {
            detach(&path).map_err(|e| {
                refuse(format!("its daemon is dead and it cannot be detached: {e}"))
            })?;
            return Ok(Unmounted::DaemonWasDead);
        }
        // Root may unmount what it may not look into.
        Err(Errno::ACCESS) if rustix::process::geteuid().is_root() => {
            Daemon::asked(entry.archive().as_deref(), &path)
        }
        Err(Errno::ACCESS) => {
            return Err(refuse(
                "mounted by another user; unmount it as that user or as root".to_string(),
            ));
        }
        Err(e) => return Err(refuse(format!("its daemon does not answer: {e}"))),
    };
    unmount(&path).map_err(|e| match e.kind() {
        io::ErrorKind::ResourceBusy => refuse(format!("in use{}; close that first", users(&path))),
        _ => refuse(e.to_string()),
    })?;
    daemon.process.wait(waiting);
    match daemon.last_word.and_then(client::Watch::finish) {
        Some(error) => Err(MountError::NotDurable(format!(
            "{shown}: unmounted, but the last writes could not be stored: {error}"
        ))),
        None => Ok(Unmounted::Clean),
    }
}

/// Who serves the mount, as its root directory says.
pub(super) fn identity(mountpoint: &Path) -> Result<Identity, Errno> {
    let mut value = vec![0; 8192];
    let len = rustix::fs::getxattr(mountpoint, DAEMON_XATTR, &mut value)?;
    value.truncate(len);
    serde_json::from_slice(&value).map_err(|_| Errno::PROTO)
}

fn unmount(mountpoint: &Path) -> io::Result<()> {
    match rustix::mount::unmount(mountpoint, UnmountFlags::NOFOLLOW) {
        Err(Errno::PERM) => fusermount(mountpoint, &["-u"]),
        result => Ok(result?),
    }
}

/// Takes the mount out of the tree at once, whoever uses it.
pub(super) fn detach(mountpoint: &Path) -> io::Result<()> {
    match rustix::mount::unmount(mountpoint, UnmountFlags::DETACH | UnmountFlags::NOFOLLOW) {
        Err(Errno::PERM) => fusermount(mountpoint, &["-u", "-z"]),
        result => Ok(result?),
    }
}

/// For users who may not unmount themselves.
fn fusermount(mountpoint: &Path, how: &[&str]) -> io::Result<()> {
    let output = Command::new("fusermount3")
        .args(how)
        .arg("--")
        .arg(mountpoint)
        .stdin(Stdio::null())
        .output()
        .map_err(|e| {
            io::Error::new(
                e.kind(),
                format!("fusermount3 ({e}); install it: apt-get install fuse3"),
            )
        })?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr)
        .trim()
        .replace('\n', " ");
    if said.contains("busy") {
        return Err(io::ErrorKind::ResourceBusy.into());
    }
    Err(io::Error::other(said))
}

/// Who is to be waited for.
struct Daemon {
    process: Process,
    /// The daemon tells those who wait on its socket how the last commit went.
    last_word: Option<client::Watch>,
}

impl Daemon {
    /// The process that has this archive, if any, for writing.
    fn of(pid: u32, archive: Option<&Path>) -> Daemon {
        Daemon {
            process: Process::of(pid),
            last_word: archive.and_then(|archive| client::watch(archive).ok()),
        }
    }

    /// Whoever answers on the archive's socket and serves this mount. A read-only mount has none: nothing is to be
    /// waited for.
    fn asked(archive: Option<&Path>, mountpoint: &Path) -> Daemon {
        let status = archive.and_then(|archive| client::status(archive).ok());
        let pid = status
            .filter(|s| s.mountpoint.as_deref().map(unescape).as_deref() == Some(mountpoint))
            .map_or(0, |s| s.pid);
        Daemon::of(pid, archive.filter(|_| pid != 0))
    }
}

/// A process, told apart from a later one with the same number by when it began.
struct Process {
    pid: u32,
    begun: Option<String>,
}

impl Process {
    fn of(pid: u32) -> Process {
        Process {
            pid,
            begun: begun(pid),
        }
    }

    fn is_alive(&self) -> bool {
        self.begun.is_some() && begun(self.pid) == self.begun
    }

    fn wait(&self, waiting: impl FnOnce()) {
        let (start, mut waiting) = (Instant::now(), Some(waiting));
        while self.is_alive() {
            if start.elapsed() > Duration::from_secs(2)
                && let Some(waiting) = waiting.take()
            {
                waiting();
            }
            sleep(Duration::from_millis(5));
        }
    }
}

/// When a process began, in clock ticks since boot; none when it has ended, reaped or not.
fn begun(pid: u32) -> Option<String> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The second field is the command in parentheses, which may hold spaces.
    let (_, rest) = stat.rsplit_once(") ")?;
    let mut fields = rest.split(' ');
    let state = fields.next()?;
    let begun = fields.nth(18)?;
    // As long as one thread lives the files, and so the archive's lock, are open.
    let threads = || fs::read_dir(format!("/proc/{pid}/task")).map_or(0, Iterator::count);
    (!matches!(state, "Z" | "X") || threads() > 1).then(|| begun.to_string())
}

/// Some of the processes that use the mount, as far as this user may see them: ` by cat (123), sh (45)`.
fn users(mountpoint: &Path) -> String {
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc").into_iter().flatten().flatten() {
        let name = entry.file_name();
        let Some(pid) = name.to_str().and_then(|n| n.parse::<u32>().ok()) else {
            continue;
        };
        if pid == std::process::id() {
            continue;
        }
        if uses(&entry.path(), mountpoint) {
            let command = fs::read_to_string(entry.path().join("comm")).unwrap_or_default();
            found.push(format!("{} ({pid})", command.trim_end()));
        }
        if found.len() == 4 {
            break;
        }
    }
    if found.is_empty() {
        String::new()
    } else {
        format!(" by {}", found.join(", "))
    }
}

fn uses(process: &Path, mountpoint: &Path) -> bool {
    let link = |p: PathBuf| fs::read_link(p).is_ok_and(|to| to.starts_with(mountpoint));
    let files = fs::read_dir(process.join("fd"))
        .into_iter()
        .flatten()
        .flatten();
    link(process.join("cwd"))
        || link(process.join("root"))
        || link(process.join("exe"))
        || files.map(|f| f.path()).any(link)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn processes_are_told_apart_from_their_successors() {
        let mut me = Process::of(std::process::id());
        assert!(me.is_alive());
        me.begun = Some("1".to_string());
        assert!(!me.is_alive());
    }

    #[test]
    fn what_is_no_mount_is_refused() {
        let dir = tempfile::tempdir().expect("temp dir");
        let error = umount(dir.path(), || {})
            .expect_err("not mounted")
            .to_string();
        assert!(error.contains("nothing is mounted"), "{error}");
        let error = umount(Path::new("/proc"), || {})
            .expect_err("not ours")
            .to_string();
        assert!(error.contains("no vortex-fs mount"), "{error}");
    }
}
