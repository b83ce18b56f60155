//! The guess: the one byte that most likely comes next, and how likely it is.
//!
//! A likely guess is coded with a single yes or no. Only where it is unsure or wrong the byte's bits are predicted from all
//! contexts; they then know what the guess was. Much of a recording repeats, so most of its bytes cost one small prediction
//! instead of eight large ones.

use super::kernels::Kernel;
use super::lane::{Lane, NONE};
use super::plan::{Kind, Plan};
use super::predictor::PAIR;
use super::tables::{odds, squash};

/// Probability (of 65536) from which a guess is coded by itself.
pub(super) const SURE: i32 = 64_000;
/// What a guess's probability is mixed from: tables, and a constant.
const TABLES: usize = 7;
pub(super) const INPUTS: usize = TABLES + 1;
/// Cells of each table as a power of two.
const BITS: u32 = 14;
/// Columns (or fields and places in them) whose last eight outcomes are remembered.
const COLUMNS: usize = 1024;
/// Rows of weights: by where the guess comes from and how reliable that was.
const ROWS: usize = 96;
/// Largest count of a cell.
pub(super) const COUNT_LIMIT: u32 = 255;
/// The cell in the place of an eighth table's, which nobody uses.
const NO_CELL: u32 = (TABLES as u32) << BITS;
/// The constant.
pub(super) const ONE: i32 = 256;
/// First weight of each table, 1.0 being 2^16, and the learning rate as a shift.
const WEIGHT: i32 = 14_418;
const RATE_SHIFT: u32 = 15;

const fn rates() -> [u32; COUNT_LIMIT as usize + 1] {
    let mut out = [0; COUNT_LIMIT as usize + 1];
    let mut n = 0;
    while n < out.len() {
        out[n] = (655_360 / (10 * n + 16)) as u32;
        n += 1;
    }
    out
}

/// 65536 / (n + 1.6).
static RATE: [u32; COUNT_LIMIT as usize + 1] = rates();

/// Where a guess comes from.
#[derive(Clone, Copy)]
enum Source {
    /// The match.
    Match = 0,
    /// The alignment pointer.
    Aligned = 1,
    /// The record or field above.
    Above = 2,
}

/// What is likely to come next in a lane.
#[derive(Clone, Copy, Default)]
pub(super) struct Guess {
    /// The byte, behind a leading 1; 0: no guess.
    pub(super) byte: u32,
    /// Its probability (16 bits).
    pub(super) p: i32,
    /// It was coded by itself, and wrong.
    pub(super) wrong: bool,
    /// It is the lane's last one once more, and being right again changes nothing.
    again: bool,
    row: u32,
    column: u32,
}

/// What a lane's last guess was mixed from.
#[derive(Clone, Copy, Default)]
struct Evidence {
    /// What it was about: the cells follow from that.
    values: [u64; TABLES],
    cells: [u32; INPUTS],
    x: [i32; INPUTS],
    row: u32,
    p: i32,
    /// How often cells or weights had changed when being right changed nothing any more; 0: that was not so.
    settled: u64,
}

impl Guess {
    /// Whether it is coded by itself.
    #[inline(always)]
    pub(super) fn is_sure(&self) -> bool {
        self.byte != 0 && self.p >= SURE
    }

    /// The guess and how far to trust it, as a number below 64.
    #[inline(always)]
    pub(super) fn trust(&self) -> u32 {
        let level = (odds(self.p.max(1)) + 3072) >> 8;
        level.clamp(0, 31) as u32 * 2 + u32::from(self.wrong)
    }
}

/// What a block's guesses have learnt.
pub(super) struct Guesses {
    /// Probability of a right guess (upper 22 bits) and how often seen (lower 10), table after table.
    cells: Vec<u32>,
    weights: Vec<[i32; INPUTS]>,
    columns: Vec<u8>,
    /// How often cells or weights changed.
    changes: u64,
    last: [Evidence; PAIR],
}

impl Guesses {
    pub(super) fn new() -> Self {
        Guesses {
            cells: Vec::new(),
            weights: Vec::new(),
            columns: Vec::new(),
            changes: 0,
            last: Default::default(),
        }
    }

    pub(super) fn reset(&mut self) {
        self.cells.clear();
        self.cells.resize(NO_CELL as usize + 1, 1 << 31);
        let mut weights = [WEIGHT; INPUTS];
        weights[TABLES] = 0;
        self.weights.clear();
        self.weights.resize(ROWS, weights);
        self.columns.clear();
        self.columns.resize(COLUMNS, 0);
        self.changes += 1;
    }

    pub(super) fn copy_from(&mut self, other: &Self) {
        self.cells.clone_from(&other.cells);
        self.weights.clone_from(&other.weights);
        self.columns.clone_from(&other.columns);
        self.changes += 1;
    }

    /// Bytes that it takes.
    pub(super) fn memory(&self) -> usize {
        size_of_val(&self.cells[..]) + size_of_val(&self.weights[..]) + self.columns.len()
    }

    /// What comes next in `lane`, without its probability, which [`Guesses::weigh`] finds.
    #[inline(always)]
    pub(super) fn make(&mut self, lane: &Lane, l: usize, block: &[u8], plan: &Plan) -> Guess {
        let pos = lane.start + lane.t;
        let at = |q: u32| (q != NONE).then(|| block[q as usize]);
        let (matched, aligned) = (at(lane.matched), at(lane.aligned));
        let (above, column) = match plan.kind {
            Kind::Binary if plan.stride > 0 => (
                (plan.stride <= pos - lane.begin).then(|| block[pos - plan.stride]),
                (pos + plan.phase) % plan.stride,
            ),
            Kind::Binary => (None, 0),
            Kind::Text => (
                lane.field_above(pos).map(|q| block[q]),
                lane.field * 32 + (pos - lane.field_start).min(31),
            ),
        };
        let (source, byte) = match (matched, aligned, above) {
            (Some(byte), _, _) if lane.match_len >= 12 => (Source::Match, byte),
            (_, Some(byte), _) if lane.misses < 2 => (Source::Aligned, byte),
            (Some(byte), _, _) => (Source::Match, byte),
            (_, Some(byte), _) => (Source::Aligned, byte),
            (_, _, Some(byte)) => (Source::Above, byte),
            _ => return Guess::default(),
        };
        let reliability = match source {
            Source::Match => lane.match_level(),
            Source::Aligned => {
                lane.misses.min(3) * 8 + (32 - lane.followed.min(127).leading_zeros())
            }
            Source::Above => 0,
        };
        let agrees = |other: Option<u8>| other.map_or(0, |o| if o == byte { 1u64 } else { 2 });
        let agree = agrees(matched) + 3 * agrees(aligned) + 9 * agrees(above);
        let (s, e, col) = (source as u64, u64::from(byte), column as u64);
        let column = column % COLUMNS;
        let outcomes = u64::from(self.columns[column]);
        let values: [u64; TABLES] = [
            s | u64::from(reliability) << 2 | agree << 8,
            col | e << 16 | agree << 24,
            e | (lane.past & 0xffff) << 8,
            u64::from(lane.outcomes & 0xfff) | s << 16 | agree << 18,
            col | outcomes << 16,
            e | lane.past << 8 & 0xff_ffff_ff00,
            u64::from(lane.word) | (lane.past & 255) << 32 | e << 40,
        ];
        let row = s as u32 * 32 + reliability;
        let last = &mut self.last[l];
        let again = last.settled == self.changes && last.row == row && last.values == values;
        if !again {
            last.values = values;
            last.row = row;
            last.settled = 0;
            for (i, (cell, &value)) in last.cells.iter_mut().zip(&values).enumerate() {
                *cell = place(i, value);
            }
            last.cells[TABLES] = NO_CELL;
        }
        Guess {
            byte: u32::from(byte) | 256,
            p: last.p,
            wrong: false,
            again,
            row,
            column: column as u32,
        }
    }

    /// Asks for what [`Guesses::weigh`] will look up about lane number `l`.
    #[inline(always)]
    pub(super) fn prefetch<K: Kernel>(&self, k: K, l: usize) {
        for &at in &self.last[l].cells {
            if let Some(cell) = self.cells.get(at as usize) {
                k.prefetch(cell);
            }
        }
    }

    /// Finds the probability of `guess`, just made for lane number `l`, if there is one.
    #[inline(always)]
    pub(super) fn weigh<K: Kernel>(&mut self, k: K, l: usize, guess: &mut Guess) {
        if guess.byte == 0 || guess.again {
            return;
        }
        let last = &mut self.last[l];
        let weights = &self.weights[guess.row as usize];
        let (x, dot) = k.weigh(&self.cells, &last.cells, weights);
        last.x = x;
        last.p = squash((dot >> 16) as i32).clamp(16, 65535);
        guess.p = last.p;
    }

    /// Learns whether `guess` of lane number `l`, its last one, if there was one, was right.
    #[inline(always)]
    pub(super) fn learn<K: Kernel>(
        &mut self,
        k: K,
        (lane, l): (&mut Lane, usize),
        guess: &Guess,
        right: bool,
    ) {
        if guess.byte == 0 {
            return;
        }
        let y = u32::from(right);
        // One that was coded as wrong, and is right after all, is no encoder's; meanwhile another lane may have learnt.
        let plainly = right && !guess.wrong;
        debug_assert!(!guess.again || guess.p >= SURE);
        if !(guess.again && plainly) {
            let last = &mut self.last[l];
            let cells_changed = k.learn(&mut self.cells, &last.cells, y, &RATE);
            let error = (y << 16) as i32 - guess.p;
            let mut steps = 0;
            for (w, &x) in self.weights[guess.row as usize].iter_mut().zip(&last.x) {
                let step = (x * error + (1 << (RATE_SHIFT - 1))) >> RATE_SHIFT;
                *w = (*w + step).clamp(-(1 << 20), 1 << 20);
                steps |= step;
            }
            let changed = cells_changed || steps != 0;
            self.changes += u64::from(changed);
            last.settled = if plainly && !changed { self.changes } else { 0 };
        }
        lane.outcomes = lane.outcomes << 1 | y;
        let outcomes = &mut self.columns[guess.column as usize];
        *outcomes = *outcomes << 1 | y as u8;
    }
}

/// The cell of `value` in table `i`.
#[inline(always)]
fn place(i: usize, value: u64) -> u32 {
    let x = value
        .wrapping_add(i as u64 + 1)
        .wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let hash = (x ^ x >> 29).wrapping_mul(0xd6e8_feb8_6659_fd93) >> (64 - BITS);
    hash as u32 | (i as u32) << BITS
}
