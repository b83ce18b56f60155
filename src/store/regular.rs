//! Opening files that may become something else while they are looked at.

use std::fs::File;
use std::io;
use std::path::Path;

use rustix::fs::{self, Mode, OFlags};

/// Opens the regular file at `path` to read it. The last name is not followed if it is a symbolic link, and what is no regular file, such
/// as a pipe, is not waited for.
///
/// # Errors
/// I/O errors; `InvalidInput` if it is no regular file.
pub fn open_regular(path: &Path) -> io::Result<File> {
    let flags =
        OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    let file = File::from(fs::open(path, flags, Mode::empty())?);
    match file.metadata()?.is_file() {
        true => Ok(file),
        false => Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            "is no regular file",
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::{Depth, Library, verify_segment};

    #[test]
    fn what_became_something_else_is_not_followed_or_waited_for() {
        let dir = tempfile::tempdir().expect("a directory");
        let at = |name: &str| dir.path().join(name);
        std::fs::write(at("file"), "x").expect("written");
        open_regular(&at("file")).expect("a regular file");
        std::os::unix::fs::symlink(at("file"), at("link")).expect("a link");
        let mode = Mode::from_raw_mode(0o600);
        fs::mknodat(fs::CWD, at("pipe"), fs::FileType::Fifo, mode, 0).expect("a pipe");
        for name in ["link", "pipe", ".", "none"] {
            open_regular(&at(name)).expect_err(name);
            let library = Library::default();
            verify_segment(&at(name), &library, Depth::Checksums, &|_| {}).expect_err(name);
        }
    }
}
