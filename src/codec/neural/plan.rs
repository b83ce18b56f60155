//! What the encoder finds out about a block and tells the decoder: lanes, kind of contexts, record strides.

use crate::engine::stride;

/// Largest record stride.
pub(crate) const MAX_STRIDE: usize = 1023;
/// Lanes with a network: each costs ratio, because the past of the others is not its own; few already feed the engine.
const NET_LANES: usize = 4;
/// Largest number of lanes that a payload may have.
pub(crate) const MAX_LANES: usize = 16;

/// Which contexts a block uses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Records, messages, samples.
    Binary,
    /// Lines of text with fields.
    Text,
}

/// The plan of one block.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Plan {
    pub(crate) lanes: usize,
    pub(crate) kind: Kind,
    /// Record length in bytes; 0: none.
    pub(crate) stride: usize,
}

impl Plan {
    /// A plan for `data`, found by counting.
    pub(crate) fn find(data: &[u8], net: bool) -> Self {
        let lanes = if net {
            (data.len() / 2048).clamp(1, NET_LANES)
        } else {
            1
        };
        let text = data
            .iter()
            .filter(|&&b| b == 9 || b == 10 || b == 13 || (32..127).contains(&b))
            .count();
        let kind = if text * 20 >= data.len() * 19 {
            Kind::Text
        } else {
            Kind::Binary
        };
        Plan {
            lanes,
            kind,
            stride: usize::from(stride::detect(data)),
        }
    }
}
