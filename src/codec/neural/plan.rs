//! What the encoder finds out about a block and tells the decoder: lanes, kind of contexts, record strides.

use super::predictor::PAIR;
use super::samples::{self, Layout};
use crate::codec::zstd;
use crate::engine::Effort;
use crate::engine::stride;

/// Bytes from which a block has two lanes: their latencies overlap.
const PAIRED: usize = 4096;
/// Blocks that zstd makes smaller than one in so many have one lane.
const FEW: usize = 4;
/// Largest number of lanes that a payload may have, with a network or without.
pub(crate) const fn max_lanes(net: bool) -> usize {
    if net { 1 } else { PAIR }
}

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
    /// Whether there is a second bank of contexts. Then there is one lane.
    pub(crate) wide: bool,
    /// Record length in bytes; 0: none.
    pub(crate) stride: usize,
    /// Added to a position before its column is taken: where records begin; below the stride.
    pub(crate) phase: usize,
    /// The numbers in a record.
    pub(crate) layout: Layout,
}

impl Plan {
    /// A plan for `data`, found by counting: part of the format where a state is made of bytes without a payload.
    pub(crate) fn find(data: &[u8], net: bool) -> Self {
        Plan::with(data, net, usize::from(stride::detect(data)))
    }

    /// The plans that an encoder tries: of [`Plan::find`], and another one if the records may have another length, or, where time does not
    /// matter, if lines of text may be such records: some have columns of equal width.
    pub(crate) fn candidates(data: &[u8], net: bool, effort: Effort) -> (Self, Option<Self>) {
        let [first, second] = stride::candidates(data).map(usize::from);
        let plan = Plan::with(data, net, first);
        let other = match plan.kind {
            Kind::Binary if second != 0 => Some(Plan::of_kind(Kind::Binary, data, net, second)),
            Kind::Text if effort == Effort::Dense && first != 0 => {
                Some(Plan::of_kind(Kind::Binary, data, net, first))
            }
            _ => None,
        };
        (plan, other.filter(|other| *other != plan))
    }

    /// The plan for `data` in records of `stride` bytes, or shorter ones where these show numbers much better.
    fn with(data: &[u8], net: bool, stride: usize) -> Self {
        let kind = if is_text(data) {
            Kind::Text
        } else {
            Kind::Binary
        };
        Plan::of_kind(kind, data, net, stride)
    }

    fn of_kind(kind: Kind, data: &[u8], net: bool, stride: usize) -> Self {
        let mut plan = Plan {
            lanes: lanes(data, net),
            kind,
            wide: false,
            stride,
            phase: 0,
            layout: Layout::default(),
        };
        if kind == Kind::Binary
            && let Some(found) = samples::find(data, stride)
        {
            plan.stride = found.stride;
            plan.phase = found.phase;
            plan.layout = found.layout;
        }
        plan
    }
}

/// Whether nearly all bytes are those of lines of text.
pub(super) fn is_text(data: &[u8]) -> bool {
    let text = data
        .iter()
        .filter(|&&b| b == 9 || b == 10 || b == 13 || (32..127).contains(&b))
        .count();
    text * 20 >= data.len() * 19
}

fn lanes(data: &[u8], net: bool) -> usize {
    if !net && data.len() >= PAIRED {
        PAIR
    } else {
        1
    }
}

impl Plan {
    /// Where in its record the byte at `pos` lies; 0 without records.
    #[inline(always)]
    pub(crate) fn place(&self, pos: usize) -> usize {
        (pos + self.phase).checked_rem(self.stride).unwrap_or(0)
    }

    /// The plan of `data` that goes on where `self` ended, without a network: in as many lanes as it was coded in, if it was.
    pub(crate) fn go_on(&self, data: &[u8], coded_in: Option<usize>) -> Self {
        let lanes = coded_in.unwrap_or_else(|| lanes(data, false));
        Plan {
            lanes: if self.wide { 1 } else { lanes },
            ..*self
        }
    }

    /// The same with two banks of contexts, if `wide`, for which it takes one lane.
    pub(crate) fn widened(self, wide: bool) -> Self {
        let wide = wide || self.wide;
        Plan {
            wide,
            lanes: if wide { 1 } else { self.lanes },
            ..self
        }
    }

    /// The same in one lane, where time does not matter, or where `data` surely become few bytes: then most are sure guesses, which take no
    /// time in any number of lanes, and a second lane, which begins without a past, costs a large part of those few.
    pub(crate) fn narrowed(self, data: &[u8], effort: Effort) -> Self {
        let few = || zstd::encode(data, zstd::FAST).len() * FEW < data.len();
        let narrow = self.lanes > 1 && (effort == Effort::Dense || few());
        Plan {
            lanes: if narrow { 1 } else { self.lanes },
            ..self
        }
    }

    /// The plan of `data` coded after `seen` with `self`: the same contexts and stride, records found again.
    pub(crate) fn follow(&self, seen: &[u8], data: &[u8], net: bool) -> Self {
        let lanes = lanes(data, net);
        Plan {
            lanes: if self.wide { 1 } else { lanes },
            phase: phase(self.stride, self.phase, seen, data),
            ..*self
        }
    }
}

/// Bytes that tell where records begin.
const SAMPLE: usize = 16 << 10;

/// The phase of `data` behind `seen`, whose phase is `before`: where most columns have the same most frequent byte.
fn phase(stride: usize, before: usize, seen: &[u8], data: &[u8]) -> usize {
    if stride < 2 {
        return 0;
    }
    let from = seen.len().saturating_sub(SAMPLE);
    let old = columns(&seen[from..], stride, (from + before) % stride);
    let new = columns(
        &data[..data.len().min(SAMPLE)],
        stride,
        (seen.len() + before) % stride,
    );
    // Records that simply go on need no clear majority.
    let mut best = (0, 0);
    for shift in 0..stride {
        let mut score = 0;
        for (c, &(byte, count)) in new.iter().enumerate() {
            let (b, n) = old[(c + shift) % stride];
            score += if b == byte { count.min(n) } else { 0 };
        }
        if shift == 0 {
            best = (score + score / 4, 0);
        } else if score > best.0 {
            best = (score, shift);
        }
    }
    (before + best.1) % stride
}

/// Per column the most frequent byte and how often it came; the first byte of `data` lies in column `first`.
fn columns(data: &[u8], stride: usize, first: usize) -> Vec<(u8, u32)> {
    let mut counts = vec![[0u32; 256]; stride];
    for (i, &byte) in data.iter().enumerate() {
        counts[(first + i) % stride][usize::from(byte)] += 1;
    }
    let top = |c: &[u32; 256]| {
        let byte = (0..=255u8)
            .max_by_key(|&b| (c[usize::from(b)], 255 - b))
            .unwrap_or(0);
        (byte, c[usize::from(byte)])
    };
    counts.iter().map(top).collect()
}
