//! E0: copies of superblocks and arena headers that are not known to be good are rewritten from the good ones, before
//! anything is overwritten. Their content is copied, so the hash that the superblock names stays right.

use super::{Action, Commit, Phase, Stage};
use crate::error::{Damage, Stop};
use crate::format::Superblock;
use crate::hash::hash64;
use crate::sabotage::{sabotaged, Switch};
use crate::store::Engine;

/// One of two copies of a superblock or an arena header.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Copy2 {
    /// The arena, or `None` for the superblock.
    arena: Option<usize>,
    /// 0 or 1: the copy that is not good.
    bad: u8,
}

impl<'m> Commit<'m> {
    pub(super) fn copy_addr(&self, engine: &Engine<'m>, copy: Copy2, which: u8) -> u64 {
        match (copy.arena, which) {
            (None, 0) => 0,
            (None, _) => self.second_superblock_addr,
            (Some(arena), which) => engine.arenas.base_addr(arena) + u64::from(which) * engine.size.len_u64(),
        }
    }

    /// Where the other copy is, from which this one is repaired.
    fn good_addr(&self, engine: &Engine<'m>, copy: Copy2) -> u64 {
        match copy {
            // A volume that grows has nothing at the second one's new place yet.
            Copy2 { arena: None, bad: 0 } => self.old_second_addr,
            _ => self.copy_addr(engine, copy, copy.bad ^ 1),
        }
    }

    pub(super) fn next_bad_copy(&self, engine: &Engine<'m>) -> Option<Copy2> {
        let first_bit = |bits: u8| (bits != 0).then(|| bits.trailing_zeros() as u8);
        if let Some(bad) = first_bit(self.bad_superblocks) {
            return Some(Copy2 { arena: None, bad });
        }
        (self.arena..engine.arenas.len()).find_map(|arena| {
            let bad = first_bit(engine.arenas.with(arena, |state, _| state.bad_copies))?;
            Some(Copy2 { arena: Some(arena), bad })
        })
    }

    #[inline(never)]
    pub(super) fn repair(&mut self, engine: &Engine<'m>) -> Result<Action<'m>, Stop> {
        let Some(copy) = self.next_bad_copy(engine) else {
            // Without a repair there is nothing to flush.
            if core::mem::take(&mut self.repaired) {
                self.phase = Phase::Flush(Stage::E0);
            } else {
                self.after_repairs();
            }
            return Ok(Action::Worked);
        };
        let Some(slot) = self.buffer(engine) else { return Ok(Action::Wait) };
        self.arena = copy.arena.unwrap_or(0);
        self.phase = Phase::RepairRead(copy);
        let good_addr = self.good_addr(engine, copy);
        Ok(self.submit_read(good_addr, slot))
    }

    #[inline(never)]
    pub(super) fn repair_read(&mut self, engine: &Engine<'m>, copy: Copy2) -> Result<Action<'m>, Stop> {
        let Some(slot) = self.read.take() else { return Ok(Action::Wait) };
        self.check_good_copy(engine, copy, slot.bytes())?;
        self.phase = Phase::RepairWrite(copy);
        let bad_addr = self.copy_addr(engine, copy, copy.bad);
        self.counters.repairs += 1;
        self.repaired = true;
        self.submit_write(engine, bad_addr, slot)
    }

    /// What is about to be copied must still be what mount found.
    pub(super) fn check_good_copy(&self, engine: &Engine<'m>, copy: Copy2, bytes: &[u8]) -> Result<(), Stop> {
        let addr = self.good_addr(engine, copy);
        let (expected, found) = match copy.arena {
            Some(arena) => (engine.arenas.log(arena).header_hash, hash64(bytes)),
            None => {
                let superblock = Superblock::decode(bytes).map_err(|error| engine.fail_format(addr, error))?;
                (self.durable, superblock.head().qgen)
            }
        };
        if expected == found || sabotaged(Switch::SkipRepairCheck) {
            Ok(())
        } else {
            Err(engine.fail_corrupt(addr, Damage::Hash { expected, found }))
        }
    }

    pub(super) fn repair_written(&mut self, engine: &Engine<'m>, copy: Copy2) -> Result<Action<'m>, Stop> {
        if self.outstanding != 0 && !sabotaged(Switch::FlushE0TooEarly) {
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
