//! Growing a volume in place, while it is in use: a commit that changes nothing but the number of arenas.
//!
//! ```text
//!   E0  superblock (old state) to its new place at the end of the device                         flush
//!   E1  logs and header copies A of the new arenas, behind the old ones                          flush
//!   E2  superblock 0, with the longer arena table                                                flush -> acknowledged
//!   E3  header copies B of the new arenas, superblock 1 at its new place                         flush
//! ```
//!
//! Of the old arenas only those take part whose logs must be written anew, because what the original or a commit that
//! was cut off has left behind their ends could come alive with the new generation.
//!
//! The maps of the new arenas are filled first, a few words in each step; nobody else knows of these arenas until all
//! are. What other callers have changed meanwhile stays with the next commit: their roots do not know of it yet. Only
//! the generation moves on, so that their blocks are counted with the right one.

use super::{Action, Commit, CommitTicket, Phase};
use crate::arena::{Arenas, MIN_ARENA_BLOCKS};
use crate::error::{Error, MemoryPart};
use crate::format::{max_arenas, max_sealed_arenas, BlockSize, MAX_GENERATION};
use crate::freemap::FreeMap;
use crate::mount::Mounting;
use crate::sabotage::{sabotaged, Switch};
use crate::store::Engine;

/// Arenas that the original is known to handle; growing goes beyond only if there are more already.
const USUAL_ARENAS_MAX: usize = 32;

/// New arenas: how many, and blocks of each one's free map.
struct Plan {
    arenas: usize,
    blocks: u32,
    first_block: u32,
}

fn plan(arenas: &Arenas<'_>, size: BlockSize, second_addr: u64) -> Result<Plan, Error> {
    let size_shift = size.shift();
    let max_arenas = max_arenas(size) as usize;
    let most = USUAL_ARENAS_MAX.min(max_sealed_arenas(size) as usize);
    let have = arenas.len();
    if have >= max_arenas {
        return Err(Error::BadParameter { name: "number of arenas", found: have as u64 + 1 });
    }
    let last = have.saturating_sub(1);
    let first_block = (arenas.base_addr(last) >> size_shift) as u32 + arenas.blocks(last) + 2;
    let extra = u64::from(((second_addr >> size_shift) as u32).saturating_sub(first_block));
    let like_the_first = u64::from(arenas.blocks(0) + 2);
    let limit = most.max(have + 1).min(arenas.most());
    if limit <= have {
        let (need, have) = (have as u64 + 1, arenas.most() as u64);
        return Err(Error::MemoryTooSmall { part: MemoryPart::Arenas, need, have });
    }
    let count = (extra / like_the_first).clamp(1, (limit - have) as u64);
    let blocks = (extra / count).saturating_sub(2);
    if blocks < MIN_ARENA_BLOCKS {
        let end = u64::from(first_block) + MIN_ARENA_BLOCKS + 3;
        let (need_bytes, have_bytes) = (end << size_shift, second_addr + (1 << size_shift));
        return Err(Error::Geometry { need_bytes, have_bytes });
    }
    let need = (arenas.words_used() + count as usize * FreeMap::words_needed(blocks as u32)) as u64;
    if need > arenas.words_len() as u64 {
        let have = arenas.words_len() as u64;
        return Err(Error::MemoryTooSmall { part: MemoryPart::MapWords, need, have });
    }
    Ok(Plan { arenas: count as usize, blocks: blocks as u32, first_block })
}

impl<'m> Commit<'m> {
    /// Begins to grow the volume to a device of `len_bytes`. Only while idle.
    pub(crate) fn start_grow(&mut self, engine: &Engine<'m>, len_bytes: u64) -> Result<CommitTicket, Error> {
        if !self.is_idle() {
            return Err(Error::CommitInFlight);
        }
        let generation = self.durable + 1;
        if generation > MAX_GENERATION {
            return Err(Error::BadParameter { name: "generation", found: generation });
        }
        if len_bytes >> engine.size.shift() > u64::from(u32::MAX) {
            let have_bytes = u64::from(u32::MAX) << engine.size.shift();
            return Err(Error::Geometry { need_bytes: len_bytes, have_bytes });
        }
        let second_addr = Mounting::second_superblock_addr(len_bytes, engine.size);
        let plan = plan(&engine.arenas, engine.size, second_addr)?;
        let old = engine.arenas.len();
        for arena in 0..old {
            engine.arenas.with(arena, |state, _| {
                state.rolled = generation;
                // From this commit on the superblock vouches for seals, and names another generation: a log that must
                // not be read by that rule as it is cannot stay.
                state.touched = state.must_rewrite && !sabotaged(Switch::GrowOverTails);
            });
        }
        engine.arenas.announce(plan.arenas, plan.first_block, plan.blocks, generation);
        if second_addr != self.second_superblock_addr {
            self.second_superblock_addr = second_addr;
            self.bad_superblocks |= if sabotaged(Switch::GrowWithoutSecond) { 0 } else { 2 };
        }
        self.epoch = engine.epochs.stamp();
        (self.generation, self.roots, self.repair_only) = (generation, self.durable_roots, false);
        self.phase = Phase::Fill { arenas: plan.arenas, from: 0 };
        self.arena = old;
        Ok(CommitTicket { generation, repairs: false })
    }

    /// Fills a part of the map of a new arena; counts the new arenas when all are filled.
    pub(super) fn fill(&mut self, engine: &Engine<'m>, arenas: usize, from: usize) -> Action<'m> {
        if let Some(from) = engine.arenas.fill_some(self.arena, from) {
            self.phase = Phase::Fill { arenas, from };
        } else if self.arena + 1 < engine.arenas.len() + arenas {
            self.arena += 1;
            self.phase = Phase::Fill { arenas, from: 0 };
        } else {
            engine.arenas.add(arenas);
            self.enter_first();
        }
        Action::Worked
    }
}
