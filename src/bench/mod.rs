//! Measurements of the parts on given files.

pub mod codec;
pub mod peers;
