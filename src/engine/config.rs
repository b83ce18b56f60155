//! The architecture of a model: what must be known to run it.
//!
//! [`Config::validate`] is the only gate: a validated configuration can be run without overflow, and no sum of it
//! reaches 2^24.

use super::EngineError;
use super::arith::{EXACT, NORM_MEAN, RESIDUAL_MAX, norm_shift};
use serde::{Deserialize, Serialize};

/// Most multiply-accumulates for one byte, twice those of the profile `large`: a model in a stranger's archive must not make a read cost
/// any time it likes.
pub const MAX_MACS: usize = 1 << 24;
/// Largest inner dimension of a matrix: `127 * 127 * 1040 < 2^24`.
pub const MAX_INNER: usize = 1040;
/// Largest number of slots that one position attends to: with `den <= 127 * slots` the division of attention has a
/// numerator of at most `127 den + den / 2`, and `128.5 * 127 * 1027 + 127 * 1027 / 128 < 2^24` keeps it exact in f32.
pub const MAX_SLOTS: usize = 1027;

/// One byte of input to the model, beside all the others of the same position.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Feature {
    /// The byte before the predicted one (W).
    Previous,
    /// The byte two before.
    Previous2,
    /// The byte three before.
    Previous3,
    /// The byte four before.
    Previous4,
    /// The byte one record before the predicted one (N).
    Above,
    /// The byte two records before (NN).
    Above2,
    /// The byte before `above` (NW).
    AboveLeft,
    /// The byte after `above` (NE).
    AboveNext,
    /// `W + N - NW` modulo 256.
    Gradient,
    /// `2N - NN` modulo 256.
    Linear,
    /// Position in the record, at most 255.
    Column,
}

/// Sizes of the transformer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ModelConfig {
    /// Width of the residual stream.
    pub d_model: usize,
    /// Number of layers, each attention and feed-forward.
    pub n_layers: usize,
    /// Number of query heads.
    pub n_heads: usize,
    /// Number of key and value heads (1 is multi-query attention); `n_heads` if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub n_kv_heads: Option<usize>,
    /// Width of the feed-forward layer; `4 * d_model` if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ffn: Option<usize>,
    /// Input bytes of a position, in order.
    #[serde(default = "default_features")]
    pub features: Vec<Feature>,
}

/// Sizes of the memory that a position attends to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MemoryConfig {
    /// Recent positions kept uncompressed.
    pub window_size: usize,
    /// Positions joined into one slot of compressed memory.
    pub compression_rate: usize,
    /// Slots of compressed memory.
    pub max_compressed_len: usize,
}

/// How much time coding a block may take.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Effort {
    /// Blocks in two lanes where that costs little, short runs of key blocks, the model where it saves 3 %.
    #[default]
    Usual,
    /// Everything in one lane and with two banks of contexts, key runs of 1 MiB, the model wherever it saves anything worth the name.
    Dense,
}

impl Effort {
    /// Whether it need not be written down.
    #[must_use]
    pub fn is_usual(&self) -> bool {
        *self == Effort::Usual
    }
}

/// Architecture of a model, as stored in its file, and how blocks are coded with it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// Sizes of the transformer.
    pub model: ModelConfig,
    /// Sizes of its memory.
    pub compressive_memory: MemoryConfig,
    /// How much time coding with it may take.
    #[serde(default, skip_serializing_if = "Effort::is_usual")]
    pub effort: Effort,
}

fn default_features() -> Vec<Feature> {
    use Feature::*;
    vec![
        Previous, Previous2, Previous3, Above, Above2, AboveLeft, AboveNext, Gradient, Linear,
        Column,
    ]
}

impl Config {
    /// Width of the residual stream.
    pub fn d(&self) -> usize {
        self.model.d_model
    }

    /// Width of one attention head.
    pub fn head_dim(&self) -> usize {
        self.model.d_model / self.model.n_heads
    }

    /// Number of key and value heads.
    pub fn kv_heads(&self) -> usize {
        self.model.n_kv_heads.unwrap_or(self.model.n_heads)
    }

    /// Width of the keys (and of the values) of one position.
    pub fn kv_width(&self) -> usize {
        self.kv_heads() * self.head_dim()
    }

    /// Width of the feed-forward layer.
    pub fn ffn(&self) -> usize {
        self.model.ffn.unwrap_or(4 * self.model.d_model)
    }

    /// Largest number of recent positions that one position attends to.
    pub fn recent_slots(&self) -> usize {
        self.compressive_memory.window_size + self.compressive_memory.compression_rate - 1
    }

    /// Number of compressed slots that exist at position `t`.
    pub fn compressed_at(&self, t: usize) -> usize {
        (t + 1).saturating_sub(self.compressive_memory.window_size)
            / self.compressive_memory.compression_rate
    }

    /// Multiply-accumulates for one byte, with the memory full.
    pub fn macs_per_byte(&self) -> usize {
        let (d, kv, m) = (self.d(), self.kv_width(), &self.compressive_memory);
        let slots = self.recent_slots() + m.max_compressed_len;
        let per_layer = d * (d + 2 * kv)
            + d * d
            + 2 * d * self.ffn()
            + d * d
            + 2 * d * kv / m.compression_rate
            + 2 * slots * d;
        self.model.n_layers * per_layer + 256 * d
    }

    /// Checks that the model can be run exactly.
    ///
    /// # Errors
    /// [`EngineError::Config`] naming the key, its value and what is allowed.
    pub fn validate(&self) -> Result<(), EngineError> {
        let (m, c) = (&self.model, &self.compressive_memory);
        range("model.d_model", m.d_model, 16, MAX_INNER)?;
        range("model.n_layers", m.n_layers, 1, 64)?;
        range("model.n_heads", m.n_heads, 1, m.d_model)?;
        range("model.n_kv_heads", self.kv_heads(), 1, m.n_heads)?;
        range("model.ffn", m.ffn.unwrap_or(4 * m.d_model), 16, MAX_INNER)?;
        range("number of model.features", m.features.len(), 1, 16)?;
        range(
            "compressive_memory.window_size",
            c.window_size,
            1,
            MAX_SLOTS,
        )?;
        range(
            "compressive_memory.compression_rate",
            c.compression_rate,
            1,
            64,
        )?;
        range(
            "compressive_memory.max_compressed_len",
            c.max_compressed_len,
            1,
            MAX_SLOTS,
        )?;
        let rule = |good: bool, text: &str| match good {
            true => Ok(()),
            false => Err(EngineError::Config(text.to_string())),
        };
        rule(
            m.d_model.is_multiple_of(m.n_heads)
                && self.head_dim().is_multiple_of(16)
                && self.head_dim() <= 128,
            "model.d_model / model.n_heads must be a multiple of 16, at most 128",
        )?;
        rule(
            m.n_heads.is_multiple_of(self.kv_heads()),
            "model.n_heads must be a multiple of model.n_kv_heads",
        )?;
        rule(
            self.ffn().is_multiple_of(16),
            "model.ffn must be a multiple of 16",
        )?;
        rule(
            c.compression_rate * m.d_model <= MAX_INNER,
            "compressive_memory.compression_rate * model.d_model must be at most 1040",
        )?;
        rule(
            self.recent_slots() + c.max_compressed_len <= MAX_SLOTS,
            "window_size + compression_rate - 1 + max_compressed_len must be at most 1027",
        )?;
        range(
            "multiply-accumulates a byte",
            self.macs_per_byte(),
            0,
            MAX_MACS,
        )?;
        let q = norm_shift(m.d_model);
        let top =
            ((m.d_model as i64 * NORM_MEAN as i64) << q) + m.d_model as i64 * RESIDUAL_MAX as i64;
        rule(top < EXACT, "model.d_model is too large for an exact norm")
    }
}

fn range(key: &str, got: usize, low: usize, high: usize) -> Result<(), EngineError> {
    if (low..=high).contains(&got) {
        return Ok(());
    }
    Err(EngineError::Config(format!(
        "{key} is {got}, allowed are {low} to {high}"
    )))
}

#[cfg(test)]
mod tests {
    use super::*;

    pub(crate) fn small() -> Config {
        Config {
            model: ModelConfig {
                d_model: 32,
                n_layers: 2,
                n_heads: 2,
                n_kv_heads: Some(1),
                ffn: Some(64),
                features: default_features(),
            },
            compressive_memory: MemoryConfig {
                window_size: 8,
                compression_rate: 4,
                max_compressed_len: 4,
            },
            effort: Effort::Usual,
        }
    }

    #[test]
    fn configurations_that_would_be_inexact_are_refused() {
        assert!(small().validate().is_ok());
        let breaks: [fn(&mut Config); 10] = [
            |c| (c.model.d_model, c.model.n_layers) = (512, 16),
            |c| c.model.d_model = 40,
            |c| c.model.ffn = Some(1056),
            |c| c.model.n_heads = 3,
            |c| c.model.n_layers = 0,
            |c| c.model.n_kv_heads = Some(3),
            |c| c.model.features.clear(),
            |c| c.compressive_memory.compression_rate = 64,
            |c| c.compressive_memory.window_size = 1024,
            |c| c.compressive_memory.max_compressed_len = usize::MAX,
        ];
        for (i, change) in breaks.iter().enumerate() {
            let mut c = small();
            change(&mut c);
            assert!(c.validate().is_err(), "case {i} was accepted");
        }
    }

    #[test]
    fn the_large_architecture_just_fits() {
        let mut c = small();
        c.model.d_model = 256;
        c.model.n_heads = 8;
        c.model.ffn = None;
        c.compressive_memory = MemoryConfig {
            window_size: 512,
            compression_rate: 4,
            max_compressed_len: 512,
        };
        assert_eq!(c.validate(), Ok(()));
    }
}
