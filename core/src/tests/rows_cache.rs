//! The cache as readers see it, and workers who do not leave. Rows 19, 20, 21, 26 and 36 of docs/ROWS.md.

use super::disk::Disk;
use super::store::{memory, options, write, BLOCK};
use crate::{
    Allocate, BlockPtr, Class, Device, DeviceError, DeviceOp, Error, FormatOptions, MountOptions, NoInterrupts,
    Platform, Resources, Store,
};
use core::sync::atomic::{AtomicU32, Ordering};
use std::sync::Barrier;
use std::vec;
use std::vec::Vec;

/// Buffers that a caller of the normal class can have: 24, less those of the commit and of reclaim.
const COMMON: usize = 16;

fn format<'d, 'm>(memory: Resources<'m>, disk: &'d dyn Device<'m>, options: FormatOptions) -> Store<'d, 'm> {
    Store::format(memory, disk, &NoInterrupts, options).unwrap()
}

/// A volume with so many blocks, none of which is in the cache.
fn cold<'d, 'm>(memory: Resources<'m>, disk: &'d Disk<'m>, blocks: usize) -> (Store<'d, 'm>, Vec<BlockPtr>) {
    let store = format(memory, disk, options(1));
    let ptrs: Vec<BlockPtr> = (0..blocks).map(|i| write(&store, i as u8).unwrap()).collect();
    for i in 0..4 * COMMON {
        store.free(write(&store, i as u8).unwrap()).unwrap();
    }
    store.commit(store.roots().with_root(Some(ptrs[0]), 1)).unwrap();
    store.settle().unwrap();
    let others: Vec<BlockPtr> = (0..4 * COMMON).map(|i| write(&store, i as u8).unwrap()).collect();
    store.settle().unwrap();
    others.iter().for_each(|ptr| store.free(*ptr).unwrap());
    disk.take_reads();
    (store, ptrs)
}

#[test]
fn many_readers_of_a_block_cost_one_device_read() {
    let memory = memory();
    let disk = Disk::new(vec![0; 1 << 20]);
    let (store, ptrs) = cold(memory.take().unwrap(), &disk, 5);
    let before = store.counters();
    let readings: Vec<_> = (0..30).map(|_| store.start_read(ptrs[3]).unwrap()).collect();
    assert_eq!(disk.take_reads(), [ptrs[3].addr], "the first reader fetches");
    assert!(readings.iter().all(|reading| reading.poll().is_none()), "and all wait");
    while store.step() {}
    let blocks: Vec<_> = readings.iter().map(|reading| reading.poll().unwrap().unwrap()).collect();
    assert!(blocks.iter().all(|block| block[..] == [3; BLOCK]));
    assert!(blocks.iter().all(|block| block.bytes().as_ptr() == blocks[0].bytes().as_ptr()), "one buffer");
    assert_eq!(store.read(ptrs[3]).unwrap()[..], [3; BLOCK]);
    assert_eq!(disk.take_reads(), []);
    let after = store.counters();
    let (lookups, hits) = (after.cache_lookups - before.cache_lookups, after.cache_hits - before.cache_hits);
    assert_eq!((lookups, hits), (31, 30));
}

#[test]
fn a_read_that_fails_fails_for_all_who_wait_and_is_tried_anew() {
    let memory = memory();
    let disk = Disk::new(vec![0; 1 << 20]);
    let (store, ptrs) = cold(memory.take().unwrap(), &disk, 5);
    disk.fail(Some(DeviceError::Io));
    let readings: Vec<_> = (0..5).map(|_| store.start_read(ptrs[2]).unwrap()).collect();
    disk.fail(None);
    while store.step() {}
    let error = Error::Device { op: DeviceOp::Read, addr: ptrs[2].addr, cause: DeviceError::Io };
    for reading in &readings {
        assert_eq!(reading.poll().unwrap().unwrap_err(), error);
    }
    assert_eq!(disk.take_reads(), [ptrs[2].addr]);
    assert_eq!(store.read(ptrs[2]).unwrap()[..], [2; BLOCK]);
    assert_eq!(disk.take_reads(), [ptrs[2].addr]);
    assert_eq!(readings[0].poll().unwrap().unwrap_err(), error, "the same answer each time");
    assert!(!store.is_read_only());
}

#[test]
fn threads_that_read_the_same_block_at_once_share_one_read() {
    let memory = memory();
    let disk = Disk::new(vec![0; 1 << 20]);
    let (store, ptrs) = cold(memory.take().unwrap(), &disk, 12);
    let start = Barrier::new(4);
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                for (i, ptr) in ptrs.iter().enumerate() {
                    start.wait();
                    assert_eq!(store.read(*ptr).unwrap()[..], [i as u8; BLOCK]);
                }
            });
        }
    });
    assert_eq!(disk.take_reads(), ptrs.iter().map(|ptr| ptr.addr).collect::<Vec<_>>());
}

/// A pointer that does not fit what is in the cache gets an error, and does no harm to readers whose pointer does.
#[test]
fn the_hash_is_compared_on_a_hit_too() {
    let memory = memory();
    let disk = Disk::new(vec![0; 1 << 20]);
    let (store, ptrs) = cold(memory.take().unwrap(), &disk, 5);
    store.read(ptrs[1]).unwrap();
    let stale = BlockPtr { hash: ptrs[2].hash, ..ptrs[1] };
    for _ in 0..3 {
        assert!(matches!(store.read(stale).unwrap_err(), Error::Corrupt { addr, .. } if addr == stale.addr));
        assert_eq!(store.read(ptrs[1]).unwrap()[..], [1; BLOCK]);
    }
    // What waits to be written is not read from the device, whatever somebody thinks of it.
    let dirty = write(&store, 9).unwrap();
    disk.take_reads();
    assert!(store.read(BlockPtr { hash: 1, ..dirty }).is_err());
    assert_eq!(store.read(dirty).unwrap()[..], [9; BLOCK]);
    assert_eq!(disk.take_reads(), []);
}

#[test]
fn a_held_block_keeps_its_buffer_until_the_last_handle_is_dropped() {
    let memory = memory();
    let disk = Disk::new(vec![0; 1 << 20]);
    let (store, ptrs) = cold(memory.take().unwrap(), &disk, 60);
    let held = store.read(ptrs[0]).unwrap();
    let again = held.clone();
    let scan = |round: u8| {
        for (i, ptr) in ptrs.iter().enumerate().skip(1) {
            assert_eq!(store.read(*ptr).unwrap()[0], i as u8, "round {round}");
        }
    };
    scan(0);
    assert_eq!(held[..], [0; BLOCK]);
    drop(held);
    scan(1);
    disk.take_reads();
    assert_eq!(store.read(ptrs[0]).unwrap().bytes().as_ptr(), again.bytes().as_ptr());
    assert_eq!(disk.take_reads(), [], "the second handle has kept it");
    drop(again);
    scan(2);
    scan(3);
    disk.take_reads();
    assert_eq!(store.read(ptrs[0]).unwrap()[..], [0; BLOCK]);
    assert_eq!(disk.take_reads(), [ptrs[0].addr], "nobody held it any more");
}

#[test]
fn a_block_that_is_used_now_and_then_survives_a_scan() {
    let memory = memory();
    let disk = Disk::new(vec![0; 1 << 20]);
    let (store, ptrs) = cold(memory.take().unwrap(), &disk, 100);
    store.read(ptrs[0]).unwrap();
    store.read(ptrs[0]).unwrap();
    disk.take_reads();
    for (i, ptr) in ptrs.iter().enumerate().skip(1) {
        store.read(*ptr).unwrap();
        if i % 8 == 0 {
            store.read(ptrs[0]).unwrap();
        }
    }
    assert!(!disk.take_reads().contains(&ptrs[0].addr));
}

/// The buffer of a freed block serves next; the other blocks stay.
#[test]
fn a_freed_block_is_the_first_to_leave_the_cache() {
    for victim in [0, 9, COMMON - 1] {
        let memory = memory();
        let disk = Disk::new(vec![0; 1 << 20]);
        let store = format(memory.take().unwrap(), &disk, options(1));
        let ptrs: Vec<BlockPtr> = (0..COMMON).map(|i| write(&store, i as u8).unwrap()).collect();
        store.commit(store.roots().with_root(Some(ptrs[1]), 1)).unwrap();
        store.settle().unwrap();
        let buffer = store.read(ptrs[victim]).unwrap().bytes().as_ptr();
        store.free(ptrs[victim]).unwrap();
        let filling = store.allocate(Allocate::data()).unwrap();
        assert_eq!(filling.bytes().as_ptr(), buffer);
        disk.take_reads();
        for ptr in ptrs.iter().filter(|ptr| **ptr != ptrs[victim]) {
            store.read(*ptr).unwrap();
        }
        assert_eq!(disk.take_reads(), []);
    }
}

/// Others go on between a look at what is under way and the next look for a buffer: what they have begun is waited for.
#[test]
fn no_buffer_is_no_error_while_others_have_just_begun_to_write() {
    let memory = memory();
    let disk = Disk::new(vec![0; 1 << 20]);
    let store = format(memory.take().unwrap(), &disk, options(1));
    store.settle().unwrap();
    let mut looks = 0;
    let result = store.retry_no_buffer(|| {
        looks += 1;
        match looks {
            1 => None,
            2 => {
                write(&store, 2).unwrap();
                None
            }
            _ if store.counters().pending_blocks != 0 => None,
            _ => Some(()),
        }
    });
    assert_eq!(result, Some(()), "their write came to an end, and its buffer is free");
}

/// Callers who hold everything are told so at once; callers who hold nothing are never told so, however little there
/// is.
#[test]
fn no_buffer_is_an_error_only_while_callers_hold_them_all() {
    let memory = memory();
    let disk = Disk::new(vec![0; 1 << 20]);
    let store = format(memory.take().unwrap(), &disk, options(2));
    let mut fillings: Vec<_> = (0..COMMON).map(|_| store.allocate(Allocate::data()).unwrap()).collect();
    let space = store.space();
    assert_eq!(store.allocate(Allocate::data()).unwrap_err(), Error::NoBuffer);
    assert_eq!(store.space(), space, "the address went back");
    let reclaim = store.allocate(Allocate::data().class(Class::Reclaim)).unwrap();
    drop(reclaim);
    // Queued is not held: the caller waits for writes then.
    store.enqueue(fillings.pop().unwrap()).unwrap();
    assert!(store.allocate(Allocate::data()).is_ok());
    drop(fillings);
    for i in 0..200 {
        write(&store, i).unwrap();
    }
}

/// Relaxations so far.
struct Relaxing(AtomicU32);

impl Platform for Relaxing {
    fn relax(&self) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }
    fn enter_critical(&self) -> usize {
        0
    }
    fn leave_critical(&self, _saved: usize) {}
}

/// Nobody waits while limbo holds less than a quarter of the cache. From there on each free gives the worker in the way
/// some relaxations to leave, more of them the fuller limbo is, and then goes on all the same: on one CPU the worker
/// may be the one who frees.
#[test]
fn limbo_presses_back_from_a_quarter_of_the_cache_on() {
    let memories = [memory(), memory()];
    let platform = Relaxing(AtomicU32::new(0));
    let disk = Disk::new(vec![0; 1 << 20]);
    format(memories[0].take().unwrap(), &disk, options(1)).unmount().unwrap();
    let options = MountOptions { patience_relaxations: 10, ..MountOptions::default() };
    let store = Store::mount(memories[1].take().unwrap(), &disk, &platform, options).unwrap();
    let relaxed = || platform.0.load(Ordering::SeqCst);
    let worker = store.enter(1).unwrap();
    let ptrs: Vec<BlockPtr> = (0..26).map(|i| write(&store, i).unwrap()).collect();
    store.settle().unwrap();
    let waits: Vec<u32> = ptrs[..24]
        .iter()
        .map(|ptr| {
            let before = relaxed();
            store.free(*ptr).unwrap();
            relaxed() - before
        })
        .collect();
    // 24 buffers, 4 of them for commits.
    assert_eq!(waits[..5], [0; 5], "less than a quarter of the cache");
    assert!(waits[5] > 0 && waits[5..].is_sorted() && waits[23] > 1000 * waits[5], "{waits:?}");
    assert_eq!(store.limbo_blocks(), 24);
    drop(worker);
    let before = relaxed();
    store.free(ptrs[24]).unwrap();
    assert_eq!((relaxed() - before, store.limbo_blocks()), (0, 0), "whoever frees helps as soon as it can");
}

/// When limbo is full, as many relaxations pass as the mount asked for.
#[test]
fn a_worker_that_stays_is_named_after_the_patience_of_the_mount() {
    for patience_relaxations in [1, 25, 1000] {
        let memories = [memory(), memory()];
        let platform = Relaxing(AtomicU32::new(0));
        let disk = Disk::new(vec![0; 1 << 20]);
        format(memories[0].take().unwrap(), &disk, options(1)).unmount().unwrap();
        let options = MountOptions { patience_relaxations, ..MountOptions::default() };
        let store = Store::mount(memories[1].take().unwrap(), &disk, &platform, options).unwrap();
        let worker = store.enter(42).unwrap();
        for freed in 0..24 {
            store.free(write(&store, 1).unwrap()).unwrap();
            assert_eq!(store.counters().limbo_blocks + store.counters().pending_blocks, freed + 1);
        }
        let ptr = write(&store, 1).unwrap();
        store.settle().unwrap();
        assert_eq!(store.counters().limbo_blocks, 24);
        let before = platform.0.load(Ordering::SeqCst);
        assert_eq!(store.free(ptr), Err(Error::Stalled { worker: 42 }));
        assert_eq!(platform.0.load(Ordering::SeqCst) - before, patience_relaxations);
        drop(worker);
        assert_eq!(store.free(ptr), Ok(()));
        store.settle().unwrap();
        assert_eq!(store.counters().limbo_blocks, 0);
    }
}
