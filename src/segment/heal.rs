//! Healing: what single changed bytes and lost roots took away, found again by the checksums that are left.
//!
//! Nothing is written: the corrections lie over the file as patches, and an ordinary opening reads through them. A correction is made only
//! where a second checksum confirms it, so that damage of another kind is never mistaken for it.

use std::ops::Range;
use std::sync::Arc;

use super::Segment;
use super::entry::BlockEntry;
use super::error::{Part, SegmentError};
use super::header::{Body, Form, HEADER_LEN, Header};
use super::patched::Patched;
use super::peek::{State, peek_all};
use super::root::{ROOT_LEN, SLOT_LEN, SLOTS_LEN, Slot};
use super::scan::find_index;
use super::storage::{Storage, read_up_to};
use crate::codec::CodecId;

/// The polynomial of CRC-32C, reflected.
const POLYNOMIAL: u32 = 0x82f6_3b78;

/// A part of a segment that was made whole again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Healed {
    /// Which part.
    pub part: Part,
    /// Where it lies in the file.
    pub range: Range<u64>,
    /// What was done, for people.
    pub what: &'static str,
    /// Something may be missing all the same: changes of the last commit, or a hole at the end.
    pub loses: bool,
}

/// A damaged segment as it is read with what could be healed.
pub struct Healing {
    /// The file, seen through the corrections. It takes no writes.
    pub storage: Arc<dyn Storage>,
    /// The corrections.
    pub healed: Vec<Healed>,
}

/// Heals what can be healed of the segment in `storage`: a changed byte of the header or a root slot, a changed bit anywhere else
/// where a second checksum confirms it; goes back to the older root where that does not help; and at last takes an index that the file
/// ends with. `decodes` says whether a block decodes: only that tells the block size if the header is lost.
#[must_use]
pub fn heal(storage: Arc<dyn Storage>, decodes: &Decodes<'_>) -> Healing {
    let patched = Arc::new(Patched::new(storage));
    let mut healer = Healer {
        patched: Arc::clone(&patched),
        healed: Vec::new(),
    };
    healer.root_and_header();
    if healer.open().is_none_or(|s| s.summary().generation == 0) {
        healer.index_at_the_end(decodes);
    }
    if let Some(segment) = healer.open() {
        healer.pages(&segment);
        healer.payloads(&segment, decodes);
    }
    Healing {
        storage: patched,
        healed: healer.healed,
    }
}

/// Whether a block of a segment decodes.
pub type Decodes<'a> = dyn Fn(&Segment, u64, &BlockEntry) -> bool + 'a;

struct Healer {
    patched: Arc<Patched>,
    healed: Vec<Healed>,
}

impl Healer {
    fn open(&self) -> Option<Segment> {
        Segment::open(Arc::clone(&self.patched) as Arc<dyn Storage>).ok()
    }

    fn done(&mut self, part: Part, range: Range<u64>, what: &'static str) {
        let loses = false;
        self.healed.push(Healed {
            part,
            range,
            what,
            loses,
        });
    }

    fn done_with_loss(&mut self, part: Part, range: Range<u64>, what: &'static str) {
        let loses = true;
        self.healed.push(Healed {
            part,
            range,
            what,
            loses,
        });
    }

    /// Makes the segment open, if anything can.
    fn root_and_header(&mut self) {
        let header = 0..HEADER_LEN as u64;
        let mut raw = [0; HEADER_LEN];
        let there = read_up_to(&*self.patched, &mut raw, 0);
        let sound = Header::decode(&raw).is_ok();
        if sound || there.is_err() || raw.iter().all(|&b| b == 0) {
            self.roots();
            return;
        }
        for (at, byte) in changes(&raw, |raw| Header::decode(raw).is_ok()) {
            let undo = self.patched.snapshot();
            self.patched.set(at as u64, &[byte]);
            let healed = self.healed.len();
            self.done(
                Part::Header,
                header.clone(),
                "one changed byte was put right",
            );
            self.roots();
            if self.open().is_some() {
                return;
            }
            self.healed.truncate(healed);
            self.patched.restore(undo);
        }
    }

    /// With a sound header: puts the slots right, then the directory; at last goes back to the older root.
    fn roots(&mut self) {
        let offset = match header_of(&*self.patched) {
            Some(Body::Live { roots_offset }) => roots_offset,
            Some(Body::Sealed { .. }) => return self.directory(),
            None => return,
        };
        let mut raw = [0; SLOTS_LEN];
        if read_up_to(&*self.patched, &mut raw, offset).is_err() {
            return;
        }
        for (index, slot) in raw.chunks(SLOT_LEN).enumerate() {
            let at = offset + (index * SLOT_LEN) as u64;
            if Slot::decode(slot) != Slot::Damaged {
                continue;
            }
            if let Some((byte_at, byte)) = slot_change(slot) {
                self.patched.set(at + byte_at as u64, &[byte]);
                self.done(
                    Part::Root,
                    at..at + SLOT_LEN as u64,
                    "one changed byte was put right",
                );
            }
        }
        self.directory();
        if self.open().is_none() {
            self.older_root(offset);
        }
    }

    /// Puts a changed bit of the directory right.
    fn directory(&mut self) {
        if self.open().is_some() {
            return;
        }
        let Some(at) = peek_all(&*self.patched).ok().and_then(|p| p.directory) else {
            return;
        };
        let range = at.offset..at.end();
        let undo = self.patched.snapshot();
        if self.flip_back(range.clone(), at.crc) {
            // Damage of another kind may look like a changed bit, but then what the directory names is not there.
            match self.open() {
                Some(segment) if segment.reads_a_page() => {
                    self.done(Part::Directory, range, "one changed bit was put right");
                }
                _ => self.patched.restore(undo),
            }
        }
    }

    /// Goes back to the root before the newest, if that opens.
    fn older_root(&mut self, offset: u64) {
        let Ok(peeked) = peek_all(&*self.patched) else {
            return;
        };
        let State::Live {
            current: Some(newest),
            ..
        } = peeked.state
        else {
            return;
        };
        let at = offset + (newest * SLOT_LEN) as u64;
        let undo = self.patched.snapshot();
        self.patched.set(at, &[0; SLOT_LEN]);
        match self.open() {
            Some(segment) if segment.summary().generation > 0 => self.done_with_loss(
                Part::Root,
                at..at + SLOT_LEN as u64,
                "the newest state is lost; the one before it was restored",
            ),
            _ => self.patched.restore(undo),
        }
    }

    /// Takes the index that the file ends with in the place of header and roots.
    fn index_at_the_end(&mut self, decodes: &Decodes<'_>) {
        let header = peek_all(&*self.patched).ok();
        if header
            .as_ref()
            .is_some_and(|p| p.summary.form == Form::Sealed)
        {
            // Sound, and it names another index.
            return;
        }
        for found in find_index(&*self.patched) {
            // An empty live segment may have been about to get its first commit.
            if header.is_some() && !found.was_sealed {
                return;
            }
            let undo = self.patched.snapshot();
            self.patched.set(0, &found.header.encode());
            let right = self.open().is_some_and(|segment| {
                let mut sample = found.sample.iter();
                sample.any(|(block, entry)| decodes(&segment, *block, entry))
            });
            if right {
                let range = 0..HEADER_LEN as u64;
                let what = "it was made anew from the index at the end of the file; its size is that up to the last block";
                return self.done_with_loss(Part::Header, range, what);
            }
            self.patched.restore(undo);
        }
    }

    fn pages(&mut self, segment: &Segment) {
        for (&number, at) in &segment.directory.pages {
            if segment.read_page(number, at).is_ok() {
                continue;
            }
            let range = at.offset..at.end();
            let undo = self.patched.snapshot();
            if !self.flip_back(range.clone(), at.crc) {
                continue;
            }
            let confirmed = segment.read_page(number, at).is_ok_and(|page| {
                let mut entries = page.entries().iter();
                entries.all(|(_, entry)| segment.read_payload(entry).is_ok())
            });
            if confirmed {
                self.done(Part::Page, range, "one changed bit was put right");
            } else {
                self.patched.restore(undo);
            }
        }
    }

    /// Puts changed bits of payloads right. Decoding is the second check; a raw payload has none.
    fn payloads(&mut self, segment: &Segment, decodes: &Decodes<'_>) {
        let spoilt = |entry: &BlockEntry| {
            matches!(entry.codec, CodecId::Zstd | CodecId::Neural)
                && matches!(
                    segment.read_payload(entry),
                    Err(SegmentError::Checksum { .. })
                )
        };
        // What blocks start from comes first: without it they do not decode. It shows with them whether it is right.
        for key in segment.starts().payloads().filter(|e| spoilt(e)) {
            if self.flip_back(key.range(), key.payload_crc) {
                self.done(Part::Payload, key.range(), "one changed bit was put right");
            }
        }
        let entries: Vec<_> = segment.entries().flatten().collect();
        for (block, entry) in entries.into_iter().filter(|(_, e)| spoilt(e)) {
            let undo = self.patched.snapshot();
            if !self.flip_back(entry.range(), entry.payload_crc) {
                continue;
            }
            if decodes(segment, block, &entry) {
                self.done(
                    Part::Payload,
                    entry.range(),
                    "one changed bit was put right",
                );
            } else {
                self.patched.restore(undo);
            }
        }
    }

    /// Changes the one bit of a range without which it does not have this checksum; whether there is one.
    fn flip_back(&self, range: Range<u64>, crc: u32) -> bool {
        let Ok(len) = usize::try_from(range.end.saturating_sub(range.start)) else {
            return false;
        };
        if self.patched.len().map_or(true, |file| file < range.end) {
            return false;
        }
        let mut raw = vec![0; len];
        if !matches!(read_up_to(&*self.patched, &mut raw, range.start), Ok(n) if n == len) {
            return false;
        }
        let Some(bit) = changed_bit(len, crc32c::crc32c(&raw) ^ crc) else {
            return false;
        };
        let byte = raw[bit / 8] ^ 1 << (bit % 8);
        self.patched.set(range.start + (bit / 8) as u64, &[byte]);
        true
    }
}

/// The body of a sound header.
fn header_of(storage: &dyn Storage) -> Option<Body> {
    let mut raw = [0; HEADER_LEN];
    read_up_to(storage, &mut raw, 0).ok()?;
    Header::decode(&raw).ok().map(|h| h.body)
}

/// The one change of a byte that makes a damaged slot a root or an empty slot.
fn slot_change(slot: &[u8]) -> Option<(usize, u8)> {
    let mut odd = (0..).zip(slot).filter(|(_, b)| **b != 0);
    if let (Some((at, _)), None) = (odd.next(), odd.next()) {
        return Some((at, 0));
    }
    // The zeros behind a root are no part of it.
    let mut whole = slot.to_vec();
    let found = changes(slot.get(..ROOT_LEN)?, |root| {
        whole[..ROOT_LEN].copy_from_slice(root);
        matches!(Slot::decode(&whole), Slot::Root(_))
    });
    match found[..] {
        [change] => Some(change),
        _ => None,
    }
}

/// Every change of one byte of `raw` that makes it sound: where, and to what.
fn changes(raw: &[u8], mut sound: impl FnMut(&[u8]) -> bool) -> Vec<(usize, u8)> {
    let mut raw = raw.to_vec();
    let mut found = Vec::new();
    for at in 0..raw.len() {
        let was = raw[at];
        for byte in (0..=255).filter(|&b| b != was) {
            raw[at] = byte;
            if sound(&raw) {
                found.push((at, byte));
            }
        }
        raw[at] = was;
    }
    found
}

/// The bit of `len` bytes, counted from the lowest of the first byte, whose change alters their checksum by `difference`.
fn changed_bit(len: usize, difference: u32) -> Option<usize> {
    let mut effect = POLYNOMIAL;
    for bit in (0..len * 8).rev() {
        if effect == difference {
            return Some(bit);
        }
        effect = effect >> 1 ^ if effect & 1 == 1 { POLYNOMIAL } else { 0 };
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_changed_bit_is_found_by_the_checksum_alone() {
        let good: Vec<u8> = (0..90u8).map(|n| n.wrapping_mul(31)).collect();
        let crc = crc32c::crc32c(&good);
        for bit in 0..good.len() * 8 {
            let mut bad = good.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(
                changed_bit(bad.len(), crc32c::crc32c(&bad) ^ crc),
                Some(bit)
            );
        }
        assert_eq!(changed_bit(90, 0), None);
        let mut two = good.clone();
        (two[3], two[70]) = (two[3] ^ 1, two[70] ^ 4);
        assert_eq!(changed_bit(90, crc32c::crc32c(&two) ^ crc), None);
    }
}
