//! What a commit writes, in which order, behind which flushes; the queue in front of it; crashes in it; mounts for
//! reading; counters. Rows 28, 30, 31, 32, 33 and 36 of docs/ROWS.md, invariants 1 and 2, and holes 1, 2, 11, 12 and
//! 15.

use super::disk::Disk;
use super::store::{check_space, memory, options, write, BLOCK};
use crate::memory::{map_words, pages_for};
use crate::queue::{Entry, Queue};
use crate::{
    Allocate, ArenaInfo, BlockPtr, Class, Completion, CopyState, Device, DeviceGeometry, Error, Filling, FlushTag,
    Memory, MountOptions, NoInterrupts, Request, RequestKind, Roots, Store,
};
use std::boxed::Box;
use std::collections::BTreeSet;
use std::sync::Mutex;
use std::vec;
use std::vec::Vec;

const UNIT: u64 = BLOCK as u64;
const LEN: usize = 1 << 20;

fn in_arena(store: &Store<'_, '_>, arena: u32, fill: u8) -> BlockPtr {
    let mut filling = store.allocate(Allocate::data().hint(arena)).unwrap();
    filling.bytes_mut().fill(fill);
    store.enqueue(filling).unwrap().ptr()
}

/// Byte addresses of the writes between two flushes, in ascending order.
fn epochs(log: &[Option<(u64, u64)>]) -> Vec<Vec<u64>> {
    let mut epochs: Vec<Vec<u64>> = log
        .split(Option::is_none)
        .map(|epoch| epoch.iter().flatten().flat_map(|(addr, len)| (*addr..addr + len).step_by(BLOCK)).collect())
        .collect();
    epochs.iter_mut().for_each(|epoch| epoch.sort_unstable());
    epochs
}

fn sorted(mut addrs: Vec<u64>) -> Vec<u64> {
    addrs.sort_unstable();
    addrs
}

#[test]
fn entries_leave_the_queue_by_generation_and_address() {
    let mut queue: Queue<64> = Queue::new();
    let mut entries: Vec<Entry> = (0..64_u32)
        .map(|i| Entry { generation: u64::from(i * 7 % 3), batch: 1, block: i * 29 % 64, frame_link: 64 - i })
        .collect();
    for entry in &entries {
        queue.push(*entry).unwrap();
    }
    assert!(queue.push(entries[0]).is_err(), "it is full");
    entries.sort_unstable_by_key(|entry| (entry.generation, entry.block));
    assert_eq!(core::iter::from_fn(|| queue.pop()).collect::<Vec<_>>(), entries);
}

#[test]
fn neighbours_go_to_the_device_in_one_request() {
    let memory = memory();
    let disk = Disk::new(vec![0; LEN]);
    let store = Store::format(memory.take().unwrap(), &disk, &NoInterrupts, options(1)).unwrap();
    disk.take_log();
    let mut fillings: Vec<Filling<'_>> = (0..12).map(|_| store.allocate(Allocate::data()).unwrap()).collect();
    let first = fillings[0].addr();
    drop(fillings.remove(5));
    // Whatever the order in which they become final.
    while let Some(filling) = fillings.pop() {
        store.enqueue(filling).unwrap();
    }
    store.settle().unwrap();
    assert_eq!(disk.take_log(), [Some((first, 5 * UNIT)), Some((first + 6 * UNIT, 6 * UNIT))]);
    let counters = store.counters();
    assert_eq!((counters.queued_block_writes, counters.queued_requests), (11, 2));
}

#[test]
fn the_commit_that_is_waited_for_is_written_first() {
    let memory = memory();
    let disk = Disk::new(vec![0; LEN]);
    let store = Store::format(memory.take().unwrap(), &disk, &NoInterrupts, options(1)).unwrap();
    disk.take_log();
    let mut fillings: Vec<Filling<'_>> = (0..6).map(|_| store.allocate(Allocate::data()).unwrap()).collect();
    let later: Vec<Filling<'_>> = fillings.drain(..3).collect();
    let sooner: Vec<u64> = fillings.iter().map(Filling::addr).collect();
    let root = fillings.into_iter().map(|filling| store.enqueue(filling).unwrap().ptr()).last();
    let ticket = store.commit_start(store.roots().with_root(root, 1)).unwrap();
    let first = later[0].addr();
    for filling in later {
        assert_eq!(store.enqueue(filling).unwrap().ptr().gen, 2, "it was allocated before the commit began");
    }
    while store.commit_poll(&ticket).is_none() {
        store.step();
    }
    store.settle().unwrap();
    let queued: Vec<_> = disk.take_log().into_iter().flatten().filter(|write| write.1 > UNIT).collect();
    assert_eq!(queued, [(sooner[0], 3 * UNIT), (first, 3 * UNIT)], "higher addresses, but an older generation");
}

/// A queue of four, sixty buffers, one CPU, nobody else who drives the device.
#[test]
fn whoever_finds_the_queue_full_helps_to_drain_it() {
    type Narrow = Memory<{ pages_for(72, BLOCK) }, 72, { map_words(1024, 4) }, 4, 4>;
    let memory: Box<Narrow> = Box::default();
    let disk = Disk::new(vec![0; LEN]);
    let store = Store::format(memory.take().unwrap(), &disk, &NoInterrupts, options(1)).unwrap();
    disk.take_log();
    let fillings: Vec<Filling<'_>> = (0..60).map(|_| store.allocate(Allocate::data()).unwrap()).collect();
    let mut most = 0;
    let mut blocks = Vec::new();
    for filling in fillings {
        blocks.push(store.enqueue(filling).unwrap());
        most = most.max(store.counters().pending_blocks);
    }
    // Waiting, or in one of the few requests that the device takes at once.
    assert!(most <= 4 + 4 * 4, "{most} blocks were pending");
    assert!(disk.take_log().len() >= 10, "enqueueing has written");
    store.settle().unwrap();
    assert_eq!(store.counters().queued_block_writes, 60);
    drop(blocks);
    check_space_of(&store, 60);
}

fn check_space_of(store: &Store<'_, '_>, enqueued: u64) {
    store.commit(Roots { next_qid: 1, ..store.roots() }).unwrap();
    store.settle().unwrap();
    let space = store.space();
    assert_eq!(space.total_blocks - space.free_blocks, space.log_blocks + enqueued + 2);
}

/// Everything that the durable state needs is on its way before a flush, the flush is over before what relies on it
/// begins, and never are both copies of anything in flight together.
#[test]
fn a_commit_writes_in_four_passes_with_a_flush_behind_each() {
    let memories = [memory(), memory()];
    let disk = Disk::new(vec![0; LEN]);
    let store = Store::format(memories[0].take().unwrap(), &disk, &NoInterrupts, options(4)).unwrap();
    let base: Vec<u64> = (0..4).map(|arena| store.arena(arena).unwrap().addr).collect();
    let last = LEN as u64 - UNIT;
    let write_and_commit = |store: &Store<'_, '_>, fill: u8| {
        disk.take_log();
        let data = [1, 2, 3].map(|arena| in_arena(store, arena, fill));
        let ticket = store.commit_start(store.roots().with_root(Some(data[0]), 1)).unwrap();
        let mut log = Vec::new();
        while store.commit_poll(&ticket).is_none() {
            store.step();
            log.extend(disk.take_log());
        }
        let flushes = log.iter().filter(|entry| entry.is_none()).count();
        store.settle().unwrap();
        log.extend(disk.take_log());
        let logs = [1, 2, 3].map(|arena| store.arena(arena).unwrap().log_addr);
        let first_pass = data.iter().map(|ptr| ptr.addr).chain(logs).chain(base[1..].iter().copied()).collect();
        (epochs(&log), sorted(first_pass), flushes)
    };
    let second_pass = sorted(base[1..].iter().map(|addr| addr + UNIT).chain([last]).collect());
    let (passes, first_pass, flushes) = write_and_commit(&store, 1);
    assert_eq!(passes, [first_pass, vec![0], second_pass.clone(), vec![]]);
    assert!(flushes >= 2, "acknowledged behind {flushes} flushes");
    disk.take_log();
    assert_eq!(store.commit(store.roots()), Ok(2));
    store.settle().unwrap();
    assert_eq!(disk.take_log(), [], "a clean store costs nothing");
    store.unmount().unwrap();

    // A copy that is not good is made good first, with a flush of its own.
    disk.edit(|bytes| {
        bytes[(base[2] + UNIT) as usize + 40] ^= 1;
        bytes[last as usize + 40] ^= 1;
    });
    let store = Store::mount(memories[1].take().unwrap(), &disk, &NoInterrupts, MountOptions::default()).unwrap();
    let (passes, first_pass, _) = write_and_commit(&store, 2);
    assert_eq!(passes[0].iter().filter(|addr| !first_pass.contains(addr)).count(), 2);
    assert!(passes[0].contains(&(base[2] + UNIT)) && passes[0].contains(&last));
    let rest: Vec<u64> = passes[..2].iter().flatten().filter(|addr| first_pass.contains(addr)).copied().collect();
    assert_eq!(sorted(rest), first_pass);
    assert!(base[1..].iter().all(|addr| passes[1].contains(addr)), "no first copy is written before the flush");
    assert_eq!(passes[2..], [vec![0], second_pass, vec![]]);
}

/// A device that looks at what it is asked: whether a flush comes while writes are in flight, and what is on the disk
/// after each write.
struct Watch<'a, 'm> {
    disk: &'a Disk<'m>,
    writes_in_flight: Mutex<u32>,
    images: Mutex<Vec<Vec<u8>>>,
}

impl<'a, 'm> Watch<'a, 'm> {
    fn new(disk: &'a Disk<'m>) -> Self {
        Self { disk, writes_in_flight: Mutex::new(0), images: Mutex::new(Vec::new()) }
    }
}

impl<'m> Device<'m> for Watch<'_, 'm> {
    fn geometry(&self) -> DeviceGeometry {
        self.disk.geometry()
    }
    fn submit(&self, request: Request<'m>) -> Result<(), Request<'m>> {
        let writes = request.kind() == RequestKind::Write;
        self.disk.submit(request)?;
        if writes {
            *self.writes_in_flight.lock().unwrap() += 1;
            self.images.lock().unwrap().push(self.disk.bytes());
        }
        Ok(())
    }
    fn flush(&self, tag: FlushTag) -> Result<(), FlushTag> {
        assert_eq!(*self.writes_in_flight.lock().unwrap(), 0, "a flush covers only what has completed before it");
        self.disk.flush(tag)
    }
    fn poll(&self) -> Option<Completion<'m>> {
        let done = self.disk.poll();
        if matches!(&done, Some(Completion::Transfer(request, _)) if request.kind() == RequestKind::Write) {
            *self.writes_in_flight.lock().unwrap() -= 1;
        }
        done
    }
}

/// A device that keeps the writes of some blocks to itself until it is told to carry them out.
struct Withholding<'a, 'm> {
    disk: &'a Disk<'m>,
    addrs: Mutex<Vec<u64>>,
    kept: Mutex<Vec<Request<'m>>>,
}

impl Withholding<'_, '_> {
    fn release(&self, addr: u64) {
        self.addrs.lock().unwrap().retain(|other| *other != addr);
        let mut kept = self.kept.lock().unwrap();
        let at = kept.iter().position(|request| request.addr() == addr).unwrap();
        assert!(self.disk.submit(kept.swap_remove(at)).is_ok());
    }
}

impl<'m> Device<'m> for Withholding<'_, 'm> {
    fn geometry(&self) -> DeviceGeometry {
        self.disk.geometry()
    }
    fn submit(&self, request: Request<'m>) -> Result<(), Request<'m>> {
        if self.addrs.lock().unwrap().contains(&request.addr()) {
            self.kept.lock().unwrap().push(request);
            return Ok(());
        }
        self.disk.submit(request)
    }
    fn flush(&self, tag: FlushTag) -> Result<(), FlushTag> {
        self.disk.flush(tag)
    }
    fn poll(&self) -> Option<Completion<'m>> {
        self.disk.poll()
    }
}

/// The device has half of the buffers for queued blocks, or passes that by one request; the rest go when these are
/// done.
#[test]
fn half_of_the_buffers_stay_to_be_filled_while_the_device_writes() {
    type Wide = Memory<{ pages_for(72, BLOCK) }, 72, { map_words(1024, 4) }, 4, 64>;
    let memory: Box<Wide> = Box::default();
    let disk = Disk::new(vec![0; LEN]);
    let device = Withholding { disk: &disk, addrs: Mutex::new(Vec::new()), kept: Mutex::new(Vec::new()) };
    let store = Store::format(memory.take().unwrap(), &device, &NoInterrupts, options(1)).unwrap();
    disk.take_log();
    let fillings: Vec<Filling<'_>> = (0..60).map(|_| store.allocate(Allocate::data()).unwrap()).collect();
    device.addrs.lock().unwrap().extend(fillings.iter().map(Filling::addr));
    for filling in fillings {
        store.enqueue(filling).unwrap();
    }
    while store.step() {}
    let kept: Vec<u64> = device.kept.lock().unwrap().iter().map(Request::addr).collect();
    let written = store.counters().queued_block_writes;
    // Before anything is compared: a store ends when its device has given everything back.
    device.addrs.lock().unwrap().retain(|addr| kept.contains(addr));
    kept.iter().for_each(|addr| device.release(*addr));
    store.settle().unwrap();
    assert_eq!((kept.len(), written), (3, 48), "sixteen each, of 68 buffers");
    assert_eq!((store.counters().queued_block_writes, disk.take_log().len()), (60, 4));
}

/// A write of its generation that takes its time holds up a commit in front of the first flush; one of the generation
/// after it does not.
#[test]
fn a_commit_waits_for_the_writes_of_its_generation_and_for_no_others() {
    let memory = memory();
    let disk = Disk::new(vec![0; LEN]);
    let device = Withholding { disk: &disk, addrs: Mutex::new(Vec::new()), kept: Mutex::new(Vec::new()) };
    let store = Store::format(memory.take().unwrap(), &device, &NoInterrupts, options(1)).unwrap();
    let step = || (0..1000).for_each(|_| assert!(store.step() || store.failure().is_none()));
    disk.take_log();
    let [this, other, next] = [(); 3].map(|()| store.allocate(Allocate::data()).unwrap());
    let (this_addr, next_addr) = (this.addr(), next.addr());
    device.addrs.lock().unwrap().extend([this_addr, next_addr]);
    drop(other);
    let root = store.enqueue(this).unwrap().ptr();
    let ticket = store.commit_start(store.roots().with_root(Some(root), 1)).unwrap();
    drop(store.enqueue(next).unwrap());
    step();
    assert_eq!((store.commit_poll(&ticket), store.counters().pending_blocks), (None, 2));
    let written = disk.take_log();
    assert!(written.len() == 2 && !written.contains(&None) && !written.contains(&Some((0, UNIT))), "{written:?}");
    device.release(this_addr);
    step();
    assert_eq!((store.commit_poll(&ticket), store.counters().pending_blocks), (Some(Ok(2)), 1));
    assert_eq!(disk.take_log().iter().filter(|entry| entry.is_none()).count(), 3);
    device.release(next_addr);
    store.settle().unwrap();
    assert_eq!(store.counters().pending_blocks, 0);
}

/// A crash behind any write of a commit that touches three arenas leaves a volume that shows one state whole, can be
/// written, and commits.
#[test]
fn a_crash_behind_any_write_of_a_commit_leaves_a_volume_to_write_on() {
    let first = memory();
    let disk = Disk::new(vec![0; 256 << 10]);
    let watch = Watch::new(&disk);
    let store = Store::format(first.take().unwrap(), &watch, &NoInterrupts, options(3)).unwrap();
    let old = [0, 1, 2].map(|arena| in_arena(&store, arena, 1));
    store.commit(store.roots().with_root(Some(old[0]), 1)).unwrap();
    store.settle().unwrap();
    watch.images.lock().unwrap().clear();
    let new = [0, 1, 2].map(|arena| in_arena(&store, arena, 2));
    old.iter().for_each(|ptr| store.free(*ptr).unwrap());
    store.commit(store.roots().with_root(Some(new[0]), 2)).unwrap();
    store.unmount().unwrap();
    let images = core::mem::take(&mut *watch.images.lock().unwrap());
    assert_eq!(images.len(), 3 + 3 + 3 + 1 + 3 + 1);
    let mut shown = Vec::new();
    for image in images {
        let memory = memory();
        let disk = Disk::new(image);
        let store = Store::mount(memory.take().unwrap(), &disk, &NoInterrupts, MountOptions::default()).unwrap();
        assert!(!store.is_read_only());
        let (kept, fill) = if store.generation() == 2 { (old, 1) } else { (new, 2) };
        check_space(&store, &kept);
        for ptr in kept {
            assert_eq!(store.read(ptr).unwrap()[..], [fill; BLOCK]);
        }
        shown.push(store.generation());
        let next = write(&store, 3).unwrap();
        let generation = store.generation();
        assert_eq!(store.commit(store.roots().with_root(Some(next), 3)), Ok(generation + 1));
        store.settle().unwrap();
        check_space(&store, &[&kept[..], &[next]].concat());
        assert_eq!(store.report().arenas, 3);
    }
    assert!(shown.is_sorted() && shown[0] == 2 && shown[13] == 3, "{shown:?}");
}

/// Numbers that look random and are the same each time.
fn roll(state: &mut u64, bound: usize) -> usize {
    *state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
    (*state >> 33) as usize % bound.max(1)
}

/// On a small and nearly full volume, with blocks allocated and freed at any moment of a commit: no write touches a
/// block of the last durable state, nor one of the state that is being committed.
#[test]
fn no_write_touches_a_block_of_the_last_commit_or_of_the_one_in_flight() {
    let memory = memory();
    let disk = Disk::new(vec![0; 192 << 10]);
    let store = Store::format(memory.take().unwrap(), &disk, &NoInterrupts, options(1)).unwrap();
    let addrs = |ptrs: &[BlockPtr]| ptrs.iter().map(|ptr| ptr.addr).collect::<BTreeSet<u64>>();
    let (mut seed, mut held, mut protected) = (7, Vec::<BlockPtr>::new(), BTreeSet::new());
    for round in 0..if cfg!(miri) { 8 } else { 300_u32 } {
        let mut change = |held: &mut Vec<BlockPtr>, protected: &BTreeSet<u64>| {
            match write(&store, round as u8) {
                Ok(ptr) => held.push(ptr),
                Err(error) => assert!(matches!(error, Error::Full { .. }), "{error}"),
            }
            if held.len() > 30 || roll(&mut seed, 3) == 0 {
                let ptr = held.swap_remove(roll(&mut seed, held.len()));
                store.free(ptr).unwrap();
            }
            store.step();
            for (addr, len) in disk.take_log().into_iter().flatten() {
                for addr in (addr..addr + len).step_by(BLOCK) {
                    assert!(!protected.contains(&addr), "round {round}: {addr:#x} is written over");
                }
            }
        };
        for _ in 0..6 {
            change(&mut held, &protected);
        }
        store.settle().unwrap();
        disk.take_log();
        // From here on both states count. Blocks of this commit were all written by now.
        protected.extend(addrs(&held));
        let root = held.first().copied();
        let ticket =
            store.commit_start(Roots { next_qid: u64::from(round), ..store.roots() }.with_root(root, 1)).unwrap();
        let committed = addrs(&held);
        while store.commit_poll(&ticket).is_none() {
            change(&mut held, &protected);
        }
        store.settle().unwrap();
        disk.take_log();
        protected = committed;
    }
    assert!(store.counters().commit.commits >= 300);
    let blocks = store.space().total_blocks as u32;
    assert!(store.counters().queued_block_writes > 10 * blocks, "each block was used many times");
}

/// Nothing is written to a volume that is mounted for reading, not even what a mount for writing would repair, and it
/// is not flushed either.
#[test]
fn a_volume_mounted_for_reading_is_never_written() {
    let memories = [memory(), memory()];
    let disk = Disk::new(vec![0; LEN]);
    let store = Store::format(memories[0].take().unwrap(), &disk, &NoInterrupts, options(2)).unwrap();
    let ptr = write(&store, 7).unwrap();
    store.commit(store.roots().with_root(Some(ptr), 1)).unwrap();
    let header = store.arena(0).unwrap().addr as usize;
    store.unmount().unwrap();
    disk.edit(|bytes| bytes[header + 9] ^= 1);
    let before = disk.bytes();
    disk.take_log();
    let read_only = MountOptions { read_only: true, discard: true, ..MountOptions::default() };
    let store = Store::mount(memories[1].take().unwrap(), &disk, &NoInterrupts, read_only).unwrap();
    assert!(store.is_read_only() && store.report().read_only && store.failure().is_none());
    assert_eq!((store.report().bad_header_copies, store.report().superblocks), (1, [CopyState::Good; 2]));
    disk.grow(2 * LEN);
    let refused = [
        store.allocate(Allocate::data().class(Class::Reclaim)).map(drop),
        store.duplicate(&store.read(ptr).unwrap(), Allocate::data()).map(drop),
        store.free(ptr),
        store.commit(Roots::EMPTY).map(drop),
        store.commit_start(store.roots()).map(drop),
        store.grow().map(drop),
    ];
    assert_eq!(refused, [Err(Error::ReadOnly); 6]);
    assert_eq!(store.read(ptr).unwrap()[..], [7; BLOCK]);
    assert_eq!(store.settle(), Ok(()));
    assert_eq!(store.unmount(), Ok(()));
    assert_eq!((disk.take_log(), disk.take_discards()), (vec![], vec![]));
    assert!(disk.bytes()[..LEN] == before);
}

/// Counters can be read at any moment of a commit, and say what has happened so far.
#[test]
fn the_counters_tell_what_happened_at_any_time() {
    let memory = memory();
    let disk = Disk::new(vec![0; LEN]);
    let store = Store::format(memory.take().unwrap(), &disk, &NoInterrupts, options(2)).unwrap();
    let start = store.counters();
    assert_eq!((start.commit.commits, start.commit.flushes, start.pending_blocks, start.in_flight), (1, 3, 0, 0));
    let room = store.room_blocks(Class::Normal);
    let ptrs: Vec<BlockPtr> = (0..3).map(|i| in_arena(&store, 1, i)).collect();
    let queued = store.counters();
    assert_eq!((queued.pending_blocks, queued.in_flight, queued.limbo_blocks), (3, 0, 0));
    assert_eq!(store.room_blocks(Class::Normal), room - 3);
    assert!(store.room_blocks(Class::Reclaim) > store.room_blocks(Class::Normal), "what is kept for deletion");
    assert!(store.space().avail_blocks > store.room_blocks(Class::Reclaim), "what is kept for the log");
    let ticket = store.commit_start(store.roots().with_root(Some(ptrs[0]), 1)).unwrap();
    let (mut last, mut busy) = (queued, false);
    while store.commit_poll(&ticket).is_none() {
        store.step();
        let now = store.counters();
        assert!(now.commit.block_writes >= last.commit.block_writes && now.commit.flushes >= last.commit.flushes);
        assert!(now.pending_blocks <= 3 && now.in_flight <= 5);
        busy |= now.in_flight > 0;
        last = now;
    }
    assert!(busy);
    store.settle().unwrap();
    let end = store.counters();
    assert_eq!((end.pending_blocks, end.in_flight), (0, 0));
    assert_eq!(end.queued_block_writes - start.queued_block_writes, 3);
    assert_eq!(end.commit.commits - start.commit.commits, 1);
    assert_eq!(end.commit.flushes - start.commit.flushes, 3);
    assert_eq!(end.commit.block_writes - start.commit.block_writes, 5, "log, two headers, two superblocks");
    let arenas = [store.arena(0).unwrap(), store.arena(1).unwrap()];
    assert_eq!(arenas.map(|arena| (arena.log_blocks, arena.copies_good)), [(1, [true; 2]); 2]);
    assert_eq!(arenas[0].free_bytes - arenas[1].free_bytes, 3 * UNIT);
    let free: u64 = arenas.iter().map(|arena| arena.free_bytes).sum();
    assert_eq!(free, store.space().free_blocks * UNIT);
}

/// What each arena keeps back, and from whom, is what an allocation finds.
#[test]
fn the_reserve_of_each_arena_is_shown() {
    let memory = memory();
    let disk = Disk::new(vec![0; LEN / 2]);
    let store = Store::format(memory.take().unwrap(), &disk, &NoInterrupts, options(3)).unwrap();
    let infos = || [0, 1, 2].map(|arena| store.arena(arena).unwrap());
    let room = |kept: fn(&ArenaInfo) -> u64| -> u64 {
        infos().iter().map(|arena| arena.avail_bytes.saturating_sub(kept(arena)) / UNIT).sum()
    };
    while write(&store, 1).is_ok() {
        assert_eq!(room(|arena| arena.reserve_bytes), store.room_blocks(Class::Normal));
        assert_eq!(room(|arena| arena.log_reserve_bytes), store.room_blocks(Class::Reclaim));
        assert_eq!(room(|_| 0), store.space().avail_blocks);
    }
    for arena in infos() {
        assert_eq!(arena.avail_bytes, arena.reserve_bytes, "new content has taken all that it may");
        assert!(arena.log_reserve_bytes > 0 && arena.reserve_bytes > arena.log_reserve_bytes, "{arena:?}");
    }
}
