//! What the commands on single files share: opening, finding models, decoding, and new files that appear whole or not at all.

mod counts;
mod decode;
mod failure;
mod input;
mod models;
mod new_file;
mod walk;

pub use counts::BlockCounts;
pub use decode::{decode_range, decode_whole};
pub use failure::{block_failure, store_failure, with_path};
pub use input::Input;
pub use models::Models;
pub use new_file::{Destination, Fate, NewFile};
pub use walk::{Found, walk};

use std::path::{Path, PathBuf};

use super::{CliError, Outcome, warn};

/// Number of worker threads: what was asked for, otherwise one for each processor.
#[must_use]
pub fn worker_threads(asked: Option<usize>) -> usize {
    asked.filter(|&n| n > 0).unwrap_or_else(|| {
        std::thread::available_parallelism().map_or(1, std::num::NonZeroUsize::get)
    })
}

/// Does `work` for every path, reports each failure, and sums up the outcome.
///
/// # Errors
/// Only a closed standard output, which ends the command at once.
pub fn for_each_path(
    paths: &[PathBuf],
    mut work: impl FnMut(&Path) -> Result<Outcome, CliError>,
) -> Result<Outcome, CliError> {
    let mut outcomes = Vec::with_capacity(paths.len());
    for path in paths {
        outcomes.push(match work(path) {
            Ok(outcome) => outcome,
            Err(error) if error.is_broken_pipe() => return Err(error),
            Err(error) => {
                warn(&error);
                error.outcome()
            }
        });
    }
    Ok(Outcome::of_all(outcomes))
}
