//! Logical names and backing names: a one-to-one mapping, so that no name can be mistaken for another.
//!
//! A file kept as a segment is `name.vortex`; everything else keeps its name, except that names which would then look like a
//! segment (`.vortex`, followed by any number of `~plain`) get one more `~plain`. See `docs/DESIGN.md`.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

/// Ends the backing name of a segment.
pub const SEGMENT_SUFFIX: &str = ".vortex";
/// Ends the backing name of anything else whose logical name ends in [`SEGMENT_SUFFIX`].
pub const PLAIN_SUFFIX: &str = "~plain";
/// The private directory at the root of an archive.
pub const PRIVATE_DIR: &str = ".vortex";
/// Longest logical name in bytes: a backing name has at most 255.
pub const NAME_MAX: usize = 255 - SEGMENT_SUFFIX.len();

/// What a backing entry is, by its name and type.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A file kept as a segment.
    Segment,
    /// A plain file, directory, symlink or special file.
    Other,
}

impl Kind {
    /// What a file that is kept in this way becomes when it is packed or unpacked.
    #[must_use]
    pub fn other(self) -> Kind {
        match self {
            Kind::Segment => Kind::Other,
            Kind::Other => Kind::Segment,
        }
    }
}

/// Backing name of the segment that holds the file `logical`.
#[must_use]
pub fn segment_name(logical: &OsStr) -> OsString {
    append(logical, SEGMENT_SUFFIX)
}

/// Backing name of the plain file, directory, symlink or special file `logical`.
#[must_use]
pub fn other_name(logical: &OsStr) -> OsString {
    if needs_escape(logical.as_bytes()) {
        append(logical, PLAIN_SUFFIX)
    } else {
        logical.to_os_string()
    }
}

/// Logical name and kind of a backing entry.
///
/// A regular file that ends in `.vortex` is a segment. Anything else that does so was not made by vortex-fs and is
/// shown under its own name.
#[must_use]
pub fn logical_name(backing: &OsStr, is_regular_file: bool) -> (OsString, Kind) {
    let raw = backing.as_bytes();
    if let Some(stem) = raw.strip_suffix(SEGMENT_SUFFIX.as_bytes())
        && is_regular_file
        && !stem.is_empty()
    {
        return (OsString::from_vec(stem.to_vec()), Kind::Segment);
    }
    if let Some(stem) = raw.strip_suffix(PLAIN_SUFFIX.as_bytes())
        && needs_escape(stem)
    {
        return (OsString::from_vec(stem.to_vec()), Kind::Other);
    }
    (backing.to_os_string(), Kind::Other)
}

/// A path as text: bytes outside printable ASCII, and those with a meaning in mount tables, become `%XX`.
#[must_use]
pub fn escape(path: &Path) -> String {
    let mut out = String::new();
    for &byte in path.as_os_str().as_bytes() {
        match byte {
            b',' | b'\\' | b'%' | 0..=b' ' | 0x7f.. => out.push_str(&format!("%{byte:02X}")),
            _ => out.push(char::from(byte)),
        }
    }
    out
}

/// The path that [`escape`] was given.
#[must_use]
pub fn unescape(text: &str) -> PathBuf {
    let mut out = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&byte, tail)) = rest.split_first() {
        let hex = (byte == b'%').then(|| tail.get(..2)).flatten();
        let code = hex
            .and_then(|d| std::str::from_utf8(d).ok())
            .and_then(|d| u8::from_str_radix(d, 16).ok());
        out.push(code.unwrap_or(byte));
        rest = if code.is_some() {
            tail.get(2..).unwrap_or_default()
        } else {
            tail
        };
    }
    PathBuf::from(OsString::from_vec(out))
}

/// Whether `name` is `.vortex` followed by any number of `~plain`.
fn needs_escape(name: &[u8]) -> bool {
    let mut stem = name;
    while let Some(shorter) = stem.strip_suffix(PLAIN_SUFFIX.as_bytes()) {
        stem = shorter;
    }
    stem.ends_with(SEGMENT_SUFFIX.as_bytes())
}

fn append(name: &OsStr, suffix: &str) -> OsString {
    let mut out = name.to_os_string();
    out.push(suffix);
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn check_round_trip(name: &OsStr) {
        assert_eq!(
            logical_name(&segment_name(name), true),
            (name.to_os_string(), Kind::Segment)
        );
        for regular in [true, false] {
            assert_eq!(
                logical_name(&other_name(name), regular),
                (name.to_os_string(), Kind::Other)
            );
        }
        assert_ne!(segment_name(name), other_name(name));
    }

    #[test]
    fn names_that_look_like_ours_are_escaped() {
        for name in [
            "a",
            "a.vortex",
            "a.vortex~plain",
            ".vortex",
            ".vortex~plain~plain",
            "~plain",
            "a~plain",
        ] {
            check_round_trip(OsStr::new(name));
        }
        assert_eq!(other_name(OsStr::new(".vortex")), ".vortex~plain");
        assert_eq!(other_name(OsStr::new("a~plain")), "a~plain");
    }

    #[test]
    fn foreign_directories_keep_their_name() {
        assert_eq!(
            logical_name(OsStr::new("x.vortex"), false),
            ("x.vortex".into(), Kind::Other)
        );
        assert_eq!(
            logical_name(OsStr::new(".vortex"), true),
            (".vortex".into(), Kind::Other)
        );
    }

    proptest! {
        #[test]
        fn every_name_maps_back(parts in prop::collection::vec(prop_oneof![
            Just(b".vortex".to_vec()), Just(b"~plain".to_vec()), prop::collection::vec(1u8..=255, 1..4)], 1..5)) {
            let name = OsString::from_vec(parts.concat());
            if !name.as_bytes().contains(&b'/') { check_round_trip(&name); }
        }
    }
}
