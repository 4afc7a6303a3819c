//! Codecs of the disk format: one encoder and one decoder for every structure that a volume holds.
//!
//! Each codec works on the bytes of one block in a buffer that the caller owns. There is no global state, no lock,
//! no allocation and no I/O here, and every function may be called from any context. `docs/FORMAT.md` gives the
//! layout byte by byte; offsets in the code cite it through named constants with size assertions beside them.
//!
//! ```text
//!   superblock --+-- arena table --> arena header --> log block --> log block ...
//!                +-- dead list   --> dead list block ...
//!                +-- root        --> pivot --> pivot --> leaf
//! ```
//!
//! Invariants:
//! - No bytes whatsoever make a decoder panic or loop: a value read from a block is bounded before it is used, and
//!   every access to the block is a checked one.
//! - What an encoder writes, the decoder of the same structure accepts: both run the same check, the encoder before
//!   it reports success, the decoder after it has read.
//! - Integers are big-endian on the medium, whatever the host is.
#![forbid(unsafe_code)]

mod arena_header;
mod bytes;
mod chained;
mod deadlist;
mod error;
mod log;
mod superblock;
mod table;
mod tree;

#[cfg(test)]
mod tests;

pub use arena_header::{chain_digest, ArenaHeader, LogSeal, CHAIN_DIGEST_START};
pub use chained::{set_chain, BlockSum};
pub use deadlist::{addrs_per_block, DeadListBlock, DeadListWriter};
pub use error::FormatError;
pub(crate) use log::Ones;
pub use log::{ranges_per_block, restore_sealed, LogBlock, LogEntries, LogEntry, LogWriter};
pub use superblock::{
    encode_superblock, max_arenas, max_sealed_arenas, probe_block_size, ArenaRef, Extension, SuperHead, Superblock,
    SUPERBLOCK_FRONT_LEN,
};
pub use tree::{Child, Leaf, LeafBuilder, Message, Pivot, PivotBuilder};

use bytes::{be64, put64};
use static_assertions::const_assert_eq;

/// Major version in the superblock's magic.
pub const DISK_VERSION_MAJOR: u32 = 9;
/// Minor version in the superblock's magic.
pub const DISK_VERSION_MINOR: u32 = 0;
/// First eight bytes of a superblock.
pub const SUPERBLOCK_MAGIC: [u8; 8] = *b"gefs9.00";
/// Mark of the project's own fields in superblocks and arena headers.
pub const EXTENSION_MAGIC: [u8; 8] = *b"arenite1";
/// "Nothing" in any field of a block pointer.
pub const NONE: u64 = u64::MAX;
/// Largest generation that a log barrier can carry: 56 bits.
pub const MAX_GENERATION: u64 = (1 << 56) - 1;
/// Most arenas that any volume may have; small blocks allow fewer, see [`max_arenas`].
pub const MAX_ARENAS: u32 = 256;

/// What a block holds, as its first two bytes say. Data blocks have no header, and are never typed on the medium.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u16)]
pub enum BlockType {
    /// Bytes of the user, without any header.
    Data = 0,
    /// Inner node of a tree.
    Pivot = 1,
    /// Outer node of a tree.
    Leaf = 2,
    /// Allocation log of an arena.
    Log = 3,
    /// List of blocks that wait for a snapshot to go away.
    DeadList = 4,
    /// Header of an arena.
    ArenaHeader = 5,
    /// Superblock; the number is the first two letters of its magic.
    Superblock = 0x6765,
}

impl TryFrom<u16> for BlockType {
    type Error = FormatError;

    fn try_from(raw: u16) -> Result<Self, FormatError> {
        Ok(match raw {
            0 => Self::Data,
            1 => Self::Pivot,
            2 => Self::Leaf,
            3 => Self::Log,
            4 => Self::DeadList,
            5 => Self::ArenaHeader,
            0x6765 => Self::Superblock,
            _ => return Err(FormatError::BlockType { found: raw, want: None }),
        })
    }
}

/// Size of a volume's blocks: a power of two from 2048 to 65536 bytes. A value of this type is always valid.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct BlockSize(Shift);

/// Base-2 logarithm of the bytes in a block. Not a number, so that the compiler knows how far it shifts at most: on 32
/// bits that is a third of the code of each shift by it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
#[repr(u8)]
enum Shift {
    Of2K = 11,
    Of4K = 12,
    Of8K = 13,
    Of16K = 14,
    Of32K = 15,
    Of64K = 16,
}

impl BlockSize {
    /// Smallest block: 2 KiB.
    pub const MIN: Self = Self(Shift::Of2K);
    /// Largest block: 64 KiB.
    pub const MAX: Self = Self(Shift::Of64K);
    /// The only size of the original: 16 KiB.
    pub const ORIGINAL: Self = Self(Shift::Of16K);

    /// The block size of `len_bytes`, or `None` when that is no power of two or out of bounds.
    #[must_use]
    pub const fn new(len_bytes: u32) -> Option<Self> {
        Some(Self(match len_bytes {
            2048 => Shift::Of2K,
            4096 => Shift::Of4K,
            8192 => Shift::Of8K,
            16384 => Shift::Of16K,
            32768 => Shift::Of32K,
            65536 => Shift::Of64K,
            _ => return None,
        }))
    }

    /// Bytes in a block.
    #[must_use]
    pub const fn len_bytes(self) -> usize {
        1 << self.shift()
    }

    /// Bytes in a block, as the type of addresses.
    #[must_use]
    pub const fn len_u64(self) -> u64 {
        self.len_bytes() as u64
    }

    /// Base-2 logarithm of the bytes in a block.
    #[must_use]
    pub const fn shift(self) -> u32 {
        self.0 as u32
    }

    /// Whether `value` is a multiple of the block size. Zero is.
    #[must_use]
    pub const fn divides(self, value: u64) -> bool {
        // No block is longer than 64 KiB, so the low half says it all.
        value as u32 & (self.len_bytes() as u32 - 1) == 0
    }

    /// Bytes of a pivot block that are set aside for buffered messages; a superblock repeats the figure.
    #[must_use]
    pub const fn bufspc(self) -> u32 {
        ((self.len_bytes() - 10) / 2) as u32
    }

    /// Fails unless `page` is exactly one block long.
    pub(crate) const fn check_page(self, page: &[u8]) -> Result<(), FormatError> {
        if page.len() == self.len_bytes() {
            Ok(())
        } else {
            Err(FormatError::BufferLen { got_bytes: page.len(), want_bytes: self.len_bytes() })
        }
    }
}

/// A block pointer as it lies on the medium: 24 bytes, each field [`NONE`] when it says nothing.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct RawPtr {
    /// Byte address, a multiple of the block size.
    pub addr: u64,
    /// Hash of the whole block, or what its type says instead.
    pub hash: u64,
    /// Generation in which the block was born.
    pub gen: u64,
}

const_assert_eq!(RawPtr::LEN_BYTES, 3 * core::mem::size_of::<u64>());

impl RawPtr {
    /// Bytes of an encoded pointer.
    pub const LEN_BYTES: usize = 24;
    /// The pointer to nothing.
    pub const NULL: Self = Self { addr: NONE, hash: NONE, gen: NONE };

    /// Whether the pointer leads nowhere.
    #[must_use]
    pub const fn is_none(&self) -> bool {
        self.addr == NONE
    }

    /// Reads a pointer at byte `at` of `bytes`; `None` when it does not fit.
    #[must_use]
    pub fn decode(bytes: &[u8], at: usize) -> Option<Self> {
        let field = bytes.get(at..)?.first_chunk::<{ Self::LEN_BYTES }>()?;
        Some(Self { addr: be64(field, 0)?, hash: be64(field, 8)?, gen: be64(field, 16)? })
    }

    /// Writes the pointer at byte `at` of `bytes`; `None`, with nothing written, when it does not fit.
    pub fn encode(&self, bytes: &mut [u8], at: usize) -> Option<()> {
        let field = bytes.get_mut(at..)?.first_chunk_mut::<{ Self::LEN_BYTES }>()?;
        put64(field, 0, self.addr)?;
        put64(field, 8, self.hash)?;
        put64(field, 16, self.gen)
    }
}

/// An address and the hash of what lies there; both [`NONE`] for nothing.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct AddrHash {
    /// Byte address of a block.
    pub addr: u64,
    /// Hash of that block.
    pub hash: u64,
}

impl AddrHash {
    /// Leads nowhere.
    pub const NULL: Self = Self { addr: NONE, hash: NONE };

    pub(crate) fn decode(page: &[u8], at: usize) -> Option<Self> {
        let pair = bytes::field::<16>(page, at)?;
        Some(Self { addr: be64(pair, 0)?, hash: be64(pair, 8)? })
    }

    pub(crate) fn encode(self, page: &mut [u8], at: usize) -> Option<()> {
        put64(page, at, self.addr)?;
        put64(page, at + 8, self.hash)
    }
}

/// Fails unless `addr` is a block's address, which none never is. `name` and `offset` say where it was read.
fn check_addr(size: BlockSize, addr: u64, name: &'static str, offset: usize) -> Result<(), FormatError> {
    if size.divides(addr) {
        Ok(())
    } else {
        Err(FormatError::Field { name, offset, found: addr })
    }
}

/// Fails unless `addr` is a block's address or none.
fn check_addr_or_none(size: BlockSize, addr: u64, name: &'static str, offset: usize) -> Result<(), FormatError> {
    if addr == NONE {
        Ok(())
    } else {
        check_addr(size, addr, name, offset)
    }
}
