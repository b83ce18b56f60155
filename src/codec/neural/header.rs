//! The payload's header: version and flags, lanes, stride.
//!
//! ```text
//! byte 0    bits 7..4 version (1), bit 3: floats on a grid, bit 2: coded from a start state, bit 1: text contexts, bit 0: with the block's network
//! byte 1    bit 7: wide, bits 6..4 lanes - 1, bit 3: columns, bits 2..0 upper bits of the stride
//! byte 2    lower bits of the stride
//! then      only with columns, or from a start state and with a stride: where records begin, 2 bytes little-endian, below the stride
//! then      only with columns: their number, and a byte for each, in order and not overlapping: bit 7 most significant byte first,
//!           bits 6..0 place of its first byte. From a start state the columns are its own.
//! then      only with floats on a grid: which (`grid/wire.rs`); lanes, stride and all that follows are of the block on the grid
//! ```

use super::NeuralError;
use super::grid;
use super::plan::{Kind, Plan, max_lanes};
use super::samples::Layout;
use crate::engine::stride::MAX_STRIDE;

/// Version of the payload format.
const VERSION: u8 = 1;

/// What a payload says about itself.
pub(super) struct Header<'a> {
    pub(super) plan: Plan,
    /// Whether it was coded with a network, and from a start state.
    pub(super) net: bool,
    pub(super) started: bool,
    pub(super) grid: Option<grid::Header>,
    pub(super) bits: &'a [u8],
}

pub(super) fn write(
    plan: &Plan,
    net: bool,
    started: bool,
    grid: Option<&grid::Header>,
    out: &mut Vec<u8>,
) {
    let text = u8::from(plan.kind == Kind::Text);
    let gridded = u8::from(grid.is_some());
    out.push(VERSION << 4 | gridded << 3 | u8::from(started) << 2 | text << 1 | u8::from(net));
    let columns = !started && !plan.layout.is_empty();
    let lanes = plan.lanes as u8 - 1;
    let wide = u8::from(plan.wide);
    out.push(wide << 7 | lanes << 4 | u8::from(columns) << 3 | (plan.stride >> 8) as u8);
    out.push(plan.stride as u8);
    if columns || started && plan.stride > 0 {
        out.extend_from_slice(&(plan.phase as u16).to_le_bytes());
    }
    if columns {
        plan.layout.write(out);
    }
    if let Some(grid) = grid {
        grid.write(out);
    }
}

/// The header of a payload for `len` bytes.
pub(super) fn read(payload: &[u8], len: usize) -> Result<Header<'_>, NeuralError> {
    let [flags, shape, low, bits @ ..] = payload else {
        return Err(NeuralError::Truncated);
    };
    if flags >> 4 != VERSION {
        return Err(NeuralError::Version(flags >> 4));
    }
    let wide = shape >> 7 != 0;
    let lanes = usize::from(shape >> 4 & 7) + 1;
    let stride = usize::from(shape & 7) << 8 | usize::from(*low);
    let started = flags & 4 != 0;
    let columns = shape & 8 != 0;
    let mut bits = bits;
    let mut phase = 0;
    if columns || started && stride > 0 {
        let [a, b, rest @ ..] = bits else {
            return Err(NeuralError::Truncated);
        };
        phase = usize::from(u16::from_le_bytes([*a, *b]));
        bits = rest;
    }
    let mut layout = Layout::default();
    if columns {
        (layout, bits) = Layout::read(bits, stride)?;
    }
    let mut grid = None;
    if flags & 8 != 0 {
        let (header, rest) = grid::Header::read(bits, len)?;
        (grid, bits) = (Some(header), rest);
    }
    let net = flags & 1 != 0;
    let alone = grid.as_ref().is_some_and(grid::Header::is_known) && !started;
    let odd = alone || columns && started;
    let len = grid.as_ref().map_or(len, |g| g.coded);
    let lanes_fit = lanes <= len.max(1) && lanes <= max_lanes(net || wide);
    if odd || stride > MAX_STRIDE || phase > stride.saturating_sub(1) || !lanes_fit {
        return Err(NeuralError::Plan);
    }
    let kind = if flags & 2 != 0 {
        Kind::Text
    } else {
        Kind::Binary
    };
    let plan = Plan {
        lanes,
        kind,
        wide,
        stride,
        phase,
        layout,
    };
    Ok(Header {
        plan,
        net,
        started,
        grid,
        bits,
    })
}
