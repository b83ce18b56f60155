//! Damaged originals: what a repair replaces stays, until the user gives it up.
//!
//! In an archive it goes to `.vortex/damaged/N.vortex`, with `N.json` beside it that says where it was; elsewhere to
//! `FILE.damaged` beside the file. The original gets that name first, as a second one, durably; only then does the repaired
//! file, which is durable too, take the first. So a crash at any moment leaves the file as it was or repaired, and the original under one
//! name or both. Where the original has several names the next writer finishes what a crash interrupted: see `relink.rs`.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{self, Write};
use std::ops::Range;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rustix::fs::{self, AtFlags, Dir, FileType, Mode, OFlags, Stat};
use serde::{Deserialize, Serialize};

use super::archive::Archive;
use super::attributes::copy_attributes;
use super::error::StoreError;
use super::names::{PRIVATE_DIR, SEGMENT_SUFFIX, escape};
use super::relink::{self, KEPT_DIR};
use super::temp::TempFile;
use super::tree::FileId;

/// Ends the name of an original that is kept beside its file, before a number if it is not the first.
const SUFFIX: &str = ".damaged";
const RECORD: &str = ".json";
const DIRECTORY: OFlags = OFlags::RDONLY
    .union(OFlags::DIRECTORY)
    .union(OFlags::CLOEXEC);

/// What is known of an original that an archive keeps.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// The file that it was, below the archive's directory, escaped by [`escape`].
    pub file: String,
    /// The other names of that file.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub also: Vec<String>,
    /// When it was repaired, in seconds since 1970.
    pub repaired: u64,
    /// Bytes of its content.
    pub size: u64,
    /// The ranges of the content that are lost, first byte and end.
    pub lost: Vec<(u64, u64)>,
}

impl Record {
    /// A record of a repair that is done now.
    #[must_use]
    pub fn now(size: u64, lost: &[Range<u64>]) -> Record {
        let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
        Record {
            file: String::new(),
            also: Vec::new(),
            repaired: since.map_or(0, |d| d.as_secs()),
            size,
            lost: lost.iter().map(|r| (r.start, r.end)).collect(),
        }
    }
}

/// An original that is kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Kept {
    /// Where it is.
    pub path: PathBuf,
    /// Bytes that it takes on the disk.
    pub disk: u64,
    /// What is known of it, if it is in an archive.
    pub record: Option<Record>,
}

/// What a repair replaced.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Replaced {
    /// Where the damaged original is kept.
    pub original: PathBuf,
    /// All names that lead to the repaired file.
    pub names: Vec<PathBuf>,
}

/// The place of originals: a directory, and how they are called there.
struct Place {
    dir: OwnedFd,
    path: PathBuf,
    /// The file whose originals lie beside it; none for an archive's directory.
    beside: Option<OsString>,
}

impl Place {
    fn of_archive(archive: &Archive, make: bool) -> Result<Option<Place>, StoreError> {
        let path = archive.root().join(PRIVATE_DIR).join(KEPT_DIR);
        let Some(private) = archive.private_fd() else {
            return Ok(None);
        };
        let open = || {
            if make {
                match fs::mkdirat(private, KEPT_DIR, Mode::from_raw_mode(0o700)) {
                    Ok(()) => fs::fsync(private)?,
                    Err(rustix::io::Errno::EXIST) => {}
                    Err(e) => return Err(e),
                }
            }
            fs::openat(
                private,
                KEPT_DIR,
                DIRECTORY | OFlags::NOFOLLOW,
                Mode::empty(),
            )
        };
        match open() {
            Ok(dir) => Ok(Some(Place {
                dir,
                path,
                beside: None,
            })),
            Err(rustix::io::Errno::NOENT) => Ok(None),
            Err(e) => Err(StoreError::io(path)(e.into())),
        }
    }

    fn beside(file: &Path) -> Result<Place, StoreError> {
        let (path, name) = split(file);
        let dir = fs::open(&path, DIRECTORY, Mode::empty());
        Ok(Place {
            dir: dir.map_err(|e| StoreError::io(&path)(e.into()))?,
            path,
            beside: Some(name),
        })
    }

    fn name(&self, number: u64) -> OsString {
        let Some(file) = &self.beside else {
            return format!("{number}{SEGMENT_SUFFIX}").into();
        };
        let mut name = file.clone();
        name.push(SUFFIX);
        if number > 1 {
            name.push(format!("-{number}"));
        }
        name
    }

    /// The number of an original, by its name.
    fn number(&self, name: &OsStr) -> Option<u64> {
        let number = match &self.beside {
            None => name.to_str()?.strip_suffix(SEGMENT_SUFFIX)?.parse().ok()?,
            Some(file) => {
                // The file's own name need not be text.
                let rest = name.as_bytes().strip_prefix(file.as_bytes())?;
                match std::str::from_utf8(rest).ok()?.strip_prefix(SUFFIX)? {
                    "" => 1,
                    rest => rest.strip_prefix('-')?.parse().ok()?,
                }
            }
        };
        (self.name(number) == name).then_some(number)
    }

    fn record_name(number: u64) -> OsString {
        format!("{number}{RECORD}").into()
    }

    /// All originals, by number.
    fn originals(&self) -> io::Result<Vec<(u64, Stat)>> {
        let mut found = Vec::new();
        for entry in Dir::read_from(&self.dir)? {
            let entry = entry?;
            let name = OsStr::from_bytes(entry.file_name().to_bytes());
            if let Some(number) = self.number(name) {
                let stat = fs::statat(&self.dir, name, AtFlags::SYMLINK_NOFOLLOW)?;
                if FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile {
                    found.push((number, stat));
                }
            }
        }
        found.sort_by_key(|(number, _)| *number);
        Ok(found)
    }

    /// A number that no original has, nor anything that was left beside one.
    fn free_number(&self) -> io::Result<u64> {
        let mut last = 0;
        for entry in Dir::read_from(&self.dir)? {
            let entry = entry?;
            let name = OsStr::from_bytes(entry.file_name().to_bytes());
            let number = self.number(name).or_else(|| match self.beside {
                None => relink::intent_number(name),
                Some(_) => None,
            });
            last = number.unwrap_or(0).max(last);
        }
        Ok(last + 1)
    }

    fn write_record(&self, number: u64, record: &Record) -> io::Result<()> {
        let temp = TempFile::create_in(self.dir.as_fd(), "record")?;
        (&**temp.file()).write_all(&serde_json::to_vec_pretty(record)?)?;
        temp.file().sync_all()?;
        temp.rename_to(self.dir.as_fd(), &Self::record_name(number))?;
        Ok(fs::fsync(&self.dir)?)
    }
}

/// Puts a repaired file in the place of the damaged one at `path`, which is open as `original`, under all names that that has in the
/// archive. The repaired file gets all of its attributes. `unchanged` says whether the damaged file is still the one that was
/// repaired.
///
/// No two calls for one archive, or one file, may run at a time.
///
/// # Errors
/// `SeveralNames`, `NamesElsewhere`, `Attributes`, `Changed`, I/O errors. The damaged file then still has its names, unless the
/// error is that a name could not be changed: the next writer of the archive tries that again before anything else.
pub fn replace(
    path: &Path,
    original: &File,
    unchanged: &dyn Fn() -> bool,
    repaired: TempFile,
    archive: Option<&Archive>,
    record: Record,
) -> Result<Replaced, StoreError> {
    let place = match archive {
        Some(archive) => Place::of_archive(archive, true)?
            .ok_or_else(|| StoreError::NotAnArchive(archive.root().to_path_buf()))?,
        None => Place::beside(path)?,
    };
    let fail = || StoreError::io(path);
    let (folder, name) = split(path);
    let folder = fs::open(&folder, DIRECTORY, Mode::empty()).map_err(|e| fail()(e.into()))?;
    let stat = fs::fstat(original).map_err(|e| fail()(e.into()))?;
    let id = FileId::of(&stat);
    let originals = place.originals().map_err(StoreError::io(&place.path))?;
    // An earlier repair may not have come further than this.
    let before = originals
        .iter()
        .find(|(_, s)| FileId::of(s) == id)
        .map(|(n, _)| *n);
    let others = other_names(
        path,
        id,
        stat.st_nlink - u64::from(before.is_some()),
        archive,
    )?;
    let lost = copy_attributes(original, repaired.file()).map_err(fail())?;
    if !lost.nothing() {
        return Err(StoreError::Attributes);
    }
    repaired.file().sync_all().map_err(fail())?;
    let number = match before {
        Some(number) => number,
        None => place.free_number().map_err(StoreError::io(&place.path))?,
    };
    let kept = place.name(number);
    if let Some(archive) = archive {
        let file = escape(path.strip_prefix(archive.root()).unwrap_or(path));
        let also = others.iter().map(|name| escape(name)).collect();
        let record = Record {
            file,
            also,
            ..record
        };
        place
            .write_record(number, &record)
            .map_err(StoreError::io(&place.path))?;
    }
    if before.is_none() {
        fs::linkat(&folder, &name, &place.dir, &kept, AtFlags::empty())
            .map_err(|e| fail()(e.into()))?;
    }
    let undo = |error| {
        if before.is_none() {
            forget(&place, number);
        }
        error
    };
    fs::fsync(&place.dir).map_err(|e| undo(fail()(e.into())))?;
    let linked = fs::statat(&place.dir, &kept, AtFlags::SYMLINK_NOFOLLOW);
    if !linked.is_ok_and(|now| FileId::of(&now) == id) || !unchanged() {
        return Err(undo(StoreError::Changed));
    }
    let original = place.path.join(kept);
    let mut names = vec![path.to_path_buf()];
    match archive.zip(archive.and_then(Archive::private_fd)) {
        Some((archive, private)) if !others.is_empty() => {
            let intent = relink::intent_name(number);
            repaired
                .rename_to(place.dir.as_fd(), &intent)
                .map_err(|e| undo(fail()(e)))?;
            if let Err(e) = fs::fsync(&place.dir) {
                // No name was changed yet.
                let _ = fs::unlinkat(&place.dir, &intent, AtFlags::empty());
                return Err(undo(fail()(e.into())));
            }
            let done = relink::finish(archive.root_fd(), private, place.dir.as_fd(), number)?;
            names = done.iter().map(|name| archive.root().join(name)).collect();
        }
        _ => {
            repaired
                .rename_to(folder.as_fd(), &name)
                .map_err(|e| undo(fail()(e)))?;
            fs::fsync(&folder).map_err(|e| fail()(e.into()))?;
        }
    }
    Ok(Replaced { original, names })
}

/// The names beside `path` of a file that has `links` of them: all must lead to what replaces it.
fn other_names(
    path: &Path,
    file: FileId,
    links: u64,
    archive: Option<&Archive>,
) -> Result<Vec<PathBuf>, StoreError> {
    if links <= 1 {
        return Ok(Vec::new());
    }
    let Some(archive) = archive else {
        return Err(StoreError::SeveralNames(links));
    };
    let most = usize::try_from(links).unwrap_or(usize::MAX);
    let mut names = relink::names_of(archive.root_fd(), file, most)?;
    let found = names.len();
    names.retain(|name| archive.root().join(name) != path);
    if found < most || names.len() == found {
        return Err(StoreError::NamesElsewhere {
            names: links,
            here: found as u64,
        });
    }
    Ok(names)
}

/// The originals that an archive keeps.
///
/// # Errors
/// I/O errors.
pub fn kept_in(archive: &Archive) -> Result<Vec<Kept>, StoreError> {
    Place::of_archive(archive, false)?.map_or(Ok(Vec::new()), |place| list(&place))
}

/// The originals that lie beside a file.
///
/// # Errors
/// I/O errors.
pub fn kept_beside(file: &Path) -> Result<Vec<Kept>, StoreError> {
    list(&Place::beside(file)?)
}

/// Removes the originals that an archive keeps, for good; answers which those were.
///
/// # Errors
/// I/O errors.
pub fn discard_in(archive: &Archive) -> Result<Vec<Kept>, StoreError> {
    Place::of_archive(archive, false)?.map_or(Ok(Vec::new()), |place| discard(&place))
}

/// Removes the originals that lie beside a file, for good; answers which those were.
///
/// # Errors
/// I/O errors.
pub fn discard_beside(file: &Path) -> Result<Vec<Kept>, StoreError> {
    discard(&Place::beside(file)?)
}

fn list(place: &Place) -> Result<Vec<Kept>, StoreError> {
    let originals = place.originals().map_err(StoreError::io(&place.path))?;
    let kept = |(number, stat): (u64, Stat)| Kept {
        path: place.path.join(place.name(number)),
        disk: u64::try_from(stat.st_blocks)
            .unwrap_or(0)
            .saturating_mul(512),
        record: place
            .beside
            .is_none()
            .then(|| place.path.join(Place::record_name(number)))
            .and_then(|path| std::fs::read(path).ok())
            .and_then(|raw| serde_json::from_slice(&raw).ok()),
    };
    Ok(originals.into_iter().map(kept).collect())
}

fn discard(place: &Place) -> Result<Vec<Kept>, StoreError> {
    let gone = list(place)?;
    for (number, _) in place.originals().map_err(StoreError::io(&place.path))? {
        fs::unlinkat(&place.dir, place.name(number), AtFlags::empty())
            .map_err(|e| StoreError::io(place.path.join(place.name(number)))(e.into()))?;
        forget(place, number);
    }
    fs::fsync(&place.dir).map_err(|e| StoreError::io(&place.path)(e.into()))?;
    Ok(gone)
}

/// Removes an original's kept name and its record, as far as they are there.
fn forget(place: &Place, number: u64) {
    let mut names = vec![place.name(number)];
    if place.beside.is_none() {
        names.push(Place::record_name(number));
    }
    for name in names {
        match fs::unlinkat(&place.dir, &name, AtFlags::empty()) {
            Ok(()) | Err(rustix::io::Errno::NOENT) => {}
            Err(e) => log::warn!("{}: {e}", place.path.join(name).display()),
        }
    }
}

/// A file's directory and its name there.
fn split(path: &Path) -> (PathBuf, OsString) {
    let folder = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent.to_path_buf(),
        _ => PathBuf::from("."),
    };
    (folder, path.file_name().unwrap_or_default().to_os_string())
}

/// A temporary file that [`replace`] can put in the place of the file at `path`.
///
/// # Errors
/// I/O errors.
pub fn temp_for(path: &Path, archive: Option<&Archive>) -> Result<TempFile, StoreError> {
    if let Some(archive) = archive {
        return archive.temp_file();
    }
    let (folder, _) = split(path);
    let create = |dir: BorrowedFd<'_>| TempFile::create_in(dir, ".vortex-");
    fs::open(&folder, DIRECTORY, Mode::empty())
        .map_err(io::Error::from)
        .and_then(|dir| create(dir.as_fd()))
        .map_err(StoreError::io(folder))
}
