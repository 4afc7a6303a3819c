//! What the catalogue knows about one file, and the 48 bytes that say it.
//!
//! ```text
//!    0 version   1 kind   2 height of the content   3 zero   4 mode[4]   8 size[8]   16 modified[8]   24 root[24]
//! ```
//! Integers are big-endian, as everywhere in a volume. The root is all ones when there is no content.
//!
//! # Content
//! The bytes of a file lie in data blocks, all full but the last, whose rest is zero. More than one are found through
//! blocks of 24-byte pointers, `B / 24` in each, as many levels of them as needed and no more:
//!
//! ```text
//!   height 0   nothing          height 1   root -> data          height 2   root -> pointers -> data   ...
//! ```

use crate::error::{Error, Result};
use arenite_core::format::{BlockSize, RawPtr};
use arenite_core::BlockPtr;
use static_assertions::const_assert;
use static_assertions::const_assert_eq;

/// Most levels that content can have, the data included. A volume has less than 2^32 blocks, and the smallest block
/// holds 85 pointers.
pub const MAX_CONTENT_HEIGHT: u8 = 6;

const_assert!(85u64.pow(MAX_CONTENT_HEIGHT as u32 - 1) > 1 << 32);

const VERSION: u8 = 1;
const AT_KIND: usize = 1;
const AT_HEIGHT: usize = 2;
const AT_MODE: usize = 4;
const AT_SIZE: usize = 8;
const AT_MODIFIED: usize = 16;
const AT_ROOT: usize = 24;

const_assert_eq!(AT_ROOT + RawPtr::LEN_BYTES, Entry::LEN_BYTES);

/// Pointers in one block of pointers.
pub(crate) const fn pointers_per_block(size: BlockSize) -> u64 {
    size.len_u64() / RawPtr::LEN_BYTES as u64
}

/// Data blocks under one node with `levels` levels of pointers: `(B / 24) ^ levels`.
pub(crate) const fn span(size: BlockSize, levels: u8) -> u64 {
    pointers_per_block(size).saturating_pow(levels as u32)
}

/// The bytes of a file, or none: how many, and where.
///
/// Whoever gets one from a [`FileWriter`](crate::FileWriter) owns its blocks until an entry in a catalogue names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use = "its blocks stay in use until they are freed"]
pub struct Content {
    size_bytes: u64,
    height: u8,
    root: Option<BlockPtr>,
}

impl Content {
    /// No bytes, no blocks.
    pub const EMPTY: Self = Self { size_bytes: 0, height: 0, root: None };

    pub(crate) fn new(size_bytes: u64, height: u8, root: BlockPtr) -> Self {
        Self { size_bytes, height, root: Some(root) }
    }

    /// Number of bytes.
    #[must_use]
    pub fn size_bytes(&self) -> u64 {
        self.size_bytes
    }

    /// Levels of blocks: 0 without content, 1 for a single data block, one more for each level of pointers.
    #[must_use]
    pub fn height(&self) -> u8 {
        self.height
    }

    /// The topmost block, if there is content.
    #[must_use]
    pub fn root(&self) -> Option<BlockPtr> {
        self.root
    }

    /// Number of data blocks.
    #[must_use]
    pub fn data_blocks(&self, size: BlockSize) -> u64 {
        self.size_bytes.div_ceil(size.len_u64())
    }

    /// Number of blocks, those with pointers included.
    #[must_use]
    pub fn all_blocks(&self, size: BlockSize) -> u64 {
        (0..self.height).map(|levels| self.data_blocks(size).div_ceil(span(size, levels))).sum()
    }

    /// The height that content of this size has.
    fn height_for(size_bytes: u64, size: BlockSize) -> Option<u8> {
        let blocks = size_bytes.div_ceil(size.len_u64());
        if blocks == 0 {
            return Some(0);
        }
        (1..=MAX_CONTENT_HEIGHT).find(|height| span(size, height - 1) >= blocks)
    }
}

/// What a path stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Kind {
    /// A file; the content is its bytes.
    File = 1,
    /// A directory; no content. The catalogue does not demand that it exists before what is in it.
    Dir = 2,
    /// A symbolic link; the content is the path that it leads to.
    Symlink = 3,
}

/// What the catalogue knows about one path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry {
    /// What it is.
    pub kind: Kind,
    /// Permission bits; the catalogue gives them no meaning.
    pub mode: u32,
    /// Seconds since 1970 when the content last changed; 0 if nobody knows.
    pub modified_s: u64,
    /// The bytes.
    pub content: Content,
}

impl Entry {
    /// Bytes of an encoded entry.
    pub const LEN_BYTES: usize = 48;

    pub(crate) fn encode(&self) -> [u8; Self::LEN_BYTES] {
        let mut bytes = [0; Self::LEN_BYTES];
        let (head, root) = bytes.split_at_mut(AT_ROOT);
        head[0] = VERSION;
        head[AT_KIND] = self.kind as u8;
        head[AT_HEIGHT] = self.content.height;
        head[AT_MODE..AT_SIZE].copy_from_slice(&self.mode.to_be_bytes());
        head[AT_SIZE..AT_MODIFIED].copy_from_slice(&self.content.size_bytes.to_be_bytes());
        head[AT_MODIFIED..AT_ROOT].copy_from_slice(&self.modified_s.to_be_bytes());
        // A pointer is exactly as long as what is left.
        let _ = self.content.root.map_or(RawPtr::NULL, RawPtr::from).encode(root, 0);
        bytes
    }

    /// Decodes the value in the leaf at `addr`, and checks that its parts agree with each other.
    pub(crate) fn decode(value: &[u8], size: BlockSize, addr: u64) -> Result<Self> {
        let bad = |what| Error::NotCatalog { addr, what };
        let bytes: &[u8; Self::LEN_BYTES] = value.try_into().map_err(|_| bad("length of an entry"))?;
        let kind = match (bytes[0], bytes[AT_KIND]) {
            (VERSION, 1) => Kind::File,
            (VERSION, 2) => Kind::Dir,
            (VERSION, 3) => Kind::Symlink,
            _ => return Err(bad("version or kind of an entry")),
        };
        let be64 = |at: usize| bytes[at..].first_chunk().map_or(0, |field| u64::from_be_bytes(*field));
        let mode = bytes[AT_MODE..].first_chunk().map_or(0, |field| u32::from_be_bytes(*field));
        let root = RawPtr::decode(bytes, AT_ROOT).and_then(BlockPtr::from_raw);
        let content = Content { size_bytes: be64(AT_SIZE), height: bytes[AT_HEIGHT], root };
        if Content::height_for(content.size_bytes, size) != Some(content.height) {
            return Err(bad("height of an entry's content"));
        }
        if root.is_some() != (content.height > 0) || root.is_some_and(|ptr| !size.divides(ptr.addr)) {
            return Err(bad("content pointer of an entry"));
        }
        Ok(Self { kind, mode, modified_s: be64(AT_MODIFIED), content })
    }
}
