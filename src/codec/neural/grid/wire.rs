//! A grid in the payload's header.
//!
//! ```text
//! 1      0: the grid of the start state, 1: a grid follows
//! 3      bytes of the block on the grid, little-endian like all that follows
//! 3, 3   bytes before the first record, number of records
//! then, with a grid of its own
//! 2, 1   bytes of a record, number of fields less one; each field:
//! 2      its first byte's place in the record
//! 1      bit 0: of eight bytes, else four; bit 1: most significant byte first; bit 2: with residuals; bit 3: codes of three bytes,
//!        else two; bit 4: with an offset
//! 4      origin
//! 2, 8   exponent, unit
//! 8      offset, or nothing
//! ```

use std::sync::Arc;

use super::{Field, Grid, Gridded, NeuralError, Run, Scale, Width};
use crate::engine::stride::MAX_STRIDE;

/// What a header says about the grid of its block.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in super::super) struct Header {
    /// None: that of the start state.
    pub(super) grid: Option<Arc<Grid>>,
    pub(super) run: Run,
    /// Bytes of the block on the grid.
    pub(in super::super) coded: usize,
}

impl Header {
    /// The header of a block of `coded` bytes on its grid. `known` is the grid of the start state.
    pub(in super::super) fn of(block: &Gridded, coded: usize, known: Option<&Arc<Grid>>) -> Self {
        let own = known != Some(&block.grid);
        Header {
            grid: own.then(|| Arc::clone(&block.grid)),
            run: block.run,
            coded,
        }
    }

    /// Grid and records of a block of `len` bytes that starts from a state with the grid `known`.
    ///
    /// # Errors
    /// No such grid, or records that do not fit into the block.
    pub(in super::super) fn resolve(
        &self,
        len: usize,
        known: Option<&Arc<Grid>>,
    ) -> Result<Gridded, NeuralError> {
        let grid = self.grid.as_ref().or(known).ok_or(NeuralError::Plan)?;
        let fits = self.run.bytes(grid.stride).end <= len;
        fits.then(|| Gridded {
            grid: Arc::clone(grid),
            run: self.run,
        })
        .ok_or(NeuralError::Plan)
    }

    /// Whether the grid is that of the start state.
    pub(in super::super) fn is_known(&self) -> bool {
        self.grid.is_none()
    }

    pub(in super::super) fn write(&self, out: &mut Vec<u8>) {
        out.push(u8::from(self.grid.is_some()));
        for n in [self.coded, self.run.skip, self.run.count] {
            out.extend_from_slice(&(n as u32).to_le_bytes()[..3]);
        }
        let Some(grid) = &self.grid else {
            return;
        };
        out.extend_from_slice(&(grid.stride as u16).to_le_bytes());
        out.push((grid.fields.len() - 1) as u8);
        for field in &grid.fields {
            let scale = field.scale;
            out.extend_from_slice(&(field.at as u16).to_le_bytes());
            let bits = [
                field.width == Width::Double,
                field.big,
                field.residual,
                field.code == 3,
                scale.offset != 0,
            ];
            out.push(
                (0..)
                    .zip(bits)
                    .fold(0, |flags, (i, bit)| flags | u8::from(bit) << i),
            );
            out.extend_from_slice(&scale.origin.to_le_bytes());
            out.extend_from_slice(&scale.exponent.to_le_bytes());
            out.extend_from_slice(&scale.unit.to_le_bytes());
            if scale.offset != 0 {
                out.extend_from_slice(&scale.offset.to_le_bytes());
            }
        }
    }

    /// Reads what [`Header::write`] wrote for a block of `len` bytes, and returns what follows it.
    ///
    /// # Errors
    /// A header cut short, or one that no encoder writes.
    pub(in super::super) fn read(bytes: &[u8], len: usize) -> Result<(Self, &[u8]), NeuralError> {
        let mut at = Reader(bytes);
        let own = at.take()?;
        let [coded, skip, count] = [at.number()?, at.number()?, at.number()?];
        let grid = match own {
            [0] => None,
            [1] => Some(Arc::new(grid(&mut at)?)),
            _ => return Err(NeuralError::Plan),
        };
        if count == 0 || coded == 0 || coded > len {
            return Err(NeuralError::Plan);
        }
        let run = Run { skip, count };
        Ok((Header { grid, run, coded }, at.0))
    }
}

fn grid(at: &mut Reader<'_>) -> Result<Grid, NeuralError> {
    let stride = usize::from(u16::from_le_bytes(at.take()?));
    let [count] = at.take()?;
    let mut fields = Vec::with_capacity(usize::from(count) + 1);
    let mut end = 0;
    for _ in 0..=count {
        let place = usize::from(u16::from_le_bytes(at.take()?));
        let [flags] = at.take()?;
        let width = if flags & 1 == 0 {
            Width::Single
        } else {
            Width::Double
        };
        let origin = i32::from_le_bytes(at.take()?);
        let exponent = i16::from_le_bytes(at.take()?);
        let unit = i64::from_le_bytes(at.take()?);
        let offset = match flags & 16 {
            0 => 0,
            _ => i64::from_le_bytes(at.take()?),
        };
        let field = Field {
            at: place,
            width,
            big: flags & 2 != 0,
            residual: flags & 4 != 0,
            code: if flags & 8 == 0 { 2 } else { 3 },
            scale: Scale {
                unit,
                offset,
                exponent,
                origin,
            },
        };
        if place < end || flags >= 32 || unit <= 0 || field.len() >= width.bytes() {
            return Err(NeuralError::Plan);
        }
        end = place + width.bytes();
        fields.push(field);
    }
    if end > stride || stride > MAX_STRIDE {
        return Err(NeuralError::Plan);
    }
    Ok(Grid { stride, fields })
}

struct Reader<'a>(&'a [u8]);

impl Reader<'_> {
    fn take<const N: usize>(&mut self) -> Result<[u8; N], NeuralError> {
        let (taken, rest) = self.0.split_first_chunk().ok_or(NeuralError::Truncated)?;
        self.0 = rest;
        Ok(*taken)
    }

    fn number(&mut self) -> Result<usize, NeuralError> {
        let [a, b, c] = self.take()?;
        Ok(usize::from(a) | usize::from(b) << 8 | usize::from(c) << 16)
    }
}
