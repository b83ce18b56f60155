//! The engine's model as the block codec's network.

use super::neural::Net;
use crate::engine::{self, features};

/// A model with the memory of one block.
pub(super) struct ModelNet<'a> {
    model: &'a engine::Model,
    state: Option<engine::State>,
    stride: u16,
    /// Bytes of the block that it has predicted.
    t: usize,
    bytes: Vec<u8>,
}

impl<'a> ModelNet<'a> {
    pub(super) fn new(model: &'a engine::Model) -> Self {
        ModelNet {
            model,
            state: None,
            stride: 0,
            t: 0,
            bytes: Vec::new(),
        }
    }
}

impl Net for ModelNet<'_> {
    fn reset(&mut self, stride: usize) {
        (self.stride, self.t) = (stride as u16, 0);
        match &mut self.state {
            Some(state) => state.reset(),
            state => *state = engine::State::new(self.model, 1).ok(),
        }
    }

    fn predict(&mut self, block: &[u8], start: usize, t: usize, weights: &mut [u32; 256]) {
        let Some(state) = &mut self.state else { return };
        let wanted = &self.model.config().model.features;
        self.bytes.resize(wanted.len(), 0);
        for t in self.t..=t {
            features::write(
                wanted,
                block,
                start + t,
                start,
                self.stride,
                &mut self.bytes,
            );
            state.step(self.model, &self.bytes, 1, std::array::from_mut(weights));
        }
        self.t = t + 1;
    }
}
