//! Files that the background packer need not try again: packed already, or not smaller for it.
//!
//! Those that were encoded for nothing are written down in `.vortex/settled`, so that the next mount does not try them either. A lost
//! or damaged list costs that work again, a forged one leaves files unpacked; neither costs a byte.

use std::collections::HashMap;
use std::fmt::Write as _;
use std::fs::File;
use std::io::{BufRead, BufReader, Read, Write as _};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::time::{Duration, Instant};

use super::walk::Target;
use crate::fs::Time;
use crate::store::Archive;
use crate::store::names::PRIVATE_DIR;

/// Name of the list in the archive's private directory.
const FILE: &str = "settled";
/// Most files that are remembered, and most of those that are written down.
const MOST: usize = 1 << 20;
const MOST_KEPT: usize = 1 << 18;
/// Longest list that is read, in bytes.
const LONGEST: u64 = (MOST_KEPT as u64 + 1) * 100;
/// The list is written at most this often, and takes at most a twentieth of the time.
const KEEP_EVERY: Duration = Duration::from_secs(5);

/// A file as it was when it was settled. It is another one when its content changes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Entry {
    mtime: Time,
    size: u64,
    /// Encoded for nothing.
    kept: bool,
    /// Which look at the tree saw it last.
    look: u64,
}

/// See the module.
#[derive(Debug)]
pub(super) struct Settled {
    /// What files are packed with: the list holds for nothing else.
    with: String,
    files: HashMap<u64, Entry>,
    look: u64,
    /// Since when the list on disk is out of date.
    stale: bool,
    next_keep: Instant,
}

impl Settled {
    /// What was written down for packing with this profile and block size.
    pub(super) fn load(archive: &Archive, with: &str) -> Settled {
        let mut settled = Settled {
            with: with.to_string(),
            files: HashMap::new(),
            look: 0,
            stale: false,
            next_keep: Instant::now(),
        };
        if let Ok(file) = File::open(archive.root().join(PRIVATE_DIR).join(FILE)) {
            settled.files = read(file, with).unwrap_or_default();
        }
        settled
    }

    /// How many are remembered.
    pub(super) fn len(&self) -> usize {
        self.files.len()
    }

    /// A look at the tree begins.
    pub(super) fn look(&mut self) {
        self.look += 1;
    }

    /// Whether the file need not be tried.
    pub(super) fn has(&mut self, target: &Target) -> bool {
        let look = self.look;
        match self.files.get_mut(&name_of(&target.path)) {
            Some(entry) if (entry.mtime, entry.size) == (target.attr.mtime, target.attr.size) => {
                entry.look = look;
                true
            }
            _ => false,
        }
    }

    /// Remembers a file; beyond this mount if it was encoded `for_nothing`.
    pub(super) fn add(&mut self, target: &Target, for_nothing: bool) {
        if self.files.len() >= MOST {
            self.files.retain(|_, entry| entry.kept);
        }
        if self.files.len() >= MOST {
            return;
        }
        let entry = Entry {
            mtime: target.attr.mtime,
            size: target.attr.size,
            kept: for_nothing,
            look: self.look,
        };
        let old = self.files.insert(name_of(&target.path), entry);
        self.stale |= for_nothing || old.is_some_and(|old| old.kept);
    }

    /// Forgets files that the look, which saw the whole tree, did not meet.
    pub(super) fn forget_missing(&mut self) {
        let look = self.look;
        self.files.retain(|_, entry| {
            let here = entry.look == look;
            self.stale |= !here && entry.kept;
            here
        });
    }

    /// Writes the list if it is out of date; `now`, or if that was not done for a while.
    pub(super) fn keep(&mut self, archive: &Archive, now: bool) {
        let begun = Instant::now();
        if !self.stale || (!now && begun < self.next_keep) {
            return;
        }
        match self.write(archive) {
            Ok(()) => self.stale = false,
            Err(e) => log::debug!("what need not be packed could not be written down: {e}"),
        }
        self.next_keep = Instant::now() + KEEP_EVERY.max(begun.elapsed() * 20);
    }

    fn write(&self, archive: &Archive) -> Result<(), String> {
        let private = archive.private_fd().ok_or("no private directory")?;
        let mut text = format!("{}\n", header(&self.with));
        let kept = self.files.iter().filter(|(_, entry)| entry.kept);
        for (name, entry) in kept.take(MOST_KEPT) {
            let (secs, nanos) = entry.mtime;
            let _ = writeln!(text, "{name:016x} {secs} {nanos} {}", entry.size);
        }
        let temp = archive.temp_file().map_err(|e| e.to_string())?;
        (&**temp.file())
            .write_all(text.as_bytes())
            .map_err(|e| e.to_string())?;
        temp.rename_to(private, FILE.as_ref())
            .map(drop)
            .map_err(|e| e.to_string())
    }
}

fn header(with: &str) -> String {
    format!("vortex-fs settled {with}")
}

/// Names a path in few bytes. Two of one name cost an attempt, or leave a file unpacked.
fn name_of(path: &Path) -> u64 {
    let hash = blake3::hash(path.as_os_str().as_bytes());
    let mut name = [0; 8];
    name.copy_from_slice(&hash.as_bytes()[..8]);
    u64::from_le_bytes(name)
}

/// The list for this profile and block size; none if it is for others or is no list.
fn read(file: impl Read, with: &str) -> Option<HashMap<u64, Entry>> {
    let mut lines = BufReader::new(file.take(LONGEST)).lines();
    if lines.next()?.ok()? != header(with) {
        return None;
    }
    let mut files = HashMap::new();
    for line in lines.take(MOST_KEPT) {
        let line = line.ok()?;
        let mut words = line.split(' ');
        let name = u64::from_str_radix(words.next()?, 16).ok()?;
        let mtime = (words.next()?.parse().ok()?, words.next()?.parse().ok()?);
        let size = words.next()?.parse().ok()?;
        let entry = Entry {
            mtime,
            size,
            kept: true,
            look: 0,
        };
        files.insert(name, entry);
    }
    Some(files)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_is_read_as_far_as_it_is_one_and_for_what_it_was_made() {
        let list = "vortex-fs settled fast 65536\n00000000000000ff -5 7 123\n";
        let files = read(list.as_bytes(), "fast 65536").expect("a list");
        let entry = files[&255];
        assert_eq!((entry.mtime, entry.size, entry.kept), ((-5, 7), 123, true));
        assert!(read(list.as_bytes(), "fast 131072").is_none());
        for bad in [
            "",
            "\0\0\0\0",
            "vortex-fs settled fast 65536\nff 1 2\n",
            "vortex-fs settled fast 65536\nzz 1 2 3\n",
            "vortex-fs settled fast 65536\nff 1 2 99999999999999999999999\n",
        ] {
            let none = read(bad.as_bytes(), "fast 65536").is_none();
            assert!(none, "{bad:?}");
        }
    }
}
