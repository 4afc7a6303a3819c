//! The simple alternative: the core's [`Device`] over the block driver of `virtio-drivers`, `VirtIOBlk`.
//!
//! To be copied where the driver in `blk` is more than is wanted: this file, a `virtio_drivers::Hal`, a clock. What it
//! costs:
//!
//! * four requests at once, of one buffer each: `VirtIOBlk` has a queue of 16 entries and takes single buffers;
//! * a flush waits inside `poll`, once all that was in flight has ended, and without a limit in time: `VirtIOBlk` knows
//!   no other way. All else is as asynchronous as the contract of `Device` wants it, and limited in time.
//!
//! Two things that `VirtIOBlk` gets wrong for a store are put right here. Its `flush` answers `Ok` on a device that
//! cannot flush: here such a device answers `Unsupported`. And it may fail to notify the device of a request, as
//! nothing orders its look at the device's flag after its own store of the index: if nothing ends for a while, the disk
//! reads a sector of its own, which notifies the device of both.
//!
//! Invariants: a slot is busy from the moment its buffer is given to the device until the device returns it or is
//! reset; unless it is the driver's own it then holds the request that owns the buffer. What the device writes (tokens)
//! is compared, never used as an index. Lock order: disk, then console.

use alloc::boxed::Box;
use core::ptr::NonNull;

use arenite_core::{Completion, Device, DeviceError, DeviceGeometry, FlushTag, Request, RequestKind};
use arenite_partition::ReadSectors;
use spin::Mutex;
use virtio_drivers::device::blk::{BlkReq, BlkResp, VirtIOBlk, SECTOR_SIZE};
use virtio_drivers::transport::SomeTransport;

use crate::blk::{DiskInfo, Place, ReadyDisk};
use crate::dma::KernelHal;
use crate::failure::Failure;
use crate::outcome::Outcome;
use crate::{println, time};

type Driver = VirtIOBlk<KernelHal, SomeTransport<'static>>;

/// Requests at once: each takes a header, a buffer and a status of the queue's 16 entries, and one is the disk's own.
const REQUESTS: usize = 4;
/// The slot of the disk's own reads.
const OWN_SLOT: usize = REQUESTS;
const DEFAULT_TIMEOUT_US: u64 = 30_000_000;
/// After so long without an end, the device is reminded of what it has.
const REMIND_US: u64 = 200_000;

/// What the device sees of a request beside its buffer. Never freed.
#[derive(Default)]
struct Envelope {
    header: BlkReq,
    status: BlkResp,
}

struct Slot {
    busy: bool,
    token: u16,
    write: bool,
    buffer: NonNull<[u8]>,
    envelope: NonNull<Envelope>,
    /// The owner of the buffer; none in the disk's own slot.
    request: Option<Request<'static>>,
    started_us: u64,
}

struct Inner {
    place: Place,
    /// Gone when the device was given up.
    driver: Option<Driver>,
    slots: [Slot; REQUESTS + 1],
    /// A request that makes no sense for the device; the next poll returns it.
    refused: Option<Request<'static>>,
    /// A flush that waits for the slots to become free.
    flush: Option<FlushTag>,
    timeout_us: u64,
    /// When something ended last, or the device was reminded.
    stirred_us: u64,
}

// SAFETY: the pointers lead to memory that belongs to this value or to the requests in it, and is tied to no CPU; the
// registers of the device can be used from any CPU, by one at a time.
unsafe impl Send for Inner {}

/// The disk. See the head of this file.
pub struct SimpleDisk {
    info: DiskInfo,
    inner: Mutex<Inner>,
}

impl SimpleDisk {
    /// Takes a disk over from the other driver, which has read what the disk is like.
    ///
    /// # Errors
    /// The disk cannot be used.
    pub fn open(disk: ReadyDisk, timeout_us: Option<u64>) -> Result<Self, Failure> {
        let info = disk.info().clone();
        let unusable = |why: &dyn core::fmt::Display| {
            Failure::new(Outcome::NoDisk, format_args!("disk {}: not usable: {why}", info.place))
        };
        let found = disk.release().map_err(|reason| unusable(&reason))?;
        let mut driver = Driver::new(found.transport).map_err(|error| unusable(&error))?;
        driver.disable_interrupts();
        let slot = |own: bool| Slot {
            busy: false,
            token: 0,
            write: false,
            buffer: NonNull::from(if own { Box::leak(Box::new([0; SECTOR_SIZE])) } else { <&mut [u8]>::default() }),
            envelope: NonNull::from(Box::leak(Box::<Envelope>::default())),
            request: None,
            started_us: 0,
        };
        let inner = Inner {
            place: info.place,
            driver: Some(driver),
            slots: core::array::from_fn(|index| slot(index == OWN_SLOT)),
            refused: None,
            flush: None,
            timeout_us: timeout_us.unwrap_or(DEFAULT_TIMEOUT_US),
            stirred_us: 0,
        };
        Ok(Self { info, inner: Mutex::new(inner) })
    }
}

impl Inner {
    /// Gives the buffer of a slot to the device; `false` if its queue is full.
    fn start(&mut self, index: usize, sector: u64) -> bool {
        let (Some(driver), Ok(sector)) = (self.driver.as_mut(), usize::try_from(sector)) else { return false };
        let slot = &mut self.slots[index];
        // SAFETY: the slot is not busy, so that nothing else refers to the envelope, which is never freed.
        let Envelope { header, status } = unsafe { slot.envelope.as_mut() };
        let added = if slot.write {
            // SAFETY: the request in the slot owns the buffer, does not change it, and stays there while it is busy.
            let buffer = unsafe { slot.buffer.as_ref() };
            // SAFETY: header and status are used again only when the slot is not busy; the buffer as above.
            unsafe { driver.write_blocks_nb(sector, header, buffer, status) }
        } else {
            // SAFETY: as above; and nobody accesses the buffer in the meantime.
            let buffer = unsafe { slot.buffer.as_mut() };
            // SAFETY: as for writes.
            unsafe { driver.read_blocks_nb(sector, header, buffer, status) }
        };
        let Ok(token) = added else { return false };
        (slot.busy, slot.token, slot.started_us) = (true, token, time::micros());
        true
    }

    /// Takes a slot back whose request the device has ended.
    fn finish(&mut self, index: usize) -> Result<(), DeviceError> {
        let Some(driver) = self.driver.as_mut() else { return Err(DeviceError::Gone) };
        let slot = &mut self.slots[index];
        slot.busy = false;
        // SAFETY: the device is done with the envelope.
        let Envelope { header, status } = unsafe { slot.envelope.as_mut() };
        let ended = if slot.write {
            // SAFETY: the request is still in the slot, so that its buffer is valid.
            let buffer = unsafe { slot.buffer.as_ref() };
            // SAFETY: these are what `start` has added under this token.
            unsafe { driver.complete_write_blocks(slot.token, header, buffer, status) }
        } else {
            // SAFETY: as for writes; nobody accesses the buffer until the request is returned.
            let buffer = unsafe { slot.buffer.as_mut() };
            // SAFETY: as for writes.
            unsafe { driver.complete_read_blocks(slot.token, header, buffer, status) }
        };
        ended.map_err(|error| match error {
            virtio_drivers::Error::Unsupported => DeviceError::Unsupported,
            _ => DeviceError::Io,
        })
    }

    fn submit(&mut self, mut request: Request<'static>) -> Result<(), Request<'static>> {
        let len = request.len_bytes();
        let buffer = match request.kind() {
            RequestKind::Read => request.buffers_mut().into_iter().flatten().next().map(NonNull::from),
            RequestKind::Write => request.buffers().into_iter().flatten().next().map(NonNull::from),
            _ => None,
        };
        let whole = len > 0 && len.is_multiple_of(SECTOR_SIZE as u64);
        let fits = buffer.filter(|buffer| buffer.len() as u64 == len && whole);
        let Some(buffer) = fits.filter(|_| self.driver.is_some()) else {
            if self.refused.is_some() {
                return Err(request);
            }
            self.refused = Some(request);
            return Ok(());
        };
        let idle = self.slots[..REQUESTS].iter().position(|slot| !slot.busy);
        // While a flush waits for the slots to become free, none is filled again.
        let Some(index) = idle.filter(|_| self.flush.is_none()) else { return Err(request) };
        let sector = request.addr() / SECTOR_SIZE as u64;
        self.slots[index].write = request.kind() == RequestKind::Write;
        self.slots[index].buffer = buffer;
        if !self.start(index, sector) {
            return Err(request);
        }
        self.slots[index].request = Some(request);
        Ok(())
    }

    fn poll(&mut self) -> Option<Completion<'static>> {
        if let Some(request) = self.refused.take() {
            let error = if self.driver.is_some() { DeviceError::Unsupported } else { DeviceError::Gone };
            return Some(Completion::Transfer(request, Err(error)));
        }
        let Some(driver) = self.driver.as_mut() else { return self.poll_given_up() };
        if let Some(token) = driver.peek_used() {
            self.stirred_us = time::micros();
            let Some(index) = self.slots.iter().position(|slot| slot.busy && slot.token == token) else {
                self.give_up("it returned a request that it was not given");
                return None;
            };
            let result = self.finish(index);
            return self.slots[index].request.take().map(|request| Completion::Transfer(request, result));
        }
        let busy = self.slots.iter().filter(|slot| slot.busy);
        let Some(oldest) = busy.map(|slot| slot.started_us).min() else {
            let tag = self.flush.take()?;
            return Some(Completion::Flush(tag, driver.flush().map_err(|_| DeviceError::Io)));
        };
        self.look_at_the_clock(oldest);
        None
    }

    fn look_at_the_clock(&mut self, oldest_us: u64) {
        let now = time::micros();
        if now.saturating_sub(oldest_us) > self.timeout_us {
            self.give_up("a request takes too long");
        } else if now.saturating_sub(self.stirred_us.max(oldest_us)) > REMIND_US && !self.slots[OWN_SLOT].busy {
            self.stirred_us = now;
            self.start(OWN_SLOT, 0);
        }
    }

    /// Lets go of the device for good. Dropping its driver resets it, after which it does not touch buffers any more.
    fn give_up(&mut self, reason: &str) {
        println!("disk {}: given up: {reason}", self.place);
        self.driver = None;
    }

    /// Returns one of the requests that the device will not finish.
    fn poll_given_up(&mut self) -> Option<Completion<'static>> {
        if let Some(request) = self.slots.iter_mut().find_map(|slot| slot.request.take()) {
            return Some(Completion::Transfer(request, Err(DeviceError::Timeout)));
        }
        self.flush.take().map(|tag| Completion::Flush(tag, Err(DeviceError::Gone)))
    }
}

impl Device<'static> for SimpleDisk {
    fn geometry(&self) -> DeviceGeometry {
        let info = &self.info;
        DeviceGeometry {
            len_bytes: info.sectors * SECTOR_SIZE as u64,
            logical_sector_len_bytes: info.logical_sector_bytes,
            physical_sector_len_bytes: info.physical_sector_bytes,
            max_transfer_len_bytes: info.max_segment_bytes.min(1 << 20),
            max_segments: 1,
            queue_depth: REQUESTS as u16,
            read_only: info.read_only,
            // `VirtIOBlk` does not ask, so it has to be assumed.
            volatile_cache: true,
            discard: false,
        }
    }

    fn submit(&self, request: Request<'static>) -> Result<(), Request<'static>> {
        self.inner.lock().submit(request)
    }

    fn flush(&self, tag: FlushTag) -> Result<(), FlushTag> {
        let mut inner = self.inner.lock();
        if inner.flush.is_some() {
            return Err(tag);
        }
        inner.flush = Some(tag);
        Ok(())
    }

    fn poll(&self) -> Option<Completion<'static>> {
        let mut inner = self.inner.lock();
        // `VirtIOBlk` agrees on flushes whenever they are offered.
        if !self.info.flush {
            if let Some(tag) = inner.flush.take() {
                return Some(Completion::Flush(tag, Err(DeviceError::Unsupported)));
            }
        }
        inner.poll()
    }
}

impl ReadSectors for &SimpleDisk {
    type Error = DeviceError;

    fn sector_len_bytes(&self) -> u32 {
        self.info.logical_sector_bytes
    }

    fn sectors(&self) -> u64 {
        self.info.sectors * SECTOR_SIZE as u64 / u64::from(self.info.logical_sector_bytes)
    }

    /// Waits, so that no store may be using the disk yet.
    fn read_sector(&mut self, lba: u64, sector: &mut [u8]) -> Result<(), DeviceError> {
        let first = lba.saturating_mul(u64::from(self.info.logical_sector_bytes) / SECTOR_SIZE as u64);
        let first = usize::try_from(first).map_err(|_| DeviceError::Unsupported)?;
        let mut inner = self.inner.lock();
        let driver = inner.driver.as_mut().ok_or(DeviceError::Gone)?;
        driver.read_blocks(first, sector).map_err(|_| DeviceError::Io)
    }
}
