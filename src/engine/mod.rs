//! Integer inference of an exported Compressive Transformer (Rae et al. 2019).
//!
//! Promises: the same model bytes and the same feature bytes give the same weights on every machine, under every
//! kernel, for every number of lanes. There is no floating point and no I/O here; bytes of a model file that are
//! wrong in any way give an [`EngineError`], never a panic or an allocation driven by an unchecked number.
//!
//! # The definition
//! All values are integers. `rs(x, s)` is the rounding shift `(x + 2^(s-1)) >> s`; `clamp8` clamps to -127..=127.
//! `sh(K)` is the weight exponent of a matrix with inner dimension `K` ([`arith::weight_exponent`]), weights are int8.
//! ```text
//! x    = sum of one embedding per feature byte                 residual units 1/64, -2047..=2047
//! y    = norm(x)                                               units about 1/32, -127..=127
//! q,k,v= clamp8(rs(Wqkv y, sh(d)))                             units 1/32
//! s_j  = rs(q.k_j, score_shift) + bias[head][distance of j]    units of 1/8 octave
//! e_j  = EXP_EIGHTHS[max s - s_j], 0 beyond 63
//! a    = floor((sum e_j v_j + floor(sum e_j / 2)) / sum e_j)
//! x    = clamp(x + rs(Wo a, sh(d) - 1))
//! h    = clamp(rs(W1 norm(x), sh(d)), 0..=127);  x = clamp(x + rs(W2 h, sh(ffn) - 1))
//! l    = rs(Whead norm(x), sh(d) - 1)                          units of about 1/32 octave
//! f    = max(1, EXP_THIRTY_SECONDS[max l - l])                 the 256 weights of the step
//! ```
//! Position `t` attends to the recent positions `c*n ..= t` and to the newest `C` of the `n` slots of compressed
//! memory, where `n = floor(max(0, t + 1 - W) / c)` with window `W`, compression rate `c`. Slot `m` has key and value
//! `Wkv z_m`, `z_m = clamp8(rs(conv(y_{cm} .. y_{cm+c-1}), sh(c*d)))`: a convolution with kernel and stride `c` over
//! the layer's normed inputs. Every sum stays below 2^24 ([`Config::validate`]), so an f32 program that keeps integer
//! values computes the same numbers exactly, in any order of summation; the training forward pass is that program.

pub mod arith;
mod config;
mod error;
pub mod features;
pub mod kernels;
mod model;
mod state;
pub mod stride;
pub mod tables;

pub use config::{Config, Effort, Feature, MemoryConfig, ModelConfig};
pub use error::EngineError;
pub use kernels::Kernel;
pub use model::{FORMAT_VERSION, METADATA_KEY, MIXER, MIXER_SHAPE, Model, metadata, tensor_shapes};
pub use state::{MAX_LANES, Reach, State};

#[cfg(test)]
pub(crate) use model::tests::{random_file, small_config, with_mixer};
