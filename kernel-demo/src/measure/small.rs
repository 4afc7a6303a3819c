//! Calls that cost the processor alone, each beside something plain that does a part of the same. Times in ticks of the
//! counter, of so many calls.

use alloc::collections::VecDeque;
use alloc::vec::Vec;
use core::hint::black_box;

use arenite_core::hash::hash64;
use arenite_core::{Allocate, BlockPtr, Store};
use spin::Mutex;

use super::BLOCK_BYTES;
use crate::failure::Failure;
use crate::{cpu, time};

/// Blocks that are hit in the cache.
const HOT_BLOCKS: usize = 128;
/// Hits of a round.
pub const HITS: usize = 20_000;
/// Pairs of allocate and free in a round.
pub const PAIRS: usize = 1000;
/// Blocks that are allocated before the first of them is freed.
const LIVE: usize = 32;
/// Places of the plain table: a power of two, four for each block.
const PLACES: usize = 4 * HOT_BLOCKS;

/// A spin-locked table with open addressing and nothing else.
struct Table(Mutex<Vec<(u64, u64)>>);

impl Table {
    fn new(blocks: &[BlockPtr]) -> Self {
        let mut places = alloc::vec![(0, 0); PLACES];
        for ptr in blocks {
            let mut at = Self::first(ptr.addr);
            while places[at].0 != 0 {
                at = (at + 1) % PLACES;
            }
            places[at] = (ptr.addr, ptr.hash);
        }
        Self(Mutex::new(places))
    }

    fn first(addr: u64) -> usize {
        (addr.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 40) as usize % PLACES
    }

    fn get(&self, addr: u64) -> Option<u64> {
        let places = self.0.lock();
        let turns = (0..PLACES).map(|step| places[(Self::first(addr) + step) % PLACES]);
        turns.take_while(|place| place.0 != 0).find(|place| place.0 == addr).map(|place| place.1)
    }
}

/// A spin-locked bitmap with a cursor and nothing else.
struct Bitmap(Mutex<(Vec<u64>, usize)>);

impl Bitmap {
    fn allocate(&self) -> Option<usize> {
        let (words, cursor) = &mut *self.0.lock();
        let count = words.len();
        let at = (0..count).map(|step| (*cursor + step) % count).find(|at| words[*at] != u64::MAX)?;
        let bit = (!words[at]).trailing_zeros();
        words[at] |= 1 << bit;
        *cursor = at;
        Some(at * 64 + bit as usize)
    }

    fn free(&self, block: usize) {
        self.0.lock().0[block / 64] &= !(1 << (block % 64));
    }
}

/// What is measured here.
pub struct Small<'s> {
    store: &'s Store<'static, 'static>,
    hot: Vec<BlockPtr>,
    table: Table,
    bitmap: Bitmap,
}

/// Adds the ticks that `body` takes to `sum`.
fn timed<R>(sum: &mut u64, body: impl FnOnce() -> R) -> R {
    let begin = cpu::time_stamp();
    let result = body();
    *sum += cpu::time_stamp().saturating_sub(begin);
    result
}

impl<'s> Small<'s> {
    /// Writes the blocks that are hit.
    ///
    /// # Errors
    /// Those of the store.
    pub fn new(store: &'s Store<'static, 'static>) -> Result<Self, Failure> {
        let mut hot = Vec::with_capacity(HOT_BLOCKS);
        for _ in 0..HOT_BLOCKS {
            hot.push(store.enqueue(store.allocate(Allocate::data())?)?.ptr());
        }
        store.commit(store.roots())?;
        store.settle()?;
        let table = Table::new(&hot);
        let bitmap = Bitmap(Mutex::new((alloc::vec![0; 64], 0)));
        Ok(Self { store, hot, table, bitmap })
    }

    /// Ticks of [`HITS`] hits in the cache, and of as many look-ups in the plain table.
    ///
    /// # Errors
    /// Those of the store.
    pub fn hits(&self) -> Result<[u64; 2], Failure> {
        self.hot.iter().try_for_each(|ptr| self.store.read(*ptr).map(drop))?;
        let next = |at: usize| (at + 89) % self.hot.len();
        let (mut at, mut ours, mut plain) = (0, 0, 0);
        timed(&mut ours, || {
            (0..HITS).try_for_each(|_| {
                at = next(at);
                self.store.read(self.hot[at]).map(|block| drop(black_box(block)))
            })
        })?;
        timed(&mut plain, || {
            for _ in 0..HITS {
                at = next(at);
                black_box(self.table.get(self.hot[at].addr));
            }
        });
        Ok([ours, plain])
    }

    /// Ticks of [`PAIRS`] pairs of allocate and free, and of as many in the plain bitmap. What lies between (hash,
    /// queue, steps) is not counted.
    ///
    /// # Errors
    /// Those of the store.
    pub fn pairs(&self) -> Result<[u64; 2], Failure> {
        let (mut live, mut plain_live) = (VecDeque::with_capacity(LIVE), VecDeque::with_capacity(LIVE));
        let (mut ours, mut plain) = (0, 0);
        for _ in 0..PAIRS {
            let filling = timed(&mut ours, || self.store.allocate(Allocate::data().unzeroed()))?;
            live.push_back(self.store.enqueue(filling)?.ptr());
            plain_live.extend(timed(&mut plain, || self.bitmap.allocate()));
            while self.store.step() {}
            if live.len() == LIVE {
                if let Some(ptr) = live.pop_front() {
                    timed(&mut ours, || self.store.free(ptr))?;
                }
                if let Some(block) = plain_live.pop_front() {
                    timed(&mut plain, || self.bitmap.free(block));
                }
            }
        }
        live.into_iter().try_for_each(|ptr| self.store.free(ptr))?;
        plain_live.into_iter().for_each(|block| self.bitmap.free(block));
        self.store.commit(self.store.roots())?;
        self.store.settle()?;
        Ok([ours, plain])
    }
}

/// Microseconds of hashing a block so many times.
pub fn hash_us(blocks: usize) -> u64 {
    let block: Vec<u8> = (0..BLOCK_BYTES).map(|at| (at * 131 + 7) as u8).collect();
    let begin_us = time::micros();
    for _ in 0..blocks {
        black_box(hash64(black_box(&block)));
    }
    (time::micros() - begin_us).max(1)
}
