//! Real mounts: the built program, the kernel, and the tools that people use.
//!
//! Each test has an archive of its own in a temporary directory and unmounts it whatever happens. Where mounts are not
//! possible a test prints `skipped: ` and the reason.

mod basics;
mod crash;
mod crowd;
mod daemon;
mod disk;
mod faults;
mod foreground;
mod full;
mod hostile;
mod idle;
mod limits;
mod pack;
mod page_cache;
mod passthrough;
mod power;
mod refusals;
mod scrub;
mod set_ids;
mod status;
mod support;
mod tools;
mod train;
mod workload;
