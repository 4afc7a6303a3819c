//! Limits and small print of a commit, to the block: what it writes, what it waits for, where it ends.

use super::disk::Disk;
use super::store::{check_space, memory, options, write, BLOCK};
use crate::format::{
    encode_superblock, ranges_per_block, ArenaHeader, BlockSize, FormatError, LogBlock, LogEntry, LogWriter, SuperHead,
    Superblock, MAX_GENERATION, NONE,
};
use crate::{
    BlockPtr, CopyState, Damage, Error, FormatOptions, MountOptions, NoInterrupts, Resources, Roots, ScrubStep, Store,
};
use std::vec;
use std::vec::Vec;

fn format<'d, 'm>(memory: Resources<'m>, disk: &'d Disk<'m>, arenas: u32) -> Store<'d, 'm> {
    Store::format(memory, disk, &NoInterrupts, options(arenas)).unwrap()
}

fn mount<'d, 'm>(memory: Resources<'m>, disk: &'d Disk<'m>, discard: bool) -> Store<'d, 'm> {
    let options = MountOptions { discard, patience_relaxations: 100, ..MountOptions::default() };
    Store::mount(memory, disk, &NoInterrupts, options).unwrap()
}

/// The same roots but for one field.
fn next_roots(store: &Store<'_, '_>) -> Roots {
    let roots = store.roots();
    Roots { next_qid: roots.next_qid + 1, ..roots }
}

/// Addresses written since the last look.
fn writes(disk: &Disk<'_>) -> Vec<u64> {
    disk.take_log().into_iter().flatten().map(|(addr, _)| addr).collect()
}

/// Free space in pieces of one block, so many blocks freed of so many written.
fn fragmented<'d, 'm>(memory: Resources<'m>, disk: &'d Disk<'m>) -> (Store<'d, 'm>, Vec<BlockPtr>) {
    let store = format(memory, disk, 1);
    let all: Vec<BlockPtr> = (0..900).map(|i| write(&store, i as u8).unwrap()).collect();
    store.commit(next_roots(&store)).unwrap();
    all.iter().skip(1).step_by(2).for_each(|ptr| store.free(*ptr).unwrap());
    store.commit(next_roots(&store)).unwrap();
    store.settle().unwrap();
    (store, all.into_iter().step_by(2).collect())
}

/// A commit of nothing but roots writes one arena's log and header all the same, and those of one only: that headers
/// and superblock agree is what tells a second superblock of the newest commit from one of the commit before.
#[test]
fn a_commit_of_roots_alone_writes_the_header_of_one_arena() {
    for arenas in 1..4 {
        let memory = memory();
        let disk = Disk::new(vec![0; 1 << 20]);
        let store = format(memory.take().unwrap(), &disk, arenas);
        disk.take_log();
        store.commit(next_roots(&store)).unwrap();
        store.settle().unwrap();
        let written = writes(&disk);
        let bases: Vec<u64> = (0..arenas as usize).map(|arena| store.arena(arena).unwrap().addr).collect();
        let headers = written.iter().filter(|addr| bases.contains(addr)).count();
        let seconds = written.iter().filter(|addr| bases.contains(&addr.wrapping_sub(BLOCK as u64))).count();
        assert_eq!((written.len(), headers, seconds), (5, 1, 1), "{written:?}");
        // And one of nothing at all writes nothing.
        store.commit(store.roots()).unwrap();
        assert_eq!(writes(&disk), []);
    }
}

/// The counters say what the disk saw.
#[test]
fn what_a_commit_counts_is_what_it_writes() {
    let memory = memory();
    let disk = Disk::new(vec![0; 2 << 20]);
    let (store, mut kept) = fragmented(memory.take().unwrap(), &disk);
    for round in 0..40 {
        disk.take_log();
        let before = store.counters();
        store.free(kept.remove(round * 3)).unwrap();
        kept.push(write(&store, 9).unwrap());
        store.commit(next_roots(&store)).unwrap();
        store.settle().unwrap();
        let (after, log) = (store.counters(), disk.take_log());
        let blocks = after.commit.block_writes - before.commit.block_writes;
        let queued = u64::from(after.queued_block_writes - before.queued_block_writes);
        assert_eq!(blocks + queued, log.iter().flatten().map(|(_, len)| len / BLOCK as u64).sum::<u64>());
        assert_eq!(
            after.commit.flushes - before.commit.flushes,
            log.iter().filter(|entry| entry.is_none()).count() as u64
        );
        assert_eq!(after.commit.commits - before.commit.commits, 1);
        assert_eq!((after.in_flight, after.pending_blocks), (0, 0));
    }
}

/// A log grows by links until it has twice the blocks that it needs and eight, and is then written anew.
#[test]
fn a_log_is_linked_up_to_its_limit_and_no_further() {
    let memory = memory();
    let disk = Disk::new(vec![0; 2 << 20]);
    let (store, mut kept) = fragmented(memory.take().unwrap(), &disk);
    let mut longest = 0;
    for round in 0..60 {
        let before = store.arena(0).unwrap().log_blocks;
        store.free(kept.remove(round * 3)).unwrap();
        kept.push(write(&store, 9).unwrap());
        store.commit(next_roots(&store)).unwrap();
        store.settle().unwrap();
        let arena = store.arena(0).unwrap();
        let whole = arena.free_ranges.div_ceil(ranges_per_block(BlockSize::MIN) as u32);
        assert_eq!(whole, 4, "{arena:?}");
        let limit = 2 * whole + 8;
        if before < limit {
            assert_eq!(arena.log_blocks, before + 1, "round {round}");
        } else {
            // Ranges of one block take half the room of others.
            assert!((2..=whole).contains(&arena.log_blocks), "round {round}: {arena:?}");
        }
        longest = longest.max(arena.log_blocks);
        check_space(&store, &kept);
    }
    assert_eq!(longest, 16);
}

/// Blocks linked behind a log open with the barrier of the commit before: a reader who knows no seal, and follows the
/// link of a commit that was cut off, stops there.
#[test]
fn a_linked_block_opens_with_the_barrier_of_the_commit_before() {
    let memory = memory();
    let disk = Disk::new(vec![0; 2 << 20]);
    let (store, kept) = fragmented(memory.take().unwrap(), &disk);
    let base = store.arena(0).unwrap().addr;
    let page = |addr: u64| disk.bytes()[addr as usize..addr as usize + BLOCK].to_vec();
    let tail = |page: &[u8]| ArenaHeader::decode(page, BlockSize::MIN, base).unwrap().seal.unwrap().tail_addr;
    let (before, old) = (store.generation(), tail(&page(base)));
    store.free(kept[7]).unwrap();
    let generation = store.commit(next_roots(&store)).unwrap();
    let new = tail(&page(base));
    let old = page(old);
    assert_eq!(LogBlock::decode(&old, BlockSize::MIN).unwrap().chain(), new);
    let linked = page(new);
    let entries: Vec<_> = LogBlock::decode(&linked, BlockSize::MIN).unwrap().entries().map(Result::unwrap).collect();
    assert_eq!(entries.first(), Some(&LogEntry::Barrier { gen: before }));
    assert_eq!(entries.last(), Some(&LogEntry::Barrier { gen: generation }));
    let changes = &entries[1..entries.len() - 1];
    let is_change = |entry: &LogEntry| matches!(entry, LogEntry::Free { .. } | LogEntry::Alloc { .. });
    assert!(changes.iter().all(is_change) && changes.len() == 2, "the block freed and the log's own: {entries:?}");
}

/// Wherever the search for a log block begins, the log lists what is free.
#[test]
fn a_log_of_several_blocks_is_right_wherever_its_blocks_lie() {
    let memories: Vec<_> = (0..2).map(|_| memory()).collect();
    let disk = Disk::new(vec![0; 2 << 20]);
    let (store, mut kept) = fragmented(memories[0].take().unwrap(), &disk);
    for round in 0..450 {
        // One step further: what is handed out and dropped moves the place where the next search begins.
        drop(store.allocate(crate::Allocate::data()).unwrap());
        if round % 3 != 0 {
            continue;
        }
        // So much is changed that the log is written anew.
        for _ in 0..130 {
            let at = kept.len() / 2;
            store.free(kept.remove(at)).unwrap();
        }
        store.commit(next_roots(&store)).unwrap();
        store.settle().unwrap();
        kept.extend((0..130).map(|i| write(&store, i).unwrap()));
        store.commit(next_roots(&store)).unwrap();
        store.settle().unwrap();
        check_space(&store, &kept);
        if round % 45 == 0 {
            let memory = super::store::memory();
            let second = Disk::new(disk.bytes());
            let store = mount(memory.take().unwrap(), &second, false);
            check_space(&store, &kept);
        }
    }
    store.unmount().unwrap();
    check_space(&mount(memories[1].take().unwrap(), &disk, false), &kept);
}

/// Every range that a commit freed is discarded once, in every arena, and nothing else is.
#[test]
fn every_arena_discards_what_it_freed() {
    for arenas in 1..4 {
        let memories: Vec<_> = (0..2).map(|_| memory()).collect();
        let disk = Disk::new(vec![0; 1 << 20]);
        let store = format(memories[0].take().unwrap(), &disk, arenas);
        let ptrs: Vec<BlockPtr> = (0..arenas * 20)
            .map(|i| {
                let mut block = store.allocate(crate::Allocate::data().hint(i % arenas)).unwrap();
                block.bytes_mut().fill(i as u8);
                store.enqueue(block).unwrap().ptr()
            })
            .collect();
        store.commit(next_roots(&store)).unwrap();
        store.unmount().unwrap();
        let store = mount(memories[1].take().unwrap(), &disk, true);
        let logs: Vec<u64> = (0..arenas as usize).map(|arena| store.arena(arena).unwrap().log_addr).collect();
        ptrs.iter().for_each(|ptr| store.free(*ptr).unwrap());
        store.commit(next_roots(&store)).unwrap();
        store.settle().unwrap();
        let mut discarded: Vec<u64> =
            disk.take_discards().into_iter().flat_map(|(addr, len)| (addr..addr + len).step_by(BLOCK)).collect();
        let mut expected: Vec<u64> = ptrs.iter().map(|ptr| ptr.addr).chain(logs).collect();
        discarded.sort_unstable();
        expected.sort_unstable();
        assert_eq!(discarded, expected, "{arenas} arenas");
        assert_eq!(store.counters().commit.discarded_bytes, (expected.len() * BLOCK) as u64);
    }
}

/// Without a change, a copy that is not good is repaired: of the only arena, of one of several, of either superblock,
/// and when it is a scrub that found out.
#[test]
fn a_commit_of_nothing_repairs_whatever_copy_is_bad() {
    for arenas in [1, 3] {
        let image = {
            let memory = memory();
            let disk = Disk::new(vec![0; 1 << 20]);
            let store = format(memory.take().unwrap(), &disk, arenas);
            write(&store, 1).unwrap();
            store.commit(next_roots(&store)).unwrap();
            store.unmount().unwrap();
            disk.bytes()
        };
        let bases: Vec<usize> = {
            let superblock = Superblock::decode(&image[..BLOCK]).unwrap();
            superblock.arenas().map(|arena| arena.header_addr as usize).collect()
        };
        let copies = bases.iter().flat_map(|base| [*base, base + BLOCK]).chain([0, image.len() - BLOCK]);
        for copy in copies {
            for scrubbed in [false, true] {
                let memory = memory();
                let disk = Disk::new(image.clone());
                let spoil = || disk.edit(|bytes| bytes[copy + 20] ^= 1);
                if !scrubbed {
                    spoil();
                }
                let store = mount(memory.take().unwrap(), &disk, false);
                if scrubbed {
                    spoil();
                    let mut scrub = store.scrub();
                    while !matches!(scrub.step(), Ok(ScrubStep::Done(_))) {
                        store.step();
                    }
                }
                disk.take_log();
                let generation = store.generation();
                assert_eq!(store.commit(store.roots()), Ok(generation));
                store.settle().unwrap();
                assert!(disk.bytes() == image, "{arenas} arenas, the copy at {copy:#x}, scrubbed: {scrubbed}");
                assert_eq!(writes(&disk), [copy as u64]);
                assert_eq!(store.counters().commit.repairs, 1);
            }
        }
    }
}

/// A worker who stays holds up the end of a commit, and is named; when it has gone, and at unmount, nobody is.
#[test]
fn the_end_of_a_commit_waits_for_readers_and_names_them() {
    let memories: Vec<_> = (0..2).map(|_| memory()).collect();
    let disk = Disk::new(vec![0; 1 << 20]);
    format(memories[0].take().unwrap(), &disk, 1).unmount().unwrap();
    let store = mount(memories[1].take().unwrap(), &disk, false);
    let ptr = write(&store, 1).unwrap();
    store.commit(next_roots(&store)).unwrap();
    store.settle().unwrap();
    let worker = store.enter(7).unwrap();
    store.free(ptr).unwrap();
    store.commit(next_roots(&store)).unwrap();
    assert_eq!(store.settle(), Err(Error::Stalled { worker: 7 }));
    assert_eq!(store.space().pending_blocks, 2, "the block and the old log");
    drop(worker);
    store.settle().unwrap();
    assert_eq!(store.space().pending_blocks, 0);
    // One that was forgotten holds up no unmount: there can be no reader any more.
    let next = write(&store, 2).unwrap();
    store.commit(next_roots(&store)).unwrap();
    store.settle().unwrap();
    core::mem::forget(store.enter(8).unwrap());
    store.free(next).unwrap();
    store.commit(next_roots(&store)).unwrap();
    store.unmount().unwrap();
}

/// Generations end where a log can say no higher one: the last of them is committed, and no other, whether by a commit
/// or by growing; what is there stays readable.
#[test]
fn the_last_generation_is_the_last() {
    let image = |generation: u64| {
        let (mut bytes, _) = volume_image();
        let page = superblock(&bytes, true, |head| head.qgen = generation);
        let last = bytes.len() - BLOCK;
        bytes[..BLOCK].copy_from_slice(&page);
        bytes[last..].copy_from_slice(&page);
        bytes
    };
    for grow in [false, true] {
        let memories: Vec<_> = (0..2).map(|_| memory()).collect();
        let disk = Disk::new(image(MAX_GENERATION));
        let store = mount(memories[0].take().unwrap(), &disk, false);
        let ptr = write(&store, 5).unwrap();
        let refused = Err(Error::BadParameter { name: "generation", found: MAX_GENERATION + 1 });
        let roots = next_roots(&store);
        disk.grow(1 << 20);
        assert_eq!(if grow { store.grow().map(|_| 0) } else { store.commit(roots) }, refused);
        assert!(store.failure().is_none() && store.read(ptr).is_ok());
        let disk = Disk::new(image(MAX_GENERATION - 1));
        let store = mount(memories[1].take().unwrap(), &disk, false);
        disk.grow(1 << 20);
        if grow {
            store.grow().unwrap();
        } else {
            assert_eq!(store.commit(next_roots(&store)), Ok(MAX_GENERATION));
        }
        assert_eq!(store.generation(), MAX_GENERATION);
        store.settle().unwrap();
    }
}

/// Roots name a root block or none; its birth is not kept.
#[test]
fn roots_without_a_root_have_none() {
    let memory = memory();
    let disk = Disk::new(vec![0; 512 << 10]);
    let options = FormatOptions { block_size: BlockSize::MIN, arenas: 1, force: false };
    let store = Store::format(memory.take().unwrap(), &disk, &NoInterrupts, options).unwrap();
    assert_eq!((store.roots(), store.roots().root_ptr()), (Roots::EMPTY, None));
    let ptr = write(&store, 1).unwrap();
    let roots = store.roots().with_root(Some(ptr), 3);
    let found = roots.root_ptr().unwrap();
    assert_eq!((found.addr, found.hash, found.gen, roots.height), (ptr.addr, ptr.hash, NONE, 3));
    assert_eq!(roots.with_root(None, 0), Roots::EMPTY);
}

/// A volume with one block in use, and what makes of it another one with other superblocks.
fn volume_image() -> (Vec<u8>, BlockPtr) {
    let memory = memory();
    let disk = Disk::new(vec![0; 512 << 10]);
    let store = format(memory.take().unwrap(), &disk, 1);
    let ptr = write(&store, 1).unwrap();
    store.commit(store.roots().with_root(Some(ptr), 1)).unwrap();
    store.unmount().unwrap();
    (disk.bytes(), ptr)
}

/// The superblock of an image with another head, with or without the extension.
fn superblock(image: &[u8], extended: bool, change: impl FnOnce(&mut SuperHead)) -> Vec<u8> {
    let front = image[..BLOCK].to_vec();
    let superblock = Superblock::decode(&front).unwrap();
    let mut head = *superblock.head();
    change(&mut head);
    let mut page = vec![0; BLOCK];
    encode_superblock(&mut page, &head, &mut |index| superblock.arena(index).unwrap(), extended).unwrap();
    page
}

/// Of two superblocks of one generation that differ in anything that has a meaning, the first one counts and the second
/// is repaired. What lies behind the extension has none.
#[test]
fn two_superblocks_of_one_generation_are_one_or_the_second_is_bad() {
    let (image, _) = volume_image();
    let last = image.len() - BLOCK;
    let other_root = superblock(&image, true, |head| head.next_qid += 1);
    let no_extension = superblock(&image, false, |_| {});
    let mut behind = image[..BLOCK].to_vec();
    *behind.last_mut().unwrap() ^= 1;
    for (second, good) in [(other_root, false), (no_extension, false), (behind, true)] {
        let memory = memory();
        let disk = Disk::new(image.clone());
        disk.edit(|bytes| bytes[last..].copy_from_slice(&second));
        let store = mount(memory.take().unwrap(), &disk, false);
        assert_eq!(store.report().superblocks[0], CopyState::Good);
        assert_eq!(store.report().superblocks[1] == CopyState::Good, good, "{:?}", store.report());
        store.commit(store.roots()).unwrap();
        store.settle().unwrap();
        assert!(good || disk.bytes()[last..] == image[..BLOCK], "repaired from the first");
    }
}

/// Nothing that a superblock names may lie in the log, which the next commit frees.
#[test]
fn a_root_or_dead_list_in_the_log_is_damage() {
    let (image, ptr) = volume_image();
    let log_addr = {
        let memory = memory();
        let disk = Disk::new(image.clone());
        let store = mount(memory.take().unwrap(), &disk, false);
        store.arena(0).unwrap().log_addr
    };
    let fields: [fn(&mut SuperHead, u64); 3] = [
        |head, addr| head.root_addr = addr,
        |head, addr| head.deadlist_head.addr = addr,
        |head, addr| head.deadlist_tail.addr = addr,
    ];
    for set in fields {
        for (addr, fine) in [(log_addr, false), (ptr.addr, true)] {
            let memory = memory();
            let page = superblock(&image, true, |head| set(head, addr));
            let disk = Disk::new(image.clone());
            disk.edit(|bytes| {
                let last = bytes.len() - BLOCK;
                bytes[..BLOCK].copy_from_slice(&page);
                bytes[last..].copy_from_slice(&page);
            });
            let mounted = Store::mount(memory.take().unwrap(), &disk, &NoInterrupts, MountOptions::default());
            let error = mounted.map(drop).map_err(|failed| failed.error);
            assert_eq!(error, if fine { Ok(()) } else { Err(Error::corrupt(addr, Damage::RootFree)) });
        }
    }
}

/// An error in a log names the byte.
#[test]
fn what_is_refused_in_a_log_is_named_by_its_offset() {
    let mut page = vec![0; BLOCK];
    let one = BLOCK as u64;
    let mut log = LogWriter::new(&mut page, BlockSize::MIN).unwrap();
    log.push(LogEntry::Free { addr: 8 * one, len_bytes: 3 * one }).unwrap();
    let bad = |name, offset, found| Err(FormatError::Field { name, offset, found });
    let entry = LogEntry::Alloc { addr: 8 * one, len_bytes: 100 };
    assert_eq!(log.push(entry), bad("log entry length", 36 + 16 + 8, 100));
    assert_eq!(log.push(LogEntry::Barrier { gen: 1 << 56 }), bad("barrier generation", 36 + 16, 1 << 56));
    let error = log.push_link(8 * one + 1).unwrap_err();
    assert!(matches!(error, FormatError::Field { offset: 52, .. }), "{error:?}");
}
