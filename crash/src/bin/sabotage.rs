//! One guarantee of the core, broken on purpose: which rung notices? Called by rung 9, once for each switch, because a
//! switch is for the whole process.
//!
//! Each switch has an order of rungs, the one that is made for such a fault first. The first rung that notices is the
//! last one that is tried, unless there is time.
//!
//! Arguments: the name of a switch, or `list`; then the seconds that there are for the rungs behind the first that
//! notices. Output: one line for each rung that noticed, `rung N: what it saw`.
#![forbid(unsafe_code)]

use arenite_core::sabotage::{set, Switch, ALL};
use arenite_core::DeviceError;
use arenite_shim::config::{Config, Prelude};
use arenite_shim::corrupt::{flip_some, Subject};
use arenite_shim::crash::Limits;
use arenite_shim::crowd;
use arenite_shim::explore::{without_panic, Explorer, Options};
use arenite_shim::faults::FaultBench;
use arenite_shim::faulty::{Effect, Op};
use arenite_shim::probes::{grace, lost_log_write};
use arenite_shim::workload::{prepare, record, record_from};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

/// A kind of run.
type Kind = fn(u64) -> Config;

/// Rungs in the order in which a switch is tried on them.
fn order(switch: Switch) -> [u32; 5] {
    match switch {
        Switch::SkipHashCheck | Switch::IgnoreFlushError | Switch::IgnoreWriteError => [3, 1, 2, 4, 6],
        Switch::SkipLogDigest | Switch::SkipHeaderHash => [4, 3, 1, 2, 6],
        Switch::SkipGrace => [6, 1, 2, 3, 4],
        _ => [1, 2, 3, 4, 6],
    }
}

/// Kinds of runs for crash states, that one first which does most of what the switch breaks.
fn kinds(switch: Switch) -> Vec<Kind> {
    let first: Kind = match switch {
        Switch::SkipFlushAtMount => Config::restarts,
        Switch::SuperblocksTogether => Config::many_arenas,
        Switch::ReuseBeforeDurable | Switch::ReuseAtOnce => crowded,
        Switch::SkipDrain => Config::large,
        Switch::SkipLogRewrite => Config::foreign,
        Switch::SkipRepair => Config::repairs,
        _ => Config::arenas,
    };
    let all: [Kind; 7] = [
        Config::arenas,
        Config::restarts,
        Config::foreign,
        Config::many_arenas,
        crowded,
        Config::large,
        Config::repairs,
    ];
    std::iter::once(first).chain(all.into_iter().filter(|kind| !std::ptr::fn_addr_eq(*kind, first))).collect()
}

/// Nearly full, with generations that overlap.
fn crowded(seed: u64) -> Config {
    Config { dense: 0, overlap: 60, ..Config::full(seed) }
}

/// Crash states of one configuration, with second crashes; the first failure.
fn crashes(switch: Switch, config: &Config, limits: Limits) -> Result<(), String> {
    if DEADLINE.get().is_some_and(|deadline| Instant::now() > *deadline) {
        return Ok(());
    }
    set(None);
    let (disk, run) = prepare(config).map_err(|error| format!("preparation: {error:?}"))?;
    set(Some(switch));
    let recording = without_panic(|| record_from(&disk, &run).map_err(|error| format!("run: {error:?}")))?;
    let mut explorer = Explorer::new(Options { limits, deep_every: 3, max_failures: 1, ..Options::DEFAULT });
    explorer.explore(&recording);
    explorer.failures().first().map_or(Ok(()), |failure| Err(format!("seed {}, {failure}", config.seed)))
}

/// Runs of the kind that suits, then of the others, a few seeds of each, until one fails.
fn campaign(switch: Switch, limits: Limits, change: fn(Config) -> Config) -> Result<(), String> {
    let kinds = kinds(switch);
    let (first, others) = kinds.split_at(1);
    let some = |kinds: &[Kind], seeds: std::ops::Range<u64>| {
        seeds
            .into_iter()
            .try_for_each(|seed| kinds.iter().try_for_each(|kind| crashes(switch, &change(kind(seed)), limits)))
    };
    some(first, 0..12)?;
    some(others, 0..3)
}

/// An error at every call.
fn errors(switch: Switch) -> Result<(), String> {
    set(None);
    let config = Config { prelude: Prelude::Filled, reread: 50, ..Config::arenas(5) };
    let (disk, run) = prepare(&config).map_err(|error| format!("preparation: {error:?}"))?;
    let bench = FaultBench::new(&disk, run, config.course(), Options::DEFAULT);
    set(Some(switch));
    let refuse = Effect::Refuse(DeviceError::Io);
    let mut kinds = vec![(Op::Read, Effect::Garbage), (Op::Read, refuse), (Op::Write, refuse), (Op::Flush, refuse)];
    match switch {
        Switch::IgnoreFlushError => kinds.rotate_right(1),
        Switch::IgnoreWriteError => kinds.rotate_right(2),
        _ => {}
    }
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

/// A lost write of a log, and flipped bits.
fn corruption(switch: Switch) -> Result<(), String> {
    set(None);
    let config = Config { lives: 1, settle: 100, hold: 0, changes: 2, ..Config::arenas(0) };
    let recording = record(&config).map_err(|error| format!("run: {error:?}"))?;
    let subject = Subject::last_of(&recording)?;
    set(Some(switch));
    without_panic(lost_log_write)?;
    flip_some(&subject)
}

/// When to stop, once a rung has noticed.
static DEADLINE: OnceLock<Instant> = OnceLock::new();

/// Tries a switch on one rung; `Ok` means that nothing was noticed.
fn try_on(rung: u32, switch: Switch) -> Result<(), String> {
    let result = match rung {
        1 => campaign(switch, Limits::DEFAULT, |config| config),
        2 => campaign(switch, Limits { samples: 50, ..Limits::PRODUCTION }, Config::production),
        3 => errors(switch),
        4 => corruption(switch),
        _ => threads(switch),
    };
    set(None);
    result
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
    let seconds = std::env::args().nth(2).and_then(|word| word.parse().ok());
    let deadline = seconds.map(|seconds| Instant::now() + Duration::from_secs(seconds));
    for rung in order(switch) {
        if DEADLINE.get().is_some_and(|deadline| Instant::now() > *deadline) {
            break;
        }
        if let Err(what) = try_on(rung, switch) {
            println!("rung {rung}: {}", what.replace('\n', " "));
            let Some(deadline) = deadline else { break };
            DEADLINE.get_or_init(|| deadline);
        }
    }
    std::process::ExitCode::SUCCESS
}
