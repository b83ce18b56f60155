//! Crashes at every moment of a workload leave the content of the commit before or after, never a mix.

use std::sync::Arc;

use vortex_fs::segment::{
    Form, MemStorage, Result, SealedWriter, Segment, Severity, Storage, check,
};

use crate::faulty::{Epoch, Event, Fault, Faulty, epochs};
use crate::support::{BS, Content, content, keyed, of, put, raw, read_back};

/// One change to a segment.
type Step = fn(&mut Segment) -> Result<()>;

/// Steps with a commit after each group of them.
const SMALL: &[&[Step]] = &[
    &[|s| put(s, 0, b"first"), |s| s.set_logical_size(5)],
    &[
        |s| put(s, 0, b"again"),
        |s| put(s, 3, b"far"),
        |s| s.set_logical_size(3 * u64::from(BS) + 3),
    ],
    &[|s| s.set_logical_size(3)],
    &[|s| s.set_logical_size(9)],
    &[
        |s| s.set_entry(0, None),
        |s| put(s, 2000, b"next page"),
        |s| s.set_logical_size(2000 * u64::from(BS) + 9),
    ],
    &[|s| s.set_logical_size(0)],
    &[|s| put(s, 0, b"last"), |s| s.set_logical_size(4)],
];

/// Blocks large enough for dead ones to be given back.
const LARGE: &[&[Step]] = &[
    &[
        |s| put(s, 0, &[1; BS as usize]),
        |s| put(s, 1, &[2; BS as usize]),
        |s| s.set_logical_size(2 * u64::from(BS)),
    ],
    &[|s| put(s, 0, &[3; BS as usize])],
    &[|s| s.set_logical_size(u64::from(BS) + 1)],
    &[
        |s| put(s, 1, &[4; 99]),
        |s| s.set_logical_size(u64::from(BS) + 99),
    ],
];

/// What happens to blocks that others start from.
const KEYED: &[&[Step]] = &[
    &[|s| put(s, 0, b"first")],
    &[|s| s.set_entry(1, None), |s| put(s, 6, b"cold now")],
    &[|s| s.set_logical_size(2 * u64::from(BS) + 4)],
    &[|s| s.set_logical_size(0)],
    &[|s| put(s, 0, b"last"), |s| s.set_logical_size(4)],
];

/// Runs a workload; the history says after which sync which content must be there.
fn run(storage: &Arc<Faulty>, segment: &mut Segment, workload: &[&[Step]]) {
    for steps in workload {
        for step in *steps {
            step(segment).unwrap();
        }
        let now = content(segment).unwrap();
        storage.say(Event::Attempt(now.clone()));
        segment.prepare_commit().unwrap();
        storage.sync_data().unwrap();
        segment.finish_commit().unwrap();
        storage.sync_data().unwrap();
        storage.say(Event::Durable(now));
        segment.committed();
    }
}

/// What a crash left must open as an allowed content, and must take writes again.
fn survives(epoch: &Epoch, left: Vec<u8>, worst: Severity) -> usize {
    let storage = Arc::new(MemStorage::new(left.clone()));
    let mut segment = Segment::open_or_create(storage.clone(), BS).expect("opens after a crash");
    let found = content(&segment).expect("is whole after a crash");
    let which = epoch
        .allowed
        .iter()
        .position(|a| *a == found)
        .expect("is a state that was committed");
    let report = check(storage.clone(), |_, _, _| Ok(())).unwrap();
    assert!(
        report.worst().is_none_or(|found| found <= worst),
        "{report:?}"
    );

    let before: Vec<_> = segment
        .entries()
        .map(|e| e.unwrap())
        .filter(|(b, _)| *b != 7)
        .collect();
    segment.make_live().unwrap();
    put(&mut segment, 7, b"after the crash").unwrap();
    segment
        .set_logical_size(found.size.max(7 * u64::from(BS) + 15))
        .unwrap();
    segment.commit().unwrap();
    let again = Segment::open(storage.clone()).unwrap();
    assert_eq!(content(&again).unwrap().blocks[&7], b"after the crash");
    for (block, entry) in before {
        assert_eq!(again.entry(block).unwrap(), Some(entry));
        again
            .read_payload(&entry)
            .expect("appends after a crash overwrite nothing");
    }
    which
}

fn all_crashes_survive(events: &[Event]) {
    let (mut crashes, mut old, mut new) = (0, 0, 0);
    for epoch in epochs(events) {
        epoch.crashes(|left| {
            crashes += 1;
            match survives(&epoch, left, Severity::Note) {
                0 => old += 1,
                _ => new += 1,
            }
        });
    }
    assert!(
        old > 10 && new > 2,
        "of {crashes} crashes {old} left the old and {new} the new content"
    );
}

#[test]
fn every_crash_leaves_the_old_or_the_new_content() {
    for workload in [SMALL, LARGE] {
        let storage = Arc::new(Faulty::default());
        let mut segment = Segment::create(storage.clone(), BS).unwrap();
        run(&storage, &mut segment, workload);
        all_crashes_survive(&storage.events());
    }
}

/// A sealed segment on faulty storage, and its content.
fn sealed() -> (Arc<Faulty>, Content) {
    let storage = Arc::new(Faulty::default());
    let mut writer = SealedWriter::new(storage.clone(), BS).unwrap();
    writer.push(0, &raw(&[5; BS as usize])).unwrap();
    writer.push(2, &raw(b"the end")).unwrap();
    writer.finish(2 * u64::from(BS) + 7).unwrap();
    storage.sync_data().unwrap();
    let want = read_back(storage.clone()).unwrap();
    storage.say(Event::Durable(want.clone()));
    (storage, want)
}

#[test]
fn every_crash_while_a_sealed_segment_becomes_live_leaves_its_content() {
    let (storage, _) = sealed();
    let mut segment = Segment::open(storage.clone()).unwrap();
    segment.make_live().unwrap();
    run(&storage, &mut segment, SMALL);
    let events = storage.events();
    let sealed_at = events
        .iter()
        .position(|e| matches!(e, Event::Durable(_)))
        .unwrap();
    // Before that it is a temporary file that nothing depends on.
    let mut crashes = 0;
    for epoch in epochs(&events).into_iter().skip(
        events[..sealed_at]
            .iter()
            .filter(|e| **e == Event::Sync)
            .count(),
    ) {
        epoch.crashes(|left| {
            crashes += 1;
            survives(&epoch, left, Severity::Note);
        });
    }
    assert!(crashes > 50);
}

#[test]
fn every_crash_while_key_blocks_are_overwritten_keeps_what_starts_from_them() {
    let storage = Arc::new(Faulty::default());
    keyed(storage.clone());
    storage.sync_data().unwrap();
    let want = read_back(storage.clone()).unwrap();
    storage.say(Event::Durable(want));
    let mut segment = Segment::open(storage.clone()).unwrap();
    segment.make_live().unwrap();
    run(&storage, &mut segment, KEYED);
    let mut crashes = 0;
    for epoch in epochs(&storage.events()).into_iter().skip(1) {
        epoch.crashes(|left| {
            crashes += 1;
            survives(&epoch, left, Severity::Note);
        });
    }
    assert!(crashes > 20, "{crashes}");
}

#[test]
fn an_unfinished_sealed_segment_is_never_taken_for_a_whole_one() {
    let (storage, want) = sealed();
    for epoch in &epochs(&storage.events())[..1] {
        epoch.crashes(|left| {
            let found = read_back(Arc::new(MemStorage::new(left)));
            assert!(
                found
                    .as_ref()
                    .map_or(true, |f| *f == Content::default() || *f == want)
            );
        });
    }
}

#[test]
fn a_write_torn_at_any_byte_leaves_the_old_content_once_there_is_one() {
    let storage = Arc::new(Faulty::default());
    let mut segment = Segment::create(storage.clone(), BS).unwrap();
    run(&storage, &mut segment, SMALL);
    let mut torn = 0;
    // The first commit's header and root are within one sector each, and nothing is lost with them.
    for epoch in epochs(&storage.events()).iter().skip(2) {
        epoch.torn_writes(|_, left| {
            // A torn slot is damage to a slot that is not current.
            survives(epoch, left, Severity::Warning);
            torn += 1;
        });
    }
    assert!(torn > 1000);
}

/// Tries an operation again after each failure.
fn insist<T>(storage: &Faulty, failures: &mut usize, mut f: impl FnMut() -> Result<T>) -> T {
    loop {
        match f() {
            Ok(done) => return done,
            Err(e) => {
                assert!(storage.failed() && !e.is_damage(), "{e}");
                *failures += 1;
                assert!(*failures < 5, "{e}");
            }
        }
    }
}

#[test]
fn whatever_fails_once_the_segment_stays_readable_and_the_call_can_be_repeated() {
    for fault in [Fault::Write as fn(usize) -> Fault, Fault::Sync] {
        for workload in [SMALL, LARGE] {
            let mut hit = 0;
            for n in 0.. {
                let (storage, _) = sealed();
                let mut segment = Segment::open(storage.clone()).unwrap();
                storage.fail(fault(n));
                let mut failures = 0;
                insist(&storage, &mut failures, || segment.make_live());
                for steps in workload {
                    for step in *steps {
                        insist(&storage, &mut failures, || step(&mut segment));
                    }
                    let want = content(&segment).unwrap();
                    storage.say(Event::Attempt(want.clone()));
                    insist(&storage, &mut failures, || {
                        let done = segment.commit();
                        assert_eq!(content(&segment).unwrap(), want);
                        done
                    });
                    assert_eq!(read_back(storage.clone()).unwrap(), want);
                }
                let want = content(&segment).unwrap();
                // What a failed sync lost is on disk nevertheless.
                let last = epochs(&storage.events()).pop().unwrap();
                last.crashes(|left| {
                    assert_eq!(read_back(Arc::new(MemStorage::new(left))).unwrap(), want)
                });
                if !storage.failed() {
                    break;
                }
                hit += 1;
            }
            assert!(hit >= 2 * workload.len(), "{hit} faults hit");
        }
    }
}

#[test]
fn changes_made_while_a_commit_is_synced_belong_to_the_next_one() {
    let storage = Arc::new(Faulty::default());
    let mut segment = Segment::create(storage.clone(), BS).unwrap();
    put(&mut segment, 0, b"one").unwrap();
    segment.set_logical_size(3).unwrap();
    segment.prepare_commit().unwrap();
    put(&mut segment, 0, b"two!").unwrap();
    segment.set_logical_size(4).unwrap();
    segment.finish_commit().unwrap();
    put(&mut segment, 1, b"three").unwrap();
    segment.committed();
    assert!(segment.is_dirty());
    assert_eq!(read_back(storage.clone()).unwrap(), of(b"one"));
    segment.commit().unwrap();
    assert_eq!(read_back(storage.clone()).unwrap(), of(b"two!"));
    let again = Segment::open(storage).unwrap();
    assert_eq!((again.form(), again.summary().generation), (Form::Live, 2));
}

#[test]
fn a_payload_appended_while_a_sync_fails_is_written_again() {
    let storage = Arc::new(Faulty::default());
    let mut segment = Segment::create(storage.clone(), BS).unwrap();
    put(&mut segment, 0, b"one").unwrap();
    segment.set_logical_size(3).unwrap();
    segment.prepare_commit().unwrap();
    storage.sync_data().unwrap();
    segment.finish_commit().unwrap();
    put(&mut segment, 1, b"two").unwrap();
    storage.fail(Fault::Sync(0));
    storage.sync_data().unwrap_err();
    segment.set_logical_size(u64::from(BS) + 3).unwrap();
    segment.commit().unwrap();
    let want = content(&segment).unwrap();
    let last = epochs(&storage.events()).pop().unwrap();
    last.crashes(|left| assert_eq!(read_back(Arc::new(MemStorage::new(left))).unwrap(), want));
}
