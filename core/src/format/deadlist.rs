//! Blocks of a dead list: addresses of blocks that are free as soon as a snapshot goes away (FORMAT, section 8).
//!
//! The header is that of a log block, the entries are bare addresses. Lists are chained from the newest block to the
//! oldest; whoever walks one stops at the tail that the list's owner names, whatever the tail's chain pointer says.
#![forbid(unsafe_code)]

use super::bytes::put64;
use super::chained::{entry_space, finish, BlockSum, Chained, AT_CHAIN, AT_ENTRIES, WORD};
use super::{check_addr, check_addr_or_none, BlockSize, BlockType, FormatError};
use static_assertions::const_assert_eq;

const_assert_eq!(addrs_per_block(BlockSize::ORIGINAL), 2043);

/// How many addresses one block holds.
#[must_use]
pub const fn addrs_per_block(size: BlockSize) -> usize {
    entry_space(size) / WORD
}

/// A dead list block that has passed the checks of its header and of its hash. Its entries are checked as they are
/// read.
#[derive(Clone, Copy, Debug)]
pub struct DeadListBlock<'a> {
    inner: Chained<'a>,
    size: BlockSize,
}

impl<'a> DeadListBlock<'a> {
    /// Decodes the header of a dead list block, from a whole block, and verifies the hash of its entries.
    pub fn decode(page: &'a [u8], size: BlockSize) -> Result<Self, FormatError> {
        Ok(Self { inner: Chained::decode(page, size, BlockType::DeadList)?, size })
    }

    /// Byte address of the next older block, or [`super::NONE`]. No hash covers it.
    #[must_use]
    pub const fn chain(&self) -> u64 {
        self.inner.chain
    }

    /// Hash and length of the entries.
    #[must_use]
    pub const fn sum(&self) -> BlockSum {
        self.inner.sum
    }

    /// The addresses in the order in which they were appended; an error for each that is no block's.
    pub fn addrs(&self) -> impl Iterator<Item = Result<u64, FormatError>> + 'a {
        let size = self.size;
        let (words, _) = self.inner.entries.as_chunks::<WORD>();
        words.iter().enumerate().map(move |(index, word)| {
            let addr = u64::from_be_bytes(*word);
            check_addr(size, addr, "dead list entry", AT_ENTRIES + WORD * index).map(|()| addr)
        })
    }
}

/// Fills one dead list block with addresses. The page is a whole block, whose old contents do not matter; it holds
/// a dead list only after [`DeadListWriter::finish`].
#[derive(Debug)]
pub struct DeadListWriter<'a> {
    page: &'a mut [u8],
    size: BlockSize,
    len: usize,
}

impl<'a> DeadListWriter<'a> {
    /// Begins an empty dead list block.
    pub fn new(page: &'a mut [u8], size: BlockSize) -> Result<Self, FormatError> {
        size.check_page(page)?;
        Ok(Self { page, size, len: 0 })
    }

    /// Appends the address of a block. Fails with [`FormatError::Full`] when the block holds no more.
    pub fn push(&mut self, addr: u64) -> Result<(), FormatError> {
        let at = AT_ENTRIES + self.len;
        check_addr(self.size, addr, "dead list entry", at)?;
        if self.len + WORD > entry_space(self.size) {
            return Err(FormatError::Full);
        }
        put64(self.page, at, addr).ok_or(FormatError::Full)?;
        self.len += WORD;
        Ok(())
    }

    /// Completes the block, leading to the next older block at `chain`, or nowhere if that is [`super::NONE`]: writes
    /// the header, clears what is behind the entries, and returns the hash and length of the entries.
    pub fn finish(self, chain: u64) -> Result<BlockSum, FormatError> {
        check_addr_or_none(self.size, chain, "chain pointer", AT_CHAIN)?;
        finish(self.page, BlockType::DeadList, self.len, chain).ok_or(FormatError::Full)
    }
}
