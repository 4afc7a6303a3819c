//! Nodes of the tree, both kinds behind one face: a sorted list of items.
//!
//! ```text
//!   level 2        pivot  .---------------- "m"-----------
//!   level 1        pivot  .------ "d"---    pivot  .--- "t"---
//!   level 0        leaf a..b  leaf d..k     leaf m..s   leaf t..z
//! ```
//!
//! # Invariants of a tree
//! - All leaves are on level 0; the root is on level `height - 1`.
//! - A pivot's child `i` holds paths from the pivot's key `i` up to, but without, key `i + 1`. The first child begins,
//!   and the last one ends, where the pivot itself does by what its parent says; at the ends of a level nothing bounds
//!   the first and the last.
//! - So the first key of a pivot says nothing, and nobody looks at it. It is empty, except in the right half of a node
//!   that was split, where it is the key that went into the parent.
//! - No node is empty. No pivot holds messages. The root is a leaf or has two children.

use crate::error::{Error, Result};
use arenite_core::format::{BlockSize, BlockType, Child, Leaf, LeafBuilder, Pivot, PivotBuilder, RawPtr};
use arenite_core::Block;

/// Most levels that a tree may have, leaves included.
///
/// With the smallest blocks and only the longest keys, a pivot has at least two children and a leaf two entries; with
/// ordinary ones it is tens. Ten levels are then millions of files.
pub const MAX_HEIGHT: u8 = 10;

/// What a block takes for an item, besides its key and its value: a slot, and two lengths.
const ITEM_OVERHEAD: usize = 6;
const LEAF_HEADER: usize = 6;
const PIVOT_HEADER: usize = 10;
const CHILD_LEN: usize = RawPtr::LEN_BYTES + 2;

/// Bytes for items in a leaf.
const fn leaf_area(size: BlockSize) -> usize {
    size.len_bytes() - LEAF_HEADER
}

/// Bytes for children in a pivot.
const fn pivot_area(size: BlockSize) -> usize {
    size.len_bytes() - PIVOT_HEADER - size.bufspc() as usize
}

/// The longest path that fits a volume with blocks of this size, in bytes: 222 in blocks of 2 KiB, 478 in 4 KiB, 989
/// in 8 KiB, 1024 above.
///
/// A node must be able to hold at least four items, so that one that overflows by an item can be split into two that
/// do not; the narrowest place is the part of a pivot that is for children, about half of the block.
#[must_use]
pub const fn max_path_len(size: BlockSize) -> usize {
    let quarter = pivot_area(size) / 4 - ITEM_OVERHEAD - CHILD_LEN;
    if quarter < 1024 {
        quarter
    } else {
        1024
    }
}

/// What an item carries under its key.
#[derive(Clone, Copy)]
pub(crate) enum Value<'a> {
    /// In a leaf.
    Bytes(&'a [u8]),
    /// In a pivot.
    Child(Child),
}

/// One item of a node.
#[derive(Clone, Copy)]
pub(crate) struct Item<'a> {
    pub(crate) key: &'a [u8],
    pub(crate) value: Value<'a>,
}

impl Item<'_> {
    /// Bytes that it takes in a node.
    pub(crate) fn len_bytes(&self) -> usize {
        let value = match self.value {
            Value::Bytes(bytes) => bytes.len(),
            Value::Child(_) => CHILD_LEN,
        };
        ITEM_OVERHEAD + self.key.len() + value
    }
}

/// A node that was checked on its own, borrowed from its block.
#[derive(Clone, Copy)]
pub(crate) enum Node<'a> {
    Leaf(Leaf<'a>),
    Pivot(Pivot<'a>),
}

impl<'a> Node<'a> {
    /// Parses the node in `block`, which must be one for `level`.
    pub(crate) fn parse(block: &'a Block<'_>, size: BlockSize, level: u8) -> Result<Self> {
        if level == 0 {
            parse_leaf(block, size).map(Self::Leaf)
        } else {
            parse_pivot(block, size).map(Self::Pivot)
        }
    }

    pub(crate) fn len(&self) -> usize {
        match self {
            Self::Leaf(leaf) => leaf.len(),
            Self::Pivot(pivot) => pivot.len(),
        }
    }

    pub(crate) fn key(&self, index: usize) -> Option<&'a [u8]> {
        match self {
            Self::Leaf(leaf) => leaf.key(index),
            Self::Pivot(pivot) => pivot.key(index),
        }
    }

    pub(crate) fn item(&self, index: usize) -> Option<Item<'a>> {
        let (key, value) = match self {
            Self::Leaf(leaf) => (leaf.key(index)?, Value::Bytes(leaf.value(index)?)),
            Self::Pivot(pivot) => (pivot.key(index)?, Value::Child(pivot.child(index)?)),
        };
        Some(Item { key, value })
    }
}

/// Parses a leaf of a catalogue.
pub(crate) fn parse_leaf<'a>(block: &'a Block<'_>, size: BlockSize) -> Result<Leaf<'a>> {
    let addr = block.ptr().addr;
    let leaf = Leaf::parse(block.bytes(), size).map_err(|error| Error::format(addr, error))?;
    match leaf.key(0) {
        None => Err(Error::NotCatalog { addr, what: "empty leaf" }),
        Some([]) => Err(Error::NotCatalog { addr, what: "empty path in a leaf" }),
        Some(_) => Ok(leaf),
    }
}

/// Parses a pivot of a catalogue.
pub(crate) fn parse_pivot<'a>(block: &'a Block<'_>, size: BlockSize) -> Result<Pivot<'a>> {
    let addr = block.ptr().addr;
    let pivot = Pivot::parse(block.bytes(), size).map_err(|error| Error::format(addr, error))?;
    if pivot.message_count() > 0 {
        return Err(Error::NotCatalog { addr, what: "messages in a pivot" });
    }
    Ok(pivot)
}

/// The number of the child that `key` belongs to.
pub(crate) fn child_for(pivot: &Pivot<'_>, key: &[u8]) -> usize {
    // Its first key says nothing.
    pivot.child_for(key).unwrap_or(0)
}

/// Kind of a level's blocks.
pub(crate) fn block_type(level: u8) -> BlockType {
    if level == 0 {
        BlockType::Leaf
    } else {
        BlockType::Pivot
    }
}

/// Bytes for items in a node of this level.
pub(crate) fn area(size: BlockSize, level: u8) -> usize {
    if level == 0 {
        leaf_area(size)
    } else {
        pivot_area(size)
    }
}

/// Fills `page` with a node of these items; returns its fill. `addr` is for the error message.
pub(crate) fn build<'i>(
    page: &mut [u8],
    size: BlockSize,
    level: u8,
    items: impl Iterator<Item = Item<'i>>,
    addr: u64,
) -> Result<u16> {
    let error = |error| Error::format(addr, error);
    let foreign = Error::NotCatalog { addr, what: "items of two kinds" };
    if level == 0 {
        let mut leaf = LeafBuilder::new(page, size).map_err(error)?;
        for item in items {
            let Value::Bytes(value) = item.value else { return Err(foreign) };
            leaf.push(item.key, value).map_err(error)?;
        }
        leaf.finish().map_err(error)
    } else {
        let mut pivot = PivotBuilder::new(page, size).map_err(error)?;
        for item in items {
            let Value::Child(child) = item.value else { return Err(foreign) };
            pivot.push(item.key, child.ptr, child.fill).map_err(error)?;
        }
        pivot.finish().map_err(error)
    }
}
