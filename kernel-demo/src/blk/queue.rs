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
//! * `free` lists the slots that are free, each once; a slot holds an owner unless it is free (or runs the driver's own
//!   request for the serial number). `in_flight` and `ended` count the slots in these states.
//! * A slot in flight has a descriptor chain in the ring whose head is its token, and `slot_of` maps the token back.
//! * An owner leaves its slot only when the device has returned the chain, has been reset or is not there any more: it
//!   cannot touch the buffers. A device that is there and does not even answer a reset keeps them for ever.
//! * Nothing that the device writes (tokens, lengths, status) is used as an index or length before it is checked.

use alloc::boxed::Box;
use alloc::vec::Vec;
use core::mem::ManuallyDrop;
use core::sync::atomic::{fence, Ordering};

use virtio_drivers::transport::{DeviceStatus, SomeTransport, Transport};

use super::buffers::{status_of, Buffers, Shared, HEADER_BYTES};
use super::env::{micros, println};
use super::owner::{Segment, Segments};
use super::ring::{self, Ring, QUEUE_INDEX};
use super::Place;

/// Requests that can be pending at once, if the device's queue has room for so many.
pub const MAX_REQUESTS: usize = 256;
/// Buffers in one request, if the device's queue has room for so many.
pub const MAX_SEGMENTS: usize = 32;
/// Descriptors of a request beside those of its buffers: header and status.
const EXTRA_DESCRIPTORS: usize = 2;

const NO_SLOT: u16 = u16::MAX;
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
    /// The device broke the protocol, went away, or was given up earlier.
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

/// See the head of this file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Free,
    InFlight,
    Ended(DiskError),
}

struct Slot<O> {
    state: State,
    owner: Option<O>,
    kind: Kind,
    segments: [Segment; MAX_SEGMENTS],
    segment_count: usize,
    started_us: u64,
}

impl<O> Slot<O> {
    const EMPTY: Self = Self {
        state: State::Free,
        owner: None,
        kind: Kind::Flush,
        segments: Segments::EMPTY,
        segment_count: 0,
        started_us: 0,
    };
}

/// See the head of this file.
pub(super) struct Queue<O> {
    place: Place,
    ring: Box<dyn Ring>,
    transport: SomeTransport<'static>,
    slots: Box<[Slot<O>]>,
    /// One for each slot; a raw pointer, as the device reads and writes behind it. Never freed.
    shared: *mut Shared,
    /// By token.
    slot_of: Box<[u16]>,
    /// Never grows: it has room for all slots from the start.
    free: Vec<u16>,
    in_flight: usize,
    ended: usize,
    timeout_us: u64,
    next_check_us: u64,
    /// Why no more requests reach the device, once it was given up.
    failed: Option<DiskError>,
}

// SAFETY: `shared` points to memory that belongs to this queue alone and is tied to no CPU; all other fields are `Send`
// if the owners are: registers of a device and a ring can be used from any CPU, by one at a time.
unsafe impl<O: Send> Send for Queue<O> {}

const _: () = assert!(MAX_REQUESTS < NO_SLOT as usize, "slot numbers fit");

/// The owner type of a queue that nobody has claimed yet: there are no values of it.
pub(super) enum Nobody {}

impl Queue<Nobody> {
    /// The same queue for owners of another type. No request has an owner now, so none can be lost.
    pub(super) fn for_owners<O>(self) -> Queue<O> {
        Queue {
            place: self.place,
            ring: self.ring,
            transport: self.transport,
            slots: empty_slots(self.slots.len()),
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

impl Queue<Nobody> {
    /// Resets the device, frees the ring and returns the transport.
    pub(super) fn into_transport(self) -> Result<SomeTransport<'static>, &'static str> {
        let mut this = ManuallyDrop::new(self);
        if !this.reset() {
            return Err("it does not reset");
        }
        // Only now may what the device has used be freed.
        Ok(ManuallyDrop::into_inner(this).transport)
    }
}

fn empty_slots<O>(count: usize) -> Box<[Slot<O>]> {
    (0..count).map(|_| Slot::EMPTY).collect()
}

impl<O> Queue<O> {
    /// Sets up the queue of a device whose features are agreed on, and lets the device run.
    pub(super) fn new(place: Place, mut transport: SomeTransport<'static>) -> Result<Self, &'static str> {
        let ring = ring::open(&mut transport)?;
        transport.finish_init();
        let depth = (ring.size() / (EXTRA_DESCRIPTORS + 1)).min(MAX_REQUESTS);
        let shared: Box<[Shared]> =
            (0..depth).map(|_| Shared { header: [0; HEADER_BYTES], status: STATUS_UNWRITTEN }).collect();
        Ok(Self {
            place,
            slot_of: alloc::vec![NO_SLOT; ring.size()].into_boxed_slice(),
            ring,
            transport,
            slots: empty_slots(depth),
            shared: Box::into_raw(shared).cast(),
            free: (0..depth as u16).rev().collect(),
            in_flight: 0,
            ended: 0,
            timeout_us: DEFAULT_TIMEOUT_US,
            next_check_us: 0,
            failed: None,
        })
    }

    /// Requests that can be pending at once.
    pub(super) fn max_requests(&self) -> usize {
        self.slots.len()
    }

    /// Buffers for which the ring has room in one request.
    pub(super) fn max_segments(&self) -> usize {
        (self.ring.size() - EXTRA_DESCRIPTORS).min(MAX_SEGMENTS)
    }

    pub(super) fn set_timeout_us(&mut self, timeout_us: u64) {
        self.timeout_us = timeout_us;
    }

    /// Slots that are not free.
    pub(super) fn pending(&self) -> usize {
        self.slots.len() - self.free.len()
    }

    /// Accepts a request only to end it with an error. A full queue gives the owner back.
    pub(super) fn refuse(&mut self, owner: O, error: DiskError) -> Result<(), O> {
        let Some(index) = self.free.pop() else { return Err(owner) };
        let slot = &mut self.slots[usize::from(index)];
        slot.owner = Some(owner);
        slot.state = State::Ended(error);
        self.ended += 1;
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
        if self.ring.available() < segments.len() + EXTRA_DESCRIPTORS {
            return None;
        }
        let index = usize::from(*self.free.last()?);
        let slot = &mut self.slots[index];
        slot.kind = kind;
        slot.segments[..segments.len()].copy_from_slice(segments);
        slot.segment_count = segments.len();
        slot.started_us = micros();

        let mut header = [0; HEADER_BYTES];
        header[..4].copy_from_slice(&(kind as u32).to_le_bytes());
        header[8..].copy_from_slice(&sector.to_le_bytes());
        let shared = self.shared_of(index);
        // SAFETY: the slot is free, so the device has no chain that leads to this memory, which is ours.
        unsafe { shared.write(Shared { header, status: STATUS_UNWRITTEN }) };

        let mut buffers = Buffers::new();
        // SAFETY: the buffers belong to the owner, which the caller puts into the slot and which stays there until the
        // chain is taken back; by the contract of `Owner` nothing else uses them in a way that conflicts.
        unsafe { buffers.fill(kind == Kind::Write, segments, shared) };
        let (inputs, outputs) = buffers.lists();
        // SAFETY: as above: what the lists name stays valid until `pop` or the reset of the device.
        let added = unsafe { self.ring.add(inputs, outputs) };
        let token = added.ok()?;
        *self.slot_of.get_mut(usize::from(token))? = index as u16;
        self.free.pop();
        self.slots[index].state = State::InFlight;
        self.in_flight += 1;
        // The device turns notifications off while it works. Without this fence our look at its flag could come before
        // the new index is visible to it, and both sides would wait for each other.
        fence(Ordering::SeqCst);
        if self.ring.should_notify() {
            self.transport.notify(QUEUE_INDEX);
        }
        Some(index)
    }

    fn shared_of(&self, index: usize) -> *mut Shared {
        debug_assert!(index < self.slots.len());
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
            return self.next_failed();
        }
        if self.in_flight == 0 || self.failed.is_some() {
            return None;
        }
        let token = self.ring.peek()?;
        let index = self.slot_of.get(usize::from(token)).map_or(usize::MAX, |&slot| usize::from(slot));
        if self.slots.get(index).is_none_or(|slot| slot.state != State::InFlight) {
            self.give_up(DiskError::Gone, "it returned a request that it was not given");
            return None;
        }
        self.take_back(token, index)
    }

    /// The next of those that never reached the device, or that it will not finish.
    fn next_failed(&mut self) -> Option<(usize, Result<(), DiskError>)> {
        let mut slots = self.slots.iter_mut().enumerate();
        let (index, error) = slots.find_map(|(index, slot)| match slot.state {
            State::Ended(error) => Some((index, error)),
            State::Free | State::InFlight => None,
        })?;
        self.ended -= 1;
        self.release(index);
        Some((index, Err(error)))
    }

    fn release(&mut self, index: usize) {
        self.slots[index].state = State::Free;
        self.free.push(index as u16);
    }

    /// Takes the chain of slot `index` back from the device.
    fn take_back(&mut self, token: u16, index: usize) -> Option<(usize, Result<(), DiskError>)> {
        let shared = self.shared_of(index);
        let slot = &self.slots[index];
        let mut buffers = Buffers::new();
        // SAFETY: the device has put the chain into its used ring, so it is done with the buffers, and the owner is
        // still in the slot.
        unsafe { buffers.fill(slot.kind == Kind::Write, &slot.segments[..slot.segment_count], shared) };
        let (inputs, outputs) = buffers.lists();
        // SAFETY: these are the buffers that `enqueue` added under this token: the slot has not changed since.
        let popped = unsafe { self.ring.pop(token, inputs, outputs) };
        if popped.is_err() {
            return None;
        }
        // SAFETY: the device is done with the slot's memory. Volatile, as the device wrote it.
        let status = unsafe { core::ptr::read_volatile(status_of(shared)) };
        self.slot_of[usize::from(token)] = NO_SLOT;
        self.in_flight -= 1;
        self.release(index);
        let result = match status {
            0 => Ok(()),
            2 => Err(DiskError::Unsupported),
            _ => Err(DiskError::Io),
        };
        Some((index, result))
    }

    /// Gives the device up if it is gone, says that it is broken, or takes too long for a request.
    fn check_deadlines(&mut self) {
        let now = micros();
        if now < self.next_check_us || self.failed.is_some() {
            return;
        }
        self.next_check_us = now + CHECK_INTERVAL_US;
        let status = self.transport.get_status();
        if status.contains(DeviceStatus::DEVICE_NEEDS_RESET) {
            let reason = if is_absent(status) { "it is not there any more" } else { "it asks for a reset" };
            self.give_up(DiskError::Gone, reason);
            return;
        }
        let in_flight = self.slots.iter().filter(|slot| slot.state == State::InFlight);
        let oldest = in_flight.map(|slot| slot.started_us).min();
        // A request may have ended already and wait in the used ring because nobody polled: that is not late.
        if oldest.is_some_and(|oldest| now.saturating_sub(oldest) > self.timeout_us) && self.ring.peek().is_none() {
            self.give_up(DiskError::Timeout, "a request takes too long");
        }
    }

    /// Resets the device for good. Requests in flight end with `error` if the device lets go of them.
    fn give_up(&mut self, error: DiskError, reason: &str) {
        println!("disk {}: given up: {reason}", self.place);
        self.failed = Some(DiskError::Gone);
        if !self.reset() {
            println!("disk {}: it does not reset; {} requests are lost", self.place, self.in_flight);
            return;
        }
        for slot in self.slots.iter_mut().filter(|slot| slot.state == State::InFlight) {
            slot.state = State::Ended(error);
        }
        self.ended += self.in_flight;
        self.in_flight = 0;
    }

    /// Resets the device; whether it has let go of everything.
    fn reset(&mut self) -> bool {
        self.transport.set_status(DeviceStatus::empty());
        let deadline = micros() + RESET_LIMIT_US;
        loop {
            let status = self.transport.get_status();
            if status == DeviceStatus::empty() || is_absent(status) {
                return true;
            }
            if micros() > deadline {
                return false;
            }
            core::hint::spin_loop();
        }
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

/// Whether all bits are set, as they are where no device answers: the driver itself never sets `FAILED`.
fn is_absent(status: DeviceStatus) -> bool {
    status.contains(DeviceStatus::all())
}
