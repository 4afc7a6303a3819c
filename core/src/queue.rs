//! The sync queue: final blocks that wait to be written, in the order in which they should be.
//!
//! A heap of fixed capacity, ordered by generation and then by address, so that the blocks of the commit that is being
//! waited for come first and neighbours come together: the syncer merges them into one request. Between the two stands
//! the batch, which changes only when somebody waits for what was queued so far: what is queued later cannot overtake
//! that. The queue holds a block by the share that is parked in its frame; an entry is only a number.
//!
//! Ordering in the queue says nothing about durability. What a commit needs is in [`crate::commit`]: the writes of its
//! generation counted, completed, and flushed.

use heapless::binary_heap::{BinaryHeap, BinaryHeapView, Min};

/// One waiting block.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) struct Entry {
    // The order of the fields is the order of the queue.
    pub(crate) generation: u64,
    /// See [`crate::store::Engine::batch`].
    pub(crate) batch: u32,
    pub(crate) block: u32,
    /// The frame with the parked share, as a link (number plus one).
    pub(crate) frame_link: u32,
}

/// A queue of up to `N` entries. All-zero when empty.
pub(crate) type Queue<const N: usize> = BinaryHeap<Entry, Min, N>;
/// The same, without its capacity in its type.
pub(crate) type QueueView = BinaryHeapView<Entry, Min>;
