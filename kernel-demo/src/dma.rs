//! Memory for devices: what `virtio-drivers` needs to know about the platform.
//!
//! Virtual and physical addresses are the same here, there is no IOMMU, and x86 keeps caches coherent with DMA. So
//! sharing a buffer with a device is only a matter of taking its address. Queues come from a small pool of pages.

use core::ptr::NonNull;

use spin::Mutex;
use virtio_drivers::{BufferDirection, Hal, PhysAddr, PAGE_SIZE};

use crate::{memory, paging};

/// Pages in the pool: a queue takes about three.
const POOL_PAGES: usize = 128;

/// Pages of RAM, one bit each in `used`.
struct Pool {
    base: usize,
    used: u128,
}

static POOL: Mutex<Pool> = Mutex::new(Pool { base: 0, used: u128::MAX });

impl Pool {
    /// Finds `pages` adjacent free pages, marks them used and returns the address of the first.
    fn alloc(&mut self, pages: usize) -> Option<usize> {
        if pages == 0 || pages > POOL_PAGES {
            return None;
        }
        let mask = u128::MAX >> (POOL_PAGES - pages);
        let first = (0..=POOL_PAGES - pages).find(|first| self.used & (mask << first) == 0)?;
        self.used |= mask << first;
        Some(self.base + first * PAGE_SIZE)
    }

    /// Gives pages back; `false` if they are not in use.
    fn free(&mut self, addr: usize, pages: usize) -> bool {
        let Some(offset) = addr.checked_sub(self.base) else { return false };
        let first = offset / PAGE_SIZE;
        if pages == 0 || pages > POOL_PAGES || first > POOL_PAGES - pages || offset % PAGE_SIZE != 0 {
            return false;
        }
        let mask = (u128::MAX >> (POOL_PAGES - pages)) << first;
        let in_use = self.used & mask == mask;
        self.used &= if in_use { !mask } else { u128::MAX };
        in_use
    }
}

/// Takes memory for the pool. To be called once, before any device is touched; returns the size in bytes.
pub fn init() -> Option<usize> {
    let area = memory::take(POOL_PAGES)?;
    *POOL.lock() = Pool { base: area.as_ptr() as usize, used: 0 };
    Some(area.len())
}

/// The platform, as `virtio-drivers` sees it.
#[derive(Debug)]
pub struct KernelHal;

// SAFETY: see each method.
unsafe impl Hal for KernelHal {
    // Pages of the pool are RAM that nothing else refers to, handed out once at a time, and zeroed here. Failure is the
    // physical address 0, as the caller expects.
    fn dma_alloc(pages: usize, _direction: BufferDirection) -> (PhysAddr, NonNull<u8>) {
        let addr = POOL.lock().alloc(pages);
        let Some(ptr) = addr.and_then(|addr| NonNull::new(addr as *mut u8)) else {
            return (0, NonNull::dangling());
        };
        // SAFETY: the pages are ours alone until they are returned to the caller.
        unsafe { ptr.write_bytes(0, pages * PAGE_SIZE) };
        (ptr.as_ptr() as PhysAddr, ptr)
    }

    unsafe fn dma_dealloc(_paddr: PhysAddr, vaddr: NonNull<u8>, pages: usize) -> i32 {
        if POOL.lock().free(vaddr.as_ptr() as usize, pages) {
            0
        } else {
            -1
        }
    }

    // Device memory is mapped at its physical address, uncached. A BAR that cannot be mapped is refused by `pci.rs`
    // before a driver sees it, so the check here cannot fail in practice.
    unsafe fn mmio_phys_to_virt(paddr: PhysAddr, size: usize) -> NonNull<u8> {
        if let Err(error) = paging::map_device(paddr..paddr.saturating_add(size as u64)) {
            panic!("device memory at {paddr:#x} cannot be mapped: {error:?}");
        }
        NonNull::new(paddr as *mut u8).expect("device memory is not at address 0")
    }

    unsafe fn share(buffer: NonNull<[u8]>, _direction: BufferDirection) -> PhysAddr {
        buffer.cast::<u8>().as_ptr() as PhysAddr
    }

    unsafe fn unshare(_paddr: PhysAddr, _buffer: NonNull<[u8]>, _direction: BufferDirection) {}
}
