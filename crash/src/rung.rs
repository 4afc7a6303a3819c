//! What a rung is, and the list of all. A new rung is one file in `rungs` and one line here.

use crate::rungs;
use arenite_shim::client::Slots;
use arenite_shim::ladder::{explore, Row, Setup, Source};

/// How a rung is to be climbed.
#[derive(Clone, Copy, Debug)]
pub struct Context {
    /// Device, threads, deadline.
    pub setup: Setup,
    /// The rung was asked for by its number.
    pub asked: bool,
    /// The long form: everything, and new seeds until the deadline.
    pub long: bool,
    /// So many hundredths of the planned seeds.
    pub scale: u64,
}

/// One rung of the ladder.
pub trait Rung {
    /// Its number in docs/TESTING.md.
    fn number(&self) -> u32;

    /// What it tries, for the table.
    fn what(&self) -> &'static str;

    /// Names of what it is made of, for `--list`.
    fn parts(&self) -> Vec<String>;

    /// Climbs it. Number, text and time of the row are filled in by the caller.
    fn run(&self, context: &Context) -> Row;

    /// Its part of the time of the long form, beside those of the other rungs.
    fn weight(&self) -> u32 {
        1
    }

    /// Judges one state again; `None` if no part of this rung has that name.
    fn replay(&self, seed: u64, trace: &str, name: &str, setup: &Setup) -> Option<Result<String, String>>;
}

/// All rungs that this program has, in order.
pub fn all() -> Vec<Box<dyn Rung>> {
    vec![
        Box::new(rungs::small::rung()),
        Box::new(rungs::production::Production::new()),
        Box::new(rungs::errors::Errors::new()),
        Box::new(rungs::corruption::Corruption),
        Box::new(rungs::fuzzing::Fuzzing),
        Box::new(rungs::threads::rung()),
        Box::new(rungs::miri::Miri),
        Box::new(rungs::kernel::Kernel),
        Box::new(rungs::sabotage::Sabotage),
        Box::new(rungs::endurance::Endurance),
    ]
}

/// A source and how many of its seeds the short form takes.
pub struct Planned {
    /// The source.
    pub source: Source<Slots>,
    /// Seeds of the short form, from 0.
    pub seeds: u64,
}

/// A rung that is nothing but planned seeds.
pub struct Seeded {
    /// Its number in docs/TESTING.md.
    pub number: u32,
    /// What it tries, for the table.
    pub what: &'static str,
    /// Its part of the time of the long form.
    pub weight: u32,
    /// What it explores.
    pub plan: Vec<Planned>,
}

impl Rung for Seeded {
    fn number(&self) -> u32 {
        self.number
    }

    fn what(&self) -> &'static str {
        self.what
    }

    fn parts(&self) -> Vec<String> {
        list_planned(&self.plan)
    }

    fn run(&self, context: &Context) -> Row {
        let mut row = Row::default();
        explore_planned(&self.plan, context, &mut row);
        row
    }

    fn weight(&self) -> u32 {
        self.weight
    }

    fn replay(&self, seed: u64, trace: &str, name: &str, setup: &Setup) -> Option<Result<String, String>> {
        replay_planned(&self.plan, seed, trace, name, setup)
    }
}

/// Explores the planned seeds, and in the long form more of them, round after round.
pub fn explore_planned(plan: &[Planned], context: &Context, row: &mut Row) {
    let mut round = 0;
    loop {
        let seeds = |planned: &Planned| {
            let count = (planned.seeds * context.scale).div_ceil(100);
            count * round..count * (round + 1)
        };
        let mut jobs: Vec<_> = plan
            .iter()
            .flat_map(|planned| {
                let seeds = seeds(planned);
                let (first, count) = (seeds.start, seeds.end - seeds.start);
                seeds.map(move |seed| (((seed - first) << 32) / count, &planned.source, seed))
            })
            .collect();
        // All sources side by side, so that each gets its part of what a deadline leaves.
        jobs.sort_by_key(|(place, ..)| *place);
        let jobs: Vec<_> = jobs.into_iter().map(|(_, source, seed)| (source, seed)).collect();
        explore(&jobs, &context.setup, row);
        round += 1;
        if !context.long || row.cut_short || !row.failures.is_empty() {
            return;
        }
    }
}

/// Judges a state of one of these sources again.
pub fn replay_planned(
    plan: &[Planned],
    seed: u64,
    trace: &str,
    name: &str,
    setup: &Setup,
) -> Option<Result<String, String>> {
    let planned = plan.iter().find(|planned| planned.source.name == trace)?;
    Some(planned.source.replay(seed, name, setup))
}

/// Names and seeds, for `--list`.
pub fn list_planned(plan: &[Planned]) -> Vec<String> {
    plan.iter().map(|planned| format!("{:<16} {} seeds", planned.source.name, planned.seeds)).collect()
}
