//! Primers: samples of a kind of files. A block that was coded from the state after a primer needs it to decode.
//!
//! A primer is named by the hash of its bytes, so its file, a sealed segment of one cold block that needs no model, is never
//! changed, only added. It is checked against its name whenever it is read. An archive keeps each twice, in `.vortex/primers` and
//! in `.vortex/copies`.

use std::collections::HashMap;
use std::ffi::OsString;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use super::error::StoreError;
use super::twins::{BOTH, Condition, Copy, Twins};
use super::verify::Depth;
use crate::codec::{self, PrimerId};
use crate::segment::{self, MAX_BLOCK, MemStorage, SealedWriter, Segment, Storage};

/// Bytes of the largest primer.
pub const MAX_PRIMER: usize = MAX_BLOCK as usize;

/// Lists the kinds of files that primers are samples of.
const INDEX: &str = "index";

/// Bytes and lines of that list that are read.
const MAX_INDEX: u64 = 1 << 20;
const MAX_KINDS: usize = 4096;

/// Bytes of the largest file of a primer: a segment of one block.
const MAX_FILE: u64 = MAX_PRIMER as u64 + 8192;

/// Ends the name of a second copy.
const COPY_EXTENSION: &str = ".primer";

/// It holds pieces of files that others may not be allowed to read.
const MODE: u32 = 0o600;

/// Finds primers by id.
#[derive(Debug)]
pub struct PrimerStore {
    files: Twins,
    offered: Mutex<HashMap<PrimerId, Arc<[u8]>>>,
}

impl PrimerStore {
    /// Primers of the directory `dir`, if there is one.
    #[must_use]
    pub fn new(dir: Option<OwnedFd>) -> Self {
        Self::of(Twins::new(dir, None))
    }

    /// Primers that are kept twice.
    #[must_use]
    pub fn of(files: Twins) -> Self {
        PrimerStore {
            files,
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

    /// Stores a primer in the archive, if there is one, twice and durably, and makes it known. A copy that is good already
    /// stays. Of longer bytes, the last [`MAX_PRIMER`] count.
    ///
    /// # Errors
    /// I/O errors; `ReadBack` if it does not decode to its bytes.
    pub fn add(&self, bytes: &[u8]) -> Result<PrimerId, StoreError> {
        let bytes = last(bytes);
        let id = self.offer(bytes);
        if self.files.dir(Copy::First).is_none() {
            return Ok(id);
        }
        let mut file = None;
        for copy in BOTH {
            let path = path_of(id, copy);
            if self.condition(id, copy, Depth::Content)?.is_good() {
                // Who put it there may not have come to this.
                self.files.sync(copy).map_err(StoreError::io(path))?;
                continue;
            }
            let file = match &mut file {
                Some(file) => file,
                none => none.insert(encode(bytes, id)?),
            };
            self.files
                .write(copy, &file_name(id, copy), file, MODE)
                .map_err(StoreError::io(path))?;
        }
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
        let mut kinds = self.kinds()?;
        let kind = kind.replace(char::is_whitespace, "_");
        if kinds.iter().any(|(i, k)| *i == id && *k == kind) {
            return Ok(());
        }
        kinds.push((id, kind));
        self.write_kinds(&kinds)
    }

    fn write_kinds(&self, kinds: &[(PrimerId, String)]) -> Result<(), StoreError> {
        let forgotten = kinds.len().saturating_sub(MAX_KINDS);
        let lines = kinds.iter().skip(forgotten);
        let text: String = lines.map(|(id, kind)| format!("{id} {kind}\n")).collect();
        self.files
            .write(Copy::First, INDEX.as_ref(), text.as_bytes(), 0o644)
            .map_err(StoreError::io(Path::new(".vortex/primers").join(INDEX)))
    }

    /// The kinds of files that primers of the archive were noted for, in the order of noting. A line that says nothing
    /// is passed over: no block depends on it.
    ///
    /// # Errors
    /// I/O errors.
    pub fn kinds(&self) -> Result<Vec<(PrimerId, String)>, StoreError> {
        let path = Path::new(".vortex/primers").join(INDEX);
        let raw = self
            .files
            .read_up_to(Copy::First, INDEX.as_ref(), MAX_INDEX)
            .map_err(StoreError::io(path))?
            .unwrap_or_default();
        let text = String::from_utf8_lossy(&raw);
        let entry = |line: &str| {
            let (id, kind) = line.split_once(' ')?;
            Some((id.parse().ok()?, kind.to_string()))
        };
        Ok(text.lines().filter_map(entry).take(MAX_KINDS).collect())
    }

    /// Ids of the primers of which the archive has a copy, in order.
    ///
    /// # Errors
    /// I/O errors.
    pub fn stored(&self) -> Result<Vec<PrimerId>, StoreError> {
        let fail = |copy| StoreError::io(dir_of(copy));
        let mut ids: Vec<PrimerId> = self
            .files
            .list(Copy::First, |name| name.parse().ok())
            .map_err(fail(Copy::First))?;
        let second = self.files.list(Copy::Second, |name| {
            name.strip_suffix(COPY_EXTENSION)?.parse::<PrimerId>().ok()
        });
        ids.extend(second.map_err(fail(Copy::Second))?);
        ids.sort();
        ids.dedup();
        Ok(ids)
    }

    /// How a copy of the archive is, as far as the check looks.
    ///
    /// # Errors
    /// I/O errors, except that a disk which gives no bytes makes the copy a bad one.
    pub fn condition(
        &self,
        id: PrimerId,
        copy: Copy,
        depth: Depth,
    ) -> Result<Condition, StoreError> {
        let checked = match (self.file(id, copy), depth) {
            (Ok(Some(raw)), Depth::Content) => decode(raw, id).map(|_| Condition::Good),
            (Ok(Some(raw)), Depth::Checksums) => {
                let report = segment::check(Arc::new(MemStorage::new(raw)), |_, _, _| Ok(()));
                Ok(match report {
                    Ok(report) => match report.findings.first() {
                        None => Condition::Good,
                        Some(finding) => Condition::Bad(finding.what.clone()),
                    },
                    Err(e) => Condition::Bad(e.to_string()),
                })
            }
            (Ok(None), _) => Ok(Condition::Missing),
            (Err(e), _) => Err(e),
        };
        checked.or_else(StoreError::into_condition)
    }

    /// Puts missing and bad copies of a primer right, from the good one; answers which.
    ///
    /// # Errors
    /// `BadPrimer` or `MissingPrimer` if no good one is left, I/O errors.
    pub fn restore(&self, id: PrimerId) -> Result<Vec<Copy>, StoreError> {
        let (mut good, mut spoilt, mut why) = (None, Vec::new(), None);
        for copy in BOTH {
            let found = self.file(id, copy).and_then(|raw| match raw {
                Some(raw) => decode(raw.clone(), id).map(|_| Some(raw)),
                None => Ok(None),
            });
            match found {
                Ok(Some(raw)) => good = Some(raw),
                Ok(None) => spoilt.push(copy),
                Err(e) if e.spoils().is_some() => {
                    why = Some(e);
                    spoilt.push(copy);
                }
                Err(e) => return Err(e),
            }
        }
        let Some(good) = good else {
            return Err(why.unwrap_or(StoreError::MissingPrimer(id)));
        };
        for &copy in &spoilt {
            self.files
                .write(copy, &file_name(id, copy), &good, MODE)
                .map_err(StoreError::io(path_of(id, copy)))?;
        }
        Ok(spoilt)
    }

    /// Makes sure, before more blocks come to need a primer, that the archive has both copies of it, durably.
    ///
    /// # Errors
    /// As for [`PrimerStore::restore`].
    pub fn secure(&self, id: PrimerId) -> Result<(), StoreError> {
        for copy in BOTH {
            if !self.condition(id, copy, Depth::Checksums)?.is_good() {
                self.restore(id)?;
            }
            self.files
                .sync(copy)
                .map_err(StoreError::io(path_of(id, copy)))?;
        }
        Ok(())
    }

    /// Removes both copies of a primer, and what was noted of it. The caller has made sure that no segment of the archive names
    /// it, and that none can come to.
    ///
    /// # Errors
    /// I/O errors.
    pub(super) fn remove(&self, id: PrimerId) -> Result<(), StoreError> {
        // Nobody must be led to it while it goes.
        let kinds = self.kinds()?;
        let kept: Vec<_> = kinds.iter().filter(|(i, _)| *i != id).cloned().collect();
        if kept.len() < kinds.len() {
            self.write_kinds(&kept)?;
        }
        for copy in BOTH {
            self.files
                .remove(copy, &file_name(id, copy))
                .map_err(StoreError::io(path_of(id, copy)))?;
        }
        Ok(())
    }

    /// The bytes of a primer from the first good copy of the archive, if there is one.
    fn read(&self, id: PrimerId) -> Result<Option<Vec<u8>>, StoreError> {
        let of = |copy| {
            let raw = self.file(id, copy)?;
            raw.map(|raw| decode(raw, id)).transpose()
        };
        let first = match of(Copy::First) {
            Ok(Some(bytes)) => return Ok(Some(bytes)),
            other => other,
        };
        match of(Copy::Second) {
            Ok(Some(bytes)) => {
                let why = first.err().map_or("is missing".into(), |e| e.to_string());
                log::warn!(
                    "primer {id} {why}: its second copy serves; `vortex-fs repair` restores the first"
                );
                Ok(Some(bytes))
            }
            Ok(None) => first,
            Err(second) => Err(first.err().unwrap_or(second)),
        }
    }

    /// The file of a copy, if it is there.
    fn file(&self, id: PrimerId, copy: Copy) -> Result<Option<Vec<u8>>, StoreError> {
        self.files
            .read(copy, &file_name(id, copy), MAX_FILE)
            .map_err(StoreError::io(path_of(id, copy)))
    }
}

fn file_name(id: PrimerId, copy: Copy) -> OsString {
    match copy {
        Copy::First => id.to_string().into(),
        Copy::Second => format!("{id}{COPY_EXTENSION}").into(),
    }
}

fn dir_of(copy: Copy) -> &'static Path {
    match copy {
        Copy::First => Path::new(".vortex/primers"),
        Copy::Second => Path::new(".vortex/copies"),
    }
}

/// Where a copy lies, below the archive's directory.
#[must_use]
pub fn path_of(id: PrimerId, copy: Copy) -> PathBuf {
    dir_of(copy).join(file_name(id, copy))
}

/// The file of a primer.
fn encode(bytes: &[u8], id: PrimerId) -> Result<Vec<u8>, StoreError> {
    let storage = Arc::new(MemStorage::default());
    let mut writer = SealedWriter::new(Arc::clone(&storage) as Arc<dyn Storage>, MAX_BLOCK)?;
    if !bytes.is_empty() {
        writer.push(0, &codec::encode_packed(bytes, None, None))?;
    }
    writer.finish(bytes.len() as u64)?;
    let file = storage.to_vec();
    if decode(file.clone(), id)? != bytes {
        return Err(StoreError::ReadBack { block: 0 });
    }
    Ok(file)
}

/// What of these bytes is used as a primer.
fn last(bytes: &[u8]) -> &[u8] {
    bytes
        .get(bytes.len().saturating_sub(MAX_PRIMER)..)
        .unwrap_or_default()
}

/// The content of a primer's file, checked against its name.
fn decode(file: Vec<u8>, id: PrimerId) -> Result<Vec<u8>, StoreError> {
    let storage = Arc::new(MemStorage::new(file));
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
    use std::fs::File;
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
    fn either_copy_serves_and_restores_the_other() {
        let root = tempfile::tempdir().unwrap();
        let open = || {
            let dir = |name| {
                let path = root.path().join(name);
                std::fs::create_dir_all(&path).unwrap();
                Some(File::open(path).unwrap().into())
            };
            PrimerStore::of(Twins::new(dir("primers"), dir("copies")))
        };
        let bytes = b"time,value\n1,2\n".repeat(50);
        let id = open().add(&bytes).unwrap();
        open().note(id, "csv").unwrap();
        let paths = BOTH.map(|copy| {
            let path = path_of(id, copy);
            root.path().join(path.strip_prefix(".vortex").unwrap())
        });
        let good = std::fs::read(&paths[0]).unwrap();
        for (path, copy) in paths.iter().zip(BOTH) {
            let mode = std::fs::metadata(path).unwrap().permissions().mode();
            assert_eq!(mode & 0o777, 0o600);
            for at in 0..good.len() {
                let mut bad = good.clone();
                bad[at] ^= 1 << (at % 8);
                std::fs::write(path, bad).unwrap();
                for depth in [Depth::Checksums, Depth::Content] {
                    let found = open().condition(id, copy, depth).unwrap();
                    assert!(matches!(found, Condition::Bad(_)), "byte {at}: {found:?}");
                }
            }
            for at in (0..good.len()).step_by(9) {
                let mut bad = good.clone();
                bad[at] ^= 0x20;
                std::fs::write(path, bad).unwrap();
                assert_eq!(*open().load(id).unwrap(), bytes);
                assert_eq!(open().restore(id).unwrap(), [copy]);
                assert_eq!(std::fs::read(path).unwrap(), good);
            }
            std::fs::remove_file(path).unwrap();
            assert_eq!(*open().load(id).unwrap(), bytes);
            assert_eq!(open().restore(id).unwrap(), [copy]);
            assert_eq!(open().restore(id).unwrap(), []);
        }
        std::fs::remove_file(&paths[1]).unwrap();
        open().secure(id).unwrap();
        assert_eq!(std::fs::read(&paths[1]).unwrap(), good);
        open().remove(id).unwrap();
        assert!(open().secure(id).is_err());
        assert_eq!(open().kinds().unwrap(), []);
        assert!(matches!(open().load(id), Err(StoreError::MissingPrimer(_))));
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
