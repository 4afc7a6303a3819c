//! The table of the cache under the model checkers: every frame is in the bucket of its block or in none, a hit is a
//! hit on the block that was asked for, and what waits to be written can be found until it is written.
//!
//! loom looks for what weak memory orders allow in a few steps of two threads. The hash of a frame stands for its bytes
//! there: it is made of relaxed atomics, written by a sole owner, and must never be seen to belong to another block.
//! shuttle looks for long ways to go wrong, with every operation of the cache.

use super::{Cache, Content, FrameId};
use crate::platform::Platform;
use crate::pool::{Pool, Shared};
use crate::sync::Ordering;
use std::vec;
use std::vec::Vec;

/// Spins by leaving the processor to others.
struct Yielding;

impl Platform for Yielding {
    fn relax(&self) {
        #[cfg(loom)]
        loom::thread::yield_now();
        #[cfg(not(loom))]
        shuttle::thread::yield_now();
    }
    fn enter_critical(&self) -> usize {
        0
    }
    fn leave_critical(&self, _saved: usize) {}
    fn cpu(&self) -> usize {
        #[cfg(loom)]
        return loom_cache::CPU.with(|cpu| cpu.get());
        // A thread that goes from one CPU to another at any time.
        #[cfg(not(loom))]
        return usize::from(crate::tests::shuttle_world::once_in(2));
    }
}

impl<'m> Cache<'m> {
    fn frame_ids(&self) -> Vec<FrameId> {
        (0..self.count).filter_map(|index| self.pool.id(index)).collect()
    }

    /// While nobody else uses the cache: follows every link.
    fn check_table(&self) {
        let mut found = vec![0; self.count as usize];
        for of in self.frame_ids() {
            let mut link = self.meta(of).bucket.load(Ordering::Relaxed);
            while let Some(id) = self.pool.by_link(link) {
                found[id.index()] += 1;
                assert_eq!(found[id.index()], 1, "frame {id:?} is met twice");
                let block = self.meta(id).block.load(Ordering::Relaxed);
                assert_ne!(block, 0, "frame {id:?} of no block is in a bucket");
                assert!(core::ptr::eq(self.bucket(block - 1), self.meta(of)), "frame {id:?} is in a foreign bucket");
                link = self.meta(id).next.load(Ordering::Relaxed);
            }
        }
        for id in self.frame_ids() {
            let has_block = self.meta(id).block.load(Ordering::Relaxed) != 0;
            assert_eq!(found[id.index()] == 1, has_block, "frame {id:?} is lost");
        }
    }
}

/// The hash that stands for the content of a block: each half says the same.
fn content(block: u32, batch: u32) -> Content {
    Content { hash: u64::from(block + 1) * 0x1_0000_0001, batch }
}

#[cfg(loom)]
mod loom_cache {
    use super::{content, Cache, Pool, Shared, Yielding};
    use crate::arena::Class;
    use crate::cache::Lookup;
    use crate::hash::hash64;
    use crate::pool::{Bookkeeping, Page};
    use core::cell::Cell;
    use loom::sync::Arc;
    use loom::thread;
    use std::boxed::Box;

    loom::thread_local! {
        /// The CPU that this thread runs on: the first but for those that [`beside`] starts.
        pub(super) static CPU: Cell<usize> = Cell::new(0);
    }

    /// Runs a thread on the second CPU.
    fn beside<R: 'static>(work: impl FnOnce() -> R + 'static) -> thread::JoinHandle<R> {
        thread::spawn(|| {
            CPU.with(|cpu| cpu.set(1));
            work()
        })
    }

    /// A cache of two buffers, whose bytes nobody touches.
    fn cache() -> Arc<Cache<'static>> {
        static PAGES: [Page; 2] = [Page::new(), Page::new()];
        let pool = Pool::in_model(&PAGES, Box::leak(Box::new(Bookkeeping::<2>::new())));
        Arc::new(Cache::new(pool, 2, &Yielding))
    }

    /// Blocks that belong in the same bucket as this one, itself first, or in another one.
    fn neighbours(cache: &Cache<'static>, block: u32, same: bool) -> impl Iterator<Item = u32> {
        let cache = Cache::new(cache.pool, cache.count, &Yielding);
        (block..).filter(move |other| core::ptr::eq(cache.bucket(*other), cache.bucket(block)) == same)
    }

    /// Puts a written block into a frame that can be had.
    fn put(cache: &Cache<'static>, index: u32, block: u32) -> bool {
        let Some(slot) = cache.evict(index, true) else { return false };
        cache.reset(&slot);
        let share = cache.publish(slot, block, content(block, 1)).unwrap();
        cache.written(&share, block);
        true
    }

    fn check_hit(block: u32, share: Option<Shared<'static>>) {
        if let Some(share) = share {
            assert_eq!(share.meta().hash(), content(block, 1).hash, "a hit on another block");
        }
    }

    fn check(preemptions: usize, model: impl Fn() + Send + Sync + 'static) {
        let mut builder = loom::model::Builder::new();
        builder.preemption_bound = Some(preemptions);
        builder.check(model);
    }

    /// A frame changes from one block to another while both are looked up.
    #[test]
    fn loom_a_hit_is_the_block_that_was_asked_for() {
        check(3, || {
            let cache = cache();
            assert!(put(&cache, 0, 1));
            let other = Arc::clone(&cache);
            let evictor = beside(move || put(&other, 0, 2));
            check_hit(2, cache.hit(2));
            check_hit(1, cache.hit(1));
            evictor.join().unwrap();
            cache.check_table();
        });
    }

    /// Somebody takes a block out of its bucket, and somebody else wants its frame for a block of another bucket.
    #[test]
    fn loom_a_frame_changes_buckets_whole() {
        check(3, || {
            let cache = cache();
            let there = neighbours(&cache, 1, false).next().unwrap();
            let second = neighbours(&cache, 1, true).nth(1).unwrap();
            assert!(put(&cache, 0, 1) && put(&cache, 1, second));
            let other = Arc::clone(&cache);
            let taker = beside(move || put(&other, 1, there));
            assert!(cache.forget_written(second));
            taker.join().unwrap();
            cache.check_table();
            assert!(cache.hit(1).is_some(), "a block that nobody forgot is lost");
        });
    }

    /// Looks a block up that may not be here, and does the device's part of the read; its bytes are zeros.
    fn read(cache: &Cache<'static>, block: u32) {
        let zeros = hash64(&[0; 4096]);
        let share = match cache.lookup(block, Class::Reclaim, true) {
            None => return,
            Some(Lookup::Hit(share)) => share,
            Some(Lookup::Wait(ticket)) => loop {
                match ticket.poll() {
                    Some(share) => break share.ok().unwrap(),
                    None => thread::yield_now(),
                }
            },
            Some(Lookup::Miss(slot, ticket)) => {
                cache.finish_read(slot, Ok(()));
                ticket.poll().unwrap().ok().unwrap()
            }
        };
        assert_eq!(share.meta().hash(), zeros, "a read of another block");
    }

    /// Two read one block into the frame of another one, which somebody still looks up.
    #[test]
    fn loom_a_read_is_shared_whole() {
        check(2, || {
            let cache = cache();
            assert!(put(&cache, 0, 1) && put(&cache, 1, 3));
            let other = Arc::clone(&cache);
            let reader = beside(move || read(&other, 2));
            check_hit(1, cache.hit(1));
            read(&cache, 2);
            reader.join().unwrap();
            cache.check_table();
            assert!(cache.hit(2).is_some());
        });
    }

    /// Two want the same frame, which is in no bucket, for different blocks.
    #[test]
    fn loom_a_frame_is_had_by_one() {
        check(3, || {
            let cache = cache();
            let there = neighbours(&cache, 1, false).next().unwrap();
            let other = Arc::clone(&cache);
            let taker = beside(move || put(&other, 0, there));
            put(&cache, 0, 1);
            taker.join().unwrap();
            cache.check_table();
        });
    }
}

#[cfg(all(feature = "shuttle", not(loom)))]
mod shuttle_cache {
    use super::{content, Cache, Ordering, Pool, Shared, Yielding};
    use crate::arena::Class;
    use crate::cache::Lookup;
    use crate::pool::{Bookkeeping, Page, Row, SlotChain};
    use crate::tests::shuttle_world::{explore, once_in};
    use crate::DeviceError;
    use shuttle::rand::{thread_rng, Rng};
    use shuttle::sync::atomic::AtomicBool;
    use shuttle::thread;
    use std::vec::Vec;

    const FRAMES: usize = 6;
    const THREADS: u32 = 3;
    const BLOCKS: u32 = 12;

    fn with_cache(test: impl FnOnce(&Cache<'_>)) {
        let pages: [Page; FRAMES] = core::array::from_fn(|_| Page::new());
        let keeping = Bookkeeping::<FRAMES>::new();
        let pool = Pool::in_model(&pages, &keeping);
        test(&Cache::new(pool, FRAMES as u32, &Yielding));
    }

    fn check_bytes(block: u32, share: &Shared<'_>) {
        assert_eq!(share.bytes()[..4], block.to_le_bytes(), "a hit on another block");
    }

    /// One who allocates, writes, frees and reads. The blocks with its number modulo [`THREADS`] are its own to change,
    /// as the free map sees to it; it reads all of them.
    struct User<'c, 'm> {
        cache: &'c Cache<'m>,
        number: u32,
        /// Blocks that wait to be written, and whether they were freed since.
        dirty: Vec<(u32, Shared<'m>, bool)>,
    }

    impl User<'_, '_> {
        fn own(&self) -> u32 {
            thread_rng().gen_range(0..BLOCKS / THREADS) * THREADS + self.number
        }

        fn publish(&mut self) {
            let block = self.own();
            if self.dirty.len() == 1 || self.dirty.iter().any(|(other, ..)| *other == block) {
                return;
            }
            let Some(mut slot) = self.cache.take_buffer(Class::Reclaim) else { return };
            slot.bytes_mut()[..4].copy_from_slice(&block.to_le_bytes());
            let share = self.cache.publish(slot, block, content(block, 1));
            self.dirty.push((block, share.unwrap(), false));
        }

        fn written(&mut self) {
            let Some((block, share, freed)) = self.dirty.pop() else { return };
            if !freed {
                assert!(!self.cache.forget_written(block), "block {block} waits to be written, and nobody knows");
            }
            assert_eq!(self.cache.written(&share, block), freed);
        }

        fn free(&mut self) {
            match self.dirty.pop() {
                Some((block, share, false)) => {
                    assert!(
                        self.cache.cancel(block, once_in(2)),
                        "block {block} waits to be written, and nobody knows"
                    );
                    self.dirty.push((block, share, true));
                }
                Some(freed) => self.dirty.push(freed),
                None if once_in(4) => assert!(!self.cache.cancel(self.own(), once_in(2))),
                None => assert!(self.cache.forget_written(self.own())),
            }
        }

        fn read(&self) {
            let block = thread_rng().gen_range(0..BLOCKS);
            match self.cache.lookup(block, Class::Reclaim, !once_in(4)) {
                None => {}
                Some(Lookup::Hit(share)) => {
                    check_bytes(block, &share);
                    if once_in(4) {
                        self.cache.distrust(&share, block);
                    }
                }
                Some(Lookup::Wait(ticket)) => {
                    if let Some(Ok(share)) = ticket.poll() {
                        check_bytes(block, &share);
                    }
                }
                Some(Lookup::Miss(mut slot, ticket)) => {
                    slot.bytes_mut()[..4].copy_from_slice(&block.to_le_bytes());
                    match thread_rng().gen_range(0..4) {
                        0 => self.cache.finish_read(slot, Err(DeviceError::Timeout)),
                        1 => drop(SlotChain::new(slot)),
                        _ => {
                            self.cache.finish_read(slot, Ok(()));
                            check_bytes(block, &ticket.poll().unwrap().unwrap());
                        }
                    }
                }
            }
        }

        fn work(mut self) {
            for _ in 0..10 {
                match thread_rng().gen_range(0..6) {
                    0 | 1 => self.publish(),
                    2 => self.written(),
                    3 => self.free(),
                    _ => self.read(),
                }
            }
            self.written();
        }
    }

    #[test]
    fn shuttle_the_table_of_the_cache_stays_whole() {
        explore("cache", 4000, 4000, || {
            with_cache(|cache| {
                let user = |number| User { cache, number, dirty: Vec::new() };
                thread::scope(|scope| (0..THREADS).for_each(|number| drop(scope.spawn(move || user(number).work()))));
                cache.check_table();
                let idle = cache.frame_ids().into_iter().all(|id| cache.pool.is_idle(id));
                assert!(idle, "a buffer is held and nobody is left");
                let waiters = |id| cache.meta(id).waiters.load(Ordering::Relaxed);
                assert!(cache.frame_ids().into_iter().all(|id| waiters(id) == 0));
            });
        });
    }

    /// Few frames and short ways: those who take blocks out of buckets meet those who want the frames.
    #[test]
    fn shuttle_a_frame_changes_buckets_whole() {
        explore("cache, few frames", 10_000, 10_000, || {
            with_cache(|cache| {
                let change = |number: u32| {
                    for _ in 0..4 {
                        let block = thread_rng().gen_range(0..4) * THREADS + number;
                        let index = thread_rng().gen_range(0..3);
                        if once_in(4) {
                            assert!(!cache.cancel(block, false), "block {block} does not wait to be written");
                        } else if once_in(2) {
                            assert!(cache.forget_written(block));
                        } else if let Some(slot) = cache.evict(index, true) {
                            cache.reset(&slot);
                            let share = cache.publish(slot, block, content(block, 1)).unwrap();
                            // Others, who may not be done with what was in this frame before, go on first.
                            thread::yield_now();
                            assert!(!cache.written(&share, block), "block {block} was not freed");
                        }
                    }
                };
                thread::scope(|scope| (0..THREADS).for_each(|number| drop(scope.spawn(move || change(number)))));
                cache.check_table();
            });
        });
    }

    /// Blocks that are used again and again, but by nobody at the moment, do not keep a buffer from whoever needs one.
    #[test]
    fn shuttle_recent_use_alone_refuses_nobody() {
        explore("recent use", 2000, 2000, || {
            with_cache(|cache| {
                let done = AtomicBool::new(false);
                for block in 0..FRAMES as u32 {
                    let slot = cache.take_buffer(Class::Reclaim).unwrap();
                    let share = cache.publish(slot, block, content(block, 1)).unwrap();
                    assert!(!cache.written(&share, block));
                }
                thread::scope(|scope| {
                    scope.spawn(|| {
                        while !done.load(Ordering::Relaxed) {
                            cache.frame_ids().into_iter().for_each(|id| cache.note_use(id, Row::FIRST));
                            // Who never yields would keep the other from running under a schedule by priorities.
                            thread::yield_now();
                        }
                    });
                    assert!(cache.take_buffer(Class::Normal).is_some(), "every buffer was idle");
                    done.store(true, Ordering::Relaxed);
                });
            });
        });
    }
}
