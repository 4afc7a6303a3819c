//! Everything that can go wrong, as small `Copy` values: no allocation, no text built before it is shown.

use crate::device::DeviceError;
use crate::format::FormatError;
use core::fmt;

/// What the device was doing when it failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DeviceOp {
    /// Reading a block.
    Read,
    /// Writing a block.
    Write,
    /// Flushing.
    Flush,
}

/// How the content of a volume contradicts itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Damage {
    /// The bytes do not have the hash that the pointer to them promises.
    Hash {
        /// Hash in the pointer.
        expected: u64,
        /// Hash of the bytes.
        found: u64,
    },
    /// The bytes are no block of the kind that belongs there.
    Format(FormatError),
    /// Neither copy of an arena header has the hash that the superblock names.
    Header {
        /// Hash in the superblock.
        expected: u64,
    },
    /// An arena lies outside the device, or over another arena, or out of order.
    ArenaExtent,
    /// A log entry allocates what is not free.
    AllocTwice {
        /// Where the entry begins, in bytes from the start of the log block.
        offset: usize,
    },
    /// A log entry frees what is free already.
    FreeTwice {
        /// Where the entry begins, in bytes from the start of the log block.
        offset: usize,
    },
    /// A log entry names blocks outside its arena.
    ForeignRange {
        /// Where the entry begins, in bytes from the start of the log block.
        offset: usize,
    },
    /// A log leads to a block outside its arena: to this one, or from this one.
    ForeignLog,
    /// A log is longer than its arena has blocks, so its chain runs in a circle.
    ChainLoop,
    /// A log block is not among the blocks that the log says are in use.
    LogNotInUse,
    /// The log blocks are not those that the arena header vouches for: a write was lost, stale or misdirected.
    LogDigest {
        /// Digest in the header.
        expected: u64,
        /// Digest of the blocks.
        found: u64,
    },
    /// Replaying a log is more work than any honest log is.
    ReplayWork,
    /// The superblock points to a block that is free, or outside every arena.
    RootFree,
    /// A log does not end with the barrier that the arena header names.
    LogEnd,
    /// The volume was mounted although this log, or the header that leads to it, is damaged: all of its arena counts as
    /// in use.
    LogNotReplayed,
    /// A barrier's generation does not ascend, or is above what its log may carry.
    BarrierOrder {
        /// Where the barrier is, in bytes from the start of the log block.
        offset: usize,
    },
    /// The cache holds a block that the free map says nobody has: a bug, or memory that changed by itself.
    CacheConflict,
}

/// Which part of a [`crate::Memory`], or of what else a caller lends, is too small for a volume.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MemoryPart {
    /// Buffers (`PAGES` and `FRAMES`).
    Buffers,
    /// Words of free map (`WORDS`).
    MapWords,
    /// Arenas (`ARENAS`).
    Arenas,
    /// Words that a caller lends to a check ([`crate::Store::check_words`]).
    CheckWords,
}

/// Why an operation of the store did not succeed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Error {
    /// The device failed. After a failed write or flush the store is read-only; what was committed stays readable.
    Device {
        /// What it was to do.
        op: DeviceOp,
        /// Byte address; 0 for a flush.
        addr: u64,
        /// The device's reason.
        cause: DeviceError,
    },
    /// The volume is damaged at this byte address.
    Corrupt {
        /// Byte address of the block.
        addr: u64,
        /// What is wrong there.
        damage: Damage,
    },
    /// Neither superblock is one of this format. The reasons are those of the first and the second copy.
    NotAVolume {
        /// Why the copy at the start of the device is no superblock.
        first: FormatError,
        /// Why the copy at the end is none; `None` where the block size is unknown and no place fits.
        second: Option<FormatError>,
    },
    /// `format` found something on the device at this byte address, and was not told to overwrite it.
    NotBlank {
        /// Byte address of the first sector with a byte other than zero.
        addr: u64,
    },
    /// No room for this class of allocation. Free something, commit, and try again.
    Full {
        /// Blocks that are free, and more than the reserves of the classes above this one.
        room_blocks: u64,
        /// Blocks that can be handed out now to any class.
        free_blocks: u64,
        /// Blocks that will be once a commit is durable.
        pending_blocks: u64,
    },
    /// Every buffer of the cache is held by a caller, waits to be written, or is being read.
    NoBuffer,
    /// A worker has been inside an epoch for as long as the mount's patience: what was freed cannot be handed out again
    /// until it leaves.
    Stalled {
        /// The name that the worker entered with.
        worker: u32,
    },
    /// As many workers are inside an epoch as the memory value has places for.
    NoWorker,
    /// A commit is in flight; only one can be.
    CommitInFlight,
    /// The store does not write: it was mounted so, the device is write-protected, or a write failed earlier.
    ReadOnly,
    /// The address is no block of this volume that a caller may have.
    BadAddress {
        /// The byte address.
        addr: u64,
    },
    /// The block is not allocated, or was freed already.
    NotAllocated {
        /// Byte address of the block.
        addr: u64,
    },
    /// The memory value cannot serve this volume.
    MemoryTooSmall {
        /// The part that is too small.
        part: MemoryPart,
        /// How much of it the volume needs.
        need: u64,
        /// How much there is.
        have: u64,
    },
    /// The volume or the request does not fit the device: too large or too small, or a sector larger than a block.
    Geometry {
        /// Bytes that are needed (or the sector's size).
        need_bytes: u64,
        /// Bytes that there are (or the block's size).
        have_bytes: u64,
    },
    /// A parameter is outside what the format allows.
    BadParameter {
        /// Its name.
        name: &'static str,
        /// Its value.
        found: u64,
    },
}

/// Something went wrong that cannot be gone on from, and is noted: by a commit in the engine, so that nothing more is
/// written, by a mount in itself. Their functions hand this on instead of the [`Error`], which is large.
pub(crate) struct Stop;

impl Error {
    /// A block at `addr` that does not decode.
    pub(crate) fn format(addr: u64, error: FormatError) -> Self {
        Self::Corrupt { addr, damage: Damage::Format(error) }
    }

    /// A contradiction at `addr`.
    pub(crate) fn corrupt(addr: u64, damage: Damage) -> Self {
        Self::Corrupt { addr, damage }
    }
}

impl fmt::Display for MemoryPart {
    /// In the words of the [`crate::memory!`] macro.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Buffers => "buffers (a larger `cache_blocks`, or `block_len_bytes`)",
            Self::MapWords => "words of free map (a larger `volume_blocks`)",
            Self::Arenas => "arenas (a larger `arenas`)",
            Self::CheckWords => "words lent to the check",
        })
    }
}

impl core::error::Error for Error {}

impl core::error::Error for Damage {}

impl fmt::Display for Damage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::Hash { expected, found } => write!(f, "hash {found:016x} found, {expected:016x} expected"),
            Self::Format(error) => error.fmt(f),
            Self::Header { expected } => write!(f, "no copy of the arena header has the hash {expected:016x}"),
            Self::ArenaExtent => f.write_str("arena outside the device, overlapping or out of order"),
            Self::AllocTwice { offset } => write!(f, "log entry at byte {offset} allocates a block that is not free"),
            Self::FreeTwice { offset } => write!(f, "log entry at byte {offset} frees a block that is free"),
            Self::ForeignRange { offset } => write!(f, "log entry at byte {offset} names blocks outside its arena"),
            Self::ForeignLog => f.write_str("log leads to a block outside its arena"),
            Self::ChainLoop => f.write_str("log chain is longer than its arena"),
            Self::LogNotInUse => f.write_str("log block is not in use according to its log"),
            Self::LogDigest { expected, found } => {
                write!(f, "log digest {found:016x} found, {expected:016x} expected: a log write was lost or misplaced")
            }
            Self::ReplayWork => f.write_str("log frees and allocates large ranges over and over"),
            Self::RootFree => f.write_str("the superblock points to a block that is not in use"),
            Self::LogEnd => f.write_str("log does not end with the barrier that its arena header names"),
            Self::LogNotReplayed => f.write_str("the log could not be replayed; all of its arena counts as in use"),
            Self::BarrierOrder { offset } => write!(f, "barrier at byte {offset} of a log block is out of order"),
            Self::CacheConflict => f.write_str("cache and free map contradict each other"),
        }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::Device { op: DeviceOp::Flush, cause, .. } => {
                write!(f, "flush failed: {cause}; what was committed is safe, mount anew when the device is well")
            }
            Self::Device { op: DeviceOp::Read, addr, cause } => {
                write!(f, "read at {addr:#x} failed: {cause}; try again, other blocks can still be read")
            }
            Self::Device { op: DeviceOp::Write, addr, cause } => write!(
                f,
                "write at {addr:#x} failed: {cause}; what was committed is safe, mount anew when the device is well"
            ),
            Self::Corrupt { addr, damage } => write!(f, "damaged at {addr:#x}: {damage}"),
            Self::NotAVolume { first, second: Some(second) } => {
                write!(f, "not a volume (first superblock: {first}; second: {second})")
            }
            Self::NotAVolume { first, second: None } => write!(f, "not a volume ({first})"),
            Self::NotBlank { addr } => {
                write!(f, "the device is not blank: it holds something at {addr:#x}; force overwrites it")
            }
            Self::Full { room_blocks, free_blocks, pending_blocks } => write!(
                f,
                "volume full: need 1 block, room for {room_blocks} ({free_blocks} free with reserves, \
                 {pending_blocks} more after a commit); free something, commit, try again"
            ),
            Self::NoBuffer => f.write_str(
                "every buffer of the cache is in use; drop blocks that are held, or give the store more memory",
            ),
            Self::Stalled { worker } => {
                write!(f, "worker {worker} does not leave its epoch; try again when it has")
            }
            Self::NoWorker => {
                f.write_str("no place for one more worker; leave an epoch, or declare the memory with more workers")
            }
            Self::CommitInFlight => f.write_str("a commit is in flight; step until it has ended"),
            Self::ReadOnly => {
                f.write_str("the store is read-only: mounted so, write-protected, or a write has failed; mount anew")
            }
            Self::BadAddress { addr } => {
                write!(f, "{addr:#x} is no block of this volume; the pointer is out of date or of another volume")
            }
            Self::NotAllocated { addr } => {
                write!(f, "block {addr:#x} is not allocated; the pointer is out of date, or was freed before")
            }
            Self::MemoryTooSmall { part, need, have } => {
                write!(f, "memory value too small for this volume: {need} {part} needed, {have} there")
            }
            Self::Geometry { need_bytes, have_bytes } => {
                write!(f, "does not fit the device: {need_bytes} bytes needed, {have_bytes} there")
            }
            Self::BadParameter { name, found } => write!(f, "{name} cannot be {found}"),
        }
    }
}
