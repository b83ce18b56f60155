//! Floats that once were whole numbers.
//!
//! What converters and counters measure is a whole number, and often it is stored as a float: the number times a step, plus an offset.
//! Such a float has four or eight bytes of which most follow from the others, but not in a way that contexts of bytes can see. Here
//! each of them is replaced by the number that it stands for (as in ALP, Afroozeh et al. 2023, but with any step and offset, not
//! only powers of ten), and the block that is left, shorter and of whole numbers, is coded instead.
//!
//! A block becomes: its whole records, each field of the grid as a *code* of two or three bytes and, where the field has them, a *residual*, the
//! difference of the float's bits from those that the code stands for; then the bytes before and behind the records; then, in order,
//! the floats that have no code, in full. Those have code 0 where they were.
//!
//! A reader makes a start state from the bytes of a key block by putting them on its grid again. So which code and residual a float has, and
//! which has none, is part of the format.

mod find;
mod scale;
mod wire;

#[cfg(test)]
mod tests;

use std::sync::Arc;

use super::NeuralError;
pub(super) use find::find;
use scale::Scale;
pub(super) use wire::Header;

/// Most bytes of a block on a grid: lengths in the header have 24 bits.
pub(super) const MOST: usize = (1 << 24) - 1;

/// Bytes of a float.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Width {
    Single,
    Double,
}

impl Width {
    const fn bytes(self) -> usize {
        match self {
            Width::Single => 4,
            Width::Double => 8,
        }
    }

    /// Binary digits of its significand.
    const fn digits(self) -> i32 {
        match self {
            Width::Single => 24,
            Width::Double => 53,
        }
    }

    /// The largest exponent, which is also the bias.
    const fn bias(self) -> i32 {
        match self {
            Width::Single => 127,
            Width::Double => 1023,
        }
    }

    /// `(m, e)` of the number `m * 2^e`; none if it is subnormal, infinite, not a number, or a negative zero.
    fn split(self, bits: u64) -> Option<(i64, i32)> {
        let fraction = self.digits() - 1;
        let sign = bits >> (8 * self.bytes() - 1) & 1 == 1;
        let biased = (bits >> fraction) as i32 & (2 * self.bias() + 1);
        let low = (bits & ((1 << fraction) - 1)) as i64;
        match biased {
            0 if low == 0 && !sign => Some((0, 0)),
            b if b == 0 || b == 2 * self.bias() + 1 => None,
            _ => {
                let m = low | 1 << fraction;
                let e = biased - self.bias() - fraction;
                Some((if sign { -m } else { m }, e))
            }
        }
    }

    /// The bits of `significand * 2^(top - digits + 1)`, a significand with all its digits; none if it is no normal number.
    fn join(self, negative: bool, top: i32, significand: u64) -> Option<u64> {
        let fraction = self.digits() - 1;
        let biased = top + self.bias();
        let sign = u64::from(negative) << (8 * self.bytes() - 1);
        let low = significand & ((1 << fraction) - 1);
        (1..=2 * self.bias())
            .contains(&biased)
            .then_some(sign | (biased as u64) << fraction | low)
    }
}

/// A float in each record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Field {
    /// Its first byte, counted from the record's.
    at: usize,
    width: Width,
    /// The most significant byte comes first.
    big: bool,
    /// Bytes of a code, 2 or 3.
    code: usize,
    /// Whether codes are followed by residuals, of one byte.
    residual: bool,
    scale: Scale,
}

/// Stands for a float that has no code.
const NONE: u32 = 0;

impl Field {
    /// Bytes that it takes on the grid: fewer than the float.
    fn len(&self) -> usize {
        self.code + usize::from(self.residual)
    }

    fn bits(&self, raw: &[u8]) -> u64 {
        let mut bytes = [0; 8];
        let bytes = &mut bytes[..raw.len()];
        bytes.copy_from_slice(raw);
        if self.big {
            bytes.reverse();
        }
        bytes
            .iter()
            .rev()
            .fold(0, |bits, &b| bits << 8 | u64::from(b))
    }

    /// Code and residual of a float; none if it has none. Part of the format.
    fn code(&self, raw: &[u8]) -> Option<(u32, i8)> {
        let bits = self.bits(raw);
        let code = u32::try_from(self.scale.nearest(bits, self.width)?).ok()?;
        if code == NONE || code >> (8 * self.code) != 0 {
            return None;
        }
        let off = bits.wrapping_sub(self.scale.float(code, self.width)?) as i64;
        let residual = i8::try_from(off).ok()?;
        (residual == 0 || self.residual).then_some((code, residual))
    }

    fn float(&self, code: u32, residual: i8, raw: &mut [u8]) -> Option<()> {
        let bits = self.scale.float(code, self.width)?;
        let bits = bits.wrapping_add(i64::from(residual) as u64);
        let n = raw.len();
        raw.copy_from_slice(&bits.to_le_bytes()[..n]);
        if self.big {
            raw.reverse();
        }
        Some(())
    }
}

/// Records with floats on a grid.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Grid {
    /// Bytes of a record.
    stride: usize,
    /// At least one, in order, not overlapping.
    fields: Vec<Field>,
}

/// Where the records of a block lie.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Run {
    /// Bytes before the first.
    skip: usize,
    /// Their number, at least one.
    count: usize,
}

impl Run {
    fn bytes(&self, stride: usize) -> std::ops::Range<usize> {
        self.skip..self.skip.saturating_add(self.count.saturating_mul(stride))
    }
}

/// A block's grid and records.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Gridded {
    pub(super) grid: Arc<Grid>,
    pub(super) run: Run,
}

impl Gridded {
    /// Bytes of a block of `len` bytes that are stored in full because they have no code; `coded` is the block on the grid.
    pub(super) fn odd(&self, len: usize, coded: &[u8]) -> usize {
        let saved = self.run.count * (self.grid.stride - self.grid.coded());
        coded.len() + saved - len
    }

    /// The block on the grid, which is shorter unless very many floats have no code. Part of the format.
    pub(super) fn forward(&self, data: &[u8]) -> Vec<u8> {
        let Gridded { grid, run } = self;
        let records = run.bytes(grid.stride);
        let mut out = Vec::with_capacity(data.len());
        let mut odd = Vec::new();
        for record in data[records.clone()].chunks_exact(grid.stride) {
            let mut from = 0;
            for field in &grid.fields {
                out.extend_from_slice(&record[from..field.at]);
                from = field.at + field.width.bytes();
                let raw = &record[field.at..from];
                let (code, residual) = field.code(raw).unwrap_or_else(|| {
                    odd.extend_from_slice(raw);
                    (NONE, 0)
                });
                out.extend_from_slice(&code.to_le_bytes()[..field.code]);
                if field.residual {
                    out.push(residual as u8);
                }
            }
            out.extend_from_slice(&record[from..]);
        }
        out.extend_from_slice(&data[..records.start]);
        out.extend_from_slice(&data[records.end..]);
        out.extend_from_slice(&odd);
        out
    }

    /// The block of `len` bytes that was made into `coded`.
    ///
    /// # Errors
    /// Codes without a float, another number of floats in full than of places for them.
    pub(super) fn inverse(&self, coded: &[u8], len: usize) -> Result<Vec<u8>, NeuralError> {
        let Gridded { grid, run } = self;
        let whole = run.bytes(grid.stride);
        let on_grid = run.count * grid.coded();
        let (records, rest) = coded.split_at_checked(on_grid).ok_or(NeuralError::Plan)?;
        let outside = len.checked_sub(whole.len()).ok_or(NeuralError::Plan)?;
        let (outside, mut odd) = rest.split_at_checked(outside).ok_or(NeuralError::Plan)?;
        let (before, behind) = outside
            .split_at_checked(run.skip)
            .ok_or(NeuralError::Plan)?;
        let mut out = Vec::with_capacity(len);
        out.extend_from_slice(before);
        for record in records.chunks_exact(grid.coded()) {
            let (mut from, start) = (0, out.len());
            for field in &grid.fields {
                let plain = field.at - (out.len() - start);
                out.extend_from_slice(&record[from..from + plain]);
                from += plain;
                let (code, residual) = record[from..from + field.len()].split_at(field.code);
                from += field.len();
                let code = code.iter().rev().fold(0, |c, &b| c << 8 | u32::from(b));
                let bytes = field.width.bytes();
                if code == NONE {
                    let (raw, rest) = odd.split_at_checked(bytes).ok_or(NeuralError::Corrupt)?;
                    out.extend_from_slice(raw);
                    odd = rest;
                } else {
                    let mut raw = [0; 8];
                    let residual = residual.first().map_or(0, |&r| r as i8);
                    let float = field.float(code, residual, &mut raw[..bytes]);
                    float.ok_or(NeuralError::Corrupt)?;
                    out.extend_from_slice(&raw[..bytes]);
                }
            }
            out.extend_from_slice(&record[from..]);
        }
        out.extend_from_slice(behind);
        if odd.is_empty() {
            Ok(out)
        } else {
            Err(NeuralError::Corrupt)
        }
    }
}

impl Grid {
    /// Bytes of a record on the grid.
    fn coded(&self) -> usize {
        let saved: usize = self.fields.iter().map(|f| f.width.bytes() - f.len()).sum();
        self.stride - saved
    }
}
