//! Memory for a store, as large as its volume needs.
//!
//! The store keeps four bits for each block of a volume, so up to 520 MiB for 16 TiB of 16 KiB blocks. How many blocks
//! there are is known for certain only after mount; so a size is chosen by a guess, and the next larger one is taken
//! when that was not enough. What is not needed is zeroed nevertheless, hence the narrow steps.

use arenite_core::memory::{map_words, pages_for};
use arenite_core::{Memory, Resources};
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

    /// Tries; when `wants_memory` says so of the outcome, it is tried again with more.
    fn run(&mut self, memory: Resources<'_>) -> Self::Output;

    /// Whether the outcome is that the memory had too few words of free map.
    fn wants_memory(output: &Self::Output) -> bool;
}

fn attempt<J: Job, const WORDS: usize>(job: &mut J) -> Option<J::Output> {
    let memory: Box<Memory<PAGES, FRAMES, WORDS, MAX_ARENAS, QUEUE>> = boxed_memory();
    let output = memory.take().map(|resources| job.run(resources));
    output
}

/// Runs a job in the smallest memory that suffices. `blocks` is the guess how many blocks the volume has.
pub(crate) fn with_memory<J: Job>(blocks: u64, job: &mut J) -> Option<J::Output> {
    type Attempt<J> = fn(&mut J) -> Option<<J as Job>::Output>;
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
    let mut output = None;
    for (_, attempt) in &sizes[first..] {
        output = attempt(job);
        if !output.as_ref().is_some_and(J::wants_memory) {
            break;
        }
    }
    output
}
