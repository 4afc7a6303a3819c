//! The judge of one crash state.
//!
//! A state is good when
//! 1. mount succeeds;
//! 2. it shows one of the commits that the model knows, whole: roots, generation, and every block's content;
//! 3. the free map is the complement of what is reachable, the logs, and the two blocks at each arena's end, both on
//!    disk and in the store; by the bare rule of the original a log of several blocks reads the same, or not at all;
//! 4. a further commit works; after it, both copies of everything are good, the bare rule of the original reads the
//!    same free space as the sealed one, and a remount shows the new commit, whole, with its space exact.
//!
//! Whether the commit that is shown is one that may be shown is for the caller to say.
#![forbid(unsafe_code)]

use crate::check::{check_volume, RawVolume, Rule};
use crate::disk::Disk;
use crate::image::ReadAt;
use crate::mem::{MemDevice, MemOptions};
use crate::platform::{reset_patience, ImpatientPlatform};
use crate::record::{Places, ReadLog, Reads, Recorder, Tape};
use crate::rng::Rng;
use crate::room::Room;
use crate::tree::{Log, Recording, Snapshot, Tree};
use arenite_core::format::BlockSize;
use arenite_core::{Device, Error, MountOptions, Resources, Store};
use std::sync::Arc;

/// What the judge found in a state that is good.
#[derive(Debug)]
pub struct Verdict<T: Tree> {
    /// Number of the commit that is shown (the first of those that show the same).
    pub shown: usize,
    /// What mount read.
    pub reads: Reads,
    /// Where anything was read, in order.
    pub places: Places,
    /// Whether the further commit was tried.
    pub went_on: bool,
    /// The further commit, if it was to be recorded.
    pub recovery: Option<Recording<T>>,
}

/// Judges crash states, one after the other, in one memory and on one disk.
pub struct Judge<T: Tree> {
    room: Room,
    disk: Arc<Disk>,
    shape: T::Shape,
    block_size: BlockSize,
}

impl<T: Tree> Judge<T> {
    /// A judge for crash states of `len_bytes` bytes that hold a structure of this shape.
    pub fn new(shape: T::Shape, block_size: BlockSize, len_bytes: u64) -> Self {
        let room = Room::new(block_size, len_bytes);
        Self { room, disk: Arc::new(Disk::zeroed(len_bytes)), shape, block_size }
    }

    /// A judge for the crash states of a recording.
    pub fn of(recording: &Recording<T>) -> Self {
        Self::new(recording.shape.clone(), recording.block_size, recording.trace.base.len() as u64)
    }

    /// The disk on which to put a state. The judge changes it.
    pub fn disk(&self) -> &Disk {
        &self.disk
    }

    /// Judges what is on the disk. The further commit is left out if `known` says that it was tried on a state in which
    /// mount read the same (see the head of [`crate::explore`]), and recorded if `record` says so.
    pub fn judge(
        &mut self,
        model: &[Snapshot<T::Content>],
        record: bool,
        known: impl Fn(&Reads) -> bool,
    ) -> Result<Verdict<T>, String> {
        reset_patience();
        let tape = record.then(Tape::new);
        let Self { room, disk, shape, .. } = self;
        let resources = room.fresh().ok_or("memory is taken")?;
        let device = MemDevice::new(Arc::clone(disk), MemOptions { max_segments: 1, ..MemOptions::default() });
        let device = match &tape {
            Some(tape) => Recorder::new(device, Arc::clone(tape)),
            None => Recorder::off(device),
        };
        let device = ReadLog::new(device);
        let image = device.beside(&**disk);
        let store = mount(resources, &device)?;
        let reads = device.reads();
        let shown = model.iter().position(|snapshot| snapshot.roots == store.roots());
        let shown = shown.ok_or("shows a commit that was never begun")?;
        let mut tree: T = check_shown(&image, &store, &model[shown], shape)?;
        let report = store.report();
        if report.log_blocks > u64::from(report.arenas) {
            check_bare(&image)?;
        }
        if known(&reads) {
            let places = device.places();
            return Ok(Verdict { shown, reads, places, went_on: false, recovery: None });
        }
        // Mount has written nothing.
        let base = record.then(|| disk.snapshot());
        let mut log = Log::new(model[shown].roots, model[shown].content.clone());
        if let Some(tape) = &tape {
            log = log.on_tape(tape);
        }
        // The same state goes on in the same way whenever it is judged.
        further_commit(&store, &mut tree, &mut Rng::new(reads.digest), &mut log)?;
        store.unmount().map_err(|error| format!("unmount after the further commit: {error}"))?;
        let places = device.places();
        drop(image);
        drop(device);
        self.check_after(&log.model[1])?;
        let recovery = tape.zip(base).map(|(tape, base)| Recording {
            shape: self.shape.clone(),
            block_size: self.block_size,
            trace: tape.trace(base),
            model: log.model,
        });
        Ok(Verdict { shown, reads, places, went_on: true, recovery })
    }

    /// Checks the volume as the further commit left it.
    fn check_after(&mut self, after: &Snapshot<T::Content>) -> Result<(), String> {
        let late = |what: String| format!("after the further commit: {what}");
        let Self { room, disk, shape, .. } = self;
        let resources = room.fresh().ok_or("memory is taken")?;
        let device = MemDevice::new(Arc::clone(disk), MemOptions::default());
        let store = mount(resources, &device).map_err(late)?;
        let _: T = check_shown(&**disk, &store, after, shape).map_err(late)?;
        let read = |rule| RawVolume::read(&**disk, rule).map_err(|error| late(error.to_string()));
        let (sealed, bare) = (read(Rule::Sealed)?, read(Rule::Bare)?);
        if sealed.arenas != bare.arenas {
            return Err(late("the bare rule reads other free space".into()));
        }
        let copies = sealed.arenas.iter().map(|arena| arena.copies_good).chain([sealed.copies_good]);
        if copies.flatten().any(|good| !good) {
            return Err(late("a copy of a header or superblock is not good".into()));
        }
        Ok(())
    }
}

/// Mounts for work, without patience for a worker that stays away.
pub(crate) fn mount<'d, 'm>(resources: Resources<'m>, device: &'d dyn Device<'m>) -> Result<Store<'d, 'm>, String> {
    let store = Store::mount(resources, device, &ImpatientPlatform, MountOptions::default());
    store.map_err(|failed| format!("mount: {}", failed.error))
}

/// Checks that the store shows this commit, whole, and that its space is exact.
fn check_shown<T: Tree>(
    image: &dyn ReadAt,
    store: &Store<'_, '_>,
    snapshot: &Snapshot<T::Content>,
    shape: &T::Shape,
) -> Result<T, String> {
    if store.roots() != snapshot.roots {
        return Err("the roots are not those of the commit".into());
    }
    let generation = store.generation();
    // Growing raises it without a commit of the user's.
    if snapshot.generation.is_some_and(|known| known > generation) {
        return Err(format!("generation {generation} is before that of the commit"));
    }
    let tree = T::open(shape, store).map_err(|error| format!("content: {error}"))?;
    if tree.content() != snapshot.content {
        return Err("the content is not that of the commit".into());
    }
    let report = check_volume(image, Some(store), tree.addresses()).map_err(|error| format!("check: {error}"))?;
    match report.problems.first() {
        None => Ok(tree),
        Some(first) => Err(format!("space: {first}, and {} more problems", report.problems.len() - 1)),
    }
}

/// What a commit that was cut off has linked behind a log of several blocks is nothing to the original either: it reads
/// the same free space, or, where the link is there and the block is not, nothing until the next commit.
fn check_bare(image: &dyn ReadAt) -> Result<(), String> {
    let sealed = RawVolume::read(image, Rule::Sealed).map_err(|error| format!("check: {error}"))?;
    let Ok(bare) = RawVolume::read(image, Rule::Bare) else { return Ok(()) };
    let same = sealed.arenas.iter().zip(&bare.arenas).all(|(sealed, bare)| sealed.free == bare.free);
    same.then_some(()).ok_or("the bare rule of the original reads other free space".into())
}

/// Changes something, commits it, and notes what the volume holds then.
fn further_commit<T: Tree>(
    store: &Store<'_, '_>,
    tree: &mut T,
    rng: &mut Rng,
    log: &mut Log<T::Content>,
) -> Result<(), String> {
    let failed = |error: Error| format!("further commit: {error}");
    tree.change(store, rng).map_err(failed)?;
    let roots = tree.prepare(store).map_err(failed)?;
    log.begin(roots, tree.content());
    log.acknowledge(store.commit(roots).map_err(failed)?);
    Ok(())
}

impl<T: Tree> std::fmt::Debug for Judge<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Judge").field("disk", &self.disk).finish_non_exhaustive()
    }
}
