//! What can be said before mounting: is the backing directory there, can this be a mountpoint, is there FUSE?
//!
//! Each refusal is one line that names the path and the remedy.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use super::{MountError, table};

fn refuse<T>(message: String) -> Result<T, MountError> {
    Err(MountError::Refused(message))
}

/// `path` made absolute with symlinks resolved in all but its last component, which need not be reachable: that is
/// how the mount table writes it, also of a mount whose daemon has died.
///
/// # Errors
/// A parent directory that cannot be resolved.
pub fn absolute(path: &Path) -> io::Result<PathBuf> {
    if let Ok(resolved) = fs::canonicalize(path) {
        return Ok(resolved);
    }
    let path = std::path::absolute(path)?;
    match (path.parent(), path.file_name()) {
        (Some(parent), Some(name)) => Ok(fs::canonicalize(parent)?.join(name)),
        _ => Ok(path),
    }
}

/// The backing directory, absolute and without symlinks.
///
/// # Errors
/// It is missing, no directory, or itself inside a vortex-fs mount.
pub fn check_backing(backing: &Path) -> Result<PathBuf, MountError> {
    let shown = backing.display();
    match fs::metadata(backing) {
        Ok(meta) if !meta.is_dir() => {
            return refuse(format!(
                "{shown}: not a directory; give the directory that holds the archive"
            ));
        }
        Ok(_) => {}
        Err(e) if e.kind() == io::ErrorKind::NotFound => {
            return refuse(format!(
                "{shown}: no such directory; make it with mkdir, or check the path"
            ));
        }
        Err(e) => return refuse(format!("{shown}: {e}")),
    }
    let path =
        fs::canonicalize(backing).map_err(|e| MountError::Refused(format!("{shown}: {e}")))?;
    let mounts = table::vortex_mounts().unwrap_or_default();
    if let Some(mount) = mounts.iter().find(|m| path.starts_with(&m.mountpoint)) {
        return refuse(format!(
            "{shown}: lies inside the vortex-fs mount {}; give its backing directory instead",
            mount.mountpoint.display()
        ));
    }
    if path
        .components()
        .any(|c| c.as_os_str() == crate::store::names::PRIVATE_DIR)
    {
        return refuse(format!(
            "{shown}: lies inside an archive's private directory; give the archive instead"
        ));
    }
    Ok(path)
}

/// The mountpoint, absolute and without symlinks; `backing` is absolute already.
///
/// # Errors
/// It is missing, no directory, a mount already, or it would hide the backing directory.
pub fn check_mountpoint(mountpoint: &Path, backing: &Path) -> Result<PathBuf, MountError> {
    let shown = mountpoint.display();
    let path = absolute(mountpoint).map_err(|e| MountError::Refused(format!("{shown}: {e}")))?;
    if let Ok(Some(mount)) = table::find_mount(&path)
        && path != Path::new("/")
    {
        let kind = String::from_utf8_lossy(&mount.fstype).into_owned();
        return refuse(format!(
            "{shown}: already a mountpoint ({kind}); unmount it first (vortex-fs umount {shown})"
        ));
    }
    match fs::metadata(&path) {
        Ok(meta) if !meta.is_dir() => {
            return refuse(format!("{shown}: not a directory; give an empty directory"));
        }
        Ok(_) => {}
        Err(e) if e.kind() == io::ErrorKind::NotFound => {
            return refuse(format!(
                "{shown}: no such directory; make it first: mkdir {shown}"
            ));
        }
        Err(e) => return refuse(format!("{shown}: {e}")),
    }
    if backing.starts_with(&path) {
        return refuse(format!(
            "{shown}: the backing directory {} would be hidden below it; choose a mountpoint elsewhere",
            backing.display()
        ));
    }
    if path.starts_with(backing) {
        return refuse(format!(
            "{shown}: lies inside the backing directory {}; choose a mountpoint elsewhere",
            backing.display()
        ));
    }
    Ok(path)
}

/// Whether the directory holds anything, which a mount hides for as long as it lasts.
#[must_use]
pub fn hides_entries(mountpoint: &Path) -> bool {
    fs::read_dir(mountpoint).is_ok_and(|mut entries| entries.next().is_some())
}

/// Whether FUSE can be used at all by this user.
///
/// # Errors
/// No `/dev/fuse`, or no permission to use it.
pub(super) fn check_fuse() -> Result<(), MountError> {
    match File::options().read(true).write(true).open("/dev/fuse") {
        Ok(_) => {}
        Err(e) if e.kind() == io::ErrorKind::NotFound => {
            return refuse(
                "/dev/fuse: not there; load the module (modprobe fuse), or start the container with --device /dev/fuse"
                    .to_string(),
            );
        }
        Err(e) => {
            return refuse(format!(
                "/dev/fuse: {e}; ask the administrator for access to it, or mount as root"
            ));
        }
    }
    if !rustix::process::geteuid().is_root() && find_program("fusermount3").is_none() {
        return refuse(
            "fusermount3: not found; users other than root need it: apt-get install fuse3"
                .to_string(),
        );
    }
    Ok(())
}

/// A program on the search path.
pub(super) fn find_program(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_else(|| "/usr/bin:/bin".into());
    std::env::split_paths(&path)
        .chain(["/usr/bin".into(), "/bin".into()])
        .map(|d| d.join(name))
        .find(|p| p.is_file())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message<T: std::fmt::Debug>(result: Result<T, MountError>) -> String {
        let text = result.expect_err("must be refused").to_string();
        assert_eq!(text.lines().count(), 1, "{text}");
        text
    }

    #[test]
    fn bad_places_are_refused_with_a_remedy() {
        let dir = tempfile::tempdir().expect("temp dir");
        let root = fs::canonicalize(dir.path()).expect("canonical");
        let (backing, file) = (root.join("b"), root.join("f"));
        fs::create_dir(&backing).expect("mkdir");
        fs::write(&file, "x").expect("write");
        assert!(message(check_backing(&root.join("none"))).contains("mkdir"));
        assert!(message(check_backing(&file)).contains("not a directory"));
        assert!(message(check_mountpoint(&root.join("none"), &backing)).contains("mkdir"));
        assert!(message(check_mountpoint(&file, &backing)).contains("not a directory"));
        assert!(message(check_mountpoint(&root, &backing)).contains("hidden"));
        assert!(message(check_mountpoint(&backing, &backing)).contains("hidden"));
        fs::create_dir(backing.join("inner")).expect("mkdir");
        assert!(message(check_mountpoint(&backing.join("inner"), &backing)).contains("inside"));
        assert!(
            message(check_mountpoint(Path::new("/proc"), &backing))
                .contains("already a mountpoint")
        );
    }

    #[test]
    fn mountpoint_below_an_unreachable_name_is_made_absolute() {
        let dir = tempfile::tempdir().expect("temp dir");
        let gone = dir.path().join("gone");
        assert_eq!(
            absolute(&gone).expect("parent exists"),
            fs::canonicalize(dir.path())
                .expect("canonical")
                .join("gone")
        );
    }
}
