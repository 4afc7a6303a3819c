//! Replay of the allocation logs.

use super::{Mounting, Stage};
use crate::device::DeviceError;
use crate::error::{Damage, DeviceOp, Error, Stop};
use crate::format::{chain_digest, restore_sealed, BlockSize, LogBlock, LogEntries, LogEntry, LogSeal, NONE};
use crate::freemap::FreeMap;
use crate::memory::WHOLE_WORDS;
use crate::pool::Slot;
use crate::sabotage::{sabotaged, Switch};
use crate::store::Engine;

/// How far the replay of one log got.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Walk {
    pub(super) addr: u64,
    pub(super) digest: u64,
    pub(super) last_barrier: u64,
    pub(super) blocks: u32,
    /// Words of free map that entries touched, beyond one each.
    pub(super) extra_words: u32,
    /// Something was freed since that barrier.
    pub(super) doubtful: bool,
    /// Something was allocated or freed.
    pub(super) begun: bool,
    /// The volume is as the original formats it, without a commit.
    pub(super) unborn: bool,
}

/// What the replay of one log block came to.
#[derive(Clone, Copy)]
struct Replayed {
    /// The stopping barrier was met.
    stopped: bool,
    /// Something is behind it in the block.
    trailing: bool,
    /// The last entry was a barrier.
    ends_with_barrier: bool,
}

impl<'d, 'm> Mounting<'d, 'm> {
    #[inline(never)]
    pub(super) fn take_log(
        &mut self,
        arena: usize,
        mut walk: Walk,
        slot: Option<Slot<'m>>,
        result: Result<(), DeviceError>,
    ) -> Result<(), Stop> {
        let addr = walk.addr;
        let (Some(engine), Some(head)) = (self.engine, &self.head) else { return Err(Stop) };
        let generation = head.qgen;
        let mut slot = match (slot, result) {
            (Some(slot), Ok(())) => slot,
            (_, Err(cause)) => return Err(self.stop(Error::Device { op: DeviceOp::Read, addr, cause })),
            (None, Ok(())) => return Err(Stop),
        };
        let place = engine.arenas.locate(addr).filter(|place| place.arena == arena);
        let place = place.ok_or_else(|| self.stop_corrupt(addr, Damage::ForeignLog))?;
        if !engine.arenas.loading(arena).load_log_block(place.index) {
            return Err(self.stop_corrupt(addr, Damage::ChainLoop));
        }
        let seal = engine.arenas.with(arena, |state, _| {
            state.log.spares |= engine.arenas.spare_bit(place);
            state.log.tail_addr = addr;
            state.log.before_tail = walk.digest;
            state.log.seal
        });
        let restored = match seal.filter(|seal| walk.blocks + 1 >= seal.blocks) {
            Some(seal) if !sabotaged(Switch::SkipTailRestore) => {
                restore_tail(slot.bytes_mut(), engine.size, &walk, &seal)
            }
            _ => false,
        };
        let block = LogBlock::decode(slot.bytes(), engine.size).map_err(|error| self.stop_format(addr, error))?;
        let stop_at = seal.map_or(generation, |_| u64::MAX);
        let target = Target::new(engine, arena, seal.is_some());
        let replayed = replay(&target, &block, stop_at, &mut walk).map_err(|error| self.stop(error))?;
        walk.blocks += 1;
        walk.digest = chain_digest(walk.digest, addr, block.sum().hash, block.sum().len_bytes);
        self.log_blocks += 1;
        let next = block.chain();
        let at_end = match seal {
            Some(seal) => walk.blocks >= seal.blocks,
            None => replayed.stopped || next == NONE,
        };
        if !at_end {
            if next == NONE {
                return Err(self.stop_corrupt(addr, Damage::LogEnd));
            }
            walk.addr = next;
            self.stage = Stage::Log { arena, walk };
            return Ok(());
        }
        if let Some(seal) = seal {
            if walk.digest != seal.digest && !sabotaged(Switch::SkipLogDigest) {
                let (expected, found) = (seal.digest, walk.digest);
                return Err(self.stop_corrupt(addr, Damage::LogDigest { expected, found }));
            }
            let ends = replayed.ends_with_barrier && walk.last_barrier == seal.gen && addr == seal.tail_addr;
            if !ends || seal.gen > generation {
                return Err(self.stop_corrupt(addr, Damage::LogEnd));
            }
        }
        // Something behind the end: a link of a commit that was cut off, or what the original had not committed.
        let trailing = match seal {
            Some(_) => restored || next != NONE,
            None => replayed.stopped && (replayed.trailing || next != NONE),
        };
        drop(slot);
        self.end_log(arena, &walk, seal.is_some(), trailing)
    }

    /// The log is replayed. `trailing`: something is behind its end.
    fn end_log(&mut self, arena: usize, walk: &Walk, has_seal: bool, trailing: bool) -> Result<(), Stop> {
        let (Some(engine), Some(head)) = (self.engine, &self.head) else { return Err(Stop) };
        let map = engine.arenas.loading(arena);
        let in_log = |addr: u64| {
            let place = engine.arenas.locate(addr).filter(|place| place.arena == arena);
            place.is_some_and(|place| map.is_log(place.index) || engine.arenas.is_spare(place))
        };
        self.root_in_log = self.root_in_log.or(head.points_into(in_log));
        let (sealed, read_only, mut doubtful_blocks) = (self.sealed, self.read_only(), 0);
        if let Some(index) = map.load_free_log_block() {
            let addr = engine.arenas.addr(engine.arenas.at(arena, index));
            return Err(self.stop_corrupt(addr, Damage::LogNotInUse));
        }
        // A log of the original without the committed barrier: it was killed while it wrote over it, and what it freed
        // after the barrier before may still be part of the committed state. Lost space is better than lost data.
        let torn = !has_seal && !sealed && (walk.last_barrier != head.qgen || head.qgen == 0);
        let keep = walk.doubtful && torn && !read_only && !sabotaged(Switch::FreeDoubtful);
        if keep {
            doubtful_blocks = map.load_keep_doubtful();
        }
        let counts = map.load_done();
        engine.arenas.with(arena, |state, _| {
            state.in_doubt = walk.doubtful && torn && read_only;
            state.must_rewrite |= keep || trailing;
            state.unclean = trailing && has_seal;
            state.counts = counts;
            state.log.blocks = walk.blocks;
            state.rolled = head.qgen;
            state.cursor = 0;
            if sabotaged(Switch::SkipLogRewrite) {
                state.must_rewrite = false;
            }
        });
        self.doubtful_blocks += doubtful_blocks;
        self.stage = self.next_stage(engine.arenas.len());
        Ok(())
    }
}

/// Brings the last block of a sealed log back to what the seal vouches for, if the original has added to it since.
/// Whether it had to be.
fn restore_tail(page: &mut [u8], size: BlockSize, walk: &Walk, seal: &LogSeal) -> bool {
    let as_sealed = LogBlock::decode(page, size).is_ok_and(|block| {
        let sum = block.sum();
        chain_digest(walk.digest, walk.addr, sum.hash, sum.len_bytes) == seal.digest
    });
    !as_sealed && restore_sealed(page, size, walk.digest, walk.addr, seal)
}

/// An arena whose log is replayed: what every entry is checked against.
struct Target<'m> {
    map: FreeMap<'m>,
    /// Byte address of the first block of the map.
    first_addr: u64,
    size: BlockSize,
    /// Blocks that a log can name: all but the last two.
    usable: u32,
    /// The header says where the log ends, so nothing in it is in doubt.
    sealed: bool,
}

impl<'m> Target<'m> {
    fn new(engine: &Engine<'m>, arena: usize, sealed: bool) -> Self {
        let first_addr = engine.arenas.addr(engine.arenas.at(arena, 0));
        let usable = engine.arenas.blocks(arena).saturating_sub(2);
        Self { map: engine.arenas.loading(arena), first_addr, size: engine.size, usable, sealed }
    }

    /// A range of bytes, which begins and ends with a block, as first block and count; `None` if it is not all inside.
    fn blocks(&self, addr: u64, len_bytes: u64) -> Option<(u32, u32)> {
        let first = u32::try_from(addr.checked_sub(self.first_addr)? >> self.size.shift()).ok()?;
        let count = u32::try_from(len_bytes >> self.size.shift()).ok()?;
        (first.checked_add(count)? <= self.usable).then_some((first, count))
    }
}

/// Applies the entries of one log block to the free map, up to the first barrier of generation `stop_at` or later.
fn replay(target: &Target<'_>, block: &LogBlock<'_>, stop_at: u64, walk: &mut Walk) -> Result<Replayed, Error> {
    let addr = walk.addr;
    let mut out = Replayed { stopped: false, trailing: false, ends_with_barrier: false };
    let mut entries = block.entries();
    loop {
        if replay_ones(target, &mut entries, walk) {
            out.ends_with_barrier = false;
        }
        let offset = entries.offset();
        let Some(entry) = entries.next() else { return Ok(out) };
        let entry = entry.map_err(|error| Error::format(addr, error))?;
        out.ends_with_barrier = matches!(entry, LogEntry::Barrier { .. });
        match entry {
            LogEntry::Alloc { addr, len_bytes } => apply(target, walk, (addr, len_bytes), false, offset)?,
            LogEntry::Free { addr, len_bytes } => apply(target, walk, (addr, len_bytes), true, offset)?,
            LogEntry::Barrier { gen } => {
                // Logs that end at a stopping barrier belong to the original, which may write what it likes behind it.
                if stop_at == u64::MAX && gen < walk.last_barrier {
                    return Err(Error::corrupt(addr, Damage::BarrierOrder { offset }));
                }
                if gen <= stop_at && core::mem::take(&mut walk.doubtful) {
                    target.map.load_certain();
                }
                walk.last_barrier = gen;
                if gen >= stop_at {
                    out.stopped = true;
                    out.trailing = entries.next().is_some();
                    return Ok(out);
                }
            }
        }
    }
}

/// Applies the entries in front that a fragmented arena's log is full of: each is of one block, none is in doubt, and
/// nothing is wrong with any. Whether there was one.
fn replay_ones(target: &Target<'_>, entries: &mut LogEntries<'_>, walk: &mut Walk) -> bool {
    // Half a KiB of code, which is more than it is worth where volumes and logs are small.
    if !WHOLE_WORDS || (!target.sealed && (walk.last_barrier != 0 || walk.unborn)) {
        return false;
    }
    let mut any = false;
    let mut ahead = entries.clone();
    while let Some(ones) = ahead.take_ones(target.first_addr, target.usable) {
        if !target.map.load_ones(&ones) {
            // One by one it will be found which of them is damage.
            break;
        }
        any = true;
        *entries = ahead.clone();
    }
    walk.begun |= any;
    any
}

/// Applies the range of the log entry at byte `offset`. The last two blocks of an arena are never free.
#[inline]
fn apply(
    target: &Target<'_>,
    walk: &mut Walk,
    (addr, len_bytes): (u64, u64),
    free: bool,
    offset: usize,
) -> Result<(), Error> {
    let Some((first, count)) = target.blocks(addr, len_bytes) else {
        return Err(Error::corrupt(walk.addr, Damage::ForeignRange { offset }));
    };
    // A log that lists every block a few times over is possible, one that does so over and over is not.
    walk.extra_words = walk.extra_words.saturating_add(count / 32);
    if walk.extra_words > target.usable {
        return Err(Error::corrupt(walk.addr, Damage::ReplayWork));
    }
    // Before its first barrier a log says what the arena began with; on a volume without any commit that is one entry.
    let begun = walk.last_barrier != 0 || (walk.unborn && walk.begun);
    let doubt = !target.sealed && begun && (free || walk.doubtful);
    walk.begun = true;
    walk.doubtful |= doubt;
    if doubt {
        target.map.load_doubt(first, count, free);
    }
    target.map.load_range(first, count, free).map_err(|_| {
        let twice = if free { Damage::FreeTwice { offset } } else { Damage::AllocTwice { offset } };
        Error::corrupt(walk.addr, twice)
    })
}
