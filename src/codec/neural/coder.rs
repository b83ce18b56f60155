//! The entropy coder: constriction's range coder over binary models of 16-bit integer probability.
//!
//! Words are 16 bits in a 64-bit state: an end costs at most four bytes and a probability loses less than 2^-32.

use constriction::backends::Cursor;
use constriction::stream::model::{DecoderModel, EncoderModel, EntropyModel};
use constriction::stream::queue::{RangeDecoder, RangeEncoder};
use constriction::stream::{Decode, Encode};
use std::borrow::Borrow;
use std::num::NonZeroU16;

use super::NeuralError;

/// A bit that is 1 with probability `p / 65536`.
#[derive(Clone, Copy)]
struct Bit(NonZeroU16);

impl EntropyModel<16> for Bit {
    type Symbol = bool;
    type Probability = u16;
}

impl EncoderModel<16> for Bit {
    #[inline(always)]
    fn left_cumulative_and_probability(
        &self,
        symbol: impl Borrow<bool>,
    ) -> Option<(u16, NonZeroU16)> {
        let p = self.0.get();
        if *symbol.borrow() {
            Some((0, self.0))
        } else {
            Some((p, NonZeroU16::new(p.wrapping_neg())?))
        }
    }
}

impl DecoderModel<16> for Bit {
    #[inline(always)]
    fn quantile_function(&self, quantile: u16) -> (bool, u16, NonZeroU16) {
        let p = self.0.get();
        if quantile < p {
            (true, 0, self.0)
        } else {
            // `0 - p` is nonzero because `p` is.
            let rest = NonZeroU16::new(p.wrapping_neg()).unwrap_or(NonZeroU16::MIN);
            (false, p, rest)
        }
    }
}

/// One direction of coding: the encoder passes the given bit through, the decoder ignores it and returns its own.
pub(super) trait BitCoder {
    /// Codes one bit whose probability of being 1 is `p / 65536` (`p` is clamped to 1..=65535).
    fn code(&mut self, bit: u32, p: i32) -> Result<u32, NeuralError>;
}

fn model(p: i32) -> Bit {
    Bit(NonZeroU16::new(p.clamp(1, 65535) as u16).unwrap_or(NonZeroU16::MIN))
}

/// Bits to bytes.
pub(super) struct BitEncoder(RangeEncoder<u16, u64>);

impl BitEncoder {
    pub(super) fn new() -> Self {
        BitEncoder(RangeEncoder::new())
    }

    /// Appends the coded bits to `out`. A last zero byte is left out; the decoder supplies zeros past the end.
    pub(super) fn finish(self, out: &mut Vec<u8>) {
        let start = out.len();
        let words = match self.0.into_compressed() {
            Ok(words) => words,
            Err(never) => match never {},
        };
        for word in words {
            out.extend_from_slice(&word.to_be_bytes());
        }
        if out.len() > start && out.last() == Some(&0) {
            out.pop();
        }
    }
}

impl BitCoder for BitEncoder {
    #[inline(always)]
    fn code(&mut self, bit: u32, p: i32) -> Result<u32, NeuralError> {
        match self.0.encode_symbol(bit != 0, model(p)) {
            Ok(()) => Ok(bit),
            Err(_) => Err(NeuralError::Corrupt),
        }
    }
}

/// Bytes to bits.
pub(super) struct BitDecoder(RangeDecoder<u16, u64, Cursor<u16, Vec<u16>>>);

impl BitDecoder {
    pub(super) fn new(bytes: &[u8]) -> Self {
        let words: Vec<u16> = bytes
            .chunks(2)
            .map(|pair| u16::from_be_bytes([pair[0], pair.get(1).copied().unwrap_or(0)]))
            .collect();
        match RangeDecoder::from_compressed(words) {
            Ok(decoder) => BitDecoder(decoder),
            Err(never) => match never {},
        }
    }

    /// An error if bytes are left over.
    pub(super) fn finish(self) -> Result<(), NeuralError> {
        if self.0.maybe_exhausted() {
            Ok(())
        } else {
            Err(NeuralError::Trailing)
        }
    }
}

impl BitCoder for BitDecoder {
    #[inline(always)]
    fn code(&mut self, _bit: u32, p: i32) -> Result<u32, NeuralError> {
        match self.0.decode_symbol(model(p)) {
            Ok(bit) => Ok(u32::from(bit)),
            Err(_) => Err(NeuralError::Corrupt),
        }
    }
}

/// Codes nothing: a predictor learns bytes that are known.
pub(super) struct Replay;

impl BitCoder for Replay {
    #[inline(always)]
    fn code(&mut self, bit: u32, _p: i32) -> Result<u32, NeuralError> {
        Ok(bit)
    }
}
