//! Rung 3: an error at every call. Each index of read, write, flush and discard; once and from then on; before and
//! after the call did its work; then going on, then a mount, then a power cut.

use crate::rung::{Context, Rung};
use arenite_core::DeviceError;
use arenite_shim::config::{Config, Prelude};
use arenite_shim::crash::Limits;
use arenite_shim::explore::{Failure, Options};
use arenite_shim::faults::FaultBench;
use arenite_shim::faulty::{Effect, Fault, Op};
use arenite_shim::ladder::{parallel, thread_cpu, Part, Row, Setup};
use arenite_shim::workload::{prepare, Run};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

/// What a run with errors is like.
struct Bench {
    name: &'static str,
    config: fn(u64) -> Config,
    discards: bool,
}

/// The rung.
pub struct Errors(Vec<Bench>);

/// Seeds of the short form.
const SEEDS: u64 = 4;

/// One kind of failure.
struct Kind {
    name: String,
    op: Op,
    sticky: bool,
    effect: Effect,
}

impl Kind {
    fn new(op: Op, sticky: bool, effect: Effect, word: &str) -> Self {
        let times = if sticky { "sticky" } else { "once" };
        Self { name: format!("{}-{times}-{word}", format!("{op:?}").to_lowercase()), op, sticky, effect }
    }
}

/// Every kind of failure.
fn kinds(discards: bool) -> Vec<Kind> {
    let refuse = Effect::Refuse(DeviceError::Io);
    let both = [false, true];
    if discards {
        let refused = Effect::Refuse(DeviceError::Unsupported);
        return both.map(|sticky| Kind::new(Op::Discard, sticky, refused, "refused")).into();
    }
    let mut kinds = Vec::new();
    for op in [Op::Read, Op::Write, Op::Flush] {
        for sticky in both {
            kinds.push(Kind::new(op, sticky, refuse, "refused"));
            kinds.push(Kind::new(op, sticky, Effect::FailLate(DeviceError::Timeout), "late"));
        }
        kinds.push(Kind::new(op, true, Effect::Refuse(DeviceError::Gone), "gone"));
    }
    kinds.extend(both.map(|sticky| Kind::new(Op::Read, sticky, Effect::Garbage, "garbage")));
    kinds
}

fn filled(seed: u64) -> Config {
    let config = Config { arenas: 2, volume_blocks: 96, slots: 20, prelude: Prelude::Filled, ..Config::small(seed) };
    Config { changes: 3, overlap: 40, dense: 0, reread: 50, ..config }
}

fn filled_production(seed: u64) -> Config {
    filled(seed).production()
}

fn long_logs(seed: u64) -> Config {
    Config { commits: 2, ..Config::long_logs(seed) }
}

fn discards(seed: u64) -> Config {
    Config { restart: 0, delete: 60, ..Config::discards(seed) }
}

impl Errors {
    /// The plan.
    pub fn new() -> Self {
        Self(vec![
            Bench { name: "errors", config: filled, discards: false },
            Bench { name: "errors16", config: filled_production, discards: false },
            Bench { name: "errors-log", config: long_logs, discards: false },
            Bench { name: "errors-discard", config: discards, discards: true },
        ])
    }
}

impl Bench {
    fn prepare(&self, seed: u64, setup: &Setup) -> Result<FaultBench<Run>, String> {
        let config = (self.config)(seed);
        let (disk, run) = prepare(&config).map_err(|error| format!("{error:?}"))?;
        let limits = setup.limits(Limits { exhaustive_states: 1 << 10, ..Limits::DEFAULT }, config.block_size);
        Ok(FaultBench::new(&disk, run, config.course(), Options { limits, ..Options::DEFAULT }))
    }

    /// One kind of failure at every index; the number of calls, and of crash states afterwards.
    fn campaign(&self, seed: u64, kind: &Kind, setup: &Setup) -> Result<(u64, u64), Failure> {
        let name = |index: u64| format!("{seed}:{}.{}:{index}", self.name, kind.name);
        let bench = self.prepare(seed, setup).map_err(|what| Failure { replay: name(0), what })?;
        let mut states = 0;
        for index in 0.. {
            let fault = Fault { op: kind.op, index, sticky: kind.sticky, effect: kind.effect };
            let outcome = bench.run(fault).map_err(|what| Failure { replay: name(index), what })?;
            states += outcome.states;
            if !outcome.reached {
                return Ok((index, states));
            }
        }
        Ok((0, states))
    }
}

impl Rung for Errors {
    fn number(&self) -> u32 {
        3
    }

    fn what(&self) -> &'static str {
        "an error at every call"
    }

    fn parts(&self) -> Vec<String> {
        let names =
            |bench: &Bench| kinds(bench.discards).into_iter().map(|kind| kind.name).collect::<Vec<_>>().join(" ");
        self.0.iter().map(|bench| format!("{:<16} {}", bench.name, names(bench))).collect()
    }

    fn run(&self, context: &Context) -> Row {
        let row = Mutex::new(Row::default());
        for seed in 0.. {
            let jobs: Vec<_> = self
                .0
                .iter()
                .flat_map(|bench| kinds(bench.discards).into_iter().map(move |kind| (bench, kind)))
                .collect();
            let done = AtomicUsize::new(0);
            parallel(&jobs, &context.setup, |(bench, kind)| {
                let begun = thread_cpu();
                let result = bench.campaign(seed, kind, &context.setup);
                let cpu = thread_cpu().saturating_sub(begun);
                done.fetch_add(1, Ordering::Relaxed);
                let mut row = row.lock().unwrap_or_else(PoisonError::into_inner);
                match result {
                    Ok((calls, states)) => {
                        row.cases += calls;
                        row.states += states;
                        let part = Part { cases: calls, states, cpu, slowest: (seed, cpu), ..Part::default() };
                        row.parts.entry(format!("{}.{}", bench.name, kind.name)).or_default().add(&part);
                    }
                    Err(failure) => row.failures.push(failure),
                }
                row.failures.len() < context.setup.max_failures
            });
            let mut row = row.lock().unwrap_or_else(PoisonError::into_inner);
            row.cut_short |= done.into_inner() < jobs.len();
            let planned = (SEEDS * context.scale).div_ceil(100);
            if !context.long && seed + 1 >= planned || row.cut_short || !row.failures.is_empty() {
                break;
            }
        }
        row.into_inner().unwrap_or_else(PoisonError::into_inner)
    }

    fn replay(&self, seed: u64, trace: &str, name: &str, setup: &Setup) -> Option<Result<String, String>> {
        let (bench, kind) = trace.split_once('.')?;
        let bench = self.0.iter().find(|known| known.name == bench)?;
        let kind = kinds(bench.discards).into_iter().find(|known| known.name == kind)?;
        let run = || {
            let index = name.parse().map_err(|_| "the third part is the number of the call")?;
            let fault = Fault { op: kind.op, index, sticky: kind.sticky, effect: kind.effect };
            let outcome = bench.prepare(seed, setup)?.run(fault)?;
            let reached = if outcome.reached { "noticed as it must be" } else { "never reached" };
            Ok(format!("{fault:?}: {reached}; {} crash states afterwards", outcome.states))
        };
        Some(run())
    }
}
