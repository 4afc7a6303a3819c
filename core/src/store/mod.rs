//! The store: the one type that most users import.
//!
//! ```text
//!   allocate -> fill -> enqueue --> sync queue --\
//!   read <----- cache <----------------------------> device
//!   free -----> free map            commit ------/
//!                  \____________________^
//! ```
//!
//! Everything that waits is a loop over [`Store::step`], which does a bounded piece of work: it takes completions from
//! the device, submits queued writes, and advances a commit. Any number of CPUs may call it, from an idle loop, an
//! executor, or inside a blocking call; one CPU alone makes progress by the steps that its own calls take.
//!
//! # Rule of use
//! All calls that belong to one change of the caller's structure come before [`Store::commit_start`], or all after it.
//!
//! # Failure
//! After a failed write or flush nothing more is written until the volume is mounted anew: what the device has done
//! with the blocks of the failed request is unknown. Everything that was committed stays readable.

mod buffers;
mod info;
mod io;
mod reading;
mod settle;
mod worker;

pub use info::Counters;
pub use reading::{ReadOptions, Reading};
pub(crate) use settle::Settling;
pub use settle::StillOwned;
pub use worker::Worker;

use crate::arena::{spread, ArenaState, Arenas, Class, Place, Reserved};
use crate::block::{check_type, Block, BlockPtr, Filling};
use crate::cache::{Cache, Content};
use crate::commit::{Commit, CommitTicket};
use crate::device::{Device, DeviceGeometry};
use crate::epoch::Epochs;
use crate::error::{Damage, Error, Stop};
use crate::format::{BlockSize, BlockType, FormatError};
use crate::freemap::{FreeMap, State};
use crate::hash::hash64;
use crate::limbo::LimboView;
use crate::memory::Vacancies;
use crate::mount::MountReport;
use crate::platform::Platform;
use crate::pool::{Pool, Shared};
use crate::queue::{Entry, QueueView};
use crate::roots::Roots;
use crate::sabotage::{sabotaged, Switch};
use crate::sync::{AtomicBool, AtomicU32, Lock, Ordering};
use crate::trace::{trace, Holder};
pub(crate) use io::Unsent;

/// From a half-full sync queue on, every so many blocks that are enqueued make their caller take a step: the device
/// is at work while the next ones are filled and hashed, and the queue has room for them.
const PUSHES_A_STEP: usize = 16;

/// What all handles share: everything of the store but the device and the commit.
pub(crate) struct Engine<'m> {
    pub(crate) size: BlockSize,
    pub(crate) pool: Pool<'m>,
    pub(crate) cache: Cache<'m>,
    pub(crate) arenas: Arenas<'m>,
    pub(crate) queue: &'m Lock<QueueView>,
    pub(crate) limbo: &'m Lock<LimboView>,
    /// Places in limbo that are promised to blocks whose write is still under way; changed under limbo's lock.
    pub(crate) limbo_promised: AtomicU32,
    /// Blocks in limbo; changed under limbo's lock.
    pub(crate) in_limbo: AtomicU32,
    pub(crate) epochs: Epochs<'m>,
    /// The store is being unmounted: nobody can be inside an epoch.
    pub(crate) no_more_workers: AtomicBool,
    pub(crate) platform: &'m dyn Platform,
    /// Blocks that are part of a generation and not yet written, by the low bit of the generation.
    pub(crate) pending: [AtomicU32; 2],
    /// What is queued now is of this batch: an odd number, two more each time that somebody waits for all that was
    /// queued.
    pub(crate) batch: AtomicU32,
    #[cfg(feature = "trace")]
    pub(crate) trace: &'m crate::trace::Trace,
    /// Commits tell the device what they freed.
    pub(crate) discards: bool,
    /// Nothing is written any more: the volume was mounted so, or a write or flush failed.
    pub(crate) read_only: AtomicBool,
    /// Why all writing has ended, if it has since mount.
    pub(crate) failure: Lock<Option<Error>>,
}

impl Engine<'_> {
    /// Whether a commit must not go on.
    pub(crate) fn has_failed(&self) -> bool {
        self.read_only.load(Ordering::Acquire)
    }

    /// Stops all writing until the next mount. The first failure is the one that is kept.
    #[cold]
    #[inline(never)]
    pub(crate) fn fail(&self, error: Error) -> Stop {
        self.failure.with(self.platform, |failure| {
            failure.get_or_insert(error);
        });
        self.read_only.store(!sabotaged(Switch::GoOnAfterFailure), Ordering::Release);
        Stop
    }

    /// The same for a block at `addr` that does not decode, or that cannot be encoded.
    #[cold]
    #[inline(never)]
    pub(crate) fn fail_format(&self, addr: u64, error: FormatError) -> Stop {
        self.fail(Error::format(addr, error))
    }

    /// The same for a contradiction at `addr`.
    #[cold]
    #[inline(never)]
    pub(crate) fn fail_corrupt(&self, addr: u64, damage: Damage) -> Stop {
        self.fail(Error::corrupt(addr, damage))
    }

    /// Blocks that are enqueued and not yet written.
    fn pending(&self) -> u32 {
        self.pending.iter().map(|pending| pending.load(Ordering::Acquire)).sum()
    }
}

/// What to allocate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Allocate {
    /// What the block will hold: data, pivot, leaf or dead list.
    pub block_type: BlockType,
    /// What it is for, and so how much of the volume it may use up.
    pub class: Class,
    /// Allocations with equal hints tend to share an arena, those of data another one than those of nodes.
    pub hint: u32,
    /// Whether all bytes are zero at first; see [`Allocate::unzeroed`].
    pub zeroed: bool,
}

impl Allocate {
    /// A block of this type, for new content.
    pub const fn new(block_type: BlockType) -> Self {
        Self { block_type, class: Class::Normal, hint: 0, zeroed: true }
    }

    /// A data block, for new content.
    pub const fn data() -> Self {
        Self::new(BlockType::Data)
    }

    /// The same for another class.
    #[must_use]
    pub const fn class(self, class: Class) -> Self {
        Self { class, ..self }
    }

    /// The same with a hint.
    #[must_use]
    pub const fn hint(self, hint: u32) -> Self {
        Self { hint, ..self }
    }

    /// The same for a caller who writes every byte: at first they are whatever the buffer held before, which may be a
    /// part of any block of the volume. What is not overwritten goes to the disk.
    #[must_use]
    pub const fn unzeroed(self) -> Self {
        Self { zeroed: false, ..self }
    }
}

/// What a freed block waits for.
#[derive(Clone, Copy)]
enum Freed {
    /// A commit, and the end of its own write.
    Cancelled,
    /// Nobody but readers.
    Idle,
    /// A commit.
    Committed,
}

/// Why a block cannot be freed; small, to be handed out of a lock section.
#[derive(Clone, Copy)]
enum Refused {
    /// It is no caller's, or free already.
    NotAllocated,
    /// The next log might have no room for one more change: so many blocks are free.
    NoRoom(u32),
}

impl Refused {
    #[cold]
    fn error(self, addr: u64) -> Error {
        match self {
            Self::NotAllocated => Error::NotAllocated { addr },
            Self::NoRoom(free) => Error::Full { room_blocks: 0, free_blocks: u64::from(free), pending_blocks: 0 },
        }
    }
}

/// What is known of a volume from its mount on.
pub(crate) struct Facts {
    geometry: DeviceGeometry,
    report: MountReport,
}

/// A mounted volume. Shared by reference among any number of threads or CPUs. A small value: what is large of its state
/// lies in the lent memory.
///
/// `'m` is the life of the memory, `'d` that of the device, which may own requests with buffers of that memory and so
/// ends first. In a kernel both are `'static`.
pub struct Store<'d, 'm> {
    pub(crate) engine: &'m Engine<'m>,
    device: &'d dyn Device<'m>,
    geometry: &'m DeviceGeometry,
    commit: &'m Lock<Commit<'m>>,
    /// How often the commit machine was found idle by somebody who begins a commit; changed under its lock.
    commits_begun: AtomicU32,
    unsent: &'m Lock<Unsent<'m>>,
    /// Requests and flushes that the device has.
    in_flight: AtomicU32,
    /// Queued blocks in requests that are not completed.
    under_way: AtomicU32,
    /// The device is not waited for any more.
    abandoned: AtomicBool,
    patience_relaxations: u32,
    written_blocks: AtomicU32,
    written_requests: AtomicU32,
    report: &'m MountReport,
}

impl<'d, 'm> Store<'d, 'm> {
    /// A frame of its own on the stack, that is gone again before the device is asked for anything.
    #[inline(never)]
    pub(crate) fn new(
        engine: &'m Engine<'m>,
        vacancies: Vacancies<'m>,
        device: &'d dyn Device<'m>,
        commit: Commit<'m>,
        report: MountReport,
        patience_relaxations: u32,
    ) -> Self {
        engine.read_only.store(report.read_only, Ordering::Release);
        let facts = vacancies.facts.fill(Facts { geometry: device.geometry(), report });
        Self {
            engine,
            device,
            geometry: &facts.geometry,
            commit: vacancies.commit.fill(Lock::new(commit)),
            commits_begun: AtomicU32::new(0),
            unsent: vacancies.unsent.fill(Lock::new(Unsent::new())),
            in_flight: AtomicU32::new(0),
            under_way: AtomicU32::new(0),
            abandoned: AtomicBool::new(false),
            patience_relaxations: if patience_relaxations == 0 { 1_000_000 } else { patience_relaxations },
            written_blocks: AtomicU32::new(0),
            written_requests: AtomicU32::new(0),
            report: &facts.report,
        }
    }

    /// Hands out a block to be filled, with all bytes zero unless it was asked otherwise. Waits for a buffer if need
    /// be.
    ///
    /// # Errors
    /// [`Error::Full`]; [`Error::NoBuffer`] if callers hold all buffers; [`Error::ReadOnly`]; [`Error::BadParameter`]
    /// for a block type that only the store writes.
    #[track_caller]
    pub fn allocate(&self, what: Allocate) -> Result<Filling<'_>, Error> {
        self.check_writable()?;
        if !matches!(what.block_type, BlockType::Data | BlockType::Pivot | BlockType::Leaf | BlockType::DeadList) {
            return Err(Error::BadParameter { name: "block type", found: what.block_type as u64 });
        }
        let arenas = &self.engine.arenas;
        let reserved = arenas.allocate(what.class, spread(what.block_type, what.hint));
        let Some(Reserved { place, generation: birth }) = reserved else { return Err(arenas.full(what.class)) };
        let Some(mut slot) = self.retry_no_buffer(|| self.engine.cache.take_buffer(what.class)) else {
            let given_back = arenas.unreserve(place);
            debug_assert!(given_back.is_ok());
            return Err(Error::NoBuffer);
        };
        if what.zeroed {
            slot.bytes_mut().fill(0);
        }
        let filling = Filling { slot: Some(slot), engine: self.engine, place, block_type: what.block_type, birth };
        trace!(self.engine, Allocated, filling.addr(), caller);
        Ok(filling)
    }

    /// Hands out a block with the content and the type of another: the first step of every copy on write.
    ///
    /// # Errors
    /// As [`Store::allocate`]; [`Error::BadParameter`] if `what` is of another type than the content.
    #[track_caller]
    pub fn duplicate(&self, block: &Block<'_>, what: Allocate) -> Result<Filling<'_>, Error> {
        check_type(block.bytes(), what.block_type)
            .map_err(|_| Error::BadParameter { name: "block type", found: what.block_type as u64 })?;
        let mut copy = self.allocate(what.unzeroed())?;
        copy.bytes_mut().copy_from_slice(block.bytes());
        Ok(copy)
    }

    /// For tests: takes what is kept back for the log too, as the original may.
    #[cfg(test)]
    pub(crate) fn allocate_from_reserve(&self) -> Option<Filling<'_>> {
        let Reserved { place, generation: birth } = self.engine.arenas.allocate_leaving(|_| 0, 0)?;
        let mut slot = self.retry_no_buffer(|| self.engine.cache.take_buffer(Class::Normal))?;
        slot.bytes_mut().fill(0);
        Some(Filling { slot: Some(slot), engine: self.engine, place, block_type: BlockType::Data, birth })
    }

    /// Makes a block final: fixes its pointer, and queues it for writing. It is part of the next commit from now on.
    /// Takes a step now and then from a half-full queue on, and as many as it needs when the queue is full.
    ///
    /// # Errors
    /// [`Error::ReadOnly`]; [`Error::Corrupt`] if the content is not of the block's type. The address is given back.
    #[track_caller]
    pub fn enqueue<'s>(&'s self, mut filling: Filling<'s>) -> Result<Block<'s>, Error> {
        self.check_writable()?;
        if !core::ptr::eq(core::ptr::from_ref(filling.engine).cast::<()>(), core::ptr::from_ref(self.engine).cast()) {
            // Of another store; dropping it gives the address back there.
            return Err(Error::BadAddress { addr: filling.addr() });
        }
        let (place, birth) = (filling.place, filling.birth);
        let addr = self.engine.arenas.addr(place);
        let Some(bytes) = filling.slot.as_ref().map(|slot| slot.bytes()) else {
            return Err(Error::BadAddress { addr });
        };
        check_type(bytes, filling.block_type).map_err(|error| Error::format(addr, error))?;
        let hash = hash64(bytes);
        let batch = self.engine.batch.load(Ordering::Acquire);
        let Some(slot) = filling.slot.take() else { return Err(Error::BadAddress { addr }) };
        let published = self.engine.arenas.change(place.arena, |state, map| {
            let generation = state.rolled + 1;
            map.enqueue(&mut state.counts, place.index).ok()?;
            state.changes = state.changes.saturating_add(1);
            let share = self.engine.cache.publish(slot, place.block, Content { hash, batch })?;
            self.engine.pending[(generation & 1) as usize].fetch_add(1, Ordering::AcqRel);
            Some((share, generation))
        });
        let Some((share, generation)) = published else {
            let error = Error::corrupt(addr, Damage::CacheConflict);
            self.engine.fail(error);
            return Err(error);
        };
        trace!(self.engine, Cached, addr, caller);
        trace!(self.engine, Enqueued, addr, caller);
        self.push(&share, Entry { generation, batch, block: place.block, frame_link: share.id().link() });
        Ok(Block { share, ptr: BlockPtr { addr, hash, gen: birth }, _holder: Holder::new(self.engine, addr) })
    }

    /// Puts a published block into the sync queue, helping to drain it if it is full.
    fn push(&self, share: &Shared<'_>, entry: Entry) {
        // Published just now, so nothing else has parked it.
        if self.engine.pool.park(share.clone()).is_err() {
            return;
        }
        let push = |queue: &mut QueueView| {
            queue.push(entry).ok()?;
            Some(queue.len() >= queue.capacity() / 2 && queue.len().is_multiple_of(PUSHES_A_STEP))
        };
        loop {
            match self.engine.queue.with(self.engine.platform, push) {
                Some(helps) => {
                    if helps {
                        self.step();
                    }
                    return;
                }
                None => self.step_or_relax(),
            }
        }
    }

    /// Frees a block: it is no part of the next commit, and free on disk in it. When it is handed out again is the
    /// store's business: not before no state that a crash could expose reaches it.
    ///
    /// # Errors
    /// [`Error::NotAllocated`] for a block that is free, was freed before, is only being filled, or is not a caller's;
    /// [`Error::BadAddress`]; [`Error::ReadOnly`]; [`Error::Full`] if the log of the next commit would have no room for
    /// one more change (only on volumes that the original filled up): commit first.
    #[track_caller]
    pub fn free(&self, ptr: BlockPtr) -> Result<(), Error> {
        self.check_writable()?;
        let place = self.engine.arenas.locate(ptr.addr).ok_or(Error::BadAddress { addr: ptr.addr })?;
        // While something is in limbo, whoever frees helps (see `promise_limbo`).
        if self.engine.in_limbo.load(Ordering::Relaxed) != 0
            || !self.free_at_once(place).map_err(|refused| refused.error(ptr.addr))?
        {
            self.free_with_promise(ptr.addr, place)?;
        }
        trace!(self.engine, Freed, ptr.addr, caller);
        Ok(())
    }

    /// Frees a block for which nothing in memory has to be waited for: a commit has it, or it is in none, is written,
    /// and nobody is inside an epoch. `false` if that is not so; nothing was changed then.
    #[inline(always)]
    fn free_at_once(&self, place: Place) -> Result<bool, Refused> {
        let engine = self.engine;
        engine.epochs.unlinked();
        engine.arenas.change(place.arena, |state, map| {
            let Some(new) = map.new_block(place.index) else { return self.free_committed(state, *map, place) };
            // The last two blocks of an arena, and those of its log, are never new.
            let at_once = engine.epochs.is_quiet()
                && !sabotaged(Switch::ReuseAtOnce)
                && engine.arenas.log_has_room(place.arena, state)
                && engine.cache.forget_written(place.block);
            if at_once {
                map.free_new(&mut state.counts, new);
                state.changes = state.changes.saturating_add(1);
            }
            Ok(at_once)
        })
    }

    /// The same for a block that some commit has, if any block is there.
    #[inline(never)]
    fn free_committed(&self, state: &mut ArenaState, map: FreeMap<'m>, place: Place) -> Result<bool, Refused> {
        self.check_free(state, place)?;
        map.free(&mut state.counts, place.index).map_err(|_| Refused::NotAllocated)?;
        self.engine.cache.forget_written(place.block);
        if sabotaged(Switch::ReuseAtOnce) {
            map.sabotage_free(&mut state.counts, place.index);
        }
        state.changes = state.changes.saturating_add(1);
        Ok(true)
    }

    /// Frees any block, with a place in limbo for it.
    #[cold]
    #[inline(never)]
    fn free_with_promise(&self, addr: u64, place: Place) -> Result<(), Error> {
        self.promise_limbo()?;
        match self.free_by_limbo(place) {
            // Its write is under way: `written` keeps the promise.
            Ok(Freed::Cancelled) => {}
            Ok(Freed::Idle) => self.retire(place),
            Ok(Freed::Committed) => self.drop_promise(),
            Err(refused) => {
                self.drop_promise();
                return Err(refused.error(addr));
            }
        }
        Ok(())
    }

    fn check_free(&self, state: &ArenaState, place: Place) -> Result<(), Refused> {
        if !self.engine.arenas.log_has_room(place.arena, state) {
            return Err(Refused::NoRoom(state.counts.avail));
        }
        if self.engine.arenas.is_spare(place) {
            return Err(Refused::NotAllocated);
        }
        Ok(())
    }

    /// Frees a block that may have to wait in limbo, with a place there promised.
    fn free_by_limbo(&self, place: Place) -> Result<Freed, Refused> {
        self.engine.epochs.unlinked();
        let wanted = !self.engine.epochs.is_quiet();
        self.engine.arenas.change(place.arena, |state, map| {
            self.check_free(state, place)?;
            let freed = map.free(&mut state.counts, place.index).map_err(|_| Refused::NotAllocated)?;
            state.changes = state.changes.saturating_add(1);
            if sabotaged(Switch::ReuseAtOnce) {
                map.sabotage_free(&mut state.counts, place.index);
                return Ok(Freed::Committed);
            }
            Ok(match freed {
                State::Reserved if self.engine.cache.cancel(place.block, wanted) => Freed::Cancelled,
                State::Reserved => Freed::Idle,
                _ => {
                    self.engine.cache.forget_written(place.block);
                    Freed::Committed
                }
            })
        })
    }

    /// Begins a commit: `roots`, and everything that was enqueued and freed before this call, switch together.
    ///
    /// # Errors
    /// [`Error::CommitInFlight`] while an earlier commit is not settled; [`Error::ReadOnly`].
    pub fn commit_start(&self, roots: Roots) -> Result<CommitTicket, Error> {
        self.check_writable()?;
        let ticket = self.begin(|commit| commit.start(self.engine, roots))?;
        trace!(self.engine, CommitBegun, ticket.generation);
        Ok(ticket)
    }

    /// The outcome of a commit, if there is one yet: its generation once it is durable.
    pub fn commit_poll(&self, ticket: &CommitTicket) -> Option<Result<u64, Error>> {
        let (durable, idle) = self.commit.with(self.engine.platform, |commit| (commit.durable().0, commit.is_idle()));
        if durable > ticket.generation || (durable == ticket.generation && (idle || !ticket.repairs)) {
            return Some(Ok(ticket.generation));
        }
        self.failure().map(Err)
    }

    /// Commits and waits until that is durable, which takes two flushes. The second copies are written by later steps;
    /// [`Store::settle`] waits for them. A commit of a store in which nothing changed costs nothing.
    ///
    /// # Errors
    /// [`Error::Device`] if a write or flush failed: the volume then shows this commit or the one before it.
    /// [`Error::ReadOnly`].
    pub fn commit(&self, roots: Roots) -> Result<u64, Error> {
        self.finish(|| self.commit_start(roots))
    }

    /// Waits until a commit can begin, and until it is durable.
    fn finish(&self, start: impl Fn() -> Result<CommitTicket, Error>) -> Result<u64, Error> {
        let mut patience = self.patience_relaxations;
        let ticket = loop {
            match start() {
                Ok(ticket) => break ticket,
                Err(Error::CommitInFlight) => self.wait_for_workers(&mut patience)?,
                Err(error) => return Err(error),
            }
        };
        loop {
            if let Some(result) = self.commit_poll(&ticket) {
                return result;
            }
            self.step_or_relax();
        }
    }

    /// Begins to grow the volume to the present size of its device, in new arenas behind the old ones. Changes of
    /// callers stay with the next commit.
    ///
    /// # Errors
    /// [`Error::Geometry`] if the device has not grown enough for one more arena; [`Error::MemoryTooSmall`];
    /// [`Error::CommitInFlight`]; [`Error::ReadOnly`].
    pub fn grow_start(&self) -> Result<CommitTicket, Error> {
        self.check_writable()?;
        let len_bytes = self.device.geometry().len_bytes;
        self.begin(|commit| commit.start_grow(self.engine, len_bytes))
    }

    /// Begins a commit, which only an idle machine does, and counts that.
    fn begin(&self, start: impl FnOnce(&mut Commit<'m>) -> Result<CommitTicket, Error>) -> Result<CommitTicket, Error> {
        self.commit.with(self.engine.platform, |commit| {
            let ticket = start(commit)?;
            self.commits_begun.fetch_add(1, Ordering::Relaxed);
            Ok(ticket)
        })
    }

    /// Grows the volume to the present size of its device, and waits until that is durable.
    ///
    /// # Errors
    /// As [`Store::grow_start`] and [`Store::commit`].
    pub fn grow(&self) -> Result<u64, Error> {
        self.finish(|| self.grow_start())
    }

    fn check_writable(&self) -> Result<(), Error> {
        if self.engine.has_failed() {
            return Err(Error::ReadOnly);
        }
        Ok(())
    }
}

impl core::fmt::Debug for Store<'_, '_> {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("Store").field("generation", &self.generation()).finish_non_exhaustive()
    }
}
