//! The table of start states: what blocks of a segment may be coded from.
//!
//! A state is named by its number, from 1; 0 is cold, the state that knows nothing. The payloads that the table names belong
//! to it: they stay when the blocks that they were written for are overwritten or cut off, so that all blocks that
//! start from them stay readable. Layout: docs/FORMAT.md, "Start states"; change both or neither.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::codec::{CodecId, ModelId, PrimerId};

use super::entry::{BlockEntry, model_number};
use super::wire::{Cursor, put_varint, put_zigzag};

/// No table has more states.
pub const MAX_STARTS: usize = 65535;

/// No state is made of more blocks.
pub const MAX_START_DEPTH: u8 = 16;

/// No state is made of blocks of more decoded bytes: who reads a single block may have to make its state first.
pub const MAX_START_BYTES: u32 = 1 << 20;

/// Says in a record's first byte that it is a primer.
const PRIMER: u8 = 0xff;

/// Says in a record's first byte that the payload was coded from the state before.
const FROM_PARENT: u8 = 0x40;

/// Says in a record's first byte that the payload needs a model, whose number in the directory's table follows.
const WITH_MODEL: u8 = 0x20;

const FLAGS: u8 = FROM_PARENT | WITH_MODEL;

/// How one start state is made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StartEntry {
    /// The state after another and then one block's bytes.
    Block {
        /// The state before: an earlier one of the table, or 0 for cold.
        parent: u16,
        /// Where the bytes are. They were coded from `parent` or cold; only behind cold may they need a model.
        payload: BlockEntry,
    },
    /// The state after the bytes of a primer.
    Primer(PrimerId),
}

/// The start states of one opening of a segment. It never changes.
#[derive(Debug, Clone, Default)]
pub struct Starts {
    id: u64,
    entries: Vec<StartEntry>,
    /// The payloads, start to end.
    kept: BTreeMap<u64, u64>,
}

impl PartialEq for Starts {
    fn eq(&self, other: &Self) -> bool {
        self.entries == other.entries
    }
}

impl Eq for Starts {}

impl Starts {
    /// A table of these states.
    pub(super) fn new(entries: Vec<StartEntry>) -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(1);
        let kept = payloads(&entries).map(|e| (e.range().start, e.range().end));
        Starts {
            id: NEXT.fetch_add(1, Ordering::Relaxed),
            kept: kept.collect(),
            entries,
        }
    }

    /// A number that no other table of this process has, except that all empty ones may share theirs.
    #[must_use]
    pub fn id(&self) -> u64 {
        self.id
    }

    /// How state `number` is made; none for 0 and beyond the table.
    #[must_use]
    pub fn get(&self, number: u16) -> Option<&StartEntry> {
        usize::from(number)
            .checked_sub(1)
            .and_then(|at| self.entries.get(at))
    }

    /// The state that block `entry` leads to, if the table names just this payload and it was coded from the state before.
    #[must_use]
    pub fn made_by(&self, entry: &BlockEntry) -> Option<u16> {
        if !self.keeps(&entry.range()) {
            return None;
        }
        let leads = |state: &StartEntry| match state {
            StartEntry::Block { parent, payload } => {
                let whole = BlockEntry {
                    visible_len: entry.decoded_len,
                    ..*entry
                };
                *payload == whole && *parent == entry.start
            }
            StartEntry::Primer(_) => false,
        };
        let at = self.entries.iter().position(leads)?;
        u16::try_from(at + 1).ok()
    }

    /// Number of states, cold not counted.
    #[must_use]
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether every block is cold.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// All states, in the order of their numbers.
    #[must_use]
    pub fn entries(&self) -> &[StartEntry] {
        &self.entries
    }

    /// The states that state `number` is made of, itself included, with their numbers: from the last to the first.
    pub fn chain(&self, number: u16) -> impl Iterator<Item = (u16, &StartEntry)> {
        let mut at = number;
        std::iter::from_fn(move || {
            let entry = self.get(at)?;
            let number = at;
            at = match entry {
                StartEntry::Block { parent, .. } => *parent,
                StartEntry::Primer(_) => 0,
            };
            Some((number, entry))
        })
    }

    /// The payloads that states are made of.
    pub(super) fn payloads(&self) -> impl Iterator<Item = &BlockEntry> {
        payloads(&self.entries)
    }

    /// The models that states need.
    pub fn models(&self) -> impl Iterator<Item = ModelId> {
        self.payloads().filter_map(|payload| payload.model)
    }

    /// Whether the range is a payload of the table.
    pub(super) fn keeps(&self, range: &Range<u64>) -> bool {
        self.kept.get(&range.start) == Some(&range.end)
    }

    /// Appends the table's bytes to `out`.
    ///
    /// # Panics
    /// A state names a model that `models` lacks.
    pub(super) fn encode(&self, block_size: u32, models: &[ModelId], out: &mut Vec<u8>) {
        put_varint(out, self.entries.len() as u64);
        let mut next_offset = 0u64;
        for entry in &self.entries {
            match entry {
                StartEntry::Primer(id) => {
                    out.push(PRIMER);
                    out.extend(id.0);
                }
                StartEntry::Block { parent, payload: e } => {
                    let from_parent = if e.start == 0 { 0 } else { FROM_PARENT };
                    let model = model_number(models, e.model);
                    let with_model = if model == 0 { 0 } else { WITH_MODEL };
                    out.push(e.codec as u8 | from_parent | with_model);
                    out.extend((model != 0).then_some(model));
                    put_varint(out, u64::from(*parent));
                    put_zigzag(out, e.offset.wrapping_sub(next_offset) as i64);
                    put_varint(out, u64::from(e.len));
                    put_varint(out, u64::from(block_size.saturating_sub(e.decoded_len)));
                    out.extend(e.payload_crc.to_le_bytes());
                    out.extend(e.decoded_crc.to_le_bytes());
                    next_offset = e.range().end;
                }
            }
        }
    }

    /// Whether a table with states may begin like this where so many models are named; a quick look.
    pub(super) fn may_begin(raw: &[u8], models: usize) -> bool {
        let mut at = Cursor::new(raw);
        let count = at.varint().filter(|&n| n <= MAX_STARTS as u64);
        let kind = count.and_then(|_| at.u8());
        let mut has_model = || at.u8().is_some_and(|k| is_one_of(k, models));
        kind.is_some_and(|k| match k & FLAGS {
            _ if k == PRIMER => true,
            WITH_MODEL => CodecId::from_u8(k & !FLAGS).is_some() && has_model(),
            _ => CodecId::from_u8(k & !FROM_PARENT).is_some(),
        })
    }

    /// Whether bytes like those of a table come next, which are then passed; they may still say what is impossible for a block size. Much less
    /// work than [`Starts::decode`]. In the midst of a table it soon ends: what comes there is made of more states than were passed.
    pub(super) fn skip(at: &mut Cursor<'_>, models: usize) -> bool {
        let mut next_offset = 0u64;
        let mut pass = || {
            for before in 0..count(at)? {
                let Record::Block(block) = Record::decode(at)? else {
                    continue;
                };
                if u64::from(block.parent) > before || block.codec == CodecId::Lost {
                    return Err(FAR);
                }
                if block.model != 0 && (block.parent != 0 || !is_one_of(block.model, models)) {
                    return Err(FAR);
                }
                let offset = next_offset.checked_add_signed(block.delta).ok_or(FAR)?;
                next_offset = offset.checked_add(block.len.into()).ok_or(FAR)?;
            }
            Ok(())
        };
        pass().is_ok()
    }

    /// Decodes the table of a segment that names these models; an error says what is impossible.
    pub(super) fn decode(
        at: &mut Cursor<'_>,
        block_size: u32,
        models: &[ModelId],
    ) -> Result<Self, &'static str> {
        let mut checked = Builder::default();
        let mut next_offset = 0u64;
        for _ in 0..count(at)? {
            let block = match Record::decode(at)? {
                Record::Primer(id) => {
                    checked.push(StartEntry::Primer(id))?;
                    continue;
                }
                Record::Block(block) => block,
            };
            let decoded_len = block_size
                .checked_sub(block.missing)
                .ok_or("decoded length out of range")?;
            let payload = BlockEntry {
                offset: next_offset.checked_add_signed(block.delta).ok_or(FAR)?,
                len: block.len,
                decoded_len,
                visible_len: decoded_len,
                codec: block.codec,
                model: match usize::from(block.model).checked_sub(1) {
                    None => None,
                    Some(at) => Some(*models.get(at).ok_or("model not in the table")?),
                },
                start: if block.from_parent { block.parent } else { 0 },
                payload_crc: block.payload_crc,
                decoded_crc: block.decoded_crc,
            };
            if let Some(reason) = payload.fault(block_size) {
                return Err(reason);
            }
            next_offset = payload.range().end;
            let parent = block.parent;
            checked.push(StartEntry::Block { parent, payload })?;
        }
        Ok(checked.finish())
    }
}

const SHORT: &str = "it ends inside a start state";
const FAR: &str = "payload offset out of range";

/// Whether `number` is that of one of so many models.
fn is_one_of(number: u8, models: usize) -> bool {
    (1..=models).contains(&usize::from(number))
}

/// How many records a table has.
fn count(at: &mut Cursor<'_>) -> Result<u64, &'static str> {
    match at.varint() {
        Some(count) if count <= MAX_STARTS as u64 => Ok(count),
        Some(_) => Err("too many start states"),
        None => Err(SHORT),
    }
}

/// A record of the table, as it is written.
enum Record {
    Primer(PrimerId),
    Block(BlockRecord),
}

struct BlockRecord {
    codec: CodecId,
    /// Its number in the table of models; 0: none.
    model: u8,
    from_parent: bool,
    parent: u16,
    /// Offset, less the end of the payload before it.
    delta: i64,
    len: u32,
    /// Block size less decoded length.
    missing: u32,
    payload_crc: u32,
    decoded_crc: u32,
}

impl Record {
    fn decode(at: &mut Cursor<'_>) -> Result<Record, &'static str> {
        let kind = at.u8().ok_or(SHORT)?;
        if kind == PRIMER {
            return Ok(Record::Primer(PrimerId(at.array().ok_or(SHORT)?)));
        }
        let from_parent = kind & FROM_PARENT != 0;
        let model = match kind & WITH_MODEL {
            0 => 0,
            _ => at.u8().filter(|&k| k != 0).ok_or("a model has no number")?,
        };
        let record = BlockRecord {
            codec: CodecId::from_u8(kind & !FLAGS).ok_or("unknown codec")?,
            model,
            from_parent,
            parent: at
                .varint()
                .and_then(|p| u16::try_from(p).ok())
                .ok_or("start state out of range")?,
            delta: at.zigzag().ok_or(FAR)?,
            len: at.varint32().ok_or(SHORT)?,
            missing: at.varint32().ok_or(SHORT)?,
            payload_crc: at.u32().ok_or(SHORT)?,
            decoded_crc: at.u32().ok_or(SHORT)?,
        };
        if from_parent && record.parent == 0 {
            return Err("a cold block of a start state says that it is not");
        }
        Ok(Record::Block(record))
    }
}

fn payloads(entries: &[StartEntry]) -> impl Iterator<Item = &BlockEntry> {
    entries.iter().filter_map(|entry| match entry {
        StartEntry::Block { payload, .. } => Some(payload),
        StartEntry::Primer(_) => None,
    })
}

/// A table in the making: every state is made of earlier ones, and of few of them.
#[derive(Debug, Default)]
pub(super) struct Builder {
    entries: Vec<StartEntry>,
    /// Blocks that each state is made of, and their decoded bytes.
    made_of: Vec<(u8, u32)>,
}

impl Builder {
    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }

    /// Adds a state and answers its number; an error says why there can be no such state.
    pub(super) fn push(&mut self, entry: StartEntry) -> Result<u16, &'static str> {
        let (depth, bytes) = match &entry {
            // A primer may be as long as all key blocks together, so none come after it.
            StartEntry::Primer(_) => (MAX_START_DEPTH, 0),
            StartEntry::Block { parent, payload } => {
                if payload.visible_len != payload.decoded_len {
                    return Err("a start state is made of whole blocks");
                }
                if payload.model.is_some() && *parent != 0 {
                    return Err("a block behind a start state needs a model to make another");
                }
                if payload.is_lost() {
                    return Err("a start state is made of a lost block");
                }
                if payload.start != 0 && payload.start != *parent {
                    return Err("a block of a start state was coded from another one");
                }
                let (depth, bytes) = match usize::from(*parent).checked_sub(1) {
                    None => (0, 0),
                    Some(at) => *self
                        .made_of
                        .get(at)
                        .ok_or("a start state is made of a later one")?,
                };
                (depth + 1, payload.decoded_len.saturating_add(bytes))
            }
        };
        if depth > MAX_START_DEPTH || bytes > MAX_START_BYTES {
            return Err("a start state is made of too many blocks");
        }
        if self.entries.len() >= MAX_STARTS {
            return Err("a segment has at most 65535 start states");
        }
        self.entries.push(entry);
        self.made_of.push((depth, bytes));
        Ok(self.entries.len() as u16)
    }

    /// The first `len` states as a table.
    pub(super) fn finish_first(mut self, len: u16) -> Starts {
        self.entries.truncate(len.into());
        self.finish()
    }

    fn finish(self) -> Starts {
        if self.entries.is_empty() {
            return Starts::default();
        }
        Starts::new(self.entries)
    }
}

#[cfg(test)]
#[path = "starts_tests.rs"]
mod tests;
