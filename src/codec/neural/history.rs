//! Indirect statistics: what followed, in each context, after a bit history such as the one in its slot.
//!
//! A context seen twice has no reliable counter, but how often such a context held in this block is known well.

/// Histories told apart: 128 short ones (up to six bits, exact) and 128 recent sevens in four ages.
pub(super) const HISTORIES: usize = 128 + 128 * 4;

/// The history of a slot.
#[inline(always)]
pub(super) fn history(slot: u32) -> usize {
    let h = (slot >> 8) & 0xff;
    let n = slot & 0x7f;
    if h < 128 {
        h as usize
    } else {
        let age = u32::from(n >= 12) + u32::from(n >= 30) + u32::from(n >= 100);
        (128 + (h & 127) * 4 + age) as usize
    }
}

/// Per context and history: probability of a 1 (upper 22 bits) and how often seen (lower 10).
pub(super) struct Histories {
    cells: Vec<u32>,
}

const LIMIT: u32 = 255;

impl Histories {
    pub(super) fn new() -> Self {
        Histories { cells: Vec::new() }
    }

    pub(super) fn reset(&mut self, contexts: usize, start: &[u32; HISTORIES]) {
        self.cells.clear();
        for _ in 0..contexts {
            self.cells.extend_from_slice(start);
        }
    }

    /// Probability (16 bits) of a 1.
    #[inline(always)]
    pub(super) fn p(&self, context: usize, history: usize) -> u32 {
        self.cells[context * HISTORIES + history] >> 16
    }

    #[inline(always)]
    pub(super) fn update(&mut self, context: usize, history: usize, y: u32) {
        let cell = &mut self.cells[context * HISTORIES + history];
        *cell = updated(*cell, y, LIMIT);
    }
}

/// A cell (22-bit probability, 10-bit count) after bit `y`.
#[inline(always)]
pub(super) fn updated(cell: u32, y: u32, limit: u32) -> u32 {
    let n = cell & 1023;
    let p = (cell >> 10) as i64;
    let target: i64 = if y != 0 { (1 << 22) - 1 } else { 0 };
    let p = p + ((target - p) * i64::from(RECIPROCAL[n as usize & 1023]) >> 16);
    (p.clamp(1 << 10, (1 << 22) - (1 << 10)) as u32) << 10 | (n + u32::from(n < limit))
}

const fn reciprocals() -> [u16; 1024] {
    let mut out = [0; 1024];
    let mut n = 0;
    while n < 1024 {
        out[n] = (655360 / (10 * n + 16)) as u16;
        n += 1;
    }
    out
}

static RECIPROCAL: [u16; 1024] = reciprocals();

/// A starting table: each history's own frequencies, recent bits counting more, with little confidence.
pub(super) fn start() -> [u32; HISTORIES] {
    let mut out = [1 << 31; HISTORIES];
    for h in 2u32..256 {
        let len = 31 - h.leading_zeros();
        let (mut zeros, mut ones) = (40u32, 40u32);
        for i in (0..len).rev() {
            if (h >> i) & 1 == 1 {
                ones += 100;
                if zeros > 200 {
                    zeros = 100 + zeros / 2;
                }
            } else {
                zeros += 100;
                if ones > 200 {
                    ones = 100 + ones / 2;
                }
            }
        }
        let p = ((u64::from(ones) << 22) / u64::from(ones + zeros)) as u32;
        let cell = p << 10 | 6;
        if h < 128 {
            out[h as usize] = cell;
        } else {
            for age in 0..4 {
                out[128 + (h as usize & 127) * 4 + age] = cell;
            }
        }
    }
    out
}
