//! From file to file: who opens the files of a directory one after another finds the beginnings of the next ones fetched.
//!
//! Programs go through a directory as it is listed (`grep -r`, `cp -r`, `tar`) or by name (a shell's `*`). Of a small file they
//! wait for little but the disk, once for its inode and again for its bytes, and the kernel reads ahead within files only.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::fs::{Dir, FileType, OFlags};

use super::Fs;
use super::attr::Kind;
use super::backing::Backing;
use super::depth::Depth;
use super::namespace::backing_name;
use super::node::{Node, NodeId};
use super::sync::lock;
use crate::segment::Storage;
use crate::store::names;
use crate::sync::Mutex;

/// Files that are fetched before they are opened, at most.
const FILES: usize = 16;
/// Bytes that are fetched after a step: with the file that brings them to so many it ends.
const BYTES: u64 = 16 << 20;
/// Files that are opened at least before another look is taken at where a reader goes: first, and after many looks that showed nothing.
const REST: [usize; 2] = [2, 64];
/// Files that a reader may leave out and still be on its way.
const SKIPPED: usize = 4;
/// Directories that are gone through at a time.
pub(super) const PLACES: usize = 4;
/// Names in a directory, at most; of one with more nothing is fetched.
pub(super) const MOST_NAMES: usize = 1 << 15;
/// How old a listing is at least that is made again because a name is not in it.
const OLD: Duration = Duration::from_secs(5);

/// A few directories and what was opened last in each.
#[derive(Default)]
pub(super) struct Places(Mutex<Vec<Place>>);

struct Place {
    dir: NodeId,
    name: OsString,
    /// Files that may be opened before anything has to be done.
    rest: usize,
    /// Files to rest for after a step that leads nowhere.
    patience: usize,
}

/// Two files of a directory that were opened one after the other.
pub(super) struct Step {
    pub(super) dir: NodeId,
    before: OsString,
    name: OsString,
}

impl Places {
    /// Notes that a file was opened.
    fn step_to(&self, dir: NodeId, name: OsString) -> Option<Step> {
        let mut places = lock(&self.0);
        let Some(at) = places.iter().position(|place| place.dir == dir) else {
            let (rest, patience) = (0, REST[0]);
            places.insert(
                0,
                Place {
                    dir,
                    name,
                    rest,
                    patience,
                },
            );
            places.truncate(PLACES);
            return None;
        };
        places.get_mut(..=at)?.rotate_right(1);
        let place = places.first_mut()?;
        if place.name == name {
            return None;
        }
        let before = std::mem::replace(&mut place.name, name.clone());
        if place.rest > 0 {
            place.rest -= 1;
            return None;
        }
        Some(Step { dir, before, name })
    }

    /// A step was taken: how many files may be opened before the next one is of interest. The disk takes some together better than
    /// each by itself, and who jumps about is not to make work each time.
    fn took(&self, dir: NodeId, lead: &Lead) {
        let mut places = lock(&self.0);
        let Some(place) = places.iter_mut().find(|place| place.dir == dir) else {
            return;
        };
        match lead {
            Lead::To(files) => {
                place.rest = files.len().div_ceil(2).max(REST[0]);
                place.patience = REST[0];
            }
            Lead::Astray | Lead::Unknown => {
                place.rest = place.patience;
                place.patience = (2 * place.rest).min(REST[1]);
            }
            Lead::TooMany => place.rest = MOST_NAMES,
        }
    }
}

/// A directory that is gone through: the two orders of its files, and how far each was followed.
pub(super) struct Course {
    pub(super) dir: NodeId,
    listed: Instant,
    too_many: bool,
    /// In the order of the listing.
    files: Vec<(OsString, names::Kind)>,
    /// Places in `files`, by name.
    by_name: Vec<u32>,
    /// Where to go on, by name and by listing.
    next: [usize; 2],
    /// The order that the last step was one in, and where in it.
    order: usize,
    at: usize,
    pub(super) depth: Depth,
}

/// Where a step leads.
#[derive(Debug, PartialEq, Eq)]
enum Lead {
    /// It has too many files.
    TooMany,
    /// Its files are not in the listing.
    Unknown,
    /// It is none in either order.
    Astray,
    /// To these files, as far as they were not fetched before.
    To(Vec<(OsString, names::Kind)>),
}

impl Course {
    /// `files` are in the order of the listing; `None` if there are too many.
    fn new(dir: NodeId, files: Option<Vec<(OsString, names::Kind)>>) -> Course {
        let too_many = files.is_none();
        let files = files.unwrap_or_default();
        let mut by_name: Vec<u32> = (0..files.len() as u32).collect();
        by_name.sort_by_key(|at| files.get(*at as usize).map(|(name, _)| name));
        Course {
            dir,
            listed: Instant::now(),
            too_many,
            files,
            by_name,
            next: [0; 2],
            order: 0,
            at: 0,
            depth: Depth::default(),
        }
    }

    fn is_old(&self) -> bool {
        !self.too_many && self.listed.elapsed() >= OLD
    }

    /// Its places by name and in the listing.
    fn places(&self, name: &OsStr) -> Option<[usize; 2]> {
        let name_at = |at: &u32| {
            self.files
                .get(*at as usize)
                .map(|(name, _)| name.as_os_str())
        };
        let by_name = self
            .by_name
            .binary_search_by(|at| name_at(at).cmp(&Some(name)));
        let by_name = by_name.ok()?;
        Some([by_name, *self.by_name.get(by_name)? as usize])
    }

    /// The files to fetch after a step.
    fn after(&mut self, step: &Step) -> Lead {
        if self.too_many {
            return Lead::TooMany;
        }
        let (Some(from), Some(to)) = (self.places(&step.before), self.places(&step.name)) else {
            return Lead::Unknown;
        };
        for (order, next) in self.next.iter_mut().enumerate() {
            let (from, at) = (from[order], to[order]);
            if !(from + 1..=from + 1 + SKIPPED).contains(&at) {
                continue;
            }
            let (first, end) = (at + 1, (at + 1 + FILES).min(self.files.len()));
            if !(first..=end).contains(next) {
                *next = first;
            }
            let wanted = (*next..end).filter_map(|place| {
                let at = match order {
                    0 => *self.by_name.get(place)? as usize,
                    _ => place,
                };
                self.files.get(at).cloned()
            });
            let wanted = wanted.collect();
            *next = end;
            (self.order, self.at) = (order, at);
            return Lead::To(wanted);
        }
        Lead::Astray
    }

    /// So many of the files that the last step leads to are left for the next one.
    fn leave(&mut self, files: usize) {
        if let Some(next) = self.next.get_mut(self.order) {
            *next = next.saturating_sub(files);
        }
    }

    /// Whether the reader is beyond a file; `None` if it does not come by, as far as can be seen.
    fn is_beyond(&self, name: &OsStr) -> Option<bool> {
        let place = *self.places(name)?.get(self.order)?;
        let far = FILES + SKIPPED;
        let near = self.at.saturating_sub(far)..=self.at + far;
        near.contains(&place).then_some(place < self.at)
    }

    /// Names that it keeps.
    pub(super) fn len(&self) -> usize {
        self.files.len()
    }
}

impl Fs {
    /// A file was opened that nobody had read yet, or not lately: its neighbours may be wanted next.
    pub(super) fn expect_neighbours(&self, node: &Node) {
        let (dir, name) = node.place();
        if let Some(step) = self.readahead.places.step_to(dir, name) {
            self.readahead.follow(&self.this, step, self.options.jobs);
        }
    }

    /// Fetches the files that come after a step, in a directory that is known or of which a reader like `depth` is expected.
    /// Whatever fails is told to the one who opens them.
    pub(super) fn fetch_after(&self, step: &Step, known: Result<Course, Depth>) -> Option<Course> {
        let dir = self.node(step.dir).ok()?;
        let list = |depth| {
            let files = files_in(&dir).unwrap_or(Some(Vec::new()));
            Course {
                depth,
                ..Course::new(step.dir, files)
            }
        };
        let mut course = known.unwrap_or_else(list);
        let mut lead = course.after(step);
        if lead == Lead::Unknown && course.is_old() {
            course = list(course.depth);
            lead = course.after(step);
        }
        self.readahead.places.took(step.dir, &lead);
        if let Lead::To(mut files) = lead {
            look_back(&dir, &mut course);
            course.depth.order = course.order;
            let fetched = self.fetch_all(&dir, &files, &mut course.depth);
            if fetched < files.len() {
                course.leave(files.len() - fetched);
                files.truncate(fetched);
                self.readahead.places.took(step.dir, &Lead::To(files));
            }
        }
        Some(course)
    }

    /// Fetches files until it is enough; answers how many.
    fn fetch_all(
        &self,
        dir: &Arc<Node>,
        files: &[(OsString, names::Kind)],
        depth: &mut Depth,
    ) -> usize {
        let mut bytes = 0;
        for (number, (name, form)) in files.iter().enumerate() {
            if bytes >= BYTES || self.readahead.is_stopped() {
                return number;
            }
            // It may have been packed or unpacked since it was listed.
            let fetched =
                fetch(dir, name, *form, depth).or_else(|_| fetch(dir, name, form.other(), depth));
            bytes += fetched.unwrap_or(0);
        }
        files.len()
    }
}

/// Regular files as they are listed, unless there are too many. Nobody waits for it: what changes meanwhile is seen next time.
fn files_in(dir: &Node) -> super::Result<Option<Vec<(OsString, names::Kind)>>> {
    let mut files = Vec::new();
    for entry in Dir::read_from(dir.backing()?.reopen_dir()?)? {
        let entry = entry?;
        if entry.file_type() == FileType::RegularFile {
            let raw = OsStr::from_bytes(entry.file_name().to_bytes());
            files.push(names::logical_name(raw, true));
        }
        if files.len() > MOST_NAMES {
            return Ok(None);
        }
    }
    Ok(Some(files))
}

/// Sees whether the reader read a file through that it has passed.
fn look_back(dir: &Arc<Node>, course: &mut Course) {
    let Some(watched) = course.depth.watched() else {
        return;
    };
    let same = watched.order == course.order;
    match course.is_beyond(&watched.name).filter(|_| same) {
        Some(false) => {}
        Some(true) => {
            let opened = open(dir, &watched.name, watched.form).ok().flatten();
            let read_through = opened.map(|(file, _)| watched.is_read_through(file));
            course.depth.passed(read_through);
        }
        None => course.depth.passed(None),
    }
}

/// Has the disk fetch what will be wanted of a file; answers how many bytes that is.
fn fetch(
    dir: &Arc<Node>,
    name: &OsString,
    form: names::Kind,
    depth: &mut Depth,
) -> super::Result<u64> {
    let Some((file, len)) = open(dir, name, form)? else {
        return Ok(0);
    };
    let wanted = depth.of(name, form, &file, len);
    Storage::will_need(&file, 0, wanted);
    Ok(wanted)
}

/// A regular file that is not empty, and its length.
fn open(dir: &Node, name: &OsStr, form: names::Kind) -> super::Result<Option<(File, u64)>> {
    let below = dir.backing()?;
    let (file, stat) = Backing::open(below.as_fd(), &backing_name(name, form), form)?;
    // To open a device or a pipe may do something.
    if Kind::of(&stat) != Kind::File || stat.st_size <= 0 {
        return Ok(None);
    }
    let file = file.reopen(OFlags::RDONLY | OFlags::NONBLOCK)?;
    Ok(Some((file, stat.st_size.unsigned_abs())))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn course(names: &[&str]) -> Course {
        let file = |name: &&str| (name.into(), names::Kind::Segment);
        Course::new(NodeId::ROOT, Some(names.iter().map(file).collect()))
    }

    impl Course {
        /// One of so many files.
        pub(in crate::fs) fn with_names(dir: NodeId, count: usize) -> Course {
            let file = |i: usize| (i.to_string().into(), names::Kind::Segment);
            Course::new(dir, Some((0..count).map(file).collect()))
        }
    }

    impl Step {
        pub(in crate::fs) fn of(before: &str, name: &str) -> Step {
            Step {
                dir: NodeId::ROOT,
                before: before.into(),
                name: name.into(),
            }
        }
    }

    /// The files that a step leads to; none if it leads nowhere.
    fn after(course: &mut Course, before: &str, name: &str) -> Option<Vec<String>> {
        let names = |(name, _): (OsString, _)| name.into_string().unwrap();
        match course.after(&Step::of(before, name)) {
            Lead::To(files) => Some(files.into_iter().map(names).collect()),
            _ => None,
        }
    }

    #[test]
    fn either_order_is_followed_and_nothing_else() {
        let names = ["d", "b", "f", "a", "e", "c"];
        assert_eq!(
            after(&mut course(&names), "a", "b").unwrap(),
            ["c", "d", "e", "f"]
        );
        assert_eq!(
            after(&mut course(&names), "d", "b").unwrap(),
            ["f", "a", "e", "c"]
        );
        assert_eq!(
            after(&mut course(&names), "b", "d").unwrap(),
            ["e", "f"],
            "one left out"
        );
        let lead = |names: &[&str], before, name| course(names).after(&Step::of(before, name));
        assert_eq!(lead(&names, "f", "d"), Lead::Astray, "backwards");
        assert_eq!(lead(&names, "a", "a"), Lead::Astray);
        assert_eq!(lead(&names, "a", "x"), Lead::Unknown);
        assert_eq!(lead(&[], "a", "b"), Lead::Unknown);
    }

    #[test]
    fn who_jumps_about_is_looked_at_less_and_less_until_it_goes_straight() {
        let names = ["a", "b", "c", "d", "e", "f", "g", "h", "i", "j", "k", "l"];
        let places = Places::default();
        assert!(places.step_to(NodeId::ROOT, "h".into()).is_none());
        let rest = |before: &str, name: &str| {
            // Another listing makes no difference.
            let lead = course(&names).after(&Step::of(before, name));
            places.took(NodeId::ROOT, &lead);
            lock(&places.0)[0].rest
        };
        let rests: Vec<usize> = (0..7).map(|_| rest("h", "b")).collect();
        assert_eq!(rests, [2, 4, 8, 16, 32, 64, 64]);
        assert_eq!(rest("a", "b"), 5, "half of the ten that come after");
        assert_eq!(rest("h", "b"), 2);
        let lead = Course::new(NodeId::ROOT, None).after(&Step::of("a", "b"));
        assert_eq!(lead, Lead::TooMany);
        places.took(NodeId::ROOT, &lead);
        assert_eq!(lock(&places.0)[0].rest, MOST_NAMES);
    }

    #[test]
    fn each_file_is_fetched_once_in_a_pass_and_again_in_the_next() {
        let names: Vec<String> = (0..100).map(|i| format!("{i:02}")).collect();
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        let mut course = course(&names);
        for _ in 0..2 {
            let mut fetched = Vec::new();
            for pair in names.windows(2) {
                let more = after(&mut course, pair[0], pair[1]).unwrap();
                assert!(more.len() <= FILES);
                fetched.extend(more);
                let opened: usize = pair[1].parse().unwrap();
                assert!(
                    fetched.len() + 2 >= (opened + FILES / 2).min(100),
                    "{opened}"
                );
            }
            assert_eq!(fetched, names[2..]);
        }
    }

    #[test]
    fn what_is_too_much_for_one_step_is_left_for_the_next() {
        let names = ["a", "b", "c", "d", "e", "f"];
        let mut course = course(&names);
        assert_eq!(after(&mut course, "a", "b").unwrap(), ["c", "d", "e", "f"]);
        course.leave(3);
        assert_eq!(after(&mut course, "b", "c").unwrap(), ["d", "e", "f"]);
        let beyond = |name: &str| course.is_beyond(name.as_ref());
        let at_c = [Some(true), Some(false), Some(false), None];
        assert_eq!(["b", "c", "d", "gone"].map(beyond), at_c);
        course.at += FILES + SKIPPED;
        let beyond = |name: &str| course.is_beyond(name.as_ref());
        assert_eq!(["b", "c"].map(beyond), [None, Some(true)]);
    }

    #[test]
    fn directories_are_told_apart_and_the_oldest_is_forgotten() {
        let places = Places::default();
        let open = |dir, name: &str| places.step_to(NodeId(dir), name.into());
        assert!(open(1, "a").is_none() && open(2, "b").is_none());
        let step = open(1, "c").unwrap();
        assert_eq!((step.before, step.name), ("a".into(), "c".into()));
        assert!(open(1, "c").is_none(), "the same file again");
        assert!((3..3 + PLACES as u64).all(|dir| open(dir, "x").is_none()));
        assert!(open(1, "d").is_none());
        places.took(NodeId(1), &Lead::Astray);
        assert!(open(1, "e").is_none() && open(1, "f").is_none());
        assert_eq!(open(1, "h").unwrap().before, "f");
    }
}
