//! Campaigns that more than one test file runs. Each says what is wrong, if anything is.

// Every test file uses a part of it.
#![allow(dead_code)]

use arenite_shim::crash::Limits;
use arenite_shim::explore::{without_panic, Explorer, Options};
use arenite_shim::faults::FaultBench;
use arenite_shim::faulty::{Effect, Op};
use arenite_shim::workload::{prepare, record_from, Config, Run};

/// Prepares a volume, calls `arm`, records a run and explores its crash states.
pub fn crash_campaign(config: &Config, options: Options, arm: impl FnOnce()) -> Result<(), String> {
    let (disk, run) = prepare(config).map_err(|error| format!("preparation: {error:?}"))?;
    arm();
    let recording = without_panic(|| record_from(&disk, &run).map_err(|error| format!("run: {error:?}")))?;
    let mut explorer = Explorer::new(options);
    explorer.explore(&recording);
    let Some(failure) = explorer.failures().first() else { return Ok(()) };
    assert!(
        Explorer::replay(&recording, options.limits, &failure.replay).is_err(),
        "{failure}: not when it is tried again"
    );
    Err(format!("seed {}, {failure}", config.seed))
}

/// A bench for a run.
pub fn fault_bench(config: Config) -> FaultBench<Run> {
    let (disk, run) = prepare(&config).expect("a run without faults");
    let limits = Limits { exhaustive_states: 1 << 10, ..Limits::DEFAULT };
    FaultBench::new(&disk, run, config.course(), Options { limits, ..Options::DEFAULT })
}

/// Runs a fault at every index of one kind of call; returns how many there are.
pub fn fault_campaign(bench: &FaultBench<Run>, op: Op, sticky: bool, effect: Effect) -> Result<u64, String> {
    bench.campaign(op, sticky, effect).map(|(calls, _)| calls)
}
