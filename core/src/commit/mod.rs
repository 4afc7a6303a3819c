//! The commit: a machine that takes the volume from one durable state to the next, one bounded step at a time.
//!
//! ```text
//!   E0  only if some copy is not known to be good: rewrite it from the durable state             flush
//!   E1  data of the generation; for each arena that changed: its log, anew, in fresh blocks;
//!       header copy A, which names the log and carries its digest                                flush
//!   E2  superblock 0, which names the headers by hash                                            flush -> acknowledged
//!   E3  header copies B, superblock 1                                                            flush -> settled
//!       then, if that is wanted, the device is told what the commit freed
//! ```
//!
//! Why this is safe: until E2 the old superblocks name the old headers by hash, of which copy B is untouched, and these
//! name the old logs, which no write touches. From E2 on superblock 0 names copies A. A superblock that was torn is no
//! superblock, and the other one is whole. E3 makes the second copies equal before the next E1 overwrites a first one;
//! only then may what this commit freed be handed out again, so that the loss of either superblock costs nothing.
//!
//! A log whose ranges need several blocks is not written anew each time: fresh blocks with the changes are linked
//! behind it. That rewrites the chain pointer of its last block in place, which no reader of the old state follows,
//! because the header says how many blocks the log has. The log is written anew once it has more than twice the blocks
//! that it needs. docs/DESIGN.md tells how the layout was chosen; the model in `model/` checks it.
//!
//! # How it is driven
//! [`Commit::next`] is called with the machine locked, does a bounded piece of work and says what to do with the
//! device: submit a request, flush, or nothing for now. The caller does that without holding the lock, and reports
//! back. Any number of callers may do so at once; one action is handed out at a time.
//!
//! # Lock order
//! The machine's lock comes first; one arena's lock is taken under it.
//!
//! # How long a lock section lasts
//! One call of [`Commit::next`] is one lock section. It encodes, decodes or hashes one block at most, and looks at no
//! more than [`crate::arena::WORDS_PER_SECTION`] words of one free map; only with the number of arenas does it grow (a
//! look at each to find the next one that is touched, and their hashes in a superblock).

mod grow;
mod log;
mod publish;
mod repair;
mod sabotage;

use crate::device::{FlushTag, Purpose, Request};
use crate::error::{Damage, Error, Stop};
use crate::format::MAX_GENERATION;
use crate::freemap::Walk;
use crate::pool::{SharedChain, Slot, SlotChain};
use crate::roots::Roots;
use crate::sabotage::{sabotaged, Switch};
use crate::store::Engine;
use log::LogPhase;
use repair::Copy2;

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
    /// Fill the maps of arenas that are to be added: how many, and the word to go on with.
    Fill {
        arenas: usize,
        from: usize,
    },
    /// E0.
    Repair,
    RepairRead(Copy2),
    RepairWrite(Copy2),
    /// Fix what the commit includes.
    Roll,
    /// E1.
    Log(LogPhase),
    HeadersA,
    Drain,
    /// E2.
    Superblock0,
    /// E3.
    HeadersB,
    Superblock1,
    /// Wait until nobody can be reading what the commit freed.
    Grace,
    /// Tell the device what the commit freed.
    Discard {
        walk: Walk,
    },
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

/// What commits have cost since mount.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CommitCounters {
    /// Commits acknowledged.
    pub commits: u64,
    /// Blocks that commits wrote: logs, headers, superblocks. Repairs are apart.
    pub block_writes: u64,
    /// Flushes, those of repairs included.
    pub flushes: u64,
    /// Bytes that the device was told to discard.
    pub discarded_bytes: u64,
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
    /// Where the second superblock is.
    second_superblock_addr: u64,
    /// Where that of the durable state is: somewhere else while the volume grows, until E0 is over.
    old_second_addr: u64,
    /// Superblock copies that are not known to be good, a bit each.
    bad_superblocks: u8,
    /// The volume is new: the first commit is due although nothing changed.
    is_new: bool,
    /// There is nothing to commit: stop after the repairs.
    repair_only: bool,
    /// Some copy was rewritten.
    repaired: bool,
    /// Writes and discards of this machine that are not completed. (A read is waited for by who wants its block.)
    outstanding: u32,
    /// An action is with a caller who has not reported yet.
    handed_out: bool,
    /// A request or flush that the device had no room for.
    unsent: Option<Request<'m>>,
    read: Option<Slot<'m>>,
    /// The log block that is being filled, and bytes of entries in it.
    draft: Option<(Slot<'m>, usize)>,
    /// Which of the arena's last two blocks the log being written took, a bit each.
    spares_taken: u8,
    /// The flush that the device has.
    flush_tag: Option<FlushTag>,
    /// The epoch in which the commit began: who is inside since then may read what it freed.
    epoch: u32,
    /// The worker that holds up the end of the commit.
    stalled_by: Option<u32>,
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
    #[cfg_attr(target_pointer_width = "32", inline(never))]
    pub(crate) fn new(durable: u64, roots: Roots, second_superblock_addr: u64, bad_superblocks: u8) -> Self {
        Self {
            phase: Phase::Idle,
            arena: 0,
            durable,
            durable_roots: roots,
            generation: durable,
            roots,
            second_superblock_addr,
            old_second_addr: second_superblock_addr,
            bad_superblocks,
            is_new: false,
            repair_only: false,
            repaired: false,
            outstanding: 0,
            handed_out: false,
            unsent: None,
            read: None,
            draft: None,
            spares_taken: 0,
            flush_tag: None,
            epoch: 0,
            stalled_by: None,
            counters: CommitCounters::default(),
        }
    }

    /// The machine of a volume of which nothing is written yet.
    pub(crate) fn of_new_volume(second_superblock_addr: u64) -> Self {
        Self { is_new: true, ..Self::new(0, Roots::EMPTY, second_superblock_addr, 0) }
    }

    pub(crate) fn is_idle(&self) -> bool {
        self.phase == Phase::Idle
    }

    pub(crate) fn superblock_addr(&self, copy: u8) -> u64 {
        if copy == 0 {
            0
        } else {
            self.second_superblock_addr
        }
    }

    /// A superblock of this generation turned out to be bad.
    pub(crate) fn note_bad_superblock(&mut self, copy: u8, generation: u64) {
        if self.is_idle() && self.durable == generation {
            self.bad_superblocks |= 1 << copy;
        }
    }

    /// The worker that holds up the end of the commit, if one does.
    pub(crate) fn stalled_by(&self) -> Option<u32> {
        self.stalled_by
    }

    pub(crate) fn durable(&self) -> (u64, Roots) {
        (self.durable, self.durable_roots)
    }

    /// Begins a commit of everything that was enqueued and freed before this call. Only while idle.
    #[cfg_attr(target_pointer_width = "32", inline(never))]
    pub(crate) fn start(&mut self, engine: &Engine<'m>, roots: Roots) -> Result<CommitTicket, Error> {
        if !self.is_idle() {
            return Err(Error::CommitInFlight);
        }
        let arenas = &engine.arenas;
        let mut repairs = self.bad_superblocks != 0;
        let mut changed = self.is_new || roots != self.durable_roots;
        let mut roots_only = true;
        for arena in 0..arenas.len() {
            arenas.with(arena, |state, map| {
                let changes = map.is_changed();
                repairs |= state.bad_copies != 0;
                changed |= changes || (state.unclean && !sabotaged(Switch::ForgetUnclean));
                roots_only &= !(changes || state.must_rewrite);
            });
        }
        if !changed && !repairs {
            return Ok(CommitTicket { generation: self.durable, repairs: false });
        }
        let generation = self.durable + u64::from(changed && !sabotaged(Switch::SameGeneration));
        if generation > MAX_GENERATION {
            return Err(Error::BadParameter { name: "generation", found: generation });
        }
        if changed {
            for arena in 0..arenas.len() {
                arenas.with(arena, |state, _| {
                    state.changes = 0;
                    state.rolled = generation;
                    state.rolling = true;
                    // A commit of nothing but roots writes the header of one arena all the same: that headers and
                    // superblock agree then proves that the superblock is the newest, when the other one cannot be
                    // read.
                    state.must_rewrite |= roots_only && arena == 0 && !sabotaged(Switch::RootsAlone);
                });
            }
        }
        self.epoch = engine.epochs.stamp();
        (self.generation, self.roots, self.repair_only) = (generation, roots, !changed);
        self.enter_first();
        Ok(CommitTicket { generation, repairs: !changed })
    }

    /// Begins with the repairs; there may be none to do.
    fn enter_first(&mut self) {
        self.enter(if sabotaged(Switch::SkipRepair) { Phase::Roll } else { Phase::Repair });
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
        self.sabotage_reuse(engine, stage);
        match stage {
            Stage::E0 => self.after_repairs(),
            Stage::E1 if sabotage::discards_early(engine) => {
                self.enter(Phase::Discard { walk: Walk::default() });
            }
            Stage::E1 => self.enter(Phase::Superblock0),
            Stage::E2 => {
                self.acknowledge();
                self.enter(Phase::HeadersB);
            }
            Stage::E3 => self.enter(Phase::Grace),
        }
    }

    fn after_repairs(&mut self) {
        self.old_second_addr = self.second_superblock_addr;
        self.enter(if self.repair_only { Phase::Idle } else { Phase::Roll });
    }

    /// A few words of one arena's free map; whoever wants to change it meanwhile does the same first.
    fn roll(&mut self, engine: &Engine<'m>) -> Action<'m> {
        if self.arena == engine.arenas.len() {
            self.enter(Phase::Log(LogPhase::Find));
        } else if engine.arenas.roll_some(self.arena) {
            self.arena += 1;
        }
        Action::Worked
    }

    fn acknowledge(&mut self) {
        self.durable = self.generation;
        self.durable_roots = self.roots;
        self.is_new = false;
        self.counters.commits += 1;
    }

    /// One bounded piece of work. What goes wrong is noted in the engine, and ends all work.
    pub(crate) fn next(&mut self, engine: &Engine<'m>) -> Action<'m> {
        // Asked here, with the machine locked: a caller may have waited for the lock while a write failed.
        if self.handed_out || self.phase == Phase::Idle || engine.has_failed() {
            return Action::Wait;
        }
        let action = match self.unsent.take() {
            Some(request) => Action::Submit(request),
            None => self.work(engine).unwrap_or(Action::Worked),
        };
        self.handed_out = matches!(action, Action::Submit(_) | Action::Flush(_));
        action
    }

    fn work(&mut self, engine: &Engine<'m>) -> Result<Action<'m>, Stop> {
        match self.phase {
            Phase::Idle | Phase::Flushing(_) => Ok(Action::Wait),
            Phase::Fill { arenas, from } => Ok(self.fill(engine, arenas, from)),
            Phase::Repair => self.repair(engine),
            Phase::RepairRead(copy) => self.repair_read(engine, copy),
            Phase::RepairWrite(copy) => self.repair_written(engine, copy),
            Phase::Roll => Ok(self.roll(engine)),
            Phase::Log(phase) => self.log(engine, phase),
            Phase::HeadersA if sabotaged(Switch::BothHeadersFirst) => self.headers(engine, 0, Phase::HeadersB),
            Phase::HeadersA => self.headers(engine, 0, Phase::Drain),
            Phase::Drain => self.drain(engine),
            Phase::Superblock0 if sabotaged(Switch::SwapSuperblocks) => self.superblock(engine, 1, Stage::E2),
            Phase::Superblock0 => self.superblock(engine, 0, Stage::E2),
            Phase::HeadersB if self.sabotage_headers() => self.headers(engine, 1, Phase::Drain),
            Phase::HeadersB if sabotaged(Switch::SuperblocksTogether) || sabotaged(Switch::SkipSecondSuperblock) => {
                self.headers(engine, 1, Phase::Flush(Stage::E3))
            }
            Phase::HeadersB if sabotaged(Switch::SkipSecondHeaders) => self.superblock(engine, 1, Stage::E3),
            Phase::HeadersB => self.headers(engine, 1, Phase::Superblock1),
            Phase::Superblock1 if sabotaged(Switch::SuperblocksTogether) => self.superblock(engine, 1, Stage::E2),
            Phase::Superblock1 if sabotaged(Switch::SwapSuperblocks) => self.superblock(engine, 0, Stage::E3),
            Phase::Superblock1 => self.superblock(engine, 1, Stage::E3),
            Phase::Grace => Ok(self.grace(engine)),
            Phase::Discard { walk } => Ok(self.discard(engine, walk)),
            Phase::Settle => Ok(self.settle(engine)),
            Phase::Flush(stage) => Ok(self.flush(engine, stage)),
        }
    }

    fn flush(&mut self, engine: &Engine<'m>, stage: Stage) -> Action<'m> {
        let written = self.outstanding == 0 || sabotage::flushes_early(stage);
        if !written || self.sabotage_waits() {
            return Action::Wait;
        }
        if self.sabotage_skips_flush(stage) {
            self.after_flush(engine, stage);
            return Action::Worked;
        }
        if sabotage::acknowledges_early(stage) {
            self.acknowledge();
        }
        let tag = FlushTag::fresh();
        self.flush_tag = Some(tag);
        self.phase = sabotage::phase_behind(stage);
        Action::Flush(tag)
    }

    /// A buffer of the commit's own; `None` while all are in flight.
    fn buffer(&self, engine: &Engine<'m>) -> Option<Slot<'m>> {
        (engine.cache.len()..engine.pool.len()).find_map(|index| engine.pool.claim(engine.pool.id(index)?))
    }

    fn submit_write(&mut self, engine: &Engine<'m>, addr: u64, slot: Slot<'m>) -> Result<Action<'m>, Stop> {
        // The share is the first of its buffer, so nothing else has it in a chain.
        let Ok(chain) = SharedChain::new(slot.share()) else {
            return Err(engine.fail_corrupt(addr, Damage::CacheConflict));
        };
        self.outstanding += 1;
        Ok(Action::Submit(Request::write(addr, chain, Purpose::Commit)))
    }

    fn submit_read(&self, addr: u64, slot: Slot<'m>) -> Action<'m> {
        Action::Submit(Request::read(addr, SlotChain::new(slot), Purpose::Private))
    }
}
