//! Lock sections are short however large an arena is and however its free space lies: the words of free map that are
//! touched in each are counted. Invariant 8 of docs/ROWS.md, rows 8, 10 and 14, and hole 8.

use super::disk;
use super::store::BLOCK;
use crate::arena::WORDS_PER_SECTION;
use crate::device::RequestKind;
use crate::format::{ArenaHeader, BlockSize, LogBlock, LogEntry};
use crate::freemap::accesses;
use crate::memory::{map_words, pages_for, WORD_BITS};
use crate::{
    BlockPtr, Completion, Device, DeviceGeometry, Error, FlushTag, FormatOptions, Memory, MountOptions, Platform,
    Request, ScrubStep, Store,
};
use core::sync::atomic::{AtomicU64, Ordering};
use std::cell::Cell;
use std::collections::{HashMap, VecDeque};
use std::sync::Mutex;
use std::vec::Vec;

std::thread_local! {
    static DEPTH: Cell<usize> = const { Cell::new(0) };
    static BEFORE: Cell<u64> = const { Cell::new(0) };
}

/// Keeps the most accesses to words of free maps that were made in one outermost critical section.
struct Sections {
    worst: AtomicU64,
}

impl Sections {
    const fn new() -> Self {
        Self { worst: AtomicU64::new(0) }
    }
}

impl Platform for Sections {
    fn enter_critical(&self) -> usize {
        if DEPTH.replace(DEPTH.get() + 1) == 0 {
            BEFORE.set(accesses::so_far());
        }
        0
    }
    fn leave_critical(&self, _saved: usize) {
        DEPTH.set(DEPTH.get() - 1);
        if DEPTH.get() == 0 {
            self.worst.fetch_max(accesses::so_far() - BEFORE.get(), Ordering::Relaxed);
        }
    }
}

/// A large device of which only those blocks take memory that were written.
#[derive(Default)]
struct Sparse<'m> {
    len_bytes: AtomicU64,
    blocks: Mutex<HashMap<u64, Vec<u8>>>,
    done: Mutex<VecDeque<Completion<'m>>>,
    discards: Mutex<Vec<(u64, u64)>>,
}

impl Sparse<'_> {
    fn page(&self, addr: u64) -> Vec<u8> {
        self.blocks.lock().unwrap().get(&addr).cloned().unwrap_or_else(|| std::vec![0; BLOCK])
    }
}

impl<'m> Device<'m> for Sparse<'m> {
    fn geometry(&self) -> DeviceGeometry {
        disk::geometry(self.len_bytes.load(Ordering::Relaxed))
    }
    fn submit(&self, mut request: Request<'m>) -> Result<(), Request<'m>> {
        assert_eq!(DEPTH.get(), 0);
        let mut addr = request.addr();
        if request.kind() == RequestKind::Discard {
            self.discards.lock().unwrap().push((addr, request.len_bytes()));
        } else if let Some(buffers) = request.buffers() {
            for (at, piece) in buffers.flat_map(|buffer| buffer.chunks(BLOCK)).enumerate() {
                self.blocks.lock().unwrap().insert(addr + (at * BLOCK) as u64, piece.to_vec());
            }
        } else if let Some(buffers) = request.buffers_mut() {
            for piece in buffers.flat_map(|buffer| buffer.chunks_mut(BLOCK)) {
                // A request may be shorter than a block, or begin within one.
                let from = (addr % BLOCK as u64) as usize;
                piece.copy_from_slice(&self.page(addr - from as u64)[from..from + piece.len()]);
                addr += piece.len() as u64;
            }
        }
        self.done.lock().unwrap().push_back(Completion::Transfer(request, Ok(())));
        Ok(())
    }
    fn flush(&self, tag: FlushTag) -> Result<(), FlushTag> {
        self.done.lock().unwrap().push_back(Completion::Flush(tag, Ok(())));
        Ok(())
    }
    fn poll(&self) -> Option<Completion<'m>> {
        self.done.lock().unwrap().pop_front()
    }
}

/// Blocks of the volume before it grows.
const BLOCKS: usize = 1_500_000;
type Large = Memory<{ pages_for(24, BLOCK) }, 24, { map_words(2 * BLOCKS, 4) }, 4, 16>;
static MEMORIES: [Large; 2] = [const { Large::new() }; 2];

/// Accesses that one section may make. A word that changes costs a few in each plane, in its neighbours and in four
/// summaries; to look through one plane of an arena would be five times as many.
const ACCESSES_MAX: u64 = (WORDS_PER_SECTION * 64) as u64;
const _: () = assert!(BLOCKS / WORD_BITS > 5 * ACCESSES_MAX as usize);

fn commit(store: &Store<'_, '_>) {
    let roots = store.roots();
    store.commit(crate::Roots { next_qid: roots.next_qid + 1, ..roots }).unwrap();
    store.settle().unwrap();
}

/// Takes blocks of the first arena without writing them.
fn take(store: &Store<'_, '_>, blocks: impl Iterator<Item = u32>) {
    for block in blocks {
        store.engine.arenas.change(0, |state, map| {
            assert_eq!(map.reserve(&mut state.counts, block), Some(block));
            map.enqueue(&mut state.counts, block).unwrap();
            state.changes += 1;
        });
    }
}

fn give(store: &Store<'_, '_>, blocks: impl Iterator<Item = u32>) {
    for block in blocks {
        let addr = store.engine.arenas.addr(store.engine.arenas.at(0, block));
        store.free(BlockPtr { addr, hash: 0, gen: 1 }).unwrap();
    }
}

/// Blocks that an arena's log lists as free, in how many entries, and in how many blocks it does; no two entries lie
/// end to end, but for those between which the log takes a block itself.
fn listed(device: &Sparse<'_>, base: u64) -> (u64, u32, u32) {
    let header = ArenaHeader::decode(&device.page(base), BlockSize::MIN, base).unwrap();
    let (mut addr, blocks) = (header.log_head.addr, header.seal.unwrap().blocks);
    let (mut free_bytes, mut entries, mut end) = (0, 0, 0);
    for _ in 0..blocks {
        let page = device.page(addr);
        let block = LogBlock::decode(&page, BlockSize::MIN).unwrap();
        for entry in block.entries() {
            match entry.unwrap() {
                LogEntry::Free { addr, len_bytes } => {
                    assert_ne!(addr, end, "one run in two entries");
                    (free_bytes, entries, end) = (free_bytes + len_bytes, entries + 1, addr + len_bytes);
                }
                LogEntry::Alloc { len_bytes, .. } => free_bytes -= len_bytes,
                LogEntry::Barrier { .. } => {}
            }
        }
        addr = block.chain();
    }
    (free_bytes, entries, blocks)
}

/// What the log lists is what the map counts.
fn check_anew(store: &Store<'_, '_>, device: &Sparse<'_>, what: &str) {
    let info = store.arena(0).unwrap();
    let (free_bytes, entries, blocks) = listed(device, info.addr);
    assert_eq!((free_bytes, blocks), (info.free_bytes, info.log_blocks), "{what}");
    // A block that the log took while it was written splits a run that was listed, or uses it up.
    assert!(entries.abs_diff(info.free_ranges) <= blocks, "{what}: {entries} {info:?}");
}

#[test]
fn no_lock_section_grows_with_an_arena_or_its_fragmentation() {
    let platform: &'static Sections = std::boxed::Box::leak(std::boxed::Box::new(Sections::new()));
    let device = Sparse::default();
    let check = |what: &str| {
        let worst = platform.worst.swap(0, Ordering::Relaxed);
        assert!(worst <= ACCESSES_MAX, "{what}: {worst} accesses in one section");
        worst
    };
    device.len_bytes.store((BLOCKS * BLOCK) as u64, Ordering::Relaxed);
    let options = FormatOptions { block_size: BlockSize::MIN, arenas: 1, force: false };
    let store = Store::format(MEMORIES[0].take().unwrap(), &device, platform, options).unwrap();
    check("format");
    check_anew(&store, &device, "one range over the whole arena");

    take(&store, (1000..61_000).step_by(2));
    check("taking");
    commit(&store);
    assert!(check("a log written anew, of many single blocks") > WORDS_PER_SECTION as u64, "they are counted");
    check_anew(&store, &device, "many single blocks");
    assert!(store.arena(0).unwrap().log_blocks > 100);

    let before = store.arena(0).unwrap();
    give(&store, (41_000..41_400).step_by(2));
    take(&store, (1_000_000..1_050_000).step_by(100));
    commit(&store);
    check("an append");
    let info = store.arena(0).unwrap();
    assert_eq!(info.log_addr, before.log_addr, "the log was appended to");

    give(&store, (1000..41_000).step_by(2));
    commit(&store);
    check("changes that are too many for an append");
    check_anew(&store, &device, "too many for an append");

    take(&store, 100_000..400_000);
    commit(&store);
    check("a long run taken");
    give(&store, 100_000..400_000);
    commit(&store);
    check("a long run given back");
    check_anew(&store, &device, "a long run given back");

    device.len_bytes.store(2 * BLOCKS as u64 * BLOCK as u64, Ordering::Relaxed);
    store.grow().unwrap();
    store.settle().unwrap();
    check("growing");
    assert_eq!(store.report().arenas + 1, 2);
    let (space, info) = (store.space(), store.arena(0).unwrap());
    assert_eq!(store.arena(1).unwrap().free_ranges, 1);
    store.unmount().unwrap();

    let discard = MountOptions { discard: true, ..MountOptions::default() };
    let store = Store::mount(MEMORIES[1].take().unwrap(), &device, platform, discard).unwrap();
    assert_eq!(platform.worst.swap(0, Ordering::Relaxed), 0, "mount loads the map without a lock");
    assert_eq!((store.space(), store.arena(0).unwrap()), (space, info));
    // What is taken comes first, and is none of the device's business.
    take(&store, 100_000..300_000);
    commit(&store);
    assert!(device.discards.lock().unwrap().iter().all(|(_, len)| *len <= 2 * BLOCK as u64), "old log blocks only");
    device.discards.lock().unwrap().clear();
    take(&store, (400_000..800_000).step_by(64));
    give(&store, 100_000..300_000);
    commit(&store);
    check("discards");
    let longest = device.discards.lock().unwrap().iter().map(|(_, len)| *len).max();
    assert_eq!(longest, Some(200_000 * BLOCK as u64), "one run, one request");
    let mut scrub = store.scrub();
    while !matches!(scrub.step(), Ok(ScrubStep::Done(_))) {
        store.step();
    }
    check("a scrub");
}

/// The blocks of a log are no caller's, wherever in the log they are, and stay so over a mount.
#[test]
fn no_block_of_a_log_can_be_freed() {
    use super::disk::Disk;
    use super::store::{check_space, memory, options, write};
    use crate::NoInterrupts;
    let memories = [memory(), memory()];
    let disk = Disk::new(std::vec![0; 2 << 20]);
    let refused = |store: &Store<'_, '_>| {
        let info = store.arena(0).unwrap();
        let (mut addr, before, mut middle) = (info.log_addr, store.space(), 0);
        for position in 0..info.log_blocks {
            let free = store.free(BlockPtr { addr, hash: 0, gen: 1 });
            assert_eq!(free, Err(Error::NotAllocated { addr }), "block {position} of {}", info.log_blocks);
            middle += u32::from(position != 0 && position + 1 != info.log_blocks);
            let page = disk.bytes()[addr as usize..addr as usize + BLOCK].to_vec();
            addr = LogBlock::decode(&page, BlockSize::MIN).unwrap().chain();
        }
        assert_eq!(store.space(), before);
        middle
    };
    let store = Store::format(memories[0].take().unwrap(), &disk, &NoInterrupts, options(1)).unwrap();
    let all: Vec<BlockPtr> = (0..900).map(|i| write(&store, i as u8).unwrap()).collect();
    commit(&store);
    all.iter().skip(1).step_by(2).for_each(|ptr| store.free(*ptr).unwrap());
    let mut kept: Vec<BlockPtr> = all.into_iter().step_by(2).collect();
    commit(&store);
    let mut middle = refused(&store);
    for _ in 0..6 {
        store.free(kept.pop().unwrap()).unwrap();
        commit(&store);
        middle += refused(&store);
    }
    assert!(middle > 10, "{middle}");
    store.unmount().unwrap();
    let store = Store::mount(memories[1].take().unwrap(), &disk, &NoInterrupts, MountOptions::default()).unwrap();
    assert!(refused(&store) > 1);
    // Nor is what was a log's before kept from its next owner.
    kept.drain(..).for_each(|ptr| store.free(ptr).unwrap());
    commit(&store);
    refused(&store);
    while let Ok(ptr) = write(&store, 1) {
        kept.push(ptr);
    }
    commit(&store);
    kept.drain(..).for_each(|ptr| store.free(ptr).unwrap());
    commit(&store);
    check_space(&store, &[]);
}
