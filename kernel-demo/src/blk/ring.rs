//! The ring between driver and device, in the size that the device offers.
//!
//! `virtio-drivers` fixes the size of a queue at compile time and refuses a device whose queue is smaller. So there is
//! one queue type for each power of two, and [`open`] takes the largest that the device allows.

use alloc::boxed::Box;

use virtio_drivers::queue::VirtQueue;
use virtio_drivers::transport::{SomeTransport, Transport};
use virtio_drivers::Result;

use super::env::Hal;

/// Descriptors of the largest ring; QEMU offers 256 unless told otherwise, and 1024 at most.
pub(super) const MAX_RING: u32 = 1024;
/// Descriptors of the smallest ring: a request needs a header, a buffer and a status.
const MIN_RING: u32 = 4;

/// The only queue of the device that is used.
pub(super) const QUEUE_INDEX: u16 = 0;

/// A `VirtQueue` of any size; the methods are those of the same name there.
pub(super) trait Ring: Send {
    /// Descriptors in all.
    fn size(&self) -> usize;

    /// Descriptors that are free.
    fn available(&self) -> usize;

    /// Offers buffers to the device; the number that comes back names them.
    ///
    /// # Safety
    /// The buffers stay valid and are not used otherwise until [`Ring::pop`] or a reset of the device.
    unsafe fn add<'b>(&mut self, inputs: &[&'b [u8]], outputs: &mut [&'b mut [u8]]) -> Result<u16>;

    /// Takes buffers back that the device is done with.
    ///
    /// # Safety
    /// They are those that were added under this number.
    unsafe fn pop<'a>(&mut self, token: u16, inputs: &'a [&'a [u8]], outputs: &'a mut [&'a mut [u8]]) -> Result<u32>;

    /// The number of the buffers that the device was done with first, if there are any.
    fn peek(&self) -> Option<u16>;

    /// Whether the device wants to be told of new buffers.
    fn should_notify(&self) -> bool;
}

impl<const SIZE: usize> Ring for VirtQueue<Hal, SIZE> {
    fn size(&self) -> usize {
        SIZE
    }

    fn available(&self) -> usize {
        self.available_desc()
    }

    unsafe fn add<'b>(&mut self, inputs: &[&'b [u8]], outputs: &mut [&'b mut [u8]]) -> Result<u16> {
        // SAFETY: the caller's promise is the one that is asked for here.
        unsafe { VirtQueue::add(self, inputs, outputs) }
    }

    unsafe fn pop<'a>(&mut self, token: u16, inputs: &'a [&'a [u8]], outputs: &'a mut [&'a mut [u8]]) -> Result<u32> {
        // SAFETY: the caller's promise is the one that is asked for here.
        unsafe { self.pop_used(token, inputs, outputs) }
    }

    fn peek(&self) -> Option<u16> {
        self.peek_used()
    }

    fn should_notify(&self) -> bool {
        VirtQueue::should_notify(self)
    }
}

/// Sets up the device's queue, as large as it may be. No interrupts are asked for.
pub(super) fn open(transport: &mut SomeTransport<'static>) -> core::result::Result<Box<dyn Ring>, &'static str> {
    let offered = transport.max_queue_size(QUEUE_INDEX).min(MAX_RING);
    if offered < MIN_RING {
        return Err("its queue has less than 4 entries");
    }
    let ring = match 1 << offered.ilog2() {
        4 => make::<4>(transport),
        8 => make::<8>(transport),
        16 => make::<16>(transport),
        32 => make::<32>(transport),
        64 => make::<64>(transport),
        128 => make::<128>(transport),
        256 => make::<256>(transport),
        512 => make::<512>(transport),
        _ => make::<{ MAX_RING as usize }>(transport),
    };
    ring.map_err(|_| "its queue cannot be set up, or no memory is left for it")
}

fn make<const SIZE: usize>(transport: &mut SomeTransport<'static>) -> Result<Box<dyn Ring>> {
    let mut queue = VirtQueue::<Hal, SIZE>::new(transport, QUEUE_INDEX, false, false)?;
    queue.set_dev_notify(false);
    Ok(Box::new(queue))
}
