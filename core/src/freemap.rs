//! The free map of one arena: which blocks are free, in each of the states that a crash could expose.
//!
//! A block may be handed out only when it is free in the last durable commit, in the commit in flight, and now; and
//! when nobody in memory has it. Three bit planes say all of that, in fixed memory, whatever the fragmentation:
//!
//! - `durable`: free in the last durable commit,
//! - `flight`: free in the commit in flight (equal to `durable` when there is none),
//! - `next`: free in the commit after that.
//!
//! Seven of the eight combinations occur by themselves. The eighth, free in flight but neither before nor after,
//! cannot (a block is not handed out before its being free is durable); it is used for blocks that are handed out but
//! not yet part of any commit:
//!
//! | durable flight next | state | meaning |
//! |---|---|---|
//! | 1 1 1 | free | may be handed out |
//! | 0 1 0 | reserved | handed out in memory; free on disk in every state |
//! | 1 1 0 | new | part of the next commit |
//! | 1 0 0 | new in flight | part of the commit in flight |
//! | 1 0 1 | new in flight, freed | the same, and not part of the one after |
//! | 0 0 0 | in use | |
//! | 0 0 1 | freed | not part of the next commit, still reachable from the durable one |
//! | 0 1 1 | freed in flight | not part of the commit in flight |
//!
//! ```text
//!          reserve          enqueue          roll             settle
//!   free ----------> reserved ------> new ------> new in flight ------> in use
//!    ^  <-----------     ^             |               | free             | free
//!    |     unreserve     +--- free ----+               v                  v
//!    |                                           (settle: freed)        freed
//!    |                     settle                                         | roll
//!    +------------------------------------------------------------- freed in flight
//! ```
//!
//! [`FreeMap::roll`] begins a commit, [`FreeMap::settle`] ends one. Both visit only words in which something changed:
//! for each plane transition a summary has one bit a word (and one bit for each word of the first level), and so has
//! the search for a free block.
//!
//! # Invariants
//! - While no commit is in flight every block is in one of: free, reserved, new, in use, freed.
//! - `avail` has a bit for exactly the words with a free block; `changed` for every word where `next` may differ from
//!   `flight`; `moved` for every word where `flight` may differ from `durable`.
//!
//! The words are atomics only because they live in memory that is shared; the arena's lock orders all access.

use crate::memory::WORD_BITS;
use crate::sabotage::{sabotaged, Switch};
use crate::sync::{AtomicUsize, Ordering};

type Word = usize;

/// The place of a block: word and bit.
fn place(block: u32) -> (usize, Word) {
    (block as usize / WORD_BITS, 1 << (block as usize % WORD_BITS))
}

/// The words of a run of blocks, with the bits of those of its blocks that are in each.
fn masks(first: u32, count: u32) -> impl Iterator<Item = (usize, Word)> {
    let (mut block, end) = (first, first + count);
    core::iter::from_fn(move || {
        if block >= end {
            return None;
        }
        let (at, bit) = place(block);
        let in_word = (end - block).min(WORD_BITS as u32 - block % WORD_BITS as u32);
        let ones = if in_word as usize == WORD_BITS { Word::MAX } else { (1 << in_word) - 1 };
        block += in_word;
        Some((at, ones * bit))
    })
}

fn load(words: &[AtomicUsize], at: usize) -> Word {
    words.get(at).map_or(0, |word| word.load(Ordering::Relaxed))
}

fn store(words: &[AtomicUsize], at: usize, value: Word) {
    if let Some(word) = words.get(at) {
        word.store(value, Ordering::Relaxed);
    }
}

/// A set of word numbers that finds its next member in constant time for all practical sizes: two levels of bits.
#[derive(Clone, Copy)]
struct Summary<'a> {
    low: &'a [AtomicUsize],
    high: &'a [AtomicUsize],
}

impl<'a> Summary<'a> {
    const fn low_len(words: usize) -> usize {
        words.div_ceil(WORD_BITS)
    }

    const fn len(words: usize) -> usize {
        Self::low_len(words) + Self::low_len(words).div_ceil(WORD_BITS)
    }

    fn new(memory: &'a [AtomicUsize], words: usize) -> Self {
        let (low, high) = memory.split_at(Self::low_len(words).min(memory.len()));
        Self { low, high }
    }

    fn set(&self, word: usize, on: bool) {
        let (at, bit) = (word / WORD_BITS, 1 << (word % WORD_BITS));
        let old = load(self.low, at);
        let new = if on { old | bit } else { old & !bit };
        if new == old {
            return;
        }
        store(self.low, at, new);
        let (high_at, high_bit) = (at / WORD_BITS, 1 << (at % WORD_BITS));
        let high = load(self.high, high_at);
        store(self.high, high_at, if new != 0 { high | high_bit } else { high & !high_bit });
    }

    /// The first member at or after `word`.
    fn next(&self, word: usize) -> Option<usize> {
        let at = word / WORD_BITS;
        if at >= self.low.len() {
            return None;
        }
        let here = load(self.low, at) & (Word::MAX << (word % WORD_BITS));
        if here != 0 {
            return Some(at * WORD_BITS + here.trailing_zeros() as usize);
        }
        let from = at + 1;
        let mut mask = Word::MAX << (from % WORD_BITS);
        for high_at in from / WORD_BITS..self.high.len() {
            let high = load(self.high, high_at) & mask;
            mask = Word::MAX;
            if high != 0 {
                let low_at = high_at * WORD_BITS + high.trailing_zeros() as usize;
                let low = load(self.low, low_at);
                return Some(low_at * WORD_BITS + low.trailing_zeros() as usize);
            }
        }
        None
    }
}

/// Sums over one free map, kept by the same functions that change it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Counts {
    /// Blocks that may be handed out.
    pub(crate) avail: u32,
    /// Blocks that are handed out and not yet part of a commit.
    pub(crate) reserved: u32,
    /// Blocks that were freed, and may be handed out once commits are durable.
    pub(crate) pending: u32,
    /// Blocks that are free in the commit in flight (in the durable one, when there is none).
    pub(crate) free_flight: u32,
    /// Runs of consecutive blocks that are free in the commit in flight: the length of a compressed log.
    pub(crate) ranges_flight: u32,
}

/// What the free map says about a block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum State {
    Free,
    Reserved,
    New,
    NewInFlight,
    NewInFlightFreed,
    InUse,
    Freed,
    FreedInFlight,
}

/// A run of blocks that a commit allocates or frees.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Move {
    pub(crate) first: u32,
    pub(crate) count: u32,
    pub(crate) freed: bool,
}

/// The view of one arena's planes; made anew for each lock section.
#[derive(Clone, Copy)]
pub(crate) struct FreeMap<'a> {
    blocks: u32,
    durable: &'a [AtomicUsize],
    flight: &'a [AtomicUsize],
    next: &'a [AtomicUsize],
    avail: Summary<'a>,
    changed: Summary<'a>,
    moved: Summary<'a>,
}

impl<'a> FreeMap<'a> {
    /// Words of memory for an arena of `blocks` blocks.
    pub(crate) const fn words_needed(blocks: u32) -> usize {
        let plane = (blocks as usize).div_ceil(WORD_BITS);
        3 * plane + 3 * Summary::len(plane)
    }

    /// The map in `memory`, which has [`FreeMap::words_needed`] words.
    pub(crate) fn new(memory: &'a [AtomicUsize], blocks: u32) -> Self {
        let plane = (blocks as usize).div_ceil(WORD_BITS);
        let split = |rest: &'a [AtomicUsize], at: usize| rest.split_at(at.min(rest.len()));
        let (durable, rest) = split(memory, plane);
        let (flight, rest) = split(rest, plane);
        let (next, rest) = split(rest, plane);
        let (avail, rest) = split(rest, Summary::len(plane));
        let (changed, moved) = split(rest, Summary::len(plane));
        let summary = |memory| Summary::new(memory, plane);
        Self { blocks, durable, flight, next, avail: summary(avail), changed: summary(changed), moved: summary(moved) }
    }

    /// Makes every block in use and forgets all changes.
    pub(crate) fn clear(&self) {
        let summaries = [self.avail, self.changed, self.moved];
        let words = summaries.iter().flat_map(|summary| [summary.low, summary.high]);
        for word in words.chain([self.durable, self.flight, self.next]).flatten() {
            word.store(0, Ordering::Relaxed);
        }
    }

    /// What the map says about a block. Blocks out of range are in use.
    pub(crate) fn state(&self, block: u32) -> State {
        let (at, bit) = place(block);
        let in_plane = |plane| load(plane, at) & bit != 0;
        match (in_plane(self.durable), in_plane(self.flight), in_plane(self.next)) {
            (true, true, true) => State::Free,
            (false, true, false) => State::Reserved,
            (true, true, false) => State::New,
            (true, false, false) => State::NewInFlight,
            (true, false, true) => State::NewInFlightFreed,
            (false, false, false) => State::InUse,
            (false, false, true) => State::Freed,
            (false, true, true) => State::FreedInFlight,
        }
    }

    fn word(&self, at: usize) -> Planes {
        Planes { durable: load(self.durable, at), flight: load(self.flight, at), next: load(self.next, at) }
    }

    /// Replaces one word of each plane. The only function that changes a plane after loading, so the sums and the
    /// summaries are right if they are right here.
    fn replace(&self, counts: &mut Counts, at: usize, new: Planes) {
        let old = self.word(at);
        counts.avail = counts.avail + new.avail().count_ones() - old.avail().count_ones();
        counts.reserved = counts.reserved + new.reserved().count_ones() - old.reserved().count_ones();
        counts.pending = counts.pending + new.pending().count_ones() - old.pending().count_ones();
        counts.free_flight = counts.free_flight + new.flight.count_ones() - old.flight.count_ones();
        let starts_before = self.starts_around(at);
        store(self.durable, at, new.durable);
        store(self.flight, at, new.flight);
        store(self.next, at, new.next);
        counts.ranges_flight = counts.ranges_flight + self.starts_around(at) - starts_before;
        self.avail.set(at, new.avail() != 0);
        self.changed.set(at, new.rolled() != new.flight);
        self.moved.set(at, new.settled() != new.durable);
    }

    /// Runs of the flight plane that begin in word `at` or at the first bit of the word behind it.
    fn starts_around(&self, at: usize) -> u32 {
        let word = load(self.flight, at);
        let before = if at == 0 { 0 } else { load(self.flight, at - 1) >> (WORD_BITS - 1) };
        let behind = load(self.flight, at + 1) & 1 & !(word >> (WORD_BITS - 1));
        (word & !((word << 1) | before)).count_ones() + behind as u32
    }

    /// Moves one block from one state to another; `Err` with the state that it is in if that is another one.
    fn step(&self, counts: &mut Counts, block: u32, from: State, to: State) -> Result<(), State> {
        let found = self.state(block);
        if found != from {
            return Err(found);
        }
        let (at, bit) = place(block);
        let with = |word: Word, on: bool| if on { word | bit } else { word & !bit };
        let (durable, flight, next) = to.planes();
        let old = self.word(at);
        let new = Planes {
            durable: with(old.durable, durable),
            flight: with(old.flight, flight),
            next: with(old.next, next),
        };
        self.replace(counts, at, new);
        Ok(())
    }

    /// The first free block at or after `from`, going round once.
    fn find(&self, from: u32) -> Option<u32> {
        let (from_at, bit) = place(from);
        let here = self.word(from_at).avail() & !(bit - 1);
        let (at, word) = if here != 0 {
            (from_at, here)
        } else {
            let at = self.avail.next(from_at + 1).or_else(|| self.avail.next(0))?;
            (at, self.word(at).avail())
        };
        (word != 0).then(|| (at * WORD_BITS) as u32 + word.trailing_zeros())
    }

    /// Hands out a free block for a caller, the first at or after `from`.
    pub(crate) fn reserve(&self, counts: &mut Counts, from: u32) -> Option<u32> {
        let block = self.find(from)?;
        self.step(counts, block, State::Free, State::Reserved).ok()?;
        Some(block)
    }

    /// Takes back a block that was handed out and never became part of a commit.
    pub(crate) fn unreserve(&self, counts: &mut Counts, block: u32) -> Result<(), State> {
        self.step(counts, block, State::Reserved, State::Free)
    }

    /// Makes a reserved block part of the next commit.
    pub(crate) fn enqueue(&self, counts: &mut Counts, block: u32) -> Result<(), State> {
        self.step(counts, block, State::Reserved, State::New)
    }

    /// Makes a block no part of the next commit. The result says what holds it back from being handed out again:
    /// `Reserved`, nothing but memory (the caller ends that with [`FreeMap::unreserve`]); otherwise commits.
    pub(crate) fn free(&self, counts: &mut Counts, block: u32) -> Result<State, State> {
        let from = self.state(block);
        let to = match from {
            State::InUse => State::Freed,
            State::New => State::Reserved,
            State::NewInFlight => State::NewInFlightFreed,
            other => return Err(other),
        };
        if block >= self.blocks {
            return Err(from);
        }
        self.step(counts, block, from, to)?;
        Ok(to)
    }

    /// Hands out a free block to the log of the commit in flight.
    pub(crate) fn log_alloc(&self, counts: &mut Counts, from: u32) -> Option<u32> {
        let block = self.find(from)?;
        self.step(counts, block, State::Free, State::NewInFlight).ok()?;
        Some(block)
    }

    /// Frees a log block that the commit in flight replaces.
    pub(crate) fn log_free(&self, counts: &mut Counts, block: u32) -> Result<(), State> {
        self.step(counts, block, State::InUse, State::FreedInFlight)
    }

    /// Breaks the rule of this module for [`Switch::ReuseAtOnce`]: whatever the block is, it may be handed out.
    pub(crate) fn sabotage_free(&self, counts: &mut Counts, block: u32) {
        let (at, bit) = place(block);
        let old = self.word(at);
        let new = Planes { durable: old.durable | bit, flight: old.flight | bit, next: old.next | bit };
        self.replace(counts, at, new);
    }

    /// Whether a block is free in the commit in flight (in the durable one, when there is none).
    pub(crate) fn is_free_in_flight(&self, block: u32) -> bool {
        let (at, bit) = place(block);
        load(self.flight, at) & bit != 0
    }

    /// While loading: notes that a block holds part of the log. `false` if that was noted before.
    pub(crate) fn load_log_block(&self, block: u32) -> bool {
        let (at, bit) = place(block);
        let old = load(self.next, at);
        store(self.next, at, old | bit);
        old & bit == 0
    }

    /// While loading: whether a block was noted to hold part of the log.
    pub(crate) fn is_load_log_block(&self, block: u32) -> bool {
        let (at, bit) = place(block);
        load(self.next, at) & bit != 0
    }

    /// While loading: notes that a run of blocks was freed, or is in use again, since the last barrier.
    pub(crate) fn load_doubt(&self, first: u32, count: u32, doubtful: bool) {
        for (at, mask) in masks(first, count) {
            let old = load(self.durable, at);
            store(self.durable, at, if doubtful { old | mask } else { old & !mask });
            self.changed.set(at, true);
        }
    }

    /// While loading: what was freed up to here is certain.
    pub(crate) fn load_certain(&self) {
        while let Some(at) = self.changed.next(0) {
            store(self.durable, at, 0);
            self.changed.set(at, false);
        }
    }

    /// At the end of loading: makes what was freed since the last barrier be in use. Returns the number of blocks.
    pub(crate) fn load_keep_doubtful(&self) -> u32 {
        let mut kept = 0;
        for (flight, doubt) in self.flight.iter().zip(self.durable) {
            let doubt = doubt.load(Ordering::Relaxed) & flight.load(Ordering::Relaxed);
            kept += doubt.count_ones();
            flight.store(flight.load(Ordering::Relaxed) & !doubt, Ordering::Relaxed);
        }
        kept
    }

    /// At the end of loading: a block that holds part of the log and is free.
    pub(crate) fn load_free_log_block(&self) -> Option<u32> {
        self.flight.iter().zip(self.next).enumerate().find_map(|(at, (flight, log))| {
            let both = flight.load(Ordering::Relaxed) & log.load(Ordering::Relaxed);
            (both != 0).then(|| (at * WORD_BITS) as u32 + both.trailing_zeros())
        })
    }

    /// Begins a commit: what `next` says becomes what is in flight. Only while no commit is in flight. Visits at most
    /// `words` words and returns whether that was all; until it was, the caller keeps all changes away.
    pub(crate) fn roll(&self, counts: &mut Counts, words: usize) -> bool {
        for _ in 0..words {
            let Some(at) = self.changed.next(0) else { return true };
            let old = self.word(at);
            self.replace(counts, at, Planes { flight: old.rolled(), ..old });
        }
        !self.is_changed()
    }

    /// Whether the commit in flight changes anything here.
    pub(crate) fn is_moved(&self) -> bool {
        self.moved.next(0).is_some()
    }

    /// Whether the next commit would change anything here.
    pub(crate) fn is_changed(&self) -> bool {
        self.changed.next(0).is_some()
    }

    /// Ends a commit that is durable: what it freed may be handed out again. Visits at most `words` words and returns
    /// whether that was all.
    pub(crate) fn settle(&self, counts: &mut Counts, words: usize) -> bool {
        for _ in 0..words {
            let Some(at) = self.moved.next(0) else { return true };
            let old = self.word(at);
            self.replace(counts, at, Planes { durable: old.settled(), ..old });
        }
        !self.is_moved()
    }

    /// The first run of blocks at or after `from`, within one word, that the commit in flight changes in the same way.
    pub(crate) fn next_move(&self, from: u32) -> Option<Move> {
        let mut at = place(from).0;
        let mut mask = !(place(from).1 - 1);
        loop {
            let word_no = self.moved.next(at)?;
            if word_no != at {
                mask = Word::MAX;
            }
            let planes = self.word(word_no);
            let freed = planes.settled() & !planes.durable & mask;
            let taken = planes.durable & !planes.settled() & mask;
            if freed | taken != 0 {
                let bit = (freed | taken).trailing_zeros();
                let run = if (freed >> bit) & 1 != 0 { freed } else { taken } >> bit;
                let first = (word_no * WORD_BITS) as u32 + bit;
                return Some(Move { first, count: run.trailing_ones(), freed: (freed >> bit) & 1 != 0 });
            }
            at = word_no + 1;
            mask = Word::MAX;
        }
    }

    /// All changes of the commit in flight, in order.
    pub(crate) fn moves(&self) -> impl Iterator<Item = Move> + '_ {
        self.moves_from(0)
    }

    /// The same at or after a block.
    pub(crate) fn moves_from(&self, mut from: u32) -> impl Iterator<Item = Move> + '_ {
        core::iter::from_fn(move || {
            let change = self.next_move(from)?;
            from = change.first + change.count;
            Some(change)
        })
    }

    /// The first run of blocks at or after `from` that are free in the commit in flight: first block and length.
    pub(crate) fn next_flight_range(&self, from: u32) -> Option<(u32, u32)> {
        let first = self.scan_flight(from, false)?;
        let end = self.scan_flight(first, true).unwrap_or(self.blocks);
        Some((first, end - first))
    }

    /// The first block at or after `from` whose bit in the flight plane is 1 (0 with `inverted`).
    fn scan_flight(&self, from: u32, inverted: bool) -> Option<u32> {
        let flip = if inverted { Word::MAX } else { 0 };
        let (from_at, bit) = place(from);
        let mut mask = !(bit - 1);
        for (at, word) in self.flight.iter().enumerate().skip(from_at) {
            let hit = (word.load(Ordering::Relaxed) ^ flip) & mask;
            mask = Word::MAX;
            if hit != 0 {
                let block = (at * WORD_BITS) as u32 + hit.trailing_zeros();
                return (block < self.blocks).then_some(block);
            }
        }
        None
    }

    /// While loading: marks a run of blocks free or in use. `Err` with the first block that is so already.
    pub(crate) fn load_range(&self, first: u32, count: u32, free: bool) -> Result<(), u32> {
        for (at, mask) in masks(first, count) {
            let old = load(self.flight, at);
            let conflict = if free { old & mask } else { !old & mask };
            if conflict != 0 {
                return Err((at * WORD_BITS) as u32 + conflict.trailing_zeros());
            }
            store(self.flight, at, if free { old | mask } else { old & !mask });
        }
        Ok(())
    }

    /// Ends loading: all three states are what was loaded. Returns the sums.
    pub(crate) fn load_done(&self) -> Counts {
        let mut counts = Counts::default();
        let mut before = 0;
        for (at, word) in self.flight.iter().enumerate() {
            let flight = word.load(Ordering::Relaxed);
            store(self.durable, at, flight);
            store(self.next, at, flight);
            self.avail.set(at, flight != 0);
            self.changed.set(at, false);
            counts.avail += flight.count_ones();
            counts.ranges_flight += (flight & !((flight << 1) | before)).count_ones();
            before = flight >> (WORD_BITS - 1);
        }
        counts.free_flight = counts.avail;
        counts
    }
}

/// One word of each plane.
#[derive(Clone, Copy)]
struct Planes {
    durable: Word,
    flight: Word,
    next: Word,
}

impl Planes {
    fn avail(self) -> Word {
        self.durable & self.flight & self.next
    }

    fn reserved(self) -> Word {
        !self.durable & self.flight & !self.next
    }

    /// Freed, and held back by a commit.
    fn pending(self) -> Word {
        self.next & !(self.durable & self.flight)
    }

    /// The next plane as a commit must see it: reserved blocks are free on disk.
    fn rolled(self) -> Word {
        if sabotaged(Switch::LogReserved) {
            return self.next;
        }
        self.next | self.reserved()
    }

    /// The durable plane once the commit in flight is durable: reserved blocks stay reserved.
    fn settled(self) -> Word {
        self.flight & !self.reserved()
    }
}

impl State {
    /// The bits of a block in this state: durable, flight, next.
    fn planes(self) -> (bool, bool, bool) {
        match self {
            Self::Free => (true, true, true),
            Self::Reserved => (false, true, false),
            Self::New => (true, true, false),
            Self::NewInFlight => (true, false, false),
            Self::NewInFlightFreed => (true, false, true),
            Self::InUse => (false, false, false),
            Self::Freed => (false, false, true),
            Self::FreedInFlight => (false, true, true),
        }
    }
}

#[cfg(test)]
mod tests;
