//! Engine: integer inference of an exported model. No I/O, no floating point.

/// A model file, identified by its content.
#[derive(Debug)]
pub struct Model {
    id: [u8; 16],
}

impl Model {
    /// Takes a model file.
    ///
    /// # Errors
    /// A file that holds no usable model.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, EngineError> {
        let mut id = [0; 16];
        id.copy_from_slice(&blake3::hash(bytes).as_bytes()[..16]);
        Ok(Model { id })
    }

    /// Content hash of the model file: the first 16 bytes of its BLAKE3 hash.
    #[must_use]
    pub fn id(&self) -> [u8; 16] {
        self.id
    }
}

/// Why a model does not load.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct EngineError(pub String);
