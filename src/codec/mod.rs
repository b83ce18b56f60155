//! Codecs: bytes to block payload and back, without I/O.
//!
//! Every codec is exact and pure: the same payload gives the same bytes on every machine.

pub mod id;

pub use id::{CodecId, Encoded, ModelId};
