//! Random changes, compared with a map in memory, over commits, remounts and losses of what was not committed.

mod common;

use arenite_catalog::{max_path_len, Catalog, Kind};
use arenite_core::{Error as StoreError, Store};
use common::{check, used, Disk, Rng};
use std::collections::BTreeMap;

type Model = BTreeMap<Vec<u8>, Vec<u8>>;

/// A path that is likely to exist already, and sometimes one of the longest.
fn path(rng: &mut Rng, max_len: usize) -> Vec<u8> {
    let number = rng.below(600);
    match rng.below(20) {
        0 => {
            let mut long = format!("/long/{:03}/", number % 40).into_bytes();
            long.resize(max_len, b'x');
            long
        }
        // Long keys in pivots too: what tells them apart is at their ends.
        1..=9 => format!("/{}/{number}", "deep-".repeat(max_len / 6)).into_bytes(),
        10..=12 => vec![(number % 256) as u8; 1 + (number / 256) as usize],
        _ => format!("/usr/lib/{}/{number}", number % 7).into_bytes(),
    }
}

/// File sizes: mostly small, sometimes with one or two levels of pointers.
fn size(rng: &mut Rng, block: usize) -> usize {
    match rng.below(100) {
        0 => block * 100,
        1..=4 => block * rng.below(6) as usize,
        5..=19 => 0,
        _ => rng.below(block as u64 + 20) as usize,
    }
}

fn compare(catalog: &Catalog<'_, '_, '_>, model: &Model) {
    let items: Vec<_> = catalog
        .iter()
        .map(|item| {
            let item = item.unwrap();
            (item.path().to_vec(), item.entry())
        })
        .collect();
    assert!(items.iter().map(|(path, _)| path).eq(model.keys()));
    assert_eq!(catalog.count(), Ok(model.len() as u64));
    for ((path, entry), content) in items.iter().zip(model.values()) {
        assert_eq!(catalog.get(path), Ok(Some(*entry)));
        let mut bytes = Vec::new();
        let mut reader = catalog.reader(entry);
        while let Some(block) = reader.next_block().unwrap() {
            bytes.extend_from_slice(&block);
        }
        assert!(bytes == *content, "content of {}", String::from_utf8_lossy(path));
    }
}

/// One random change to both.
fn change(catalog: &mut Catalog<'_, '_, '_>, model: &mut Model, rng: &mut Rng, growing: bool) {
    let block_size = catalog.store().block_size();
    let path = path(rng, max_path_len(block_size));
    if rng.below(10) < if growing { 7 } else { 3 } {
        let len = size(rng, block_size.len_bytes());
        let bytes = rng.bytes(len);
        let replaced = catalog.put_bytes(&path, Kind::File, 0o644, &bytes);
        assert_eq!(replaced, Ok(model.insert(path, bytes).is_some()));
    } else {
        assert_eq!(catalog.remove(&path), Ok(model.remove(&path).is_some()));
    }
    if rng.below(50) == 0 {
        let key = self::path(rng, 60);
        let next = catalog.next_after(&key).unwrap().map(|item| item.path().to_vec());
        let after = (std::ops::Bound::Excluded(key.clone()), std::ops::Bound::Unbounded);
        assert_eq!(next.as_ref(), model.range(after).next().map(|(path, _)| path));
        let from = catalog.iter_from(&key).next().map(|item| item.unwrap().path().to_vec());
        assert_eq!(from.as_ref(), model.range(key..).next().map(|(path, _)| path));
    }
}

/// Works until it is time to unmount; returns what was committed last.
fn session(store: &Store<'_, '_>, committed: &Model, rng: &mut Rng, ops: usize, growing: bool) -> Model {
    let mut catalog = Catalog::open(store).unwrap();
    let mut model = committed.clone();
    let mut committed = committed.clone();
    compare(&catalog, &model);
    for _ in 0..ops {
        change(&mut catalog, &mut model, rng, growing);
        if rng.below(40) == 0 {
            catalog.commit().unwrap();
            committed.clone_from(&model);
            if rng.below(4) == 0 {
                check(store);
            }
        }
    }
    if rng.below(2) == 0 {
        compare(&catalog, &model);
        catalog.commit().unwrap();
        committed = model;
    }
    committed
}

fn run(seed: u64, block_len_bytes: u32, sessions: usize, ops: usize) {
    let mut rng = Rng::new(seed);
    let mut disk = Disk::new(block_len_bytes, 8 << 10, 3);
    disk.roomy = seed.is_multiple_of(2);
    let mut model = Model::new();
    let empty = disk.format(used);
    assert_eq!(empty, 0);
    for number in 0..sessions {
        model = disk.mount(|store| {
            if number > 0 {
                check(store);
            }
            session(store, &model, &mut rng, ops, number < sessions / 2)
        });
    }
    disk.mount(|store| {
        let mut catalog = Catalog::open(store).unwrap();
        compare(&catalog, &model);
        for path in model.keys() {
            assert_eq!(catalog.remove(path), Ok(true));
        }
        assert!(catalog.is_empty());
        assert_eq!(catalog.height(), 0);
        catalog.commit().unwrap();
        assert_eq!(check(store), 0);
    });
    disk.mount(|store| assert_eq!(used(store), 0));
}

#[test]
fn ten_thousand_changes_in_small_blocks() {
    run(1, 2048, 20, 500);
}

#[test]
fn ten_thousand_changes_in_blocks_of_the_original() {
    run(2, 16384, 10, 1000);
}

#[test]
fn other_seeds_and_sizes() {
    for seed in 10..14 {
        run(seed, 2048, 6, 300);
    }
    run(20, 4096, 6, 300);
    run(21, 65536, 3, 300);
}

#[test]
fn paths_have_limits() {
    let disk = Disk::new(2048, 256, 1);
    disk.format(|store| {
        let mut catalog = Catalog::open(store).unwrap();
        let longest = max_path_len(store.block_size());
        assert_eq!(longest, 222);
        for len_bytes in [0, longest + 1, 5000] {
            let path = vec![b'p'; len_bytes];
            let error = arenite_catalog::Error::PathLen { len_bytes, max_bytes: longest };
            assert_eq!(catalog.put_bytes(&path, Kind::Dir, 0o755, b""), Err(error));
            assert_eq!(catalog.get(&path), Ok(None));
            assert_eq!(catalog.remove(&path), Ok(false));
        }
        assert_eq!(catalog.put_bytes(&vec![b'p'; longest], Kind::Dir, 0o755, b""), Ok(false));
        assert!(catalog.get(&vec![b'p'; longest]).unwrap().is_some());
        assert_eq!(store.space().reserved_blocks, 0);
    });
}

#[test]
fn a_foreign_root_is_refused() {
    use arenite_core::format::BlockType;
    use arenite_core::format::LeafBuilder;
    use arenite_core::Allocate;
    let disk = Disk::new(2048, 256, 1);
    disk.format(|store| {
        let mut filling = store.allocate(Allocate::new(BlockType::Leaf)).unwrap();
        let mut leaf = LeafBuilder::new(filling.bytes_mut(), store.block_size()).unwrap();
        leaf.push(b"snapshot", b"not an entry").unwrap();
        leaf.finish().unwrap();
        let ptr = store.enqueue(filling).unwrap().ptr();
        store.commit(store.roots().with_root(Some(ptr), 1)).unwrap();
        let error = Catalog::open(store).unwrap_err();
        assert!(matches!(error, arenite_catalog::Error::NotCatalog { addr, .. } if addr == ptr.addr), "{error}");
        for height in [0, 11, u32::MAX] {
            store.commit(store.roots().with_root(Some(ptr), height)).unwrap();
            let error = Catalog::open(store).unwrap_err();
            assert!(matches!(error, arenite_catalog::Error::NotCatalog { addr: 0, .. }), "{error}");
        }
        assert_ne!(store.failure(), Some(StoreError::ReadOnly));
    });
}

/// Files come and go in order, so that whole nodes are filled and emptied at one end of the tree.
#[test]
fn in_order_and_back() {
    let disk = Disk::new(2048, 4000, 1);
    disk.format(|store| {
        let mut catalog = Catalog::open(store).unwrap();
        let name = |number: u64| format!("{}{number:06}", "-".repeat(150)).into_bytes();
        let count = 400;
        for round in 0..8u64 {
            let order = |number| if round & 1 == 0 { number } else { count - 1 - number };
            for number in 0..count {
                catalog.put_bytes(&name(order(number)), Kind::File, 0, b"").unwrap();
            }
            catalog.commit().unwrap();
            check(store);
            let highest = catalog.height();
            assert!(highest >= 4);
            let order = |number| if round & 2 == 0 { number } else { count - 1 - number };
            for number in 0..count {
                assert_eq!(catalog.remove(&name(order(number))), Ok(true));
                catalog.commit().unwrap();
                check(store);
                assert_eq!(catalog.get(&name(order(number))), Ok(None));
                if round >= 4 && number % 5 == 0 {
                    // A path below all others, and one above.
                    for path in [&b"!"[..], b"zzz"] {
                        catalog.put_bytes(path, Kind::File, 0, b"").unwrap();
                        catalog.remove(path).unwrap();
                    }
                }
            }
            assert_eq!((catalog.height(), used(store)), (0, 0));
        }
    });
}
