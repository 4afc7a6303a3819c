//! Stores on drivers with the trait of `block-device-driver`.
#![cfg(feature = "block-device-driver")]

mod common;

use aligned::{Aligned, A4};
use arenite_adapters::{BlockDriverDisk, Disk, FlushWith};
use arenite_core::DeviceError;
use block_device_driver::{blocks_to_slice, blocks_to_slice_mut, BlockDevice};
use common::{round_trip, VecDisk};
use std::future::poll_fn;
use std::task::Poll;

/// A driver that is not ready at once, of blocks of `SIZE` bytes.
struct Slow<const SIZE: usize> {
    disk: VecDisk,
    transfers: u32,
}

impl<const SIZE: usize> Slow<SIZE> {
    fn new() -> Self {
        Self { disk: VecDisk::new(), transfers: 0 }
    }

    async fn work(&mut self) {
        let mut turns = 3;
        self.transfers += 1;
        poll_fn(|_| {
            turns -= 1;
            if turns > 0 {
                Poll::Pending
            } else {
                Poll::Ready(())
            }
        })
        .await;
    }

    fn flush(disk: &mut BlockDriverDisk<Self, SIZE>) -> Result<(), DeviceError> {
        disk.driver_mut().disk.sync()
    }
}

impl<const SIZE: usize> BlockDevice<SIZE> for Slow<SIZE> {
    type Error = DeviceError;
    type Align = A4;

    async fn read(&mut self, block: u32, data: &mut [Aligned<A4, [u8; SIZE]>]) -> Result<(), DeviceError> {
        self.work().await;
        self.disk.read(u64::from(block) * SIZE as u64, blocks_to_slice_mut(data))
    }

    async fn write(&mut self, block: u32, data: &[Aligned<A4, [u8; SIZE]>]) -> Result<(), DeviceError> {
        self.work().await;
        self.disk.write(u64::from(block) * SIZE as u64, blocks_to_slice(data))
    }

    async fn size(&mut self) -> Result<u64, DeviceError> {
        self.work().await;
        Ok(self.disk.geometry.len_bytes)
    }
}

#[test]
fn a_store_lives_on_a_driver_that_is_polled() {
    let disk = BlockDriverDisk::new(Slow::<512>::new()).unwrap();
    let mut disk = round_trip(FlushWith::new(disk, Slow::flush));
    assert!(disk.disk_mut().driver_mut().transfers > 100);
    assert!(disk.disk_mut().driver_mut().disk.flushes >= 3);
}

#[test]
fn blocks_may_be_larger_than_512_bytes() {
    let disk = BlockDriverDisk::new(Slow::<4096>::new()).unwrap();
    assert_eq!(disk.geometry().physical_sector_len_bytes, 4096);
    round_trip(FlushWith::new(disk, Slow::flush));
}

#[test]
fn odd_transfers_are_refused() {
    let mut disk = BlockDriverDisk::new(Slow::<512>::new()).unwrap();
    let mut bytes = Aligned::<A4, _>([0; 1024]);
    assert_eq!(disk.read(1, &mut bytes[..512]), Err(DeviceError::Unsupported));
    assert_eq!(disk.read(0, &mut bytes[..511]), Err(DeviceError::Unsupported));
    assert_eq!(disk.read(0, &mut bytes[1..513]), Err(DeviceError::Unsupported));
    assert_eq!(disk.write(u64::MAX - 511, &bytes[..512]), Err(DeviceError::Unsupported));
    assert_eq!(disk.write(512, &bytes[..]), Ok(()));
}
