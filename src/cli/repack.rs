//! What `pack` and `unpack` share: finding the archives, having the work done by a daemon or doing it, reporting.

use std::collections::BTreeMap;
use std::io;
use std::net::Shutdown;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use serde::Serialize;

use super::{Cancel, CliError, Outcome, Progress, print, print_json, ratio, show_bytes};
use crate::fs::{Fs, FsOptions};
use crate::mount;
use crate::pack::client::Client;
use crate::pack::locate::{LocateError, Place, locate};
use crate::pack::protocol::{
    Event, FileOutcome, FileReport, Job, Request, Summary, escape, unescape,
};
use crate::pack::{self, Defaults, Direction};
use crate::store::{self, Access, Archive, names};

/// What the command line asks for.
pub(super) struct Work {
    pub(super) direction: Direction,
    pub(super) paths: Vec<PathBuf>,
    pub(super) profile: Option<String>,
    pub(super) jobs: Option<usize>,
    pub(super) block_size: Option<u32>,
    pub(super) key_blocks: Option<u8>,
    pub(super) dry_run: bool,
    pub(super) json: bool,
}

#[derive(Serialize)]
struct Report {
    #[serde(flatten)]
    summary: Summary,
    details: Vec<FileReport>,
}

pub(super) fn run(work: Work) -> Result<Outcome, CliError> {
    let mut archives: BTreeMap<PathBuf, Vec<String>> = BTreeMap::new();
    for path in &work.paths {
        let place = place_of(path)?;
        archives
            .entry(place.root)
            .or_default()
            .push(escape(&place.logical));
    }
    let cancel = Cancel::on_signals().map_err(|e| CliError::io("signals", &e))?;
    let view = View::new(&work);
    let mut total = Summary::default();
    for (root, paths) in archives {
        let job = Job {
            paths,
            profile: work.profile.as_deref().map(absolute_profile).transpose()?,
            block_size: work.block_size,
            key_blocks: work.key_blocks,
            jobs: work.jobs,
            dry_run: work.dry_run,
        };
        let summary = work_on(&root, job, work.direction, &cancel, &view)?;
        add(&mut total, &summary);
        if cancel.is_raised() {
            break;
        }
    }
    view.finish(&work, total)
}

/// Where a path lies, whether it was given in the backing directory or in a mount.
fn place_of(path: &Path) -> Result<Place, CliError> {
    if let Some(place) = in_mount(path)? {
        return Ok(place);
    }
    locate(path).map_err(|e| match e {
        LocateError::Io(e) => CliError::io(path, &e),
        other => CliError::failed(other.to_string()).on(path),
    })
}

/// Where a path in a mount lies; nothing if it is in none.
pub(super) fn in_mount(path: &Path) -> Result<Option<Place>, CliError> {
    let absolute = std::fs::canonicalize(path).map_err(|e| CliError::io(path, &e))?;
    let mounts = mount::vortex_mounts().map_err(|e| CliError::io("/proc/self/mountinfo", &e))?;
    let mut mounts = mounts.iter().rev();
    let Some(entry) = mounts.find(|m| absolute.starts_with(&m.mountpoint)) else {
        return Ok(None);
    };
    let Some(root) = entry.archive() else {
        return Err(CliError::failed(
            "is in a mount whose backing directory the mount table does not name",
        )
        .on(path)
        .remedy("give the path in the backing directory"));
    };
    let logical = absolute
        .strip_prefix(&entry.mountpoint)
        .unwrap_or(Path::new(""));
    Ok(Some(Place {
        root,
        logical: logical.to_path_buf(),
    }))
}

/// A profile as the daemon, which has another working directory, can find it.
pub(super) fn absolute_profile(profile: &str) -> Result<String, CliError> {
    if !profile.contains('/') && !profile.ends_with(".safetensors") {
        return Ok(profile.to_string());
    }
    let path = std::path::absolute(profile).map_err(|e| CliError::io(profile, &e))?;
    path.into_os_string()
        .into_string()
        .map_err(|_| CliError::failed("the path of a profile must be UTF-8").on(profile))
}

/// Does the job, or has the daemon that has the archive mounted do it.
fn work_on(
    root: &Path,
    job: Job,
    direction: Direction,
    cancel: &Cancel,
    view: &View,
) -> Result<Summary, CliError> {
    match Client::connect(root) {
        Ok(Some(client)) => ask(client, root, job, direction, cancel, view),
        Ok(None) => work_here(root, &job, direction, cancel, view),
        Err(e) => Err(CliError::io(root, &e)),
    }
}

fn ask(
    mut client: Client,
    root: &Path,
    job: Job,
    direction: Direction,
    cancel: &Cancel,
    view: &View,
) -> Result<Summary, CliError> {
    let lost = |e: io::Error| {
        CliError::partial(format!("lost the connection to the daemon that has it mounted ({e}); every file is whole, in its old form or its new"))
            .on(root)
    };
    let request = match direction {
        Direction::Pack => Request::Pack(job),
        Direction::Unpack => Request::Unpack(job),
    };
    client.send(&request).map_err(|e| match e.kind() {
        io::ErrorKind::InvalidInput => CliError::failed(e.to_string()).on(root),
        _ => lost(e),
    })?;
    let stream = client.stream().map_err(lost)?;
    // To stop saying anything is how a client cancels; the daemon still tells what it did.
    while_watching(
        cancel,
        || drop(stream.shutdown(Shutdown::Write)),
        || {
            loop {
                match client.next_event().map_err(lost)? {
                    Some(Event::Done(summary)) => return Ok(summary),
                    Some(Event::Error { message }) => return Err(CliError::failed(message)),
                    Some(event) => view.show(event),
                    None => return Err(lost(io::ErrorKind::UnexpectedEof.into())),
                }
            }
        },
    )
}

fn work_here(
    root: &Path,
    job: &Job,
    direction: Direction,
    cancel: &Cancel,
    view: &View,
) -> Result<Summary, CliError> {
    let new = Archive::find(root).as_deref() != Some(root);
    if new {
        Archive::init(root).map_err(|e| CliError::failed(e.to_string()))?;
    }
    let archive =
        Archive::open(root, Access::Write).map_err(|e| CliError::failed(e.to_string()))?;
    let options = FsOptions::default();
    let defaults = Defaults {
        block_size: options.block_size,
        ..Defaults::default()
    };
    let fs = Fs::new(archive, options).map_err(|e| CliError::failed(e.to_string()).on(root))?;
    let stop = store::Cancel::default();
    let done = while_watching(
        cancel,
        || stop.cancel(),
        || {
            pack::run(&fs, job, direction, &defaults, &stop, &|event| {
                view.show(event)
            })
            .map_err(|e| CliError::failed(e.to_string()))
        },
    );
    fs.shutdown()
        .map_err(|e| CliError::failed(e.to_string()).on(root))?;
    if new && job.dry_run {
        // It was made for this run alone and holds nothing that a file needs.
        drop(fs);
        let private = root.join(names::PRIVATE_DIR);
        std::fs::remove_dir_all(&private).map_err(|e| CliError::io(&private, &e))?;
    }
    done
}

/// Says so when it is dropped, also by a panic.
struct Over<'a>(&'a AtomicBool);

impl Drop for Over<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Runs `work`; calls `stop` once when the user asks to stop.
fn while_watching<T>(
    cancel: &Cancel,
    stop: impl Fn() + Send + Sync,
    work: impl FnOnce() -> T,
) -> T {
    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| {
            while !done.load(Ordering::Relaxed) {
                if cancel.is_raised() {
                    stop();
                    return;
                }
                thread::sleep(Duration::from_millis(20));
            }
        });
        let _over = Over(&done);
        work()
    })
}

/// What the user sees while it goes on.
struct View {
    verb: &'static str,
    json: bool,
    state: Mutex<Seen>,
}

struct Seen {
    bar: Progress,
    details: Vec<FileReport>,
}

impl View {
    fn new(work: &Work) -> View {
        let verb = match work.direction {
            Direction::Pack => "pack",
            Direction::Unpack => "unpack",
        };
        let state = Seen {
            bar: Progress::hidden(),
            details: Vec::new(),
        };
        View {
            verb,
            json: work.json,
            state: Mutex::new(state),
        }
    }

    fn show(&self, event: Event) {
        let mut seen = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        match event {
            Event::Plan { bytes, .. } if !self.json => seen.bar = Progress::bytes(self.verb, bytes),
            Event::Progress { bytes } => seen.bar.set(bytes),
            Event::Waiting => seen
                .bar
                .warn("another job runs on this archive; waiting for it"),
            Event::File(report) => {
                let bad = matches!(
                    report.outcome,
                    FileOutcome::Skipped | FileOutcome::Failed | FileOutcome::Damaged
                );
                if bad {
                    let why = report.why.as_deref().unwrap_or("left as it was");
                    seen.bar
                        .warn(format_args!("{}: {why}", unescape(&report.path).display()));
                }
                if self.json {
                    seen.details.push(report);
                }
            }
            _ => {}
        }
    }

    fn finish(self, work: &Work, summary: Summary) -> Result<Outcome, CliError> {
        let seen = self
            .state
            .into_inner()
            .unwrap_or_else(PoisonError::into_inner);
        drop(seen.bar);
        let outcome = outcome(&summary);
        if work.json {
            print_json(&Report {
                summary,
                details: seen.details,
            })?;
        } else {
            print(closing_line(work, &summary))?;
        }
        Ok(outcome)
    }
}

fn outcome(summary: &Summary) -> Outcome {
    if summary.damaged > 0 {
        Outcome::Damaged
    } else if summary.failed > 0 || summary.skipped > 0 || summary.cancelled {
        Outcome::Partial
    } else {
        Outcome::Good
    }
}

/// `12 files, 10 packed: 30.0 MiB, stored 9.1 MiB before and 4.2 MiB after (7.1 times smaller), disk 9.3 -> 4.4 MiB, 1.2 MB/s`
fn closing_line(work: &Work, s: &Summary) -> String {
    let done = match (work.direction, work.dry_run) {
        (Direction::Pack, false) => "packed",
        (Direction::Pack, true) => "would be packed",
        (Direction::Unpack, false) => "unpacked",
        (Direction::Unpack, true) => "would be unpacked",
    };
    let mut line = format!("{} files, {} {done}", s.files, s.done);
    for (count, what) in [
        (s.already, "had that form"),
        (s.left, "left as they are"),
        (s.skipped, "in use"),
        (s.failed, "failed"),
        (s.damaged, "damaged"),
    ] {
        if count > 0 {
            line.push_str(&format!(", {count} {what}"));
        }
    }
    line.push_str(&format!(
        ": {}, stored {} before, {} after",
        show_bytes(s.logical),
        show_bytes(s.before),
        show_bytes(s.after)
    ));
    if let Some(ratio) = ratio(s.logical, s.after) {
        line.push_str(&format!(" (ratio {ratio:.2})"));
    }
    if !work.dry_run {
        line.push_str(&format!(
            ", on disk {} -> {}",
            show_bytes(s.disk_before),
            show_bytes(s.disk_after)
        ));
    }
    if s.seconds > 0.0 && s.worked > 0 {
        line.push_str(&format!(", {:.2} MB/s", s.worked as f64 / 1e6 / s.seconds));
    }
    if s.cancelled {
        line.push_str("; interrupted, the rest is as it was");
    }
    line
}

fn add(total: &mut Summary, s: &Summary) {
    total.files += s.files;
    total.done += s.done;
    total.already += s.already;
    total.left += s.left;
    total.skipped += s.skipped;
    total.failed += s.failed;
    total.damaged += s.damaged;
    total.logical += s.logical;
    total.before += s.before;
    total.after += s.after;
    total.disk_before += s.disk_before;
    total.disk_after += s.disk_after;
    total.worked += s.worked;
    total.seconds += s.seconds;
    total.cancelled |= s.cancelled;
}
