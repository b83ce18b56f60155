//! Errors of the layers below, as the one line that a user reads: which file, what is wrong, what to do.

use std::path::Path;

use crate::cli::CliError;
use crate::segment::SegmentError;
use crate::store::StoreError;

const DAMAGE_REMEDY: &str =
    "restore the file from a copy, or save the rest of it with `vortex-fs repair`";

/// A store's failure on the file `path`. Damage gives exit code 2, everything else 1.
#[must_use]
pub fn store_failure(path: &Path, error: &StoreError) -> CliError {
    match error {
        StoreError::Io { path, source } => CliError::io(path, source),
        StoreError::Segment(SegmentError::Io(source)) => CliError::io(path, source),
        StoreError::Segment(SegmentError::NotASegment { .. }) => CliError::damaged("not a vortex segment")
            .on(path)
            .remedy("name a file that vortex-compress, pack or a mount has written"),
        StoreError::Segment(SegmentError::UnknownVersion { found, supported }) => CliError::damaged(format!(
            "segment format version {found}, and this program reads version {supported}"
        ))
        .on(path)
        .remedy("use the version of vortex-fs that wrote it, or a newer one"),
        StoreError::MissingModel(id) => CliError::failed(format!("model {id} is needed and not here"))
            .on(path)
            .remedy("name its file with --profile FILE.safetensors, or copy that into .vortex/models of the archive"),
        StoreError::MissingPrimer(id) => CliError::failed(format!("primer {id} is needed and not here"))
            .on(path)
            .remedy("name a file with its bytes with --primer FILE, or copy its file into .vortex/primers of the archive"),
        StoreError::DamagedFormat(_) => CliError::damaged(error.to_string()),
        damage if damage.is_damage() => {
            CliError::damaged(damage.to_string()).on(path).remedy(DAMAGE_REMEDY)
        }
        // The store's own words name the path and the remedy.
        StoreError::NotAnArchive(_)
        | StoreError::Untrusted { .. }
        | StoreError::Busy(_)
        | StoreError::UnknownFormat { .. }
        | StoreError::Unclear(_)
        | StoreError::UnfinishedRepair { .. }
        | StoreError::BadModel { .. }
        | StoreError::UnknownProfile { .. } => CliError::failed(error.to_string()),
        _ => CliError::failed(error.to_string()).on(path),
    }
}

/// The same, for `map_err`.
pub fn with_path(path: &Path) -> impl Fn(StoreError) -> CliError + '_ {
    move |error| store_failure(path, &error)
}

/// A store's failure on one block of the file `path`, which the message names.
#[must_use]
pub fn block_failure(path: &Path, block: u64, error: &StoreError) -> CliError {
    match error {
        StoreError::Segment(damage) if error.is_damage() => {
            CliError::damaged(format!("block {block}: {damage}"))
                .on(path)
                .remedy(DAMAGE_REMEDY)
        }
        _ => store_failure(path, error),
    }
}
