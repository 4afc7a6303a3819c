//! Long logs, full arenas, growing, reclaim, damage, discards, workers, scrubbing.

use super::disk::Disk;
use super::store::{check_space, memory, options, write, BLOCK};
use crate::format::{ranges_per_block, BlockSize};
use crate::{
    Allocate, BlockPtr, Class, CopyState, Error, MountOptions, NoInterrupts, ReadOptions, Roots, ScrubReport,
    ScrubStep, Store,
};
use std::vec;
use std::vec::Vec;

/// A volume whose free space is in pieces of one block, so that the log takes several blocks.
#[test]
fn a_long_log_is_appended_to_and_costs_seven_writes() {
    let memories: Vec<_> = (0..4).map(|_| memory()).collect();
    let disk = Disk::new(vec![0; 2 << 20]);
    let store = Store::format(memories[0].take().unwrap(), &disk, &NoInterrupts, options(1)).unwrap();
    let mut kept: Vec<BlockPtr> = (0..900).map(|i| write(&store, i as u8).unwrap()).collect();
    store.commit(store.roots().with_root(Some(kept[0]), 1)).unwrap();
    let all = core::mem::take(&mut kept);
    for (i, ptr) in all.iter().enumerate() {
        if i % 2 == 0 {
            kept.push(*ptr);
        } else {
            store.free(*ptr).unwrap();
        }
    }
    store.commit(store.roots().with_root(Some(kept[0]), 2)).unwrap();
    store.settle().unwrap();
    assert!(store.arena(0).unwrap().log_blocks > 1);
    check_space(&store, &kept);
    let mut image = Vec::new();
    let (mut seven, mut longest) = (0, 0);
    for round in 0..60_u32 {
        disk.take_log();
        store.free(kept.remove(round as usize * 3)).unwrap();
        kept.push(write(&store, 9).unwrap());
        store.commit(store.roots().with_root(Some(kept[0]), 3 + round)).unwrap();
        store.settle().unwrap();
        let log = disk.take_log();
        let writes = log.iter().filter(|entry| entry.is_some()).count();
        assert_eq!(log.len() - writes, 3, "flushes");
        seven += u32::from(writes == 7);
        longest = longest.max(store.arena(0).unwrap().log_blocks);
        check_space(&store, &kept);
        if round == 40 {
            image = disk.bytes();
        }
    }
    assert!(seven > 50, "{seven} of 60 commits wrote seven blocks");
    let whole = store.arena(0).unwrap().free_ranges.div_ceil(ranges_per_block(BlockSize::MIN) as u32);
    assert!(longest <= 2 * whole + 8 + 2, "{longest} log blocks where {whole} would do");
    let roots = store.roots();
    store.unmount().unwrap();
    for (memory, bytes) in memories[1..].iter().zip([disk.bytes(), image]) {
        disk.edit(|disk| disk.copy_from_slice(&bytes));
        let store = Store::mount(memory.take().unwrap(), &disk, &NoInterrupts, MountOptions::default()).unwrap();
        let space = store.space();
        assert_eq!(space.total_blocks - space.free_blocks, space.log_blocks + kept.len() as u64 + 2);
        if store.roots() == roots {
            check_space(&store, &kept);
        }
    }
}

/// The original may fill an arena to the last block; the next commit must find room for its log all the same.
#[test]
fn an_arena_without_a_free_block_commits() {
    let memories: Vec<_> = (0..2).map(|_| memory()).collect();
    let disk = Disk::new(vec![0; 128 << 10]);
    let store = Store::format(memories[0].take().unwrap(), &disk, &NoInterrupts, options(1)).unwrap();
    let mut held = Vec::new();
    while let Some(filling) = store.allocate_from_reserve() {
        held.push(store.enqueue(filling).unwrap().ptr());
        if store.space().avail_blocks == 1 {
            store.commit(store.roots().with_root(Some(held[0]), 1)).unwrap();
            store.settle().unwrap();
        }
    }
    assert_eq!(store.space().avail_blocks, 0);
    for round in 0..10 {
        store.commit(store.roots().with_root(Some(held[0]), 2 + round)).unwrap();
        store.settle().unwrap();
        assert!(round > 6 || store.space().avail_blocks <= 1);
        if round > 5 {
            store.free(held.pop().unwrap()).unwrap();
        } else if let Some(filling) = store.allocate_from_reserve() {
            held.push(store.enqueue(filling).unwrap().ptr());
        }
    }
    store.commit(store.roots()).unwrap();
    store.settle().unwrap();
    let roots = store.roots();
    let space = store.space();
    store.unmount().unwrap();
    let store = Store::mount(memories[1].take().unwrap(), &disk, &NoInterrupts, MountOptions::default()).unwrap();
    assert_eq!(store.roots(), roots);
    assert_eq!(store.space(), space);
}

#[test]
fn a_volume_grows_in_place_while_it_is_used() {
    let memories: Vec<_> = (0..2).map(|_| memory()).collect();
    let disk = Disk::new(vec![0; 512 << 10]);
    let store = Store::format(memories[0].take().unwrap(), &disk, &NoInterrupts, options(2)).unwrap();
    let mut kept = vec![write(&store, 1).unwrap()];
    store.commit(store.roots().with_root(Some(kept[0]), 1)).unwrap();
    let error = store.grow().unwrap_err();
    assert!(matches!(error, Error::Geometry { .. }), "{error}");
    kept.push(write(&store, 2).unwrap());
    store.free(kept[0]).unwrap();
    let before = store.space();
    disk.grow(1 << 20);
    store.grow().unwrap();
    assert_eq!(store.roots().root.addr, kept[0].addr, "the change of the caller is not in it");
    store.settle().unwrap();
    let after = store.space();
    assert!(after.total_blocks > before.total_blocks + 240, "{before:?} {after:?}");
    store.commit(store.roots().with_root(Some(kept[1]), 2)).unwrap();
    kept.remove(0);
    while let Ok(ptr) = write(&store, 3) {
        kept.push(ptr);
    }
    assert!(kept.len() > 400);
    store.commit(store.roots().with_root(Some(kept[0]), 3)).unwrap();
    store.unmount().unwrap();
    let store = Store::mount(memories[1].take().unwrap(), &disk, &NoInterrupts, MountOptions::default()).unwrap();
    assert_eq!(store.report().superblocks, [CopyState::Good; 2]);
    assert_eq!((store.report().arenas, store.report().bad_header_copies), (4, 0));
    check_space(&store, &kept);
    for ptr in &kept {
        store.read(*ptr).unwrap();
    }
}

/// Whoever holds every buffer can still delete: reclaim has buffers and blocks of its own.
#[test]
fn reclaim_goes_on_when_every_buffer_is_held() {
    let memory = memory();
    let disk = Disk::new(vec![0; 1 << 20]);
    let store = Store::format(memory.take().unwrap(), &disk, &NoInterrupts, options(2)).unwrap();
    let ptrs: Vec<BlockPtr> = (0..40).map(|i| write(&store, i).unwrap()).collect();
    store.commit(store.roots().with_root(Some(ptrs[0]), 1)).unwrap();
    store.settle().unwrap();
    let mut held = Vec::new();
    let error = loop {
        match store.read(ptrs[held.len()]) {
            Ok(block) => held.push(block),
            Err(error) => break error,
        }
    };
    assert_eq!(error, Error::NoBuffer);
    assert_eq!(store.allocate(Allocate::data()).unwrap_err(), Error::NoBuffer);
    let mut root = ptrs[0];
    let reclaim = ReadOptions { class: Class::Reclaim, past_cache: false };
    for round in 0..1000_u32 {
        let old = store.read_with(root, reclaim).unwrap();
        let mut new = store.duplicate(&old, Allocate::data().class(Class::Reclaim)).unwrap();
        drop(old);
        new.bytes_mut()[..4].copy_from_slice(&round.to_le_bytes());
        let new = store.enqueue(new).unwrap().ptr();
        store.free(root).unwrap();
        root = new;
        store.commit(store.roots().with_root(Some(root), 1)).unwrap();
    }
    drop(held);
    assert_eq!(store.read(root).unwrap()[..4], 999_u32.to_le_bytes());
}

#[test]
fn a_read_past_the_cache_leaves_no_trace_in_it() {
    let memory = memory();
    let disk = Disk::new(vec![0; 1 << 20]);
    let store = Store::format(memory.take().unwrap(), &disk, &NoInterrupts, options(2)).unwrap();
    let ptrs: Vec<BlockPtr> = (0..60).map(|i| write(&store, i).unwrap()).collect();
    store.settle().unwrap();
    let past = ReadOptions { past_cache: true, ..ReadOptions::default() };
    let hits = |store: &Store<'_, '_>| store.counters().cache_hits;
    let before = hits(&store);
    for _ in 0..3 {
        assert_eq!(store.read_with(ptrs[0], past).unwrap()[..], [0; BLOCK]);
    }
    assert_eq!(hits(&store), before);
    store.read(ptrs[0]).unwrap();
    store.read_with(ptrs[0], past).unwrap();
    assert_eq!(hits(&store), before + 1, "but what is there is used");
}

#[test]
fn a_damaged_log_leaves_the_volume_readable() {
    let memories: Vec<_> = (0..4).map(|_| memory()).collect();
    let disk = Disk::new(vec![0; 1 << 20]);
    let store = Store::format(memories[0].take().unwrap(), &disk, &NoInterrupts, options(2)).unwrap();
    let ptr = write(&store, 7).unwrap();
    store.commit(store.roots().with_root(Some(ptr), 1)).unwrap();
    let arenas: Vec<_> = (0..2).map(|index| store.arena(index).unwrap()).collect();
    store.unmount().unwrap();
    let read_only = MountOptions { read_only: true, ..MountOptions::default() };
    let damaged = MountOptions { damaged: true, ..read_only };
    disk.edit(|bytes| bytes[arenas[0].log_addr as usize + 50] ^= 1);
    let failed = Store::mount(memories[1].take().unwrap(), &disk, &NoInterrupts, read_only).unwrap_err();
    assert!(matches!(failed.error, Error::Corrupt { addr, .. } if addr == arenas[0].log_addr));
    disk.edit(|bytes| {
        bytes[arenas[1].addr as usize + 9] ^= 1;
        bytes[arenas[1].addr as usize + BLOCK + 9] ^= 1;
    });
    let store = Store::mount(memories[2].take().unwrap(), &disk, &NoInterrupts, damaged).unwrap();
    assert_eq!(store.report().damaged_arenas, 2);
    assert_eq!(store.report().damage, Some(failed.error));
    assert_eq!(store.read(store.roots().root_ptr().unwrap()).unwrap()[..], [7; BLOCK]);
    assert_eq!(store.allocate(Allocate::data()).unwrap_err(), Error::ReadOnly);
    assert_eq!(store.space().free_blocks, 0);
    let writable = MountOptions { damaged: true, ..MountOptions::default() };
    assert!(Store::mount(memories[3].take().unwrap(), &disk, &NoInterrupts, writable).is_err());
}

#[test]
fn what_a_commit_freed_is_discarded_before_it_is_handed_out() {
    let memories: Vec<_> = (0..2).map(|_| memory()).collect();
    let disk = Disk::new(vec![0; 1 << 20]);
    let store = Store::format(memories[0].take().unwrap(), &disk, &NoInterrupts, options(1)).unwrap();
    let ptrs: Vec<BlockPtr> = (0..100).map(|i| write(&store, i).unwrap()).collect();
    store.commit(store.roots().with_root(Some(ptrs[0]), 1)).unwrap();
    store.unmount().unwrap();
    let discard = MountOptions { discard: true, ..MountOptions::default() };
    let store = Store::mount(memories[1].take().unwrap(), &disk, &NoInterrupts, discard).unwrap();
    for ptr in &ptrs[20..90] {
        store.free(*ptr).unwrap();
    }
    disk.take_log();
    store.commit(store.roots()).unwrap();
    assert_eq!(disk.take_discards(), [], "not before both superblocks are durable");
    store.settle().unwrap();
    let (first, len_bytes) = (ptrs[20].addr, 70 * BLOCK as u64);
    let discards = disk.take_discards();
    assert!(discards.contains(&(first, len_bytes)), "{discards:?}");
    assert_eq!(discards.len(), 2, "and the old log block");
    assert_eq!(store.counters().commit.discarded_bytes, len_bytes + BLOCK as u64);
    for ptr in &ptrs[..20] {
        assert_eq!(store.read(*ptr).unwrap()[0], ptrs.iter().position(|other| other == ptr).unwrap() as u8);
    }
}

#[test]
fn what_a_worker_may_be_reading_is_not_handed_out() {
    let memory = memory();
    let disk = Disk::new(vec![0; 256 << 10]);
    let store = Store::format(memory.take().unwrap(), &disk, &NoInterrupts, options(1)).unwrap();
    let old = write(&store, 1).unwrap();
    store.commit(store.roots().with_root(Some(old), 1)).unwrap();
    store.settle().unwrap();
    let worker = store.enter(7).unwrap();
    // A block that no commit has, and one that the last commit has.
    let new = write(&store, 2).unwrap();
    store.free(new).unwrap();
    store.free(old).unwrap();
    assert_eq!(store.limbo_blocks() + u32::from(store.space().reserved_blocks == 1 && store.limbo_blocks() == 0), 1);
    let root = write(&store, 3).unwrap();
    store.commit(store.roots().with_root(Some(root), 1)).unwrap();
    assert_eq!(store.is_free(old.addr), Ok(true), "on disk it is free");
    for _ in 0..200 {
        let mut taken = Vec::new();
        while let Ok(filling) = store.allocate(Allocate::data()) {
            assert!(filling.addr() != old.addr && filling.addr() != new.addr);
            if taken.len() > 10 {
                break;
            }
            taken.push(filling);
        }
    }
    assert_eq!(store.settle(), Err(Error::Stalled { worker: 7 }));
    assert_eq!(store.commit(Roots::EMPTY), Err(Error::Stalled { worker: 7 }));
    let later = store.enter(8).unwrap();
    drop(worker);
    store.settle().unwrap();
    assert_eq!(store.limbo_blocks(), 0);
    assert_eq!(store.space().pending_blocks, 0);
    drop(later);
}

/// Others may enqueue and commit for ever: what is waited for is what there was.
#[test]
fn settling_ends_while_others_go_on_to_enqueue_and_to_commit() {
    let memory = memory();
    let disk = Disk::new(vec![0; 1 << 20]);
    let store = Store::format(memory.take().unwrap(), &disk, &NoInterrupts, options(1)).unwrap();
    // Low addresses that are free again, so that what comes later would be written earlier, were it for the address
    // alone.
    let low: Vec<BlockPtr> = (0..100).map(|i| write(&store, i).unwrap()).collect();
    let mut root = write(&store, 200).unwrap();
    store.commit(store.roots().with_root(Some(root), 1)).unwrap();
    low.iter().for_each(|ptr| store.free(*ptr).unwrap());
    store.commit(store.roots()).unwrap();
    store.settle().unwrap();
    let own: Vec<BlockPtr> = (0..6).map(|i| write(&store, i).unwrap()).collect();
    let mut settling = store.start_settling();
    let mut rounds = 0;
    let result = loop {
        if let Some(result) = store.poll_settling(&mut settling) {
            break result;
        }
        assert!(rounds < 200, "waits for what others do");
        rounds += 1;
        for i in 0..3 {
            write(&store, i).unwrap();
        }
        store.step();
        assert_ne!(store.counters().pending_blocks, 0, "there is always something to do");
    };
    assert_eq!(result, Ok(()));
    let bytes = disk.bytes();
    for (i, ptr) in own.iter().enumerate() {
        assert_eq!(bytes[ptr.addr as usize..][..BLOCK], [i as u8; BLOCK], "it is on the disk");
    }
    // A commit that is followed by the next one at once, so that the machine is hardly ever idle.
    let mut ticket = store.commit_start(store.roots()).unwrap();
    let mut settling = store.start_settling();
    for round in 0..10_000_u32 {
        assert!(round < 9_999, "waits for later commits");
        if store.poll_settling(&mut settling).is_some() {
            break;
        }
        store.step();
        if store.commit_poll(&ticket).is_some() {
            let next = write(&store, round as u8).unwrap();
            if let Ok(begun) = store.commit_start(store.roots().with_root(Some(next), 1)) {
                store.free(root).unwrap();
                (root, ticket) = (next, begun);
            }
        }
    }
    store.settle().unwrap();
}

/// What is enqueued later cannot overtake what somebody waits for, wherever it lies.
#[test]
fn what_is_waited_for_is_written_first() {
    let memory = memory();
    let disk = Disk::new(vec![0; 1 << 20]);
    let store = Store::format(memory.take().unwrap(), &disk, &NoInterrupts, options(2)).unwrap();
    let enqueue = |hint| {
        let mut block = store.allocate(Allocate::data().hint(hint)).unwrap();
        block.bytes_mut().fill(7);
        store.enqueue(block).unwrap().ptr().addr
    };
    let waited_for = enqueue(1);
    let mut settling = store.start_settling();
    let later = enqueue(0);
    assert!(later < waited_for, "by the address alone it would come first");
    let first = store.engine.queue.with(&NoInterrupts, |queue| queue.peek().map(|entry| entry.block));
    assert_eq!(first, Some((waited_for / BLOCK as u64) as u32));
    disk.take_log();
    while store.poll_settling(&mut settling).is_none() {
        store.step();
    }
    assert_eq!(disk.take_log()[0], Some((waited_for, BLOCK as u64)));
}

#[test]
fn limbo_is_bounded_and_says_who_fills_it() {
    let memory = memory();
    let disk = Disk::new(vec![0; 1 << 20]);
    let store = Store::format(memory.take().unwrap(), &disk, &NoInterrupts, options(1)).unwrap();
    let worker = store.enter(3).unwrap();
    let mut freed = 0;
    let error = loop {
        let ptr = write(&store, 1).unwrap();
        match store.free(ptr) {
            Ok(()) => freed += 1,
            Err(error) => break error,
        }
    };
    assert_eq!(error, Error::Stalled { worker: 3 });
    assert_eq!(freed, 24, "as many as there are buffers");
    drop(worker);
    let ptr = write(&store, 1).unwrap();
    store.free(ptr).unwrap();
    store.settle().unwrap();
    assert_eq!(store.limbo_blocks(), 0);
}

fn scrub(store: &Store<'_, '_>) -> (ScrubReport, Vec<Error>) {
    let (mut scrub, mut found) = (store.scrub(), Vec::new());
    for _ in 0..100_000 {
        match scrub.step() {
            Ok(ScrubStep::Done(report)) => return (report, found),
            Ok(ScrubStep::Found(error)) => found.push(error),
            Ok(ScrubStep::Working) => {}
            Err(error) => assert_eq!(error, Error::NoBuffer),
        }
        store.step();
    }
    panic!("a scrub does not end");
}

#[test]
fn a_scrub_finds_what_went_bad_and_the_next_commit_repairs_it() {
    let memory = memory();
    let disk = Disk::new(vec![0; 1 << 20]);
    let store = Store::format(memory.take().unwrap(), &disk, &NoInterrupts, options(3)).unwrap();
    let ptr = write(&store, 7).unwrap();
    store.commit(store.roots().with_root(Some(ptr), 1)).unwrap();
    store.settle().unwrap();
    assert_eq!(scrub(&store), (ScrubReport { blocks: 2 + 3 * 3, damaged: 0, left_out: 0 }, vec![]));
    let good = disk.bytes();
    let (header, log) = (store.arena(1).unwrap().addr, store.arena(2).unwrap().log_addr);
    for addr in [0, (1 << 20) - BLOCK as u64, header, header + BLOCK as u64] {
        disk.edit(|bytes| bytes[addr as usize + 33] ^= 8);
        let (report, found) = scrub(&store);
        assert_eq!(report.damaged, 1);
        assert!(matches!(found[0], Error::Corrupt { addr: at, .. } if at == addr), "{found:?}");
        store.commit(store.roots()).unwrap();
        store.settle().unwrap();
        assert_eq!(disk.bytes(), good);
    }
    disk.edit(|bytes| bytes[log as usize + 40] ^= 8);
    assert_eq!(scrub(&store).0.damaged, 1);
    store.commit(store.roots()).unwrap();
    store.settle().unwrap();
    assert_ne!(store.arena(2).unwrap().log_addr, log);
    assert_eq!(scrub(&store).0.damaged, 0);
    check_space(&store, &[ptr]);
}

#[test]
fn a_scrub_keeps_out_of_the_way_of_commits() {
    let memory = memory();
    let disk = Disk::new(vec![0; 1 << 20]);
    let store = Store::format(memory.take().unwrap(), &disk, &NoInterrupts, options(3)).unwrap();
    let mut root = write(&store, 0).unwrap();
    store.commit(store.roots().with_root(Some(root), 1)).unwrap();
    let mut scrub = store.scrub();
    for round in 0..100_000_u32 {
        match scrub.step().unwrap() {
            ScrubStep::Done(report) => {
                assert_eq!(report.damaged, 0);
                return;
            }
            ScrubStep::Found(error) => panic!("{error}"),
            ScrubStep::Working => {}
        }
        store.step();
        if round % 7 == 0 {
            store.free(root).unwrap();
            root = write(&store, round as u8).unwrap();
            store.commit(store.roots().with_root(Some(root), 1)).unwrap();
        }
    }
    panic!("a scrub does not end");
}

#[cfg(feature = "trace")]
mod trace {
    use super::*;
    use crate::TraceWhat::{self, Allocated, Cached, Dropped, Enqueued, Freed, Held, Read, Submitted, Written};

    /// What happened to a block, and in which lines of this file; the oldest event first.
    fn events(store: &Store<'_, '_>, addr: u64) -> Vec<(TraceWhat, Option<u32>)> {
        let mut seen = Vec::new();
        store.trace(&mut |event| {
            if event.addr == addr && event.what != TraceWhat::CommitBegun {
                let here = event.caller.filter(|caller| caller.file() == file!());
                seen.push((event.what, here.map(|caller| caller.line())));
            }
            true
        });
        seen.reverse();
        seen
    }

    #[test]
    fn the_trace_names_the_line_that_freed_a_block() {
        let memory = memory();
        let disk = Disk::new(vec![0; 1 << 20]);
        let store = Store::format(memory.take().unwrap(), &disk, &NoInterrupts, options(1)).unwrap();
        let ptr = write(&store, 1).unwrap();
        store.commit(store.roots().with_root(Some(ptr), 1)).unwrap();
        let line = line!() + 1;
        store.free(ptr).unwrap();
        let seen = events(&store, ptr.addr);
        let what: Vec<_> = seen.iter().map(|event| event.0).collect();
        assert_eq!(what, [Allocated, Cached, Enqueued, Held, Dropped, Submitted, Written, Freed]);
        assert_eq!(seen[7].1, Some(line));
    }

    /// Each handle is given out in one line and dropped once; a drop names that line.
    #[test]
    fn the_trace_tells_what_is_cached_and_who_holds_and_drops_it() {
        let memory = memory();
        let disk = Disk::new(vec![0; 1 << 20]);
        let store = Store::format(memory.take().unwrap(), &disk, &NoInterrupts, options(1)).unwrap();
        let ptr = write(&store, 1).unwrap();
        for _ in 0..40 {
            store.free(write(&store, 1).unwrap()).unwrap();
        }
        let line = line!() + 1;
        let first = store.read(ptr).unwrap();
        let second = first.clone();
        drop(first);
        let reading = store.start_read(ptr).unwrap();
        let third = reading.poll().unwrap().unwrap();
        drop(third);
        drop(second);
        let expected = [
            (Read, Some(line)),
            (Cached, None),
            (Held, Some(line)),
            (Held, Some(line + 1)),
            (Dropped, Some(line)),
            (Read, Some(line + 3)),
            (Held, Some(line + 4)),
            (Dropped, Some(line + 4)),
            (Dropped, Some(line + 1)),
        ];
        assert!(events(&store, ptr.addr).ends_with(&expected), "{:?}", events(&store, ptr.addr));
    }

    /// It has a fixed number of places, in the memory of the store, and none of it on the stack.
    #[test]
    fn the_ring_is_in_the_memory_value() {
        let ring = crate::TRACE_EVENTS * size_of::<crate::TraceEvent>();
        assert!(ring <= 11 << 10, "{ring}");
        assert!(size_of::<Store<'_, '_>>() < ring / 2, "{}", size_of::<Store<'_, '_>>());
        let memory = memory();
        let disk = Disk::new(vec![0; 1 << 20]);
        let store = Store::format(memory.take().unwrap(), &disk, &NoInterrupts, options(1)).unwrap();
        for i in 0..100 {
            write(&store, i).unwrap();
        }
        let mut count = 0;
        store.trace(&mut |_| {
            count += 1;
            true
        });
        assert_eq!(count, crate::TRACE_EVENTS);
    }
}
