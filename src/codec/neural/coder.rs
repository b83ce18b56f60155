//! The entropy coder: constriction's range coder over binary models of 16-bit integer probability.
//!
//! Words are 16 bits in a 64-bit state: an end costs at most four bytes and a probability loses less than 2^-32.

use constriction::Queue;
use constriction::backends::ReadWords;
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
    /// Whether bits are known before they are coded.
    const KNOWS: bool;

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
    const KNOWS: bool = true;

    #[inline(always)]
    fn code(&mut self, bit: u32, p: i32) -> Result<u32, NeuralError> {
        match self.0.encode_symbol(bit != 0, model(p)) {
            Ok(()) => Ok(bit),
            Err(_) => Err(NeuralError::Corrupt),
        }
    }
}

/// Bytes to bits.
pub(super) struct BitDecoder<'a>(RangeDecoder<u16, u64, Words<'a>>);

impl<'a> BitDecoder<'a> {
    pub(super) fn new(bytes: &'a [u8]) -> Result<Self, NeuralError> {
        let words = Words {
            rest: bytes,
            past: bytes.len().div_ceil(2).min(PAST_END),
        };
        RangeDecoder::with_backend(words).map(BitDecoder)
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

impl BitCoder for BitDecoder<'_> {
    const KNOWS: bool = false;

    #[inline(always)]
    fn code(&mut self, _bit: u32, p: i32) -> Result<u32, NeuralError> {
        match self.0.decode_symbol(model(p)) {
            Ok(bit) => Ok(u32::from(bit)),
            Err(_) => Err(NeuralError::Corrupt),
        }
    }
}

/// Words that a decoder reads beyond the last one of a payload, at most: it has four in hand, of which the encoder wrote one at
/// least. Of a payload of fewer words it has those and asks for one more.
const PAST_END: usize = 3;

/// The words of a payload, then zeros, but not for ever: a payload that was cut costs no more than its own length.
struct Words<'a> {
    rest: &'a [u8],
    /// Words that may still be read beyond the end.
    past: usize,
}

impl ReadWords<u16, Queue> for Words<'_> {
    type ReadError = NeuralError;

    #[inline(always)]
    fn read(&mut self) -> Result<Option<u16>, NeuralError> {
        match *self.rest {
            [a, b, ref rest @ ..] => {
                self.rest = rest;
                Ok(Some(u16::from_be_bytes([a, b])))
            }
            [a] => {
                self.rest = &[];
                Ok(Some(u16::from_be_bytes([a, 0])))
            }
            [] => {
                self.past = self.past.checked_sub(1).ok_or(NeuralError::Corrupt)?;
                Ok(None)
            }
        }
    }

    fn maybe_exhausted(&self) -> bool {
        self.rest.is_empty()
    }
}

/// Codes nothing: a predictor learns bytes that are known.
pub(super) struct Replay;

impl BitCoder for Replay {
    const KNOWS: bool = true;

    #[inline(always)]
    fn code(&mut self, bit: u32, _p: i32) -> Result<u32, NeuralError> {
        Ok(bit)
    }
}
