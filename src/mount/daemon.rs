//! The process that serves a mount, from opening the archive to the last commit.

use std::fs;
use std::io;
use std::os::fd::BorrowedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::thread;
use std::time::Duration;

use fuser::{Config, MountOption, Session, SessionACL};
use serde::{Deserialize, Serialize};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

use super::adapter::Adapter;
use super::control::Control;
use super::options::Options;
use super::{MountError, check, logfile, spawn, table, umount};
use crate::fs::{Fs, FsOptions};
use crate::pack::idle::{Idle, IdleSettings};
use crate::pack::{Defaults, protocol};
use crate::store::names::PRIVATE_DIR;
use crate::store::{Access, Archive};

/// Threads that answer the kernel. They decode inline, so there are more than cores: some wait for the disk.
const THREADS: usize = 8;

/// How long a daemon told to end waits for those who still have files open.
const PATIENCE: Duration = Duration::from_secs(5);

/// How far the kernel reads ahead, in KiB, where this user may say so.
const READ_AHEAD_KB: &str = "1024";

/// What to mount, where and how.
#[derive(Debug, Clone)]
pub struct MountSettings {
    /// The archive's directory, as [`check::check_backing`] gives it.
    pub backing: PathBuf,
    /// Where to mount it, as [`check::check_mountpoint`] gives it.
    pub mountpoint: PathBuf,
    /// The words of `-o`, with `read_only` and `allow_other` from wherever they were asked for.
    pub options: Options,
    /// Bytes of decoded blocks to keep.
    pub cache_bytes: u64,
    /// Bytes in a block of new files, and of packed ones.
    pub block_size: u32,
    /// Profile that packing uses unless told otherwise.
    pub profile: String,
    /// Pack files that have not been written for so long, or none at all.
    pub pack_after: Option<Duration>,
}

/// What the root directory says of its daemon.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Identity {
    /// The daemon's process.
    pub(super) pid: u32,
    /// The archive whose control socket it serves, escaped; none for a read-only mount.
    archive: Option<String>,
}

impl Identity {
    /// The archive whose control socket the daemon serves.
    pub(super) fn archive(&self) -> Option<PathBuf> {
        self.archive.as_deref().map(protocol::unescape)
    }
}

type SessionThread = thread::JoinHandle<io::Result<()>>;

enum Happening {
    SessionEnded(io::Result<()>),
    ToldToEnd,
}

/// Mounts and serves until unmounted or told to end by a signal; then everything is committed.
///
/// # Errors
/// What keeps the mount from coming up; after that, only a failure of the last commit.
pub fn serve(settings: &MountSettings) -> Result<(), MountError> {
    let background = spawn::in_background();
    if background {
        spawn::leave_session().map_err(refused)?;
    }
    check::check_fuse()?;
    let archive = open_archive(settings)?;
    let read_only = archive.access() == Access::Read;
    let private = archive
        .private_fd()
        .map(|fd| fd.try_clone_to_owned())
        .transpose()
        .map_err(refused)?;
    let private = private
        .as_ref()
        .filter(|_| !read_only)
        .map(|fd| std::os::fd::AsFd::as_fd(fd));
    if background && private.is_some() {
        logfile::log_to(&archive.root().join(PRIVATE_DIR).join("log")).map_err(refused)?;
    }
    let defaults = Defaults {
        profile: settings.profile.clone(),
        block_size: settings.block_size,
    };
    if settings.pack_after.is_some() {
        // An unknown profile is better told now than in the log.
        archive.models().profile(&settings.profile)?;
    }
    let (cache_bytes, block_size) = (settings.cache_bytes, settings.block_size);
    let fs = Fs::new(
        archive,
        FsOptions {
            cache_bytes,
            block_size,
            ..FsOptions::default()
        },
    )
    .map_err(|e| MountError::Refused(format!("{}: {e}", settings.backing.display())))?;

    let (happen, happened) = mpsc::channel();
    end_on_signals(happen.clone()).map_err(refused)?;
    let session = mount(settings, &fs, read_only)?;
    let mut guard = MountGuard {
        mountpoint: &settings.mountpoint,
        armed: true,
    };
    let control = match private {
        Some(private) => Some(
            Control::listen(
                private,
                Arc::clone(&fs),
                defaults.clone(),
                &settings.mountpoint,
            )
            .map_err(|e| {
                MountError::Refused(format!(
                    "{}: control socket: {e}",
                    settings.backing.display()
                ))
            })?,
        ),
        None => None,
    };
    let idle = match settings.pack_after.filter(|_| !read_only) {
        Some(after) => {
            Some(Idle::start(Arc::clone(&fs), IdleSettings { after, defaults }).map_err(refused)?)
        }
        None => None,
    };
    thread::Builder::new()
        .name("session".into())
        .spawn(move || {
            let ended = session.join();
            let ended = ended.unwrap_or_else(|_| Err(io::Error::other("a thread of it panicked")));
            let _ = happen.send(Happening::SessionEnded(ended));
        })
        .map_err(refused)?;
    raise_read_ahead(&settings.mountpoint);
    if background {
        std::env::set_current_dir("/").map_err(refused)?;
        spawn::say_ready().map_err(refused)?;
    }
    log::info!(
        "{} mounted on {}{}",
        settings.backing.display(),
        settings.mountpoint.display(),
        if read_only { " (read-only)" } else { "" }
    );
    guard.armed = false;

    wait(&happened, &settings.mountpoint);
    if let Some(idle) = idle {
        idle.stop();
    }
    finish(&fs, control.as_deref(), private)
}

fn refused(error: io::Error) -> MountError {
    MountError::Refused(error.to_string())
}

/// Opens the archive; a plain directory becomes one if it is to be written.
fn open_archive(settings: &MountSettings) -> Result<Archive, MountError> {
    if settings.options.read_only {
        return Ok(Archive::open(&settings.backing, Access::Read)?);
    }
    if !settings.backing.join(PRIVATE_DIR).join("format").exists() {
        if let Some(outer) = Archive::find(&settings.backing) {
            return Err(MountError::Refused(format!(
                "{}: lies inside the archive {}; mount that instead",
                settings.backing.display(),
                outer.display()
            )));
        }
        Archive::init(&settings.backing)?;
    }
    Ok(Archive::open(&settings.backing, Access::Write)?)
}

fn mount(
    settings: &MountSettings,
    fs: &Arc<Fs>,
    read_only: bool,
) -> Result<SessionThread, MountError> {
    let archive = protocol::escape(&settings.backing);
    let identity = Identity {
        pid: std::process::id(),
        archive: (!read_only).then(|| archive.clone()),
    };
    let identity = serde_json::to_vec(&identity).map_err(|e| MountError::Refused(e.to_string()))?;
    let mut config = Config::default();
    config.n_threads = Some(THREADS);
    config.acl = if settings.options.allow_other {
        SessionACL::All
    } else {
        SessionACL::Owner
    };
    config.mount_options = vec![
        MountOption::FSName(settings.options.fsname.clone().unwrap_or(archive)),
        MountOption::CUSTOM(table::SUBTYPE_OPTION.to_string()),
        MountOption::DefaultPermissions,
    ];
    if read_only {
        config.mount_options.push(MountOption::RO);
    }
    config
        .mount_options
        .extend(settings.options.kernel.iter().cloned());
    let adapter = Adapter::new(Arc::clone(fs), read_only, identity);
    let mut session = Session::new(adapter, &settings.mountpoint, &config)
        .and_then(Session::spawn)
        .map_err(|e| mount_refused(&settings.mountpoint, &e))?;
    let nobody = thread::Builder::new().spawn(|| Ok(())).map_err(refused)?;
    let thread = std::mem::replace(&mut session.guard, nobody);
    // fuser 0.18 unmounts once more when it drops this, whatever is mounted there by then.
    std::mem::forget(session);
    Ok(thread)
}

fn mount_refused(mountpoint: &Path, error: &io::Error) -> MountError {
    let shown = mountpoint.display();
    let said = error.to_string();
    let said = said
        .trim()
        .trim_start_matches("fusermount3: ")
        .replace('\n', "; ");
    let remedy = if said.contains("user_allow_other") {
        "; have the administrator put the line user_allow_other into /etc/fuse.conf, or leave --allow-other out"
    } else if error.kind() == io::ErrorKind::NotFound {
        "; install the helper fusermount3 (apt-get install fuse3), or mount as root"
    } else {
        ""
    };
    MountError::Refused(format!("{shown}: cannot mount: {said}{remedy}"))
}

/// Takes the mount away again if coming up fails after it was made.
struct MountGuard<'a> {
    mountpoint: &'a Path,
    armed: bool,
}

impl Drop for MountGuard<'_> {
    fn drop(&mut self) {
        if self.armed
            && let Err(e) = umount::detach(self.mountpoint)
        {
            log::error!("{}: cannot be unmounted: {e}", self.mountpoint.display());
        }
    }
}

fn end_on_signals(happen: Sender<Happening>) -> io::Result<()> {
    let mut signals = Signals::new([SIGTERM, SIGINT, SIGHUP])?;
    thread::Builder::new()
        .name("signals".into())
        .spawn(move || {
            for _ in signals.forever() {
                if happen.send(Happening::ToldToEnd).is_err() {
                    return;
                }
            }
        })?;
    Ok(())
}

/// Returns when the mount is gone, or when it was detached and its users had their time.
fn wait(happened: &Receiver<Happening>, mountpoint: &Path) {
    let session_ended = |result: io::Result<()>| {
        if let Err(e) = result {
            log::error!("the FUSE session ended early: {e}");
        }
    };
    match happened.recv() {
        Ok(Happening::SessionEnded(result)) => return session_ended(result),
        Ok(Happening::ToldToEnd) => {}
        Err(_) => return,
    }
    log::info!("told to end");
    if let Err(e) = umount::detach(mountpoint) {
        log::error!("{}: cannot be unmounted: {e}", mountpoint.display());
    }
    loop {
        match happened.recv_timeout(PATIENCE) {
            Ok(Happening::SessionEnded(result)) => return session_ended(result),
            Ok(Happening::ToldToEnd) => {}
            Err(RecvTimeoutError::Timeout) => {
                log::warn!(
                    "some files are still open; their users will see \"transport endpoint is not connected\""
                );
                return;
            }
            Err(RecvTimeoutError::Disconnected) => return,
        }
    }
}

/// Ends the jobs, commits, and tells those who wait.
fn finish(
    fs: &Fs,
    control: Option<&Control>,
    private: Option<BorrowedFd<'_>>,
) -> Result<(), MountError> {
    if let Some(control) = control {
        control.stop();
    }
    let error = fs.shutdown().err().map(|e| e.to_string());
    match &error {
        Some(e) => log::error!("the last commit failed: {e}"),
        None => log::info!("unmounted, everything is stored"),
    }
    if let (Some(control), Some(private)) = (control, private) {
        control.close(private, error.as_deref());
    }
    match error {
        Some(e) => Err(MountError::NotDurable(format!(
            "the last writes could not be stored: {e}"
        ))),
        None => Ok(()),
    }
}

/// Lets the kernel read further ahead than its default of 128 KiB; only root may.
fn raise_read_ahead(mountpoint: &Path) {
    if let Ok(Some(entry)) = table::find_mount(mountpoint) {
        let path = format!("/sys/class/bdi/{}/read_ahead_kb", entry.device);
        if let Err(e) = fs::write(&path, READ_AHEAD_KB) {
            log::debug!("{path}: {e}");
        }
    }
}
