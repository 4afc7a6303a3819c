//! Volumes of every shape, from format to remount: block sizes, little memory, several at once, many mounts.
#![cfg(not(any(loom, feature = "shuttle")))]

mod sim;

use arenite_core::format::BlockSize;
use arenite_core::memory::{map_words, pages_for};
use arenite_core::{Allocate, Class, Error, FormatOptions, Memory, MountOptions, NoInterrupts, Roots, Store};
use sim::{
    check, commit_root, format, free_every_second, hinted, memory, mount, put, put_as, Contents, Disk, Media, Rng,
};

type Wide = Memory<{ pages_for(12, 65536) }, 24, { map_words(8192, 4) }, 4, 16>;

#[test]
fn every_block_size_is_formatted_written_committed_and_mounted() {
    for shift in 11..=16 {
        let size = BlockSize::new(1 << shift).unwrap();
        // Once a device of whole blocks, once one with an odd end.
        for len_bytes in [8 << 20, (9 << 20) + 3 * 512] {
            let memories: [Box<Wide>; 2] = [Box::new(Memory::new()), Box::new(Memory::new())];
            let disk = Disk::in_order(Media::blank(len_bytes));
            let options = FormatOptions { block_size: size, arenas: 3, force: false };
            let store = Store::format(memories[0].take().unwrap(), &disk, &NoInterrupts, options).unwrap();
            let mut contents: Contents = (0..60).map(|fill| (put(&store, fill).unwrap(), fill)).collect();
            commit_root(&store, contents[0].0);
            contents = free_every_second(&store, contents);
            commit_root(&store, contents[0].0);
            check(&store, &contents).unwrap();
            let (roots, space) = (store.roots(), store.space());
            store.unmount().unwrap();
            let memory = memories[1].take().unwrap();
            let store = Store::mount(memory, &disk, &NoInterrupts, MountOptions::default()).unwrap();
            assert_eq!((store.block_size(), store.roots(), store.space()), (size, roots, space));
            check(&store, &contents).unwrap();
        }
    }
}

/// For 64 MiB in blocks of 4 KiB.
type Little = Memory<{ pages_for(24, 4096) }, 24, { map_words(16384, 4) }, 4, 16>;
const _: () = assert!(Little::SIZE_BYTES <= 160 << 10);

#[test]
fn little_memory_serves_a_volume_of_64_mib_up_to_its_last_block() {
    let memories: [Box<Little>; 2] = [Box::new(Memory::new()), Box::new(Memory::new())];
    let size = BlockSize::new(4096).unwrap();
    let disk = Disk::in_order(Media::blank(64 << 20));
    let options = FormatOptions { block_size: size, arenas: 4, force: false };
    let store = Store::format(memories[0].take().unwrap(), &disk, &NoInterrupts, options).unwrap();
    let empty = store.space();
    let fill_up = |store: &Store<'_, '_>| {
        let mut contents = Contents::new();
        loop {
            match put(store, contents.len() as u8) {
                Ok(ptr) => contents.push((ptr, contents.len() as u8)),
                Err(Error::Full { room_blocks: 0, .. }) => return contents,
                Err(error) => panic!("{error}"),
            }
        }
    };
    let contents = fill_up(&store);
    assert!(contents.len() > 15_900, "{} of 16384 blocks", contents.len());
    assert_eq!(store.room_blocks(Class::Normal), 0);
    commit_root(&store, contents[0].0);
    check(&store, &contents).unwrap();
    let count = contents.len();
    let kept = free_every_second(&store, contents);
    commit_root(&store, kept[0].0);
    check(&store, &kept).unwrap();
    kept.iter().for_each(|(ptr, _)| store.free(*ptr).unwrap());
    store.commit(store.roots().with_root(None, 0)).unwrap();
    store.settle().unwrap();
    assert_eq!(store.space(), empty);
    store.unmount().unwrap();
    let store = Store::mount(memories[1].take().unwrap(), &disk, &NoInterrupts, MountOptions::default()).unwrap();
    assert_eq!(store.space(), empty);
    let again = fill_up(&store);
    assert_eq!(again.len(), count);
    commit_root(&store, again[0].0);
    check(&store, &again).unwrap();
}

#[test]
fn two_stores_work_side_by_side() {
    let memories = [memory(), memory(), memory(), memory()];
    let disks = [Disk::new(Media::blank(1 << 20), 1), Disk::new(Media::blank(512 << 10), 2)];
    let stores = [format(&memories[0], &disks[0], 3), format(&memories[1], &disks[1], 2)];
    let mut rng = Rng(3);
    let mut contents = [Contents::new(), Contents::new()];
    for round in 0..60 {
        for _ in 0..30 {
            let which = rng.below(2) as usize;
            let (store, held) = (&stores[which], &mut contents[which]);
            match rng.below(4) {
                0 | 1 if held.len() < 120 => {
                    let fill = rng.next() as u8;
                    held.push((put(store, fill).unwrap(), fill));
                }
                2 if held.len() > 40 => store.free(rng.take(held).unwrap().0).unwrap(),
                _ => {
                    store.step();
                }
            }
        }
        let roots = |which: usize| {
            let root = contents[which].first().map(|entry| entry.0);
            Roots { next_qid: round + 1, ..stores[which].roots() }.with_root(root, 1)
        };
        let tickets = [0, 1].map(|which| stores[which].commit_start(roots(which)).unwrap());
        for (which, ticket) in [1, 0].into_iter().zip([tickets[1], tickets[0]]) {
            while stores[which].commit_poll(&ticket).is_none() {
                for store in &stores {
                    store.step();
                }
            }
            assert_eq!(stores[which].commit_poll(&ticket), Some(Ok(round + 2)));
        }
        for (store, contents) in stores.iter().zip(&contents) {
            store.settle().unwrap();
            check(store, contents).unwrap();
        }
    }
    for store in stores {
        store.unmount().unwrap();
    }
    for which in 0..2 {
        check(&mount(&memories[2 + which], &disks[which]).unwrap(), &contents[which]).unwrap();
    }
}

#[test]
fn ten_thousand_mounts_lose_no_block() {
    let mut rng = Rng(7);
    let mut contents = Contents::new();
    let mut media = Media::blank(256 << 10);
    for cycle in 0..10_000_u64 {
        let memory = memory();
        let disk = Disk::in_order(media);
        let store = if cycle == 0 { format(&memory, &disk, 2) } else { mount(&memory, &disk).unwrap() };
        check(&store, &contents).unwrap_or_else(|why| panic!("cycle {cycle}: {why}"));
        assert_eq!(store.generation(), cycle + 1);
        assert_eq!((store.space().reserved_blocks, store.space().pending_blocks), (0, 0));
        for _ in 0..rng.below(8) {
            let fill = rng.next() as u8;
            match put_as(&store, fill, hinted(cycle as u32, Class::Normal)) {
                Ok(ptr) => contents.push((ptr, fill)),
                Err(Error::Full { .. }) => {
                    contents.drain(..20).for_each(|(ptr, _)| store.free(ptr).unwrap());
                    break;
                }
                Err(error) => panic!("{error}"),
            }
        }
        for _ in 0..rng.below(7) {
            if let Some((ptr, _)) = rng.take(&mut contents) {
                store.free(ptr).unwrap();
            }
        }
        let root = contents.first().map(|entry| entry.0);
        store.commit(Roots { next_qid: cycle + 1, ..store.roots() }.with_root(root, 1)).unwrap();
        // Never committed, and so free again after the mount.
        put_as(&store, 0, Allocate::data().class(Class::Reclaim)).unwrap();
        store.unmount().unwrap();
        media = disk.into_media();
    }
}
