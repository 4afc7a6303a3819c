//! Going through all blocks of one file, what lies below before what lies above it.
//!
//! One block of pointers is held at a time. The way down is on the stack: [`MAX_CONTENT_HEIGHT`] steps.

use crate::entry::{pointers_per_block, span, Content, MAX_CONTENT_HEIGHT};
use crate::error::{Error, Result};
use arenite_core::format::{BlockSize, FormatError, RawPtr};
use arenite_core::{Block, BlockPtr, Class, Damage, Error as StoreError, ReadOptions, Store};
use heapless::Vec;

/// A block of a file.
pub(crate) struct Piece {
    pub(crate) ptr: BlockPtr,
    /// 0 for data, else the levels of pointers from here down.
    pub(crate) level: u8,
    /// For a block of pointers, whether it could be read; what lies below it was not visited if not. Data blocks are
    /// not read.
    pub(crate) outcome: core::result::Result<(), StoreError>,
}

/// A block of pointers on the way down.
struct Step {
    ptr: BlockPtr,
    /// Number of the first data block under it.
    first: u64,
    /// Number of the next child.
    next: u64,
}

/// Pointer `index` in a block of pointers.
pub(crate) fn pointer(block: &Block<'_>, index: u64) -> core::result::Result<BlockPtr, StoreError> {
    let at = usize::try_from(index).ok().and_then(|index| index.checked_mul(RawPtr::LEN_BYTES));
    let raw = at.and_then(|at| RawPtr::decode(block.bytes(), at));
    // A block that is too short for the pointer, or says that there is none, names no block of the volume.
    raw.and_then(BlockPtr::from_raw).ok_or(StoreError::BadAddress { addr: u64::MAX })
}

/// Children of a node with `level` levels of pointers whose first data block has this number.
fn children(content: &Content, size: BlockSize, level: u8, first: u64) -> u64 {
    let rest = content.data_blocks(size).saturating_sub(first);
    rest.div_ceil(span(size, level - 1)).min(pointers_per_block(size))
}

/// Calls `each` for every block of `content` until that returns false. A block that cannot be read is reported to it,
/// and the walk goes on beside it. Bounded by the size of the volume, whatever the pointers say.
pub(crate) fn walk(store: &Store<'_, '_>, content: &Content, class: Class, each: &mut dyn FnMut(Piece) -> bool) {
    let options = ReadOptions { class, ..ReadOptions::default() };
    let size = store.block_size();
    let Some(root) = content.root() else { return };
    let Some(top) = content.height().checked_sub(1) else { return };
    if content.data_blocks(size) > store.space().total_blocks {
        // No file is larger than the volume. Pointers that lead to the same blocks over and over could feign it.
        let damage = Damage::Format(FormatError::Field { name: "file size", offset: 0, found: content.size_bytes() });
        each(Piece { ptr: root, level: top, outcome: Err(StoreError::Corrupt { addr: root.addr, damage }) });
        return;
    }
    if top == 0 {
        each(Piece { ptr: root, level: 0, outcome: Ok(()) });
        return;
    }
    let mut path: Vec<Step, { MAX_CONTENT_HEIGHT as usize }> = Vec::new();
    path.extend([Step { ptr: root, first: 0, next: 0 }]);
    while let Some(mut step) = path.pop() {
        let level = top - path.len() as u8;
        let mut outcome = Ok(());
        let mut below = None;
        match store.read_with(step.ptr, options) {
            Err(error) => outcome = Err(error),
            Ok(block) => {
                let count = children(content, size, level, step.first);
                while step.next < count && below.is_none() {
                    let first = step.first + step.next * span(size, level - 1);
                    match pointer(&block, step.next) {
                        Err(error) => outcome = outcome.and(Err(error)),
                        Ok(ptr) if level > 1 => below = Some(Step { ptr, first, next: 0 }),
                        Ok(ptr) if each(Piece { ptr, level: 0, outcome: Ok(()) }) => {}
                        Ok(_) => return,
                    }
                    step.next += 1;
                }
            }
        }
        match below {
            // Both fit: the path is shorter than the content is high.
            Some(below) => path.extend([step, below]),
            None if each(Piece { ptr: step.ptr, level, outcome }) => {}
            None => return,
        }
    }
}

/// Frees all blocks of a file. Goes on past blocks that cannot be read or freed, and then reports the first of these
/// as [`Error::Unfreed`]; what lies below an unreadable block stays in use.
///
/// Memory: one block of the cache, if need be of those that are kept for reclaiming; less than 1 KiB of stack.
pub fn free_content(store: &Store<'_, '_>, content: Content) -> Result<()> {
    let mut first_error = None;
    walk(store, &content, Class::Reclaim, &mut |piece| {
        let freed = store.free(piece.ptr);
        first_error = first_error.or(piece.outcome.and(freed).err());
        true
    });
    first_error.map_or(Ok(()), |cause| Err(Error::Unfreed { cause }))
}
