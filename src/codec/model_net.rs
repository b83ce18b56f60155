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

#[cfg(test)]
mod tests {
    use safetensors::Dtype;

    use super::*;
    use crate::engine::Effort;

    #[test]
    fn first_weights_of_a_model_file_are_what_its_blocks_begin_with() {
        let file = engine::random_file(&engine::small_config(), 7);
        let weights: Vec<u8> = (0..256i16).flat_map(|i| (i * 40).to_le_bytes()).collect();
        let mixer = (Dtype::I16, &engine::MIXER_SHAPE[..], &weights[..]);
        let mixed = engine::with_mixer(&file, Some(mixer));
        let [plain, mixed] = [file, mixed].map(|file| engine::Model::from_bytes(&file).unwrap());
        let text = b"12 km/h at 17:05\n".repeat(40);
        let records: Vec<u8> = (0..900u32).flat_map(|i| (i * i).to_le_bytes()).collect();
        let mut sums = Vec::new();
        for data in [records, text] {
            for effort in [Effort::Usual, Effort::Dense] {
                let encode = |model| {
                    let mut net = ModelNet::new(model);
                    neural::code(&data, Some(&mut net), None, effort).into_payload()
                };
                let payload = encode(&mixed);
                assert_ne!(payload, encode(&plain));
                let back = |model| {
                    neural::decode(&payload, data.len(), Some(&mut ModelNet::new(model)), None)
                };
                assert_eq!(back(&mixed).as_ref(), Ok(&data));
                assert_ne!(back(&plain).as_ref(), Ok(&data));
                sums.push(crc32c::crc32c(&payload));
            }
        }
        // As they always were: which number is for which kind of contexts, bank and input is part of the format.
        assert_eq!(
            sums,
            [3_767_049_213, 3_024_344_291, 2_495_900_112, 1_304_864_618]
        );
    }

    #[test]
    fn numbers_go_into_a_model_file_as_they_come_out() {
        let file = engine::random_file(&engine::small_config(), 8);
        let numbers = first_weights(&[]);
        let bytes: Vec<u8> = numbers.iter().flat_map(|w| w.to_le_bytes()).collect();
        let mixer = (Dtype::I16, &engine::MIXER_SHAPE[..], &bytes[..]);
        let said = engine::Model::from_bytes(&engine::with_mixer(&file, Some(mixer))).unwrap();
        assert_eq!(said.mixer(), Some(&numbers[..]));
        assert_eq!(
            ModelNet::new(&said).first_weights,
            Some(neural::first_weights(&[]))
        );
        let silent = engine::Model::from_bytes(&file).unwrap();
        let data = b"17:05:12 pump 3 pressure 1.204\n".repeat(30);
        let encode = |model| neural::encode(&data, Some(&mut ModelNet::new(model)), None);
        assert_eq!(
            encode(&said),
            encode(&silent),
            "what blocks begin with anyway"
        );
    }
}
