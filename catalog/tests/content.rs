//! The bytes of files: all sizes around the places where their trees change shape, any pieces, any offset; and that
//! nothing is left of a file that was not finished.

mod common;

use arenite_catalog::{free_content, Catalog, Content, Entry, Error, FileReader, FileWriter, Kind};
use arenite_core::{BlockPtr, Damage, Error as StoreError, Store};
use common::{check, used, Disk, Rng};

fn write(store: &Store<'_, '_>, bytes: &[u8], rng: &mut Rng) -> Content {
    let mut writer = FileWriter::new(store, 0);
    let mut rest = bytes;
    while !rest.is_empty() {
        let len = match rng.below(4) {
            0 => 1,
            1 => rng.below(100) as usize,
            2 => store.block_size().len_bytes(),
            _ => rng.below(20_000) as usize,
        };
        let (piece, after) = rest.split_at(len.min(rest.len()));
        writer.write(piece).unwrap();
        rest = after;
    }
    assert_eq!(writer.size_bytes(), bytes.len() as u64);
    writer.finish().unwrap()
}

fn read(store: &Store<'_, '_>, content: Content) -> Vec<u8> {
    let mut reader = FileReader::new(store, content);
    let mut bytes = Vec::new();
    while let Some(block) = reader.next_block().unwrap() {
        bytes.extend_from_slice(&block);
    }
    bytes
}

#[test]
fn reading_ahead_gives_the_same_bytes() {
    for roomy in [false, true] {
        let mut disk = Disk::new(2048, 2000, 2);
        disk.roomy = roomy;
        let bytes = Rng::new(11).bytes(2048 * 300 + 5);
        let mut catalog_entry = None;
        disk.format(|store| {
            let mut catalog = Catalog::open(store).unwrap();
            catalog.put_bytes(b"f", Kind::File, 0, &bytes).unwrap();
            catalog.commit().unwrap();
            catalog_entry = catalog.get(b"f").unwrap();
        });
        let content = catalog_entry.unwrap().content;
        for depth in [0, 1, 3, 16, 100] {
            disk.mount(|store| {
                let mut reader = FileReader::new(store, content).with_read_ahead(depth);
                let mut read = Vec::new();
                while let Some(block) = reader.next_block().unwrap() {
                    // Whoever copies from one file to another allocates meanwhile.
                    drop(store.allocate(arenite_core::Allocate::data()).ok());
                    read.extend_from_slice(&block);
                }
                assert!(read == bytes, "{depth} blocks ahead");
            });
        }
    }
}

/// Sizes, in blocks of 2 KiB with 85 pointers each, and the height and the number of blocks that they come to.
const SHAPES: [(u64, u8, u64); 12] = [
    (0, 0, 0),
    (1, 1, 1),
    (2, 2, 3),
    (3, 2, 4),
    (84, 2, 85),
    (85, 2, 86),
    (86, 3, 89),
    (170, 3, 173),
    (171, 3, 175),
    (85 * 85, 3, 7225 + 85 + 1),
    (85 * 85 + 1, 4, 7226 + 86 + 2 + 1),
    (85 * 85 + 86, 4, 7311 + 87 + 2 + 1),
];

#[test]
fn every_shape_of_tree() {
    let disk = Disk::new(2048, 16 << 10, 2);
    disk.format(|store| {
        let mut rng = Rng::new(5);
        for (blocks, height, all) in SHAPES {
            let full = blocks as usize * 2048;
            for size in [full, full.saturating_sub(1), full.saturating_sub(2047)] {
                if size.div_ceil(2048) as u64 != blocks {
                    continue;
                }
                let bytes = rng.bytes(size);
                let content = write(store, &bytes, &mut rng);
                assert_eq!((content.height(), content.size_bytes()), (height, size as u64));
                assert_eq!(
                    (content.data_blocks(store.block_size()), content.all_blocks(store.block_size())),
                    (blocks, all)
                );
                assert!(read(store, content) == bytes, "{size} bytes");
                let entry = Entry { kind: Kind::File, mode: 0, modified_s: 1, content };
                let mut catalog = Catalog::open(store).unwrap();
                catalog.put(b"f", &entry).unwrap();
                catalog.commit().unwrap();
                assert_eq!(check(store), all + 1);
                assert_eq!(catalog.get(b"f"), Ok(Some(entry)));
                // The same blocks with another mode: nothing is freed.
                catalog.put(b"f", &Entry { mode: 7, ..entry }).unwrap();
                catalog.commit().unwrap();
                assert_eq!(check(store), all + 1);
                catalog.remove(b"f").unwrap();
                catalog.commit().unwrap();
                assert_eq!(check(store), 0);
            }
        }
    });
}

#[test]
fn reading_from_any_place() {
    let disk = Disk::new(2048, 16 << 10, 2);
    disk.format(|store| {
        let mut rng = Rng::new(6);
        let size = 2048 * (85 * 85 + 100) + 77;
        let bytes = rng.bytes(size);
        let content = write(store, &bytes, &mut rng);
        let mut reader = FileReader::new(store, content);
        let mut buffer = vec![0; 10_000];
        for round in 0..2000 {
            let at = if round % 10 == 0 { size - rng.below(5000) as usize } else { rng.below(size as u64) as usize };
            let len = rng.below(10_000) as usize;
            let expected = &bytes[at..(at + len).min(size)];
            assert_eq!(reader.read_at(at as u64, &mut buffer[..len]), Ok(expected.len()));
            assert!(buffer[..expected.len()] == *expected, "{len} bytes at {at}");
        }
        for at in [size as u64, size as u64 + 5000, u64::MAX] {
            assert_eq!(reader.read_at(at, &mut buffer), Ok(0));
        }
        assert!(reader.block(size as u64 / 2048 + 1).unwrap().is_none());
        free_content(store, content).unwrap();
        store.settle().unwrap();
        assert_eq!(store.space().avail_blocks, store.space().free_blocks);
    });
}

#[test]
fn unfinished_files_leave_nothing() {
    let disk = Disk::new(2048, 16 << 10, 2);
    disk.format(|store| {
        store.settle().unwrap();
        let avail = store.space().avail_blocks;
        for (blocks, _, _) in SHAPES {
            for (extra, abort) in [(0, false), (0, true), (100, false), (100, true)] {
                let mut writer = FileWriter::new(store, 3);
                let bytes = vec![9; blocks as usize * 2048 + extra];
                writer.write(&bytes).unwrap();
                if abort {
                    writer.abort().unwrap();
                } else {
                    drop(writer);
                }
                store.settle().unwrap();
                assert_eq!(store.space().avail_blocks, avail, "{blocks} blocks, {extra} bytes");
            }
        }
    });
}

#[test]
fn a_file_that_does_not_fit_leaves_nothing() {
    for blocks in (300..500).step_by(7) {
        let disk = Disk::new(2048, blocks, 1);
        disk.format(|store| {
            store.settle().unwrap();
            let avail = store.space().avail_blocks;
            let mut writer = FileWriter::new(store, 0);
            let error = loop {
                if let Err(error) = writer.write(&[1; 3000]) {
                    break error;
                }
            };
            assert!(matches!(error, Error::Store(StoreError::Full { .. })), "{error}");
            assert_eq!(writer.write(&[1]), Err(error), "it stays so");
            assert_eq!(writer.finish(), Err(error));
            store.settle().unwrap();
            assert_eq!(store.space().avail_blocks, avail);
            assert_eq!(used(store), 0);
        });
    }
}

/// A catalogue with a large file and two small ones; returns the pointers to the large one's blocks.
fn victim(disk: &Disk) -> (Vec<BlockPtr>, Vec<u8>) {
    let bytes = Rng::new(8).bytes(2048 * 200);
    let blocks = disk.format(|store| {
        let mut catalog = Catalog::open(store).unwrap();
        catalog.put_bytes(b"/a", Kind::File, 0, b"before").unwrap();
        catalog.put_bytes(b"/victim", Kind::File, 0, &bytes).unwrap();
        catalog.put_bytes(b"/z", Kind::File, 0, b"behind").unwrap();
        catalog.commit().unwrap();
        let mut blocks = Vec::new();
        arenite_catalog::visit_blocks(store, &store.roots(), arenite_catalog::Depth::Structure, &mut |block| {
            if block.path == Some(b"/victim") {
                blocks.push(block.ptr);
            }
            std::ops::ControlFlow::Continue(())
        })
        .unwrap();
        blocks
    });
    assert_eq!(blocks.len(), 200 + 3 + 1);
    (blocks, bytes)
}

/// Blocks that a walk finds damaged, with the file's path and the error.
fn damaged(store: &Store<'_, '_>) -> Vec<(u64, Option<Vec<u8>>, Error)> {
    let mut found = Vec::new();
    arenite_catalog::visit_blocks(store, &store.roots(), arenite_catalog::Depth::Everything, &mut |block| {
        if let Err(error) = block.outcome {
            found.push((block.ptr.addr, block.path.map(<[u8]>::to_vec), error));
        }
        std::ops::ControlFlow::Continue(())
    })
    .unwrap();
    found
}

#[test]
fn a_flipped_byte_of_a_file_is_an_error_with_address_and_hashes() {
    let disk = Disk::new(2048, 1000, 1);
    let (blocks, bytes) = victim(&disk);
    // In order of the walk: 85 data blocks, their block of pointers, and so on.
    let bad = blocks[10];
    disk.flip(bad.addr, 1234);
    disk.mount(|store| {
        let catalog = Catalog::open(store).unwrap();
        let entry = catalog.get(b"/victim").unwrap().unwrap();
        let mut reader = catalog.reader(&entry);
        let mut bad_blocks = 0;
        for number in 0..200 {
            match reader.next_block() {
                Ok(Some(block)) => assert!(*block == bytes[number * 2048..][..2048]),
                Ok(None) => panic!("too short"),
                Err(error) => {
                    let Error::Store(StoreError::Corrupt { addr, damage: Damage::Hash { expected, found } }) = error
                    else {
                        panic!("{error}");
                    };
                    assert_eq!((number, addr, expected), (10, bad.addr, bad.hash));
                    assert_ne!(found, expected);
                    bad_blocks += 1;
                    reader.skip_block();
                }
            }
        }
        assert_eq!(bad_blocks, 1);
        assert!(matches!(reader.next_block(), Ok(None)));
        let found = damaged(store);
        assert_eq!(found.len(), 1);
        assert_eq!((found[0].0, found[0].1.as_deref()), (bad.addr, Some(&b"/victim"[..])));
    });
}

#[test]
fn a_file_with_damaged_pointers_can_be_removed() {
    let disk = Disk::new(2048, 1000, 1);
    let (blocks, _) = victim(&disk);
    let bad = blocks[85];
    disk.flip(bad.addr, 99);
    disk.mount(|store| {
        assert_eq!(damaged(store).len(), 1);
        let mut catalog = Catalog::open(store).unwrap();
        let error = catalog.remove(b"/victim").unwrap_err();
        assert!(matches!(error, Error::Unfreed { cause: StoreError::Corrupt { addr, .. } } if addr == bad.addr));
        assert_eq!(catalog.get(b"/victim"), Ok(None));
        catalog.commit().unwrap();
        // What nobody knows any more stays in use, and only that: 85 blocks of data.
        assert_eq!(used(store), 85 + 2 + 1);
        assert_eq!(damaged(store).len(), 0);
    });
}

#[test]
fn a_damaged_leaf_is_found_and_named() {
    let disk = Disk::new(2048, 1000, 1);
    victim(&disk);
    let root = disk.mount(|store| store.roots().root_ptr().unwrap());
    disk.flip(root.addr, 2047);
    disk.mount(|store| {
        assert!(
            matches!(Catalog::open(store), Err(Error::Store(StoreError::Corrupt { addr, .. })) if addr == root.addr)
        );
        let found = damaged(store);
        assert_eq!(found.len(), 1);
        assert_eq!((found[0].0, &found[0].1), (root.addr, &None));
    });
}
