//! The payload's header: version and flags, lanes, stride.
//!
//! ```text
//! byte 0   bits 7..4 version (1), bit 1: text contexts, bit 0: coded with the block's network
//! byte 1   bits 7..4 lanes - 1, bits 3..2 zero, bits 1..0 upper bits of the stride
//! byte 2   lower bits of the stride
//! ```

use super::NeuralError;
use super::plan::{Kind, MAX_STRIDE, Plan};

/// Version of the payload format.
const VERSION: u8 = 1;

pub(super) fn write(plan: &Plan, net: bool, out: &mut Vec<u8>) {
    out.push(VERSION << 4 | u8::from(plan.kind == Kind::Text) << 1 | u8::from(net));
    out.push((plan.lanes as u8 - 1) << 4 | (plan.stride >> 8) as u8);
    out.push(plan.stride as u8);
}

/// The plan, whether a network is needed, and the coded bits of a payload for `len` bytes.
pub(super) fn read(payload: &[u8], len: usize) -> Result<(Plan, bool, &[u8]), NeuralError> {
    let [flags, shape, low, bits @ ..] = payload else {
        return Err(NeuralError::Truncated);
    };
    if flags >> 4 != VERSION {
        return Err(NeuralError::Version(flags >> 4));
    }
    let lanes = usize::from(shape >> 4) + 1;
    let stride = usize::from(shape & 3) << 8 | usize::from(*low);
    if flags & 0b1100 != 0 || shape & 0b1100 != 0 || stride > MAX_STRIDE || lanes > len.max(1) {
        return Err(NeuralError::Plan);
    }
    let kind = if flags & 2 != 0 {
        Kind::Text
    } else {
        Kind::Binary
    };
    Ok((
        Plan {
            lanes,
            kind,
            stride,
        },
        flags & 1 != 0,
        bits,
    ))
}
