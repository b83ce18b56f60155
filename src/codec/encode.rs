//! Encoding a block: the ways that are tried, and which one wins.

use std::sync::Arc;

use super::id::{CodecId, Encoded, ModelId};
use super::means::{self, Beginning, Means, with_model};
use super::model_net::ModelNet;
use super::neural::{self, Coded, Start};
use super::zstd;
use crate::engine::{self, Effort};

/// Bytes of a block's start that tell which way of coding it pays: most is learnt there.
pub(super) const PROBE: usize = 4096;

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

/// As [`encode_packed`], for the first block of a key run, and whether the model may pay in the blocks behind it.
#[must_use]
pub fn encode_first(data: &[u8], means: Means<'_>) -> (Encoded, bool) {
    let asked = (means.model).and_then(|model| means::ask(data, model, means, None));
    let may_pay = means::model_may_pay(asked, means.before(0));
    (encode(None, data, means, None, asked), may_pay)
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
    encode(before, data, means, start, None)
}

fn encode(
    before: Option<&Encoded>,
    data: &[u8],
    means: Means<'_>,
    start: Option<&Start>,
    asked: Option<Beginning>,
) -> Encoded {
    // Its predictor is kept for the next start state, whatever else is tried.
    let (start, alone) = best_start(before, data, start, means.effort);
    let size = alone.size();
    let mut found = zstd_if_it_can_win(data, size);
    if let Some(model) = means.model
        && let Some((joint, saves)) = with_model(data, size, model, means, start, asked)
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
