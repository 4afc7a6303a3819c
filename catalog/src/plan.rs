//! What new nodes are made of: the items of an old one with some of them replaced, and perhaps those of a neighbour.
//!
//! Nothing is copied before the new block is filled. An [`Edited`] node borrows from the old block, and a [`Plan`]
//! counts through all items as if they stood in one place.

use crate::node::{Item, Node};
use core::ops::Range;
use heapless::Vec;

/// A node with the items `cut` replaced by the items `fresh`.
pub(crate) struct Edited<'a> {
    pub(crate) level: u8,
    pub(crate) node: Node<'a>,
    pub(crate) cut: Range<usize>,
    pub(crate) fresh: Vec<Item<'a>, 2>,
}

impl<'a> Edited<'a> {
    fn len(&self) -> usize {
        self.node.len() - self.cut.len() + self.fresh.len()
    }

    fn item(&self, index: usize) -> Option<Item<'a>> {
        let fresh_end = self.cut.start + self.fresh.len();
        if index < self.cut.start {
            self.node.item(index)
        } else if index < fresh_end {
            self.fresh.get(index - self.cut.start).copied()
        } else {
            self.node.item(index - fresh_end + self.cut.end)
        }
    }

    /// Whether what is new is at the end.
    fn is_append(&self) -> bool {
        !self.fresh.is_empty() && self.cut.start + self.fresh.len() == self.len()
    }
}

/// The node beside the edited one that it is merged with.
pub(crate) struct Neighbour<'a> {
    pub(crate) node: Node<'a>,
    pub(crate) is_left: bool,
    /// The key under which the parent has the right one of the two.
    pub(crate) seam: &'a [u8],
}

/// All items for one or two new nodes, in order.
#[derive(Clone, Copy)]
pub(crate) struct Plan<'p> {
    pub(crate) own: &'p Edited<'p>,
    pub(crate) neighbour: Option<&'p Neighbour<'p>>,
}

impl<'p> Plan<'p> {
    pub(crate) fn level(&self) -> u8 {
        self.own.level
    }

    pub(crate) fn len(&self) -> usize {
        self.own.len() + self.neighbour.map_or(0, |neighbour| neighbour.node.len())
    }

    pub(crate) fn item(&self, index: usize) -> Option<Item<'p>> {
        let own = self.own;
        let (left_len, item) = match self.neighbour {
            None => (usize::MAX, own.item(index)),
            Some(Neighbour { node, is_left: true, .. }) => match index.checked_sub(node.len()) {
                None => (node.len(), node.item(index)),
                Some(behind) => (node.len(), own.item(behind)),
            },
            Some(Neighbour { node, .. }) => match index.checked_sub(own.len()) {
                None => (own.len(), own.item(index)),
                Some(behind) => (own.len(), node.item(behind)),
            },
        };
        let item = item?;
        if own.level == 0 {
            return Some(item);
        }
        // The first key of a pivot says nothing. Where its child is no longer the first, the parent's key says it.
        Some(match self.neighbour {
            _ if index == 0 => Item { key: &[], ..item },
            Some(neighbour) if index == left_len => Item { key: neighbour.seam, ..item },
            _ => item,
        })
    }

    pub(crate) fn items(self, range: Range<usize>) -> impl Iterator<Item = Item<'p>> {
        range.filter_map(move |index| self.item(index))
    }

    /// Bytes that these items take.
    pub(crate) fn len_bytes(&self, range: Range<usize>) -> usize {
        self.items(range).map(|item| item.len_bytes()).sum()
    }

    /// Number of items in the left one of two nodes: half of the bytes, or, if `at_end` and the new item is the last
    /// one, all others.
    pub(crate) fn split_at(&self, limit: usize, at_end: bool) -> usize {
        let len = self.len();
        if at_end && self.own.is_append() && self.len_bytes(0..len - 1) <= limit {
            return len - 1;
        }
        let half = self.len_bytes(0..len) / 2;
        let mut left_bytes = 0;
        for (index, item) in self.items(0..len).enumerate() {
            if left_bytes >= half {
                return index.max(1);
            }
            left_bytes += item.len_bytes();
        }
        len - 1
    }

    /// How much of the first key behind a split tells the two sides apart. Above the leaves all of it: there, keys are
    /// such pieces already, and what is under one may have any path from it on.
    pub(crate) fn separator_len(&self, split: usize) -> usize {
        let key = |index| self.item(index).map_or(&[][..], |item| item.key);
        let (last, first) = (key(split - 1), key(split));
        if self.level() > 0 {
            return first.len();
        }
        let common = last.iter().zip(first).take_while(|(a, b)| a == b).count();
        (common + 1).min(first.len())
    }
}
