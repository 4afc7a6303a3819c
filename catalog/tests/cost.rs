//! What changes cost in blocks, and how well nodes are filled.

mod common;

use arenite_catalog::{visit_blocks, BlockUse, Catalog, Depth, Kind};
use arenite_core::Store;
use common::{check, Disk, Rng};
use std::ops::ControlFlow;

const FILES: u64 = 10_000;

fn name(number: u64) -> Vec<u8> {
    format!("/usr/share/{:02}/file-{number:06}", number % 100).into_bytes()
}

/// Blocks that a change writes, its commit's own not counted.
fn written(
    store: &Store<'_, '_>,
    catalog: &mut Catalog<'_, '_, '_>,
    change: impl FnOnce(&mut Catalog<'_, '_, '_>),
) -> u64 {
    store.settle().unwrap();
    let before = store.counters().queued_block_writes;
    change(catalog);
    catalog.commit().unwrap();
    store.settle().unwrap();
    u64::from(store.counters().queued_block_writes - before)
}

/// Leaves and pivots of the committed tree.
fn nodes(store: &Store<'_, '_>) -> (u64, u64) {
    let (mut leaves, mut pivots) = (0, 0);
    visit_blocks(store, &store.roots(), Depth::Structure, &mut |block| {
        leaves += u64::from(block.block_use == BlockUse::Leaf);
        pivots += u64::from(block.block_use == BlockUse::Pivot);
        ControlFlow::Continue(())
    })
    .unwrap();
    (leaves, pivots)
}

/// Changes in a catalogue of ten thousand files.
fn costs(block_len_bytes: u32, expected_height: u8) {
    let disk = Disk::new(block_len_bytes, 8 << 10, 2);
    disk.format(|store| {
        let mut catalog = Catalog::open(store).unwrap();
        let mut rng = Rng::new(7);
        for number in 0..FILES {
            // An order without any order: a bijection of the numbers.
            catalog.put_bytes(&name(number * 7919 % FILES), Kind::File, 0o644, b"").unwrap();
            if number % 1000 == 0 {
                catalog.commit().unwrap();
            }
        }
        catalog.commit().unwrap();
        check(store);
        assert_eq!(catalog.count(), Ok(FILES));
        let height = u64::from(catalog.height());
        assert_eq!(catalog.height(), expected_height);
        for _ in 0..200 {
            let path = name(rng.below(FILES));
            let blocks = written(store, &mut catalog, |catalog| {
                assert_eq!(catalog.put_bytes(&path, Kind::File, 0o600, b"changed"), Ok(true));
            });
            assert_eq!(blocks, height + 1, "the way to the root, and the data");
        }
        let (mut most, mut sum) = (0, 0);
        for number in 0..200 {
            let mut path = name(rng.below(FILES));
            path.extend_from_slice(format!("-{number}").as_bytes());
            let blocks = written(store, &mut catalog, |catalog| {
                assert_eq!(catalog.put_bytes(&path, Kind::Dir, 0o700, b""), Ok(false));
            });
            most = most.max(blocks);
            sum += blocks;
        }
        assert!(most <= 2 * height + 1, "at worst every node of the way is split, and the root");
        assert!(sum <= 200 * height + 40, "splits are rare: {sum}");
        for number in 0..200 {
            let blocks = written(store, &mut catalog, |catalog| {
                assert_eq!(catalog.remove(&name(number * 31)), Ok(true));
            });
            assert!(blocks <= height, "a removal writes no more than the way");
        }
        check(store);
    });
}

#[test]
fn one_change_among_ten_thousand_files_in_small_blocks() {
    costs(2048, 4);
}

#[test]
fn one_change_among_ten_thousand_files_in_blocks_of_the_original() {
    costs(16384, 2);
}

/// Bytes of a leaf's item for a path of `name`.
const ITEM_LEN: u64 = 6 + 25 + 48;

#[test]
fn nodes_stay_filled() {
    let disk = Disk::new(4096, 16 << 10, 2);
    disk.format(|store| {
        let per_leaf = (4096 - 6) / ITEM_LEN;
        let mut catalog = Catalog::open(store).unwrap();
        // Directory by directory, as an import goes.
        let mut names: Vec<_> = (0..FILES).map(name).collect();
        names.sort();
        for path in &names {
            assert_eq!(path.len(), 25);
            catalog.put_bytes(path, Kind::File, 0o644, b"").unwrap();
        }
        catalog.commit().unwrap();
        check(store);
        let (leaves, pivots) = nodes(store);
        let ideal = FILES.div_ceil(per_leaf);
        assert!(leaves <= ideal + 1, "in order: {leaves} leaves, {ideal} would do");
        // Nine of ten go, at random.
        let mut rng = Rng::new(3);
        let mut left = names.clone();
        while left.len() as u64 > FILES / 10 {
            let path = left.swap_remove(rng.below(left.len() as u64) as usize);
            assert_eq!(catalog.remove(&path), Ok(true));
        }
        catalog.commit().unwrap();
        check(store);
        let (leaves_now, pivots_now) = nodes(store);
        let ideal = (FILES / 10).div_ceil(per_leaf);
        assert!(leaves_now <= ideal * 5 / 2, "after removals: {leaves_now} leaves, {ideal} would do");
        assert!(pivots_now <= pivots / 2, "{pivots_now} pivots of {pivots}");
    });
}
