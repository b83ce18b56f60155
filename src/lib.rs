//! vortex-fs: a file system that keeps telemetry in neurally compressed, randomly readable segments.
//!
//! The layers and what each may import are in `docs/DESIGN.md`.

pub mod bench;
pub mod cli;
pub mod codec;
pub mod demo;
pub mod engine;
pub mod fs;
pub mod model;
pub mod mount;
pub mod pack;
pub mod profiles;
pub mod segment;
pub mod store;
mod sync;
pub mod train;
