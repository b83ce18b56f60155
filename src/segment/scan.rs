//! Finding the index of a segment whose header or roots are lost, by what it looks like: the last bytes of the file are a directory
//! whose pages are there, with the checksums that it names.

use std::borrow::Cow;
use std::ops::Range;

use crate::codec::ModelId;

use super::directory::{Directory, MAX_DIRECTORY_LEN, PageRef};
use super::entry::BlockEntry;
use super::error::{Part, Result};
use super::header::{Body, DirectoryRef, Header};
use super::page::{Page, block_end};
use super::peek::BORN_LIVE_DATA;
use super::starts::Starts;
use super::storage::{Storage, read_part, read_up_to};
use super::wire::Cursor;
use super::{MAX_BLOCK, MIN_BLOCK, SIZE_MAX};

/// Bytes of tables of start states that are passed for it, over all places where it might begin. Only a file made for it has many that
/// look like one.
const TABLES: u64 = 8 << 20;

/// Bytes of pages, tables and lists that are looked at in places that turn out to be none. What looks like a page mostly is none, which
/// its checksum tells.
const VAIN: u64 = 32 << 20;

/// Directories that are not whole after all, at most.
const DAMAGED: u32 = 4;

/// Places where a directory may begin. Some hundred of a MiB look like one by chance.
const PLACES: usize = 1 << 18;

/// What a page costs at least.
const PAGE_COST: u64 = 1 << 10;

/// What is wrong with a segment that [`lost_its_beginning`].
pub(super) const ZEROED: &str = "its beginning was overwritten with zeros";

/// Bytes that are written whole or not at all: no crash leaves fewer.
const SECTOR: u64 = 512;

/// Whether a file that begins with zeros, as an empty segment does before its first commit, once held more: it was a sealed
/// segment, which has all of its bytes before it gets its name, or was packed in place.
pub(super) fn lost_its_beginning(storage: &dyn Storage) -> Result<bool> {
    let len = storage.len()?;
    let once = |found: &Found| found.was_sealed || found.was_packed;
    Ok(len > 0 && (len < SECTOR || find_index(storage).iter().any(once)))
}

/// Entries by which the block size is told.
const SAMPLE: usize = 8;

/// A directory that ends where the file ends.
pub(super) struct Found {
    /// A sealed segment's header that names it. The logical size is where the last block ends: a hole after that is not known.
    pub(super) header: Header,
    /// The first entries of the index, to tell by them whether the block size is right.
    pub(super) sample: Vec<(u64, BlockEntry)>,
    /// A payload lies where only a segment that was sealed has one.
    pub(super) was_sealed: bool,
    /// It names what no first commit does: models or start states.
    pub(super) was_packed: bool,
}

/// The directory that the file ends with, as it is for each block size that it may have.
pub(super) fn find_index(storage: &dyn Storage) -> Vec<Found> {
    let sizes: Vec<u32> = (MIN_BLOCK.ilog2()..=MAX_BLOCK.ilog2())
        .map(|log2| 1 << log2)
        .collect();
    let Some(tail) = Tail::read(storage) else {
        return Vec::new();
    };
    let mut tables = TABLES;
    let mut places = Vec::new();
    for at in (0..tail.bytes.len()).rev() {
        let begin = tail.list_after(at, &mut tables);
        if let Some(list) = begin
            && let Some(pages) = tail.pages_from(list)
        {
            places.push((pages, at, list));
        }
        if places.len() == PLACES {
            break;
        }
    }
    // A part of the right one may look like a whole one, with other numbers. So the longest list is the right one, and of several directories
    // with the same list the shortest: what lies before it may look like models.
    places.sort_unstable();
    let (mut vain, mut damaged) = (VAIN, 0);
    // Where nothing begins any more but parts of a list, and the only list that is looked at.
    let (mut limit, mut only) = (usize::MAX, None);
    for &(_, at, list) in places.iter().rev() {
        if at >= limit || only.is_some_and(|only| only != list) {
            continue;
        }
        match tail.confirm(storage, at..list, &sizes, &mut vain) {
            Verdict::No => {}
            Verdict::Headless(from) => limit = limit.min(from),
            Verdict::Damaged => {
                // Its tables may be others: shorter ones were looked at first.
                only = Some(list);
                damaged += 1;
                if damaged == DAMAGED {
                    break;
                }
            }
            Verdict::Whole(found) => return found,
        }
    }
    if tables == 0 || vain == 0 || places.len() == PLACES {
        log::warn!("too much of a damaged segment looks like an index; the rest was not looked at");
    }
    Vec::new()
}

fn spend(left: &mut u64, work: u64) {
    *left = left.saturating_sub(work);
}

/// What became of a place where a directory may begin.
enum Verdict {
    /// None begins there.
    No,
    /// A list of pages begins there of which the first is not sound, and that from here on a sound one: what begins later is a part of it.
    Headless(usize),
    /// One does, but not all of its pages are sound.
    Damaged,
    /// One that is whole, for each block size that goes with its pages.
    Whole(Vec<Found>),
}

/// The end of a file that may lie in a directory.
struct Tail {
    /// Where it begins in the file.
    offset: u64,
    bytes: Vec<u8>,
    /// For every place how many pages a list names that begins there and goes on to the end of the file; [`NO_LIST`]: none does.
    lists: Vec<u32>,
}

/// Bytes of an entry of a list of pages, at most.
const LONGEST_ENTRY: usize = 10 + 10 + 5 + 4;

const NO_LIST: u32 = u32::MAX;

impl Tail {
    fn read(storage: &dyn Storage) -> Option<Tail> {
        let len = storage.len().ok()?;
        let offset = len.saturating_sub(MAX_DIRECTORY_LEN.into());
        let mut bytes = vec![0; (len - offset) as usize];
        if read_up_to(storage, &mut bytes, offset).ok()? != bytes.len() {
            return None;
        }
        let mut lists = vec![NO_LIST; bytes.len() + 1];
        lists[bytes.len()] = 0;
        let mut nearest = bytes.len();
        for at in (0..bytes.len()).rev() {
            if nearest - at > LONGEST_ENTRY {
                break;
            }
            let mut cursor = Cursor::new(&bytes[at..]);
            if PageRef::decode(&mut cursor, 0).is_ok()
                && let rest = lists[bytes.len() - cursor.len()]
                && rest != NO_LIST
            {
                lists[at] = rest + 1;
                nearest = at;
            }
        }
        Some(Tail {
            offset,
            bytes,
            lists,
        })
    }

    /// Where the list of pages begins behind the tables that may begin at `at`.
    fn list_after(&self, at: usize, left: &mut u64) -> Option<usize> {
        let models = usize::from(*self.bytes.get(at)?);
        let begin = at + 1 + models * size_of::<ModelId>();
        let raw = self.bytes.get(begin..)?;
        if raw.first() == Some(&0) {
            return Some(begin + 1);
        }
        if !Starts::may_begin(raw, models) {
            return None;
        }
        if *left == 0 {
            return None;
        }
        let mut cursor = Cursor::new(raw);
        let passed = Starts::skip(&mut cursor, models);
        spend(left, (raw.len() - cursor.len()) as u64);
        passed.then(|| self.bytes.len() - cursor.len())
    }

    /// How many pages the list names that begins at `list`, if there is one.
    fn pages_from(&self, list: usize) -> Option<u32> {
        let pages = self.lists.get(list).copied()?;
        (pages != NO_LIST && pages > 0).then_some(pages)
    }

    /// Whether a directory lies here, with such tables, whose pages are there.
    fn confirm(
        &self,
        storage: &dyn Storage,
        tables: Range<usize>,
        sizes: &[u32],
        left: &mut u64,
    ) -> Verdict {
        let offset = self.offset + tables.start as u64;
        let read = |page: &PageRef| {
            let there = page.end() <= offset;
            there.then(|| self.page(storage, page)).flatten()
        };
        let (raw, list) = (&self.bytes[tables.start..], &self.bytes[tables.end..]);
        let mut entries = Cursor::new(list);
        let mut next = 0;
        let mut first = None;
        while first.is_none() && !entries.is_empty() {
            let from = self.bytes.len() - entries.len();
            let Ok((number, page)) = PageRef::decode(&mut entries, next) else {
                return Verdict::No;
            };
            if *left == 0 {
                return Verdict::No;
            }
            spend(left, PAGE_COST.max(page.len.into()));
            first = read(&page).map(|raw| (number, raw));
            if first.is_some() && from > tables.end {
                return Verdict::Headless(from);
            }
            let Some(after) = number.checked_add(1) else {
                return Verdict::No;
            };
            next = after;
        }
        let Some((number, first)) = first else {
            return Verdict::No;
        };
        spend(left, (sizes.len() * tables.len() + list.len()) as u64);
        let mut candidates = self.candidates(&tables, sizes);
        candidates.retain_mut(|c| {
            let whole = c
                .directory
                .decode_pages(&mut Cursor::new(list), c.block_size, SIZE_MAX);
            whole.is_ok() && c.add(number, &first).is_some()
        });
        let Some(pages) = candidates.first().map(|c| c.directory.pages.clone()) else {
            return Verdict::No;
        };
        for (&number, page) in pages.iter().skip(1) {
            let raw = read(page).unwrap_or_default();
            candidates.retain_mut(|c| c.add(number, &raw).is_some());
            if candidates.is_empty() {
                return Verdict::Damaged;
            }
        }
        let found = candidates.into_iter();
        Verdict::Whole(found.filter_map(|c| c.found(offset, raw)).collect())
    }

    /// The bytes of a page, if they are sound.
    fn page(&self, storage: &dyn Storage, page: &PageRef) -> Option<Cow<'_, [u8]>> {
        let Some(from) = page.offset.checked_sub(self.offset) else {
            let raw = read_part(storage, Part::Page, page.offset, page.len.into(), page.crc);
            return raw.ok().map(Cow::Owned);
        };
        let raw = self.bytes.get(usize::try_from(from).ok()?..)?;
        let raw = raw.get(..page.len as usize)?;
        (crc32c::crc32c(raw) == page.crc).then_some(Cow::Borrowed(raw))
    }

    fn candidates(&self, tables: &Range<usize>, sizes: &[u32]) -> Vec<Candidate> {
        let raw = &self.bytes[tables.clone()];
        let of_size = |&block_size: &u32| {
            let directory = Directory::decode_tables(&mut Cursor::new(raw), block_size).ok()?;
            Some(Candidate {
                block_size,
                directory,
                sample: Vec::new(),
                end: 0,
                first: u64::MAX,
            })
        };
        sizes.iter().filter_map(of_size).collect()
    }
}

/// A directory as it is for one block size.
struct Candidate {
    block_size: u32,
    directory: Directory,
    sample: Vec<(u64, BlockEntry)>,
    /// Where the last block ends in the content, and the first payload begins in the file.
    end: u64,
    first: u64,
}

impl Candidate {
    /// Takes a page; none if no segment of this block size has it.
    fn add(&mut self, number: u64, raw: &[u8]) -> Option<()> {
        let Directory { models, starts, .. } = &self.directory;
        let page = Page::decode(raw, number, self.block_size, models, starts.len(), SIZE_MAX);
        for &(block, entry) in page.ok()?.entries() {
            let end = block_end(block, entry.visible_len, self.block_size)?;
            self.end = self.end.max(end);
            self.first = self.first.min(entry.offset);
            if self.sample.len() < SAMPLE {
                self.sample.push((block, entry));
            }
        }
        Some(())
    }

    /// With all pages taken, what was found: a directory of these bytes, at this place in the file.
    fn found(self, offset: u64, raw: &[u8]) -> Option<Found> {
        let directory = DirectoryRef {
            offset,
            len: u32::try_from(raw.len()).ok()?,
            crc: crc32c::crc32c(raw),
        };
        let body = Body::Sealed {
            made_with: 0,
            logical_size: self.end,
            directory,
        };
        Some(Found {
            header: Header {
                block_size: self.block_size,
                body,
            },
            sample: self.sample,
            was_sealed: self.first < BORN_LIVE_DATA,
            was_packed: !self.directory.models.is_empty() || !self.directory.starts.is_empty(),
        })
    }
}

#[cfg(test)]
#[path = "scan_tests.rs"]
mod tests;
