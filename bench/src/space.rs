//! What costs processor time alone: allocation, cache hits, the sync queue, the hash.
#![forbid(unsafe_code)]

use crate::measure::{compare, seconds, Goal, Question, Row};
use crate::volume::{failed, in_memory, ManyMemory, Shape, HOST};
use crate::Setting;
use anyhow::{bail, ensure, Context, Result};
use arenite_core::bench::{allocate_logged, SyncQueue};
use arenite_core::format::BlockSize;
use arenite_core::{Allocate, BlockPtr, Store};
use arenite_shim::boxed_memory;
use arenite_shim::rng::{mix64, Rng};
use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap};
use std::hint::black_box;

/// The lock of everything that the store is compared with, which is that of the store itself.
type Spin<T> = spin::mutex::SpinMutex<T>;

/// Blocks of a volume of 2 KiB blocks that the benchmarks of space work in.
const VOLUME_LEN_BYTES: u64 = 256 << 20;
/// Blocks that are allocated before the first of them is freed.
const LIVE: usize = 64;

fn small_blocks(arenas: u32) -> Result<Shape> {
    Ok(Shape { block_size: BlockSize::new(2048).context("a block size")?, arenas })
}

/// A spin-locked bitmap with a cursor and nothing else: what allocation costs at least.
struct Bitmap(Spin<(Vec<u64>, usize)>);

impl Bitmap {
    fn new(blocks: u64) -> Self {
        Self(Spin::new((vec![0; blocks.div_ceil(64) as usize], 0)))
    }

    fn allocate(&self) -> Option<u64> {
        let (words, cursor) = &mut *self.0.lock();
        let count = words.len();
        let at = (0..count).map(|step| (*cursor + step) % count).find(|at| words[*at] != u64::MAX)?;
        let bit = (!words[at]).trailing_zeros();
        words[at] |= 1 << bit;
        *cursor = at;
        Some(at as u64 * 64 + u64::from(bit))
    }

    fn free(&self, block: u64) {
        self.0.lock().0[(block / 64) as usize] &= !(1 << (block % 64));
    }
}

/// Runs the same loop on so many threads; pairs a second in all.
fn pairs<T: Copy>(
    threads: u32,
    each: u64,
    allocate: impl Fn(u32) -> Result<T> + Sync,
    free: impl Fn(T) -> Result<()> + Sync,
) -> Result<f64> {
    let work = |thread: u32| -> Result<()> {
        let mut live = std::collections::VecDeque::with_capacity(LIVE);
        for _ in 0..each {
            live.push_back(allocate(thread)?);
            if live.len() == LIVE {
                live.pop_front().map_or(Ok(()), &free)?;
            }
        }
        live.into_iter().try_for_each(&free)
    };
    let time = seconds(|| on_threads(threads, work))?;
    Ok((each * u64::from(threads)) as f64 / time)
}

/// Runs `work` on so many threads, this one among them.
fn on_threads(threads: u32, work: impl Fn(u32) -> Result<()> + Sync) -> Result<()> {
    std::thread::scope(|scope| {
        let work = &work;
        let others: Vec<_> = (1..threads).map(|thread| scope.spawn(move || work(thread))).collect();
        work(0)?;
        others.into_iter().try_for_each(|other| match other.join() {
            Ok(result) => result,
            Err(_) => bail!("a thread has failed"),
        })
    })
}

fn store_pairs(store: &Store<'_, '_>, threads: u32, each: u64) -> Result<f64> {
    let allocate = |thread| allocate_logged(store, thread).map_err(failed("allocate"));
    pairs(threads, each, allocate, |addr| store.free(BlockPtr { addr, hash: 0, gen: 0 }).map_err(failed("free")))
}

/// Pairs of allocate and free, logged, on one thread and on two.
///
/// # Errors
/// Those of the store.
pub fn allocate(setting: &Setting) -> Result<Vec<Row>> {
    let each = if setting.quick { 200_000 } else { 2_000_000 };
    let shape = small_blocks(8)?;
    in_memory(&boxed_memory_many(), VOLUME_LEN_BYTES, shape, |first| {
        in_memory(&boxed_memory_many(), VOLUME_LEN_BYTES, shape, |second| {
            let bitmap = Bitmap::new(VOLUME_LEN_BYTES / 2048);
            let bare = |threads| {
                pairs(
                    threads,
                    each,
                    |_| bitmap.allocate().context("full"),
                    |block| {
                        bitmap.free(block);
                        Ok(())
                    },
                )
            };
            let question = |what, reference, goal| Question {
                what,
                amount: format!("{each} a thread"),
                unit: "op/s",
                reference,
                goal: Goal::AtLeast(goal),
            };
            let one = question("allocate + free, 1 thread", "spin-locked bitmap", 0.5);
            let two = question("allocate + free, 2 threads", "spin-locked bitmap, 2 threads", 0.5);
            let apart = question("allocate + free, 2 threads", "two stores, a thread each", 0.85);
            let two_stores = || {
                let allocate = |thread: u32| {
                    let addr = if thread == 0 { allocate_logged(first, 0) } else { allocate_logged(second, 0) };
                    Ok((thread, addr.map_err(failed("allocate"))?))
                };
                pairs(2, each, allocate, |(thread, addr)| {
                    let ptr = BlockPtr { addr, hash: 0, gen: 0 };
                    let freed = if thread == 0 { first.free(ptr) } else { second.free(ptr) };
                    freed.map_err(failed("free"))
                })
            };
            Ok(vec![
                compare(setting.rounds, one, || store_pairs(first, 1, each), || bare(1))?,
                compare(setting.rounds, two, || store_pairs(first, 2, each), || bare(2))?,
                compare(setting.rounds, apart, || store_pairs(first, 2, each), two_stores)?,
            ])
        })
    })
}

fn boxed_memory_many() -> Box<ManyMemory> {
    boxed_memory()
}

/// Cache hits: get and drop.
///
/// # Errors
/// Those of the store.
pub fn cache(setting: &Setting) -> Result<Vec<Row>> {
    let each = if setting.quick { 200_000 } else { 2_000_000 };
    let shape = small_blocks(8)?;
    let fill = |store: &Store<'_, '_>| -> Result<Vec<BlockPtr>> {
        let block = || Ok(store.enqueue(store.allocate(Allocate::data())?)?.ptr());
        let ptrs = (0..1024).map(|_| block()).collect::<Result<Vec<_>, _>>().map_err(failed("write"))?;
        store.commit(store.roots()).map_err(failed("commit"))?;
        Ok(ptrs)
    };
    let hits = |store: &Store<'_, '_>, ptrs: &[BlockPtr], thread: u32| -> Result<()> {
        let mut at = thread as usize * 511;
        for _ in 0..each {
            at = (at + 389) % ptrs.len();
            black_box(store.read(ptrs[at]).map_err(failed("read"))?);
        }
        Ok(())
    };
    in_memory(&boxed_memory_many(), VOLUME_LEN_BYTES, shape, |first| {
        in_memory(&boxed_memory_many(), VOLUME_LEN_BYTES, shape, |second| {
            let (ptrs, others) = (fill(first)?, fill(second)?);
            let table: HashMap<u64, u64> = ptrs.iter().map(|ptr| (ptr.addr, ptr.hash)).collect();
            let table = Spin::new(table);
            let plain = |thread: u32| -> Result<()> {
                let mut at = thread as usize * 511;
                for _ in 0..each {
                    at = (at + 389) % ptrs.len();
                    let found = table.lock().get(&ptrs[at].addr).copied();
                    ensure!(black_box(found) == Some(ptrs[at].hash), "not in the table");
                }
                Ok(())
            };
            let nanoseconds = |threads: u32, work: &(dyn Fn(u32) -> Result<()> + Sync)| {
                Ok(seconds(|| on_threads(threads, work))? * 1e9 / each as f64 / f64::from(threads))
            };
            let amount = || format!("{each} a thread");
            let mut rows = Vec::new();
            for threads in [1, 2] {
                let what = format!("cache hit, {threads} thread{}", if threads == 1 { "" } else { "s" });
                let reference = "lock, plain hash table, unlock";
                let goal = Goal::AtMost(3.0);
                let question = Question { what: &what, amount: amount(), unit: "ns", reference, goal };
                let ours = || nanoseconds(threads, &|thread| hits(first, &ptrs, thread));
                rows.push(compare(setting.rounds, question, ours, || nanoseconds(threads, &plain))?);
            }
            let goal = Goal::AtLeast(0.9);
            let reference = "two stores, a thread each";
            let question = Question { what: "cache hit, 2 threads", amount: amount(), unit: "op/s", reference, goal };
            let rate = |work: &(dyn Fn(u32) -> Result<()> + Sync)| Ok(1e9 / nanoseconds(2, work)?);
            let apart = |thread: u32| match thread {
                0 => hits(first, &ptrs, thread),
                _ => hits(second, &others, thread),
            };
            let ours = || rate(&|thread| hits(first, &ptrs, thread));
            rows.push(compare(setting.rounds, question, ours, || rate(&apart))?);
            Ok(rows)
        })
    })
}

static QUEUE: SyncQueue<65536> = SyncQueue::new();

/// Times that something is pushed and popped in a round.
fn turns(setting: &Setting) -> u64 {
    if setting.quick {
        100_000
    } else {
        1_000_000
    }
}

/// Fills the sync queue with so many entries, and tells of each.
fn fill_queue(entries: u64, mut each: impl FnMut(u32)) -> Result<()> {
    let mut rng = Rng::new(7);
    for _ in 0..entries {
        let block = rng.next_u64() as u32;
        ensure!(QUEUE.push(&HOST, 1, block), "the queue is full");
        each(block);
    }
    Ok(())
}

/// Seconds of so many pushes and pops.
fn push_and_pop(turns: u64) -> Result<f64> {
    seconds(|| {
        for turn in 0..turns {
            ensure!(QUEUE.push(&HOST, 1, mix64(turn) as u32), "the queue is full");
            black_box(QUEUE.pop(&HOST));
        }
        Ok(())
    })
}

/// What a push and a pop of the sync queue cost, beside the nanoseconds that writing a block takes.
///
/// # Errors
/// Those of the write.
pub fn queue_beside(setting: &Setting, block_ns: impl FnMut() -> Result<f64>) -> Result<Row> {
    let each = turns(setting);
    fill_queue((64 << 10) - 1, |_| ())?;
    let question = Question {
        what: "sync queue push + pop at 64k entries",
        amount: format!("{each} pairs"),
        unit: "ns",
        reference: "writing a block, direct, 1 worker",
        goal: Goal::AtMost(0.03),
    };
    let row = compare(setting.rounds, question, || Ok(push_and_pop(each)? * 1e9 / each as f64), block_ns);
    while QUEUE.pop(&HOST).is_some() {}
    row
}

/// The sync queue against a plain binary heap under the same lock.
///
/// # Errors
/// None but those of a full queue, which do not occur.
pub fn queue(setting: &Setting) -> Result<Vec<Row>> {
    let each = turns(setting);
    let mut rows = Vec::new();
    for entries in [1 << 10, 16 << 10, (64 << 10) - 1] {
        let heap = Spin::new(BinaryHeap::with_capacity(65536));
        fill_queue(entries, |block| heap.lock().push(Reverse((1_u64, block, 1_u32))))?;
        let ours = || Ok(each as f64 / push_and_pop(each)?);
        let plain = || {
            let time = seconds(|| {
                for turn in 0..each {
                    heap.lock().push(Reverse((1, mix64(turn) as u32, 1)));
                    black_box(heap.lock().pop());
                }
                Ok(())
            })?;
            Ok(each as f64 / time)
        };
        let question = Question {
            what: &format!("sync queue push + pop at {}k entries", (entries + 1) >> 10),
            amount: format!("{each} pairs"),
            unit: "op/s",
            reference: "binary heap, same lock",
            goal: Goal::AtLeast(1.0),
        };
        rows.push(compare(setting.rounds, question, ours, plain)?);
        while QUEUE.pop(&HOST).is_some() {}
    }
    Ok(rows)
}

/// The hash against the same in C.
///
/// # Errors
/// If the two differ.
pub fn hash(setting: &Setting) -> Result<Vec<Row>> {
    let mut rows = Vec::new();
    let large = if setting.quick { 64 << 20 } else { 512 << 20 };
    let bytes: Vec<u8> = (0..large as u64).map(|at| (at * 131 + 7) as u8).collect();
    for (name, len, repeats) in [("hash, 16 KiB hot", 16 << 10, large / (16 << 10)), ("hash, cold", large, 1)] {
        let part = &bytes[..len];
        let rate = |hash: &dyn Fn(&[u8]) -> u64| {
            let time = seconds(|| {
                for _ in 0..repeats {
                    black_box(hash(black_box(part)));
                }
                Ok(())
            })?;
            Ok((len * repeats) as f64 / time)
        };
        ensure!(arenite_core::hash::hash64(part) == crate::c::hash64(part), "the hashes differ");
        let question = Question {
            what: name,
            amount: format!("{} MiB", (len * repeats) >> 20),
            unit: "B/s",
            reference: "C, -O3",
            goal: Goal::AtLeast(0.95),
        };
        let ours = || rate(&arenite_core::hash::hash64);
        rows.push(compare(setting.rounds, question, ours, || rate(&crate::c::hash64))?);
    }
    Ok(rows)
}
