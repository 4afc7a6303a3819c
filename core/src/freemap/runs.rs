//! Walks over runs of blocks that stop after a bounded amount of work and go on later, in another lock section.
//!
//! ```text
//!   section 1   |....####|########|      budget spent: `open` is the run so far, `next` is behind it
//!   section 2   |##......|               the run ends here, and is shown as one
//! ```
//!
//! What is free is found by the summary of the words in which runs begin or end, so a walk over it takes as long as
//! there are runs, however large the arena is.
//!
//! What a fragmented arena's log lists is mostly runs that lie inside one word. [`FreeMap::list`] shows all of these at
//! once, as the bits of the word.
//!
//! # What may change between two sections
//! Other callers go on between them, and change the planes `next` and `durable` of blocks that no commit has. What is
//! walked does not change by that. For each transition that is open to callers, in bits (durable flight next):
//!
//! | transition | from | to | flight | moved |
//! |---|---|---|---|---|
//! | reserve, unreserve | 1 1 1 | 0 1 0 | stays 1 | no, no |
//! | enqueue, free of what is new | 0 1 0 | 1 1 0 | stays 1 | no, no |
//! | free of what is in use | 0 0 0 | 0 0 1 | stays 0 | no, no |
//! | free of what is new in flight | 1 0 0 | 1 0 1 | stays 0 | taken, taken |
//!
//! So from the end of `roll` to the beginning of `settle` the plane `flight`, and which blocks the commit moves and
//! how, are changed by the commit itself alone: by `log_free`, which it does before it walks, and by `log_alloc`,
//! which it does only when a run found no room in a log block. A walk that is stopped in front of a run forgets that
//! it had seen the run, and looks at its words again, so that what `log_alloc` took out of it is not in it.

use super::{first_of, place, FreeMap, Planes, Word, FLIGHT};
use crate::memory::WORD_BITS;

/// Which runs a walk shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Runs {
    /// What is free in the commit in flight (in the durable one, when there is none).
    FreeInFlight,
    /// What the commit in flight allocates and frees.
    Changes,
}

/// A run of blocks that are alike: free, or allocated or freed by a commit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Run {
    pub(crate) first: u32,
    pub(crate) count: u32,
    /// Free, or freed.
    pub(crate) freed: bool,
}

impl Run {
    pub(super) fn end(&self) -> u32 {
        self.first + self.count
    }
}

/// How far a walk got.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Walk {
    /// Every block in front of this one was looked at.
    next: u32,
    /// A run that ends here as far as is known, and was not shown yet.
    open: Option<Run>,
}

impl Walk {
    /// Every run in front of this block was shown, if the walk was stopped.
    pub(crate) fn position(&self) -> u32 {
        self.next
    }
}

/// Why a part of a walk ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Walked {
    /// Its budget is spent.
    Part,
    /// The caller stopped it.
    Stopped,
    /// There is nothing more.
    All,
}

/// What one word says.
enum Piece {
    Run(Run),
    /// Nothing in front of this block.
    Nothing {
        until: u32,
    },
    End,
}

/// What [`FreeMap::list`] has found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Found {
    /// A run of free blocks.
    Run(Run),
    /// All blocks of several such runs, none of which goes on beyond these bits. The lowest bit stands for `first`.
    Bits { first: u32, bits: Word },
}

impl FreeMap<'_> {
    /// Goes on with a walk over the longest runs of blocks that are free in flight, in ascending order. Looks at no
    /// more than `budget` words and runs, and the rest of a word. `see` is shown each run once, and answers with what
    /// of the bits it does not want, whole runs; or with any bit, if it does not want a run. Then the walk stops in
    /// front of that.
    pub(crate) fn list(&self, walk: &mut Walk, budget: usize, see: &mut dyn FnMut(Found) -> Word) -> Walked {
        let mut budget = budget as u32;
        while budget > 0 {
            let (at, bits) = self.inside(walk);
            if bits == 0 {
                match self.walk(Runs::FreeInFlight, walk, 1, &mut |run| see(Found::Run(run)) == 0) {
                    Walked::Part => budget -= 1,
                    end => return end,
                }
                continue;
            }
            let first = (at * WORD_BITS) as u32;
            let open = walk.open.take();
            if let Some(open) = open.filter(|open| see(Found::Run(*open)) != 0) {
                walk.next = open.first;
                return Walked::Stopped;
            }
            let rest = see(Found::Bits { first, bits });
            if rest != 0 {
                walk.next = first_of(at, rest);
                return Walked::Stopped;
            }
            walk.next = first + (WORD_BITS as u32 - bits.leading_zeros());
            budget = budget.saturating_sub((bits & !(bits << 1)).count_ones());
        }
        Walked::Part
    }

    /// The word that a walk is at, and the blocks of those runs that begin and end in it, from there on. None, if the
    /// run that is open goes on there.
    fn inside(&self, walk: &Walk) -> (usize, Word) {
        let (at, bit) = place(walk.next);
        let free = self.get(FLIGHT, at) & !(bit - 1);
        if free & bit != 0 && walk.open.is_some_and(|open| open.end() == walk.next) {
            return (at, 0);
        }
        // What reaches the end of the word may go on in the next.
        (at, free & Word::MAX.checked_shr(free.leading_ones()).unwrap_or(0))
    }

    /// Goes on with a walk over the longest runs there are, in ascending order. Looks at no more than `budget` words
    /// and pieces of runs within a word. `see` is shown each run, once; if it returns `false` the walk stops in front
    /// of that run.
    pub(crate) fn walk(&self, runs: Runs, walk: &mut Walk, budget: usize, see: &mut dyn FnMut(Run) -> bool) -> Walked {
        for _ in 0..budget {
            let run = match self.piece(runs, walk.next) {
                Piece::Nothing { until } => {
                    walk.next = until;
                    continue;
                }
                Piece::Run(run) => Some(run),
                Piece::End => None,
            };
            if let (Some(open), Some(run)) = (&mut walk.open, run) {
                if open.end() == run.first && open.freed == run.freed {
                    open.count += run.count;
                    walk.next = open.end();
                    continue;
                }
            }
            if let Some(open) = core::mem::replace(&mut walk.open, run) {
                if !see(open) {
                    *walk = Walk { next: open.first, open: None };
                    return Walked::Stopped;
                }
            }
            match run {
                Some(run) => walk.next = run.end(),
                None => return Walked::All,
            }
        }
        Walked::Part
    }

    /// Counts runs of blocks that the commit in flight allocates or frees, those that begin in the next `words` words
    /// that it changes, from word `from` on. How many, and the word to go on with, if there are more.
    pub(crate) fn count_changes(&self, from: usize, words: usize) -> (u32, Option<usize>) {
        let (mut count, mut at) = (0, from);
        for _ in 0..words {
            let Some(next) = self.moved().next(at) else { return (count, None) };
            let before = next.checked_sub(1).map_or(Planes::IN_USE, |before| self.word(before));
            let here = self.word(next);
            let begin = |here: Word, before: Word| (here & !((here << 1) | (before >> (WORD_BITS - 1)))).count_ones();
            count += begin(here.freed(), before.freed()) + begin(here.taken(), before.taken());
            at = next + 1;
        }
        (count, Some(at))
    }

    /// What is there from block `from` on, as far as one word says, and the words behind it in which nothing changes.
    fn piece(&self, runs: Runs, from: u32) -> Piece {
        let (from_at, bit) = place(from);
        let at = match runs {
            Runs::FreeInFlight => Some(from_at),
            Runs::Changes => self.moved().next(from_at),
        };
        let Some(at) = at.filter(|at| *at < self.words()) else { return Piece::End };
        let mask = if at == from_at { !(bit - 1) } else { Word::MAX };
        let planes = self.word(at);
        let (freed, taken) = match runs {
            Runs::FreeInFlight => (planes.flight & mask, 0),
            Runs::Changes => (planes.freed() & mask, planes.taken() & mask),
        };
        // Where the next word is that says anything new.
        let next = || match runs {
            Runs::FreeInFlight => self.edges().next(at + 1).unwrap_or(self.words()),
            Runs::Changes => at + 1,
        };
        if freed | taken != 0 {
            let shift = (freed | taken).trailing_zeros();
            let is_freed = (freed >> shift) & 1 != 0;
            let mut count = (if is_freed { freed } else { taken } >> shift).trailing_ones();
            if (shift + count) as usize == WORD_BITS {
                count += ((next() - at - 1) * WORD_BITS) as u32;
            }
            return Piece::Run(Run { first: (at * WORD_BITS) as u32 + shift, count, freed: is_freed });
        }
        match next() {
            next if next == self.words() => Piece::End,
            next => Piece::Nothing { until: (next * WORD_BITS) as u32 },
        }
    }
}
