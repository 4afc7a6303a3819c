//! The tree as readers see it: looking up, and walking in order.
//!
//! There are no parent pointers, which a copy-on-write tree cannot have: a new leaf would mean new pointers in all of
//! its neighbours. A descent keeps what it needs of the way down, and a walk descends anew for each leaf.
//!
//! No function here holds more than two blocks at a time, the one that it works on and the one that it reads next;
//! their callers hold the leaf that they come from.

use crate::error::{Error, Result};
use crate::node::{child_for, parse_leaf, parse_pivot, MAX_HEIGHT};
use arenite_core::{Block, BlockPtr, Class, ReadOptions, Roots, Store};

/// Root block and height of a tree; the height is 0 exactly when there is no root.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Root {
    pub(crate) ptr: Option<BlockPtr>,
    pub(crate) height: u8,
}

impl Root {
    pub(crate) const EMPTY: Self = Self { ptr: None, height: 0 };

    /// The tree that a commit named.
    pub(crate) fn from_roots(roots: &Roots) -> Result<Self> {
        let bad = Error::NotCatalog { addr: 0, what: "root and height in the superblock" };
        let ptr = roots.root_ptr();
        match u8::try_from(roots.height) {
            Ok(height) if height <= MAX_HEIGHT && ptr.is_some() == (height > 0) => Ok(Self { ptr, height }),
            _ => Err(bad),
        }
    }
}

/// The leaf where `key` is, or would be. `None` in an empty tree. Reads for what `class` says.
pub(crate) fn find_leaf<'s>(
    store: &'s Store<'_, '_>,
    root: Root,
    key: &[u8],
    class: Class,
) -> Result<Option<Block<'s>>> {
    let options = ReadOptions { class, ..ReadOptions::default() };
    let Some(ptr) = root.ptr else { return Ok(None) };
    let mut block = store.read_with(ptr, options)?;
    for _ in 1..root.height {
        let pivot = parse_pivot(&block, store.block_size())?;
        block = store.read_with(child_ptr(&pivot, child_for(&pivot, key), block.ptr().addr)?, options)?;
    }
    Ok(Some(block))
}

/// Where a walk goes on: at a key, or behind it.
#[derive(Clone, Copy)]
pub(crate) enum From<'k> {
    At(&'k [u8]),
    After(&'k [u8]),
}

/// The first item not before `from`: its leaf, and its number there.
///
/// On the way down the nearest child to the right is remembered. The leaf of `from` may end before it; the next item is
/// then the first under that child.
pub(crate) fn seek<'s>(store: &'s Store<'_, '_>, root: Root, from: From<'_>) -> Result<Option<(Block<'s>, usize)>> {
    let Some(ptr) = root.ptr else { return Ok(None) };
    let size = store.block_size();
    let key = match from {
        From::At(key) | From::After(key) => key,
    };
    let mut right = None;
    let mut block = store.read(ptr)?;
    for level in (1..root.height).rev() {
        let pivot = parse_pivot(&block, size)?;
        let index = child_for(&pivot, key);
        if let Some(child) = pivot.child(index + 1) {
            right = BlockPtr::from_raw(child.ptr).map(|ptr| (ptr, level - 1));
        }
        block = store.read(child_ptr(&pivot, index, block.ptr().addr)?)?;
    }
    let leaf = parse_leaf(&block, size)?;
    let index = match (leaf.search(key), from) {
        (Ok(index), From::At(_)) | (Err(index), _) => index,
        (Ok(index), From::After(_)) => index + 1,
    };
    if index < leaf.len() {
        return Ok(Some((block, index)));
    }
    drop(block);
    let Some((ptr, level)) = right else { return Ok(None) };
    let block = first_leaf(store, ptr, level)?;
    if parse_leaf(&block, size)?.key(0).is_some_and(|first| first <= key) {
        // Else a damaged tree would let a walk go round in circles.
        return Err(Error::NotCatalog { addr: block.ptr().addr, what: "path out of order" });
    }
    Ok(Some((block, 0)))
}

/// The leftmost leaf under a node.
fn first_leaf<'s>(store: &'s Store<'_, '_>, ptr: BlockPtr, level: u8) -> Result<Block<'s>> {
    let mut block = store.read(ptr)?;
    for _ in 0..level {
        let pivot = parse_pivot(&block, store.block_size())?;
        block = store.read(child_ptr(&pivot, 0, block.ptr().addr)?)?;
    }
    Ok(block)
}

/// Pointer to a child of the pivot at `addr`.
pub(crate) fn child_ptr(pivot: &arenite_core::format::Pivot<'_>, index: usize, addr: u64) -> Result<BlockPtr> {
    let child = pivot.child(index).and_then(|child| BlockPtr::from_raw(child.ptr));
    child.ok_or(Error::NotCatalog { addr, what: "child of a pivot" })
}
