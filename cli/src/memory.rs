//! Memory for a store, as large as its volume needs.
//!
//! The store keeps four bits for each block of a volume, so up to 520 MiB for 16 TiB of 16 KiB blocks. How many blocks
//! there are is known for certain only after mount; so a size is chosen by a guess, and the next larger one is taken
//! when that was not enough. What is not needed is zeroed nevertheless, hence the narrow steps.

use crate::failure::Failure;
use arenite_core::memory::{map_words, pages_for};
use arenite_core::{Error, Memory, MemoryPart, Resources};
use arenite_shim::boxed_memory;

/// Most arenas that a volume can have.
const MAX_ARENAS: usize = 256;
/// Buffers for blocks of up to 16 KiB; a quarter as many for the largest. Few enough that blocks that were written are
/// read back from the device, not from memory.
const FRAMES: usize = 512;
const PAGES: usize = pages_for(FRAMES, 16384);
/// Blocks that wait to be written.
const QUEUE: usize = 512;

/// Something to be done with a memory.
pub(crate) trait Job {
    type Output;
    type Error: MemoryError;

    /// Tries; when it fails for want of memory, it is tried again with more.
    fn run(&mut self, memory: Resources<'_>) -> Result<Self::Output, Self::Error>;
}

/// Errors that can be about the memory itself.
pub(crate) trait MemoryError {
    /// Whether more words of free map would have helped: the only part of a memory that is chosen too small.
    fn wants_memory(&self) -> bool;

    /// There is no memory to be had.
    fn no_memory() -> Self;
}

impl MemoryError for Error {
    fn wants_memory(&self) -> bool {
        matches!(self, Self::MemoryTooSmall { part: MemoryPart::MapWords, .. })
    }

    fn no_memory() -> Self {
        Self::NoBuffer
    }
}

impl MemoryError for Failure {
    fn wants_memory(&self) -> bool {
        self.wants_memory
    }

    fn no_memory() -> Self {
        Self::store(Error::no_memory())
    }
}

fn attempt<J: Job, const WORDS: usize>(job: &mut J) -> Result<J::Output, J::Error> {
    let memory: Box<Memory<PAGES, FRAMES, WORDS, MAX_ARENAS, QUEUE>> = boxed_memory();
    let outcome = memory.take().map_or_else(|| Err(J::Error::no_memory()), |resources| job.run(resources));
    outcome
}

/// Runs a job in the smallest memory that suffices. `blocks` is the guess how many blocks the volume has.
pub(crate) fn with_memory<J: Job>(blocks: u64, job: &mut J) -> Result<J::Output, J::Error> {
    type Attempt<J> = fn(&mut J) -> Result<<J as Job>::Output, <J as Job>::Error>;
    let sizes: &[(u64, Attempt<J>)] = &[
        (1 << 16, attempt::<J, { map_words(1 << 16, MAX_ARENAS) }>),
        (1 << 18, attempt::<J, { map_words(1 << 18, MAX_ARENAS) }>),
        (1 << 20, attempt::<J, { map_words(1 << 20, MAX_ARENAS) }>),
        (1 << 22, attempt::<J, { map_words(1 << 22, MAX_ARENAS) }>),
        (1 << 24, attempt::<J, { map_words(1 << 24, MAX_ARENAS) }>),
        (1 << 26, attempt::<J, { map_words(1 << 26, MAX_ARENAS) }>),
        (1 << 28, attempt::<J, { map_words(1 << 28, MAX_ARENAS) }>),
        (1 << 30, attempt::<J, { map_words(1 << 30, MAX_ARENAS) }>),
        // As many blocks as block numbers of 32 bits can tell apart.
        #[cfg(target_pointer_width = "64")]
        (1 << 32, attempt::<J, { map_words(1 << 32, MAX_ARENAS) }>),
    ];
    let first = sizes.iter().position(|(capacity, _)| *capacity >= blocks).unwrap_or(sizes.len() - 1);
    let mut outcome = Err(J::Error::no_memory());
    for (_, attempt) in &sizes[first..] {
        outcome = attempt(job);
        if !outcome.as_ref().is_err_and(J::Error::wants_memory) {
            break;
        }
    }
    outcome
}
