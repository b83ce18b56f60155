//! Finding the columns of a block: pure counting, part of the format where a start state is made.
//!
//! A number shows by its most significant byte: read in the right order its steps are small. Each place of the record is
//! scored for each order, and the columns that together score best are taken.

use super::layout::{Column, Layout, MAX_RECORD, WIDTH};
use super::value;

/// Records that are looked at.
const RECORDS: usize = 2000;
/// Fewer records tell nothing.
const FEWEST: usize = 16;
/// Units of a cost per bit.
const BIT: i64 = 16;
/// A column that costs less is left to other predictions.
const QUIET: i64 = BIT;
/// By how much the right order of bytes is cheaper than the other one.
const CLEAR: i64 = BIT * 3 / 4;
/// Records that are tried anyway: arrays of a few numbers.
const SHORT: [usize; 6] = [2, 4, 6, 8, 12, 16];
/// By how many tenths they must be better.
const MARGIN: i64 = 13;
/// Longest record of an array of numbers, in which what looks like noise is taken for a number, too.
const ARRAY: usize = 16;

/// Records and their columns.
pub(crate) struct Found {
    pub(crate) stride: usize,
    pub(crate) phase: usize,
    pub(crate) layout: Layout,
}

/// A way to lay out records: how many bits a record it saves, by this measure; `found` has no columns if there are none or too many.
struct Tiling {
    gain: i64,
    found: Found,
}

impl Tiling {
    /// Whether it saves much more of a byte than `other`.
    fn clearly_beats(&self, other: &Tiling) -> bool {
        let [mine, others] = [self, other].map(|t| t.found.stride as i64);
        10 * self.gain * others > MARGIN * other.gain * mine
    }
}

/// What a place of the record is as the first byte of a number.
#[derive(Clone, Copy, Default)]
struct Score {
    gain: i64,
    column: Column,
    /// A number, but one that hardly moves.
    quiet: bool,
}

/// Columns in records of `stride` bytes (0: none were found), or in short ones where they show much better.
pub(crate) fn find(data: &[u8], stride: usize) -> Option<Found> {
    let mut best: Option<Tiling> = None;
    // Records that are too long for columns must still be beaten.
    for r in [stride].into_iter().chain(SHORT).filter(|&r| r >= WIDTH) {
        let tiling = tile(data, r);
        if (best.as_ref()).is_none_or(|best| tiling.clearly_beats(best)) {
            best = Some(tiling);
        }
    }
    best.map(|best| best.found).filter(|f| !f.layout.is_empty())
}

/// The best columns in records of `r` bytes.
fn tile(data: &[u8], r: usize) -> Tiling {
    let scores: Vec<Score> = (0..r).map(|at| score(data, at, r)).collect();
    let mut best = Tiling {
        gain: 0,
        found: Found {
            stride: r,
            phase: 0,
            layout: Layout::default(),
        },
    };
    let turns = if r <= MAX_RECORD { r } else { 1 };
    for turn in 0..turns {
        let at = |i: usize| scores[(turn + i) % r];
        // The best sum of gains of the first `i` bytes, and whether a number ends there.
        let mut sums = vec![(0i64, false); r + 1];
        for i in 1..=r {
            sums[i] = (sums[i - 1].0, false);
            if i >= WIDTH {
                let with = sums[i - WIDTH].0 + at(i - WIDTH).gain;
                if with > sums[i].0 {
                    sums[i] = (with, true);
                }
            }
        }
        if sums[r].0 <= best.gain {
            continue;
        }
        best.gain = sums[r].0;
        best.found.phase = (r - turn) % r;
        let mut columns = Vec::new();
        let mut i = r;
        while i > 0 {
            let (_, number) = sums[i];
            i -= if number { WIDTH } else { 1 };
            if number && !at(i).quiet {
                columns.push(Column {
                    at: i as u8,
                    ..at(i).column
                });
            }
        }
        columns.reverse();
        if r <= ARRAY && r.is_multiple_of(WIDTH) {
            fill(&mut columns, r, |i| at(i).gain == 0);
        }
        best.found.layout = match Layout::of(&columns) {
            Some(layout) if r <= MAX_RECORD => layout,
            _ => Layout::default(),
        };
    }
    best
}

/// Makes an array whole: if all columns are numbers of it, the other places are, too, as long as they look like nothing else.
fn fill(columns: &mut Vec<Column>, r: usize, open: impl Fn(usize) -> bool) {
    let Some(&first) = columns.first() else {
        return;
    };
    let has = |columns: &[Column], i: usize| columns.iter().any(|c| usize::from(c.at) == i);
    let aligned = columns.iter().all(|c| usize::from(c.at) % WIDTH == 0);
    let mut places = (0..r).step_by(WIDTH);
    if aligned && places.all(|i| has(columns, i) || open(i)) {
        for i in (0..r).step_by(WIDTH) {
            if !has(columns, i) {
                columns.push(Column {
                    at: i as u8,
                    ..first
                });
            }
        }
        columns.sort_by_key(|c| c.at);
    }
}

fn score(data: &[u8], at: usize, r: usize) -> Score {
    let costs = [false, true].map(|big| cost(data, at, r, big));
    let [Some(little), Some(big)] = costs else {
        return Score::default();
    };
    let (cost, other) = (little.min(big), little.max(big));
    let quiet = cost < QUIET;
    let whole = 8 * WIDTH as i64 * BIT;
    if !quiet && (other - cost < CLEAR || cost > whole - CLEAR) {
        return Score::default();
    }
    Score {
        gain: whole - cost,
        column: Column {
            at: at as u8,
            big: big < little,
        },
        quiet,
    }
}

/// Mean logarithm of the steps of a number, or of the changes of its steps if they are smaller, in 1/16 bit.
fn cost(data: &[u8], at: usize, r: usize, big: bool) -> Option<i64> {
    let records = data.len().saturating_sub(at + WIDTH) / r;
    let records = records.min(RECORDS);
    if records < FEWEST {
        return None;
    }
    let get = |k: usize| value(&data[at + k * r..at + k * r + WIDTH], big);
    let (mut before, mut last) = (get(0), get(1));
    let (mut steps, mut bends) = (0, 0);
    for k in 2..records {
        let v = get(k);
        steps += logarithm(v - last);
        bends += logarithm(v - 2 * last + before);
        (before, last) = (last, v);
    }
    Some(steps.min(bends) / records as i64)
}

/// 16 times the logarithm to base 2 of `1 + |step|`, linear between powers of two.
fn logarithm(step: i64) -> i64 {
    let v = step.unsigned_abs() + 1;
    let whole = v.ilog2();
    let part = if whole >= 4 {
        v >> (whole - 4)
    } else {
        v << (4 - whole)
    };
    BIT * i64::from(whole) + (part as i64 - 16)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wave(i: usize, k: usize) -> i64 {
        let triangle = |n: usize, half: usize| (n % (2 * half)).abs_diff(half) as i64;
        20 * triangle(i * (k + 2), 157) + 3 * triangle(i * 31, 83) + (i * i % 17) as i64 - 700
    }

    #[test]
    fn arrays_of_numbers_are_found_in_either_order() {
        for big in [false, true] {
            let mut data = vec![7];
            for i in 0..3000 {
                for k in 0..3 {
                    let v = wave(i, k) as i16;
                    data.extend(if big {
                        v.to_be_bytes()
                    } else {
                        v.to_le_bytes()
                    });
                }
            }
            let found = find(&data, 6).unwrap();
            let columns = found.layout.columns();
            let place = |c: &Column| (usize::from(c.at) + 6 - found.phase) % 6 % 2;
            assert_eq!((found.stride, columns.len()), (6, 3));
            assert!(columns.iter().all(|c| c.big == big && place(c) == 1));
        }
    }

    #[test]
    fn constants_and_counters_are_left_out() {
        let mut data = Vec::new();
        for i in 0..3000 {
            data.extend([0xaa, 0xbb, 1, 0]);
            data.extend((i as u32).to_be_bytes());
            data.extend((wave(i, 0) as i16).to_be_bytes());
        }
        let found = find(&data, 10).unwrap();
        let [column] = found.layout.columns() else {
            panic!("{:?}", found.layout.columns());
        };
        assert!(column.big);
        assert_eq!((usize::from(column.at) + 10 - found.phase) % 10, 8);
    }

    #[test]
    fn noise_and_little_data_have_no_columns() {
        let mut state = 1u32;
        let noise: Vec<u8> = (0..20_000)
            .map(|_| {
                state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                (state >> 24) as u8
            })
            .collect();
        for stride in [0, 1, 3, 8, 128] {
            assert!(find(&noise, stride).is_none(), "{stride}");
        }
        for len in 0..20 {
            assert!(find(&vec![3; len], 2).is_none());
        }
    }
}
