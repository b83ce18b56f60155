//! Listing with attributes, and whether who lists a directory will want them.
//!
//! The kernel asks for them with the first entries of every directory, since it cannot know. Finding them out costs several times
//! what listing costs, and `find` has no use for them. So the first answer holds no more than the dots, after which the kernel asks
//! for names alone, unless somebody has just looked up, one by one, files that were listed so.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use fuser::{Errno, FileHandle, Filesystem, INodeNo, ReplyDirectoryPlus, Request};

use super::adapter::{Adapter, GENERATION, handle, node};
use super::convert::file_attr;
use crate::fs::NodeId;

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

impl Adapter {
    /// Answers READDIRPLUS.
    pub(super) fn list_with_attributes(
        &self,
        req: &Request,
        ino: INodeNo,
        fh: FileHandle,
        offset: u64,
        mut reply: ReplyDirectoryPlus,
    ) {
        let entries = match self.call(req, "readdir", ino, |fs| fs.readdir(handle(fh), offset)) {
            Ok(entries) => entries,
            Err(errno) => return reply.error(errno),
        };
        let only_dots = offset == 0 && self.listings.begin_bare(ino);
        let mut added = false;
        for e in &*entries {
            // The kernel takes no reference on these two.
            let dots = e.is_dot();
            if only_dots && added && !dots {
                break;
            }
            let found = if dots {
                self.run("getattr", ino, |fs| fs.getattr(node(ino), None))
                    .map(|attr| (NodeId(e.ino), attr))
            } else {
                self.run("lookup", ino, |fs| fs.lookup_listed(node(ino), e))
            };
            let (id, attr) = match found {
                Ok(found) => found,
                // It was removed since it was listed.
                Err(Errno::ENOENT) => continue,
                // The kernel comes again for the rest.
                Err(_) if added => break,
                Err(errno) => return reply.error(errno),
            };
            let full = reply.add(
                INodeNo(id.0),
                e.offset,
                &e.name,
                &self.ttl,
                &file_attr(id, &attr),
                GENERATION,
            );
            added |= !full;
            if full {
                if !dots {
                    self.forget(req, INodeNo(id.0), 1);
                }
                break;
            }
        }
        reply.ok();
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
