//! The float masters of a model: names, units, starting values.

use crate::engine::arith::{BIAS_EXPONENT, EMBEDDING_EXPONENT, weight_exponent};
use crate::engine::{Config, tensor_shapes};
use candle_core::{Device, Result, Tensor, Var};
use std::collections::BTreeMap;

/// Masters by tensor name, in a fixed order.
pub type Params = BTreeMap<String, Var>;

/// Exponent of the unit of a tensor: its int8 values are masters times `2^exponent`.
pub fn exponent(config: &Config, name: &str) -> u32 {
    match name.rsplit('.').next().unwrap_or(name) {
        "embedding" => EMBEDDING_EXPONENT,
        "bias_recent" | "bias_memory" => BIAS_EXPONENT,
        "compress" => weight_exponent(config.d() * config.compressive_memory.compression_rate),
        "down" => weight_exponent(config.ffn()),
        _ => weight_exponent(config.d()),
    }
}

/// Random masters to start from: a pure function of the configuration and the seed.
///
/// # Errors
/// Candle's, if memory is short.
pub fn initial(config: &Config, seed: u64) -> Result<Params> {
    let mut normal = Normal::new(seed);
    let d = config.d() as f32;
    tensor_shapes(config)
        .into_iter()
        .map(|(name, shape)| {
            let deviation = match name.rsplit('.').next().unwrap_or(&name) {
                "embedding" => 0.25,
                "bias_recent" | "bias_memory" => 0.0,
                "compress" => 0.02,
                "o" | "head" => 0.5 / d.sqrt(),
                "down" => 0.5 / (config.ffn() as f32).sqrt(),
                _ => 1.0 / d.sqrt(),
            };
            let mut values: Vec<f32> = (0..shape.iter().product())
                .map(|_| deviation * normal.draw())
                .collect();
            if name.ends_with("compress") {
                // Near the mean of the positions, scaled to keep the magnitude.
                let rate = config.compressive_memory.compression_rate;
                for channel in 0..config.d() {
                    let at = (channel * config.d() + channel) * rate;
                    values[at..at + rate]
                        .iter_mut()
                        .for_each(|v| *v += 1.0 / (rate as f32).sqrt());
                }
            }
            Ok((
                name,
                Var::from_tensor(&Tensor::from_vec(values, shape, &Device::Cpu)?)?,
            ))
        })
        .collect()
}

/// Normal deviates by summing uniform ones (Irwin-Hall), from a 64-bit generator (xorshift, Marsaglia 2003).
struct Normal(u64);

impl Normal {
    fn new(seed: u64) -> Self {
        Normal(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1)
    }

    fn draw(&mut self) -> f32 {
        let mut sum = -6.0;
        for _ in 0..12 {
            self.0 ^= self.0 << 13;
            self.0 ^= self.0 >> 7;
            self.0 ^= self.0 << 17;
            sum += (self.0 >> 40) as f32 / (1u64 << 24) as f32;
        }
        sum
    }
}
