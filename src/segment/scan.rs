//! Finding the index of a segment whose header or roots are lost, by what it looks like: the last bytes of the file are a directory
//! whose pages are there, with the checksums that it names.

use super::directory::Directory;
use super::entry::BlockEntry;
use super::error::{Part, Result};
use super::header::{Body, DirectoryRef, Header};
use super::page::{Page, block_end};
use super::peek::BORN_LIVE_DATA;
use super::storage::{Storage, read_part, read_up_to};
use super::wire::Cursor;
use super::{MAX_BLOCK, MIN_BLOCK, SIZE_MAX};

/// Bytes at the end of the file among which the directory is looked for: enough for some thousand pages.
const TAIL: u64 = 1 << 18;

/// Bytes of tables and pages that are looked through for it, over all places where it might begin. The right one takes some passes over
/// the tail; only a file made for it has more that look like one.
const WORK: usize = 32 * TAIL as usize;

/// What is wrong with a segment that [`lost_its_beginning`].
pub(super) const ZEROED: &str = "its beginning was overwritten with zeros";

/// Bytes that are written whole or not at all: no crash leaves fewer.
const SECTOR: u64 = 512;

/// Whether a file that begins with zeros, as an empty segment does before its first commit, once held more: it was a sealed
/// segment, which has all of its bytes before it gets its name, or was packed in place.
pub(super) fn lost_its_beginning(storage: &dyn Storage) -> Result<bool> {
    let len = storage.len()?;
    let once = |found: &Found| found.was_sealed || found.was_packed;
    Ok(len > 0 && (len < SECTOR || find_index(storage, None).iter().any(once)))
}

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

/// All directories that the file may end with, for this block size or for each.
pub(super) fn find_index(storage: &dyn Storage, block_size: Option<u32>) -> Vec<Found> {
    let Ok(len) = storage.len() else {
        return Vec::new();
    };
    let tail_at = len.saturating_sub(TAIL);
    let mut tail = vec![0; (len - tail_at) as usize];
    if !matches!(read_up_to(storage, &mut tail, tail_at), Ok(n) if n == tail.len()) {
        return Vec::new();
    }
    let sizes = (MIN_BLOCK.ilog2()..=MAX_BLOCK.ilog2()).map(|log2| 1 << log2);
    let sizes: Vec<u32> = match block_size {
        Some(size) => vec![size],
        None => sizes.collect(),
    };
    let (mut found, mut left) = (Vec::new(), WORK);
    for at in (0..tail.len()).rev() {
        let raw = tail.get(at..).unwrap_or_default();
        for &size in &sizes {
            let mut cursor = Cursor::new(raw);
            let decoded = Directory::decode_at(&mut cursor, size, SIZE_MAX);
            // The names of models are passed over too fast to count.
            let models = 1 + 16 * raw.first().copied().map_or(0, usize::from);
            spend(&mut left, (raw.len() - cursor.len()).saturating_sub(models));
            if let Ok(directory) = decoded {
                let offset = tail_at + at as u64;
                found.extend(confirm(storage, &directory, offset, raw, size, &mut left));
            }
        }
        if left == 0 {
            log::warn!(
                "too much of a damaged segment looks like an index; the rest was not looked at"
            );
            break;
        }
        if !found.is_empty() {
            break;
        }
    }
    found
}

fn spend(left: &mut usize, work: usize) {
    *left = left.saturating_sub(work);
}

/// The index that a directory leads to, if all of its pages are there.
fn confirm(
    storage: &dyn Storage,
    directory: &Directory,
    offset: u64,
    raw: &[u8],
    block_size: u32,
    left: &mut usize,
) -> Option<Found> {
    let mut sample = Vec::new();
    let (mut size, mut first) = (0, u64::MAX);
    for (&number, at) in &directory.pages {
        if at.end() > offset || *left == 0 {
            return None;
        }
        spend(left, at.len as usize);
        let page = read_part(storage, Part::Page, at.offset, at.len.into(), at.crc).ok()?;
        let starts = directory.starts.len();
        let page = Page::decode(
            &page,
            number,
            block_size,
            &directory.models,
            starts,
            SIZE_MAX,
        )
        .ok()?;
        for &(block, entry) in page.entries() {
            size = size.max(block_end(block, entry.visible_len, block_size)?);
            first = first.min(entry.offset);
            if sample.len() < 8 {
                sample.push((block, entry));
            }
        }
    }
    let was_packed = !directory.models.is_empty() || !directory.starts.is_empty();
    let directory = DirectoryRef {
        offset,
        len: u32::try_from(raw.len()).ok()?,
        crc: crc32c::crc32c(raw),
    };
    let body = Body::Sealed {
        logical_size: size,
        directory,
    };
    (!sample.is_empty()).then_some(Found {
        header: Header { block_size, body },
        sample,
        was_sealed: first < BORN_LIVE_DATA,
        was_packed,
    })
}
