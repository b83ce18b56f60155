//! Primers: samples of a kind of files. A block that was coded from the state after a primer needs it to decode.
//!
//! A primer is named by the hash of its bytes, so its file, a sealed segment of one cold block that needs no model, is never
//! changed, only added. It is checked against its name whenever it is read.

use std::collections::HashMap;
use std::ffi::OsString;
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use rustix::fs::{self, Mode, OFlags};

use super::error::StoreError;
use super::temp::TempFile;
use crate::codec::{self, PrimerId};
use crate::segment::{MAX_BLOCK, SealedWriter, Segment, Storage};

/// Bytes of the largest primer.
pub const MAX_PRIMER: usize = MAX_BLOCK as usize;

/// Lists the kinds of files that primers are samples of.
const INDEX: &str = "index";

/// Bytes and lines of that list that are read.
const MAX_INDEX: u64 = 1 << 20;
const MAX_KINDS: usize = 4096;

const READ: OFlags = OFlags::RDONLY
    .union(OFlags::NOFOLLOW)
    .union(OFlags::CLOEXEC)
    .union(OFlags::NONBLOCK);

/// Finds primers by id.
#[derive(Debug)]
pub struct PrimerStore {
    dir: Option<OwnedFd>,
    offered: Mutex<HashMap<PrimerId, Arc<[u8]>>>,
}

impl PrimerStore {
    /// Primers of the archive directory `dir` (`.vortex/primers`), if there is one.
    #[must_use]
    pub fn new(dir: Option<OwnedFd>) -> Self {
        PrimerStore {
            dir,
            offered: Mutex::default(),
        }
    }

    /// Makes a primer known to [`PrimerStore::load`] without storing it. Of longer bytes, the last [`MAX_PRIMER`] count.
    pub fn offer(&self, bytes: &[u8]) -> PrimerId {
        let bytes = last(bytes);
        let id = PrimerId::of(bytes);
        self.offered
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .insert(id, bytes.into());
        id
    }

    /// Stores a primer durably in the archive, if there is one and it is not there already, and makes it known. Of longer
    /// bytes, the last [`MAX_PRIMER`] count.
    ///
    /// # Errors
    /// I/O errors; `ReadBack` if it does not decode to its bytes.
    pub fn add(&self, bytes: &[u8]) -> Result<PrimerId, StoreError> {
        let bytes = last(bytes);
        let id = self.offer(bytes);
        let Some(dir) = &self.dir else {
            return Ok(id);
        };
        let name = OsString::from(id.to_string());
        let fail = || StoreError::io(path_of(id));
        if self.read(id).is_ok_and(|found| found.is_some()) {
            // Who put it there may not have come to this.
            fs::fsync(dir).map_err(|e| fail()(e.into()))?;
            return Ok(id);
        }
        let temp = TempFile::create_in(dir.as_fd(), "primer").map_err(fail())?;
        let storage: Arc<dyn Storage> = Arc::clone(temp.file()) as Arc<dyn Storage>;
        let mut writer = SealedWriter::new(Arc::clone(&storage), MAX_BLOCK)?;
        if !bytes.is_empty() {
            writer.push(0, &codec::encode_packed(bytes, None, None))?;
        }
        writer.finish(bytes.len() as u64)?;
        if decode(storage, id)? != bytes {
            return Err(StoreError::ReadBack { block: 0 });
        }
        let publish = || {
            // It holds pieces of files that others may not be allowed to read.
            fs::fchmod(temp.file().as_fd(), Mode::from_raw_mode(0o600))?;
            temp.file().sync_all()?;
            temp.rename_to(dir.as_fd(), &name)?;
            Ok(fs::fsync(dir)?)
        };
        publish().map_err(fail())?;
        Ok(id)
    }

    /// The bytes of a primer.
    ///
    /// # Errors
    /// `MissingPrimer`, `BadPrimer` if its file is damaged, I/O errors.
    pub fn load(&self, id: PrimerId) -> Result<Arc<[u8]>, StoreError> {
        let offered = self.offered.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(bytes) = offered.get(&id) {
            return Ok(Arc::clone(bytes));
        }
        drop(offered);
        self.read(id)?
            .map(Into::into)
            .ok_or(StoreError::MissingPrimer(id))
    }

    /// Records that a primer of the archive is a sample of this kind of files, for those who look for one.
    ///
    /// # Errors
    /// I/O errors.
    pub fn note(&self, id: PrimerId, kind: &str) -> Result<(), StoreError> {
        let Some(dir) = &self.dir else {
            return Ok(());
        };
        let mut kinds = self.kinds()?;
        let kind = kind.replace(char::is_whitespace, "_");
        if kinds.iter().any(|(i, k)| *i == id && *k == kind) {
            return Ok(());
        }
        kinds.push((id, kind));
        let forgotten = kinds.len().saturating_sub(MAX_KINDS);
        let lines = kinds.iter().skip(forgotten);
        let text: String = lines.map(|(id, kind)| format!("{id} {kind}\n")).collect();
        let publish = || {
            let temp = TempFile::create_in(dir.as_fd(), "index")?;
            (&**temp.file()).write_all(text.as_bytes())?;
            fs::fchmod(temp.file().as_fd(), Mode::from_raw_mode(0o644))?;
            temp.file().sync_all()?;
            temp.rename_to(dir.as_fd(), INDEX.as_ref())?;
            Ok(fs::fsync(dir)?)
        };
        publish().map_err(StoreError::io(Path::new(".vortex/primers").join(INDEX)))
    }

    /// The kinds of files that primers of the archive were noted for, in the order of noting. A line that says nothing
    /// is passed over: no block depends on it.
    ///
    /// # Errors
    /// I/O errors.
    pub fn kinds(&self) -> Result<Vec<(PrimerId, String)>, StoreError> {
        let Some(dir) = &self.dir else {
            return Ok(Vec::new());
        };
        let fail = || StoreError::io(Path::new(".vortex/primers").join(INDEX));
        let file = match fs::openat(dir, INDEX, READ, Mode::empty()).map_err(io::Error::from) {
            Ok(fd) => File::from(fd),
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(e) => return Err(fail()(e)),
        };
        let mut raw = Vec::new();
        file.take(MAX_INDEX).read_to_end(&mut raw).map_err(fail())?;
        let text = String::from_utf8_lossy(&raw);
        let entry = |line: &str| {
            let (id, kind) = line.split_once(' ')?;
            Some((id.parse().ok()?, kind.to_string()))
        };
        Ok(text.lines().filter_map(entry).take(MAX_KINDS).collect())
    }

    /// Ids of the primers stored in the archive, in order.
    ///
    /// # Errors
    /// I/O errors.
    pub fn stored(&self) -> Result<Vec<PrimerId>, StoreError> {
        let Some(dir) = &self.dir else {
            return Ok(Vec::new());
        };
        let fail = |e: rustix::io::Errno| StoreError::io(".vortex/primers")(e.into());
        let mut ids = Vec::new();
        for entry in fs::Dir::read_from(dir).map_err(fail)? {
            let entry = entry.map_err(fail)?;
            let name = entry.file_name().to_str().unwrap_or_default();
            ids.extend(name.parse::<PrimerId>());
        }
        ids.sort();
        Ok(ids)
    }

    /// The bytes in the archive's file, if there is one.
    fn read(&self, id: PrimerId) -> Result<Option<Vec<u8>>, StoreError> {
        let Some(dir) = &self.dir else {
            return Ok(None);
        };
        match fs::openat(dir, id.to_string(), READ, Mode::empty()).map_err(io::Error::from) {
            Ok(fd) => decode(Arc::new(File::from(fd)), id).map(Some),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(e) => Err(StoreError::io(path_of(id))(e)),
        }
    }
}

fn path_of(id: PrimerId) -> PathBuf {
    Path::new(".vortex/primers").join(id.to_string())
}

/// What of these bytes is used as a primer.
fn last(bytes: &[u8]) -> &[u8] {
    bytes
        .get(bytes.len().saturating_sub(MAX_PRIMER)..)
        .unwrap_or_default()
}

/// The content of a primer's file, checked against its name.
fn decode(storage: Arc<dyn Storage>, id: PrimerId) -> Result<Vec<u8>, StoreError> {
    let bad = |reason: String| StoreError::BadPrimer { id, reason };
    let segment = Segment::open(storage).map_err(|e| bad(e.to_string()))?;
    let bytes = match segment.entry(0).map_err(|e| bad(e.to_string()))? {
        Some(entry) if entry.start == 0 && entry.model.is_none() => {
            let payload = segment
                .read_payload(&entry)
                .map_err(|e| bad(e.to_string()))?;
            codec::decode(
                entry.codec,
                None,
                &payload,
                entry.decoded_len as usize,
                None,
            )
            .map_err(|e| bad(e.to_string()))?
        }
        Some(_) => return Err(bad("it needs a model or another primer".to_string())),
        None => Vec::new(),
    };
    if PrimerId::of(&bytes) == id {
        Ok(bytes)
    } else {
        Err(bad("its content does not match its name".to_string()))
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn store_in(dir: &Path) -> PrimerStore {
        PrimerStore::new(Some(File::open(dir).unwrap().into()))
    }

    #[test]
    fn stored_primers_are_found_by_id_and_damage_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let bytes = b"time,value\n1,2\n".repeat(50);
        let id = store_in(dir.path()).add(&bytes).unwrap();
        assert_eq!(store_in(dir.path()).add(&bytes).unwrap(), id);
        let store = store_in(dir.path());
        assert_eq!(store.stored().unwrap(), [id]);
        assert_eq!(*store.load(id).unwrap(), bytes);
        let missing = PrimerId([3; 16]);
        assert!(
            matches!(store.load(missing), Err(StoreError::MissingPrimer(found)) if found == missing)
        );
        let file = dir.path().join(id.to_string());
        let mode = std::fs::metadata(&file).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600, "for the owner of the archive only");
        let good = std::fs::read(&file).unwrap();
        for at in 0..good.len() {
            let mut bad = good.clone();
            bad[at] ^= 4;
            std::fs::write(&file, bad).unwrap();
            match store_in(dir.path()).load(id) {
                Ok(found) => assert_eq!(*found, bytes),
                Err(e) => assert!(matches!(e, StoreError::BadPrimer { .. }), "{e}"),
            }
        }
        // Adding it again heals it.
        store_in(dir.path()).add(&bytes).unwrap();
        assert_eq!(*store_in(dir.path()).load(id).unwrap(), bytes);
    }

    #[test]
    fn kinds_are_remembered_and_an_odd_list_does_no_harm() {
        let dir = tempfile::tempdir().unwrap();
        let (one, two) = (PrimerId([1; 16]), PrimerId([2; 16]));
        let store = store_in(dir.path());
        assert_eq!(store.kinds().unwrap(), []);
        store.note(one, "csv-text-aaaa").unwrap();
        store.note(one, "csv-text-aaaa").unwrap();
        store.note(two, "odd kind").unwrap();
        let want = [(one, "csv-text-aaaa".into()), (two, "odd_kind".into())];
        assert_eq!(store_in(dir.path()).kinds().unwrap(), want);
        assert_eq!(store.stored().unwrap(), []);
        std::fs::write(dir.path().join(INDEX), b"\xff\n\nx y\n\0").unwrap();
        assert_eq!(store.kinds().unwrap(), []);
    }

    #[test]
    fn the_last_mebibyte_of_longer_bytes_counts() {
        let mut bytes = vec![1; 10];
        bytes.extend(vec![2; MAX_PRIMER]);
        let store = PrimerStore::new(None);
        assert_eq!(store.offer(&bytes), PrimerId::of(&bytes[10..]));
        assert_eq!(store.add(&[]).unwrap(), PrimerId::of(&[]));
    }
}
