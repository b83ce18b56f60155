//! Into the background: this program starts itself again in a session of its own and waits until the mount is usable.
//!
//! A process with threads must not fork, so the child is a fresh one with the same arguments. It writes [`READY`] to
//! its standard output, a pipe, when the mount is usable; if it ends instead, what it wrote to standard error is shown
//! and its exit code becomes the caller's. Once ready it holds nothing of the caller's: no terminal, no pipe, no
//! directory.

use std::ffi::OsStr;
use std::io::{self, Read, Write};
use std::os::fd::RawFd;
use std::process::{Command, Stdio};

/// Set in the environment of the background process.
pub const DAEMON_ENV: &str = "VORTEX_FS_DAEMON";

const READY: &[u8] = b"ready\n";

/// Starts this program again with the same arguments, in the background. Returns when the mount is usable, with 0, or
/// when it will not be, with the exit code of what was started.
///
/// # Errors
/// The program cannot be started.
pub fn launch() -> io::Result<u8> {
    let mut child = Command::new("/proc/self/exe")
        .args(std::env::args_os().skip(1))
        .env(DAEMON_ENV, "1")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()?;
    let mut said = Vec::new();
    if let Some(mut stdout) = child.stdout.take() {
        let mut byte = [0; 1];
        while said != READY && stdout.read(&mut byte)? == 1 {
            said.extend(byte);
        }
    }
    if said == READY {
        return Ok(0);
    }
    let mut errors = Vec::new();
    if let Some(mut stderr) = child.stderr.take() {
        stderr.read_to_end(&mut errors)?;
    }
    let status = child.wait()?;
    if errors.is_empty() {
        writeln!(
            errors,
            "vortex-fs: the mount process ended at once ({status})"
        )?;
    }
    // The caller may have closed its standard error.
    let _ = io::stderr().write_all(&errors);
    Ok(status
        .code()
        .and_then(|c| u8::try_from(c).ok())
        .filter(|&c| c != 0)
        .unwrap_or(1))
}

/// Whether this process was started by [`launch`].
pub fn in_background() -> bool {
    std::env::var_os(DAEMON_ENV).is_some_and(|v| v == OsStr::new("1"))
}

/// In the background process, before any work: leave the caller's session, and close what was inherited beside the three standard
/// streams.
pub(super) fn leave_session() -> io::Result<()> {
    rustix::process::setsid()?;
    let open: Vec<RawFd> = std::fs::read_dir("/proc/self/fd")?
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
        .filter(|&fd| fd > 2)
        .collect();
    for fd in open {
        // Not the one that the directory was listed by.
        if std::fs::symlink_metadata(format!("/proc/self/fd/{fd}")).is_ok() {
            // SAFETY: this program has opened nothing that is still open, so nothing in it owns the descriptor.
            unsafe { rustix::io::close(fd) };
        }
    }
    Ok(())
}

/// In the background process: the mount is usable. Afterwards standard output and error lead nowhere.
pub(super) fn say_ready() -> io::Result<()> {
    let mut stdout = io::stdout().lock();
    stdout.write_all(READY)?;
    stdout.flush()
}
