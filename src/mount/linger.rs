//! Waiting awake for the next request of a thread that asks for one short thing after another.
//!
//! Who goes through a tree looks a file up, opens it, closes it, and so on: each time a thread of ours that sleeps has to be woken
//! to answer, which takes longer than the answer, most of all in a virtual machine, where a whole processor may have been put to
//! sleep. So while one asks so, the thread that has answered looks for the next request for a moment before it sleeps, and the
//! others keep away from the device, that the kernel wakes none of them in vain. They come back as soon as a request of somebody
//! else or for many bytes is seen, or when the one that is left takes long.

use std::cell::Cell;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicU32, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};

/// Requests of one thread, one after another, before somebody waits awake for the next.
const ENOUGH: u32 = 8;
/// The same after nothing came again and again, at most.
const MOST: u32 = 1024;
/// How often nothing may come.
const IN_VAIN: u32 = 4;
/// How long somebody waits awake.
const AWAKE: Duration = Duration::from_micros(100);
/// How long the others keep away before one of them looks whether it still goes on.
const AWAY: Duration = Duration::from_millis(2);

/// Who asks, and which of the threads that answer waits awake.
pub(super) struct Linger {
    /// The device that requests come from; nobody waits before it is set.
    pub(super) device: Arc<OnceLock<OwnedFd>>,
    /// Whether there is a processor to spare.
    enabled: bool,
    begun: Instant,
    /// The thread that asked last, as the kernel names it; 0 if it does not.
    asks: AtomicU32,
    /// Its short requests so far, and the files that were closed.
    row: AtomicU32,
    /// How many are enough.
    enough: AtomicU32,
    /// How often nothing came, lately.
    in_vain: AtomicU32,
    /// The number of the thread that waits awake; 0 before there was one.
    leader: AtomicUsize,
    /// When that one last waited for nothing or for what came then, in microseconds after `begun`.
    seen: AtomicU64,
    /// How long the others keep away before one of them looks.
    look: Duration,
    away: Mutex<Away>,
    back: Condvar,
}

/// The threads that keep away.
#[derive(Default)]
struct Away {
    threads: usize,
    /// One of them looks now and then.
    watched: bool,
}

thread_local! {
    static NUMBER: Cell<usize> = const { Cell::new(0) };
}

/// A number that no other thread has.
fn number() -> usize {
    static NEXT: AtomicUsize = AtomicUsize::new(1);
    if NUMBER.get() == 0 {
        NUMBER.set(NEXT.fetch_add(1, Ordering::Relaxed));
    }
    NUMBER.get()
}

impl Linger {
    pub(super) fn new() -> Linger {
        Linger {
            device: Arc::default(),
            enabled: thread::available_parallelism().is_ok_and(|cores| cores.get() > 1),
            begun: Instant::now(),
            asks: AtomicU32::new(0),
            row: AtomicU32::new(0),
            enough: AtomicU32::new(ENOUGH),
            in_vain: AtomicU32::new(0),
            leader: AtomicUsize::new(0),
            seen: AtomicU64::new(0),
            look: AWAY,
            away: Mutex::default(),
            back: Condvar::new(),
        }
    }

    /// A request of thread `by` came.
    pub(super) fn asked(&self, by: u32) {
        if self.asks.load(Ordering::Relaxed) != by || by == 0 {
            self.asks.store(by, Ordering::Relaxed);
            self.interrupt();
        }
    }

    /// More may be under way than one thread can answer at a time.
    pub(super) fn interrupt(&self) {
        if self.row.load(Ordering::Relaxed) > 0 {
            let row = self.row.swap(0, Ordering::Relaxed);
            if row >= self.enough.load(Ordering::Relaxed) {
                // Nobody goes between looking and waiting.
                drop(lock(&self.away));
                self.back.notify_all();
            }
        }
    }

    /// Our thread has answered a short request of thread `by`, and is about to take the next one.
    pub(super) fn answered(&self, by: u32) {
        if self.asks.load(Ordering::Relaxed) == by {
            self.closed();
        }
    }

    /// Our thread has seen a file closed, whoever did it: the kernel does not say.
    pub(super) fn closed(&self) {
        let Some(device) = self.device.get().filter(|_| self.enabled) else {
            return;
        };
        let known = self.asks.load(Ordering::Relaxed) != 0;
        if !known || self.row.fetch_add(1, Ordering::Relaxed) < self.enough.load(Ordering::Relaxed)
        {
            return;
        }
        let me = number();
        if self.leader.load(Ordering::Relaxed) != me && self.goes_on() {
            return self.keep_away();
        }
        self.leader.store(me, Ordering::Relaxed);
        match wait_awake(device) {
            // There may be more than one thread can answer.
            Next::Waited => {}
            Next::Came => {
                self.in_vain.store(0, Ordering::Relaxed);
                self.enough.store(ENOUGH, Ordering::Relaxed);
                self.seen.store(self.now(), Ordering::Relaxed);
            }
            Next::None => {
                self.seen.store(self.now(), Ordering::Relaxed);
                self.waited_in_vain();
            }
            Next::Late => self.waited_in_vain(),
        }
    }

    /// Again and again, it takes more requests before it is done again.
    fn waited_in_vain(&self) {
        if self.in_vain.fetch_add(1, Ordering::Relaxed) + 1 >= IN_VAIN {
            self.in_vain.store(0, Ordering::Relaxed);
            self.interrupt();
            let enough = self.enough.load(Ordering::Relaxed);
            self.enough.store((2 * enough).min(MOST), Ordering::Relaxed);
        }
    }

    fn now(&self) -> u64 {
        u64::try_from(self.begun.elapsed().as_micros()).unwrap_or(u64::MAX)
    }

    /// Whether one of us has lately waited awake for who still asks.
    fn goes_on(&self) -> bool {
        let ago = self.now().saturating_sub(self.seen.load(Ordering::Relaxed));
        self.leader.load(Ordering::Relaxed) != 0
            && self.row.load(Ordering::Relaxed) >= self.enough.load(Ordering::Relaxed)
            && u128::from(ago) < AWAY.as_micros()
    }

    fn keep_away(&self) {
        let mut away = lock(&self.away);
        away.threads += 1;
        while self.goes_on() {
            if std::mem::replace(&mut away.watched, true) {
                away = (self.back.wait(away)).unwrap_or_else(PoisonError::into_inner);
            } else {
                let waited = self.back.wait_timeout(away, self.look);
                away = waited.unwrap_or_else(PoisonError::into_inner).0;
                away.watched = false;
            }
        }
        away.threads -= 1;
        // One that still finds reason to keep away is to look from now on.
        self.back.notify_all();
    }
}

fn lock(away: &Mutex<Away>) -> MutexGuard<'_, Away> {
    away.lock().unwrap_or_else(PoisonError::into_inner)
}

/// How the next request came.
enum Next {
    /// It was there.
    Waited,
    /// While one of us waited for it.
    Came,
    /// Not at all.
    None,
    /// Nobody knows: somebody else had the processor.
    Late,
}

/// Waits a moment for a request; lets others run meanwhile.
fn wait_awake(device: &OwnedFd) -> Next {
    let at_once = Timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    let is_there = || poll(&mut [PollFd::new(device, PollFlags::IN)], Some(&at_once)) != Ok(0);
    if is_there() {
        return Next::Waited;
    }
    let begun = Instant::now();
    loop {
        thread::yield_now();
        let took = begun.elapsed();
        if took >= 4 * AWAKE {
            return Next::Late;
        }
        if is_there() {
            return Next::Came;
        }
        if took >= AWAKE {
            return Next::None;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::{PipeWriter, Write};

    use super::*;

    /// One whose device has nothing to read until a byte is written to the other end.
    fn linger() -> (Linger, PipeWriter) {
        let (device, kernel) = std::io::pipe().unwrap();
        let linger = Linger {
            enabled: true,
            ..Linger::new()
        };
        linger.device.set(device.into()).unwrap();
        (linger, kernel)
    }

    fn leads(linger: &Linger) -> bool {
        linger.leader.load(Ordering::Relaxed) == number()
    }

    fn request(linger: &Linger, by: u32) {
        linger.asked(by);
        linger.answered(by);
    }

    #[test]
    fn one_waits_awake_for_who_asks_again_and_again() {
        let (linger, mut kernel) = linger();
        for _ in 0..ENOUGH / 2 {
            request(&linger, 7);
            linger.closed();
        }
        assert!(!leads(&linger));
        let begun = Instant::now();
        request(&linger, 7);
        assert!(leads(&linger) && begun.elapsed() >= AWAKE, "nothing comes");
        kernel.write_all(&[1]).unwrap();
        linger.seen.store(0, Ordering::Relaxed);
        // The shortest of many: a thread may be kept from running.
        let took = (0..100).map(|_| {
            let begun = Instant::now();
            request(&linger, 7);
            begun.elapsed()
        });
        assert!(took.min().unwrap() < AWAKE, "something comes");
    }

    #[test]
    fn nobody_waits_for_several_or_for_who_is_not_known() {
        let (linger, _kernel) = linger();
        for by in (1..50).chain([0; 50]) {
            request(&linger, by);
            linger.closed();
        }
        (0..50).for_each(|_| linger.closed());
        (0..50).for_each(|i| request(&linger, 7 + i % 2));
        for _ in 0..50 {
            request(&linger, 7);
            linger.interrupt();
        }
        assert!(!leads(&linger));
        let single = Linger {
            enabled: false,
            ..linger
        };
        (0..50).for_each(|_| request(&single, 7));
        assert!(!leads(&single));
    }

    #[test]
    fn who_asks_now_and_then_is_waited_for_less_and_less() {
        let (linger, mut kernel) = linger();
        let waits = || {
            let mut waits = 0;
            for _ in 0..10_000 {
                let begun = Instant::now();
                request(&linger, 7);
                waits += u32::from(begun.elapsed() >= AWAKE);
            }
            waits
        };
        let first = waits();
        assert!((4..1000).contains(&first), "{first}");
        assert_eq!(linger.enough.load(Ordering::Relaxed), MOST);
        // What comes while one waits.
        linger.row.store(MOST, Ordering::Relaxed);
        thread::scope(|scope| {
            let answering = scope.spawn(|| {
                while linger.enough.load(Ordering::Relaxed) > ENOUGH {
                    linger.row.store(MOST, Ordering::Relaxed);
                    request(&linger, 7);
                }
            });
            let mut byte = [0];
            while !answering.is_finished() {
                kernel.write_all(&[1]).unwrap();
                // On one core the other one sees it only now.
                thread::sleep(Duration::from_micros(50));
                let device = linger.device.get().unwrap();
                rustix::io::read(device, &mut byte).unwrap();
                thread::sleep(Duration::from_micros(50));
            }
        });
    }

    /// So many threads keep away, while another one is said to wait awake that was last seen at a time.
    fn keep_away(linger: &Linger, threads: usize, seen: u64, and: impl FnOnce()) {
        linger.asked(7);
        linger.row.store(ENOUGH, Ordering::Relaxed);
        linger.seen.store(seen, Ordering::Relaxed);
        linger.leader.store(usize::MAX, Ordering::Relaxed);
        thread::scope(|scope| {
            for _ in 0..threads {
                scope.spawn(|| linger.answered(7));
            }
            let begun = Instant::now();
            while lock(&linger.away).threads < threads {
                assert!(begun.elapsed() < Duration::from_secs(60));
                thread::yield_now();
            }
            and();
        });
        assert_eq!(lock(&linger.away).threads, 0);
    }

    #[test]
    fn others_keep_away_until_somebody_else_asks() {
        let (mut linger, _kernel) = linger();
        linger.look = Duration::from_secs(90);
        let begun = Instant::now();
        keep_away(&linger, 3, u64::MAX, || linger.asked(8));
        keep_away(&linger, 3, u64::MAX, || linger.interrupt());
        assert!(begun.elapsed() < linger.look, "nobody told them");
    }

    #[test]
    fn others_come_back_when_the_one_takes_long() {
        let (linger, _kernel) = linger();
        keep_away(&linger, 3, u64::MAX, || {
            // They look, and find that it goes on.
            thread::sleep(5 * AWAY);
            assert_eq!(lock(&linger.away).threads, 3);
            linger.seen.store(0, Ordering::Relaxed);
        });
        linger.row.store(ENOUGH, Ordering::Relaxed);
        request(&linger, 7);
        assert!(leads(&linger), "one takes the place of the one");
    }
}
