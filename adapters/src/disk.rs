//! What a driver that waits is asked for.
#![forbid(unsafe_code)]

use crate::AsyncDisk;
use arenite_core::{DeviceError, DeviceGeometry};

/// A disk that reads and writes, and waits until it has. To be made a [`FlushDisk`] before a store can use it.
pub trait Disk: Send {
    /// What the disk is like. Constant. `queue_depth` and `discard` do not count.
    fn geometry(&self) -> DeviceGeometry;

    /// Fills `bytes` from byte address `addr` on. Address and length are multiples of the logical sector.
    ///
    /// # Errors
    /// Whatever went wrong; `bytes` may hold anything then.
    fn read(&mut self, addr: u64, bytes: &mut [u8]) -> Result<(), DeviceError>;

    /// Writes `bytes` from byte address `addr` on. Returns when the disk has taken them, be it into a cache.
    ///
    /// # Errors
    /// Whatever went wrong; any part may have been written then.
    fn write(&mut self, addr: u64, bytes: &[u8]) -> Result<(), DeviceError>;
}

/// A disk of blocks of one size, whose driver tells nothing else. Whether it has a cache is unknown, so it may.
#[cfg(any(feature = "block-device-driver", feature = "embedded-sdmmc"))]
pub(crate) fn geometry(len_bytes: u64, block_len_bytes: u32) -> DeviceGeometry {
    DeviceGeometry {
        len_bytes,
        logical_sector_len_bytes: block_len_bytes,
        physical_sector_len_bytes: block_len_bytes,
        max_transfer_len_bytes: 1 << 20,
        max_segments: 64,
        queue_depth: 1,
        read_only: false,
        volatile_cache: true,
        discard: false,
    }
}

/// A disk that can also flush.
pub trait FlushDisk: Disk {
    /// Makes durable everything that was written, and returns when it is.
    ///
    /// # Errors
    /// [`DeviceError::Unsupported`] if the disk turns out to know no flush; never `Ok` in that case.
    fn flush(&mut self) -> Result<(), DeviceError>;
}

/// A disk without a flush, with the claim that it needs none: **every write that has ended is durable**, so that power
/// may fail at the next instant. Write-protected media, SD cards whose driver waits until the card is no longer busy,
/// memory with a battery. Where the claim is wrong, a power failure loses or destroys commits that were acknowledged.
#[derive(Debug)]
pub struct AssumeWriteThrough<D>(pub D);

impl<D: Disk> Disk for AssumeWriteThrough<D> {
    fn geometry(&self) -> DeviceGeometry {
        DeviceGeometry { volatile_cache: false, ..self.0.geometry() }
    }

    fn read(&mut self, addr: u64, bytes: &mut [u8]) -> Result<(), DeviceError> {
        self.0.read(addr, bytes)
    }

    fn write(&mut self, addr: u64, bytes: &[u8]) -> Result<(), DeviceError> {
        self.0.write(addr, bytes)
    }
}

impl<D: Disk> FlushDisk for AssumeWriteThrough<D> {
    fn flush(&mut self) -> Result<(), DeviceError> {
        Ok(())
    }
}

/// A disk whose trait knows no flush, and a function that flushes it.
#[derive(Debug)]
pub struct FlushWith<D, F> {
    pub(crate) disk: D,
    pub(crate) flush: F,
}

impl<D: Disk, F: FnMut(&mut D) -> Result<(), DeviceError> + Send> FlushWith<D, F> {
    /// `flush` makes durable everything that was written to `disk`, and returns when it is.
    pub fn new(disk: D, flush: F) -> Self {
        Self { disk, flush }
    }
}

impl<D: AsyncDisk, F: AsyncFnMut(&mut D) -> Result<(), DeviceError>> FlushWith<D, F> {
    /// The same for a driver that is awaited, and a function that is.
    pub fn new_async(disk: D, flush: F) -> Self {
        Self { disk, flush }
    }
}

impl<D, F> FlushWith<D, F> {
    /// The disk below.
    pub fn disk_mut(&mut self) -> &mut D {
        &mut self.disk
    }
}

impl<D: Disk, F: Send> Disk for FlushWith<D, F> {
    fn geometry(&self) -> DeviceGeometry {
        self.disk.geometry()
    }

    fn read(&mut self, addr: u64, bytes: &mut [u8]) -> Result<(), DeviceError> {
        self.disk.read(addr, bytes)
    }

    fn write(&mut self, addr: u64, bytes: &[u8]) -> Result<(), DeviceError> {
        self.disk.write(addr, bytes)
    }
}

impl<D: Disk, F: FnMut(&mut D) -> Result<(), DeviceError> + Send> FlushDisk for FlushWith<D, F> {
    fn flush(&mut self) -> Result<(), DeviceError> {
        (self.flush)(&mut self.disk)
    }
}
