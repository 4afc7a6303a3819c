//! The search for a free block, and what an arena keeps back from it.
//!
//! A caller tries each arena without waiting first and waits in the second round only. The first arena of the first
//! round, where nearly every search ends, has a path of its own. If that is full, the search goes on at the arena whose
//! turn it is, and it becomes the turn of the one that had a block: so on a volume on which most arenas are full,
//! few searches pass many of them.

use super::{ArenaSlot, ArenaState, Arenas, Class, Place, Reserved, LOOKS_MAX, ROTATE_ALLOCATIONS};
use crate::error::Error;
use crate::freemap::State;
use crate::sabotage::{sabotaged, Switch};
use crate::sync::Ordering;

/// What came of looking at an arena.
enum Taken {
    Block(Reserved),
    /// No more than is to be left.
    Full,
    /// Locked by somebody else.
    Busy,
}

impl ArenaSlot {
    /// Blocks that an allocation of this class leaves free.
    #[inline]
    fn reserve(&self, class: Class) -> u32 {
        if sabotaged(Switch::SkipReserve) {
            return 0;
        }
        match class {
            Class::Reclaim => self.shape.log_reserve.load(Ordering::Relaxed),
            Class::Normal => self.shape.normal_reserve.load(Ordering::Relaxed),
        }
    }
}

impl Arenas<'_> {
    /// Blocks that only the log may take.
    pub(crate) fn log_reserve(&self, arena: usize) -> u32 {
        self.slot(arena).shape.log_reserve.load(Ordering::Relaxed)
    }

    /// Blocks that an allocation of this class leaves free in an arena.
    #[inline]
    pub(crate) fn reserve(&self, arena: usize, class: Class) -> u32 {
        self.slot(arena).reserve(class)
    }

    /// Hands out a block, if there is room. `spread` is where to begin, see [`super::spread`].
    #[cfg_attr(not(target_pointer_width = "32"), inline(always))]
    pub(crate) fn allocate(&self, class: Class, spread: u32) -> Option<Reserved> {
        let start = self.start(spread);
        let slot = self.slot(start);
        match self.take(start, slot, slot.reserve(class), false) {
            Taken::Block(reserved) => Some(reserved),
            Taken::Busy => self.allocate_searching(class, start),
            Taken::Full => self.allocate_elsewhere(class),
        }
    }

    #[cold]
    #[inline(never)]
    fn allocate_elsewhere(&self, class: Class) -> Option<Reserved> {
        let reserved = self.allocate_searching(class, self.start(0))?;
        self.rotation.store(reserved.place.arena as u32, Ordering::Relaxed);
        Some(reserved)
    }

    #[cold]
    #[inline(never)]
    fn allocate_searching(&self, class: Class, start: usize) -> Option<Reserved> {
        self.allocate_leaving(|arena| self.reserve(arena, class), start)
    }

    /// What a caller is told who got no block.
    #[cold]
    #[inline(never)]
    pub(crate) fn full(&self, class: Class) -> Error {
        let space = self.space();
        let (free_blocks, pending_blocks) = (space.avail_blocks, space.pending_blocks);
        Error::Full { room_blocks: self.room(class), free_blocks, pending_blocks }
    }

    /// The arena at which a search begins.
    #[inline]
    fn start(&self, spread: u32) -> usize {
        let start = spread.wrapping_add(self.rotation.load(Ordering::Relaxed)) as usize;
        match self.len() {
            len if start < len => start,
            len => start % len.max(1),
        }
    }

    /// Gives the next arena its turn. If others do so meanwhile it may get it twice, and no harm comes of that.
    #[cold]
    fn rotate(&self) {
        let next = self.rotation.load(Ordering::Relaxed) + 1;
        self.rotation.store(if (next as usize) < self.len() { next } else { 0 }, Ordering::Relaxed);
    }

    /// As [`Arenas::allocate`], with an explicit number of blocks to be left in each arena, and where to begin.
    ///
    /// Arenas are looked at one after the other, so a block may come back where the search has been while another goes
    /// where it has not: there was room at every moment, and none was seen. Whatever comes back is counted under the
    /// arena's lock. If nothing did meanwhile, there was no room when the last arena was looked at; otherwise all are
    /// looked at again.
    pub(crate) fn allocate_leaving(&self, reserve: impl Fn(usize) -> u32, start: usize) -> Option<Reserved> {
        if let Some(reserved) = self.search(&reserve, start) {
            return Some(reserved);
        }
        for _ in 1..LOOKS_MAX {
            let before = self.given_back();
            if let Some(reserved) = self.search(&reserve, start) {
                return Some(reserved);
            }
            if self.given_back() == before {
                break;
            }
        }
        None
    }

    /// Changes when blocks became available, or an arena was added, between two calls.
    fn given_back(&self) -> u32 {
        let count = self.len();
        let sum = |sum: u32, arena| sum.wrapping_add(self.slot(arena).busy.given_back.load(Ordering::Acquire));
        (0..count).fold(count as u32, sum)
    }

    /// Looks at every arena: first round without waiting for a lock, second round with.
    fn search(&self, reserve: &impl Fn(usize) -> u32, start: usize) -> Option<Reserved> {
        let count = self.len();
        let arenas = (start..count).chain(0..start).map(|arena| (arena, false));
        let mut arenas = arenas.chain((start..count).chain(0..start).map(|arena| (arena, true)));
        arenas.find_map(|(arena, wait)| match self.take(arena, self.slot(arena), reserve(arena), wait) {
            Taken::Block(reserved) => Some(reserved),
            Taken::Full | Taken::Busy => None,
        })
    }

    /// A block of this arena if it has more than those to be left. Without waiting for the lock only if that is free.
    #[cfg_attr(target_pointer_width = "32", inline(never))]
    #[cfg_attr(not(target_pointer_width = "32"), inline(always))]
    fn take(&self, arena: usize, slot: &ArenaSlot, reserve: u32, wait: bool) -> Taken {
        let take = |state: &mut ArenaState| self.take_locked(slot, state, reserve);
        let taken = match wait {
            true => Some(slot.busy.state.with(self.platform, take)),
            false => slot.busy.state.try_with(self.platform, take),
        };
        match taken {
            None => Taken::Busy,
            Some(None) => Taken::Full,
            Some(Some((index, generation))) => {
                let block = slot.shape.base_block.load(Ordering::Relaxed) + 2 + index;
                Taken::Block(Reserved { place: Place { arena, index, block }, generation })
            }
        }
    }

    #[inline(always)]
    fn take_locked(&self, slot: &ArenaSlot, state: &mut ArenaState, reserve: u32) -> Option<(u32, u64)> {
        if state.counts.avail <= reserve {
            return None;
        }
        let block = self.map_of(slot).reserve(&mut state.counts, state.cursor)?;
        state.cursor = block + 1;
        state.turn += 1;
        if state.turn == ROTATE_ALLOCATIONS {
            state.turn = 0;
            self.rotate();
        }
        Some((block, state.rolled + 1))
    }

    /// Takes back a block that never became part of a commit.
    pub(crate) fn unreserve(&self, place: Place) -> Result<(), State> {
        self.with(place.arena, |state, map| map.unreserve(&mut state.counts, place.index))
    }

    /// Blocks that an allocation of this class can still get.
    pub(crate) fn room(&self, class: Class) -> u64 {
        (0..self.len())
            .map(|arena| {
                let avail = self.with(arena, |state, _| state.counts.avail);
                u64::from(avail.saturating_sub(self.reserve(arena, class)))
            })
            .sum()
    }

    /// Sums over all arenas.
    pub(crate) fn space(&self) -> Space {
        let mut space = Space::default();
        for arena in 0..self.len() {
            self.change(arena, |state, _| {
                space.free_blocks += u64::from(state.counts.free_flight);
                space.avail_blocks += u64::from(state.counts.avail);
                space.log_blocks += u64::from(state.log.blocks);
                space.reserved_blocks += u64::from(state.counts.reserved);
                space.pending_blocks += u64::from(state.counts.pending);
            });
            space.total_blocks += u64::from(self.blocks(arena));
        }
        space
    }
}

/// How the blocks of a volume are used, in blocks; two of each arena are never handed out and count as used.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Space {
    /// Blocks in all arenas, without the headers.
    pub total_blocks: u64,
    /// Blocks that are free in the newest commit that was begun.
    pub free_blocks: u64,
    /// Blocks that can be handed out now, reserves included.
    pub avail_blocks: u64,
    /// Blocks that were freed and become available when one or two more commits are durable.
    pub pending_blocks: u64,
    /// Blocks that are handed out and not yet written.
    pub reserved_blocks: u64,
    /// Blocks of the allocation logs.
    pub log_blocks: u64,
}
