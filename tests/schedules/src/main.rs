//! The caches and the commit protocol under a scheduler that chooses every step.
//!
//! The source files of the file system and of all below it are compiled once more, with the scheduler's locks, atomics and
//! threads (`sync`) instead of the standard library's. Each schedule is a run of its own on a fresh archive; it must neither
//! deadlock nor show anybody what no order of the calls explains. Schedules are taken at random and by probabilistic
//! concurrency testing (PCT), which finds what needs few switches at the right places; small ones are walked in full.
//!
//! Arguments name tests, or parts of their names. A failure prints its schedule; `SCHEDULE=text` with the test's name runs that
//! again. `SCHEDULES` is how many are taken of each kind.

/// The tests of a module, each run under many schedules or under all there are.
macro_rules! schedules {
    ($($how:ident $test:ident,)*) => {
        pub const TESTS: &[crate::run::Test] =
            &[$((concat!(module_path!(), "::", stringify!($test)), || $how($test))),*];
    };
}

mod beside;
mod block_cache;
mod one_file;
mod parked;
mod run;
mod start_cache;
mod sync;

#[allow(dead_code, unused_imports)]
#[path = "../../../src/codec/mod.rs"]
mod codec;
#[allow(dead_code, unused_imports)]
#[path = "../../../src/engine/mod.rs"]
mod engine;
#[allow(dead_code, unused_imports)]
#[path = "../../../src/fs/mod.rs"]
mod fs;
#[allow(dead_code, unused_imports)]
#[path = "../../../src/profiles.rs"]
mod profiles;
#[path = "../../../src/pack/second_look.rs"]
mod second_look;
#[allow(dead_code, unused_imports)]
#[path = "../../../src/segment/mod.rs"]
mod segment;
#[allow(dead_code, unused_imports)]
#[path = "../../../src/store/mod.rs"]
mod store;

use std::process::ExitCode;

fn main() -> ExitCode {
    let wanted: Vec<String> = std::env::args().skip(1).collect();
    let is_wanted = |name: &str| wanted.is_empty() || wanted.iter().any(|w| name.contains(w));
    let (mut passed, mut failed) = (0, 0);
    let tests = [
        block_cache::TESTS,
        start_cache::TESTS,
        one_file::TESTS,
        beside::TESTS,
        parked::TESTS,
    ];
    for (name, test) in tests.concat() {
        if !is_wanted(name) {
            continue;
        }
        println!("test {name} ...");
        let done = std::panic::catch_unwind(test).is_ok();
        println!("test {name} ... {}", if done { "ok" } else { "FAILED" });
        *(if done { &mut passed } else { &mut failed }) += 1;
    }
    let result = if failed == 0 { "ok" } else { "FAILED" };
    println!("test result: {result}. {passed} passed; {failed} failed; 0 ignored");
    ExitCode::from(u8::from(failed > 0 || passed == 0))
}
