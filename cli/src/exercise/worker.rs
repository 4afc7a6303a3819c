//! What one thread does: a random walk over a bounded set of blocks of its own.

use super::{Exercise, Request};
use crate::interrupt::Interrupt;
use crate::progress::Progress;
use arenite_core::{Allocate, BlockPtr, Damage, Error, Store};
use arenite_shim::rng::{fill, mix64, Rng};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Errors that are kept; more are not told apart from these any more.
const MOST_ERRORS: usize = 100;
/// Blocks that are freed in a row when there was no room, before a commit makes them available.
const MOST_DRAINED: usize = 256;

/// A block that was written: where it is, and what its content follows from.
#[derive(Clone, Copy)]
pub(super) struct Scratch {
    ptr: BlockPtr,
    seed: u64,
}

/// Operations that were carried out.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Counts {
    pub(super) allocated: u64,
    pub(super) refused: u64,
    pub(super) read_back: u64,
    pub(super) freed: u64,
    /// Not counted as operations: what was left at the end.
    pub(super) last_read_back: u64,
    pub(super) last_freed: u64,
}

impl Counts {
    fn add(&mut self, other: &Self) {
        self.allocated += other.allocated;
        self.refused += other.refused;
        self.read_back += other.read_back;
        self.freed += other.freed;
        self.last_read_back += other.last_read_back;
        self.last_freed += other.last_freed;
    }
}

/// What the threads share.
///
/// Lock order: both locks are leaves, held for a few instructions.
pub(super) struct Common<'a, 'd, 'm> {
    store: &'a Store<'d, 'm>,
    request: &'a Request,
    interrupt: &'a Interrupt,
    progress: &'a Progress,
    /// Blocks of each thread.
    target: usize,
    /// Operations of all threads.
    done: AtomicU64,
    /// The store does not go on.
    failed: AtomicBool,
    counts: Mutex<Counts>,
    errors: Mutex<Vec<String>>,
}

impl<'a, 'd, 'm> Common<'a, 'd, 'm> {
    pub(super) fn new(store: &'a Store<'d, 'm>, exercise: &Exercise<'a>, target_blocks: u64) -> Self {
        let Exercise { request, interrupt, progress, .. } = *exercise;
        let target = target_blocks.div_ceil(u64::from(request.threads));
        Self {
            store,
            request,
            interrupt,
            progress,
            target: usize::try_from(target).unwrap_or(usize::MAX),
            done: AtomicU64::new(0),
            failed: AtomicBool::new(false),
            counts: Mutex::default(),
            errors: Mutex::default(),
        }
    }

    pub(super) fn finish(self) -> (Counts, Vec<String>) {
        let counts = self.counts.into_inner().unwrap_or_else(PoisonError::into_inner);
        (counts, self.errors.into_inner().unwrap_or_else(PoisonError::into_inner))
    }

    fn errors(&self) -> MutexGuard<'_, Vec<String>> {
        self.errors.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn count(&self, counts: &Counts) {
        self.counts.lock().unwrap_or_else(PoisonError::into_inner).add(counts);
    }

    /// Notes something that must not happen, and goes on.
    fn complain(&self, text: String) {
        let mut errors = self.errors();
        if errors.len() < MOST_ERRORS {
            errors.push(text);
        }
    }

    /// Notes something after which there is nothing more to be done.
    pub(super) fn fail(&self, error: Error) {
        if !self.failed.swap(true, Ordering::AcqRel) {
            // A store that has stopped to write knows the reason.
            self.complain(self.store.failure().unwrap_or(error).to_string());
        }
    }

    pub(super) fn has_failed(&self) -> bool {
        self.failed.load(Ordering::Acquire)
    }

    /// Commits what all threads have done so far, under the roots that were there before.
    pub(super) fn commit(&self) {
        if self.has_failed() {
            return;
        }
        if let Err(error) = self.store.commit(self.store.roots()) {
            self.fail(error);
        }
    }

    /// The share of one thread. Returns the blocks that it has in the end.
    pub(super) fn work(&self, number: u32) -> Vec<Scratch> {
        let threads = u64::from(self.request.threads);
        let operations =
            self.request.operations / threads + u64::from(u64::from(number) < self.request.operations % threads);
        let mut walk = Walk {
            common: self,
            rng: Rng::new(mix64(self.request.seed).wrapping_add(u64::from(number))),
            number,
            blocks: Vec::new(),
            drain: 0,
            counts: Counts::default(),
            page: vec![0; self.store.block_size().len_bytes()],
        };
        for _ in 0..operations {
            if self.has_failed() || self.interrupt.came() {
                break;
            }
            walk.operation();
            self.progress.advance(1);
            let done = self.done.fetch_add(1, Ordering::Relaxed) + 1;
            if done.is_multiple_of(self.request.commit_every) {
                self.commit();
            }
        }
        self.count(&walk.counts);
        walk.blocks
    }

    /// Reads back what is left at the end, and frees it.
    pub(super) fn give_back(&self, blocks: Vec<Scratch>) {
        let mut counts = Counts::default();
        let mut page = vec![0; self.store.block_size().len_bytes()];
        for block in blocks {
            if self.has_failed() {
                break;
            }
            self.compare(block, &mut page);
            counts.last_read_back += 1;
            counts.last_freed += u64::from(self.free(block));
        }
        self.count(&counts);
    }

    fn compare(&self, block: Scratch, page: &mut [u8]) {
        fill(block.seed, page);
        match self.store.read(block.ptr) {
            Ok(found) if found.bytes() == page => {}
            Ok(_) => self.complain(format!("{:#x}: not what was written", block.ptr.addr)),
            Err(error @ Error::Corrupt { damage: Damage::Hash { .. }, .. }) => self.complain(error.to_string()),
            Err(error) => self.fail(error),
        }
    }

    /// Whether the block is free now.
    fn free(&self, block: Scratch) -> bool {
        for _ in 0..2 {
            match self.store.free(block.ptr) {
                Ok(()) => return true,
                // The log of the next commit has no room for one more change.
                Err(Error::Full { .. }) => self.commit(),
                Err(error @ Error::NotAllocated { .. }) => {
                    self.complain(error.to_string());
                    return false;
                }
                Err(error) => {
                    self.fail(error);
                    return false;
                }
            }
        }
        self.complain(format!("{:#x}: cannot be freed for want of room in the log", block.ptr.addr));
        false
    }
}

/// One thread's walk.
struct Walk<'c, 'a, 'd, 'm> {
    common: &'c Common<'a, 'd, 'm>,
    rng: Rng,
    number: u32,
    blocks: Vec<Scratch>,
    /// Operations for which it only frees.
    drain: usize,
    counts: Counts,
    page: Vec<u8>,
}

impl Walk<'_, '_, '_, '_> {
    /// Allocates, reads or frees one block.
    fn operation(&mut self) {
        let have = self.blocks.len();
        if self.drain > 0 && have > 0 {
            self.free_one();
            self.drain -= 1;
            if self.drain == 0 {
                // Makes available what was freed.
                self.common.commit();
            }
            return;
        }
        let turn = self.rng.below(100);
        // A third of all operations read. The others lead towards the target, quickly if a fill was asked for, and then
        // around it.
        let near = self.common.target - self.common.target / 16;
        let allocate_below = match self.common.request.fill_percent {
            Some(_) if have < near => 64,
            _ => 40,
        };
        match turn {
            _ if have == 0 => self.allocate_one(),
            67.. => self.read_one(),
            turn if turn < allocate_below && have <= self.common.target => self.allocate_one(),
            _ => self.free_one(),
        }
    }

    fn allocate_one(&mut self) {
        let seed = self.rng.next_u64();
        // Mostly near to each other, as the blocks of one caller are.
        let hint = if self.rng.chance(7, 8) { self.number } else { seed as u32 };
        let common = self.common;
        let block = common.store.allocate(Allocate::data().hint(hint)).and_then(|mut filling| {
            fill(seed, filling.bytes_mut());
            common.store.enqueue(filling)
        });
        match block {
            Ok(block) => {
                self.blocks.push(Scratch { ptr: block.ptr(), seed });
                self.counts.allocated += 1;
            }
            Err(Error::Full { .. }) => {
                self.counts.refused += 1;
                self.drain = (self.blocks.len() / 4 + 1).min(MOST_DRAINED);
                if self.blocks.is_empty() {
                    common.commit();
                }
            }
            Err(error) => common.fail(error),
        }
    }

    fn read_one(&mut self) {
        let index = self.rng.below(self.blocks.len() as u64) as usize;
        self.common.compare(self.blocks[index], &mut self.page);
        self.counts.read_back += 1;
    }

    fn free_one(&mut self) {
        let index = self.rng.below(self.blocks.len() as u64) as usize;
        let block = self.blocks.swap_remove(index);
        self.counts.freed += u64::from(self.common.free(block));
    }
}
