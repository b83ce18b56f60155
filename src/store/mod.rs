//! The store: an archive directory and everything whole-file that is done to it.
//!
//! It maps names, holds the writer's lock, finds models and primers, seals whole files into segments and reads them back. It never
//! replaces a file that it has not decoded and compared, and never follows a symlink inside the archive.

pub mod archive;
pub mod attributes;
pub mod damaged;
mod decode;
pub mod error;
mod format;
mod key_run;
pub mod library;
pub mod models;
pub mod names;
pub mod primers;
pub mod reader;
mod regular;
mod relink;
pub mod repair;
pub mod seal;
mod shown;
mod start_cache;
pub mod temp;
mod tree;
pub mod twins;
pub mod usage;
pub mod verify;
mod write;

#[cfg(test)]
mod tests;

pub use archive::{Access, Archive, is_trusted};
pub use decode::{decode_entry, decode_payload, decode_stored};
pub use error::StoreError;
pub use key_run::{KeyRun, Primer};
pub use library::{BadCopy, Library, Thing};
pub use models::{ModelStore, NO_PROFILE, Profile};
pub use primers::{MAX_PRIMER, PrimerStore};
pub use reader::SegmentReader;
pub use regular::open_regular;
pub use seal::{BlockSource, Cancel, Encoding, Packing, PlainFile, SealOptions, SealReport, seal};
pub use shown::shown;
pub use start_cache::{DEFAULT_START_BYTES, StartCache};
pub use temp::TempFile;
pub use twins::{Condition, Copy};
pub use verify::{Depth, verify_segment, verify_storage};
