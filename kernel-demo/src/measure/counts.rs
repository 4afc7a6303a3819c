//! `phase=counts`: how many instructions each call takes.
//!
//! For an emulator that counts instructions and lets the time stamp counter tell (QEMU's `-icount shift=0`). There is
//! one CPU, its interrupts are off, and the disk is in memory: nothing depends on the host, and every run says the
//! same. On any other machine the figures are ticks of a clock. Two of them show the host what it has: `loop`, whose
//! length is known, and `copy`, a repeated instruction, of which emulators may count each turn or not.
//!
//! ```text
//!   format, unmount        with the first small memory
//!   mount                  an empty volume, with the kernel's own memory
//!   allocate enqueue write commit hit read, free every second block, commit; unmount
//!   replay                 mount of that volume, whose logs have a range for each freed block
//! ```

use alloc::boxed::Box;
use alloc::vec::Vec;
use core::hint::black_box;

use arenite_core::format::BlockSize;
use arenite_core::hash::hash64;
use arenite_core::{Allocate, BlockPtr, FormatOptions, MountOptions, ReadOptions, Resources, Store};

use super::ram_disk::RamDisk;
use super::BLOCK_BYTES;
use crate::failure::Failure;
use crate::outcome::Outcome;
use crate::platform::PLATFORM;
use crate::volume::take_memory;
use crate::{cpu, println};

/// Bytes of the disk.
const DISK_BYTES: usize = 64 << 20;
const ARENAS: u32 = 2;
/// Blocks that are written; the cache holds fewer.
const BLOCKS: usize = 2048;
/// Blocks that are read from the cache, and as many from the disk.
const READ_BLOCKS: usize = 64;
/// Commits of one changed block, of those that were written last: they and what takes their place are in one arena.
const COMMITS: usize = 16;
/// Turns of the loop whose length is known.
const TURNS: u64 = 10_000;

arenite_core::memory! {
    /// For the store that makes the volume.
    static FORMAT_MEMORY: cache_blocks = 16, block_len_bytes = 16384, volume_blocks = 4096, arenas = 4, queue = 16,
        workers = 1;
}
arenite_core::memory! {
    /// For the store that mounts it at the end.
    static REPLAY_MEMORY: cache_blocks = 16, block_len_bytes = 16384, volume_blocks = 4096, arenas = 4, queue = 16,
        workers = 1;
}

/// What calls of one kind have taken.
struct Count {
    name: &'static str,
    calls: u64,
    instructions: u64,
}

impl Count {
    fn new(name: &'static str) -> Self {
        Self { name, calls: 0, instructions: 0 }
    }

    /// Makes a call.
    fn call<R>(&mut self, body: impl FnOnce() -> R) -> R {
        let begin = cpu::time_stamp();
        let result = body();
        self.instructions += cpu::time_stamp() - begin;
        self.calls += 1;
        result
    }

    /// Prints what was counted.
    fn tell(self) {
        println!("@count name={} calls={} instructions={}", self.name, self.calls, self.instructions);
    }

    /// Makes so many calls alike.
    fn repeat(name: &'static str, calls: usize, mut body: impl FnMut()) {
        let mut count = Self::new(name);
        (0..calls).for_each(|_| count.call(&mut body));
        count.tell();
    }
}

/// Counts everything.
///
/// # Errors
/// There is too little memory.
pub fn run() -> Result<(), Failure> {
    let Some(disk) = RamDisk::new(DISK_BYTES) else {
        return Err(Failure::new(Outcome::Limit, format_args!("no memory for a disk of {DISK_BYTES} bytes")));
    };
    let disk: &'static RamDisk = Box::leak(Box::new(disk));
    let flags = cpu::interrupts_off();
    let done = count_all(disk);
    cpu::interrupts_restore(flags);
    done
}

fn count_all(disk: &'static RamDisk) -> Result<(), Failure> {
    Count::repeat("loop", 1, || cpu::turn(TURNS));
    let (from, mut to) = (alloc::vec![0x5A_u8; BLOCK_BYTES], alloc::vec![0; BLOCK_BYTES]);
    Count::repeat("copy", 16, || black_box(&mut to[..]).copy_from_slice(black_box(&from)));
    Count::repeat("hash", 16, || _ = black_box(hash64(black_box(&from))));

    let options = FormatOptions { block_size: BlockSize::ORIGINAL, arenas: ARENAS, force: true };
    let made = Store::format(take(FORMAT_MEMORY.take())?, disk, &PLATFORM, options);
    made.map_err(|failed| Failure::from(failed.error))?.unmount()?;

    let store = mount("mount", take_memory()?, disk)?;
    count_calls(&store)?;
    store.unmount()?;
    mount("replay", take(REPLAY_MEMORY.take())?, disk)?.unmount()?;
    Ok(())
}

fn take(memory: Option<Resources<'static>>) -> Result<Resources<'static>, Failure> {
    memory.ok_or_else(|| Failure::new(Outcome::Limit, format_args!("a store's memory is in use")))
}

fn mount(
    name: &'static str,
    memory: Resources<'static>,
    disk: &'static RamDisk,
) -> Result<Store<'static, 'static>, Failure> {
    let mut count = Count::new(name);
    #[allow(clippy::result_large_err, reason = "a conversion inside would be counted too")]
    let mounted = count.call(|| Store::mount(memory, disk, &PLATFORM, MountOptions::default()));
    count.tell();
    mounted.map_err(|failed| failed.error.into())
}

/// The calls of a mounted store. Leaves a volume with every second of its blocks free.
fn count_calls(store: &Store<'_, '_>) -> Result<(), Failure> {
    let mut blocks = write_blocks(store)?;
    count_reads(store, &blocks)?;
    count_commits(store, &mut blocks)?;
    let mut free = Count::new("free");
    for ptr in blocks.iter().step_by(2) {
        free.call(|| store.free(*ptr))?;
    }
    free.tell();
    let mut commit = Count::new("commit-many");
    commit.call(|| store.commit(store.roots()))?;
    commit.tell();
    Ok(store.settle()?)
}

/// Writes blocks one by one, each of them until it is with the disk, and commits.
fn write_blocks(store: &Store<'_, '_>) -> Result<Vec<BlockPtr>, Failure> {
    let mut blocks = Vec::with_capacity(BLOCKS);
    let [mut allocate, mut enqueue, mut write] = ["allocate", "enqueue", "write"].map(Count::new);
    for number in 0..BLOCKS {
        let mut filling = allocate.call(|| store.allocate(Allocate::data().unzeroed()))?;
        filling.bytes_mut().fill(number as u8);
        blocks.push(enqueue.call(|| store.enqueue(filling))?.ptr());
        write.call(|| while store.step() {});
    }
    [allocate, enqueue, write].into_iter().for_each(Count::tell);
    store.commit(store.roots())?;
    store.settle()?;
    Ok(blocks)
}

/// Reads the last blocks from the cache, and the first ones, which are not there any more, from the disk.
fn count_reads(store: &Store<'_, '_>, blocks: &[BlockPtr]) -> Result<(), Failure> {
    let before = store.counters();
    let [mut hit, mut read] = ["hit", "read"].map(Count::new);
    for ptr in blocks.iter().rev().take(READ_BLOCKS) {
        hit.call(|| store.read(*ptr).map(drop))?;
    }
    let between = store.counters();
    let options = ReadOptions { past_cache: true, ..ReadOptions::default() };
    for ptr in blocks.iter().take(READ_BLOCKS) {
        read.call(|| store.read_with(*ptr, options).map(drop))?;
    }
    let hits = [between.cache_hits - before.cache_hits, store.counters().cache_hits - between.cache_hits];
    if hits != [READ_BLOCKS as u32, 0] {
        let what = format_args!("{hits:?} hits in the cache, not {READ_BLOCKS} and none");
        return Err(Failure::new(Outcome::Mismatch, what));
    }
    [hit, read].into_iter().for_each(Count::tell);
    Ok(())
}

/// Commits one changed block at a time, to the acknowledgement, and then to the end of what trails it.
fn count_commits(store: &Store<'_, '_>, blocks: &mut [BlockPtr]) -> Result<(), Failure> {
    let [mut commit, mut settle] = ["commit", "settle"].map(Count::new);
    for ptr in blocks.iter_mut().rev().take(COMMITS) {
        let new = store.enqueue(store.allocate(Allocate::data())?)?.ptr();
        store.free(core::mem::replace(ptr, new))?;
        commit.call(|| store.commit(store.roots()))?;
        settle.call(|| store.settle())?;
    }
    [commit, settle].into_iter().for_each(Count::tell);
    Ok(())
}
