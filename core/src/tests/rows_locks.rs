//! No lock is held while the device is called or the store waits, and locks nest no deeper than their order allows.
//! Rows 8, 19 and 29 of docs/ROWS.md, invariants 5, 7 and 8, and hole 14.
//!
//! Every lock is taken inside a critical section of the platform and left before the section ends, so whoever counts
//! the sections that a thread is in sees whether it holds a lock.

use super::disk::Disk;
use super::store::{memory, options, write};
use crate::{
    Allocate, BlockPtr, Class, Completion, Device, DeviceError, DeviceGeometry, Error, FlushTag, MountOptions,
    Platform, Request, Roots, ScrubStep, Store,
};
use core::sync::atomic::{AtomicU32, Ordering};
use std::cell::Cell;
use std::vec;
use std::vec::Vec;

std::thread_local! {
    /// Critical sections that this thread is in.
    static DEPTH: Cell<usize> = const { Cell::new(0) };
}

/// The commit machine and one arena, or one arena and the cache.
const MOST_NESTED: usize = 2;

struct Nesting {
    deepest: AtomicU32,
    relaxed: AtomicU32,
}

impl Nesting {
    const fn new() -> Self {
        Self { deepest: AtomicU32::new(0), relaxed: AtomicU32::new(0) }
    }
}

impl Platform for Nesting {
    fn relax(&self) {
        assert_eq!(DEPTH.get(), 0, "waits with a lock held");
        self.relaxed.fetch_add(1, Ordering::Relaxed);
        std::thread::yield_now();
    }
    fn enter_critical(&self) -> usize {
        let depth = DEPTH.get();
        DEPTH.set(depth + 1);
        assert!(depth < MOST_NESTED, "locks nest too deep");
        self.deepest.fetch_max(depth as u32 + 1, Ordering::Relaxed);
        depth
    }
    fn leave_critical(&self, saved: usize) {
        assert_eq!(DEPTH.get(), saved + 1, "sections end in another order than they began");
        DEPTH.set(saved);
    }
}

/// A device that refuses to be called with a lock held, and now and then has no room or nothing to deliver.
struct Strict<'a, 'm> {
    disk: &'a Disk<'m>,
    calls: AtomicU32,
}

impl<'a, 'm> Strict<'a, 'm> {
    const fn new(disk: &'a Disk<'m>) -> Self {
        Self { disk, calls: AtomicU32::new(0) }
    }

    /// Whether this call finds the device busy. Irregular, so that no order of calls always does.
    fn is_busy(&self) -> bool {
        assert_eq!(DEPTH.get(), 0, "the device is called with a lock held");
        let call = self.calls.fetch_add(1, Ordering::Relaxed);
        (call.wrapping_mul(0x9e37_79b9) >> 16).is_multiple_of(3)
    }
}

impl<'m> Device<'m> for Strict<'_, 'm> {
    fn geometry(&self) -> DeviceGeometry {
        self.is_busy();
        self.disk.geometry()
    }
    fn submit(&self, request: Request<'m>) -> Result<(), Request<'m>> {
        match self.is_busy() {
            true => Err(request),
            false => self.disk.submit(request),
        }
    }
    fn flush(&self, tag: FlushTag) -> Result<(), FlushTag> {
        match self.is_busy() {
            true => Err(tag),
            false => self.disk.flush(tag),
        }
    }
    fn poll(&self) -> Option<Completion<'m>> {
        match self.is_busy() {
            true => None,
            false => self.disk.poll(),
        }
    }
}

/// Allocates, writes, reads, frees and commits, some of it inside an epoch; returns what is left.
fn use_store(store: &Store<'_, '_>, rounds: u32, worker: u32) -> Vec<BlockPtr> {
    let mut kept: Vec<BlockPtr> = Vec::new();
    for round in 0..rounds {
        match write(store, round as u8) {
            Ok(ptr) => kept.push(ptr),
            Err(error) => assert!(matches!(error, Error::Full { .. } | Error::NoBuffer), "{error}"),
        }
        if round % 3 != 0 && !kept.is_empty() {
            store.free(kept.swap_remove(round as usize % kept.len())).unwrap();
        }
        // Freeing from inside an epoch could wait for others who do the same.
        let inside = (round % 5 == 0).then(|| store.enter(worker).unwrap());
        if let Some(ptr) = kept.get(round as usize % 7) {
            assert!(matches!(store.read(*ptr), Ok(_) | Err(Error::NoBuffer)));
        }
        drop(store.allocate(Allocate::data().hint(round).class(Class::Reclaim)));
        drop(inside);
        if round % 16 == 0 {
            match store.commit_start(Roots { next_qid: u64::from(round), ..store.roots() }) {
                Ok(_) | Err(Error::CommitInFlight) => {}
                Err(error) => panic!("{error}"),
            }
        }
    }
    kept
}

#[test]
fn no_lock_is_held_across_the_device_or_a_wait() {
    let memories: Vec<_> = (0..4).map(|_| memory()).collect();
    let platform = Nesting::new();
    let disk = Disk::new(vec![0; 1 << 20]);
    let device = Strict::new(&disk);
    let store = Store::format(memories[0].take().unwrap(), &device, &platform, options(1)).unwrap();
    // A long log, linked and written anew.
    let mut kept: Vec<BlockPtr> = (0..420).map(|i| write(&store, i as u8).unwrap()).collect();
    store.commit(store.roots().with_root(Some(kept[0]), 1)).unwrap();
    let mut position = 0;
    kept.retain(|ptr| {
        position += 1;
        position % 2 == 1 || store.free(*ptr).is_err()
    });
    store.commit(store.roots().with_root(Some(kept[0]), 2)).unwrap();
    assert!(store.arena(0).unwrap().log_blocks > 1);
    for round in 0..20 {
        store.free(kept.pop().unwrap()).unwrap();
        store.commit(store.roots().with_root(Some(kept[0]), 3 + round)).unwrap();
    }
    kept.drain(10..).for_each(|ptr| store.free(ptr).unwrap());
    store.commit(store.roots().with_root(Some(kept[0]), 30)).unwrap();
    disk.grow(2 << 20);
    store.grow().unwrap();
    use_store(&store, 300, 1);
    store.unmount().unwrap();

    // Repairs, discards, scrubbing.
    disk.edit(|bytes| bytes[9] ^= 1);
    let discard = MountOptions { discard: true, ..MountOptions::default() };
    let store = Store::mount(memories[1].take().unwrap(), &device, &platform, discard).unwrap();
    use_store(&store, 300, 2);
    let mut scrub = store.scrub();
    while !matches!(scrub.step(), Ok(ScrubStep::Done(_))) {
        store.step();
    }
    drop(scrub);
    assert!(store.counters().commit.repairs == 1 && store.counters().commit.discarded_bytes > 0);
    store.unmount().unwrap();

    // A device that fails.
    let store = Store::mount(memories[2].take().unwrap(), &device, &platform, discard).unwrap();
    write(&store, 1).unwrap();
    disk.fail(Some(DeviceError::Io));
    assert!(store.commit(store.roots()).is_err() && store.settle().is_err());
    disk.fail(None);
    drop(store);
    let store = Store::mount(memories[3].take().unwrap(), &device, &platform, discard).unwrap();
    use_store(&store, 50, 3);
    drop(store);
    assert_eq!((DEPTH.get(), platform.deepest.load(Ordering::Relaxed)), (0, MOST_NESTED as u32));
    assert!(platform.relaxed.load(Ordering::Relaxed) > 0);
}

/// The same with several threads, any of which drives the device and the commit for all.
#[test]
fn any_number_of_threads_drive_one_store_with_no_lock_held_across_the_device() {
    let memory = memory();
    let platform = Nesting::new();
    let disk = Disk::new(vec![0; 1 << 20]);
    let device = Strict::new(&disk);
    let store = Store::format(memory.take().unwrap(), &device, &platform, options(3)).unwrap();
    let kept: Vec<BlockPtr> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..3)
            .map(|name| {
                let store = &store;
                scope.spawn(move || {
                    let kept = use_store(store, 400, name);
                    assert_eq!(DEPTH.get(), 0);
                    kept
                })
            })
            .collect();
        threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect()
    });
    store.settle().unwrap();
    store.commit(Roots { next_qid: 1 << 40, ..store.roots() }).unwrap();
    store.settle().unwrap();
    super::store::check_space(&store, &kept);
    assert!(platform.deepest.load(Ordering::Relaxed) <= MOST_NESTED as u32);
}
