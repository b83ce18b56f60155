//! The transformer: all positions of a batch of segments at once.

use super::attention::Attention;
use super::exponent;
use super::ops::{Embed, Norm, Quantise, Requantise, Residual};
use crate::engine::arith::weight_exponent;
use crate::engine::{Config, tensor_shapes};
use candle_core::{Result, Tensor};
use candle_nn::VarBuilder;
use std::sync::Arc;

/// A Compressive Transformer over bytes, with its float masters.
pub struct CompressiveTransformer {
    config: Config,
    embedding: Tensor,
    layers: Vec<Layer>,
    head: Tensor,
}

struct Layer {
    /// `[d + 2 kv, d]`.
    qkv: Tensor,
    bias_recent: Tensor,
    bias_memory: Tensor,
    /// `[d, d, rate]`: output, input, position, as Conv1d has it.
    compress: Tensor,
    o: Tensor,
    up: Tensor,
    down: Tensor,
}

impl CompressiveTransformer {
    /// A model on the masters that `vb` provides, named as in [`tensor_shapes`].
    ///
    /// # Errors
    /// Candle's, if a tensor is missing or has another shape.
    pub fn new(config: &Config, vb: VarBuilder<'_>) -> Result<Self> {
        let shapes = tensor_shapes(config);
        let get = |name: &str| {
            let shape = shapes
                .iter()
                .find(|(n, _)| n == name)
                .map_or(&[][..], |(_, s)| s);
            vb.get(shape, name)
        };
        let layers = (0..config.model.n_layers)
            .map(|i| {
                let get = |name: &str| get(&format!("layers.{i}.{name}"));
                Ok(Layer {
                    qkv: get("qkv")?,
                    bias_recent: get("bias_recent")?,
                    bias_memory: get("bias_memory")?,
                    compress: get("compress")?,
                    o: get("o")?,
                    up: get("up")?,
                    down: get("down")?,
                })
            })
            .collect::<Result<_>>()?;
        Ok(CompressiveTransformer {
            config: config.clone(),
            embedding: get("embedding")?,
            layers,
            head: get("head")?,
        })
    }

    /// Logits `[batch * positions, 256]`, integers in units of 1/32 octave, each segment starting from empty memory.
    ///
    /// `features` holds the feature bytes, `[batch][positions][features]`. Memory forms inside the segment and gradients
    /// flow through all of it.
    ///
    /// # Errors
    /// Candle's, if `features` is not a whole number of equal segments.
    pub fn forward(&self, features: &Arc<Vec<u8>>, batch: usize) -> Result<Tensor> {
        let c = &self.config;
        let (d, count) = (c.d(), c.model.features.len());
        let positions = features.len() / count / batch;
        let table = self
            .weights("embedding", &self.embedding)?
            .reshape((count * 256, d))?;
        let mut x = table.apply_op1(Embed {
            bytes: Arc::clone(features),
            features: count,
        })?;
        for layer in &self.layers {
            let y = x.apply_op1(Norm)?;
            let a = self.attend(layer, &y, batch, positions)?;
            let sum = a.matmul(&self.weights("o", &layer.o)?.t()?)?;
            x = x.apply_op2(
                &sum,
                Residual {
                    shift: weight_exponent(d) - 1,
                },
            )?;
            let y = x.apply_op1(Norm)?;
            let h = y.matmul(&self.weights("up", &layer.up)?.t()?)?;
            let h = h.apply_op1(Requantise {
                shift: weight_exponent(d),
                low: 0.0,
                high: 127.0,
            })?;
            let sum = h.matmul(&self.weights("down", &layer.down)?.t()?)?;
            x = x.apply_op2(
                &sum,
                Residual {
                    shift: weight_exponent(c.ffn()) - 1,
                },
            )?;
        }
        let sum = x
            .apply_op1(Norm)?
            .matmul(&self.weights("head", &self.head)?.t()?)?;
        // A logit is below 2^24 anyway: no clamp.
        sum.apply_op1(Requantise {
            shift: weight_exponent(d) - 1,
            low: -2e7,
            high: 2e7,
        })
    }

    fn weights(&self, name: &str, master: &Tensor) -> Result<Tensor> {
        master.apply_op1(Quantise {
            exponent: exponent(&self.config, name),
        })
    }

    /// The heads' outputs, `[batch * positions, d]`, for normed inputs of the same shape.
    fn attend(&self, layer: &Layer, y: &Tensor, batch: usize, positions: usize) -> Result<Tensor> {
        let c = &self.config;
        let (d, kvw, rate) = (
            c.d(),
            2 * c.kv_width(),
            c.compressive_memory.compression_rate,
        );
        let slots = positions / rate;
        let int8 = |shift| Requantise {
            shift,
            low: -127.0,
            high: 127.0,
        };
        let w = self.weights("qkv", &layer.qkv)?;
        let qkv = y.matmul(&w.t()?)?.apply_op1(int8(weight_exponent(d)))?;
        // Conv1d with kernel = stride = rate is one product of `rate` joined positions.
        let kernel = self.weights("compress", &layer.compress)?;
        let kernel = kernel
            .transpose(1, 2)?
            .contiguous()?
            .reshape((d, rate * d))?;
        let joined = y
            .reshape((batch, positions, d))?
            .narrow(1, 0, slots * rate)?;
        let joined = joined.contiguous()?.reshape((batch * slots, rate * d))?;
        let z = joined
            .matmul(&kernel.t()?)?
            .apply_op1(int8(weight_exponent(rate * d)))?;
        let ckv = z
            .matmul(&w.narrow(0, d, kvw)?.t()?)?
            .apply_op1(int8(weight_exponent(d)))?;
        let biases = [
            ("bias_recent", &layer.bias_recent),
            ("bias_memory", &layer.bias_memory),
        ];
        let biases = biases
            .into_iter()
            .map(|(n, b)| self.weights(n, b))
            .collect::<Result<Vec<_>>>()?;
        let bias = Tensor::cat(&biases, 1)?;
        let qkv = qkv.reshape((batch, positions, d + kvw))?;
        let ckv = ckv.reshape((batch, slots, kvw))?;
        let a = qkv.apply_op3(&ckv, &bias, Attention { config: c.clone() })?;
        a.reshape((batch * positions, d))
    }
}
