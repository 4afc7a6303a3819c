//! A format by steps, and a mount.

use super::disk::Disk;
use super::store::{memory, options, BLOCK};
use crate::{DeviceError, DeviceOp, Error, FormatOptions, Formatting, MountOptions, Mounting, NoInterrupts, Store};
use std::vec;

/// How far from its beginning a disk is looked at, to see whether it is blank. Miri takes a minute for a megabyte.
const LOOKED_AT: usize = if cfg!(miri) { 3 << 15 } else { 1 << 20 };

/// A format that looks whether the disk is blank.
fn careful() -> FormatOptions {
    FormatOptions { force: false, ..options(2) }
}

/// Steps until there is a store, each of which asks the device for no more than a commit does at once.
#[test]
fn a_format_goes_by_bounded_steps_and_ends_like_the_blocking_one() {
    let memories = [memory(), memory()];
    let disks = [0, 1].map(|_| Disk::new(vec![0; 2 * LOOKED_AT]));
    let mut formatting = Formatting::new(memories[0].take().unwrap(), &disks[0], &NoInterrupts, careful());
    assert_eq!((disks[0].take_reads(), disks[0].take_log()), (vec![], vec![]), "nothing before the first step");
    let (mut steps, mut reads, mut writes) = (0, 0, 0);
    let store = loop {
        let store = formatting.step().unwrap();
        let (read, written) = (disks[0].take_reads().len(), disks[0].take_log().len());
        assert!(read <= 1 && written <= 4, "{read} {written}");
        (steps, reads, writes) = (steps + 1, reads + read, writes + written);
        if let Some(store) = store {
            break store;
        }
    };
    assert!(formatting.step().is_err(), "there is one store");
    // A look at 1 MiB and 64 KiB, and at each place of a superblock.
    assert!(reads > LOOKED_AT / (8 << 10) && steps > 2 * reads && writes > 10, "{steps} {reads} {writes}");
    assert_eq!(store.generation(), 1);
    store.unmount().unwrap();
    let other = Store::format(memories[1].take().unwrap(), &disks[1], &NoInterrupts, careful()).unwrap();
    other.unmount().unwrap();
    assert_eq!(disks[0].bytes(), disks[1].bytes());
}

#[test]
fn a_format_that_fails_gives_the_memory_back_only_if_nothing_was_written() {
    let memories = [memory(), memory(), memory()];
    let disk = Disk::new(vec![0; LOOKED_AT]);
    let spot = LOOKED_AT - 7 * BLOCK + 5;
    disk.edit(|bytes| bytes[spot] = 1);
    let failed = Store::format(memories[0].take().unwrap(), &disk, &NoInterrupts, careful()).unwrap_err();
    assert_eq!(failed.error, Error::NotBlank { addr: spot as u64 });
    disk.fail(Some(DeviceError::Io));
    let failed = Store::format(failed.memory.unwrap(), &disk, &NoInterrupts, careful()).unwrap_err();
    assert_eq!(failed.error, Error::Device { op: DeviceOp::Read, addr: 0, cause: DeviceError::Io });
    let mut formatting =
        Formatting::new(failed.memory.unwrap(), &disk, &NoInterrupts, FormatOptions { force: true, ..options(2) });
    disk.fail(None);
    disk.edit(|bytes| bytes[..8].copy_from_slice(&crate::format::SUPERBLOCK_MAGIC));
    while disk.take_log().is_empty() {
        assert!(formatting.step().unwrap().is_none());
    }
    // The write is on the disk; its completion is not yet here.
    disk.fail(Some(DeviceError::Io));
    let failed = loop {
        match formatting.step() {
            Ok(store) => assert!(store.is_none()),
            Err(failed) => break failed,
        }
    };
    assert!(matches!(failed.error, Error::Device { .. }) && failed.memory.is_none());
    assert!(formatting.step().is_err());
}

/// A volume is not found any more at any block size once another was made over it, not even when that is lost.
#[test]
fn no_superblock_of_an_old_volume_survives_a_format() {
    let old_size = crate::format::BlockSize::MAX;
    type Large =
        crate::Memory<{ crate::memory::pages_for(24, 1 << 16) }, 24, { crate::memory::map_words(1024, 4) }, 4, 16>;
    let (large, memories) = (std::boxed::Box::new(Large::new()), [memory(), memory()]);
    let len = 2 << 20;
    let disk = Disk::new(vec![0; len]);
    let old = FormatOptions { block_size: old_size, arenas: 1, force: cfg!(miri) };
    Store::format(large.take().unwrap(), &disk, &NoInterrupts, old).unwrap().unmount().unwrap();
    assert!(crate::format::Superblock::decode(&disk.bytes()[len - (1 << 16)..]).is_ok());
    let forced = FormatOptions { force: true, ..options(1) };
    Store::format(memories[0].take().unwrap(), &disk, &NoInterrupts, forced).unwrap().unmount().unwrap();
    disk.edit(|bytes| {
        bytes[..BLOCK].fill(0);
        bytes[len - BLOCK..].fill(0);
    });
    let failed = Store::mount(memories[1].take().unwrap(), &disk, &NoInterrupts, crate::MountOptions::default());
    assert!(matches!(failed.unwrap_err().error, Error::NotAVolume { .. }));
}

/// A format that is cut off while it erases may leave an old volume, but then a whole one: places of superblocks of
/// other block sizes hold its data.
#[test]
fn nothing_but_superblocks_is_erased_before_there_is_no_volume() {
    let memories = [memory(), memory()];
    let disk = Disk::new(vec![0; 1 << 20]);
    let store = Store::format(memories[0].take().unwrap(), &disk, &NoInterrupts, options(1)).unwrap();
    store.unmount().unwrap();
    let last = (1 << 20) - BLOCK;
    disk.edit(|bytes| bytes[last - (64 << 10)..last].fill(0xda));
    let old = disk.bytes();
    disk.take_log();
    let forced = FormatOptions { force: true, ..options(2) };
    let mut formatting = Formatting::new(memories[1].take().unwrap(), &disk, &NoInterrupts, forced);
    while !disk.take_log().contains(&None) {
        assert!(formatting.step().unwrap().is_none());
    }
    let mut erased = disk.bytes();
    for at in [0, last] {
        assert_eq!(erased[at..at + 512], [0; 512]);
        erased[at..at + 512].copy_from_slice(&old[at..at + 512]);
    }
    assert!(erased == old);
}

/// The device is full of what a store has asked for that was abandoned: who comes next makes room.
#[test]
fn a_device_full_of_an_abandoned_stores_requests_is_mounted_and_formatted() {
    let memories: std::vec::Vec<_> = (0..3).map(|_| memory()).collect();
    let disk = Disk::new(vec![0; 1 << 20]);
    let fill = |store: Store<'_, '_>| {
        let mut rooted = None;
        for i in 0..8 {
            rooted = Some(super::store::write(&store, i).unwrap());
            // Apart from the next, so that each is a request.
            drop(store.allocate(crate::Allocate::data()).unwrap());
        }
        store.step();
        assert!(rooted.is_some() && store.counters().in_flight == 4);
        assert!(store.unmount_within(0).is_err());
    };
    fill(Store::format(memories[0].take().unwrap(), &disk, &NoInterrupts, options(2)).unwrap());
    let forced = FormatOptions { force: true, ..options(2) };
    fill(Store::format(memories[1].take().unwrap(), &disk, &NoInterrupts, forced).unwrap());
    Store::mount(memories[2].take().unwrap(), &disk, &NoInterrupts, crate::MountOptions::default()).unwrap();
}

/// However far it was: what was read up to there, or is not known to be durable, is no volume.
#[test]
fn a_mount_that_failed_gives_no_store_when_it_is_stepped_again() {
    let first = memory();
    let disk = Disk::new(vec![0; LOOKED_AT]);
    Store::format(first.take().unwrap(), &disk, &NoInterrupts, options(2)).unwrap().unmount().unwrap();
    let image = disk.bytes();
    for good_steps in 0.. {
        let memory = memory();
        let disk = Disk::new(image.clone());
        let mut mounting = Mounting::new(memory.take().unwrap(), &disk, &NoInterrupts, MountOptions::default());
        if (0..good_steps).any(|_| mounting.step().unwrap().is_some()) {
            assert!(good_steps > 8, "{good_steps}");
            return;
        }
        disk.fail(Some(DeviceError::Io));
        let mounted = loop {
            match mounting.step() {
                Ok(None) => {}
                Ok(Some(_)) => break true,
                Err(_) => break false,
            }
        };
        disk.fail(None);
        for _ in 0..3 {
            assert!(mounting.step().is_err(), "after {good_steps} good steps");
        }
        // One header copy, or the second superblock, is missed by nobody.
        assert!(!mounted || good_steps > 2, "{good_steps}");
    }
}
