//! How the encoder finds the grid of a block. None of it is part of the format: what was found is in the payload's header.

use std::sync::Arc;

use super::super::plan::is_text;
use super::{Field, Grid, Gridded, Run, Scale, Width};
use crate::engine::stride;

/// Values of a column that are looked at.
const VALUES: usize = 2048;
/// Values that a column is dismissed on.
const GLANCE: usize = 48;
/// Fewest different values that tell a grid.
const DIFFERENT: usize = 12;
/// Fewest records of a run.
const RECORDS: usize = 24;
/// Most fields of a record.
const FIELDS: usize = 256;

/// The grid of `data`, if it has records with floats on one.
pub(in super::super) fn find(data: &[u8]) -> Option<Gridded> {
    if is_text(data) {
        return None;
    }
    let detected = usize::from(stride::detect(data));
    let mut best: Option<(usize, Gridded)> = None;
    for (i, stride) in [detected, 8, 4].into_iter().enumerate() {
        let twice = i > 0 && stride == detected;
        if stride < 4 || data.len() < RECORDS * stride || twice {
            continue;
        }
        if let Some(found) = grid(data, stride).and_then(|grid| Arc::new(grid).fit(data)) {
            let saved = found.run.count * (stride - found.grid.coded());
            if best.as_ref().is_none_or(|&(most, _)| saved > most) {
                best = Some((saved, found));
            }
        }
    }
    best.map(|(_, found)| found)
}

impl Grid {
    /// Fewest bytes of a block that can be on it, wherever in a record they begin.
    pub(in super::super) fn least(&self) -> usize {
        (RECORDS + 1) * self.stride
    }

    /// Where in `data` its records lie, if they save a sixteenth of it.
    pub(in super::super) fn fit(self: Arc<Self>, data: &[u8]) -> Option<Gridded> {
        let n = data.len() / self.stride;
        if n == 0 {
            return None;
        }
        let some = self.fields.iter().step_by(self.fields.len().div_ceil(16));
        let sample = |phase: usize| {
            let rows = (0..n)
                .step_by(n.div_ceil(16))
                .map(|i| phase + i * self.stride);
            let rows = rows.filter_map(|at| data.get(at..)?.get(..self.stride));
            rows.map(|row| saves(some.clone(), row)).sum::<i64>()
        };
        let phase = (0..self.stride).max_by_key(|&phase| (sample(phase), self.stride - phase))?;
        // The stretch that saves most.
        let (mut sum, mut from) = (0, 0);
        let mut best = (0, Run { skip: 0, count: 0 });
        for (i, row) in data[phase..].chunks_exact(self.stride).enumerate() {
            sum += saves(self.fields.iter(), row);
            if sum <= 0 {
                (sum, from) = (0, i + 1);
            } else if sum > best.0 {
                let skip = phase + from * self.stride;
                best = (
                    sum,
                    Run {
                        skip,
                        count: i + 1 - from,
                    },
                );
            }
        }
        let (saved, run) = best;
        (run.count >= RECORDS && saved * 16 > data.len() as i64)
            .then_some(Gridded { grid: self, run })
    }
}

/// Bytes that fields of a record save on the grid: few or negative if it does not belong there.
fn saves<'a>(fields: impl Iterator<Item = &'a Field>, record: &[u8]) -> i64 {
    let saved = fields.map(|field| {
        let raw = &record[field.at..field.at + field.width.bytes()];
        match field.code(raw) {
            Some(_) => (field.width.bytes() - field.len()) as i64,
            None => -(field.len() as i64) - 2,
        }
    });
    saved.sum()
}

/// The fields of records of `stride` bytes.
fn grid(data: &[u8], stride: usize) -> Option<Grid> {
    let mut found: Vec<(Field, f64)> = Vec::new();
    // A float may cross the end of what is taken for a record; then records begin later.
    for at in 0..stride {
        for (width, big) in [
            (Width::Double, false),
            (Width::Double, true),
            (Width::Single, false),
            (Width::Single, true),
        ] {
            if let Some(field) = field(data, stride, at, width, big) {
                found.push(field);
            }
        }
    }
    // Of those that overlap the one that explains most; what is no float may lie on a grid, too, but jumps about there.
    found.sort_by(|a, b| b.1.total_cmp(&a.1));
    let overlap = |f: &Field, g: &Field| {
        let ahead = (g.at + stride - f.at) % stride;
        ahead < f.width.bytes() || stride - ahead < g.width.bytes()
    };
    let mut fields: Vec<Field> = Vec::new();
    for (f, _) in found {
        if fields.len() < FIELDS && !fields.iter().any(|g| overlap(&f, g)) {
            fields.push(f);
        }
    }
    let begin = (0..stride).find(|&begin| {
        let crosses = |f: &Field| (f.at + stride - begin) % stride + f.width.bytes() > stride;
        !fields.iter().any(crosses)
    });
    let begin = begin.unwrap_or(0);
    for field in &mut fields {
        field.at = (field.at + stride - begin) % stride;
    }
    fields.retain(|f| f.at + f.width.bytes() <= stride);
    fields.sort_by_key(|f| f.at);
    (!fields.is_empty()).then_some(Grid { stride, fields })
}

/// The field at a place of the record, if what lies there are floats on a grid, and how many bits of each that explains.
fn field(data: &[u8], stride: usize, at: usize, width: Width, big: bool) -> Option<(Field, f64)> {
    if width.bytes() > stride {
        return None;
    }
    let n = data.len().checked_sub(at + width.bytes())? / stride + 1;
    let mut field = Field {
        at,
        width,
        big,
        code: 2,
        residual: false,
        scale: Scale {
            unit: 1,
            offset: 0,
            exponent: 0,
            origin: 0,
        },
    };
    let raw = |i: usize| &data[at + i * stride..][..width.bytes()];
    let value = |i: usize| {
        let (m, e) = width.split(field.bits(raw(i)))?;
        (m == 0 || (-60..60).contains(&(e + width.digits()))).then(|| m as f64 * power(e))
    };
    let glance = (0..n)
        .step_by(n.div_ceil(GLANCE))
        .filter(|&i| value(i).is_none());
    if n < RECORDS || glance.count() * 8 > GLANCE {
        return None;
    }
    let rows: Vec<usize> = (0..n).step_by(n.div_ceil(VALUES)).collect();
    let mut values: Vec<f64> = rows.iter().filter_map(|&i| value(i)).collect();
    // Clocks and counters leave two bytes behind; and whole numbers that count look like floats of one exponent.
    let up = values.windows(2).filter(|w| w[0] <= w[1]).count();
    let counts = up * 32 > values.len() * 31;
    if counts && width == Width::Single {
        return None;
    }
    values.sort_by(f64::total_cmp);
    values.dedup();
    let line = Line::through(&values, width)?;
    for code in if counts { [3, 3] } else { [2, 3] } {
        field.code = code;
        for scale in line.scales(&values, code) {
            field.scale = scale;
            // A byte that is nearly always zero costs next to nothing, and later blocks may need it.
            field.residual = code + 1 < width.bytes();
            let held = rows.iter().filter(|&&i| field.code(raw(i)).is_some());
            let odd = rows.len() - held.count();
            let most = if field.residual { 16 } else { 256 };
            if odd * most <= rows.len() {
                let bits = explained(&field, rows.iter().map(|&i| raw(i)));
                return Some((field, bits));
            }
        }
    }
    None
}

/// Bits of a float less those of a step from code to code, in the mean.
fn explained<'a>(field: &Field, floats: impl Iterator<Item = &'a [u8]>) -> f64 {
    let codes: Vec<u32> = floats.filter_map(|raw| Some(field.code(raw)?.0)).collect();
    let steps = codes
        .windows(2)
        .map(|w| f64::from(w[0].abs_diff(w[1]) + 1).log2());
    8.0 * field.width.bytes() as f64 - steps.sum::<f64>() / codes.len().max(1) as f64
}

/// `value = unit * n + offset` for whole numbers `n`.
struct Line {
    unit: f64,
    /// The offset, at most half a unit, and the same line with none, if it is not told from it.
    offset: f64,
    bare: Option<f64>,
}

impl Line {
    /// The grid of these values, which are in order and different.
    fn through(values: &[f64], width: Width) -> Option<Line> {
        let largest = values.first()?.abs().max(values.last()?.abs());
        let exact = power(1 - width.digits());
        let blur = 4.0 * largest * exact;
        let mut steps: Vec<f64> = values
            .windows(2)
            .map(|w| w[1] - w[0])
            .filter(|&d| d > blur)
            .collect();
        if steps.len() < DIFFERENT {
            return None;
        }
        steps.sort_by(f64::total_cmp);
        let mut unit = divisor(&steps, blur)?;
        // From the values nearest to zero, whose rounding is finest, outwards.
        let zero = values
            .iter()
            .copied()
            .min_by(|a, b| a.abs().total_cmp(&b.abs()))?;
        let mut reach = 8.0 * unit;
        loop {
            let near = values.iter().map(|v| v - zero).filter(|v| v.abs() <= reach);
            let (mut up, mut down) = (0.0, 0.0);
            for v in near {
                let n = (v / unit).round();
                (up, down) = (up + n * v, down + n * n);
            }
            if down > 0.0 {
                unit = up / down;
            }
            if reach > 2.0 * largest {
                break;
            }
            reach *= 1.5;
        }
        if unit.is_nan() || unit <= 0.0 || 2.0 * largest / unit > power(24) {
            return None;
        }
        let zero = |v: f64| ((v - zero) / unit).round();
        let mut kept: Vec<f64> = values.to_vec();
        let mut line = (unit, 0.0);
        for _ in 0..3 {
            line = regression(&kept, largest, &zero)?;
            // What is far from it was never on the grid.
            let off =
                |v: f64| (v - line.0 * zero(v) - line.1).abs() / (v.abs() + largest * power(-16));
            let mut offs: Vec<f64> = kept.iter().map(|&v| off(v)).collect();
            let (_, &mut usual, _) = offs.select_nth_unstable_by(kept.len() / 2, f64::total_cmp);
            let before = kept.len();
            kept.retain(|&v| off(v) <= 8.0 * usual + exact);
            if kept.len() == before || kept.len() < DIFFERENT {
                break;
            }
        }
        let (slope, offset) = line;
        let offset = offset - slope * (offset / slope).round();
        let bare = (offset.abs() * 1e4 < slope).then(|| {
            let whole = |v: f64| (v / slope).round();
            let (up, down) = kept.iter().fold((0.0, 0.0), |(up, down), &v| {
                let (w, n) = (weight(v, largest), whole(v));
                (up + w * n * v, down + w * n * n)
            });
            up / down
        });
        Some(Line {
            unit: slope,
            offset,
            bare,
        })
    }

    /// It in integers, with codes of so many bytes whose middle lies amid the values.
    fn scales(&self, values: &[f64], code: usize) -> Vec<Scale> {
        let mut out = Vec::new();
        for (unit, offset) in [(self.bare.unwrap_or(0.0), 0.0), (self.unit, self.offset)] {
            // A few far values may go without a code.
            let far = values.len() / 64;
            let range = (values[values.len() - 1 - far] - values[far]) / unit;
            let sound = unit > 0.0 && range < 0.9 * power(8 * code as i32);
            if !sound {
                continue;
            }
            let middle = ((values[values.len() / 2] - offset) / unit).round();
            let center = if code == 2 { 0x8080 } else { 0x80_8080 };
            // The unit has 62 binary digits.
            let exponent = (unit.to_bits() >> 52) as i32 - 1023 - 61;
            let scaled = |v: f64| (v * power(-exponent)) as i64;
            let (Ok(exponent), true) = (i16::try_from(exponent), middle.abs() < 1e9) else {
                continue;
            };
            out.push(Scale {
                unit: scaled(unit),
                offset: scaled(offset),
                exponent,
                origin: center - middle as i32,
            });
        }
        out
    }
}

/// Weight of a value: the inverse square of its rounding, bounded.
fn weight(v: f64, largest: f64) -> f64 {
    1.0 / (largest * power(-16)).max(v.abs()).powi(2)
}

/// Slope and offset of the line through values and the whole numbers that they stand for.
fn regression(values: &[f64], largest: f64, number: &dyn Fn(f64) -> f64) -> Option<(f64, f64)> {
    let sum = |f: &dyn Fn(f64, f64) -> f64| -> f64 {
        values
            .iter()
            .map(|&v| weight(v, largest) * f(v, number(v)))
            .sum()
    };
    let all = sum(&|_, _| 1.0);
    let (v0, n0) = (sum(&|v, _| v) / all, sum(&|_, n| n) / all);
    let slope = sum(&|v, n| (v - v0) * (n - n0)) / sum(&|_, n| (n - n0) * (n - n0));
    (slope > 0.0).then_some((slope, v0 - slope * n0))
}

/// The largest number that all of `steps`, in order, are multiples of but for `blur`; they may be a little wrong.
fn divisor(steps: &[f64], blur: f64) -> Option<f64> {
    let least = steps[steps.len() / 64];
    let small = &steps[..steps.partition_point(|&s| s < 24.0 * least)];
    (1..=12).map(|n| least / f64::from(n)).find(|unit| {
        let off = |s: &&f64| {
            let n = *s / unit;
            (n - n.round()).abs() * unit > (0.05 * unit).max(2.0 * blur)
        };
        *unit > 4.0 * blur && small.iter().filter(off).count() * 16 <= small.len()
    })
}

/// Two to the power of `exponent`, within the normal numbers.
fn power(exponent: i32) -> f64 {
    f64::from_bits(((exponent + 1023).clamp(1, 2046) as u64) << 52)
}
