//! Codecs: bytes to block payload and back, without I/O.
//!
//! Every codec is exact and pure: the same payload gives the same bytes on every machine. [`decode`] never panics and
//! never allocates more than the decoded length that its caller bounded asks for.

pub mod id;
mod model_net;
pub mod neural;
mod zstd;

use std::sync::Arc;

pub use id::{CodecId, Encoded, ModelId, PrimerId};
use neural::Coded;
pub use neural::{NeuralError, Start};

use crate::engine;
pub use crate::engine::Effort;
use model_net::ModelNet;

/// Bytes that this thread's decoder keeps between blocks. With a model, [`network_memory`] comes on top while a block is decoded.
#[must_use]
pub fn thread_memory() -> usize {
    neural::thread_memory()
}

/// Bytes of a model's memory while one block is decoded; the weights are shared.
#[must_use]
pub fn network_memory(model: &engine::Model) -> usize {
    engine::State::new(model, 1).map_or(0, |state| state.memory())
}

/// Why a payload does not decode.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CodecError {
    /// The payload decodes to another number of bytes than the index says.
    #[error("payload holds {got} bytes, expected {expected}")]
    Length {
        /// Bytes that the index promises.
        expected: usize,
        /// Bytes found.
        got: usize,
    },
    /// The zstd frame is damaged.
    #[error("zstd: {0}")]
    Zstd(String),
    /// The neural payload is damaged.
    #[error(transparent)]
    Neural(#[from] NeuralError),
    /// The index says that the block's bytes are lost.
    #[error("its bytes are lost: a repair found them damaged")]
    Lost,
}

/// Encodes a block for a fresh write, fast: the smaller of raw and zstd level 3.
#[must_use]
pub fn encode_fresh(data: &[u8]) -> Encoded {
    smallest(
        data,
        vec![Candidate::new(
            CodecId::Zstd,
            zstd::encode(data, zstd::FAST),
        )],
    )
}

/// Encodes a block to keep: the smallest of raw, zstd level 19, and neural, cold or from the start state, with the model or
/// without.
///
/// What decodes more slowly must be clearly smaller: a payload with the model takes several times as long as one without.
#[must_use]
pub fn encode_packed(
    data: &[u8],
    model: Option<&Arc<engine::Model>>,
    start: Option<&Start>,
) -> Encoded {
    encode_after(None, data, Means::usual(model), start)
}

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
    fn begins_to_pay(&self, joint: usize, alone: usize, cold: bool) -> bool {
        let times = match self.effort {
            Effort::Usual if cold => 2,
            _ => 1,
        };
        self.pays_times(times, joint, alone)
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

/// As [`encode_packed`], for a block that follows `before`: if that was coded from a start state, and `start` makes about as much of
/// `data`, between three quarters and 17/16, the two are alike and nobody asks whether it had better be cold.
#[must_use]
pub fn encode_after(
    before: Option<&Encoded>,
    data: &[u8],
    means: Means<'_>,
    start: Option<&Start>,
) -> Encoded {
    // Its predictor is kept for the next start state, whatever else is tried.
    let (start, alone) = best_start(before, data, start, means.effort);
    let size = alone.size();
    let mut found = zstd_if_it_can_win(data, size);
    if let Some(model) = means.model
        && let Some((joint, saves)) = with_model(data, size, model, means, start)
    {
        found.push(Candidate {
            model: Some(ModelId(model.id())),
            model_saves: saves as u32,
            started: start.is_some(),
            ..Candidate::new(CodecId::Neural, joint)
        });
    }
    found.push(Candidate {
        started: start.is_some(),
        ..Candidate::new(CodecId::Neural, alone.into_payload())
    });
    smallest(data, found)
}

/// Encodes a block as [`encode_packed`] chose to for `neighbour`, a block of the same file: no time goes into other ways.
#[must_use]
pub fn encode_like(
    neighbour: &Encoded,
    data: &[u8],
    means: Means<'_>,
    start: Option<&Start>,
) -> Encoded {
    if neighbour.codec != CodecId::Neural {
        return encode_after(None, data, means, start);
    }
    let start = start.filter(|_| neighbour.started);
    let model = means.model.filter(|_| neighbour.model.is_some());
    let mut net = model.map(|model| ModelNet::new(model));
    let net = net.as_mut().map(|net| net as &mut dyn neural::Net);
    let payload = neural::code(data, net, start, means.effort).into_payload();
    let mut found = zstd_if_it_can_win(data, payload.len());
    let saves = payload.len() as u64 * u64::from(neighbour.model_saves)
        / neighbour.payload.len().max(1) as u64;
    found.push(Candidate {
        model: model.map(|m| ModelId(m.id())),
        model_saves: saves as u32,
        started: start.is_some(),
        ..Candidate::new(CodecId::Neural, payload)
    });
    smallest(data, found)
}

/// The zstd payload, unless `neural` bytes are surely fewer: it wins on long repeats, on noise (by its raw blocks) and on very short
/// blocks. What its fast level cannot bring near, its best one does not either.
fn zstd_if_it_can_win(data: &[u8], neural: usize) -> Vec<Candidate> {
    let may =
        neural * 50 < data.len() || data.len() < 4096 || neural + data.len() / 32 > data.len();
    if may && zstd::encode(data, zstd::FAST).len() < 2 * neural {
        vec![Candidate::new(
            CodecId::Zstd,
            zstd::encode(data, zstd::BEST),
        )]
    } else {
        Vec::new()
    }
}

/// Bytes of a block's start that tell which way of coding it pays: most is learnt there.
const PROBE: usize = 4096;
/// Equal bytes at a block's start from which on they are no content.
const FILL: usize = 256;

/// Bytes of a neural payload of `data`, cold, with the model or without.
#[must_use]
pub fn neural_len(data: &[u8], model: Option<&engine::Model>, effort: Effort) -> usize {
    let mut net = model.map(ModelNet::new);
    let net = net.as_mut().map(|net| net as &mut dyn neural::Net);
    neural::code(data, net, None, effort).size()
}

/// Whether the beginning of `data` is clearly smaller from `start` than cold.
#[must_use]
pub fn start_knows(start: &Start, data: &[u8]) -> bool {
    let enough = if start.needs_more_than(PROBE) {
        data.len()
    } else {
        PROBE
    };
    let probe = &data[..data.len().min(enough)];
    let (cold, started) = neural::sample_lens(probe, start);
    started * 4 < cold * 3
}

/// The smaller payload of a cold one and one from `start`, and which start that is. Where the block is like the one before it, or their
/// beginnings tell, or a quarter of a large block, only one of them is made.
fn best_start<'a>(
    before: Option<&Encoded>,
    data: &[u8],
    start: Option<&'a Start>,
    effort: Effort,
) -> (Option<&'a Start>, Coded) {
    let alone = |start| neural::code(data, None, start, effort);
    let Some(start) = start else {
        return (None, alone(None));
    };
    let mut made = None;
    if let Some(before) = before.filter(|b| b.started && b.decoded_len as usize == data.len()) {
        let started = alone(Some(start));
        let usual = before.payload.len();
        if (usual * 3 / 4..=usual + usual / 16).contains(&started.size()) {
            return (Some(start), started);
        }
        made = Some(started);
    }
    let started_alone = |made: Option<Coded>| made.unwrap_or_else(|| alone(Some(start)));
    // A beginning shows neither that floats are on a grid nor, if it is too short, that they are on that of the state.
    if !start.lacks_grid(data) {
        for (n, least) in [(PROBE, 2 * PROBE), (data.len() / 4, 16 * PROBE)] {
            if data.len() < least || start.needs_more_than(n) {
                continue;
            }
            let (cold, started) = neural::sample_lens(&data[..n], start);
            // A state saves most where a cold block still learns: if it saves nothing there, the longer sample decides.
            if n > PROBE || started < cold {
                return if started <= cold {
                    (Some(start), started_alone(made))
                } else {
                    drop(made);
                    (None, alone(None))
                };
            }
        }
    }
    // Two plans of a cold block take two predictors.
    let made = made.map(Coded::without_predictor);
    let (cold, started) = (alone(None), started_alone(made));
    if started.size() < cold.size() {
        (Some(start), started)
    } else {
        (None, cold)
    }
}

/// Whether the model may pay in `data`, cold, as far as its beginning shows; where it does not, it pays even less in blocks that are
/// coded from a state.
#[must_use]
pub fn model_may_pay(data: &[u8], means: Means<'_>) -> bool {
    (means.model).is_some_and(|model| begins_to_pay(data, model, means, None))
}

/// Whether the beginning of a block is enough smaller with the model, if it is so long that this says something.
fn begins_to_pay(
    data: &[u8],
    model: &engine::Model,
    means: Means<'_>,
    start: Option<&Start>,
) -> bool {
    if data.len() <= 2 * PROBE {
        return true;
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
    means.begins_to_pay(joint, alone, start.is_none())
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
/// without in one lane.
fn with_model(
    data: &[u8],
    alone: usize,
    model: &engine::Model,
    means: Means<'_>,
    start: Option<&Start>,
) -> Option<(Vec<u8>, usize)> {
    // On less, or on what is almost gone, its gain is not worth its time at every read.
    let gone = match means.effort {
        Effort::Usual => data.len() / 100,
        Effort::Dense => data.len() / 1000,
    };
    if data.len() < 512 || alone < gone {
        return None;
    }
    if !begins_to_pay(data, model, means, start) {
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

/// One way to code a block.
struct Candidate {
    codec: CodecId,
    model: Option<ModelId>,
    model_saves: u32,
    started: bool,
    payload: Vec<u8>,
}

impl Candidate {
    fn new(codec: CodecId, payload: Vec<u8>) -> Self {
        Candidate {
            codec,
            model: None,
            model_saves: 0,
            started: false,
            payload,
        }
    }
}

fn smallest(data: &[u8], found: Vec<Candidate>) -> Encoded {
    let best = found
        .into_iter()
        .min_by_key(|candidate| candidate.payload.len())
        .filter(|best| best.payload.len() < data.len())
        .unwrap_or_else(|| Candidate::new(CodecId::Raw, data.to_vec()));
    Encoded {
        codec: best.codec,
        model: best.model,
        model_saves: best.model_saves,
        started: best.started,
        payload: best.payload,
        decoded_len: data.len() as u32,
        decoded_crc: crc32c::crc32c(data),
    }
}

/// Decodes a payload into exactly `decoded_len` bytes, which the caller has bounded. `start` is the state that the payload was
/// coded from; it is ignored if there was none.
///
/// # Errors
/// A payload that this codec did not write, as far as that shows before the checksum.
pub fn decode(
    codec: CodecId,
    model: Option<&engine::Model>,
    payload: &[u8],
    decoded_len: usize,
    start: Option<&Start>,
) -> Result<Vec<u8>, CodecError> {
    let data = match codec {
        CodecId::Raw if payload.len() == decoded_len => payload.to_vec(),
        CodecId::Raw => {
            return Err(CodecError::Length {
                expected: decoded_len,
                got: payload.len(),
            });
        }
        CodecId::Zstd => zstd::decode(payload, decoded_len)?,
        CodecId::Neural => match model {
            Some(model) => {
                neural::decode(payload, decoded_len, Some(&mut ModelNet::new(model)), start)?
            }
            None => neural::decode(payload, decoded_len, None, start)?,
        },
        CodecId::Lost => return Err(CodecError::Lost),
    };
    if data.len() != decoded_len {
        return Err(CodecError::Length {
            expected: decoded_len,
            got: data.len(),
        });
    }
    Ok(data)
}

/// The state after `before` and then `data`, a block that was coded as `payload`. Free of work if this thread has just done that.
#[must_use]
pub fn state_after(before: Option<&Start>, data: &[u8], codec: CodecId, payload: &[u8]) -> Start {
    Start::then(before, data, (codec == CodecId::Neural).then_some(payload))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn model() -> Arc<engine::Model> {
        let file = engine::random_file(&engine::small_config(), 7);
        Arc::new(engine::Model::from_bytes(&file).expect("a random model loads"))
    }

    fn samples() -> Vec<Vec<u8>> {
        let noise: Vec<u8> = (0..5000u32)
            .map(|i| (i.wrapping_mul(2_654_435_761) >> 13) as u8)
            .collect();
        vec![
            vec![],
            vec![7],
            b"hello".to_vec(),
            vec![0; 70_000],
            b"a line of text 12\n".repeat(300),
            noise,
        ]
    }

    #[test]
    fn every_encoding_decodes() {
        for data in samples() {
            for e in [
                encode_fresh(&data),
                encode_packed(&data, Some(&model()), None),
            ] {
                assert!(e.payload.len() <= data.len());
                assert_eq!(
                    (e.decoded_len as usize, e.decoded_crc),
                    (data.len(), crc32c::crc32c(&data))
                );
                assert_eq!(
                    decode(e.codec, Some(&model()), &e.payload, data.len(), None).as_deref(),
                    Ok(&data[..])
                );
            }
        }
    }

    #[test]
    fn payloads_with_a_model_decode_with_it_only() {
        let model = model();
        let data = b"a line of text 12\n".repeat(40);
        let payload = neural::encode(&data, Some(&mut ModelNet::new(&model)), None);
        assert_eq!(
            decode(CodecId::Neural, Some(&model), &payload, data.len(), None).as_deref(),
            Ok(&data[..])
        );
        assert_eq!(
            decode(CodecId::Neural, None, &payload, data.len(), None),
            Err(CodecError::Neural(NeuralError::Net))
        );
    }

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
            model_may_pay(data, means)
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
        assert!(!model_may_pay(&known, Means::usual(None)), "there is none");
        assert!(!asked(&[0; 40_000], Effort::Usual));
        // What is too short says nothing: it is coded in both ways.
        assert!(asked(&noise[..2 * PROBE], Effort::Usual));
    }

    #[test]
    fn wrong_lengths_are_errors() {
        let data = b"a line of text 12\n".repeat(300);
        for codec in [CodecId::Raw, CodecId::Zstd] {
            let payload = if codec == CodecId::Raw {
                data.clone()
            } else {
                zstd::encode(&data, zstd::FAST)
            };
            assert!(decode(codec, None, &payload, data.len() - 1, None).is_err());
            assert!(decode(codec, None, &payload, data.len() + 1, None).is_err());
        }
    }

    #[test]
    fn damage_never_panics() {
        for codec in [CodecId::Zstd, CodecId::Neural] {
            let data = b"a line of text 12\n".repeat(9);
            let payload = match codec {
                CodecId::Zstd => zstd::encode(&data, zstd::FAST),
                _ => neural::encode(&data, None, None),
            };
            for i in 0..payload.len() {
                for flip in [1u8, 16, 128, 255] {
                    let mut bad = payload.clone();
                    bad[i] ^= flip;
                    if let Ok(out) = decode(codec, None, &bad, data.len(), None) {
                        assert_eq!(out.len(), data.len());
                    }
                }
                let _ = decode(codec, None, &payload[..i], data.len(), None);
            }
        }
    }

    #[test]
    fn a_block_like_the_one_before_it_is_small_and_decodes_from_the_same_state_only() {
        let lines: Vec<u8> = (0..6000u32)
            .flat_map(|i| format!("{},{},{}\n", i * 3, i * i % 977, i % 7).into_bytes())
            .collect();
        let (first, rest) = lines.split_at(20_000);
        let first = Start::then(None, first, None);
        let second = Start::then(Some(&first), &rest[..10_000], None);
        assert!(second.memory() > first.memory());
        let data = &rest[10_000..20_000];
        let cold = encode_packed(data, None, None);
        let e = encode_packed(data, None, Some(&second));
        assert!(e.started && !cold.started);
        assert!(e.payload.len() < cold.payload.len());
        let from = |start| decode(e.codec, None, &e.payload, data.len(), start);
        assert_eq!(from(Some(&second)).as_deref(), Ok(data));
        assert_eq!(from(None), Err(CodecError::Neural(NeuralError::Start)));
        assert_ne!(from(Some(&first)).as_deref(), Ok(data));
        // What follows it is only compared with a cold block if it is another kind of data.
        let third = Start::then(Some(&second), data, Some(&e.payload));
        let after = |data: &[u8]| encode_after(Some(&e), data, Means::default(), Some(&third));
        let next = &rest[20_000..30_000];
        assert!(after(next).started);
        assert_eq!(
            after(next).payload,
            neural::encode(next, None, Some(&third))
        );
        let mut x = 1u32;
        let noise: Vec<u8> = std::iter::repeat_with(|| {
            x = x.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (x >> 24) as u8 & 0x8f
        })
        .take(10_000)
        .collect();
        assert!(!after(&noise).started);
        let other = b"a line of text 12\n".repeat(9);
        let cold = encode_packed(&other, None, None);
        assert_eq!(
            decode(cold.codec, None, &cold.payload, other.len(), Some(&first)).as_deref(),
            Ok(&other[..])
        );
    }
}
