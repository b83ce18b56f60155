//! The mount itself: made, watched, taken away.

use std::fs;
use std::io;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::thread;
use std::time::Duration;

use fuser::{Config, MountOption, Session, SessionACL};
use serde::{Deserialize, Serialize};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

use super::adapter::{Adapter, in_call};
use super::daemon::{MountSettings, refused};
use super::figures::Figures;
use super::{MountError, evict, table, umount};
use crate::fs::Fs;
use crate::pack::protocol;

/// Threads that answer the kernel. They decode inline, so there are more than cores: some wait for the disk. Each of many would
/// be asleep when its turn comes, since the kernel goes round: four answer twice as many short requests a second as eight.
fn threads() -> usize {
    let cores = thread::available_parallelism().map_or(1, usize::from);
    (2 * cores).clamp(4, 16)
}

/// How long a daemon told to end waits for those who still have files open.
const PATIENCE: Duration = Duration::from_secs(5);

/// How far the kernel reads ahead, in KiB, where this user may say so.
const READ_AHEAD_KB: &str = "1024";

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

enum Happening {
    SessionEnded(io::Result<()>),
    ToldToEnd,
}

/// What the daemon waits for: its mount's end, or being told to end. Made before the mount, so that no signal is missed.
pub(super) struct Events {
    happen: Sender<Happening>,
    happened: Receiver<Happening>,
}

impl Events {
    pub(super) fn new() -> io::Result<Events> {
        let (happen, happened) = mpsc::channel();
        end_on_signals(happen.clone())?;
        end_without_threads(happen.clone());
        Ok(Events { happen, happened })
    }
}

/// A mount of ours; taken away at the latest when this is dropped.
pub(super) struct Mounted {
    mountpoint: PathBuf,
    /// `major:minor`, by which it is told apart from what may be mounted there later.
    device: Option<String>,
}

impl Mounted {
    /// Mounts and begins to answer.
    pub(super) fn mount(
        settings: &MountSettings,
        fs: &Arc<Fs>,
        figures: &Arc<Figures>,
        read_only: bool,
        events: &Events,
    ) -> Result<Mounted, MountError> {
        let session = session(settings, fs, figures, read_only)?;
        let entry = table::find_mount(&settings.mountpoint).ok().flatten();
        let mounted = Mounted {
            mountpoint: settings.mountpoint.clone(),
            device: entry
                .filter(table::MountEntry::is_vortex)
                .map(|entry| entry.device),
        };
        let happen = events.happen.clone();
        let watch = move || {
            let ended = session.join();
            let ended = ended.unwrap_or_else(|_| Err(io::Error::other("a thread of it panicked")));
            // Nobody listens any more if the daemon was told to end.
            let _ = happen.send(Happening::SessionEnded(ended));
        };
        thread::Builder::new()
            .name("session".into())
            .spawn(watch)
            .map_err(refused)?;
        mounted.raise_read_ahead();
        Ok(mounted)
    }

    /// Lets the kernel read further ahead than its default of 128 KiB; only root may.
    fn raise_read_ahead(&self) {
        let Some(device) = &self.device else { return };
        let path = format!("/sys/class/bdi/{device}/read_ahead_kb");
        if let Err(e) = fs::write(&path, READ_AHEAD_KB) {
            log::debug!("{path}: {e}");
        }
    }

    /// Returns when the mount is gone, or when it was taken away and its users had their time.
    pub(super) fn wait(&self, events: &Events) {
        match events.happened.recv() {
            Ok(Happening::SessionEnded(Ok(()))) | Err(_) => return,
            Ok(Happening::SessionEnded(Err(e))) => {
                log::error!("the FUSE session ended early: {e}");
                return self.detach();
            }
            Ok(Happening::ToldToEnd) => log::info!("told to end"),
        }
        self.detach();
        loop {
            match events.happened.recv_timeout(PATIENCE) {
                Ok(Happening::ToldToEnd) => {}
                Ok(Happening::SessionEnded(_)) | Err(RecvTimeoutError::Disconnected) => return,
                Err(RecvTimeoutError::Timeout) => {
                    log::warn!(
                        "some files are still open; their users will see \"transport endpoint is not connected\""
                    );
                    return;
                }
            }
        }
    }

    /// Takes the mount out of the tree, if it still is there.
    fn detach(&self) {
        let entry = table::find_mount(&self.mountpoint).ok().flatten();
        if self.device.is_none() || entry.map(|entry| entry.device) != self.device {
            return;
        }
        if let Err(e) = umount::detach(&self.mountpoint) {
            log::error!("{}: cannot be unmounted: {e}", self.mountpoint.display());
        }
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        self.detach();
    }
}

fn session(
    settings: &MountSettings,
    fs: &Arc<Fs>,
    figures: &Arc<Figures>,
    read_only: bool,
) -> Result<thread::JoinHandle<io::Result<()>>, MountError> {
    let archive = protocol::escape(&settings.backing);
    let identity = Identity {
        pid: std::process::id(),
        archive: (!read_only).then(|| archive.clone()),
    };
    let identity = serde_json::to_vec(&identity).map_err(|e| MountError::Refused(e.to_string()))?;
    let mut config = Config::default();
    config.n_threads = Some(threads());
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
    let adapter = Adapter::new(Arc::clone(fs), read_only, identity, Arc::clone(figures));
    let kernel = Arc::clone(&adapter.set_ids.kernel);
    let device = Arc::clone(&adapter.linger.device);
    let spawn = |session: Session<Adapter>| {
        // Nobody is served yet.
        let _ = device.set(session.as_fd().try_clone_to_owned()?);
        let _ = kernel.set(session.notifier());
        session.spawn()
    };
    let mut session = Session::new(adapter, &settings.mountpoint, &config)
        .and_then(spawn)
        .map_err(|e| mount_refused(&settings.mountpoint, &e))?;
    evict::start(fs, session.notifier())?;
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

/// Logs panics. One outside a call of ours is fuser's: 0.18 cannot read times near the lower end of 64 bits, and the
/// thread that tried is lost together with its request. When half of them are, the daemon ends, which frees who waits.
fn end_without_threads(happen: Sender<Happening>) {
    let fewest = threads() / 2;
    let left = AtomicUsize::new(threads());
    std::panic::set_hook(Box::new(move |info| {
        let thread = thread::current();
        let name = thread.name().unwrap_or_default();
        let text = info.to_string().replace('\n', " ");
        log::error!("internal error in thread {name}: {text}");
        if name.starts_with("fuser-")
            && !in_call()
            && left.fetch_sub(1, Ordering::Relaxed) <= fewest
        {
            log::error!("too many requests went wrong; unmounting");
            let _ = happen.send(Happening::ToldToEnd);
        }
    }));
}
