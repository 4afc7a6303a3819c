//! The commit: a machine that takes the volume from one durable state to the next, one bounded step at a time.
//!
//! ```text
//!   E0  only if some copy is not known to be good: rewrite it from the durable state             flush
//!   E1  data of the generation; for each arena that changed: its log, anew, in fresh blocks;
//!       header copy A, which names the log and carries its digest                                flush
//!   E2  superblock 0, which names the headers by hash                                            flush -> acknowledged
//!   E3  header copies B, superblock 1                                                            flush -> settled
//! ```
//!
//! Why this is safe: until E2 the old superblocks name the old headers by hash, of which copy B is untouched, and these
//! name the old logs, which no write touches. From E2 on superblock 0 names copies A. A superblock that was torn is no
//! superblock, and the other one is whole. E3 makes the second copies equal before the next E1 overwrites a first one;
//! only then may what this commit freed be handed out again, so that the loss of either superblock costs nothing.
//!
//! A log whose ranges need several blocks is not written anew each time: fresh blocks with the changes are linked behind
//! it. That rewrites the chain pointer of its last block in place, which no reader of the old state follows, because the
//! header says how many blocks the log has. The log is written anew once it has more than twice the blocks that it needs.
//! docs/DESIGN.md tells how the layout was chosen; the model in `model/` checks it.
//!
//! # How it is driven
//! [`Commit::next`] is called with the machine locked, does a bounded piece of work and says what to do with the device:
//! submit a request, flush, or nothing for now. The caller does that without holding the lock, and reports back. Any
//! number of callers may do so at once; one action is handed out at a time.
//!
//! # Lock order
//! The machine's lock comes first; one arena's lock is taken under it.

use crate::device::{FlushTag, Purpose, Request};
use crate::error::{Damage, Error};
use crate::format::{
    chain_digest, encode_superblock, max_sealed_arenas, ranges_per_block, set_chain, AddrHash, ArenaHeader, ArenaRef,
    FormatError, LogBlock, LogEntry, LogSeal, LogWriter, SuperHead, Superblock, CHAIN_DIGEST_START, MAX_GENERATION,
    NONE,
};
use crate::hash::hash64;
use crate::pool::{SharedChain, Slot, SlotChain};
use crate::roots::Roots;
use crate::sabotage::{sabotaged, Switch};
use crate::store::Engine;
use crate::sync::Ordering;

/// What the caller of [`Commit::next`] has to do.
pub(crate) enum Action<'m> {
    /// Submit, then report with [`Commit::handed_out`].
    Submit(Request<'m>),
    /// Flush, then report with [`Commit::handed_out`].
    Flush(FlushTag),
    /// Some work was done; there may be more.
    Worked,
    /// Nothing to do until a completion arrives.
    Wait,
}

/// Where the machine stands. Within a phase, `arena` counts.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Phase {
    Idle,
    /// E0.
    Repair,
    RepairRead(Copy2),
    RepairWrite(Copy2),
    /// E1.
    Log(LogPhase),
    HeadersA,
    Drain,
    /// E2.
    Superblock0,
    /// E3.
    HeadersB,
    Superblock1,
    Settle,
    /// A flush and what comes after it.
    Flush(Stage),
    Flushing(Stage),
}

/// What a flush completes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Stage {
    E0,
    E1,
    E2,
    E3,
}

/// One of two copies of a superblock or an arena header.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Copy2 {
    /// The arena, or `None` for the superblock.
    arena: Option<usize>,
    /// 0 or 1: the copy that is not good.
    bad: u8,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum LogPhase {
    /// Look for the next arena that changed.
    Find,
    /// Free the old log: its next block, and how many are left.
    FreeOld { addr: u64, left: u32, digest: u64 },
    /// The same, waiting for that block to be read.
    Reading { addr: u64, left: u32, digest: u64 },
    /// Link fresh blocks behind the last one.
    Link { tail_addr: u64 },
    /// The same, waiting for the last one to be read.
    Linking { tail_addr: u64, log: NewLog },
    /// Write one block of the new log.
    Encode(NewLog),
}

/// A log that is being written.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct NewLog {
    head_addr: u64,
    /// Address of the block that comes next.
    addr: u64,
    blocks: u32,
    digest: u64,
    /// The digest without the last block.
    before_tail: u64,
    /// Everything in front of this block of the arena is encoded.
    position: u32,
    content: Content,
}

/// What goes into the blocks of a log.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Content {
    /// All free ranges: a log written anew.
    Ranges,
    /// What this commit changes: blocks behind an existing log. `opened` once the opening barrier is in.
    Changes { opened: bool },
}

/// Log blocks that an arena may have beyond twice what its free ranges need, before the log is written anew.
const LOG_SLACK_BLOCKS: u32 = 8;

/// What commits have cost since mount.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CommitCounters {
    /// Commits acknowledged.
    pub commits: u64,
    /// Blocks that commits wrote: logs, headers, superblocks. Repairs are apart.
    pub block_writes: u64,
    /// Flushes, those of repairs included.
    pub flushes: u64,
    /// Copies of headers and superblocks that were rewritten because they were not good.
    pub repairs: u64,
}

pub(crate) struct Commit<'m> {
    phase: Phase,
    arena: usize,
    /// The newest acknowledged generation and what it committed.
    durable: u64,
    durable_roots: Roots,
    /// The same of the commit in flight.
    generation: u64,
    roots: Roots,
    /// Superblock copies that are not known to be good, a bit each.
    bad_superblocks: u8,
    /// The volume is new: the first commit is due although nothing changed.
    is_new: bool,
    /// There is nothing to commit: stop after the repairs.
    repair_only: bool,
    /// Reads and writes of this machine that are not completed.
    outstanding: u32,
    /// An action is with a caller who has not reported yet.
    handed_out: bool,
    /// A request or flush that the device had no room for.
    unsent: Option<Request<'m>>,
    read: Option<Slot<'m>>,
    /// Which of the arena's last two blocks the log being written took, a bit each.
    spares_taken: u8,
    /// The flush that the device has.
    flush_tag: Option<FlushTag>,
    pub(crate) counters: CommitCounters,
}

/// What a caller waits for: see [`crate::Store::commit_start`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CommitTicket {
    pub(crate) generation: u64,
    /// Whether to wait until the machine is idle, because only repairs are due.
    pub(crate) repairs: bool,
}

impl<'m> Commit<'m> {
    pub(crate) fn new(durable: u64, roots: Roots, bad_superblocks: u8) -> Self {
        Self {
            phase: Phase::Idle,
            arena: 0,
            durable,
            durable_roots: roots,
            generation: durable,
            roots,
            bad_superblocks,
            is_new: false,
            repair_only: false,
            outstanding: 0,
            handed_out: false,
            unsent: None,
            read: None,
            spares_taken: 0,
            flush_tag: None,
            counters: CommitCounters::default(),
        }
    }

    /// The machine of a volume of which nothing is written yet.
    pub(crate) fn of_new_volume() -> Self {
        Self { is_new: true, ..Self::new(0, Roots::EMPTY, 0) }
    }

    pub(crate) fn is_idle(&self) -> bool {
        self.phase == Phase::Idle
    }

    pub(crate) fn durable(&self) -> (u64, Roots) {
        (self.durable, self.durable_roots)
    }

    /// Begins a commit of everything that was enqueued and freed before this call. Only while idle.
    pub(crate) fn start(&mut self, engine: &Engine<'m>, roots: Roots) -> Result<CommitTicket, Error> {
        if !self.is_idle() {
            return Err(Error::CommitInFlight);
        }
        let arenas = &engine.arenas;
        let repairs = self.bad_superblocks != 0
            || (0..arenas.len()).any(|arena| arenas.with(arena, |state, _| state.bad_copies != 0));
        let changed = self.is_new
            || roots != self.durable_roots
            || (0..arenas.len()).any(|arena| arenas.with(arena, |state, map| map.is_changed() || state.unclean));
        if !changed && !repairs {
            return Ok(CommitTicket { generation: self.durable, repairs: false });
        }
        let generation = self.durable + u64::from(changed);
        if generation > MAX_GENERATION {
            return Err(Error::BadParameter { name: "generation", found: generation });
        }
        if changed {
            for arena in 0..arenas.len() {
                arenas.with(arena, |state, map| {
                    map.roll(&mut state.counts);
                    state.changes = 0;
                    state.rolled = generation;
                    state.touched = map.is_moved() || state.must_rewrite;
                });
            }
        }
        (self.generation, self.roots, self.repair_only) = (generation, roots, !changed);
        self.enter(if repairs && !sabotaged(Switch::SkipRepair) { Phase::Repair } else { Phase::Log(LogPhase::Find) });
        Ok(CommitTicket { generation, repairs: !changed })
    }

    fn enter(&mut self, phase: Phase) {
        self.phase = phase;
        self.arena = 0;
    }

    /// The caller did what an action asked for; `refused` is the request if the device had no room.
    pub(crate) fn handed_out(&mut self, refused: Option<Request<'m>>) {
        self.handed_out = false;
        self.unsent = refused;
    }

    /// The flush that an action asked for found no room in the device.
    pub(crate) fn flush_refused(&mut self) {
        self.handed_out = false;
        self.flush_tag = None;
        if let Phase::Flushing(stage) = self.phase {
            self.phase = Phase::Flush(stage);
        }
    }

    /// A read of this machine ended well.
    pub(crate) fn read_done(&mut self, slot: Slot<'m>) {
        self.outstanding = self.outstanding.saturating_sub(1);
        self.read = Some(slot);
    }

    /// A write of this machine ended well.
    pub(crate) fn write_done(&mut self) {
        self.outstanding = self.outstanding.saturating_sub(1);
    }

    /// Whether a completed flush is the one that this machine waits for.
    pub(crate) fn take_flush(&mut self, tag: FlushTag) -> bool {
        let ours = self.flush_tag == Some(tag);
        if ours {
            self.flush_tag = None;
        }
        ours
    }

    /// The flush ended well.
    pub(crate) fn flush_done(&mut self, engine: &Engine<'m>) {
        if let Phase::Flushing(stage) = self.phase {
            self.counters.flushes += 1;
            self.after_flush(engine, stage);
        }
    }

    fn after_flush(&mut self, engine: &Engine<'m>, stage: Stage) {
        if stage == Stage::E1 && sabotaged(Switch::ReuseBeforeDurable) {
            (0..engine.arenas.len()).for_each(|arena| {
                engine.arenas.with(arena, |state, map| map.settle(&mut state.counts));
            });
        }
        match stage {
            Stage::E0 if self.repair_only => self.enter(Phase::Idle),
            Stage::E0 => self.enter(Phase::Log(LogPhase::Find)),
            Stage::E1 => self.enter(Phase::Superblock0),
            Stage::E2 => {
                self.acknowledge();
                self.enter(Phase::HeadersB);
            }
            Stage::E3 => self.enter(Phase::Settle),
        }
    }

    fn acknowledge(&mut self) {
        self.durable = self.generation;
        self.durable_roots = self.roots;
        self.is_new = false;
        self.counters.commits += 1;
    }

    /// One bounded piece of work.
    pub(crate) fn next(&mut self, engine: &Engine<'m>) -> Result<Action<'m>, Error> {
        // Asked here, with the machine locked: a caller may have waited for the lock while a write failed.
        if self.handed_out || self.phase == Phase::Idle || engine.has_failed() {
            return Ok(Action::Wait);
        }
        let action = match self.unsent.take() {
            Some(request) => Action::Submit(request),
            None => self.work(engine)?,
        };
        self.handed_out = matches!(action, Action::Submit(_) | Action::Flush(_));
        Ok(action)
    }

    fn work(&mut self, engine: &Engine<'m>) -> Result<Action<'m>, Error> {
        match self.phase {
            Phase::Idle | Phase::Flushing(_) => Ok(Action::Wait),
            Phase::Repair => self.repair(engine),
            Phase::RepairRead(copy) => self.repair_read(engine, copy),
            Phase::RepairWrite(copy) => self.repair_written(engine, copy),
            Phase::Log(phase) => self.log(engine, phase),
            Phase::HeadersA if sabotaged(Switch::BothHeadersFirst) => self.headers(engine, 0, Phase::HeadersB),
            Phase::HeadersA => self.headers(engine, 0, Phase::Drain),
            Phase::Drain => self.drain(engine),
            Phase::Superblock0 => self.superblock(engine, 0, Stage::E2),
            Phase::HeadersB if sabotaged(Switch::BothHeadersFirst) && self.durable != self.generation => {
                self.headers(engine, 1, Phase::Drain)
            }
            Phase::HeadersB if sabotaged(Switch::SuperblocksTogether) => {
                self.headers(engine, 1, Phase::Flush(Stage::E3))
            }
            Phase::HeadersB => self.headers(engine, 1, Phase::Superblock1),
            Phase::Superblock1 if sabotaged(Switch::SuperblocksTogether) => self.superblock(engine, 1, Stage::E2),
            Phase::Superblock1 => self.superblock(engine, 1, Stage::E3),
            Phase::Settle => Ok(self.settle(engine)),
            Phase::Flush(stage) => Ok(self.flush(engine, stage)),
        }
    }

    fn flush(&mut self, engine: &Engine<'m>, stage: Stage) -> Action<'m> {
        if self.outstanding != 0 {
            return Action::Wait;
        }
        let skip = match stage {
            Stage::E0 => Switch::SkipFlushE0,
            Stage::E1 => Switch::SkipFlushE1,
            Stage::E2 => Switch::SkipFlushE2,
            Stage::E3 => Switch::SkipFlushE3,
        };
        if sabotaged(skip) {
            self.after_flush(engine, stage);
            return Action::Worked;
        }
        if stage == Stage::E2 && sabotaged(Switch::AcknowledgeBeforeFlush) {
            self.acknowledge();
        }
        let tag = FlushTag::fresh();
        self.flush_tag = Some(tag);
        self.phase = Phase::Flushing(stage);
        Action::Flush(tag)
    }

    /// A buffer of the commit's own; `None` while all are in flight.
    fn buffer(&self, engine: &Engine<'m>) -> Option<Slot<'m>> {
        (engine.cache.len()..engine.pool.len()).find_map(|index| engine.pool.claim(engine.pool.id(index)?))
    }

    fn submit_write(&mut self, engine: &Engine<'m>, addr: u64, slot: Slot<'m>) -> Result<Action<'m>, Error> {
        // The share is the first of its buffer, so nothing else has it in a chain.
        let Ok(chain) = SharedChain::new(slot.share()) else {
            return Err(Error::corrupt(addr, Damage::CacheConflict));
        };
        self.outstanding += 1;
        Ok(Action::Submit(Request::write(addr, engine.size.len_bytes(), chain, Purpose::Commit)))
    }

    fn submit_read(&mut self, engine: &Engine<'m>, addr: u64, slot: Slot<'m>) -> Action<'m> {
        self.outstanding += 1;
        Action::Submit(Request::read(addr, engine.size.len_bytes(), SlotChain::new(slot), Purpose::Private))
    }
}

/// E0: second copies.
impl<'m> Commit<'m> {
    fn copy_addr(&self, engine: &Engine<'m>, copy: Copy2, which: u8) -> u64 {
        match (copy.arena, which) {
            (None, 0) => 0,
            (None, _) => engine.second_superblock_addr,
            (Some(arena), which) => engine.arenas.base_addr(arena) + u64::from(which) * engine.size.len_u64(),
        }
    }

    fn next_bad_copy(&self, engine: &Engine<'m>) -> Option<Copy2> {
        let first_bit = |bits: u8| (bits != 0).then(|| bits.trailing_zeros() as u8);
        if let Some(bad) = first_bit(self.bad_superblocks) {
            return Some(Copy2 { arena: None, bad });
        }
        (self.arena..engine.arenas.len()).find_map(|arena| {
            let bad = first_bit(engine.arenas.with(arena, |state, _| state.bad_copies))?;
            Some(Copy2 { arena: Some(arena), bad })
        })
    }

    fn repair(&mut self, engine: &Engine<'m>) -> Result<Action<'m>, Error> {
        let Some(copy) = self.next_bad_copy(engine) else {
            self.phase = Phase::Flush(Stage::E0);
            return Ok(Action::Worked);
        };
        let Some(slot) = self.buffer(engine) else { return Ok(Action::Wait) };
        self.arena = copy.arena.unwrap_or(0);
        self.phase = Phase::RepairRead(copy);
        let good_addr = self.copy_addr(engine, copy, copy.bad ^ 1);
        Ok(self.submit_read(engine, good_addr, slot))
    }

    fn repair_read(&mut self, engine: &Engine<'m>, copy: Copy2) -> Result<Action<'m>, Error> {
        let Some(slot) = self.read.take() else { return Ok(Action::Wait) };
        self.check_good_copy(engine, copy, slot.bytes())?;
        self.phase = Phase::RepairWrite(copy);
        let bad_addr = self.copy_addr(engine, copy, copy.bad);
        self.counters.repairs += 1;
        self.submit_write(engine, bad_addr, slot)
    }

    /// What is about to be copied must still be what mount found.
    fn check_good_copy(&self, engine: &Engine<'m>, copy: Copy2, bytes: &[u8]) -> Result<(), Error> {
        let addr = self.copy_addr(engine, copy, copy.bad ^ 1);
        let (expected, found) = match copy.arena {
            Some(arena) => (engine.arenas.with(arena, |state, _| state.log.header_hash), hash64(bytes)),
            None => {
                let superblock = Superblock::decode(bytes).map_err(|error| Error::format(addr, error))?;
                (self.durable, superblock.head().qgen)
            }
        };
        if expected == found {
            Ok(())
        } else {
            Err(Error::corrupt(addr, Damage::Hash { expected, found }))
        }
    }

    fn repair_written(&mut self, engine: &Engine<'m>, copy: Copy2) -> Result<Action<'m>, Error> {
        if self.outstanding != 0 {
            return Ok(Action::Wait);
        }
        let good = !(1 << copy.bad);
        match copy.arena {
            Some(arena) => engine.arenas.with(arena, |state, _| state.bad_copies &= good),
            None => self.bad_superblocks &= good,
        }
        self.phase = Phase::Repair;
        Ok(Action::Worked)
    }
}

/// E1: logs.
impl<'m> Commit<'m> {
    fn log(&mut self, engine: &Engine<'m>, phase: LogPhase) -> Result<Action<'m>, Error> {
        match phase {
            LogPhase::Find => Ok(self.log_find(engine)),
            LogPhase::FreeOld { addr, left, digest } => self.log_free_old(engine, addr, left, digest),
            LogPhase::Reading { addr, left, digest } => self.log_read(engine, addr, left, digest),
            LogPhase::Link { tail_addr } => self.log_link(engine, tail_addr),
            LogPhase::Linking { tail_addr, log } => self.log_linked(engine, tail_addr, log),
            LogPhase::Encode(log) => self.log_encode(engine, log),
        }
    }

    /// The next arena at or after `self.arena` that the commit changes.
    fn next_touched(&self, engine: &Engine<'m>) -> Option<usize> {
        (self.arena..engine.arenas.len()).find(|arena| engine.arenas.with(*arena, |state, _| state.touched))
    }

    fn log_find(&mut self, engine: &Engine<'m>) -> Action<'m> {
        match self.next_touched(engine) {
            Some(arena) => {
                self.arena = arena;
                self.spares_taken = 0;
                let log = engine.arenas.with(arena, |state, _| state.log);
                self.phase = Phase::Log(match self.tail_to_append_to(engine) {
                    Some(tail_addr) => LogPhase::Link { tail_addr },
                    None => LogPhase::FreeOld { addr: log.head_addr, left: log.blocks, digest: CHAIN_DIGEST_START },
                });
            }
            None => self.enter(Phase::HeadersA),
        }
        Action::Worked
    }

    /// The log's last block, if it is better to append to the log than to write it anew: it would take several blocks,
    /// it is not too long yet, it is sealed, the change is smaller than the whole, and the blocks are not from what the
    /// log keeps back.
    fn tail_to_append_to(&self, engine: &Engine<'m>) -> Option<u64> {
        let per_block = ranges_per_block(engine.size) as u32;
        let reserve = engine.arenas.log_reserve(self.arena);
        engine.arenas.with(self.arena, |state, map| {
            let seal = state.log.seal.filter(|_| !state.must_rewrite)?;
            let whole = state.counts.ranges_flight.div_ceil(per_block);
            let changes = map.moves().take(state.counts.ranges_flight as usize + 1).count() as u32;
            let fresh = changes.div_ceil(per_block) + 1;
            let append = whole > 1
                && engine.arenas.len() as u32 <= max_sealed_arenas(engine.size)
                && changes <= state.counts.ranges_flight
                && state.log.blocks < 2 * whole + LOG_SLACK_BLOCKS
                && state.counts.avail >= reserve + fresh;
            append.then_some(seal.tail_addr)
        })
    }

    fn log_link(&mut self, engine: &Engine<'m>, tail_addr: u64) -> Result<Action<'m>, Error> {
        let Some(slot) = self.buffer(engine) else { return Ok(Action::Wait) };
        let addr = self.alloc_log_block(engine)?.0;
        let old = engine.arenas.with(self.arena, |state, _| state.log);
        let digest = old.seal.map_or(CHAIN_DIGEST_START, |seal| seal.digest);
        let content = Content::Changes { opened: false };
        let (head_addr, blocks, before_tail) = (old.head_addr, old.blocks, digest);
        let log = NewLog { head_addr, addr, blocks, digest, before_tail, position: 0, content };
        self.phase = Phase::Log(LogPhase::Linking { tail_addr, log });
        Ok(self.submit_read(engine, tail_addr, slot))
    }

    /// Writes the old last block with a link to the first fresh one. Only the chain pointer changes: it lies in the first
    /// sector, so a torn write leaves the old link or the new one, and no reader of the old state follows either.
    fn log_linked(&mut self, engine: &Engine<'m>, tail_addr: u64, log: NewLog) -> Result<Action<'m>, Error> {
        let Some(mut slot) = self.read.take() else { return Ok(Action::Wait) };
        let fault = |error| Error::format(tail_addr, error);
        let sum = LogBlock::decode(slot.bytes(), engine.size).map_err(fault)?.sum();
        // What is written back in place must be what the durable header vouches for.
        let old = engine.arenas.with(self.arena, |state, _| state.log);
        let found = chain_digest(old.before_tail, tail_addr, sum.hash, sum.len_bytes);
        if found != log.digest {
            return Err(Error::corrupt(tail_addr, Damage::LogDigest { expected: log.digest, found }));
        }
        set_chain(slot.bytes_mut(), engine.size, log.addr).map_err(fault)?;
        self.phase = Phase::Log(LogPhase::Encode(log));
        self.counters.block_writes += 1;
        self.submit_write(engine, tail_addr, slot)
    }

    fn log_free_old(&mut self, engine: &Engine<'m>, addr: u64, left: u32, digest: u64) -> Result<Action<'m>, Error> {
        if left > 1 {
            // Only the block itself says which comes next.
            let Some(slot) = self.buffer(engine) else { return Ok(Action::Wait) };
            self.phase = Phase::Log(LogPhase::Reading { addr, left, digest });
            return Ok(self.submit_read(engine, addr, slot));
        }
        if left == 1 {
            // No hash covers a chain pointer; that the way led to the known end by the known blocks does.
            let old = engine.arenas.with(self.arena, |state, _| state.log);
            if addr != old.tail_addr || digest != old.before_tail {
                let (expected, found) = (old.before_tail, digest);
                return Err(Error::corrupt(addr, Damage::LogDigest { expected, found }));
            }
            self.free_log_block(engine, addr)?;
        }
        let fresh_addr = self.alloc_log_block(engine)?.0;
        let addr = if sabotaged(Switch::LogInPlace) { addr } else { fresh_addr };
        let content = Content::Ranges;
        let (digest, before_tail) = (CHAIN_DIGEST_START, CHAIN_DIGEST_START);
        let log = NewLog { head_addr: addr, addr, blocks: 0, digest, before_tail, position: 0, content };
        self.phase = Phase::Log(LogPhase::Encode(log));
        Ok(Action::Worked)
    }

    fn log_read(&mut self, engine: &Engine<'m>, addr: u64, left: u32, digest: u64) -> Result<Action<'m>, Error> {
        let Some(slot) = self.read.take() else { return Ok(Action::Wait) };
        let block = LogBlock::decode(slot.bytes(), engine.size).map_err(|error| Error::format(addr, error))?;
        let (next, sum) = (block.chain(), block.sum());
        self.free_log_block(engine, addr)?;
        let digest = chain_digest(digest, addr, sum.hash, sum.len_bytes);
        self.phase = Phase::Log(LogPhase::FreeOld { addr: next, left: left - 1, digest });
        Ok(Action::Worked)
    }

    fn free_log_block(&self, engine: &Engine<'m>, addr: u64) -> Result<(), Error> {
        let place = engine.arenas.locate(addr)?;
        if engine.arenas.is_spare(place) {
            return Ok(());
        }
        let freed = engine.arenas.with(place.arena, |state, map| map.log_free(&mut state.counts, place.index));
        freed.map_err(|_| Error::corrupt(addr, Damage::LogNotInUse))
    }

    /// A fresh block for the log: byte address, and number in the free map. An arena without a free block (the original
    /// leaves such) uses its last two blocks in turn, which nobody is ever handed.
    fn alloc_log_block(&mut self, engine: &Engine<'m>) -> Result<(u64, u32), Error> {
        let arena = self.arena;
        let addr_of = |index| engine.arenas.addr(engine.arenas.at(arena, index));
        let taken_before = self.spares_taken;
        let taken = engine.arenas.with(arena, |state, map| {
            if let Some(index) = map.log_alloc(&mut state.counts, state.cursor) {
                state.cursor = index + 1;
                return Some(index);
            }
            let first = engine.arenas.blocks(arena).checked_sub(2)?;
            let busy = state.log.spares | taken_before;
            (first..first + 2).find(|index| engine.arenas.spare_bit(engine.arenas.at(arena, *index)) & busy == 0)
        });
        if let Some(index) = taken {
            self.spares_taken |= engine.arenas.spare_bit(engine.arenas.at(arena, index));
        }
        let index = taken.ok_or(Error::Full { room_blocks: 0, free_blocks: 0, pending_blocks: 0 })?;
        Ok((addr_of(index), index))
    }

    /// Writes one block of the new log: as many free ranges as fit, then the way on or the barrier.
    fn log_encode(&mut self, engine: &Engine<'m>, mut log: NewLog) -> Result<Action<'m>, Error> {
        let Some(mut slot) = self.buffer(engine) else { return Ok(Action::Wait) };
        let fault = |error| Error::format(log.addr, error);
        let mut writer = LogWriter::new(slot.bytes_mut(), engine.size).map_err(fault)?;
        let whole = match &mut log.content {
            Content::Ranges => self.push_ranges(engine, &mut writer, &mut log.position),
            Content::Changes { opened } => {
                if !core::mem::replace(opened, true) {
                    // A reader by the bare rule, who passed the end of the old log, stops here.
                    writer.push(LogEntry::Barrier { gen: self.durable }).map_err(fault)?;
                }
                self.push_changes(engine, &mut writer, &mut log.position)
            }
        }
        .map_err(fault)?;
        let next_addr = if whole {
            writer.push(LogEntry::Barrier { gen: self.generation }).map_err(fault)?;
            NONE
        } else {
            let (addr, index) = self.alloc_log_block(engine)?;
            if index < log.position {
                // This block is in front of what is still to be listed.
                writer.push_link(addr).map_err(fault)?;
            }
            addr
        };
        let sum = writer.finish(next_addr).map_err(fault)?;
        let addr = log.addr;
        log.before_tail = log.digest;
        log.digest = chain_digest(log.digest, addr, sum.hash, sum.len_bytes);
        log.blocks += 1;
        log.addr = next_addr;
        if whole {
            self.log_complete(engine, &log, addr);
            self.arena += 1;
            self.phase = Phase::Log(LogPhase::Find);
        } else {
            self.phase = Phase::Log(LogPhase::Encode(log));
        }
        self.counters.block_writes += 1;
        self.submit_write(engine, addr, slot)
    }

    /// `true` when nothing is left behind `position`.
    fn push_ranges(
        &self,
        engine: &Engine<'m>,
        writer: &mut LogWriter<'_>,
        position: &mut u32,
    ) -> Result<bool, FormatError> {
        let arena = self.arena;
        let first_addr = engine.arenas.addr(engine.arenas.at(arena, 0));
        engine.arenas.with(arena, |_, map| loop {
            let Some((first, count)) = map.next_flight_range(*position) else { return Ok(true) };
            let addr = first_addr + (u64::from(first) << engine.size.shift());
            match writer.push(LogEntry::Free { addr, len_bytes: u64::from(count) << engine.size.shift() }) {
                Ok(()) => *position = first + count,
                Err(FormatError::Full) => return Ok(false),
                Err(error) => return Err(error),
            }
        })
    }

    /// The same for what the commit changes.
    fn push_changes(
        &self,
        engine: &Engine<'m>,
        writer: &mut LogWriter<'_>,
        position: &mut u32,
    ) -> Result<bool, FormatError> {
        let first_addr = engine.arenas.addr(engine.arenas.at(self.arena, 0));
        engine.arenas.with(self.arena, |_, map| loop {
            let Some(change) = map.next_move(*position) else { return Ok(true) };
            let addr = first_addr + (u64::from(change.first) << engine.size.shift());
            let len_bytes = u64::from(change.count) << engine.size.shift();
            let entry = match change.freed {
                true => LogEntry::Free { addr, len_bytes },
                false => LogEntry::Alloc { addr, len_bytes },
            };
            match writer.push(entry) {
                Ok(()) => *position = change.first + change.count,
                Err(FormatError::Full) => return Ok(false),
                Err(error) => return Err(error),
            }
        })
    }

    fn log_complete(&self, engine: &Engine<'m>, log: &NewLog, tail_addr: u64) {
        let seal = LogSeal { gen: self.generation, blocks: log.blocks, digest: log.digest, tail_addr };
        engine.arenas.with(self.arena, |state, _| {
            let used_blocks = engine.arenas.blocks(self.arena).saturating_sub(state.counts.free_flight);
            state.log.head_addr = log.head_addr;
            state.log.blocks = log.blocks;
            state.log.seal = Some(seal);
            state.log.tail_addr = tail_addr;
            state.log.before_tail = log.before_tail;
            state.log.spares = match log.content {
                Content::Ranges => self.spares_taken,
                Content::Changes { .. } => state.log.spares | self.spares_taken,
            };
            state.log.used_bytes = u64::from(used_blocks) << engine.size.shift();
        });
    }
}

/// Headers, superblocks, and the end.
impl<'m> Commit<'m> {
    fn headers(&mut self, engine: &Engine<'m>, which: u8, then: Phase) -> Result<Action<'m>, Error> {
        let Some(arena) = self.next_touched(engine) else {
            self.enter(then);
            return Ok(Action::Worked);
        };
        let Some(mut slot) = self.buffer(engine) else { return Ok(Action::Wait) };
        let base = engine.arenas.base_addr(arena);
        let log = engine.arenas.with(arena, |state, _| state.log);
        let header = ArenaHeader {
            log_head: AddrHash { addr: log.head_addr, hash: NONE },
            size_bytes: u64::from(engine.arenas.blocks(arena)) << engine.size.shift(),
            used_bytes: log.used_bytes,
            seal: log.seal,
        };
        header.encode(slot.bytes_mut(), engine.size, base).map_err(|error| Error::format(base, error))?;
        let hash = hash64(slot.bytes());
        engine.arenas.with(arena, |state, _| state.log.header_hash = hash);
        self.arena = arena + 1;
        self.counters.block_writes += 1;
        self.submit_write(engine, base + u64::from(which) * engine.size.len_u64(), slot)
    }

    /// Waits until every block of the generation and everything that this machine wrote is complete.
    fn drain(&mut self, engine: &Engine<'m>) -> Result<Action<'m>, Error> {
        let parity = (self.generation & 1) as usize;
        let pending = engine.pending[parity].load(Ordering::Acquire);
        // A failed write is noted before it stops to be pending, so the failure is seen if the count is.
        if self.outstanding != 0 || (pending != 0 && !sabotaged(Switch::SkipDrain)) || engine.has_failed() {
            return Ok(Action::Wait);
        }
        self.phase = Phase::Flush(Stage::E1);
        Ok(Action::Worked)
    }

    fn superblock(&mut self, engine: &Engine<'m>, which: u8, stage: Stage) -> Result<Action<'m>, Error> {
        let Some(mut slot) = self.buffer(engine) else { return Ok(Action::Wait) };
        let size = engine.size;
        let roots = self.roots;
        let head = SuperHead {
            block_size: size,
            bufspc: size.bufspc(),
            narena: engine.arenas.len() as u32,
            root_height: roots.height,
            root_addr: roots.root.addr,
            root_hash: roots.root.hash,
            deadlist_head: roots.deadlist_head,
            deadlist_tail: roots.deadlist_tail,
            flag: roots.flag,
            next_qid: roots.next_qid,
            next_gen: roots.next_gen,
            qgen: self.generation,
        };
        let mut entry = |index: u32| {
            let arena = index as usize;
            let header_hash = engine.arenas.with(arena, |state, _| state.log.header_hash);
            ArenaRef { header_addr: engine.arenas.base_addr(arena), header_hash }
        };
        let addr = if which == 0 { 0 } else { engine.second_superblock_addr };
        // With very small blocks and very many arenas there is no room for the extension.
        encode_superblock(slot.bytes_mut(), &head, &mut entry, true)
            .or_else(|_| encode_superblock(slot.bytes_mut(), &head, &mut entry, false))
            .map_err(|error| Error::format(addr, error))?;
        let together = sabotaged(Switch::SuperblocksTogether) && stage == Stage::E2 && which == 0;
        self.phase = if together { Phase::Superblock1 } else { Phase::Flush(stage) };
        self.counters.block_writes += 1;
        self.submit_write(engine, addr, slot)
    }

    /// Both copies of everything are durable: what the commit freed may be handed out again.
    fn settle(&mut self, engine: &Engine<'m>) -> Action<'m> {
        if self.arena < engine.arenas.len() {
            engine.arenas.with(self.arena, |state, map| {
                map.settle(&mut state.counts);
                if core::mem::take(&mut state.touched) {
                    state.must_rewrite = false;
                    state.unclean = false;
                    state.bad_copies = 0;
                }
            });
            self.arena += 1;
        } else {
            self.bad_superblocks = 0;
            self.enter(Phase::Idle);
        }
        Action::Worked
    }
}
