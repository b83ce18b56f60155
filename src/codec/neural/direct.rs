//! Direct coding: bytes of which the contexts tell no more than a count does.
//!
//! The lower bits of measured numbers, and what is compressed or encrypted already, are noise: sixteen contexts learn nothing
//! about them and cost all the time. For each place of the record both ways are compared on its first bytes, and from then
//! on now and then; where the contexts save next to nothing, a count of the place's bytes and, if it is part of
//! a number, the number's distribution make each bit's probability alone.

use super::NeuralError;
use super::coder::BitCoder;
use super::history;
use super::samples::INPUTS;
use super::slots::rates;
use super::tables::{cost, odds, squash};

/// Places of a record that may be coded directly.
const PLACES: usize = 128;
/// Bytes of a place that are compared before it may be; and after them, one of so many.
const FIRST: u32 = 2048;
const EACH: u32 = 32;
/// How much more it may cost, in 1/256 bit a byte.
const MARGIN: i32 = 8;
/// How fast the mean of what is saved follows, as a shift, and its fraction bits.
const PACE: u32 = 8;
const FRACTION: u32 = 8;
/// Smallest width of a number's distribution, in doublings of one.
pub(super) const WIDE: u32 = 3;
/// All inputs: those of the distributions, and the count's.
const ALL: usize = INPUTS + 1;
/// Rows of weights: by width (0: no number), byte of the number and bit.
const ROWS: usize = WIDTHS as usize * 2 * BITS;
const WIDTHS: u32 = 16;
const BITS: usize = 8;
/// How many times a count's probability is averaged.
const COUNT_LIMIT: u32 = 511;

static RATE: [u16; COUNT_LIMIT as usize + 1] = rates();

/// Fraction bits of weights, their largest magnitude, and how fast they learn, as a shift.
const WEIGHT_BITS: u32 = 16;
/// Three of them times the largest log odds (2,840 of a count, 2,130 of a distribution) fit 31 bits.
const LARGEST: i32 = 1 << 18;
const LEARN: u32 = 14;

/// What is known of one place of the record.
#[derive(Clone)]
struct Place {
    /// Per node of the byte's tree: probability of a 1 and count.
    counts: [u32; 256],
    /// Bytes so far.
    bytes: u32,
    /// Mean of what direct coding saved, in 1/256 bit with [`FRACTION`] more bits.
    saved: i32,
}

impl Place {
    /// Whether its next byte is coded in full and compared.
    #[inline(always)]
    fn is_compared(&self) -> bool {
        self.bytes < FIRST || self.bytes.is_multiple_of(EACH)
    }

    const NEW: Place = Place {
        counts: [1 << 31; 256],
        bytes: 0,
        saved: 0,
    };
}

/// A number that a byte is part of.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) struct Number {
    /// How wide its distribution is, in doublings of one, and which of its bytes it is.
    pub(super) width: u32,
    pub(super) byte: u32,
}

/// What a block has learnt about direct coding.
pub(super) struct Direct {
    places: Vec<Place>,
    weights: Vec<[i32; ALL]>,
}

impl Direct {
    pub(super) fn new() -> Self {
        Direct {
            places: Vec::new(),
            weights: Vec::new(),
        }
    }

    /// Forgets everything, and expects records of `stride` bytes (0: one place).
    pub(super) fn reset(&mut self, stride: usize) {
        self.places.clear();
        self.places.resize(stride.clamp(1, PLACES), Place::NEW);
        self.weights.clear();
        self.weights.resize(ROWS, [1 << 14, 3 << 14, 1 << 12]);
        // Without a number there is only the count.
        self.weights[..BITS].fill([0, 0, 1 << WEIGHT_BITS]);
    }

    pub(super) fn copy_from(&mut self, other: &Self) {
        self.places.clone_from(&other.places);
        self.weights.clone_from(&other.weights);
    }

    /// Bytes of memory that it takes.
    pub(super) fn memory(&self) -> usize {
        size_of_val(&self.places[..]) + size_of_val(&self.weights[..])
    }

    /// Whether the next byte at `place` is coded directly, unless it is part of a number with a narrow distribution.
    #[inline(always)]
    pub(super) fn is_due(&self, place: usize) -> bool {
        (self.places.get(place)).is_some_and(|p| p.saved > -MARGIN << FRACTION && !p.is_compared())
    }

    /// Codes a byte; `odds` tells what the number's distributions make of the next bit, from the bits so far and how many come after it.
    #[inline(always)]
    pub(super) fn code<C: BitCoder>(
        &mut self,
        place: usize,
        number: Option<Number>,
        odds_of: impl Fn(u32, u32) -> [i16; INPUTS],
        byte: u32,
        coder: &mut C,
    ) -> Result<u8, NeuralError> {
        let Some(place) = self.places.get_mut(place) else {
            return Err(NeuralError::Corrupt);
        };
        place.bytes = place.bytes.wrapping_add(1);
        let row = number.map_or(0, |n| {
            (2 * n.width.min(WIDTHS - 1) + n.byte) as usize * BITS
        });
        let mut partial = 1;
        for b in (0..8).rev() {
            let [quick, slow] = match number {
                Some(_) => odds_of(partial, b),
                None => [0; INPUTS],
            };
            let count = &mut place.counts[partial as usize];
            let x = [
                quick.into(),
                slow.into(),
                odds(((*count >> 16) as i32).max(1)),
            ];
            let weights = &mut self.weights[row + b as usize];
            let sum: i32 = (0..ALL).map(|i| weights[i] * x[i]).sum();
            let p = squash(sum >> WEIGHT_BITS);
            let y = coder.code(byte >> b & 1, p)?;
            let error = (((y as i32) << 16) - p) >> 4;
            for i in 0..ALL {
                let step = (x[i] * error + (1 << (LEARN - 1))) >> LEARN;
                weights[i] = (weights[i] + step).clamp(-LARGEST, LARGEST);
            }
            let rate = u32::from(RATE[(*count & COUNT_LIMIT) as usize]);
            *count = history::updated(*count, y, COUNT_LIMIT, rate);
            partial = partial * 2 + y;
        }
        Ok(partial as u8)
    }

    /// A byte was coded in full, for `cost`: compares, if it is time, what it would have cost directly.
    #[inline(always)]
    pub(super) fn compare(
        &mut self,
        place: usize,
        number: Option<Number>,
        odds_of: impl Fn(u32, u32) -> [i16; INPUTS],
        byte: u32,
        cost: i32,
    ) {
        let Some(known) = self.places.get_mut(place) else {
            return;
        };
        if !known.is_compared() {
            known.bytes = known.bytes.wrapping_add(1);
            return;
        }
        let mut own = Tally(0);
        // Nothing is coded, so nothing fails.
        let _ = self.code(place, number, odds_of, byte, &mut own);
        let known = &mut self.places[place];
        if known.bytes > FIRST / 2 {
            known.saved += (((cost - own.0) << FRACTION) - known.saved) >> PACE;
        }
    }
}

/// Codes nothing, and adds up what it would cost, in 1/256 bit.
struct Tally(i32);

impl BitCoder for Tally {
    const KNOWS: bool = true;

    #[inline(always)]
    fn code(&mut self, bit: u32, p: i32) -> Result<u32, NeuralError> {
        self.0 += cost(p, bit);
        Ok(bit)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Noise.
    fn bytes() -> impl Iterator<Item = u32> {
        let step = |x: u32| x.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        std::iter::successors(Some(1u32), move |&x| Some(step(x))).map(|x| x >> 24)
    }

    /// What contexts make of a byte of noise.
    const FULL: i32 = 8 * 256 + 32;

    /// How many of the next `n` bytes of place 1 would be coded directly, if coding in full costs `full`.
    fn coded(direct: &mut Direct, n: usize, full: i32) -> usize {
        let odds = |_, _| unreachable!("it is no number");
        let mut count = 0;
        for byte in bytes().take(n) {
            if direct.is_due(1) {
                count += 1;
                let mut coder = Tally(0);
                let back = direct.code(1, None, odds, byte, &mut coder);
                assert_eq!(back, Ok(byte as u8));
            } else {
                direct.compare(1, None, odds, byte, full);
            }
        }
        count
    }

    #[test]
    fn noise_is_coded_directly_as_long_as_contexts_tell_nothing() {
        let mut direct = Direct::new();
        direct.reset(3);
        assert_eq!(coded(&mut direct, FIRST as usize, FULL), 0);
        assert_eq!(coded(&mut direct, 3200, FULL), 3100);
        // The contexts save four bits of each byte now: seen within a few comparisons.
        assert!(coded(&mut direct, 3200, 4 * 256) < 12 * EACH as usize);
        // And now nothing again.
        assert!(coded(&mut direct, 100_000, FULL) > 20_000);
        // Another place has its own way.
        assert!(!direct.is_due(0));
    }

    #[test]
    fn places_far_from_the_records_begin_are_coded_in_full() {
        let mut direct = Direct::new();
        direct.reset(1000);
        direct.compare(PLACES, None, |_, _| [0; INPUTS], 7, 2048);
        assert!(!direct.is_due(PLACES));
    }

    #[test]
    fn a_count_learns_its_bytes() {
        let mut direct = Direct::new();
        direct.reset(0);
        let mut coder = Tally(0);
        for byte in bytes().take(4000) {
            let odds = |_, _| [0; INPUTS];
            let _ = direct.code(0, None, odds, byte & 3, &mut coder);
        }
        assert!(coder.0 < 4000 * 256 * 22 / 10, "{}", coder.0);
    }
}
