//! The full volume: nothing is lost, a change that does not fit changes nothing, and everything can be removed.

mod common;

use arenite_catalog::{max_path_len, Catalog, Error, Kind};
use arenite_core::{Allocate, BlockPtr, Class, Error as StoreError, Store};
use common::{check, used, Disk, Rng};

fn is_full<T: std::fmt::Debug>(result: &Result<T, Error>) -> bool {
    matches!(result, Err(Error::Store(StoreError::Full { .. })))
}

fn long_name(number: u64, len: usize) -> Vec<u8> {
    let mut name = format!("/{:06}/", number * 7919 % 1_000_003).into_bytes();
    name.resize(len, b'.');
    name
}

/// Fills the volume with small files, empties it, and compares the free blocks with those of the empty volume.
fn fill_and_empty(block_len_bytes: u32, blocks: u64, arenas: u32, path_len: usize) {
    let disk = Disk::new(block_len_bytes, blocks, arenas);
    let empty = disk.format(|store| {
        let mut catalog = Catalog::open(store).unwrap();
        let mut count = 0;
        loop {
            let path = long_name(count, path_len);
            let result = catalog.put_bytes(&path, Kind::File, 0o644, &path);
            if is_full(&result) {
                // Maybe only because what was replaced comes back with a commit.
                catalog.commit().unwrap();
                store.settle().unwrap();
                if is_full(&catalog.put_bytes(&path, Kind::File, 0o644, &path)) {
                    break;
                }
            } else {
                assert_eq!(result, Ok(false));
            }
            count += 1;
        }
        catalog.commit().unwrap();
        assert!(count > blocks / 4, "{count} files");
        assert_eq!(catalog.count(), Ok(count));
        check(store)
    });
    assert!(empty > 0);
    disk.mount(|store| {
        let mut catalog = Catalog::open(store).unwrap();
        check(store);
        let mut rng = Rng::new(9);
        let mut paths: Vec<_> = catalog.iter().map(|item| item.unwrap().path().to_vec()).collect();
        let mut commits = 0;
        while !paths.is_empty() {
            let path = paths.swap_remove(rng.below(paths.len() as u64) as usize);
            let mut result = catalog.remove(&path);
            if is_full(&result) {
                commits += 1;
                catalog.commit().unwrap();
                store.settle().unwrap();
                result = catalog.remove(&path);
            }
            assert_eq!(result, Ok(true), "{} left, {commits} commits", paths.len());
        }
        assert!(catalog.is_empty());
        catalog.commit().unwrap();
        assert_eq!(check(store), 0);
    });
    disk.mount(|store| {
        assert_eq!(used(store), 0);
        let fresh = Disk::new(block_len_bytes, blocks, arenas);
        let free = |store: &Store<'_, '_>| (store.space().free_blocks, store.space().log_blocks);
        assert_eq!(free(store), fresh.format(|store| free(store)));
    });
}

#[test]
fn fill_and_empty_small_blocks() {
    fill_and_empty(2048, 600, 1, 30);
    fill_and_empty(2048, 3000, 3, 40);
}

#[test]
fn fill_and_empty_with_the_longest_paths() {
    fill_and_empty(2048, 4000, 2, 222);
    fill_and_empty(4096, 2000, 2, 478);
}

#[test]
fn fill_and_empty_blocks_of_the_original() {
    fill_and_empty(16384, 500, 2, 60);
}

/// Takes blocks until exactly `room` are left to allocations of this class.
fn leave(store: &Store<'_, '_>, class: Class, room: u64) -> Vec<BlockPtr> {
    let mut taken = Vec::new();
    while store.room_blocks(class) > room {
        let filling = store.allocate(Allocate::data().class(class)).unwrap();
        taken.push(store.enqueue(filling).unwrap().ptr());
    }
    taken
}

fn give_back(store: &Store<'_, '_>, taken: Vec<BlockPtr>) {
    for ptr in taken {
        store.free(ptr).unwrap();
    }
    store.settle().unwrap();
}

/// Whatever the number of blocks that a change gets before there is no more, it happens whole or not at all.
#[test]
fn a_change_that_finds_no_room_changes_nothing() {
    let disk = Disk::new(2048, 2000, 1);
    let (count, longest) = disk.format(|store| {
        let mut catalog = Catalog::open(store).unwrap();
        let longest = max_path_len(store.block_size());
        let mut count = 0;
        while catalog.height() < 4 {
            let content: &[u8] = if count % 11 == 0 { b"old" } else { b"" };
            catalog.put_bytes(&long_name(count, longest), Kind::File, 0, content).unwrap();
            count += 1;
        }
        catalog.commit().unwrap();
        (count, longest)
    });
    let snapshot = disk.inner.snapshot();
    let mut failures = [0; 3];
    for room in 0..=10 {
        for seed in 0..3 {
            for (change, failures) in failures.iter_mut().enumerate() {
                let class = if change == 2 { Class::Reclaim } else { Class::Normal };
                let path = long_name(if change == 0 { count + seed } else { seed * 11 }, longest);
                disk.over(&snapshot).mount(|store| {
                    *failures += u32::from(try_with_room(store, class, room, change, &path));
                });
            }
        }
    }
    // Height 4: a new path takes four nodes and a block of data, a removal up to four nodes.
    assert!(failures[0] >= 15 && failures[1] >= 15 && failures[2] >= 9, "{failures:?}");
}

/// Makes a change with room for so many blocks only; returns whether it failed. If so, it must succeed with more.
fn try_with_room(store: &Store<'_, '_>, class: Class, room: u64, change: usize, path: &[u8]) -> bool {
    let mut catalog = Catalog::open(store).unwrap();
    let before = (catalog.root(), catalog.height());
    let make = |catalog: &mut Catalog<'_, '_, '_>| match change {
        2 => catalog.remove(path),
        _ => catalog.put_bytes(path, Kind::File, 0, &[7; 5000]),
    };
    let junk = leave(store, class, room);
    store.settle().unwrap();
    let avail = store.space().avail_blocks;
    let result = make(&mut catalog);
    store.settle().unwrap();
    let failed = is_full(&result);
    // Three blocks of data and one of pointers; then the way, with no or one split.
    let enough = if change == 2 { 4 } else { 4 + 5 };
    assert!(!failed || room < enough, "room for {room} blocks");
    if failed {
        assert_eq!((catalog.root(), catalog.height()), before);
        assert_eq!((store.space().avail_blocks, store.space().reserved_blocks), (avail, 0));
    } else {
        assert_eq!(result, Ok(change > 0));
    }
    give_back(store, junk);
    if failed {
        assert_eq!(make(&mut catalog), Ok(change > 0));
    }
    catalog.commit().unwrap();
    check(store);
    assert_eq!(catalog.get(path).unwrap().is_some(), change < 2);
    failed
}

/// Callers hold every buffer that they can get, and the volume is full: what can be done is to remove and commit.
#[test]
fn removing_with_no_room_and_no_buffers() {
    let disk = Disk::new(2048, 1500, 1);
    let mut count = 0;
    disk.format(|store| {
        let mut catalog = Catalog::open(store).unwrap();
        loop {
            let size = if count % 10 == 0 { 2048 * 90 } else { 1 };
            let result = catalog.put_bytes(&long_name(count, 200), Kind::File, 0, &vec![1; size]);
            if is_full(&result) {
                break;
            }
            assert_eq!(result, Ok(false));
            count += 1;
        }
        catalog.commit().unwrap();
        check(store);
        assert!(count > 100 && catalog.height() >= 2, "{count} files");
    });
    disk.mount(|store| {
        let mut catalog = Catalog::open(store).unwrap();
        let _ = leave(store, Class::Normal, 0);
        let mut held = Vec::new();
        let mut walk = catalog.iter();
        let hold = loop {
            match walk.next() {
                Some(Ok(item)) => held.push(item),
                Some(Err(Error::Store(StoreError::NoBuffer))) => break true,
                other => panic!("{other:?}"),
            }
        };
        assert!(hold);
        for number in 0..count {
            let path = long_name(number, 200);
            let mut result = catalog.remove(&path);
            if is_full(&result) {
                catalog.commit().unwrap();
                store.settle().unwrap();
                result = catalog.remove(&path);
            }
            assert_eq!(result, Ok(true), "{number} of {count}");
        }
        drop(held);
        assert!(catalog.is_empty());
    });
}
