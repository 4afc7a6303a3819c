//! Rung 5: fuzzing. The targets of `fuzz/` on inputs that a seeded generator makes of the corpus that is kept there,
//! each for some seconds. With cargo-fuzz and a nightly compiler the same targets are guided by coverage:
//!
//! ```text
//!   cargo +nightly fuzz run sealed_image -- -max_total_time=3600       and raw_image, operations
//! ```

use crate::rung::{Context, Rung};
use arenite_shim::explore::{without_panic, Failure};
use arenite_shim::fuzzing::{generate, seeds, Target, TARGETS};
use arenite_shim::ladder::{parallel, Row, Setup};
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// The rung.
pub struct Fuzzing;

/// Time for each target in the short form.
const SHORT: Duration = Duration::from_secs(20);
/// In the long form at most.
const LONG: Duration = Duration::from_secs(3600);

/// What there is to start from, and what is kept of earlier inputs, in the order of their names.
fn corpus(target: &str) -> Vec<Vec<u8>> {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz/corpus").join(target);
    let mut paths: Vec<_> = dir.read_dir().into_iter().flatten().flatten().map(|entry| entry.path()).collect();
    paths.sort();
    seeds(target).into_iter().chain(paths.iter().filter_map(|path| std::fs::read(path).ok())).collect()
}

/// One input; whether it got past the front door.
fn run_one(target: Target, input: &[u8]) -> Result<bool, String> {
    without_panic(|| Ok(target(input)))
}

/// One target until its time is up.
fn fuzz(name: &str, target: Target, time: Duration, setup: &Setup, row: &mut Row) {
    let (corpus, end) = (corpus(name), Instant::now() + time);
    let (next, far) = (AtomicU64::new(0), AtomicU64::new(0));
    let failures = Mutex::new(Vec::new());
    let threads: Vec<usize> = (0..setup.threads).collect();
    parallel(&threads, &Setup { deadline: None, ..*setup }, |_| {
        while Instant::now() < end {
            let number = next.fetch_add(1, Ordering::Relaxed);
            // What is kept comes first, as it is.
            let kept = usize::try_from(number).ok().and_then(|number| corpus.get(number)).cloned();
            match run_one(target, &kept.unwrap_or_else(|| generate(&corpus, number))) {
                Ok(past) => drop(far.fetch_add(past.into(), Ordering::Relaxed)),
                Err(what) => {
                    let mut failures = failures.lock().unwrap_or_else(PoisonError::into_inner);
                    failures.push(Failure { replay: format!("{number}:{name}"), what });
                    return false;
                }
            }
        }
        true
    });
    let (inputs, far) = (next.into_inner(), far.into_inner());
    row.cases += inputs;
    row.notes.push(format!("{name}: {inputs} inputs in {} s, {far} got past the front door", time.as_secs()));
    row.failures.extend(failures.into_inner().unwrap_or_else(PoisonError::into_inner));
}

impl Rung for Fuzzing {
    fn number(&self) -> u32 {
        5
    }

    fn what(&self) -> &'static str {
        "fuzzing: images, sealed images, operations"
    }

    fn parts(&self) -> Vec<String> {
        TARGETS.iter().map(|(name, _)| format!("{name:<16} {} inputs kept", corpus(name).len())).collect()
    }

    fn run(&self, context: &Context) -> Row {
        let mut row = Row::default();
        let share = context.setup.deadline.map(|end| end.saturating_duration_since(Instant::now()) / 3);
        let time = match share {
            Some(share) if context.long => share.min(LONG),
            _ => SHORT * context.scale as u32 / 100,
        };
        for (name, target) in TARGETS {
            fuzz(name, target, time, &context.setup, &mut row);
        }
        if context.long {
            let how =
                "guided by coverage: cargo +nightly fuzz run TARGET -- -max_total_time=3600 (cargo install cargo-fuzz)";
            row.notes.push(how.into());
        }
        row
    }

    fn replay(&self, seed: u64, trace: &str, _name: &str, _setup: &Setup) -> Option<Result<String, String>> {
        let (name, target) = TARGETS.into_iter().find(|(name, _)| *name == trace)?;
        let corpus = corpus(name);
        let kept = usize::try_from(seed).ok().and_then(|number| corpus.get(number)).cloned();
        let result = run_one(target, &kept.unwrap_or_else(|| generate(&corpus, seed)));
        Some(result.map(|far| format!("past the front door: {far}")))
    }
}
