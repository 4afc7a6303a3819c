//! Long logs: mounting and replaying one, and the commit that lists what is free anew.
#![forbid(unsafe_code)]

use crate::light::{Content, LightDevice};
use crate::measure::{compare, quantile, row, seconds, Goal, Question, Row};
use crate::raw::{self, Way};
use crate::volume::{failed, in_file, in_memory, unflushed, FileMemory, Shape, HOST};
use crate::Setting;
use anyhow::{ensure, Context, Result};
use arenite_core::bench::allocate_logged;
use arenite_core::format::{BlockSize, LogBlock, LogEntry, LogWriter, NONE};
use arenite_core::hash::hash64;
use arenite_core::{Allocate, BlockPtr, Device, FormatOptions, MountOptions, Platform, Store};
use arenite_shim::file::create_file;
use arenite_shim::uring::{RingPlatform, UringDevice};
use arenite_shim::{boxed_memory, FileOptions};
use std::fs::File;
use std::hint::black_box;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

const SIZE: BlockSize = BlockSize::ORIGINAL;
/// Ways of the raw side to read a log: requests at once, by threads or over io_uring.
const READ_WAYS: [(usize, bool); 7] =
    [(1, false), (4, false), (8, false), (4, true), (8, true), (16, true), (32, true)];

/// Makes every second one of `blocks` blocks used, so that the free space around them is in as many pieces. Seconds
/// that the commit took which lists them all in the logs.
fn fragment(store: &Store<'_, '_>, blocks: u64) -> Result<f64> {
    let taken = (0..blocks).map(|_| allocate_logged(store, 0)).collect::<Result<Vec<_>, _>>();
    let mut taken = taken.map_err(failed("allocate"))?;
    taken.sort_unstable();
    taken.iter().skip(1).step_by(2).try_for_each(|addr| free(store, *addr))?;
    let time = seconds(|| store.commit(store.roots()).map(drop).map_err(failed("commit")))?;
    store.settle().map_err(failed("settle"))?;
    Ok(time)
}

fn free(store: &Store<'_, '_>, addr: u64) -> Result<()> {
    store.free(BlockPtr { addr, hash: 0, gen: 0 }).map_err(failed("free"))
}

/// Ranges of bytes: address and length.
type Ranges = Vec<(u64, u64)>;

/// The addresses of all log blocks, and the ranges in them.
fn log_of(store: &Store<'_, '_>, file: &File) -> Result<(Vec<u64>, Ranges)> {
    let (mut addrs, mut ranges) = (Vec::new(), Vec::new());
    let mut page = vec![0; SIZE.len_bytes()];
    for info in (0..).map_while(|arena| store.arena(arena)) {
        let mut addr = info.log_addr;
        for _ in 0..info.log_blocks {
            file.read_exact_at(&mut page, addr)?;
            addrs.push(addr);
            let block = LogBlock::decode(&page, SIZE).map_err(|error| anyhow::anyhow!("log block: {error}"))?;
            for entry in block.entries() {
                match entry.map_err(|error| anyhow::anyhow!("log entry: {error}"))? {
                    LogEntry::Free { addr, len_bytes } => ranges.push((addr, len_bytes)),
                    LogEntry::Alloc { .. } | LogEntry::Barrier { .. } => {}
                }
            }
            addr = block.chain();
        }
    }
    Ok((addrs, ranges))
}

/// Sets the bits of ranges in a bitmap over the whole volume.
fn set_bits(words: &mut [u64], ranges: &[(u64, u64)]) {
    for (addr, len_bytes) in ranges {
        let first = (addr >> SIZE.shift()) as usize;
        for block in first..first + (len_bytes >> SIZE.shift()) as usize {
            words[block / 64] |= 1 << (block % 64);
        }
    }
}

/// Seconds of a mount for reading only.
fn mount<'m>(memory: &'m FileMemory, device: &dyn Device<'m>, platform: &'m dyn Platform) -> Result<f64> {
    seconds(|| {
        let resources = memory.take().context("taken")?;
        let options = MountOptions { read_only: true, ..MountOptions::default() };
        let store = Store::mount(resources, device, platform, options).map_err(|failed| failed.error);
        black_box(store.map_err(failed("mount"))?.generation());
        Ok(())
    })
}

/// The same on a file, past the page cache.
fn mount_direct(path: &Path) -> Result<f64> {
    let options = FileOptions { direct: true, read_only: true, ..FileOptions::default() };
    // It stays for ever, as io_uring wants it.
    let memory: &'static FileMemory = Box::leak(boxed_memory());
    let device = UringDevice::open(path, options)?;
    let platform: &'static RingPlatform = Box::leak(Box::new(device.platform()?));
    mount(memory, &device, platform)
}

/// Mount of a volume whose logs have a million entries: on a device that costs nothing, and past the page cache; and
/// what of it is replay.
///
/// # Errors
/// Those of the file and of the store.
pub fn replay(setting: &Setting) -> Result<Vec<Row>> {
    let entries: u64 = if setting.quick { 100_000 } else { 1_000_000 };
    let path = setting.scratch("store.img");
    let len_bytes = (2 * entries + entries / 4) << SIZE.shift();
    create_file(path.path(), len_bytes)?;
    let file = File::open(path.path())?;
    let (logs, ranges) = in_file(path.path(), false, Shape::original(8), |store, _| {
        fragment(store, 2 * entries)?;
        log_of(store, &file)
    })?;
    let amount = || format!("{} entries, {} blocks", ranges.len(), logs.len());
    let goal = Goal::AtMost(2.0);

    let content = Content::new(len_bytes, Some(file));
    let mount_light = || {
        // From the second round on, of pages that the process had before.
        let memory: Box<FileMemory> = boxed_memory();
        let device = LightDevice::new(&content);
        mount(&memory, &device, &HOST)
    };
    let mut page = vec![0; SIZE.len_bytes()];
    let mut read_and_hash = || {
        seconds(|| {
            logs.iter().try_for_each(|addr| {
                content.read(*addr, &mut page)?;
                black_box(hash64(&page));
                Ok(())
            })
        })
    };
    let question = Question {
        what: "mount, memory device",
        amount: amount(),
        unit: "s",
        reference: "reading and hashing the log",
        goal,
    };
    let mut rows = vec![compare(setting.rounds, question, mount_light, &mut read_and_hash)?];

    if raw::has_ring() {
        let raw = raw::open(path.path(), true)?;
        let ways = READ_WAYS.map(|(depth, ring)| Way { request_len_bytes: SIZE.len_bytes(), depth, ring });
        let hash = |page: &[u8]| _ = black_box(hash64(page));
        let best = raw::best(ways.into_iter(), |way| raw::read(&raw, &logs, way, hash))?;
        let reference = &format!("raw and hashed, {best}");
        let question = Question { what: "mount, direct", amount: amount(), unit: "s", reference, goal };
        let theirs = || Ok((logs.len() * SIZE.len_bytes()) as f64 / raw::read(&raw, &logs, best, hash)?);
        rows.push(compare(setting.rounds, question, || mount_direct(path.path()), theirs)?);
    }

    let mut words = vec![0; (len_bytes >> SIZE.shift()).div_ceil(64) as usize];
    let bits = || {
        words.fill(0);
        let time = seconds(|| {
            set_bits(&mut words, black_box(&ranges));
            Ok(())
        })?;
        Ok(ranges.len() as f64 / time)
    };
    let question = Question {
        what: "replay (mount without reading)",
        amount: amount(),
        unit: "op/s",
        reference: "setting the same bits",
        goal: Goal::AtLeast(0.5),
    };
    // What mount does beside reading and hashing is replay.
    let alone = || Ok(ranges.len() as f64 / (mount_light()? - read_and_hash()?).max(1e-9));
    rows.push(compare(setting.rounds, question, alone, bits)?);
    Ok(rows)
}

/// A commit that writes a log of 100 000 ranges anew: how long it takes, and how long an allocation takes meanwhile.
///
/// # Errors
/// Those of the file and of the store.
pub fn compress(setting: &Setting) -> Result<Vec<Row>> {
    let ranges: u64 = if setting.quick { 20_000 } else { 100_000 };
    let len_bytes = (2 * ranges + ranges) << SIZE.shift();
    let path = setting.scratch("store.img");
    create_file(path.path(), len_bytes)?;
    let found = unflushed(path.path(), Shape::original(2), |store| {
        fragment(store, 2 * ranges)?;
        Ok(log_of(store, &File::open(path.path())?)?.1)
    })?;
    let rewrite = || {
        let memory: Box<FileMemory> = boxed_memory();
        let content = Content::new(len_bytes, None);
        let device = LightDevice::new(&content);
        let resources = memory.take().context("taken")?;
        let options = FormatOptions { block_size: SIZE, arenas: 2, force: true };
        let store = Store::format(resources, &device, &HOST, options).map_err(|failed| failed.error);
        let store = store.map_err(failed("format"))?;
        let time = fragment(&store, 2 * ranges)?;
        let written = store.counters().commit.block_writes;
        // A piece of one block takes a word of a log block.
        ensure!(written * SIZE.len_u64() / 8 >= ranges, "the logs were not written anew: {written} blocks");
        Ok(time)
    };
    let mut page = vec![0; SIZE.len_bytes()];
    let question = Question {
        what: "commit that rewrites the logs, memory device",
        amount: format!("{} ranges", found.len()),
        unit: "s",
        reference: "encoding and hashing",
        goal: Goal::AtMost(2.0),
    };
    let mut rows = vec![compare(setting.rounds, question, rewrite, || encode(&found, &mut page))?];
    rows.extend(meanwhile(setting, len_bytes, ranges)?);
    Ok(rows)
}

/// Seconds that it takes to encode these ranges into log blocks and hash them.
fn encode(ranges: &[(u64, u64)], page: &mut [u8]) -> Result<f64> {
    seconds(|| {
        let mut next = ranges.iter().peekable();
        while next.peek().is_some() {
            let mut writer = LogWriter::new(page, SIZE).map_err(|error| anyhow::anyhow!("{error}"))?;
            while let Some((addr, len_bytes)) = next.peek().copied().copied() {
                if writer.push(LogEntry::Free { addr, len_bytes }).is_err() {
                    break;
                }
                next.next();
            }
            // `finish` hashes what was encoded.
            black_box(writer.finish(NONE).map_err(|error| anyhow::anyhow!("{error}"))?);
        }
        Ok(())
    })
}

/// How long an allocation takes while commits write logs of so many ranges anew, one after the other, beside the same
/// while nobody else is at work.
fn meanwhile(setting: &Setting, len_bytes: u64, ranges: u64) -> Result<Vec<Row>> {
    let commits = if setting.quick { 5 } else { 40 };
    let memory: Box<FileMemory> = boxed_memory();
    let (alone, busy) = in_memory(&*memory, len_bytes, Shape::original(2), |store| {
        fragment(store, 2 * ranges)?;
        let alone = latencies(store, &AtomicBool::new(true), 100_000)?;
        let listing = AtomicBool::new(false);
        let busy = std::thread::scope(|scope| {
            let other = scope.spawn(|| relist(store, ranges, commits, &listing));
            let mut busy = Vec::new();
            while !other.is_finished() {
                busy.extend(latencies(store, &listing, 100)?);
            }
            other.join().ok().context("a worker has failed")??;
            anyhow::Ok(busy)
        })?;
        Ok((alone, busy))
    })?;
    let line = |part: f64, what: &str| {
        let amount = format!("{} allocations, {commits} commits", busy.len());
        let question = Question { what, amount, unit: "ns", reference: "the same alone", goal: Goal::None };
        row(question, &[quantile(&busy, part)], &[quantile(&alone, part)])
    };
    Ok(vec![line(0.5, "allocation meanwhile, median"), line(0.999, "allocation meanwhile, 99.9 %")])
}

/// Nanoseconds of so many allocations, as far as `listing` held before and after each.
fn latencies(store: &Store<'_, '_>, listing: &AtomicBool, count: u32) -> Result<Vec<f64>> {
    let mut found = Vec::new();
    for _ in 0..count {
        let before = listing.load(Ordering::Acquire);
        let start = Instant::now();
        let block = store.allocate(Allocate::data().unzeroed()).map_err(failed("allocate"))?;
        let time = start.elapsed().as_nanos() as f64;
        drop(block);
        if before && listing.load(Ordering::Acquire) {
            found.push(time);
        }
    }
    Ok(found)
}

/// Changes so much of the free space, time and again, that each commit writes the logs anew; notes while one is under
/// way.
fn relist(store: &Store<'_, '_>, ranges: u64, commits: u32, listing: &AtomicBool) -> Result<()> {
    let mut mine = Vec::new();
    for _ in 0..commits {
        // Single blocks all: the free space stays in pieces.
        let old = std::mem::take(&mut mine);
        for _ in 0..ranges / 3 {
            mine.push(allocate_logged(store, 0).map_err(failed("allocate"))?);
        }
        old.into_iter().try_for_each(|addr| free(store, addr))?;
        listing.store(true, Ordering::Release);
        let done = store.commit(store.roots());
        listing.store(false, Ordering::Release);
        done.map_err(failed("commit"))?;
        store.settle().map_err(failed("settle"))?;
    }
    Ok(())
}
