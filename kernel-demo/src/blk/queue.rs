//! The request queue of one disk: what is in flight, when it is late, and how it ends.
//!
//! Each request has a slot from the moment it is submitted until `poll` returns it:
//!
//! ```text
//!         start                 device done, poll
//!  free ---------> in flight -----------------------> free      (owner and result returned)
//!    |                 |  device reset
//!    |   refuse        v
//!    +-------------> ended --------------------------> free      (owner and the slot's error returned by poll)
//! ```
//!
//! Invariants:
//! * `free`, `in_flight` and `ended` are disjoint and cover all slots; a slot holds an owner unless it is free (or
//!   runs the driver's own request for the serial number).
//! * A slot in flight has a descriptor chain in the ring whose head is its token, and `slot_of` maps the token back.
//! * An owner leaves its slot only when the device has returned the chain or has been reset: the device cannot touch
//!   the buffers any more. A device that does not even answer a reset keeps them for ever.
//! * Nothing that the device writes (tokens, lengths, status) is used as an index or length before it is checked.

use alloc::boxed::Box;
use core::sync::atomic::{fence, Ordering};

use virtio_drivers::queue::VirtQueue;
use virtio_drivers::transport::pci::PciTransport;
use virtio_drivers::transport::{DeviceStatus, Transport};

use super::owner::{Segment, Segments};
use crate::dma::KernelHal;
use crate::{println, time};

/// Descriptors in the ring; QEMU offers 256. A request takes one for each buffer and two more.
const RING_SIZE: usize = 256;
/// Requests that can be pending at once.
pub const MAX_REQUESTS: usize = 64;
/// Buffers in one request.
pub const MAX_SEGMENTS: usize = 32;

const QUEUE_INDEX: u16 = 0;
const NO_SLOT: u8 = u8::MAX;
const SERIAL_BYTES: usize = 20;
const DEFAULT_TIMEOUT_US: u64 = 30_000_000;
/// How often requests that are late are looked for.
const CHECK_INTERVAL_US: u64 = 100_000;
/// How long a device may take to reset.
const RESET_LIMIT_US: u64 = 5_000_000;
/// Value of the status byte until the device writes it; no device uses it.
const STATUS_UNWRITTEN: u8 = 0xFF;

/// Why a request failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DiskError {
    /// The device reports an error.
    Io,
    /// The device cannot do this: a flush without a cache, a write to a read-only disk.
    Unsupported,
    /// A request took too long, and the device was reset. Those in flight beside it fail alike.
    Timeout,
    /// The device broke the protocol or was given up earlier.
    Gone,
    /// The request makes no sense: out of range, unaligned, empty, too many or too large buffers.
    Invalid,
}

/// What the device is asked for; the values are those of the request header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub(super) enum Kind {
    Read = 0,
    Write = 1,
    Flush = 4,
    ReadSerial = 8,
}

/// The part of a request that the device sees beside the buffers. It never moves while the queue exists.
#[repr(C)]
struct Shared {
    /// Little endian: u32 kind, u32 zero, u64 sector.
    header: [u8; 16],
    status: u8,
}

struct Slot<O> {
    owner: Option<O>,
    kind: Kind,
    segments: [Segment; MAX_SEGMENTS],
    segment_count: usize,
    started_us: u64,
    error: DiskError,
}

/// See the head of this file.
pub(super) struct Queue<O> {
    ring: VirtQueue<KernelHal, RING_SIZE>,
    transport: PciTransport,
    slots: Box<[Slot<O>]>,
    /// One for each slot; a raw pointer, as the device reads and writes behind it. Never freed.
    shared: *mut Shared,
    slot_of: [u8; RING_SIZE],
    free: u64,
    in_flight: u64,
    ended: u64,
    timeout_us: u64,
    next_check_us: u64,
    /// Why no more requests reach the device, once it was given up.
    failed: Option<DiskError>,
}

// SAFETY: `shared` points to memory that belongs to this queue alone and is tied to no CPU; all other fields are `Send`
// if the owners are.
unsafe impl<O: Send> Send for Queue<O> {}

const _: () = assert!(MAX_REQUESTS == u64::BITS as usize, "one bit for each slot");
const _: () = assert!(MAX_REQUESTS < NO_SLOT as usize, "slot numbers fit a byte");
const _: () = assert!(core::mem::offset_of!(Shared, status) == 16, "the status follows the header");

/// The owner type of a queue that nobody has claimed yet: there are no values of it.
pub(super) enum Nobody {}

impl Queue<Nobody> {
    /// The same queue for owners of another type. No request has an owner now, so none can be lost.
    pub(super) fn for_owners<O>(self) -> Queue<O> {
        let slots = self.slots.into_vec().into_iter().map(|slot| {
            let Slot { owner: _, kind, segments, segment_count, started_us, error } = slot;
            Slot { owner: None, kind, segments, segment_count, started_us, error }
        });
        Queue {
            ring: self.ring,
            transport: self.transport,
            slots: slots.collect(),
            shared: self.shared,
            slot_of: self.slot_of,
            free: self.free,
            in_flight: self.in_flight,
            ended: self.ended,
            timeout_us: self.timeout_us,
            next_check_us: self.next_check_us,
            failed: self.failed,
        }
    }
}

impl<O> Queue<O> {
    /// Sets up the queue of a device whose features are agreed on, and lets the device run.
    pub(super) fn new(mut transport: PciTransport) -> Result<Self, &'static str> {
        let mut ring = VirtQueue::new(&mut transport, QUEUE_INDEX, false, false)
            .map_err(|_| "its queue has less than 256 entries, or no memory is left")?;
        ring.set_dev_notify(false);
        transport.finish_init();
        let slots = (0..MAX_REQUESTS).map(|_| Slot {
            owner: None,
            kind: Kind::Flush,
            segments: Segments::EMPTY,
            segment_count: 0,
            started_us: 0,
            error: DiskError::Gone,
        });
        let shared = (0..MAX_REQUESTS).map(|_| Shared { header: [0; 16], status: STATUS_UNWRITTEN });
        let shared: Box<[Shared]> = shared.collect();
        Ok(Self {
            ring,
            transport,
            slots: slots.collect(),
            shared: Box::into_raw(shared).cast(),
            slot_of: [NO_SLOT; RING_SIZE],
            free: u64::MAX,
            in_flight: 0,
            ended: 0,
            timeout_us: DEFAULT_TIMEOUT_US,
            next_check_us: 0,
            failed: None,
        })
    }

    pub(super) fn set_timeout_us(&mut self, timeout_us: u64) {
        self.timeout_us = timeout_us;
    }

    /// Slots that are not free.
    pub(super) fn pending(&self) -> usize {
        self.free.count_zeros() as usize
    }

    /// Accepts a request only to end it with an error. A full queue gives the owner back.
    pub(super) fn refuse(&mut self, owner: O, error: DiskError) -> Result<(), O> {
        if self.free == 0 {
            return Err(owner);
        }
        let index = self.free.trailing_zeros() as usize;
        self.free &= !(1 << index);
        self.ended |= 1 << index;
        self.slots[index].owner = Some(owner);
        self.slots[index].error = error;
        Ok(())
    }

    /// Starts a checked request. A full queue gives the owner back.
    pub(super) fn start(&mut self, kind: Kind, sector: u64, segments: &Segments, owner: O) -> Result<(), O> {
        if let Some(error) = self.failed {
            return self.refuse(owner, error);
        }
        match self.enqueue(kind, sector, segments.as_slice()) {
            Some(index) => self.slots[index].owner = Some(owner),
            None => return Err(owner),
        }
        Ok(())
    }

    /// Puts a request into the ring and tells the device. Returns its slot, or `None` if there is no room.
    fn enqueue(&mut self, kind: Kind, sector: u64, segments: &[Segment]) -> Option<usize> {
        if self.free == 0 || self.ring.available_desc() < segments.len() + 2 {
            return None;
        }
        let index = self.free.trailing_zeros() as usize;
        let slot = &mut self.slots[index];
        slot.kind = kind;
        slot.segments[..segments.len()].copy_from_slice(segments);
        slot.segment_count = segments.len();
        slot.started_us = time::micros();

        let mut header = [0; 16];
        header[..4].copy_from_slice(&(kind as u32).to_le_bytes());
        header[8..].copy_from_slice(&sector.to_le_bytes());
        let shared = self.shared_of(index);
        // SAFETY: the slot is free, so the device has no chain that leads to this memory, which is ours.
        unsafe { shared.write(Shared { header, status: STATUS_UNWRITTEN }) };

        let mut buffers = Buffers::new();
        // SAFETY: the buffers belong to the owner, which the caller puts into the slot and which stays there until the
        // chain is taken back; by the contract of `Owner` nothing else uses them in a way that conflicts.
        unsafe { buffers.fill(&self.slots[index], shared) };
        let (inputs, outputs) = buffers.lists();
        // SAFETY: as above: what the lists name stays valid until `pop_used` or the reset of the device.
        let added = unsafe { self.ring.add(inputs, outputs) };
        let token = added.ok()?;
        self.slot_of[usize::from(token)] = index as u8;
        self.free &= !(1 << index);
        self.in_flight |= 1 << index;
        // The device turns notifications off while it works. Without this fence our look at its flag could come before
        // the new index is visible to it, and both sides would wait for each other.
        fence(Ordering::SeqCst);
        if self.ring.should_notify() {
            self.transport.notify(QUEUE_INDEX);
        }
        Some(index)
    }

    fn shared_of(&self, index: usize) -> *mut Shared {
        debug_assert!(index < MAX_REQUESTS);
        self.shared.wrapping_add(index)
    }

    /// Takes one ended request out of the queue.
    pub(super) fn poll(&mut self) -> Option<(O, Result<(), DiskError>)> {
        let (index, result) = self.next_ended()?;
        self.slots[index].owner.take().map(|owner| (owner, result))
    }

    /// Frees the slot of one ended request and returns it with the result. The owner is still in the slot.
    fn next_ended(&mut self) -> Option<(usize, Result<(), DiskError>)> {
        if self.in_flight != 0 {
            self.check_deadlines();
        }
        if self.ended != 0 {
            let index = self.ended.trailing_zeros() as usize;
            self.ended &= !(1 << index);
            self.free |= 1 << index;
            return Some((index, Err(self.slots[index].error)));
        }
        if self.in_flight == 0 || self.failed.is_some() {
            return None;
        }
        let token = self.ring.peek_used()?;
        let index = self.slot_of.get(usize::from(token)).map_or(MAX_REQUESTS, |&slot| usize::from(slot));
        if index >= MAX_REQUESTS || self.in_flight & (1 << index) == 0 {
            self.give_up(DiskError::Gone, "it returned a request that it was not given");
            return None;
        }
        self.take_back(token, index)
    }

    /// Takes the chain of slot `index` back from the device.
    fn take_back(&mut self, token: u16, index: usize) -> Option<(usize, Result<(), DiskError>)> {
        let shared = self.shared_of(index);
        let mut buffers = Buffers::new();
        // SAFETY: the device has put the chain into its used ring, so it is done with the buffers, and the owner is
        // still in the slot.
        unsafe { buffers.fill(&self.slots[index], shared) };
        let (inputs, outputs) = buffers.lists();
        // SAFETY: these are the buffers that `enqueue` added under this token: the slot has not changed since.
        let popped = unsafe { self.ring.pop_used(token, inputs, outputs) };
        if popped.is_err() {
            return None;
        }
        // SAFETY: the device is done with the slot's memory. Volatile, as the device wrote it.
        let status = unsafe { core::ptr::read_volatile(status_of(shared)) };
        self.slot_of[usize::from(token)] = NO_SLOT;
        self.in_flight &= !(1 << index);
        self.free |= 1 << index;
        let result = match status {
            0 => Ok(()),
            2 => Err(DiskError::Unsupported),
            _ => Err(DiskError::Io),
        };
        Some((index, result))
    }

    /// Gives the device up if it says that it is broken, or if a request takes too long.
    fn check_deadlines(&mut self) {
        let now = time::micros();
        if now < self.next_check_us || self.failed.is_some() {
            return;
        }
        self.next_check_us = now + CHECK_INTERVAL_US;
        if self.transport.get_status().contains(DeviceStatus::DEVICE_NEEDS_RESET) {
            self.give_up(DiskError::Gone, "it asks for a reset");
            return;
        }
        let oldest = slots_in(self.in_flight).map(|index| self.slots[index].started_us).min();
        // A request may have ended already and wait in the used ring because nobody polled: that is not late.
        if oldest.is_some_and(|oldest| now.saturating_sub(oldest) > self.timeout_us) && !self.ring.can_pop() {
            self.give_up(DiskError::Timeout, "a request takes too long");
        }
    }

    /// Resets the device for good. Requests in flight end with `error` if the device lets go of them.
    fn give_up(&mut self, error: DiskError, reason: &str) {
        println!("disk: device given up: {reason}");
        self.failed = Some(DiskError::Gone);
        self.transport.set_status(DeviceStatus::empty());
        let deadline = time::micros() + RESET_LIMIT_US;
        while self.transport.get_status() != DeviceStatus::empty() {
            if time::micros() > deadline {
                println!("disk: it does not reset; {} requests are lost", self.in_flight.count_ones());
                return;
            }
            core::hint::spin_loop();
        }
        for index in slots_in(self.in_flight) {
            self.slots[index].error = error;
        }
        self.ended |= self.in_flight;
        self.in_flight = 0;
    }

    /// Asks for the serial number and waits for it. For setting up, while nothing else is in flight.
    pub(super) fn read_serial(&mut self) -> Option<[u8; SERIAL_BYTES]> {
        // Never freed, so that it outlives whatever the device does; small, and once per disk.
        let buffer = Box::leak(Box::new([0u8; SERIAL_BYTES]));
        let mut segments = Segments::new();
        segments.push_mut(buffer);
        let index = self.enqueue(Kind::ReadSerial, 0, segments.as_slice())?;
        loop {
            match self.next_ended() {
                Some((ended, result)) if ended == index => return result.ok().map(|()| *buffer),
                _ if self.in_flight == 0 || self.failed.is_some() => return None,
                _ => core::hint::spin_loop(),
            }
        }
    }
}

fn status_of(shared: *mut Shared) -> *mut u8 {
    shared.cast::<u8>().wrapping_add(core::mem::offset_of!(Shared, status))
}

/// The numbers of the bits that are set.
fn slots_in(mut bits: u64) -> impl Iterator<Item = usize> {
    core::iter::from_fn(move || {
        let index = bits.trailing_zeros();
        bits &= bits.wrapping_sub(1);
        (index < u64::BITS).then_some(index as usize)
    })
}

/// The buffers of a request in the form that the ring takes them: what the device reads, what it writes.
struct Buffers<'b> {
    inputs: [&'b [u8]; MAX_SEGMENTS + 1],
    input_count: usize,
    outputs: [&'b mut [u8]; MAX_SEGMENTS + 1],
    output_count: usize,
}

impl<'b> Buffers<'b> {
    fn new() -> Self {
        Self {
            inputs: [&[]; MAX_SEGMENTS + 1],
            input_count: 0,
            outputs: core::array::from_fn(|_| Default::default()),
            output_count: 0,
        }
    }

    /// Lists header, segments and status of a request in the order that the protocol demands.
    ///
    /// # Safety
    /// While `self` is in use, the segments must be valid, must not be changed elsewhere, and for requests that read
    /// from the disk not be accessed elsewhere; the same goes for `shared`.
    unsafe fn fill<O>(&mut self, slot: &Slot<O>, shared: *mut Shared) {
        // SAFETY: the caller promises that the memory is valid and not changed elsewhere.
        self.add_input(unsafe { core::slice::from_raw_parts(shared.cast::<u8>(), 16) });
        for segment in &slot.segments[..slot.segment_count] {
            let (ptr, len) = (segment.ptr, segment.len_bytes as usize);
            if slot.kind == Kind::Write {
                // SAFETY: as above; the device only reads it.
                self.add_input(unsafe { core::slice::from_raw_parts(ptr, len) });
            } else {
                // SAFETY: the caller promises that nothing else accesses it.
                self.add_output(unsafe { core::slice::from_raw_parts_mut(ptr, len) });
            }
        }
        let status = status_of(shared);
        // SAFETY: as for the header; the two do not overlap.
        self.add_output(unsafe { core::slice::from_raw_parts_mut(status, 1) });
    }

    fn add_input(&mut self, buffer: &'b [u8]) {
        self.inputs[self.input_count] = buffer;
        self.input_count += 1;
    }

    fn add_output(&mut self, buffer: &'b mut [u8]) {
        self.outputs[self.output_count] = buffer;
        self.output_count += 1;
    }

    fn lists(&mut self) -> (&[&'b [u8]], &mut [&'b mut [u8]]) {
        (&self.inputs[..self.input_count], &mut self.outputs[..self.output_count])
    }
}
