//! Measurements of the parts on given files.

pub mod codec;
mod error;
pub mod figures;
pub mod files;
pub mod fs;
mod latency;
pub mod model;
pub mod peers;
mod programs;

pub use error::BenchError;
