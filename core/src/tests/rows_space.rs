//! Space: which arena an allocation gets, which arena an address is in, ranges of free blocks, busy arenas, and the
//! size of the memory and of the stack. Rows 5, 6, 7 and 13 of docs/ROWS.md, and invariants 5, 8 and 9.

use super::disk::Disk;
use super::store::{memory, options, write, BLOCK};
use crate::arena::{ArenaSlot, Arenas, Place, Reserved, WORDS_PER_SECTION};
use crate::format::{BlockSize, BlockType};
use crate::freemap::{tests::all_runs, Counts, FreeMap, Runs, State};
use crate::memory::{map_words, pages_for};
use crate::sync::AtomicUsize;
use crate::{Allocate, BlockPtr, Class, Error, Memory, MountOptions, NoInterrupts, Platform, Roots, ScrubStep, Store};
use core::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::boxed::Box;
use std::sync::{mpsc, OnceLock};
use std::time::{Duration, Instant};
use std::vec;
use std::vec::Vec;

fn words(blocks: u32) -> Vec<AtomicUsize> {
    (0..FreeMap::words_needed(blocks)).map(|_| AtomicUsize::new(0)).collect()
}

/// Hands out a block and takes it back.
fn arena_of(store: &Store<'_, '_>, hint: u32) -> usize {
    let place = store.engine.arenas.allocate(Class::Normal, hint).unwrap().place;
    store.engine.arenas.unreserve(place).unwrap();
    place.arena
}

#[test]
fn allocations_spread_by_hint_and_move_on_after_a_while() {
    let memory = memory();
    let disk = Disk::new(vec![0; 1 << 20]);
    let store = Store::format(memory.take().unwrap(), &disk, &NoInterrupts, options(4)).unwrap();
    let spread: Vec<usize> = (0..4).map(|hint| arena_of(&store, hint)).collect();
    assert!((0..4).all(|arena| spread.contains(&arena)), "{spread:?}");
    for hint in 0..100 {
        assert_eq!(arena_of(&store, hint), spread[hint as usize % 4], "equal hints share an arena");
    }
    // With one hint for all, the arenas take turns, not too often and not too seldom.
    let visited: Vec<usize> = (0..9000).map(|_| arena_of(&store, 7)).collect();
    let moves = visited.windows(2).filter(|pair| pair[0] != pair[1]).count();
    assert!((4..=5).contains(&moves), "{moves}");
    assert!((0..4).all(|arena| visited.contains(&arena)));
}

/// Nodes of a hint share an arena, and data of that hint another one, for every type and whatever the turn.
#[test]
fn nodes_and_data_of_one_hint_are_in_different_arenas() {
    let memory = memory();
    let disk = Disk::new(vec![0; 1 << 20]);
    let store = Store::format(memory.take().unwrap(), &disk, &NoInterrupts, options(4)).unwrap();
    let arena_of = |block_type, hint| {
        let filling = store.allocate(Allocate::new(block_type).hint(hint)).unwrap();
        store.engine.arenas.locate(filling.addr()).unwrap().arena
    };
    for turn in 0..4 {
        for hint in 0..8 {
            let data = arena_of(BlockType::Data, hint);
            assert_eq!(data, (hint as usize + turn) % 4);
            for node in [BlockType::Pivot, BlockType::Leaf, BlockType::DeadList] {
                assert_eq!(arena_of(node, hint), (data + 1) % 4, "{node:?} of hint {hint}");
            }
        }
        // Eight from each arena in every turn so far; then the rest of 2048 from the one whose turn it is.
        (0..2048 - 8 * (turn + 1)).for_each(|_| assert_eq!(arena_of(BlockType::Data, 0), turn));
    }
}

#[test]
fn an_arena_without_room_leads_to_the_others() {
    let memory = memory();
    let disk = Disk::new(vec![0; 512 << 10]);
    let store = Store::format(memory.take().unwrap(), &disk, &NoInterrupts, options(4)).unwrap();
    let room = store.room_blocks(Class::Normal);
    let mut in_arena = [0; 4];
    while let Some(reserved) = store.engine.arenas.allocate(Class::Normal, 2) {
        in_arena[reserved.place.arena] += 1;
    }
    let error = store.allocate(Allocate::data()).unwrap_err();
    assert!(matches!(error, Error::Full { room_blocks: 0, .. }), "{error}");
    assert_eq!(in_arena.iter().sum::<u64>(), room);
    assert!(in_arena.iter().all(|count| *count > 30), "{in_arena:?}");
}

/// When all arenas but one are full, no allocation but the first searches for it, whatever its hint.
#[test]
fn the_only_arena_with_room_is_searched_for_once() {
    let platform: &'static Counting = Box::leak(Box::new(Counting(AtomicU32::new(0))));
    let (store, arenas) = leaked(4, platform);
    while store.engine.arenas.allocate(Class::Normal, 0).is_some() {}
    for (round, open) in [3, 1, 2].into_iter().enumerate() {
        let give = |index| store.engine.arenas.unreserve(store.engine.arenas.at(open, index)).unwrap();
        (20..40).for_each(give);
        assert_eq!(arena_of(store, 0), open);
        for hint in 0..8 {
            let before = platform.0.load(Ordering::SeqCst);
            assert_eq!(arena_of(store, hint), open);
            let sections = platform.0.load(Ordering::SeqCst) - before;
            // The arena of the hint, the one that has room, and one to give the block back.
            assert!(sections <= 3, "{sections} sections of {arenas} arenas in round {round}");
        }
        while store.engine.arenas.allocate(Class::Normal, 0).is_some() {}
    }
}

/// Arenas with gaps between them, as growing and the original leave, and arenas that are alike but for one; every
/// block from in front of the first to behind the last, against a search from the start.
#[test]
fn an_address_is_in_an_arena_or_an_error_at_every_boundary() {
    located((0..40).map(|i| (1 + i * 50 + i % 3, 3 + (i * 7) % 44)).collect());
    located((0..40).map(|i| (1 + i * 50, if i < 39 { 48 } else { 20 })).collect());
    // The first is the largest.
    located([(1, 98)].into_iter().chain((0..39).map(|i| (101 + i * 50, 48))).collect());
    // So far behind that 2^32 divided by an arena's blocks, rounded, leads to the next arena now and then.
    located((0..40).map(|i| ((1 << 31) + i * 51, 49)).chain([((1 << 31) + 2040, 7)]).collect());
}

fn located(extents: Vec<(u32, u32)>) {
    let size = BlockSize::MIN;
    let slots: &'static [ArenaSlot] = Box::leak(extents.iter().map(|_| ArenaSlot::new()).collect());
    let first = extents[0].0 - 1;
    for count in [0, 1, 2, 3, 17, extents.len()] {
        let arenas = Arenas::new(slots, count, &[], size, &NoInterrupts);
        for (arena, (base, blocks)) in extents.iter().enumerate() {
            arenas.place(arena, *base, *blocks, 0);
        }
        for block in first..first + 2100 {
            let arena =
                extents[..count].iter().position(|(base, blocks)| (base + 2..base + 2 + blocks).contains(&block));
            let addr = u64::from(block) << size.shift();
            let expected = arena.map(|arena| Place { arena, index: block - extents[arena].0 - 2, block });
            assert_eq!(arenas.locate(addr), expected, "block {block} of {count} arenas");
            for off in [1, 512, 2047] {
                assert_eq!(arenas.locate(addr + off), None);
            }
        }
        for addr in [u64::MAX, u64::MAX << size.shift(), 1 << 43, (1 << 43) - BLOCK as u64, 1 << 60] {
            assert_eq!(arenas.locate(addr), None);
        }
    }
}

/// The same from outside: superblocks, headers, the last two blocks of an arena, what is behind the device.
#[test]
fn addresses_that_are_no_callers_are_refused_by_every_call() {
    let memory = memory();
    let disk = Disk::new(vec![0; 1 << 20]);
    let store = Store::format(memory.take().unwrap(), &disk, &NoInterrupts, options(3)).unwrap();
    let (unit, space) = (BLOCK as u64, store.space());
    let mut outside = vec![0, (1 << 20) - unit, 1 << 20, u64::MAX, u64::MAX - unit + 1];
    for arena in 0..3 {
        let info = store.arena(arena).unwrap();
        outside.extend([info.addr, info.addr + unit, info.addr + 2 * unit + 1]);
        let first = info.addr + 2 * unit;
        assert!(store.is_free(first).is_ok() && store.is_free(first + info.size_bytes - unit) == Ok(false));
    }
    disk.take_reads();
    for addr in outside {
        let ptr = BlockPtr { addr, hash: 0, gen: 1 };
        assert_eq!(store.read(ptr).unwrap_err(), Error::BadAddress { addr });
        assert_eq!(store.free(ptr), Err(Error::BadAddress { addr }));
        assert_eq!(store.is_free(addr), Err(Error::BadAddress { addr }));
    }
    assert_eq!(store.arena(3), None);
    assert_eq!((disk.take_reads(), store.space()), (vec![], space));
}

/// A free map, and what commits do to it.
struct Map<'a> {
    map: FreeMap<'a>,
    counts: Counts,
}

impl Map<'_> {
    fn commit(&mut self) {
        while !self.map.roll(&mut self.counts, 5) {}
        while !self.map.settle(&mut self.counts, 5) {}
    }

    fn take(&mut self, range: core::ops::Range<u32>) {
        for block in range {
            assert_eq!(self.map.reserve(&mut self.counts, block), Some(block));
            self.map.enqueue(&mut self.counts, block).unwrap();
        }
        self.commit();
    }

    fn give(&mut self, range: core::ops::Range<u32>) {
        for block in range {
            self.map.free(&mut self.counts, block).unwrap();
        }
        self.commit();
    }

    fn ranges(&self) -> Vec<(u32, u32)> {
        let ranges = all_runs(&self.map, Runs::FreeInFlight, 2);
        let ranges: Vec<(u32, u32)> = ranges.iter().map(|run| (run.first, run.count)).collect();
        assert_eq!(self.counts.ranges_flight as usize, ranges.len());
        assert_eq!(self.counts.avail, ranges.iter().map(|range| range.1).sum::<u32>());
        ranges
    }
}

#[test]
fn ranges_split_and_join_at_the_start_the_end_the_middle_and_whole() {
    let words = words(300);
    let map = FreeMap::new(&words, 300);
    map.clear();
    map.load_range(0, 300, true).unwrap();
    let mut map = Map { map, counts: map.load_done() };
    assert_eq!(map.ranges(), [(0, 300)]);
    map.take(0..10);
    assert_eq!(map.ranges(), [(10, 290)], "from the start");
    map.take(290..300);
    assert_eq!(map.ranges(), [(10, 280)], "from the end");
    map.take(100..128);
    assert_eq!(map.ranges(), [(10, 90), (128, 162)], "from the middle");
    map.take(10..100);
    assert_eq!(map.ranges(), [(128, 162)], "whole");
    map.give(100..128);
    assert_eq!(map.ranges(), [(100, 190)], "joined with what is behind it");
    map.give(20..40);
    assert_eq!(map.ranges(), [(20, 20), (100, 190)], "alone");
    map.give(290..295);
    assert_eq!(map.ranges(), [(20, 20), (100, 195)], "joined with what is in front of it");
    map.give(40..100);
    assert_eq!(map.ranges(), [(20, 275)], "joined with both");
    map.give(0..20);
    map.give(295..300);
    assert_eq!(map.ranges(), [(0, 300)]);
}

/// As many pieces as there can be take the same memory as one, and each can be handed out.
#[test]
fn the_worst_fragmentation_needs_no_more_memory() {
    for blocks in [64, 4096, 70_000] {
        let words = words(blocks);
        let map = FreeMap::new(&words, blocks);
        map.clear();
        for block in (0..blocks).step_by(2) {
            map.load_range(block, 1, true).unwrap();
        }
        let mut map = Map { map, counts: map.load_done() };
        assert_eq!(map.counts.ranges_flight, blocks / 2);
        for block in (0..blocks).step_by(2) {
            assert_eq!(map.map.reserve(&mut map.counts, block), Some(block));
        }
        assert_eq!(map.map.reserve(&mut map.counts, 0), None);
        // Four bits a block, and four summaries of one bit a word, in levels.
        const WORD_BITS: usize = crate::memory::WORD_BITS;
        let bits = words.len() * WORD_BITS;
        assert!(bits <= blocks as usize * 4 * WORD_BITS / (WORD_BITS - 1) + 1500, "{bits} bits for {blocks} blocks");
    }
}

type World = (&'static Store<'static, 'static>, usize);

fn leaked(arenas: u32, platform: &'static dyn Platform) -> World {
    let disk: &'static Disk<'static> = Box::leak(Box::new(Disk::new(vec![0; 1 << 20])));
    let memory = Box::leak(memory());
    let store = Store::format(memory.take().unwrap(), disk, platform, options(arenas)).unwrap();
    (Box::leak(Box::new(store)), arenas as usize)
}

/// With the lock of an arena held for as long as the test likes, an allocation takes the next one and does not wait.
#[test]
fn an_allocation_does_not_wait_for_a_busy_arena_while_another_has_room() {
    let (store, arenas) = leaked(3, &NoInterrupts);
    for busy in 0..arenas {
        let (sender, receiver) = mpsc::channel();
        store.engine.arenas.with(busy, |_, _| {
            std::thread::spawn(move || sender.send(store.engine.arenas.allocate(Class::Normal, busy as u32)));
            let place = receiver.recv_timeout(Duration::from_secs(20)).expect("the allocation waits");
            assert_eq!(place.unwrap().place.arena, (busy + 1) % arenas);
        });
    }
}

/// Entries into critical sections.
pub(super) struct Counting(pub(super) AtomicU32);

impl Platform for Counting {
    fn enter_critical(&self) -> usize {
        self.0.fetch_add(1, Ordering::SeqCst);
        0
    }
    fn leave_critical(&self, _saved: usize) {}
}

/// With the locks of all arenas held, an allocation waits, and does not say that the volume is full.
#[test]
fn an_allocation_waits_when_every_arena_is_busy() {
    let platform: &'static Counting = Box::leak(Box::new(Counting(AtomicU32::new(0))));
    let (store, _) = leaked(1, platform);
    let (sender, receiver) = mpsc::channel();
    store.engine.arenas.with(0, |_, _| {
        let before = platform.0.load(Ordering::SeqCst);
        std::thread::spawn(move || sender.send(store.engine.arenas.allocate(Class::Normal, 0)));
        // The first round tries; the second waits, inside its critical section.
        let begun = Instant::now();
        while platform.0.load(Ordering::SeqCst) < before + 2 {
            assert!(begun.elapsed() < Duration::from_secs(20), "there is no second round");
            std::thread::yield_now();
        }
        assert!(receiver.recv_timeout(Duration::from_millis(20)).is_err(), "an allocation without a lock");
    });
    assert_eq!(receiver.recv_timeout(Duration::from_secs(20)).expect("the allocation hangs").unwrap().place.arena, 0);
}

/// Just before each lock of an arena is taken, moves the only free block out of that arena into the other one: gives
/// the one that it holds there back, then takes the one here. There is room at every moment, and none where anybody
/// looks.
struct Mover {
    arenas: OnceLock<&'static Arenas<'static>>,
    looks: AtomicU32,
    moves_left: AtomicU32,
    busy: AtomicBool,
}

impl Mover {
    fn take(&self, arena: usize) {
        let arenas = self.arenas.get().unwrap();
        arenas.with(arena, |state, map| assert_eq!(map.reserve(&mut state.counts, 0), Some(0)));
    }
}

impl Platform for Mover {
    fn enter_critical(&self) -> usize {
        let Some(arenas) = self.arenas.get() else { return 0 };
        if self.busy.swap(true, Ordering::SeqCst) {
            return 0;
        }
        let next = self.looks.fetch_add(1, Ordering::SeqCst) as usize % 2;
        let left = self.moves_left.load(Ordering::SeqCst);
        let is_free = |arena| arenas.loading(arena).state(0) == State::Free;
        if left > 0 && is_free(next) {
            self.moves_left.store(left - 1, Ordering::SeqCst);
            arenas.unreserve(arenas.at(1 - next, 0)).unwrap();
            self.take(next);
        }
        self.busy.store(false, Ordering::SeqCst);
        0
    }
    fn leave_critical(&self, _saved: usize) {}
}

#[test]
fn room_that_moves_from_arena_to_arena_is_found() {
    for (moves, found) in [(0, true), (1, true), (4, true), (20, true), (u32::MAX, false)] {
        let mover: &'static Mover = Box::leak(Box::new(Mover {
            arenas: OnceLock::new(),
            looks: AtomicU32::new(0),
            moves_left: AtomicU32::new(moves),
            busy: AtomicBool::new(false),
        }));
        let slots: &'static [ArenaSlot] = Box::leak((0..2).map(|_| ArenaSlot::new()).collect());
        let words: &'static [AtomicUsize] = Box::leak(words(64).into_iter().chain(words(64)).collect());
        let arenas: &'static Arenas<'static> = Box::leak(Box::new(Arenas::new(slots, 0, words, BlockSize::MIN, mover)));
        arenas.append(2, 1, 64, 0);
        for arena in 0..2 {
            arenas.with(arena, |state, map| while map.reserve(&mut state.counts, 1).is_some() {});
        }
        arenas.unreserve(arenas.at(1, 0)).unwrap();
        assert!(mover.arenas.set(arenas).is_ok());
        let place = arenas.allocate_leaving(|_| 0, 0);
        assert_eq!(place.is_some(), found, "{moves} moves: {place:?}");
        assert!(matches!(place, Some(Reserved { place: Place { index: 0, .. }, .. }) | None));
    }
}

/// A block that comes back where the search has just been is seen, without anybody taking one.
#[test]
fn room_that_comes_back_behind_the_search_is_found() {
    let words: Vec<AtomicUsize> = words(64).into_iter().chain(words(64)).collect();
    let slots = [ArenaSlot::new(), ArenaSlot::new()];
    let arenas = Arenas::new(&slots, 0, &words, BlockSize::MIN, &NoInterrupts);
    arenas.append(2, 1, 64, 0);
    for arena in 0..2 {
        arenas.with(arena, |state, map| while map.reserve(&mut state.counts, 1).is_some() {});
    }
    let looks = core::cell::Cell::new(0);
    let found = arenas.allocate_leaving(
        |arena| {
            looks.set(looks.get() + 1);
            // The last look of the second round over both, without waiting and with.
            if looks.get() == 8 {
                assert_eq!(arena, 1);
                arenas.unreserve(arenas.at(0, 5)).unwrap();
            }
            0
        },
        0,
    );
    assert!(matches!(found, Some(Reserved { place: Place { arena: 0, index: 5, .. }, .. })), "{found:?}");
}

/// Beginning and ending a commit of an arena with changes in many words of its map takes many sections, each of few
/// words.
#[test]
fn a_commit_of_much_begins_and_ends_in_short_lock_sections() {
    let changed = 5 * WORDS_PER_SECTION;
    let blocks = (changed * crate::memory::WORD_BITS) as u32;
    let words = words(blocks);
    let slots: [ArenaSlot; 1] = [ArenaSlot::new()];
    let arenas = Arenas::new(&slots, 1, &words, BlockSize::MIN, &NoInterrupts);
    arenas.place(0, 1, blocks, 0);
    arenas.with(0, |state, map| {
        map.load_range(0, blocks, true).unwrap();
        state.counts = map.load_done();
        for word in 0..changed as u32 {
            let block = map.reserve(&mut state.counts, word * crate::memory::WORD_BITS as u32).unwrap();
            map.enqueue(&mut state.counts, block).unwrap();
        }
        state.rolling = true;
    });
    let sections = |done: &dyn Fn() -> bool| (0..100).take_while(|_| !done()).count();
    assert!((4..=5).contains(&sections(&|| arenas.roll_some(0))));
    let free = arenas.with(0, |state, _| state.counts.free_flight);
    assert_eq!(free, blocks - changed as u32, "all of it is in");
    let settle = || arenas.with(0, |state, map| map.settle(&mut state.counts, WORDS_PER_SECTION));
    assert!((4..=5).contains(&sections(&settle)));
}

/// What a memory value costs is known when it is compiled, and is what its parts cost.
#[test]
fn the_size_of_a_memory_follows_from_its_parameters() {
    type Base = Memory<{ pages_for(24, BLOCK) }, 24, { map_words(1024, 4) }, 4, 16>;
    type MoreBuffers = Memory<{ pages_for(1024, BLOCK) }, 1024, { map_words(1024, 4) }, 4, 16>;
    type MoreVolume = Memory<{ pages_for(24, BLOCK) }, 24, { map_words(1 << 20, 4) }, 4, 16>;
    const SIZE: usize = Base::SIZE_BYTES;
    const _: () = assert!(SIZE > 24 * BLOCK);
    let buffers = MoreBuffers::SIZE_BYTES - SIZE;
    assert!((1000 * BLOCK..1000 * (BLOCK + 104) + 8192).contains(&buffers), "{buffers} bytes for 1000 buffers");
    let volume = MoreVolume::SIZE_BYTES - SIZE;
    let bits = ((1 << 20) - 1024) * 4;
    assert!((bits..bits * 66 / 64 + 8 * 8192).contains(&(volume * 8)), "{volume} bytes for a million blocks");
}

/// Nothing of any size is on the stack: mount, changes, commits, growing and scrubbing all fit into a small one.
#[test]
fn the_whole_store_runs_on_a_small_stack() {
    const STACK_LEN_BYTES: usize = 64 << 10;
    let memories = [memory(), memory()];
    let disk = Disk::new(vec![0; 512 << 10]);
    let work = || {
        let store = Store::format(memories[0].take().unwrap(), &disk, &NoInterrupts, options(1)).unwrap();
        let ptrs: Vec<BlockPtr> = (0..100).map(|i| write(&store, i).unwrap()).collect();
        store.commit(store.roots().with_root(Some(ptrs[0]), 1)).unwrap();
        ptrs.iter().skip(1).step_by(2).for_each(|ptr| store.free(*ptr).unwrap());
        disk.grow(1 << 20);
        store.grow().unwrap();
        store.unmount().unwrap();
        disk.edit(|bytes| bytes[9] ^= 1);
        let store = Store::mount(memories[1].take().unwrap(), &disk, &NoInterrupts, MountOptions::default()).unwrap();
        assert!(store.read(ptrs[0]).is_ok() && store.commit(Roots::EMPTY).is_ok());
        let mut scrub = store.scrub();
        while !matches!(scrub.step(), Ok(ScrubStep::Done(_))) {
            store.step();
        }
    };
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new().stack_size(STACK_LEN_BYTES).spawn_scoped(scope, work);
        thread.unwrap().join().unwrap();
    });
}
