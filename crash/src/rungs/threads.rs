//! Rung 6: crash states of runs of several threads: two workers that change and read, one that commits, one that only
//! steps; in the order in which the device saw it.
//!
//! What the threads do follows from the seed, when they do it from the host. So a failure comes again with its seed
//! only by chance; replaying a seed makes a new run of the same kind.

use crate::rung::{explore_planned, list_planned, replay_planned, Context, Planned, Rung};
use arenite_shim::crash::Limits;
use arenite_shim::crowd::{run, Plan};
use arenite_shim::ladder::{Row, Setup, Source};

/// The rung.
pub struct Threads(Vec<Planned>);

impl Threads {
    /// The plan.
    pub fn new() -> Self {
        let plan = |name: &str, seeds, threads, reorder| {
            let limits = Limits { exhaustive_states: 1 << 8, subset_writes: 8, samples: 100, ..Limits::DEFAULT };
            let record =
                move |seed| Ok(run(&Plan { threads, commits: 20, changes_per_commit: 24, reorder, seed }, true).0);
            Planned { source: Source::new(name, limits, record), seeds }
        };
        Self(vec![
            plan("workers2", 12, 2, false),
            plan("workers2-disorder", 12, 2, true),
            plan("workers4-disorder", 4, 4, true),
        ])
    }
}

impl Rung for Threads {
    fn number(&self) -> u32 {
        6
    }

    fn what(&self) -> &'static str {
        "crash states, several threads"
    }

    fn parts(&self) -> Vec<String> {
        list_planned(&self.0)
    }

    fn run(&self, context: &Context) -> Row {
        let mut row = Row::default();
        explore_planned(&self.0, context, &mut row);
        row
    }

    fn replay(&self, seed: u64, trace: &str, name: &str, setup: &Setup) -> Option<Result<String, String>> {
        replay_planned(&self.0, seed, trace, name, setup)
    }
}
