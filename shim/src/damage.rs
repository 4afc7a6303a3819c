//! All damages of a volume or of a run, one after the other, counted by outcome: rung 4, for any structure.
//!
//! ```text
//!   flips   every bit of every block of metadata, and of the first blocks of the structure
//!   writes  every write of a run of settled commits: lost, sent to the place of another block, served stale
//! ```
//!
//! What may come of each is in [`crate::corrupt`].
#![forbid(unsafe_code)]

use crate::corrupt::{Depth, Examiner, Kind, Outcome, Place, Subject};
use crate::corrupt_writes::{Fate, Run};
use crate::explore::Failure;
use crate::ladder::{parallel, Row, Setup};
use crate::tree::{Recording, Tree};
use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

/// Blocks of the structure whose bits are flipped.
const TREE_BLOCKS: usize = 6;

/// What is damaged, and what its failures are called: `seed:flips-name:address.bit`, `seed:writes-name:...`.
#[derive(Debug)]
pub struct Damages<'r, T: Tree> {
    /// The run; for [`Damages::writes`] one life, each commit settled before the next one begins.
    pub recording: &'r Recording<T>,
    /// The seed that it came from.
    pub seed: u64,
    /// Its name.
    pub name: &'r str,
    /// The volume is large, and its logs are what it is for: bits of no other block are flipped, and few of them are
    /// followed further than to the mount.
    pub logs_only: bool,
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
fn flip_block<T: Tree>(subject: &Subject<T>, place: Place, large: bool) -> Examined {
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

impl<T: Tree> Damages<'_, T> {
    /// Blocks whose bits are flipped: all of metadata, and of the structure the first few.
    fn blocks(&self, subject: &Subject<T>) -> Vec<Place> {
        let (tree, metadata): (Vec<_>, Vec<_>) =
            subject.places().into_iter().partition(|place| place.kind == Kind::Tree);
        if self.logs_only {
            return metadata.into_iter().filter(|place| matches!(place.kind, Kind::Log(_))).collect();
        }
        metadata.into_iter().chain(tree.into_iter().take(TREE_BLOCKS)).collect()
    }

    /// Flips bits of what the run leaves behind.
    pub fn flips(&self, setup: &Setup, row: &mut Row) {
        let prefix = format!("{}:flips-{}", self.seed, self.name);
        let subject = match Subject::last_of(self.recording) {
            Ok(subject) => subject,
            Err(what) => return row.failures.push(Failure { replay: prefix, what }),
        };
        let lens = subject.log_lens();
        if self.logs_only && lens.iter().all(|len| *len < 2) {
            let what = format!("logs of {lens:?} blocks, which is too short for what is to be tried");
            row.failures.push(Failure { replay: prefix.clone(), what });
        }
        let places = self.blocks(&subject);
        let book = Mutex::new(Book::default());
        parallel(&places, setup, |place| {
            let examined = flip_block(&subject, *place, self.logs_only);
            let mut book = book.lock().unwrap_or_else(PoisonError::into_inner);
            book.enter(&prefix, examined);
            book.failures.len() < setup.max_failures
        });
        row.notes.push(format!("{:<8} logs of {:?} blocks", self.name, lens));
        book.into_inner().unwrap_or_else(PoisonError::into_inner).close(self.name, places.len(), row);
    }

    /// Everything that can become of each write of the run.
    pub fn writes(&self, setup: &Setup, row: &mut Row) {
        let prefix = format!("{}:writes-{}", self.seed, self.name);
        let run = match Run::new(self.recording) {
            Ok(run) => run,
            Err(what) => return row.failures.push(Failure { replay: prefix, what }),
        };
        let moments: Vec<usize> = (0..run.moments.len()).collect();
        let book = Mutex::new(Book::default());
        parallel(&moments, setup, |moment| {
            let examined = fates_at(self.logs_only, &run, *moment);
            let mut book = book.lock().unwrap_or_else(PoisonError::into_inner);
            book.enter(&prefix, examined);
            book.failures.truncate(setup.max_failures);
            book.failures.len() < setup.max_failures
        });
        book.into_inner().unwrap_or_else(PoisonError::into_inner).close(self.name, moments.len(), row);
    }

    /// Does one damage again, by the last part of its name.
    pub fn replay(&self, kind: &str, name: &str) -> Result<String, String> {
        match kind {
            "flips" => self.replay_flip(name),
            _ => self.replay_write(name),
        }
    }

    fn replay_flip(&self, name: &str) -> Result<String, String> {
        let subject = Subject::last_of(self.recording)?;
        let numbers = name.split_once('.').and_then(|(addr, bit)| Some((addr.parse().ok()?, bit.parse().ok()?)));
        let (addr, bit): (u64, usize) = numbers.ok_or("the last part is address.bit")?;
        let place = subject.places().into_iter().find(|place| place.addr == addr).ok_or("no such block")?;
        let field = subject.field(place, bit / 8);
        let outcome = Examiner::new(&subject).flip(place, bit, Depth::Commit)?;
        Ok(format!("bit {bit} of the block at {addr:#x}, {field}: {outcome:?}"))
    }

    fn replay_write(&self, name: &str) -> Result<String, String> {
        let run = Run::new(self.recording)?;
        let bad = "the last part is moment.write.fate";
        let mut parts = name.splitn(3, '.');
        let moment: usize = parts.next().and_then(|part| part.parse().ok()).ok_or(bad)?;
        let number: usize = parts.next().and_then(|part| part.parse().ok()).ok_or(bad)?;
        let fate = parts.next().ok_or(bad)?;
        let (_, subject) = run.moments.get(moment).ok_or("no such moment")?;
        let fates = fates(self.logs_only, subject, run.write(number).ok_or("no such write")?);
        let fate = fates.into_iter().find(|known| fate_name(*known).0 == fate).ok_or(bad)?;
        let outcome = run.examine(&mut Examiner::new(subject), moment, number, fate).ok_or("it changes nothing")??;
        Ok(format!("write {number} {fate:?}: {outcome:?}"))
    }
}

/// All fates of one write. It is sent to the place of every other block; of a large volume, to those of metadata and to
/// its neighbours.
fn fates<T: Tree>(logs_only: bool, subject: &Subject<T>, (place, _): (u64, &[u8])) -> Vec<Fate> {
    let mut fates = vec![Fate::Lost, Fate::Stale { once: true }, Fate::Stale { once: false }];
    let unit = subject.block_size.len_u64();
    if logs_only {
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
fn fates_at<T: Tree>(logs_only: bool, run: &Run<'_, T>, moment: usize) -> Examined {
    let mut examined = Examined::new();
    let Some((end, subject)) = run.moments.get(moment) else { return examined };
    let begin = moment.checked_sub(1).and_then(|before| run.moments.get(before)).map_or(0, |(end, _)| *end);
    let mut examiner = Examiner::new(subject);
    for number in run.writes.iter().copied().filter(|number| number < end) {
        let Some(write) = run.write(number) else { continue };
        for fate in fates(logs_only, subject, write) {
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
