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
//! for each plane transition a summary has one bit a word, and so have the search for a free block and the walk over
//! the runs of free blocks. Whatever could visit many words takes a budget and goes on in another lock section.
//!
//! A fourth plane says which blocks hold the arena's log, so that no caller can free one.
//!
//! # Invariants
//! - While no commit is in flight every block is in one of: free, reserved, new, in use, freed.
//! - The summaries are exact: `avail` has a bit for the words with a free block and for no others, `changed` for those
//!   in which [`FreeMap::roll`] would change `flight`, `moved` for those in which [`FreeMap::settle`] would change
//!   `durable`. Both go on until no such word is left, so a bit too many would keep them from ever coming to an end.
//!
//! The words are atomics only because they live in memory that is shared; the arena's lock orders all access.

use crate::memory::{LINE_WORDS, WORD_BITS};
use crate::sabotage::{sabotaged, Switch};
use crate::sync::{AtomicUsize, Ordering};

type Word = usize;

mod loading;
mod planes;
mod runs;
mod summary;

use planes::Planes;
pub(crate) use planes::State;
pub(crate) use runs::{Found, Run, Runs, Walk, Walked};
use summary::Summary;

/// The place of a block: word and bit.
fn place(block: u32) -> (usize, Word) {
    (block as usize / WORD_BITS, 1 << (block as usize % WORD_BITS))
}

/// The block of the first bit in word `at`.
fn first_of(at: usize, word: Word) -> u32 {
    (at * WORD_BITS) as u32 + word.trailing_zeros()
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
    #[cfg(all(test, not(any(loom, feature = "shuttle"))))]
    accesses::count();
    words.get(at).map_or(0, |word| word.load(Ordering::Relaxed))
}

fn store(words: &[AtomicUsize], at: usize, value: Word) {
    #[cfg(all(test, not(any(loom, feature = "shuttle"))))]
    accesses::count();
    if let Some(word) = words.get(at) {
        word.store(value, Ordering::Relaxed);
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

/// The planes of one word of blocks, side by side, so that a change to a block touches one cache line.
///
/// ```text
///   | durable flight next log | durable flight next log | ... | avail | changed | moved | edges |
/// ```
type Quad = [AtomicUsize; PLANES];

/// Planes of a map, the log's among them.
const PLANES: usize = 4;
/// Numbers of the planes in a [`Quad`].
const DURABLE: usize = 0;
const FLIGHT: usize = 1;
const NEXT: usize = 2;
const LOG: usize = 3;

/// Summaries of a map.
const SUMMARIES: usize = 4;
/// Their numbers, in the order in which they lie in memory.
const AVAIL: usize = 0;
const CHANGED: usize = 1;
const MOVED: usize = 2;
const EDGES: usize = 3;

/// The view of one arena's planes; made anew for each lock section, and so no more than is at hand: where the summaries
/// are is computed when one of them is looked at, which is seldom.
#[derive(Clone, Copy)]
pub(crate) struct FreeMap<'a> {
    blocks: u32,
    quads: &'a [Quad],
    /// The planes, and behind them the summaries, one behind the other.
    memory: &'a [AtomicUsize],
}

/// A block, with the word that it is in as it was found.
#[derive(Clone, Copy)]
struct Spot<'a> {
    quad: &'a Quad,
    old: Planes,
    at: usize,
    bit: Word,
}

impl Spot<'_> {
    fn block(&self) -> u32 {
        first_of(self.at, self.bit)
    }
}

/// A block that was found to be part of the next commit alone. Good until the map is changed or its lock left.
pub(crate) struct New<'a>(Spot<'a>);

impl<'a> FreeMap<'a> {
    /// Words of memory for an arena of `blocks` blocks.
    pub(crate) const fn words_needed(blocks: u32) -> usize {
        let plane = (blocks as usize).div_ceil(WORD_BITS);
        // In whole cache lines, so that arenas share none.
        (PLANES * plane + SUMMARIES * Summary::words_needed(plane)).next_multiple_of(LINE_WORDS)
    }

    /// The map in `memory`, which has [`FreeMap::words_needed`] words.
    #[inline(always)]
    pub(crate) fn new(memory: &'a [AtomicUsize], blocks: u32) -> Self {
        let quads = memory.as_chunks().0.get(..(blocks as usize).div_ceil(WORD_BITS)).unwrap_or(&[]);
        Self { blocks, quads, memory }
    }

    /// Words of each plane.
    fn words(&self) -> usize {
        self.quads.len()
    }

    /// The planes of one word, if there is one.
    #[inline(always)]
    fn quad(&self, at: usize) -> Option<&'a Quad> {
        #[cfg(all(test, not(any(loom, feature = "shuttle"))))]
        accesses::count();
        self.quads.get(at)
    }

    /// One of the summaries, which lie behind the planes.
    fn summary(&self, number: usize) -> Summary<'a> {
        let len = Summary::words_needed(self.words());
        let memory = self.memory.get(PLANES * self.words() + number * len..).unwrap_or(&[]);
        Summary::new(memory.get(..len).unwrap_or(&[]), self.words())
    }

    /// The words with a free block.
    fn avail(&self) -> Summary<'a> {
        self.summary(AVAIL)
    }

    /// The words that the next commit would change.
    fn changed(&self) -> Summary<'a> {
        self.summary(CHANGED)
    }

    /// The words that the commit in flight changes.
    fn moved(&self) -> Summary<'a> {
        self.summary(MOVED)
    }

    /// The words in which a run of the flight plane begins or ends. All other words are like the block in front of
    /// them, so a walk over the runs passes them at once.
    fn edges(&self) -> Summary<'a> {
        self.summary(EDGES)
    }

    /// One word of one plane; 0 if there is none.
    fn get(&self, plane: usize, at: usize) -> Word {
        self.quad(at).map_or(0, |quad| quad[plane].load(Ordering::Relaxed))
    }

    fn put(&self, plane: usize, at: usize, value: Word) {
        if let Some(quad) = self.quad(at) {
            quad[plane].store(value, Ordering::Relaxed);
        }
    }

    /// A block that is part of the next commit, and of no other; `None` if it is not.
    #[inline(always)]
    pub(crate) fn new_block(&self, block: u32) -> Option<New<'a>> {
        self.spot(block).filter(|spot| spot.old.is(spot.bit, State::New)).map(New)
    }

    /// What the map says about a block. Blocks out of range are in use.
    pub(crate) fn state(&self, block: u32) -> State {
        let (at, bit) = place(block);
        State::of(self.word(at), bit)
    }

    #[inline(always)]
    fn word(&self, at: usize) -> Planes {
        self.quad(at).map_or(Planes::IN_USE, Planes::of)
    }

    /// Replaces one word of each plane. The only function that changes a plane after loading, so the sums and the
    /// summaries are right if they are right here.
    fn replace(&self, counts: &mut Counts, at: usize, new: Planes) {
        let old = self.word(at);
        counts.avail = counts.avail + new.avail().count_ones() - old.avail().count_ones();
        counts.reserved = counts.reserved + new.reserved().count_ones() - old.reserved().count_ones();
        counts.pending = counts.pending + new.pending().count_ones() - old.pending().count_ones();
        counts.free_flight = counts.free_flight + new.flight.count_ones() - old.flight.count_ones();
        self.put(DURABLE, at, new.durable);
        self.put(NEXT, at, new.next);
        if old.flight != new.flight {
            let starts_before = self.starts_around(at);
            self.put(FLIGHT, at, new.flight);
            counts.ranges_flight = counts.ranges_flight + self.starts_around(at) - starts_before;
            let before = self.flight_before(at);
            let is_edge = |flight: Word| flight != ((flight << 1) | before);
            if is_edge(old.flight) != is_edge(new.flight) {
                self.set_summary(EDGES, at, is_edge(new.flight));
            }
            if (old.flight ^ new.flight) >> (WORD_BITS - 1) != 0 {
                self.note_edges(at + 1);
            }
        }
        self.summarize(at, old, new);
    }

    /// Notes in the summaries what kind of word this is now. They are right about `old`.
    #[inline(always)]
    fn summarize(&self, at: usize, old: Planes, new: Planes) {
        if (old.avail() != 0) != (new.avail() != 0) {
            self.set_summary(AVAIL, at, new.avail() != 0);
        }
        if old.is_changed() != new.is_changed() {
            self.set_summary(CHANGED, at, new.is_changed());
        }
        if old.is_moved() != new.is_moved() {
            self.set_summary(MOVED, at, new.is_moved());
        }
    }

    /// Seldom: once for many blocks of a word.
    fn set_summary(&self, number: usize, at: usize, on: bool) {
        Self::set_summary_of(self.memory, self.blocks, number, at, on);
    }

    /// Without a reference to the map, which would have to be in memory for that.
    #[cold]
    #[inline(never)]
    fn set_summary_of(memory: &[AtomicUsize], blocks: u32, number: usize, at: usize, on: bool) {
        FreeMap::new(memory, blocks).summary(number).set(at, on);
    }

    /// The flight plane's bit of the block in front of word `at`, as the lowest bit of a word; in front of the first
    /// block, 0.
    fn flight_before(&self, at: usize) -> Word {
        at.checked_sub(1).map_or(0, |before| self.get(FLIGHT, before) >> (WORD_BITS - 1))
    }

    /// Notes whether a run of the flight plane begins or ends in word `at`, which depends on the word in front of it.
    fn note_edges(&self, at: usize) {
        if at < self.words() {
            let word = self.get(FLIGHT, at);
            self.edges().set(at, word != ((word << 1) | self.flight_before(at)));
        }
    }

    /// Runs of the flight plane that begin in word `at` or at the first bit of the word behind it.
    fn starts_around(&self, at: usize) -> u32 {
        let word = self.get(FLIGHT, at);
        let before = self.flight_before(at);
        let behind = self.get(FLIGHT, at + 1) & 1 & !(word >> (WORD_BITS - 1));
        (word & !((word << 1) | before)).count_ones() + behind as u32
    }

    /// A block as it is now, if there is one.
    #[inline(always)]
    fn spot(&self, block: u32) -> Option<Spot<'a>> {
        let (at, bit) = place(block);
        self.quad(at).map(|quad| Spot { quad, old: Planes::of(quad), at, bit })
    }

    /// Moves one block from one state to another; `Err` with the state that it is in if that is another one.
    #[cfg_attr(target_pointer_width = "32", inline(never))]
    #[cfg_attr(not(target_pointer_width = "32"), inline(always))]
    fn step(&self, counts: &mut Counts, block: u32, from: State, to: State) -> Result<(), State> {
        let Some(spot) = self.spot(block) else { return Err(State::InUse) };
        if !spot.old.is(spot.bit, from) {
            return Err(State::of(spot.old, spot.bit));
        }
        self.step_at(counts, spot, from, to);
        Ok(())
    }

    /// The same for a block that was found to be in the first of these states. What [`FreeMap::replace`] does for a
    /// whole word, with no more work than one bit takes.
    ///
    /// Inlined, because callers name the states, and little is left of this then.
    #[cfg_attr(target_pointer_width = "32", inline(never))]
    #[cfg_attr(not(target_pointer_width = "32"), inline(always))]
    fn step_at(&self, counts: &mut Counts, spot: Spot<'_>, from: State, to: State) {
        let Spot { quad, old, at, bit } = spot;
        let new = old.with(bit, from, to);
        let runs_change = from.is_free_in_flight() != to.is_free_in_flight();
        if runs_change || sabotaged(Switch::LogReserved) || cfg!(target_pointer_width = "32") {
            // The runs of free blocks change too, and with them what the neighbours begin; or code is to be small.
            self.replace(counts, at, new);
            return;
        }
        // What both states are alike in cannot have changed for the word, and what one of its blocks is, the word is.
        // Both are known where this is compiled.
        let (before, after) = (Planes::IN_USE.with(1, State::InUse, from), Planes::IN_USE.with(1, State::InUse, to));
        if before.durable != after.durable {
            quad[DURABLE].store(new.durable, Ordering::Relaxed);
        }
        if before.next != after.next {
            quad[NEXT].store(new.next, Ordering::Relaxed);
        }
        let shift = |count: &mut u32, set: u32| *count = *count + to.is_in(set) - from.is_in(set);
        shift(&mut counts.avail, State::Free.bit());
        shift(&mut counts.reserved, State::Reserved.bit());
        shift(&mut counts.pending, State::PENDING);
        let note = |number, was: bool, is: bool| {
            if was != is {
                self.set_summary(number, at, is);
            }
        };
        if before.avail() != after.avail() {
            note(AVAIL, before.avail() != 0 || old.avail() != 0, after.avail() != 0 || new.avail() != 0);
        }
        if before.is_changed() != after.is_changed() {
            note(CHANGED, before.is_changed() || old.is_changed(), after.is_changed() || new.is_changed());
        }
        // What the commit in flight moves stays as it is: see `runs`.
    }

    /// The first free block of word `at` among those of `mask`.
    #[inline(always)]
    fn free_in(&self, at: usize, mask: Word) -> Option<Spot<'a>> {
        let quad = self.quad(at)?;
        let old = Planes::of(quad);
        let free = old.avail() & mask;
        (free != 0).then_some(Spot { quad, old, at, bit: free & free.wrapping_neg() })
    }

    /// The first free block at or after `from`, going round once.
    #[cfg_attr(target_pointer_width = "32", inline(never))]
    #[cfg_attr(not(target_pointer_width = "32"), inline(always))]
    fn find(&self, from: u32) -> Option<Spot<'a>> {
        let (at, bit) = place(from);
        match self.free_in(at, bit.wrapping_neg()) {
            // Nearly always.
            Some(here) => Some(here),
            None => self.free_in(Self::find_far(self.memory, self.blocks, at + 1)?, Word::MAX),
        }
    }

    /// The first word with a free block from word `at` on, going round once. As [`FreeMap::set_summary_of`].
    #[cold]
    #[inline(never)]
    fn find_far(memory: &[AtomicUsize], blocks: u32, at: usize) -> Option<usize> {
        let avail = FreeMap::new(memory, blocks).avail();
        avail.next(at).or_else(|| avail.next(0))
    }

    /// Hands out a free block for a caller, the first at or after `from`.
    #[inline(always)]
    pub(crate) fn reserve(&self, counts: &mut Counts, from: u32) -> Option<u32> {
        let spot = self.find(from)?;
        self.step_at(counts, spot, State::Free, State::Reserved);
        Some(spot.block())
    }

    /// Takes back a block that was handed out and never became part of a commit.
    pub(crate) fn unreserve(&self, counts: &mut Counts, block: u32) -> Result<(), State> {
        self.step(counts, block, State::Reserved, State::Free)
    }

    /// Makes a reserved block part of the next commit.
    #[inline(always)]
    pub(crate) fn enqueue(&self, counts: &mut Counts, block: u32) -> Result<(), State> {
        self.step(counts, block, State::Reserved, State::New)
    }

    /// The same as [`FreeMap::free`] and [`FreeMap::unreserve`], for a block of no commit that nobody can be reading.
    #[inline(always)]
    pub(crate) fn free_new(&self, counts: &mut Counts, new: New<'_>) {
        self.step_at(counts, new.0, State::New, State::Free);
    }

    /// Makes a block no part of the next commit. The result says what holds it back from being handed out again:
    /// `Reserved`, nothing but memory (the caller ends that with [`FreeMap::unreserve`]); otherwise commits.
    pub(crate) fn free(&self, counts: &mut Counts, block: u32) -> Result<State, State> {
        let from = self.state(block);
        if block >= self.blocks || self.is_log(block) {
            return Err(from);
        }
        let mut step = |to| self.step(counts, block, from, to).map(|()| to);
        match from {
            State::InUse => step(State::Freed),
            State::New => step(State::Reserved),
            State::NewInFlight => step(State::NewInFlightFreed),
            other => Err(other),
        }
    }

    /// Hands out a free block to the log of the commit in flight.
    pub(crate) fn log_alloc(&self, counts: &mut Counts, from: u32) -> Option<u32> {
        let spot = self.find(from)?;
        self.step_at(counts, spot, State::Free, State::NewInFlight);
        self.mark_log(spot.block(), true);
        Some(spot.block())
    }

    /// Frees a log block that the commit in flight replaces.
    pub(crate) fn log_free(&self, counts: &mut Counts, block: u32) -> Result<(), State> {
        if !self.is_log(block) {
            return Err(self.state(block));
        }
        self.step(counts, block, State::InUse, State::FreedInFlight)?;
        self.mark_log(block, false);
        Ok(())
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
        self.get(FLIGHT, at) & bit != 0
    }

    /// Begins a commit: what `next` says becomes what is in flight. Only while no commit is in flight. Visits at most
    /// `words` words and returns whether that was all; until it was, the caller keeps all changes away.
    pub(crate) fn roll(&self, counts: &mut Counts, words: usize) -> bool {
        for _ in 0..words {
            let Some(at) = self.changed().next(0) else { return true };
            let old = self.word(at);
            self.replace(counts, at, Planes { flight: old.rolled(), ..old });
        }
        !self.is_changed()
    }

    /// Whether the commit in flight changes anything here.
    pub(crate) fn is_moved(&self) -> bool {
        self.moved().next(0).is_some()
    }

    /// Whether the next commit would change anything here.
    pub(crate) fn is_changed(&self) -> bool {
        self.changed().next(0).is_some()
    }

    /// Ends a commit that is durable: what it freed may be handed out again. Visits at most `words` words and returns
    /// whether that was all.
    pub(crate) fn settle(&self, counts: &mut Counts, words: usize) -> bool {
        for _ in 0..words {
            let Some(at) = self.moved().next(0) else { return true };
            let old = self.word(at);
            self.replace(counts, at, Planes { durable: old.settled(), ..old });
        }
        !self.is_moved()
    }
}

/// Counts for tests how often a thread touches words of any map.
#[cfg(all(test, not(any(loom, feature = "shuttle"))))]
pub(crate) mod accesses {
    use std::cell::Cell;

    std::thread_local! {
        static ACCESSES: Cell<u64> = const { Cell::new(0) };
    }

    pub(super) fn count() {
        ACCESSES.set(ACCESSES.get() + 1);
    }

    /// Accesses of this thread so far.
    pub(crate) fn so_far() -> u64 {
        ACCESSES.get()
    }
}

#[cfg(test)]
pub(crate) mod tests;
