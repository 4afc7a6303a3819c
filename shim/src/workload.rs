//! Seeded work on a store, recorded: the raw material of crash states.
//!
//! A run formats a volume in memory, mounts it again and again, and in each of these lives changes slots of the structure
//! in [`crate::client`] and commits. The model keeps what every commit holds. Commit number *n* carries *n* in the
//! roots (`next_qid`), so that a mounted volume says which one it shows.
//!
//! What a run can do, as its [`Config`] says: change, delete and change again within one generation; work on the next
//! generation while a commit is in flight; hold blocks that are being filled across a commit; settle, or leave the second
//! copies to the next commit; fill the volume to the brim and empty it again.
#![forbid(unsafe_code)]

use crate::client::{Client, Version};
use crate::disk::Disk;
use crate::faulty::Faulty;
use crate::mem::{MemDevice, MemOptions};
use crate::memory_box::{boxed_memory, SmallMemory};
use crate::platform::{reset_patience, ImpatientPlatform};
use crate::record::{Recorder, Tape};
use crate::rng::Rng;
use crate::trace::{Mark, Trace};
use arenite_core::format::BlockSize;
use arenite_core::{Allocate, Error, FormatOptions, MountOptions, Roots, Store};
use std::sync::Arc;

/// What a run is like. All chances are in percent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Config {
    /// Everything random follows from it.
    pub seed: u64,
    /// Blocks of the volume, of 2 KiB.
    pub volume_blocks: u64,
    /// Arenas.
    pub arenas: u32,
    /// Slots of the structure.
    pub slots: usize,
    /// Levels of the structure: 1 or 2.
    pub levels: u32,
    /// Mounts.
    pub lives: u32,
    /// Commits in each life.
    pub commits: u32,
    /// Most changes before each commit.
    pub changes: u64,
    /// Chance that a change empties its slot.
    pub delete: u64,
    /// Chance that new content fills its whole block instead of one sector.
    pub dense: u64,
    /// Chance that the next generation begins while a commit is in flight.
    pub overlap: u64,
    /// Chance that the store settles after a commit.
    pub settle: u64,
    /// Chance that a block is being filled while a commit runs.
    pub hold: u64,
    /// Buffers in one request.
    pub max_segments: u16,
    /// Completions come late and in any order.
    pub reorder: bool,
    /// Chance that a block is read between two changes.
    pub reread: u64,
    /// What the volume holds before the recording begins.
    pub prelude: Prelude,
}

/// What a volume holds before a recording begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Prelude {
    /// Nothing: it was formatted just now.
    Empty,
    /// Every slot.
    Filled,
    /// Every other block of a volume that was filled in order, so that its free space is in as many pieces as can be
    /// and its logs are long.
    Fragmented,
}

impl Config {
    /// Small commits of one or two changes: their epochs are enumerated exhaustively.
    pub const fn small(seed: u64) -> Self {
        Self {
            seed,
            volume_blocks: 64,
            arenas: 1,
            slots: 8,
            levels: 1,
            lives: 2,
            commits: 6,
            changes: 1,
            delete: 20,
            dense: 30,
            overlap: 0,
            settle: 30,
            hold: 20,
            max_segments: 1,
            reorder: false,
            reread: 10,
            prelude: Prelude::Empty,
        }
    }

    /// Several arenas of which each commit touches some.
    pub const fn arenas(seed: u64) -> Self {
        Self { volume_blocks: 128, arenas: 4, changes: 8, dense: 0, ..Self::small(seed) }
    }

    /// Several arenas, two levels, overlapping generations, merged requests.
    pub const fn large(seed: u64) -> Self {
        Self {
            volume_blocks: 256,
            arenas: 3,
            slots: 96,
            levels: 2,
            commits: 8,
            changes: 6,
            overlap: 70,
            max_segments: 4,
            reorder: true,
            ..Self::small(seed)
        }
    }

    /// A volume that is kept nearly full.
    pub const fn full(seed: u64) -> Self {
        Self { volume_blocks: 48, slots: 70, commits: 10, changes: 12, delete: 15, overlap: 30, ..Self::small(seed) }
    }

    /// Logs of several blocks.
    pub const fn long_logs(seed: u64) -> Self {
        Self {
            volume_blocks: 320,
            slots: 280,
            levels: 2,
            commits: 4,
            changes: 2,
            dense: 0,
            prelude: Prelude::Fragmented,
            ..Self::small(seed)
        }
    }

    fn mem_options(&self) -> MemOptions {
        MemOptions { max_segments: self.max_segments, ..MemOptions::default() }
    }
}

/// What one commit holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Snapshot {
    /// The roots.
    pub roots: Roots,
    /// Its generation, once it is acknowledged.
    pub generation: Option<u64>,
    /// What each slot holds.
    pub versions: Vec<Version>,
}

/// A run that was recorded.
#[derive(Clone, Debug)]
pub struct Recording {
    /// Levels of the structure.
    pub levels: u32,
    /// What the device saw, from the formatted volume on.
    pub trace: Trace,
    /// What each commit holds; number 0 is the formatted volume.
    pub model: Vec<Snapshot>,
}

/// Why a run failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RunError {
    /// An operation of the store did.
    Store(Error),
    /// A mounted volume does not hold what the last commit did.
    Content,
}

impl From<Error> for RunError {
    fn from(error: Error) -> Self {
        Self::Store(error)
    }
}

impl From<crate::client::LoadError> for RunError {
    fn from(error: crate::client::LoadError) -> Self {
        match error {
            crate::client::LoadError::Store(error) => Self::Store(error),
            crate::client::LoadError::Content { .. } => Self::Content,
        }
    }
}

/// Runs and records.
pub fn record(config: &Config) -> Result<Recording, RunError> {
    let tape = Tape::new();
    let (disk, mut run) = prepare(config, Arc::clone(&tape))?;
    let base = disk.snapshot();
    for _ in 0..config.lives {
        let memory: Box<SmallMemory> = boxed_memory();
        let device = MemDevice::new(Arc::clone(&disk), config.mem_options());
        let device = Recorder::new(Faulty::new(device, Vec::new()), Arc::clone(&tape));
        if config.reorder {
            device.inner().reorder(run.rng.next_u64());
        }
        let Some(resources) = memory.take() else { return Err(Error::NoBuffer.into()) };
        let store = Store::mount(resources, &device, &ImpatientPlatform, MountOptions::default());
        let store = store.map_err(|failed| failed.error)?;
        run.live(&store)?;
        store.unmount()?;
    }
    Ok(Recording { levels: config.levels, trace: tape.trace(base), model: run.model })
}

/// A disk with the volume that a run begins with, and the run.
pub fn prepare(config: &Config, tape: Arc<Tape>) -> Result<(Arc<Disk>, Run), RunError> {
    let disk = Arc::new(Disk::zeroed(config.volume_blocks * BlockSize::MIN.len_u64()));
    format(&disk, config.arenas)?;
    let mut run = Run::new(*config, tape);
    if config.prelude != Prelude::Empty {
        let memory: Box<SmallMemory> = boxed_memory();
        let device = MemDevice::new(Arc::clone(&disk), MemOptions::default());
        let resources = memory.take().ok_or(Error::NoBuffer)?;
        let store = Store::mount(resources, &device, &ImpatientPlatform, MountOptions::default());
        let store = store.map_err(|failed| failed.error)?;
        run.prelude(&store)?;
        store.unmount()?;
    }
    Ok((disk, run))
}

/// Puts an empty volume of 2 KiB blocks on a disk.
pub fn format(disk: &Arc<Disk>, arenas: u32) -> Result<(), Error> {
    let memory: Box<SmallMemory> = boxed_memory();
    let device = MemDevice::new(Arc::clone(disk), MemOptions::default());
    let options = FormatOptions { block_size: BlockSize::MIN, arenas, force: false };
    let resources = memory.take().ok_or(Error::NoBuffer)?;
    let store = Store::format(resources, &device, &ImpatientPlatform, options).map_err(|failed| failed.error)?;
    store.unmount()
}

/// A run in progress: the model, and what comes next.
pub struct Run {
    config: Config,
    rng: Rng,
    tape: Arc<Tape>,
    next_version: u64,
    /// What each commit holds that was begun.
    pub model: Vec<Snapshot>,
}

impl Run {
    /// A run on an empty volume that marks its commits on `tape`.
    pub fn new(config: Config, tape: Arc<Tape>) -> Self {
        let empty = Snapshot { roots: Roots::EMPTY, generation: None, versions: vec![Version::NONE; config.slots] };
        Self { config, rng: Rng::new(config.seed), tape, next_version: 1, model: vec![empty] }
    }

    /// Fills the volume before the recording. What it holds then is commit number 0.
    fn prelude(&mut self, store: &Store<'_, '_>) -> Result<(), RunError> {
        let mut client = Client::load(store, self.config.slots, self.config.levels)?;
        for slot in 0..self.config.slots {
            match client.put(slot, Version::new(self.next_version, false)) {
                Err(Error::Full { .. }) => break,
                result => result?,
            }
            self.next_version += 1;
        }
        store.commit(client.prepare()?)?;
        if self.config.prelude == Prelude::Fragmented {
            for slot in (0..self.config.slots).step_by(2) {
                client.delete(slot)?;
            }
            store.settle()?;
        }
        let roots = client.prepare()?;
        let generation = Some(store.commit(roots)?);
        self.model = vec![Snapshot { roots, generation, versions: client.versions() }];
        Ok(())
    }

    /// One life on a mounted store, which must show the last commit.
    pub fn live(&mut self, store: &Store<'_, '_>) -> Result<(), RunError> {
        let mut client = Client::load(store, self.config.slots, self.config.levels)?;
        if self.model.last().is_none_or(|last| last.versions != client.versions()) {
            return Err(RunError::Content);
        }
        for _ in 0..self.config.commits {
            for _ in 0..1 + self.rng.below(self.config.changes) {
                self.change(&mut client)?;
                if self.happens(self.config.reread) {
                    self.reread(store, &client)?;
                }
            }
            self.commit(store, &mut client)?;
            if self.happens(self.config.settle) {
                store.settle()?;
            }
        }
        Ok(())
    }

    fn happens(&mut self, percent: u64) -> bool {
        self.rng.chance(percent, 100)
    }

    /// Reads what some slot holds, twice if the device fails or lies the first time.
    fn reread(&mut self, store: &Store<'_, '_>, client: &Client<'_, '_, '_>) -> Result<(), RunError> {
        let slot = self.rng.below(self.config.slots as u64) as usize;
        let Some(ptr) = client.ptr(slot) else { return Ok(()) };
        let block = match store.read(ptr) {
            Err(Error::Device { .. } | Error::Corrupt { .. }) => store.read(ptr)?,
            result => result?,
        };
        if Version::read(slot, &block) == Some(client.versions()[slot]) {
            Ok(())
        } else {
            Err(RunError::Content)
        }
    }

    fn change(&mut self, client: &mut Client<'_, '_, '_>) -> Result<(), Error> {
        let slot = self.rng.below(self.config.slots as u64) as usize;
        if self.happens(self.config.delete) {
            return client.delete(slot);
        }
        let version = Version::new(self.next_version, self.happens(self.config.dense));
        self.next_version += 1;
        match client.put(slot, version) {
            // The structure is as it was; a later change makes room.
            Err(Error::Full { .. }) => client.delete(slot),
            result => result,
        }
    }

    fn commit(&mut self, store: &Store<'_, '_>, client: &mut Client<'_, '_, '_>) -> Result<(), Error> {
        reset_patience();
        let roots = match client.prepare() {
            Err(Error::Full { .. }) => {
                // What earlier commits freed comes back when they are settled.
                store.settle()?;
                client.prepare()?
            }
            result => result?,
        };
        let number = self.model.len();
        let roots = Roots { next_qid: number as u64, ..roots };
        self.model.push(Snapshot { roots, generation: None, versions: client.versions() });
        let held = if self.happens(self.config.hold) { store.allocate(Allocate::data()).ok() } else { None };
        self.tape.mark(Mark::Begun(number));
        let ticket = loop {
            match store.commit_start(roots) {
                Err(Error::CommitInFlight) => drop(store.step()),
                result => break result?,
            }
        };
        let overlap = self.happens(self.config.overlap);
        let generation = loop {
            if let Some(result) = store.commit_poll(&ticket) {
                break result?;
            }
            store.step();
            if overlap && self.rng.chance(1, 2) {
                self.change(client)?;
            }
        };
        self.model[number].generation = Some(generation);
        self.tape.mark(Mark::Acknowledged(number));
        drop(held);
        Ok(())
    }
}

impl std::fmt::Debug for Run {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Run").field("config", &self.config).finish_non_exhaustive()
    }
}
