//! Indirect statistics: what followed, in each context, after a bit history such as the one in its slot.
//!
//! A context seen twice has no reliable counter, but how often such a context held in this block is known well.

/// Histories told apart: 128 short ones (up to six bits, exact) and 128 recent sevens in four ages.
pub(super) const HISTORIES: usize = 128 + 128 * 4;

/// The history of a slot.
#[inline(always)]
pub(super) fn history(slot: u32) -> u32 {
    // Without branches: which histories come is as unpredictable as the data.
    let h = (slot >> 8) & 0xff;
    let n = slot & 0x7f;
    let recent = h & 127;
    let age = u32::from(n >= 12) + u32::from(n >= 30) + u32::from(n >= 100);
    let long = (h >> 7).wrapping_neg();
    recent + ((128 + recent * 3 + age) & long)
}

/// Per context and history: probability of a 1 (upper 22 bits) and how often seen (lower 10).
pub(super) struct Histories {
    cells: Vec<u32>,
}

impl Histories {
    pub(super) fn new() -> Self {
        Histories { cells: Vec::new() }
    }

    pub(super) fn reset(&mut self, start: &[u32]) {
        self.cells.clear();
        self.cells.extend_from_slice(start);
    }

    pub(super) fn copy_from(&mut self, other: &Self) {
        self.cells.clone_from(&other.cells);
    }

    #[inline(always)]
    pub(super) fn cells(&self) -> &[u32] {
        &self.cells
    }

    #[inline(always)]
    pub(super) fn set(&mut self, at: usize, cell: u32) {
        self.cells[at] = cell;
    }
}

/// A cell (22-bit probability, 10-bit count) after bit `y`.
#[inline(always)]
pub(super) fn updated(cell: u32, y: u32, limit: u32, rate: u32) -> u32 {
    let n = cell & 1023;
    let p = (cell >> 10) as i32;
    let target = (y << 22) as i32 - y as i32;
    // 23 bits by 16 bits, in two halves so that 32 bits suffice.
    let p = p + (((target - p) >> 7) * rate as i32 >> 9);
    (p as u32) << 10 | (n + u32::from(n < limit))
}

/// A table to learn from: each history's own frequencies, recent bits counting more, with little confidence.
#[cfg(test)]
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
