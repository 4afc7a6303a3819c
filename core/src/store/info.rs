//! What there is to know about a mounted volume.

use super::Store;
use crate::arena::{Class, Space};
use crate::commit::CommitCounters;
use crate::error::Error;
use crate::format::BlockSize;
use crate::mount::{ArenaInfo, MountReport};
use crate::roots::Roots;
use crate::sync::Ordering;

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
    /// Blocks that it had. Two hits on one block at the same moment may count as one.
    pub cache_hits: u32,
    /// Blocks that wait to be written or are being written.
    pub pending_blocks: u32,
    /// Requests and flushes that the device has.
    pub in_flight: u32,
    /// Blocks that wait in limbo for readers.
    pub limbo_blocks: u32,
}

impl Store<'_, '_> {
    /// The newest durable generation, if no commit is under way.
    pub(crate) fn settled_generation(&self) -> Option<u64> {
        self.commit.with(self.engine.platform, |commit| commit.is_idle().then(|| commit.durable().0))
    }

    pub(crate) fn superblock_addr(&self, copy: u8) -> u64 {
        self.commit.with(self.engine.platform, |commit| commit.superblock_addr(copy))
    }

    /// A superblock turned out to be bad; the next commit repairs it, unless one has replaced it since.
    pub(crate) fn note_bad_superblock(&self, copy: u8, generation: u64) {
        self.commit.with(self.engine.platform, |commit| commit.note_bad_superblock(copy, generation));
    }

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
        self.engine.failure.with(self.engine.platform, |failure| *failure)
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
        let (hits, misses) = self.engine.cache.hits_and_misses();
        Counters {
            commit: self.commit.with(self.engine.platform, |commit| commit.counters),
            queued_block_writes: self.written_blocks.load(Ordering::Relaxed),
            queued_requests: self.written_requests.load(Ordering::Relaxed),
            cache_lookups: hits.wrapping_add(misses),
            cache_hits: hits,
            pending_blocks: self.engine.pending(),
            in_flight: self.in_flight.load(Ordering::Relaxed),
            limbo_blocks: self.limbo_blocks(),
        }
    }

    /// Shows the last events, the newest first, until `see` returns `false` or there are no more.
    #[cfg(feature = "trace")]
    pub fn trace(&self, see: &mut dyn FnMut(&crate::TraceEvent) -> bool) {
        self.engine.trace.each(self.engine.platform, see);
    }

    /// What mount found.
    pub fn report(&self) -> MountReport {
        *self.report
    }

    /// One arena, by number; `None` behind the last.
    pub fn arena(&self, index: usize) -> Option<ArenaInfo> {
        if index >= self.engine.arenas.len() {
            return None;
        }
        let len = |blocks: u32| u64::from(blocks) << self.engine.size.shift();
        let (counts, log, bad_copies) =
            self.engine.arenas.change(index, |state, _| (state.counts, state.log, state.bad_copies));
        Some(ArenaInfo {
            addr: self.engine.arenas.base_addr(index),
            size_bytes: len(self.engine.arenas.blocks(index)),
            free_bytes: len(counts.free_flight),
            free_ranges: counts.ranges_flight,
            avail_bytes: len(counts.avail),
            reserve_bytes: len(self.engine.arenas.reserve(index, Class::Normal)),
            log_reserve_bytes: len(self.engine.arenas.reserve(index, Class::Reclaim)),
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
        let place = self.engine.arenas.locate(addr).ok_or(Error::BadAddress { addr })?;
        Ok(self.engine.arenas.change(place.arena, |_, map| map.is_free_in_flight(place.index)))
    }
}
