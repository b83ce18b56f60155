//! The daemon's log, `.vortex/log`: bounded, because nobody looks after it.

use std::fs::File;
use std::io::{self, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{FileType, Mode, OFlags, fstat, openat, renameat};

use crate::store::shown;

/// Its names in `.vortex`.
const NAME: &str = "log";
const OLD_NAME: &str = "log.1";

/// A log is put aside as `log.1` when it grows beyond this, so both take at most twice as much.
const LIMIT: u64 = 1 << 20;

/// A file that is appended to and put aside when it is long.
pub(super) struct LogFile {
    dir: OwnedFd,
    file: File,
    len: u64,
}

impl LogFile {
    /// Opens or makes the log in the directory `dir`.
    pub(super) fn open(dir: BorrowedFd<'_>) -> io::Result<LogFile> {
        let mut log = LogFile {
            dir: dir.try_clone_to_owned()?,
            file: open(dir)?,
            len: 0,
        };
        log.len = log.file.metadata()?.len();
        log.put_aside_if_long()?;
        Ok(log)
    }

    fn put_aside_if_long(&mut self) -> io::Result<()> {
        if self.len > LIMIT {
            renameat(&self.dir, NAME, &self.dir, OLD_NAME)?;
            self.file = open(self.dir.as_fd())?;
            self.len = 0;
        }
        Ok(())
    }
}

/// Never through a link, and never waiting for a reader of a pipe that somebody put there.
fn open(dir: BorrowedFd<'_>) -> io::Result<File> {
    let flags = OFlags::WRONLY
        | OFlags::APPEND
        | OFlags::CREATE
        | OFlags::NOFOLLOW
        | OFlags::NONBLOCK
        | OFlags::CLOEXEC;
    let file = File::from(openat(dir, NAME, flags, Mode::from_raw_mode(0o600))?);
    match FileType::from_raw_mode(fstat(&file)?.st_mode) {
        FileType::RegularFile => Ok(file),
        _ => Err(io::Error::other("it is no regular file; remove it")),
    }
}

impl Write for LogFile {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        // A log that cannot be put aside is written on: its messages matter more.
        let _ = self.put_aside_if_long();
        let written = self.file.write(buf)?;
        self.len += written as u64;
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Sends the log of this process to the file in the private directory `dir`.
pub(super) fn log_to(dir: BorrowedFd<'_>) -> io::Result<()> {
    let file = LogFile::open(dir)?;
    // Fails only where a logger is set already.
    let _ = to_pipe(Box::new(file))
        .format(|out, record| writeln!(out, "{} {}", timestamp(), message(record)))
        .try_init();
    Ok(())
}

/// A log into `pipe`, as much as the environment says.
pub(super) fn to_pipe(pipe: Box<dyn Write + Send>) -> env_logger::Builder {
    let filter = env_logger::Env::default().filter_or("VORTEX_LOG", "info");
    let mut builder = env_logger::Builder::from_env(filter);
    builder
        .target(env_logger::Target::Pipe(pipe))
        .write_style(env_logger::WriteStyle::Never);
    builder
}

/// What is logged, with its level, on one line.
pub(super) fn message(record: &log::Record<'_>) -> String {
    let level = record.level().as_str().to_ascii_lowercase();
    format!("{level}: {}", shown(&record.args().to_string()))
}

/// Seconds since 1970 as `2026-01-31T12:00:00Z`.
fn timestamp() -> String {
    let since = std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .unwrap_or_default();
    show_time(since.as_secs())
}

/// Days to date after H. Hinnant, "chrono-compatible low-level date algorithms".
fn show_time(secs: u64) -> String {
    let (days, rest) = (secs / 86_400, secs % 86_400);
    let z = days + 719_468;
    let (era, doe) = (z / 146_097, z % 146_097);
    let yoe = (doe - doe / 1_460 + doe / 36_524 - doe / 146_096) / 365;
    let doy = doe - (365 * yoe + yoe / 4 - yoe / 100);
    let mp = (5 * doy + 2) / 153;
    let (day, month) = (
        doy - (153 * mp + 2) / 5 + 1,
        if mp < 10 { mp + 3 } else { mp - 9 },
    );
    let year = yoe + era * 400 + u64::from(month <= 2);
    format!(
        "{year:04}-{month:02}-{day:02}T{:02}:{:02}:{:02}Z",
        rest / 3600,
        rest / 60 % 60,
        rest % 60
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_log_is_put_aside_once() {
        let dir = tempfile::tempdir().expect("temp dir");
        let path = dir.path().join("log");
        let fd = File::open(dir.path()).expect("open");
        let mut log = LogFile::open(fd.as_fd()).expect("open");
        let line = vec![b'x'; 64 << 10];
        for _ in 0..100 {
            log.write_all(&line).expect("write");
        }
        let len = |p: &std::path::Path| std::fs::metadata(p).expect("there").len();
        assert!(len(&path) <= LIMIT + line.len() as u64);
        assert!(len(&path.with_extension("1")) <= LIMIT + line.len() as u64);
        assert_eq!(std::fs::read_dir(dir.path()).expect("list").count(), 2);
    }

    #[test]
    fn a_log_that_is_no_plain_file_is_refused_at_once() {
        let dir = tempfile::tempdir().expect("temp dir");
        let fd = File::open(dir.path()).expect("open");
        let pipe = rustix::fs::mknodat(&fd, NAME, FileType::Fifo, Mode::from_raw_mode(0o600), 0);
        pipe.expect("a pipe");
        assert!(LogFile::open(fd.as_fd()).is_err());
        std::fs::remove_file(dir.path().join(NAME)).expect("removed");
        std::os::unix::fs::symlink("/etc/hostname", dir.path().join(NAME)).expect("a link");
        assert!(LogFile::open(fd.as_fd()).is_err());
    }

    #[test]
    fn times_are_shown_in_utc() {
        assert_eq!(show_time(0), "1970-01-01T00:00:00Z");
        assert_eq!(show_time(951_782_400), "2000-02-29T00:00:00Z");
        assert_eq!(show_time(1_700_000_000), "2023-11-14T22:13:20Z");
    }
}
