//! Seeded work on a store, recorded: the raw material of crash states.
//!
//! A run formats a volume in memory, mounts it again and again, and in each of these lives changes slots of the
//! structure in [`crate::client`] and commits. The model keeps what every commit holds. Commit number *n* carries *n*
//! in the roots (`next_qid`), so that a mounted volume says which one it shows.
//!
//! What a run can do, as its [`Config`] says: change, delete and change again within one generation; work on the next
//! generation while a commit is in flight; hold blocks that are being filled across a commit; settle, or leave the
//! second copies to the next commit; fill the volume to the brim and empty it again; go down in the middle of a commit
//! and mount again while the device still has its cache.
#![forbid(unsafe_code)]

use crate::check::{RawVolume, Rule, Unreadable};
use crate::client::{Client, LoadError, Shape, Slots, Version};
pub use crate::config::{Config, Prelude};
use crate::disk::Disk;
use crate::foreign::{make_foreign, make_interrupted};
use crate::image::ReadAt;
use crate::mem::{MemDevice, MemOptions};
use crate::platform::{reset_patience, ImpatientPlatform};
use crate::record::Tape;
use crate::rng::Rng;
use crate::room::Room;
use crate::runner::{record_script, Course};
pub use crate::tree::{End, RunError};
use crate::tree::{Log, Recording, Script, Snapshot};
use arenite_core::format::BlockSize;
use arenite_core::{Allocate, CommitTicket, Error, Filling, MountOptions, Roots, Store};
use std::sync::Arc;

impl From<LoadError> for RunError {
    fn from(error: LoadError) -> Self {
        match error {
            LoadError::Store(error) => Self::Store(error),
            LoadError::Content { .. } => Self::Content,
        }
    }
}

/// Runs and records.
pub fn record(config: &Config) -> Result<Recording<Slots>, RunError> {
    let (disk, run) = prepare(config)?;
    record_from(&disk, &run)
}

/// Records a run that was prepared, on its disk.
pub fn record_from(disk: &Arc<Disk>, run: &Run) -> Result<Recording<Slots>, RunError> {
    record_script(disk, run, &run.config.course())
}

/// A disk with the volume that a run begins with, and the run.
pub fn prepare(config: &Config) -> Result<(Arc<Disk>, Run), RunError> {
    let disk = Arc::new(Disk::zeroed(config.volume_blocks * config.block_size.len_u64()));
    config.course().format(&disk, config.arenas)?;
    let mut run = Run::new(*config);
    if config.prelude != Prelude::Empty {
        let mut room = Room::new(config.block_size, config.volume_blocks * config.block_size.len_u64());
        let device = MemDevice::new(Arc::clone(&disk), MemOptions::default());
        let resources = room.fresh().ok_or(Error::NoBuffer)?;
        let store = Store::mount(resources, &device, &ImpatientPlatform, MountOptions::default());
        let store = store.map_err(|failed| failed.error)?;
        run.prelude(&store)?;
        store.unmount()?;
    }
    match config.prelude {
        Prelude::Foreign => make_foreign(&disk),
        Prelude::Interrupted => make_interrupted(&disk),
        Prelude::Damaged => damage_second_copies(&disk),
        _ => Ok(()),
    }
    .map_err(|_| RunError::Content)?;
    Ok((disk, run))
}

/// Overwrites the second copy of the superblock and of each header.
fn damage_second_copies(disk: &Disk) -> Result<(), Unreadable> {
    let raw = RawVolume::read(disk, Rule::Sealed)?;
    let len = raw.size.len_u64();
    let last = (disk.len_bytes() / len - 1) * len;
    let garbage = vec![0x67; raw.size.len_bytes()];
    for addr in raw.arenas.iter().map(|arena| arena.addr + len).chain([last]) {
        disk.write_at(addr, &garbage)?;
    }
    Ok(())
}

/// Puts an empty volume of 2 KiB blocks on a disk.
pub fn format(disk: &Arc<Disk>, arenas: u32) -> Result<(), Error> {
    Course::plain(BlockSize::MIN, 0).format(disk, arenas)
}

/// A run in progress: the model, and what comes next.
#[derive(Clone)]
pub struct Run {
    config: Config,
    shape: Shape,
    rng: Rng,
    next_version: u64,
    log: Log<Vec<Version>>,
}

impl Run {
    /// A run on an empty volume, with a tape that nobody reads.
    pub fn new(config: Config) -> Self {
        let shape = Shape { slots: config.slots, levels: config.levels };
        let log = Log::new(Roots::EMPTY, vec![Version::NONE; config.slots]);
        Self { config, shape, rng: Rng::new(config.seed), next_version: 1, log }
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
        // Neighbouring slots are in different arenas.
        let goes: Option<fn(usize, usize) -> bool> = match self.config.prelude {
            Prelude::Fragmented => Some(|slot, arenas| (slot / arenas).is_multiple_of(2)),
            // A range of two takes more of a log than two single blocks.
            Prelude::Shattered => Some(|slot, arenas| !(slot / arenas).is_multiple_of(3)),
            _ => None,
        };
        if let Some(goes) = goes {
            for slot in (0..self.config.slots).filter(|slot| goes(*slot, self.config.arenas as usize)) {
                client.delete(slot)?;
            }
            store.settle()?;
        }
        let roots = client.prepare()?;
        let generation = Some(store.commit(roots)?);
        self.log.model = vec![Snapshot { roots, generation, content: client.versions() }];
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
        let roots = Roots { next_qid: self.log.model.len() as u64, ..roots };
        let held = Held(if self.happens(self.config.hold) { store.allocate(Allocate::data()).ok() } else { None });
        self.log.begin(roots, client.versions());
        let ticket = loop {
            match store.commit_start(roots) {
                Err(Error::CommitInFlight) => drop(store.step()),
                result => break result?,
            }
        };
        let generation = self.finish(store, client, &ticket)?;
        drop(held);
        let Some(generation) = generation else { return Ok(End::GoDown) };
        self.log.acknowledge(generation);
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

impl Script for Run {
    type Tree = Slots;

    fn shape(&self) -> &Shape {
        &self.shape
    }

    fn log(&self) -> &Log<Vec<Version>> {
        &self.log
    }

    fn put_on_tape(&mut self, tape: &Arc<Tape>) {
        self.log = self.log.on_tape(tape);
    }

    /// With `enlarge` the volume grows halfway.
    fn live(&mut self, store: &Store<'_, '_>, enlarge: Option<&dyn Fn()>) -> Result<End, RunError> {
        reset_patience();
        let mut client = Client::load(store, self.config.slots, self.config.levels)?;
        self.log.arrive(store.roots(), &client.versions())?;
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
