//! The store's side of `phase=bench`: blocks filled, hashed, written and committed; and read, verified, from the disk.

use alloc::collections::VecDeque;
use alloc::vec::Vec;

use arenite_core::{Allocate, BlockPtr, ReadOptions, Reading, Store};

use super::BLOCK_BYTES;
use crate::failure::Failure;
use crate::outcome::Outcome;
use crate::{interrupts, time};

/// Reads under way at once.
pub const READ_DEPTH: usize = 64;

/// A store, and what it reads between rounds so that nothing of the round's blocks is in the cache.
pub struct Moving<'s> {
    store: &'s Store<'static, 'static>,
    /// Filled into every block.
    content: Vec<u8>,
    /// As many blocks as there are buffers, or more.
    fillers: Vec<BlockPtr>,
    /// Those of the round.
    written: Vec<BlockPtr>,
}

impl<'s> Moving<'s> {
    /// Writes the fillers.
    ///
    /// # Errors
    /// Those of the store.
    pub fn new(store: &'s Store<'static, 'static>, fillers: usize) -> Result<Self, Failure> {
        let content = (0..BLOCK_BYTES).map(|at| (at >> 2) as u8).collect();
        let mut moving = Self { store, content, fillers: Vec::new(), written: Vec::new() };
        moving.write(fillers)?;
        moving.fillers = core::mem::take(&mut moving.written);
        Ok(moving)
    }

    /// Writes so many blocks and commits; returns microseconds.
    ///
    /// # Errors
    /// Those of the store.
    pub fn write(&mut self, blocks: usize) -> Result<u64, Failure> {
        self.written.reserve(blocks);
        let begin_us = time::micros();
        for _ in 0..blocks {
            let mut filling = self.store.allocate(Allocate::data().unzeroed())?;
            filling.bytes_mut().copy_from_slice(&self.content);
            self.written.push(self.store.enqueue(filling)?.ptr());
        }
        self.store.commit(self.store.roots())?;
        let took_us = time::micros() - begin_us;
        self.store.settle()?;
        Ok(took_us.max(1))
    }

    /// Reads the round's blocks from the disk, many at once; returns microseconds.
    ///
    /// # Errors
    /// Those of the store; a block was in the cache.
    pub fn read(&self) -> Result<u64, Failure> {
        self.fillers.iter().try_for_each(|ptr| self.store.read(*ptr).map(drop))?;
        let hits = self.store.counters().cache_hits;
        let options = ReadOptions { past_cache: true, ..ReadOptions::default() };
        let (mut waiting, mut next) = (VecDeque::<Reading<'_>>::with_capacity(READ_DEPTH), self.written.iter());
        let begin_us = time::micros();
        loop {
            while waiting.len() < READ_DEPTH {
                let Some(ptr) = next.next() else { break };
                waiting.push_back(self.store.start_read_with(*ptr, options)?);
            }
            let Some(first) = waiting.front() else { break };
            match first.poll() {
                Some(result) => {
                    result?;
                    waiting.pop_front();
                }
                None if !self.store.step() => interrupts::relax(),
                None => {}
            }
        }
        let took_us = time::micros() - begin_us;
        match self.store.counters().cache_hits - hits {
            0 => Ok(took_us.max(1)),
            hits => Err(Failure::new(Outcome::Mismatch, format_args!("{hits} of the cold reads were in the cache"))),
        }
    }

    /// Frees the round's blocks and commits, so that the next round finds the volume as this one did.
    ///
    /// # Errors
    /// Those of the store.
    pub fn release(&mut self) -> Result<(), Failure> {
        self.written.iter().try_for_each(|ptr| self.store.free(*ptr))?;
        self.written.clear();
        self.store.commit(self.store.roots())?;
        Ok(self.store.settle()?)
    }
}
