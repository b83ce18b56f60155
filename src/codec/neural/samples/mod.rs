//! Samples: columns of whole numbers in records, and what the bits of the next number are likely to be.
//!
//! Every column has a linear prediction from what came before in it and in its neighbours, and the mean distance of what then came.
//! Logistic distributions around the prediction, one with a quick and one with a slow idea of the distance, give every bit of
//! the number its probability: two inputs of the mixer that need not first count how often which byte comes.

mod find;
mod layout;
mod linear;
mod logistic;

use super::direct::Number;
pub(super) use find::find;
pub(crate) use layout::Layout;
use layout::{Column, MAX_COLUMNS, WIDTH};
use linear::{FRACTION, Linear, TERMS, Terms};
use logistic::Spread;

/// Inputs of the mixer.
pub(super) const INPUTS: usize = 2;
/// Levels of the spread of what is left of a number; 0: unknown.
pub(super) const LEVELS: u32 = 16;
/// A place of the record that belongs to no column.
const NONE: u8 = u8::MAX;
/// How fast the two mean distances, and the mean of the numbers, follow: as shifts.
const PACE: [u32; INPUTS] = [4, 7];
const MEAN_PACE: u32 = 7;
/// First mean distance, with [`FRACTION`] bits.
const FIRST_DISTANCE: i64 = 1 << 16;
/// Largest distance that counts.
const FAR: i64 = 1 << 40;

/// What came in one column of a lane; distances and means have [`FRACTION`] bits.
#[derive(Clone, Copy)]
struct Past {
    /// Whether anything came.
    seen: bool,
    last: i64,
    mean: i64,
    /// How much the numbers changed, the newest first.
    steps: Terms,
    /// Mean distances from the prediction.
    distance: [i64; INPUTS],
}

impl Past {
    const NEW: Past = Past {
        seen: false,
        last: 0,
        mean: 0,
        steps: [0; TERMS],
        distance: [FIRST_DISTANCE; INPUTS],
    };
}

/// What is expected of the number that a lane is at.
#[derive(Clone)]
struct Expected {
    /// Its column; [`NONE`]: nothing is expected.
    column: u8,
    terms: Terms,
    /// The prediction, with [`FRACTION`] bits.
    mean: i64,
    spreads: [Spread; INPUTS],
    /// Whether the lane's current byte is part of it; which one, and the bytes before it.
    active: bool,
    byte: u32,
    known: i64,
    level: u32,
}

/// The columns of a block, and what is known about them.
pub(super) struct Samples {
    layout: Layout,
    /// For each place of the record: four times its column, plus which of the column's bytes it is.
    places: Vec<u8>,
    filters: Vec<Linear>,
    /// Per lane.
    past: Vec<[Past; MAX_COLUMNS]>,
    now: Vec<Expected>,
}

impl Samples {
    pub(super) fn new() -> Self {
        Samples {
            layout: Layout::default(),
            places: Vec::new(),
            filters: Vec::new(),
            past: Vec::new(),
            now: Vec::new(),
        }
    }

    /// Forgets everything, and expects records of `stride` bytes.
    pub(super) fn reset(&mut self, layout: &Layout, stride: usize) {
        self.layout = *layout;
        self.places.clear();
        self.places.resize(stride, NONE);
        for (c, column) in layout.columns().iter().enumerate() {
            for byte in 0..WIDTH as u8 {
                self.places[usize::from(column.at + byte)] = 4 * c as u8 + byte;
            }
        }
        self.filters.clear();
        self.filters.resize(layout.columns().len(), Linear::new());
        self.past.clear();
    }

    pub(super) fn copy_from(&mut self, other: &Self) {
        self.layout = other.layout;
        self.places.clone_from(&other.places);
        self.filters.clone_from(&other.filters);
        self.past.clone_from(&other.past);
    }

    /// Prepares for so many lanes: the first one goes on where the last one ended, the others know how far off predictions are.
    pub(super) fn begin(&mut self, lanes: usize) {
        if self.layout.is_empty() {
            return;
        }
        let before = self.past.pop().unwrap_or([Past::NEW; MAX_COLUMNS]);
        let others = before.map(|b| Past {
            distance: b.distance,
            ..Past::NEW
        });
        self.past.clear();
        self.past.push(before);
        self.past.resize(lanes, others);
        let nothing = Expected {
            column: NONE,
            terms: [0; TERMS],
            mean: 0,
            spreads: [Spread::of(FIRST_DISTANCE); INPUTS],
            active: false,
            byte: 0,
            known: 0,
            level: 0,
        };
        self.now.clear();
        self.now.resize(lanes, nothing);
    }

    /// Whether there are no columns; then nothing else may be asked.
    #[inline(always)]
    pub(super) fn is_empty(&self) -> bool {
        self.layout.is_empty()
    }

    /// Bytes of memory that it takes.
    pub(super) fn memory(&self) -> usize {
        self.filters.len() * Linear::MEMORY
            + size_of_val(&self.past[..])
            + size_of_val(&self.now[..])
    }

    /// Before lane `l`'s byte at `pos` of `block`, which is at `place` of its record. `begin`: where the lane's past begins.
    #[inline(always)]
    pub(super) fn begin_byte(
        &mut self,
        l: usize,
        place: usize,
        block: &[u8],
        pos: usize,
        begin: usize,
    ) {
        let now = &mut self.now[l];
        now.active = false;
        now.level = 0;
        let at = self.places[place];
        let (c, byte) = (usize::from(at / 4), u32::from(at % 4));
        if at == NONE || !self.past[l][c].seen || pos - begin < byte as usize {
            return;
        }
        let column = self.layout.columns()[c];
        if now.column != at / 4 {
            let past = &self.past[l][c];
            now.column = at / 4;
            terms(&self.past[l], self.layout.columns(), c, &mut now.terms);
            let step = self.filters[c].predict(&now.terms);
            now.mean = (past.last << FRACTION) + step;
            now.spreads = past.distance.map(Spread::of);
        }
        let left = 8 * (WIDTH as u32 - 1 - byte);
        let done = &block[pos - byte as usize..pos];
        now.active = true;
        now.byte = byte;
        now.known = if column.big {
            value(done, true) << (left + 8)
        } else {
            unsigned(done, false)
        };
        let unit = if column.big { left } else { 8 * byte };
        let bits = 64 - self.past[l][c].distance[1].leading_zeros();
        now.level = (bits + 8)
            .saturating_sub(FRACTION + unit)
            .clamp(1, LEVELS - 1);
    }

    /// Whether `place` is part of a column.
    #[inline(always)]
    pub(super) fn has(&self, place: usize) -> bool {
        self.places.get(place).is_some_and(|&at| at != NONE) && !self.is_empty()
    }

    /// The number that lane `l`'s byte is part of, if anything is known about it.
    #[inline(always)]
    pub(super) fn number(&self, l: usize) -> Option<Number> {
        let now = &self.now[l];
        let distance = self.past[l][usize::from(now.column & 63)].distance[1];
        now.active.then_some(Number {
            width: (64 - distance.leading_zeros()).saturating_sub(FRACTION),
            byte: now.byte,
        })
    }

    /// How wide the distribution of lane `l`'s byte is, in doublings (0: nothing is known), and log odds that its next bit is 1; `b` bits of it come after that, and `partial` is what came behind a leading 1.
    #[inline(always)]
    pub(super) fn inputs(&self, l: usize, partial: u32, b: u32) -> (u32, [i16; INPUTS]) {
        (self.now[l].level, self.odds(l, partial, b))
    }

    /// Only the log odds of that.
    #[inline(always)]
    pub(super) fn odds(&self, l: usize, partial: u32, b: u32) -> [i16; INPUTS] {
        let Some(now) = self.now.get(l).filter(|now| now.active) else {
            return [0; INPUTS];
        };
        let column = self.layout.columns()[usize::from(now.column)];
        let before = (i64::from(partial) - (1 << (7 - b))) << (b + 1);
        let half = 1i64 << b;
        let [quick, slow] = &now.spreads;
        if !column.big {
            let shift = 8 * now.byte;
            return [
                quick.wrapped(now.mean, now.known, shift, before, half),
                slow.wrapped(now.mean, now.known, shift, before, half),
            ];
        }
        let left = 8 * (WIDTH as u32 - 1 - now.byte);
        let half = half << left;
        if now.byte == 0 && b == 7 {
            // The sign: 1 is below zero.
            return [
                -quick.upper(now.mean, -half, half),
                -slow.upper(now.mean, -half, half),
            ];
        }
        let mut low = now.known + (before << left);
        if now.byte == 0 && before & 128 != 0 {
            low -= 256 << left;
        }
        [
            quick.upper(now.mean, low, half),
            slow.upper(now.mean, low, half),
        ]
    }

    /// Lane `l` has its byte at `pos`.
    #[inline(always)]
    pub(super) fn end_byte(
        &mut self,
        l: usize,
        place: usize,
        block: &[u8],
        pos: usize,
        begin: usize,
    ) {
        let at = self.places[place];
        if at == NONE {
            return;
        }
        let c = usize::from(at / 4);
        let column = self.layout.columns()[c];
        if usize::from(at % 4) + 1 < WIDTH || pos + 1 - begin < WIDTH {
            return;
        }
        let value = value(&block[pos + 1 - WIDTH..=pos], column.big);
        let (now, past) = (&mut self.now[l], &mut self.past[l][c]);
        let step = (value - past.last) as i32;
        if now.column == at / 4 {
            let off = ((value << FRACTION) - now.mean).abs().min(FAR);
            for (distance, pace) in past.distance.iter_mut().zip(PACE) {
                *distance += (off - *distance) >> pace;
            }
            self.filters[c].learn(&now.terms, step);
        }
        now.column = NONE;
        past.steps.copy_within(..TERMS - 1, 1);
        if past.seen {
            past.steps[0] = step;
            past.mean += ((value << FRACTION) - past.mean) >> MEAN_PACE;
        } else {
            past.mean = value << FRACTION;
        }
        past.last = value;
        past.seen = true;
    }
}

/// The number that `bytes` are.
#[inline(always)]
fn value(bytes: &[u8], big: bool) -> i64 {
    let unused = 64 - 8 * bytes.len() as u32;
    if unused == 64 {
        return 0;
    }
    unsigned(bytes, big) << unused >> unused
}

#[inline(always)]
fn unsigned(bytes: &[u8], big: bool) -> i64 {
    let put = |v: i64, &byte: &u8| v << 8 | i64::from(byte);
    if big {
        bytes.iter().fold(0, put)
    } else {
        bytes.iter().rev().fold(0, put)
    }
}

/// What column `c` is predicted from: its own steps, how far it is from its mean, and steps of the columns just before it.
#[inline(always)]
fn terms(past: &[Past; MAX_COLUMNS], columns: &[Column], c: usize, out: &mut Terms) {
    let others = (columns.len() - 1).min(TERMS / 2);
    let each = (TERMS / 2).checked_div(others).unwrap_or(0).min(16);
    let own = TERMS - 1 - each * others;
    out[..own].copy_from_slice(&past[c].steps[..own]);
    let off = past[c].last - (past[c].mean >> FRACTION);
    out[own] = off as i32;
    for (k, out) in out[own + 1..].chunks_exact_mut(each.max(1)).enumerate() {
        let other = (c + columns.len() - 1 - k) % columns.len();
        out.copy_from_slice(&past[other].steps[..each]);
    }
}
