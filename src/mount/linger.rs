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
    /// Its requests so far.
    row: AtomicU32,
    /// How many are enough.
    enough: AtomicU32,
    /// How often nothing came, lately.
    in_vain: AtomicU32,
    /// The number of the thread that waits awake; 0 before there was one.
    leader: AtomicUsize,
    /// When that one last came, in microseconds after `begun`.
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
        self.seen.store(self.now(), Ordering::Relaxed);
        if wait_awake(device) {
            self.in_vain.store(0, Ordering::Relaxed);
            self.enough.store(ENOUGH, Ordering::Relaxed);
        } else if self.in_vain.fetch_add(1, Ordering::Relaxed) + 1 >= IN_VAIN {
            // It asks now and then only.
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

/// Whether there is a request within a moment; it lets others run meanwhile.
fn wait_awake(device: &OwnedFd) -> bool {
    let begun = Instant::now();
    let at_once = Timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    while begun.elapsed() < AWAKE {
        if poll(&mut [PollFd::new(device, PollFlags::IN)], Some(&at_once)) != Ok(0) {
            return true;
        }
        thread::yield_now();
    }
    false
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
            ..Linger::new()
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
        kernel.write_all(&[1]).unwrap();
        waits();
        assert_eq!(linger.enough.load(Ordering::Relaxed), ENOUGH);
    }

    /// So many threads keep away, as one waits awake.
    fn keep_away(linger: &Linger, threads: usize, and: impl FnOnce()) {
        linger.asked(7);
        linger.row.store(ENOUGH, Ordering::Relaxed);
        linger.seen.store(linger.now(), Ordering::Relaxed);
        linger.leader.store(usize::MAX, Ordering::Relaxed);
        thread::scope(|scope| {
            for _ in 0..threads {
                scope.spawn(|| linger.answered(7));
            }
            and();
        });
        assert_eq!(lock(&linger.away).threads, 0);
    }

    #[test]
    fn others_keep_away_until_somebody_else_asks() {
        let (mut linger, _kernel) = linger();
        linger.look = Duration::from_secs(3600);
        let linger = &linger;
        let all = || {
            // As if the one waited awake again and again.
            linger.seen.store(u64::MAX, Ordering::Relaxed);
            let begun = Instant::now();
            while lock(&linger.away).threads < 3 {
                assert!(begun.elapsed() < Duration::from_secs(60));
                thread::yield_now();
            }
        };
        let back = || {
            let begun = Instant::now();
            while lock(&linger.away).threads > 0 && begun.elapsed() < Duration::from_secs(60) {
                thread::yield_now();
            }
            lock(&linger.away).threads == 0
        };
        linger.seen.store(u64::MAX, Ordering::Relaxed);
        keep_away(linger, 3, || {
            all();
            linger.asked(8);
            assert!(back(), "nobody told them");
        });
        keep_away(linger, 3, || {
            all();
            linger.interrupt();
            assert!(back(), "nobody told them");
        });
    }

    #[test]
    fn others_come_back_when_the_one_takes_long() {
        let (linger, _kernel) = linger();
        keep_away(&linger, 3, || ());
        request(&linger, 7);
        assert!(leads(&linger), "one takes the place of the one");
    }
}
