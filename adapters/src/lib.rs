//! Block drivers of other crates as devices of the store.
//!
//! ```text
//!   Store             arenite-core
//!     |
//!   Blocking          an `arenite_core::Device`: takes one request, carries it out when it is polled
//!     |
//!   FlushDisk         reads, writes and flushes, and waits for each
//!     |- VirtioDisk                          flushes by itself                  feature `virtio`
//!     |- FlushWith<D, F>                     flushes by a function of yours
//!     `- AssumeWriteThrough<D>               does not flush; for media that keep every write that has ended
//!                        |
//!                      Disk                  reads and writes, and waits for each
//!                        |- SdDisk           over `embedded-sdmmc`              feature `embedded-sdmmc`
//!                        |- BlockDriverDisk  over `block-device-driver`         feature `block-device-driver`
//!                        `- yours
//! ```
//!
//! ```
//! use arenite_adapters::{Blocking, Disk, FlushDisk};
//! use arenite_core::{Device, DeviceError, DeviceGeometry};
//!
//! struct Ram(Vec<u8>);
//!
//! impl Disk for Ram {
//!     fn geometry(&self) -> DeviceGeometry {
//!         DeviceGeometry {
//!             len_bytes: self.0.len() as u64,
//!             logical_sector_len_bytes: 512,
//!             physical_sector_len_bytes: 512,
//!             max_transfer_len_bytes: 1 << 20,
//!             max_segments: 16,
//!             queue_depth: 1,
//!             read_only: false,
//!             volatile_cache: false,
//!             discard: false,
//!         }
//!     }
//!
//!     fn read(&mut self, addr: u64, bytes: &mut [u8]) -> Result<(), DeviceError> {
//!         bytes.copy_from_slice(&self.0[addr as usize..][..bytes.len()]);
//!         Ok(())
//!     }
//!
//!     fn write(&mut self, addr: u64, bytes: &[u8]) -> Result<(), DeviceError> {
//!         self.0[addr as usize..][..bytes.len()].copy_from_slice(bytes);
//!         Ok(())
//!     }
//! }
//!
//! impl FlushDisk for Ram {
//!     fn flush(&mut self) -> Result<(), DeviceError> {
//!         Ok(())
//!     }
//! }
//!
//! let disk = Blocking::new(Ram(vec![0; 1 << 20])); // what `Store::mount` takes
//! assert_eq!(disk.geometry().len_bytes, 1 << 20);
//! ```
//!
//! For an executor, whose drivers are awaited:
//!
//! ```text
//!   Tasked            an `arenite_core::Device` whose work a task does, by `Tasked::run`
//!     |
//!   AsyncFlushDisk    FlushWith<D, F>, AssumeWriteThrough<D>, yours
//!                        |
//!                      AsyncDisk             BlockDriverDisk over `block-device-driver`, yours
//! ```
//!
//! Files and memory of a host are devices in `arenite-shim`, a partition is one in `arenite-partition`.
//!
//! # What is assumed of the media
//! The six statements at the head of [`arenite_core::device`], as of every device. The third is the one that adapters
//! get wrong: *a completed flush makes durable what had completed before*. So a driver that cannot flush is no
//! [`FlushDisk`], and whoever knows that its medium needs no flush says so in so many words: [`AssumeWriteThrough`].
//!
//! # What blocking costs
//! A [`Blocking`] works inside [`Device::poll`](arenite_core::Device::poll), one request at a time: whoever calls
//! `Store::step` may wait there for as long as the disk takes. Other CPUs go on: the lock is not held meanwhile. A
//! driver of one's own that implements `Device` directly keeps the disk busier; `kernel-demo/src/simple_disk.rs` is one
//! over `virtio-drivers` with four requests in flight.
#![no_std]
#![deny(unsafe_code)]

#[cfg(test)]
extern crate std;

mod blocking;
mod disk;
#[cfg(feature = "block-device-driver")]
mod driver;
mod jobs;
#[cfg(feature = "embedded-sdmmc")]
mod sd;
mod tasked;
#[cfg(feature = "virtio")]
#[allow(unsafe_code)]
mod virtio;

pub use blocking::Blocking;
pub use disk::{AssumeWriteThrough, Disk, FlushDisk, FlushWith};
#[cfg(feature = "block-device-driver")]
pub use driver::BlockDriverDisk;
#[cfg(feature = "embedded-sdmmc")]
pub use sd::SdDisk;
pub use tasked::{AsyncDisk, AsyncFlushDisk, Tasked};
#[cfg(feature = "virtio")]
pub use virtio::{Bell, VirtioDisk};
