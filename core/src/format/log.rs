//! Blocks of an arena's allocation log (FORMAT, section 7).
//!
//! A log is replayed from its head, beginning with nothing free: each entry allocates or frees one block or a
//! range of blocks, or is a barrier that marks where a commit ends. The low byte of an entry is its operation, the
//! rest its operand; ranges take a second word, their length.
//!
//! The writer leaves room at the end of a block, as the original expects of every block that it may append to:
//!
//! ```text
//!   36 |  allocations and frees, up to B - 44  | barrier | link |  unused  | B
//! ```
//!
//! Invariant: between any two entries, the closing barrier and the allocation of a further log block still fit.
#![forbid(unsafe_code)]

use super::bytes::{be16, be64, put64};
use super::chained::{entry_space, finish, BlockSum, Chained, AT_CHAIN, AT_ENTRIES, WORD};
use super::{chain_digest, check_addr, check_addr_or_none, BlockSize, BlockType, FormatError, LogSeal, MAX_GENERATION};
use crate::hash::hash64;
use static_assertions::{const_assert, const_assert_eq};

const OP_ALLOC_ONE: u8 = 1;
const OP_FREE_ONE: u8 = 2;
const OP_BARRIER: u8 = 3;
const OP_ALLOC_RANGE: u8 = 4;
const OP_FREE_RANGE: u8 = 5;

/// Bytes at the end of the entry space that allocations and frees leave alone.
const SLACK: usize = 40;
const RANGE_LEN: usize = 2 * WORD;

// An operation must fit beside the address of the smallest block.
const_assert!(BlockSize::MIN.len_bytes() > u8::MAX as usize);
const_assert!(SLACK >= 2 * WORD);
const_assert_eq!(ranges_per_block(BlockSize::ORIGINAL), 1019);

/// One entry of an allocation log.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum LogEntry {
    /// The blocks of a range are in use from here on.
    Alloc {
        /// Byte address of the first block.
        addr: u64,
        /// Bytes of the range, a multiple of the block size, not zero.
        len_bytes: u64,
    },
    /// The blocks of a range are free from here on.
    Free {
        /// Byte address of the first block.
        addr: u64,
        /// Bytes of the range, a multiple of the block size, not zero.
        len_bytes: u64,
    },
    /// The commit of generation `gen` ends here.
    Barrier {
        /// Generation, at most 56 bits.
        gen: u64,
    },
}

/// How many entries for ranges of two or more blocks [`LogWriter`] puts into one block.
#[must_use]
pub const fn ranges_per_block(size: BlockSize) -> usize {
    body_limit(size) / RANGE_LEN
}

/// Most bytes of allocations and frees in a block.
const fn body_limit(size: BlockSize) -> usize {
    (size.len_bytes() - AT_ENTRIES - SLACK) / WORD * WORD
}

/// An allocation log block that has passed the checks of its header and of its hash. Its entries are checked as they
/// are read.
#[derive(Clone, Copy, Debug)]
pub struct LogBlock<'a> {
    inner: Chained<'a>,
    size: BlockSize,
}

impl<'a> LogBlock<'a> {
    /// Decodes the header of a log block, from a whole block, and verifies the hash of its entries.
    pub fn decode(page: &'a [u8], size: BlockSize) -> Result<Self, FormatError> {
        Ok(Self { inner: Chained::decode(page, size, BlockType::Log)?, size })
    }

    /// Byte address of the next block of the log, or [`super::NONE`]. No hash covers it.
    #[must_use]
    pub const fn chain(&self) -> u64 {
        self.inner.chain
    }

    /// Hash and length of the entries, as [`super::chain_digest`] takes them.
    #[must_use]
    pub const fn sum(&self) -> BlockSum {
        self.inner.sum
    }

    /// The entries in the order of replay.
    #[must_use]
    pub const fn entries(&self) -> LogEntries<'a> {
        LogEntries { rest: self.inner.entries, offset: AT_ENTRIES, size: self.size }
    }
}

/// Makes `page` the log block that a header's seal names last, if its first entries still are what the seal vouches
/// for: `before` is the chain digest of the blocks in front of it, and `addr` its address. The original, which knows no
/// seal, adds to that block in place, overwriting the closing barrier or behind it; if it stops before it commits, what
/// the seal vouches for is still there, under a wrong length and hash. Returns whether it was found; the page is then a
/// block that [`LogBlock::decode`] accepts, and otherwise as it was.
pub fn restore_sealed(page: &mut [u8], size: BlockSize, before: u64, addr: u64, seal: &LogSeal) -> bool {
    let barrier = (seal.gen << 8) | u64::from(OP_BARRIER);
    let Some(chain) = be64(page, AT_CHAIN).filter(|_| be16(page, 0) == Some(BlockType::Log as u16)) else {
        return false;
    };
    let mut at = AT_ENTRIES;
    while at + WORD <= AT_ENTRIES + entry_space(size) {
        let Some(word) = be64(page, at) else { return false };
        let end = at + WORD;
        if put64(page, at, barrier).is_none() {
            return false;
        }
        let hash = hash64(page.get(AT_ENTRIES..end).unwrap_or(&[]));
        if chain_digest(before, addr, hash, (end - AT_ENTRIES) as u16) == seal.digest {
            return finish(page, BlockType::Log, end - AT_ENTRIES, chain).is_some();
        }
        let _ = put64(page, at, word);
        at += match word as u8 {
            OP_BARRIER | OP_ALLOC_ONE | OP_FREE_ONE => WORD,
            OP_ALLOC_RANGE | OP_FREE_RANGE => RANGE_LEN,
            _ => return false,
        };
    }
    false
}

/// Iterates over the entries of a log block. Ends behind the first bad entry.
#[derive(Clone, Debug)]
pub struct LogEntries<'a> {
    rest: &'a [u8],
    offset: usize,
    size: BlockSize,
}

/// What a few entries say that lie one behind the other: see [`LogEntries::take_ones`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Ones {
    /// Whether these blocks are freed, or else allocated.
    pub(crate) free: bool,
    /// Number of the block that the lowest bit stands for.
    pub(crate) first: u32,
    /// The blocks.
    pub(crate) bits: usize,
    /// Entries that were passed, not fewer than there are bits.
    pub(crate) count: u32,
}

impl LogEntries<'_> {
    /// Where the entry that `next` yields next begins, in bytes from the start of the block.
    #[must_use]
    pub const fn offset(&self) -> usize {
        self.offset
    }

    /// Passes the entries in front as far as all free, or all allocate, one block each, and these blocks share a word
    /// of a map of `usable` blocks that begins at byte address `map_addr`, a multiple of the block size. `None`, and
    /// none is passed, if the first entry is another. All that `next` checks holds for those that are passed. The loop
    /// in which a mount spends its time.
    pub(crate) fn take_ones(&mut self, map_addr: u64, usable: u32) -> Option<Ones> {
        let entry = be64(self.rest, 0)?;
        let op = entry as u8;
        // Turned by the bits of a block, all is a large number but an operation on a block that is not in front.
        let shift = self.size.shift();
        let number = |entry: u64, key: u64| entry.wrapping_sub(key).rotate_right(shift);
        let key = map_addr | u64::from(op);
        let block = u32::try_from(number(entry, key)).ok().filter(|block| *block < usable)?;
        if op != OP_FREE_ONE && op != OP_ALLOC_ONE {
            return None;
        }
        let first = block / usize::BITS * usize::BITS;
        let len = u64::from((usable - first).min(usize::BITS));
        let key = key + (u64::from(first) << shift);
        let (mut bits, mut count) = (0, 0);
        for entry in self.rest.as_chunks().0 {
            let block = number(u64::from_be_bytes(*entry), key);
            if block >= len {
                break;
            }
            bits |= 1 << block;
            count += 1;
        }
        self.rest = self.rest.get(count * WORD..)?;
        self.offset += count * WORD;
        Some(Ones { free: op == OP_FREE_ONE, first, bits, count: count as u32 })
    }

    fn decode(&self, word: u64) -> Result<(LogEntry, usize), FormatError> {
        let op = word as u8;
        let addr = word & !0xff;
        let one = self.size.len_u64();
        let (entry, len) = match op {
            OP_BARRIER => (LogEntry::Barrier { gen: word >> 8 }, WORD),
            OP_ALLOC_ONE => (LogEntry::Alloc { addr, len_bytes: one }, WORD),
            OP_FREE_ONE => (LogEntry::Free { addr, len_bytes: one }, WORD),
            OP_ALLOC_RANGE | OP_FREE_RANGE => {
                let len_bytes = be64(self.rest, WORD).ok_or(FormatError::LogCut { offset: self.offset })?;
                let alloc = op == OP_ALLOC_RANGE;
                let entry =
                    if alloc { LogEntry::Alloc { addr, len_bytes } } else { LogEntry::Free { addr, len_bytes } };
                (entry, RANGE_LEN)
            }
            found => return Err(FormatError::LogOp { offset: self.offset, found }),
        };
        check_entry(&entry, self.size, self.offset)?;
        Ok((entry, len))
    }
}

impl Iterator for LogEntries<'_> {
    type Item = Result<LogEntry, FormatError>;

    fn next(&mut self) -> Option<Self::Item> {
        let result = self.decode(be64(self.rest, 0)?);
        match result {
            Ok((entry, len)) => {
                self.rest = self.rest.get(len..).unwrap_or(&[]);
                self.offset += len;
                Some(Ok(entry))
            }
            Err(error) => {
                self.rest = &[];
                Some(Err(error))
            }
        }
    }
}

/// All that holds for an entry: run on what was read, and on what is about to be written.
fn check_entry(entry: &LogEntry, size: BlockSize, offset: usize) -> Result<(), FormatError> {
    match *entry {
        LogEntry::Alloc { addr, len_bytes } | LogEntry::Free { addr, len_bytes } => {
            check_addr(size, addr, "log entry address", offset)?;
            if len_bytes == 0 || !size.divides(len_bytes) || addr.checked_add(len_bytes).is_none() {
                return Err(FormatError::Field { name: "log entry length", offset: offset + WORD, found: len_bytes });
            }
        }
        LogEntry::Barrier { gen } if gen > MAX_GENERATION => {
            return Err(FormatError::Field { name: "barrier generation", offset, found: gen });
        }
        LogEntry::Barrier { .. } => {}
    }
    Ok(())
}

/// Fills one log block with entries. The page is a whole block, whose old contents do not matter; it holds a log block
/// only after [`LogWriter::finish`].
#[derive(Debug)]
pub struct LogWriter<'a> {
    page: &'a mut [u8],
    size: BlockSize,
    len: usize,
}

impl<'a> LogWriter<'a> {
    /// Begins an empty log block.
    pub fn new(page: &'a mut [u8], size: BlockSize) -> Result<Self, FormatError> {
        size.check_page(page)?;
        Ok(Self { page, size, len: 0 })
    }

    /// Goes on with a block that has `len` bytes of entries, as [`LogWriter::len_bytes`] told.
    pub(crate) fn resume(page: &'a mut [u8], size: BlockSize, len: usize) -> Result<Self, FormatError> {
        Ok(Self { len, ..Self::new(page, size)? })
    }

    /// Bytes of entries so far.
    #[must_use]
    pub const fn len_bytes(&self) -> usize {
        self.len
    }

    /// Appends an entry: 8 bytes for one block and for a barrier, 16 for a longer range. Fails with
    /// [`FormatError::Full`] when the room that a block must keep would be touched: a barrier always fits behind
    /// allocations and frees, once.
    pub fn push(&mut self, entry: LogEntry) -> Result<(), FormatError> {
        check_entry(&entry, self.size, AT_ENTRIES + self.len)?;
        let one = self.size.len_u64();
        let body = body_limit(self.size);
        match entry {
            LogEntry::Alloc { addr, len_bytes } if len_bytes == one => self.append(addr, OP_ALLOC_ONE, None, body),
            LogEntry::Free { addr, len_bytes } if len_bytes == one => self.append(addr, OP_FREE_ONE, None, body),
            LogEntry::Alloc { addr, len_bytes } => self.append(addr, OP_ALLOC_RANGE, Some(len_bytes), body),
            LogEntry::Free { addr, len_bytes } => self.append(addr, OP_FREE_RANGE, Some(len_bytes), body),
            LogEntry::Barrier { gen } => self.append(gen << 8, OP_BARRIER, None, body + WORD),
        }
    }

    /// Appends a free for each run of blocks in `bits`, the lowest of which stands for the block at `addr`, as `push`
    /// would. The bits of those runs that found no room.
    pub(crate) fn push_frees(&mut self, addr: u64, bits: usize) -> Result<usize, FormatError> {
        let whole = LogEntry::Free { addr, len_bytes: u64::from(usize::BITS) << self.size.shift() };
        // What holds for all of them together holds for each.
        check_entry(&whole, self.size, AT_ENTRIES + self.len)?;
        let (mut rest, shift, limit) = (bits, self.size.shift(), body_limit(self.size));
        while rest != 0 {
            let first = rest.trailing_zeros();
            let count = (rest >> first).trailing_ones();
            let addr = addr + (u64::from(first) << shift);
            let end = self.len + if count == 1 { WORD } else { RANGE_LEN };
            if end > limit {
                break;
            }
            let op = if count == 1 { OP_FREE_ONE } else { OP_FREE_RANGE };
            put64(self.page, AT_ENTRIES + self.len, addr | u64::from(op)).ok_or(FormatError::Full)?;
            if count > 1 {
                put64(self.page, AT_ENTRIES + self.len + WORD, u64::from(count) << shift).ok_or(FormatError::Full)?;
            }
            self.len = end;
            // The lowest run carried away.
            rest &= rest.wrapping_add(1 << first);
        }
        Ok(rest)
    }

    /// Appends the allocation of the log block that is to follow this one, always the last entry of a block that the
    /// log goes on behind. Always fits, once.
    pub fn push_link(&mut self, addr: u64) -> Result<(), FormatError> {
        check_addr(self.size, addr, "log entry address", AT_ENTRIES + self.len)?;
        self.append(addr, OP_ALLOC_ONE, None, body_limit(self.size) + 2 * WORD)
    }

    /// Completes the block, leading to the log block at `chain`, or nowhere if that is [`super::NONE`]: writes the
    /// header, clears what is behind the entries, and returns the hash and length of the entries.
    pub fn finish(self, chain: u64) -> Result<BlockSum, FormatError> {
        check_addr_or_none(self.size, chain, "chain pointer", AT_CHAIN)?;
        finish(self.page, BlockType::Log, self.len, chain).ok_or(FormatError::Full)
    }

    fn append(&mut self, operand: u64, op: u8, second: Option<u64>, limit: usize) -> Result<(), FormatError> {
        let end = self.len + if second.is_some() { RANGE_LEN } else { WORD };
        if end > limit.min(entry_space(self.size)) {
            return Err(FormatError::Full);
        }
        let at = AT_ENTRIES + self.len;
        put64(self.page, at, operand | u64::from(op)).ok_or(FormatError::Full)?;
        if let Some(word) = second {
            put64(self.page, at + WORD, word).ok_or(FormatError::Full)?;
        }
        self.len = end;
        Ok(())
    }
}
