//! Arenas: the parts of a volume that allocate on their own, each with a lock, a free map and a log.
//!
//! ```text
//!   base      base+B    base+2B                              base+size        base+size+2B
//!   | header A | header B | block 0 | block 1 | ...          | last two: never handed out |
//! ```
//!
//! Several arenas let several CPUs allocate at once ([`search`]). What an arena keeps back depends on the class of the
//! allocation:
//!
//! - *log* (internal) may take every free block;
//! - *reclaim* (to free more than it takes) leaves what the log of one commit can need at worst:
//!   `ceil(blocks / (2 * ranges per log block)) + 3` blocks, because free space cannot be in more pieces than half of
//!   the blocks;
//! - *normal* leaves that and the reserve of reclaim: 1/128 of the arena, 4 to 64 blocks.
//!
//! # Lock order
//! One arena's lock at a time; that of one bucket of the cache may be taken under it. See [`crate::sync`].

use crate::format::{ranges_per_block, BlockSize, BlockType, LogSeal};
use crate::freemap::{Counts, FreeMap};
use crate::platform::Platform;
use crate::sabotage::{sabotaged, Switch};
use crate::sync::{const_new, leave, AtomicU32, AtomicUsize, Guard, Lock, Ordering};

mod search;

pub use search::Space;

/// Fewest blocks of an arena that this code makes: what its log needs at worst, the reserve of reclaim, and something
/// to use.
pub(crate) const MIN_ARENA_BLOCKS: u64 = 16;
/// Words of free map that one lock section visits at most when it works through many.
pub(crate) const WORDS_PER_SECTION: usize = 64;
/// Allocations from one arena after which the next one gets its turn.
const ROTATE_ALLOCATIONS: u32 = 2048;
/// Looks at all arenas that one allocation takes at most while others keep giving blocks back.
const LOOKS_MAX: u32 = 16;

/// Where the search for a block of this type and hint begins, as a number of arenas behind the one whose turn it is.
/// Nodes begin one arena further than data of the same hint, so that the blocks of an index, which are rewritten often
/// and read together, are not strewn over the content that they lead to. Whoever wants both in one arena gives hints
/// that differ by one.
pub(crate) fn spread(block_type: BlockType, hint: u32) -> u32 {
    hint.wrapping_add(u32::from(block_type != BlockType::Data))
}

/// What an allocation is for, and so how much of the volume it may use up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Class {
    /// New content.
    #[default]
    Normal,
    /// Part of a change that frees more than it takes, like a deletion from a copy-on-write tree.
    Reclaim,
}

/// A block number: byte address divided by block size. Made only from addresses that were checked.
pub(crate) type BlockNo = u32;

/// What the durable state of an arena says about its log, and what its header holds.
#[derive(Clone, Copy)]
pub(crate) struct LogState {
    /// Byte address of the first log block.
    pub(crate) head_addr: u64,
    /// Number of log blocks. 0 only after a mount that could not replay the log and went on nevertheless.
    pub(crate) blocks: u32,
    /// The seal in the header, if the header has one and it is current.
    pub(crate) seal: Option<LogSeal>,
    /// Hash of the header.
    pub(crate) header_hash: u64,
    /// `used` in the header.
    pub(crate) used_bytes: u64,
    /// Byte address of the last log block (of a log that could not be replayed: where it is damaged), and the digest of
    /// the chain in front of it.
    pub(crate) tail_addr: u64,
    pub(crate) before_tail: u64,
    /// Which of the arena's last two blocks the log is in, a bit each.
    pub(crate) spares: u8,
}

impl LogState {
    const NONE: Self = Self {
        head_addr: 0,
        blocks: 0,
        seal: None,
        header_hash: 0,
        used_bytes: 0,
        tail_addr: 0,
        before_tail: 0,
        spares: 0,
    };
}

/// What an arena's lock protects, besides the words of its free map. In this order, so that what each allocation
/// changes lies in one cache line with the lock.
#[repr(C)]
pub(crate) struct ArenaState {
    pub(crate) counts: Counts,
    /// Where the search for a free block begins.
    pub(crate) cursor: u32,
    /// The newest generation whose commit this arena has begun.
    pub(crate) rolled: u64,
    /// Allocations since another arena got its turn.
    turn: u32,
    /// Blocks enqueued and freed since the last commit began: so many free ranges more the next log can have.
    pub(crate) changes: u32,
    /// A commit has begun, and what it includes is not yet fixed in all of the free map: nothing may be changed before.
    pub(crate) rolling: bool,
    /// The log must be written anew although nothing changed: what is behind its end could come alive.
    pub(crate) must_rewrite: bool,
    /// Mounted for reading only, with a log of which the end cannot be told: what it says is free may be in use.
    pub(crate) in_doubt: bool,
    /// The log must be written anew, and the volume is not fit for the original until that was done.
    pub(crate) unclean: bool,
    /// Part of the commit in flight.
    pub(crate) touched: bool,
    /// Which header copies are not known to be good: bit 0 the first, bit 1 the second.
    pub(crate) bad_copies: u8,
    /// The log of the newest commit that was begun and that touched this arena.
    pub(crate) log: LogState,
}

/// One arena in memory. All-zero when untouched.
///
/// What changes with each allocation has cache lines of its own: CPUs that work in other arenas, or look for the arena
/// of an address, touch none of them.
pub(crate) struct ArenaSlot {
    shape: Shape,
    busy: Busy,
}

/// Where an arena is; constant after mount.
#[repr(align(64))]
struct Shape {
    /// Block number of the first header.
    base_block: AtomicU32,
    /// Blocks behind the headers, the last two included.
    blocks: AtomicU32,
    /// Where its words begin; how many it has follows from its blocks.
    words_at: AtomicUsize,
    /// Blocks that only the log may take.
    log_reserve: AtomicU32,
    /// Blocks that normal allocations leave.
    normal_reserve: AtomicU32,
    /// 2^32 divided by the blocks with both headers, rounded up: to divide by them is to multiply by this.
    inverse: AtomicU32,
}

/// What is changed with the lock held.
#[repr(align(64))]
struct Busy {
    state: Lock<ArenaState>,
    /// Changes with each lock section that made blocks available, while the lock is held.
    given_back: AtomicU32,
}

impl ArenaSlot {
    const_new! {
        pub(crate) fn new() -> Self {
            Self {
                shape: Shape {
                    base_block: AtomicU32::new(0),
                    blocks: AtomicU32::new(0),
                    words_at: AtomicUsize::new(0),
                    log_reserve: AtomicU32::new(0),
                    normal_reserve: AtomicU32::new(0),
                    inverse: AtomicU32::new(0)
                },
                busy: Busy {
                    state: Lock::new(ArenaState {
                        counts: Counts { avail: 0, reserved: 0, pending: 0, free_flight: 0, ranges_flight: 0 },
                        cursor: 0,
                        rolled: 0,
                        turn: 0,
                        changes: 0,
                        rolling: false,
                        must_rewrite: false,
                        in_doubt: false,
                        unclean: false,
                        touched: false,
                        bad_copies: 0,
                        log: LogState::NONE
                    }),
                    given_back: AtomicU32::new(0)
                }
            }
        }
    }
}

impl ArenaSlot {
    /// With the lock held, so that nobody else adds to it.
    #[cfg_attr(target_pointer_width = "32", inline(never))]
    fn note_given_back(&self) {
        let given_back = &self.busy.given_back;
        given_back.store(given_back.load(Ordering::Relaxed).wrapping_add(1), Ordering::Release);
    }

    /// Mount notes what a superblock says about this arena, before anything of it was read.
    pub(crate) fn note(&self, base_block: u64, header_hash: u64, platform: &dyn Platform) {
        // An address that is beyond 32 bits of blocks is beyond the device, and found to be so with the header.
        self.shape.base_block.store(u32::try_from(base_block).unwrap_or(u32::MAX), Ordering::Relaxed);
        self.shape.blocks.store(0, Ordering::Relaxed);
        self.busy.state.with(platform, |state| {
            state.log = LogState { header_hash, ..LogState::NONE };
            state.bad_copies = 0;
            state.must_rewrite = false;
            state.in_doubt = false;
            state.unclean = false;
            state.changes = 0;
            state.rolling = false;
            state.touched = false;
        });
    }
}

/// Where a block lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Place {
    /// Number of the arena.
    pub(crate) arena: usize,
    /// Number of the block in its arena's free map.
    pub(crate) index: u32,
    pub(crate) block: BlockNo,
}

/// A block that was handed out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Reserved {
    pub(crate) place: Place,
    /// The generation that was open then.
    pub(crate) generation: u64,
}

/// An arena with its lock held.
struct Held<'a, 'm> {
    state: Guard<'a, ArenaState>,
    map: FreeMap<'m>,
    slot: &'a ArenaSlot,
    /// What could be handed out when the lock was taken.
    avail_before: u32,
    /// What the platform's critical section is to be left with.
    saved: usize,
}

/// All arenas of one store.
pub(crate) struct Arenas<'m> {
    slots: &'m [ArenaSlot],
    /// How many of the slots are in use; grows only.
    count: AtomicUsize,
    words: &'m [AtomicUsize],
    size: BlockSize,
    /// The arena whose turn it is.
    rotation: AtomicU32,
    platform: &'m dyn Platform,
}

impl<'m> Arenas<'m> {
    pub(crate) fn new(
        slots: &'m [ArenaSlot],
        count: usize,
        words: &'m [AtomicUsize],
        size: BlockSize,
        platform: &'m dyn Platform,
    ) -> Self {
        let count = AtomicUsize::new(count.min(slots.len()));
        Self { slots, count, words, size, rotation: AtomicU32::new(0), platform }
    }

    pub(crate) fn len(&self) -> usize {
        self.count.load(Ordering::Acquire)
    }

    /// The arena with this number. There is one for every number that anybody uses; that it need not be proved to the
    /// compiler keeps panics out of mount.
    #[cfg_attr(target_pointer_width = "32", inline(never))]
    fn slot(&self, arena: usize) -> &ArenaSlot {
        #[cfg(not(any(loom, feature = "shuttle")))]
        {
            static NOWHERE: ArenaSlot = ArenaSlot::new();
            self.slots.get(arena).unwrap_or(&NOWHERE)
        }
        #[cfg(any(loom, feature = "shuttle"))]
        &self.slots[arena]
    }

    /// Arenas that there can be.
    pub(crate) fn most(&self) -> usize {
        self.slots.len()
    }

    /// Words of free map that the arenas have taken: up to the end of whichever has the last ones, because mount places
    /// arenas in the order in which their headers come.
    pub(crate) fn words_used(&self) -> usize {
        let end = |arena: usize| {
            self.slot(arena).shape.words_at.load(Ordering::Relaxed) + FreeMap::words_needed(self.blocks(arena))
        };
        (0..self.len()).map(end).max().unwrap_or(0)
    }

    /// Gives arenas behind the last one their places, as part of the commit of `generation`. They are not counted yet,
    /// so nobody else looks at them: next come [`Arenas::fill_some`] for each, and [`Arenas::add`].
    pub(crate) fn announce(&self, arenas: usize, first_block: u32, blocks: u32, generation: u64) {
        let (old, words_used) = (self.len(), self.words_used());
        for index in 0..arenas {
            let arena = old + index;
            let words_at = words_used + index * FreeMap::words_needed(blocks);
            let base_block = first_block + index as u32 * (blocks + 2);
            self.place(arena, base_block, blocks, words_at);
            self.with(arena, |state, _| {
                state.counts = Counts::default();
                state.must_rewrite = true;
                state.touched = true;
                state.rolled = generation;
                state.cursor = 0;
            });
        }
    }

    /// Makes the blocks of a new arena free, a few words of its map from word `from` on; the word to go on with, if
    /// there are more.
    pub(crate) fn fill_some(&self, arena: usize, from: usize) -> Option<usize> {
        self.with(arena, |state, map| map.load_free(&mut state.counts, from, WORDS_PER_SECTION))
    }

    /// Counts arenas that are announced and filled.
    pub(crate) fn add(&self, arenas: usize) {
        self.count.store(self.len() + arenas, Ordering::Release);
    }

    /// Adds arenas in which every block is free, behind the last one, as part of the commit of `generation`.
    pub(crate) fn append(&self, arenas: usize, first_block: u32, blocks: u32, generation: u64) {
        let old = self.len();
        self.announce(arenas, first_block, blocks, generation);
        for arena in old..old + arenas {
            let mut from = Some(0);
            while let Some(word) = from {
                from = self.fill_some(arena, word);
            }
        }
        self.add(arenas);
    }

    /// Words of free map that there are for all arenas.
    pub(crate) fn words_len(&self) -> usize {
        self.words.len()
    }

    /// Gives an arena its place on the device and in memory, before any other use. Called by mount in any order, and by
    /// growing.
    pub(crate) fn place(&self, arena: usize, base_block: u32, blocks: u32, words_at: usize) {
        let slot = self.slot(arena);
        slot.shape.base_block.store(base_block, Ordering::Relaxed);
        slot.shape.blocks.store(blocks, Ordering::Relaxed);
        slot.shape.words_at.store(words_at, Ordering::Relaxed);
        // At least 1 for every block size, which the compiler does not know; a division by 0 would be a panic in mount.
        let per_block = (2 * ranges_per_block(self.size) as u32).max(1);
        let log_reserve = blocks.div_ceil(per_block) + 3;
        slot.shape.log_reserve.store(log_reserve, Ordering::Relaxed);
        slot.shape.normal_reserve.store(log_reserve + (blocks / 128).clamp(4, 64), Ordering::Relaxed);
        slot.shape.inverse.store(u32::MAX / blocks.saturating_add(2) + 1, Ordering::Relaxed);
    }

    /// Byte address of an arena's first header.
    #[cfg_attr(target_pointer_width = "32", inline(never))]
    pub(crate) fn base_addr(&self, arena: usize) -> u64 {
        u64::from(self.slot(arena).shape.base_block.load(Ordering::Relaxed)) << self.size.shift()
    }

    /// Blocks in an arena's free map.
    pub(crate) fn blocks(&self, arena: usize) -> u32 {
        self.slot(arena).shape.blocks.load(Ordering::Relaxed)
    }

    /// The free map of an arena that mount is loading: nobody else has it yet, and there is no need to hold the lock
    /// for as long as that takes.
    pub(crate) fn loading(&self, arena: usize) -> FreeMap<'m> {
        self.map_of(self.slot(arena))
    }

    #[cfg_attr(not(target_pointer_width = "32"), inline(always))]
    fn map_of(&self, slot: &ArenaSlot) -> FreeMap<'m> {
        let blocks = slot.shape.blocks.load(Ordering::Relaxed);
        let at = slot.shape.words_at.load(Ordering::Relaxed);
        FreeMap::new(self.words.get(at..).unwrap_or(&[]), blocks)
    }

    /// Runs a section with one arena locked. Sections visit no more than a few words of the free map
    /// ([`WORDS_PER_SECTION`] where they work through many).
    pub(crate) fn with<R>(&self, arena: usize, section: impl FnOnce(&mut ArenaState, &FreeMap<'m>) -> R) -> R {
        let mut held = self.enter(arena);
        let result = section(&mut held.state, &held.map);
        self.leave(held);
        result
    }

    /// The same for a change to the free map, or for a look at what a commit that has begun includes: if a commit has
    /// just begun, first fixes what it includes. That takes as many lock sections as it needs, each of them short.
    #[cfg_attr(not(target_pointer_width = "32"), inline(always))]
    pub(crate) fn change<R>(&self, arena: usize, section: impl FnOnce(&mut ArenaState, &FreeMap<'m>) -> R) -> R {
        let mut held = self.enter_rolled(arena);
        let result = section(&mut held.state, &held.map);
        self.leave(held);
        result
    }

    /// What an arena's durable state says about its log.
    #[cfg_attr(target_pointer_width = "32", inline(never))]
    pub(crate) fn log(&self, arena: usize) -> LogState {
        self.with(arena, |state, _| state.log)
    }

    /// What comes before a section. It and what comes behind are functions of their own, no matter what the section is,
    /// so that an image for size has them once.
    #[cfg_attr(target_pointer_width = "32", inline(never))]
    #[cfg_attr(not(target_pointer_width = "32"), inline(always))]
    fn enter(&self, arena: usize) -> Held<'_, 'm> {
        let slot = self.slot(arena);
        let (state, saved) = slot.busy.state.enter(self.platform);
        self.held(slot, state, saved)
    }

    /// The same for [`Arenas::change`].
    #[cfg_attr(target_pointer_width = "32", inline(never))]
    #[cfg_attr(not(target_pointer_width = "32"), inline(always))]
    fn enter_rolled(&self, arena: usize) -> Held<'_, 'm> {
        let slot = self.slot(arena);
        loop {
            let (state, saved) = slot.busy.state.enter(self.platform);
            if !state.rolling || sabotaged(Switch::ChangeWhileRolling) {
                return self.held(slot, state, saved);
            }
            leave(state, self.platform, saved);
            self.roll_all(arena);
        }
    }

    #[cfg_attr(target_pointer_width = "32", inline(never))]
    #[cfg_attr(not(target_pointer_width = "32"), inline(always))]
    fn held<'a>(&self, slot: &'a ArenaSlot, state: Guard<'a, ArenaState>, saved: usize) -> Held<'a, 'm> {
        let avail_before = state.counts.avail;
        Held { state, map: self.map_of(slot), slot, avail_before, saved }
    }

    /// What comes behind a section.
    #[cfg_attr(target_pointer_width = "32", inline(never))]
    #[cfg_attr(not(target_pointer_width = "32"), inline(always))]
    fn leave(&self, held: Held<'_, 'm>) {
        if held.state.counts.avail > held.avail_before {
            held.slot.note_given_back();
        }
        leave(held.state, self.platform, held.saved);
    }

    #[cold]
    #[inline(never)]
    fn roll_all(&self, arena: usize) {
        while !self.roll_some(arena) {}
    }

    /// Fixes a part of what a commit that has begun includes; `true` when all of it is.
    pub(crate) fn roll_some(&self, arena: usize) -> bool {
        self.with(arena, |state, map| {
            if state.rolling && map.roll(&mut state.counts, WORDS_PER_SECTION) {
                state.rolling = false;
                state.touched = map.is_moved() || state.must_rewrite;
            }
            !state.rolling
        })
    }

    /// The block at a byte address that a caller named. Headers and superblocks are not among them.
    pub(crate) fn locate(&self, addr: u64) -> Option<Place> {
        if !self.size.divides(addr) {
            return None;
        }
        self.locate_block(u32::try_from(addr >> self.size.shift()).ok()?)
    }

    /// The same by block number.
    #[cfg_attr(not(target_pointer_width = "32"), inline(always))]
    pub(crate) fn locate_block(&self, block: BlockNo) -> Option<Place> {
        let guessed = if cfg!(target_pointer_width = "32") { None } else { self.guess(block) };
        let (arena, slot) = guessed.or_else(|| self.find(block))?;
        // Not negative. The first two are the headers.
        let index = (block - slot.shape.base_block.load(Ordering::Relaxed)).checked_sub(2)?;
        (index < slot.shape.blocks.load(Ordering::Relaxed)).then_some(Place { arena, index, block })
    }

    /// The arena that a block is in if arenas are as large as the first, which all of them are but the last and those
    /// of a volume that has grown. Left out where code is to be small.
    #[inline(always)]
    fn guess(&self, block: BlockNo) -> Option<(usize, &ArenaSlot)> {
        let first = &self.slots.first()?.shape;
        let from_first = block.checked_sub(first.base_block.load(Ordering::Relaxed))?;
        let arena = ((u64::from(from_first) * u64::from(first.inverse.load(Ordering::Relaxed))) >> 32) as usize;
        let slot = self.slots.get(arena).filter(|_| arena < self.len())?;
        let inside = block.checked_sub(slot.shape.base_block.load(Ordering::Relaxed))?;
        (inside < slot.shape.blocks.load(Ordering::Relaxed).saturating_add(2)).then_some((arena, slot))
    }

    /// The same wherever it is: the last one that begins at or before the block.
    #[cfg_attr(not(target_pointer_width = "32"), cold, inline(never))]
    fn find(&self, block: BlockNo) -> Option<(usize, &ArenaSlot)> {
        let slots = self.slots.get(..self.len())?;
        let behind = slots.partition_point(|slot| slot.shape.base_block.load(Ordering::Relaxed) <= block);
        let arena = behind.checked_sub(1)?;
        Some((arena, slots.get(arena)?))
    }

    /// Whether a block is one of the last two of its arena, which are never free.
    pub(crate) fn is_spare(&self, place: Place) -> bool {
        self.spare_bit(place) != 0
    }

    /// The bit that stands for one of the last two blocks of an arena; 0 for all others.
    pub(crate) fn spare_bit(&self, place: Place) -> u8 {
        match self.blocks(place.arena).saturating_sub(place.index) {
            2 => 1,
            1 => 2,
            _ => 0,
        }
    }

    /// Whether one more change leaves enough blocks for the log of the next commit. Always so while the log's reserve
    /// is whole; volumes of the original may have less.
    #[inline(always)]
    pub(crate) fn log_has_room(&self, arena: usize, state: &ArenaState) -> bool {
        state.counts.avail >= self.log_reserve(arena) || self.log_has_room_below(arena, state)
    }

    #[cold]
    fn log_has_room_below(&self, arena: usize, state: &ArenaState) -> bool {
        let ranges = state.counts.ranges_flight.saturating_add(state.changes).saturating_add(2);
        // Free space cannot be in more pieces than that, however many changes there were.
        let ranges = ranges.min(self.blocks(arena).div_ceil(2));
        let need = ranges.div_ceil((ranges_per_block(self.size) as u32).max(1));
        need <= state.counts.avail + 2 - state.log.spares.count_ones()
    }

    /// The place of a block by arena and number in its free map.
    pub(crate) fn at(&self, arena: usize, index: u32) -> Place {
        Place { arena, index, block: self.slot(arena).shape.base_block.load(Ordering::Relaxed) + 2 + index }
    }

    #[cfg_attr(target_pointer_width = "32", inline(never))]
    pub(crate) fn addr(&self, place: Place) -> u64 {
        u64::from(place.block) << self.size.shift()
    }
}
