//! `VirtIOBlk` of `virtio-drivers` as a disk.
//!
//! Three things about that driver are put right for a store:
//!
//! - Its `flush` answers `Ok` on a device that was never asked to flush. [`VirtioDisk`] looks at what the device offers
//!   before the driver does, and answers [`DeviceError::Unsupported`] if flushing is not among it.
//! - It reads and writes without a limit in time. Here a device that does not answer is reset, after which it touches
//!   no memory of ours, and the request ends as [`DeviceError::Timeout`].
//! - It may fail to tell the device of a request: nothing orders its look at the device's wish to be told behind its
//!   own store of the queue's index. While it waits, the disk rings again: the driver offers no way to do so, but it
//!   passes `ack_interrupt` on to the transport, and [`Bell`], a transport around yours, rings then.
//!
//! A flush has neither: the driver begins and ends it in one call, which waits for as long as the device takes. Before
//! it the disk lets the device come to rest, in which it wants to be told. A kernel that must not wait for ever has a
//! driver of its own; `kernel-demo/src/blk` is one.
//!
//! Invariants: a request of the driver is begun and ended within one call, in which the buffers are borrowed; if it
//! does not end, the device is reset before the call returns.
//!
//! Works on any transport, for devices with a queue, of 512-byte or larger sectors. No interrupts are wanted from the
//! device.

use crate::{Disk, FlushDisk};
use arenite_core::{DeviceError, DeviceGeometry};
use core::fmt;
use virtio_drivers::device::blk::{BlkReq, BlkResp, VirtIOBlk, SECTOR_SIZE};
use virtio_drivers::transport::{DeviceStatus, DeviceType, InterruptStatus, Transport};
use virtio_drivers::{Hal, PhysAddr};
use zerocopy::{FromBytes, Immutable, IntoBytes};

/// Bits among the features of a block device.
const FEATURE_READ_ONLY: u64 = 1 << 5;
const FEATURE_SECTOR_LEN: u64 = 1 << 6;
const FEATURE_FLUSH: u64 = 1 << 9;
const FEATURE_TOPOLOGY: u64 = 1 << 10;
/// Places in the configuration of a block device.
const CONFIG_SECTOR_LEN: usize = 20;
const CONFIG_PHYSICAL_EXPONENT: usize = 24;
/// The queue of a block device.
const QUEUE: u16 = 0;
/// Turns of waiting between two rings.
const TURNS_PER_RING: u32 = 1 << 16;
/// Turns of waiting after which a device that has ended its last request is at rest.
const TURNS_TO_REST: u32 = 1 << 10;
/// Turns of waiting until the device is given up: of the order of a minute.
const DEFAULT_PATIENCE: u32 = u32::MAX;
/// What one request may carry. Any device takes as much in one buffer.
const MAX_TRANSFER: u32 = 1 << 20;

/// A transport around another one: acknowledging an interrupt also rings the queue, and dropping it resets the device.
pub struct Bell<T: Transport>(T);

impl<T: Transport> Drop for Bell<T> {
    /// Returns only when the device no longer touches memory, which it says by a status of zero.
    fn drop(&mut self) {
        self.0.set_status(DeviceStatus::empty());
        while !self.0.get_status().is_empty() {
            core::hint::spin_loop();
        }
    }
}

impl<T: Transport> Transport for Bell<T> {
    fn device_type(&self) -> DeviceType {
        self.0.device_type()
    }
    fn read_device_features(&mut self) -> u64 {
        self.0.read_device_features()
    }
    fn write_driver_features(&mut self, driver_features: u64) {
        self.0.write_driver_features(driver_features);
    }
    fn max_queue_size(&mut self, queue: u16) -> u32 {
        self.0.max_queue_size(queue)
    }
    fn notify(&mut self, queue: u16) {
        self.0.notify(queue);
    }
    fn get_status(&self) -> DeviceStatus {
        self.0.get_status()
    }
    fn set_status(&mut self, status: DeviceStatus) {
        self.0.set_status(status);
    }
    fn set_guest_page_size(&mut self, guest_page_size: u32) {
        self.0.set_guest_page_size(guest_page_size);
    }
    fn requires_legacy_layout(&self) -> bool {
        self.0.requires_legacy_layout()
    }
    fn queue_set(&mut self, queue: u16, size: u32, descriptors: PhysAddr, driver: PhysAddr, device: PhysAddr) {
        self.0.queue_set(queue, size, descriptors, driver, device);
    }
    fn queue_unset(&mut self, queue: u16) {
        self.0.queue_unset(queue);
    }
    fn queue_used(&mut self, queue: u16) -> bool {
        self.0.queue_used(queue)
    }
    fn ack_interrupt(&mut self) -> InterruptStatus {
        self.0.notify(QUEUE);
        self.0.ack_interrupt()
    }
    fn read_config_generation(&self) -> u32 {
        self.0.read_config_generation()
    }
    fn read_config_space<C: FromBytes + IntoBytes>(&self, offset: usize) -> virtio_drivers::Result<C> {
        self.0.read_config_space(offset)
    }
    fn write_config_space<C: IntoBytes + Immutable>(&mut self, offset: usize, value: C) -> virtio_drivers::Result<()> {
        self.0.write_config_space(offset, value)
    }
}

/// A virtio disk. See the head of this file.
pub struct VirtioDisk<H: Hal, T: Transport> {
    /// Gone when the device was given up.
    driver: Option<VirtIOBlk<H, Bell<T>>>,
    geometry: DeviceGeometry,
    flush: bool,
    patience: u32,
}

/// Length of logical and physical sectors, as far as the device says.
fn sectors<T: Transport>(transport: &T, features: u64) -> (u32, u32) {
    let told = |feature| features & feature != 0;
    let logical = if told(FEATURE_SECTOR_LEN) { transport.read_config_space(CONFIG_SECTOR_LEN) } else { Ok(0) };
    let logical = logical.ok().filter(|len: &u32| len.is_power_of_two()).unwrap_or(0).max(SECTOR_SIZE as u32);
    let exponent = if told(FEATURE_TOPOLOGY) { transport.read_config_space(CONFIG_PHYSICAL_EXPONENT) } else { Ok(0) };
    let physical = exponent.ok().and_then(|exponent: u8| logical.checked_mul(1u32.checked_shl(exponent.into())?));
    (logical, physical.unwrap_or(logical))
}

impl<H: Hal, T: Transport> VirtioDisk<H, T> {
    /// Starts the device behind `transport`.
    ///
    /// # Errors
    /// What the driver says of it.
    pub fn new(transport: T) -> virtio_drivers::Result<Self> {
        let mut transport = Bell(transport);
        let features = transport.read_device_features();
        let (logical, physical) = sectors(&transport, features);
        let mut driver = VirtIOBlk::new(transport)?;
        driver.disable_interrupts();
        let len_bytes = driver.capacity().saturating_mul(SECTOR_SIZE as u64);
        let geometry = DeviceGeometry {
            len_bytes: len_bytes - len_bytes % u64::from(logical),
            logical_sector_len_bytes: logical,
            physical_sector_len_bytes: physical,
            max_transfer_len_bytes: MAX_TRANSFER,
            max_segments: 64,
            queue_depth: 1,
            read_only: features & FEATURE_READ_ONLY != 0,
            // The driver does not ask, so it has to be assumed.
            volatile_cache: true,
            discard: false,
        };
        let flush = features & FEATURE_FLUSH != 0;
        Ok(Self { driver: Some(driver), geometry, flush, patience: DEFAULT_PATIENCE })
    }

    /// Sets for how many turns of a waiting loop the device may take over one request.
    #[must_use]
    pub fn with_patience(self, turns: u32) -> Self {
        Self { patience: turns, ..self }
    }

    /// Whether the device can flush. A store on one that cannot reads, and refuses to commit.
    pub fn can_flush(&self) -> bool {
        self.flush
    }

    /// Waits for the request with this token, ringing now and then. Otherwise lets go of the device for good; when this
    /// returns an error, the device touches no memory any more.
    fn wait(&mut self, token: u16) -> Result<&mut VirtIOBlk<H, Bell<T>>, DeviceError> {
        let driver = self.driver.as_mut().ok_or(DeviceError::Gone)?;
        let mut turns = 0;
        let seen = loop {
            if let Some(seen) = driver.peek_used() {
                break Some(seen);
            }
            if turns == self.patience {
                break None;
            }
            turns += 1;
            if turns.is_multiple_of(TURNS_PER_RING) {
                driver.ack_interrupt();
            }
            core::hint::spin_loop();
        };
        if seen != Some(token) {
            self.driver = None;
            return Err(if seen.is_none() { DeviceError::Timeout } else { DeviceError::Gone });
        }
        self.driver.as_mut().ok_or(DeviceError::Gone)
    }

    /// The driver and the sector number, if the transfer makes sense: the driver would panic.
    fn begin(&mut self, addr: u64, len: usize) -> Result<(&mut VirtIOBlk<H, Bell<T>>, usize), DeviceError> {
        let unit = SECTOR_SIZE as u64;
        let sector = usize::try_from(addr / unit).map_err(|_| DeviceError::Unsupported)?;
        if !addr.is_multiple_of(unit) || len == 0 || !len.is_multiple_of(SECTOR_SIZE) {
            return Err(DeviceError::Unsupported);
        }
        Ok((self.driver.as_mut().ok_or(DeviceError::Gone)?, sector))
    }
}

fn reason(error: virtio_drivers::Error) -> DeviceError {
    match error {
        virtio_drivers::Error::Unsupported => DeviceError::Unsupported,
        _ => DeviceError::Io,
    }
}

// The driver says nothing about threads if its transport does not; then neither does this.
impl<H: Hal, T: Transport> Disk for VirtioDisk<H, T>
where
    Self: Send,
{
    fn geometry(&self) -> DeviceGeometry {
        self.geometry
    }

    fn read(&mut self, addr: u64, bytes: &mut [u8]) -> Result<(), DeviceError> {
        let (driver, sector) = self.begin(addr, bytes.len())?;
        let (mut head, mut status) = (BlkReq::default(), BlkResp::default());
        // SAFETY: `head`, `bytes` and `status` are not touched until `wait` has returned, and live longer than that:
        // then the request has ended, or the device has been reset.
        let token = unsafe { driver.read_blocks_nb(sector, &mut head, bytes, &mut status) }.map_err(reason)?;
        let driver = self.wait(token)?;
        // SAFETY: these are the buffers that were given under this token.
        unsafe { driver.complete_read_blocks(token, &head, bytes, &mut status) }.map_err(reason)
    }

    fn write(&mut self, addr: u64, bytes: &[u8]) -> Result<(), DeviceError> {
        let (driver, sector) = self.begin(addr, bytes.len())?;
        let (mut head, mut status) = (BlkReq::default(), BlkResp::default());
        // SAFETY: as in `read`; nobody changes `bytes` while it is borrowed.
        let token = unsafe { driver.write_blocks_nb(sector, &mut head, bytes, &mut status) }.map_err(reason)?;
        let driver = self.wait(token)?;
        // SAFETY: these are the buffers that were given under this token.
        unsafe { driver.complete_write_blocks(token, &head, bytes, &mut status) }.map_err(reason)
    }
}

impl<H: Hal, T: Transport> FlushDisk for VirtioDisk<H, T>
where
    Self: Send,
{
    fn flush(&mut self) -> Result<(), DeviceError> {
        if !self.flush {
            return Err(DeviceError::Unsupported);
        }
        let driver = self.driver.as_mut().ok_or(DeviceError::Gone)?;
        // Nothing rings while the driver waits for a flush. A device at rest wants to be told of every request.
        (0..TURNS_TO_REST).for_each(|_| core::hint::spin_loop());
        driver.flush().map_err(reason)
    }
}

impl<H: Hal, T: Transport> fmt::Debug for VirtioDisk<H, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { geometry, flush, .. } = self;
        f.debug_struct("VirtioDisk").field("geometry", geometry).field("flush", flush).finish_non_exhaustive()
    }
}
