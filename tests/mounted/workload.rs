//! Programs at work on a mount, and a list of what they were promised: what must be found after any end of it.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{FileExt, symlink};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Files that are written again and again, from their first version on.
const REWRITTEN: [&str; 3] = ["a", "b", "c"];

/// A length that no block size divides. The kernel hands it over as one write.
const LEN: usize = (20 << 10) + 5;

/// What must be at a path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Must {
    /// A file with this version of its content, or a later one.
    Hold(u64),
    /// A file that begins with so many records of a log.
    BeginWith(u64),
    /// A directory.
    BeDirectory,
    /// A symlink to `a`.
    BeLink,
    /// Nothing.
    BeGone,
}

/// What was answered for by an `fsync`. Of what is not in it nothing is known.
#[derive(Default)]
pub struct Promises(Mutex<BTreeMap<String, Must>>);

impl Promises {
    fn all(&self) -> MutexGuard<'_, BTreeMap<String, Must>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn made(&self, path: &str, must: Must) {
        self.all().insert(path.to_string(), must);
    }

    /// Before something is done to the path that may or may not last.
    fn withdrawn(&self, path: &str) {
        self.all().remove(path);
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.all().len()
    }

    /// Requires that all are kept.
    #[track_caller]
    pub fn check(&self, mnt: &Path) {
        for (path, must) in &*self.all() {
            let at = mnt.join(path);
            let read = || fs::read(&at).unwrap_or_else(|error| panic!("{path}, {must:?}: {error}"));
            match *must {
                Must::Hold(least) => {
                    let bytes = read();
                    let version = version(&bytes);
                    assert!(
                        version.is_some_and(|version| version >= least),
                        "{path} has {version:?} in {} bytes and must have {least}",
                        bytes.len()
                    );
                }
                Must::BeginWith(records) => {
                    let bytes = read();
                    let expected: Vec<u8> = (0..records).flat_map(log_record).collect();
                    assert!(
                        bytes.starts_with(&expected),
                        "{path} lost some of {records} records"
                    );
                    // What came after was not promised, but it is not something else.
                    let rest = &bytes[expected.len()..];
                    let later = (records..records + 1000).flat_map(log_record);
                    let later: Vec<u8> = later.collect();
                    assert!(later.starts_with(rest), "{path} ends in something else");
                }
                Must::BeDirectory => directory_is_usable(&at),
                Must::BeLink => assert_eq!(fs::read_link(&at).unwrap(), Path::new("a"), "{path}"),
                Must::BeGone => {
                    let found = fs::symlink_metadata(&at);
                    assert!(found.is_err(), "{path} is there again");
                }
            }
        }
    }
}

/// Lists a directory, makes an entry of each kind in it, and takes it away again.
fn directory_is_usable(at: &Path) {
    let complain = |error: io::Error| -> usize { panic!("{}: {error}", at.display()) };
    let count = || fs::read_dir(at).map_or_else(complain, Iterator::count);
    let before = count();
    let (file, dir) = (at.join("new file"), at.join("new directory"));
    let done = fs::write(&file, b"x")
        .and_then(|()| fs::create_dir(&dir))
        .and_then(|()| File::open(at)?.sync_all())
        .and_then(|()| fs::remove_dir(&dir))
        .and_then(|()| fs::remove_file(&file));
    done.unwrap_or_else(|error| panic!("{}: {error}", at.display()));
    assert_eq!(count(), before);
}

/// Content that is nothing but lines of its version, so that a mixture shows.
fn content(version: u64) -> Vec<u8> {
    let lines = (0..).flat_map(|line| record(version, line));
    lines.take(LEN).collect()
}

fn version(bytes: &[u8]) -> Option<u64> {
    let version = std::str::from_utf8(bytes.get(..9)?).ok()?.parse().ok()?;
    (content(version) == bytes).then_some(version)
}

fn record(of: u64, number: u64) -> Vec<u8> {
    let hash = number.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 40;
    format!("{of:09} {number:09} {hash:x}\n").into_bytes()
}

fn log_record(number: u64) -> Vec<u8> {
    record(0, number)
}

/// A mount and what is to be remembered of it. Each round works under names of its own beside what all share.
pub struct Workload<'a> {
    mnt: &'a Path,
    promises: &'a Promises,
    round: u64,
    stop: &'a AtomicBool,
}

/// Works until `end` has come back. The mount may fail meanwhile.
pub fn work_until(mnt: &Path, promises: &Promises, round: u64, end: impl FnOnce()) {
    let stop = &AtomicBool::new(false);
    let workload = &Workload {
        mnt,
        promises,
        round,
        stop,
    };
    std::thread::scope(|scope| {
        let jobs = [
            Workload::rewrite,
            Workload::create,
            Workload::replace,
            Workload::log,
            Workload::directories,
        ];
        for job in jobs {
            scope.spawn(move || job(workload));
        }
        end();
        stop.store(true, Ordering::SeqCst);
    });
}

impl Workload<'_> {
    fn goes_on(&self) -> bool {
        !self.stop.load(Ordering::SeqCst)
    }

    /// Syncs the directory of a path.
    fn sync_dir(&self, path: &str) -> io::Result<()> {
        let dir = Path::new(path).parent().expect("a parent");
        File::open(self.mnt.join(dir))?.sync_all()
    }

    /// The same files again and again, synced each time.
    fn rewrite(&self) -> io::Result<()> {
        let files = REWRITTEN.map(|name| {
            let mut options = OpenOptions::new();
            options
                .write(true)
                .create(true)
                .truncate(false)
                .open(self.mnt.join(name))
        });
        let mut version = self.round * 1_000_000;
        while self.goes_on() {
            version += 1;
            for (name, file) in REWRITTEN.iter().zip(&files) {
                let file = file
                    .as_ref()
                    .map_err(|error| io::Error::from(error.kind()))?;
                file.write_all_at(&content(version), 0)?;
                file.sync_data()?;
                self.promises.made(name, Must::Hold(version));
            }
        }
        Ok(())
    }

    /// New files, each synced; its directory is not.
    fn create(&self) -> io::Result<()> {
        let mut number = 0;
        while self.goes_on() {
            number += 1;
            let name = format!("new-{}-{number}", self.round);
            let mut file = File::create_new(self.mnt.join(&name))?;
            file.write_all(&content(number))?;
            file.sync_all()?;
            self.promises.made(&name, Must::Hold(number));
        }
        Ok(())
    }

    /// One file, replaced by a new one each time, never synced.
    fn replace(&self) -> io::Result<()> {
        let mut version = self.round * 1_000_000;
        while self.goes_on() {
            version += 1;
            let temp = self.mnt.join(format!("config.{}", self.round));
            fs::write(&temp, content(version))?;
            fs::rename(temp, self.mnt.join("config"))?;
            // Some version has to be there from now on, whichever.
            self.promises
                .all()
                .entry("config".to_string())
                .or_insert(Must::Hold(0));
        }
        Ok(())
    }

    /// Records appended to a log, synced now and then.
    fn log(&self) -> io::Result<()> {
        let name = format!("log-{}", self.round);
        let mut file = OpenOptions::new()
            .append(true)
            .create_new(true)
            .open(self.mnt.join(&name))?;
        let mut number = 0;
        while self.goes_on() {
            file.write_all(&log_record(number))?;
            number += 1;
            if number % 50 == 0 {
                file.sync_data()?;
                self.promises.made(&name, Must::BeginWith(number));
            }
        }
        Ok(())
    }

    /// Directories made, filled, renamed, emptied and removed, and the names in them, each step synced.
    fn directories(&self) -> io::Result<()> {
        let at = |path: &str| self.mnt.join(path);
        let mut number = 0;
        while self.goes_on() {
            number += 1;
            let [dir, sub, moved] = [
                format!("dir-{}-{number}", self.round),
                format!("dir-{}-{number}/sub", self.round),
                format!("moved-{}-{number}", self.round),
            ];
            fs::create_dir(at(&dir))?;
            self.sync_dir(&dir)?;
            self.promises.made(&dir, Must::BeDirectory);
            fs::create_dir(at(&sub))?;
            let [file, link, name] = ["file", "link", "name"].map(|name| format!("{dir}/{name}"));
            fs::write(at(&file), content(number))?;
            File::open(at(&file))?.sync_all()?;
            fs::hard_link(at(&file), at(&name))?;
            symlink("a", at(&link))?;
            self.sync_dir(&sub)?;
            self.promises.made(&sub, Must::BeDirectory);
            self.promises.made(&file, Must::Hold(number));
            self.promises.made(&name, Must::Hold(number));
            self.promises.made(&link, Must::BeLink);
            if number % 3 == 0 {
                continue;
            }
            for path in [&sub, &file, &link, &name] {
                self.promises.withdrawn(path);
            }
            fs::remove_dir(at(&sub))?;
            fs::remove_file(at(&name))?;
            fs::remove_file(at(&link))?;
            fs::rename(at(&file), at(&link))?;
            self.sync_dir(&sub)?;
            for path in [&sub, &name, &file] {
                self.promises.made(path, Must::BeGone);
            }
            self.promises.made(&link, Must::Hold(number));
            if number % 3 == 1 {
                continue;
            }
            for path in [&dir, &sub, &file, &link, &name] {
                self.promises.withdrawn(path);
            }
            fs::rename(at(&dir), at(&moved))?;
            self.sync_dir(&dir)?;
            self.promises.made(&dir, Must::BeGone);
            self.promises.made(&moved, Must::BeDirectory);
            self.promises
                .made(&format!("{moved}/link"), Must::Hold(number));
        }
        Ok(())
    }
}
