//! What the store does not take, and that refusing it costs nothing.
#![cfg(not(any(loom, feature = "shuttle")))]

mod sim;

use arenite_core::format::{encode_superblock, ArenaRef, BlockSize, LogEntry, SuperHead, Superblock, NONE};
use arenite_core::{
    Allocate, BlockPtr, Class, CopyState, Damage, Error, FormatOptions, MountOptions, NoInterrupts, Store,
};
use sim::image::{rewrite_logs, Writer};
use sim::{check, commit_root, format, hinted, memory, mount, options, put, put_as, try_commit, Disk, Media, BLOCK};

fn bad_address(result: Result<impl Sized, Error>) -> bool {
    matches!(result, Err(Error::BadAddress { .. }))
}

/// Its block may be anywhere here: in no arena, or in one, free or not.
#[test]
fn a_filling_of_another_store_is_not_enqueued() {
    for (other_arenas, hint) in [(2, 0), (4, 3)] {
        let memories = [memory(), memory()];
        let (disk, other_disk) = (Disk::in_order(Media::blank(1 << 20)), Disk::in_order(Media::blank(1 << 20)));
        let store = format(&memories[0], &disk, 2);
        let other = format(&memories[1], &other_disk, other_arenas);
        let before = other.space();
        let foreign = other.allocate(Allocate::data().hint(hint)).unwrap();
        let own = store.allocate(Allocate::data()).unwrap();
        assert!(bad_address(store.enqueue(foreign)));
        assert_eq!(other.space(), before, "the address went back to where it came from");
        let own = store.enqueue(own).unwrap().ptr();
        assert_eq!(try_commit(&store, own), Some(Ok(2)));
        store.settle().unwrap();
        check(&store, &[(own, 0)]).unwrap();
        let theirs = put(&other, 3).unwrap();
        assert_eq!(try_commit(&other, theirs), Some(Ok(2)));
        other.settle().unwrap();
        check(&other, &[(theirs, 3)]).unwrap();
    }
}

/// Headers, superblocks, log blocks, the last two blocks of an arena, and what is free.
#[test]
fn a_block_that_is_nobodys_is_not_freed() {
    let memories = [memory(), memory()];
    let disk = Disk::in_order(Media::blank(1 << 20));
    let store = format(&memories[0], &disk, 2);
    let ptr = put(&store, 1).unwrap();
    commit_root(&store, ptr);
    let space = store.space();
    let mut refused = vec![0, (1 << 20) - BLOCK as u64, 1 << 20, NONE, ptr.addr + 512];
    for arena in [store.arena(0).unwrap(), store.arena(1).unwrap()] {
        let end = arena.addr + 2 * BLOCK as u64 + arena.size_bytes;
        refused.extend([arena.addr, arena.addr + BLOCK as u64, arena.log_addr]);
        refused.extend([end - BLOCK as u64, end - 2 * BLOCK as u64, end - 3 * BLOCK as u64]);
    }
    for addr in refused {
        let error = store.free(BlockPtr { addr, hash: 0, gen: 0 }).unwrap_err();
        assert!(matches!(error, Error::NotAllocated { .. } | Error::BadAddress { .. }), "{addr:#x}: {error}");
    }
    let filling = store.allocate(Allocate::data()).unwrap();
    let error = store.free(BlockPtr { addr: filling.addr(), hash: 0, gen: 0 }).unwrap_err();
    assert_eq!(error, Error::NotAllocated { addr: filling.addr() });
    drop(filling);
    assert_eq!(store.space(), space);
    assert_eq!(store.commit(store.roots()), Ok(2), "nothing changed");
    store.unmount().unwrap();
    let store = mount(&memories[1], &disk).unwrap();
    check(&store, &[(ptr, 1)]).unwrap();
    store.free(ptr).unwrap();
    assert_eq!(store.free(ptr), Err(Error::NotAllocated { addr: ptr.addr }));
}

/// Against the contract, which says at least 1; it counts as 1.
#[test]
fn a_queue_depth_of_zero_stops_nothing() {
    let memory = memory();
    let disk = Disk::in_order(Media::blank(1 << 20)).with_geometry(|geometry| geometry.queue_depth = 0);
    let store = format(&memory, &disk, 2);
    let ptr = put(&store, 1).unwrap();
    assert_eq!(try_commit(&store, ptr), Some(Ok(2)));
    store.settle().unwrap();
    check(&store, &[(ptr, 1)]).unwrap();
}

#[test]
fn a_device_that_cannot_transfer_one_block_is_refused() {
    let memories = [memory(), memory()];
    let disk = Disk::in_order(Media::blank(1 << 20));
    format(&memories[0], &disk, 2).unmount().unwrap();
    let disk = Disk::in_order(disk.into_media()).with_geometry(|geometry| geometry.max_transfer_len_bytes = 1024);
    let error = mount(&memories[1], &disk).map(drop).unwrap_err();
    assert_eq!(error, Error::Geometry { need_bytes: BLOCK as u64, have_bytes: 1024 });
}

/// Too short for any superblock, down to nothing.
#[test]
fn a_device_that_is_too_short_is_no_volume() {
    for len_bytes in [0, 512, 2048, 4096, 7680] {
        let memory = memory();
        let disk = Disk::in_order(Media::blank(len_bytes));
        let failed = Store::mount(memory.take().unwrap(), &disk, &NoInterrupts, MountOptions::default()).unwrap_err();
        assert!(matches!(failed.error, Error::NotAVolume { .. }), "{len_bytes}: {}", failed.error);
        let resources = failed.memory.expect("the memory was not used");
        let failed = Store::format(resources, &disk, &NoInterrupts, options(1)).unwrap_err();
        assert!(matches!(failed.error, Error::Geometry { .. }), "{len_bytes}: {}", failed.error);
        let shown: &dyn core::error::Error = &failed;
        assert_eq!(shown.to_string(), failed.error.to_string());
        assert!(failed.memory.is_some());
        assert_eq!(disk.completed(), 0, "{len_bytes}");
    }
}

#[test]
fn a_format_that_is_refused_writes_nothing() {
    let memory = memory();
    let mut bytes = vec![0; 1 << 20];
    bytes[(1 << 20) - 1] = 1;
    let disk = Disk::in_order(Media::new(bytes));
    let mut resources = memory.take().unwrap();
    let refused = [options(2), options(0), options(5), FormatOptions { arenas: 400, force: true, ..options(2) }];
    for options in refused {
        let failed = Store::format(resources, &disk, &NoInterrupts, options).unwrap_err();
        resources = failed.memory.unwrap_or_else(|| panic!("{}", failed.error));
    }
    assert_eq!(disk.take_writes(), []);
    let forced = FormatOptions { force: true, ..options(2) };
    let store = Store::format(resources, &disk, &NoInterrupts, forced).unwrap();
    check(&store, &[]).unwrap();
}

/// All hashes are right, but the log frees the block that the superblock points to.
#[test]
fn a_root_that_is_free_is_damage() {
    let memories = [memory(), memory()];
    let disk = Disk::in_order(Media::blank(1 << 20));
    let store = format(&memories[0], &disk, 2);
    let ptr = put(&store, 9).unwrap();
    commit_root(&store, ptr);
    store.unmount().unwrap();
    let mut bytes = disk.into_media().view().to_vec();
    rewrite_logs(&mut bytes, Writer::Ours, &mut |arena, entries| {
        if arena == 0 {
            entries.insert(0, LogEntry::Free { addr: ptr.addr, len_bytes: BLOCK as u64 });
        }
    });
    let disk = Disk::in_order(Media::new(bytes));
    let error = mount(&memories[1], &disk).map(drop).unwrap_err();
    assert_eq!(error, Error::Corrupt { addr: ptr.addr, damage: Damage::RootFree });
}

/// With the first superblock lost, mount looks for the second one where it would be for each block size. One of these
/// places holds what a caller wrote, who may have written anything.
#[test]
fn a_block_of_a_caller_is_not_taken_for_a_superblock() {
    let size = BlockSize::new(4096).unwrap();
    let memories = [memory(), memory()];
    let disk = Disk::in_order(Media::blank(1 << 20));
    let options = FormatOptions { block_size: size, ..options(1) };
    let store = Store::format(memories[0].take().unwrap(), &disk, &NoInterrupts, options).unwrap();
    let forged_at = (1 << 20) - 16384;
    // Up to the block where the superblock of a volume of 16 KiB would be, which is the last but two in its arena.
    let mut blocks = Vec::new();
    let mut filling = loop {
        let filling = store.allocate(hinted(0, Class::Reclaim)).unwrap();
        if filling.addr() == forged_at {
            break filling;
        }
        blocks.push(store.enqueue(filling).unwrap().ptr());
        if store.room_blocks(Class::Reclaim) == 0 {
            blocks.drain(..100).for_each(|ptr| store.free(ptr).unwrap());
            commit_root(&store, blocks[0]);
        }
    };
    let mut page = vec![0; 16384];
    let head = disk.look(|media| *Superblock::decode(&media.view()[..4096]).unwrap().head());
    let head = SuperHead { block_size: BlockSize::ORIGINAL, bufspc: BlockSize::ORIGINAL.bufspc(), qgen: 1000, ..head };
    let mut arena = |_| ArenaRef { header_addr: 16384, header_hash: 0 };
    encode_superblock(&mut page, &head, &mut arena, true).unwrap();
    filling.bytes_mut().copy_from_slice(&page[..4096]);
    let root = store.enqueue(filling).unwrap().ptr();
    commit_root(&store, root);
    let generation = store.generation();
    store.unmount().unwrap();
    disk.edit(|bytes| bytes[..4096].fill(0xee));
    let store = mount(&memories[1], &disk).unwrap();
    assert_eq!((store.generation(), store.block_size()), (generation, size));
    assert!(matches!(store.report().superblocks, [CopyState::Bad(_), CopyState::Good]));
    assert_eq!(store.read(root).unwrap()[..], page[..4096]);
    let next = put_as(&store, 1, Allocate::data().class(Class::Reclaim)).unwrap();
    commit_root(&store, next);
    assert_eq!(store.counters().commit.repairs, 1, "the first superblock is there again");
}
