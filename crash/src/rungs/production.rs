//! Rung 2: production geometry. Blocks of 16 KiB, 32 sectors each: every prefix, every subset of up to twelve writes an
//! epoch, beyond that losses, survivors and a thousand subsets at random, and one write torn at a time. And every
//! sequence of operations of the public interface.

use crate::rung::{explore_planned, list_planned, replay_planned, Context, Planned, Rung};
use arenite_core::format::BlockSize;
use arenite_shim::config::{Config, Prelude};
use arenite_shim::crash::Limits;
use arenite_shim::explore::Failure;
use arenite_shim::ladder::{explore, Row, Setup, Source};
use arenite_shim::reformat::{explore_format, Formats};
use arenite_shim::sequences::{self, Operation};
use arenite_shim::workload::record;
use std::time::Instant;

/// The rung.
pub struct Production {
    plans: Vec<Planned>,
    /// Sequences of the short form, and of the long one.
    pairs: Planned,
    fours: Planned,
}

/// The name of the traces of cut-off formats.
const FORMAT: &str = "format16";

/// So many formats in the short form.
const FORMATS: u64 = 6;

fn plan(name: &str, seeds: u64, config: fn(u64) -> Config) -> Planned {
    let run = move |seed| record(&config(seed).production()).map_err(|error| format!("{error:?}"));
    Planned { source: Source::new(name, Limits::PRODUCTION, run), seeds }
}

fn sequences_of(name: &str, len: u32) -> Planned {
    let run = move |seed| {
        let recording = sequences::record(seed, len as usize, BlockSize::ORIGINAL);
        recording.map_err(|error| format!("{:?}: {error:?}", Operation::sequence(seed, len as usize)))
    };
    Planned { source: Source::new(name, Limits::PRODUCTION, run), seeds: Operation::sequences(len) }
}

/// Logs of two blocks and more: over a thousand ranges of free blocks in each arena.
fn chains(seed: u64) -> Config {
    Config {
        volume_blocks: 6700,
        slots: 6400,
        lives: 2,
        commits: 2,
        prelude: Prelude::Shattered,
        ..Config::long_logs(seed)
    }
}

impl Production {
    /// The plan.
    pub fn new() -> Self {
        let plans = vec![
            plan("chains16", 1, chains),
            plan("arenas16", 60, Config::arenas),
            plan("dense16", 20, Config::small),
            plan("overlap16", 20, |seed| Config { dense: 10, ..Config::large(seed) }),
            plan("full16", 15, |seed| Config { dense: 0, ..Config::full(seed) }),
            plan("filled16", 15, |seed| Config { dense: 0, prelude: Prelude::Filled, ..Config::full(seed) }),
            plan("restarts16", 20, Config::restarts),
            plan("disorder16", 20, |seed| Config { reorder: true, overlap: 50, ..Config::restarts(seed) }),
            plan("manyarenas16", 6, Config::many_arenas),
            plan("foreign16", 10, Config::foreign),
            plan("discards16", 20, Config::discards),
            plan("growing16", 10, Config::growing),
            plan("growing16x3", 10, |seed| Config { arenas: 3, volume_blocks: 192, ..Config::growing(seed) }),
            plan("repairs16", 20, Config::repairs),
        ];
        Self { plans, pairs: sequences_of("seq2", 2), fours: sequences_of("seq4", 4) }
    }

    fn format(&self, seed: u64, setup: &Setup) -> Result<Formats, String> {
        let config = Config { lives: 1, volume_blocks: 128 + seed % 3, ..Config::arenas(seed) };
        let old = record(&config.production()).map_err(|error| format!("{error:?}"))?;
        explore_format(&old, 2 + seed as u32 % 4, setup.limits(Limits::PRODUCTION, old.block_size))
    }

    fn formats(&self, setup: &Setup, row: &mut Row) {
        for seed in 0..FORMATS {
            row.cases += 1;
            match self.format(seed, setup) {
                Err(what) => row.failures.push(Failure { replay: format!("{seed}:{FORMAT}"), what }),
                Ok(formats) => {
                    let [states, epochs, images] = formats.counts;
                    row.states += states;
                    row.epochs += epochs;
                    row.distinct += images;
                    row.mount_images += images;
                    let part = row.parts.entry(FORMAT.into()).or_default();
                    part.cases += 1;
                    part.states += states;
                    part.distinct += images;
                    part.mount_images += images;
                    row.failures.extend(
                        formats.failures.into_iter().map(|failure| Failure {
                            replay: format!("{seed}:{FORMAT}:{}", failure.replay),
                            ..failure
                        }),
                    );
                }
            }
        }
    }
}

impl Rung for Production {
    fn number(&self) -> u32 {
        2
    }

    fn what(&self) -> &'static str {
        "crash states, 16 KiB blocks"
    }

    fn parts(&self) -> Vec<String> {
        let mut parts = list_planned(&self.plans);
        parts.push(format!("{FORMAT:<16} {FORMATS} seeds"));
        parts.push(format!("{:<16} {} sequences", "seq2", self.pairs.seeds));
        parts.push(format!("{:<16} {} sequences, in the long form", "seq4", self.fours.seeds));
        parts
    }

    fn run(&self, context: &Context) -> Row {
        let mut row = Row::default();
        self.formats(&context.setup, &mut row);
        let explore_sequences = |sequences: &Planned, setup: &Setup, row: &mut Row| {
            let jobs: Vec<_> = (0..sequences.seeds).map(|seed| (&sequences.source, seed)).collect();
            explore(&jobs, setup, row);
        };
        explore_sequences(&self.pairs, &context.setup, &mut row);
        if let Some(deadline) = context.setup.deadline.filter(|_| context.long) {
            // Half of what is left is for other seeds than the sequences have.
            let half = deadline.saturating_duration_since(Instant::now()) / 2;
            let setup = Setup { deadline: Some(Instant::now() + half), ..context.setup };
            explore_sequences(&self.fours, &setup, &mut row);
            let done = row.parts.get("seq4").map_or(0, |part| part.cases);
            row.notes.push(format!("{done} of {} sequences of four operations", self.fours.seeds));
        }
        row.cut_short = false;
        explore_planned(&self.plans, context, &mut row);
        row
    }

    fn weight(&self) -> u32 {
        4
    }

    fn replay(&self, seed: u64, trace: &str, name: &str, setup: &Setup) -> Option<Result<String, String>> {
        if trace == FORMAT {
            return Some(self.format(seed, setup).and_then(|formats| match formats.failures.first() {
                None => Ok(format!("{formats:?}")),
                Some(failure) => Err(failure.to_string()),
            }));
        }
        let sequences = [&self.pairs, &self.fours].into_iter().find(|planned| planned.source.name == trace);
        match sequences {
            Some(planned) => Some(planned.source.replay(seed, name, setup)),
            None => replay_planned(&self.plans, seed, trace, name, setup),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use arenite_shim::corrupt::Subject;

    #[test]
    fn chains_are_logs_of_several_blocks() {
        let recording = record(&chains(0).production()).unwrap();
        let lens = Subject::last_of(&recording).unwrap().log_lens();
        assert!(lens.iter().any(|len| *len > 1), "logs of {lens:?} blocks");
    }
}
