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

use crate::arena::{Arenas, Class, Place, Space};
use crate::block::{Block, BlockPtr, Filling};
use crate::cache::{Cache, Lookup, Ticket};
use crate::commit::{Action, Commit, CommitCounters, CommitTicket};
use crate::device::{Completion, Device, DeviceError, DeviceGeometry, Payload, Purpose, Request, RequestKind};
use crate::error::{Damage, DeviceOp, Error};
use crate::format::{BlockSize, BlockType};
use crate::freemap::State;
use crate::hash::hash64;
use crate::mount::{ArenaInfo, MountReport};
use crate::platform::Platform;
use crate::pool::{Pool, Shared, SharedChain, SlotChain};
use crate::queue::{Entry, QueueView};
use crate::roots::Roots;
use crate::sabotage::{sabotaged, Switch};
use crate::sync::{AtomicBool, AtomicU32, Lock, Ordering};

/// Completions that one step takes from the device at most.
const POLL_BUDGET: usize = 32;
/// Requests that one step submits from the sync queue at most.
const SUBMIT_BUDGET: usize = 16;
/// Requests that the device had no room for, kept to be offered again.
const UNSENT_MAX: usize = 16;

/// What all handles share: everything of the store but the device and the commit.
pub(crate) struct Engine<'m> {
    pub(crate) size: BlockSize,
    pub(crate) pool: Pool<'m>,
    pub(crate) cache: Cache<'m>,
    pub(crate) arenas: Arenas<'m>,
    pub(crate) queue: &'m Lock<QueueView>,
    pub(crate) platform: &'m dyn Platform,
    pub(crate) second_superblock_addr: u64,
    /// Blocks that are part of a generation and not yet written, by the low bit of the generation.
    pub(crate) pending: [AtomicU32; 2],
    /// Nothing is written any more: the volume was mounted so, or a write or flush failed.
    pub(crate) read_only: AtomicBool,
}

impl Engine<'_> {
    /// Whether a commit must not go on.
    pub(crate) fn has_failed(&self) -> bool {
        self.read_only.load(Ordering::Acquire)
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
    /// Allocations with equal hints tend to share an arena.
    pub hint: u32,
}

impl Allocate {
    /// A block of this type, for new content.
    pub const fn new(block_type: BlockType) -> Self {
        Self { block_type, class: Class::Normal, hint: 0 }
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
}

/// Sums since mount.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// What commits have cost.
    pub commit: CommitCounters,
    /// Blocks written from the sync queue.
    pub queued_block_writes: u32,
    /// Requests by which they were written.
    pub queued_requests: u32,
    /// Blocks asked of the cache.
    pub cache_lookups: u32,
    /// Blocks that it had.
    pub cache_hits: u32,
}

/// Requests waiting to be offered to the device again.
struct Unsent<'m> {
    requests: heapless::Vec<Request<'m>, UNSENT_MAX>,
    /// Callers that may still add one each.
    promised: usize,
}

/// A mounted volume. Shared by reference among any number of threads or CPUs.
///
/// `'m` is the life of the memory, `'d` that of the device, which may own requests with buffers of that memory and so
/// ends first. In a kernel both are `'static`.
pub struct Store<'d, 'm> {
    engine: Engine<'m>,
    device: &'d dyn Device<'m>,
    geometry: DeviceGeometry,
    commit: Lock<Commit<'m>>,
    unsent: Lock<Unsent<'m>>,
    /// Requests and flushes that the device has.
    in_flight: AtomicU32,
    failure: Lock<Option<Error>>,
    written_blocks: AtomicU32,
    written_requests: AtomicU32,
    report: MountReport,
}

impl<'d, 'm> Store<'d, 'm> {
    pub(crate) fn new(engine: Engine<'m>, device: &'d dyn Device<'m>, commit: Commit<'m>, report: MountReport) -> Self {
        engine.read_only.store(report.read_only, Ordering::Release);
        Self {
            engine,
            device,
            geometry: device.geometry(),
            commit: Lock::new(commit),
            unsent: Lock::new(Unsent { requests: heapless::Vec::new(), promised: 0 }),
            in_flight: AtomicU32::new(0),
            failure: Lock::new(None),
            written_blocks: AtomicU32::new(0),
            written_requests: AtomicU32::new(0),
            report,
        }
    }

    /// Hands out a block to be filled, with all bytes zero. Waits for a buffer if need be.
    ///
    /// # Errors
    /// [`Error::Full`]; [`Error::NoBuffer`] if callers hold all buffers; [`Error::ReadOnly`]; [`Error::BadParameter`]
    /// for a block type that only the store writes.
    pub fn allocate(&self, what: Allocate) -> Result<Filling<'_>, Error> {
        self.check_writable()?;
        if !matches!(what.block_type, BlockType::Data | BlockType::Pivot | BlockType::Leaf | BlockType::DeadList) {
            return Err(Error::BadParameter { name: "block type", found: what.block_type as u64 });
        }
        let place = self.engine.arenas.allocate(what.class, what.hint)?;
        // From here on the address goes back by itself if no buffer can be had.
        let mut filling = Filling {
            slot: None,
            engine: &self.engine,
            place,
            block_type: what.block_type,
            birth: self.open_generation(place),
        };
        match self.retry_no_buffer(|| self.engine.cache.take_buffer()) {
            Ok(mut slot) => {
                slot.bytes_mut().fill(0);
                filling.slot = Some(slot);
                Ok(filling)
            }
            Err(error) => {
                let given_back = self.engine.arenas.unreserve(place);
                debug_assert!(given_back.is_ok());
                Err(error)
            }
        }
    }

    /// For tests: takes what is kept back for the log too, as the original may.
    #[cfg(test)]
    pub(crate) fn allocate_from_reserve(&self) -> Result<Filling<'_>, Error> {
        let place = self.engine.arenas.allocate_leaving(|_| 0, 0)?;
        let mut slot = self.retry_no_buffer(|| self.engine.cache.take_buffer())?;
        slot.bytes_mut().fill(0);
        let birth = self.open_generation(place);
        Ok(Filling { slot: Some(slot), engine: &self.engine, place, block_type: BlockType::Data, birth })
    }

    /// The generation that a block allocated now will be committed in.
    fn open_generation(&self, place: Place) -> u64 {
        self.engine.arenas.with(place.arena, |state, _| state.rolled + 1)
    }

    /// Makes a block final: fixes its pointer, and queues it for writing. It is part of the next commit from now on.
    ///
    /// # Errors
    /// [`Error::ReadOnly`]; [`Error::Corrupt`] if the content is not of the block's type. The address is given back.
    pub fn enqueue<'s>(&'s self, mut filling: Filling<'s>) -> Result<Block<'s>, Error> {
        self.check_writable()?;
        if !core::ptr::eq(core::ptr::from_ref(filling.engine).cast::<()>(), core::ptr::from_ref(&self.engine).cast()) {
            // Of another store; dropping it gives the address back there.
            return Err(Error::BadAddress { addr: filling.addr() });
        }
        let (place, birth) = (filling.place, filling.birth);
        let addr = self.engine.arenas.addr(place);
        let Some(bytes) = filling.slot.as_ref().map(|slot| slot.bytes()) else {
            return Err(Error::BadAddress { addr });
        };
        crate::mount::check_type(bytes, filling.block_type).map_err(|error| Error::format(addr, error))?;
        let hash = hash64(bytes);
        let Some(slot) = filling.slot.take() else { return Err(Error::BadAddress { addr }) };
        let published = self.engine.arenas.with(place.arena, |state, map| {
            let generation = state.rolled + 1;
            map.enqueue(&mut state.counts, place.index).map_err(|_| Error::corrupt(addr, Damage::CacheConflict))?;
            state.changes += 1;
            let share = self.engine.cache.publish(slot, place.block, hash, addr)?;
            self.engine.pending[(generation & 1) as usize].fetch_add(1, Ordering::AcqRel);
            Ok((share, generation))
        });
        let (share, generation) = published.inspect_err(|error| self.fail(*error))?;
        self.push(&share, Entry { generation, block: place.block, frame_link: share.id().link() });
        Ok(Block { share, ptr: BlockPtr { addr, hash, gen: birth } })
    }

    /// Puts a published block into the sync queue, helping to drain it if it is full.
    fn push(&self, share: &Shared<'_>, entry: Entry) {
        // Published just now, so nothing else has parked it.
        if self.engine.pool.park(share.clone()).is_err() {
            return;
        }
        while self.engine.queue.with(self.engine.platform, |queue| queue.push(entry)).is_err() {
            self.step_or_relax();
        }
    }

    /// Reads a block and verifies it against its pointer. Waits for the device if the block is not in the cache.
    ///
    /// # Errors
    /// [`Error::Corrupt`] if the bytes are not those that the pointer promises; [`Error::Device`];
    /// [`Error::BadAddress`]; [`Error::NoBuffer`].
    pub fn read(&self, ptr: BlockPtr) -> Result<Block<'_>, Error> {
        let reading = self.retry_no_buffer(|| self.start_read(ptr))?;
        loop {
            if let Some(result) = reading.poll() {
                return result;
            }
            self.step_or_relax();
        }
    }

    /// Starts to read a block; [`Reading::poll`] has it after enough steps.
    ///
    /// # Errors
    /// [`Error::BadAddress`]; [`Error::NoBuffer`] if there is no buffer right now.
    pub fn start_read(&self, ptr: BlockPtr) -> Result<Reading<'_>, Error> {
        let place = self.engine.arenas.locate(ptr.addr)?;
        if !self.promise() {
            return Err(Error::NoBuffer);
        }
        let looked_up = self.engine.cache.lookup(place.block);
        let (source, request) = match looked_up {
            Err(error) => {
                self.keep_promise(None);
                return Err(error);
            }
            Ok(Lookup::Hit(share)) => (Source::Here(share), None),
            Ok(Lookup::Wait(ticket)) => (Source::Coming(ticket), None),
            Ok(Lookup::Miss(slot, ticket)) => {
                let chain = SlotChain::new(slot);
                let request = Request::read(ptr.addr, self.engine.size.len_bytes(), chain, Purpose::CacheRead);
                (Source::Coming(ticket), Some(request))
            }
        };
        self.keep_promise(request.and_then(|request| self.submit(request)));
        Ok(Reading { engine: &self.engine, source, ptr })
    }

    /// Frees a block: it is no part of the next commit, and free on disk in it. When it is handed out again is the
    /// store's business: not before no state that a crash could expose reaches it.
    ///
    /// # Errors
    /// [`Error::NotAllocated`] for a block that is free, was freed before, is only being filled, or is not a caller's;
    /// [`Error::BadAddress`]; [`Error::ReadOnly`]; [`Error::Full`] if the log of the next commit would have no room for
    /// one more change (only on volumes that the original filled up): commit first.
    pub fn free(&self, ptr: BlockPtr) -> Result<(), Error> {
        self.check_writable()?;
        let place = self.engine.arenas.locate(ptr.addr)?;
        self.engine.arenas.with(place.arena, |state, map| {
            if !self.engine.arenas.log_has_room(place.arena, state) {
                let free_blocks = u64::from(state.counts.avail);
                return Err(Error::Full { room_blocks: 0, free_blocks, pending_blocks: 0 });
            }
            let is_log = ptr.addr == state.log.head_addr
                || ptr.addr == state.log.tail_addr
                || self.engine.arenas.is_spare(place);
            let freed = if is_log { Err(State::InUse) } else { map.free(&mut state.counts, place.index) };
            let freed = freed.map_err(|_| Error::NotAllocated { addr: ptr.addr })?;
            state.changes += 1;
            match freed {
                // No commit has it. Its write may still be under way; then `written` gives the block back.
                State::Reserved => {
                    if !self.engine.cache.cancel(place.block) {
                        let given_back = map.unreserve(&mut state.counts, place.index);
                        debug_assert!(given_back.is_ok());
                    }
                }
                _ => self.engine.cache.forget(place.block),
            }
            if sabotaged(Switch::ReuseAtOnce) {
                map.sabotage_free(&mut state.counts, place.index);
            }
            Ok(())
        })
    }

    /// Begins a commit: `roots`, and everything that was enqueued and freed before this call, switch together.
    ///
    /// # Errors
    /// [`Error::CommitInFlight`] while an earlier commit is not settled; [`Error::ReadOnly`].
    pub fn commit_start(&self, roots: Roots) -> Result<CommitTicket, Error> {
        self.check_writable()?;
        self.commit.with(self.engine.platform, |commit| commit.start(&self.engine, roots))
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
        let ticket = loop {
            match self.commit_start(roots) {
                Ok(ticket) => break ticket,
                Err(Error::CommitInFlight) => self.step_or_relax(),
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

    /// Waits until nothing is queued, in flight or trailing behind a commit. This is no commit.
    ///
    /// # Errors
    /// [`Error::Device`] if something failed meanwhile or before.
    pub fn settle(&self) -> Result<(), Error> {
        loop {
            let idle = self.commit.with(self.engine.platform, |commit| commit.is_idle());
            if !self.is_busy() {
                match self.failure() {
                    Some(error) => return Err(error),
                    None if idle => return Ok(()),
                    None => {}
                }
            }
            self.step_or_relax();
        }
    }

    /// Ends the use of a volume: [`Store::settle`]. What was not committed is gone, as after a crash.
    ///
    /// # Errors
    /// As [`Store::settle`].
    pub fn unmount(self) -> Result<(), Error> {
        self.settle()
    }

    /// Does a bounded piece of work; `false` if there was none. Call it while waiting for anything.
    pub fn step(&self) -> bool {
        let mut worked = false;
        for _ in 0..POLL_BUDGET {
            let Some(completion) = self.device.poll() else { break };
            self.complete(completion);
            worked = true;
        }
        worked |= self.submit_unsent();
        worked |= self.submit_queued();
        worked | self.step_commit()
    }

    fn step_or_relax(&self) {
        if !self.step() {
            self.engine.platform.relax();
        }
    }

    /// Repeats something that needs a buffer while steps can still free one.
    fn retry_no_buffer<T>(&self, mut attempt: impl FnMut() -> Result<T, Error>) -> Result<T, Error> {
        loop {
            let result = attempt();
            if !matches!(result, Err(Error::NoBuffer)) {
                return result;
            }
            let waiting = self.is_busy();
            if !self.step() {
                if !waiting {
                    return attempt();
                }
                self.engine.platform.relax();
            }
        }
    }

    /// Whether something is queued, waits to be submitted, or is with the device.
    fn is_busy(&self) -> bool {
        let unsent = || self.unsent.with(self.engine.platform, |unsent| unsent.promised + unsent.requests.len());
        self.engine.pending() != 0 || self.in_flight.load(Ordering::Acquire) != 0 || unsent() != 0
    }

    fn check_writable(&self) -> Result<(), Error> {
        if self.engine.has_failed() {
            return Err(Error::ReadOnly);
        }
        Ok(())
    }

    /// Stops all writing until the next mount. The first failure is the one that is kept.
    fn fail(&self, error: Error) {
        self.failure.with(self.engine.platform, |failure| {
            failure.get_or_insert(error);
        });
        self.engine.read_only.store(true, Ordering::Release);
    }
}

/// To the device and back.
impl<'d, 'm> Store<'d, 'm> {
    /// Offers a request; gives it back if the device has no room.
    fn submit(&self, request: Request<'m>) -> Option<Request<'m>> {
        self.in_flight.fetch_add(1, Ordering::AcqRel);
        match self.device.submit(request) {
            Ok(()) => None,
            Err(refused) => {
                self.in_flight.fetch_sub(1, Ordering::AcqRel);
                Some(refused)
            }
        }
    }

    /// Reserves a place among the unsent requests, so that a refused one is never without one.
    fn promise(&self) -> bool {
        self.unsent.with(self.engine.platform, |unsent| {
            let room = unsent.requests.len() + unsent.promised < UNSENT_MAX;
            unsent.promised += usize::from(room);
            room
        })
    }

    fn keep_promise(&self, refused: Option<Request<'m>>) {
        self.unsent.with(self.engine.platform, |unsent| {
            unsent.promised -= 1;
            if let Some(request) = refused {
                // There is room: it was promised.
                let kept = unsent.requests.push(request);
                debug_assert!(kept.is_ok());
            }
        });
    }

    fn submit_unsent(&self) -> bool {
        let mut worked = false;
        for _ in 0..UNSENT_MAX {
            let next = self.unsent.with(self.engine.platform, |unsent| {
                let request = unsent.requests.pop()?;
                unsent.promised += 1;
                Some(request)
            });
            let Some(request) = next else { break };
            if self.engine.has_failed() && request.kind() == RequestKind::Write {
                // Nothing is written any more.
                self.complete_transfer(request, Err(DeviceError::Gone));
                self.keep_promise(None);
                continue;
            }
            let refused = self.submit(request);
            let full = refused.is_some();
            self.keep_promise(refused);
            if full {
                break;
            }
            worked = true;
        }
        worked
    }

    /// Writes queued blocks, neighbours in one request.
    fn submit_queued(&self) -> bool {
        let mut worked = false;
        for _ in 0..SUBMIT_BUDGET {
            if self.in_flight.load(Ordering::Relaxed) >= u32::from(self.geometry.queue_depth.max(1)) || !self.promise()
            {
                break;
            }
            let request = self.next_queued();
            let any = request.is_some();
            let refused = request.and_then(|request| self.submit(request));
            let full = refused.is_some();
            self.keep_promise(refused);
            worked |= any && !full;
            if !any || full {
                break;
            }
        }
        worked
    }

    /// The next queued block that `wanted` accepts; cancelled ones and those of a failed store are dropped on the way.
    fn pop_queued(&self, wanted: impl Fn(&Entry) -> bool) -> Option<(Entry, Shared<'m>)> {
        loop {
            let entry = self.engine.queue.with(self.engine.platform, |queue| {
                queue.peek().copied().filter(&wanted)?;
                queue.pop()
            })?;
            let Some(share) = self.engine.pool.by_link(entry.frame_link).and_then(|id| self.engine.pool.unpark(id))
            else {
                continue;
            };
            if !self.engine.cache.is_cancelled(&share) && !self.engine.has_failed() {
                return Some((entry, share));
            }
            self.written(share, entry.block, (entry.generation & 1) as u8);
        }
    }

    fn next_queued(&self) -> Option<Request<'m>> {
        let (first, share) = self.pop_queued(|_| true)?;
        let parity = (first.generation & 1) as u8;
        let block_len = self.engine.size.len_bytes();
        let Ok(mut chain) = SharedChain::new(share) else { return None };
        let by_bytes = self.geometry.max_transfer_len_bytes as usize / block_len;
        let most = by_bytes.min(usize::from(self.geometry.max_segments)).max(1) as u32;
        while chain.len() < most {
            let next = first.block + chain.len();
            let neighbour = |entry: &Entry| entry.generation == first.generation && entry.block == next;
            let Some((_, share)) = self.pop_queued(neighbour) else { break };
            if chain.push(share).is_err() {
                break;
            }
        }
        self.written_blocks.fetch_add(chain.len(), Ordering::Relaxed);
        self.written_requests.fetch_add(1, Ordering::Relaxed);
        let addr = u64::from(first.block) << self.engine.size.shift();
        Some(Request::write(addr, block_len, chain, Purpose::Queued { parity }))
    }

    /// A queued block needs no more writing.
    fn written(&self, share: Shared<'m>, block: u32, parity: u8) {
        if self.engine.cache.written(&share) {
            if let Ok(place) = self.engine.arenas.locate(u64::from(block) << self.engine.size.shift()) {
                let given_back = self.engine.arenas.unreserve(place);
                debug_assert!(given_back.is_ok());
            }
        }
        drop(share);
        self.engine.pending[usize::from(parity & 1)].fetch_sub(1, Ordering::AcqRel);
    }

    fn complete(&self, completion: Completion<'m>) {
        // A device may still deliver what an earlier store has asked for; that is none of our business.
        match completion {
            Completion::Flush(tag, result) => {
                if !self.commit.with(self.engine.platform, |commit| commit.take_flush(tag)) {
                    return;
                }
                self.complete_flush(result);
            }
            Completion::Transfer(request, result) => {
                if !request.is_of(&self.engine.pool) {
                    return;
                }
                self.complete_transfer(request, result);
            }
        }
        self.in_flight.fetch_sub(1, Ordering::AcqRel);
    }

    fn complete_flush(&self, result: Result<(), DeviceError>) {
        match result {
            Err(cause) if !sabotaged(Switch::IgnoreFlushError) => {
                self.fail(Error::Device { op: DeviceOp::Flush, addr: 0, cause });
            }
            _ => self.commit.with(self.engine.platform, |commit| commit.flush_done(&self.engine)),
        }
    }

    fn complete_transfer(&self, request: Request<'m>, result: Result<(), DeviceError>) {
        let addr = request.addr();
        let result = if sabotaged(Switch::IgnoreWriteError) && matches!(request.payload, Payload::Shares(_)) {
            Ok(())
        } else {
            result
        };
        match (request.payload, request.purpose) {
            (Payload::Slots(mut chain), Purpose::CacheRead) => {
                while let Some(slot) = chain.pop() {
                    self.engine.cache.finish_read(slot, result);
                }
            }
            (Payload::Slots(mut chain), _) => match (chain.pop(), result) {
                (Some(slot), Ok(())) => self.commit.with(self.engine.platform, |commit| commit.read_done(slot)),
                (_, Err(cause)) => self.fail(Error::Device { op: DeviceOp::Read, addr, cause }),
                (None, Ok(())) => {}
            },
            (Payload::Shares(mut chain), purpose) => {
                if let Err(cause) = result {
                    self.fail(Error::Device { op: DeviceOp::Write, addr, cause });
                }
                let mut block = (addr >> self.engine.size.shift()) as u32;
                while let Some(share) = chain.pop() {
                    if let Purpose::Queued { parity } = purpose {
                        self.written(share, block, parity);
                    }
                    block += 1;
                }
                if purpose == Purpose::Commit && result.is_ok() {
                    self.commit.with(self.engine.platform, |commit| commit.write_done());
                }
            }
        }
    }

    /// Advances the commit by a few actions.
    fn step_commit(&self) -> bool {
        let mut worked = false;
        for _ in 0..SUBMIT_BUDGET {
            let platform = self.engine.platform;
            match self.commit.with(platform, |commit| commit.next(&self.engine)) {
                Ok(Action::Wait) => break,
                Ok(Action::Worked) => {}
                Ok(Action::Submit(request)) => {
                    let refused = self.submit(request);
                    let full = refused.is_some();
                    self.commit.with(platform, |commit| commit.handed_out(refused));
                    if full {
                        break;
                    }
                }
                Ok(Action::Flush(tag)) => {
                    self.in_flight.fetch_add(1, Ordering::AcqRel);
                    let refused = self.device.flush(tag).is_err();
                    self.commit.with(platform, |commit| match refused {
                        true => commit.flush_refused(),
                        false => commit.handed_out(None),
                    });
                    if refused {
                        self.in_flight.fetch_sub(1, Ordering::AcqRel);
                        break;
                    }
                }
                Err(error) => self.fail(error),
            }
            worked = true;
        }
        worked
    }
}

/// What there is to know.
impl Store<'_, '_> {
    /// Size of a block.
    pub fn block_size(&self) -> BlockSize {
        self.engine.size
    }

    /// The newest durable generation.
    pub fn generation(&self) -> u64 {
        self.commit.with(self.engine.platform, |commit| commit.durable().0)
    }

    /// What the newest durable commit holds.
    pub fn roots(&self) -> Roots {
        self.commit.with(self.engine.platform, |commit| commit.durable().1)
    }

    /// Whether the store refuses to write: it was mounted so, or a write or flush failed.
    pub fn is_read_only(&self) -> bool {
        self.engine.has_failed()
    }

    /// The failure that ended all writing, if there was one.
    pub fn failure(&self) -> Option<Error> {
        self.failure.with(self.engine.platform, |failure| *failure)
    }

    /// How the space is used.
    pub fn space(&self) -> Space {
        self.engine.arenas.space()
    }

    /// Blocks that an allocation of this class can still get.
    pub fn room_blocks(&self, class: Class) -> u64 {
        self.engine.arenas.room(class)
    }

    /// Sums since mount.
    pub fn counters(&self) -> Counters {
        Counters {
            commit: self.commit.with(self.engine.platform, |commit| commit.counters),
            queued_block_writes: self.written_blocks.load(Ordering::Relaxed),
            queued_requests: self.written_requests.load(Ordering::Relaxed),
            cache_lookups: self.engine.cache.counters.lookups.load(Ordering::Relaxed),
            cache_hits: self.engine.cache.counters.hits.load(Ordering::Relaxed),
        }
    }

    /// What mount found.
    pub fn report(&self) -> MountReport {
        self.report
    }

    /// One arena, by number; `None` behind the last.
    pub fn arena(&self, index: usize) -> Option<ArenaInfo> {
        if index >= self.engine.arenas.len() {
            return None;
        }
        let len = |blocks: u32| u64::from(blocks) << self.engine.size.shift();
        let (counts, log, bad_copies) =
            self.engine.arenas.with(index, |state, _| (state.counts, state.log, state.bad_copies));
        Some(ArenaInfo {
            addr: self.engine.arenas.base_addr(index),
            size_bytes: len(self.engine.arenas.blocks(index)),
            free_bytes: len(counts.free_flight),
            free_ranges: counts.ranges_flight,
            log_addr: log.head_addr,
            log_blocks: log.blocks,
            copies_good: [bad_copies & 1 == 0, bad_copies & 2 == 0],
        })
    }

    /// Whether the block at a byte address is free in the newest commit that was begun. For checks.
    ///
    /// # Errors
    /// [`Error::BadAddress`] for headers, superblocks, and what is outside the volume.
    pub fn is_free(&self, addr: u64) -> Result<bool, Error> {
        let place = self.engine.arenas.locate(addr)?;
        Ok(self.engine.arenas.with(place.arena, |_, map| map.is_free_in_flight(place.index)))
    }
}

enum Source<'s> {
    Here(Shared<'s>),
    Coming(Ticket<'s>),
}

/// A read that was started.
pub struct Reading<'s> {
    engine: &'s Engine<'s>,
    source: Source<'s>,
    ptr: BlockPtr,
}

impl<'s> Reading<'s> {
    /// The block, once it is here; the same answer each time after that.
    pub fn poll(&self) -> Option<Result<Block<'s>, Error>> {
        let addr = self.ptr.addr;
        let share = match &self.source {
            Source::Here(share) => share.clone(),
            Source::Coming(ticket) => match ticket.poll()? {
                Ok(share) => share,
                Err(cause) => return Some(Err(Error::Device { op: DeviceOp::Read, addr, cause })),
            },
        };
        let (expected, found) = (self.ptr.hash, share.meta().hash());
        if expected != found && !sabotaged(Switch::SkipHashCheck) {
            self.engine.cache.distrust(&share);
            return Some(Err(Error::corrupt(addr, Damage::Hash { expected, found })));
        }
        Some(Ok(Block { share, ptr: self.ptr }))
    }
}

/// Relaxations without any completion after which a store that is dropped gives up on its device.
const DROP_RELAXATIONS: u32 = u32::MAX;

impl Drop for Store<'_, '_> {
    /// Waits until the device has given every buffer back, and submits nothing more: a write that is still on its way
    /// must not land on what the next store puts there. Every request ends in finite time (rule 5 of the contract); a
    /// device that breaks that rule is given up after a bounded wait.
    fn drop(&mut self) {
        let mut idle = 0;
        while self.in_flight.load(Ordering::Acquire) != 0 && idle < DROP_RELAXATIONS {
            match self.device.poll() {
                Some(completion) => {
                    self.complete(completion);
                    idle = 0;
                }
                None => {
                    self.engine.platform.relax();
                    idle += 1;
                }
            }
        }
    }
}

impl core::fmt::Debug for Store<'_, '_> {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("Store").field("generation", &self.generation()).finish_non_exhaustive()
    }
}

impl core::fmt::Debug for Reading<'_> {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("Reading").field("ptr", &self.ptr).finish_non_exhaustive()
    }
}
