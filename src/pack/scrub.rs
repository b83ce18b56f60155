//! The scrub: reads every segment of a mounted archive now and then, and checks its checksums, before somebody needs what rots there.
//!
//! It goes through the tree in the order of the names, remembers in `.vortex/scrub` how far it came, takes at most a
//! quarter of the time, and little of it while the mount is in use or the machine is loaded. What it finds is logged once. It
//! decodes nothing and changes nothing.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

use super::paced::{Paced, Stop};
use super::rest::be_humble;
use super::second_look;
use super::status::ScrubStatus;
use crate::fs::Fs;
use crate::segment::Storage;
use crate::store::names::{self, Kind, PRIVATE_DIR, escape, unescape};
use crate::store::{Depth, StoreError};

/// How often its place is written down at most.
const NOTE_EVERY: Duration = Duration::from_secs(60);
/// How long damage must stay the same to be believed: a commit may have come between.
const SECOND_LOOK: Duration = Duration::from_secs(1);
const STATE_FILE: &str = "scrub";

/// The background scrub; it works until it is told to stop.
#[derive(Debug)]
pub struct Scrub {
    shared: Arc<Shared>,
    stop: Arc<Stop>,
    thread: JoinHandle<()>,
}

#[derive(Debug, Default)]
struct Shared {
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
        let (shared, stop) = (Arc::new(Shared::default()), Arc::new(Stop::default()));
        let scrubber = Scrubber {
            fs,
            every,
            shared: Arc::clone(&shared),
            stop: Arc::clone(&stop),
            state: State::default(),
            noted: Instant::now(),
        };
        let thread = thread::Builder::new()
            .name("scrub".into())
            .spawn(move || scrubber.run())?;
        Ok(Scrub {
            shared,
            stop,
            thread,
        })
    }

    /// A view of it that outlives it.
    #[must_use]
    pub fn view(&self) -> ScrubView {
        ScrubView(Arc::clone(&self.shared))
    }

    /// Ends it within one read and waits for that; its place is written down.
    pub fn stop(self) {
        self.stop.stop();
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

struct Scrubber {
    fs: Arc<Fs>,
    every: Duration,
    shared: Arc<Shared>,
    stop: Arc<Stop>,
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
            let (now, last) = (now(), self.state.finished);
            // A clock that was set back says nothing of how long ago that was.
            let due = last == 0 || last > now || now - last >= self.every.as_secs();
            if self.state.after.is_some() || due {
                self.pass();
            }
            if !self.stop.sleep(pause) {
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
        self.tree(after.as_deref());
        if !self.stop.is_stopped() {
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

    /// Checks what lies in the archive, by name, beyond the path `after`.
    fn tree(&mut self, after: Option<&Path>) {
        let root = self.fs.archive().root().to_path_buf();
        let mut below = PathBuf::new();
        // What is left of each directory on the way.
        let mut levels = vec![names_in(&root).into_iter()];
        while let Some(names) = levels.last_mut() {
            let Some(name) = names.next() else {
                levels.pop();
                below.pop();
                continue;
            };
            if self.stop.is_stopped() {
                return;
            }
            below.push(&name);
            let passed = |a: &Path| below.as_path() <= a && !a.starts_with(&below);
            let path = root.join(&below);
            match fs::symlink_metadata(&path) {
                _ if after.is_some_and(passed) => {}
                Ok(is) if is.is_dir() => {
                    if below != Path::new(PRIVATE_DIR) {
                        levels.push(names_in(&path).into_iter());
                        continue;
                    }
                }
                Ok(is) => {
                    let is_segment = names::logical_name(&name, true).1 == Kind::Segment;
                    if is.is_file() && is_segment && after.is_none_or(|a| below.as_path() > a) {
                        self.file(&path, &below, is.len());
                    }
                }
                Err(_) => {}
            }
            below.pop();
        }
    }

    fn file(&mut self, path: &Path, logical: &Path, len: u64) {
        let damage = match self.check(path) {
            Ok(damage) => damage,
            Err(StoreError::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound => {
                return;
            }
            Err(e) => return log::warn!("scrub: {}: not checked: {e}", logical.display()),
        };
        if self.stop.is_stopped() {
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
        match self.fs.archive().bad_copies(Depth::Checksums) {
            Ok(bad) => {
                for copy in bad {
                    let key = escape(&Path::new("/").join(&copy.path));
                    let what = format!("{}: {}", copy.thing, copy.what());
                    self.found(key, &copy.path.display().to_string(), vec![what]);
                }
            }
            Err(e) => log::warn!("scrub: format, models and primers could not be checked: {e}"),
        }
    }

    /// What is damaged of a segment.
    fn check(&self, path: &Path) -> Result<Vec<String>, StoreError> {
        let slowly = |file| Arc::new(Paced::new(file, &self.fs, &self.stop)) as Arc<dyn Storage>;
        let wait = || self.stop.sleep(SECOND_LOOK);
        second_look::damage(path, self.fs.archive().library(), &slowly, &wait)
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

/// The names in a directory, in their order; none of one that cannot be read, which is logged.
fn names_in(folder: &Path) -> Vec<OsString> {
    let mut names: Vec<_> = match fs::read_dir(folder) {
        Ok(entries) => entries.flatten().map(|e| e.file_name()).collect(),
        Err(e) => {
            log::warn!("scrub: {}: {e}", folder.display());
            Vec::new()
        }
    };
    names.sort();
    names
}

fn now() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |d| d.as_secs())
}
