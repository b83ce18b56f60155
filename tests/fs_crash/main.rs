//! Crashes at every moment of a workload: what recovery finds is the old or the new state of every file, never a mix, and
//! everything that was synced.
//!
//! The archive lies on a file system of the test's own, which records every change and every sync. Afterwards the states that a crash
//! may leave are put together one by one ([`crash`]), opened through the library and compared with what is allowed.
//! Needs `/dev/fuse`; without it each test says so and does nothing.

mod attributes;
mod compressing;
mod crash;
mod disk;
mod names;
mod packing;
mod recorder;
mod repairing;
mod tree;
mod world;
mod writing;
