//! The files that a measurement is of.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

/// The files that `paths` stand for, in order; directories are walked for regular files.
///
/// # Errors
/// A directory that cannot be read.
pub fn files(paths: &[PathBuf]) -> io::Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for path in paths {
        walk(path, &mut found)?;
    }
    Ok(found)
}

fn walk(path: &Path, out: &mut Vec<PathBuf>) -> io::Result<()> {
    if !path.is_dir() {
        out.push(path.to_path_buf());
        return Ok(());
    }
    let mut inside = fs::read_dir(path)?
        .map(|e| e.map(|e| e.path()))
        .collect::<io::Result<Vec<_>>>()?;
    inside.sort();
    inside.retain(|p| p.is_dir() || p.is_file());
    inside.iter().try_for_each(|p| walk(p, out))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_below_a_directory_are_found_in_order() {
        let dir = tempfile::tempdir().unwrap();
        let path = |name: &str| dir.path().join(name);
        fs::create_dir(path("b")).unwrap();
        for name in ["c", "b/z", "a"] {
            fs::write(path(name), b"").unwrap();
        }
        let found = files(&[path("c"), dir.path().to_owned()]).unwrap();
        assert_eq!(found, ["c", "a", "b/z", "c"].map(path));
    }
}
