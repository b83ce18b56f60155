//! What the index says about one block.

use std::ops::Range;

use crate::codec::{CodecId, ModelId};

use super::{MAX_PAYLOAD_OVERHEAD, SIZE_MAX};

/// One block of a segment: where its payload lies, how it is coded, what it must hash to.
///
/// The block's content is the first `visible_len` bytes of what the payload decodes to, then zeros up to the block's end;
/// the segment's logical size cuts the last block. `(segment, offset)` names immutable bytes until a commit that drops the
/// entry is durable, after which the range reads as zeros or as before. So an entry is good while the segment stays
/// borrowed; one kept longer must be looked up again if its payload no longer has the right checksum.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BlockEntry {
    /// Where the payload begins in the file.
    pub offset: u64,
    /// Bytes of the payload.
    pub len: u32,
    /// Bytes that the payload decodes to, 1 to the block size.
    pub decoded_len: u32,
    /// How many of those still count, 1 to `decoded_len`; less than all after the file was cut inside the block.
    pub visible_len: u32,
    /// How the payload is coded.
    pub codec: CodecId,
    /// The model that decodes it.
    pub model: Option<ModelId>,
    /// The start state that it was coded from, by its number in the segment's table; 0: cold.
    pub start: u16,
    /// CRC-32C of the payload.
    pub payload_crc: u32,
    /// CRC-32C of the `decoded_len` decoded bytes.
    pub decoded_crc: u32,
}

impl BlockEntry {
    /// The payload's bytes in the file.
    #[must_use]
    pub fn range(&self) -> Range<u64> {
        self.offset..self.offset.saturating_add(u64::from(self.len))
    }

    /// Whether the block's bytes are lost: reading it is an error until it is overwritten as a whole.
    #[must_use]
    pub fn is_lost(&self) -> bool {
        self.codec == CodecId::Lost
    }

    /// Copies the block's bytes from `start` on to `out`, zeros where the block has none.
    ///
    /// `decoded` is what the payload decodes to.
    pub fn copy_to(&self, decoded: &[u8], start: usize, out: &mut [u8]) {
        let visible = decoded.get(..self.visible_len as usize).unwrap_or(decoded);
        let from = visible.get(start..).unwrap_or_default();
        let n = from.len().min(out.len());
        let (data, rest) = out.split_at_mut(n);
        data.copy_from_slice(&from[..n]);
        rest.fill(0);
    }

    /// Why no segment with this block size can hold the entry, if so.
    pub(super) fn fault(&self, block_size: u32) -> Option<&'static str> {
        if self.decoded_len == 0 || self.decoded_len > block_size {
            Some("decoded length out of range")
        } else if self.visible_len == 0 || self.visible_len > self.decoded_len {
            Some("visible length out of range")
        } else if self.len > max_payload(block_size) {
            Some("payload longer than a block can need")
        } else if self.offset > SIZE_MAX - u64::from(self.len) {
            Some("payload offset out of range")
        } else if self.start != 0 && self.codec != CodecId::Neural {
            Some("only neural payloads have a start state")
        } else if self.is_lost() && (self.len != 0 || self.model.is_some()) {
            Some("a lost block has no payload")
        } else {
            None
        }
    }
}

/// The model's number in a directory's table, from 1; 0 without a model.
///
/// # Panics
/// The table lacks it: what was written without it could not be read again.
pub(super) fn model_number(models: &[ModelId], model: Option<ModelId>) -> u8 {
    let Some(id) = model else { return 0 };
    let at = models.iter().position(|&named| named == id);
    let number = at.and_then(|at| u8::try_from(at + 1).ok());
    number.expect("writers put every model into the table before they name it")
}

/// The longest payload that a block of this size may have.
#[must_use]
pub fn max_payload(block_size: u32) -> u32 {
    block_size.saturating_add(MAX_PAYLOAD_OVERHEAD)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn models_are_numbered_from_one() {
        let [a, b] = [1, 2].map(|n| ModelId([n; 16]));
        assert_eq!(model_number(&[a, b], None), 0);
        assert_eq!(model_number(&[a, b], Some(b)), 2);
    }

    #[test]
    #[should_panic = "before they name it"]
    fn no_index_names_a_model_that_is_not_in_its_table() {
        model_number(&[ModelId([1; 16])], Some(ModelId([2; 16])));
    }

    #[test]
    fn a_cut_block_reads_zeros_after_its_visible_part() {
        let entry = BlockEntry {
            offset: 40,
            len: 4,
            decoded_len: 4,
            visible_len: 2,
            codec: CodecId::Raw,
            model: None,
            start: 0,
            payload_crc: 0,
            decoded_crc: 0,
        };
        for (start, want) in [
            (0, [1, 2, 0, 0, 0]),
            (1, [2, 0, 0, 0, 0]),
            (2, [0; 5]),
            (9, [0; 5]),
        ] {
            let mut out = [0xff; 5];
            entry.copy_to(&[1, 2, 3, 4], start, &mut out);
            assert_eq!(out, want, "from {start}");
        }
    }
}
