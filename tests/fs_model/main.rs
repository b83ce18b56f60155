//! Random operations on an archive and on a plain directory must give the same answers and the same trees.
//!
//! The plain directory is the reference: the kernel says what every operation should do, errors included. In between the
//! archive is mounted anew, or dropped as by `kill -9`; then each file must hold what it held at some moment since it
//! was last synced. Files are packed and unpacked on the way, which must change nothing.

mod check;
mod ops;
mod packing;
mod world;

use proptest::prelude::*;
use proptest::test_runner::TestCaseError;

use ops::{Op, op};
use world::World;

fn run(ops: &[Op]) -> Result<(), TestCaseError> {
    let mut world = World::new();
    let end = [Op::Compare, Op::Remount];
    for (step, op) in ops.iter().chain(&end).enumerate() {
        world.apply(op).map_err(|difference| {
            TestCaseError::fail(format!("step {step}, {op:?}: {difference}"))
        })?;
    }
    Ok(())
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
