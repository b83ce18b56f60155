//! The Compressive Transformer (Rae et al. 2019) in Candle, as it is trained.
//!
//! Promise: the forward pass computes exactly what [`crate::engine`] defines. Every activation is an f32 tensor of
//! integers, weights are rounded to int8 on the way in, all sums stay below 2^24, so the result does not depend on
//! the order of summation, the number of threads or the instruction set, and the exported model gives the same
//! weights bit for bit. Rounding passes gradients straight through to the float masters (Bengio et al. 2013).
//!
//! Candle's fused norms and softmax drop gradients and are not used. The operations of `ops` and `attention`
//! bring their own backward passes, tested against compositions of elementary ones.

mod attention;
mod export;
mod loss;
mod ops;
mod params;
mod transformer;

pub use export::{ImportError, export, import};
pub use loss::bits_per_byte;
pub use params::{Params, exponent, initial};
pub use transformer::CompressiveTransformer;

#[cfg(test)]
mod composed;
#[cfg(test)]
mod tests;
