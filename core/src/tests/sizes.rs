//! The figures that docs/EMBEDDING.md gives for the memory of a store.

use crate::arena::ArenaSlot;
use crate::epoch::WorkerSlot;
use crate::limbo::Retired;
use crate::memory::{map_words, Fixed};
use crate::pool::{Frame, Seat, SeatRow, ROWS};
use crate::queue::Entry;
use crate::sync::AtomicUsize;

const fn buffer_len_bytes() -> usize {
    size_of::<Frame>() + ROWS * size_of::<Seat>() + size_of::<Retired>()
}

#[test]
fn the_documented_sizes_are_right() {
    // A buffer has a frame, a seat in each row, and a place in limbo.
    let documented = if usize::BITS == 32 { 80 } else { 104 };
    assert!(buffer_len_bytes() <= documented, "{}", buffer_len_bytes());
    assert!(size_of::<ArenaSlot>() <= 256);
    assert!(size_of::<Entry>() <= 24);
    assert!(size_of::<WorkerSlot>() <= 12);
    let gib_of_16_kib = map_words((1 << 30) / 16384, 8) * size_of::<AtomicUsize>();
    // With words of 32 bits the summaries are twice as large.
    let documented_kib = if usize::BITS == 32 { 35 } else { 34 };
    assert!(gib_of_16_kib <= documented_kib << 10, "{gib_of_16_kib}");
    #[cfg(feature = "trace")]
    assert!(size_of::<crate::trace::Trace>() <= 10 << 10);
}

/// The value of a store is moved on the way out of mount; what is large of its state is not in it.
#[test]
#[cfg(not(any(loom, feature = "shuttle")))]
fn a_store_is_a_small_value() {
    assert!(size_of::<crate::Store<'static, 'static>>() <= 128);
    let mounting = size_of::<crate::Mounting<'static, 'static>>();
    assert!(mounting <= 1280, "{mounting}");
    assert!(size_of::<Fixed>() <= 3 << 10, "{}", size_of::<Fixed>());
}

/// The formula in docs/EMBEDDING.md, with the sizes of its parts as the compiler lays them out.
#[test]
#[cfg(not(any(loom, feature = "shuttle", feature = "trace")))]
fn the_formula_is_the_size_of_the_value() {
    use crate::limbo::Limbo;
    use crate::memory::{pages_for, Memory};
    use crate::pool::PAGE_LEN_BYTES;
    use crate::queue::Queue;
    use crate::sync::Lock;

    const fn formula(pages: usize, frames: usize, words: usize, arenas: usize, queue: usize, workers: usize) -> usize {
        // Two locks and what their queues have besides entries; the flag; what aligns the parts to each other, and rows
        // of seats to cache lines.
        const QUEUE_HEAD: usize = size_of::<Lock<Queue<1>>>() - size_of::<Entry>();
        const LIMBO_HEAD: usize = size_of::<Lock<Limbo<1>>>() - size_of::<Retired>();
        const HEADS: usize = QUEUE_HEAD + LIMBO_HEAD + align_of::<u64>() + ROWS * 56;
        let buffers = pages * PAGE_LEN_BYTES + frames * buffer_len_bytes();
        let map = words * size_of::<AtomicUsize>();
        let rest = arenas * size_of::<ArenaSlot>() + queue * size_of::<Entry>() + workers * size_of::<WorkerSlot>();
        // Mount reads superblocks into two pages of their own.
        let probe = 2 * PAGE_LEN_BYTES + size_of::<Frame>() + ROWS * size_of::<SeatRow<1>>();
        let fixed = probe + size_of::<Fixed>() + HEADS;
        (buffers + map + rest + fixed).next_multiple_of(PAGE_LEN_BYTES)
    }
    macro_rules! check {
        ($cache:expr, $block:expr, $blocks:expr, $arenas:expr, $queue:expr, $workers:expr) => {{
            const PAGES: usize = pages_for($cache, $block);
            const WORDS: usize = map_words($blocks, $arenas);
            type Value = Memory<PAGES, $cache, WORDS, $arenas, $queue, $workers>;
            assert_eq!(formula(PAGES, $cache, WORDS, $arenas, $queue, $workers), size_of::<Value>());
            assert_eq!(Value::SIZE_BYTES, size_of::<Value>());
        }};
    }
    check!(16, 4096, 16 << 10, 2, 32, 32);
    check!(64, 16384, 65536, 8, 64, 32);
    check!(64, 16384, 256 << 10, 8, 128, 32);
    check!(1024, 16384, 4 << 20, 8, 64, 32);
    check!(1024, 16384, 64 << 20, 64, 1024, 32);
    check!(100, 2048, 12345, 7, 33, 5);
}
