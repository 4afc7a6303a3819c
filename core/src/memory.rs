//! The memory of a store: one value, all of it, whose size is known when the kernel is compiled.
//!
//! Every initial state is made of zero bytes, so that a static of any size lands in `.bss`. There is room for what does
//! not grow with a capacity too (the state of a commit, requests that wait to be offered again), so that the
//! [`crate::Store`] value is small and can be moved without much stack. Pages and bookkeeping are separate arrays: no
//! padding between buffers, and no cache line shared between a buffer and a counter. Only this type is generic over
//! capacities; [`Memory::take`] turns it, once, into slices, and everything above sees those.
//!
//! # What it buys
//! With `B` the block size: `PAGES * 4096 / B` buffers (no more than `FRAMES`), of which [`COMMIT_FRAMES`] belong to
//! the commit, [`RECLAIM_FRAMES`] to the class reclaim, and the rest is the cache; volumes of up to as many blocks as
//! [`map_words`] was asked for; `ARENAS` arenas; `QUEUE` blocks waiting to be written; `WORKERS` workers inside an
//! epoch at once (32 if it is not named). The feature `trace` adds its ring of events, about 10 KiB.

use crate::arena::ArenaSlot;
use crate::commit::Commit;
use crate::epoch::WorkerSlot;
use crate::format::{BlockSize, SUPERBLOCK_FRONT_LEN};
use crate::in_place::{InPlace, Vacant};
use crate::limbo::{Limbo, LimboView};
use crate::pool::{Extent, Frame, Page, PageArea, Pool, SeatRow, PAGE_LEN_BYTES, ROWS};
use crate::queue::{Queue, QueueView};
use crate::store::{Engine, Facts, Unsent};
use crate::sync::{array_of, const_new, AtomicBool, AtomicUsize, Lock, Ordering};

/// Buffers that a commit keeps for itself, so that it goes on when callers hold the whole cache.
pub const COMMIT_FRAMES: u32 = 4;

/// Buffers that only allocations and reads of the class reclaim may take, so that a caller who holds every other one
/// can still delete and commit.
pub const RECLAIM_FRAMES: u32 = 4;

/// Bytes of a superblock that mount looks at before it knows the block size.
pub(crate) const PROBE_LEN_BYTES: usize = SUPERBLOCK_FRONT_LEN;
const PROBE_SIZE: BlockSize = match BlockSize::new(PROBE_LEN_BYTES as u32) {
    Some(size) => size,
    None => BlockSize::MIN,
};

/// Bits in one word of a free map.
pub(crate) const WORD_BITS: usize = usize::BITS as usize;
/// Whether logs are replayed and listed by whole words where that can be. Without it they are entry by entry, to the
/// same end, which is less code; so it is where code is to be small.
pub(crate) const WHOLE_WORDS: bool = cfg!(not(target_pointer_width = "32"));

/// Words of free map that a volume of `blocks` blocks in `arenas` arenas needs: four planes of one bit a block, and
/// four summaries of one bit a word in levels, each of which has one bit for a word of the level below (see
/// `freemap`).
///
/// About `blocks * 4 * 64 / 63` bits; the remainder is rounding, which happens once an arena and level, and once an
/// arena to cache lines of 64 bytes.
pub const fn map_words(blocks: usize, arenas: usize) -> usize {
    let plane = blocks / WORD_BITS + 2 * arenas;
    let summary = plane / (WORD_BITS - 1) + summary_levels(blocks) * arenas;
    4 * plane + 4 * summary + LINE_WORDS * arenas
}

/// Words in a cache line of 64 bytes.
pub(crate) const LINE_WORDS: usize = 64 * 8 / WORD_BITS;

/// Words that begin with a cache line.
#[repr(C, align(64))]
struct Words<const N: usize>([AtomicUsize; N]);

/// Levels of a summary of an arena of `blocks` blocks.
const fn summary_levels(blocks: usize) -> usize {
    let (mut level, mut levels) = (blocks / WORD_BITS + 2, 0);
    while level > 1 {
        level = level.div_ceil(WORD_BITS);
        levels += 1;
    }
    levels
}

/// Pages that hold `blocks` buffers of `block_len_bytes` bytes each, rounded up.
pub const fn pages_for(blocks: usize, block_len_bytes: usize) -> usize {
    (blocks * block_len_bytes).div_ceil(PAGE_LEN_BYTES)
}

/// Proof that a memory value was taken, so that nobody else builds a pool over its pages, or puts a value into it.
pub(crate) struct Taken(());

#[cfg(test)]
impl Taken {
    /// For models and tests of the pool or the cache alone.
    pub(crate) fn in_model() -> Self {
        Self(())
    }
}

/// Room for what a store has whatever its capacities are.
pub(crate) struct Fixed {
    probe: InPlace<Extent<'static>>,
    pool: InPlace<Extent<'static>>,
    engine: InPlace<Engine<'static>>,
    commit: InPlace<Lock<Commit<'static>>>,
    unsent: InPlace<Lock<Unsent<'static>>>,
    facts: InPlace<Facts>,
}

impl Fixed {
    const fn new() -> Self {
        Self {
            probe: InPlace::new(),
            pool: InPlace::new(),
            engine: InPlace::new(),
            commit: InPlace::new(),
            unsent: InPlace::new(),
            facts: InPlace::new(),
        }
    }
}

/// The same, waiting for a store.
pub(crate) struct Vacancies<'m> {
    pub(crate) commit: Vacant<'m, Lock<Commit<'static>>>,
    pub(crate) unsent: Vacant<'m, Lock<Unsent<'static>>>,
    pub(crate) facts: Vacant<'m, Facts>,
}

/// All the memory of one store.
///
/// Declare it with [`crate::memory!`], which computes the parameters from the terms of the user: cache blocks, block
/// size, volume size.
#[repr(C)]
pub struct Memory<
    const PAGES: usize,
    const FRAMES: usize,
    const WORDS: usize,
    const ARENAS: usize,
    const QUEUE: usize,
    const WORKERS: usize = 32,
> {
    pages: [Page; PAGES],
    /// Mount looks for the superblock before it knows the block size.
    probe_pages: [Page; PROBE_LEN_BYTES / PAGE_LEN_BYTES],
    probe_frames: [Frame; 1],
    probe_seats: [SeatRow<1>; ROWS],
    frames: [Frame; FRAMES],
    seats: [SeatRow<FRAMES>; ROWS],
    words: Words<WORDS>,
    arenas: [ArenaSlot; ARENAS],
    queue: Lock<Queue<QUEUE>>,
    limbo: Lock<Limbo<FRAMES>>,
    workers: [WorkerSlot; WORKERS],
    fixed: Fixed,
    #[cfg(feature = "trace")]
    trace: crate::trace::Trace,
    taken: AtomicBool,
}

impl<
        const PAGES: usize,
        const FRAMES: usize,
        const WORDS: usize,
        const ARENAS: usize,
        const QUEUE: usize,
        const WORKERS: usize,
    > Memory<PAGES, FRAMES, WORDS, ARENAS, QUEUE, WORKERS>
{
    const_new! {
        /// Memory that nobody uses yet: all bytes zero.
        pub fn new() -> Self {
            Self {
                pages: array_of!(Page::new()),
                probe_pages: array_of!(Page::new()),
                probe_frames: array_of!(Frame::new()),
                probe_seats: array_of!(SeatRow::new()),
                frames: array_of!(Frame::new()),
                seats: array_of!(SeatRow::new()),
                words: Words(array_of!(AtomicUsize::new(0))),
                arenas: array_of!(ArenaSlot::new()),
                queue: Lock::new(Queue::new()),
                limbo: Lock::new(Limbo::new()),
                workers: array_of!(WorkerSlot::new()),
                fixed: Fixed::new(),
                #[cfg(feature = "trace")]
                trace: crate::trace::Trace::new(),
                taken: AtomicBool::new(false)
            }
        }
    }

    /// Size of this value in bytes.
    pub const SIZE_BYTES: usize = Self::size_bytes();

    /// The same as a function.
    pub const fn size_bytes() -> usize {
        core::mem::size_of::<Self>()
    }

    /// Takes the memory for one store. `None` if it was taken before: it never comes back.
    pub fn take(&self) -> Option<Resources<'_>> {
        const { assert!(QUEUE > 0 && FRAMES > 0 && ARENAS > 0, "a memory needs buffers, arenas and a queue") };
        if self.taken.swap(true, Ordering::AcqRel) {
            return None;
        }
        Some(Resources {
            area: PageArea::new(Taken(()), &self.pages, &self.frames, &self.seats),
            probe: Pool::new(
                PageArea::new(Taken(()), &self.probe_pages, &self.probe_frames, &self.probe_seats),
                PROBE_SIZE,
                Vacant::new(Taken(()), &self.fixed.probe),
            ),
            pool: Vacant::new(Taken(()), &self.fixed.pool),
            words: &self.words.0,
            arenas: &self.arenas,
            queue: &self.queue,
            limbo: &self.limbo,
            workers: &self.workers,
            engine: Vacant::new(Taken(()), &self.fixed.engine),
            vacancies: Vacancies {
                commit: Vacant::new(Taken(()), &self.fixed.commit),
                unsent: Vacant::new(Taken(()), &self.fixed.unsent),
                facts: Vacant::new(Taken(()), &self.fixed.facts),
            },
            #[cfg(feature = "trace")]
            trace: &self.trace,
        })
    }
}

impl<
        const PAGES: usize,
        const FRAMES: usize,
        const WORDS: usize,
        const ARENAS: usize,
        const QUEUE: usize,
        const WORKERS: usize,
    > Default for Memory<PAGES, FRAMES, WORDS, ARENAS, QUEUE, WORKERS>
{
    fn default() -> Self {
        Self::new()
    }
}

/// The memory of one store, taken: what `mount` and `format` consume.
pub struct Resources<'m> {
    pub(crate) area: PageArea<'m>,
    pub(crate) probe: Pool<'m>,
    pub(crate) pool: Vacant<'m, Extent<'static>>,
    pub(crate) words: &'m [AtomicUsize],
    pub(crate) arenas: &'m [ArenaSlot],
    pub(crate) queue: &'m Lock<QueueView>,
    pub(crate) limbo: &'m Lock<LimboView>,
    pub(crate) workers: &'m [WorkerSlot],
    pub(crate) engine: Vacant<'m, Engine<'static>>,
    pub(crate) vacancies: Vacancies<'m>,
    #[cfg(feature = "trace")]
    pub(crate) trace: &'m crate::trace::Trace,
}

impl core::fmt::Debug for Resources<'_> {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("Resources")
            .field("map_words", &self.words.len())
            .field("arenas", &self.arenas.len())
            .finish_non_exhaustive()
    }
}

/// Declares a static [`Memory`] in the terms of its user. `workers`, the places for workers inside an epoch, may be
/// left out: it is 32 then.
///
/// ```
/// arenite_core::memory! {
///     /// 32 buffers of 4 KiB, for a volume of up to 64 MiB in up to 4 arenas.
///     static MEMORY: cache_blocks = 32, block_len_bytes = 4096, volume_blocks = 16384, arenas = 4, queue = 16;
/// }
/// assert!(MEMORY.take().is_some());
/// assert!(MEMORY.take().is_none());
/// ```
#[macro_export]
macro_rules! memory {
    ($(#[$meta:meta])* $vis:vis static $name:ident: cache_blocks = $cache:expr, block_len_bytes = $block:expr,
     volume_blocks = $blocks:expr, arenas = $arenas:expr, queue = $queue:expr;) => {
        $crate::memory! {
            $(#[$meta])*
            $vis static $name: cache_blocks = $cache, block_len_bytes = $block, volume_blocks = $blocks,
            arenas = $arenas, queue = $queue, workers = 32;
        }
    };
    ($(#[$meta:meta])* $vis:vis static $name:ident: cache_blocks = $cache:expr, block_len_bytes = $block:expr,
     volume_blocks = $blocks:expr, arenas = $arenas:expr, queue = $queue:expr, workers = $workers:expr;) => {
        $(#[$meta])*
        $vis static $name: $crate::Memory<
            { $crate::memory::pages_for($cache, $block) },
            { $cache },
            { $crate::memory::map_words($blocks, $arenas) },
            { $arenas },
            { $queue },
            { $workers },
        > = $crate::Memory::new();
    };
}
