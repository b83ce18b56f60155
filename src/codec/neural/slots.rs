//! Hashed, checksummed tables of bit counters: one bucket per (context, half byte), one cache line each.
//!
//! A slot packs what one context knows about the next bit:
//! ```text
//! bits 31..16  probability of a 1 (16 bits), adapting by 1/(n+1.6)
//! bits 15..8   the last up to seven bits behind a leading 1 (1: never used)
//! bits  6..0   n, the number of bits seen, at most COUNT_LIMIT
//! ```
//! A bucket's first word holds its checksum in the upper 16 bits; words 1..=15 are the nodes of the half byte's
//! binary tree. Every context has its own region, so two contexts never share a bucket.

use super::contexts::CONTEXTS;
use super::kernels::Kernel;

/// Largest count of a slot.
pub(super) const COUNT_LIMIT: u32 = 127;

/// A fresh slot: even odds, an empty history, nothing seen.
const FRESH: u32 = 0x8000_0100;

/// One cache line of slots.
#[derive(Clone, Copy)]
#[repr(C, align(64))]
pub(super) struct Bucket(pub(super) [u32; 16]);

const EMPTY: Bucket = Bucket([FRESH; 16]);

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
        let check = (hash & 0xffff) << 16 | 1;
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

    /// Asks for the buckets of all contexts' hashes ahead of [`Slots::find`].
    #[inline(always)]
    pub(super) fn prefetch<K: Kernel>(&self, k: K, hashes: &[u32; CONTEXTS]) {
        for (c, hash) in hashes.iter().enumerate() {
            let first = (c << self.bits) + (hash >> (32 - self.bits)) as usize;
            if let Some(bucket) = self.buckets.get(first) {
                k.prefetch(bucket);
            }
        }
    }

    /// Slot `node` of every context's bucket.
    #[inline(always)]
    pub(super) fn read(&self, buckets: &[u32; CONTEXTS], node: usize, out: &mut [u32; CONTEXTS]) {
        for (out, &bucket) in out.iter_mut().zip(buckets) {
            *out = self.buckets[bucket as usize].0[node & 15];
        }
    }

    /// Puts slots back where [`Slots::read`] took them.
    #[inline(always)]
    pub(super) fn write(
        &mut self,
        buckets: &[u32; CONTEXTS],
        node: usize,
        slots: &[u32; CONTEXTS],
    ) {
        for (&slot, &bucket) in slots.iter().zip(buckets) {
            self.buckets[bucket as usize].0[node & 15] = slot;
        }
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
pub(super) fn updated(slot: u32, rate: u32, y: u32) -> u32 {
    let n = slot & 0x7f;
    let p = (slot >> 16) as i32;
    let target = (65535 * y) as i32;
    let p = (p + (((target - p) * rate as i32) >> 16)) as u32;
    let h = ((slot >> 8) & 0xff) * 2 + y;
    // Keep seven bits and the leading 1.
    let h = (h & 127) | ((h >> 1 | h) & 128);
    p << 16 | h << 8 | (n + u32::from(n < COUNT_LIMIT))
}
