//! Trees that nobody who means well would write, with right hashes all the way: no panic, no endless walk.

mod common;

use arenite_catalog::{visit_blocks, BlockUse, Catalog, Depth, Error, Kind};
use arenite_core::format::{BlockType, LeafBuilder, Message, PivotBuilder, RawPtr};
use arenite_core::{Allocate, BlockPtr, Store};
use common::{Disk, Rng};
use std::ops::ControlFlow;

const B: usize = 2048;

/// Ascending keys, mostly of few letters, so that nodes overlap.
fn keys(rng: &mut Rng, least_len: u64) -> Vec<Vec<u8>> {
    let count = 1 + rng.below(8) as usize;
    let mut keys: Vec<Vec<u8>> = (0..count)
        .map(|_| {
            let len = rng.below(4).max(least_len) as usize;
            (0..len).map(|_| b'a' + rng.below(5) as u8).collect()
        })
        .collect();
    keys.sort();
    keys.dedup();
    keys
}

/// An entry as it is on disk, with a good deal of nonsense.
fn entry(rng: &mut Rng, made: &[BlockPtr]) -> Vec<u8> {
    let mut value = vec![0; 48];
    value[0] = 1;
    value[1] = 1 + rng.below(3) as u8;
    if rng.below(4) > 0 {
        value[24..].fill(0xff);
        return value;
    }
    let height = rng.below(8) as u8;
    value[2] = height;
    let blocks: u64 = match rng.below(4) {
        // What fits the height, or all but.
        0..=2 if height > 0 => 85u64.pow(u32::from(height).min(6) - 1) - rng.below(2),
        _ => rng.next() >> rng.below(64),
    };
    value[8..16].copy_from_slice(&blocks.saturating_mul(B as u64).to_be_bytes());
    let ptr = made.get(rng.below(made.len().max(1) as u64) as usize).copied();
    RawPtr::from(ptr.unwrap_or(BlockPtr { addr: u64::MAX, hash: 0, gen: 0 })).encode(&mut value, 24);
    if rng.below(20) == 0 {
        let at = rng.below(48) as usize;
        value[at] ^= rng.next() as u8;
    }
    value
}

fn enqueue(store: &Store<'_, '_>, block_type: BlockType, fill: impl FnOnce(&mut [u8])) -> BlockPtr {
    let mut filling = store.allocate(Allocate::new(block_type)).unwrap();
    fill(filling.bytes_mut());
    store.enqueue(filling).unwrap().ptr()
}

/// A node that points to any of those made before it.
fn node(store: &Store<'_, '_>, rng: &mut Rng, made: &[BlockPtr]) -> BlockPtr {
    let size = store.block_size();
    let any = |rng: &mut Rng| made.get(rng.below(made.len().max(1) as u64) as usize).copied();
    match rng.below(5) {
        0 => enqueue(store, BlockType::Data, |page| {
            // A block full of pointers, most of them to one place.
            for index in 0..85 {
                let ptr = any(rng).map_or(RawPtr { addr: rng.next(), hash: 0, gen: 0 }, RawPtr::from);
                ptr.encode(page, index * 24);
            }
        }),
        1 | 2 => enqueue(store, BlockType::Leaf, |page| {
            let mut leaf = LeafBuilder::new(page, size).unwrap();
            // Rarely an empty one, which is wrong.
            let least_len = rng.below(8).min(1);
            for key in keys(rng, least_len) {
                let value = entry(rng, made);
                leaf.push(&key, &value).unwrap();
            }
            leaf.finish().unwrap();
        }),
        _ => enqueue(store, BlockType::Pivot, |page| {
            let mut pivot = PivotBuilder::new(page, size).unwrap();
            let nowhere = RawPtr { addr: rng.below(1000) * B as u64, hash: 1, gen: 1 };
            for key in keys(rng, 0) {
                pivot.push(&key, any(rng).map_or(nowhere, RawPtr::from), rng.next() as u16).unwrap();
            }
            pivot.finish().unwrap();
        }),
    }
}

/// All that can be done with a catalogue. Results do not matter here; that they come does.
fn use_it(store: &Store<'_, '_>, rng: &mut Rng) -> [u64; 3] {
    let (mut blocks, mut bad, mut items) = (0, 0, 0);
    let _ = visit_blocks(store, &store.roots(), Depth::Everything, &mut |block| {
        blocks += 1;
        bad += u64::from(block.outcome.is_err());
        ControlFlow::Continue(())
    });
    let Ok(mut catalog) = Catalog::open(store) else { return [blocks, bad, 0] };
    let mut last = None;
    for item in catalog.iter() {
        let Ok(item) = item else { break };
        let path = item.path().to_vec();
        assert!(last.is_none_or(|last| last < path), "a walk goes forward only");
        let mut buffer = [0; 5000];
        let _ = catalog.reader(&item.entry()).read_at(rng.next() >> rng.below(64), &mut buffer);
        last = Some(path);
        items += 1;
    }
    let _ = catalog.count();
    for _ in 0..6 {
        for key in keys(rng, 0) {
            let _ = catalog.get(&key);
            let _ = catalog.next_after(&key);
            let _ = match rng.below(3) {
                0 => catalog.put_bytes(&key, Kind::File, 0, &[1; 3000]),
                _ => catalog.remove(&key),
            };
        }
    }
    let _ = catalog.commit();
    [blocks, bad, items]
}

#[test]
fn random_trees() {
    let mut sums = [0; 3];
    for seed in 0..3000 {
        let mut rng = Rng::new(seed);
        let disk = Disk::new(2048, 400, 1);
        disk.format(|store| {
            let mut made = Vec::new();
            for _ in 0..3 + rng.below(12) {
                let ptr = node(store, &mut rng, &made);
                made.push(ptr);
            }
            let root = made[made.len() - 1 - rng.below(2) as usize];
            let height = 1 + rng.below(5) as u32;
            store.commit(store.roots().with_root(Some(root), height)).unwrap();
            let found = use_it(store, &mut rng);
            sums.iter_mut().zip(found).for_each(|(sum, found)| *sum += found);
        });
    }
    let [blocks, bad, items] = sums;
    assert!(blocks > 5000 && bad > 1000 && bad < blocks, "{sums:?}");
    assert!(items > 500, "{sums:?}");
}

/// Every pointer to a node, with the node's use.
fn nodes(store: &Store<'_, '_>) -> Vec<(BlockPtr, BlockUse)> {
    let mut nodes = Vec::new();
    visit_blocks(store, &store.roots(), Depth::Structure, &mut |block| {
        nodes.push((block.ptr, block.block_use));
        ControlFlow::Continue(())
    })
    .unwrap();
    nodes
}

fn encoded(ptr: BlockPtr) -> [u8; 24] {
    let mut bytes = [0; 24];
    RawPtr::from(ptr).encode(&mut bytes, 0).unwrap();
    bytes
}

/// Replaces one block under the root by one with other bytes, and all above it by ones with the pointers to match.
fn replace(
    store: &Store<'_, '_>,
    nodes: &[(BlockPtr, BlockUse)],
    victim: BlockPtr,
    mut page: Vec<u8>,
) -> Option<BlockPtr> {
    let mut old = victim;
    loop {
        // As data, which the store does not look into.
        let mut filling = store.allocate(Allocate::data()).ok()?;
        filling.bytes_mut().copy_from_slice(&page);
        let new = store.enqueue(filling).ok()?.ptr();
        let from = encoded(old);
        let parent = nodes.iter().filter(|(_, block_use)| *block_use != BlockUse::Data).find_map(|(ptr, _)| {
            let block = store.read(*ptr).ok()?;
            let at = block.bytes().windows(24).position(|window| window[..16] == from[..16])?;
            Some((*ptr, block.bytes().to_vec(), at))
        });
        let Some((parent, bytes, at)) = parent else { return Some(new) };
        page = bytes;
        page[at..at + 24].copy_from_slice(&encoded(new));
        old = parent;
    }
}

/// Bytes of a block after something was done to them.
fn spoil(rng: &mut Rng, mut page: Vec<u8>, others: &[(BlockPtr, BlockUse)], store: &Store<'_, '_>) -> Vec<u8> {
    let other = others[rng.below(others.len() as u64) as usize].0;
    match rng.below(4) {
        0 => {
            // Another block of the same volume in its place.
            let kind: [u8; 2] = [page[0], page[1]];
            if let Ok(block) = store.read(other) {
                page = block.bytes().to_vec();
            }
            page[..2].copy_from_slice(&kind);
        }
        1 => {
            // One of the pointers in it leads elsewhere.
            let pointers: Vec<_> = others.iter().map(|(ptr, _)| encoded(*ptr)).collect();
            let places: Vec<_> =
                (0..page.len() - 24).filter(|at| pointers.iter().any(|ptr| ptr[..16] == page[*at..at + 16])).collect();
            if let Some(at) = places.get(rng.below(places.len().max(1) as u64) as usize) {
                page[*at..at + 24].copy_from_slice(&encoded(other));
            }
        }
        _ => {
            for _ in 0..1 + rng.below(3) {
                let at = match rng.below(3) {
                    0 => 2 + rng.below(100) as usize,
                    _ => 2 + rng.below(B as u64 - 2) as usize,
                };
                page[at] = if rng.below(2) == 0 { rng.next() as u8 } else { page[at] ^ (1 << rng.below(8)) };
            }
        }
    }
    page
}

#[test]
fn good_trees_with_spoilt_blocks() {
    let disk = Disk::new(2048, 1200, 1);
    disk.format(|store| {
        let mut catalog = Catalog::open(store).unwrap();
        for number in 0..500u32 {
            let path = format!("{:03}/{}", number * 97 % 500, "long-name".repeat(number as usize % 12));
            let len = match number % 100 {
                0 => 2048 * 90,
                few @ 1..=20 => few as usize * 200,
                _ => 0,
            };
            catalog.put_bytes(path.as_bytes(), Kind::File, 0, &vec![number as u8; len]).unwrap();
        }
        assert_eq!(catalog.height(), 3);
        catalog.commit().unwrap();
    });
    let snapshot = disk.inner.snapshot();
    let mut sums = [0; 3];
    for seed in 0..1000 {
        let mut rng = Rng::new(seed);
        let mut copy = disk.over(&snapshot);
        copy.roomy = true;
        copy.mount(|store| {
            for _ in 0..1 + rng.below(2) {
                let nodes = nodes(store);
                let chosen: Vec<_> = nodes.iter().filter(|(_, block_use)| *block_use != BlockUse::Data).collect();
                let victim = chosen[rng.below(chosen.len() as u64) as usize].0;
                let Ok(block) = store.read(victim) else { return };
                let page = spoil(&mut rng, block.bytes().to_vec(), &nodes, store);
                drop(block);
                let root = replace(store, &nodes, victim, page);
                store.commit(store.roots().with_root(root, store.roots().height)).unwrap();
            }
            let found = use_it(store, &mut rng);
            sums.iter_mut().zip(found).for_each(|(sum, found)| *sum += found);
        });
    }
    let [blocks, bad, items] = sums;
    assert!(blocks > 200_000 && bad > 500 && items > 100_000, "{sums:?}");
}

/// A pivot whose children are all the same pivot, and so on: 20^9 leaves, if somebody counted them all.
#[test]
fn a_tree_that_is_no_tree() {
    let disk = Disk::new(2048, 400, 1);
    disk.format(|store| {
        let size = store.block_size();
        let mut ptr = enqueue(store, BlockType::Leaf, |page| {
            let mut leaf = LeafBuilder::new(page, size).unwrap();
            leaf.push(b"x", &entry(&mut Rng::new(1), &[])).unwrap();
            leaf.finish().unwrap();
        });
        for _ in 0..9 {
            ptr = enqueue(store, BlockType::Pivot, |page| {
                let mut pivot = PivotBuilder::new(page, size).unwrap();
                for key in 0..20 {
                    pivot.push(&vec![b'k'; key], ptr.into(), 500).unwrap();
                }
                pivot.finish().unwrap();
            });
        }
        store.commit(store.roots().with_root(Some(ptr), 10)).unwrap();
        let [blocks, bad, items] = use_it(store, &mut Rng::new(2));
        assert!(blocks <= 400 && bad >= 20 && items <= 1, "{blocks} {bad} {items}");
    });
}

/// A file of 85^5 blocks on six of them.
#[test]
fn a_file_larger_than_the_volume() {
    let disk = Disk::new(2048, 400, 1);
    disk.format(|store| {
        let mut ptr = enqueue(store, BlockType::Data, |_| {});
        for _ in 0..5 {
            ptr = enqueue(store, BlockType::Data, |page| {
                page.chunks_exact_mut(24).for_each(|place| place.copy_from_slice(&encoded(ptr)));
            });
        }
        let mut value = [0; 48];
        value[..3].copy_from_slice(&[1, 1, 6]);
        value[8..16].copy_from_slice(&(85u64.pow(5) * B as u64).to_be_bytes());
        value[24..].copy_from_slice(&encoded(ptr));
        let root = enqueue(store, BlockType::Leaf, |page| {
            let mut leaf = LeafBuilder::new(page, store.block_size()).unwrap();
            leaf.push(b"file", &value).unwrap();
            leaf.finish().unwrap();
        });
        store.commit(store.roots().with_root(Some(root), 1)).unwrap();
        let mut found = Vec::new();
        visit_blocks(store, &store.roots(), Depth::Everything, &mut |block| {
            found.push((block.ptr, block.outcome.is_ok()));
            ControlFlow::Continue(())
        })
        .unwrap();
        assert_eq!(found, [(BlockPtr { gen: u64::MAX, ..root }, true), (ptr, false)]);
        let mut catalog = Catalog::open(store).unwrap();
        assert!(matches!(catalog.remove(b"file"), Err(Error::Unfreed { .. })));
        assert!(catalog.is_empty());
    });
}

fn leaf(store: &Store<'_, '_>, keys: &[&str]) -> BlockPtr {
    enqueue(store, BlockType::Leaf, |page| {
        let mut leaf = LeafBuilder::new(page, store.block_size()).unwrap();
        let mut value = [0; 48];
        value[..2].copy_from_slice(&[1, 1]);
        value[24..].fill(0xff);
        keys.iter().for_each(|key| leaf.push(key.as_bytes(), &value).unwrap());
        leaf.finish().unwrap();
    })
}

fn pivot(store: &Store<'_, '_>, children: &[(&str, BlockPtr)], message: bool) -> BlockPtr {
    enqueue(store, BlockType::Pivot, |page| {
        let mut pivot = PivotBuilder::new(page, store.block_size()).unwrap();
        children.iter().for_each(|(key, ptr)| pivot.push(key.as_bytes(), (*ptr).into(), 100).unwrap());
        if message {
            pivot.push_message(Message { op: 1, key: b"k", value: b"v" }).unwrap();
        }
        pivot.finish().unwrap();
    })
}

/// Commits a tree; returns the addresses of the blocks that a walk finds wrong in a way that no hash can tell.
fn wrong(store: &Store<'_, '_>, root: BlockPtr, height: u32) -> Vec<u64> {
    store.commit(store.roots().with_root(Some(root), height)).unwrap();
    let mut found = Vec::new();
    visit_blocks(store, &store.roots(), Depth::Everything, &mut |block| {
        match block.outcome {
            Err(Error::NotCatalog { addr, .. }) => found.push(addr),
            outcome => assert_eq!(outcome, Ok(())),
        }
        ControlFlow::Continue(())
    })
    .unwrap();
    found
}

#[test]
fn a_walk_finds_keys_that_are_out_of_place() {
    let disk = Disk::new(2048, 400, 1);
    disk.format(|store| {
        let (ab, mn, xy) = (leaf(store, &["a", "b"]), leaf(store, &["m", "n"]), leaf(store, &["x", "y"]));
        let good = pivot(store, &[("", ab), ("m", mn), ("x", xy)], false);
        assert_eq!(wrong(store, good, 2), []);
        // The first key says nothing.
        assert_eq!(wrong(store, pivot(store, &[("c", ab), ("m", mn)], false), 2), []);
        let mut catalog = Catalog::open(store).unwrap();
        assert!(catalog.get(b"a").unwrap().is_some());
        assert_eq!(catalog.put_bytes(b"A", Kind::File, 0, b""), Ok(false));
        let paths: Vec<_> = catalog.iter().map(|item| item.unwrap().path().to_vec()).collect();
        assert_eq!(paths, [b"A", b"a", b"b", b"m", b"n"]);
        for number in 0..100 {
            // Splits below that key.
            assert_eq!(catalog.put_bytes(format!("a{number}").as_bytes(), Kind::File, 0, b""), Ok(false));
        }
        assert_eq!(catalog.count(), Ok(105));
        assert_eq!(wrong(store, catalog.root().unwrap(), u32::from(catalog.height())), []);
        let too_low = pivot(store, &[("", ab), ("mm", mn), ("x", xy)], false);
        assert_eq!(wrong(store, too_low, 2), [mn.addr]);
        let too_high = pivot(store, &[("", ab), ("m", mn), ("n", xy)], false);
        assert_eq!(wrong(store, too_high, 2), [mn.addr]);
        let messages = pivot(store, &[("", ab), ("m", mn)], true);
        assert_eq!(wrong(store, messages, 2), [messages.addr]);
        // One level more: the bound of the last leaf on the left comes from the root.
        let (left, right) = (pivot(store, &[("", ab), ("m", mn)], false), pivot(store, &[("x", xy)], false));
        assert_eq!(wrong(store, pivot(store, &[("", left), ("x", right)], false), 3), []);
        assert_eq!(wrong(store, pivot(store, &[("", left), ("w", right)], false), 3), []);
        assert_eq!(wrong(store, pivot(store, &[("", left), ("n", right)], false), 3), [mn.addr]);
        // And that of the first leaf on the right.
        assert_eq!(wrong(store, pivot(store, &[("", left), ("xx", right)], false), 3), [xy.addr]);
        let far_right = pivot(store, &[("", mn), ("x", xy)], false);
        assert_eq!(wrong(store, pivot(store, &[("", ab), ("n", ab)], false), 2), [ab.addr]);
        assert_eq!(wrong(store, pivot(store, &[("", left), ("o", far_right)], false), 3), [mn.addr]);
        assert_eq!(wrong(store, pivot(store, &[("", left), ("y", far_right)], false), 3), [far_right.addr]);
        // A leaf where a pivot has to be, and the other way round.
        assert_eq!(wrong_kind(store, ab, 2), 1);
        assert_eq!(wrong_kind(store, good, 1), 1);
    });
}

fn wrong_kind(store: &Store<'_, '_>, root: BlockPtr, height: u32) -> usize {
    store.commit(store.roots().with_root(Some(root), height)).unwrap();
    let mut found = 0;
    visit_blocks(store, &store.roots(), Depth::Structure, &mut |block| {
        found += usize::from(matches!(block.outcome, Err(Error::Store(_))));
        ControlFlow::Continue(())
    })
    .unwrap();
    assert!(Catalog::open(store).is_err());
    found
}

#[test]
fn a_root_with_one_long_way_down_is_lowered() {
    let disk = Disk::new(2048, 400, 1);
    disk.format(|store| {
        let (ab, m) = (leaf(store, &["a", "b"]), leaf(store, &["m"]));
        let left = pivot(store, &[("", ab)], false);
        let right = pivot(store, &[("", m)], false);
        let root = enqueue(store, BlockType::Pivot, |page| {
            let mut pivot = PivotBuilder::new(page, store.block_size()).unwrap();
            // So full that nobody merges with it, it is said.
            pivot.push(b"", left.into(), 2000).unwrap();
            pivot.push(b"m", right.into(), 2000).unwrap();
            pivot.finish().unwrap();
        });
        assert_eq!(wrong(store, root, 3), []);
        let mut catalog = Catalog::open(store).unwrap();
        assert_eq!(catalog.remove(b"m"), Ok(true));
        assert_eq!((catalog.height(), catalog.root().map(|ptr| ptr.addr)), (1, Some(ab.addr)));
        catalog.commit().unwrap();
        assert_eq!(common::check(store), 1);
    });
}

#[test]
fn entries_that_contradict_themselves_are_refused() {
    let disk = Disk::new(2048, 400, 1);
    disk.format(|store| {
        let data = enqueue(store, BlockType::Data, |_| {});
        let entry = |kind: u8, height: u8, size: u64, ptr: Option<BlockPtr>| {
            let mut value = [0; 48];
            value[..3].copy_from_slice(&[1, kind, height]);
            value[8..16].copy_from_slice(&size.to_be_bytes());
            value[24..].copy_from_slice(&ptr.map_or([0xff; 24], encoded));
            value
        };
        let odd = BlockPtr { addr: data.addr + 512, ..data };
        let mut other_version = entry(1, 1, 7, Some(data));
        other_version[0] = 2;
        let cases = [
            (true, entry(1, 0, 0, None)),
            (true, entry(3, 1, 2048, Some(data))),
            (true, entry(2, 2, 2049, Some(data))),
            (false, entry(0, 0, 0, None)),
            (false, entry(4, 0, 0, None)),
            (false, other_version),
            (false, entry(1, 1, 0, Some(data))),
            (false, entry(1, 0, 1, None)),
            (false, entry(1, 1, 2049, Some(data))),
            (false, entry(1, 2, 2048, Some(data))),
            (false, entry(1, 0, 0, Some(data))),
            (false, entry(1, 1, 5, None)),
            (false, entry(1, 1, 5, Some(odd))),
            (false, entry(1, 6, u64::MAX, Some(data))),
        ];
        for (number, (good, value)) in cases.into_iter().enumerate() {
            let root = enqueue(store, BlockType::Leaf, |page| {
                let mut leaf = LeafBuilder::new(page, store.block_size()).unwrap();
                leaf.push(b"p", &value).unwrap();
                leaf.finish().unwrap();
            });
            store.commit(store.roots().with_root(Some(root), 1)).unwrap();
            let refused = matches!(Catalog::open(store), Err(Error::NotCatalog { addr, .. }) if addr == root.addr);
            assert_eq!(refused, !good, "entry {number}");
        }
    });
}
