//! Going through the blocks of one tree.
//!
//! Newer changes wait in pivots as messages, the newest nearest to the root, and behind each other in one pivot. So an
//! item of a leaf counts unless a pivot above has a message for its key; a message counts if it is the last one for its
//! key in its pivot, and no pivot above has one.

use super::ledger::{Ledger, Next, Role};
use super::report::{finding, Report};
use super::MAX_HEIGHT;
use arenite_core::format::{Leaf, Message, Pivot};
use arenite_core::{Block, BlockPtr, Error, ReadOptions, Store};

/// Something that a tree says about a key.
pub(super) struct Item<'a> {
    /// Operation of a message; `None` for an item of a leaf.
    pub(super) op: Option<u8>,
    pub(super) key: &'a [u8],
    pub(super) value: &'a [u8],
    /// Nothing newer is said about that key.
    pub(super) counts: bool,
}

/// A tree to be gone through.
#[derive(Clone, Copy)]
pub(super) struct Root {
    pub(super) ptr: BlockPtr,
    pub(super) height: u32,
    /// Tells trees from each other.
    pub(super) tree: u32,
}

/// Reads a block that is not needed again, and reports what is wrong with it.
pub(super) fn verify(store: &Store<'_, '_>, ptr: BlockPtr, report: &mut Report) -> bool {
    let options = ReadOptions { past_cache: true, ..ReadOptions::default() };
    let result = store.read_with(ptr, options).map(drop);
    note(result, ptr, report).is_some()
}

fn note<T>(result: Result<T, Error>, ptr: BlockPtr, report: &mut Report) -> Option<T> {
    result.map_err(|error| report.push(finding(error, ptr.addr))).ok()
}

/// A walk: the pivots from the root down to where it is.
pub(super) struct Walk<'w, 's, 'd, 'm> {
    pub(super) store: &'s Store<'d, 'm>,
    pub(super) ledger: &'w mut Ledger<'s, 'd, 'm>,
    pub(super) report: &'w mut Report,
    /// Called for everything that the tree says about any key.
    pub(super) visit: &'w mut dyn FnMut(&Item<'_>, &mut Ledger<'s, 'd, 'm>, &mut Report),
}

impl<'s> Walk<'_, 's, '_, '_> {
    pub(super) fn tree(&mut self, root: Root) {
        if root.height == 0 || root.height > MAX_HEIGHT {
            self.report.find(root.ptr.addr, format!("a tree cannot have {} levels", root.height));
            self.report.complete = false;
            return;
        }
        self.node(root.ptr, root.height, root.tree, &mut Vec::new());
    }

    /// One node; `level` 1 is that of leaves. Not deeper than the tree is high.
    fn node(&mut self, ptr: BlockPtr, level: u32, tree: u32, path: &mut Vec<Block<'s>>) {
        let next = self.ledger.meet(ptr, Role::Node, tree, self.report);
        let block = match next {
            Next::Stop => None,
            Next::New | Next::Shared => note(self.store.read(ptr), ptr, self.report),
        };
        let Some(block) = block else {
            // What is below was not met.
            self.report.complete = false;
            return;
        };
        let size = self.store.block_size();
        let parsed = if level == 1 {
            Leaf::parse(&block, size).map(|leaf| self.leaf(&leaf, path))
        } else {
            Pivot::parse(&block, size).map(|pivot| {
                self.messages(&pivot, path);
                path.push(block.clone());
                for child in (0..pivot.len()).filter_map(|index| pivot.child(index)) {
                    match BlockPtr::from_raw(child.ptr) {
                        Some(child) => self.node(child, level - 1, tree, path),
                        None => self.report.complete = false,
                    }
                }
                path.pop();
            })
        };
        match parsed {
            Ok(()) if next == Next::New => self.report.nodes += 1,
            Ok(()) => {}
            Err(error) => {
                self.report.find(ptr.addr, error.to_string());
                self.report.complete = false;
            }
        }
    }

    fn leaf(&mut self, leaf: &Leaf<'_>, path: &[Block<'s>]) {
        for (key, value) in leaf.iter() {
            let counts = !self.is_superseded(key, path);
            (self.visit)(&Item { op: None, key, value, counts }, self.ledger, self.report);
        }
    }

    fn messages(&mut self, pivot: &Pivot<'_>, path: &[Block<'s>]) {
        for index in 0..pivot.message_count() {
            let Some(Message { op, key, value }) = pivot.message(index) else { break };
            let last = pivot.message(index + 1).is_none_or(|next| next.key != key);
            let counts = last && !self.is_superseded(key, path);
            (self.visit)(&Item { op: Some(op), key, value, counts }, self.ledger, self.report);
        }
    }

    /// Whether a pivot above has a message for this key.
    fn is_superseded(&self, key: &[u8], path: &[Block<'s>]) -> bool {
        path.iter().any(|block| {
            // It was parsed before it was descended into.
            let Ok(pivot) = Pivot::parse(block, self.store.block_size()) else { return false };
            pivot.message(pivot.first_message(key)).is_some_and(|message| message.key == key)
        })
    }
}

/// Follows pivots of a structure that is not known, as far as they lead.
pub(super) fn follow<'s>(
    store: &'s Store<'_, '_>,
    ledger: &mut Ledger<'s, '_, '_>,
    report: &mut Report,
    root: BlockPtr,
    height: u32,
) {
    report.complete = false;
    let mut waiting = vec![(root, height)];
    while let Some((ptr, level)) = waiting.pop() {
        if ledger.meet(ptr, Role::Node, 1, report) == Next::Stop {
            continue;
        }
        let Some(block) = note(store.read(ptr), ptr, report) else { continue };
        report.nodes += 1;
        if level < 2 {
            continue;
        }
        let Ok(pivot) = Pivot::parse(&block, store.block_size()) else { continue };
        let children = (0..pivot.len()).filter_map(|index| BlockPtr::from_raw(pivot.child(index)?.ptr));
        waiting.extend(children.map(|child| (child, level - 1)));
    }
}
