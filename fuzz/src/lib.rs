//! Fuzz targets, one for each decoder of what others may have written. `scripts/fuzz` runs them all for a bounded time;
//! `cargo fuzz run TARGET -s none` runs one for ever. `tests/hostile` runs the same functions on kept and mutated inputs.

pub mod mend;
pub mod meter;
pub mod targets;

/// Runs one target on one input; anything but an orderly end within the memory that hostile input may take is a crash.
pub fn run(target: fn(&[u8]), data: &[u8]) {
    let cost = meter::measure(|| target(data)).1;
    assert!(
        cost.peak <= meter::MEMORY,
        "{} bytes of memory for {} bytes of input",
        cost.peak,
        data.len()
    );
}
