//! The allocation log on the device: what it lists, where it is written, and what happens meanwhile. Rows 8, 10, 11, 12
//! and 14 of docs/ROWS.md, and holes 6 and 8.

use super::disk::Disk;
use super::rows_space::Counting;
use super::store::{check_space, memory, options, write, BLOCK};
use crate::format::{ArenaHeader, BlockSize, LogBlock, LogEntry, NONE};
use crate::{Allocate, BlockPtr, MountOptions, NoInterrupts, Platform, Resources, Store};
use core::sync::atomic::{AtomicU32, Ordering};
use std::collections::BTreeSet;
use std::vec;
use std::vec::Vec;

const UNIT: u64 = BLOCK as u64;

fn page(disk: &Disk<'_>, addr: u64) -> Vec<u8> {
    disk.bytes()[addr as usize..addr as usize + BLOCK].to_vec()
}

fn header(disk: &Disk<'_>, base: u64) -> ArenaHeader {
    ArenaHeader::decode(&page(disk, base), BlockSize::MIN, base).unwrap()
}

/// Byte addresses of the blocks of an arena's log, in order, as many as the header seals.
fn log_blocks(disk: &Disk<'_>, base: u64) -> Vec<u64> {
    let header = header(disk, base);
    let mut blocks = vec![header.log_head.addr];
    for _ in 1..header.seal.unwrap().blocks {
        let last = page(disk, *blocks.last().unwrap());
        blocks.push(LogBlock::decode(&last, BlockSize::MIN).unwrap().chain());
    }
    blocks
}

/// Replays an arena's log from the bytes alone: what is free, and the last entry.
fn replay(disk: &Disk<'_>, base: u64) -> (BTreeSet<u64>, LogEntry) {
    let (mut free, mut last) = (BTreeSet::new(), LogEntry::Barrier { gen: 0 });
    for addr in log_blocks(disk, base) {
        let page = page(disk, addr);
        let (mut expected_len, block) = (0, LogBlock::decode(&page, BlockSize::MIN).unwrap());
        for entry in block.entries() {
            last = entry.unwrap();
            expected_len += match last {
                LogEntry::Barrier { .. } => 8,
                LogEntry::Free { len_bytes: UNIT, .. } | LogEntry::Alloc { len_bytes: UNIT, .. } => 8,
                LogEntry::Free { .. } | LogEntry::Alloc { .. } => 16,
            };
            match last {
                LogEntry::Free { addr, len_bytes } => {
                    (addr..addr + len_bytes).step_by(BLOCK).for_each(|addr| assert!(free.insert(addr)));
                }
                LogEntry::Alloc { addr, len_bytes } => {
                    (addr..addr + len_bytes).step_by(BLOCK).for_each(|addr| assert!(free.remove(&addr)));
                }
                LogEntry::Barrier { .. } => {}
            }
        }
        assert_eq!(usize::from(block.sum().len_bytes), expected_len, "8 bytes for one block, 16 for a range");
    }
    (free, last)
}

/// What the log says is what the store says, block by block; it ends with the barrier; its own blocks are in use.
fn check_log(store: &Store<'_, '_>, disk: &Disk<'_>, generation: u64) {
    let info = store.arena(0).unwrap();
    let (free, last) = replay(disk, info.addr);
    let first = info.addr + 2 * UNIT;
    for addr in (first..first + info.size_bytes).step_by(BLOCK) {
        assert_eq!(free.contains(&addr), store.is_free(addr).unwrap(), "{addr:#x}");
    }
    assert_eq!(last, LogEntry::Barrier { gen: generation });
    let blocks = log_blocks(disk, info.addr);
    assert!(blocks.iter().all(|addr| !free.contains(addr)), "the log's own blocks are in use");
    assert_eq!(blocks.len(), info.log_blocks as usize);
    assert_eq!(header(disk, info.addr).used_bytes, info.size_bytes - free.len() as u64 * UNIT);
    assert_eq!(page(disk, info.addr), page(disk, info.addr + UNIT), "both copies");
}

fn commit(store: &Store<'_, '_>, root: BlockPtr, number: u32) -> u64 {
    let generation = store.commit(store.roots().with_root(Some(root), number)).unwrap();
    store.settle().unwrap();
    generation
}

/// A volume whose free space is in pieces of one block, so that its log has several blocks.
fn fragmented<'d, 'm>(
    memory: Resources<'m>,
    disk: &'d Disk<'m>,
    platform: &'m dyn Platform,
) -> (Store<'d, 'm>, Vec<BlockPtr>) {
    let store = Store::format(memory, disk, platform, options(1)).unwrap();
    let all: Vec<BlockPtr> = (0..900).map(|i| write(&store, i as u8).unwrap()).collect();
    commit(&store, all[0], 1);
    all.iter().skip(1).step_by(2).for_each(|ptr| store.free(*ptr).unwrap());
    let kept: Vec<BlockPtr> = all.into_iter().step_by(2).collect();
    commit(&store, kept[0], 2);
    assert!(store.arena(0).unwrap().log_blocks > 1);
    (store, kept)
}

#[test]
fn the_log_lists_what_is_free_and_ends_with_the_barrier_of_its_commit() {
    let memory = memory();
    let disk = Disk::new(vec![0; 1 << 20]);
    let store = Store::format(memory.take().unwrap(), &disk, &NoInterrupts, options(1)).unwrap();
    check_log(&store, &disk, 1);
    let mut kept: Vec<BlockPtr> = (0..100).map(|i| write(&store, i).unwrap()).collect();
    for round in 0..if cfg!(miri) { 4 } else { 30_usize } {
        kept.push(write(&store, round as u8).unwrap());
        store.free(kept.remove(round * 17 % 90)).unwrap();
        store.free(kept.remove(round * 31 % 90)).unwrap();
        kept.push(write(&store, round as u8).unwrap());
        let generation = commit(&store, kept[0], 1 + round as u32);
        check_log(&store, &disk, generation);
    }
    check_space(&store, &kept);
}

#[test]
fn a_long_log_lists_the_same_whether_it_is_linked_or_written_anew() {
    let memory = memory();
    let disk = Disk::new(vec![0; 2 << 20]);
    let (store, mut kept) = fragmented(memory.take().unwrap(), &disk, &NoInterrupts);
    check_log(&store, &disk, 3);
    let (mut linked, mut anew) = (0, 0);
    for round in 0..40_u32 {
        let before = log_blocks(&disk, store.arena(0).unwrap().addr);
        store.free(kept.remove(round as usize * 5)).unwrap();
        kept.push(write(&store, 9).unwrap());
        let generation = commit(&store, kept[0], 3 + round);
        check_log(&store, &disk, generation);
        match log_blocks(&disk, store.arena(0).unwrap().addr).starts_with(&before) {
            true => linked += 1,
            false => anew += 1,
        }
    }
    assert!(linked > 20 && anew > 0, "{linked} {anew}");
}

#[test]
fn a_log_written_anew_takes_fresh_blocks_and_frees_the_old_chain() {
    let memories = [memory(), memory()];
    let disk = Disk::new(vec![0; 2 << 20]);
    let (store, mut kept) = fragmented(memories[0].take().unwrap(), &disk, &NoInterrupts);
    let base = store.arena(0).unwrap().addr;
    let old = log_blocks(&disk, base);
    let before: Vec<_> = old.iter().map(|addr| page(&disk, *addr)).collect();
    kept.drain(1..).for_each(|ptr| store.free(ptr).unwrap());
    disk.take_log();
    let generation = commit(&store, kept[0], 3);
    check_log(&store, &disk, generation);
    let new = log_blocks(&disk, base);
    assert_eq!(new.len(), 1, "everything is free in few pieces");
    assert!(!old.contains(&new[0]));
    for (addr, before) in old.iter().zip(before) {
        assert_eq!(store.is_free(*addr), Ok(true));
        assert_eq!(page(&disk, *addr), before, "the old log was left as it was");
    }
    let space = store.space();
    assert_eq!((space.log_blocks, space.pending_blocks, space.reserved_blocks), (1, 0, 0));
    assert_eq!(space.avail_blocks, space.total_blocks - 2 - 1 - 1, "all but the last two, the log and the root");
    store.unmount().unwrap();
    let store = Store::mount(memories[1].take().unwrap(), &disk, &NoInterrupts, MountOptions::default()).unwrap();
    assert_eq!(store.space(), space);
    check_space(&store, &kept);
}

/// A commit that is cut off must find the log of the state before it as it was: of what belongs to that state nothing
/// is written over but the second header copies, and the chain pointer of a long log's last block.
#[test]
fn no_log_block_of_the_last_commit_is_written_over() {
    const AT_CHAIN: core::ops::Range<usize> = 12..20;
    for long in [false, true] {
        let memory = memory();
        let disk = Disk::new(vec![0; 2 << 20]);
        let (store, mut kept) = fragmented(memory.take().unwrap(), &disk, &NoInterrupts);
        if !long {
            kept.drain(100..).for_each(|ptr| store.free(ptr).unwrap());
            commit(&store, kept[0], 3);
        }
        let mut tails = 0;
        for round in 0..30_u32 {
            let durable = log_blocks(&disk, store.arena(0).unwrap().addr);
            let before: Vec<_> = durable.iter().map(|addr| page(&disk, *addr)).collect();
            store.free(kept.remove(round as usize)).unwrap();
            kept.push(write(&store, 9).unwrap());
            disk.take_log();
            commit(&store, kept[0], 4 + round);
            let written: BTreeSet<u64> = disk.take_log().iter().flatten().map(|write| write.0).collect();
            for (addr, mut before) in durable.iter().zip(before) {
                if !written.contains(addr) {
                    continue;
                }
                assert!(long && Some(addr) == durable.last(), "{addr:#x} of {durable:x?}");
                tails += 1;
                let after = page(&disk, *addr);
                assert_ne!(after[AT_CHAIN], NONE.to_be_bytes());
                before[AT_CHAIN].copy_from_slice(&after[AT_CHAIN]);
                assert_eq!(after, before, "more than the chain pointer was changed in place");
            }
        }
        assert_eq!(tails > 0, long, "{tails}");
    }
}

/// Between any two steps of a commit that writes a long log anew, an allocation is had at once: in a few lock sections,
/// without a step, and without the device.
#[test]
fn allocation_goes_on_while_a_log_is_written_anew() {
    let memories = [memory(), memory()];
    let platform = Counting(AtomicU32::new(0));
    let disk = Disk::new(vec![0; 2 << 20]);
    let (store, mut kept) = fragmented(memories[0].take().unwrap(), &disk, &platform);
    let (old, base) = (store.arena(0).unwrap().log_blocks, store.arena(0).unwrap().addr);
    // Enough to be better written anew.
    kept.drain(150..).for_each(|ptr| store.free(ptr).unwrap());
    let head = log_blocks(&disk, base)[0];
    disk.take_log();
    let ticket = store.commit_start(store.roots().with_root(Some(kept[0]), 3)).unwrap();
    let (mut between, mut worst) = (0, 0);
    while store.commit_poll(&ticket).is_none() {
        let requests = (disk.take_log(), disk.take_reads());
        let before = platform.0.load(Ordering::SeqCst);
        let filling = store.allocate(Allocate::data()).unwrap();
        drop(filling);
        worst = worst.max(platform.0.load(Ordering::SeqCst) - before);
        assert_eq!((disk.take_log(), disk.take_reads()), (vec![], vec![]), "after {requests:?}");
        if between % 3 == 0 {
            kept.push(write(&store, between as u8).unwrap());
        }
        between += 1;
        store.step();
    }
    assert!(between > 5 && worst <= 8, "{between} steps, {worst} lock sections for one allocation");
    store.settle().unwrap();
    let log = log_blocks(&disk, base);
    assert!(log[0] != head && old > 1, "it was written anew");
    commit(&store, kept[0], 4);
    check_space(&store, &kept);
    let space = store.space();
    store.unmount().unwrap();
    let store = Store::mount(memories[1].take().unwrap(), &disk, &NoInterrupts, MountOptions::default()).unwrap();
    assert_eq!(store.space(), space);
    check_space(&store, &kept);
}

/// What is freed at any moment of one commit is free on disk in the next one, and stays so over mounts: nothing leaks.
#[test]
fn a_free_at_any_moment_of_a_commit_is_in_the_next_one() {
    // Miri takes seconds for each.
    for moment in (0..40).step_by(if cfg!(miri) { 7 } else { 1 }) {
        let memories = [memory(), memory()];
        let disk = Disk::new(vec![0; 256 << 10]);
        let store = Store::format(memories[0].take().unwrap(), &disk, &NoInterrupts, options(1)).unwrap();
        let mut kept: Vec<BlockPtr> = (0..10).map(|i| write(&store, i).unwrap()).collect();
        let ticket = store.commit_start(store.roots().with_root(Some(kept[0]), 1)).unwrap();
        for _ in 0..moment {
            store.step();
        }
        let ptr = kept.pop().unwrap();
        store.free(ptr).unwrap();
        let new = write(&store, 77).unwrap();
        store.free(new).unwrap();
        while store.commit_poll(&ticket).is_none() {
            store.step();
        }
        assert_eq!(store.commit_poll(&ticket), Some(Ok(2)));
        assert_eq!(store.is_free(ptr.addr), Ok(false), "it was part of what the commit covers");
        let generation = commit(&store, kept[0], 2);
        assert_eq!(store.is_free(ptr.addr), Ok(true));
        check_log(&store, &disk, generation);
        check_space(&store, &kept);
        store.unmount().unwrap();
        let store = Store::mount(memories[1].take().unwrap(), &disk, &NoInterrupts, MountOptions::default()).unwrap();
        check_space(&store, &kept);
    }
}
