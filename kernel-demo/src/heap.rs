//! The heap: a fixed piece of memory behind a linked list of holes.
//!
//! Setting up devices and tables uses it, and so may the demo itself; neither the block store nor the disk driver
//! touch it once they run.

use core::alloc::{GlobalAlloc, Layout};
use core::ptr::NonNull;

use linked_list_allocator::Heap;
use spin::Mutex;

use crate::memory;
use crate::stacks::PAGE_BYTES;

/// Bytes of the heap on a machine that can afford them.
const WANTED_BYTES: usize = 4 << 20;

struct KernelHeap(Mutex<Heap>);

#[global_allocator]
static HEAP: KernelHeap = KernelHeap(Mutex::new(Heap::empty()));

// SAFETY: all calls go to one heap under one lock, which returns disjoint pieces of memory that it owns for ever, or
// null. The lock is a leaf: nothing is called while it is held.
unsafe impl GlobalAlloc for KernelHeap {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        self.0.lock().allocate_first_fit(layout).map_or(core::ptr::null_mut(), NonNull::as_ptr)
    }

    unsafe fn dealloc(&self, ptr: *mut u8, layout: Layout) {
        if let Some(ptr) = NonNull::new(ptr) {
            let mut heap = self.0.lock();
            // SAFETY: the caller promises that `ptr` came from `alloc` with the same layout and is not used again.
            unsafe { heap.deallocate(ptr, layout) };
        }
    }
}

/// Takes memory for the heap, up to a quarter of what is free. To be called once; returns the size in bytes.
pub fn init() -> Option<usize> {
    let bytes = WANTED_BYTES.min(memory::free_bytes() / 4);
    let area = memory::take(bytes / PAGE_BYTES)?;
    let mut heap = HEAP.0.lock();
    heap.init_from_slice(area);
    Some(heap.size())
}

/// Bytes in use and bytes free.
pub fn usage() -> (usize, usize) {
    let heap = HEAP.0.lock();
    (heap.used(), heap.free())
}
