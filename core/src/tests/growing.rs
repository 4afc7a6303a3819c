//! Growing a volume that is not in the best of states.

use super::disk::Disk;
use super::store::{check_space, memory, options, write, BLOCK};
use crate::format::{max_arenas, BlockSize, NONE};
use crate::hash::hash64;
use crate::memory::{map_words, pages_for};
use crate::{BlockPtr, CopyState, Error, Memory, MountOptions, NoInterrupts, Resources, Store};
use std::vec;
use std::vec::Vec;

const LEN: usize = 512 << 10;
const GROWN: usize = 1 << 20;
const ARENAS: usize = 2;
const BARRIER: u64 = 3;
const FREE: u64 = 2;

/// Two arenas, with two blocks in use, in generation 2.
fn volume<'d, 'm>(memory: Resources<'m>, disk: &'d Disk<'m>) -> (Store<'d, 'm>, Vec<BlockPtr>) {
    let store = Store::format(memory, disk, &NoInterrupts, options(ARENAS as u32)).unwrap();
    let kept = vec![write(&store, 1).unwrap(), write(&store, 2).unwrap()];
    store.commit(store.roots().with_root(Some(kept[0]), 1)).unwrap();
    store.settle().unwrap();
    (store, kept)
}

fn mount<'d, 'm>(memory: Resources<'m>, disk: &'d Disk<'m>) -> Store<'d, 'm> {
    Store::mount(memory, disk, &NoInterrupts, MountOptions::default()).unwrap()
}

fn get(bytes: &[u8], at: usize) -> u64 {
    u64::from_be_bytes(*bytes[at..].first_chunk().unwrap())
}

fn put(bytes: &mut [u8], at: usize, value: u64) {
    bytes[at..at + 8].copy_from_slice(&value.to_be_bytes());
}

/// Makes the volume look as if the original had committed last, and replaces the closing barrier of each log by what
/// `ending` says of its arena.
fn as_of_the_original(bytes: &mut [u8], ending: impl Fn(usize) -> Vec<u64>) {
    for arena in 0..ARENAS {
        let entry = 104 + 16 * arena;
        let base = get(bytes, entry) as usize;
        let log = get(bytes, base + 2) as usize;
        let len = u16::from_be_bytes([bytes[log + 2], bytes[log + 3]]) as usize;
        let mut at = log + 36 + len - 8;
        for word in ending(arena) {
            put(bytes, at, word);
            at += 8;
        }
        let len = at - log - 36;
        bytes[log + 2..log + 4].copy_from_slice(&(len as u16).to_be_bytes());
        let hash = hash64(&bytes[log + 36..at]);
        put(bytes, log + 4, hash);
        for copy in [base, base + BLOCK] {
            bytes[copy + 34..copy + 78].fill(0);
        }
        let hash = hash64(&bytes[base..base + BLOCK]);
        put(bytes, entry + 8, hash);
    }
    let end = 104 + 16 * ARENAS;
    let hash = hash64(&bytes[..end]);
    put(bytes, end, hash);
    bytes[end + 8..end + 32].fill(0);
    bytes.copy_within(..BLOCK, LEN - BLOCK);
}

/// The superblock of the commit that grows the volume is ours, and of a generation more: logs that were read by the
/// rule of the original must not be read anew by that.
#[test]
fn what_an_original_left_behind_its_commit_does_not_come_alive_when_the_volume_grows() {
    for killed in [false, true] {
        let memories: Vec<_> = (0..3).map(|_| memory()).collect();
        let disk = Disk::new(vec![0; LEN]);
        let (store, kept) = volume(memories[0].take().unwrap(), &disk);
        store.unmount().unwrap();
        // What was freed behind the committed barrier never was; what was freed where that barrier is missing perhaps.
        let last = if killed { 1 } else { 2 };
        disk.edit(|bytes| {
            as_of_the_original(bytes, |arena| match arena {
                0 => vec![last << 8 | BARRIER, kept[1].addr | FREE],
                _ => vec![2 << 8 | BARRIER],
            });
        });
        let store = mount(memories[1].take().unwrap(), &disk);
        assert!(!store.report().sealed);
        assert_eq!(store.report().doubtful_blocks, u32::from(killed));
        let before = store.space();
        check_space(&store, &kept);
        disk.grow(GROWN);
        store.grow().unwrap();
        store.settle().unwrap();
        assert_eq!(
            store.space().total_blocks - store.space().free_blocks,
            before.total_blocks - before.free_blocks + 6
        );
        store.unmount().unwrap();
        let store = mount(memories[2].take().unwrap(), &disk);
        assert_eq!(store.report().arenas, 4);
        check_space(&store, &kept);
    }
}

/// The seal of an arena that the original has changed since counts again as soon as the superblock is ours.
#[test]
fn a_stale_seal_does_not_come_alive_when_the_volume_grows() {
    let memories: Vec<_> = (0..3).map(|_| memory()).collect();
    let disk = Disk::new(vec![0; LEN]);
    let (store, mut kept) = volume(memories[0].take().unwrap(), &disk);
    store.unmount().unwrap();
    // The header's front is what it was, so the seal is whole; the log is another.
    let seals: Vec<(usize, Vec<u8>)> = {
        let bytes = disk.bytes();
        let bases = (0..ARENAS).map(|arena| get(&bytes, 104 + 16 * arena) as usize);
        bases.map(|base| (base, bytes[base..base + BLOCK].to_vec())).collect()
    };
    disk.edit(|bytes| {
        let freed = kept[1].addr;
        as_of_the_original(bytes, |arena| match arena {
            0 => vec![freed | FREE, 2 << 8 | BARRIER],
            _ => vec![2 << 8 | BARRIER],
        });
        for (arena, (base, header)) in seals.iter().enumerate() {
            bytes[*base..base + BLOCK].copy_from_slice(header);
            bytes[base + BLOCK..base + 2 * BLOCK].copy_from_slice(header);
            put(bytes, 104 + 16 * arena + 8, hash64(header));
        }
        let end = 104 + 16 * ARENAS;
        let hash = hash64(&bytes[..end]);
        put(bytes, end, hash);
        bytes.copy_within(..BLOCK, LEN - BLOCK);
    });
    kept.truncate(1);
    let store = mount(memories[1].take().unwrap(), &disk);
    check_space(&store, &kept);
    disk.grow(GROWN);
    store.grow().unwrap();
    store.unmount().unwrap();
    let store = mount(memories[2].take().unwrap(), &disk);
    check_space(&store, &kept);
}

/// The first superblock is bad, and the second one is to move: the good one is where it was.
#[test]
fn a_volume_without_its_first_superblock_grows() {
    for stale in [false, true] {
        let memories: Vec<_> = (0..3).map(|_| memory()).collect();
        let disk = Disk::new(vec![0; LEN]);
        let (store, kept) = volume(memories[0].take().unwrap(), &disk);
        store.unmount().unwrap();
        disk.edit(|bytes| bytes[..BLOCK].fill(0x55));
        let store = mount(memories[1].take().unwrap(), &disk);
        assert!(matches!(store.report().superblocks, [CopyState::Bad(_), CopyState::Good]));
        disk.grow(GROWN);
        if stale {
            // Something that was once a superblock of this generation lies where the second one is to be.
            disk.edit(|bytes| {
                bytes.copy_within(LEN - BLOCK..LEN, GROWN - BLOCK);
                let page = &mut bytes[GROWN - BLOCK..];
                put(page, 24, NONE);
                let end = 104 + 16 * ARENAS;
                let hash = hash64(&page[..end]);
                put(page, end, hash);
            });
        }
        store.grow().unwrap();
        store.unmount().unwrap();
        let store = mount(memories[2].take().unwrap(), &disk);
        assert_eq!(store.report().superblocks, [CopyState::Good; 2]);
        assert_eq!(store.roots().root.addr, kept[0].addr);
        check_space(&store, &kept);
    }
}

/// A superblock names no more arenas than fit: that is known before anything is written.
#[test]
fn a_volume_with_all_the_arenas_that_there_can_be_does_not_grow() {
    type Many = Memory<{ pages_for(24, BLOCK) }, 24, { map_words(4096, 128) }, 128, 16>;
    let memory = std::boxed::Box::new(Many::new());
    let most = max_arenas(BlockSize::MIN);
    let len = (most as usize * 18 + 2) * BLOCK;
    let disk = Disk::new(vec![0; len]);
    let store = Store::format(memory.take().unwrap(), &disk, &NoInterrupts, options(most)).unwrap();
    disk.take_log();
    disk.grow(len + 64 * BLOCK);
    assert_eq!(store.grow(), Err(Error::BadParameter { name: "number of arenas", found: u64::from(most) + 1 }));
    assert_eq!((store.failure(), disk.take_log()), (None, vec![]));
}
