//! The ladder for users: [`climb`] runs every rung that makes sense for a structure of their own.
//!
//! ```text
//!   1, 2  crash states at 2 KiB and at 16 KiB      5   streams of operations against a model
//!   3     an error at every call                   6   generations that overlap, completions in any order
//!   4     flipped bits; writes lost, stale ...     10  endurance, on a file
//! ```
//!
//! What is left out concerns the store alone, or cannot be done from here:
//!
//! - Rung 4 flips every bit of the first blocks of a structure, which its hashes must notice; what a structure makes of
//!   wrong bytes under a right hash is for a fuzzer of its own: only the structure knows where its hashes are. For the
//!   same reason rung 5 has no images, raw or sealed again.
//! - Rung 6 has one thread: a [`Tree`] is changed by one caller at a time.
//! - Rungs 7 and 8 run what is not a library: Miri on the structure's own tests (`cargo +nightly miri test`), and the
//!   kernel, whose traces are recorded by `arenite serve --record` and hold no marks of the structure's commits.
//! - Rung 9 breaks the store; to break a structure is for its author. A build with the feature `sabotage` can set
//!   `arenite_core::sabotage` in front of [`climb`].
#![forbid(unsafe_code)]

use crate::crash::Limits;
use crate::damage::Damages;
use crate::endurance::{endure, Plan, TemporaryPath};
use crate::explore::{without_panic, Failure, Options};
use crate::faulty::{Effect, Op};
use crate::fuzzing::generate;
use crate::ladder::{explore, parallel, Row, Setup, Source};
use crate::steps::Steps;
use crate::streams;
use crate::tree::Tree;
use arenite_core::DeviceError;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

/// Operation streams for each seed.
const STREAMS: u64 = 64;
/// Mounts and crashes of the endurance run for each seed.
const CYCLES: u64 = 16;

/// Every rung that makes sense, on a structure of the user's own. `seeds` is how many recordings of each kind.
pub fn climb<T: Tree + 'static>(shape: &T::Shape, seeds: u64, setup: &Setup) -> Vec<Row>
where
    T::Shape: 'static,
{
    let source = |name: &str, limits, steps: Steps| {
        let shape = shape.clone();
        Source::<T>::new(name, limits, move |seed| steps.record(&shape, seed))
    };
    let states = |rung, what: &str, source: Source<T>| {
        let mut row = Row { rung, what: what.into(), ..Row::default() };
        let jobs: Vec<_> = (0..seeds).map(|seed| (&source, seed)).collect();
        explore(&jobs, setup, &mut row);
        row
    };
    vec![
        states(1, "crash states, 2 KiB blocks", source("small", Limits::DEFAULT, Steps::SMALL)),
        states(2, "crash states, 16 KiB blocks", source("production", Limits::PRODUCTION, Steps::PRODUCTION)),
        errors::<T>(shape, setup),
        damages::<T>(shape, setup),
        operations::<T>(shape, seeds * STREAMS, setup),
        states(6, "crash states, disorder", source("disorder", Limits::DEFAULT, Steps::DISORDER)),
        endurance::<T>(shape, seeds * CYCLES, setup),
    ]
}

/// An error at every call, once and from then on.
fn errors<T: Tree>(shape: &T::Shape, setup: &Setup) -> Row {
    let start = Instant::now();
    let kinds: Vec<_> = [Op::Read, Op::Write, Op::Flush].into_iter().flat_map(|op| [(op, false), (op, true)]).collect();
    let row = Mutex::new(Row { rung: 3, what: "an error at every call".into(), ..Row::default() });
    let done = AtomicUsize::new(0);
    parallel(&kinds, setup, |(op, sticky)| {
        let limits = Limits { exhaustive_states: 1 << 10, ..Limits::DEFAULT };
        let limits = setup.limits(limits, Steps::SMALL.block_size);
        let bench = Steps::SMALL.bench::<T>(shape, 1, Options { limits, ..Options::DEFAULT });
        let refuse = Effect::Refuse(DeviceError::Io);
        let result = bench.and_then(|bench| bench.campaign(*op, *sticky, refuse));
        done.fetch_add(1, Ordering::Relaxed);
        let mut row = row.lock().unwrap_or_else(PoisonError::into_inner);
        match result {
            Ok((calls, states)) => {
                row.cases += calls;
                row.states += states;
            }
            Err(what) => row.failures.push(Failure { replay: format!("1:errors.{op:?}.{sticky}"), what }),
        }
        true
    });
    let cut_short = done.into_inner() < kinds.len();
    Row { elapsed: start.elapsed(), cut_short, ..row.into_inner().unwrap_or_else(PoisonError::into_inner) }
}

/// Every bit flipped, and every write lost, misdirected and stale.
fn damages<T: Tree>(shape: &T::Shape, setup: &Setup) -> Row {
    let start = Instant::now();
    let mut row = Row { rung: 4, what: "flipped bits; writes lost, misdirected, stale".into(), ..Row::default() };
    match without_panic(|| Steps::SETTLED.record::<T>(shape, 0)) {
        Ok(recording) => {
            let damages = Damages { recording: &recording, seed: 0, name: "settled", logs_only: false };
            damages.flips(setup, &mut row);
            damages.writes(setup, &mut row);
        }
        Err(what) => row.failures.push(Failure { replay: "0:flips-settled".into(), what }),
    }
    Row { elapsed: start.elapsed(), ..row }
}

/// Streams of operations against a model.
fn operations<T: Tree>(shape: &T::Shape, count: u64, setup: &Setup) -> Row {
    let start = Instant::now();
    let row = Mutex::new(Row { rung: 5, what: "streams of operations".into(), ..Row::default() });
    let seeds: Vec<u64> = (0..count).collect();
    parallel(&seeds, setup, |seed| {
        let result = without_panic(|| streams::run::<T>(shape, &generate(&[], *seed)));
        let mut row = row.lock().unwrap_or_else(PoisonError::into_inner);
        row.cases += 1;
        row.failures.extend(result.err().map(|what| Failure { replay: format!("{seed}:operations"), what }));
        row.failures.len() < setup.max_failures
    });
    let row = row.into_inner().unwrap_or_else(PoisonError::into_inner);
    Row { elapsed: start.elapsed(), cut_short: row.cases < count, ..row }
}

/// One image in a file, through many crashes.
fn endurance<T: Tree>(shape: &T::Shape, cycles: u64, setup: &Setup) -> Row {
    let (start, path) = (Instant::now(), TemporaryPath::new());
    let plan = Plan { steps: Steps::ENDURANCE, seed: 0, cycles, deadline: setup.deadline };
    let mut row = Row { rung: 10, what: "endurance, on a file".into(), ..Row::default() };
    match endure::<T>(shape, plan, path.path()) {
        Ok(endured) => {
            (row.cases, row.states) = (endured.cycles, endured.cycles - endured.clean);
            row.cut_short = endured.cycles < cycles;
        }
        Err((cycle, what)) => row.failures.push(Failure { replay: format!("0:endurance:{cycle}"), what }),
    }
    Row { elapsed: start.elapsed(), ..row }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::client::{Shape, Slots};

    #[test]
    fn no_rung_that_ran_out_of_time_passes_for_a_whole_one() {
        let setup = Setup { deadline: Some(Instant::now()), ..Setup::default() };
        let rows = climb::<Slots>(&Shape { slots: 60, levels: 1 }, 1, &setup);
        let whole: Vec<_> = rows.iter().filter(|row| !row.cut_short).map(|row| row.rung).collect();
        assert!(whole.is_empty(), "{whole:?}");
    }
}
