//! Rung 1: small geometry. Blocks of 2 KiB, four sectors each; every subset and every tear of every flush epoch of up
//! to four writes, and of larger ones what the rung for large blocks does too.

use crate::rung::{explore_planned, list_planned, replay_planned, Context, Planned, Rung};
use arenite_shim::config::{Config, Prelude};
use arenite_shim::crash::Limits;
use arenite_shim::ladder::{Row, Setup, Source};
use arenite_shim::workload::record;

/// The rung.
pub struct Small(Vec<Planned>);

impl Small {
    /// The plan.
    pub fn new() -> Self {
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
            plan("restarts", 60, Config::restarts),
            plan("disorder", 30, |seed| Config { reorder: true, overlap: 50, ..Config::restarts(seed) }),
            plan("manyarenas", 10, Config::many_arenas),
            plan("foreign", 40, Config::foreign),
            plan("discards", 60, Config::discards),
            plan("growing", 40, Config::growing),
        ];
        let mut thrice = plan("thrice", 10, |seed| Config { commits: 3, ..Config::arenas(1000 + seed) });
        thrice.source.max_crashes = 3;
        plans.push(thrice);
        Self(plans)
    }
}

impl Rung for Small {
    fn number(&self) -> u32 {
        1
    }

    fn what(&self) -> &'static str {
        "crash states, 2 KiB blocks"
    }

    fn parts(&self) -> Vec<String> {
        list_planned(&self.0)
    }

    fn run(&self, context: &Context) -> Row {
        let mut row = Row::default();
        explore_planned(&self.0, context, &mut row);
        row
    }

    fn weight(&self) -> u32 {
        3
    }

    fn replay(&self, seed: u64, trace: &str, name: &str, setup: &Setup) -> Option<Result<String, String>> {
        replay_planned(&self.0, seed, trace, name, setup)
    }
}
