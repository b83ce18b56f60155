//! Test suites and stressors of others, on a mounted archive.
//!
//! Each prints `skipped: ` and the reason where its program is missing or it is not run as root; `scripts/test` installs the
//! programs.

#[path = "../mounted/disk.rs"]
#[allow(dead_code, reason = "shared with the tests of real mounts")]
mod disk;
mod fsx;
mod pjdfstest;
mod stress;
#[path = "../mounted/support.rs"]
#[allow(dead_code, reason = "shared with the tests of real mounts")]
mod support;

/// Whether this is root; says so if not.
fn root() -> bool {
    let root = rustix::process::geteuid().is_root();
    if !root {
        println!("skipped: not root");
    }
    root
}
