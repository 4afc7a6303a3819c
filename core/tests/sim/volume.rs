//! Small volumes, what is on them, and how to tell whether it is all there.

use super::Disk;
use arenite_core::format::BlockSize;
use arenite_core::memory::{map_words, pages_for};
use arenite_core::{Allocate, BlockPtr, Class, Error, FormatOptions, Memory, MountOptions, NoInterrupts, Store};

/// Block size of the small volumes: the smallest, so that logs are long and sectors few.
pub const BLOCK: usize = 2048;

/// Memory for a small volume: 20 blocks of cache, 4 arenas, up to 4096 blocks.
pub type Small = Memory<{ pages_for(24, BLOCK) }, 24, { map_words(4096, 4) }, 4, 16>;

/// A fresh memory for a small volume.
pub fn memory() -> Box<Small> {
    Box::new(Memory::new())
}

/// How to format a small volume.
pub fn options(arenas: u32) -> FormatOptions {
    FormatOptions { block_size: BlockSize::MIN, arenas, force: false }
}

/// Formats a small volume on a blank disk.
pub fn format<'d, 'm>(memory: &'m Small, disk: &'d Disk<'m>, arenas: u32) -> Store<'d, 'm> {
    Store::format(memory.take().unwrap(), disk, &NoInterrupts, options(arenas)).unwrap()
}

/// Mounts a small volume.
pub fn mount<'d, 'm>(memory: &'m Small, disk: &'d Disk<'m>) -> Result<Store<'d, 'm>, Error> {
    Store::mount(memory.take().unwrap(), disk, &NoInterrupts, MountOptions::default()).map_err(|failed| failed.error)
}

/// Blocks and the byte that fills each.
pub type Contents = Vec<(BlockPtr, u8)>;

/// Writes a block full of one byte.
pub fn put_as(store: &Store<'_, '_>, fill: u8, what: Allocate) -> Result<BlockPtr, Error> {
    let mut filling = store.allocate(what)?;
    filling.bytes_mut().fill(fill);
    Ok(store.enqueue(filling)?.ptr())
}

/// The same, as new content in any arena.
pub fn put(store: &Store<'_, '_>, fill: u8) -> Result<BlockPtr, Error> {
    put_as(store, fill, Allocate::data())
}

/// Writes `count` blocks.
pub fn put_many(store: &Store<'_, '_>, count: u32) -> Contents {
    (0..count).map(|index| (put(store, index as u8).unwrap(), index as u8)).collect()
}

/// Commits with this block as the root, and waits for the trailing copies too.
pub fn commit_root(store: &Store<'_, '_>, root: BlockPtr) {
    store.commit(store.roots().with_root(Some(root), 1)).unwrap();
    store.settle().unwrap();
}

/// Frees every second block; what is left.
pub fn free_every_second(store: &Store<'_, '_>, contents: Contents) -> Contents {
    let mut kept = Vec::new();
    for (index, entry) in contents.into_iter().enumerate() {
        if index % 2 == 1 {
            store.free(entry.0).unwrap();
        } else {
            kept.push(entry);
        }
    }
    kept
}

/// Whether a store, right after a mount or a commit, holds exactly these blocks: the content of each, and the space.
pub fn check(store: &Store<'_, '_>, contents: &[(BlockPtr, u8)]) -> Result<(), String> {
    for (ptr, fill) in contents {
        match store.read(*ptr) {
            Ok(block) if block.iter().all(|byte| byte == fill) => {}
            Ok(_) => return Err(format!("wrong bytes in {ptr:?}")),
            Err(error) => return Err(format!("{ptr:?}: {error}")),
        }
        if store.is_free(ptr.addr) != Ok(false) {
            return Err(format!("{ptr:?} is free"));
        }
    }
    let space = store.space();
    let used = space.log_blocks + contents.len() as u64 + 2 * u64::from(store.report().arenas);
    if space.total_blocks - space.free_blocks != used {
        return Err(format!("{used} blocks should be in use: {space:?}"));
    }
    Ok(())
}

/// Steps until something is so; whether it became so within a number of steps that is ample for any work.
pub fn step_until(store: &Store<'_, '_>, mut is_so: impl FnMut() -> bool) -> bool {
    for _ in 0..100_000 {
        if is_so() {
            return true;
        }
        store.step();
    }
    is_so()
}

/// Commits by a bounded number of steps; `None` if that does not end.
pub fn try_commit(store: &Store<'_, '_>, root: BlockPtr) -> Option<Result<u64, Error>> {
    let ticket = match store.commit_start(store.roots().with_root(Some(root), 1)) {
        Ok(ticket) => ticket,
        Err(error) => return Some(Err(error)),
    };
    step_until(store, || store.commit_poll(&ticket).is_some());
    store.commit_poll(&ticket)
}

/// What to allocate when arenas are to be used in turn.
pub fn hinted(hint: u32, class: Class) -> Allocate {
    Allocate::data().hint(hint).class(class)
}
