//! From a path that a user gave to an archive and a logical path in it.

use std::ffi::OsStr;
use std::fs;
use std::io;
use std::path::{Component, Path, PathBuf};

use crate::store::Archive;
use crate::store::names::{PRIVATE_DIR, logical_name};

/// A place in an archive.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place {
    /// The archive's directory, absolute and without symlinks.
    pub root: PathBuf,
    /// Logical path relative to it; empty for the archive itself.
    pub logical: PathBuf,
}

/// Why a path is no place in an archive: one line without the path.
#[derive(Debug, thiserror::Error)]
pub enum LocateError {
    /// The path cannot be resolved.
    #[error("{0}")]
    Io(#[from] io::Error),
    /// It belongs to the archive's own bookkeeping.
    #[error("lies in the archive's private directory; name the archive or files in it")]
    Private,
    /// A file outside any archive.
    #[error(
        "is in no archive; name the directory to make one of, or use vortex-compress for a single file"
    )]
    NoArchive,
    /// Neither a file nor a directory.
    #[error("is neither a regular file nor a directory")]
    NotPackable,
}

/// Where `path`, a backing directory or a file in one, lies. A directory in no archive is the root of one to be made.
///
/// # Errors
/// See [`LocateError`].
pub fn locate(path: &Path) -> Result<Place, LocateError> {
    let path = fs::canonicalize(path)?;
    let meta = fs::metadata(&path)?;
    if !meta.is_dir() && !meta.is_file() {
        return Err(LocateError::NotPackable);
    }
    let Some(root) = Archive::find(&path) else {
        if meta.is_file() {
            return Err(LocateError::NoArchive);
        }
        return Ok(Place {
            root: path,
            logical: PathBuf::new(),
        });
    };
    let inside = path.strip_prefix(&root).unwrap_or(Path::new(""));
    if inside.starts_with(PRIVATE_DIR) {
        return Err(LocateError::Private);
    }
    Ok(Place {
        logical: logical_path(inside, meta.is_file()),
        root,
    })
}

/// The logical form of a backing path relative to the archive.
fn logical_path(backing: &Path, is_file: bool) -> PathBuf {
    let names: Vec<&OsStr> = backing
        .components()
        .filter_map(|c| {
            if let Component::Normal(name) = c {
                Some(name)
            } else {
                None
            }
        })
        .collect();
    let last = names.len().saturating_sub(1);
    names
        .iter()
        .enumerate()
        .map(|(i, name)| logical_name(name, is_file && i == last).0)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn backing_files_in_either_form_have_one_logical_path() {
        let dir = tempfile::tempdir().expect("temp dir");
        let root = fs::canonicalize(dir.path()).expect("canonical");
        Archive::init(&root).expect("init");
        fs::create_dir(root.join("x.vortex~plain")).expect("mkdir");
        for name in ["a.dat", "b.dat.vortex", "x.vortex~plain/c.vortex"] {
            fs::write(root.join(name), "").expect("write");
        }
        for (backing, logical) in [
            ("", ""),
            ("a.dat", "a.dat"),
            ("b.dat.vortex", "b.dat"),
            ("x.vortex~plain", "x.vortex"),
            ("x.vortex~plain/c.vortex", "x.vortex/c"),
        ] {
            let place = locate(&root.join(backing)).expect(backing);
            assert_eq!(
                place,
                Place {
                    root: root.clone(),
                    logical: logical.into()
                },
                "{backing}"
            );
        }
        assert!(matches!(
            locate(&root.join(".vortex/models")),
            Err(LocateError::Private)
        ));
    }

    #[test]
    fn outside_an_archive_only_a_directory_is_a_place() {
        let dir = tempfile::tempdir().expect("temp dir");
        let root = fs::canonicalize(dir.path()).expect("canonical");
        fs::write(root.join("a"), "").expect("write");
        assert_eq!(locate(&root).expect("a directory").logical, Path::new(""));
        assert!(matches!(
            locate(&root.join("a")),
            Err(LocateError::NoArchive)
        ));
        assert!(matches!(
            locate(&root.join("none")),
            Err(LocateError::Io(_))
        ));
    }
}
