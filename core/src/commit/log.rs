//! E1: the logs of the arenas that a commit changes.
//!
//! ```text
//!   one block holds the ranges        fresh block [ranges, barrier n]                        old log freed
//!   several, and not too long yet     tail -> fresh block [barrier n-1, changes, barrier n]  tail relinked in place
//!   several, and too long             fresh chain [ranges ...] -> [ranges, barrier n]        old log freed
//! ```
//!
//! What a log lists is found a few words of the free map at a time, with the arena and the commit machine unlocked in
//! between; `freemap::runs` says why that is sound. The block that is being filled is kept from step to step.
//!
//! Nothing is trusted that no hash covers: before an old log is freed, or its last block written back with a link, the
//! way there is compared with the digest that mount or the last commit found.

use super::{Action, Commit, Phase};
use crate::arena::WORDS_PER_SECTION;
use crate::error::{Damage, Error, Stop};
use crate::format::{
    chain_digest, max_sealed_arenas, ranges_per_block, set_chain, FormatError, LogBlock, LogEntry, LogSeal, LogWriter,
    CHAIN_DIGEST_START, NONE,
};
use crate::freemap::{Found, Run, Runs, State, Walk, Walked};
use crate::memory::WHOLE_WORDS;
use crate::sabotage::{sabotaged, Switch};
use crate::store::Engine;
use core::cell::Cell;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum LogPhase {
    /// Look for the next arena that changed.
    Find,
    /// Count what the commit changes there, to see whether it is little enough to be appended.
    Count { from: usize, changes: u32 },
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
pub(super) struct NewLog {
    head_addr: u64,
    /// Address of the block that comes next.
    addr: u64,
    blocks: u32,
    digest: u64,
    /// The digest without the last block.
    before_tail: u64,
    /// How far the runs that the log lists are encoded.
    walk: Walk,
    content: Content,
}

/// What goes into the blocks of a log.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Content {
    /// All free ranges: a log written anew.
    Ranges,
    /// What this commit changes: blocks behind an existing log. `opened` once the opening barrier is in.
    Changes { opened: bool },
}

/// Blocks of changes that are appended to a log at most.
const CHANGE_BLOCKS_MAX: u32 = 8;
/// Log blocks that an arena may have beyond twice what its free ranges need, before the log is written anew.
const LOG_SLACK_BLOCKS: u32 = 8;

impl<'m> Commit<'m> {
    #[inline(never)]
    pub(super) fn log(&mut self, engine: &Engine<'m>, phase: LogPhase) -> Result<Action<'m>, Stop> {
        match phase {
            LogPhase::Find => Ok(self.log_find(engine)),
            LogPhase::Count { from, changes } => Ok(self.log_count(engine, from, changes)),
            LogPhase::FreeOld { addr, left, digest } => self.log_free_old(engine, addr, left, digest),
            LogPhase::Reading { addr, left, digest } => self.log_read(engine, addr, left, digest),
            LogPhase::Link { tail_addr } => self.log_link(engine, tail_addr),
            LogPhase::Linking { tail_addr, log } => self.log_linked(engine, tail_addr, log),
            LogPhase::Encode(log) => self.log_encode(engine, log),
        }
    }

    /// The next arena at or after `self.arena` that the commit changes.
    pub(super) fn next_touched(&self, engine: &Engine<'m>) -> Option<usize> {
        (self.arena..engine.arenas.len()).find(|arena| engine.arenas.with(*arena, |state, _| state.touched))
    }

    pub(super) fn log_find(&mut self, engine: &Engine<'m>) -> Action<'m> {
        match self.next_touched(engine) {
            Some(arena) => {
                self.arena = arena;
                self.spares_taken = 0;
                self.phase = Phase::Log(match self.tail_to_append_to(engine, 0) {
                    Some(_) => LogPhase::Count { from: 0, changes: 0 },
                    None => self.log_anew(engine),
                });
            }
            None => self.enter(Phase::HeadersA),
        }
        Action::Worked
    }

    fn log_anew(&self, engine: &Engine<'m>) -> LogPhase {
        let log = engine.arenas.log(self.arena);
        LogPhase::FreeOld { addr: log.head_addr, left: log.blocks, digest: CHAIN_DIGEST_START }
    }

    /// Counts some of the entries that an append would take; no further than it takes to see that there are too many.
    #[inline(never)]
    fn log_count(&mut self, engine: &Engine<'m>, from: usize, changes: u32) -> Action<'m> {
        let (more, next) = engine.arenas.with(self.arena, |_, map| map.count_changes(from, WORDS_PER_SECTION));
        let changes = changes + more;
        self.phase = Phase::Log(match (self.tail_to_append_to(engine, changes), next) {
            (Some(tail_addr), None) => LogPhase::Link { tail_addr },
            (Some(_), Some(from)) => LogPhase::Count { from, changes },
            (None, _) => self.log_anew(engine),
        });
        Action::Worked
    }

    /// The log's last block, if it is better to append so many changes to the log than to write it anew: it would take
    /// several blocks, it is not too long yet, it is sealed, the change is smaller than the whole, and the blocks are
    /// not from what the log keeps back.
    pub(super) fn tail_to_append_to(&self, engine: &Engine<'m>, changes: u32) -> Option<u64> {
        let per_block = ranges_per_block(engine.size) as u32;
        let reserve = engine.arenas.log_reserve(self.arena);
        engine.arenas.with(self.arena, |state, _| {
            let seal = state.log.seal.filter(|_| !state.must_rewrite)?;
            let whole = state.counts.ranges_flight.div_ceil(per_block);
            // Not more than a few blocks full: beyond that the log is better written anew.
            let most = state.counts.ranges_flight.min(CHANGE_BLOCKS_MAX * per_block);
            let fresh = changes.div_ceil(per_block) + 1;
            let append = whole > 1
                && engine.arenas.len() as u32 <= max_sealed_arenas(engine.size)
                && changes <= most
                && state.log.blocks < 2 * whole + LOG_SLACK_BLOCKS
                && state.counts.avail >= reserve + fresh;
            append.then_some(seal.tail_addr)
        })
    }

    #[inline(never)]
    pub(super) fn log_link(&mut self, engine: &Engine<'m>, tail_addr: u64) -> Result<Action<'m>, Stop> {
        let Some(slot) = self.buffer(engine) else { return Ok(Action::Wait) };
        let addr = self.alloc_log_block(engine)?.0;
        let old = engine.arenas.log(self.arena);
        let digest = old.seal.map_or(CHAIN_DIGEST_START, |seal| seal.digest);
        let content = Content::Changes { opened: false };
        let (head_addr, blocks, before_tail) = (old.head_addr, old.blocks, digest);
        let log = NewLog { head_addr, addr, blocks, digest, before_tail, walk: Walk::default(), content };
        self.phase = Phase::Log(LogPhase::Linking { tail_addr, log });
        Ok(self.submit_read(tail_addr, slot))
    }

    /// Writes the old last block with a link to the first fresh one. Only the chain pointer changes: it lies in the
    /// first sector, so a torn write leaves the old link or the new one, and no reader of the old state follows either.
    #[inline(never)]
    pub(super) fn log_linked(&mut self, engine: &Engine<'m>, tail_addr: u64, log: NewLog) -> Result<Action<'m>, Stop> {
        let Some(mut slot) = self.read.take() else { return Ok(Action::Wait) };
        let fault = |error| engine.fail_format(tail_addr, error);
        let sum = LogBlock::decode(slot.bytes(), engine.size).map_err(fault)?.sum();
        // What is written back in place must be what the durable header vouches for.
        let old = engine.arenas.log(self.arena);
        let found = chain_digest(old.before_tail, tail_addr, sum.hash, sum.len_bytes);
        if found != log.digest && !sabotaged(Switch::SkipLinkCheck) {
            return Err(engine.fail_corrupt(tail_addr, Damage::LogDigest { expected: log.digest, found }));
        }
        set_chain(slot.bytes_mut(), engine.size, log.addr).map_err(fault)?;
        self.phase = Phase::Log(LogPhase::Encode(log));
        self.counters.block_writes += 1;
        self.submit_write(engine, tail_addr, slot)
    }

    #[inline(never)]
    pub(super) fn log_free_old(
        &mut self,
        engine: &Engine<'m>,
        addr: u64,
        left: u32,
        digest: u64,
    ) -> Result<Action<'m>, Stop> {
        if left > 1 {
            // Only the block itself says which comes next.
            let Some(slot) = self.buffer(engine) else { return Ok(Action::Wait) };
            self.phase = Phase::Log(LogPhase::Reading { addr, left, digest });
            return Ok(self.submit_read(addr, slot));
        }
        if left == 1 {
            // No hash covers a chain pointer; that the way led to the known end by the known blocks does.
            let old = engine.arenas.log(self.arena);
            if addr != old.tail_addr || digest != old.before_tail {
                let (expected, found) = (old.before_tail, digest);
                return Err(engine.fail_corrupt(addr, Damage::LogDigest { expected, found }));
            }
            self.free_log_block(engine, addr)?;
        }
        let fresh_addr = self.alloc_log_block(engine)?.0;
        let addr = if sabotaged(Switch::LogInPlace) { addr } else { fresh_addr };
        let content = Content::Ranges;
        let (digest, before_tail) = (CHAIN_DIGEST_START, CHAIN_DIGEST_START);
        let log = NewLog { head_addr: addr, addr, blocks: 0, digest, before_tail, walk: Walk::default(), content };
        self.phase = Phase::Log(LogPhase::Encode(log));
        Ok(Action::Worked)
    }

    #[inline(never)]
    pub(super) fn log_read(
        &mut self,
        engine: &Engine<'m>,
        addr: u64,
        left: u32,
        digest: u64,
    ) -> Result<Action<'m>, Stop> {
        let Some(slot) = self.read.take() else { return Ok(Action::Wait) };
        let block = LogBlock::decode(slot.bytes(), engine.size).map_err(|error| engine.fail_format(addr, error))?;
        let (next, sum) = (block.chain(), block.sum());
        self.free_log_block(engine, addr)?;
        let digest = chain_digest(digest, addr, sum.hash, sum.len_bytes);
        self.phase = Phase::Log(LogPhase::FreeOld { addr: next, left: left - 1, digest });
        Ok(Action::Worked)
    }

    pub(super) fn free_log_block(&self, engine: &Engine<'m>, addr: u64) -> Result<(), Stop> {
        let place = engine.arenas.locate(addr).ok_or_else(|| engine.fail(Error::BadAddress { addr }))?;
        if engine.arenas.is_spare(place) || sabotaged(Switch::LeakOldLog) {
            return Ok(());
        }
        let freed = engine.arenas.with(place.arena, |state, map| {
            map.log_free(&mut state.counts, place.index)?;
            if sabotaged(Switch::ReuseLogAtOnce) {
                map.sabotage_free(&mut state.counts, place.index);
            }
            Ok(())
        });
        freed.map_err(|_: State| engine.fail_corrupt(addr, Damage::LogNotInUse))
    }

    /// A fresh block for the log: byte address, and number in the free map. An arena without a free block (the original
    /// leaves such) uses its last two blocks in turn, which nobody is ever handed.
    pub(super) fn alloc_log_block(&mut self, engine: &Engine<'m>) -> Result<(u64, u32), Stop> {
        let arena = self.arena;
        let addr_of = |index| engine.arenas.addr(engine.arenas.at(arena, index));
        let taken_before = self.spares_taken;
        let taken = engine.arenas.with(arena, |state, map| {
            if let Some(index) = map.log_alloc(&mut state.counts, state.cursor) {
                state.cursor = index;
                return Some(index);
            }
            let first = engine.arenas.blocks(arena).checked_sub(2)?;
            let busy = state.log.spares | taken_before;
            (first..first + 2).find(|index| engine.arenas.spare_bit(engine.arenas.at(arena, *index)) & busy == 0)
        });
        if let Some(index) = taken {
            self.spares_taken |= engine.arenas.spare_bit(engine.arenas.at(arena, index));
        }
        let full = || engine.fail(Error::Full { room_blocks: 0, free_blocks: 0, pending_blocks: 0 });
        let index = taken.ok_or_else(full)?;
        Ok((addr_of(index), index))
    }

    /// Fills a part of one block of the new log, and hands it out when it is full or nothing is left.
    #[inline(never)]
    pub(super) fn log_encode(&mut self, engine: &Engine<'m>, mut log: NewLog) -> Result<Action<'m>, Stop> {
        let Some((mut slot, len)) = self.draft.take().or_else(|| Some((self.buffer(engine)?, 0))) else {
            return Ok(Action::Wait);
        };
        let addr = log.addr;
        let fault = |error| engine.fail_format(addr, error);
        let mut writer = LogWriter::resume(slot.bytes_mut(), engine.size, len).map_err(fault)?;
        if let Content::Changes { opened } = &mut log.content {
            if !core::mem::replace(opened, true) && !sabotaged(Switch::SkipOpeningBarrier) {
                // A reader by the bare rule, who passed the end of the old log, stops here.
                writer.push(LogEntry::Barrier { gen: self.durable }).map_err(fault)?;
            }
        }
        let whole = match self.push_runs(engine, &mut writer, &mut log).map_err(fault)? {
            Walked::All => true,
            Walked::Stopped => false,
            Walked::Part => {
                let len = writer.len_bytes();
                self.draft = Some((slot, len));
                self.phase = Phase::Log(LogPhase::Encode(log));
                return Ok(Action::Worked);
            }
        };
        let next_addr = if whole {
            if !sabotaged(Switch::SkipBarrier) {
                writer.push(LogEntry::Barrier { gen: self.generation }).map_err(fault)?;
            }
            NONE
        } else {
            let (next_addr, index) = self.alloc_log_block(engine)?;
            if index < log.walk.position() {
                // This block is in front of what is still to be listed.
                writer.push_link(next_addr).map_err(fault)?;
            }
            next_addr
        };
        let sum = writer.finish(next_addr).map_err(fault)?;
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

    /// Lists some of the runs that the log is made of. Stops in front of the first one that finds no room.
    fn push_runs(
        &self,
        engine: &Engine<'m>,
        writer: &mut LogWriter<'_>,
        log: &mut NewLog,
    ) -> Result<Walked, FormatError> {
        let first_addr = engine.arenas.addr(engine.arenas.at(self.arena, 0));
        let addr_of = |block: u32| first_addr + (u64::from(block) << engine.size.shift());
        let failed = Cell::new(Ok(()));
        let push = |writer: &mut LogWriter<'_>, run: Run| {
            let (addr, len_bytes) = (addr_of(run.first), u64::from(run.count) << engine.size.shift());
            let pushed = writer.push(match run.freed {
                true => LogEntry::Free { addr, len_bytes },
                false => LogEntry::Alloc { addr, len_bytes },
            });
            if !matches!(pushed, Err(FormatError::Full)) {
                failed.set(pushed);
            }
            pushed.is_ok()
        };
        let runs = match log.content {
            Content::Ranges => Runs::FreeInFlight,
            Content::Changes { .. } => Runs::Changes,
        };
        let walked = engine.arenas.with(self.arena, |_, map| match runs {
            Runs::FreeInFlight if WHOLE_WORDS => map.list(&mut log.walk, WORDS_PER_SECTION, &mut |found| match found {
                Found::Run(run) => usize::from(!push(writer, run)),
                Found::Bits { first, bits } => writer.push_frees(addr_of(first), bits).unwrap_or_else(|error| {
                    failed.set(Err(error));
                    bits
                }),
            }),
            _ => map.walk(runs, &mut log.walk, WORDS_PER_SECTION, &mut |run| push(writer, run)),
        });
        failed.get().map(|()| walked)
    }

    pub(super) fn log_complete(&self, engine: &Engine<'m>, log: &NewLog, tail_addr: u64) {
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
