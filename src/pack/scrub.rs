//! The scrub: reads every segment of a mounted archive now and then, and checks its checksums, before somebody needs what rots there.
//!
//! It goes through the tree in the order of the names, remembers in `.vortex/scrub` how far it came, takes at most a
//! quarter of the time, and little of it while the mount is in use or the machine is loaded. What it finds is logged once. It
//! decodes nothing and changes nothing.

use std::collections::BTreeMap;
use std::fs::{self, File, Metadata};
use std::io::{self, Write};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

use super::idle::be_humble;
use super::protocol::ScrubStatus;
use crate::fs::Fs;
use crate::segment::{Report, Severity, Storage};
use crate::store::names::{self, Kind, PRIVATE_DIR, escape, unescape};
use crate::store::{Depth, StoreError, verify_storage};

/// Bytes that are read without a rest.
const STRETCH: u64 = 1 << 20;
/// How long it rests after each stretch while others are at work.
const BUSY_REST: Duration = Duration::from_secs(1);
/// How often its place is written down at most.
const NOTE_EVERY: Duration = Duration::from_secs(60);
/// How long damage must stay the same to be believed: a commit may have come between.
const SECOND_LOOK: Duration = Duration::from_secs(1);
const STATE_FILE: &str = "scrub";

/// The background scrub; it works until it is told to stop.
#[derive(Debug)]
pub struct Scrub {
    shared: Arc<Shared>,
    thread: JoinHandle<()>,
}

#[derive(Debug, Default)]
struct Shared {
    cancelled: AtomicBool,
    stopped: Mutex<bool>,
    wake: Condvar,
    running: AtomicBool,
    files: AtomicU64,
    bytes: AtomicU64,
    damaged: AtomicU64,
    finished: AtomicU64,
}

/// What outlives the daemon.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
struct State {
    /// The last file that was checked, escaped, while a pass is going on.
    after: Option<String>,
    /// Files and stored bytes of this pass.
    files: u64,
    bytes: u64,
    /// When the last pass ended, in seconds since 1970; 0 for never.
    finished: u64,
    /// What is damaged, by file: what the pass before found, and this one so far.
    known: BTreeMap<String, Vec<String>>,
    found: BTreeMap<String, Vec<String>>,
}

impl Scrub {
    /// Starts it: a pass begins when the last one ended `every` ago.
    ///
    /// # Errors
    /// No more threads.
    pub fn start(fs: Arc<Fs>, every: Duration) -> io::Result<Scrub> {
        let shared = Arc::new(Shared::default());
        let scrubber = Scrubber {
            fs,
            every,
            shared: Arc::clone(&shared),
            state: State::default(),
            noted: Instant::now(),
        };
        let thread = thread::Builder::new()
            .name("scrub".into())
            .spawn(move || scrubber.run())?;
        Ok(Scrub { shared, thread })
    }

    /// A view of it that outlives it.
    #[must_use]
    pub fn view(&self) -> ScrubView {
        ScrubView(Arc::clone(&self.shared))
    }

    /// Ends it within one read and waits for that; its place is written down.
    pub fn stop(self) {
        self.shared.cancelled.store(true, Ordering::Relaxed);
        *self
            .shared
            .stopped
            .lock()
            .unwrap_or_else(PoisonError::into_inner) = true;
        self.shared.wake.notify_all();
        if self.thread.join().is_err() {
            log::error!("the scrub ended early");
        }
    }
}

/// Tells how far a scrub is.
#[derive(Debug, Clone)]
pub struct ScrubView(Arc<Shared>);

impl ScrubView {
    /// How far it is.
    #[must_use]
    pub fn status(&self) -> ScrubStatus {
        let load = |n: &AtomicU64| n.load(Ordering::Relaxed);
        ScrubStatus {
            running: self.0.running.load(Ordering::Relaxed),
            files: load(&self.0.files),
            bytes: load(&self.0.bytes),
            damaged: load(&self.0.damaged),
            finished: Some(load(&self.0.finished)).filter(|&at| at > 0),
        }
    }
}

impl Shared {
    /// Sleeps; whether to go on afterwards.
    fn sleep(&self, time: Duration) -> bool {
        let stopped = self.stopped.lock().unwrap_or_else(PoisonError::into_inner);
        let (stopped, _) = self
            .wake
            .wait_timeout_while(stopped, time, |stopped| !*stopped)
            .unwrap_or_else(PoisonError::into_inner);
        !*stopped
    }

    fn is_cancelled(&self) -> bool {
        self.cancelled.load(Ordering::Relaxed)
    }
}

struct Scrubber {
    fs: Arc<Fs>,
    every: Duration,
    shared: Arc<Shared>,
    state: State,
    noted: Instant,
}

impl Scrubber {
    fn run(mut self) {
        be_humble();
        self.state = self.read_state();
        self.publish();
        let pause = (self.every / 10).clamp(Duration::from_millis(100), Duration::from_secs(60));
        loop {
            let since = now().saturating_sub(self.state.finished);
            let due = self.state.finished == 0 || since >= self.every.as_secs();
            if self.state.after.is_some() || due {
                self.pass();
            }
            if !self.shared.sleep(pause) {
                return;
            }
        }
    }

    /// Goes through the tree from where the last pass came to.
    fn pass(&mut self) {
        self.shared.running.store(true, Ordering::Relaxed);
        if self.state.after.is_none() {
            self.state.files = 0;
            self.state.bytes = 0;
            self.state.found.clear();
            self.check_copies();
        }
        let after = self.state.after.as_deref().map(unescape);
        let root = self.fs.archive().root().to_path_buf();
        self.folder(&root, Path::new(""), after.as_deref());
        if !self.shared.is_cancelled() {
            let found = std::mem::take(&mut self.state.found);
            self.state.known = found;
            self.state.after = None;
            self.state.finished = now();
            log::info!(
                "scrub: {} segments, {} bytes, {} damaged",
                self.state.files,
                self.state.bytes,
                self.state.known.len()
            );
        }
        self.shared.running.store(false, Ordering::Relaxed);
        self.publish();
        self.note();
    }

    /// Checks what lies in a directory and below it, by name, beyond the path `after`.
    fn folder(&mut self, folder: &Path, below: &Path, after: Option<&Path>) {
        let mut names: Vec<_> = match fs::read_dir(folder) {
            Ok(entries) => entries.flatten().map(|e| e.file_name()).collect(),
            Err(e) => return log::warn!("scrub: {}: {e}", folder.display()),
        };
        names.sort();
        for name in names {
            if self.shared.is_cancelled() {
                return;
            }
            let (path, logical) = (folder.join(&name), below.join(&name));
            if after.is_some_and(|a| logical.as_path() <= a && !a.starts_with(&logical)) {
                continue;
            }
            let Ok(metadata) = fs::symlink_metadata(&path) else {
                continue;
            };
            if metadata.is_dir() && !(name == PRIVATE_DIR && below.as_os_str().is_empty()) {
                self.folder(&path, &logical, after);
            } else if metadata.is_file()
                && after.is_none_or(|a| logical.as_path() > a)
                && names::logical_name(&name, true).1 == Kind::Segment
            {
                self.file(&path, &logical, metadata.len());
            }
        }
    }

    fn file(&mut self, path: &Path, logical: &Path, len: u64) {
        let damage = match self.check(path) {
            Ok(damage) => damage,
            Err(e) => {
                log::debug!("scrub: {}: {e}", logical.display());
                Vec::new()
            }
        };
        if self.shared.is_cancelled() {
            // It was not checked to its end.
            return;
        }
        self.state.after = Some(escape(logical));
        self.state.files += 1;
        self.state.bytes += len;
        self.found(escape(logical), &logical.display().to_string(), damage);
        self.publish();
        if self.noted.elapsed() >= NOTE_EVERY {
            self.note();
        }
    }

    /// Remembers damage, and logs what was not known.
    fn found(&mut self, key: String, shown: &str, damage: Vec<String>) {
        for what in &damage {
            let old = |known: &BTreeMap<String, Vec<String>>| {
                known.get(&key).is_some_and(|known| known.contains(what))
            };
            if !old(&self.state.known) && !old(&self.state.found) {
                log::error!("scrub: {shown}: {what}");
            }
        }
        if !damage.is_empty() {
            self.state.found.insert(key, damage);
        }
    }

    fn check_copies(&mut self) {
        match self.fs.archive().library().bad_copies(Depth::Checksums) {
            Ok(bad) => {
                for copy in bad {
                    let key = escape(&Path::new("/").join(&copy.path));
                    let what = format!("{}: {}", copy.thing, copy.what());
                    self.found(key, &copy.path.display().to_string(), vec![what]);
                }
            }
            Err(e) => log::warn!("scrub: models and primers could not be checked: {e}"),
        }
    }

    /// What is damaged of a segment. A commit meanwhile looks like damage, so damage must be there twice, in a file that stays
    /// the same.
    fn check(&self, path: &Path) -> Result<Vec<String>, StoreError> {
        let look = || -> Result<(Metadata, Vec<String>), StoreError> {
            let file = File::open(path).map_err(StoreError::io(path))?;
            let metadata = file.metadata().map_err(StoreError::io(path))?;
            let paced: Arc<dyn Storage> = Arc::new(Paced::new(file, &self.fs, &self.shared));
            let library = self.fs.archive().library();
            match verify_storage(paced, path, library, Depth::Checksums, &|_| {}) {
                Ok(report) => Ok((metadata, lines(&report))),
                Err(e) if e.is_medium_error() => Ok((metadata, vec![e.to_string()])),
                Err(e) => Err(e),
            }
        };
        let (mut before, mut first) = look()?;
        while !first.is_empty() && !self.shared.is_cancelled() {
            if !self.shared.sleep(SECOND_LOOK) {
                break;
            }
            let (now, second) = look()?;
            if stamp(&before) == stamp(&now) && first == second {
                return Ok(first);
            }
            (before, first) = (now, second);
        }
        Ok(Vec::new())
    }

    fn publish(&self) {
        let (shared, state) = (&self.shared, &self.state);
        shared.files.store(state.files, Ordering::Relaxed);
        shared.bytes.store(state.bytes, Ordering::Relaxed);
        shared.finished.store(state.finished, Ordering::Relaxed);
        let known = state.known.keys();
        let damaged = known.filter(|k| !state.found.contains_key(*k)).count() + state.found.len();
        shared.damaged.store(damaged as u64, Ordering::Relaxed);
    }

    fn state_path(&self) -> PathBuf {
        let root = self.fs.archive().root();
        root.join(PRIVATE_DIR).join(STATE_FILE)
    }

    /// The state on disk; a lost or odd one costs a new pass.
    fn read_state(&self) -> State {
        let raw = fs::read(self.state_path()).unwrap_or_default();
        serde_json::from_slice(&raw).unwrap_or_default()
    }

    fn note(&mut self) {
        self.noted = Instant::now();
        let write = || -> Result<(), String> {
            let archive = self.fs.archive();
            let temp = archive.temp_file().map_err(|e| e.to_string())?;
            let raw = serde_json::to_vec(&self.state).map_err(|e| e.to_string())?;
            (&**temp.file())
                .write_all(&raw)
                .map_err(|e| e.to_string())?;
            let private = archive.private_fd().ok_or("no private directory")?;
            temp.rename_to(private, STATE_FILE.as_ref())
                .map(drop)
                .map_err(|e| e.to_string())
        };
        if let Err(e) = write() {
            log::warn!("scrub: its place could not be written down: {e}");
        }
    }
}

/// What is wrong, a line each, with the bytes of the content that are lost where they are known.
fn lines(report: &Report) -> Vec<String> {
    let serious = report.findings.iter();
    let serious = serious.filter(|f| f.severity >= Severity::Warning);
    serious
        .map(|finding| match finding.content(report.summary.as_ref()) {
            Some(bytes) => format!(
                "bytes {} to {}: {}",
                bytes.start,
                bytes.end - 1,
                finding.what
            ),
            None => finding.what.clone(),
        })
        .collect()
}

fn stamp(m: &Metadata) -> (u64, u64, i64, i64, i64, i64) {
    let (mtime, ctime) = ((m.mtime(), m.mtime_nsec()), (m.ctime(), m.ctime_nsec()));
    (m.ino(), m.len(), mtime.0, mtime.1, ctime.0, ctime.1)
}

fn now() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |d| d.as_secs())
}

/// A file that is read slowly, so that others do not notice.
struct Paced {
    file: File,
    fs: Arc<Fs>,
    shared: Arc<Shared>,
    pace: Mutex<Pace>,
}

struct Pace {
    /// Bytes read since the last rest, and how long that took.
    bytes: u64,
    took: Duration,
    /// Blocks that the mount had served by then.
    served: u64,
}

impl Paced {
    fn new(file: File, fs: &Arc<Fs>, shared: &Arc<Shared>) -> Paced {
        // What is read once shall not push out what is read often.
        let _ = rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::NoReuse);
        let pace = Pace {
            bytes: 0,
            took: Duration::ZERO,
            served: served(fs),
        };
        Paced {
            file,
            fs: Arc::clone(fs),
            shared: Arc::clone(shared),
            pace: Mutex::new(pace),
        }
    }

    fn rest(&self, read: u64, took: Duration) {
        let mut pace = self.pace.lock().unwrap_or_else(PoisonError::into_inner);
        pace.bytes += read;
        pace.took += took;
        if pace.bytes < STRETCH {
            return;
        }
        let served = served(&self.fs);
        let busy = served != pace.served || machine_is_loaded();
        let rest = pace.took * 3;
        self.shared
            .sleep(if busy { rest.max(BUSY_REST) } else { rest });
        *pace = Pace {
            bytes: 0,
            took: Duration::ZERO,
            served,
        };
    }
}

/// Blocks that the mount has served.
fn served(fs: &Fs) -> u64 {
    let stats = fs.stats();
    stats.cache_hits + stats.decoded_blocks
}

/// Whether more wants to run than there are processors.
fn machine_is_loaded() -> bool {
    let load = fs::read_to_string("/proc/loadavg").ok();
    let load = load.and_then(|text| text.split(' ').next()?.parse::<f64>().ok());
    let cores = thread::available_parallelism().map_or(1, std::num::NonZeroUsize::get);
    load.is_some_and(|load| load > cores as f64)
}

impl Storage for Paced {
    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize> {
        if self.shared.is_cancelled() {
            return Err(io::Error::other("cancelled"));
        }
        let begun = Instant::now();
        let n = FileExt::read_at(&self.file, buf, offset)?;
        self.rest(n as u64, begun.elapsed());
        Ok(n)
    }

    fn write_all_at(&self, _: &[u8], _: u64) -> io::Result<()> {
        Err(io::ErrorKind::ReadOnlyFilesystem.into())
    }

    fn sync_data(&self) -> io::Result<()> {
        Ok(())
    }

    fn len(&self) -> io::Result<u64> {
        Ok(self.file.metadata()?.len())
    }

    fn punch_hole(&self, _: u64, _: u64) -> io::Result<()> {
        Err(io::ErrorKind::ReadOnlyFilesystem.into())
    }

    fn set_len(&self, _: u64) -> io::Result<()> {
        Err(io::ErrorKind::ReadOnlyFilesystem.into())
    }
}
