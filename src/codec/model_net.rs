//! The engine's model as the block codec's network.

use super::neural::{self, FirstWeights, Learnt, Net};
use crate::engine::{self, features};

/// A model with the memory of one block.
pub(super) struct ModelNet<'a> {
    model: &'a engine::Model,
    state: Option<engine::State>,
    stride: u16,
    /// Bytes of the block that it has predicted.
    t: usize,
    bytes: Vec<u8>,
    first_weights: Option<FirstWeights>,
}

const _: () = {
    let [kinds, banks, inputs] = engine::MIXER_SHAPE;
    assert!(kinds == 2 && banks == 2 && 8 * inputs == size_of::<FirstWeights>());
};

/// First weights of the mixer beside this model, in the shape [`engine::MIXER_SHAPE`], from what blocks of data that it is for taught.
#[must_use]
pub fn first_weights(learnt: &[Learnt]) -> Vec<i16> {
    let weights = neural::first_weights(learnt);
    weights.into_iter().flatten().flatten().collect()
}

/// What a block teaches the mixer beside this model.
#[must_use]
pub fn learn_from(block: &[u8], model: &engine::Model) -> Learnt {
    let effort = model.config().effort;
    neural::learn_from(block, &mut ModelNet::new(model), effort)
}

impl<'a> ModelNet<'a> {
    pub(super) fn new(model: &'a engine::Model) -> Self {
        ModelNet {
            model,
            state: None,
            stride: 0,
            t: 0,
            bytes: Vec::new(),
            first_weights: model.mixer().map(|flat| {
                let mut flat = flat.iter().copied();
                [(); 2].map(|()| {
                    [(); 2]
                        .map(|()| [(); engine::MIXER_SHAPE[2]].map(|()| flat.next().unwrap_or(0)))
                })
            }),
        }
    }
}

impl Net for ModelNet<'_> {
    fn first_weights(&self) -> Option<&FirstWeights> {
        self.first_weights.as_ref()
    }

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
