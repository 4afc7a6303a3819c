//! Arenas, epochs and shared reads under the model checker shuttle.

use super::shuttle_world::{check, explore, memory, mount, once_in, write_as, Child, Cooperative, Disk, Volume};
use crate::arena::{ArenaSlot, Arenas, Place, Reserved};
use crate::sync::AtomicUsize;
use crate::{Class, DeviceError, DeviceOp, Error, Store};
use shuttle::rand::{thread_rng, Rng};
use shuttle::sync::atomic::{AtomicBool, Ordering};
use shuttle::sync::{Barrier, Mutex};
use shuttle::thread;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::vec::Vec;

/// Blocks of an arena of which six are room for new content: two are never handed out, eight are kept back.
const BLOCKS: u32 = 16;
const ROOM: usize = 2 * 6;

/// Blocks that are in somebody's hands. A plain mutex: not held across a scheduling point.
#[derive(Default)]
struct Hands(std::sync::Mutex<BTreeSet<u32>>);

impl Hands {
    fn take(&self, place: Place) {
        assert!(self.0.lock().unwrap().insert(place.block), "block {} handed out twice", place.block);
    }
    fn give(&self, place: Place) {
        assert!(self.0.lock().unwrap().remove(&place.block));
    }
    fn count(&self) -> usize {
        self.0.lock().unwrap().len()
    }
}

fn with_arenas(test: impl FnOnce(&Arenas<'_>)) {
    let slots: [ArenaSlot; 2] = core::array::from_fn(|_| ArenaSlot::new());
    let words: [AtomicUsize; 32] = core::array::from_fn(|_| AtomicUsize::new(0));
    let arenas = Arenas::new(&slots, 0, &words, crate::format::BlockSize::MIN, &Cooperative);
    arenas.append(2, 1, BLOCKS, 0);
    test(&arenas);
}

/// While nobody gives anything back, nobody is told "full" before the last block is out.
#[test]
fn shuttle_arenas_hand_out_every_block_once() {
    explore("arenas", 2000, 2000, || {
        with_arenas(|arenas| {
            let hands = Hands::default();
            let take_all = |hint: u32| {
                while let Some(reserved) = arenas.allocate(Class::Normal, hint) {
                    hands.take(reserved.place);
                }
                assert_eq!(arenas.room(Class::Normal), 0, "told full while there was room");
            };
            thread::scope(|scope| (0..3).for_each(|hint| drop(scope.spawn(move || take_all(hint)))));
            assert_eq!(hands.count(), ROOM);
        });
    });
}

/// The same with blocks that come back.
#[test]
fn shuttle_arenas_take_blocks_back() {
    explore("arenas, giving back", 2000, 2000, || {
        with_arenas(|arenas| {
            let hands = Hands::default();
            let use_some = |hint: u32| {
                let mut mine = Vec::new();
                for _ in 0..8 {
                    if let Some(Reserved { place, .. }) = arenas.allocate(Class::Normal, hint) {
                        hands.take(place);
                        mine.push(place);
                    }
                    if once_in(3) && !mine.is_empty() {
                        let place = mine.swap_remove(thread_rng().gen_range(0..mine.len()));
                        hands.give(place);
                        assert_eq!(arenas.unreserve(place), Ok(()));
                    }
                }
            };
            thread::scope(|scope| (0..3).for_each(|hint| drop(scope.spawn(move || use_some(hint)))));
            let space = arenas.space();
            assert_eq!(space.reserved_blocks as usize, hands.count());
            assert_eq!(space.avail_blocks + space.reserved_blocks, 2 * u64::from(BLOCKS - 2));
            assert_eq!(arenas.room(Class::Normal) as usize, ROOM - hands.count());
        });
    });
}

/// A block that readers find by a cell, and how often each address was handed out.
struct Cell {
    now: Mutex<Child>,
    handed_out: std::sync::Mutex<BTreeMap<u64, u32>>,
    done: AtomicBool,
}

impl Cell {
    fn times(&self, addr: u64) -> u32 {
        self.handed_out.lock().unwrap().get(&addr).copied().unwrap_or(0)
    }

    /// Puts another block in place of the one that readers find; the caller frees that.
    fn replace(&self, new: Child) -> Child {
        *self.handed_out.lock().unwrap().entry(new.ptr.addr).or_insert(0) += 1;
        core::mem::replace(&mut *self.now.lock().unwrap(), new)
    }
}

/// Follows the cell inside epochs: what it leads to stays readable, and is nobody else's, until the worker leaves.
fn walk(store: &Store<'_, '_>, cell: &Cell, name: u32) {
    while !cell.done.load(Ordering::Relaxed) {
        let worker = store.enter(name).unwrap();
        let (child, times) = {
            let now = cell.now.lock().unwrap();
            (*now, cell.times(now.ptr.addr))
        };
        for _ in 0..thread_rng().gen_range(1..8) {
            check(store, child);
            thread::yield_now();
        }
        assert_eq!(cell.times(child.ptr.addr), times, "handed out under a reader: {child:?}");
        drop(worker);
    }
}

/// Replaces the block in the cell again and again. The volume is nearly full, so every block soon comes back.
fn replace(store: &Store<'_, '_>, cell: &Cell, committing: bool) {
    let (mut round, rounds) = (0, if committing { 8 } else { 12 });
    while round < rounds {
        match write_as(store, 500 + 2 * round, Class::Reclaim) {
            Ok(new) => {
                store.free(cell.replace(new).ptr).unwrap();
                round += 1;
            }
            Err(Error::Full { .. }) => thread::yield_now(),
            Err(error) => panic!("{error}"),
        }
        if committing && once_in(2) {
            let mut roots = store.roots();
            roots.next_gen += 1;
            store.commit(roots).unwrap();
        }
        store.step();
    }
    cell.done.store(true, Ordering::Relaxed);
}

/// Whether some block was handed out more than once.
fn readers_and_a_writer(volume: &Volume, committing: bool) -> bool {
    let memory = memory::<4>();
    let disk = Disk::new(volume.bytes.clone(), 2);
    let store = mount(&memory, &disk);
    let first = volume.children[0];
    let handed_out = std::sync::Mutex::default();
    let cell = Cell { now: Mutex::new(first), handed_out, done: AtomicBool::new(false) };
    thread::scope(|scope| {
        let (store, cell) = (&store, &cell);
        scope.spawn(move || walk(store, cell, 1));
        scope.spawn(move || walk(store, cell, 2));
        replace(store, cell, committing);
    });
    while store.step() {}
    store.settle().unwrap();
    assert_eq!((store.limbo_blocks(), store.space().reserved_blocks), (0, 0));
    let again = cell.handed_out.lock().unwrap().values().any(|times| *times > 1);
    again
}

fn explore_readers(name: &str, committing: bool) {
    let volume = Volume::new(31);
    let again = Arc::new(std::sync::atomic::AtomicU32::new(0));
    let count = Arc::clone(&again);
    explore(name, 500, 500, move || {
        let some = u32::from(readers_and_a_writer(&volume, committing));
        count.fetch_add(some, std::sync::atomic::Ordering::Relaxed);
    });
    assert!(again.load(std::sync::atomic::Ordering::Relaxed) > 500, "too few schedules in which a block came back");
}

/// Blocks that no commit has come back by limbo.
#[test]
fn shuttle_nothing_comes_back_from_limbo_under_a_reader() {
    explore_readers("epochs and limbo", false);
}

/// Blocks that a commit has come back when it settles.
#[test]
fn shuttle_nothing_comes_back_from_a_commit_under_a_reader() {
    explore_readers("epochs and commits", true);
}

/// Readers of one block that is not in the cache share the read of the device.
#[test]
fn shuttle_readers_share_one_read() {
    let volume = Volume::new(2);
    explore("shared read", 2000, 2000, move || {
        let memory = memory::<4>();
        let disk = Disk::new(volume.bytes.clone(), 2);
        let store = mount(&memory, &disk);
        let child = volume.children[1];
        thread::scope(|scope| (0..3).for_each(|_| drop(scope.spawn(|| check(&store, child)))));
        assert_eq!(disk.reads_of(child.ptr.addr), 1);
    });
}

/// Whoever waits for a read that fails is told so, and the next reader asks the device again.
#[test]
fn shuttle_a_failed_read_is_told_to_everybody() {
    let volume = Volume::new(2);
    explore("failed read", 2000, 2000, move || {
        let memory = memory::<4>();
        let disk = Disk::new(volume.bytes.clone(), 2);
        let store = mount(&memory, &disk);
        let child = volume.children[1];
        disk.fail_reads(1);
        let all_wait = Barrier::new(3);
        let read = || {
            let reading = store.start_read(child.ptr).unwrap();
            all_wait.wait();
            let result = loop {
                match reading.poll() {
                    Some(result) => break result,
                    None if store.step() => {}
                    None => thread::yield_now(),
                }
            };
            let (op, addr, cause) = (DeviceOp::Read, child.ptr.addr, DeviceError::Timeout);
            assert_eq!(result.unwrap_err(), Error::Device { op, addr, cause });
        };
        thread::scope(|scope| (0..3).for_each(|_| drop(scope.spawn(read))));
        assert_eq!(disk.reads_of(child.ptr.addr), 1);
        check(&store, child);
        assert_eq!(disk.reads_of(child.ptr.addr), 2);
        assert_eq!(store.failure(), None);
    });
}

/// Without a rendezvous, a reader gets the error of the read that it waited for, or the content by a later one.
#[test]
fn shuttle_a_failed_read_is_tried_again() {
    let volume = Volume::new(2);
    explore("failed read, tried again", 2000, 2000, move || {
        let memory = memory::<4>();
        let disk = Disk::new(volume.bytes.clone(), 2);
        let store = mount(&memory, &disk);
        let child = volume.children[1];
        disk.fail_reads(1);
        let failed = thread::scope(|scope| {
            let read = || match store.read(child.ptr) {
                Ok(block) => {
                    assert_eq!(block[..8], child.id.to_le_bytes());
                    0
                }
                Err(error) => {
                    assert!(matches!(error, Error::Device { cause: DeviceError::Timeout, .. }), "{error}");
                    1
                }
            };
            let threads = [0, 1, 2].map(|_| scope.spawn(read));
            threads.into_iter().map(|thread| thread.join().unwrap()).sum::<usize>()
        });
        assert!(failed > 0, "somebody waited for the read that failed");
        assert_eq!(disk.reads_of(child.ptr.addr), if failed == 3 { 1 } else { 2 });
    });
}
