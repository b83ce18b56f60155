//! From float masters to the model file of the engine, and back.

use super::ops::Quantise;
use super::params::{Params, exponent};
use crate::engine::{
    Config, EngineError, METADATA_KEY, MIXER, MIXER_SHAPE, Model, metadata, tensor_shapes,
};
use candle_core::{Device, Tensor, Var};
use safetensors::tensor::TensorView;
use safetensors::{Dtype, SafeTensors};
use serde_json::{Map, Value};
use std::collections::HashMap;

/// Why a model file can not be continued from, or written.
#[derive(Debug, thiserror::Error)]
pub enum ImportError {
    /// The file is no model.
    #[error(transparent)]
    Engine(#[from] EngineError),
    /// The file is a model of another architecture.
    #[error("it has another architecture: {0}")]
    Architecture(String),
    /// A tensor could not be made.
    #[error(transparent)]
    Candle(#[from] candle_core::Error),
    /// The container could not be written or read.
    #[error("model file: {0}")]
    Container(#[from] safetensors::SafeTensorError),
    /// The configuration could not be written.
    #[error("model configuration: {0}")]
    Json(#[from] serde_json::Error),
}

/// The model file of these masters, with first weights of the codec's mixer if there are any. The same gives the same bytes.
///
/// # Errors
/// [`ImportError`] if a master is missing.
pub fn export(
    config: &Config,
    params: &Params,
    mixer: Option<&[i16]>,
) -> Result<Vec<u8>, ImportError> {
    let mut tensors = Vec::new();
    for (name, shape) in tensor_shapes(config) {
        let missing = || ImportError::Architecture(format!("no tensor {name}"));
        let master = params
            .get(&name)
            .ok_or_else(missing)?
            .flatten_all()?
            .to_vec1::<f32>()?;
        let e = exponent(config, &name);
        let bytes: Vec<u8> = master
            .iter()
            .map(|&w| Quantise::value(w, e) as i8 as u8)
            .collect();
        tensors.push((name, shape, bytes));
    }
    let mut views = tensors
        .iter()
        .map(|(name, shape, bytes)| {
            Ok((
                name.as_str(),
                TensorView::new(Dtype::I8, shape.clone(), bytes)?,
            ))
        })
        .collect::<Result<Vec<_>, safetensors::SafeTensorError>>()?;
    let mixer: Option<Vec<u8>> =
        mixer.map(|weights| weights.iter().flat_map(|w| w.to_le_bytes()).collect());
    if let Some(bytes) = &mixer {
        let view = TensorView::new(Dtype::I16, MIXER_SHAPE.to_vec(), bytes)?;
        views.push((MIXER, view));
    }
    // A single entry: a map with more would be written in another order on every run.
    let metadata = HashMap::from([(METADATA_KEY.to_string(), metadata(config, mixer.is_some())?)]);
    Ok(safetensors::serialize(views, Some(metadata))?)
}

/// Masters that quantise to the weights of a model file of this architecture, whatever effort it asks for.
///
/// # Errors
/// [`ImportError`] naming the first difference of architecture, or what is wrong with the file.
pub fn import(config: &Config, bytes: &[u8]) -> Result<Params, ImportError> {
    let found = Model::from_bytes(bytes)?;
    let same = Config {
        effort: config.effort,
        ..found.config().clone()
    };
    if same != *config {
        let (its, wanted) = (serde_json::to_value(&same)?, serde_json::to_value(config)?);
        let said = difference("", &its, &wanted).unwrap_or_default();
        return Err(ImportError::Architecture(said));
    }
    let file = SafeTensors::deserialize(bytes)?;
    tensor_shapes(config)
        .into_iter()
        .map(|(name, shape)| {
            let unit = (1u32 << exponent(config, &name)) as f32;
            let values: Vec<f32> = file
                .tensor(&name)?
                .data()
                .iter()
                .map(|&b| f32::from(b as i8) / unit)
                .collect();
            Ok((
                name,
                Var::from_tensor(&Tensor::from_vec(values, shape, &Device::Cpu)?)?,
            ))
        })
        .collect()
}

/// The first key whose values differ, and both.
fn difference(key: &str, its: &Value, wanted: &Value) -> Option<String> {
    match (its, wanted) {
        (Value::Object(all), Value::Object(others)) => {
            let mut names: Vec<&String> = all.keys().chain(others.keys()).collect();
            names.sort();
            names.dedup();
            names.into_iter().find_map(|name| {
                let of = |object: &Map<String, Value>| object.get(name).cloned();
                let inner = format!("{key}{}{name}", if key.is_empty() { "" } else { "." });
                let (its, wanted) = (of(all), of(others));
                difference(
                    &inner,
                    &its.unwrap_or_default(),
                    &wanted.unwrap_or_default(),
                )
            })
        }
        _ if its == wanted => None,
        _ => Some(format!("its {key} is {its}, not {wanted}")),
    }
}
