//! What the block codec asks of a network: integer weights for a byte.

use super::mixer::INPUTS;

/// First weights of the mixer, for each kind of contexts (records, text) and bank; 1.0 is 2^14.
pub type FirstWeights = [[[i16; INPUTS]; 2]; 2];

/// A network that predicts bytes of a block's one lane.
///
/// All results must be the same on every machine: the decoder repeats every call that the encoder made.
pub trait Net {
    /// What the mixer's inputs weigh at first beside this network, if it says.
    fn first_weights(&self) -> Option<&FirstWeights> {
        None
    }

    /// Starts a block whose records have `stride` bytes (0: none).
    fn reset(&mut self, stride: usize);

    /// Writes the weights, 1..=65536 each, of the byte at `t` of the lane that starts at `start` of `block`, whose bytes before that are
    /// known. From call to call `t` grows, by more than one where bytes between were coded without a look at the network.
    fn predict(&mut self, block: &[u8], start: usize, t: usize, weights: &mut [u32; 256]);
}

/// Partial sums of a lane's weights over the binary tree of a byte: node 1 is the root, children of `i` are `2i`, `2i+1`.
#[derive(Clone)]
pub(super) struct Tree([u32; 512]);

impl Tree {
    pub(super) fn new() -> Self {
        Tree([0; 512])
    }

    /// Takes new weights; one of 0 counts as 1, one above 65536 as 65536.
    pub(super) fn set(&mut self, weights: &[u32; 256]) {
        for (leaf, &w) in self.0[256..].iter_mut().zip(weights) {
            *leaf = w.clamp(1, 65536);
        }
        for i in (1..256).rev() {
            self.0[i] = self.0[2 * i] + self.0[2 * i + 1];
        }
    }

    /// Probability (16 bits) of a 1 after the bits in `partial` (behind a leading 1).
    #[inline(always)]
    pub(super) fn p(&self, partial: u32) -> u32 {
        let i = partial as usize & 255;
        let p = (u64::from(self.0[2 * i + 1]) << 16) / u64::from(self.0[i].max(1));
        (p as u32).min(65535)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tree_holds_conditional_probabilities() {
        let mut weights = [1; 256];
        weights[0b1010_0000] = 65536;
        let mut tree = Tree::new();
        tree.set(&weights);
        for b in 0..8u32 {
            let partial = (0b1_1010_0000 >> (8 - b)) & ((2 << b) - 1) | 1 << b;
            let bit = 0b1010_0000 >> (7 - b) & 1;
            let p = tree.p(partial);
            assert!(if bit == 1 { p > 65000 } else { p < 500 }, "bit {b}: {p}");
        }
        tree.set(&[0; 256]);
        assert_eq!(tree.p(1), 32768);
    }
}
