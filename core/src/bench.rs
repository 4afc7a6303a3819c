//! Parts of the store as the benchmarks drive them one by one (feature `bench`). No part of the public interface:
//! nothing outside this repository may rely on it.
#![forbid(unsafe_code)]

use crate::arena::Class;
use crate::error::{Damage, Error};
use crate::platform::Platform;
use crate::queue::{Entry, Queue};
use crate::store::Store;
use crate::sync::Lock;

/// Allocates a block and makes it part of the next commit, without a buffer and without content: what the arenas do of
/// an allocation. [`Store::free`] takes the address.
///
/// Nothing is ever written there. A commit lists the block as used, and counts and checks it as any other, so that what
/// commits, logs and mounts cost can be measured on a volume that looks full; but the volume then holds used blocks
/// whose content is whatever the device had: never for anything but measurements.
///
/// # Errors
/// As [`Store::allocate`].
pub fn allocate_logged(store: &Store<'_, '_>, hint: u32) -> Result<u64, Error> {
    let arenas = &store.engine.arenas;
    let place = arenas.allocate(Class::Normal, hint).ok_or_else(|| arenas.full(Class::Normal))?.place;
    let addr = arenas.addr(place);
    arenas.change(place.arena, |state, map| {
        map.enqueue(&mut state.counts, place.index).map_err(|_| Error::corrupt(addr, Damage::CacheConflict))?;
        state.changes += 1;
        Ok(addr)
    })
}

/// The sync queue alone, under its lock.
pub struct SyncQueue<const N: usize>(Lock<Queue<N>>);

impl<const N: usize> SyncQueue<N> {
    /// An empty queue of `N` places.
    pub const fn new() -> Self {
        Self(Lock::new(Queue::new()))
    }

    /// Appends an entry; `false` if there is no room.
    pub fn push(&self, platform: &dyn Platform, generation: u64, block: u32) -> bool {
        self.0.with(platform, |queue| queue.push(Entry { generation, batch: 1, block, frame_link: 1 }).is_ok())
    }

    /// Takes the first entry: generation and block.
    pub fn pop(&self, platform: &dyn Platform) -> Option<(u64, u32)> {
        self.0.with(platform, |queue| queue.pop()).map(|entry| (entry.generation, entry.block))
    }
}

impl<const N: usize> Default for SyncQueue<N> {
    fn default() -> Self {
        Self::new()
    }
}
