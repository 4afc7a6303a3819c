//! A store's memory from the host's heap.
//!
//! A [`Memory`] of useful size does not fit on a stack, and `Box::new(Memory::new())` may build it there first. All its
//! initial bytes are zero by design (that is what lets a kernel keep it in `.bss`), so zeroed heap *is* a fresh memory,
//! and costs nothing until it is touched.
//!
//! This and `uring` are the only files of the crate with `unsafe`.

use arenite_core::memory::{map_words, pages_for};
use arenite_core::Memory;

/// Memory for tests at 2 KiB blocks: 32 buffers, volumes of up to 1024 blocks in up to 32 arenas.
pub type SmallMemory = Memory<{ pages_for(32, 2048) }, 32, { map_words(1024, 32) }, 32, 16>;

/// Memory for tools: 2048 buffers of 16 KiB (32 MiB), volumes of up to 4 Mi blocks (64 GiB) in up to 256 arenas. It
/// serves other block sizes too: smaller blocks do not make the volume larger, larger ones make the cache smaller.
pub type LargeMemory = Memory<{ pages_for(2048, 16384) }, 2048, { map_words(4 << 20, 256) }, 256, 1024>;

/// A fresh memory on the heap. It is never on the stack, whatever its size.
///
/// `Memory` consists of byte arrays, integer atomics, a flag, locks around plain integers, options and flags, and room
/// for values that are not there yet. Zero bytes are valid for each, and they are the value that `Memory::new` gives by
/// the contract of that type ("every initial state is made of zero bytes"), which the test below compares byte by byte.
pub fn boxed_memory<
    const PAGES: usize,
    const FRAMES: usize,
    const WORDS: usize,
    const ARENAS: usize,
    const QUEUE: usize,
>() -> Box<Memory<PAGES, FRAMES, WORDS, ARENAS, QUEUE>> {
    let zeroed = Box::new_zeroed();
    // SAFETY: zero bytes are a valid `Memory`, part by part, as said above.
    unsafe { zeroed.assume_init() }
}

/// Makes a memory that was used as good as new. Nothing borrows from it any more, or this would not compile.
pub fn renew_memory<
    const PAGES: usize,
    const FRAMES: usize,
    const WORDS: usize,
    const ARENAS: usize,
    const QUEUE: usize,
>(
    memory: &mut Memory<PAGES, FRAMES, WORDS, ARENAS, QUEUE>,
) {
    *memory = Memory::new();
}

#[cfg(test)]
mod tests {
    use super::*;

    static FRESH: SmallMemory = Memory::new();

    #[test]
    fn fresh_memory_is_all_zero() {
        let start = std::ptr::from_ref(&FRESH).cast::<u8>();
        for at in 0..SmallMemory::SIZE_BYTES {
            // SAFETY: `at` is inside the static.
            let byte = unsafe { start.add(at) };
            // SAFETY: in bounds, and initialised: statics have no uninitialised bytes once they are in an image, and
            // nobody takes or changes this one.
            let value = unsafe { byte.read_volatile() };
            assert_eq!(value, 0, "byte {at}");
        }
    }

    #[test]
    fn memory_is_taken_once_until_renewed() {
        let mut memory: Box<SmallMemory> = boxed_memory();
        assert!(memory.take().is_some());
        assert!(memory.take().is_none());
        renew_memory(&mut memory);
        assert!(memory.take().is_some());
    }

    #[test]
    fn large_memory_comes_without_a_large_stack() {
        let small_stack = std::thread::Builder::new().stack_size(64 << 10);
        let thread = small_stack.spawn(|| {
            let memory: Box<LargeMemory> = boxed_memory();
            memory.take().is_some()
        });
        assert!(thread.unwrap().join().unwrap());
    }
}
