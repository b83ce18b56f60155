//! How a test is run: under which schedulers, and how often.

use std::time::{Duration, Instant};

use shuttle::scheduler::{DfsScheduler, PctScheduler, RandomScheduler, ReplayScheduler};
use shuttle::{Config, FailurePersistence, MaxSteps, Runner};

/// A name and what to run.
pub type Test = (&'static str, fn());

/// Switches that PCT puts where they hurt.
const DEPTH: usize = 3;

/// Neither kind of schedules takes longer, however many there should be.
const LONGEST: Duration = Duration::from_secs(8);

fn config() -> Config {
    let mut config = Config::new();
    // Encoding needs more than a coroutine has unless told.
    config.stack_size = 1 << 20;
    config.failure_persistence = FailurePersistence::Print;
    config.max_steps = MaxSteps::FailAfter(1_000_000);
    config.max_time = Some(LONGEST);
    config.silence_warnings = true;
    config
}

fn schedules() -> usize {
    let told = std::env::var("SCHEDULES").ok();
    told.and_then(|n| n.parse().ok()).unwrap_or(1000)
}

/// Runs many schedules, or the one that the environment names.
pub fn many(test: fn()) {
    if let Ok(schedule) = std::env::var("SCHEDULE") {
        let replay = ReplayScheduler::new_from_encoded(&schedule);
        Runner::new(replay, config()).run(test);
        return;
    }
    let start = Instant::now();
    let random = Runner::new(RandomScheduler::new(schedules()), config()).run(test);
    let pct = Runner::new(PctScheduler::new(DEPTH, schedules()), config()).run(test);
    println!(
        "{random} random schedules, {pct} by PCT, {:?}",
        start.elapsed()
    );
    assert!(random > 10 && pct > 10);
}

/// Runs every schedule there is, up to a bound that a test should stay below.
pub fn all(test: fn()) {
    const BOUND: usize = 200_000;
    let start = Instant::now();
    let dfs = DfsScheduler::new(Some(BOUND), false);
    let mut config = config();
    config.max_time = None;
    let walked = Runner::new(dfs, config).run(test);
    println!("all {walked} schedules, {:?}", start.elapsed());
    assert!(walked < BOUND);
}
