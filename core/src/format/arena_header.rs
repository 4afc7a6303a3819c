//! Arena headers: how large an arena is, and where its allocation log begins (FORMAT, section 6).
//!
//! An arena that begins at byte A has two copies, at A and at A + B; a superblock names A and the hash of the whole
//! header block, so that a header of another commit is told apart from the one that counts. Callers verify that hash
//! with [`crate::hash::hash64`] over the block before they decode. Behind the 34 bytes that the original uses lies the
//! project's extension, the log's seal: it says where the log ends, and a digest over the chain finds log blocks
//! that are lost, stale or misplaced, which the bare format cannot. The original rewrites the front and
//! leaves the rest, hence the seal carries a check over the front as well.
//!
//! ```text
//!   0   type 5             34  magic "arenite1"
//!   2   log head address   42  generation of the log's last barrier
//!   10  log head hash      50  blocks in the chain up to that barrier, 4 bytes
//!   18  size in bytes      54  digest of that chain
//!   26  used bytes         62  address of the last of these blocks
//!   34  extension          70  hash of bytes 0..70                  78  zero to the end
//! ```
#![forbid(unsafe_code)]

use super::bytes::{be16, be32, be64, field, put16, put32, put64, put_array};
use super::{AddrHash, BlockSize, BlockType, FormatError, EXTENSION_MAGIC, MAX_GENERATION};
use crate::hash::hash64;
use crate::sabotage::{sabotaged, Switch};
use static_assertions::{const_assert, const_assert_eq};

const AT_LOG_HEAD: usize = 2;
const AT_SIZE: usize = 18;
const AT_USED: usize = 26;
const AT_MAGIC: usize = 34;
const AT_GEN: usize = 42;
const AT_BLOCKS: usize = 50;
const AT_DIGEST: usize = 54;
const AT_TAIL: usize = 62;
const AT_CHECK: usize = 70;
const END: usize = 78;

const_assert_eq!(AT_SIZE, AT_LOG_HEAD + 16);
const_assert_eq!(AT_MAGIC, AT_USED + 8);
const_assert_eq!(AT_GEN, AT_MAGIC + EXTENSION_MAGIC.len());
const_assert_eq!(AT_DIGEST, AT_GEN + 8 + 4);
const_assert_eq!(AT_CHECK, AT_DIGEST + 16);
const_assert_eq!(END, AT_CHECK + 8);
// All that ever changes lies in the first sector, so that a header is written whole or not at all.
const_assert!(END <= 512);

/// Digest of a chain of no blocks: what [`chain_digest`] takes as `prev` for the first block of a log.
pub const CHAIN_DIGEST_START: u64 = 0;

/// Extends the digest of a log's chain by one block: its address, the hash in its header, and the bytes of entries
/// that the hash covers. `prev` is the digest of the blocks before it, or [`CHAIN_DIGEST_START`].
#[must_use]
pub fn chain_digest(prev: u64, addr: u64, block_hash: u64, len_bytes: u16) -> u64 {
    let mut part = [0; 26];
    let (words, rest) = part.as_chunks_mut();
    for (word, value) in words.iter_mut().zip([prev, addr, block_hash]) {
        *word = value.to_be_bytes();
    }
    for (byte, value) in rest.iter_mut().zip(len_bytes.to_be_bytes()) {
        *byte = value;
    }
    hash64(&part)
}

/// The extension of an arena header: what the log was when this header was written.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct LogSeal {
    /// Generation of the last barrier in the log, at most 56 bits.
    pub gen: u64,
    /// Blocks of the chain from the head up to the one that holds that barrier; at least 1.
    pub blocks: u32,
    /// [`chain_digest`] over these blocks.
    pub digest: u64,
    /// Byte address of the last of these blocks; the log head if there is only one.
    pub tail_addr: u64,
}

/// Contents of an arena header.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ArenaHeader {
    /// First block of the allocation log. Nobody maintains the hash; the original writes what it likes.
    pub log_head: AddrHash,
    /// Bytes of the arena behind its two headers, a multiple of the block size, not zero.
    pub size_bytes: u64,
    /// Bytes in use; advisory, never trusted.
    pub used_bytes: u64,
    /// The log's seal. Current only if the superblock's extension is ours.
    pub seal: Option<LogSeal>,
}

impl ArenaHeader {
    /// Decodes the header of the arena that begins at byte `base`, from a whole block. Neither the block's hash nor
    /// whether the arena fits the device is verified here. A seal that is missing, torn, or older than the front
    /// of the header reads as `None`; one that is whole but impossible is an error.
    #[cfg_attr(target_pointer_width = "32", inline(never))]
    pub fn decode(page: &[u8], size: BlockSize, base: u64) -> Result<Self, FormatError> {
        size.check_page(page)?;
        let short = FormatError::BufferLen { got_bytes: page.len(), want_bytes: END };
        let found = be16(page, 0).ok_or(short)?;
        if found != BlockType::ArenaHeader as u16 {
            return Err(FormatError::BlockType { found, want: Some(BlockType::ArenaHeader) });
        }
        let header = Self::read(page).ok_or(short)?;
        header.check(size, base)?;
        Ok(header)
    }

    /// Writes the header of the arena that begins at byte `base` into `page`, one whole block, with zeroes behind it.
    /// Fails, with nothing written, when a value would not pass the decoder.
    pub fn encode(&self, page: &mut [u8], size: BlockSize, base: u64) -> Result<(), FormatError> {
        size.check_page(page)?;
        self.check(size, base)?;
        page.fill(0);
        self.write(page).ok_or(FormatError::BufferLen { got_bytes: page.len(), want_bytes: END })
    }

    fn read(page: &[u8]) -> Option<Self> {
        // Of known length, so that no field in it is looked for.
        let page = page.first_chunk::<END>()?;
        Some(Self {
            log_head: AddrHash::decode(page, AT_LOG_HEAD)?,
            size_bytes: be64(page, AT_SIZE)?,
            used_bytes: be64(page, AT_USED)?,
            seal: LogSeal::read(page),
        })
    }

    fn write(&self, page: &mut [u8]) -> Option<()> {
        let page = page.first_chunk_mut::<END>()?;
        put16(page, 0, BlockType::ArenaHeader as u16)?;
        self.log_head.encode(page, AT_LOG_HEAD)?;
        put64(page, AT_SIZE, self.size_bytes)?;
        put64(page, AT_USED, self.used_bytes)?;
        match &self.seal {
            Some(seal) => seal.write(page),
            None => Some(()),
        }
    }

    /// All that holds for a header: run on what was read, and on what is about to be written.
    fn check(&self, size: BlockSize, base: u64) -> Result<(), FormatError> {
        let bad = |name, offset, found| Err(FormatError::Field { name, offset, found });
        if !size.divides(base) {
            return bad("arena address", 0, base);
        }
        let first = base.checked_add(2 * size.len_u64());
        let end = first.and_then(|first| first.checked_add(self.size_bytes));
        let (Some(first), Some(end)) = (first, end) else {
            return bad("arena size", AT_SIZE, self.size_bytes);
        };
        if self.size_bytes == 0 || !size.divides(self.size_bytes) {
            return bad("arena size", AT_SIZE, self.size_bytes);
        }
        let inside = |addr: u64| size.divides(addr) && (first..end).contains(&addr);
        if !inside(self.log_head.addr) {
            return bad("log head", AT_LOG_HEAD, self.log_head.addr);
        }
        let Some(seal) = self.seal else { return Ok(()) };
        if seal.gen > MAX_GENERATION {
            return bad("sealed generation", AT_GEN, seal.gen);
        }
        let blocks = u64::from(seal.blocks);
        if blocks == 0 || blocks > self.size_bytes >> size.shift() {
            return bad("sealed log length", AT_BLOCKS, blocks);
        }
        if !inside(seal.tail_addr) || (blocks == 1) != (seal.tail_addr == self.log_head.addr) {
            return bad("sealed log tail", AT_TAIL, seal.tail_addr);
        }
        Ok(())
    }
}

impl LogSeal {
    fn read(page: &[u8; END]) -> Option<Self> {
        let magic: &[u8; 8] = field(page, AT_MAGIC)?;
        let whole = be64(page, AT_CHECK)? == hash64(page.get(..AT_CHECK)?) || sabotaged(Switch::SkipSealHash);
        if *magic != EXTENSION_MAGIC || !whole {
            return None;
        }
        Some(Self {
            gen: be64(page, AT_GEN)?,
            blocks: be32(page, AT_BLOCKS)?,
            digest: be64(page, AT_DIGEST)?,
            tail_addr: be64(page, AT_TAIL)?,
        })
    }

    fn write(&self, page: &mut [u8; END]) -> Option<()> {
        put_array(page, AT_MAGIC, EXTENSION_MAGIC)?;
        put64(page, AT_GEN, self.gen)?;
        put32(page, AT_BLOCKS, self.blocks)?;
        put64(page, AT_DIGEST, self.digest)?;
        put64(page, AT_TAIL, self.tail_addr)?;
        let check = hash64(page.get(..AT_CHECK)?);
        put64(page, AT_CHECK, check)
    }
}
