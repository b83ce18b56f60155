//! Root slots: the two places in a live segment that say which directory is current.
//!
//! A commit overwrites the slot that is not current, so a torn write leaves the last commit valid. Once a commit is
//! durable the slot before it is cleared, so damage to the newest root is an error and never a silent step back.
//! Layout: docs/FORMAT.md, "Root slots"; change both or neither.

use super::SIZE_MAX;
use super::error::{Part, Result, SegmentError};
use super::header::DirectoryRef;
use super::wire::Cursor;

/// Bytes of one slot: a sector, so that writing one can not touch the other.
pub(super) const SLOT_LEN: usize = 512;

/// Bytes of both slots.
pub(super) const SLOTS_LEN: usize = 2 * SLOT_LEN;

const ROOT_MAGIC: [u8; 4] = *b"VXRT";
/// Bytes of a slot that a root takes.
pub(super) const ROOT_LEN: usize = 56;
const CRC_AT: usize = ROOT_LEN - 4;

/// One committed state of a live segment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Root {
    /// Counts commits from 1.
    pub(super) generation: u64,
    pub(super) logical_size: u64,
    pub(super) directory: DirectoryRef,
    /// Bytes of the file that this state uses.
    pub(super) live_bytes: u64,
    /// Appends go to this offset or beyond.
    pub(super) end: u64,
}

/// What a slot holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Slot {
    /// Zeros.
    Empty,
    /// Neither zeros nor a root.
    Damaged,
    /// A root with a sound checksum.
    Root(Root),
}

impl Root {
    /// A whole slot: the root, then zeros.
    pub(super) fn encode(&self) -> [u8; SLOT_LEN] {
        let mut out = [0; SLOT_LEN];
        out[..4].copy_from_slice(&ROOT_MAGIC);
        out[4..8].copy_from_slice(&self.directory.len.to_le_bytes());
        out[8..16].copy_from_slice(&self.generation.to_le_bytes());
        out[16..24].copy_from_slice(&self.logical_size.to_le_bytes());
        out[24..32].copy_from_slice(&self.directory.offset.to_le_bytes());
        out[32..40].copy_from_slice(&self.live_bytes.to_le_bytes());
        out[40..48].copy_from_slice(&self.end.to_le_bytes());
        out[48..52].copy_from_slice(&self.directory.crc.to_le_bytes());
        let own = crc32c::crc32c(&out[..CRC_AT]);
        out[CRC_AT..ROOT_LEN].copy_from_slice(&own.to_le_bytes());
        out
    }

    fn decode(raw: &[u8; ROOT_LEN]) -> Option<Self> {
        let mut at = Cursor::new(raw);
        let magic = at.array::<4>()?;
        let len = at.u32()?;
        let (generation, logical_size, offset) = (at.u64()?, at.u64()?, at.u64()?);
        let (live_bytes, end) = (at.u64()?, at.u64()?);
        let (crc, own) = (at.u32()?, at.u32()?);
        let sound = magic == ROOT_MAGIC
            && own == crc32c::crc32c(&raw[..CRC_AT])
            && generation > 0
            && logical_size <= SIZE_MAX
            && end <= SIZE_MAX
            && offset
                .checked_add(u64::from(len))
                .is_some_and(|directory_end| directory_end <= end);
        let directory = DirectoryRef { offset, len, crc };
        sound.then_some(Root {
            generation,
            logical_size,
            directory,
            live_bytes,
            end,
        })
    }
}

impl Slot {
    /// Decodes one slot; a slot that the file does not wholly hold counts as damaged.
    pub(super) fn decode(raw: &[u8]) -> Self {
        let Some(raw) = raw.first_chunk::<SLOT_LEN>() else {
            return Slot::Damaged;
        };
        if raw.iter().all(|&b| b == 0) {
            return Slot::Empty;
        }
        raw.first_chunk()
            .and_then(Root::decode)
            .map_or(Slot::Damaged, Slot::Root)
    }
}

/// Decodes both slots.
pub(super) fn decode_slots(raw: &[u8]) -> [Slot; 2] {
    let second = raw.get(SLOT_LEN..).unwrap_or_default();
    [Slot::decode(raw), Slot::decode(second)]
}

/// The slot with the newest valid root; `None` if nothing was ever committed.
///
/// # Errors
/// One slot is damaged and the other holds no root, or both claim the same generation.
pub(super) fn newest(slots: &[Slot; 2], offset: u64) -> Result<Option<(usize, Root)>> {
    match *slots {
        [Slot::Empty, Slot::Empty] => Ok(None),
        [Slot::Root(a), Slot::Root(b)] if a.generation == b.generation => {
            Err(SegmentError::Invalid {
                part: Part::Root,
                offset,
                reason: "both slots hold the same generation",
            })
        }
        [Slot::Root(a), Slot::Root(b)] if a.generation < b.generation => Ok(Some((1, b))),
        [Slot::Root(a), _] => Ok(Some((0, a))),
        [_, Slot::Root(b)] => Ok(Some((1, b))),
        _ => Err(SegmentError::NoRoot { offset }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn root(generation: u64) -> Root {
        let directory = DirectoryRef {
            offset: 1600,
            len: 30,
            crc: 5,
        };
        Root {
            generation,
            logical_size: 77,
            directory,
            live_bytes: 1630,
            end: 1630,
        }
    }

    #[test]
    fn roots_read_back_and_any_changed_bit_is_noticed() {
        let good = root(3).encode();
        assert_eq!(Slot::decode(&good), Slot::Root(root(3)));
        for bit in 0..ROOT_LEN * 8 {
            let mut bad = good;
            bad[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(Slot::decode(&bad), Slot::Damaged, "bit {bit}");
        }
        for len in 0..SLOT_LEN {
            assert_eq!(Slot::decode(&good[..len]), Slot::Damaged);
        }
        assert_eq!(Slot::decode(&[0; SLOT_LEN]), Slot::Empty);
    }

    #[test]
    fn the_newest_valid_root_wins_and_damage_never_reads_as_empty() {
        let (old, new) = (Slot::Root(root(4)), Slot::Root(root(5)));
        for (slots, want) in [
            ([old, new], (1, root(5))),
            ([new, old], (0, root(5))),
            ([new, Slot::Empty], (0, root(5))),
            ([Slot::Damaged, old], (1, root(4))),
        ] {
            assert_eq!(newest(&slots, 512).unwrap(), Some(want));
        }
        assert_eq!(newest(&[Slot::Empty, Slot::Empty], 512).unwrap(), None);
        for slots in [
            [Slot::Damaged, Slot::Empty],
            [Slot::Empty, Slot::Damaged],
            [Slot::Damaged; 2],
            [old, old],
        ] {
            assert!(newest(&slots, 512).is_err(), "{slots:?}");
        }
    }
}
