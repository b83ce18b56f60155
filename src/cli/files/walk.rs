//! The files of a directory tree, as an archive sees them.

use std::collections::HashSet;
use std::fs::Metadata;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use crate::cli::CliError;
use crate::store::names::{self, Kind, PRIVATE_DIR};

/// One regular file below a directory.
#[derive(Debug)]
pub struct Found {
    /// Where it is.
    pub path: PathBuf,
    /// Whether its name says that it is a segment.
    pub is_segment: bool,
    /// What the system says of it.
    pub metadata: Metadata,
}

/// The regular files in and below `root`, each once however many names of a kind it has, sorted by path; and the directories that could
/// not be read. What vanishes meanwhile is left out. Symbolic links are not followed, private `.vortex` directories are left out.
#[must_use]
pub fn walk(root: &Path) -> (Vec<Found>, Vec<CliError>) {
    let (mut found, mut failures) = (Vec::new(), Vec::new());
    let mut seen = HashSet::new();
    let mut folders = vec![root.to_owned()];
    while let Some(folder) = folders.pop() {
        let entries = match std::fs::read_dir(&folder) {
            Ok(entries) => entries,
            Err(e) if e.kind() == io::ErrorKind::NotFound && folder != root => continue,
            Err(error) => {
                failures.push(CliError::io(&folder, &error));
                continue;
            }
        };
        for entry in entries {
            let (path, name, metadata) =
                match entry.and_then(|e| Ok((e.path(), e.file_name(), e.metadata()?))) {
                    Ok(entry) => entry,
                    Err(e) if e.kind() == io::ErrorKind::NotFound => continue,
                    Err(error) => {
                        failures.push(CliError::io(&folder, &error));
                        continue;
                    }
                };
            if metadata.is_dir() && name != PRIVATE_DIR {
                folders.push(path);
                continue;
            }
            // A file of which only some names say that it is a segment is both.
            let is_segment = names::logical_name(&name, true).1 == Kind::Segment;
            if metadata.is_file() && seen.insert((metadata.dev(), metadata.ino(), is_segment)) {
                found.push(Found {
                    path,
                    is_segment,
                    metadata,
                });
            }
        }
    }
    found.sort_by(|a, b| a.path.cmp(&b.path));
    (found, failures)
}
