//! Read-ahead: decodes blocks that will be wanted next on threads of their own, so that a sequential reader has all cores, and has
//! the disk fetch the files that come after those that were opened (`super::course`).
//!
//! What is decoded ahead goes through the cache like any read: a reader that comes meanwhile waits for it, one that comes first
//! decodes it itself. Nobody waits for what is only planned; what does not fit the queue is not read ahead.

use std::collections::VecDeque;
use std::sync::{Arc, Weak};
use std::time::Duration;

use super::Fs;
use super::content::Piece;
use super::course::{Course, MOST_NAMES, PLACES, Places, Step};
use super::depth::Depth;
use super::read::{Caching, Source};
use super::sync::lock;
use crate::codec::CodecId;
use crate::segment::BlockEntry;
use crate::sync::{Condvar, Mutex, PoisonError, thread};

/// How long a thread waits for work before it ends and gives its memory back.
const IDLE: Duration = Duration::from_secs(10);
/// Names of all directories that are followed, at most.
const MOST_KNOWN: usize = 2 * MOST_NAMES;

/// Threads that decode ahead, and what they are to decode.
#[derive(Default)]
pub(super) struct ReadAhead {
    pub(super) places: Places,
    shared: Arc<Shared>,
}

#[derive(Default)]
struct Shared {
    state: Mutex<State>,
    wake: Condvar,
}

#[derive(Default)]
struct State {
    jobs: VecDeque<Job>,
    courses: Vec<Course>,
    /// Somebody is at a step.
    following: bool,
    threads: usize,
    idle: usize,
    stop: bool,
}

enum Job {
    Decode(Block),
    Follow(Step),
}

/// One block to decode.
struct Block {
    source: Arc<Source>,
    block: u64,
    entry: BlockEntry,
}

impl Block {
    fn is_in(&self, job: &Job) -> bool {
        let key = |block: &Block| (block.source.instance, block.entry.offset);
        matches!(job, Job::Decode(other) if key(self) == key(other))
    }
}

impl ReadAhead {
    /// Ends all threads once they have decoded what they are at.
    pub(super) fn stop(&self) {
        let mut state = lock(&self.shared.state);
        state.stop = true;
        state.jobs.clear();
        self.shared.wake.notify_all();
    }

    /// Whether it was told to stop.
    pub(super) fn is_stopped(&self) -> bool {
        lock(&self.shared.state).stop
    }

    /// After [`ReadAhead::stop`]: waits until they have ended and none holds the file system any more.
    pub(super) fn wait(&self) {
        let mut state = lock(&self.shared.state);
        while state.threads > 0 {
            state = (self.shared.wake.wait(state)).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Hands blocks over; starts threads, at most `threads`, if all are busy.
    fn submit(&self, fs: &Weak<Fs>, blocks: impl Iterator<Item = Block>, threads: usize) {
        let mut state = lock(&self.shared.state);
        for block in blocks {
            // What nobody wants in the end should not have cost much.
            let most = match block.entry.codec {
                CodecId::Neural => 2 * threads,
                _ => 16 * threads,
            };
            if state.jobs.len() >= most {
                break;
            }
            if !state.jobs.iter().any(|queued| block.is_in(queued)) {
                state.jobs.push_back(Job::Decode(block));
                self.wake(fs, &mut state, threads);
            }
        }
    }

    /// Hands a step over, to be taken next: it takes a moment only. While another one is taken this one is left out.
    pub(super) fn follow(&self, fs: &Weak<Fs>, step: Step, threads: usize) {
        let mut state = lock(&self.shared.state);
        if !std::mem::replace(&mut state.following, true) {
            state.jobs.push_front(Job::Follow(step));
            self.wake(fs, &mut state, threads);
        }
    }

    /// Whether a step is being taken, so that another one would be left out.
    #[cfg(test)]
    pub(super) fn is_following(&self) -> bool {
        lock(&self.shared.state).following
    }

    /// Sees to it that somebody takes the job that was just put into the queue.
    fn wake(&self, fs: &Weak<Fs>, state: &mut State, threads: usize) {
        if state.stop {
            state.jobs.clear();
            state.following = false;
        } else if state.idle >= state.jobs.len() {
            self.shared.wake.notify_one();
        } else if state.threads < threads {
            let (fs, shared) = (fs.clone(), Arc::clone(&self.shared));
            let spawned = thread::Builder::new()
                .name("read-ahead".into())
                .spawn(move || run(&fs, &shared));
            match spawned {
                Ok(_) => state.threads += 1,
                // Readers then decode themselves.
                Err(error) => log::warn!("no thread to read ahead with: {error}"),
            }
        }
    }
}

/// Takes jobs until there have been none for a while. Holds no reference to the file system while it waits.
fn run(fs: &Weak<Fs>, shared: &Shared) {
    let _ending = Ending(shared);
    while let Some(job) = shared.next() {
        let Some(fs) = fs.upgrade() else { break };
        match job {
            // To wait for another one would leave a core idle.
            Job::Decode(block) if fs.has_or_decodes(&block.source, &block.entry) => {}
            Job::Decode(block) => {
                // An error is told to the one who reads the block.
                let _ = fs.decoded(&block.source, block.block, &block.entry, Caching::Keep);
            }
            Job::Follow(step) => {
                let known = shared.take_course(&step);
                let course = fs.fetch_after(&step, known);
                shared.keep_course(course);
            }
        }
    }
}

/// Counts a thread off, also after a panic.
struct Ending<'a>(&'a Shared);

impl Drop for Ending<'_> {
    fn drop(&mut self) {
        let mut state = lock(&self.0.state);
        state.threads -= 1;
        // It may have been at a step.
        state.following &= !std::thread::panicking();
        if state.threads == 0 {
            // What came while the last one was about to end: nobody would take it.
            state.jobs.clear();
            state.following = false;
            state.courses = Vec::new();
        }
        self.0.wake.notify_all();
    }
}

impl Shared {
    /// The directory of a step; if it is not known, how the last one was read.
    fn take_course(&self, step: &Step) -> Result<Course, Depth> {
        let courses = &mut lock(&self.state).courses;
        match courses.iter().position(|c| c.dir == step.dir) {
            Some(at) => Ok(courses.remove(at)),
            None => Err(courses
                .first()
                .map(|c| Depth::like(&c.depth))
                .unwrap_or_default()),
        }
    }

    /// The step was taken.
    fn keep_course(&self, course: Option<Course>) {
        let mut state = lock(&self.state);
        state.following = false;
        if let Some(course) = course {
            state.courses.insert(0, course);
            state.courses.truncate(PLACES);
            let mut known = 0;
            state.courses.retain(|course| {
                known += course.len();
                known <= MOST_KNOWN
            });
        }
    }

    fn next(&self) -> Option<Job> {
        let mut state = lock(&self.state);
        loop {
            if state.stop {
                return None;
            }
            if let Some(job) = state.jobs.pop_front() {
                return Some(job);
            }
            state.idle += 1;
            let (guard, waited) = self
                .wake
                .wait_timeout(state, IDLE)
                .unwrap_or_else(PoisonError::into_inner);
            state = guard;
            state.idle -= 1;
            if waited.timed_out() && state.jobs.is_empty() {
                return None;
            }
        }
    }
}

impl Fs {
    /// Decodes ahead what a reader needs after the first of `pieces`, and then the neural blocks of `next`, what follows them: the
    /// kernel asks for the rest early enough by itself.
    pub(super) fn read_ahead(&self, source: &Arc<Source>, pieces: &[Piece], next: &[Piece]) {
        let stored = |piece: &Piece| matches!(piece, Piece::Stored { .. });
        let later = match pieces.iter().position(stored) {
            Some(first) => &pieces[first + 1..],
            None => &[],
        };
        let slow = |piece: &&Piece| matches!(piece, Piece::Stored { entry, .. } if entry.codec == CodecId::Neural);
        // The reader decodes, too, and more threads than cores take each other's caches where a decoder needs much memory.
        let mut threads = self.options.jobs;
        if pieces.iter().any(|piece| slow(&piece)) {
            threads = threads.saturating_sub(1);
        }
        let wanted = later.iter().chain(next.iter().filter(slow));
        let blocks = wanted.filter_map(|piece| match piece {
            Piece::Stored { block, entry, .. }
                if entry.codec != CodecId::Raw && !self.has_or_decodes(source, entry) =>
            {
                Some(Block {
                    source: Arc::clone(source),
                    block: *block,
                    entry: *entry,
                })
            }
            _ => None,
        });
        let mut blocks = blocks.peekable();
        if blocks.peek().is_some() {
            expect(source, pieces);
            self.readahead.submit(&self.this, blocks, threads);
        }
    }

    /// Decodes those of the pieces that nobody else does, before anybody waits for the others. Before each it gives the threads that
    /// decode ahead more to do: they take no more than a little at a time.
    pub(super) fn decode_unclaimed(&self, source: &Arc<Source>, pieces: &[Piece], next: &[Piece]) {
        for (at, piece) in pieces.iter().enumerate() {
            if let Piece::Stored { block, entry, .. } = piece
                && entry.codec == CodecId::Neural
                && !self.has_or_decodes(source, entry)
            {
                self.read_ahead(source, &pieces[at..], next);
                // An error is told by who puts the pieces together.
                let _ = self.decoded(source, *block, entry, Caching::Keep);
            }
        }
    }
}

/// Lets the disk fetch the payloads of all pieces at once, where they lie close together.
fn expect(source: &Source, pieces: &[Piece]) {
    let (mut from, mut to, mut sum) = (u64::MAX, 0, 0);
    for piece in pieces {
        if let Piece::Stored { entry, .. } = piece {
            from = from.min(entry.range().start);
            to = to.max(entry.range().end);
            sum += u64::from(entry.len);
        }
    }
    let len = to.saturating_sub(from);
    if len > 0 && len <= 2 * sum {
        source.storage.will_need(from, len);
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Caller, FsOptions, NodeId};
    use super::*;
    use crate::store::{Access, Archive};

    #[test]
    fn a_step_that_came_as_the_last_thread_ended_is_in_nobodys_way() {
        let ahead = ReadAhead::default();
        let step = || Step::of("a", "b");
        // One thread, about to end: it is counted, but takes no more jobs.
        lock(&ahead.shared.state).threads = 1;
        ahead.follow(&Weak::new(), step(), 1);
        drop(Ending(&ahead.shared));
        {
            let state = lock(&ahead.shared.state);
            assert!(state.jobs.is_empty() && !state.following && state.threads == 0);
        }
        // The next one has a thread, which finds no file system and ends.
        ahead.follow(&Weak::new(), step(), 1);
        ahead.wait();
        assert!(!lock(&ahead.shared.state).following);
    }

    #[test]
    fn one_step_is_taken_at_a_time_and_none_after_the_end() {
        let ahead = ReadAhead::default();
        lock(&ahead.shared.state).threads = 1;
        for _ in 0..3 {
            ahead.follow(&Weak::new(), Step::of("a", "b"), 1);
        }
        assert_eq!(lock(&ahead.shared.state).jobs.len(), 1);
        ahead.shared.keep_course(None);
        ahead.stop();
        ahead.follow(&Weak::new(), Step::of("b", "c"), 1);
        assert!(lock(&ahead.shared.state).jobs.is_empty());
    }

    #[test]
    fn directories_are_kept_as_long_as_their_names_are_not_too_many() {
        let shared = Shared::default();
        let kept = |sizes: &[usize]| {
            for (dir, &size) in sizes.iter().enumerate() {
                let course = Course::with_names(NodeId(dir as u64), size);
                shared.keep_course(Some(course));
            }
            let courses = std::mem::take(&mut lock(&shared.state).courses);
            courses.iter().map(Course::len).collect::<Vec<_>>()
        };
        assert_eq!(kept(&[1, 2, 3, 4, 5, 6]), [6, 5, 4, 3]);
        let most = MOST_NAMES;
        assert_eq!(kept(&[9, most, most]), [most, most]);
        assert_eq!(kept(&[9, most, most, 1]), [1, most]);
    }

    #[test]
    fn what_was_written_is_stored_before_anybody_waits_for_what_is_read_ahead() {
        let dir = tempfile::tempdir().unwrap();
        Archive::init(dir.path()).unwrap();
        let archive = Archive::open(dir.path(), Access::Write).unwrap();
        let hour = Duration::from_secs(3600);
        let options = FsOptions {
            commit_after: hour,
            commit_closed_after: hour,
            ..FsOptions::default()
        };
        let fs = Fs::new(archive, options).unwrap();
        let me = Caller {
            uid: rustix::process::geteuid().as_raw(),
            gid: rustix::process::getegid().as_raw(),
            umask: 0,
        };
        let (_, _, fh) = fs.create(NodeId::ROOT, "a".as_ref(), 0o600, 2, me).unwrap();
        fs.write(fh, 0, b"written").unwrap();
        // One thread that the disk keeps waiting.
        lock(&fs.readahead.shared.state).threads = 1;
        let ending = {
            let fs = Arc::clone(&fs);
            std::thread::spawn(move || fs.shutdown())
        };
        let begun = std::time::Instant::now();
        while fs.stats().dirty_bytes > 0 || fs.stats().dirty_files > 0 {
            assert!(begun.elapsed() < Duration::from_secs(60), "it waits");
            std::thread::sleep(Duration::from_millis(5));
        }
        std::thread::sleep(Duration::from_millis(100));
        assert!(!ending.is_finished(), "it waits for the thread");
        drop(Ending(&fs.readahead.shared));
        ending.join().unwrap().unwrap();
    }
}
