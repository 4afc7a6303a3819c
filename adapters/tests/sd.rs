//! Stores on block devices of `embedded-sdmmc`.
#![cfg(feature = "embedded-sdmmc")]

mod common;

use arenite_adapters::{AssumeWriteThrough, Disk, SdDisk};
use arenite_core::DeviceError;
use common::{round_trip, LEN_BYTES};
use embedded_sdmmc_types::blockdevice::{Block, BlockCount, BlockDevice, BlockIdx};
use std::cell::RefCell;
use std::fmt;

/// A card in memory that refuses what a card refuses.
struct Card {
    blocks: RefCell<Vec<Block>>,
    longest: RefCell<usize>,
    broken: bool,
}

#[derive(Debug, PartialEq, Eq)]
struct CardError;

impl fmt::Display for CardError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the card does not answer")
    }
}

impl std::error::Error for CardError {}

impl Card {
    fn new() -> Self {
        let blocks = RefCell::new(vec![Block::new(); LEN_BYTES / 512]);
        Self { blocks, longest: RefCell::new(0), broken: false }
    }

    fn range(&self, start: BlockIdx, len: usize) -> Result<std::ops::Range<usize>, CardError> {
        let start = start.0 as usize;
        let longest = len.max(*self.longest.borrow());
        *self.longest.borrow_mut() = longest;
        (len > 0 && start + len <= LEN_BYTES / 512 && !self.broken).then_some(start..start + len).ok_or(CardError)
    }
}

impl BlockDevice for Card {
    type Error = CardError;

    fn read(&self, blocks: &mut [Block], start: BlockIdx) -> Result<(), CardError> {
        let range = self.range(start, blocks.len())?;
        blocks.clone_from_slice(&self.blocks.borrow()[range]);
        Ok(())
    }

    fn write(&self, blocks: &[Block], start: BlockIdx) -> Result<(), CardError> {
        let range = self.range(start, blocks.len())?;
        self.blocks.borrow_mut()[range].clone_from_slice(blocks);
        Ok(())
    }

    fn num_blocks(&self) -> Result<BlockCount, CardError> {
        if self.broken {
            return Err(CardError);
        }
        Ok(BlockCount((LEN_BYTES / 512) as u32))
    }
}

#[test]
fn a_store_lives_on_a_card_that_is_said_to_write_through() {
    let disk = round_trip(AssumeWriteThrough(SdDisk::<_>::new(Card::new()).unwrap()));
    assert_eq!(*disk.0.into_inner().longest.borrow(), 8);
}

#[test]
fn the_last_command_of_a_transfer_may_be_shorter() {
    let disk = round_trip(AssumeWriteThrough(SdDisk::<_, 3>::new(Card::new()).unwrap()));
    assert_eq!(*disk.0.into_inner().longest.borrow(), 3);
}

#[test]
fn odd_transfers_are_refused_and_errors_are_passed_on() {
    let mut disk = SdDisk::<_>::new(Card::new()).unwrap();
    let mut bytes = [0; 512];
    assert_eq!(disk.read(1, &mut bytes), Err(DeviceError::Unsupported));
    assert_eq!(disk.read(0, &mut bytes[..100]), Err(DeviceError::Unsupported));
    assert_eq!(disk.write(u64::MAX - 511, &bytes), Err(DeviceError::Unsupported));
    assert_eq!(disk.write(LEN_BYTES as u64, &bytes), Err(DeviceError::Io));
    assert_eq!(SdDisk::<_>::new(Card { broken: true, ..Card::new() }).unwrap_err(), CardError);
}
