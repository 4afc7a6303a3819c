//! Which copy of each arena header counts, and where the arenas lie.

use super::logs::Walk;
use super::{Mounting, Stage};
use crate::device::DeviceError;
use crate::error::{Damage, DeviceOp, Error, MemoryPart, Stop};
use crate::format::{ArenaHeader, CHAIN_DIGEST_START};
use crate::freemap::FreeMap;
use crate::hash::hash64;
use crate::pool::Slot;
use crate::sabotage::{sabotaged, Switch};
use crate::store::Engine;

impl<'d, 'm> Mounting<'d, 'm> {
    #[inline(never)]
    pub(super) fn take_header(
        &mut self,
        arena: usize,
        copy: u8,
        slot: Option<Slot<'m>>,
        result: Result<(), DeviceError>,
    ) -> Result<(), Stop> {
        let Some(engine) = self.engine else { return Err(Stop) };
        let (expected, bad_copies) = engine.arenas.with(arena, |state, _| (state.log.header_hash, state.bad_copies));
        let base = engine.arenas.base_addr(arena);
        let matching = match (&slot, result) {
            (Some(slot), Ok(())) => {
                hash64(slot.bytes()) == expected || (sabotaged(Switch::SkipHeaderHash) && copy == 0)
            }
            _ => false,
        };
        let first_good = copy == 1 && bad_copies & 1 == 0;
        if !matching {
            engine.arenas.with(arena, |state, _| state.bad_copies |= 1 << copy);
            self.bad_header_copies += 1;
            if let (1, false, Err(cause)) = (copy, first_good, result) {
                let addr = base + engine.size.len_u64();
                return Err(self.stop(Error::Device { op: DeviceOp::Read, addr, cause }));
            }
            if copy == 1 && !first_good {
                return Err(self.stop_corrupt(base, Damage::Header { expected }));
            }
        }
        if let (true, false, Some(slot)) = (matching, first_good, &slot) {
            match ArenaHeader::decode(slot.bytes(), engine.size, base) {
                Ok(header) => self.place_arena(arena, base, &header)?,
                Err(error) => return Err(self.stop_format(base, error)),
            }
        }
        drop(slot);
        if copy == 0 {
            self.stage = Stage::Header { arena, copy: 1 };
            return Ok(());
        }
        self.begin_log(arena);
        Ok(())
    }

    /// Counts all of an arena as in use that is damaged at a byte address. If its header is lost, it reaches up to the
    /// next.
    pub(super) fn give_up(&mut self, arena: usize, addr: u64) -> Result<(), Stop> {
        let Some(engine) = self.engine else { return Err(Stop) };
        let base = engine.arenas.base_addr(arena);
        if engine.arenas.blocks(arena) == 0 {
            let blocks = (self.limit_addr(engine, arena).saturating_sub(base) >> engine.size.shift()).saturating_sub(2);
            let blocks = u32::try_from(blocks).unwrap_or(0);
            let room = engine.arenas.words_len().saturating_sub(self.words_used);
            let need = FreeMap::words_needed(blocks);
            if need > room {
                return Err(self.stop_too_small(MemoryPart::MapWords, need, room));
            }
            engine.arenas.place(arena, (base >> engine.size.shift()) as u32, blocks, self.words_used);
            self.words_used += need;
        }
        let map = engine.arenas.loading(arena);
        map.clear();
        let counts = map.load_done();
        engine.arenas.with(arena, |state, _| {
            state.counts = counts;
            state.log.blocks = 0;
            state.log.tail_addr = addr;
        });
        self.stage = self.next_stage(engine.arenas.len());
        Ok(())
    }

    /// Where an arena must end at the latest.
    fn limit_addr(&self, engine: &Engine<'m>, arena: usize) -> u64 {
        let second = Self::second_superblock_addr(self.geometry.len_bytes, engine.size);
        match arena + 1 < engine.arenas.len() {
            true => engine.arenas.base_addr(arena + 1).min(second),
            false => second,
        }
    }

    /// Gives the arena its words, and checks that its extent is where it may be.
    #[inline(never)]
    pub(super) fn place_arena(&mut self, arena: usize, base: u64, header: &ArenaHeader) -> Result<(), Stop> {
        let Some(engine) = self.engine else { return Err(Stop) };
        let end = header.size_bytes.checked_add(2 * engine.size.len_u64()).and_then(|len| base.checked_add(len));
        let limit = self.limit_addr(engine, arena);
        let blocks = u32::try_from(header.size_bytes >> engine.size.shift()).unwrap_or(0);
        if end.is_none_or(|end| end > limit) || blocks < 3 {
            return Err(self.stop_corrupt(base, Damage::ArenaExtent));
        }
        let words_at = self.words_used;
        let need = words_at + FreeMap::words_needed(blocks);
        if need > engine.arenas.words_len() {
            // How much the rest needs is not known yet; what is known is told.
            return Err(self.stop_too_small(MemoryPart::MapWords, need, engine.arenas.words_len()));
        }
        self.words_used = need;
        engine.arenas.place(arena, (base >> engine.size.shift()) as u32, blocks, words_at);
        let sealed = self.sealed;
        engine.arenas.loading(arena).clear();
        engine.arenas.with(arena, |state, _| {
            state.log.head_addr = header.log_head.addr;
            state.log.used_bytes = header.used_bytes;
            state.log.seal = header.seal.filter(|_| sealed);
            // A seal that does not count now would count again once the superblock is ours.
            state.must_rewrite = header.seal.is_some() && !sealed;
        });
        Ok(())
    }

    pub(super) fn begin_log(&mut self, arena: usize) {
        let Some(engine) = self.engine else { return };
        let addr = engine.arenas.with(arena, |state, _| state.log.head_addr);
        let unborn = self.head.is_some_and(|head| head.qgen == 0);
        let digest = CHAIN_DIGEST_START;
        let walk =
            Walk { addr, digest, last_barrier: 0, blocks: 0, extra_words: 0, doubtful: false, begun: false, unborn };
        self.stage = Stage::Log { arena, walk };
    }
}
