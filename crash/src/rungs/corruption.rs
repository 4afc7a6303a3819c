//! Rung 4: corruption. Every bit of every block of metadata flipped, one at a time; every write of a recorded run lost,
//! sent to the place of every other block, or served stale. Detected, repaired, or of no consequence, and never a wrong
//! byte (see `arenite_shim::corrupt`).
//!
//! ```text
//!   flips-short   superblocks, headers, logs of one block, the structure
//!   flips-long    logs of several linked blocks
//!   flips-foreign the same, as the original leaves a volume
//!   writes-*      the writes of a run on one of the first two
//! ```
//!
//! Where the original wrote a log last, nothing vouches for it: that such a write is lost or stale cannot be seen. None
//! of the writes that are tried here is one of those, because they are this store's; the part `bare` of
//! `corruption_runs` shows where that exception begins and ends.

use super::corruption_runs;
use crate::rung::{Context, Rung};
use arenite_core::format::BlockSize;
use arenite_shim::client::Slots;
use arenite_shim::config::{Config, Prelude};
use arenite_shim::damage::Damages;
use arenite_shim::explore::Failure;
use arenite_shim::ladder::{Row, Setup};
use arenite_shim::tree::Recording;
use arenite_shim::workload::record;

/// The rung.
pub struct Corruption;

/// A volume to be damaged.
struct Volume {
    name: &'static str,
    config: fn(u64, BlockSize) -> Config,
    /// Whether its logs are what it is for: their bits are flipped, and those of no other block.
    logs_only: bool,
    /// Every write of its run, too.
    writes: bool,
}

const VOLUMES: [Volume; 3] = [
    Volume { name: "short", config: short, logs_only: false, writes: true },
    Volume { name: "long", config: long, logs_only: true, writes: true },
    Volume { name: "foreign", config: foreign, logs_only: false, writes: false },
];

fn short(seed: u64, block_size: BlockSize) -> Config {
    let config =
        Config { block_size, arenas: 2, volume_blocks: 80, slots: 10, lives: 1, settle: 100, ..Config::small(seed) };
    Config { levels: 2, commits: 5, changes: 3, dense: 50, hold: 0, ..config }
}

/// Free space in so many pieces that a log has several blocks: of 16 KiB it takes two thousand entries for one.
fn long(seed: u64, block_size: BlockSize) -> Config {
    let config =
        Config { block_size, arenas: 2, lives: 1, commits: 3, settle: 100, hold: 0, ..Config::long_logs(seed) };
    if block_size != BlockSize::MIN {
        return Config { volume_blocks: 6700, slots: 6400, prelude: Prelude::Shattered, ..config };
    }
    Config { volume_blocks: 2400, slots: 1900, prelude: Prelude::Filled, changes: 1100, delete: 97, ..config }
}

fn foreign(seed: u64, block_size: BlockSize) -> Config {
    Config { prelude: Prelude::Foreign, commits: 0, ..short(seed, block_size) }
}

impl Volume {
    fn record(&self, seed: u64, size: BlockSize) -> Result<Recording<Slots>, String> {
        record(&(self.config)(seed, size)).map_err(|error| format!("{error:?}"))
    }

    fn damages<'r>(&'r self, recording: &'r Recording<Slots>, seed: u64) -> Damages<'r, Slots> {
        Damages { recording, seed, name: self.name, logs_only: self.logs_only }
    }
}

impl Corruption {
    /// All damages of the volumes of one seed.
    fn climb(&self, seed: u64, size: BlockSize, context: &Context, row: &mut Row) {
        for volume in &VOLUMES {
            match volume.record(seed, size) {
                Ok(recording) => {
                    let damages = volume.damages(&recording, seed);
                    damages.flips(&context.setup, row);
                    if volume.writes {
                        damages.writes(&context.setup, row);
                    }
                }
                Err(what) => row.failures.push(Failure { replay: format!("{seed}:flips-{}", volume.name), what }),
            }
        }
    }
}

impl Rung for Corruption {
    fn number(&self) -> u32 {
        4
    }

    fn what(&self) -> &'static str {
        "flipped bits; writes lost, misdirected, stale"
    }

    fn parts(&self) -> Vec<String> {
        let both = |volume: &Volume| {
            let flips = format!("flips-{:<10} every bit of metadata", volume.name);
            let writes = format!("writes-{:<9} every write lost, sent elsewhere, stale", volume.name);
            std::iter::once(flips).chain(volume.writes.then_some(writes)).collect::<Vec<_>>()
        };
        let runs = corruption_runs::PARTS.iter().map(|part| part.name.into());
        VOLUMES.iter().flat_map(both).chain(runs).collect()
    }

    fn run(&self, context: &Context) -> Row {
        let mut row = Row::default();
        self.climb(0, BlockSize::MIN, context, &mut row);
        let seeds = if context.long { 0..20 } else { 0..3 };
        corruption_runs::climb(seeds, BlockSize::MIN, context, &mut row);
        if context.long && row.failures.is_empty() {
            self.climb(SIXTEEN, BlockSize::ORIGINAL, context, &mut row);
            corruption_runs::climb(SIXTEEN..SIXTEEN + 3, BlockSize::ORIGINAL, context, &mut row);
        }
        row
    }

    fn replay(&self, seed: u64, trace: &str, name: &str, _setup: &Setup) -> Option<Result<String, String>> {
        let size = if seed < SIXTEEN { BlockSize::MIN } else { BlockSize::ORIGINAL };
        if let Some(part) = corruption_runs::PARTS.iter().find(|part| part.name == trace) {
            return Some(part.replay(seed, size));
        }
        let (kind, volume) = trace.split_once('-')?;
        let volume = VOLUMES.iter().find(|known| known.name == volume)?;
        let run = || {
            let recording = volume.record(seed, size)?;
            volume.damages(&recording, seed).replay(kind, name)
        };
        matches!(kind, "flips" | "writes").then(run)
    }
}

/// Seeds from here on have blocks of 16 KiB.
const SIXTEEN: u64 = 16_000;

#[cfg(test)]
mod tests {
    use super::*;
    use arenite_shim::corrupt::Subject;

    #[test]
    fn long_logs_are_chains_at_both_sizes() {
        for (seed, size) in [(0, BlockSize::MIN), (SIXTEEN, BlockSize::ORIGINAL)] {
            for volume in VOLUMES.iter().filter(|volume| volume.logs_only) {
                let recording = volume.record(seed, size).unwrap();
                let lens = Subject::last_of(&recording).unwrap().log_lens();
                assert!(lens.iter().any(|len| *len > 1), "{} of {size:?}: {lens:?}", volume.name);
            }
        }
    }
}
