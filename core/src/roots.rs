//! What one commit switches from old to new, all at once.

use crate::block::BlockPtr;
use crate::format::{AddrHash, SuperHead, NONE};

/// The fields of the superblock that belong to the structure on top of the store. The store only keeps them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Roots {
    /// Address and hash of the root block, or none. Its birth generation is not kept on disk.
    pub root: AddrHash,
    /// Height of the tree under the root.
    pub height: u32,
    /// Newest block of the dead list, or none.
    pub deadlist_head: AddrHash,
    /// Oldest block of the dead list, or none.
    pub deadlist_tail: AddrHash,
    /// Feature flags.
    pub flag: u64,
    /// Next file identity to be given out.
    pub next_qid: u64,
    /// Next tree generation to be given out.
    pub next_gen: u64,
}

impl Roots {
    /// The roots of a new volume: nothing.
    pub const EMPTY: Self = {
        let none = AddrHash { addr: NONE, hash: NONE };
        Self { root: none, height: 0, deadlist_head: none, deadlist_tail: none, flag: 0, next_qid: 0, next_gen: 0 }
    };

    /// The pointer to the root block, if there is one. Its generation is `u64::MAX`, for unknown.
    pub fn root_ptr(&self) -> Option<BlockPtr> {
        (self.root.addr != NONE).then_some(BlockPtr { addr: self.root.addr, hash: self.root.hash, gen: NONE })
    }

    /// The same with another root and height.
    #[must_use]
    pub fn with_root(self, root: Option<BlockPtr>, height: u32) -> Self {
        let root = root.map_or(AddrHash { addr: NONE, hash: NONE }, |ptr| AddrHash { addr: ptr.addr, hash: ptr.hash });
        Self { root, height, ..self }
    }
}

impl From<&SuperHead> for Roots {
    fn from(head: &SuperHead) -> Self {
        Self {
            root: AddrHash { addr: head.root_addr, hash: head.root_hash },
            height: head.root_height,
            deadlist_head: head.deadlist_head,
            deadlist_tail: head.deadlist_tail,
            flag: head.flag,
            next_qid: head.next_qid,
            next_gen: head.next_gen,
        }
    }
}
