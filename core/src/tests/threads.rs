//! Threads on one pool and on one store, in few steps: for Miri, which watches every access to the bytes of the buffers
//! for races. (loom and shuttle watch the atomics and the order of calls; the bytes they do not see.)

use super::disk::Disk;
use super::store::{check_space, options, write, BLOCK};
use crate::memory::{map_words, pages_for};
use crate::pool::{Bookkeeping, Page, Pool, Row};
use crate::{BlockPtr, Memory, NoInterrupts, Roots, Store};
use std::boxed::Box;
use std::thread;
use std::vec;
use std::vec::Vec;

/// Rounds of each thread; Miri takes a second for a few of them.
const ROUNDS: u8 = if cfg!(miri) { 3 } else { 200 };

#[test]
fn what_a_sole_owner_writes_is_seen_whole_by_readers() {
    static PAGES: [Page; 1] = [Page::new()];
    let keeping = Bookkeeping::<1>::new();
    let pool = Pool::in_model(&PAGES, &keeping);
    let id = pool.id(0).unwrap();
    let write = |fill: u8| {
        for round in 0..ROUNDS {
            let Some(mut slot) = pool.claim(id) else { continue };
            slot.bytes_mut().fill(fill ^ round);
            drop(slot.share().clone());
        }
    };
    let read = |cpu: usize| {
        for round in 0..ROUNDS {
            let Some(share) = pool.hold(id, Row::of(cpu + usize::from(round))) else { continue };
            let bytes = share.bytes();
            assert!(bytes.iter().step_by(512).all(|byte| *byte == bytes[0]), "half-written");
        }
    };
    thread::scope(|scope| {
        scope.spawn(|| write(0x10));
        scope.spawn(|| write(0x80));
        scope.spawn(|| read(1));
        read(2);
    });
    assert!(pool.is_idle(id), "nobody is left");
}

/// So few buffers that blocks are evicted all the time.
type Tiny = Memory<{ pages_for(14, BLOCK) }, 14, { map_words(256, 2) }, 2, 8>;

#[test]
fn threads_write_read_and_free_side_by_side() {
    let memory = Box::<Tiny>::default();
    let disk = Disk::new(vec![0; 96 * BLOCK]);
    let store = Store::format(memory.take().unwrap(), &disk, &NoInterrupts, options(2)).unwrap();
    let kept: Vec<BlockPtr> = (0..8).map(|fill| write(&store, fill).unwrap()).collect();
    store.commit(store.roots().with_root(Some(kept[0]), 1)).unwrap();
    let change = |fill: u8| {
        for round in 0..ROUNDS {
            let ptr = write(&store, fill ^ round).unwrap();
            assert_eq!(store.read(ptr).unwrap()[..], [fill ^ round; BLOCK]);
            store.free(ptr).unwrap();
        }
    };
    let read = || {
        for (fill, ptr) in (0..=255).zip(kept.iter().cycle().take(usize::from(ROUNDS) * 3)) {
            assert_eq!(store.read(*ptr).unwrap()[..], [fill % 8; BLOCK]);
        }
    };
    thread::scope(|scope| {
        scope.spawn(|| change(0x10));
        scope.spawn(|| change(0x80));
        scope.spawn(read);
        // Between two commits all pause; here nobody does, and the roots stay the same.
        for _ in 0..ROUNDS {
            store.step();
        }
    });
    store.commit(Roots { next_qid: 1, ..store.roots() }).unwrap();
    store.settle().unwrap();
    check_space(&store, &kept);
    store.unmount().unwrap();
}
