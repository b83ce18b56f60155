//! Codecs: bytes to block payload and back, without I/O.
//!
//! Every codec is exact and pure: the same payload gives the same bytes on every machine. [`decode`] never panics and
//! never allocates more than the decoded length that its caller bounded asks for.

mod encode;
pub mod id;
mod means;
mod model_net;
pub mod neural;
mod zstd;

pub use encode::{
    encode_after, encode_first, encode_fresh, encode_like, encode_packed, neural_len, start_knows,
};
pub use id::{CodecId, Encoded, ModelId, PrimerId};
pub use means::Means;
pub use model_net::{first_weights, learn_from};
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
    use std::sync::Arc;

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
