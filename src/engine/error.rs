//! What can be wrong with a model or with the request to run it.

/// Errors of loading or running a model.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EngineError {
    /// The bytes are not a safetensors file.
    #[error("not a model file: {0}")]
    Container(String),
    /// The file is a safetensors file of something else, or a model of another version.
    #[error("not a model of version {expected}: it has {}", got.map_or("none".to_string(), |v| format!("version {v}")))]
    Version {
        /// Version that this program reads.
        expected: u32,
        /// Version in the file, if it names one.
        got: Option<u32>,
    },
    /// The configuration asks for a model that can not be run exactly.
    #[error("model configuration: {0}")]
    Config(String),
    /// A tensor is missing, or has another type or shape than the configuration asks for.
    #[error("model tensor {name}: expected {expected}, got {got}")]
    Tensor {
        /// Name in the file.
        name: String,
        /// Type and shape that the configuration asks for.
        expected: String,
        /// What the file holds.
        got: String,
    },
    /// The kernel asked for is unknown or not supported by this processor.
    #[error("kernel {0:?} is unknown or not supported by this processor (scalar, avx2, avx512)")]
    Kernel(String),
    /// More lanes than a state can hold, or none.
    #[error("{0} lanes asked for, a state holds 1 to 16")]
    Lanes(usize),
}
