//! Volumes that Arenite itself made and wrote, other sizes of blocks and volumes among them, and the original on top.

use super::original::{commit, Change, Log, Part};
use super::reference;
use crate::scratch::Scratch;
use arenite_core::format::BlockSize;
use arenite_core::memory::{map_words, pages_for};
use arenite_core::{Allocate, FormatOptions, Memory, NoInterrupts, Store};
use arenite_shim::{boxed_memory, FileDevice, FileOptions};

const GIB: u64 = 1 << 30;

/// For volumes of up to 16 Mi blocks.
type WriterMemory = Memory<{ pages_for(32, 65536) }, 64, { map_words(16 << 20, 256) }, 256, 64>;

/// Formats, and commits a few times; returns the free bytes of each arena, as the writer has them.
fn write_volume(image: &Scratch, block_len: u32, arenas: u32, commits: u32) -> Vec<u64> {
    let memory: Box<WriterMemory> = boxed_memory();
    let device = FileDevice::open(&image.path, FileOptions::default()).unwrap();
    let options = FormatOptions { block_size: BlockSize::new(block_len).unwrap(), arenas, force: false };
    let store = Store::format(memory.take().unwrap(), &device, &NoInterrupts, options).unwrap();
    let mut old = Vec::new();
    for round in 0..commits {
        let mut new = Vec::new();
        for number in 0..20 {
            let mut filling = store.allocate(Allocate::data().hint(number)).unwrap();
            filling.bytes_mut()[..4].copy_from_slice(&(round + number).to_be_bytes());
            new.push(store.enqueue(filling).unwrap().ptr());
        }
        for ptr in old.drain(..).skip(7) {
            store.free(ptr).unwrap();
        }
        store.commit(store.roots().with_root(Some(new[0]), 1)).unwrap();
        old = new;
    }
    store.settle().unwrap();
    let free = (0..arenas as usize).map(|index| store.arena(index).unwrap().free_bytes).collect();
    store.unmount().unwrap();
    free
}

fn check(len_bytes: u64, block_len: u32, arenas: u32, commits: u32) -> Scratch {
    let image = Scratch::blank(len_bytes);
    let want = write_volume(&image, block_len, arenas, commits);
    let info = image.info();
    assert_eq!(info["block_size"], block_len);
    assert_eq!(info["superblocks"], serde_json::json!(["ok", "ok"]));
    let free: Vec<u64> =
        info["arenas"].as_array().unwrap().iter().map(|arena| arena["free"].as_u64().unwrap()).collect();
    assert_eq!(free, want);
    assert_eq!(info["free"].as_u64().unwrap(), want.iter().sum::<u64>());
    assert_eq!(info["root"]["addr"].is_null(), commits == 0);
    // The seals need room behind the arena table.
    let sealed = arenas <= (block_len - 136) / 16;
    assert_eq!(image.table().contains("sealed by Arenite"), sealed);
    if block_len == 16384 && commits > 0 {
        reference::state(&image).check(info, "written by Arenite");
    }
    image
}

#[test]
fn every_block_size() {
    for (block_len, arenas) in [(2048, 1), (4096, 3), (8192, 8), (16384, 2), (32768, 5), (65536, 1)] {
        check(64 << 20, block_len, arenas, 0);
        check(64 << 20, block_len, arenas, 9);
    }
}

/// More blocks than the length of the image suggests: the memory that was chosen first does not suffice.
#[test]
fn small_blocks() {
    check(2 * GIB, 2048, 121, 3);
    check(3 * GIB, 4096, 249, 3);
}

/// Files with holes, which take up next to nothing.
#[test]
fn large_volumes() {
    check(5 * GIB, 16384, 256, 3);
    check(200 * GIB, 16384, 32, 3);
    check(900 * GIB, 65536, 8, 3);
}

/// The original takes over a volume of Arenite, and is killed after any write of its first commit. Seals tell where the
/// committed log ends even when the original has written over the barrier, so here it is all or nothing always.
#[test]
fn original_on_top() {
    let change = |arena: usize| Change { allocate: 3 + arena, free: 0, churn: 130 * arena };
    for log in [Log::Append, Log::Cut, Log::Compress, Log::CutAndCompress] {
        let image = check(128 << 20, 16384, 8, 9);
        let before = reference::state(&image);
        let want = image.info();
        for (count, write) in commit(&image, &before, 2, log, change).iter().enumerate() {
            image.write(write.addr, &write.bytes);
            let context = format!("{log:?}, after write {count}, {:?} of arena {}", write.part, write.arena);
            let mut info = image.info();
            if write.part >= Part::FirstSuperblock {
                reference::state(&image).check(info, &context);
                continue;
            }
            for (arena, want) in
                info["arenas"].as_array_mut().unwrap().iter_mut().zip(want["arenas"].as_array().unwrap())
            {
                arena["header"] = want["header"].clone();
            }
            assert_eq!(info, want, "{context}");
        }
        assert!(image.table().contains("not sealed"));
    }
}
