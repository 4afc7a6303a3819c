//! Seeded work on a store, recorded: the raw material of crash states.
//!
//! A run formats a volume in memory, mounts it again and again, and in each of these lives changes slots of the structure
//! in [`crate::client`] and commits. The model keeps what every commit holds. Commit number *n* carries *n* in the
//! roots (`next_qid`), so that a mounted volume says which one it shows.
//!
//! What a run can do, as its [`Config`] says: change, delete and change again within one generation; work on the next
//! generation while a commit is in flight; hold blocks that are being filled across a commit; settle, or leave the second
//! copies to the next commit; fill the volume to the brim and empty it again; go down in the middle of a commit and mount
//! again while the device still has its cache.
#![forbid(unsafe_code)]

use crate::client::{Client, LoadError, Version};
pub use crate::config::{Config, Prelude};
use crate::disk::Disk;
use crate::faulty::Faulty;
use crate::foreign::make_foreign;
use crate::image::ReadAt;
use crate::mem::{MemDevice, MemOptions};
use crate::memory_box::{boxed_memory, SmallMemory};
use crate::platform::{reset_patience, ImpatientPlatform};
use crate::record::{Recorder, Tape};
use crate::rng::Rng;
use crate::trace::{Mark, Trace};
use arenite_core::format::BlockSize;
use arenite_core::{Allocate, CommitTicket, Device, Error, Filling, FormatOptions, MountOptions, Roots, Store};
use std::sync::Arc;

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

impl From<LoadError> for RunError {
    fn from(error: LoadError) -> Self {
        match error {
            LoadError::Store(error) => Self::Store(error),
            LoadError::Content { .. } => Self::Content,
        }
    }
}

/// Runs and records.
pub fn record(config: &Config) -> Result<Recording, RunError> {
    let (disk, run) = prepare(config)?;
    record_from(&disk, &run)
}

/// Records a run that was prepared, on its disk.
pub fn record_from(disk: &Arc<Disk>, run: &Run) -> Result<Recording, RunError> {
    let tape = Tape::new();
    let mut run = run.on_tape(&tape);
    let config = run.config;
    let base = disk.snapshot();
    for life in 0..config.lives {
        let memory: Box<SmallMemory> = boxed_memory();
        let device = MemDevice::new(Arc::clone(disk), config.mem_options());
        if let Some(blocks) = config.grow_from.filter(|_| life < 2) {
            device.set_len_bytes(blocks * BlockSize::MIN.len_u64());
        }
        let device = Recorder::new(Faulty::new(device, Vec::new()), Arc::clone(&tape));
        if config.reorder {
            device.inner().reorder(run.rng.next_u64());
        }
        let Some(resources) = memory.take() else { return Err(Error::NoBuffer.into()) };
        let options = MountOptions { discard: config.discard, ..MountOptions::default() };
        let store = Store::mount(resources, &device, &ImpatientPlatform, options);
        let store = store.map_err(|failed| failed.error)?;
        let enlarge = || device.inner().inner().set_len_bytes(u64::MAX);
        let grows = config.grow_from.is_some() && life == 1;
        match run.live(&store, grows.then_some(&enlarge))? {
            End::Unmount => store.unmount()?,
            // A kernel that goes down drops nothing. What is in the queue is lost in a reset of the device (one that
            // reorders has done some of it) ...
            End::GoDown if !config.reorder && run.happens(50) => {
                device.reset();
                std::mem::forget(store);
            }
            // ... or carried out, and nobody hears of it.
            End::GoDown => {
                while device.poll().is_some() || device.in_flight() {}
                std::mem::forget(store);
            }
        }
    }
    Ok(Recording { levels: config.levels, trace: tape.trace(base), model: run.model })
}

/// A disk with the volume that a run begins with, and the run.
pub fn prepare(config: &Config) -> Result<(Arc<Disk>, Run), RunError> {
    let disk = Arc::new(Disk::zeroed(config.volume_blocks * BlockSize::MIN.len_u64()));
    let len_bytes = config.grow_from.unwrap_or(config.volume_blocks) * BlockSize::MIN.len_u64();
    format_part(&disk, len_bytes, config.arenas)?;
    let mut run = Run::new(*config);
    if config.prelude != Prelude::Empty {
        let memory: Box<SmallMemory> = boxed_memory();
        let device = MemDevice::new(Arc::clone(&disk), MemOptions::default());
        let resources = memory.take().ok_or(Error::NoBuffer)?;
        let store = Store::mount(resources, &device, &ImpatientPlatform, MountOptions::default());
        let store = store.map_err(|failed| failed.error)?;
        run.prelude(&store)?;
        store.unmount()?;
    }
    if config.prelude == Prelude::Foreign {
        make_foreign(&disk).map_err(|_| RunError::Content)?;
    }
    Ok((disk, run))
}

/// Puts an empty volume of 2 KiB blocks on a disk.
pub fn format(disk: &Arc<Disk>, arenas: u32) -> Result<(), Error> {
    format_part(disk, disk.len_bytes(), arenas)
}

/// The same on the first so many bytes of a disk.
fn format_part(disk: &Arc<Disk>, len_bytes: u64, arenas: u32) -> Result<(), Error> {
    let memory: Box<SmallMemory> = boxed_memory();
    let device = MemDevice::new(Arc::clone(disk), MemOptions::default());
    device.set_len_bytes(len_bytes);
    let options = FormatOptions { block_size: BlockSize::MIN, arenas, force: false };
    let resources = memory.take().ok_or(Error::NoBuffer)?;
    let store = Store::format(resources, &device, &ImpatientPlatform, options).map_err(|failed| failed.error)?;
    store.unmount()
}

/// A run in progress: the model, and what comes next.
#[derive(Clone)]
pub struct Run {
    config: Config,
    rng: Rng,
    tape: Arc<Tape>,
    next_version: u64,
    /// What each commit holds that was begun.
    pub model: Vec<Snapshot>,
    /// Number of the newest commit that is known to be durable.
    pub acknowledged: usize,
    /// Number of the commit begun last; it may be durable too.
    pub begun: usize,
}

/// How a life ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// In good order.
    Unmount,
    /// In the middle of a commit, with the device left on.
    GoDown,
}

impl Run {
    /// A run on an empty volume, with a tape that nobody reads.
    pub fn new(config: Config) -> Self {
        let empty = Snapshot { roots: Roots::EMPTY, generation: None, versions: vec![Version::NONE; config.slots] };
        let rng = Rng::new(config.seed);
        Self { config, rng, tape: Tape::new(), next_version: 1, model: vec![empty], acknowledged: 0, begun: 0 }
    }

    /// The same run, to go on from here on another tape.
    #[must_use]
    pub fn on_tape(&self, tape: &Arc<Tape>) -> Self {
        Self { tape: Arc::clone(tape), ..self.clone() }
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

    /// One life on a mounted store, which must show the last commit, or the one that was in flight. With `enlarge`, which
    /// makes the device larger, the volume grows halfway.
    pub fn live(&mut self, store: &Store<'_, '_>, enlarge: Option<&dyn Fn()>) -> Result<End, RunError> {
        reset_patience();
        let mut client = self.arrive(store)?;
        for number in 0..self.config.commits {
            if let Some(enlarge) = enlarge.filter(|_| number == self.config.commits / 2) {
                enlarge();
                if self.grow(store, &mut client)? == End::GoDown {
                    return Ok(End::GoDown);
                }
            }
            for _ in 0..1 + self.rng.below(self.config.changes) {
                self.change(&mut client)?;
                if self.happens(self.config.reread) {
                    self.reread(store, &client)?;
                }
            }
            if self.commit(store, &mut client)? == End::GoDown {
                return Ok(End::GoDown);
            }
            if self.happens(self.config.settle) {
                store.settle()?;
            }
        }
        Ok(End::Unmount)
    }

    /// Takes what the store shows for durable, if it may show it.
    fn arrive<'a, 'd, 'm>(&mut self, store: &'a Store<'d, 'm>) -> Result<Client<'a, 'd, 'm>, RunError> {
        let client = Client::load(store, self.config.slots, self.config.levels)?;
        let shown = usize::try_from(store.roots().next_qid).map_err(|_| RunError::Content)?;
        let snapshot = self.model.get(shown).filter(|_| shown == self.acknowledged || shown == self.begun);
        if snapshot.is_none_or(|snapshot| snapshot.versions != client.versions()) {
            return Err(RunError::Content);
        }
        (self.acknowledged, self.begun) = (shown, shown);
        self.tape.mark(Mark::Begun(shown));
        self.tape.mark(Mark::Acknowledged(shown));
        Ok(client)
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

    fn commit(&mut self, store: &Store<'_, '_>, client: &mut Client<'_, '_, '_>) -> Result<End, Error> {
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
        let held = Held(if self.happens(self.config.hold) { store.allocate(Allocate::data()).ok() } else { None });
        self.begun = number;
        self.tape.mark(Mark::Begun(number));
        let ticket = loop {
            match store.commit_start(roots) {
                Err(Error::CommitInFlight) => drop(store.step()),
                result => break result?,
            }
        };
        let generation = self.finish(store, client, &ticket)?;
        drop(held);
        let Some(generation) = generation else { return Ok(End::GoDown) };
        self.model[number].generation = Some(generation);
        self.acknowledged = number;
        self.tape.mark(Mark::Acknowledged(number));
        Ok(End::Unmount)
    }

    /// Grows the volume. What the volume shows stays the same.
    fn grow(&mut self, store: &Store<'_, '_>, client: &mut Client<'_, '_, '_>) -> Result<End, Error> {
        store.settle()?;
        let arenas = store.report().arenas;
        let ticket = store.grow_start()?;
        let end = self.finish(store, client, &ticket)?;
        if end.is_none() || store.arena(arenas as usize).is_some() {
            Ok(end.map_or(End::GoDown, |_| End::Unmount))
        } else {
            Err(Error::Geometry { need_bytes: 0, have_bytes: 0 })
        }
    }

    /// Steps until a commit is durable, and returns its generation; or none, if the kernel goes down.
    fn finish(
        &mut self,
        store: &Store<'_, '_>,
        client: &mut Client<'_, '_, '_>,
        ticket: &CommitTicket,
    ) -> Result<Option<u64>, Error> {
        let overlap = self.happens(self.config.overlap);
        let mut steps = if self.happens(self.config.restart) { self.rng.below(12) } else { u64::MAX };
        loop {
            if let Some(result) = store.commit_poll(ticket) {
                return result.map(Some);
            }
            if steps == 0 {
                return Ok(None);
            }
            steps -= 1;
            store.step();
            if overlap && self.rng.chance(1, 2) {
                self.change(client)?;
            }
        }
    }
}

/// A block that is being filled meanwhile. While a failed assertion unwinds it is leaked: giving it back could fail the
/// next one, and two at once end the process before anybody has read the first.
struct Held<'s>(Option<Filling<'s>>);

impl Drop for Held<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            std::mem::forget(self.0.take());
        }
    }
}

impl std::fmt::Debug for Run {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Run").field("config", &self.config).finish_non_exhaustive()
    }
}
