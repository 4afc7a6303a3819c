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
//! of the writes that are tried here is one of those, because they are this store's.

use crate::rung::{Context, Rung};
use arenite_core::format::BlockSize;
use arenite_shim::client::Slots;
use arenite_shim::config::{Config, Prelude};
use arenite_shim::corrupt::{Depth, Examiner, Kind, Outcome, Place, Subject};
use arenite_shim::corrupt_writes::{Fate, Run};
use arenite_shim::explore::Failure;
use arenite_shim::ladder::{parallel, Row, Setup};
use arenite_shim::tree::Recording;
use arenite_shim::workload::record;
use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

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
}

/// What was counted: by what was done and to which field, each outcome.
type Counts = BTreeMap<String, [u64; 3]>;

/// One after the other, with everything that was found.
#[derive(Default)]
struct Book {
    counts: Counts,
    failures: Vec<Failure>,
    jobs: usize,
}

/// Some damages by name, each examined by the caller.
type Examined = Vec<(String, String, Result<Outcome, String>)>;

impl Book {
    fn enter(&mut self, prefix: &str, examined: Examined) {
        for (name, what, result) in examined {
            match result {
                Ok(outcome) => self.counts.entry(what).or_default()[outcome as usize] += 1,
                Err(what) => self.failures.push(Failure { replay: format!("{prefix}:{name}"), what }),
            }
        }
        self.jobs += 1;
    }

    /// Sums up in the row; one line for each field.
    fn close(self, volume: &str, jobs: usize, row: &mut Row) {
        for (what, [detected, repaired, harmless]) in self.counts {
            let all = detected + repaired + harmless;
            row.cases += all;
            row.states += all;
            row.notes.push(format!(
                "{volume:<8} {what:<58} {all:>8}: {detected} detected, {repaired} repaired, {harmless} harmless"
            ));
        }
        row.failures.extend(self.failures);
        row.cut_short |= self.jobs < jobs;
    }
}

/// Every bit of one block. For the first bit of some bytes more is tried than a mount: large volumes take time to read.
fn flip_block(subject: &Subject<Slots>, place: Place, large: bool) -> Examined {
    let mut examiner = Examiner::new(subject);
    let depth = |bit: usize| match (bit % 8, bit % 256, large) {
        (0, _, false) | (_, 0, true) => Depth::Commit,
        (_, _, false) => Depth::Content,
        (_, _, true) => Depth::Mount,
    };
    let bits = subject.block_size.len_bytes() * 8;
    let flip = |bit| {
        let what = format!("bit of {}", subject.field(place, bit / 8));
        (format!("{}.{bit}", place.addr), what, examiner.flip(place, bit, depth(bit)))
    };
    let failed = |(_, _, result): &(String, String, Result<Outcome, String>)| result.is_err();
    let all: Examined = (0..bits).map(flip).collect();
    // One failure of a block is enough; the others are most likely the same.
    let first = all.iter().position(failed);
    all.into_iter().enumerate().filter(|(at, one)| !failed(one) || Some(*at) == first).map(|(_, one)| one).collect()
}

/// Blocks whose bits are flipped: all of metadata, and of the structure the first few.
fn blocks(volume: &Volume, subject: &Subject<Slots>) -> Vec<Place> {
    let mut left = 6;
    let mut taken = |place: &Place| match place.kind {
        Kind::Log(_) => true,
        _ if volume.logs_only => false,
        Kind::Tree => {
            left -= 1;
            left >= 0
        }
        _ => true,
    };
    subject.places().into_iter().filter(|place| taken(place)).collect()
}

fn flips(volume: &Volume, recording: &Recording<Slots>, seed: u64, context: &Context, row: &mut Row) {
    let subject = match Subject::last_of(recording) {
        Ok(subject) => subject,
        Err(what) => {
            row.failures.push(Failure { replay: format!("{seed}:flips-{}", volume.name), what });
            return;
        }
    };
    let lens = subject.log_lens();
    if volume.logs_only && lens.iter().all(|len| *len < 2) {
        let what = format!("logs of {lens:?} blocks, which is too short for what is to be tried");
        row.failures.push(Failure { replay: format!("{seed}:flips-{}", volume.name), what });
    }
    let places = blocks(volume, &subject);
    let book = Mutex::new(Book::default());
    parallel(&places, &context.setup, |place| {
        let examined = flip_block(&subject, *place, volume.logs_only);
        let mut book = book.lock().unwrap_or_else(PoisonError::into_inner);
        book.enter(&format!("{seed}:flips-{}", volume.name), examined);
        book.failures.len() < context.setup.max_failures
    });
    row.notes.push(format!("{:<8} logs of {:?} blocks", volume.name, lens));
    book.into_inner().unwrap_or_else(PoisonError::into_inner).close(volume.name, places.len(), row);
}

/// All fates of one write. It is sent to the place of every other block; of a large volume, to those of metadata and to
/// its neighbours.
fn fates(volume: &Volume, subject: &Subject<Slots>, (place, _): (u64, &[u8])) -> Vec<Fate> {
    let mut fates = vec![Fate::Lost, Fate::Stale { once: true }, Fate::Stale { once: false }];
    let unit = subject.block_size.len_u64();
    if volume.logs_only {
        let metadata = subject.places().into_iter().filter(|place| place.kind != Kind::Tree).map(|place| place.addr);
        let near = [place.saturating_sub(unit), place + unit, place + 2 * unit];
        fates.extend(metadata.chain(near).map(Fate::Misdirected));
    } else {
        fates.extend((0..subject.image.len() as u64 / unit).map(|block| Fate::Misdirected(block * unit)));
    }
    fates
}

fn fate_name(fate: Fate) -> (String, &'static str) {
    match fate {
        Fate::Lost => ("lost".into(), "write lost"),
        Fate::Misdirected(to) => (format!("to.{to}"), "write sent elsewhere"),
        Fate::Stale { once: true } => ("once".into(), "write served stale, once"),
        Fate::Stale { once: false } => ("stale".into(), "write served stale"),
    }
}

/// Everything that can become of the writes of a run, at one moment.
fn fates_at(volume: &Volume, run: &Run<'_, Slots>, moment: usize) -> Examined {
    let mut examined = Examined::new();
    let Some((end, subject)) = run.moments.get(moment) else { return examined };
    let begin = moment.checked_sub(1).and_then(|before| run.moments.get(before)).map_or(0, |(end, _)| *end);
    let mut examiner = Examiner::new(subject);
    for number in run.writes.iter().copied().filter(|number| number < end) {
        let Some(write) = run.write(number) else { continue };
        for fate in fates(volume, subject, write) {
            // Where a write went is tried at the moment after it; that it is missing, at all later ones too.
            if matches!(fate, Fate::Misdirected(_)) && number < begin {
                continue;
            }
            if let Some(result) = run.examine(&mut examiner, moment, number, fate) {
                let (name, what) = fate_name(fate);
                examined.push((format!("{moment}.{number}.{name}"), what.into(), result));
            }
        }
    }
    examined
}

fn writes(volume: &Volume, recording: &Recording<Slots>, seed: u64, context: &Context, row: &mut Row) {
    let prefix = format!("{seed}:writes-{}", volume.name);
    let run = match Run::new(recording) {
        Ok(run) => run,
        Err(what) => return row.failures.push(Failure { replay: prefix, what }),
    };
    let moments: Vec<usize> = (0..run.moments.len()).collect();
    let book = Mutex::new(Book::default());
    parallel(&moments, &context.setup, |moment| {
        let examined = fates_at(volume, &run, *moment);
        let mut book = book.lock().unwrap_or_else(PoisonError::into_inner);
        book.enter(&prefix, examined);
        book.failures.truncate(context.setup.max_failures);
        book.failures.len() < context.setup.max_failures
    });
    book.into_inner().unwrap_or_else(PoisonError::into_inner).close(volume.name, moments.len(), row);
}

impl Corruption {
    /// All damages of the volumes of one seed.
    fn climb(&self, seed: u64, size: BlockSize, context: &Context, row: &mut Row) {
        for volume in &VOLUMES {
            match volume.record(seed, size) {
                Ok(recording) => {
                    flips(volume, &recording, seed, context, row);
                    if volume.writes {
                        writes(volume, &recording, seed, context, row);
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
        VOLUMES.iter().flat_map(both).collect()
    }

    fn run(&self, context: &Context) -> Row {
        let mut row = Row::default();
        self.climb(0, BlockSize::MIN, context, &mut row);
        if context.long && row.failures.is_empty() {
            self.climb(SIXTEEN, BlockSize::ORIGINAL, context, &mut row);
        }
        row
    }

    fn replay(&self, seed: u64, trace: &str, name: &str, _setup: &Setup) -> Option<Result<String, String>> {
        let (kind, volume) = trace.split_once('-')?;
        let volume = VOLUMES.iter().find(|known| known.name == volume)?;
        let size = if seed < SIXTEEN { BlockSize::MIN } else { BlockSize::ORIGINAL };
        let run = || {
            let recording = volume.record(seed, size)?;
            match kind {
                "flips" => replay_flip(&recording, name),
                _ => replay_write(volume, &recording, name),
            }
        };
        matches!(kind, "flips" | "writes").then(run)
    }
}

/// Seeds from here on have blocks of 16 KiB.
const SIXTEEN: u64 = 16_000;

fn replay_flip(recording: &Recording<Slots>, name: &str) -> Result<String, String> {
    let subject = Subject::last_of(recording)?;
    let numbers = name.split_once('.').and_then(|(addr, bit)| Some((addr.parse().ok()?, bit.parse().ok()?)));
    let (addr, bit): (u64, usize) = numbers.ok_or("the last part is address.bit")?;
    let place = subject.places().into_iter().find(|place| place.addr == addr).ok_or("no such block")?;
    let field = subject.field(place, bit / 8);
    let outcome = Examiner::new(&subject).flip(place, bit, Depth::Commit)?;
    Ok(format!("bit {bit} of the block at {addr:#x}, {field}: {outcome:?}"))
}

fn replay_write(volume: &Volume, recording: &Recording<Slots>, name: &str) -> Result<String, String> {
    let run = Run::new(recording)?;
    let bad = "the last part is moment.write.fate";
    let mut parts = name.splitn(3, '.');
    let moment: usize = parts.next().and_then(|part| part.parse().ok()).ok_or(bad)?;
    let number: usize = parts.next().and_then(|part| part.parse().ok()).ok_or(bad)?;
    let fate = parts.next().ok_or(bad)?;
    let (_, subject) = run.moments.get(moment).ok_or("no such moment")?;
    let fates = fates(volume, subject, run.write(number).ok_or("no such write")?);
    let fate = fates.into_iter().find(|known| fate_name(*known).0 == fate).ok_or(bad)?;
    let outcome = run.examine(&mut Examiner::new(subject), moment, number, fate).ok_or("it changes nothing")??;
    Ok(format!("write {number} {fate:?}: {outcome:?}"))
}

#[cfg(test)]
mod tests {
    use super::*;

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
