//! Random operations on an archive and on a plain directory must give the same answers and the same trees.
//!
//! The plain directory is the reference: the kernel says what every operation should do, errors included. In between the
//! archive is mounted anew, or dropped as by `kill -9`; then each file must hold what it held at some moment since it
//! was last synced. Files are packed, some of them with start states, and unpacked on the way, which must change nothing.

mod check;
mod ops;
mod packing;
mod world;

use proptest::prelude::*;
use proptest::test_runner::TestCaseError;

use ops::{From, Op, op};
use world::{ALIKE, World};

/// Answers how many blocks were coded from a start state.
fn run(ops: &[Op]) -> Result<u64, TestCaseError> {
    let mut world = World::new();
    let end = [Op::Compare, Op::Remount];
    for (step, op) in ops.iter().chain(&end).enumerate() {
        world.apply(op).map_err(|difference| {
            TestCaseError::fail(format!("step {step}, {op:?}: {difference}"))
        })?;
    }
    Ok(world.started)
}

#[test]
fn packed_files_start_from_key_blocks_and_primers_whatever_is_done_to_them() {
    let write = |at, len, seed| Op::Write {
        slot: 0,
        at,
        len,
        seed,
    };
    let open = |truncate| Op::Open {
        slot: 0,
        path: 0,
        append: false,
        truncate,
    };
    for (from, at_least) in [(From::KeyBlocks, 5), (From::Primer, 9)] {
        let pack = Op::Pack { path: 0, from };
        let ops = [
            open(false),
            write(0, 70_000, ALIKE),
            pack.clone(),
            Op::Remount,
            open(false),
            write(10, 20_000, ALIKE + 4),
            Op::Fsync { slot: 0 },
            Op::Compare,
            Op::Crash,
            Op::Truncate {
                path: 0,
                size: 60_000,
            },
            Op::Rename {
                from: 0,
                to: 1,
                flags: 0,
            },
            Op::Remount,
            Op::PackInPlace { path: 1 },
            Op::Link { from: 1, to: 0 },
            Op::PackInPlace { path: 0 },
            Op::Crash,
            Op::Unlink { path: 1 },
            pack,
            Op::Crash,
            Op::Unpack { path: 0 },
        ];
        let started = run(&ops).unwrap();
        assert!(started >= at_least, "{started} from {from:?}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: std::env::var("PROPTEST_CASES").ok().and_then(|n| n.parse().ok()).unwrap_or(64),
        failure_persistence: None,
        max_shrink_iters: 4000,
        ..ProptestConfig::default()
    })]

    #[test]
    fn archive_behaves_like_a_plain_directory(ops in prop::collection::vec(op(), 1..100)) {
        run(&ops)?;
    }
}
