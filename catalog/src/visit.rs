//! Going through every block that a catalogue uses, for checks.
//!
//! Nodes are checked for what no single block can say about itself: that their keys are within what their parent says.
//! Damage is reported and passed by, so that one walk finds all of it. At most three blocks are held at a time:
//! a leaf, and two of a file.
//!
//! A walk ends whatever nodes lead to each other: one with keys of its own is in its place under one parent only, and a
//! node that is out of place is not descended into.

use crate::content::{walk, Piece};
use crate::entry::Entry;
use crate::error::{Error, Result};
use crate::node::{parse_leaf, parse_pivot, Node, MAX_HEIGHT};
use crate::tree::{child_ptr, Root};
use arenite_core::{BlockPtr, Class, ReadOptions, Roots, Store};
use core::ops::ControlFlow;
use heapless::Vec;

/// What a block is to the catalogue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BlockUse {
    /// Inner node of the tree.
    Pivot,
    /// Outer node of the tree.
    Leaf,
    /// Pointers to blocks of one file.
    Pointers,
    /// Bytes of one file.
    Data,
}

/// A block that the catalogue uses.
#[derive(Clone, Copy, Debug)]
pub struct VisitedBlock<'a> {
    /// The pointer that leads to it.
    pub ptr: BlockPtr,
    /// What it is there for.
    pub block_use: BlockUse,
    /// The file that it belongs to; `None` for nodes of the tree.
    pub path: Option<&'a [u8]>,
    /// Whether it is what the pointer promises. If not, what lies below it is not visited. Always `Ok` for data blocks
    /// in a walk that does not read these.
    pub outcome: Result<()>,
}

/// Whether a walk reads the bytes of files.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Depth {
    /// Only what leads to other blocks is read: enough to know which blocks are in use.
    Structure,
    /// Everything is read and its hash compared.
    Everything,
}

/// Calls `visitor` for every block under the root in `roots`, until it breaks. Each block is visited once, children of
/// a node in order of keys, and the blocks of a file with its leaf.
///
/// Fails only if `roots` name no catalogue at all; what is found further down is reported to `visitor`.
pub fn visit_blocks(
    store: &Store<'_, '_>,
    roots: &Roots,
    depth: Depth,
    visitor: &mut dyn FnMut(VisitedBlock<'_>) -> ControlFlow<()>,
) -> Result<()> {
    let root = Root::from_roots(roots)?;
    // The visitor's wish to stop is no failure.
    let _ = Visit { store, depth, visitor }.tree(root);
    Ok(())
}

/// A pivot on the way down, and its next child.
struct Step {
    ptr: BlockPtr,
    next: usize,
}

type Path = Vec<Step, { MAX_HEIGHT as usize }>;

struct Visit<'v, 's, 'd, 'm> {
    store: &'s Store<'d, 'm>,
    depth: Depth,
    visitor: &'v mut dyn FnMut(VisitedBlock<'_>) -> ControlFlow<()>,
}

impl Visit<'_, '_, '_, '_> {
    fn tree(&mut self, root: Root) -> ControlFlow<()> {
        let Some(ptr) = root.ptr else { return ControlFlow::Continue(()) };
        let mut path = Path::new();
        self.node(&mut path, ptr, root.height - 1)?;
        while let Some(mut step) = path.pop() {
            // Reported when it was first met; if it cannot be read now, there is nothing below to visit.
            let Ok(block) = self.store.read(step.ptr) else { continue };
            let Ok(pivot) = parse_pivot(&block, self.store.block_size()) else { continue };
            if step.next == pivot.len() {
                continue;
            }
            let child = child_ptr(&pivot, step.next, step.ptr.addr);
            step.next += 1;
            drop(block);
            let level = root.height - 2 - path.len() as u8;
            // Room is left: the path is shorter than the tree is high.
            path.extend([step]);
            if let Ok(ptr) = child {
                self.node(&mut path, ptr, level)?;
            }
        }
        ControlFlow::Continue(())
    }

    /// Visits one node; of a leaf, the files too. A pivot becomes the end of the path.
    fn node(&mut self, path: &mut Path, ptr: BlockPtr, level: u8) -> ControlFlow<()> {
        let block_use = if level == 0 { BlockUse::Leaf } else { BlockUse::Pivot };
        let outcome = self.check_node(path, ptr, level);
        (self.visitor)(VisitedBlock { ptr, block_use, path: None, outcome })?;
        if outcome.is_err() {
            return ControlFlow::Continue(());
        }
        if level > 0 {
            path.extend([Step { ptr, next: 0 }]);
            return ControlFlow::Continue(());
        }
        let Ok(block) = self.store.read(ptr) else { return ControlFlow::Continue(()) };
        let size = self.store.block_size();
        let Ok(leaf) = parse_leaf(&block, size) else { return ControlFlow::Continue(()) };
        for (key, value) in leaf.iter() {
            if let Ok(entry) = Entry::decode(value, size, ptr.addr) {
                self.file(key, &entry)?;
            }
        }
        ControlFlow::Continue(())
    }

    /// Whether a node can be read, is one of its level, and keeps within the keys that the pivots above leave it.
    fn check_node(&self, path: &Path, ptr: BlockPtr, level: u8) -> Result<()> {
        let size = self.store.block_size();
        let block = self.store.read(ptr)?;
        let node = Node::parse(&block, size, level)?;
        let bad = |what| Error::NotCatalog { addr: ptr.addr, what };
        // The first key of a pivot says nothing.
        let lowest = if level == 0 { node.key(0) } else { node.key(1) };
        let highest = lowest.and(node.key(node.len() - 1));
        // The nearest pivots upwards that have a child to the left and to the right of the way tell the bounds.
        if let Some(step) = path.iter().rev().find(|step| step.next > 1) {
            let above = self.store.read(step.ptr)?;
            let low = parse_pivot(&above, size)?.key(step.next - 1);
            if lowest.is_some() && lowest < low {
                return Err(bad("keys below what the parent says"));
            }
        }
        for step in path.iter().rev() {
            let above = self.store.read(step.ptr)?;
            if let Some(high) = parse_pivot(&above, size)?.key(step.next) {
                if highest.is_some_and(|highest| highest >= high) {
                    return Err(bad("keys above what the parent says"));
                }
                break;
            }
        }
        if let Node::Leaf(leaf) = node {
            for (_, value) in leaf.iter() {
                Entry::decode(value, size, ptr.addr)?;
            }
        }
        Ok(())
    }

    fn file(&mut self, path: &[u8], entry: &Entry) -> ControlFlow<()> {
        let Self { store, depth, visitor } = self;
        let mut flow = ControlFlow::Continue(());
        // What a check reads once must not push out of the cache what others need.
        let once = ReadOptions { past_cache: true, ..ReadOptions::default() };
        walk(store, &entry.content, Class::Normal, &mut |Piece { ptr, level, outcome }| {
            let outcome = match (level, &depth) {
                (0, Depth::Everything) => store.read_with(ptr, once).map(drop),
                _ => outcome,
            };
            let block_use = if level == 0 { BlockUse::Data } else { BlockUse::Pointers };
            flow = visitor(VisitedBlock { ptr, block_use, path: Some(path), outcome: outcome.map_err(Error::from) });
            flow.is_continue()
        });
        flow
    }
}
