//! The mount table: which directories are mounts of ours, and of which archive.

use std::ffi::{OsStr, OsString};
use std::io;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use crate::pack::protocol;

/// File system type in the mount table.
pub(super) const FSTYPE: &str = "fuse.vortex";
/// What `-o subtype` says, from which the kernel makes [`FSTYPE`].
pub(super) const SUBTYPE_OPTION: &str = "subtype=vortex";

/// One line of the mount table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MountEntry {
    /// Where it is mounted.
    pub mountpoint: PathBuf,
    /// Type, with subtype: `fuse.vortex` for ours.
    pub fstype: Vec<u8>,
    /// What is mounted: for ours the archive, escaped by [`protocol::escape`].
    pub source: OsString,
    /// `major:minor`.
    pub device: String,
}

impl MountEntry {
    /// Whether this is a mount of ours.
    #[must_use]
    pub fn is_vortex(&self) -> bool {
        self.fstype == FSTYPE.as_bytes()
    }

    /// The archive that is mounted here, if the mount was not given another name.
    #[must_use]
    pub fn archive(&self) -> Option<PathBuf> {
        let path = protocol::unescape(self.source.to_str()?);
        path.is_absolute().then_some(path)
    }
}

/// All mounts of ours that this process sees.
///
/// # Errors
/// An unreadable `/proc/self/mountinfo`.
pub fn vortex_mounts() -> io::Result<Vec<MountEntry>> {
    Ok(read_table()?
        .into_iter()
        .filter(MountEntry::is_vortex)
        .collect())
}

/// The topmost mount whose mountpoint is exactly `path` (absolute, without symlinks).
///
/// # Errors
/// An unreadable `/proc/self/mountinfo`.
pub fn find_mount(path: &Path) -> io::Result<Option<MountEntry>> {
    Ok(read_table()?
        .into_iter()
        .rev()
        .find(|m| m.mountpoint == path))
}

fn read_table() -> io::Result<Vec<MountEntry>> {
    let text = std::fs::read("/proc/self/mountinfo")?;
    Ok(text.split(|&b| b == b'\n').filter_map(parse_line).collect())
}

/// `id parent major:minor root mountpoint options [optional fields] - type source super-options`
fn parse_line(line: &[u8]) -> Option<MountEntry> {
    let mut fields = line.split(|&b| b == b' ');
    let device = fields.nth(2)?;
    let mountpoint = fields.nth(1)?;
    let mut fields = fields.skip_while(|f| *f != b"-").skip(1);
    let fstype = fields.next()?;
    let source = fields.next()?;
    Some(MountEntry {
        mountpoint: OsString::from_vec(unescape(mountpoint)).into(),
        fstype: fstype.to_vec(),
        source: OsString::from_vec(unescape(source)),
        device: OsStr::from_bytes(device).to_string_lossy().into_owned(),
    })
}

/// Undoes the table's `\ooo`.
fn unescape(raw: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(raw.len());
    let mut rest = raw;
    while let Some((&byte, tail)) = rest.split_first() {
        let octal = (byte == b'\\').then(|| tail.get(..3)).flatten();
        let code = octal
            .and_then(|d| std::str::from_utf8(d).ok())
            .and_then(|d| u8::from_str_radix(d, 8).ok());
        out.push(code.unwrap_or(byte));
        rest = if code.is_some() {
            tail.get(3..).unwrap_or_default()
        } else {
            tail
        };
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mountinfo_lines_are_understood() {
        let line = b"36 35 0:52 / /mnt/a\\040b rw,relatime shared:1 master:2 - fuse.vortex /data/x%2Cy rw,user_id=0";
        let entry = parse_line(line).expect("well formed");
        assert_eq!(entry.mountpoint, Path::new("/mnt/a b"));
        assert_eq!(entry.archive(), Some(PathBuf::from("/data/x,y")));
        assert_eq!(entry.device, "0:52");
        assert!(entry.is_vortex());
        assert_eq!(parse_line(b"36 35 0:52 /"), None);
        assert_eq!(parse_line(b""), None);
    }

    #[test]
    fn every_path_survives_the_source_field() {
        for path in ["/a", "/a b,c\\d%e", "/tab\tnewline\n", "/100%", "/%41"] {
            let escaped = protocol::escape(Path::new(path));
            assert!(!escaped.contains([',', '\\', ' ', '\n']), "{escaped}");
            let entry = MountEntry {
                mountpoint: "/m".into(),
                fstype: FSTYPE.as_bytes().to_vec(),
                source: escaped.into(),
                device: String::new(),
            };
            assert_eq!(entry.archive(), Some(PathBuf::from(path)));
        }
    }
}
