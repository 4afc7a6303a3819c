//! Blocks in the hands of a caller: one type while a block is being filled, another once it is final.
//!
//! ```text
//!   Store::allocate -> Filling -- Store::enqueue --> Block  (final: shared, immutable, with its pointer)
//!                        | drop                        ^
//!                        v                             |
//!                  address given back            Store::read
//! ```
//!
//! Changing a block after it is final, or queueing one before, does not compile.
//!
//! # What does not compile
//! A final block cannot be changed; it gives out its bytes for reading only:
//! ```compile_fail,E0594
//! fn change(block: &mut arenite_core::Block<'_>) {
//!     block.bytes()[0] = 1;
//! }
//! ```
//! ```compile_fail,E0596
//! fn change(block: &mut arenite_core::Block<'_>) {
//!     block.fill(1);
//! }
//! ```
//! A block that is still being filled has no pointer, so nothing can lead to it:
//! ```compile_fail,E0599
//! fn point(filling: &arenite_core::Filling<'_>) -> arenite_core::BlockPtr {
//!     filling.ptr()
//! }
//! ```
//! Enqueueing takes it away: afterwards it is neither changed nor enqueued once more.
//! ```compile_fail,E0382
//! # use arenite_core::{Error, Filling, Store};
//! fn late<'s>(store: &'s Store<'_, '_>, mut filling: Filling<'s>) -> Result<(), Error> {
//!     store.enqueue(filling)?;
//!     filling.bytes_mut()[0] = 1;
//!     Ok(())
//! }
//! ```
//! ```compile_fail,E0382
//! # use arenite_core::{Error, Filling, Store};
//! fn twice<'s>(store: &'s Store<'_, '_>, filling: Filling<'s>) -> Result<(), Error> {
//!     store.enqueue(filling)?;
//!     store.enqueue(filling)?;
//!     Ok(())
//! }
//! ```
//! A block that was read, or enqueued before, is not enqueued:
//! ```compile_fail,E0308
//! # use arenite_core::{Block, Error, Store};
//! fn again<'s>(store: &'s Store<'_, '_>, block: Block<'s>) -> Result<(), Error> {
//!     store.enqueue(block)?;
//!     Ok(())
//! }
//! ```
//! Each of the above compiles when it is put right:
//! ```
//! # use arenite_core::{Block, BlockPtr, Error, Filling, Store};
//! fn right<'s>(store: &'s Store<'_, '_>, mut filling: Filling<'s>) -> Result<(Block<'s>, BlockPtr), Error> {
//!     filling.bytes_mut()[0] = 1;
//!     let block = store.enqueue(filling)?;
//!     let ptr = block.ptr();
//!     Ok((block, ptr))
//! }
//! ```

use crate::arena::Place;
use crate::format::{BlockSize, BlockType, DeadListBlock, FormatError, Leaf, Pivot, RawPtr};
use crate::pool::{Shared, Slot};
use crate::store::Engine;
use crate::trace::Holder;

/// A pointer to a final block: where it is, what its content hashes to, and when it was born. Whoever keeps pointers
/// inside final blocks, up to the root, verifies everything that is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BlockPtr {
    /// Byte address, a multiple of the block size.
    pub addr: u64,
    /// MetroHash64 of the whole block.
    pub hash: u64,
    /// Generation in which the block was born.
    pub gen: u64,
}

impl From<BlockPtr> for RawPtr {
    fn from(ptr: BlockPtr) -> Self {
        Self { addr: ptr.addr, hash: ptr.hash, gen: ptr.gen }
    }
}

impl BlockPtr {
    /// The pointer in 24 bytes, unless those say "none".
    pub fn from_raw(raw: RawPtr) -> Option<Self> {
        (!raw.is_none()).then_some(Self { addr: raw.addr, hash: raw.hash, gen: raw.gen })
    }
}

/// A block that its one owner fills. All bytes are zero at first, unless it was asked otherwise. Dropping it gives its
/// address back.
pub struct Filling<'s> {
    pub(crate) slot: Option<Slot<'s>>,
    pub(crate) engine: &'s Engine<'s>,
    pub(crate) place: Place,
    pub(crate) block_type: BlockType,
    pub(crate) birth: u64,
}

impl Filling<'_> {
    /// Byte address at which the block will be.
    pub fn addr(&self) -> u64 {
        self.engine.arenas.addr(self.place)
    }

    /// What the block will hold.
    pub fn block_type(&self) -> BlockType {
        self.block_type
    }

    /// Sets the birth generation in the pointer, for a structure that counts generations of its own. Without this it
    /// is the store's open generation.
    pub fn set_birth(&mut self, gen: u64) {
        self.birth = gen;
    }

    /// The content: one block.
    pub fn bytes(&self) -> &[u8] {
        self.slot.as_ref().map_or(&[], Slot::bytes)
    }

    /// The content, for writing: one block.
    pub fn bytes_mut(&mut self) -> &mut [u8] {
        self.slot.as_mut().map_or(&mut [], Slot::bytes_mut)
    }
}

impl Drop for Filling<'_> {
    fn drop(&mut self) {
        // Without its slot it was enqueued, and the address belongs to the block.
        if self.slot.take().is_some() {
            let given_back = self.engine.arenas.unreserve(self.place);
            debug_assert!(given_back.is_ok());
        }
    }
}

impl core::fmt::Debug for Filling<'_> {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("Filling").field("addr", &self.addr()).field("type", &self.block_type).finish_non_exhaustive()
    }
}

/// A final block: its bytes never change, and its pointer is known. Clones share one buffer of the cache, which is
/// kept as long as one of them lives; hold few of them for long.
pub struct Block<'s> {
    pub(crate) share: Shared<'s>,
    pub(crate) ptr: BlockPtr,
    /// For the feature `trace`.
    pub(crate) _holder: Holder<'s>,
}

impl Clone for Block<'_> {
    #[track_caller]
    fn clone(&self) -> Self {
        Self { share: self.share.clone(), ptr: self.ptr, _holder: self._holder.clone() }
    }
}

impl Block<'_> {
    /// The pointer to this block.
    pub fn ptr(&self) -> BlockPtr {
        self.ptr
    }

    /// The content: one block, whose hash is that of the pointer.
    pub fn bytes(&self) -> &[u8] {
        self.share.bytes()
    }
}

impl core::ops::Deref for Block<'_> {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        self.bytes()
    }
}

impl core::fmt::Debug for Block<'_> {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("Block").field("ptr", &self.ptr).finish_non_exhaustive()
    }
}

/// The content of a final block must be of the type that it was allocated for.
#[cfg_attr(target_pointer_width = "32", inline(never))]
pub(crate) fn check_type(bytes: &[u8], block_type: BlockType) -> Result<(), FormatError> {
    let size = u32::try_from(bytes.len()).ok().and_then(BlockSize::new).unwrap_or(BlockSize::MIN);
    match block_type {
        BlockType::Data => Ok(()),
        BlockType::Leaf => Leaf::parse(bytes, size).map(drop),
        BlockType::Pivot => Pivot::parse(bytes, size).map(drop),
        BlockType::DeadList => DeadListBlock::decode(bytes, size).map(drop),
        other => Err(FormatError::BlockType { found: other as u16, want: Some(BlockType::Data) }),
    }
}
