//! The neural codec: lanes in lockstep, adaptive statistics, an optional network, a logistic mixer, a range coder.
//!
//! Between bytes and coder everything is integer arithmetic, so a payload decodes to the same bytes on every machine.
//! Decoding checks lengths and ranges, never panics, and its work is bounded by the decoded length; wrong bytes from a
//! damaged payload are the caller's checksum to find. Layout: docs/CODEC.md.

mod apm;
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
mod tables;

#[cfg(test)]
mod tests;

use std::cell::RefCell;

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
    /// The payload was written with a network that is not given, or the reverse.
    #[error("neural payload needs a network: {needed}")]
    Net {
        /// Whether the payload was coded with a network.
        needed: bool,
    },
    /// The coded bits are impossible.
    #[error("neural payload is corrupt")]
    Corrupt,
    /// Bytes are left over after the block.
    #[error("neural payload has trailing bytes")]
    Trailing,
}

thread_local! {
    /// The tables of this thread's last block, kept for their allocation.
    static SCRATCH: RefCell<Option<Box<Predictor>>> = const { RefCell::new(None) };
}

/// Encodes `data`.
pub fn encode(data: &[u8], net: Option<&mut dyn Net>) -> Vec<u8> {
    let plan = Plan::find(data);
    let mut out = Vec::with_capacity(data.len() / 4 + 16);
    header::write(&plan, net.is_some(), &mut out);
    let mut coder = BitEncoder::new();
    let mut block = data.to_vec();
    // Encoding cannot fail: every probability is nonzero.
    let _ = run(&mut block, plan, &mut coder, net);
    coder.finish(&mut out);
    out
}

/// Decodes a payload of [`encode`] into the `len` bytes that it was made from.
pub fn decode(
    payload: &[u8],
    len: usize,
    net: Option<&mut dyn Net>,
) -> Result<Vec<u8>, NeuralError> {
    let (plan, needed, bits) = header::read(payload, len)?;
    if needed != net.is_some() {
        return Err(NeuralError::Net { needed });
    }
    let mut block = vec![0; len];
    let mut coder = BitDecoder::new(bits);
    run(&mut block, plan, &mut coder, net)?;
    coder.finish()?;
    Ok(block)
}

fn run<C: BitCoder>(
    block: &mut [u8],
    plan: Plan,
    coder: &mut C,
    net: Option<&mut dyn Net>,
) -> Result<(), NeuralError> {
    SCRATCH.with_borrow_mut(|scratch| {
        let p = scratch.get_or_insert_with(|| Box::new(Predictor::new()));
        p.reset(plan, block.len());
        let _ = net;
        lockstep::run(p, block, coder)
    })
}
