//! Changing the tree, copy on write.
//!
//! A change writes new copies of the nodes from one leaf to the root, and nothing else:
//!
//! ```text
//!   before   root ---- P ---- leaf         what it costs, in blocks of a tree of height h:
//!                                          - new content for a path, no split     h
//!   after    root'---- P'---- leaf'        - each split                          +1
//!              \        \                  - a new root                          +1
//!               shared   shared            - a removal                            h at most
//! ```
//!
//! # Order, and what follows from it
//! All new nodes are queued before the first old one is freed. If anything fails until then, [`Change`] frees the new
//! ones, and the old root is as good as before. Removing therefore takes before it gives; it uses the class of
//! allocations and reads that has a reserve of its own, of which one removal needs at most `height` blocks and, at a
//! time, four buffers.
//!
//! # Splits and merges
//! A node that overflows is split in the middle, except that growth at the very end of the tree leaves full nodes
//! behind (files often come in order). After a removal each node of the way merges with a neighbour if both fill no
//! more than 7/8 of one block: two neighbours are more than 7/8 of a block together when the one was just shrunk, and
//! the slack keeps a following insertion from splitting them again.
//!
//! # Memory
//! At most four blocks are held at a time. A removal holds an old node, its parent, the neighbour that it is merged
//! with, and the one being filled. An insertion holds an old node, the right one of two new nodes below it (whose key
//! goes into the parent), and the one being filled. On the stack: the way down and the lists of new and old blocks,
//! 1.4 KiB; with all frames (x86-64, optimised) 6 KiB down to the store's functions. Functions that are called one
//! after the other are kept apart, so that their frames do not add up.

use crate::error::{Error, Result};
use crate::node::{area, block_type, build, child_for, parse_pivot, Item, Node, Value, MAX_HEIGHT};
use crate::plan::{Edited, Neighbour, Plan};
use crate::tree::{child_ptr, Root};
use arenite_core::format::{BlockSize, Child, Pivot, RawPtr};
use arenite_core::{Allocate, Block, BlockPtr, Class, Error as StoreError, ReadOptions, Store};
use core::ops::Range;
use heapless::Vec;

const LEVELS: usize = MAX_HEIGHT as usize;

/// What happens to one key.
#[derive(Clone, Copy)]
pub(crate) struct Edit<'k> {
    pub(crate) key: &'k [u8],
    /// The new value, or none to remove the key, which must be there.
    pub(crate) value: Option<&'k [u8]>,
}

/// A change that took effect.
pub(crate) struct Applied {
    pub(crate) root: Root,
    /// Why an old node could not be freed.
    pub(crate) unfreed: Option<StoreError>,
}

/// Makes the tree with `edit` applied. On an error the old tree is as it was, and nothing is left behind.
pub(crate) fn apply(store: &Store<'_, '_>, root: Root, edit: Edit<'_>) -> Result<Applied> {
    let mut change = Change::new(store, edit);
    let root = match root.ptr {
        None => change.plant()?,
        Some(ptr) => {
            change.descend(ptr, root.height)?;
            change.rewrite()?
        }
    };
    Ok(Applied { root, unfreed: change.free_old() })
}

/// A node on the way down, and which of its children the way takes.
#[derive(Clone, Copy)]
struct Step {
    ptr: BlockPtr,
    index: usize,
}

/// What takes the place of some children in a pivot.
struct Replacement<'s> {
    /// Numbers of the children that go.
    cut: Range<usize>,
    /// Comes under the key of the first of them.
    first: Option<Child>,
    /// Comes behind, if a node was split.
    second: Option<Second<'s>>,
}

/// The right one of two new nodes. Its block is held because the key for its parent is in it.
struct Second<'s> {
    block: Block<'s>,
    fill: u16,
    /// The key is so many bytes of the node's first key.
    key_len: usize,
}

impl Second<'_> {
    fn item(&self, size: BlockSize, level: u8) -> Result<Item<'_>> {
        let key = Node::parse(&self.block, size, level)?.key(0).and_then(|key| key.get(..self.key_len));
        let bad = Error::NotCatalog { addr: self.block.ptr().addr, what: "first key of a new node" };
        Ok(Item { key: key.ok_or(bad)?, value: Value::Child(child(&self.block, self.fill)) })
    }
}

fn child(block: &Block<'_>, fill: u16) -> Child {
    Child { ptr: RawPtr::from(block.ptr()), fill }
}

/// One change under way. Frees its new nodes when it is dropped before it succeeded.
struct Change<'s, 'd, 'm, 'k> {
    store: &'s Store<'d, 'm>,
    edit: Edit<'k>,
    class: Class,
    /// The nodes that are replaced, from the root down.
    path: Vec<Step, LEVELS>,
    /// Whether the path ends in the last leaf of all.
    at_end: bool,
    /// What else is replaced: neighbours, and roots with a single child.
    merged: Vec<BlockPtr, { 2 * LEVELS }>,
    fresh: Vec<BlockPtr, { 2 * LEVELS + 1 }>,
}

impl Drop for Change<'_, '_, '_, '_> {
    fn drop(&mut self) {
        for ptr in &self.fresh {
            // This ends a change that failed for another reason, which is the one to report.
            let _ = self.store.free(*ptr);
        }
    }
}

impl<'s, 'd, 'm, 'k> Change<'s, 'd, 'm, 'k> {
    fn new(store: &'s Store<'d, 'm>, edit: Edit<'k>) -> Self {
        let class = if edit.value.is_some() { Class::Normal } else { Class::Reclaim };
        Self { store, edit, class, path: Vec::new(), at_end: true, merged: Vec::new(), fresh: Vec::new() }
    }

    fn size(&self) -> BlockSize {
        self.store.block_size()
    }

    fn read(&self, ptr: BlockPtr) -> Result<Block<'s>> {
        Ok(self.store.read_with(ptr, ReadOptions { class: self.class, ..ReadOptions::default() })?)
    }

    /// Writes a node. `from` is the address of the one that it replaces, for error messages.
    fn write<'i>(&mut self, level: u8, items: impl Iterator<Item = Item<'i>>, from: u64) -> Result<(Block<'s>, u16)> {
        let full = Error::TooHigh { max_levels: MAX_HEIGHT };
        if self.fresh.is_full() {
            return Err(full);
        }
        let what = Allocate::new(block_type(level)).class(self.class);
        let mut filling = self.store.allocate(what)?;
        let fill = build(filling.bytes_mut(), self.size(), level, items, from)?;
        let block = self.store.enqueue(filling)?;
        self.fresh.push(block.ptr()).map_err(|_| full)?;
        Ok((block, fill))
    }

    /// The first leaf of an empty tree.
    fn plant(&mut self) -> Result<Root> {
        let Edit { key, value: Some(value) } = self.edit else { return Ok(Root::EMPTY) };
        let item = Item { key, value: Value::Bytes(value) };
        let (leaf, _) = self.write(0, core::iter::once(item), 0)?;
        Ok(Root { ptr: Some(leaf.ptr()), height: 1 })
    }

    /// Finds the leaf of the key and notes the way.
    #[inline(never)]
    fn descend(&mut self, root: BlockPtr, height: u8) -> Result<()> {
        let too_high = Error::TooHigh { max_levels: MAX_HEIGHT };
        let mut ptr = root;
        for _ in 1..height {
            let block = self.read(ptr)?;
            let pivot = parse_pivot(&block, self.size())?;
            let index = child_for(&pivot, self.edit.key);
            self.at_end &= index + 1 == pivot.len();
            self.path.push(Step { ptr, index }).map_err(|_| too_high)?;
            ptr = child_ptr(&pivot, index, block.ptr().addr)?;
        }
        self.path.push(Step { ptr, index: 0 }).map_err(|_| too_high)
    }

    /// Replaces the nodes of the path from the leaf up; returns the new root.
    fn rewrite(&mut self) -> Result<Root> {
        let mut below = Replacement { cut: 0..0, first: None, second: None };
        for depth in (1..self.path.len()).rev() {
            below = self.rewrite_node(depth, &below)?;
        }
        self.rewrite_root(&below)
    }

    /// Replaces a node of the path that is not the root.
    #[inline(never)]
    fn rewrite_node(&mut self, depth: usize, below: &Replacement<'_>) -> Result<Replacement<'s>> {
        let (ptr, parent) = (self.path[depth].ptr, self.path[depth - 1]);
        let block = self.read(ptr)?;
        let edited = self.edited(&block, (self.path.len() - 1 - depth) as u8, below)?;
        self.replace_node(&edited, ptr.addr, parent)
    }

    /// Replaces the root.
    #[inline(never)]
    fn rewrite_root(&mut self, below: &Replacement<'_>) -> Result<Root> {
        let block = self.read(self.path[0].ptr)?;
        let edited = self.edited(&block, (self.path.len() - 1) as u8, below)?;
        self.replace_root(Plan { own: &edited, neighbour: None }, block.ptr().addr)
    }

    /// What becomes of the items of one node.
    fn edited<'a>(&self, block: &'a Block<'_>, level: u8, below: &'a Replacement<'_>) -> Result<Edited<'a>>
    where
        'k: 'a,
    {
        let size = self.size();
        let node = Node::parse(block, size, level)?;
        let mut fresh = Vec::new();
        let cut = if let Node::Leaf(leaf) = node {
            fresh.extend(self.edit.value.map(|value| Item { key: self.edit.key, value: Value::Bytes(value) }));
            leaf.search(self.edit.key).map_or_else(|at| at..at, |at| at..at + 1)
        } else {
            let bad = Error::NotCatalog { addr: block.ptr().addr, what: "number of children" };
            let key = node.key(below.cut.start).ok_or(bad)?;
            fresh.extend(below.first.map(|child| Item { key, value: Value::Child(child) }));
            if let Some(second) = &below.second {
                fresh.extend([second.item(size, level - 1)?]);
            }
            below.cut.clone()
        };
        Ok(Edited { level, node, cut, fresh })
    }

    /// Writes what replaces a node below the root: nothing, one node (merged with a neighbour, if both fit), or two.
    #[inline(never)]
    fn replace_node(&mut self, own: &Edited<'_>, from: u64, parent: Step) -> Result<Replacement<'s>> {
        let plan = Plan { own, neighbour: None };
        let index = parent.index;
        let len_bytes = plan.len_bytes(0..plan.len());
        if plan.len() == 0 {
            return Ok(Replacement { cut: index..index + 1, first: None, second: None });
        }
        if self.edit.value.is_some() {
            return self.write_nodes(plan, from, index..index + 1);
        }
        let above = self.read(parent.ptr)?;
        let pivot = parse_pivot(&above, self.size())?;
        let Some(other) = self.neighbour(&pivot, index, own.level, len_bytes) else {
            drop(above);
            return self.write_nodes(plan, from, index..index + 1);
        };
        let ptr = child_ptr(&pivot, other, parent.ptr.addr)?;
        let block = self.read(ptr)?;
        let node = Node::parse(&block, self.size(), own.level)?;
        let seam = pivot.key(index.max(other)).unwrap_or(&[]);
        let neighbour = Neighbour { node, is_left: other < index, seam };
        let too_high = Error::TooHigh { max_levels: MAX_HEIGHT };
        self.merged.push(ptr).map_err(|_| too_high)?;
        let plan = Plan { own, neighbour: Some(&neighbour) };
        self.write_nodes(plan, from, index.min(other)..index.max(other) + 1)
    }

    /// A neighbour, under the same parent, that the child with so many bytes of items can be merged with.
    fn neighbour(&self, parent: &Pivot<'_>, index: usize, level: u8, len_bytes: usize) -> Option<usize> {
        let limit = area(self.size(), level) * 7 / 8;
        // In a pivot, the key between the two comes into the merged one.
        let fits = |other: &usize| {
            let seam = if level == 0 { 0 } else { parent.key(index.max(*other)).map_or(0, <[u8]>::len) };
            parent.child(*other).is_some_and(|child| len_bytes + usize::from(child.fill) + seam <= limit)
        };
        [index.wrapping_sub(1), index + 1].into_iter().find(fits)
    }

    /// Writes the items of a plan, of which there is at least one, as one node or two.
    #[inline(never)]
    fn write_nodes(&mut self, plan: Plan<'_>, from: u64, cut: Range<usize>) -> Result<Replacement<'s>> {
        let (len, limit) = (plan.len(), area(self.size(), plan.level()));
        if plan.len_bytes(0..len) <= limit {
            let (block, fill) = self.write(plan.level(), plan.items(0..len), from)?;
            return Ok(Replacement { cut, first: Some(child(&block, fill)), second: None });
        }
        let split = plan.split_at(limit, self.at_end);
        let first = {
            let (block, fill) = self.write(plan.level(), plan.items(0..split), from)?;
            Some(child(&block, fill))
        };
        let (block, fill) = self.write(plan.level(), plan.items(split..len), from)?;
        Ok(Replacement { cut, first, second: Some(Second { block, fill, key_len: plan.separator_len(split) }) })
    }

    /// Makes the new root: none, a node that is left alone under the old one, a copy, or one above two halves.
    #[inline(never)]
    fn replace_root(&mut self, plan: Plan<'_>, from: u64) -> Result<Root> {
        let level = plan.level();
        match (plan.len(), plan.item(0)) {
            (0, _) => return Ok(Root::EMPTY),
            (1, Some(Item { value: Value::Child(only), .. })) => return self.lower_root(only, level, from),
            _ => {}
        }
        let Replacement { first, second, .. } = self.write_nodes(plan, from, 0..1)?;
        let first = first.ok_or(Error::NotCatalog { addr: from, what: "root without items" })?;
        let Some(second) = second else {
            return Ok(Root { ptr: BlockPtr::from_raw(first.ptr), height: level + 1 });
        };
        if level + 1 >= MAX_HEIGHT {
            return Err(Error::TooHigh { max_levels: MAX_HEIGHT });
        }
        let left = Item { key: &[], value: Value::Child(first) };
        let right = second.item(self.size(), level)?;
        let (block, _) = self.write(level + 1, [left, right].into_iter(), from)?;
        Ok(Root { ptr: Some(block.ptr()), height: level + 2 })
    }

    /// The root of a tree whose old root, at `addr`, keeps one child only: the first node below that is a leaf or has
    /// two children.
    fn lower_root(&mut self, only: Child, height: u8, addr: u64) -> Result<Root> {
        let bad = Error::NotCatalog { addr, what: "child of the root" };
        let mut ptr = BlockPtr::from_raw(only.ptr).ok_or(bad)?;
        for height in (2..=height).rev() {
            let block = self.read(ptr)?;
            let pivot = parse_pivot(&block, self.size())?;
            if pivot.len() > 1 {
                return Ok(Root { ptr: Some(ptr), height });
            }
            self.merged.push(ptr).map_err(|_| bad)?;
            ptr = child_ptr(&pivot, 0, block.ptr().addr)?;
        }
        Ok(Root { ptr: Some(ptr), height: 1 })
    }

    /// Ends a change that succeeded: the new nodes stay, the old ones go.
    fn free_old(&mut self) -> Option<StoreError> {
        self.fresh.clear();
        let old = self.path.iter().map(|step| step.ptr).chain(self.merged.iter().copied());
        let errors = old.filter_map(|ptr| self.store.free(ptr).err());
        errors.fold(None, |first, error| first.or(Some(error)))
    }
}
