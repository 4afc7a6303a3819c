//! Every sequence of so many operations of the store's public interface.
//!
//! A sequence is a number: its digits, the first operation last, name the operations. Each begins on a volume that
//! holds something and was mounted just now, and ends with a commit, so that what was left open is there to be judged.
#![forbid(unsafe_code)]

use crate::client::{Client, Shape, Slots, Version};
use crate::disk::Disk;
use crate::mem::MemOptions;
use crate::platform::reset_patience;
use crate::record::Tape;
use crate::runner::{record_script, Course};
use crate::tree::{End, Log, Recording, RunError, Script};
use arenite_core::format::BlockSize;
use arenite_core::{Allocate, CommitTicket, Error, Roots, ScrubStep, Store};
use std::sync::Arc;

/// One operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operation {
    /// Allocates, fills and enqueues a block of new content.
    Put,
    /// The same in place of one that a commit has, which is freed.
    Overwrite,
    /// Frees one that a commit has.
    Free,
    /// Frees what was put last, perhaps before any commit had it.
    FreeNewest,
    /// Allocates a block and gives it back unused.
    GiveBack,
    /// Makes a copy of a block in another place.
    Duplicate,
    /// Reads every block.
    Read,
    /// Commits, and waits.
    Commit,
    /// Begins a commit, and goes on without waiting.
    CommitStart,
    /// Steps three times.
    Step,
    /// Settles.
    Settle,
    /// Grows the volume, if the device has become larger.
    Grow,
    /// Enters an epoch, frees and commits inside, and leaves it.
    Worker,
    /// Reads everything in the background, second copies too.
    Scrub,
    /// Unmounts and mounts again.
    Remount,
    /// Goes down without unmounting, and mounts again.
    GoDown,
}

impl Operation {
    /// All of them.
    pub const ALL: [Self; 16] = [
        Self::Put,
        Self::Overwrite,
        Self::Free,
        Self::FreeNewest,
        Self::GiveBack,
        Self::Duplicate,
        Self::Read,
        Self::Commit,
        Self::CommitStart,
        Self::Step,
        Self::Settle,
        Self::Grow,
        Self::Worker,
        Self::Scrub,
        Self::Remount,
        Self::GoDown,
    ];

    /// The sequence with this number, of so many operations.
    pub fn sequence(number: u64, len: usize) -> Vec<Self> {
        let base = Self::ALL.len() as u64;
        let digits = (0..len).scan(number, |rest, _| {
            let digit = *rest % base;
            *rest /= base;
            Some(Self::ALL[digit as usize])
        });
        digits.collect()
    }

    /// How many sequences of so many operations there are.
    pub fn sequences(len: u32) -> u64 {
        (Self::ALL.len() as u64).pow(len)
    }
}

const SLOTS: usize = 12;
const BLOCKS: u64 = 96;

/// Steps after which a worker who waits for the end of a commit leaves its epoch.
const PATIENCE_STEPS: u32 = 300;
/// Steps within which every commit ends, or the sequence fails.
const LONGEST_WAIT_STEPS: u32 = 10_000;

/// Work through a sequence.
#[derive(Clone, Debug)]
struct Sequence {
    shape: Shape,
    operations: Vec<Operation>,
    /// The next one.
    at: usize,
    next_version: u64,
    log: Log<Vec<Version>>,
}

/// Runs a sequence and records it.
pub fn record(number: u64, len: usize, block_size: BlockSize) -> Result<Recording<Slots>, RunError> {
    let operations = Operation::sequence(number, len);
    let ends = [Operation::Remount, Operation::GoDown];
    let lives = 1 + operations.iter().filter(|operation| ends.contains(operation)).count();
    let grows = operations.contains(&Operation::Grow);
    let len_bytes = BLOCKS * block_size.len_u64();
    let disk = Arc::new(Disk::zeroed(len_bytes));
    let part = (len_bytes / 2).next_multiple_of(block_size.len_u64());
    let mem = MemOptions { max_segments: 1, ..MemOptions::default() };
    let grow_from_bytes = grows.then_some(part);
    let plain = Course { block_size, lives: 1, mem, reorder: false, grow_from_bytes, seed: number };
    plain.format(&disk, 2)?;
    let shape = Shape { slots: SLOTS, levels: 1 };
    let log = Log::new(Roots::EMPTY, vec![Version::NONE; SLOTS]);
    let mut script = Sequence { shape, operations: Vec::new(), at: 0, next_version: 1, log };
    // What the sequence finds: its own short recording, of which only the end is kept.
    script.operations = vec![Operation::Put, Operation::Put, Operation::Put, Operation::Commit, Operation::Overwrite];
    let before = record_script(&disk, &script, &plain)?;
    let Some(last) = before.model.last() else { return Err(RunError::Content) };
    let mut log = Log::new(last.roots, last.content.clone());
    log.model[0].generation = last.generation;
    let next_version = 100;
    let script = Sequence { shape, operations, at: 0, next_version, log };
    // The device shows its full length in every life: whether the volume grows is for the sequence to say.
    record_script(&disk, &script, &Course { lives: lives as u32, grow_from_bytes: None, ..plain })
}

impl Sequence {
    fn version(&mut self) -> Version {
        self.next_version += 1;
        Version::new(self.next_version, self.next_version.is_multiple_of(3))
    }

    /// A slot that holds something, or that does not.
    fn slot(client: &Client<'_, '_, '_>, held: bool, newest: bool) -> Option<usize> {
        let versions = client.versions();
        let mut slots = (0..SLOTS).filter(|slot| (versions[*slot] != Version::NONE) == held);
        if newest {
            slots.next_back()
        } else {
            slots.next()
        }
    }

    fn put(&mut self, client: &mut Client<'_, '_, '_>, held: bool) -> Result<(), Error> {
        let version = self.version();
        Self::slot(client, held, false).map_or(Ok(()), |slot| client.put(slot, version))
    }

    /// Begins a commit as soon as the one before it has ended; calls `waiting` with the number of steps meanwhile.
    fn begin(
        &mut self,
        store: &Store<'_, '_>,
        client: &mut Client<'_, '_, '_>,
        mut waiting: impl FnMut(u32),
    ) -> Result<CommitTicket, Error> {
        let roots = client.prepare()?;
        let roots = Roots { next_qid: self.log.model.len() as u64, ..roots };
        self.log.begin(roots, client.versions());
        for steps in 0..LONGEST_WAIT_STEPS {
            match store.commit_start(roots) {
                Err(Error::CommitInFlight) => drop(store.step()),
                result => return result,
            }
            waiting(steps);
        }
        Err(Error::CommitInFlight)
    }

    fn wait(&mut self, store: &Store<'_, '_>, ticket: &mut Option<CommitTicket>) -> Result<(), Error> {
        let Some(ticket) = ticket.take() else { return Ok(()) };
        loop {
            match store.commit_poll(&ticket) {
                None => drop(store.step()),
                Some(result) => {
                    self.log.acknowledge(result?);
                    return Ok(());
                }
            }
        }
    }

    fn commit(&mut self, store: &Store<'_, '_>, client: &mut Client<'_, '_, '_>) -> Result<(), Error> {
        let mut ticket = Some(self.begin(store, client, |_| ())?);
        self.wait(store, &mut ticket)
    }

    fn duplicate(&mut self, store: &Store<'_, '_>, client: &mut Client<'_, '_, '_>) -> Result<(), Error> {
        let Some(ptr) = Self::slot(client, true, false).and_then(|slot| client.ptr(slot)) else { return Ok(()) };
        let block = store.read(ptr)?;
        // It is given back at once: the structure has no use for it.
        let copy = store.enqueue(store.duplicate(&block, Allocate::data())?)?.ptr();
        store.free(copy)
    }

    fn worker(&mut self, store: &Store<'_, '_>, client: &mut Client<'_, '_, '_>) -> Result<(), Error> {
        let mut worker = Some(store.enter(1)?);
        if let Some(slot) = Self::slot(client, true, false) {
            client.delete(slot)?;
        }
        // A commit that began earlier does not end while somebody is inside who may read what it freed. Who wants the
        // next one leaves then; otherwise it stays until that is durable.
        let leave = |steps| {
            if steps == PATIENCE_STEPS {
                worker = None;
            }
        };
        let mut ticket = Some(self.begin(store, client, leave)?);
        self.wait(store, &mut ticket)?;
        drop(worker);
        Ok(())
    }

    fn grow(&mut self, store: &Store<'_, '_>) -> Result<(), Error> {
        store.settle()?;
        match store.grow() {
            // There was nothing to grow into.
            Ok(_) | Err(Error::Geometry { .. }) => Ok(()),
            Err(error) => Err(error),
        }
    }

    fn scrub(store: &Store<'_, '_>) -> Result<(), Error> {
        store.settle()?;
        let mut scrub = store.scrub();
        while !matches!(scrub.step()?, ScrubStep::Done(_)) {
            store.step();
        }
        Ok(())
    }
}

impl Script for Sequence {
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

    fn live(&mut self, store: &Store<'_, '_>, _enlarge: Option<&dyn Fn()>) -> Result<End, RunError> {
        reset_patience();
        let mut client = Client::load(store, SLOTS, 1)?;
        self.log.arrive(store.roots(), &client.versions())?;
        let mut ticket = None;
        while let Some(operation) = self.operations.get(self.at).copied() {
            self.at += 1;
            // Of commits there is one at a time.
            if matches!(operation, Operation::Commit | Operation::CommitStart | Operation::Worker | Operation::Grow) {
                self.wait(store, &mut ticket)?;
            }
            match operation {
                Operation::Put => self.put(&mut client, false)?,
                Operation::Overwrite => self.put(&mut client, true)?,
                Operation::Free | Operation::FreeNewest => {
                    let slot = Self::slot(&client, true, operation == Operation::FreeNewest);
                    slot.map_or(Ok(()), |slot| client.delete(slot))?;
                }
                Operation::GiveBack => drop(store.allocate(Allocate::data())?),
                Operation::Duplicate => self.duplicate(store, &mut client)?,
                Operation::Read => drop(Client::load(store, SLOTS, 1)?),
                Operation::Commit => self.commit(store, &mut client)?,
                Operation::CommitStart => ticket = Some(self.begin(store, &mut client, |_| ())?),
                Operation::Step => {
                    for _ in 0..3 {
                        store.step();
                    }
                }
                Operation::Settle => store.settle()?,
                Operation::Grow => self.grow(store)?,
                Operation::Worker => self.worker(store, &mut client)?,
                Operation::Scrub => Self::scrub(store)?,
                Operation::Remount => {
                    self.wait(store, &mut ticket)?;
                    return Ok(End::Unmount);
                }
                Operation::GoDown => return Ok(End::GoDown),
            }
        }
        self.wait(store, &mut ticket)?;
        let version = self.version();
        client.put(SLOTS - 1, version)?;
        self.commit(store, &mut client)?;
        store.settle()?;
        Ok(End::Unmount)
    }
}
