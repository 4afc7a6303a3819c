//! Format, allocate, write, commit, read, free, mount.

use super::disk::Disk;
use crate::format::{BlockSize, NONE};
use crate::memory::{map_words, pages_for};
use crate::{
    Allocate, BlockPtr, Class, CopyState, Damage, DeviceError, Error, FormatOptions, Memory, MountOptions,
    NoInterrupts, Roots, Store,
};
use std::boxed::Box;
use std::vec;
use std::vec::Vec;

pub(super) const BLOCK: usize = 2048;
pub(super) type Small = Memory<{ pages_for(24, BLOCK) }, 24, { map_words(1024, 4) }, 4, 16>;

pub(super) fn memory() -> Box<Small> {
    Box::new(Memory::new())
}

/// Under Miri nobody looks whether the disk is blank: a minute for each megabyte.
pub(super) fn options(arenas: u32) -> FormatOptions {
    FormatOptions { block_size: BlockSize::MIN, arenas, force: cfg!(miri) }
}

pub(super) fn write(store: &Store<'_, '_>, fill: u8) -> Result<BlockPtr, Error> {
    let mut block = store.allocate(Allocate::data())?;
    block.bytes_mut().fill(fill);
    Ok(store.enqueue(block)?.ptr())
}

pub(super) fn check_space(store: &Store<'_, '_>, reachable: &[BlockPtr]) {
    let space = store.space();
    let arenas = u64::from(store.report().arenas);
    let used = space.log_blocks + reachable.len() as u64 + 2 * arenas;
    assert_eq!(space.total_blocks - space.free_blocks, used, "{space:?}");
    for ptr in reachable {
        assert_eq!(store.is_free(ptr.addr), Ok(false));
    }
}

#[test]
fn what_was_committed_is_there_after_a_remount() {
    let (first, second) = (memory(), memory());
    let disk = Disk::new(vec![0; 1 << 20]);
    let store = Store::format(first.take().unwrap(), &disk, &NoInterrupts, options(2)).unwrap();
    check_space(&store, &[]);
    let ptr = write(&store, 7).unwrap();
    assert_eq!(store.commit(store.roots().with_root(Some(ptr), 1)), Ok(2));
    assert_eq!(store.read(ptr).unwrap()[..], [7; BLOCK]);
    let lost = write(&store, 8).unwrap();
    store.unmount().unwrap();

    let image = disk.bytes();
    let disk = Disk::new(image.clone());
    let store = Store::mount(second.take().unwrap(), &disk, &NoInterrupts, MountOptions::default()).unwrap();
    let root = store.roots().root_ptr().unwrap();
    assert_eq!((root.addr, root.hash, root.gen), (ptr.addr, ptr.hash, NONE));
    assert_eq!(store.read(root).unwrap()[..], [7; BLOCK]);
    assert_eq!(store.is_free(lost.addr), Ok(true));
    check_space(&store, &[root]);
    assert_eq!(store.report().superblocks, [CopyState::Good; 2]);
    assert!(store.report().sealed);
    assert_eq!(store.commit(store.roots()), Ok(2), "a clean store has nothing to commit");
    store.unmount().unwrap();
    assert_eq!(disk.bytes(), image, "mount writes nothing, nor does a commit of nothing");
}

#[test]
fn one_changed_block_costs_six_writes_and_three_flushes() {
    let memory = memory();
    let disk = Disk::new(vec![0; 1 << 20]);
    let store = Store::format(memory.take().unwrap(), &disk, &NoInterrupts, options(4)).unwrap();
    disk.take_log();
    let ptr = write(&store, 1).unwrap();
    let ticket = store.commit_start(store.roots().with_root(Some(ptr), 1)).unwrap();
    while store.commit_poll(&ticket).is_none() {
        store.step();
    }
    let before: Vec<_> = disk.take_log();
    store.settle().unwrap();
    let after = disk.take_log();
    let count = |log: &[Option<(u64, u64)>]| {
        let flushes = log.iter().filter(|entry| entry.is_none()).count();
        (log.len() - flushes, flushes)
    };
    let all: Vec<_> = before.iter().chain(&after).copied().collect();
    assert_eq!(count(&all), (6, 3));
    let flushes_before = before.iter().take_while(|entry| **entry != Some((0, BLOCK as u64))).filter(|e| e.is_none());
    assert_eq!(flushes_before.count(), 1, "superblock 0 stands behind one flush");
}

#[test]
fn a_full_volume_frees_and_commits() {
    let memory = memory();
    let disk = Disk::new(vec![0; 256 << 10]);
    let store = Store::format(memory.take().unwrap(), &disk, &NoInterrupts, options(2)).unwrap();
    let mut held = Vec::new();
    // Miri takes a minute for each round.
    for round in 0..if cfg!(miri) { 2 } else { 200 } {
        let error = loop {
            match write(&store, round as u8) {
                Ok(ptr) => held.push(ptr),
                Err(error) => break error,
            }
        };
        assert!(matches!(error, Error::Full { .. }), "{error}");
        if round == 0 {
            assert_eq!(held.len(), 2 * (61 - 2 - 1 - 4 - 4), "all but headers, logs and reserves");
        }
        let full = held.len();
        store.commit(store.roots().with_root(Some(held[0]), round)).unwrap();
        let reclaim = store.allocate(Allocate::data().class(Class::Reclaim)).unwrap();
        drop(reclaim);
        for ptr in held.drain(round as usize % 50..full / 2 + 10) {
            store.free(ptr).unwrap();
            assert_eq!(store.free(ptr), Err(Error::NotAllocated { addr: ptr.addr }));
        }
        store.commit(store.roots().with_root(held.first().copied(), round)).unwrap();
        store.settle().unwrap();
        check_space(&store, &held);
    }
}

#[test]
fn a_flipped_byte_is_never_returned() {
    let (first, second) = (memory(), memory());
    let disk = Disk::new(vec![0; 1 << 20]);
    let store = Store::format(first.take().unwrap(), &disk, &NoInterrupts, options(2)).unwrap();
    let ptr = write(&store, 7).unwrap();
    store.commit(store.roots().with_root(Some(ptr), 1)).unwrap();
    store.unmount().unwrap();
    disk.edit(|bytes| bytes[ptr.addr as usize + 99] ^= 4);
    let store = Store::mount(second.take().unwrap(), &disk, &NoInterrupts, MountOptions::default()).unwrap();
    let error = store.read(ptr).unwrap_err();
    assert!(matches!(
        error,
        Error::Corrupt { addr, damage: Damage::Hash { expected, .. } } if addr == ptr.addr && expected == ptr.hash
    ));
}

#[test]
fn a_failed_write_ends_writing_and_loses_nothing() {
    let (first, second) = (memory(), memory());
    let disk = Disk::new(vec![0; 1 << 20]);
    let store = Store::format(first.take().unwrap(), &disk, &NoInterrupts, options(2)).unwrap();
    let ptr = write(&store, 7).unwrap();
    store.commit(store.roots().with_root(Some(ptr), 1)).unwrap();
    store.settle().unwrap();
    let next = write(&store, 8).unwrap();
    disk.fail(Some(DeviceError::Io));
    let error = store.commit(store.roots().with_root(Some(next), 1)).unwrap_err();
    assert!(matches!(error, Error::Device { cause: DeviceError::Io, .. }));
    disk.fail(None);
    assert_eq!(store.commit(Roots::EMPTY), Err(Error::ReadOnly));
    assert_eq!(store.allocate(Allocate::data()).unwrap_err(), Error::ReadOnly);
    assert_eq!(store.read(ptr).unwrap()[..], [7; BLOCK]);
    assert!(store.unmount().is_err());
    let store = Store::mount(second.take().unwrap(), &disk, &NoInterrupts, MountOptions::default()).unwrap();
    assert_eq!(store.roots().root_ptr().unwrap().addr, ptr.addr);
}

#[test]
fn format_refuses_what_is_not_blank() {
    let memory = memory();
    let mut bytes = vec![0; 1 << 20];
    bytes[1080] = 0x53;
    let disk = Disk::new(bytes.clone());
    let careful = FormatOptions { force: false, ..options(2) };
    let failed = Store::format(memory.take().unwrap(), &disk, &NoInterrupts, careful).unwrap_err();
    assert_eq!(failed.error, Error::NotBlank { addr: 1080 });
    let failed = Store::mount(failed.memory.unwrap(), &disk, &NoInterrupts, MountOptions::default()).unwrap_err();
    assert!(matches!(failed.error, Error::NotAVolume { .. }));
    assert_eq!(disk.bytes(), bytes);
    let force = FormatOptions { force: true, ..options(2) };
    let store = Store::format(failed.memory.unwrap(), &disk, &NoInterrupts, force).unwrap();
    check_space(&store, &[]);
}

#[test]
fn a_bad_second_copy_is_noted_and_repaired() {
    let unit = BLOCK as u64;
    let memories: Vec<_> = (0..10).map(|_| memory()).collect();
    let disk = Disk::new(vec![0; 1 << 20]);
    let store = Store::format(memories[0].take().unwrap(), &disk, &NoInterrupts, options(2)).unwrap();
    let ptr = write(&store, 7).unwrap();
    store.commit(store.roots().with_root(Some(ptr), 1)).unwrap();
    store.unmount().unwrap();
    let good = disk.bytes();
    let last = (1 << 20) - unit;
    for (round, addr) in [0, last, unit, 2 * unit].into_iter().enumerate() {
        disk.edit(|bytes| bytes[addr as usize + 40] ^= 1);
        let store =
            Store::mount(memories[1 + 2 * round].take().unwrap(), &disk, &NoInterrupts, MountOptions::default())
                .unwrap();
        let report = store.report();
        let bad = report.superblocks.iter().filter(|copy| **copy != CopyState::Good).count() as u32;
        assert_eq!(bad + report.bad_header_copies, 1);
        assert_eq!(store.read(ptr).unwrap()[..], [7; BLOCK]);
        store.commit(store.roots()).unwrap();
        assert_eq!(store.counters().commit.repairs, 1);
        store.unmount().unwrap();
        assert_eq!(disk.bytes(), good, "the copy at {addr} is what it was");
    }
}
