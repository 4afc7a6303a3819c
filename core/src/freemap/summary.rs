//! A set of word numbers that finds its next member in a few accesses, however large it is: levels of bits.
//!
//! ```text
//!   top      one word; a bit for each word of the level below that has a bit
//!   ...
//!   level 0  a bit for each member
//! ```
//!
//! The levels lie one behind the other, level 0 first. Each is a [`WORD_BITS`]th of the one below, so 2^32 blocks have
//! six of them at most, and no operation touches more than two words of each.

use super::{load, store, Word};
use crate::memory::WORD_BITS;
use crate::sync::AtomicUsize;

/// See the head of this module.
#[derive(Clone, Copy)]
pub(super) struct Summary<'a> {
    memory: &'a [AtomicUsize],
    /// Words of level 0.
    len: usize,
}

impl<'a> Summary<'a> {
    /// Words of memory for members below `words`.
    pub(super) const fn words_needed(words: usize) -> usize {
        let mut level = words.div_ceil(WORD_BITS);
        let mut sum = level;
        while level > 1 {
            level = level.div_ceil(WORD_BITS);
            sum += level;
        }
        sum
    }

    pub(super) fn new(memory: &'a [AtomicUsize], words: usize) -> Self {
        Self { memory, len: words.div_ceil(WORD_BITS) }
    }

    pub(super) fn clear(&self) {
        (0..self.memory.len()).for_each(|at| store(self.memory, at, 0));
    }

    /// Makes members of those words that have a bit in `members`, which stands for word number `at` of level 0. None
    /// of them was one.
    pub(super) fn load(&self, at: usize, members: Word) {
        let (mut base, mut len, mut at, mut bits) = (0, self.len, at, members);
        while bits != 0 && at < len {
            store(self.memory, base + at, load(self.memory, base + at) | bits);
            if len == 1 {
                return;
            }
            (base, len, at, bits) = (base + len, len.div_ceil(WORD_BITS), at / WORD_BITS, 1 << (at % WORD_BITS));
        }
    }

    /// Makes a word a member, or no member.
    pub(super) fn set(&self, word: usize, on: bool) {
        let (mut base, mut len, mut member, mut on) = (0, self.len, word, on);
        loop {
            let (at, bit) = (member / WORD_BITS, 1 << (member % WORD_BITS));
            if at >= len {
                return;
            }
            let old = load(self.memory, base + at);
            let new = if on { old | bit } else { old & !bit };
            if new == old {
                return;
            }
            store(self.memory, base + at, new);
            on = new != 0;
            if len == 1 || on == (old != 0) {
                return;
            }
            (base, len, member) = (base + len, len.div_ceil(WORD_BITS), at);
        }
    }

    /// The first member at or after `word`.
    pub(super) fn next(&self, word: usize) -> Option<usize> {
        self.next_in(0, self.len, word)
    }

    /// The same in the level of `len` words that begins at `base`; what is not in the word at hand is found by the
    /// level above. Calls itself once a level.
    fn next_in(&self, base: usize, len: usize, from: usize) -> Option<usize> {
        let at = from / WORD_BITS;
        if at >= len {
            return None;
        }
        let here = load(self.memory, base + at) & (Word::MAX << (from % WORD_BITS));
        let (at, word) = match here {
            0 if len == 1 => return None,
            0 => {
                let at = self.next_in(base + len, len.div_ceil(WORD_BITS), at + 1)?;
                (at, load(self.memory, base + at))
            }
            here => (at, here),
        };
        (word != 0).then(|| at * WORD_BITS + word.trailing_zeros() as usize)
    }
}
