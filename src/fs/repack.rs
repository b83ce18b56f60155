//! What re-encoding needs of the file system: a stable view of a file, and putting the result in its place.
//!
//! A snapshot costs nothing and stops nobody. If the file is written meanwhile, the result is thrown away and the file
//! stays as it is.

use std::ffi::{OsStr, OsString};
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use super::Fs;
use super::attr::{self, Kind};
use super::backing::own_alike;
use super::content::Content;
use super::errno::{FsError, Result};
use super::files::Hold;
use super::node::{Node, NodeId};
use super::read::{Caching, source};
use super::rename::End;
use super::swap::Outcome;
use super::sync::{lock, read, write};
use super::writeback::in_parallel;
use crate::codec::{Encoded, ModelId};
use crate::segment::{BlockEntry, Summary};
use crate::store::{BlockSource, StoreError, TempFile, decode_stored, names};
use crate::sync::atomic::Ordering;

/// Blocks that are re-encoded in place at a time.
const BATCH: usize = 16;

/// A regular file as it was at one moment, as long as nobody writes to it: the source of a re-encoding.
pub struct Snapshot<'a> {
    pub(super) hold: Hold<'a>,
    dir: Arc<Node>,
    name: OsString,
    pub(super) version: u64,
    len: u64,
    stored: u64,
    links: u64,
    segment: bool,
}

impl Snapshot<'_> {
    /// Whether the file is kept as a segment, as against a plain file.
    #[must_use]
    pub fn is_segment(&self) -> bool {
        self.segment
    }

    /// Number of names. Only a file with one name can be swapped.
    #[must_use]
    pub fn links(&self) -> u64 {
        self.links
    }

    /// Bytes that the file takes on disk.
    #[must_use]
    pub fn stored_bytes(&self) -> u64 {
        self.stored
    }

    /// The file's name in its directory.
    #[must_use]
    pub fn name(&self) -> &OsStr {
        &self.name
    }

    /// The file's node, which lives as long as this.
    #[must_use]
    pub fn node(&self) -> NodeId {
        self.hold.node.id
    }

    /// Whether a file that takes its place can have its owner and group. Without root's rights a program owns what it makes, and who
    /// owned a file should not lose it to whoever packs it.
    ///
    /// # Errors
    /// What the backing file system answers.
    pub fn owner_stays(&self) -> Result<bool> {
        if rustix::process::geteuid().is_root() {
            return Ok(true);
        }
        let stat = self.hold.node.backing()?.stat()?;
        let temp = self.hold.fs.archive.temp_file()?;
        own_alike(&stat, temp.file())
    }

    /// Whether the file was written since.
    #[must_use]
    pub fn is_changed(&self) -> bool {
        self.hold.node.version.load(Ordering::SeqCst) != self.version
    }

    /// Form, block size and exact bytes of the segment as it is now; none for a plain file.
    #[must_use]
    pub fn summary(&self) -> Option<Summary> {
        match &*read(&self.hold.node.content) {
            Content::Segment(open) => Some(open.segment.summary()),
            _ => None,
        }
    }

    /// Every model that a block of the segment names; also some that blocks named earlier.
    #[must_use]
    pub fn models(&self) -> Vec<ModelId> {
        match &*read(&self.hold.node.content) {
            Content::Segment(open) => open.segment.models().to_vec(),
            _ => Vec::new(),
        }
    }

    /// Number of stored blocks by codec: raw, zstd, neural. All zero for a plain file.
    ///
    /// # Errors
    /// The index is damaged.
    pub fn blocks(&self) -> Result<[u64; 3]> {
        let mut blocks = [0; 3];
        for (_, entry) in self.hold.fs.entries(&self.hold.node)? {
            if let Some(count) = blocks.get_mut(entry.codec as usize) {
                *count += 1;
            }
        }
        Ok(blocks)
    }
}

impl BlockSource for Snapshot<'_> {
    fn len(&self) -> u64 {
        self.len
    }

    fn read_at(&self, buf: &mut [u8], offset: u64) -> std::result::Result<(), StoreError> {
        let fs = self.hold.fs;
        let mut done = 0;
        while let Some(rest) = buf.get_mut(done..).filter(|rest| !rest.is_empty()) {
            let at = offset.saturating_add(done as u64);
            let bytes = fs
                .read_node(&self.hold.node, at, rest.len(), Caching::Bypass)
                .map_err(|error| self.failed(error))?;
            let (Some(to), false) = (rest.get_mut(..bytes.len()), bytes.is_empty()) else {
                return Err(StoreError::io(&self.name)(
                    std::io::ErrorKind::UnexpectedEof.into(),
                ));
            };
            to.copy_from_slice(&bytes);
            done += bytes.len();
        }
        Ok(())
    }

    fn next_data(&self, offset: u64) -> std::result::Result<Option<u64>, StoreError> {
        match self.hold.fs.seek(&self.hold.node, offset, true) {
            Ok(at) => Ok((at < self.len).then_some(at)),
            Err(FsError::NoSuchOffset) => Ok(None),
            Err(error) => Err(self.failed(error)),
        }
    }
}

impl Snapshot<'_> {
    fn failed(&self, error: FsError) -> StoreError {
        match error {
            FsError::Store(error) => {
                Arc::try_unwrap(error).unwrap_or_else(|shared| match shared.raw_os_error() {
                    Some(raw) => StoreError::io(&self.name)(std::io::Error::from_raw_os_error(raw)),
                    None => StoreError::io(&self.name)(std::io::Error::other(shared.to_string())),
                })
            }
            other => StoreError::io(&self.name)(std::io::Error::from_raw_os_error(other.errno())),
        }
    }
}

impl Fs {
    /// A snapshot of the regular file at a logical path, with everything stored and committed first.
    ///
    /// # Errors
    /// `ENOENT`, `EINVAL` for anything but a regular file, `EROFS`, `EIO` if it is damaged, failures of the commit.
    pub fn snapshot(&self, path: &Path) -> Result<Snapshot<'_>> {
        let name = path.file_name().ok_or(FsError::Invalid)?;
        let parent = self.resolve(path.parent().unwrap_or(Path::new("")))?;
        let snapshot = self.snapshot_at(parent, name);
        if parent != NodeId::ROOT {
            self.forget(parent, 1);
        }
        snapshot
    }

    /// As [`Fs::snapshot`], of the entry `name` of a directory.
    ///
    /// # Errors
    /// As [`Fs::snapshot`].
    pub fn snapshot_at(&self, parent: NodeId, name: &OsStr) -> Result<Snapshot<'_>> {
        let dir = self.node(parent)?;
        dir.require_dir()?;
        let hold = {
            let _names = self.changing()?;
            let _entries = read(&dir.entries);
            let found = self.find(&dir, name)?.ok_or(FsError::NotFound)?;
            self.hold_found(&dir, name, &found)?
        };
        self.snapshot_of(dir, name, hold)
    }

    pub(super) fn snapshot_of<'a>(
        &'a self,
        dir: Arc<Node>,
        name: &OsStr,
        hold: Hold<'a>,
    ) -> Result<Snapshot<'a>> {
        if hold.node.kind != Kind::File {
            return Err(FsError::Invalid);
        }
        self.load(&hold.node, false)?;
        self.commit(&hold.node, false)?;
        let content = read(&hold.node.content);
        let version = hold.node.version.load(Ordering::SeqCst);
        let backing = hold.node.backing()?;
        let stat = backing.stat()?;
        let len = match &*content {
            Content::Segment(open) => open.size(),
            _ => u64::try_from(stat.st_size).unwrap_or(0),
        };
        let stored = u64::try_from(stat.st_blocks).unwrap_or(0) * 512;
        let (links, segment) = (stat.st_nlink, backing.is_segment());
        drop(content);
        let name = name.to_os_string();
        Ok(Snapshot {
            hold,
            dir,
            name,
            version,
            len,
            stored,
            links,
            segment,
        })
    }

    /// Puts a sealed segment of the snapshot's content in the file's place.
    ///
    /// # Errors
    /// What the backing file system answers; the file is then as it was.
    pub fn finish_repack(&self, snapshot: Snapshot<'_>, temp: TempFile) -> Result<Outcome> {
        self.finish(snapshot, temp, names::Kind::Segment)
    }

    /// Puts a plain file with the snapshot's content in the file's place.
    ///
    /// # Errors
    /// What the backing file system answers; the file is then as it was.
    pub fn finish_unpack(&self, snapshot: Snapshot<'_>, temp: TempFile) -> Result<Outcome> {
        self.finish(snapshot, temp, names::Kind::Other)
    }

    fn finish(&self, snapshot: Snapshot<'_>, temp: TempFile, form: names::Kind) -> Result<Outcome> {
        self.require_writable()?;
        let outcome = {
            let _names = write(&self.namespace);
            let at = End {
                dir: &snapshot.dir,
                name: &snapshot.name,
            };
            let node = &snapshot.hold.node;
            self.swap_in(at, node, snapshot.version, temp, form, false)
        };
        drop(snapshot);
        outcome
    }

    /// Re-encodes the blocks of a segment where that makes them smaller, with so many threads, and commits. Writers go on meanwhile;
    /// what they change is left alone. For files with several names, which can not be swapped.
    ///
    /// # Errors
    /// `EINVAL` for a plain file, `EIO` at a damaged block; what was re-encoded before is kept.
    pub fn repack_in_place(
        &self,
        snapshot: &Snapshot<'_>,
        jobs: usize,
        encode: &(dyn Fn(&[u8]) -> Encoded + Sync),
        progress: &(dyn Fn(u64) + Sync),
    ) -> Result<()> {
        self.require_writable()?;
        let node = &snapshot.hold.node;
        self.load(node, true)?;
        let entries = self.entries(node)?;
        for batch in entries.chunks(BATCH) {
            let encoded = in_parallel(jobs, batch, |(block, entry)| {
                self.encode_again(node, *block, entry, encode)
            });
            for ((block, entry), encoded) in batch.iter().zip(encoded) {
                if let Some((old, encoded)) = encoded? {
                    self.retarget(node, *block, entry, &old, &encoded)?;
                }
                progress(u64::from(entry.decoded_len));
            }
        }
        self.commit(node, true)
    }

    /// A smaller encoding of a block with what it must decode to; `None` if there is none or the block was changed.
    fn encode_again(
        &self,
        node: &Arc<Node>,
        block: u64,
        entry: &BlockEntry,
        encode: &(dyn Fn(&[u8]) -> Encoded + Sync),
    ) -> Result<Option<(Vec<u8>, Encoded)>> {
        let source = match &*read(&node.content) {
            // The payload of a key block stays for those who start from it, so another one would only be added.
            Content::Segment(open) if open.segment.is_key(entry) => return Ok(None),
            Content::Segment(open) if open.current_entry(block) == Some(*entry) => {
                source(node, open)
            }
            _ => return Ok(None),
        };
        let old = match self.decoded(&source, block, entry, Caching::Bypass) {
            Ok(old) => super::content::visible(entry, &old).to_vec(),
            Err(error) => {
                let still = matches!(&*read(&node.content), Content::Segment(open)
                    if open.current_entry(block) == Some(*entry));
                return if still { Err(error) } else { Ok(None) };
            }
        };
        let encoded = encode(&old);
        Ok((encoded.payload.len() < entry.len as usize).then_some((old, encoded)))
    }

    fn retarget(
        &self,
        node: &Arc<Node>,
        block: u64,
        entry: &BlockEntry,
        old: &[u8],
        encoded: &Encoded,
    ) -> Result<()> {
        let _storing = lock(&node.storing);
        let mut content = write(&node.content);
        let Content::Segment(open) = &mut *content else {
            return Ok(());
        };
        if !open.writable || open.current_entry(block) != Some(*entry) {
            return Ok(());
        }
        if open.mtime.is_none() {
            open.mtime = Some(attr::times(&node.backing()?.stat()?)[1]);
        }
        self.keeping_times(node, open, |open| {
            open.make_live()?;
            let new = open.segment.append(encoded)?;
            let storage = &**open.segment.storage();
            let library = self.archive.library();
            let done = match decode_stored(storage, open.segment.starts(), block, &new, library) {
                Ok(read_back) if read_back == old => {
                    open.segment.set_entry(block, Some(new)).map_err(Into::into)
                }
                Ok(_) => Err(StoreError::ReadBack { block }.into()),
                Err(error) => Err(error.into()),
            };
            if done.is_err() {
                open.segment.discard(&new);
            }
            done
        })?;
        open.due
            .get_or_insert_with(|| Instant::now() + self.options.commit_after);
        self.mark_dirty(node);
        Ok(())
    }

    /// All blocks in the segment of a loaded node.
    fn entries(&self, node: &Arc<Node>) -> Result<Vec<(u64, BlockEntry)>> {
        match &*read(&node.content) {
            Content::Segment(open) => Ok(open
                .segment
                .entries()
                .collect::<std::result::Result<_, _>>()?),
            Content::Plain(_) => Ok(Vec::new()),
            Content::Closed => Err(FsError::Internal),
        }
    }
}
