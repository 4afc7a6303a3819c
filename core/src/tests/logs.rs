//! Where the log of an arena goes when there is little room, and what is compared before an old one is let go.

use super::disk::Disk;
use super::mounting::Late;
use super::store::{check_space, memory, options, write, BLOCK};
use crate::format::{
    encode_superblock, ranges_per_block, set_chain, ArenaHeader, ArenaRef, BlockSize, LogBlock, LogEntry, LogWriter,
    Superblock, NONE,
};
use crate::hash::hash64;
use crate::{BlockPtr, Damage, Error, MountOptions, NoInterrupts, Resources, Roots, Store};
use std::sync::atomic::Ordering::SeqCst;
use std::vec;
use std::vec::Vec;

/// Entries of one log block at most, if none is of a single block.
const RANGES: usize = ranges_per_block(BlockSize::MIN);

fn format<'d, 'm>(memory: Resources<'m>, disk: &'d Disk<'m>) -> Store<'d, 'm> {
    Store::format(memory, disk, &NoInterrupts, options(1)).unwrap()
}

fn mount<'d, 'm>(memory: Resources<'m>, disk: &'d Disk<'m>) -> Store<'d, 'm> {
    Store::mount(memory, disk, &NoInterrupts, MountOptions::default()).unwrap()
}

/// Commits, with roots that differ from those before.
fn commit(store: &Store<'_, '_>) -> Result<u64, Error> {
    let roots = store.roots();
    store.commit(Roots { next_qid: roots.next_qid + 1, ..roots })?;
    store.settle()?;
    Ok(store.generation())
}

/// Free space in many pieces of one block: so many blocks written, every other one of the first `2 * freed` freed.
fn in_pieces<'d, 'm>(
    memory: Resources<'m>,
    disk: &'d Disk<'m>,
    blocks: usize,
    freed: usize,
) -> (Store<'d, 'm>, Vec<BlockPtr>) {
    let store = format(memory, disk);
    let mut all: Vec<BlockPtr> = (0..blocks).map_while(|i| write(&store, i as u8).ok()).collect();
    commit(&store).unwrap();
    all.sort_unstable_by_key(|ptr| ptr.addr);
    let mut kept = Vec::new();
    for (number, ptr) in all.into_iter().enumerate() {
        if number % 2 == 0 && number < 2 * freed {
            store.free(ptr).unwrap();
        } else {
            kept.push(ptr);
        }
    }
    commit(&store).unwrap();
    (store, kept)
}

/// Hands out blocks until so many are left to be handed out.
fn leave(store: &Store<'_, '_>, avail: u32) {
    store.engine.arenas.with(0, |state, map| {
        while state.counts.avail > avail {
            map.reserve(&mut state.counts, 0).unwrap();
        }
    });
}

/// The pages of an image's only log, by address, and where its arena is.
fn log_pages(bytes: &[u8]) -> (u64, Vec<u64>) {
    let base = Superblock::decode(&bytes[..BLOCK]).unwrap().arena(0).unwrap().header_addr;
    let page = |addr: u64| &bytes[addr as usize..addr as usize + BLOCK];
    let header = ArenaHeader::decode(page(base), BlockSize::MIN, base).unwrap();
    let mut addrs = vec![header.log_head.addr];
    for _ in 1..header.seal.unwrap().blocks {
        addrs.push(LogBlock::decode(page(*addrs.last().unwrap()), BlockSize::MIN).unwrap().chain());
    }
    (base, addrs)
}

/// What is appended to a log leaves the log's reserve as it is; with less room than that it is written anew, which
/// takes from the reserve and gives more back.
#[test]
fn a_log_is_appended_to_only_while_its_reserve_stays_whole() {
    for missing in if cfg!(miri) { 0..2 } else { -3..4_i32 } {
        let memory = memory();
        let disk = Disk::new(vec![0; 2 << 20]);
        let (store, kept) = in_pieces(memory.take().unwrap(), &disk, 2000, RANGES + 20);
        let before = store.arena(0).unwrap();
        let blocks = before.size_bytes / BLOCK as u64;
        let reserve = blocks.div_ceil(2 * RANGES as u64) + 3;
        assert_eq!(before.log_reserve_bytes, reserve * BLOCK as u64, "half of the blocks in pieces of one, and three");
        assert!(before.free_ranges as usize > RANGES, "a log of several blocks: {before:?}");
        // One change, and the closing barrier: one block more than the changes fill.
        let appended = reserve as u32 + 2;
        leave(&store, appended.checked_add_signed(-missing).unwrap());
        store.free(kept[100]).unwrap();
        commit(&store).unwrap();
        let after = store.arena(0).unwrap();
        if missing <= 0 {
            assert_eq!((after.log_addr, after.log_blocks), (before.log_addr, before.log_blocks + 1), "{missing}");
        } else {
            assert_ne!(after.log_addr, before.log_addr, "{missing} are missing");
        }
    }
}

/// However many lock sections the changes take: they stand between one barrier and one.
#[test]
fn many_changes_are_appended_between_two_barriers() {
    let memory = memory();
    let disk = Disk::new(vec![0; 2 << 20]);
    let (store, kept) = in_pieces(memory.take().unwrap(), &disk, 2000, 2 * RANGES + 100);
    let before = store.generation();
    let (_, old) = log_pages(&disk.bytes());
    kept.iter().skip(50).step_by(2).take(100).for_each(|ptr| store.free(*ptr).unwrap());
    let generation = commit(&store).unwrap();
    let bytes = disk.bytes();
    let (_, new) = log_pages(&bytes);
    assert_eq!(new[..old.len()], old, "appended to");
    let entries = new[old.len()..].iter().flat_map(|addr| {
        let page = &bytes[*addr as usize..*addr as usize + BLOCK];
        LogBlock::decode(page, BlockSize::MIN).unwrap().entries().map(Result::unwrap).collect::<Vec<_>>()
    });
    let entries: Vec<LogEntry> = entries.collect();
    assert!(entries.len() > 100, "{}", entries.len());
    for (at, entry) in entries.iter().enumerate() {
        let expected = match at {
            0 => Some(before),
            at if at + 1 == entries.len() => Some(generation),
            _ => None,
        };
        let found = if let LogEntry::Barrier { gen } = entry { Some(*gen) } else { None };
        assert_eq!(found, expected, "entry {at}");
    }
}

/// However the blocks of a new log lie to what it lists: it takes them out of that once, and what mount reads is what
/// was meant.
#[test]
fn a_log_written_anew_is_right_wherever_the_search_for_its_blocks_begins() {
    let first = memory();
    let disk = Disk::new(vec![0; 1500 << 10]);
    let (store, kept) = in_pieces(first.take().unwrap(), &disk, 620, 300);
    assert!(store.arena(0).unwrap().log_blocks > 1);
    let blocks = store.space().total_blocks as u32;
    for cursor in (0..blocks).step_by(if cfg!(miri) { 300 } else { 1 }) {
        store.engine.arenas.with(0, |state, _| {
            state.cursor = cursor;
            state.must_rewrite = true;
        });
        commit(&store).unwrap();
        let memory = memory();
        let copy = Disk::new(disk.bytes());
        let again = mount(memory.take().unwrap(), &copy);
        check_space(&again, &kept);
        assert_eq!(again.space().free_blocks, store.space().free_blocks, "beginning at {cursor}");
    }
}

/// Fills the only arena to the last block, as the original may; all of it is committed.
fn fill(store: &Store<'_, '_>) -> Vec<BlockPtr> {
    let mut held = Vec::new();
    while let Some(filling) = store.allocate_from_reserve() {
        held.push(store.enqueue(filling).unwrap().ptr());
        if store.space().avail_blocks == 1 {
            commit(store).unwrap();
        }
    }
    assert_eq!(store.space().avail_blocks, 0);
    held
}

/// In an arena without a free block the log moves between the last two, and never onto the one that is durable: not
/// after a mount either.
#[test]
fn the_log_of_a_full_arena_takes_turns_between_the_last_two_blocks() {
    for remounts in [false, true] {
        let memories: Vec<_> = (0..10).map(|_| memory()).collect();
        let mut memories = memories.iter();
        let disk = Disk::new(vec![0; 128 << 10]);
        let mut store = format(memories.next().unwrap().take().unwrap(), &disk);
        let arena = store.arena(0).unwrap();
        let end = arena.addr + 2 * BLOCK as u64 + arena.size_bytes;
        fill(&store);
        let mut seen = Vec::new();
        for round in 0..8 {
            // What the last log was in, if that was not one of the two.
            fill(&store);
            let before = store.arena(0).unwrap().log_addr;
            commit(&store).unwrap();
            let after = store.arena(0).unwrap().log_addr;
            assert!(after == end - BLOCK as u64 || after == end - 2 * BLOCK as u64, "{after:#x} of {end:#x}");
            assert_ne!(after, before, "round {round}: written over the durable log");
            seen.push(after);
            if remounts {
                store.unmount().unwrap();
                store = mount(memories.next().unwrap().take().unwrap(), &disk);
            }
        }
        assert!(seen.contains(&(end - BLOCK as u64)) && seen.contains(&(end - 2 * BLOCK as u64)));
    }
}

/// A log that has both of them leaves no room for another: that is an error, and nothing is written anywhere.
#[test]
fn without_any_room_for_a_log_a_commit_is_refused_and_writes_nothing() {
    let memories: Vec<_> = (0..2).map(|_| memory()).collect();
    let disk = Disk::new(vec![0; 128 << 10]);
    let store = format(memories[0].take().unwrap(), &disk);
    let arena = store.arena(0).unwrap();
    fill(&store);
    commit(&store).unwrap();
    store.unmount().unwrap();
    let size = BlockSize::MIN;
    let unit = BLOCK as u64;
    let end = arena.addr + 2 * unit + arena.size_bytes;
    disk.edit(|bytes| {
        let superblock = bytes[..BLOCK].to_vec();
        let superblock = Superblock::decode(&superblock).unwrap();
        let head = *superblock.head();
        let (mut first, mut last) = (vec![0; BLOCK], vec![0; BLOCK]);
        LogWriter::new(&mut first, size).unwrap().finish(end - unit).unwrap();
        let mut log = LogWriter::new(&mut last, size).unwrap();
        log.push(LogEntry::Barrier { gen: head.qgen }).unwrap();
        log.finish(NONE).unwrap();
        let mut page = vec![0; BLOCK];
        let log_head = crate::format::AddrHash { addr: end - 2 * unit, hash: NONE };
        let header = ArenaHeader { log_head, size_bytes: arena.size_bytes, used_bytes: arena.size_bytes, seal: None };
        header.encode(&mut page, size, arena.addr).unwrap();
        let at = |addr: u64| addr as usize..addr as usize + BLOCK;
        bytes[at(end - 2 * unit)].copy_from_slice(&first);
        bytes[at(end - unit)].copy_from_slice(&last);
        bytes[at(arena.addr)].copy_from_slice(&page);
        bytes[at(arena.addr + unit)].copy_from_slice(&page);
        let header_hash = hash64(&page);
        let mut of = |_| ArenaRef { header_addr: arena.addr, header_hash };
        encode_superblock(&mut page, &head, &mut of, false).unwrap();
        bytes[..BLOCK].copy_from_slice(&page);
        let second = bytes.len() - BLOCK;
        bytes[second..].copy_from_slice(&page);
    });
    let image = disk.bytes();
    let store = mount(memories[1].take().unwrap(), &disk);
    assert_eq!((store.space().avail_blocks, store.arena(0).unwrap().log_blocks), (0, 2));
    let error = commit(&store).unwrap_err();
    assert!(matches!(error, Error::Full { .. }), "{error}");
    assert!(disk.bytes() == image);
}

/// A log that has one of the last two blocks still has it when something was appended behind it.
#[test]
fn what_is_appended_to_a_log_leaves_the_blocks_that_it_has() {
    let memory = memory();
    let disk = Disk::new(vec![0; 2 << 20]);
    let (store, kept) = in_pieces(memory.take().unwrap(), &disk, 2000, 2 * RANGES + 100);
    let taken = || store.engine.arenas.log(0).spares;
    // Room for one block of a log that needs two.
    let reserved: Vec<u32> = store.engine.arenas.with(0, |state, map| {
        let mut reserved = Vec::new();
        while state.counts.avail > 1 {
            reserved.push(map.reserve(&mut state.counts, 0).unwrap());
        }
        state.must_rewrite = true;
        reserved
    });
    commit(&store).unwrap();
    let spares = taken();
    assert_ne!(spares, 0, "{:?}", store.arena(0));
    store.engine.arenas.with(0, |state, map| {
        reserved.iter().for_each(|block| map.unreserve(&mut state.counts, *block).unwrap());
    });
    let before = store.arena(0).unwrap();
    store.free(kept[100]).unwrap();
    commit(&store).unwrap();
    let after = store.arena(0).unwrap();
    assert_eq!((after.log_addr, after.log_blocks), (before.log_addr, before.log_blocks + 1), "appended to");
    assert_eq!(taken(), spares);
}

/// On an arena that has less room than the log's reserve, one more free is refused before the log of the next commit
/// would not find room; that commit always goes through.
#[test]
fn frees_in_a_full_arena_end_before_the_next_log_has_no_room() {
    let memory = memory();
    let disk = Disk::new(vec![0; 2 << 20]);
    let store = format(memory.take().unwrap(), &disk);
    let mut held = fill(&store);
    let mut give = |store: &Store<'_, '_>| {
        held.sort_unstable_by_key(|ptr| ptr.addr);
        let mut given = 0;
        for at in (0..held.len() / 2).rev() {
            match store.free(held[2 * at]) {
                Ok(()) => held.remove(2 * at),
                Err(Error::Full { .. }) => break,
                Err(error) => panic!("{error}"),
            };
            given += 1;
        }
        given
    };
    // Each may be a range, and so may what the log's own blocks leave: the last two blocks hold so many.
    let known = || store.engine.arenas.with(0, |state, _| state.changes + state.counts.ranges_flight) as usize;
    let before = known();
    assert_eq!(before + give(&store), 2 * RANGES - 1);
    commit(&store).unwrap();
    // And with the log in one of these two, half as many.
    let more = fill(&store);
    commit(&store).unwrap();
    let refilled = fill(&store);
    assert_eq!(store.engine.arenas.log(0).spares.count_ones(), 1);
    drop((more, refilled));
    let before = known();
    assert_eq!(before + give(&store), RANGES - 1);
    commit(&store).unwrap();
}

/// No hash covers where a log block leads: before an old log is let go, the way through it is compared with what the
/// header vouches for.
#[test]
fn a_long_log_is_let_go_only_if_the_way_through_it_is_the_known_one() {
    let first = memory();
    let disk = Disk::new(vec![0; 2 << 20]);
    let (store, kept) = in_pieces(first.take().unwrap(), &disk, 2000, 420);
    let (_, pages) = log_pages(&disk.bytes());
    assert!(pages.len() > 2, "{pages:?}");
    let (before_tail, tail) = (pages[pages.len() - 2], pages[pages.len() - 1]);
    store.unmount().unwrap();
    let image = disk.bytes();
    let at = |addr: u64| addr as usize..addr as usize + BLOCK;
    // The block in front of the last leads elsewhere; or another block is there in its stead.
    for elsewhere in [true, false] {
        let memory = memory();
        let disk = Disk::new(image.clone());
        let store = mount(memory.take().unwrap(), &disk);
        disk.edit(|bytes| {
            if elsewhere {
                set_chain(&mut bytes[at(before_tail)], BlockSize::MIN, kept[3].addr).unwrap();
            } else {
                LogWriter::new(&mut bytes[at(before_tail)], BlockSize::MIN).unwrap().finish(tail).unwrap();
            }
        });
        store.engine.arenas.with(0, |state, _| state.must_rewrite = true);
        let error = commit(&store).unwrap_err();
        let found_at = if elsewhere { kept[3].addr } else { tail };
        assert!(
            matches!(error, Error::Corrupt { addr, damage: Damage::LogDigest { .. }, .. } if addr == found_at),
            "{error:?}"
        );
        assert_eq!(disk.bytes()[..BLOCK], image[..BLOCK], "what was committed still is");
    }
    // The last block is about to be written back with a link, and is not what it was.
    let memory = memory();
    let disk = Disk::new(image.clone());
    let store = mount(memory.take().unwrap(), &disk);
    disk.edit(|bytes| {
        LogWriter::new(&mut bytes[at(tail)], BlockSize::MIN).unwrap().finish(NONE).unwrap();
    });
    store.free(kept[100]).unwrap();
    let error = commit(&store).unwrap_err();
    assert!(
        matches!(error, Error::Corrupt { addr, damage: Damage::LogDigest { .. }, .. } if addr == tail),
        "{error:?}"
    );
}

/// Until the device has discarded what a commit freed, nobody is handed it.
#[test]
fn what_is_being_discarded_is_not_handed_out() {
    let memories: Vec<_> = (0..2).map(|_| memory()).collect();
    let image = {
        let disk = Disk::new(vec![0; 1 << 20]);
        format(memories[0].take().unwrap(), &disk).unmount().unwrap();
        disk.bytes()
    };
    let device = Late::new(image);
    let options = MountOptions { discard: true, ..MountOptions::default() };
    let store = Store::mount(memories[1].take().unwrap(), &device, &NoInterrupts, options).unwrap();
    let ptr = write(&store, 1).unwrap();
    commit(&store).unwrap();
    device.disk.take_discards();
    store.free(ptr).unwrap();
    let roots = store.roots();
    store.commit_start(Roots { next_qid: roots.next_qid + 1, ..roots }).unwrap();
    let mut discarded = 0;
    while discarded == 0 {
        store.step();
        discarded = device.disk.take_discards().len();
        device.stalled.store(discarded != 0, SeqCst);
    }
    for _ in 0..20 {
        store.step();
    }
    assert!(device.held.load(SeqCst) != 0 && store.space().pending_blocks != 0, "{:?}", store.space());
    device.stalled.store(false, SeqCst);
    store.settle().unwrap();
    assert_eq!(store.space().pending_blocks, 0);
}

/// A copy is repaired from the other one only if that still is what mount found.
#[test]
fn no_copy_is_repaired_from_one_that_has_gone_bad_since() {
    let first = memory();
    let (image, older, base) = {
        let disk = Disk::new(vec![0; 1 << 20]);
        let store = format(first.take().unwrap(), &disk);
        let older = disk.bytes()[..BLOCK].to_vec();
        commit(&store).unwrap();
        let base = store.arena(0).unwrap().addr as usize;
        store.unmount().unwrap();
        (disk.bytes(), older, base)
    };
    let last = image.len() - BLOCK;
    for (good, bad) in [(base, base + BLOCK), (base + BLOCK, base), (0, last), (last, 0)] {
        let memory = memory();
        let disk = Disk::new(image.clone());
        disk.edit(|bytes| bytes[bad + 20] ^= 1);
        let store = mount(memory.take().unwrap(), &disk);
        let is_superblock = good == 0 || good == last;
        disk.edit(|bytes| match is_superblock {
            true => bytes[good..good + BLOCK].copy_from_slice(&older),
            false => bytes[good + 30] ^= 1,
        });
        let before = disk.bytes();
        let error = commit(&store).unwrap_err();
        assert!(
            matches!(error, Error::Corrupt { addr, damage: Damage::Hash { .. }, .. } if addr == good as u64),
            "{error:?}"
        );
        assert!(disk.bytes() == before, "nothing was written");
    }
}

/// What is said of a superblock that a commit has replaced since is no news.
#[test]
fn a_report_about_an_older_superblock_leads_to_no_repair() {
    let memory = memory();
    let disk = Disk::new(vec![0; 1 << 20]);
    let store = format(memory.take().unwrap(), &disk);
    commit(&store).unwrap();
    store.note_bad_superblock(1, store.generation() - 1);
    disk.take_log();
    store.commit(store.roots()).unwrap();
    assert_eq!((store.counters().commit.repairs, disk.take_log()), (0, vec![]));
    store.note_bad_superblock(1, store.generation());
    store.commit(store.roots()).unwrap();
    assert_eq!(store.counters().commit.repairs, 1);
}
