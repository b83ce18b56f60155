//! An open segment, and what can be asked of it through a shared reference.

use std::collections::BTreeMap;
use std::num::NonZeroUsize;
use std::sync::{Arc, Mutex, PoisonError};

use lru::LruCache;

use crate::codec::ModelId;

use super::commit::Pending;
use super::directory::{Directory, MAX_DIRECTORY_LEN, PageRef};
use super::entry::{BlockEntry, max_payload};
use super::error::{Part, Result, SegmentError};
use super::header::{DirectoryRef, Form};
use super::page::Page;
use super::peek::{BORN_LIVE_ROOTS, Peeked, State, Summary, peek_all};
use super::ranges::RangeSet;
use super::scan::{ZEROED, lost_its_beginning};
use super::starts::Starts;
use super::storage::{Storage, read_part};
use super::upgrade::free_from;
use super::writer::Unsynced;
use super::{DEFAULT_BLOCK, MAX_BLOCK, valid_block_size};

/// Index pages kept in memory for one segment, beside those with changes.
const CACHED_PAGES: NonZeroUsize = NonZeroUsize::new(32).expect("not zero");

/// An open segment.
///
/// Reading works through `&self` and from many threads; a reader that looks up an entry and reads its payload while the
/// segment stays borrowed never meets a range that was given back. Changes need `&mut self`, are visible to readers of this
/// `Segment` at once, and on disk after the next commit.
pub struct Segment {
    pub(super) storage: Arc<dyn Storage>,
    pub(super) form: Form,
    pub(super) block_size: u32,
    pub(super) logical_size: u64,
    /// No page on disk was written for a larger logical size than this.
    pub(super) size_bound: u64,
    pub(super) roots_offset: u64,
    /// The slot of the newest durable root.
    pub(super) slot: Option<usize>,
    pub(super) generation: u64,
    pub(super) header_durable: bool,
    pub(super) directory: Directory,
    /// Where the directory lies, as last written.
    pub(super) directory_ref: Option<DirectoryRef>,
    /// Pages that differ from those on disk; an empty one is not written.
    pub(super) dirty: BTreeMap<u64, Arc<Page>>,
    pub(super) cache: Mutex<LruCache<u64, Arc<Page>>>,
    /// Where the next append goes.
    pub(super) tail: u64,
    /// What lies before this was synced.
    pub(super) durable_end: u64,
    /// Bytes that were to be written once more, and where; the file does not hold them.
    pub(super) rescued: Option<(u64, Vec<u8>)>,
    /// Payloads appended since the last prepare.
    pub(super) unsynced: Vec<Unsynced>,
    /// See [`Summary::live_bytes`].
    pub(super) live_bytes: u64,
    /// See [`Summary::made_with`].
    pub(super) made_with: u8,
    /// Whether there is anything to prepare.
    pub(super) changed: bool,
    /// Ranges that the next commit no longer needs.
    pub(super) dead: RangeSet,
    /// Ranges that no durable root needs, too small to give back yet.
    pub(super) scraps: RangeSet,
    pub(super) pending: Option<Pending>,
}

impl Segment {
    /// Makes an empty segment of a file that holds none; nothing is written before the first commit.
    ///
    /// # Errors
    /// The block size is not a power of two from [`super::MIN_BLOCK`] to [`super::MAX_BLOCK`], or the file holds a
    /// segment that was committed, or something else.
    pub fn create(storage: Arc<dyn Storage>, block_size: u32) -> Result<Self> {
        let segment = Self::open_or_create(storage, block_size)?;
        if segment.form == Form::Sealed || segment.generation > 0 {
            return Err(SegmentError::Refused("the file already holds a segment"));
        }
        Ok(segment)
    }

    /// Opens a segment. An empty file is an empty segment with the block size [`DEFAULT_BLOCK`].
    ///
    /// # Errors
    /// The file can not be read or is no sound segment. Damaged pages and payloads are found when they are needed.
    pub fn open(storage: Arc<dyn Storage>) -> Result<Self> {
        Self::open_or_create(storage, DEFAULT_BLOCK)
    }

    /// Opens a segment; an empty file becomes an empty segment with this block size.
    ///
    /// # Errors
    /// As for [`Segment::open`] and [`Segment::create`].
    pub fn open_or_create(storage: Arc<dyn Storage>, block_size: u32) -> Result<Self> {
        if !valid_block_size(block_size) {
            return Err(SegmentError::Refused(
                "the block size is not a power of two from 16 KiB to 1 MiB",
            ));
        }
        let Peeked {
            summary,
            directory: directory_ref,
            state,
            end,
        } = peek_all(&*storage)?;
        let fresh = summary.form == Form::Live && summary.generation == 0;
        let block_size = if fresh {
            block_size
        } else {
            summary.block_size
        };
        let directory = match directory_ref {
            Some(at) => read_directory(&*storage, at, block_size, summary.logical_size)?,
            None => Directory::default(),
        };
        if matches!(state, State::Bare) && lost_its_beginning(&*storage)? {
            return Err(SegmentError::Invalid {
                part: Part::Header,
                offset: 0,
                reason: ZEROED,
            });
        }
        let (roots_offset, slot) = match state {
            State::Live {
                roots_offset,
                current,
                ..
            } => (roots_offset, current),
            State::Sealed | State::Bare => (BORN_LIVE_ROOTS, None),
        };
        let pages_end = directory
            .pages
            .values()
            .map(PageRef::end)
            .max()
            .unwrap_or(0);
        let tail = free_from(end.max(pages_end), storage.len()?);
        Ok(Segment {
            form: summary.form,
            block_size,
            logical_size: summary.logical_size,
            size_bound: summary.logical_size,
            roots_offset,
            slot,
            generation: summary.generation,
            header_durable: !fresh,
            directory,
            directory_ref,
            dirty: BTreeMap::new(),
            cache: Mutex::new(LruCache::new(CACHED_PAGES)),
            tail,
            durable_end: if fresh { 0 } else { tail },
            rescued: None,
            unsynced: Vec::new(),
            live_bytes: summary.live_bytes,
            made_with: summary.made_with,
            changed: false,
            dead: RangeSet::default(),
            scraps: RangeSet::default(),
            pending: None,
            storage,
        })
    }

    /// Form, sizes and generation as they are now, changes not yet committed included.
    #[must_use]
    pub fn summary(&self) -> Summary {
        Summary {
            form: self.form,
            block_size: self.block_size,
            logical_size: self.logical_size,
            generation: self.generation,
            live_bytes: self.live_bytes,
            made_with: match self.form {
                Form::Sealed => self.made_with,
                Form::Live => 0,
            },
        }
    }

    /// Live or sealed.
    #[must_use]
    pub fn form(&self) -> Form {
        self.form
    }

    /// Bytes of the content.
    #[must_use]
    pub fn logical_size(&self) -> u64 {
        self.logical_size
    }

    /// Bytes of a block.
    #[must_use]
    pub fn block_size(&self) -> u32 {
        self.block_size
    }

    /// Bytes of the file that the current content needs; the file's length less this is dead or given back.
    #[must_use]
    pub fn live_bytes(&self) -> u64 {
        self.live_bytes
    }

    /// The file below.
    #[must_use]
    pub fn storage(&self) -> &Arc<dyn Storage> {
        &self.storage
    }

    /// Every model that a block names; also some that blocks named earlier.
    #[must_use]
    pub fn models(&self) -> &[ModelId] {
        &self.directory.models
    }

    /// The states that blocks were coded from.
    #[must_use]
    pub fn starts(&self) -> &Arc<Starts> {
        &self.directory.starts
    }

    /// Takes the table of an earlier opening, whose states others may know by its number, if it says the same.
    pub fn share_starts(&mut self, earlier: &Arc<Starts>) {
        if *earlier == self.directory.starts {
            self.directory.starts = Arc::clone(earlier);
        }
    }

    /// Whether a start state is made of this payload, which then stays when the block is overwritten.
    #[must_use]
    pub fn is_key(&self, entry: &BlockEntry) -> bool {
        self.directory.starts.keeps(&entry.range())
    }

    /// The entry of a block; `None` is a hole, which reads as zeros.
    ///
    /// # Errors
    /// The index page that covers the block can not be read or is damaged.
    pub fn entry(&self, block: u64) -> Result<Option<BlockEntry>> {
        Ok(self
            .page(Page::number(block))?
            .and_then(|page| page.get(block).copied()))
    }

    /// The payload of a block.
    ///
    /// # Errors
    /// The file does not hold the payload, or it has another checksum than the entry.
    pub fn read_payload(&self, entry: &BlockEntry) -> Result<Vec<u8>> {
        if entry.len > max_payload(self.block_size) {
            let reason = "payload longer than a block can need";
            return Err(SegmentError::Invalid {
                part: Part::Payload,
                offset: entry.offset,
                reason,
            });
        }
        read_part(
            &*self.storage,
            Part::Payload,
            entry.offset,
            entry.len.into(),
            entry.payload_crc,
        )
    }

    /// Page `number`, from memory or from the file.
    pub(super) fn page(&self, number: u64) -> Result<Option<Arc<Page>>> {
        if let Some(page) = self.dirty.get(&number) {
            return Ok(Some(Arc::clone(page)));
        }
        let Some(at) = self.directory.pages.get(&number) else {
            return Ok(None);
        };
        let cached = || self.cache.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(page) = cached().get(&number) {
            return Ok(Some(Arc::clone(page)));
        }
        let page = Arc::new(self.read_page(number, at)?);
        cached().put(number, Arc::clone(&page));
        Ok(Some(page))
    }

    /// Page `number` from the file.
    pub(super) fn read_page(&self, number: u64, at: &PageRef) -> Result<Page> {
        let raw = read_part(&*self.storage, Part::Page, at.offset, at.len.into(), at.crc)?;
        Page::decode(
            &raw,
            number,
            self.block_size,
            &self.directory.models,
            self.directory.starts.len(),
            self.size_bound,
        )
        .map_err(|reason| SegmentError::Invalid {
            part: Part::Page,
            offset: at.offset,
            reason,
        })
    }
}

fn read_directory(
    storage: &dyn Storage,
    at: DirectoryRef,
    block_size: u32,
    logical_size: u64,
) -> Result<Directory> {
    let invalid = |reason| SegmentError::Invalid {
        part: Part::Directory,
        offset: at.offset,
        reason,
    };
    if at.len > MAX_DIRECTORY_LEN {
        return Err(invalid("it is longer than 4 MiB"));
    }
    let raw = read_part(storage, Part::Directory, at.offset, at.len.into(), at.crc)?;
    Directory::decode(&raw, block_size, logical_size).map_err(invalid)
}

/// The payload that an entry names, for a reader that no longer borrows the segment whose storage this is.
///
/// A commit may have given the range back meanwhile; then the checksum is wrong, and the entry must be looked up again.
///
/// # Errors
/// The file does not hold the payload, or it has another checksum than the entry.
pub fn read_payload(storage: &dyn Storage, entry: &BlockEntry) -> Result<Vec<u8>> {
    if entry.len > max_payload(MAX_BLOCK) {
        let reason = "payload longer than a block can need";
        return Err(SegmentError::Invalid {
            part: Part::Payload,
            offset: entry.offset,
            reason,
        });
    }
    read_part(
        storage,
        Part::Payload,
        entry.offset,
        entry.len.into(),
        entry.payload_crc,
    )
}
