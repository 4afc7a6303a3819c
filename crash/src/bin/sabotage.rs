//! One guarantee of the core, broken on purpose: which rungs notice? Called by rung 9, once for each switch, because a
//! switch is for the whole process.
//!
//! Arguments: the name of a switch, or `list`. Output: one line for each rung that noticed, `rung N: what it saw`.
#![forbid(unsafe_code)]

use arenite_core::sabotage::{set, Switch, ALL};
use arenite_core::DeviceError;
use arenite_shim::config::{Config, Prelude};
use arenite_shim::crash::Limits;
use arenite_shim::crowd;
use arenite_shim::explore::{Explorer, Options};
use arenite_shim::faults::{without_panic, FaultBench};
use arenite_shim::faulty::{Effect, Op};
use arenite_shim::probes::{grace, lost_log_write};
use arenite_shim::workload::{prepare, record_from};

/// Tries a switch on one rung; `Ok` means that nothing was noticed.
type Campaign = fn(Switch) -> Result<(), String>;

/// Crash states of one configuration, with second crashes; the first failure.
fn crashes(switch: Switch, config: &Config, limits: Limits) -> Result<(), String> {
    set(None);
    let (disk, run) = prepare(config).map_err(|error| format!("preparation: {error:?}"))?;
    set(Some(switch));
    let recording = without_panic(|| record_from(&disk, &run).map_err(|error| format!("run: {error:?}")))?;
    let mut explorer = Explorer::new(Options { limits, deep_every: 3, max_failures: 1, ..Options::DEFAULT });
    explorer.explore(&recording);
    explorer.failures().first().map_or(Ok(()), |failure| Err(format!("seed {}, {failure}", config.seed)))
}

/// Runs of many kinds, seed after seed, until one fails.
fn campaign(switch: Switch, limits: Limits, change: fn(Config) -> Config) -> Result<(), String> {
    let kinds: [fn(u64) -> Config; 7] = [
        Config::arenas,
        Config::restarts,
        Config::foreign,
        Config::many_arenas,
        |seed| Config { dense: 0, overlap: 60, ..Config::full(seed) },
        Config::large,
        Config::repairs,
    ];
    (0..8).try_for_each(|seed| kinds.iter().try_for_each(|kind| crashes(switch, &change(kind(seed)), limits)))
}

/// An error at every call.
fn errors(switch: Switch) -> Result<(), String> {
    set(None);
    let config = Config { prelude: Prelude::Filled, reread: 50, ..Config::arenas(5) };
    let (disk, run) = prepare(&config).map_err(|error| format!("preparation: {error:?}"))?;
    let bench = FaultBench::new(&disk, run, config.course(), Options::DEFAULT);
    set(Some(switch));
    let refuse = Effect::Refuse(DeviceError::Io);
    let kinds = [(Op::Read, Effect::Garbage), (Op::Read, refuse), (Op::Write, refuse), (Op::Flush, refuse)];
    kinds.into_iter().try_for_each(|(op, effect)| bench.campaign(op, false, effect).map(drop))
}

/// Several threads, and a reader whom nobody may disturb.
fn threads(switch: Switch) -> Result<(), String> {
    set(Some(switch));
    without_panic(|| grace(true))?;
    without_panic(|| grace(false))?;
    let plan = crowd::Plan { threads: 2, commits: 12, changes_per_commit: 24, reorder: false, seed: 0 };
    let recording = without_panic(|| Ok(crowd::run(&plan, true).0))?;
    let limits = Limits { exhaustive_states: 1 << 8, samples: 16, ..Limits::DEFAULT };
    let mut explorer = Explorer::new(Options { limits, max_failures: 1, ..Options::DEFAULT });
    explorer.explore(&recording);
    explorer.failures().first().map_or(Ok(()), |failure| Err(failure.to_string()))
}

/// A lost write of a log.
fn lost_write(switch: Switch) -> Result<(), String> {
    set(Some(switch));
    without_panic(lost_log_write)
}

fn main() -> std::process::ExitCode {
    std::panic::set_hook(Box::new(|_| {}));
    let name = std::env::args().nth(1).unwrap_or_default();
    if name == "list" {
        ALL.iter().for_each(|switch| println!("{switch:?}"));
        return std::process::ExitCode::SUCCESS;
    }
    let Some(switch) = ALL.into_iter().find(|switch| format!("{switch:?}") == name) else {
        eprintln!("error: no switch has the name {name:?}");
        return std::process::ExitCode::from(2);
    };
    let small: Campaign = |switch| campaign(switch, Limits::DEFAULT, |config| config);
    let production: Campaign =
        |switch| campaign(switch, Limits { samples: 50, ..Limits::PRODUCTION }, Config::production);
    let rungs: [(u32, Campaign); 5] = [(1, small), (2, production), (3, errors), (4, lost_write), (6, threads)];
    for (number, rung) in rungs {
        let result = rung(switch);
        set(None);
        if let Err(what) = result {
            println!("rung {number}: {}", what.replace('\n', " "));
        }
    }
    std::process::ExitCode::SUCCESS
}
