//! The store: an archive directory and everything whole-file that is done to it.
//!
//! It maps names, holds the writer's lock, finds models, seals whole files into segments and reads them back. It never
//! replaces a file that it has not decoded and compared, and never follows a symlink inside the archive.

pub mod archive;
pub mod error;
pub mod models;
pub mod names;
pub mod reader;
pub mod seal;
pub mod temp;
pub mod verify;

pub use archive::{Access, Archive};
pub use error::StoreError;
pub use models::{ModelStore, Profile};
pub use reader::{SegmentReader, decode_entry, decode_stored};
pub use seal::{BlockSource, Cancel, Encoding, PlainFile, SealOptions, SealReport, seal};
pub use temp::TempFile;
pub use verify::verify_segment;
