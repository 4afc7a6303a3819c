//! A driver with the trait of `block-device-driver` as a disk.
//!
//! That trait is asynchronous. So this is an [`crate::AsyncDisk`]: with [`crate::Tasked`] a task of the executor awaits
//! the driver, and others go on meanwhile.
//!
//! It is a [`Disk`] too, for kernels without an executor: then each future is polled to its end where it stands,
//! without a waker. That suits drivers whose futures look at the hardware when they are polled. One that only an
//! interrupt and its waker move along works as well, as long as that interrupt can come while the store is stepped.
//! There is no limit in time either way: that is the driver's business.
//!
//! The trait knows no flush: see [`crate::AssumeWriteThrough`] and [`crate::FlushWith`].
#![forbid(unsafe_code)]

use crate::disk::geometry;
use crate::{AsyncDisk, Disk};
use aligned::Aligned;
use arenite_core::{DeviceError, DeviceGeometry};
use block_device_driver::{slice_to_blocks, slice_to_blocks_mut, BlockDevice};
use core::future::Future;
use core::pin::pin;
use core::task::{Context, Poll, Waker};
use core::{fmt, mem};

/// A disk over a driver of blocks of `SIZE` bytes: 512, or any larger power of two that the store's blocks are
/// multiples of.
pub struct BlockDriverDisk<D, const SIZE: usize> {
    driver: D,
    len_bytes: u64,
}

/// Polls a future until it is ready.
fn wait<F: Future>(future: F) -> F::Output {
    let mut future = pin!(future);
    let mut context = Context::from_waker(Waker::noop());
    loop {
        match future.as_mut().poll(&mut context) {
            Poll::Ready(output) => return output,
            Poll::Pending => core::hint::spin_loop(),
        }
    }
}

impl<D: BlockDevice<SIZE>, const SIZE: usize> BlockDriverDisk<D, SIZE> {
    const ALIGN: usize = mem::align_of::<Aligned<D::Align, ()>>();

    /// A disk over `driver`, whose size is asked for once.
    ///
    /// # Errors
    /// The driver does not tell its size.
    pub fn new(driver: D) -> Result<Self, D::Error> {
        wait(Self::open(driver))
    }

    /// [`BlockDriverDisk::new`] that awaits the driver.
    ///
    /// # Errors
    /// The driver does not tell its size.
    pub async fn open(mut driver: D) -> Result<Self, D::Error> {
        const { assert!(SIZE >= 512 && SIZE.is_power_of_two(), "blocks of 512 bytes or more") };
        const { assert!(SIZE.is_multiple_of(Self::ALIGN), "an array of blocks must not have gaps") };
        let len_bytes = driver.size().await?;
        Ok(Self { driver, len_bytes: len_bytes - len_bytes % SIZE as u64 })
    }

    /// The driver, for what its trait does not know, such as a flush.
    pub fn driver_mut(&mut self) -> &mut D {
        &mut self.driver
    }

    /// The driver back.
    pub fn into_inner(self) -> D {
        self.driver
    }

    /// The number of the block at `addr`, if blocks can be made of these bytes.
    fn first_block(addr: u64, bytes: &[u8]) -> Result<u32, DeviceError> {
        let whole = addr.is_multiple_of(SIZE as u64) && bytes.len().is_multiple_of(SIZE);
        if !whole || !bytes.as_ptr().addr().is_multiple_of(Self::ALIGN) {
            return Err(DeviceError::Unsupported);
        }
        u32::try_from(addr / SIZE as u64).map_err(|_| DeviceError::Unsupported)
    }
}

impl<D: BlockDevice<SIZE> + Send, const SIZE: usize> Disk for BlockDriverDisk<D, SIZE> {
    fn geometry(&self) -> DeviceGeometry {
        geometry(self.len_bytes, SIZE as u32)
    }

    fn read(&mut self, addr: u64, bytes: &mut [u8]) -> Result<(), DeviceError> {
        wait(AsyncDisk::read(self, addr, bytes))
    }

    fn write(&mut self, addr: u64, bytes: &[u8]) -> Result<(), DeviceError> {
        wait(AsyncDisk::write(self, addr, bytes))
    }
}

impl<D: BlockDevice<SIZE>, const SIZE: usize> AsyncDisk for BlockDriverDisk<D, SIZE> {
    fn geometry(&self) -> DeviceGeometry {
        geometry(self.len_bytes, SIZE as u32)
    }

    async fn read(&mut self, addr: u64, bytes: &mut [u8]) -> Result<(), DeviceError> {
        let first = Self::first_block(addr, bytes)?;
        self.driver.read(first, slice_to_blocks_mut(bytes)).await.map_err(|_| DeviceError::Io)
    }

    async fn write(&mut self, addr: u64, bytes: &[u8]) -> Result<(), DeviceError> {
        let first = Self::first_block(addr, bytes)?;
        self.driver.write(first, slice_to_blocks(bytes)).await.map_err(|_| DeviceError::Io)
    }
}

impl<D, const SIZE: usize> fmt::Debug for BlockDriverDisk<D, SIZE> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BlockDriverDisk").field("len_bytes", &self.len_bytes).finish_non_exhaustive()
    }
}
