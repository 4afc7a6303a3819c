//! Growing a volume that is not in the best of states.

use super::disk::Disk;
use super::mounting::Late;
use super::store::{check_space, memory, options, write, BLOCK};
use crate::error::MemoryPart;
use crate::format::{max_arenas, BlockSize, NONE};
use crate::freemap::FreeMap;
use crate::hash::hash64;
use crate::memory::{map_words, pages_for};
use crate::{BlockPtr, CopyState, Device, Error, Memory, MountOptions, NoInterrupts, Resources, Store};
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

/// What a volume becomes when its device grows: new arenas of one size, as large as they can be, and as many as the
/// first arena's size goes into the room (but one, if it is less), behind each other and in front of the superblock.
/// What is refused says how much there would have to be, and that is enough.
#[test]
fn a_volume_grows_into_all_the_room_that_there_is_and_says_what_is_missing() {
    const UNIT: u64 = BLOCK as u64;
    let mut grown = Vec::new();
    for extra in 0..160 {
        let memory = memory();
        let disk = Disk::new(vec![0; 96 * BLOCK]);
        let store = Store::format(memory.take().unwrap(), &disk, &NoInterrupts, options(2)).unwrap();
        let first = store.arena(0).unwrap();
        let old = store.arena(1).unwrap();
        let from = old.addr + old.size_bytes + 2 * UNIT;
        let len = from + (extra + 1) * UNIT;
        disk.grow((len as usize).max(96 * BLOCK));
        match store.grow() {
            Err(Error::Geometry { need_bytes, have_bytes }) => {
                // The last block is the superblock's.
                assert_eq!((need_bytes, have_bytes), (from + 19 * UNIT, disk.bytes().len() as u64), "{extra} blocks");
                assert!(extra < 18, "{extra} blocks");
            }
            Err(error) => panic!("{extra} blocks: {error}"),
            Ok(_) => {
                assert!(extra >= 18, "{extra} blocks");
                let arenas = store.space().total_blocks;
                let count = (extra * UNIT / (first.size_bytes + 2 * UNIT)).clamp(1, 2);
                let size = (extra / count - 2) * UNIT;
                for number in 0..count {
                    let arena = store.arena(2 + number as usize).unwrap();
                    assert_eq!(arena.addr, from + number * (size + 2 * UNIT), "{extra} blocks");
                    assert_eq!(arena.size_bytes, size, "{extra} blocks");
                }
                assert!(store.arena(2 + count as usize).is_none());
                assert_eq!(arenas, (2 * first.size_bytes + count * size) / UNIT);
                grown.push(count);
            }
        }
    }
    assert!(grown.contains(&1) && grown.contains(&2), "{grown:?}");
}

/// The memory of a store is for so many arenas and so many blocks: one block more is refused, and says what it needs.
#[test]
fn a_volume_grows_as_far_as_the_memory_goes_and_not_a_block_further() {
    type Narrow = Memory<{ pages_for(24, BLOCK) }, 24, { map_words(300, 3) }, 3, 16>;
    let mut last = None;
    for blocks in (100..700).step_by(3).chain((700..3000).step_by(50)) {
        let memory = std::boxed::Box::new(Narrow::new());
        let disk = Disk::new(vec![0; 96 * BLOCK]);
        let store = Store::format(memory.take().unwrap(), &disk, &NoInterrupts, options(2)).unwrap();
        disk.grow(blocks * BLOCK);
        match store.grow() {
            Ok(_) => {
                assert!(!matches!(last, Some(Error::MemoryTooSmall { .. })), "{blocks} blocks fit, and fewer did not");
                last = None;
                let full = store.grow();
                let need = MemoryPart::Arenas;
                assert_eq!(full, Err(Error::MemoryTooSmall { part: need, need: 4, have: 3 }), "{blocks} blocks");
            }
            Err(error) => {
                if let Error::MemoryTooSmall { part, need, have } = error {
                    assert_eq!((part, have), (MemoryPart::MapWords, map_words(300, 3) as u64));
                    let old = store.arena(0).unwrap().size_bytes / BLOCK as u64;
                    let new = blocks as u64 - 1 - (store.arena(1).unwrap().addr / BLOCK as u64 + old + 4);
                    let words = |blocks: u64| FreeMap::words_needed(blocks as u32) as u64;
                    assert_eq!(need, 2 * words(old) + words(new), "{blocks} blocks");
                    assert!(need > have);
                }
                last = Some(error);
            }
        }
        assert_eq!(store.failure(), None);
    }
    assert!(matches!(last, Some(Error::MemoryTooSmall { .. })), "{last:?}");
}

/// While a commit is in flight a volume does not begin to grow; and nothing of it is written before.
#[test]
fn a_volume_does_not_grow_in_the_middle_of_a_commit() {
    let memories = memory();
    let disk = Disk::new(vec![0; LEN]);
    let (store, kept) = volume(memories.take().unwrap(), &disk);
    disk.grow(GROWN);
    write(&store, 3).unwrap();
    store.commit_start(store.roots()).unwrap();
    assert_eq!(store.grow_start(), Err(Error::CommitInFlight));
    store.settle().unwrap();
    let counters = store.counters().commit;
    let before = store.generation();
    let ticket = store.grow_start().unwrap();
    store.settle().unwrap();
    assert_eq!(store.commit_poll(&ticket), Some(Ok(before + 1)));
    let after = store.counters().commit;
    // E0 to E3, a flush each; the superblock that moves counts as a repair.
    assert_eq!((after.flushes - counters.flushes, after.repairs - counters.repairs), (4, 1));
    // For each new arena its log and two headers, and two superblocks.
    assert_eq!(after.block_writes - counters.block_writes, 2 * 3 + 2);
    assert_eq!(store.report().arenas, 2);
    assert!(store.arena(3).is_some() && store.is_free(kept[0].addr) == Ok(false));
}

/// Beyond the usual number of arenas a volume grows by one at a time.
#[test]
fn a_volume_of_many_arenas_grows_by_one() {
    type Many = Memory<{ pages_for(24, BLOCK) }, 24, { map_words(2048, 40) }, 40, 16>;
    let memory = std::boxed::Box::new(Many::new());
    let len = (33 * 18 + 2) * BLOCK;
    let disk = Disk::new(vec![0; len]);
    let store = Store::format(memory.take().unwrap(), &disk, &NoInterrupts, options(33)).unwrap();
    disk.grow(len + 200 * BLOCK);
    store.grow().unwrap();
    assert!(store.arena(33).is_some() && store.arena(34).is_none());
}

/// As many new arenas as there is memory for, if the room would do for more; and each of them is there to be used.
#[test]
fn a_volume_grows_by_as_many_arenas_as_there_is_memory_for() {
    type Sixteen = Memory<{ pages_for(24, BLOCK) }, 24, { map_words(4096, 16) }, 16, 16>;
    for old in [1, 2, 5] {
        let memory = std::boxed::Box::new(Sixteen::new());
        let len = (old * 40 + 2) * BLOCK;
        let disk = Disk::new(vec![0; len]);
        let store = Store::format(memory.take().unwrap(), &disk, &NoInterrupts, options(old as u32)).unwrap();
        disk.grow(1000 * BLOCK);
        store.grow().unwrap();
        store.settle().unwrap();
        let arenas: Vec<_> = (0..).map_while(|number| store.arena(number)).collect();
        assert_eq!(arenas.len(), 16);
        for arena in &arenas[old..] {
            assert_eq!(arena.free_bytes, arena.size_bytes - 3 * BLOCK as u64, "all but the log and the last two");
        }
    }
}

/// The memory may be just enough.
#[test]
fn a_volume_grows_into_the_last_word_of_the_memory() {
    const OLD: u32 = 45;
    const NEW: u32 = 300;
    const WORDS: usize = 2 * FreeMap::words_needed(OLD) + FreeMap::words_needed(NEW);
    type Exact = Memory<{ pages_for(24, BLOCK) }, 24, WORDS, 3, 16>;
    type Less = Memory<{ pages_for(24, BLOCK) }, 24, { WORDS - 1 }, 3, 16>;
    let memories = (std::boxed::Box::new(Exact::new()), std::boxed::Box::new(Less::new()));
    for (resources, fits) in [(memories.0.take().unwrap(), true), (memories.1.take().unwrap(), false)] {
        let disk = Disk::new(vec![0; 96 * BLOCK]);
        let store = Store::format(resources, &disk, &NoInterrupts, options(2)).unwrap();
        assert!((0..2).all(|arena| store.arena(arena).unwrap().size_bytes == u64::from(OLD) * BLOCK as u64));
        let end = store.arena(1).unwrap().addr as usize / BLOCK + 2 + OLD as usize;
        disk.grow((end + 2 + NEW as usize + 1) * BLOCK);
        let grown = store.grow();
        assert_eq!(grown.is_ok(), fits, "{grown:?}");
    }
}

/// A block's number has 32 bits: up to there a device may grow, and what is beyond is refused with what there can be.
#[test]
fn a_volume_grows_up_to_blocks_of_32_bits() {
    let most = u64::from(u32::MAX) * BLOCK as u64;
    for (len_bytes, fits) in [(most, true), (most + BLOCK as u64, false), (most * 2, false)] {
        let memories: Vec<_> = (0..2).map(|_| memory()).collect();
        let disk = Disk::new(vec![0; LEN]);
        volume(memories[0].take().unwrap(), &disk).0.unmount().unwrap();
        let device = Late::new(disk.bytes());
        let store = Store::mount(memories[1].take().unwrap(), &device, &NoInterrupts, MountOptions::default()).unwrap();
        let mut like = device.geometry();
        like.len_bytes = len_bytes;
        *device.like.lock().unwrap() = Some(like);
        let error = store.grow().unwrap_err();
        if fits {
            assert!(matches!(error, Error::MemoryTooSmall { part: MemoryPart::MapWords, .. }), "{error:?}");
        } else {
            assert_eq!(error, Error::Geometry { need_bytes: len_bytes, have_bytes: most });
        }
    }
}
