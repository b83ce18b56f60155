//! The process that serves a mount, from opening the archive to the last commit.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use super::control::Control;
use super::figures::Figures;
use super::memory::{Budget, Governor, allocate_thriftily};
use super::metrics::{Listening, MetricsAddr};
use super::options::Options;
use super::session::{Events, Mounted};
use super::{MountError, check, logfile, privileges, spawn, syslog};
use crate::fs::{DiskCacheOptions, Fs, FsOptions};
use crate::pack::Defaults;
use crate::pack::idle::{Idle, IdleSettings};
use crate::pack::scrub::Scrub;
use crate::store::names::PRIVATE_DIR;
use crate::store::{Access, Archive};

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
    /// Bytes of memory for all together, if there is a limit.
    pub memory_limit: Option<u64>,
    /// Where decoded blocks are kept beyond this mount, if anywhere.
    pub disk_cache: Option<DiskCacheOptions>,
    /// Bytes in a block of new files, and of packed ones.
    pub block_size: u32,
    /// Profile that packing uses unless told otherwise.
    pub profile: String,
    /// Pack files that have not been written for so long, or none at all.
    pub pack_after: Option<Duration>,
    /// Where to serve metrics, if anywhere.
    pub metrics: Option<MetricsAddr>,
    /// Check all segments again so long after the last time, or never.
    pub scrub: Option<Duration>,
}

/// Mounts and serves until unmounted or told to end by a signal; then everything is committed.
///
/// # Errors
/// What keeps the mount from coming up; after that, only a failure of the last commit.
pub fn serve(settings: &MountSettings) -> Result<(), MountError> {
    if settings.memory_limit.is_some() {
        allocate_thriftily();
    }
    let background = spawn::in_background();
    if background {
        spawn::leave_session().map_err(refused)?;
    }
    check::check_fuse()?;
    // Before the right to take a port below 1024 is given up.
    let metrics = settings.metrics.map(listen_for_metrics).transpose()?;
    let archive = open_archive(settings)?;
    privileges::give_up(archive.access()).map_err(refused)?;
    let read_only = archive.access() == Access::Read;
    let private = archive
        .private_fd()
        .map(|fd| fd.try_clone_to_owned())
        .transpose()
        .map_err(refused)?;
    let private = private.as_ref().filter(|_| !read_only).map(AsFd::as_fd);
    if background && read_only {
        syslog::log_to_system().map_err(refused)?;
    }
    if let Some(private) = private.filter(|_| background) {
        let log = archive.root().join(PRIVATE_DIR).join("log");
        logfile::log_to(private)
            .map_err(|e| MountError::Refused(format!("{}: {e}", log.display())))?;
        // Opening it said so where nobody could hear it.
        archive.warn_of_bad_copies();
    }
    let defaults = Defaults {
        profile: settings.profile.clone(),
        block_size: settings.block_size,
    };
    if !read_only {
        // An unknown profile is better told now than when somebody packs.
        archive.models().profile_or_none(&settings.profile)?;
    }
    let budget = Budget::new(settings.memory_limit, settings.cache_bytes);
    archive.library().starts().set_limit(budget.starts);
    let fs = Fs::new(
        archive,
        FsOptions {
            cache_bytes: budget.cache,
            block_size: settings.block_size,
            total_dirty_bytes: budget.dirty,
            file_dirty_bytes: FsOptions::default().file_dirty_bytes.min(budget.dirty / 4),
            decoders: budget.decoders,
            nodes: budget.nodes,
            disk_cache: settings.disk_cache.clone(),
            ..FsOptions::default()
        },
    )
    .map_err(|e| MountError::Refused(format!("{}: {e}", settings.backing.display())))?;

    let events = Events::new().map_err(refused)?;
    let addr = metrics.as_ref().map(|m| m.addr);
    let limit = settings.memory_limit;
    let figures = Figures::new(&fs, &settings.mountpoint, addr, limit);
    let govern = |limit| Governor::start(&fs, limit).map_err(refused);
    let _governor = limit.map(govern).transpose()?;
    let mounted = Mounted::mount(settings, &fs, &figures, read_only, &events)?;
    let scrub = match settings.scrub.filter(|_| !read_only) {
        Some(every) => Some(Scrub::start(Arc::clone(&fs), every).map_err(refused)?),
        None => None,
    };
    // Each is set once.
    let _ = scrub.as_ref().map(|s| figures.scrub.set(s.view()));
    let listen = |private| {
        Control::listen(
            private,
            Arc::clone(&fs),
            defaults.clone(),
            Arc::clone(&figures),
        )
        .map_err(|e| {
            MountError::Refused(format!(
                "{}: control socket: {e}",
                settings.backing.display()
            ))
        })
    };
    let control = private.map(listen).transpose()?;
    let idle = match settings.pack_after.filter(|_| !read_only) {
        Some(after) => Some(
            Idle::start(
                Arc::clone(&fs),
                IdleSettings {
                    after,
                    defaults: defaults.clone(),
                },
                Arc::clone(&figures.tally),
            )
            .map_err(refused)?,
        ),
        None => None,
    };
    let _ = idle.as_ref().map(|i| figures.idle.set(i.view()));
    if let Some(metrics) = metrics {
        log::info!("metrics are served on http://{}/metrics", metrics.addr);
        metrics.serve(Arc::clone(&figures)).map_err(refused)?;
    }
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

    mounted.wait(&events);
    if let Some(scrub) = scrub {
        scrub.stop();
    }
    if let Some(idle) = idle {
        idle.stop();
    }
    finish(&fs, control.as_deref(), private)
}

pub(super) fn refused(error: io::Error) -> MountError {
    MountError::Refused(error.to_string())
}

fn listen_for_metrics(addr: MetricsAddr) -> Result<Listening, MountError> {
    Listening::bind(addr).map_err(|e| {
        MountError::Refused(format!(
            "metrics on {}: {e}; name another port, or 0 for any that is free",
            addr.0
        ))
    })
}

/// Opens the archive; a plain directory becomes one if it is to be written.
fn open_archive(settings: &MountSettings) -> Result<Archive, MountError> {
    if settings.options.read_only {
        return Ok(Archive::open(&settings.backing, Access::Read)?);
    }
    let backing = std::fs::canonicalize(&settings.backing).ok();
    match Archive::find(&settings.backing).filter(|root| Some(root) != backing.as_ref()) {
        Some(outer) => {
            return Err(MountError::Refused(format!(
                "{}: lies inside the archive {}; mount that instead",
                settings.backing.display(),
                outer.display()
            )));
        }
        // Does nothing to one that is one already.
        None => Archive::init(&settings.backing)?,
    }
    Ok(Archive::open(&settings.backing, Access::Write)?)
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
