//! The gradient of one segment: the unit of work that threads and machines share.

use super::data::Segment;
use crate::engine::Config;
use crate::model::{CompressiveTransformer, Params, bits_per_byte};
use candle_core::{DType, Device, Result, Tensor, Var};
use candle_nn::VarBuilder;
use std::collections::HashMap;

/// What one segment teaches.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Gradient {
    /// Bits per byte.
    pub loss: f64,
    /// Its derivative by each master, in the order of the parameters.
    pub values: Vec<Vec<f32>>,
}

/// The model that these parameters are the masters of, and stay so when they change.
///
/// # Errors
/// Candle's, if a tensor is missing or of another shape.
pub(super) fn model_of(config: &Config, params: &Params) -> Result<CompressiveTransformer> {
    let tensors: HashMap<String, Tensor> = params
        .iter()
        .map(|(n, v)| (n.clone(), v.as_tensor().clone()))
        .collect();
    let weights = VarBuilder::from_tensors(tensors, DType::F32, &Device::Cpu);
    CompressiveTransformer::new(config, weights)
}

/// Differentiates the loss of one segment.
///
/// # Errors
/// Candle's, if memory is short.
pub(super) fn gradient(
    model: &CompressiveTransformer,
    params: &Params,
    segment: &Segment,
) -> Result<Gradient> {
    let logits = model.forward(&segment.features, 1)?;
    let loss = bits_per_byte(&logits, &segment.targets)?;
    let grads = loss.backward()?;
    let of = |var: &Var| match grads.get(var) {
        Some(g) => g.flatten_all()?.to_vec1::<f32>(),
        None => Ok(vec![0.0; var.elem_count()]),
    };
    Ok(Gradient {
        loss: f64::from(loss.to_scalar::<f32>()?),
        values: params.values().map(of).collect::<Result<_>>()?,
    })
}
