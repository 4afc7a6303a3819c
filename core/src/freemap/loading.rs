//! Loading: from the entries of a log to the planes, while nobody else has the map; no lock is held.
//!
//! Until [`FreeMap::load_done`], the plane `flight` is what the entries so far say, and `durable` with the summary
//! `changed` are what was freed since the last barrier.

use super::{first_of, masks, place, Counts, FreeMap, Word, DURABLE, FLIGHT, LOG, NEXT};
use crate::format::Ones;
use crate::memory::WORD_BITS;
use crate::sync::Ordering;

impl FreeMap<'_> {
    /// Makes every block in use and forgets all changes.
    pub(crate) fn clear(&self) {
        self.quads.iter().flatten().for_each(|word| word.store(0, Ordering::Relaxed));
        [self.avail(), self.changed(), self.moved(), self.edges()].iter().for_each(super::Summary::clear);
    }

    /// Makes all blocks free but the last two, in a map that nobody has used yet: `words` words from word `from` on.
    /// The word to go on with, if there are more.
    pub(crate) fn load_free(&self, counts: &mut Counts, from: usize, words: usize) -> Option<usize> {
        let usable = self.blocks.saturating_sub(2) as usize;
        let end = self.words().min(from + words);
        for at in from..end {
            let free = match usable.saturating_sub(at * WORD_BITS) {
                count if count < WORD_BITS => (1 << count) - 1,
                _ => Word::MAX,
            };
            for plane in [DURABLE, FLIGHT, NEXT] {
                self.put(plane, at, free);
            }
            self.avail().set(at, free != 0);
            self.note_edges(at);
            counts.avail += free.count_ones();
        }
        counts.free_flight = counts.avail;
        counts.ranges_flight = u32::from(counts.avail != 0);
        (end < self.words()).then_some(end)
    }

    /// Marks a run of blocks free or in use. `Err` with the first block that is so already.
    pub(crate) fn load_range(&self, first: u32, count: u32, free: bool) -> Result<(), u32> {
        masks(first, count)
            .try_for_each(|(at, mask)| self.load_word(at, mask, free).map_err(|conflict| first_of(at, conflict)))
    }

    /// Marks blocks of one word free or in use. `Err`, and none is marked, with those that are so already.
    #[inline(always)]
    pub(crate) fn load_word(&self, at: usize, mask: Word, free: bool) -> Result<(), Word> {
        let old = self.get(FLIGHT, at);
        let conflict = if free { old & mask } else { !old & mask };
        if conflict != 0 {
            return Err(conflict);
        }
        self.put(FLIGHT, at, old ^ mask);
        Ok(())
    }

    /// Marks blocks that so many log entries named, one each. `false`, and none is marked, if one of them is so
    /// already, or was named twice.
    pub(crate) fn load_ones(&self, ones: &Ones) -> bool {
        ones.bits.count_ones() == ones.count && self.load_word(place(ones.first).0, ones.bits, ones.free).is_ok()
    }

    /// Notes that a block holds part of the log. `false` if that was noted before.
    pub(crate) fn load_log_block(&self, block: u32) -> bool {
        let fresh = !self.is_log(block);
        self.mark_log(block, true);
        fresh
    }

    /// Notes that a run of blocks was freed, or is in use again, since the last barrier.
    pub(crate) fn load_doubt(&self, first: u32, count: u32, doubtful: bool) {
        for (at, mask) in masks(first, count) {
            let old = self.get(DURABLE, at);
            self.put(DURABLE, at, if doubtful { old | mask } else { old & !mask });
            self.changed().set(at, true);
        }
    }

    /// What was freed up to here is certain.
    pub(crate) fn load_certain(&self) {
        while let Some(at) = self.changed().next(0) {
            self.put(DURABLE, at, 0);
            self.changed().set(at, false);
        }
    }

    /// At the end of loading: makes what was freed since the last barrier be in use. Returns the number of blocks.
    pub(crate) fn load_keep_doubtful(&self) -> u32 {
        let mut kept = 0;
        for at in 0..self.words() {
            let flight = self.get(FLIGHT, at);
            let doubt = self.get(DURABLE, at) & flight;
            kept += doubt.count_ones();
            self.put(FLIGHT, at, flight & !doubt);
        }
        kept
    }

    /// At the end of loading: a block that holds part of the log and is free.
    pub(crate) fn load_free_log_block(&self) -> Option<u32> {
        (0..self.words()).find_map(|at| {
            let both = self.get(FLIGHT, at) & self.get(LOG, at);
            (both != 0).then(|| (at * WORD_BITS) as u32 + both.trailing_zeros())
        })
    }

    /// Ends loading: all three states are what was loaded. Returns the sums.
    pub(crate) fn load_done(&self) -> Counts {
        let (mut counts, mut before) = (Counts::default(), 0);
        let (avail, edges) = (self.avail(), self.edges());
        self.changed().clear();
        for (at, quads) in self.quads.chunks(WORD_BITS).enumerate() {
            // A word of a summary at a time.
            let (mut free, mut edge) = (0, 0);
            for (bit, quad) in quads.iter().enumerate() {
                let flight = quad[FLIGHT].load(Ordering::Relaxed);
                quad[DURABLE].store(flight, Ordering::Relaxed);
                quad[NEXT].store(flight, Ordering::Relaxed);
                let shifted = (flight << 1) | before;
                before = flight >> (WORD_BITS - 1);
                free |= Word::from(flight != 0) << bit;
                edge |= Word::from(flight != shifted) << bit;
                counts.avail += flight.count_ones();
                counts.ranges_flight += (flight & !shifted).count_ones();
            }
            avail.load(at, free);
            edges.load(at, edge);
        }
        counts.free_flight = counts.avail;
        counts
    }

    /// Whether a block holds part of the log.
    pub(crate) fn is_log(&self, block: u32) -> bool {
        let (at, bit) = place(block);
        self.get(LOG, at) & bit != 0
    }

    pub(super) fn mark_log(&self, block: u32, on: bool) {
        let (at, bit) = place(block);
        let old = self.get(LOG, at);
        self.put(LOG, at, if on { old | bit } else { old & !bit });
    }
}
