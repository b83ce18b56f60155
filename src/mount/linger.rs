//! Waiting awake for the next request of somebody who asks for one short thing after another.
//!
//! Who goes through a tree looks a file up, opens it, closes it, and so on: each time a thread that sleeps has to be woken to
//! answer, which takes longer than the answer, most of all in a virtual machine, where a whole processor may have been put to
//! sleep. So while one process asks so, the thread that has answered looks for the next request for a moment before it sleeps,
//! and the others keep away from the device, that the kernel wakes none of them in vain. They come back as soon as somebody else
//! asks for something, or when the one that is left takes long.

use std::cell::Cell;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicU32, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, OnceLock, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};

/// Requests of one process, one after another, before somebody waits awake for the next.
const ENOUGH: u32 = 8;
/// How long somebody does.
const AWAKE: Duration = Duration::from_micros(100);
/// How long the others keep away before they look whether it still goes on.
const AWAY: Duration = Duration::from_millis(2);

/// Who asks, and which of the threads that answer waits awake.
pub(super) struct Linger {
    /// The device that requests come from; nobody waits before it is set.
    pub(super) device: Arc<OnceLock<OwnedFd>>,
    /// Whether there is a processor to spare.
    enabled: bool,
    begun: Instant,
    asks: AtomicU32,
    /// Its requests so far.
    row: AtomicU32,
    /// The number of the thread that waits awake.
    leader: AtomicUsize,
    /// When that one last came, in microseconds after `begun`.
    seen: AtomicU64,
    away: Mutex<usize>,
    back: Condvar,
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
            leader: AtomicUsize::new(0),
            seen: AtomicU64::new(0),
            away: Mutex::new(0),
            back: Condvar::new(),
        }
    }

    /// A thread has answered a short request of process `pid`, 0 if it is not known, and is about to take the next one.
    pub(super) fn answered(&self, pid: u32) {
        let Some(device) = self.device.get().filter(|_| self.enabled) else {
            return;
        };
        if pid == 0 || self.asks.swap(pid, Ordering::Relaxed) != pid {
            if self.row.swap(0, Ordering::Relaxed) >= ENOUGH {
                self.call_back();
            }
            return;
        }
        self.answered_more(device);
    }

    /// A thread has seen a file closed, whoever did it: the kernel does not say.
    pub(super) fn closed(&self) {
        if let Some(device) = self.device.get().filter(|_| self.enabled) {
            self.answered_more(device);
        }
    }

    fn answered_more(&self, device: &OwnedFd) {
        if self.row.fetch_add(1, Ordering::Relaxed) < ENOUGH {
            return;
        }
        let (me, leader) = (number(), self.leader.load(Ordering::Relaxed));
        if leader != me && self.goes_on() {
            return self.keep_away();
        }
        self.leader.store(me, Ordering::Relaxed);
        self.seen.store(self.now(), Ordering::Relaxed);
        wait_awake(device);
    }

    fn now(&self) -> u64 {
        u64::try_from(self.begun.elapsed().as_micros()).unwrap_or(u64::MAX)
    }

    /// Whether a thread has lately waited awake for the process that still asks.
    fn goes_on(&self) -> bool {
        let ago = self.now().saturating_sub(self.seen.load(Ordering::Relaxed));
        self.row.load(Ordering::Relaxed) >= ENOUGH && u128::from(ago) < AWAY.as_micros()
    }

    fn keep_away(&self) {
        let mut away = self.away.lock().unwrap_or_else(PoisonError::into_inner);
        *away += 1;
        while self.goes_on() {
            let waited = self.back.wait_timeout(away, AWAY);
            away = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
        *away -= 1;
    }

    fn call_back(&self) {
        if *self.away.lock().unwrap_or_else(PoisonError::into_inner) > 0 {
            self.back.notify_all();
        }
    }
}

/// Returns when there is a request, and not much later if there is none. Who has something to do goes first.
fn wait_awake(device: &OwnedFd) {
    let begun = Instant::now();
    let at_once = Timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    while begun.elapsed() < AWAKE {
        if poll(&mut [PollFd::new(device, PollFlags::IN)], Some(&at_once)) != Ok(0) {
            return;
        }
        thread::yield_now();
    }
}

#[cfg(test)]
mod tests {
    use std::io::{PipeWriter, Write};
    use std::sync::atomic::AtomicBool;

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

    #[test]
    fn one_waits_awake_for_who_asks_again_and_again() {
        let (linger, mut kernel) = linger();
        for _ in 0..ENOUGH {
            linger.answered(7);
            linger.closed();
        }
        assert!(leads(&linger));
        let begun = Instant::now();
        linger.answered(7);
        assert!(begun.elapsed() >= AWAKE, "there is nothing");
        kernel.write_all(&[1]).unwrap();
        // The shortest of many: a thread may be kept from running.
        let took = (0..100).map(|_| {
            let begun = Instant::now();
            linger.answered(7);
            begun.elapsed()
        });
        assert!(took.min().unwrap() < AWAKE, "there is something");
    }

    #[test]
    fn nobody_waits_for_several_or_for_who_is_not_known() {
        let (linger, _kernel) = linger();
        for pid in (1..50).chain([0; 50]) {
            linger.answered(pid);
        }
        assert!(!leads(&linger));
        let single = Linger {
            enabled: false,
            ..Linger::new()
        };
        (0..50).for_each(|_| single.answered(7));
        assert!(!leads(&single) && !leads(&Linger::new()));
    }

    #[test]
    fn others_keep_away_until_somebody_else_asks() {
        let (linger, _kernel) = linger();
        let away = || *linger.away.lock().unwrap();
        let done = AtomicBool::new(false);
        let answer = || {
            while !done.load(Ordering::Relaxed) {
                linger.answered(7);
            }
        };
        thread::scope(|scope| {
            scope.spawn(answer);
            scope.spawn(answer);
            let begun = Instant::now();
            while away() == 0 {
                assert!(begun.elapsed() < Duration::from_secs(60), "both wait awake");
                thread::yield_now();
            }
            done.store(true, Ordering::Relaxed);
            linger.answered(8);
        });
        assert_eq!(away(), 0);
        assert!(!linger.goes_on());
    }

    #[test]
    fn others_come_back_when_the_one_takes_long() {
        let (linger, _kernel) = linger();
        (0..2 * ENOUGH).for_each(|_| linger.answered(7));
        thread::scope(|scope| {
            let other = scope.spawn(|| {
                linger.answered(7);
                linger.answered(7);
                leads(&linger)
            });
            assert!(other.join().unwrap(), "it takes the place of the one");
        });
    }
}
