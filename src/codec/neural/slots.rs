//! Hashed, checksummed tables of bit counters: one bucket per (context, half byte), one cache line each.
//!
//! A slot packs what one context knows about the next bit:
//! ```text
//! bits 31..16  probability of a 1 (16 bits), adapting by 1/(n+1.6)
//! bits 15..8   the last up to seven bits behind a leading 1 (0: never used)
//! bits  6..0   n, the number of bits seen, at most COUNT_LIMIT
//! ```
//! A bucket's first word holds its checksum in the upper 16 bits; words 1..=15 are the nodes of the half byte's
//! binary tree. Every context has its own region, so two contexts never share a bucket.

/// Largest count of a slot.
pub(super) const COUNT_LIMIT: u32 = 127;

/// A fresh slot: even odds, nothing seen.
const FRESH: u32 = 0x8000_0000;

/// One cache line of slots.
#[derive(Clone, Copy)]
#[repr(C, align(64))]
pub(super) struct Bucket(pub(super) [u32; 16]);

const EMPTY: Bucket = Bucket([FRESH & 0xffff_0000; 16]);

/// The regions of all contexts, one after another.
pub(super) struct Slots {
    buckets: Vec<Bucket>,
    bits: u32,
}

impl Slots {
    pub(super) fn new() -> Self {
        Slots {
            buckets: Vec::new(),
            bits: 0,
        }
    }

    /// Forgets everything; every one of `contexts` regions then has `2^bits` buckets.
    pub(super) fn reset(&mut self, contexts: usize, bits: u32) {
        self.bits = bits;
        self.buckets.clear();
        self.buckets.resize(contexts << bits, EMPTY);
    }

    /// The bucket of `hash` in the region of context `c`: the one that carries its checksum, or the less used of the
    /// two candidates, emptied.
    #[inline(always)]
    pub(super) fn find(&mut self, c: usize, hash: u32) -> u32 {
        let region = c << self.bits;
        let first = region + (hash >> (32 - self.bits)) as usize;
        let second = first ^ 1;
        let check = (hash & 0xffff).max(1) << 16 | 0;
        if self.buckets[first].0[0] == check {
            return first as u32;
        }
        if self.buckets[second].0[0] == check {
            return second as u32;
        }
        let used = |i: usize| self.buckets[i].0[1] & 0x7f;
        let victim = if used(first) <= used(second) {
            first
        } else {
            second
        };
        self.buckets[victim] = EMPTY;
        self.buckets[victim].0[0] = check;
        victim as u32
    }

    #[inline(always)]
    pub(super) fn slot(&self, bucket: u32, node: usize) -> u32 {
        self.buckets[bucket as usize].0[node & 15]
    }

    #[inline(always)]
    pub(super) fn slot_mut(&mut self, bucket: u32, node: usize) -> &mut u32 {
        &mut self.buckets[bucket as usize].0[node & 15]
    }
}

const fn rates() -> [u16; 128] {
    let mut out = [0; 128];
    let mut n = 0;
    while n < 128 {
        out[n] = (655360 / (10 * n + 16)) as u16;
        n += 1;
    }
    out
}

/// 65536 / (n + 1.6).
pub(super) static RATE: [u16; 128] = rates();

/// The slot after bit `y`.
#[inline(always)]
pub(super) fn updated(slot: u32, y: u32) -> u32 {
    let n = slot & 0x7f;
    let p = (slot >> 16) as i32;
    let target = if y != 0 { 65535 } else { 0 };
    let p =
        (p + (((target - p) * i32::from(RATE[n as usize & 127])) >> 16)).clamp(16, 65520) as u32;
    let h = ((slot >> 8) & 0xff).max(1) * 2 + y;
    let h = if h >= 256 { 128 | (h & 127) } else { h };
    p << 16 | h << 8 | (n + 1).min(COUNT_LIMIT)
}
