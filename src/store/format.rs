//! The version of the archive directory's layout: one line of text with its checksum, kept twice because without it nobody
//! knows that a directory is an archive.

use std::ffi::OsStr;
use std::io;
use std::os::fd::BorrowedFd;
use std::path::{Path, PathBuf};

use rustix::fs::{self, AtFlags};

use super::error::StoreError;
use super::names::PRIVATE_DIR;
use super::twins::{BOTH, Condition, Copy, Twins};

/// Version of the archive directory's layout.
pub const FORMAT: u32 = 0;
/// The places of both copies, below the private directory.
const PATHS: [&str; 2] = ["format", "copies/format"];
const NAME: &str = "format";
/// Longest line that is read, in bytes.
const LONGEST: u64 = 256;

/// The line that says this version: the version, and the CRC-32C of the words before it.
#[must_use]
pub fn line() -> String {
    let words = format!("vortex-fs {FORMAT}");
    format!("{words} {:08x}", crc32c::crc32c(words.as_bytes()))
}

/// What a copy says.
enum Said {
    /// This version.
    This,
    /// Another one, in these words.
    Other(String),
}

fn parse(text: &[u8]) -> Option<Said> {
    let line = std::str::from_utf8(text).ok()?.lines().next()?;
    let (words, sum) = match line.rsplit_once(' ')? {
        ("vortex-fs", _) => (line, None),
        (words, sum) => (words, Some(sum)),
    };
    // A line that a person wrote has no checksum.
    if sum.is_some_and(|sum| sum != format!("{:08x}", crc32c::crc32c(words.as_bytes()))) {
        return None;
    }
    match words.strip_prefix("vortex-fs ")?.parse::<u32>().ok()? {
        FORMAT => Some(Said::This),
        _ => Some(Said::Other(words.to_string())),
    }
}

/// Whether a directory, by its path, is an archive's.
pub(super) fn is_archive(dir: &Path) -> bool {
    let private = dir.join(PRIVATE_DIR);
    PATHS.iter().any(|path| private.join(path).is_file())
}

/// Whether this is the private directory of an archive.
pub(super) fn is_private_dir(private: BorrowedFd<'_>) -> bool {
    let mut paths = PATHS.into_iter();
    paths.any(|path| fs::statat(private, path, AtFlags::SYMLINK_NOFOLLOW).is_ok())
}

/// Where a copy lies, below the archive's directory.
pub(super) fn path_of(copy: Copy) -> PathBuf {
    let path = match copy {
        Copy::First => PATHS[0],
        Copy::Second => PATHS[1],
    };
    Path::new(PRIVATE_DIR).join(path)
}

/// How both copies are.
///
/// # Errors
/// I/O errors; `UnknownFormat` if one says so.
pub(super) fn conditions(twins: &Twins, root: &Path) -> Result<[Condition; 2], StoreError> {
    let look = |copy| {
        let raw = match twins.read_up_to(copy, OsStr::new(NAME), LONGEST) {
            Ok(Some(raw)) => raw,
            Ok(None) => return Ok(Condition::Missing),
            Err(e) => {
                return StoreError::io(root.join(path_of(copy)))(e).into_condition();
            }
        };
        match parse(&raw) {
            Some(Said::This) => Ok(Condition::Good),
            Some(Said::Other(found)) => Err(StoreError::UnknownFormat {
                path: root.to_path_buf(),
                found,
            }),
            None => Ok(Condition::Bad("it is damaged".to_string())),
        }
    };
    Ok([look(Copy::First)?, look(Copy::Second)?])
}

/// That this version reads the archive at `root`: one good copy is enough.
///
/// # Errors
/// `NotAnArchive`, `UnknownFormat`, `DamagedFormat`, I/O errors.
pub(super) fn check(twins: &Twins, root: &Path) -> Result<[Condition; 2], StoreError> {
    let conditions = conditions(twins, root)?;
    if conditions.iter().any(Condition::is_good) {
        return Ok(conditions);
    }
    Err(match conditions.iter().all(|c| *c == Condition::Missing) {
        true => StoreError::NotAnArchive(root.to_path_buf()),
        false => StoreError::DamagedFormat(root.join(path_of(Copy::First))),
    })
}

/// Writes a copy, durably, for all who may read the archive.
///
/// # Errors
/// I/O errors.
pub(super) fn write(twins: &Twins, copy: Copy) -> io::Result<()> {
    twins.write(
        copy,
        OsStr::new(NAME),
        format!("{}\n", line()).as_bytes(),
        0o644,
    )
}

/// Writes the copies that are missing.
///
/// # Errors
/// I/O errors.
pub(super) fn complete(twins: &Twins, conditions: &[Condition; 2]) -> io::Result<()> {
    for (copy, condition) in BOTH.into_iter().zip(conditions) {
        if *condition == Condition::Missing {
            write(twins, copy)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_changed_bit_of_the_line_is_noticed() {
        let good = format!("{}\n", line()).into_bytes();
        assert!(matches!(parse(&good), Some(Said::This)));
        for bit in 0..(good.len() - 1) * 8 {
            let mut bad = good.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            assert!(parse(&bad).is_none(), "bit {bit}");
        }
        // A line that was cut off within the checksum, or is not there.
        for len in (0..10).chain(12..line().len()) {
            assert!(parse(&good[..len]).is_none(), "{len} bytes");
        }
        assert!(matches!(parse(b"vortex-fs 0\n"), Some(Said::This)));
        assert!(matches!(parse(b"vortex-fs 99\n"), Some(Said::Other(_))));
    }
}
