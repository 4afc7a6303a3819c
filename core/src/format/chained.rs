//! The header that allocation logs and dead lists share.
//!
//! Both are chains of blocks, each a header and a run of entries. The hash in the header covers the entries alone:
//! neither the type, nor their length, nor the chain pointer. An empty block thus has the hash of no bytes, and the
//! chain pointer, which lies in the block's first sector, may be changed in place at any time.
//!
//! ```text
//!   0  type   2  bytes of entries   4  hash of them   12  chain pointer, 24 bytes   36  entries
//! ```
#![forbid(unsafe_code)]

use super::bytes::{be16, be64, put16, put64};
use super::{check_addr_or_none, BlockSize, BlockType, FormatError, RawPtr, NONE};
use crate::hash::hash64;
use crate::sabotage::{sabotaged, Switch};
use static_assertions::{const_assert, const_assert_eq};

const AT_LEN: usize = 2;
const AT_HASH: usize = 4;
pub(super) const AT_CHAIN: usize = 12;
pub(super) const AT_ENTRIES: usize = 36;
/// Entries are made of words of this many bytes.
pub(super) const WORD: usize = 8;

const_assert_eq!(AT_HASH, AT_LEN + 2);
const_assert_eq!(AT_CHAIN, AT_HASH + 8);
const_assert_eq!(AT_ENTRIES, AT_CHAIN + RawPtr::LEN_BYTES);
// Relinking a block touches its first sector only, and every length fits its field.
const_assert!(AT_CHAIN + RawPtr::LEN_BYTES <= 512);
const_assert!(BlockSize::MAX.len_bytes() - AT_ENTRIES <= u16::MAX as usize);

/// What identifies the entries of a block: their hash and their length, as a chain digest takes them.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct BlockSum {
    /// Hash of the entries.
    pub hash: u64,
    /// Bytes of entries.
    pub len_bytes: u16,
}

/// A block that has passed the checks of the header and of the hash.
#[derive(Clone, Copy, Debug)]
pub(super) struct Chained<'a> {
    pub(super) entries: &'a [u8],
    pub(super) chain: u64,
    pub(super) sum: BlockSum,
}

/// Bytes that a block has for entries, rounded down to whole words.
pub(super) const fn entry_space(size: BlockSize) -> usize {
    (size.len_bytes() - AT_ENTRIES) / WORD * WORD
}

impl<'a> Chained<'a> {
    /// Decodes a block of type `want`.
    pub(super) fn decode(page: &'a [u8], size: BlockSize, want: BlockType) -> Result<Self, FormatError> {
        size.check_page(page)?;
        let short = FormatError::BufferLen { got_bytes: page.len(), want_bytes: AT_ENTRIES };
        let found = be16(page, 0).ok_or(short)?;
        if found != want as u16 {
            return Err(FormatError::BlockType { found, want: Some(want) });
        }
        let len_bytes = be16(page, AT_LEN).ok_or(short)?;
        let stored = be64(page, AT_HASH).ok_or(short)?;
        let chain = be64(page, AT_CHAIN).ok_or(short)?;
        let len = usize::from(len_bytes);
        let entries = match page.get(AT_ENTRIES..).and_then(|space| space.get(..len)) {
            Some(entries) if len % WORD == 0 => entries,
            _ => return Err(FormatError::Field { name: "entries length", offset: AT_LEN, found: len as u64 }),
        };
        check_addr_or_none(size, chain, "chain pointer", AT_CHAIN)?;
        let computed = hash64(entries);
        if stored != computed && !sabotaged(Switch::SkipLogHash) {
            return Err(FormatError::Hash { stored, computed });
        }
        Ok(Self { entries, chain, sum: BlockSum { hash: stored, len_bytes } })
    }
}

/// Completes a block of type `kind` whose first `len` bytes of entries are in place: header, and zeroes behind the
/// entries. `chain` must have been checked.
pub(super) fn finish(page: &mut [u8], kind: BlockType, len: usize, chain: u64) -> Option<BlockSum> {
    let (entries, rest) = page.get_mut(AT_ENTRIES..)?.split_at_mut_checked(len)?;
    let sum = BlockSum { hash: hash64(entries), len_bytes: u16::try_from(len).ok()? };
    rest.fill(0);
    put16(page, 0, kind as u16)?;
    put16(page, AT_LEN, sum.len_bytes)?;
    put64(page, AT_HASH, sum.hash)?;
    link(page, chain)?;
    Some(sum)
}

fn link(page: &mut [u8], chain: u64) -> Option<()> {
    RawPtr { addr: chain, hash: NONE, gen: NONE }.encode(page, AT_CHAIN)
}

/// Makes an encoded log or dead list block, a whole block, lead to the block at `chain`, or nowhere if that is
/// [`NONE`]. Changes bytes 12 to 35 only, which no hash covers and which lie in the block's first sector.
pub fn set_chain(page: &mut [u8], size: BlockSize, chain: u64) -> Result<(), FormatError> {
    size.check_page(page)?;
    check_addr_or_none(size, chain, "chain pointer", AT_CHAIN)?;
    link(page, chain).ok_or(FormatError::BufferLen { got_bytes: page.len(), want_bytes: AT_ENTRIES })
}
