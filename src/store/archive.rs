//! An archive directory: making, finding and opening one, and the lock that keeps it to one writer.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{self, AtFlags, Dir, FlockOperation, Mode, OFlags};

use super::error::StoreError;
use super::format;
use super::library::{BadCopy, Library, Thing};
use super::models::ModelStore;
use super::names::PRIVATE_DIR;
use super::primers::PrimerStore;
use super::relink;
use super::temp::TempFile;
use super::twins::{BOTH, Twins};
use super::verify::Depth;

const LOCK_FILE: &str = "lock";
const TEMP_DIR: &str = "tmp";
const MODELS_DIR: &str = "models";
const PRIMERS_DIR: &str = "primers";
const COPIES_DIR: &str = "copies";
/// What a writer makes sure to have, and the mode of each. Nobody but the owner may list primers: who knows the id of one can have
/// a mount decode from it.
const DIRS: [(&str, u32); 4] = [
    (TEMP_DIR, 0o755),
    (MODELS_DIR, 0o755),
    (PRIMERS_DIR, 0o711),
    (COPIES_DIR, 0o711),
];
const DIRECTORY: OFlags = OFlags::RDONLY
    .union(OFlags::DIRECTORY)
    .union(OFlags::CLOEXEC);

/// What an archive is opened for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// Reading only, beside any number of other readers and one writer.
    Read,
    /// Reading and writing, as the only writer.
    Write,
}

/// An open archive directory. A writer's lock is held until this is dropped.
#[derive(Debug)]
pub struct Archive {
    path: PathBuf,
    root: OwnedFd,
    private: Option<OwnedFd>,
    format: Option<Twins>,
    library: Library,
    access: Access,
    _lock: Option<OwnedFd>,
}

impl Archive {
    /// The archive that `path` is in, or is: the nearest directory upward that has a `.vortex` directory.
    #[must_use]
    pub fn find(path: &Path) -> Option<PathBuf> {
        let absolute = std::fs::canonicalize(path).ok()?;
        absolute
            .ancestors()
            .find(|dir| format::is_archive(dir))
            .map(Path::to_path_buf)
    }

    /// Makes the directory `root` an archive. Does nothing if it is one already.
    ///
    /// # Errors
    /// I/O errors, and a path that is no directory; `Untrusted` if somebody else has made a `.vortex` there.
    pub fn init(root: &Path) -> Result<(), StoreError> {
        let fail = |e: io::Error| StoreError::Io {
            path: root.to_path_buf(),
            source: e,
        };
        let dir = fs::open(root, DIRECTORY, Mode::empty()).map_err(|e| fail(e.into()))?;
        make_dir(dir.as_fd(), PRIVATE_DIR, 0o755).map_err(fail)?;
        let private = open_dir(dir.as_fd(), PRIVATE_DIR).map_err(fail)?;
        check_trust(private.as_fd(), dir.as_fd(), root)?;
        make_subdirs(private.as_fd()).map_err(fail)?;
        let twins = format_twins(private.as_fd()).map_err(fail)?;
        match format::check(&twins, root) {
            Ok(conditions) => format::complete(&twins, &conditions).map_err(fail)?,
            Err(StoreError::NotAnArchive(_)) => {
                BOTH.into_iter()
                    .try_for_each(|copy| format::write(&twins, copy))
                    .map_err(fail)?;
            }
            // Opening says so.
            Err(StoreError::UnknownFormat { .. } | StoreError::DamagedFormat(_)) => return Ok(()),
            Err(e) => return Err(e),
        }
        for fd in [private.as_fd(), dir.as_fd()] {
            fs::fsync(fd).map_err(|e| fail(e.into()))?;
        }
        Ok(())
    }

    /// Opens the archive at `root`. For [`Access::Read`] a directory without `.vortex` is taken as it is.
    ///
    /// # Errors
    /// `NotAnArchive`, `Untrusted`, `Busy` if another writer has it, `UnknownFormat`, `DamagedFormat`, I/O errors.
    pub fn open(root: &Path, access: Access) -> Result<Archive, StoreError> {
        let fail = |e: io::Error| StoreError::Io {
            path: root.to_path_buf(),
            source: e,
        };
        let path = std::fs::canonicalize(root).map_err(fail)?;
        let dir = fs::open(&path, DIRECTORY, Mode::empty()).map_err(|e| fail(e.into()))?;
        let private = match open_dir(dir.as_fd(), PRIVATE_DIR) {
            Ok(private) => Some(private),
            Err(e) if e.kind() == io::ErrorKind::NotFound && access == Access::Read => None,
            Err(e) if e.kind() == io::ErrorKind::NotFound => {
                return Err(StoreError::NotAnArchive(path));
            }
            Err(e) => return Err(fail(e)),
        };
        let (mut lock, mut format, mut library) = (None, None, Library::default());
        if let Some(private) = &private {
            let format = format.insert(format_twins(private.as_fd()).map_err(fail)?);
            let conditions = format::check(format, &path)?;
            if access == Access::Write {
                check_trust(private.as_fd(), dir.as_fd(), &path)?;
                lock = Some(take_lock(private.as_fd(), &path)?);
                make_subdirs(private.as_fd()).map_err(fail)?;
                *format = format_twins(private.as_fd()).map_err(fail)?;
                format::complete(format, &conditions).map_err(fail)?;
                // What is put into them durably must not be lost with them.
                fs::fsync(private).map_err(|e| fail(e.into()))?;
                for (dir, _) in DIRS {
                    remove_leftovers(private.as_fd(), dir).map_err(fail)?;
                }
                relink::finish_all(dir.as_fd(), private.as_fd())?;
            }
            let twins = |first| {
                let open = |name| open_dir_if_there(private.as_fd(), name).map_err(fail);
                Ok::<_, StoreError>(Twins::new(open(first)?, open(COPIES_DIR)?))
            };
            library = Library::new(
                ModelStore::of(twins(MODELS_DIR)?),
                PrimerStore::of(twins(PRIMERS_DIR)?),
            );
        }
        let archive = Archive {
            format,
            library,
            path,
            root: dir,
            private,
            access,
            _lock: lock,
        };
        if access == Access::Write {
            archive.warn_of_bad_copies();
        }
        Ok(archive)
    }

    /// Every copy of what the whole archive hangs on, its format, models and primers, that is not good; see
    /// [`Library::bad_copies`].
    ///
    /// # Errors
    /// I/O errors; `UnknownFormat` if one copy of the format says so now.
    pub fn bad_copies(&self, depth: Depth) -> Result<Vec<BadCopy>, StoreError> {
        let mut bad = Vec::new();
        if let Some(twins) = &self.format {
            let conditions = format::conditions(twins, &self.path)?;
            let good = [&conditions[1], &conditions[0]].map(|other| other.is_good());
            for ((copy, condition), other_serves) in BOTH.into_iter().zip(conditions).zip(good) {
                if !condition.is_good() {
                    bad.push(BadCopy {
                        thing: Thing::Format,
                        copy,
                        path: format::path_of(copy),
                        condition,
                        other_serves,
                    });
                }
            }
        }
        bad.extend(self.library.bad_copies(depth)?);
        Ok(bad)
    }

    /// Writes the copies of something that are not good anew from the one that is.
    ///
    /// # Errors
    /// I/O errors; that there is no good copy.
    pub fn restore(&self, thing: Thing) -> Result<(), StoreError> {
        match thing {
            Thing::Model(id) => self.library.models().restore(id).map(drop),
            Thing::Primer(id) => self.library.primers().restore(id).map(drop),
            Thing::Format => {
                let Some(twins) = &self.format else {
                    return Err(StoreError::NotAnArchive(self.path.clone()));
                };
                let conditions = format::check(twins, &self.path)?;
                for (copy, condition) in BOTH.into_iter().zip(conditions) {
                    if !condition.is_good() {
                        format::write(twins, copy)
                            .map_err(StoreError::io(self.path.join(format::path_of(copy))))?;
                    }
                }
                Ok(())
            }
        }
    }

    /// Logs what [`Archive::bad_copies`] finds by checksums.
    pub fn warn_of_bad_copies(&self) {
        match self.bad_copies(Depth::Checksums) {
            Ok(bad) => bad.iter().for_each(|b| log::warn!("{b}")),
            Err(e) => log::warn!("format, models and primers could not be checked: {e}"),
        }
    }

    /// The archive's directory, absolute and without symlinks.
    #[must_use]
    pub fn root(&self) -> &Path {
        &self.path
    }

    /// The archive's directory.
    #[must_use]
    pub fn root_fd(&self) -> BorrowedFd<'_> {
        self.root.as_fd()
    }

    /// The private `.vortex` directory, absent only in a plain directory opened for reading.
    #[must_use]
    pub fn private_fd(&self) -> Option<BorrowedFd<'_>> {
        self.private.as_ref().map(AsFd::as_fd)
    }

    /// What the archive was opened for.
    #[must_use]
    pub fn access(&self) -> Access {
        self.access
    }

    /// The models that blocks of this archive may name.
    #[must_use]
    pub fn models(&self) -> &ModelStore {
        self.library.models()
    }

    /// All that blocks of this archive may need.
    #[must_use]
    pub fn library(&self) -> &Library {
        &self.library
    }

    /// A temporary file on the archive's file system.
    ///
    /// # Errors
    /// I/O errors; `NotAnArchive` without a private directory.
    pub fn temp_file(&self) -> Result<TempFile, StoreError> {
        let fail = |e| StoreError::Io {
            path: self.path.join(PRIVATE_DIR).join(TEMP_DIR),
            source: e,
        };
        let private = self
            .private
            .as_ref()
            .ok_or_else(|| StoreError::NotAnArchive(self.path.clone()))?;
        let dir = open_dir(private.as_fd(), TEMP_DIR).map_err(fail)?;
        TempFile::create_in(dir.as_fd(), "").map_err(fail)
    }
}

fn make_subdirs(private: BorrowedFd<'_>) -> io::Result<()> {
    let mut dirs = DIRS.into_iter();
    dirs.try_for_each(|(name, mode)| make_dir(private, name, mode))
}

fn make_dir(parent: BorrowedFd<'_>, name: &str, mode: u32) -> io::Result<()> {
    match fs::mkdirat(parent, name, Mode::from_raw_mode(mode)) {
        Ok(()) | Err(rustix::io::Errno::EXIST) => Ok(()),
        Err(e) => Err(e.into()),
    }
}

fn open_dir(parent: BorrowedFd<'_>, name: &str) -> io::Result<OwnedFd> {
    Ok(fs::openat(
        parent,
        name,
        DIRECTORY | OFlags::NOFOLLOW,
        Mode::empty(),
    )?)
}

fn open_dir_if_there(parent: BorrowedFd<'_>, name: &str) -> io::Result<Option<OwnedFd>> {
    match open_dir(parent, name) {
        Ok(fd) => Ok(Some(fd)),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
        // One that may not be listed may still be gone through.
        Err(e) if e.kind() == io::ErrorKind::PermissionDenied => {
            let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC | OFlags::NOFOLLOW;
            Ok(Some(fs::openat(parent, name, flags, Mode::empty())?))
        }
        Err(e) => Err(e),
    }
}

/// Removes the unfinished files that an earlier writer left in a directory.
fn remove_leftovers(parent: BorrowedFd<'_>, name: &str) -> io::Result<()> {
    let dir = open_dir(parent, name)?;
    for entry in Dir::read_from(&dir)? {
        let entry = entry?;
        let file = entry.file_name().to_bytes();
        if matches!(file, b"." | b"..") || (name != TEMP_DIR && !file.ends_with(b".tmp")) {
            continue;
        }
        fs::unlinkat(&dir, entry.file_name(), AtFlags::empty())?;
    }
    Ok(())
}

/// The directories of the two copies of the format.
fn format_twins(private: BorrowedFd<'_>) -> io::Result<Twins> {
    let first = private.try_clone_to_owned()?;
    Ok(Twins::new(
        Some(first),
        open_dir_if_there(private, COPIES_DIR)?,
    ))
}

/// Whether this process may let `uid` keep an archive's private directory, or serve the archive: it is its own user, root, or the
/// owner of the archive's directory `root`, who can replace any file in it anyway.
///
/// # Errors
/// I/O errors.
pub fn is_trusted(uid: u32, root: BorrowedFd<'_>) -> io::Result<bool> {
    let me = rustix::process::geteuid().as_raw();
    Ok([0, me, fs::fstat(root)?.st_uid].contains(&uid))
}

/// Who can write to the private directory can put what he likes into every file that is packed. So nobody but the archive's owner
/// may: anybody could have made a `.vortex` in a directory that all may write to.
fn check_trust(
    private: BorrowedFd<'_>,
    root: BorrowedFd<'_>,
    path: &Path,
) -> Result<(), StoreError> {
    let stat = fs::fstat(private).map_err(|e| StoreError::io(path)(e.into()))?;
    let untrusted = |fault, remedy| StoreError::Untrusted {
        path: path.to_path_buf(),
        fault,
        remedy,
    };
    if !is_trusted(stat.st_uid, root).map_err(StoreError::io(path))? {
        return Err(untrusted(
            format!(
                "belongs to user {}, who owns neither it nor this process",
                stat.st_uid
            ),
            "remove it if you did not make it, or chown it to the owner of the archive",
        ));
    }
    if stat.st_mode & 0o022 != 0 {
        return Err(untrusted(
            "can be written by others than its owner".to_string(),
            "chmod go-w it, if you trust what is in it",
        ));
    }
    Ok(())
}

fn take_lock(private: BorrowedFd<'_>, path: &Path) -> Result<OwnedFd, StoreError> {
    let fail =
        |e: rustix::io::Errno| StoreError::io(path.join(PRIVATE_DIR).join(LOCK_FILE))(e.into());
    let flags = OFlags::RDWR | OFlags::CREATE | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let fd = fs::openat(private, LOCK_FILE, flags, Mode::from_raw_mode(0o600)).map_err(fail)?;
    match fs::flock(&fd, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(fd),
        Err(rustix::io::Errno::WOULDBLOCK) => Err(StoreError::Busy(path.to_path_buf())),
        Err(e) => Err(fail(e)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn second_writer_is_refused_and_readers_are_not() {
        let dir = tempfile::tempdir().unwrap();
        assert!(matches!(
            Archive::open(dir.path(), Access::Write),
            Err(StoreError::NotAnArchive(_))
        ));
        Archive::init(dir.path()).unwrap();
        let writer = Archive::open(dir.path(), Access::Write).unwrap();
        assert!(matches!(
            Archive::open(dir.path(), Access::Write),
            Err(StoreError::Busy(_))
        ));
        Archive::open(dir.path(), Access::Read).unwrap();
        drop(writer);
        Archive::open(dir.path(), Access::Write).unwrap();
    }

    #[test]
    fn unknown_format_is_refused_by_name() {
        let dir = tempfile::tempdir().unwrap();
        Archive::init(dir.path()).unwrap();
        let files = [".vortex/format", ".vortex/copies/format"].map(|f| dir.path().join(f));
        let good = std::fs::read(&files[0]).unwrap();
        // Whichever copy says so.
        for file in &files {
            std::fs::write(file, "vortex-fs 99\n").unwrap();
            let error = Archive::open(dir.path(), Access::Read).unwrap_err();
            assert!(
                matches!(&error, StoreError::UnknownFormat { found, .. } if found == "vortex-fs 99"),
                "{error}"
            );
            Archive::init(dir.path()).unwrap();
            assert_eq!(std::fs::read(file).unwrap(), b"vortex-fs 99\n");
            std::fs::write(file, &good).unwrap();
        }
        for damaged in [
            "",
            "vortex-fs \n",
            "vortex-fr 0\n",
            "vortex-fs q\n",
            "vortex-fs 0 0\n",
        ] {
            for file in &files {
                std::fs::write(file, damaged).unwrap();
            }
            let error = Archive::open(dir.path(), Access::Read).unwrap_err();
            assert!(matches!(error, StoreError::DamagedFormat(_)), "{error}");
            assert!(error.to_string().contains("`vortex-fs 0`"), "{error}");
        }
    }

    #[test]
    fn one_good_copy_of_the_format_is_enough_and_restores_the_other() {
        let dir = tempfile::tempdir().unwrap();
        Archive::init(dir.path()).unwrap();
        let files = [".vortex/format", ".vortex/copies/format"].map(|f| dir.path().join(f));
        let good = std::fs::read(&files[0]).unwrap();
        assert_eq!(std::fs::read(&files[1]).unwrap(), good);
        let root = std::fs::canonicalize(dir.path()).unwrap();
        for file in &files {
            // A missing one is written by the next writer, a damaged one when it is told to.
            std::fs::remove_file(file).unwrap();
            assert_eq!(Archive::find(dir.path()).as_ref(), Some(&root));
            let reader = Archive::open(dir.path(), Access::Read).unwrap();
            assert_eq!(reader.bad_copies(Depth::Checksums).unwrap().len(), 1);
            let writer = Archive::open(dir.path(), Access::Write).unwrap();
            assert_eq!(writer.bad_copies(Depth::Checksums).unwrap(), []);
            assert_eq!(std::fs::read(file).unwrap(), good);
            std::fs::write(file, "vortex-fs 1 0\n").unwrap();
            Archive::open(dir.path(), Access::Read).unwrap();
            let bad = writer.bad_copies(Depth::Checksums).unwrap();
            assert!(bad.len() == 1 && bad[0].other_serves, "{bad:?}");
            assert_eq!(
                root.join(&bad[0].path),
                root.join(file.strip_prefix(dir.path()).unwrap())
            );
            writer.restore(bad[0].thing).unwrap();
            assert_eq!(std::fs::read(file).unwrap(), good);
        }
        for file in &files {
            std::fs::remove_file(file).unwrap();
        }
        assert_eq!(Archive::find(dir.path()), None);
    }

    #[test]
    fn leftovers_of_a_dead_writer_are_removed() {
        let dir = tempfile::tempdir().unwrap();
        Archive::init(dir.path()).unwrap();
        std::fs::write(dir.path().join(".vortex/tmp/1-2.tmp"), "half").unwrap();
        let archive = Archive::open(dir.path(), Access::Write).unwrap();
        assert_eq!(
            std::fs::read_dir(dir.path().join(".vortex/tmp"))
                .unwrap()
                .count(),
            0
        );
        let temp = archive.temp_file().unwrap();
        assert_eq!(
            std::fs::read_dir(dir.path().join(".vortex/tmp"))
                .unwrap()
                .count(),
            1
        );
        drop(temp);
    }

    #[test]
    fn only_unfinished_files_are_removed_beside_models() {
        let dir = tempfile::tempdir().unwrap();
        Archive::init(dir.path()).unwrap();
        let models = dir.path().join(".vortex/models");
        std::fs::write(models.join("new1-2.tmp"), "half").unwrap();
        std::fs::write(models.join("kept"), "whole").unwrap();
        Archive::open(dir.path(), Access::Write).unwrap();
        let left: Vec<_> = std::fs::read_dir(models).unwrap().collect();
        assert_eq!(left.len(), 1);
        assert_eq!(left[0].as_ref().unwrap().file_name(), "kept");
    }

    #[test]
    fn archive_is_found_from_inside() {
        let dir = tempfile::tempdir().unwrap();
        let inner = dir.path().join("a/b");
        std::fs::create_dir_all(&inner).unwrap();
        Archive::init(dir.path()).unwrap();
        assert_eq!(
            Archive::find(&inner),
            Some(std::fs::canonicalize(dir.path()).unwrap())
        );
    }

    #[test]
    fn private_directory_that_others_may_write_to_is_not_used_for_writing() {
        let dir = tempfile::tempdir().unwrap();
        Archive::init(dir.path()).unwrap();
        let private = dir.path().join(".vortex");
        for mode in [0o775, 0o757] {
            std::fs::set_permissions(&private, PermissionsExt::from_mode(mode)).unwrap();
            for opened in [
                Archive::open(dir.path(), Access::Write).map(drop),
                Archive::init(dir.path()),
            ] {
                assert!(matches!(opened, Err(StoreError::Untrusted { .. })));
            }
        }
        Archive::open(dir.path(), Access::Read).unwrap();
        if !rustix::process::geteuid().is_root() {
            println!("skipped: needs root to give directories away");
            return;
        }
        std::fs::set_permissions(&private, PermissionsExt::from_mode(0o755)).unwrap();
        std::os::unix::fs::chown(&private, Some(65_534), None).unwrap();
        let error = Archive::open(dir.path(), Access::Write).unwrap_err();
        assert!(error.to_string().contains("user 65534"), "{error}");
        // Whose the whole directory is may have it so.
        std::os::unix::fs::chown(dir.path(), Some(65_534), None).unwrap();
        Archive::open(dir.path(), Access::Write).unwrap();
    }

    #[test]
    fn symlinked_private_directory_is_not_followed() {
        let (dir, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        Archive::init(other.path()).unwrap();
        std::os::unix::fs::symlink(other.path().join(".vortex"), dir.path().join(".vortex"))
            .unwrap();
        assert!(Archive::open(dir.path(), Access::Write).is_err());
    }
}
