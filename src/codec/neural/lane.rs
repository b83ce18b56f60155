//! What one lane knows about its past: previous bytes, words, fields, matches and the alignment pointer.

use super::kernels::Kernel;
use super::plan::{Kind, Plan};
use super::predictor::PAIR;

/// Fields remembered per line.
const FIELDS: usize = 64;
/// Agreement that (re-)aims the alignment pointer.
const AIM: usize = 6;
/// Agreement that starts a match.
const MATCH: usize = 5;
/// Entries of each hash table of positions.
const HASH_BITS: u32 = 17;

/// No position.
pub(super) const NONE: u32 = u32::MAX;

/// The past of one lane.
#[derive(Clone)]
pub(super) struct Lane {
    /// Where its past begins: lane 0 follows what was seen before the block, the others know nothing.
    pub(super) begin: usize,
    /// Position of its first byte, and how many bytes it has.
    pub(super) start: usize,
    pub(super) len: usize,
    /// How many of its bytes are done.
    pub(super) t: usize,
    /// The last eight bytes, the newest lowest.
    pub(super) past: u64,
    /// Hash of the letters and digits since the last other byte, and of the word before.
    pub(super) word: u32,
    pub(super) word_before: u32,
    /// Text: start of this line and of the line before (block positions), and the line's field.
    pub(super) line: usize,
    pub(super) line_above: usize,
    pub(super) field: usize,
    pub(super) field_start: usize,
    pub(super) line_head: u32,
    pub(super) field_before: u32,
    fields: [u32; FIELDS],
    fields_above: [u32; FIELDS],
    second_fields_above: [u32; FIELDS],
    /// Followed position of the longest recent match and its length.
    pub(super) matched: u32,
    pub(super) match_len: u32,
    /// The alignment pointer, misses on it, and steps since it was aimed.
    pub(super) aligned: u32,
    pub(super) misses: u32,
    pub(super) followed: u32,
    /// Whether the last guesses were right, the newest lowest.
    pub(super) outcomes: u32,
}

impl Lane {
    pub(super) fn new(start: usize, len: usize) -> Self {
        Lane {
            begin: start,
            start,
            len,
            t: 0,
            past: 0,
            word: 0,
            word_before: 0,
            line: start,
            line_above: start,
            field: 0,
            field_start: start,
            line_head: 0,
            field_before: 0,
            fields: [NONE; FIELDS],
            fields_above: [NONE; FIELDS],
            second_fields_above: [NONE; FIELDS],
            matched: NONE,
            match_len: 0,
            aligned: NONE,
            misses: 0,
            followed: 0,
            outcomes: 0,
        }
    }

    /// The byte `back` positions before `pos`; 0 before the lane's past.
    #[inline(always)]
    pub(super) fn byte(&self, block: &[u8], pos: usize, back: usize) -> u8 {
        if back <= pos - self.begin {
            block[pos - back]
        } else {
            0
        }
    }

    /// Position in the line above of the same place in the same field, if there is one.
    #[inline(always)]
    pub(super) fn field_above(&self, pos: usize) -> Option<usize> {
        let f = self.field.min(FIELDS - 1);
        let above = self.fields_above[f];
        if above == NONE {
            return None;
        }
        let at = above as usize + (pos - self.field_start);
        let end = self.fields_above.get(f + 1).copied().unwrap_or(NONE);
        // Stay at the field's closing separator.
        let last = if end == NONE { self.line } else { end as usize };
        Some(at.min(last.saturating_sub(1)))
    }

    /// Position of the same place in the same field two lines above, which it may lie behind.
    #[inline(always)]
    pub(super) fn second_field_above(&self, pos: usize) -> Option<usize> {
        let above = self.second_fields_above[self.field.min(FIELDS - 1)];
        if above == NONE {
            return None;
        }
        let at = above as usize + (pos - self.field_start);
        (at < pos).then_some(at)
    }

    /// How far to trust a match of its length, as a number below 28.
    #[inline(always)]
    pub(super) fn match_level(&self) -> u32 {
        (self.match_len.min(15) + self.match_len.min(400) / 32).min(27)
    }

    /// Goes on as the first lane of a block, with `len` bytes at `start`: it knows all that was seen.
    pub(super) fn resume(&mut self, start: usize, len: usize) {
        self.begin = 0;
        self.start = start;
        self.len = len;
        self.t = 0;
        self.matched = NONE;
        self.match_len = 0;
    }

    fn line_ends(&mut self, next: usize) {
        self.line_above = self.line;
        self.line = next;
        self.second_fields_above = self.fields_above;
        self.fields_above = self.fields;
        self.fields = [NONE; FIELDS];
        self.field = 0;
        self.field_start = next;
        self.fields[0] = next as u32;
        self.line_head = 0;
        self.field_before = 0;
    }
}

/// Where earlier agreements are found, shared by all lanes of a block.
pub(super) struct Finder {
    matches: Vec<u32>,
    aims: Vec<u32>,
    /// Per position: where the alignment pointer stood.
    pub(super) trail: Vec<u32>,
    /// Bytes before the block, and the length of every lane but the last.
    seen: usize,
    whole: usize,
    /// Up to which position the bytes of each lane are known.
    done: [usize; PAIR],
}

const _: () = assert!(PAIR == 2);

impl Finder {
    pub(super) fn new() -> Self {
        Finder {
            matches: Vec::new(),
            aims: Vec::new(),
            trail: Vec::new(),
            seen: 0,
            whole: 1,
            done: [0; PAIR],
        }
    }

    /// Forgets everything and prepares for a block of `len` bytes.
    pub(super) fn reset(&mut self) {
        for table in [&mut self.matches, &mut self.aims] {
            table.clear();
            table.resize(1 << HASH_BITS, NONE);
        }
        self.trail.clear();
    }

    pub(super) fn copy_from(&mut self, other: &Self) {
        self.matches.clone_from(&other.matches);
        self.aims.clone_from(&other.aims);
        self.trail.clone_from(&other.trail);
    }

    /// Prepares for a block of `len` bytes after `seen` ones, in lanes of `whole` bytes.
    pub(super) fn begin(&mut self, seen: usize, len: usize, whole: usize) {
        let more = (seen + len).saturating_sub(self.trail.len());
        self.trail.reserve_exact(more);
        self.trail.resize(seen + len, NONE);
        self.seen = seen;
        self.whole = whole.max(1);
        for (l, done) in self.done.iter_mut().enumerate() {
            *done = seen + l * whole;
        }
    }

    /// Bytes that the tables take.
    pub(super) fn memory(&self) -> usize {
        4 * (self.matches.len() + self.aims.len() + self.trail.capacity())
    }

    /// Up to where bytes are known from position `q` on, as far as its lane goes: `q` itself if it is not.
    #[inline(always)]
    pub(super) fn known(&self, q: usize) -> usize {
        if q < self.seen {
            return self.seen;
        }
        self.done[usize::from(q - self.seen >= self.whole)].max(q)
    }

    /// Whether a pointer may stand at `q`.
    #[inline(always)]
    fn is_known(&self, q: u32) -> bool {
        q != NONE && self.known(q as usize) > q as usize
    }

    /// How many bytes before `q` equal those before `p`, within their lanes, at most `max`.
    #[inline(never)]
    fn agreement(&self, block: &[u8], q: usize, p: usize, begin: usize, max: usize) -> usize {
        let past = if q < self.seen + self.whole {
            q
        } else {
            (q - self.seen) % self.whole
        };
        let room = past.min(p - begin).min(max);
        (1..=room)
            .take_while(|&j| block[q - j] == block[p - j])
            .count()
    }

    /// Asks for what [`Finder::step`] will look up if `lane`'s next byte is `byte`.
    #[inline(always)]
    pub(super) fn prefetch<K: Kernel>(&self, k: K, lane: &Lane, byte: u8) {
        let past = lane.past << 8 | u64::from(byte);
        for (table, n) in [(&self.aims, AIM), (&self.matches, MATCH)] {
            if let Some(entry) = table.get(key(past, n)) {
                k.prefetch(entry);
            }
        }
    }

    /// Lane `l` has its next byte: follow the pointers, aim those that are lost, and let others find this place.
    #[inline(always)]
    pub(super) fn step(&mut self, lane: &mut Lane, l: usize, block: &[u8], plan: &Plan) {
        let pos = lane.start + lane.t;
        lane.t += 1;
        self.done[l] = pos + 1;
        let y = block[pos];
        lane.past = lane.past << 8 | u64::from(y);
        if OF_WORDS[usize::from(y)] {
            lane.word = (lane.word.wrapping_add(u32::from(y))).wrapping_mul(0x2f0b_4c47);
        } else if lane.word != 0 {
            lane.word_before = lane.word;
            lane.word = 0;
        }
        if plan.kind == Kind::Text {
            lane.text_byte(y, pos);
        }
        self.follow(lane, block, pos, y);
        if lane.t == lane.len {
            return;
        }
        let next = pos + 1;
        if next >= lane.begin + AIM {
            let key = key(lane.past, AIM);
            let q = self.aims[key];
            self.aims[key] = next as u32;
            let lost = lane.aligned == NONE || lane.misses > 0;
            if lost
                && self.is_known(q)
                && self.agreement(block, q as usize, next, lane.begin, AIM) >= AIM
            {
                lane.aligned = q;
                lane.misses = 0;
                lane.followed = 0;
            }
        }
        if next >= lane.begin + MATCH {
            let key = key(lane.past, MATCH);
            let q = self.matches[key];
            self.matches[key] = next as u32;
            if lane.matched == NONE && self.is_known(q) {
                let n = self.agreement(block, q as usize, next, lane.begin, 32);
                if n >= MATCH {
                    lane.matched = q;
                    lane.match_len = n as u32;
                }
            }
        }
    }

    #[inline(always)]
    fn follow(&mut self, lane: &mut Lane, block: &[u8], pos: usize, y: u8) {
        if lane.matched != NONE {
            let right = block[lane.matched as usize] == y;
            lane.matched += 1;
            lane.match_len = (lane.match_len + 1).min(65535);
            if !right || !self.is_known(lane.matched) {
                lane.matched = NONE;
                lane.match_len = 0;
            }
        }
        self.trail[pos] = lane.aligned;
        if lane.aligned != NONE {
            if block[lane.aligned as usize] == y {
                lane.misses = lane.misses.saturating_sub(1);
            } else {
                lane.misses += 2;
            }
            lane.followed += 1;
            lane.aligned += 1;
            if !self.is_known(lane.aligned) {
                lane.aligned = NONE;
            }
        }
    }
}

impl Lane {
    fn text_byte(&mut self, y: u8, pos: usize) {
        if y == b'\n' {
            self.line_ends(pos + 1);
            return;
        }
        if pos - self.line < 8 {
            self.line_head =
                (self.line_head.wrapping_add(u32::from(y) + 1)).wrapping_mul(0x3d4d_51cb);
        }
        if matches!(y, b',' | b';' | b'\t' | b' ' | b'|' | b'=') {
            self.field_before = self.word_before;
            self.field = (self.field + 1).min(FIELDS - 1);
            self.field_start = pos + 1;
            self.fields[self.field] = (pos + 1) as u32;
        }
    }
}

/// Which bytes words are made of.
static OF_WORDS: [bool; 256] = {
    let mut out = [false; 256];
    let mut byte = 0;
    while byte < 256 {
        out[byte] = byte >= 128 || (byte as u8).is_ascii_alphanumeric();
        byte += 1;
    }
    out
};

/// Hash of the newest `n` bytes of `past`.
#[inline(always)]
fn key(past: u64, n: usize) -> usize {
    ((past << (64 - 8 * n)).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> (64 - HASH_BITS)) as usize
}
