//! Parts of rung 4 that are about runs, and not about single blocks.
//!
//! ```text
//!   copies-*    a crash at any moment, and one copy of a superblock or header that cannot be read
//!   misreads-*  a commit reads another block than the one it asked for
//!   probes      single guarantees: readers, full volumes, what a killed original left
//!   bare        logs that the original wrote last are the only ones whose stale copies go unnoticed
//! ```

use crate::rung::Context;
use arenite_core::format::BlockSize;
use arenite_shim::config::{Config, Prelude};
use arenite_shim::corrupt::misread_some;
use arenite_shim::corrupt_bare;
use arenite_shim::corrupt_copies::lose_copies;
use arenite_shim::corrupt_writes::Run;
use arenite_shim::explore::Failure;
use arenite_shim::ladder::{parallel, Row};
use arenite_shim::probes;
use arenite_shim::workload::record;
use std::sync::{Mutex, PoisonError};

/// One of these parts: how many cases there were, and a line about them.
pub struct Part {
    /// Second part of the names of its failures.
    pub name: &'static str,
    config: fn(u64) -> Config,
    examine: fn(&Config) -> Result<(u64, String), String>,
}

/// All of them.
pub const PARTS: [Part; 8] = [
    Part { name: "copies-roots", config: roots, examine: copies },
    Part { name: "copies-arenas", config: arenas, examine: copies },
    Part { name: "copies-crowded", config: crowded, examine: copies },
    Part { name: "copies-growing", config: growing, examine: copies },
    Part { name: "misreads-short", config: arenas, examine: misreads },
    Part { name: "misreads-long", config: long, examine: misreads },
    Part { name: "probes", config: arenas, examine: |_| probes::all().map(|()| (6, "all well".into())) },
    Part { name: "bare", config: foreign, examine: bare },
];

/// Commits that change nothing but the roots are among its.
fn roots(seed: u64) -> Config {
    let config = Config { arenas: 2, volume_blocks: 80, slots: 4, delete: 60, settle: 20, ..Config::small(seed) };
    Config { overlap: 30, commits: 12, ..config }
}

fn arenas(seed: u64) -> Config {
    Config { lives: 1, settle: 100, hold: 0, changes: 2, ..Config::arenas(seed) }
}

/// What a commit frees is wanted at once.
fn crowded(seed: u64) -> Config {
    Config { dense: 0, overlap: 60, ..Config::full(seed) }
}

fn growing(seed: u64) -> Config {
    Config { restart: 0, ..Config::growing(seed) }
}

/// Logs of several blocks, long enough in the end to be written anew.
fn long(seed: u64) -> Config {
    Config { lives: 1, settle: 100, hold: 0, commits: 18, ..Config::long_logs(seed) }
}

fn foreign(seed: u64) -> Config {
    Config { lives: 1, settle: 100, hold: 0, commits: 6, prelude: Prelude::Foreign, ..Config::foreign(seed) }
}

fn copies(config: &Config) -> Result<(u64, String), String> {
    let recording = record(config).map_err(|error| format!("{error:?}"))?;
    let tried = lose_copies(&recording)?;
    Ok((tried.mounts, format!("{} mounts without one copy, {} of them refused", tried.mounts, tried.refused)))
}

fn misreads(config: &Config) -> Result<(u64, String), String> {
    let recording = record(config).map_err(|error| format!("{error:?}"))?;
    let mut counts = [0; 3];
    for (_, subject) in &Run::new(&recording)?.moments {
        let more = misread_some(subject)?;
        counts.iter_mut().zip(more).for_each(|(count, more)| *count += more);
    }
    let [noticed, repaired, unread] = counts;
    let text =
        format!("{noticed} answers with another block noticed, {repaired} of no consequence, {unread} never read");
    Ok((counts.iter().sum(), text))
}

fn bare(config: &Config) -> Result<(u64, String), String> {
    let recording = record(config).map_err(|error| format!("{error:?}"))?;
    let tally = corrupt_bare::examine(&recording)?;
    let corrupt_bare::Tally { unnoticed, noticed, untouched, others } = tally;
    let text = format!(
        "stale logs: {noticed} of ours noticed, {unnoticed} of the original's not ({untouched} of them behind a commit \
         of ours to other arenas); {others} other blocks noticed or repaired"
    );
    Ok((unnoticed + noticed + others, text))
}

impl Part {
    fn run(&self, seed: u64, size: BlockSize) -> Result<(u64, String), String> {
        let config = (self.config)(seed);
        (self.examine)(&if size == BlockSize::MIN { config } else { config.production() })
    }

    /// The whole part again.
    pub fn replay(&self, seed: u64, size: BlockSize) -> Result<String, String> {
        self.run(seed, size).map(|(_, text)| text)
    }
}

/// All parts, with blocks of this size, for some seeds.
pub fn climb(seeds: std::ops::Range<u64>, size: BlockSize, context: &Context, row: &mut Row) {
    let jobs: Vec<_> = seeds.flat_map(|seed| PARTS.iter().map(move |part| (seed, part))).collect();
    let found = Mutex::new(Vec::new());
    parallel(&jobs, &context.setup, |(seed, part)| {
        let result = part.run(*seed, size);
        found.lock().unwrap_or_else(PoisonError::into_inner).push((*seed, part.name, result));
        true
    });
    let mut found = found.into_inner().unwrap_or_else(PoisonError::into_inner);
    row.cut_short |= found.len() < jobs.len();
    found.sort_by_key(|(seed, name, _)| (*seed, *name));
    for (seed, name, result) in found {
        match result {
            Ok((cases, text)) => {
                row.cases += cases;
                row.states += cases;
                row.notes.push(format!("{name:<15} seed {seed}: {text}"));
            }
            Err(what) => row.failures.push(Failure { replay: format!("{seed}:{name}:all"), what }),
        }
    }
}
