//! RAM that nobody uses yet, handed out once and for good.
//!
//! [`init`] picks the largest free range below 4 GiB: RAM in the memory map, minus the first 2 MiB and the kernel's
//! image. [`take`] cuts page-aligned pieces off its front: the heap, the DMA pool, I/O buffers. What is freed goes
//! back to those, never to here.

use core::mem::MaybeUninit;
use core::ops::Range;

use spin::Mutex;

use crate::paging::{image, FIRST_UNCACHED};
use crate::stacks::PAGE_BYTES;
use crate::start_info::Region;

/// Why there is no memory to work with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MemoryError {
    /// The image, `.bss` included, does not lie within one range of RAM: the machine has too little.
    ImageNotInRam {
        /// First address behind the image.
        image_end: usize,
    },
    /// No RAM is left beside the image.
    NothingFree,
    /// Called twice.
    Twice,
}

static FREE: Mutex<Option<Range<usize>>> = Mutex::new(None);

/// Finds the free range. To be called once.
///
/// # Errors
/// See [`MemoryError`].
pub fn init(regions: &[Region]) -> Result<(), MemoryError> {
    let image = image::all();
    let ram = || regions.iter().filter(|region| region.is_ram());
    if !ram().any(|region| region.start <= image.start as u64 && image.end as u64 <= region.end) {
        return Err(MemoryError::ImageNotInRam { image_end: image.end });
    }
    // Everything below the end of the image is left alone: firmware data, the start information, a trampoline.
    let usable = ram().map(|region| {
        let start = region.start.max(image.end as u64).next_multiple_of(PAGE_BYTES as u64);
        let end = region.end.min(u64::from(FIRST_UNCACHED)) & !(PAGE_BYTES as u64 - 1);
        start as usize..(end as usize).max(start as usize)
    });
    // Overlapping entries of another kind win over RAM.
    let free = usable.filter(|range| !overlaps_reserved(regions, range)).max_by_key(ExactSizeIterator::len);
    let mut slot = FREE.lock();
    if slot.is_some() {
        return Err(MemoryError::Twice);
    }
    *slot = Some(free.filter(|range| !range.is_empty()).ok_or(MemoryError::NothingFree)?);
    Ok(())
}

fn overlaps_reserved(regions: &[Region], range: &Range<usize>) -> bool {
    regions
        .iter()
        .filter(|region| !region.is_ram())
        .any(|region| region.start < range.end as u64 && (range.start as u64) < region.end)
}

/// Bytes that are left to take.
pub fn free_bytes() -> usize {
    FREE.lock().as_ref().map_or(0, ExactSizeIterator::len)
}

/// Takes `pages` pages, which nobody else has or will have. They hold whatever was in memory.
pub fn take(pages: usize) -> Option<&'static mut [MaybeUninit<u8>]> {
    let len = pages.checked_mul(PAGE_BYTES)?;
    let mut slot = FREE.lock();
    let free = slot.as_mut()?;
    if len == 0 || len > free.len() {
        return None;
    }
    let start = free.start;
    free.start += len;
    // SAFETY: the range is RAM according to the memory map, identity mapped, outside the image and hence outside all
    // other objects; the cut above makes sure that it is handed out only once. Any bytes are valid as `MaybeUninit`.
    Some(unsafe { core::slice::from_raw_parts_mut(start as *mut MaybeUninit<u8>, len) })
}

/// Takes `pages` pages of zeroes.
pub fn take_zeroed(pages: usize) -> Option<&'static mut [u8]> {
    let bytes = take(pages)?;
    bytes.fill(MaybeUninit::zeroed());
    let bytes: *mut [MaybeUninit<u8>] = bytes;
    // SAFETY: all bytes were just written, the pointer comes from an exclusive reference that is not used again.
    Some(unsafe { &mut *(bytes as *mut [u8]) })
}
