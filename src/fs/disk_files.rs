//! The disk cache's directory: whose it must be, and the thread that writes and deletes its files.

use std::fs::File;
use std::io::{self, Write};
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::atomic::Ordering;
use std::sync::mpsc::Receiver;
use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

use lru::LruCache;
use rustix::fs::{
    AtFlags, Dir, FlockOperation, Mode, OFlags, Timespec, Timestamps, UTIME_NOW, flock, fstat,
    fstatvfs, mkdir, open, openat, renameat, statat, unlinkat, utimensat,
};
use rustix::io::Errno;

use super::disk_cache::{Name, Shared, Told};

const SECRET: &str = "secret";
const TEMP: &str = "new";
/// What the names of blocks end in.
const SUFFIX: &str = ".block";

/// Bytes of its disk that the cache leaves free: others may need them more.
const LEFT_FREE: u64 = 64 << 20;
/// How long nothing is written after a failure.
const PAUSE: Duration = Duration::from_secs(10);
/// How old the time of a file's last use on the disk may be.
const USED_EVERY: Duration = Duration::from_secs(60);
/// What a file takes is a multiple of this, nearly everywhere.
const UNIT: u64 = 4096;

pub(super) fn file_name(name: &Name) -> String {
    format!("{:032x}{SUFFIX}", u128::from_be_bytes(*name))
}

fn parse_name(file: &[u8]) -> Option<Name> {
    let text = std::str::from_utf8(file).ok()?.strip_suffix(SUFFIX)?;
    let name = u128::from_str_radix(text, 16).ok()?.to_be_bytes();
    (file_name(&name).as_bytes() == file).then_some(name)
}

/// The directory, which is this user's alone and in nobody else's use.
pub(super) fn open_dir(path: &Path) -> io::Result<OwnedFd> {
    let refuse = |why: &str| Err(io::Error::other(why.to_string()));
    match mkdir(path, Mode::from_raw_mode(0o700)) {
        Ok(()) | Err(Errno::EXIST) => {}
        Err(e) => return Err(e.into()),
    }
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let dir = open(path, flags, Mode::empty())?;
    let stat = fstat(&dir)?;
    if stat.st_uid != rustix::process::geteuid().as_raw() {
        return refuse("belongs to another user; name a directory of your own for the disk cache");
    }
    if stat.st_mode & 0o077 != 0 {
        return refuse("is open to other users; chmod 700 it, or name another for the disk cache");
    }
    match flock(&dir, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(dir),
        Err(Errno::WOULDBLOCK) => {
            refuse("is the disk cache of another mount; name a directory of its own")
        }
        Err(e) => Err(e.into()),
    }
}

/// What the directory's files are made with; a new one for a new directory.
pub(super) fn secret(dir: &OwnedFd) -> io::Result<[u8; 32]> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let mut secret = [0; 32];
    match openat(dir, SECRET, flags, Mode::empty()) {
        Ok(file) => {
            let file = File::from(file);
            if file.metadata()?.len() == 32 && io::Read::read_exact(&mut &file, &mut secret).is_ok()
            {
                return Ok(secret);
            }
        }
        Err(Errno::NOENT) => {
            let is_foreign = |name: &[u8]| {
                !matches!(name, b"." | b"..")
                    && name != TEMP.as_bytes()
                    && parse_name(name).is_none()
            };
            for entry in Dir::read_from(dir)? {
                if is_foreign(entry?.file_name().to_bytes()) {
                    return Err(io::Error::other(
                        "holds other files; name an empty directory for the disk cache",
                    ));
                }
            }
        }
        Err(e) => return Err(e.into()),
    }
    let mut random = File::open("/dev/urandom")?;
    io::Read::read_exact(&mut random, &mut secret)?;
    write_file(dir, SECRET, &[&secret])?;
    Ok(secret)
}

/// A whole file, or none.
fn write_file(dir: &OwnedFd, name: &str, parts: &[&[u8]]) -> io::Result<()> {
    let write = || {
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::TRUNC | OFlags::NOFOLLOW;
        let mode = Mode::from_raw_mode(0o600);
        let mut file = File::from(openat(dir, TEMP, flags | OFlags::CLOEXEC, mode)?);
        for part in parts {
            file.write_all(part)?;
        }
        Ok(renameat(dir, TEMP, dir, name)?)
    };
    write().inspect_err(|_: &io::Error| {
        let _ = unlinkat(dir, TEMP, AtFlags::empty());
    })
}

struct Kept {
    size: u64,
    /// When its last use was written down.
    used: Instant,
}

/// Writes and deletes.
pub(super) struct Keeper {
    shared: Arc<Shared>,
    files: LruCache<Name, Kept>,
    bytes: u64,
    not_before: Instant,
}

impl Keeper {
    pub(super) fn new(shared: Arc<Shared>) -> Keeper {
        Keeper {
            shared,
            files: LruCache::unbounded(),
            bytes: 0,
            not_before: Instant::now(),
        }
    }

    /// Works until nobody can tell it anything more.
    pub(super) fn run(mut self, told: &Receiver<Told>) {
        if let Err(e) = self.look() {
            self.failed(&e);
        }
        while let Ok(told) = told.recv() {
            match told {
                Told::Keep(name, data) => self.keep(name, &data),
                Told::Used(name) => self.used(&name),
                Told::Remove(name) => self.remove(&name),
            }
            self.shared.bytes.store(self.bytes, Ordering::Relaxed);
        }
    }

    /// Learns what is there, the least recently used first.
    fn look(&mut self) -> io::Result<()> {
        let mut found = Vec::new();
        let shared = Arc::clone(&self.shared);
        let dir = shared.dir.read().unwrap_or_else(PoisonError::into_inner);
        for entry in Dir::read_from(&*dir)? {
            let entry = entry?;
            let Some(name) = parse_name(entry.file_name().to_bytes()) else {
                continue;
            };
            let Ok(stat) = statat(&*dir, entry.file_name(), AtFlags::SYMLINK_NOFOLLOW) else {
                continue;
            };
            let size = u64::try_from(stat.st_size).unwrap_or(0);
            found.push((stat.st_mtime, stat.st_mtime_nsec, name, size));
        }
        drop(dir);
        found.sort_unstable();
        for (_, _, name, size) in found {
            self.note(name, size);
        }
        self.make_room(0);
        self.shared.bytes.store(self.bytes, Ordering::Relaxed);
        Ok(())
    }

    fn note(&mut self, name: Name, size: u64) {
        let size = size.next_multiple_of(UNIT);
        self.bytes += size;
        let kept = Kept {
            size,
            used: Instant::now(),
        };
        if let Some(old) = self.files.put(name, kept) {
            self.bytes -= old.size;
        }
    }

    /// Deletes what was not used for longest until so many bytes more fit.
    fn make_room(&mut self, size: u64) {
        while self.bytes.saturating_add(size) > self.shared.options.bytes {
            if !self.evict() {
                return;
            }
        }
    }

    fn evict(&mut self) -> bool {
        let Some((name, kept)) = self.files.pop_lru() else {
            return false;
        };
        self.bytes -= kept.size;
        self.unlink(&name);
        self.shared.evicted.fetch_add(1, Ordering::Relaxed);
        true
    }

    fn unlink(&self, name: &Name) {
        let dir = self.shared.dir.read();
        let dir = dir.unwrap_or_else(PoisonError::into_inner);
        // Somebody else may have done it.
        let _ = unlinkat(&*dir, file_name(name), AtFlags::empty());
    }

    fn keep(&mut self, name: Name, data: &[u8]) {
        let size = (32 + data.len() as u64).next_multiple_of(UNIT);
        if Instant::now() < self.not_before || size > self.shared.options.bytes {
            return;
        }
        self.make_room(size);
        match self.write(&name, data) {
            Ok(true) => {
                self.note(name, size);
                self.shared.stored.fetch_add(1, Ordering::Relaxed);
            }
            Ok(false) => {
                // Others need the disk.
                self.evict();
            }
            Err(e) if Errno::from_io_error(&e) == Some(Errno::NOENT) => self.make_again(),
            Err(e) => self.failed(&e),
        }
    }

    /// Whether it was written: not if the disk is nearly full.
    fn write(&self, name: &Name, data: &[u8]) -> io::Result<bool> {
        let dir = self.shared.dir.read();
        let dir = dir.unwrap_or_else(PoisonError::into_inner);
        let disk = fstatvfs(&*dir)?;
        if disk.f_bavail.saturating_mul(disk.f_frsize) < LEFT_FREE + data.len() as u64 {
            return Ok(false);
        }
        if statat(&*dir, SECRET, AtFlags::SYMLINK_NOFOLLOW).is_err() {
            write_file(&dir, SECRET, &[&self.shared.secret])?;
        }
        let mac = self.shared.mac(name, data);
        write_file(&dir, &file_name(name), &[mac.as_bytes(), data])?;
        Ok(true)
    }

    fn used(&mut self, name: &Name) {
        let Some(kept) = self.files.get_mut(name) else {
            return;
        };
        if kept.used.elapsed() < USED_EVERY {
            return;
        }
        kept.used = Instant::now();
        let now = Timespec {
            tv_sec: 0,
            tv_nsec: UTIME_NOW,
        };
        let times = Timestamps {
            last_access: now,
            last_modification: now,
        };
        let dir = self.shared.dir.read();
        let dir = dir.unwrap_or_else(PoisonError::into_inner);
        let _ = utimensat(&*dir, file_name(name), &times, AtFlags::SYMLINK_NOFOLLOW);
    }

    fn remove(&mut self, name: &Name) {
        if let Some(kept) = self.files.pop(name) {
            self.bytes -= kept.size;
        }
        self.unlink(name);
    }

    /// The directory was deleted: makes another.
    fn make_again(&mut self) {
        let made = open_dir(&self.shared.options.dir).and_then(|dir| {
            write_file(&dir, SECRET, &[&self.shared.secret])?;
            let mut now = self.shared.dir.write();
            **now.as_mut().unwrap_or_else(|e| e.get_mut()) = dir;
            Ok(())
        });
        self.files.clear();
        self.bytes = 0;
        if let Err(e) = made {
            self.failed(&e);
        }
    }

    fn failed(&mut self, error: &io::Error) {
        let dir = self.shared.options.dir.display();
        log::warn!("disk cache {dir}: {error}; nothing is kept there for a while");
        self.not_before = Instant::now() + PAUSE;
        if Errno::from_io_error(error) == Some(Errno::NOSPC) {
            // A quarter of it may help others, too.
            let less = self.bytes / 4 * 3;
            while self.bytes > less && self.evict() {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_files_are_read_back_and_others_are_none() {
        for name in [[0; 16], [0xff; 16], *b"0123456789abcdef"] {
            assert_eq!(parse_name(file_name(&name).as_bytes()), Some(name));
        }
        let good = file_name(&[0xab; 16]);
        for bad in [
            good.to_uppercase(),
            format!("+{}", &good[1..]),
            good[1..].to_string(),
            good.replace(".block", ""),
            "secret".to_string(),
        ] {
            assert_eq!(parse_name(bad.as_bytes()), None, "{bad}");
        }
    }
}
