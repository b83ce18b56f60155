//! What blocks may be coded with, and whether the model is worth its time in one.

use std::sync::Arc;

use super::encode::PROBE;
use super::model_net::ModelNet;
use super::neural::{self, Start};
use crate::engine::{self, Effort};

/// Equal bytes at a block's start from which on they are no content.
const FILL: usize = 256;

/// What blocks may be coded with, and how much time it may take.
#[derive(Clone, Copy, Default)]
pub struct Means<'a> {
    /// The model, if there is one.
    pub model: Option<&'a Arc<engine::Model>>,
    /// How much time.
    pub effort: Effort,
    /// Blocks that can only be read when this one was decoded, itself not counted.
    pub behind: u64,
}

impl<'a> Means<'a> {
    /// With this model, if there is one, in the usual time.
    #[must_use]
    pub fn usual(model: Option<&'a Arc<engine::Model>>) -> Self {
        Means {
            model,
            ..Means::default()
        }
    }

    /// The same without the model.
    #[must_use]
    pub fn alone(self) -> Self {
        Means {
            model: None,
            ..self
        }
    }

    /// The same for a block that has to be decoded before any of so many others.
    #[must_use]
    pub fn before(self, behind: u64) -> Self {
        Means { behind, ..self }
    }

    /// Whether a payload with the model is enough smaller than one without, for what decodes more slowly: with blocks behind it by as much as
    /// if it were half of them.
    fn pays(&self, joint: usize, alone: usize) -> bool {
        self.pays_times(1, joint, alone)
    }

    /// The same for the beginning of a block. In a `cold` one the model gives most there: usually twice what the block has to give.
    fn begins_to_pay(&self, beginning: Beginning, cold: bool) -> bool {
        let times = match self.effort {
            Effort::Usual if cold => 2,
            _ => 1,
        };
        self.pays_times(times, beginning.joint, beginning.alone)
    }

    fn pays_times(&self, times: u64, joint: usize, alone: usize) -> bool {
        let joint = joint as u64;
        let part = match self.effort {
            Effort::Usual => 32,
            Effort::Dense => 256,
        };
        let least = joint.saturating_mul(times * (1 + self.behind / 2)) / part;
        joint.saturating_add(least) < alone as u64
    }
}

/// What the beginning of a block takes with the model, and without.
#[derive(Clone, Copy)]
pub(super) struct Beginning {
    joint: usize,
    alone: usize,
}

/// Whether the model may pay in a cold block that begins so, or was too short to be asked; where it does not, it pays even less in blocks
/// that are coded from a state.
pub(super) fn model_may_pay(beginning: Option<Beginning>, means: Means<'_>) -> bool {
    means.model.is_some() && beginning.is_none_or(|b| means.begins_to_pay(b, true))
}

/// Codes the beginning of a block with the model and without, if the block is so long that this says something.
pub(super) fn ask(
    data: &[u8],
    model: &engine::Model,
    means: Means<'_>,
    start: Option<&Start>,
) -> Option<Beginning> {
    if data.len() <= 2 * PROBE {
        return None;
    }
    let mut net = ModelNet::new(model);
    let probe = match start {
        None => beginning(data),
        Some(_) => &data[..PROBE],
    };
    let (joint, alone) = match (means.effort, start) {
        (Effort::Usual, None) => neural::sample_lens_with(probe, &mut net),
        (effort, start) => {
            let joint = neural::code(probe, Some(&mut net), start, effort).size();
            let alone = match effort {
                Effort::Usual => neural::one_lane_len(probe, start),
                Effort::Dense => neural::code(probe, None, start, effort).size(),
            };
            (joint, alone)
        }
    };
    Some(Beginning { joint, alone })
}

/// The first bytes of a block that is at least two probes long, behind those that only fill it up to where its content begins.
fn beginning(data: &[u8]) -> &[u8] {
    let filled = data.iter().take_while(|&b| Some(b) == data.first()).count();
    let from = match filled < FILL {
        true => 0,
        false => filled.min(data.len() - PROBE),
    };
    &data[from..from + PROBE]
}

/// The neural payload with the model and what that saves, if it is clearly smaller than `alone`, the size without, and than it would be
/// without in one lane. `asked`: what the block's beginning said, if it was asked.
pub(super) fn with_model(
    data: &[u8],
    alone: usize,
    model: &engine::Model,
    means: Means<'_>,
    start: Option<&Start>,
    asked: Option<Beginning>,
) -> Option<(Vec<u8>, usize)> {
    // On less, or on what is almost gone, its gain is not worth its time at every read.
    let gone = match means.effort {
        Effort::Usual => data.len() / 100,
        Effort::Dense => data.len() / 1000,
    };
    if data.len() < 512 || alone < gone {
        return None;
    }
    let beginning = asked.or_else(|| ask(data, model, means, start));
    if beginning.is_some_and(|b| !means.begins_to_pay(b, start.is_none())) {
        return None;
    }
    let mut net = ModelNet::new(model);
    let joint = neural::code(data, Some(&mut net), start, means.effort).into_payload();
    if !means.pays(joint.len(), alone) {
        return None;
    }
    let alone = match means.effort {
        Effort::Usual => alone.min(neural::one_lane_len(data, start)),
        // It has one lane.
        Effort::Dense => alone,
    };
    let saves = alone.saturating_sub(joint.len());
    means.pays(joint.len(), alone).then_some((joint, saves))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Reports like those that the shipped model was trained on.
    fn reports(len: usize) -> Vec<u8> {
        let report = |i: u32| {
            format!(
                "{{\"class\":\"TPV\",\"device\":\"/dev/ttyUSB0\",\"mode\":3,\"time\":\"2013-06-{:02}T{:02}:{:02}:{:02}.000Z\",\
                \"ept\":0.005,\"lat\":46.{:09},\"lon\":7.{:09},\"alt\":{}.300,\"speed\":0.{:03},\"climb\":0.000}}\r\n",
                i / 86400 % 28 + 1, i / 3600 % 24, i / 60 % 60, i % 60,
                498_293_369 + i * 41 % 977, 567_385_112 + i * 23 % 1013, 1327 + i % 9, i * 7 % 113,
            )
            .into_bytes()
        };
        let mut reports: Vec<u8> = (0..len as u32 / 150).flat_map(report).collect();
        reports.truncate(len);
        reports
    }

    #[test]
    fn the_model_may_pay_where_data_like_what_it_knows_begin() {
        let file = include_bytes!("../../profiles/fast.safetensors");
        let model = Arc::new(engine::Model::from_bytes(file).expect("a model"));
        let asked = |data: &[u8], effort| {
            let means = Means {
                effort,
                ..Means::usual(Some(&model))
            };
            model_may_pay(ask(data, &model, means, None), means)
        };
        let known = reports(40_000);
        for filled in [0, 1, 5000, 30_000] {
            let mut data = vec![0; filled];
            data.extend_from_slice(&known);
            assert!(asked(&data, Effort::Usual), "behind {filled} zeros");
            assert!(asked(&data, Effort::Dense), "behind {filled} zeros");
        }
        let mut x = 1u32;
        let noise: Vec<u8> = std::iter::repeat_with(|| {
            x = x.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (x >> 24) as u8
        })
        .take(40_000)
        .collect();
        assert!(!asked(&noise, Effort::Usual) && !asked(&noise, Effort::Dense));
        assert!(!model_may_pay(None, Means::usual(None)), "there is none");
        assert!(!asked(&[0; 40_000], Effort::Usual));
        // What is too short says nothing: it is coded in both ways.
        assert!(asked(&noise[..2 * PROBE], Effort::Usual));
    }
}
