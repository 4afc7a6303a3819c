//! Rung 6: crash states of runs of several threads: two or four workers that change and read, one that commits, one
//! that only steps; in the order in which the device saw it.
//!
//! What the threads do follows from the seed, when they do it from the host. So a failure comes again with its seed
//! only by chance; replaying a seed makes a new run of the same kind.

use crate::rung::{Planned, Seeded};
use arenite_shim::crash::Limits;
use arenite_shim::crowd::{run, Plan};
use arenite_shim::ladder::Source;

/// The rung.
pub fn rung() -> Seeded {
    let plan = |name: &str, seeds, threads, reorder| {
        let limits = Limits { exhaustive_states: 1 << 8, subset_writes: 8, samples: 100, ..Limits::DEFAULT };
        let record = move |seed| Ok(run(&Plan { threads, commits: 20, changes_per_commit: 24, reorder, seed }, true).0);
        Planned { source: Source::new(name, limits, record), seeds }
    };
    let plans = vec![
        plan("workers2", 12, 2, false),
        plan("workers2-disorder", 12, 2, true),
        plan("workers4-disorder", 4, 4, true),
    ];
    Seeded { number: 6, what: "crash states, several threads", weight: 1, plan: plans }
}
