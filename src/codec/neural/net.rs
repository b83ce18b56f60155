//! What the block codec asks of a network: integer weights for the next byte of every lane.

/// A network that predicts the next byte of several lanes in lockstep.
///
/// All results must be the same on every machine: the decoder repeats every call that the encoder made.
pub trait Net {
    /// How many bytes of features each lane gets per step.
    fn features(&self) -> usize;

    /// Starts a block of `lanes` lanes.
    fn reset(&mut self, lanes: usize);

    /// One step: `features` holds [`Net::features`] bytes for each of the first `active` lanes; the result for lane `l`
    /// is written to `weights[l]`, each weight in 1..=65536.
    fn step(&mut self, features: &[u8], active: usize, weights: &mut [[u32; 256]]);
}
