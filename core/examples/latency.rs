//! How long an allocation takes: alone, beside a thread that writes, and while a commit of that thread writes a long
//! log anew.
//!
//! ```text
//! cargo run --release --package arenite-core --example latency [seconds]
//! ```
//!
//! All blocks are in one arena, whose free space is in as many pieces as can be, so the log is some fifty blocks, and
//! each commit changes too much of it for appending. An allocation is measured from the call to its return, with the
//! buffer cleared; it is given back at once. The disk is memory, so that what is seen is the store. A sample counts for
//! the third line only if the commit was under way at its beginning and at its end. What is worth comparing is the
//! lines of one run.

use arenite_core::format::BlockSize;
use arenite_core::{
    Allocate, BlockPtr, Completion, Device, DeviceGeometry, Error, FlushTag, FormatOptions, NoInterrupts, Request,
    RequestKind, Store,
};
use std::collections::VecDeque;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::Mutex;
use std::time::{Duration, Instant};

const BLOCK_LEN_BYTES: usize = 2048;
const VOLUME_BLOCKS: usize = 48 << 10;
/// Blocks in use, every second of which is freed at first.
const USED_BLOCKS: usize = 44 << 10;
/// Blocks that each commit replaces.
const CHANGES: usize = 2500;

arenite_core::memory! {
    static MEMORY: cache_blocks = 8192, block_len_bytes = BLOCK_LEN_BYTES, volume_blocks = VOLUME_BLOCKS, arenas = 1,
    queue = 1024;
}

/// A disk in memory that completes requests in order.
struct Disk {
    bytes: Mutex<Vec<u8>>,
    done: Mutex<VecDeque<Completion<'static>>>,
}

impl Device<'static> for Disk {
    fn geometry(&self) -> DeviceGeometry {
        DeviceGeometry {
            len_bytes: (VOLUME_BLOCKS * BLOCK_LEN_BYTES) as u64,
            logical_sector_len_bytes: 512,
            physical_sector_len_bytes: 512,
            max_transfer_len_bytes: 1 << 20,
            max_segments: 64,
            queue_depth: 32,
            read_only: false,
            volatile_cache: true,
            discard: false,
        }
    }

    fn submit(&self, mut request: Request<'static>) -> Result<(), Request<'static>> {
        let mut at = request.addr() as usize;
        let mut bytes = self.bytes.lock().expect("no thread panics");
        match request.kind() {
            RequestKind::Write => request.buffers().into_iter().flatten().for_each(|buffer| {
                bytes[at..at + buffer.len()].copy_from_slice(buffer);
                at += buffer.len();
            }),
            RequestKind::Read => request.buffers_mut().into_iter().flatten().for_each(|buffer| {
                buffer.copy_from_slice(&bytes[at..at + buffer.len()]);
                at += buffer.len();
            }),
            // Nobody asks for anything else of this disk.
            _ => {}
        }
        drop(bytes);
        self.done.lock().expect("no thread panics").push_back(Completion::Transfer(request, Ok(())));
        Ok(())
    }

    fn flush(&self, tag: FlushTag) -> Result<(), FlushTag> {
        self.done.lock().expect("no thread panics").push_back(Completion::Flush(tag, Ok(())));
        Ok(())
    }

    fn poll(&self) -> Option<Completion<'static>> {
        self.done.lock().expect("no thread panics").pop_front()
    }
}

type Volume = Store<'static, 'static>;

fn write(store: &Volume) -> Result<BlockPtr, Error> {
    Ok(store.enqueue(store.allocate(Allocate::data())?)?.ptr())
}

/// What the other thread is doing.
const ALONE: u32 = 0;
const WRITING: u32 = 1;
const COMMITTING: u32 = 2;
const END: u32 = 3;
const NAMES: [&str; 3] = ["alone", "beside writes", "beside a log written anew"];

/// Replaces blocks and commits, until it is told to end.
fn work(store: &Volume, blocks: &mut [BlockPtr], phase: &AtomicU32) -> Result<(), Error> {
    let enter =
        |next| phase.fetch_update(Ordering::AcqRel, Ordering::Acquire, |now| (now != END).then_some(next)).is_ok();
    let mut random = 1_u64;
    while enter(WRITING) {
        for _ in 0..CHANGES {
            // Here and there, so that the free space stays in pieces.
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            let at = (random >> 33) as usize % blocks.len();
            store.free(blocks[at])?;
            blocks[at] = write(store)?;
        }
        store.settle()?;
        // The height makes each commit differ from the last.
        let roots = store.roots();
        let ticket = store.commit_start(roots.with_root(Some(blocks[0]), roots.height % 9 + 1))?;
        if !enter(COMMITTING) {
            return store.settle();
        }
        while store.commit_poll(&ticket).is_none() {
            store.step();
        }
        enter(WRITING);
        store.settle()?;
    }
    Ok(())
}

/// Allocates until the time is over; nanoseconds by what the other thread did meanwhile.
fn measure(store: &Volume, phase: &AtomicU32, time: Duration, samples: &mut [Vec<u64>; 3]) -> Result<(), Error> {
    let end = Instant::now() + time;
    while Instant::now() < end {
        let before = phase.load(Ordering::Acquire);
        let started = Instant::now();
        let filling = store.allocate(Allocate::data())?;
        let nanoseconds = started.elapsed().as_nanos() as u64;
        drop(filling);
        if phase.load(Ordering::Acquire) == before {
            samples[before as usize].push(nanoseconds);
        }
    }
    Ok(())
}

fn percentile(sorted: &[u64], per_mille: usize) -> u64 {
    sorted.get((sorted.len() * per_mille / 1000).min(sorted.len().saturating_sub(1))).copied().unwrap_or(0)
}

fn main() -> Result<(), Error> {
    let seconds = std::env::args().nth(1).and_then(|word| word.parse().ok()).unwrap_or(3);
    let bytes = Mutex::new(vec![0; VOLUME_BLOCKS * BLOCK_LEN_BYTES]);
    let disk: &'static Disk = Box::leak(Box::new(Disk { bytes, done: Mutex::default() }));
    let memory = MEMORY.take().ok_or(Error::NoBuffer)?;
    let options = FormatOptions { block_size: BlockSize::MIN, arenas: 1, force: false };
    let store = &Store::format(memory, disk, &NoInterrupts, options).map_err(|failed| failed.error)?;
    let all = (0..USED_BLOCKS).map(|_| write(store)).collect::<Result<Vec<_>, _>>()?;
    store.commit(store.roots().with_root(Some(all[0]), 1))?;
    let (mut blocks, freed): (Vec<_>, Vec<_>) = all.into_iter().enumerate().partition(|(index, _)| index % 2 == 0);
    freed.iter().try_for_each(|(_, ptr)| store.free(*ptr))?;
    let mut blocks: Vec<BlockPtr> = blocks.drain(..).map(|(_, ptr)| ptr).collect();
    store.commit(store.roots().with_root(Some(blocks[0]), 2))?;
    store.settle()?;

    let (phase, mut samples, time) = (AtomicU32::new(ALONE), [const { Vec::new() }; 3], Duration::from_secs(seconds));
    measure(store, &phase, time, &mut samples)?;
    let before = store.counters().commit;
    phase.store(WRITING, Ordering::Release);
    std::thread::scope(|scope| {
        let other = scope.spawn(|| work(store, &mut blocks, &phase));
        let measured = measure(store, &phase, time, &mut samples);
        phase.store(END, Ordering::Release);
        measured.and(other.join().expect("no thread panics"))
    })?;
    let after = store.counters().commit;
    let arena = store.arena(0).ok_or(Error::NoBuffer)?;
    let (commits, writes) = (after.commits - before.commits, after.block_writes - before.block_writes);
    println!("{} free ranges, a log of {} blocks; {commits} commits", arena.free_ranges, arena.log_blocks);
    println!("{} blocks written by each commit", writes / commits.max(1));
    println!("\n{:<28}{:>10}{:>12}{:>12}{:>12}", "allocation (ns)", "samples", "median", "99 %", "99.9 %");
    let rows: Vec<[u64; 3]> = samples
        .iter_mut()
        .map(|samples| {
            samples.sort_unstable();
            [500, 990, 999].map(|per_mille| percentile(samples, per_mille))
        })
        .collect();
    for ((name, samples), [median, most, worst]) in NAMES.iter().zip(&samples).zip(&rows) {
        println!("{name:<28}{:>10}{median:>12}{most:>12}{worst:>12}", samples.len());
    }
    for (name, row) in NAMES.iter().zip(&rows).skip(1) {
        let ratio = |at: usize| row[at] as f64 / rows[0][at].max(1) as f64;
        let (median, most, worst) = (ratio(0), ratio(1), ratio(2));
        println!("{:<38}{median:>12.2}{most:>12.2}{worst:>12.2}", format!("{name} / alone"));
    }
    Ok(())
}
