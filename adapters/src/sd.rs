//! A block device of `embedded-sdmmc` as a disk: SD and MMC cards, and whatever else implements that trait.
//!
//! The trait knows no flush, so that this is a [`Disk`] and no [`crate::FlushDisk`]. The card driver of that crate
//! waits after each write until the card is no longer busy, and most cards have programmed their flash by then; whether
//! yours has is for you to say, with [`crate::AssumeWriteThrough`] or [`crate::FlushWith`]. Cards also move data about
//! by themselves, and some lose sectors nobody wrote when power fails meanwhile: those break the first two assumptions,
//! and the hashes only tell of it.
//!
//! Blocks of that crate are a type of their own, so that each is copied once.
#![forbid(unsafe_code)]

use crate::disk::geometry;
use crate::Disk;
use arenite_core::{DeviceError, DeviceGeometry};
use core::fmt;
use embedded_sdmmc_types::blockdevice::{Block, BlockDevice, BlockIdx};

/// A disk over a block device of `embedded-sdmmc`, with `BLOCKS` blocks of 512 bytes to copy through: what one command
/// of the card transfers at most. The default makes it 4 KiB.
pub struct SdDisk<D, const BLOCKS: usize = 8> {
    device: D,
    len_bytes: u64,
    copy: [Block; BLOCKS],
}

impl<D: BlockDevice, const BLOCKS: usize> SdDisk<D, BLOCKS> {
    /// A disk over `device`, whose size is asked for once.
    ///
    /// # Errors
    /// The device does not tell its size.
    pub fn new(device: D) -> Result<Self, D::Error> {
        const { assert!(BLOCKS > 0, "there must be something to copy through") };
        let len_bytes = u64::from(device.num_blocks()?.0) * Block::LEN as u64;
        Ok(Self { device, len_bytes, copy: core::array::from_fn(|_| Block::new()) })
    }

    /// The device, for what its trait does not know, such as a flush.
    pub fn device_mut(&mut self) -> &mut D {
        &mut self.device
    }

    /// The device back.
    pub fn into_inner(self) -> D {
        self.device
    }
}

/// The blocks of 512 bytes at `addr`, and whether `len` bytes are a whole number of them.
fn first_block(addr: u64, len: usize) -> Result<u32, DeviceError> {
    let whole = addr.is_multiple_of(Block::LEN as u64) && len.is_multiple_of(Block::LEN);
    let end = addr / Block::LEN as u64 + (len / Block::LEN) as u64;
    if !whole || end > u64::from(u32::MAX) {
        return Err(DeviceError::Unsupported);
    }
    u32::try_from(addr / Block::LEN as u64).map_err(|_| DeviceError::Unsupported)
}

impl<D: BlockDevice + Send, const BLOCKS: usize> Disk for SdDisk<D, BLOCKS> {
    fn geometry(&self) -> DeviceGeometry {
        geometry(self.len_bytes, Block::LEN_U32)
    }

    fn read(&mut self, addr: u64, bytes: &mut [u8]) -> Result<(), DeviceError> {
        let mut at = first_block(addr, bytes.len())?;
        for part in bytes.chunks_mut(BLOCKS * Block::LEN) {
            let blocks = &mut self.copy[..part.len() / Block::LEN];
            self.device.read(blocks, BlockIdx(at)).map_err(|_| DeviceError::Io)?;
            for (block, bytes) in blocks.iter().zip(part.chunks_exact_mut(Block::LEN)) {
                bytes.copy_from_slice(&block.contents);
            }
            at += blocks.len() as u32;
        }
        Ok(())
    }

    fn write(&mut self, addr: u64, bytes: &[u8]) -> Result<(), DeviceError> {
        let mut at = first_block(addr, bytes.len())?;
        for part in bytes.chunks(BLOCKS * Block::LEN) {
            let blocks = &mut self.copy[..part.len() / Block::LEN];
            for (block, bytes) in blocks.iter_mut().zip(part.chunks_exact(Block::LEN)) {
                block.contents.copy_from_slice(bytes);
            }
            self.device.write(blocks, BlockIdx(at)).map_err(|_| DeviceError::Io)?;
            at += blocks.len() as u32;
        }
        Ok(())
    }
}

impl<D, const BLOCKS: usize> fmt::Debug for SdDisk<D, BLOCKS> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SdDisk").field("len_bytes", &self.len_bytes).finish_non_exhaustive()
    }
}
