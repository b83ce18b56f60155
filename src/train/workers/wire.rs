//! What leader and worker say to each other, over TCP, all numbers little-endian.
//!
//! | from | message |
//! |---|---|
//! | worker | [`HELLO`], `u16` threads, `u16` length and text of its program's version |
//! | leader | [`HELLO`], `u32` length and JSON of a [`Welcome`]; or it says why not: `"REFUSED "`, `u32` length and text |
//! | leader | [`JOB`], `u8` whether weights come, `u32` segments; weights; the features and targets of each segment |
//! | worker | [`ALIVE`] every few seconds while it computes, then [`RESULT`] and for each segment `f64` loss and its gradient |
//! | leader | [`END`] when the run needs no more steps |
//!
//! Weights and gradients are `f32`, in the order of the parameters; both sides know all lengths from the configuration.

use crate::engine::Config;
use serde::{Deserialize, Serialize};
use std::io::{self, Read, Write};

/// Begins every conversation; ends with the version of the protocol.
pub(super) const HELLO: [u8; 8] = *b"VTRAIN 1";
pub(super) const REFUSED: [u8; 8] = *b"REFUSED ";
pub(super) const END: u8 = 0;
pub(super) const JOB: u8 = 1;
pub(super) const ALIVE: u8 = 2;
pub(super) const RESULT: u8 = 3;
/// Longest text of a greeting.
const MAX_TEXT: u32 = 64 << 10;

/// What a worker has to know of a run.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Welcome {
    pub config: Config,
    /// Bytes of a segment.
    pub window: usize,
}

/// This program's version: others may compute otherwise.
pub(super) fn version() -> &'static str {
    env!("CARGO_PKG_VERSION")
}

/// What went wrong with the other side, in words.
pub(super) fn why(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => "it says nothing".to_owned(),
        io::ErrorKind::UnexpectedEof => "it closed the connection".to_owned(),
        _ => error.to_string(),
    }
}

pub(super) fn bad(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}

pub(super) fn read_array<const N: usize>(from: &mut impl Read) -> io::Result<[u8; N]> {
    let mut bytes = [0; N];
    from.read_exact(&mut bytes)?;
    Ok(bytes)
}

pub(super) fn write_text(to: &mut impl Write, text: &str) -> io::Result<()> {
    let len = u32::try_from(text.len()).map_err(|_| bad("a long text"))?;
    to.write_all(&len.to_le_bytes())?;
    to.write_all(text.as_bytes())
}

pub(super) fn read_text(from: &mut impl Read) -> io::Result<String> {
    let len = u32::from_le_bytes(read_array(from)?);
    if len > MAX_TEXT {
        return Err(bad("a long text"));
    }
    let mut bytes = vec![0; len as usize];
    from.read_exact(&mut bytes)?;
    String::from_utf8(bytes).map_err(|_| bad("a text that is none"))
}

pub(super) fn floats_to_bytes(values: &[f32], out: &mut Vec<u8>) {
    out.reserve(4 * values.len());
    values
        .iter()
        .for_each(|v| out.extend_from_slice(&v.to_le_bytes()));
}

/// Reads as many as `into` holds.
pub(super) fn read_floats(from: &mut impl Read, into: &mut [f32]) -> io::Result<()> {
    let mut bytes = vec![0; 4 * into.len()];
    from.read_exact(&mut bytes)?;
    let (numbers, _) = bytes.as_chunks::<4>();
    for (value, number) in into.iter_mut().zip(numbers) {
        *value = f32::from_le_bytes(*number);
    }
    Ok(())
}
