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

use std::cell::{Cell, RefCell};

use super::contexts::CONTEXTS;
use super::kernels::Kernel;

/// Size of a huge page.
#[cfg(target_os = "linux")]
const HUGE: usize = 2 << 20;

/// Buckets of each context's region as powers of two: by how many values the context takes.
pub(super) type Sizes = [u8; CONTEXTS];

/// Blocks up to this many bytes, coded cold, have regions smaller by [`LESS`] powers of two: clearing them is most of their work.
const SHORT: usize = 8192;
const LESS: u32 = 3;

/// Buckets from which a table is worth keeping for the next one: the first bank's of blocks that are not short.
const LARGE: usize = 1 << 17;

/// Largest count of a slot.
pub(super) const COUNT_LIMIT: u32 = 127;

/// A fresh slot: even odds, an empty history, nothing seen.
const FRESH: u32 = 0x8000_0100;

/// One cache line of slots.
#[derive(Clone, Copy)]
#[repr(C, align(64))]
pub(super) struct Bucket(pub(super) [u32; 16]);

const EMPTY: Bucket = Bucket([FRESH; 16]);

thread_local! {
    /// Buckets of a dropped table: the system takes about as long to give cleared memory as to copy a table into it.
    static SPARE: RefCell<Vec<Bucket>> = const { RefCell::new(Vec::new()) };
    /// Whether this thread's table has become a start state's, so that it will need another one.
    static WANTED: Cell<bool> = const { Cell::new(false) };
}

/// Bytes of the spare table of this thread.
pub(super) fn spare_memory() -> usize {
    SPARE.with_borrow(|spare| spare.capacity() * size_of::<Bucket>())
}

/// This thread keeps the next table that it drops, for its own next one.
pub(super) fn want_spare() {
    WANTED.set(true);
}

/// Gives back the spare table of this thread, and keeps none any more.
pub(super) fn forget_spare() {
    WANTED.set(false);
    SPARE.set(Vec::new());
}

/// The regions of all contexts, one after another.
pub(super) struct Slots {
    buckets: Vec<Bucket>,
    /// Each region's first bucket, and how far a hash is shifted to choose one.
    base: [u32; CONTEXTS],
    shift: [u32; CONTEXTS],
}

impl Slots {
    pub(super) fn new() -> Self {
        Slots {
            buckets: Vec::new(),
            base: [0; CONTEXTS],
            shift: [31; CONTEXTS],
        }
    }

    /// Forgets everything and prepares regions for a cold block of `len` bytes.
    pub(super) fn reset(&mut self, sizes: &Sizes, len: usize) {
        let less = if len <= SHORT { LESS } else { 0 };
        let mut end = 0;
        for c in 0..CONTEXTS {
            let bits = u32::from(sizes[c]) - less;
            self.base[c] = end;
            self.shift[c] = 32 - bits;
            end += 1 << bits;
        }
        self.allocate(end as usize);
        self.buckets.clear();
        self.buckets.resize(end as usize, EMPTY);
    }

    pub(super) fn copy_from(&mut self, other: &Self) {
        (self.base, self.shift) = (other.base, other.shift);
        self.allocate(other.buckets.len());
        self.buckets.clone_from(&other.buckets);
    }

    /// Bytes that the buckets take.
    pub(super) fn memory(&self) -> usize {
        self.buckets.capacity() * size_of::<Bucket>()
    }

    /// Makes room for `n` buckets, in huge pages where the system has them: nearly every look-up is on another page.
    fn allocate(&mut self, n: usize) {
        if self.buckets.capacity() >= n {
            return;
        }
        if n >= LARGE {
            WANTED.set(false);
            self.buckets = SPARE.take();
        }
        if self.buckets.capacity() >= n {
            return;
        }
        self.buckets = Vec::with_capacity(n);
        #[cfg(target_os = "linux")]
        {
            let from = self.buckets.as_ptr() as usize;
            let start = from.next_multiple_of(HUGE);
            let end = (from + n * size_of::<Bucket>()) / HUGE * HUGE;
            if start < end {
                let at = std::ptr::without_provenance_mut(start);
                // SAFETY: the range lies within this allocation, and the advice changes nothing but speed. A system that cannot
                // follow it says so, which does not matter.
                let _ = unsafe {
                    rustix::mm::madvise(at, end - start, rustix::mm::Advice::LinuxHugepage)
                };
            }
        }
    }

    /// The bucket of `hash` in the region of context `c`: the one that carries its checksum, or the less used of the
    /// two candidates, emptied.
    #[inline(always)]
    pub(super) fn find(&mut self, c: usize, hash: u32) -> u32 {
        let first = (self.base[c] + (hash >> self.shift[c])) as usize;
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

    /// The buckets of all contexts' hashes.
    #[inline(always)]
    pub(super) fn find_all<K: Kernel>(
        &mut self,
        k: K,
        hashes: &[u32; CONTEXTS],
        out: &mut [u32; CONTEXTS],
    ) {
        let mut first = [0; CONTEXTS];
        for c in 0..CONTEXTS {
            out[c] = self.base[c] + (hashes[c] >> self.shift[c]);
            first[c] = out[c] * 16;
        }
        let found = k.gather(self.flat(), &first);
        let mut missed = 0u32;
        for c in 0..CONTEXTS {
            let check = (hashes[c] & 0xffff) << 16 | 1;
            missed |= u32::from(found[c] != check) << c;
        }
        while missed != 0 {
            let c = missed.trailing_zeros() as usize;
            missed &= missed - 1;
            out[c] = self.find(c, hashes[c]);
        }
    }

    /// All words, 16 a bucket.
    #[inline(always)]
    fn flat(&self) -> &[u32] {
        // SAFETY: a bucket is 16 words without padding.
        unsafe { std::slice::from_raw_parts(self.buckets.as_ptr().cast(), self.buckets.len() * 16) }
    }

    /// Asks for the buckets of all contexts' hashes ahead of [`Slots::find`].
    #[inline(always)]
    pub(super) fn prefetch<K: Kernel>(&self, k: K, hashes: &[u32; CONTEXTS]) {
        for (c, hash) in hashes.iter().enumerate() {
            let first = (self.base[c] + (hash >> self.shift[c])) as usize;
            if let Some(bucket) = self.buckets.get(first) {
                k.prefetch(bucket);
            }
        }
    }

    /// Slot `node` of every context's bucket.
    #[inline(always)]
    pub(super) fn read<K: Kernel>(
        &self,
        k: K,
        buckets: &[u32; CONTEXTS],
        node: usize,
    ) -> [u32; CONTEXTS] {
        let mut at = [0; CONTEXTS];
        for c in 0..CONTEXTS {
            at[c] = buckets[c] * 16 + (node as u32 & 15);
        }
        k.gather(self.flat(), &at)
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

impl Drop for Slots {
    fn drop(&mut self) {
        // Where the thread is ending there is nothing to keep it for.
        if self.buckets.capacity() >= LARGE && WANTED.try_with(Cell::take) == Ok(true) {
            let _ = SPARE.try_with(|spare| spare.replace(std::mem::take(&mut self.buckets)));
        }
    }
}

/// How far to move after so many bits: 65536 / (n + 1.6).
pub(super) const fn rates<const N: usize>() -> [u16; N] {
    let mut out = [0; N];
    let mut n = 0;
    while n < N {
        out[n] = (655360 / (10 * n + 16)) as u16;
        n += 1;
    }
    out
}

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

#[cfg(test)]
mod tests {
    use super::*;

    fn table() -> Slots {
        let mut slots = Slots::new();
        slots.reset(&[14; CONTEXTS], 1 << 16);
        slots
    }

    #[test]
    fn a_thread_whose_table_became_a_state_keeps_the_next_one_that_it_drops() {
        forget_spare();
        drop(table());
        assert_eq!(spare_memory(), 0);
        let [first, second] = [table(), table()];
        let (at, memory) = (first.buckets.as_ptr(), first.memory());
        want_spare();
        let mut small = Slots::new();
        small.reset(&[10; CONTEXTS], 1 << 16);
        drop(small);
        assert_eq!(spare_memory(), 0, "too small to be kept");
        drop(first);
        assert!(spare_memory() >= memory);
        let kept = spare_memory();
        drop(second);
        assert_eq!(spare_memory(), kept, "one is enough");
        let mut small = Slots::new();
        small.reset(&[10; CONTEXTS], 1 << 16);
        assert_eq!(spare_memory(), kept, "too large for it");
        let third = table();
        assert_eq!((third.buckets.as_ptr(), spare_memory()), (at, 0));
        assert!(third.buckets.iter().all(|b| b.0 == EMPTY.0));
        want_spare();
        drop(third);
        forget_spare();
        assert_eq!(spare_memory(), 0);
    }
}
