//! Rung 1: small geometry. Blocks of 2 KiB, four sectors each; every subset and every tear of every flush epoch of up
//! to four writes; of larger ones what the rung for large blocks does too, with subsets of up to eight writes and fewer
//! samples.

use crate::rung::{Planned, Seeded};
use arenite_shim::config::{Config, Prelude};
use arenite_shim::crash::Limits;
use arenite_shim::ladder::Source;
use arenite_shim::workload::record;

/// The rung.
pub fn rung() -> Seeded {
    let plan = |name: &str, seeds, config: fn(u64) -> Config| {
        let limits = Limits { subset_writes: 8, ..Limits::DEFAULT };
        let run = move |seed| record(&config(seed)).map_err(|error| format!("{error:?}"));
        Planned { source: Source { deep_every: 4, ..Source::new(name, limits, run) }, seeds }
    };
    let mut plans = vec![
        plan("sparse", 60, |seed| Config { dense: 0, ..Config::small(seed) }),
        plan("dense", 40, Config::small),
        plan("arenas", 120, Config::arenas),
        plan("overlap", 30, Config::large),
        plan("full", 30, |seed| Config { dense: 0, ..Config::full(seed) }),
        plan("filled", 30, |seed| Config { dense: 0, prelude: Prelude::Filled, ..Config::full(seed) }),
        plan("longlogs", 20, Config::long_logs),
        plan("linkedlogs", 10, Config::linked_logs),
        plan("restarts", 60, Config::restarts),
        plan("disorder", 30, |seed| Config { reorder: true, overlap: 50, ..Config::restarts(seed) }),
        plan("manyarenas", 10, Config::many_arenas),
        plan("foreign", 40, Config::foreign),
        plan("interrupted", 20, Config::interrupted),
        plan("discards", 60, Config::discards),
        plan("growing", 40, Config::growing),
    ];
    let mut thrice = plan("thrice", 10, |seed| Config { commits: 3, ..Config::arenas(1000 + seed) });
    thrice.source.max_crashes = 3;
    plans.push(thrice);
    Seeded { number: 1, what: "crash states, 2 KiB blocks", weight: 3, plan: plans }
}
