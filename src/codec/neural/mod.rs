//! The neural codec: lanes in order, adaptive statistics, an optional network, a logistic mixer, a range coder.
//!
//! Between bytes and coder everything is integer arithmetic, so a payload decodes to the same bytes on every machine.
//! Decoding checks lengths and ranges, never panics, and its work is bounded by the decoded length; wrong bytes from a
//! damaged payload are the caller's checksum to find. Layout: docs/CODEC.md.

mod apm;
mod around;
mod bank;
mod coder;
mod contexts;
mod direct;
mod first;
mod grid;
mod guess;
mod header;
mod history;
mod initial;
mod inputs;
mod kernels;
mod lane;
mod mixer;
mod net;
mod order;
mod plan;
mod predictor;
mod samples;
mod scratch;
mod slots;
mod start;
mod tables;
mod wide;
mod work;

#[cfg(test)]
mod learn;
#[cfg(test)]
mod start_tests;
#[cfg(test)]
mod tests;
#[cfg(test)]
mod ways_tests;

use std::sync::Arc;

use crate::engine::Effort;
use coder::{BitCoder, BitDecoder, BitEncoder};
pub use first::{Learnt, first_weights, learn_from};
use grid::Gridded;
pub use net::{FirstWeights, Net};
use plan::Plan;
use predictor::Beside;
use scratch::{Last, Lent, Scratch};
pub use scratch::{forget_thread_memory, thread_memory};
pub use start::Start;

/// Why a neural payload does not decode.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NeuralError {
    /// The payload's header is cut short.
    #[error("neural payload is cut short")]
    Truncated,
    /// The payload's version is not one that this program knows.
    #[error("neural payload has unknown version {0}")]
    Version(u8),
    /// The payload's plan does not fit the block.
    #[error("neural payload has an impossible plan")]
    Plan,
    /// The payload was written with a network and none is given.
    #[error("neural payload needs its model")]
    Net,
    /// The payload was coded from another start state than the one given.
    #[error("neural payload was coded from another start state")]
    Start,
    /// The coded bits are impossible.
    #[error("neural payload is corrupt")]
    Corrupt,
    /// Bytes are left over after the block.
    #[error("neural payload has trailing bytes")]
    Trailing,
}

/// A payload, and the predictor that made it: no other block is coded with that until this is dropped, so a start state made then finds
/// its work done.
pub struct Coded {
    payload: Vec<u8>,
    #[cfg_attr(not(test), expect(dead_code, reason = "held until it is dropped"))]
    predictor: Option<Lent>,
}

impl Coded {
    /// Bytes of the payload.
    #[must_use]
    pub fn size(&self) -> usize {
        self.payload.len()
    }

    /// The same, its predictor free for others: a state after it will have to learn its bytes anew.
    #[must_use]
    pub fn without_predictor(self) -> Coded {
        Coded {
            predictor: None,
            ..self
        }
    }

    /// The payload alone.
    #[must_use]
    pub fn into_payload(self) -> Vec<u8> {
        self.payload
    }
}

/// The payload of `data`, cold or from a start state, with a network or without.
pub fn encode(data: &[u8], net: Option<&mut dyn Net>, start: Option<&Start>) -> Vec<u8> {
    code(data, net, start, Effort::Usual).into_payload()
}

/// Bytes of a payload of `data` that has one lane, as with a network, and one bank of contexts unless its start state has two.
pub fn one_lane_len(data: &[u8], start: Option<&Start>) -> usize {
    code_as(data, None, start, (Effort::Dense, false)).size()
}

/// Encodes `data`, cold or from a start state, with a network or without; dense payloads are wide.
pub fn code(
    data: &[u8],
    net: Option<&mut dyn Net>,
    start: Option<&Start>,
    effort: Effort,
) -> Coded {
    code_as(data, net, start, (effort, effort == Effort::Dense))
}

/// Encodes `data` with so much effort, wide or not.
///
/// A block from a start state has one form and one plan. A cold one has up to two forms, plain and on a grid, and each up to two
/// plans: both forms are coded with their last plan, then the shorter one with its other plan, too.
fn code_as(
    data: &[u8],
    mut net: Option<&mut dyn Net>,
    start: Option<&Start>,
    (effort, wide): (Effort, bool),
) -> Coded {
    let gridded = gridded(data, start);
    let plain = Form { data, grid: None };
    let gridded = gridded.as_ref().map(Form::on_grid);
    if let Some(start) = start {
        let form = gridded.unwrap_or(plain);
        let plan = start
            .follow(form.data, net.is_some())
            .narrowed(form.data, effort)
            .widened(wide);
        return form.encode(&plan, net, Some(start));
    }
    let mut form = plain;
    let (mut best, mut other) = plain.begin(lend(&mut net), effort, wide);
    if let Some(gridded) = gridded {
        let (coded, another) = gridded.begin(lend(&mut net), effort, wide);
        if coded.size() < best.size() {
            (form, best, other) = (gridded, coded, another);
        }
    }
    if let Some(plan) = other {
        let coded = form.encode(&plan, net, None);
        if coded.size() <= best.size() {
            best = coded;
        }
    }
    best
}

/// Bytes of payloads of `data`, a sample of a block, without a network: cold, with the first plan of each form and as wide as after `start`,
/// and from `start`.
pub fn sample_lens(data: &[u8], start: &Start) -> (usize, usize) {
    let gridded = gridded(data, None);
    let forms = [
        Some(Form { data, grid: None }),
        gridded.as_ref().map(Form::on_grid),
    ];
    let sizes = forms.iter().flatten().map(|form| {
        let plan = Plan::find(form.data, false).widened(start.is_wide());
        form.encode(&plan, None, None).size()
    });
    let cold = sizes.min().unwrap_or_default();
    (cold, encode(data, None, Some(start)).len())
}

/// Bytes of cold payloads of `data`, a sample of a block, with the network and without, each in its best form: both in one lane and one
/// bank, with one plan of the two that a block may have.
pub fn sample_lens_with(data: &[u8], net: &mut dyn Net) -> (usize, usize) {
    let gridded = gridded(data, None);
    let plain = Form { data, grid: None };
    let (mut joint, mut alone) = (usize::MAX, usize::MAX);
    for form in [Some(plain), gridded.as_ref().map(Form::on_grid)]
        .iter()
        .flatten()
    {
        let plan = Plan::find(form.data, true);
        joint = joint.min(form.encode(&plan, Some(&mut *net), None).size());
        alone = alone.min(form.encode(&plan, None, None).size());
    }
    (joint, alone)
}

/// The block on a grid with its header, if it is one to be coded so.
fn gridded(data: &[u8], start: Option<&Start>) -> Option<(grid::Header, Vec<u8>)> {
    let (block, coded) = on_grid(data, start)?;
    let header = grid::Header::of(&block, coded.len(), start.and_then(Start::grid));
    Some((header, coded))
}

/// The network for one encoding of several.
fn lend<'a>(net: &'a mut Option<&mut dyn Net>) -> Option<&'a mut dyn Net> {
    net.as_mut().map(|net| &mut **net as &mut dyn Net)
}

/// The bytes of a block that are coded: its own, or those on a grid.
#[derive(Clone, Copy)]
struct Form<'a> {
    data: &'a [u8],
    grid: Option<&'a grid::Header>,
}

impl<'a> Form<'a> {
    fn on_grid((header, coded): &'a (grid::Header, Vec<u8>)) -> Self {
        Form {
            data: coded,
            grid: Some(header),
        }
    }

    /// Codes it cold with its last plan: that, and its other plan, if there is one.
    fn begin(
        &self,
        net: Option<&mut dyn Net>,
        effort: Effort,
        wide: bool,
    ) -> (Coded, Option<Plan>) {
        let narrowed = |plan: Plan| plan.narrowed(self.data, effort).widened(wide);
        let (first, second) = Plan::candidates(self.data, net.is_some(), effort);
        let last = narrowed(second.unwrap_or(first));
        let other = second.map(|_| narrowed(first));
        (self.encode(&last, net, None), other)
    }

    fn encode(&self, plan: &Plan, net: Option<&mut dyn Net>, start: Option<&Start>) -> Coded {
        let mut out = Vec::with_capacity(self.data.len() / 4 + 16);
        header::write(plan, net.is_some(), start.is_some(), self.grid, &mut out);
        let mut coder = BitEncoder::new();
        let mut block = start.map_or(Vec::new(), |s| s.seen().to_vec());
        block.extend_from_slice(self.data);
        let mut predictor = Lent::take();
        // Encoding cannot fail: every probability is nonzero.
        let _ = run(
            &mut predictor,
            &mut block,
            self.data.len(),
            *plan,
            &mut coder,
            net,
            start,
        );
        coder.finish(&mut out);
        Coded {
            payload: out,
            predictor: Some(predictor),
        }
    }
}

/// The grid of a block that is to be coded from `start`, and the block on it: the grid of the state, or a new one where that does
/// not fit any more; in a cold block any.
fn on_grid(data: &[u8], start: Option<&Start>) -> Option<(Gridded, Vec<u8>)> {
    if data.len() > grid::MOST {
        return None;
    }
    let with = |block: Gridded| {
        let coded = block.forward(data);
        (block, coded)
    };
    let known = match start {
        None => None,
        Some(start) => Arc::clone(start.grid()?).fit(data).map(with),
    };
    let fits = known
        .as_ref()
        .is_some_and(|(block, coded)| block.odd(data.len(), coded) * 16 <= data.len());
    let found = if fits {
        None
    } else {
        grid::find(data).map(with)
    };
    let best = [known, found]
        .into_iter()
        .flatten()
        .min_by_key(|(_, coded)| coded.len());
    best.filter(|(_, coded)| coded.len() < data.len())
}

/// Whether [`decode`] needs the network that the payload was made with.
///
/// # Errors
/// A payload without a valid header.
pub fn needs_net(payload: &[u8], len: usize) -> Result<bool, NeuralError> {
    header::read(payload, len).map(|h| h.net)
}

/// Decodes a payload of [`encode`] into the `len` bytes that it was made from. A network or a start state is
/// ignored if the payload was made without.
///
/// # Errors
/// Any [`NeuralError`]; a damaged payload may also decode to wrong bytes.
pub fn decode(
    payload: &[u8],
    len: usize,
    net: Option<&mut dyn Net>,
    start: Option<&Start>,
) -> Result<Vec<u8>, NeuralError> {
    let mut h = header::read(payload, len)?;
    if h.net && net.is_none() {
        return Err(NeuralError::Net);
    }
    let start = start.filter(|_| h.started);
    if h.started && !start.is_some_and(|s| s.leads_to(&h.plan)) {
        return Err(NeuralError::Start);
    }
    if len == 0 {
        return match h.bits {
            [] => Ok(Vec::new()),
            _ => Err(NeuralError::Trailing),
        };
    }
    if let Some(start) = start {
        h.plan.layout = start.layout();
    }
    let block = match &h.grid {
        Some(grid) => Some(grid.resolve(len, start.and_then(Start::grid))?),
        None => None,
    };
    let coded = decode_bits(&h, h.grid.as_ref().map_or(len, |g| g.coded), net, start)?;
    match block {
        Some(block) => block.inverse(&coded, len),
        None => Ok(coded),
    }
}

/// The `len` bytes that were coded, on the grid if the block is on one.
fn decode_bits(
    h: &header::Header<'_>,
    len: usize,
    net: Option<&mut dyn Net>,
    start: Option<&Start>,
) -> Result<Vec<u8>, NeuralError> {
    let seen = start.map_or(&[][..], |s| s.seen());
    let mut block = Vec::with_capacity(seen.len() + len);
    block.extend_from_slice(seen);
    block.resize(seen.len() + len, 0);
    let mut coder = BitDecoder::new(h.bits)?;
    run(
        &mut Lent::take(),
        &mut block,
        len,
        h.plan,
        &mut coder,
        net.filter(|_| h.net),
        start,
    )?;
    coder.finish()?;
    block.drain(..seen.len());
    Ok(block)
}

fn run<C: BitCoder>(
    scratch: &mut Scratch,
    block: &mut [u8],
    len: usize,
    plan: Plan,
    coder: &mut C,
    mut net: Option<&mut dyn Net>,
    start: Option<&Start>,
) -> Result<(), NeuralError> {
    scratch.last = None;
    let p = &mut scratch.predictor;
    match start {
        None => p.reset(
            plan,
            len,
            net.as_deref().map(|net| Beside(net.first_weights())),
        ),
        Some(start) => start.resume(p, plan, len, net.is_some()),
    }
    let alone = net.is_none();
    if let Some(net) = net.as_deref_mut() {
        net.reset(plan.stride);
    }
    order::run(p, block, coder, net)?;
    scratch.last = alone.then(|| Last {
        start: start.map(Start::id),
        plan,
        data: block[block.len() - len..].to_vec(),
    });
    Ok(())
}
