//! The block cache: which buffer holds which block.
//!
//! A hash table over a fixed set of buffers, with the clock algorithm (second chance, a one-bit approximation of LRU)
//! choosing what to evict: a hit sets a bit in its own frame, if it is not set yet, and moves nothing in a list that
//! all CPUs share. It counts, and is counted as a reader, in a place of its own CPU (see [`crate::pool`]). A block that
//! is being read is in the table from the start; later readers of it wait for the same request.
//!
//! ```text
//!   bucket[hash(block) % n] -> frame -> frame -> ...        n = number of cache buffers; links live in the frames
//! ```
//!
//! The table says where a block is; who may touch its bytes is the business of [`crate::pool`]. No bytes are trusted
//! here: a hit is a hit on an address, and the reader compares the hash of the content with that of its pointer.
//!
//! # Invariants
//! - A block number is in the table at most once. A frame is in the table exactly while `meta.block` is not 0: the
//!   number comes before the link, and goes after it.
//! - A dirty frame's buffer is kept by the share that the sync queue has parked in it, so it is never evicted.
//! - A frame with waiters is not evicted, so a waiter finds the outcome of the read that it waited for.
//! - A frame gets a block number only while somebody is its sole owner or has just ceased to be, and `state` is set
//!   back before that; so whoever holds a share of a frame and then finds the number that it looked for, and `VALID`,
//!   has that block (see [`Cache::hit`]).
//!
//! # Lock order
//! Each bucket has a lock of its own, so that CPUs meet in the same one only by accident. One at a time, with at most
//! the commit's and one arena's lock held; nothing is taken under it. A hit takes none.

use crate::arena::Class;
use crate::device::DeviceError;
use crate::hash::hash64;
use crate::memory::RECLAIM_FRAMES;
use crate::platform::Platform;
use crate::pool::{FrameId, Pool, Row, Shared, Slot, ROWS};
use crate::sync::{const_new, AtomicU32, Lock, Ordering, SplitU64};

/// Frames of one bucket that a look-up without a lock passes at most.
const HIT_WALK: u32 = 8;

/// The block was freed, and there is no use in writing it.
const FREED: u32 = 1;
/// The block was freed, and is written all the same, for those who may still be reading it.
const FREED_YET_WRITTEN: u32 = 2;

const EMPTY: u32 = 0;
const READING: u32 = 1;
const VALID: u32 = 2;
/// Plus the number of the device error.
const FAILED: u32 = 3;

/// What the cache knows about one buffer. All-zero when untouched. Changed under the lock of the bucket that the block
/// is in, except for `waiters`, `referenced`, and what the sole owner of the buffer writes before it publishes
/// it through `state`.
pub(crate) struct FrameMeta {
    /// Block number plus one; 0 while the frame is not in the table.
    block: AtomicU32,
    state: AtomicU32,
    /// The batch (an odd number) while the content waits to be written or is being written; else 0.
    dirty: AtomicU32,
    /// Not 0 if the block was freed while it was dirty, before any commit included it.
    freed: AtomicU32,
    /// 1 if the block was used since the clock hand last passed.
    referenced: AtomicU32,
    /// Tickets for the read of this frame.
    waiters: AtomicU32,
    /// Protects `bucket`, and the frames in it.
    bucket_lock: Lock<()>,
    /// First frame of the bucket with this frame's number, plus one.
    bucket: AtomicU32,
    /// Next frame in the bucket that this frame is in, plus one.
    next: AtomicU32,
    hash: SplitU64,
}

impl FrameMeta {
    const_new! {
        pub(crate) fn new() -> Self {
            Self {
                block: AtomicU32::new(0),
                state: AtomicU32::new(0),
                dirty: AtomicU32::new(0),
                freed: AtomicU32::new(0),
                referenced: AtomicU32::new(0),
                waiters: AtomicU32::new(0),
                bucket_lock: Lock::new(()),
                bucket: AtomicU32::new(0),
                next: AtomicU32::new(0),
                hash: SplitU64::new()
            }
        }
    }

    /// A device dropped the read of this frame instead of completing it: nobody shall wait for it.
    pub(crate) fn abandon(&self) {
        let gone = failed_state(DeviceError::Gone);
        let _ = self.state.compare_exchange(READING, gone, Ordering::Release, Ordering::Relaxed);
    }

    /// Whether look-ups find the frame.
    #[cfg(feature = "trace")]
    pub(crate) fn is_in_table(&self) -> bool {
        self.block.load(Ordering::Relaxed) != 0
    }

    /// Hash of the content, valid once it is final.
    pub(crate) fn hash(&self) -> u64 {
        self.hash.get()
    }
}

/// Waits for the read of one frame.
pub(crate) struct Ticket<'m> {
    pool: Pool<'m>,
    id: FrameId,
}

impl<'m> Ticket<'m> {
    /// The content, once it is there; its hash is in `Shared::meta`.
    pub(crate) fn poll(&self) -> Option<Result<Shared<'m>, DeviceError>> {
        match self.pool.frame(self.id).meta.state.load(Ordering::Acquire) {
            VALID => self.pool.hold(self.id, Row::FIRST).map(Ok),
            READING => None,
            failed => Some(Err(device_error(failed))),
        }
    }
}

impl Drop for Ticket<'_> {
    fn drop(&mut self) {
        self.pool.frame(self.id).meta.waiters.fetch_sub(1, Ordering::Release);
    }
}

fn device_error(state: u32) -> DeviceError {
    match state.wrapping_sub(FAILED) {
        0 => DeviceError::Io,
        1 => DeviceError::Timeout,
        2 => DeviceError::Gone,
        _ => DeviceError::Unsupported,
    }
}

fn failed_state(error: DeviceError) -> u32 {
    FAILED
        + match error {
            DeviceError::Io => 0,
            DeviceError::Timeout => 1,
            DeviceError::Gone => 2,
            DeviceError::Unsupported => 3,
        }
}

/// What the cache is to know of a new final block.
#[derive(Clone, Copy)]
pub(crate) struct Content {
    /// Of its bytes.
    pub(crate) hash: u64,
    /// In which it is queued; odd.
    pub(crate) batch: u32,
}

/// The answer to a look-up.
pub(crate) enum Lookup<'m> {
    /// The block is here.
    Hit(Shared<'m>),
    /// Somebody reads it, or tries in vain to take its buffer.
    Wait(Ticket<'m>),
    /// The caller has to read it into this buffer and call [`Cache::finish_read`].
    Miss(Slot<'m>, Ticket<'m>),
}

/// The cache of one store.
pub(crate) struct Cache<'m> {
    pool: Pool<'m>,
    /// The first so many frames of the pool are the cache's.
    count: u32,
    /// Next frame that the clock looks at, modulo their number.
    hand: AtomicU32,
    /// Look-ups that found nothing, since mount.
    misses: AtomicU32,
    platform: &'m dyn Platform,
}

impl<'m> Cache<'m> {
    /// A cache in the first `count` frames of the pool.
    pub(crate) fn new(pool: Pool<'m>, count: u32, platform: &'m dyn Platform) -> Self {
        Self { pool, count, hand: AtomicU32::new(0), misses: AtomicU32::new(0), platform }
    }

    /// Look-ups that found the block and that did not, since mount; both may wrap.
    pub(crate) fn hits_and_misses(&self) -> (u32, u32) {
        let frames = (0..self.count).filter_map(|index| self.pool.id(index));
        let hits = frames.fold(0_u32, |sum, id| sum.wrapping_add(self.pool.hits(id)));
        (hits, self.misses.load(Ordering::Relaxed))
    }

    /// Number of buffers.
    pub(crate) fn len(&self) -> u32 {
        self.count
    }

    fn meta(&self, id: FrameId) -> &'m FrameMeta {
        &self.pool.frame(id).meta
    }

    /// The frame whose `bucket` is the one that a block belongs in.
    #[cfg_attr(target_pointer_width = "32", inline(never))]
    fn bucket(&self, block: u32) -> &'m FrameMeta {
        // Fibonacci hashing: neighbouring blocks spread over the buckets.
        let spread = ((u64::from(block).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32) * u64::from(self.count)) >> 32;
        // Below `count`, which is at most the number of frames, by the multiplication above.
        &self.pool.frame_at(spread as usize).meta
    }

    /// Runs a section with the bucket of a block locked.
    fn with_bucket<R>(&self, block: u32, section: impl FnOnce() -> R) -> R {
        self.bucket(block).bucket_lock.with(self.platform, |()| section())
    }

    /// The block if it is here and somebody can have it at once: a look-up without a lock, which may miss what is
    /// there.
    ///
    /// Links may change while they are followed, so the way can lead astray; it is bounded, and nothing is believed on
    /// the way. What is found is held first and looked at again then: a frame that is held is not handed out for
    /// another block, and whoever has become its holder sees what its last sole owner wrote.
    pub(crate) fn hit(&self, block: u32) -> Option<Shared<'m>> {
        let wanted = block.checked_add(1)?;
        let mut link = self.bucket(block).bucket.load(Ordering::Relaxed);
        for _ in 0..HIT_WALK {
            let id = self.pool.by_link(link)?;
            let meta = self.meta(id);
            if meta.block.load(Ordering::Relaxed) != wanted {
                link = meta.next.load(Ordering::Relaxed);
                continue;
            }
            let row = self.row();
            let share = self.pool.hold(id, row)?;
            let same = meta.block.load(Ordering::Relaxed) == wanted;
            if !same || meta.state.load(Ordering::Acquire) != VALID {
                return None;
            }
            self.note_use(id, row);
            return Some(share);
        }
        None
    }

    /// The row of seats for this CPU.
    fn row(&self) -> Row {
        if ROWS == 1 {
            return Row::FIRST;
        }
        Row::of(self.platform.cpu())
    }

    fn note_use(&self, id: FrameId, row: Row) {
        self.pool.note_hit(id, row);
        let referenced = &self.meta(id).referenced;
        // Readers that only find the bit set do not take the line from each other.
        if referenced.load(Ordering::Relaxed) == 0 {
            referenced.store(1, Ordering::Relaxed);
        }
    }

    /// The frame that holds a block or is being read for it. With its bucket locked, as the next three.
    fn find(&self, block: u32) -> Option<FrameId> {
        let id = self.find_any(block)?;
        if self.meta(id).state.load(Ordering::Acquire) >= FAILED {
            self.remove(id);
            return None;
        }
        Some(id)
    }

    fn find_any(&self, block: u32) -> Option<FrameId> {
        let mut link = self.bucket(block).bucket.load(Ordering::Relaxed);
        while let Some(id) = self.pool.by_link(link) {
            if self.meta(id).block.load(Ordering::Relaxed) == block + 1 {
                return Some(id);
            }
            link = self.meta(id).next.load(Ordering::Relaxed);
        }
        None
    }

    fn insert(&self, id: FrameId, block: u32) {
        let (meta, bucket) = (self.meta(id), &self.bucket(block).bucket);
        meta.block.store(block + 1, Ordering::Relaxed);
        meta.next.store(bucket.load(Ordering::Relaxed), Ordering::Relaxed);
        bucket.store(id.link(), Ordering::Relaxed);
    }

    fn remove(&self, id: FrameId) {
        let meta = self.meta(id);
        let Some(block) = meta.block.load(Ordering::Relaxed).checked_sub(1) else { return };
        let mut at = &self.bucket(block).bucket;
        while let Some(here) = self.pool.by_link(at.load(Ordering::Relaxed)) {
            if here == id {
                at.store(meta.next.load(Ordering::Relaxed), Ordering::Relaxed);
                break;
            }
            at = &self.meta(here).next;
        }
        // Last: from here on whoever claims the frame may put it into another bucket, and so change its link, while
        // this one is still locked. Release: that comes after the look at the link above.
        meta.block.store(0, Ordering::Release);
    }

    /// Frames for every class; those behind them are for reclaim alone.
    fn common(&self) -> u32 {
        self.count.saturating_sub(RECLAIM_FRAMES).max(1)
    }

    /// Takes a frame that nobody uses, and that was not used lately unless it is to be had `anyway`.
    fn evict(&self, index: u32, anyway: bool) -> Option<Slot<'m>> {
        let id = self.pool.id(index)?;
        let meta = self.meta(id);
        if !self.pool.is_idle(id) || meta.waiters.load(Ordering::Acquire) != 0 {
            return None;
        }
        let Some(block) = meta.block.load(Ordering::Relaxed).checked_sub(1) else {
            // Somebody else may have had it since, for another block; whoever is its sole owner sees whether it is
            // still in no bucket and waited for by nobody. Acquire: whoever took it out of its bucket is done with it.
            let is_free = || meta.block.load(Ordering::Acquire) == 0 && meta.waiters.load(Ordering::Acquire) == 0;
            return self.pool.claim(id).filter(|_| is_free());
        };
        if !anyway && meta.referenced.load(Ordering::Relaxed) != 0 {
            meta.referenced.store(0, Ordering::Relaxed);
            return None;
        }
        self.with_bucket(block, || {
            // While the bucket is locked nobody begins to wait, and nobody else takes the frame out of it.
            let same = meta.block.load(Ordering::Relaxed) == block + 1;
            if !same || meta.waiters.load(Ordering::Acquire) != 0 {
                return None;
            }
            let slot = self.pool.claim(id)?;
            self.remove(id);
            Some(slot)
        })
    }

    /// An empty buffer, evicting if need be. `None` if all that the class may have are in use.
    pub(crate) fn take_buffer(&self, class: Class) -> Option<Slot<'m>> {
        let common = self.common();
        // Twice round, because the first pass may only clear the bits of recent use.
        for _ in 0..2 * common + 1 {
            let index = self.hand.fetch_add(1, Ordering::Relaxed) % common;
            if let Some(slot) = self.evict(index, false) {
                self.reset(&slot);
                return Some(slot);
            }
        }
        // Others move the hand too, so this may have passed what it looked for; or they use everything so often that
        // all of it is in recent use whenever it is looked at, which is no reason to refuse.
        let all = 0..if class == Class::Reclaim { self.count } else { common };
        for index in all.clone().chain(all) {
            if let Some(slot) = self.evict(index, true) {
                self.reset(&slot);
                return Some(slot);
            }
        }
        None
    }

    fn reset(&self, slot: &Slot<'m>) {
        let meta = slot.meta();
        meta.state.store(EMPTY, Ordering::Relaxed);
        for field in [&meta.dirty, &meta.freed, &meta.referenced] {
            field.store(0, Ordering::Relaxed);
        }
    }

    fn ticket(&self, id: FrameId) -> Ticket<'m> {
        self.meta(id).waiters.fetch_add(1, Ordering::Relaxed);
        Ticket { pool: self.pool, id }
    }

    fn answer(&self, id: FrameId) -> Lookup<'m> {
        let row = self.row();
        self.note_use(id, row);
        // A frame in the table that cannot be held is owned by the request that reads it, or somebody is about to find
        // out that it cannot be claimed: then the ticket has it the next time.
        match self.pool.hold(id, row) {
            Some(share) if self.meta(id).state.load(Ordering::Acquire) == VALID => Lookup::Hit(share),
            _ => Lookup::Wait(self.ticket(id)),
        }
    }

    /// Looks a block up; a miss reserves a buffer for it, which later readers find only if it is to be `kept`. `None`
    /// if there is no buffer.
    pub(crate) fn lookup(&self, block: u32, class: Class, kept: bool) -> Option<Lookup<'m>> {
        if let Some(share) = self.hit(block) {
            return Some(Lookup::Hit(share));
        }
        let found = || self.find(block).map(|id| self.answer(id));
        if let Some(found) = self.with_bucket(block, found) {
            return Some(found);
        }
        self.misses.fetch_add(1, Ordering::Relaxed);
        let slot = self.take_buffer(class)?;
        Some(self.with_bucket(block, || {
            // Somebody else may have been faster.
            if let Some(id) = self.find(block) {
                return self.answer(id);
            }
            slot.meta().state.store(READING, Ordering::Relaxed);
            if kept {
                self.insert(slot.id(), block);
            }
            let ticket = self.ticket(slot.id());
            Lookup::Miss(slot, ticket)
        }))
    }

    /// A buffer for a read that no other reader shall find, with the ticket to wait for it.
    pub(crate) fn private_read(&self) -> Option<(Slot<'m>, Ticket<'m>)> {
        let slot = self.take_buffer(Class::Normal)?;
        slot.meta().state.store(READING, Ordering::Relaxed);
        let ticket = self.ticket(slot.id());
        Some((slot, ticket))
    }

    /// Byte addresses of blocks that are being read or written, the first few.
    pub(crate) fn owned_by_device(&self) -> [Option<u64>; 4] {
        let mut owned = [None; 4];
        let busy = (0..self.count).filter_map(|index| {
            let meta = self.meta(self.pool.id(index)?);
            let busy = meta.state.load(Ordering::Acquire) == READING || meta.dirty.load(Ordering::Relaxed) != 0;
            let block = meta.block.load(Ordering::Relaxed).checked_sub(1)?;
            busy.then(|| u64::from(block) << self.pool.block_size().shift())
        });
        for (place, addr) in owned.iter_mut().zip(busy) {
            *place = Some(addr);
        }
        owned
    }

    /// Publishes the outcome of a read to all who wait for it.
    pub(crate) fn finish_read(&self, slot: Slot<'m>, result: Result<(), DeviceError>) {
        let meta = slot.meta();
        match result {
            Ok(()) => {
                meta.hash.set(hash64(slot.bytes()));
                // The share outlives the change of state, so that the frame cannot be evicted in between.
                let share = slot.share();
                share.meta().state.store(VALID, Ordering::Release);
            }
            Err(error) => {
                // Who owns the buffer alone decides where it is in the table.
                if let Some(block) = meta.block.load(Ordering::Relaxed).checked_sub(1) {
                    self.with_bucket(block, || self.remove(slot.id()));
                }
                meta.state.store(failed_state(error), Ordering::Release);
            }
        }
    }

    /// Takes content that turned out to be wrong out of the table, so that the next reader asks the device again.
    pub(crate) fn distrust(&self, share: &Shared<'m>, block: u32) {
        self.with_bucket(block, || {
            let is_here = share.meta().block.load(Ordering::Relaxed) == block + 1;
            if is_here && share.meta().dirty.load(Ordering::Relaxed) == 0 {
                self.remove(share.id());
            }
        });
    }

    /// Whether a frame holds a block of this batch or an earlier one that is not written yet. Once it does not, it
    /// never will again.
    pub(crate) fn is_unwritten(&self, index: u32, batch: u32) -> bool {
        let Some(id) = self.pool.id(index) else { return false };
        let dirty = self.meta(id).dirty.load(Ordering::Acquire);
        // Batches may wrap; those in use at one time are never further apart than half of all numbers.
        dirty != 0 && batch.wrapping_sub(dirty) <= u32::MAX / 2
    }

    /// Publishes a new final block that waits to be written. `None` if there is one already, which only a bug can do.
    pub(crate) fn publish(&self, slot: Slot<'m>, block: u32, content: Content) -> Option<Shared<'m>> {
        let meta = slot.meta();
        meta.hash.set(content.hash);
        meta.referenced.store(1, Ordering::Relaxed);
        self.with_bucket(block, || {
            if let Some(old) = self.find(block) {
                if self.meta(old).dirty.load(Ordering::Relaxed) != 0 {
                    return None;
                }
                // A reader with an old pointer brought back what was here before the block was freed.
                self.remove(old);
            }
            // Not before: nobody would ever say of a buffer that comes back from here that it is written.
            meta.dirty.store(content.batch, Ordering::Relaxed);
            let share = slot.share();
            share.meta().state.store(VALID, Ordering::Release);
            self.insert(share.id(), block);
            Some(share)
        })
    }

    /// Forgets a freed block that no commit needs. `true` if it still waits to be written or is being written;
    /// [`Cache::written`] then tells when that is over.
    ///
    /// While somebody may still be reading the block (`wanted`), its write goes on, and it stays in the cache.
    pub(crate) fn cancel(&self, block: u32, wanted: bool) -> bool {
        self.with_bucket(block, || {
            let Some(id) = self.find(block) else { return false };
            let meta = self.meta(id);
            let dirty = meta.dirty.load(Ordering::Relaxed) != 0;
            if dirty {
                meta.freed.store(if wanted { FREED_YET_WRITTEN } else { FREED }, Ordering::Relaxed);
            }
            // Last: a frame that is not dirty may be somebody else's, for another block, from here on.
            if !wanted {
                self.remove(id);
            }
            dirty
        })
    }

    /// Forgets a freed block, unless it waits to be written or is being written; `false` then.
    #[inline]
    pub(crate) fn forget_written(&self, block: u32) -> bool {
        // What waits to be written is in its bucket until then, so it is not in one that is empty.
        self.bucket(block).bucket.load(Ordering::Acquire) == 0 || self.forget_found(block)
    }

    #[inline(never)]
    fn forget_found(&self, block: u32) -> bool {
        self.with_bucket(block, || {
            let Some(id) = self.find(block) else { return true };
            let written = self.meta(id).dirty.load(Ordering::Relaxed) == 0;
            if written {
                self.remove(id);
            }
            written
        })
    }

    /// Whether a dirty block was cancelled, so that there is no use in writing it.
    pub(crate) fn is_cancelled(&self, share: &Shared<'m>, block: u32) -> bool {
        self.with_bucket(block, || share.meta().freed.load(Ordering::Relaxed) == FREED)
    }

    /// The block is written, or needs no writing any more. `true` if it was cancelled meanwhile.
    pub(crate) fn written(&self, share: &Shared<'m>, block: u32) -> bool {
        self.with_bucket(block, || {
            // Whoever waits for that, without the lock, sees what became of the write.
            share.meta().dirty.store(0, Ordering::Release);
            share.meta().freed.swap(0, Ordering::Relaxed) != 0
        })
    }
}

#[cfg(all(test, any(loom, feature = "shuttle")))]
mod tests;
