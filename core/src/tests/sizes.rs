//! The figures that docs/EMBEDDING.md gives for the memory of a store.

use crate::arena::ArenaSlot;
use crate::epoch::WorkerSlot;
use crate::limbo::Retired;
use crate::memory::map_words;
use crate::pool::Frame;
use crate::queue::Entry;
use crate::sync::AtomicUsize;

#[test]
fn the_documented_sizes_are_right() {
    // A buffer has a frame and a place in limbo.
    assert!(size_of::<Frame>() + size_of::<Retired>() <= 72);
    assert!(size_of::<ArenaSlot>() <= 256);
    assert!(size_of::<Entry>() <= 24);
    assert!(size_of::<WorkerSlot>() <= 12);
    let gib_of_16_kib = map_words((1 << 30) / 16384, 8) * size_of::<AtomicUsize>();
    assert!(gib_of_16_kib <= 34 << 10, "{gib_of_16_kib}");
    #[cfg(feature = "trace")]
    assert!(size_of::<crate::trace::Trace>() <= 10 << 10);
}
