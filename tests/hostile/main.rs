//! What others may have written, wrong in every way that can be thought of: it ends in an error, soon and in little memory.
//!
//! The decoders are the targets of the fuzzer, `fuzz/src/targets.rs`. `mutated` runs them on kept inputs and on many small changes
//! of those; `crafted` has an input for each number that a decoder might trust.

mod crafted;
#[path = "../../fuzz/src/mend.rs"]
mod mend;
#[path = "../../fuzz/src/meter.rs"]
mod meter;
mod mutated;
#[path = "../../fuzz/src/targets.rs"]
mod targets;

use std::time::Duration;

use meter::{Cost, MEMORY};

/// Processor time that one hostile input may take; more where the program checks its own arithmetic.
const TIME: Duration = Duration::from_millis(if cfg!(debug_assertions) { 300 } else { 100 });

/// Fails if an input cost more than it may.
fn assert_cheap(what: &str, cost: Cost) {
    assert!(cost.peak <= MEMORY, "{what}: {cost:?}");
    assert!(cost.time <= TIME, "{what}: {cost:?}");
}
