//! The neural codec: lanes in lockstep, adaptive statistics, an optional network, a logistic mixer, a range coder.
//!
//! Between bytes and coder everything is integer arithmetic, so a payload decodes to the same bytes on every machine.
//! Decoding checks lengths and ranges, never panics, and its work is bounded by the decoded length; wrong bytes from a
//! damaged payload are the caller's checksum to find. Layout: docs/CODEC.md.

mod apm;
mod base;
mod coder;
mod contexts;
mod header;
mod history;
mod inputs;
mod kernels;
mod lane;
mod lockstep;
mod mixer;
mod net;
mod plan;
mod predictor;
mod slots;
mod start;
mod tables;

#[cfg(test)]
mod learn;
#[cfg(test)]
mod tests;

use std::cell::RefCell;

pub use base::Start;
use coder::{BitCoder, BitDecoder, BitEncoder};
pub use net::Net;
use plan::Plan;
use predictor::Predictor;

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
    /// The coded bits are impossible.
    #[error("neural payload is corrupt")]
    Corrupt,
    /// Bytes are left over after the block.
    #[error("neural payload has trailing bytes")]
    Trailing,
    /// The payload was coded from another start state than the one given, or one is needed and none is given.
    #[error("neural payload was coded from another start state")]
    Start,
}

thread_local! {
    /// The tables of this thread's last block, kept for their allocation.
    static SCRATCH: RefCell<Option<Box<Predictor>>> = const { RefCell::new(None) };
}

/// Encodes `data`, with a network in a few lanes, without one in a single lane; from `start`, if given, and then without a
/// network.
pub fn encode(data: &[u8], mut net: Option<&mut dyn Net>, start: Option<&Start>) -> Vec<u8> {
    if let Some(payload) = start.and_then(|start| base::encode(data, start)) {
        return payload;
    }
    let plan = Plan::find(data, net.is_some());
    let mut out = Vec::with_capacity(data.len() / 4 + 16);
    header::write(&plan, net.is_some(), &mut out);
    let mut coder = BitEncoder::new();
    let mut block = data.to_vec();
    // Encoding cannot fail: every probability is nonzero.
    let _ = run(&mut block, plan, &mut coder, net.take());
    coder.finish(&mut out);
    out
}

/// Whether [`decode`] needs the network that the payload was made with.
///
/// # Errors
/// A payload without a valid header.
pub fn needs_net(payload: &[u8], len: usize) -> Result<bool, NeuralError> {
    header::read(payload, len).map(|(_, net, _)| net)
}

/// Decodes a payload of [`encode`] into the `len` bytes that it was made from. A network is ignored if the payload was made
/// without one, and `start` if it was made without a start state.
///
/// # Errors
/// Any [`NeuralError`]; a damaged payload may also decode to wrong bytes.
pub fn decode(
    payload: &[u8],
    len: usize,
    net: Option<&mut dyn Net>,
    start: Option<&Start>,
) -> Result<Vec<u8>, NeuralError> {
    if base::is_started(payload) {
        return base::decode(payload, len, start);
    }
    let (plan, needed, bits) = header::read(payload, len)?;
    if needed && net.is_none() {
        return Err(NeuralError::Net);
    }
    let mut block = vec![0; len];
    let mut coder = BitDecoder::new(bits);
    run(&mut block, plan, &mut coder, net.filter(|_| needed))?;
    coder.finish()?;
    Ok(block)
}

fn run<C: BitCoder>(
    block: &mut [u8],
    plan: Plan,
    coder: &mut C,
    mut net: Option<&mut dyn Net>,
) -> Result<(), NeuralError> {
    SCRATCH.with_borrow_mut(|scratch| {
        let p = scratch.get_or_insert_default();
        p.reset(plan, block.len(), net.is_some());
        if let Some(net) = net.as_deref_mut() {
            net.reset(plan.lanes, plan.stride);
        }
        lockstep::run(p, block, coder, net)
    })
}
