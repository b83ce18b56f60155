//! How much of a file is fetched before it is opened: all of it, up to a bound, for who was seen to read large files through,
//! and for others the beginning.
//!
//! Plain files may be read without the daemon, so now and then only the beginning of a large file is fetched, and when the
//! reader has passed it, more of it is looked for in the page cache.

use std::ffi::OsString;
use std::fs::File;
use std::io::IoSliceMut;
use std::os::fd::AsFd;

use rustix::io::{ReadWriteFlags, preadv2};

use super::files::OPEN_AHEAD;
use crate::store::names;

/// What is fetched of a large file that will be read through, in bytes, at most.
const MOST_OF_FILE: u64 = 4 << 20;
/// Large files that are fetched whole before another one is watched.
const UNWATCHED: u32 = 32;
/// Bytes that a file that is watched has behind its beginning, at least.
const WATCHED: u64 = 64 << 10;

/// What was seen of a reader.
#[derive(Default)]
pub(super) struct Depth {
    reads_through: bool,
    watched: Option<Watched>,
    /// In which order of the directory it is being read.
    pub(super) order: usize,
    /// Large files fetched since one was watched.
    unwatched: u32,
}

/// A large file of which only the beginning was fetched.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Watched {
    pub(super) name: OsString,
    pub(super) form: names::Kind,
    pub(super) order: usize,
    /// Two bytes that are neither fetched with the beginning nor near the end, where many formats keep what is read when they are
    /// opened, segments too. To look for one may fetch it, now and then before the answer is given: that does not happen twice.
    places: [u64; 2],
}

impl Depth {
    /// Of a reader who may be the same.
    pub(super) fn like(other: &Depth) -> Depth {
        Depth {
            reads_through: other.reads_through,
            ..Depth::default()
        }
    }

    /// How many bytes to fetch of a file of `len` bytes.
    pub(super) fn of(&mut self, name: &OsString, form: names::Kind, file: &File, len: u64) -> u64 {
        if len <= OPEN_AHEAD {
            return len;
        }
        let rest = len.min(MOST_OF_FILE) - OPEN_AHEAD;
        let look = !self.reads_through || self.unwatched >= UNWATCHED;
        if self.watched.is_none() && look && rest >= WATCHED {
            // What was there before says nothing. To look may fetch the page that is looked for.
            if !is_in_memory(file, OPEN_AHEAD + rest / 4) {
                self.unwatched = 0;
                self.watched = Some(Watched {
                    name: name.clone(),
                    form,
                    order: self.order,
                    places: [OPEN_AHEAD + rest / 2, OPEN_AHEAD + rest / 8 * 5],
                });
                return OPEN_AHEAD;
            }
        }
        if !self.reads_through {
            return OPEN_AHEAD;
        }
        self.unwatched += 1;
        len.min(MOST_OF_FILE)
    }

    /// The file that is watched.
    pub(super) fn watched(&self) -> Option<&Watched> {
        self.watched.as_ref()
    }

    /// The file is watched no more. The reader has passed it: whether it was read through, if that can be told.
    pub(super) fn passed(&mut self, read_through: Option<bool>) {
        self.watched = None;
        self.reads_through = read_through.unwrap_or(self.reads_through);
    }
}

impl Watched {
    /// Whether more of it than the beginning was read, as far as the file system can tell.
    pub(super) fn is_read_through(&self, file: impl AsFd) -> bool {
        self.places.iter().all(|place| is_in_memory(&file, *place))
    }
}

/// Whether a byte of a file is in the page cache. Not if the file system can not tell.
fn is_in_memory(file: impl AsFd, place: u64) -> bool {
    let mut byte = [0];
    let into = &mut [IoSliceMut::new(&mut byte)];
    preadv2(file, into, place, ReadWriteFlags::NOWAIT) == Ok(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    const LARGE: u64 = 3 << 20;

    /// A file that is nowhere in memory, since it has no bytes.
    fn of(depth: &mut Depth, name: &str, len: u64) -> u64 {
        let file = tempfile::tempfile().unwrap();
        depth.of(&name.into(), names::Kind::Other, &file, len)
    }

    #[test]
    fn who_reads_through_is_given_all_and_is_looked_at_again() {
        let mut depth = Depth::default();
        assert_eq!(of(&mut depth, "small", 5), 5);
        assert!(depth.watched().is_none());
        for name in ["watched", "not"] {
            assert_eq!(of(&mut depth, name, LARGE), OPEN_AHEAD);
            assert_eq!(depth.watched().unwrap().name, "watched");
        }
        depth.passed(Some(true));
        for _ in 0..UNWATCHED {
            assert_eq!(of(&mut depth, "whole", LARGE), LARGE);
            assert_eq!(of(&mut depth, "small", 5), 5);
        }
        assert_eq!(of(&mut depth, "again", 9 << 20), OPEN_AHEAD);
        assert_eq!(
            depth.watched().unwrap().places,
            [
                (MOST_OF_FILE + OPEN_AHEAD) / 2,
                (5 * MOST_OF_FILE + 3 * OPEN_AHEAD) / 8
            ]
        );
        assert_eq!(of(&mut depth, "whole", 9 << 20), MOST_OF_FILE);
        depth.passed(None);
        assert_eq!(of(&mut depth, "as before", LARGE), LARGE);
        depth.unwatched = UNWATCHED;
        assert_eq!(of(&mut depth, "again", LARGE), OPEN_AHEAD);
        depth.passed(Some(false));
        assert_eq!(of(&mut depth, "watched", LARGE), OPEN_AHEAD);
        assert_eq!(of(&mut depth, "not", LARGE), OPEN_AHEAD);
    }

    #[test]
    fn who_reads_beginnings_only_is_given_no_more() {
        let mut depth = Depth::default();
        for _ in 0..100 {
            assert_eq!(of(&mut depth, "a", LARGE), OPEN_AHEAD);
            depth.passed(Some(false));
        }
    }
}
