//! The neural codec: lanes in order, adaptive statistics, an optional network, a logistic mixer, a range coder.
//!
//! Between bytes and coder everything is integer arithmetic, so a payload decodes to the same bytes on every machine.
//! Decoding checks lengths and ranges, never panics, and its work is bounded by the decoded length; wrong bytes from a
//! damaged payload are the caller's checksum to find. Layout: docs/CODEC.md.

mod apm;
mod coder;
mod contexts;
mod direct;
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
mod slots;
mod start;
mod tables;
mod work;

#[cfg(test)]
mod learn;
#[cfg(test)]
mod tests;

use std::cell::RefCell;
use std::sync::Arc;

use coder::{BitCoder, BitDecoder, BitEncoder};
use grid::Gridded;
pub use net::Net;
pub(super) use plan::NET_LANES;
use plan::Plan;
use predictor::Predictor;
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

/// A thread's predictor, kept for its allocation, and what it coded last: the next start state may need just that.
#[derive(Default)]
struct Scratch {
    predictor: Predictor,
    last: Option<Last>,
}

/// What a predictor has seen since it was reset.
#[derive(PartialEq, Eq)]
struct Last {
    /// The start state that it took over.
    start: Option<u64>,
    plan: Plan,
    data: Vec<u8>,
}

thread_local! {
    static SCRATCH: RefCell<Option<Box<Scratch>>> = const { RefCell::new(None) };
}

/// Bytes of the predictor that this thread keeps between blocks, and of the block that it remembers; 0 if the predictor has become
/// a start state.
#[must_use]
pub fn thread_memory() -> usize {
    SCRATCH.with_borrow(|scratch| {
        scratch.as_ref().map_or(0, |s| {
            s.predictor.memory() + s.last.as_ref().map_or(0, |last| last.data.capacity())
        })
    })
}

/// Gives back the memory that this thread keeps between blocks.
pub fn forget_thread_memory() {
    SCRATCH.with_borrow_mut(|scratch| *scratch = None);
}

/// Encodes `data`, cold or from a start state, with a network or without. A cold block that has a grid is coded with it and without.
pub fn encode(data: &[u8], mut net: Option<&mut dyn Net>, start: Option<&Start>) -> Vec<u8> {
    let Some((block, coded)) = on_grid(data, start) else {
        return encode_as(data, None, net, start);
    };
    let header = grid::Header::of(&block, coded.len(), start.and_then(Start::grid));
    if start.is_some() {
        return encode_as(&coded, Some(&header), net, start);
    }
    let plain = match net.as_mut() {
        Some(net) => encode_as(data, None, Some(&mut **net), None),
        None => encode_as(data, None, None, None),
    };
    let short = encode_as(&coded, Some(&header), net, None);
    if short.len() < plain.len() {
        short
    } else {
        plain
    }
}

/// Encodes a block, on a grid or not; a cold one with each plan that it may have.
fn encode_as(
    data: &[u8],
    grid: Option<&grid::Header>,
    mut net: Option<&mut dyn Net>,
    start: Option<&Start>,
) -> Vec<u8> {
    let plans = match start {
        None => Plan::candidates(data, net.is_some()),
        Some(start) => vec![start.follow(data, net.is_some())],
    };
    // The last one coded is what the next start state finds at hand: the likelier one.
    let coded = plans.iter().rev().map(|plan| {
        let net = match net.as_mut() {
            Some(net) => Some(&mut **net as &mut dyn Net),
            None => None,
        };
        encode_planned(plan, data, grid, net, start)
    });
    coded.min_by_key(Vec::len).unwrap_or_default()
}

/// Encodes a block with this plan.
fn encode_planned(
    plan: &Plan,
    data: &[u8],
    grid: Option<&grid::Header>,
    net: Option<&mut dyn Net>,
    start: Option<&Start>,
) -> Vec<u8> {
    let mut out = Vec::with_capacity(data.len() / 4 + 16);
    header::write(plan, net.is_some(), start.is_some(), grid, &mut out);
    let mut coder = BitEncoder::new();
    let mut block = start.map_or(Vec::new(), |s| s.seen().to_vec());
    block.extend_from_slice(data);
    // Encoding cannot fail: every probability is nonzero.
    let _ = run(&mut block, data.len(), *plan, &mut coder, net, start);
    coder.finish(&mut out);
    out
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
    block: &mut [u8],
    len: usize,
    plan: Plan,
    coder: &mut C,
    mut net: Option<&mut dyn Net>,
    start: Option<&Start>,
) -> Result<(), NeuralError> {
    SCRATCH.with_borrow_mut(|scratch| {
        let scratch = scratch.get_or_insert_default();
        scratch.last = None;
        let p = &mut scratch.predictor;
        match start {
            None => p.reset(plan, len, net.is_some()),
            Some(start) => start.resume(p, plan, len, net.is_some()),
        }
        let alone = net.is_none();
        if let Some(net) = net.as_deref_mut() {
            net.reset(plan.lanes, plan.stride);
        }
        order::run(p, block, coder, net)?;
        scratch.last = alone.then(|| Last {
            start: start.map(Start::id),
            plan,
            data: block[block.len() - len..].to_vec(),
        });
        Ok(())
    })
}
