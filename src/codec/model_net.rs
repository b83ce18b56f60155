//! The engine's model as the block codec's network.

use super::neural::Net;
use crate::engine::{self, features};

/// A model with the memory of one block.
pub(super) struct ModelNet<'a> {
    model: &'a engine::Model,
    state: Option<engine::State>,
    stride: u16,
    bytes: Vec<u8>,
}

impl<'a> ModelNet<'a> {
    pub(super) fn new(model: &'a engine::Model) -> Self {
        ModelNet {
            model,
            state: None,
            stride: 0,
            bytes: Vec::new(),
        }
    }
}

impl Net for ModelNet<'_> {
    fn reset(&mut self, lanes: usize, stride: usize) {
        self.stride = stride as u16;
        match &mut self.state {
            Some(state) if state.lanes() == lanes => state.reset(),
            state => *state = engine::State::new(self.model, lanes).ok(),
        }
    }

    fn step(&mut self, block: &[u8], starts: &[usize], t: usize, weights: &mut [[u32; 256]]) {
        let Some(state) = &mut self.state else { return };
        let wanted = &self.model.config().model.features;
        self.bytes.clear();
        self.bytes.resize(wanted.len() * starts.len(), 0);
        for (&start, out) in starts
            .iter()
            .zip(self.bytes.chunks_mut(wanted.len().max(1)))
        {
            features::write(wanted, block, start + t, start, self.stride, out);
        }
        state.step(self.model, &self.bytes, starts.len(), weights);
    }
}
