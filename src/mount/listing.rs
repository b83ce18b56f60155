//! Whether who lists a directory will want attributes, too.
//!
//! The kernel asks for them with the first entries of every directory, since it cannot know. Finding them out costs several times
//! what listing costs, and `find` has no use for them. So the first answer holds no more than the dots, after which the kernel asks
//! for names alone, unless somebody has just looked up, one by one, files that were listed so.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use fuser::INodeNo;

/// How long it is remembered that attributes were wanted.
const MEMORY: Duration = Duration::from_secs(1);

/// What was lately listed, and looked up after it.
pub(super) struct Listings {
    begun: Instant,
    /// The last directory that was listed without attributes.
    bare: AtomicU64,
    /// Until when they are given, in milliseconds after `begun`.
    until: AtomicU64,
}

impl Listings {
    pub(super) fn new() -> Listings {
        Listings {
            begun: Instant::now(),
            bare: AtomicU64::new(0),
            until: AtomicU64::new(0),
        }
    }

    /// A directory is listed from its beginning: whether without attributes.
    pub(super) fn begin_bare(&self, dir: INodeNo) -> bool {
        let bare = millis(self.begun.elapsed()) >= self.until.load(Ordering::Relaxed);
        if bare {
            self.bare.store(dir.0, Ordering::Relaxed);
        }
        bare
    }

    /// A file in a directory was looked up.
    pub(super) fn looked_up_in(&self, dir: INodeNo) {
        if self.bare.load(Ordering::Relaxed) == dir.0 {
            let until = millis(self.begun.elapsed() + MEMORY);
            self.until.store(until, Ordering::Relaxed);
        }
    }
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attributes_are_given_when_what_was_listed_without_them_was_looked_up() {
        let (one, two) = (INodeNo(1), INodeNo(2));
        let listings = Listings::new();
        listings.looked_up_in(one);
        assert!(listings.begin_bare(one));
        listings.looked_up_in(two);
        assert!(listings.begin_bare(two));
        listings.looked_up_in(two);
        assert!(!listings.begin_bare(one) && !listings.begin_bare(two));
        let long_ago = Listings {
            until: AtomicU64::new(0),
            ..listings
        };
        assert!(long_ago.begin_bare(one));
    }
}
