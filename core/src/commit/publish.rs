//! Headers, superblocks, and the end of a commit.

use super::{sabotage, Action, Commit, Phase, Stage};
use crate::arena::WORDS_PER_SECTION;
use crate::device::Request;
use crate::error::Stop;
use crate::format::{encode_superblock, AddrHash, ArenaHeader, ArenaRef, SuperHead, NONE};
use crate::freemap::{Run, Runs, Walk, Walked};
use crate::hash::hash64;
use crate::sabotage::{sabotaged, Switch};
use crate::store::Engine;
use crate::sync::Ordering;

impl<'m> Commit<'m> {
    pub(super) fn headers(&mut self, engine: &Engine<'m>, which: u8, then: Phase) -> Result<Action<'m>, Stop> {
        let Some(arena) = self.next_touched(engine) else {
            self.enter(then);
            return Ok(Action::Worked);
        };
        let Some(mut slot) = self.buffer(engine) else { return Ok(Action::Wait) };
        let base = engine.arenas.base_addr(arena);
        let log = engine.arenas.log(arena);
        let header = ArenaHeader {
            log_head: AddrHash { addr: log.head_addr, hash: NONE },
            size_bytes: u64::from(engine.arenas.blocks(arena)) << engine.size.shift(),
            used_bytes: log.used_bytes,
            seal: log.seal,
        };
        header.encode(slot.bytes_mut(), engine.size, base).map_err(|error| engine.fail_format(base, error))?;
        let hash = hash64(slot.bytes());
        engine.arenas.with(arena, |state, _| state.log.header_hash = hash);
        self.arena = arena + 1;
        self.counters.block_writes += 1;
        self.submit_write(engine, base + u64::from(which) * engine.size.len_u64(), slot)
    }

    /// Waits until every block of the generation is written. For what this machine wrote itself the flush waits.
    pub(super) fn drain(&mut self, engine: &Engine<'m>) -> Result<Action<'m>, Stop> {
        let parity = (self.generation & 1) as usize;
        let pending = engine.pending[parity].load(Ordering::Acquire);
        // A failed write is noted before it stops to be pending, so the failure is seen if the count is.
        if (pending != 0 && !sabotaged(Switch::SkipDrain)) || engine.has_failed() {
            return Ok(Action::Wait);
        }
        self.phase = Phase::Flush(Stage::E1);
        Ok(Action::Worked)
    }

    pub(super) fn superblock(&mut self, engine: &Engine<'m>, which: u8, stage: Stage) -> Result<Action<'m>, Stop> {
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
            let header_hash = engine.arenas.log(arena).header_hash;
            ArenaRef { header_addr: engine.arenas.base_addr(arena), header_hash }
        };
        let addr = self.superblock_addr(which);
        // With very small blocks and very many arenas there is no room for the extension.
        encode_superblock(slot.bytes_mut(), &head, &mut entry, true)
            .or_else(|_| encode_superblock(slot.bytes_mut(), &head, &mut entry, false))
            .map_err(|error| engine.fail_format(addr, error))?;
        self.phase = sabotage::phase_behind_superblock(which, stage);
        self.counters.block_writes += 1;
        self.submit_write(engine, addr, slot)
    }

    /// Everything is durable in both copies; only readers who were inside when the commit began may still follow old
    /// pointers.
    pub(super) fn grace(&mut self, engine: &Engine<'m>) -> Action<'m> {
        let alone = engine.no_more_workers.load(Ordering::Acquire) || sabotaged(Switch::SkipGrace);
        self.stalled_by = if alone { None } else { engine.epochs.has_passed(self.epoch).err() };
        if self.stalled_by.is_some() {
            return Action::Wait;
        }
        self.enter(if engine.discards { Phase::Discard { walk: Walk::default() } } else { Phase::Settle });
        Action::Worked
    }

    /// No state that a crash could expose reaches what the commit freed, and nobody has been handed it yet.
    #[inline(never)]
    pub(super) fn discard(&mut self, engine: &Engine<'m>, mut walk: Walk) -> Action<'m> {
        let mut freed: Option<Run> = None;
        let walked = engine.arenas.with(self.arena, |_, map| {
            map.walk(Runs::Changes, &mut walk, WORDS_PER_SECTION, &mut |run| {
                // One request at a time: whatever comes behind it waits for the next step.
                let more = freed.is_none();
                freed = freed.or(Some(run).filter(|run| run.freed));
                more
            })
        });
        self.phase = Phase::Discard { walk };
        let Some(change) = freed else {
            return match walked {
                Walked::All => self.discard_next_arena(engine),
                Walked::Part | Walked::Stopped => Action::Worked,
            };
        };
        let addr = engine.arenas.addr(engine.arenas.at(self.arena, change.first));
        let request = Request::discard(addr, sabotage::discarded(change.count), engine.pool);
        self.outstanding += 1;
        self.counters.discarded_bytes += request.len_bytes();
        Action::Submit(request)
    }

    fn discard_next_arena(&mut self, engine: &Engine<'m>) -> Action<'m> {
        if self.arena + 1 < engine.arenas.len() {
            self.arena += 1;
            self.phase = Phase::Discard { walk: Walk::default() };
        } else if self.outstanding != 0 {
            return Action::Wait;
        } else if self.sabotage_discarded() {
            self.enter(Phase::Superblock0);
        } else {
            self.enter(Phase::Settle);
        }
        Action::Worked
    }

    /// Both copies of everything are durable: what the commit freed may be handed out again.
    #[inline(never)]
    pub(super) fn settle(&mut self, engine: &Engine<'m>) -> Action<'m> {
        if self.arena < engine.arenas.len() {
            let all = engine.arenas.with(self.arena, |state, map| {
                if !map.settle(&mut state.counts, WORDS_PER_SECTION) {
                    return false;
                }
                if core::mem::take(&mut state.touched) {
                    state.must_rewrite = false;
                    state.unclean = false;
                    state.bad_copies = 0;
                }
                true
            });
            self.arena += usize::from(all);
        } else {
            self.bad_superblocks = 0;
            self.enter(Phase::Idle);
        }
        Action::Worked
    }
}
