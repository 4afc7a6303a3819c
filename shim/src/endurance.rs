//! Endurance: one image in a file, mounted, worked on, cut off from power, mounted again, thousands of times.
//!
//! ```text
//!   file --mount--> work, recorded --+-- cut anywhere --> last epoch --> some of its pending sectors
//!     ^                              |                                            |
//!     +---------- written, synced ---+------------------------- judged -----------+
//! ```
//!
//! Each cycle works on the file through [`FileDevice`], with the calls of a real disk. Then the record of the cycle is
//! cut at any event, from the first of the mount to the last of the unmount, and one of the crash states of the epoch
//! in which it ends is drawn: every pending sector there or lost ([`CrashSpace::draw`]). A copy of it in memory has to
//! pass the judge of all crash states ([`crate::oracle`]); then the file is made to hold it, and the next cycle goes on
//! from there. Some cycles end in good order instead; the file must then hold exactly what was written.
//!
//! What a volume gathers over a long life is what this is for: leaks of one block in a thousand commits, logs that are
//! appended to and rewritten, generations far from each other. At the end the space is exact and both copies of
//! everything are good.
//!
//! Everything follows from the seed; cycle *n* is tried again by running the ones in front of it once more.
#![forbid(unsafe_code)]

use crate::check::{check_volume, RawVolume, Rule};
use crate::crash::{CrashSpace, Limits};
use crate::explore::without_panic;
use crate::file::{create_file, FileDevice, FileOptions};
use crate::image::ReadAt;
use crate::oracle::{mount, Judge};
use crate::platform::{reset_patience, ImpatientPlatform};
use crate::point::{Mask, Point, Tear};
use crate::record::{Recorder, Tape};
use crate::rng::Rng;
use crate::room::Room;
use crate::steps::{Steps, Work};
use crate::trace::{ends_an_epoch, Epoch, Trace, SECTOR_LEN_BYTES};
use crate::tree::{End, Log, Script, Snapshot, Tree};
use arenite_core::{Error, FormatOptions, Store};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::Arc;
use std::time::Instant;

/// One cycle in so many ends in good order.
const CLEAN_EVERY: u64 = 8;

/// What a run is like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Plan {
    /// The volume, and the work of each cycle; `lives` and `reorder` do not count.
    pub steps: Steps,
    /// Everything random follows from it.
    pub seed: u64,
    /// Cycles.
    pub cycles: u64,
    /// When to stop, if not done by then.
    pub deadline: Option<Instant>,
}

/// What was done.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Endured {
    /// Cycles, each of which began with a mount.
    pub cycles: u64,
    /// Of these, the ones that ended in good order.
    pub clean: u64,
    /// Commits that were acknowledged before the end of their cycle.
    pub commits: u64,
    /// Sectors that were pending at a crash.
    pub pending_sectors: u64,
    /// Of these, the ones that were lost.
    pub lost_sectors: u64,
    /// Crashes after which the commit in flight was there.
    pub in_flight_shown: u64,
    /// Generation at the end.
    pub generation: u64,
}

/// The cycle that failed, and how.
pub type Broken = (u64, String);

/// A run in progress.
struct Run<'p, T: Tree> {
    path: &'p Path,
    work: Work<T>,
    room: Room,
    judge: Judge<T>,
    rng: Rng,
    found: Endured,
}

/// Makes a new file and runs on it; it is left as the last cycle leaves it.
pub fn endure<T: Tree>(shape: &T::Shape, plan: Plan, path: &Path) -> Result<Endured, Broken> {
    let begun = without_panic(|| Run::<T>::begin(shape, plan, path));
    let mut run = begun.map_err(|what| (0, what))?;
    for number in 0..plan.cycles {
        if plan.deadline.is_some_and(|deadline| Instant::now() > deadline) {
            break;
        }
        without_panic(|| run.cycle()).map_err(|what| (number, what))?;
    }
    let cycles = run.found.cycles;
    without_panic(|| run.finish()).map_err(|what| (cycles, format!("at the end: {what}")))?;
    Ok(run.found)
}

/// A path for a file that goes away with this value.
#[derive(Debug)]
pub struct TemporaryPath(PathBuf);

impl TemporaryPath {
    /// A path that no other value has.
    pub fn new() -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        Self(std::env::temp_dir().join(format!("arenite-endurance-{}-{number}.img", std::process::id())))
    }

    /// The path.
    pub fn path(&self) -> &Path {
        &self.0
    }
}

impl Default for TemporaryPath {
    fn default() -> Self {
        Self::new()
    }
}

impl Drop for TemporaryPath {
    fn drop(&mut self) {
        // Nothing depends on it, and there may be none.
        let _ = std::fs::remove_file(&self.0);
    }
}

fn open<'m>(path: &Path) -> Result<FileDevice<'m>, String> {
    FileDevice::open(path, FileOptions::default()).map_err(|error| format!("{}: {error}", path.display()))
}

fn bytes_of(file: &FileDevice<'_>) -> Result<Vec<u8>, String> {
    let mut bytes = vec![0; file.len_bytes() as usize];
    file.read_at(0, &mut bytes).map_err(|error| error.to_string())?;
    Ok(bytes)
}

/// Makes a file hold these bytes, durably.
fn put(path: &Path, image: &[u8]) -> Result<(), String> {
    let file = open(path)?;
    let now = bytes_of(&file)?;
    let sectors = now.chunks(SECTOR_LEN_BYTES).zip(image.chunks(SECTOR_LEN_BYTES));
    for (number, (_, new)) in (0..).zip(sectors).filter(|(_, (old, new))| old != new) {
        file.write_at(number * SECTOR_LEN_BYTES as u64, new).map_err(|error| error.to_string())?;
    }
    file.sync().map_err(|error| error.to_string())
}

impl<'p, T: Tree> Run<'p, T> {
    fn begin(shape: &T::Shape, plan: Plan, path: &'p Path) -> Result<Self, String> {
        let (size, len_bytes) = (plan.steps.block_size, plan.steps.volume_blocks * plan.steps.block_size.len_u64());
        create_file(path, len_bytes).map_err(|error| format!("{}: {error}", path.display()))?;
        let mut room = Room::new(size, len_bytes);
        let file = open(path)?;
        let options = FormatOptions { block_size: size, arenas: plan.steps.arenas, force: false };
        let resources = room.fresh().ok_or("memory is taken")?;
        let store = Store::format(resources, &file, &ImpatientPlatform, options);
        let store = store.map_err(|failed| format!("format: {}", failed.error))?;
        let log = Log::new(store.roots(), T::open(shape, &store)?.content());
        store.unmount().map_err(|error| format!("unmount: {error}"))?;
        drop(file);
        Ok(Self {
            path,
            work: Work::new(plan.steps, shape.clone(), plan.seed, log),
            room,
            judge: Judge::new(shape.clone(), size, len_bytes),
            rng: Rng::new(plan.seed ^ 0x656e_6475_7265),
            found: Endured::default(),
        })
    }

    /// Mount, work, crash.
    fn cycle(&mut self) -> Result<(), String> {
        let (mut trace, end) = self.live()?;
        self.found.cycles += 1;
        if end == End::Unmount && self.rng.chance(1, CLEAN_EVERY) {
            self.found.clean += 1;
            return self.end_well(&trace);
        }
        let mut cut = self.rng.below(trace.events.len() as u64 + 1) as usize;
        if self.rng.chance(1, 2) {
            // At the end of the epoch, where most is pending.
            cut += trace.events[cut..].iter().take_while(|event| !ends_an_epoch(event)).count();
        }
        trace.events.truncate(cut);
        let epoch = trace.last_epoch(0);
        let space = CrashSpace::new(&epoch, Limits::DEFAULT);
        let point = space.draw(&mut self.rng);
        self.crash(&epoch, &space, &point).map_err(|what| format!("{}:{point}: {what}", epoch.index))
    }

    /// One life on the file, and what its device saw.
    fn live(&mut self) -> Result<(Trace, End), String> {
        reset_patience();
        let tape = Tape::new();
        self.work.put_on_tape(&tape);
        let Self { path, work, room, .. } = self;
        let file = open(path)?;
        let base = bytes_of(&file)?.into();
        let device = Recorder::new(file, Arc::clone(&tape));
        let store = mount(room.fresh().ok_or("memory is taken")?, &device)?;
        let end = work.live(&store, None).map_err(|error| format!("{error:?}"))?;
        match end {
            End::Unmount => store.unmount().map_err(|error| format!("unmount: {error}"))?,
            // Gone, with all that it had under way.
            End::GoDown => std::mem::forget(store),
        }
        Ok((tape.trace(base), end))
    }

    /// After an unmount the file holds all that was written, and the last commit.
    fn end_well(&mut self, trace: &Trace) -> Result<(), String> {
        let epoch = trace.last_epoch(0);
        let space = CrashSpace::new(&epoch, Limits::DEFAULT);
        let mut choice = Vec::new();
        space.choose(&Point::Writes(Mask::Prefix(space.writes()), Tear::None), &mut choice);
        space.apply(&choice, self.judge.disk()).map_err(|error| error.to_string())?;
        let image = self.judge.disk().snapshot();
        if bytes_of(&open(self.path)?)? != *image {
            return Err("the file does not hold what was written".into());
        }
        self.go_on(&[epoch.acknowledged])
    }

    /// Puts a crash state in the place of what the file holds, if it is a good one.
    fn crash(&mut self, epoch: &Epoch, space: &CrashSpace<'_>, point: &Point) -> Result<(), String> {
        let mut choice = Vec::new();
        space.choose(point, &mut choice);
        space.apply(&choice, self.judge.disk()).map_err(|error| error.to_string())?;
        let image = self.judge.disk().snapshot();
        self.found.pending_sectors += choice.len() as u64;
        self.found.lost_sectors += choice.iter().filter(|option| **option == 0).count() as u64;
        put(self.path, &image)?;
        self.go_on(&[epoch.acknowledged, epoch.begun])
    }

    /// Judges what is on the judge's disk; the next cycle must find the commit that is shown, which is one of these.
    fn go_on(&mut self, may_show: &[usize]) -> Result<(), String> {
        let log = self.work.log();
        let model: Vec<Snapshot<T::Content>> = may_show.iter().map(|number| log.model[*number].clone()).collect();
        let verdict = self.judge.judge(&model, false, |_| false)?;
        let acknowledged = may_show.first().copied().unwrap_or(0);
        self.found.commits += acknowledged as u64;
        self.found.in_flight_shown += u64::from(verdict.shown != 0);
        let shown = model.into_iter().nth(verdict.shown).ok_or("no such commit")?;
        let mut next = Log::new(shown.roots, shown.content);
        next.model[0].generation = shown.generation;
        self.work.set_log(next);
        Ok(())
    }

    /// One commit more; then space is exact, on the file and in the store, and every copy is good.
    fn finish(&mut self) -> Result<(), String> {
        reset_patience();
        let failed = |error: Error| error.to_string();
        let (expected, shape) = (self.work.log().model[0].clone(), self.work.shape().clone());
        let file = open(self.path)?;
        let store = mount(self.room.fresh().ok_or("memory is taken")?, &file)?;
        let mut tree = T::open(&shape, &store)?;
        if store.roots() != expected.roots || tree.content() != expected.content {
            return Err("the content is not that of the last commit".into());
        }
        tree.change(&store, &mut self.rng).map_err(failed)?;
        self.found.generation = store.commit(tree.prepare(&store).map_err(failed)?).map_err(failed)?;
        store.settle().map_err(failed)?;
        let report = check_volume(&file, Some(&store), tree.addresses()).map_err(|error| error.to_string())?;
        if let Some(problem) = report.problems.first() {
            return Err(format!("space: {problem}, and {} more problems", report.problems.len() - 1));
        }
        store.unmount().map_err(failed)?;
        let raw = RawVolume::read(&file, Rule::Sealed).map_err(|error| error.to_string())?;
        let copies = raw.arenas.iter().map(|arena| arena.copies_good).chain([raw.copies_good]);
        match copies.flatten().all(|good| good) {
            true => Ok(()),
            false => Err("a copy of a header or superblock is not good".into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::client::{Shape, Slots};

    const SHAPE: Shape = Shape { slots: 60, levels: 1 };

    fn plan(cycles: u64) -> Plan {
        Plan { steps: Steps::ENDURANCE, seed: 3, cycles, deadline: None }
    }

    #[test]
    fn the_same_seed_endures_the_same() {
        let run = || endure::<Slots>(&SHAPE, plan(12), TemporaryPath::new().path()).unwrap();
        let endured = run();
        assert_eq!(endured, run());
        assert_eq!(endured.cycles, 12);
        assert!(endured.commits > 6 && endured.lost_sectors > 10, "{endured:?}");
    }

    #[test]
    fn an_older_volume_and_a_lost_write_are_noticed() {
        let path = TemporaryPath::new();
        let mut run = Run::<Slots>::begin(&SHAPE, plan(4), path.path()).unwrap();
        let before = bytes_of(&open(path.path()).unwrap()).unwrap();
        while run.found.commits == 0 {
            run.cycle().unwrap();
        }
        let after = bytes_of(&open(path.path()).unwrap()).unwrap();
        put(path.path(), &before).unwrap();
        assert!(run.finish().unwrap_err().contains("content"));
        assert!(run.cycle().unwrap_err().contains("Content"));
        put(path.path(), &after).unwrap();
        let (trace, _) = run.live().unwrap();
        put(path.path(), &after).unwrap();
        assert!(run.end_well(&trace).unwrap_err().contains("what was written"));
    }
}
