//! Why bytes are not what they should be.
#![forbid(unsafe_code)]

use super::BlockType;
use core::fmt;

/// A block that does not decode, or values that must not be encoded. Small and `Copy`; offsets are bytes from the
/// start of the block.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum FormatError {
    /// The buffer is not of the length that the structure needs.
    BufferLen {
        /// Bytes in the buffer.
        got_bytes: usize,
        /// Bytes that are needed.
        want_bytes: usize,
    },
    /// Not a superblock of this family at all.
    Magic {
        /// The eight bytes in the place of the magic.
        found: [u8; 8],
    },
    /// A superblock of the right family, but of another version.
    Version {
        /// The four bytes in the place of the version, text in a healthy superblock.
        found: [u8; 4],
    },
    /// The block is of another type than it must be.
    BlockType {
        /// Its first two bytes.
        found: u16,
        /// What was to be there; `None` when the number names no type at all.
        want: Option<BlockType>,
    },
    /// The hash that the block carries is not the hash of its contents.
    Hash {
        /// Hash in the block.
        stored: u64,
        /// Hash of the bytes.
        computed: u64,
    },
    /// A field holds a value that it must not hold.
    Field {
        /// Name of the field.
        name: &'static str,
        /// Where it lies.
        offset: usize,
        /// What it holds.
        found: u64,
    },
    /// A log entry with an operation that does not exist.
    LogOp {
        /// Where the entry lies.
        offset: usize,
        /// The operation.
        found: u8,
    },
    /// A log entry that the end of the log cuts in two.
    LogCut {
        /// Where the entry lies.
        offset: usize,
    },
    /// Keys that do not ascend.
    Order {
        /// Number of the first key that is not above the one before it.
        index: usize,
    },
    /// What is to be appended does not fit into the block any more. The block is as it was.
    Full,
}

impl fmt::Display for FormatError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::BufferLen { got_bytes, want_bytes } => write!(f, "buffer of {got_bytes} bytes, not {want_bytes}"),
            Self::Magic { found } => write!(f, "not a superblock: begins with \"{}\"", found.escape_ascii()),
            Self::Version { found } => write!(f, "disk version \"{}\" is not supported", found.escape_ascii()),
            Self::BlockType { found, want: Some(want) } => write!(f, "block type {found:#x} where {want:?} belongs"),
            Self::BlockType { found, want: None } => write!(f, "unknown block type {found:#x}"),
            Self::Hash { stored, computed } => write!(f, "hash {stored:#018x} stored, {computed:#018x} computed"),
            Self::Field { name, offset, found } => write!(f, "bad {name} at byte {offset}: {found:#x}"),
            Self::LogOp { offset, found } => write!(f, "unknown log operation {found:#x} at byte {offset}"),
            Self::LogCut { offset } => write!(f, "log entry at byte {offset} is cut short"),
            Self::Order { index } => write!(f, "key {index} is not above the key before it"),
            Self::Full => f.write_str("the block is full"),
        }
    }
}

impl core::error::Error for FormatError {}
