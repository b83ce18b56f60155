//! Storage that records every change, fails on demand, and shows what a crash at any moment may leave.
//!
//! The model of a crash: what was written before the last successful sync is there. Of what came after, any subset of the
//! 512-byte sectors is there, in the order of writing. If any sector of a write survived, the file's length covers it.

use std::io;
use std::sync::Mutex;

use vortex_fs::segment::{MemStorage, Storage};

use crate::support::Content;

const SECTOR: u64 = 512;

/// One thing that happened to the file, or that the test says about it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    Write {
        offset: u64,
        bytes: Vec<u8>,
    },
    Punch {
        offset: u64,
        len: u64,
    },
    Sync,
    /// A sync that failed and lost what it should have made durable.
    LostSync,
    /// From here on this content may be found.
    Attempt(Content),
    /// From here on this content must be found.
    Durable(Content),
}

/// What to fail, counted from now; 0 is the next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    Write(usize),
    Sync(usize),
}

#[derive(Default)]
pub struct Faulty {
    image: MemStorage,
    events: Mutex<Vec<Event>>,
    fault: Mutex<Option<Fault>>,
}

impl Faulty {
    pub fn events(&self) -> Vec<Event> {
        self.events.lock().unwrap().clone()
    }

    pub fn say(&self, event: Event) {
        self.events.lock().unwrap().push(event);
    }

    pub fn fail(&self, fault: Fault) {
        *self.fault.lock().unwrap() = Some(fault);
    }

    /// Whether the fault that was asked for has happened.
    pub fn failed(&self) -> bool {
        self.fault.lock().unwrap().is_none()
    }

    fn is_due(&self, count: impl Fn(&mut Fault) -> Option<&mut usize>) -> bool {
        let mut fault = self.fault.lock().unwrap();
        match fault.as_mut().and_then(count) {
            Some(0) => {
                *fault = None;
                true
            }
            Some(left) => {
                *left -= 1;
                false
            }
            None => false,
        }
    }
}

impl Storage for Faulty {
    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize> {
        // Short reads are allowed, so give them.
        let n = buf.len().min(1000);
        self.image.read_at(&mut buf[..n], offset)
    }

    fn write_all_at(&self, buf: &[u8], offset: u64) -> io::Result<()> {
        let due = self.is_due(|f| {
            if let Fault::Write(n) = f {
                Some(n)
            } else {
                None
            }
        });
        let bytes = if due { &buf[..buf.len() / 2] } else { buf };
        self.image.write_all_at(bytes, offset)?;
        self.say(Event::Write {
            offset,
            bytes: bytes.to_vec(),
        });
        if due {
            Err(io::ErrorKind::StorageFull.into())
        } else {
            Ok(())
        }
    }

    fn sync_data(&self) -> io::Result<()> {
        if self.is_due(|f| {
            if let Fault::Sync(n) = f {
                Some(n)
            } else {
                None
            }
        }) {
            self.say(Event::LostSync);
            return Err(io::Error::other("sync failed"));
        }
        self.say(Event::Sync);
        Ok(())
    }

    fn len(&self) -> io::Result<u64> {
        self.image.len()
    }

    fn punch_hole(&self, offset: u64, len: u64) -> io::Result<()> {
        self.image.punch_hole(offset, len)?;
        self.say(Event::Punch { offset, len });
        Ok(())
    }

    fn set_len(&self, _: u64) -> io::Result<()> {
        Err(io::Error::other(
            "a segment never changes the length of its file",
        ))
    }
}

/// The time between two syncs: what is surely on disk, and what may be.
pub struct Epoch {
    durable: Vec<u8>,
    unsynced: Vec<Event>,
    /// The contents that may be found after a crash in it.
    pub allowed: Vec<Content>,
}

/// Cuts the history of an empty file into epochs.
pub fn epochs(events: &[Event]) -> Vec<Epoch> {
    let mut out = Vec::new();
    let durable = MemStorage::default();
    let mut unsynced = Vec::new();
    let mut allowed = vec![Content::default()];
    for event in events.iter().chain([&Event::Sync]) {
        match event {
            Event::Sync | Event::LostSync => {
                let epoch = Epoch {
                    durable: durable.to_vec(),
                    unsynced,
                    allowed: allowed.clone(),
                };
                if *event == Event::Sync {
                    epoch
                        .unsynced
                        .iter()
                        .for_each(|e| apply(&durable, e, |_| true));
                }
                out.push(epoch);
                unsynced = Vec::new();
            }
            Event::Attempt(content) => allowed.push(content.clone()),
            Event::Durable(content) => {
                assert!(unsynced.is_empty(), "say so directly after the sync");
                allowed = vec![content.clone()];
            }
            change => unsynced.push(change.clone()),
        }
    }
    out
}

/// Applies the sectors of a change that `keep` wants, by their number within it.
fn apply(image: &MemStorage, event: &Event, keep: impl Fn(usize) -> bool) {
    match event {
        Event::Punch { offset, len } if keep(0) => image.punch_hole(*offset, *len).unwrap(),
        Event::Write { offset, bytes } => {
            let mut kept = false;
            for (index, (at, sector)) in sectors(*offset, bytes).into_iter().enumerate() {
                if keep(index) {
                    image.write_all_at(sector, at).unwrap();
                    kept = true;
                }
            }
            let end = offset + bytes.len() as u64;
            if kept && image.len().unwrap() < end {
                image.set_len(end).unwrap();
            }
        }
        _ => {}
    }
}

/// A write cut where sectors begin.
fn sectors(offset: u64, mut bytes: &[u8]) -> Vec<(u64, &[u8])> {
    let mut out = Vec::new();
    let mut at = offset;
    while !bytes.is_empty() {
        let n = bytes.len().min((SECTOR - at % SECTOR) as usize);
        let (head, rest) = bytes.split_at(n);
        out.push((at, head));
        at += n as u64;
        bytes = rest;
    }
    out
}

fn atoms(event: &Event) -> usize {
    match event {
        Event::Write { offset, bytes } => sectors(*offset, bytes).len(),
        _ => 1,
    }
}

impl Epoch {
    /// Gives `visit` what crashes in this epoch may leave: every subset of sectors if there are at most twelve; else
    /// every subset of whole changes, if those are at most twelve, and 2000 subsets of sectors taken by chance.
    pub fn crashes(&self, mut visit: impl FnMut(Vec<u8>)) {
        let total: usize = self.unsynced.iter().map(atoms).sum();
        if total <= 12 {
            (0..1u64 << total).for_each(|mask| visit(self.image(|_, atom| mask >> atom & 1 == 1)));
            return;
        }
        if self.unsynced.len() <= 12 {
            (0..1u64 << self.unsynced.len())
                .for_each(|mask| visit(self.image(|event, _| mask >> event & 1 == 1)));
        }
        let mut random = 0x9e37_79b9_7f4a_7c15u64;
        for round in 0..2000u64 {
            let dice: Vec<u64> = (0..total)
                .map(|_| {
                    random ^= random << 13;
                    random ^= random >> 7;
                    random ^= random << 17;
                    random >> 32
                })
                .collect();
            visit(self.image(|_, atom| dice[atom] % 16 < 1 + round % 15));
        }
    }

    /// Gives `visit` what is left if all changes but the last are there, and the last up to any one byte.
    pub fn torn_writes(&self, mut visit: impl FnMut(&Event, Vec<u8>)) {
        for (index, event) in self.unsynced.iter().enumerate() {
            let Event::Write { offset, bytes } = event else {
                continue;
            };
            for len in 0..bytes.len() {
                let image = MemStorage::new(self.image(|e, _| e < index));
                image.write_all_at(&bytes[..len], *offset).unwrap();
                visit(event, image.to_vec());
            }
        }
    }

    /// The durable bytes with the changes that `keep` wants, by number of the change and number of the sector.
    fn image(&self, keep: impl Fn(usize, usize) -> bool) -> Vec<u8> {
        let image = MemStorage::new(self.durable.clone());
        let mut first = 0;
        for (index, event) in self.unsynced.iter().enumerate() {
            apply(&image, event, |atom| keep(index, first + atom));
            first += atoms(event);
        }
        image.to_vec()
    }
}
