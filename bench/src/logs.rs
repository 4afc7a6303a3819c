//! Logs and commits: replay, rewriting, what one changed block costs, and how costs grow.
#![forbid(unsafe_code)]

use crate::measure::{compare, median, row, seconds, Goal, Question, Row};
use crate::timed::TimedDevice;
use crate::volume::{failed, in_file, unflushed, Shape, VastMemory, HOST};
use crate::Setting;
use anyhow::{ensure, Context, Result};
use arenite_core::bench::allocate_logged;
use arenite_core::format::{BlockSize, LogBlock, LogEntry, LogWriter, NONE};
use arenite_core::hash::hash64;
use arenite_core::{Allocate, BlockPtr, FormatOptions, MountOptions, Store};
use arenite_shim::file::create_file;
use arenite_shim::{boxed_memory, FileDevice, FileOptions, MemDevice, MemOptions};
use std::fs::File;
use std::hint::black_box;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;

const SIZE: BlockSize = BlockSize::ORIGINAL;

/// Makes every second one of `blocks` blocks used, so that the free space around them is in as many pieces. Seconds
/// that the commit took which lists them all in the logs.
fn fragment(store: &Store<'_, '_>, blocks: u64) -> Result<f64> {
    let taken = (0..blocks).map(|_| allocate_logged(store, 0)).collect::<Result<Vec<_>, _>>();
    let mut taken = taken.map_err(failed("allocate"))?;
    taken.sort_unstable();
    let free = |addr| store.free(BlockPtr { addr, hash: 0, gen: 0 }).map_err(failed("free"));
    taken.iter().skip(1).step_by(2).try_for_each(|addr| free(*addr))?;
    let time = seconds(|| store.commit(store.roots()).map(drop).map_err(failed("commit")))?;
    store.settle().map_err(failed("settle"))?;
    Ok(time)
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

/// Mount of a volume whose logs have a million entries.
///
/// # Errors
/// Those of the file and of the store.
pub fn replay(setting: &Setting) -> Result<Vec<Row>> {
    let entries: u64 = if setting.quick { 100_000 } else { 1_000_000 };
    let path = setting.scratch("store.img");
    let len_bytes = (2 * entries + entries / 4) << SIZE.shift();
    create_file(path.path(), len_bytes)?;
    let shape = Shape::original(8);
    let file = File::open(path.path())?;
    let (logs, ranges) = in_file(path.path(), false, shape, |store, _| {
        fragment(store, 2 * entries)?;
        log_of(store, &file)
    })?;
    let mount = || {
        let memory: Box<VastMemory> = boxed_memory();
        let device = FileDevice::open(path.path(), FileOptions::default())?;
        let time = seconds(|| {
            let resources = memory.take().context("taken")?;
            let options = MountOptions { read_only: true, ..MountOptions::default() };
            let store = Store::mount(resources, &device, &HOST, options).map_err(|failed| failed.error);
            black_box(store.map_err(failed("mount"))?.generation());
            Ok(())
        })?;
        Ok(time)
    };
    let mut page = vec![0; SIZE.len_bytes()];
    let mut read_and_hash = || {
        seconds(|| {
            for addr in &logs {
                file.read_exact_at(&mut page, *addr)?;
                black_box(hash64(&page));
            }
            Ok(())
        })
    };
    let mut words = vec![0; (len_bytes >> SIZE.shift()).div_ceil(64) as usize];
    let mut bits = || {
        words.fill(0);
        let time = seconds(|| {
            set_bits(&mut words, black_box(&ranges));
            Ok(())
        })?;
        Ok(ranges.len() as f64 / time)
    };
    let amount = || format!("{} entries, {} blocks", ranges.len(), logs.len());
    let reference = "reading and hashing the log";
    let goal = Goal::AtMost(2.0);
    let whole = Question { what: "mount, page cache", amount: amount(), unit: "s", reference, goal };
    let mounted = compare(setting.rounds, whole, mount, &mut read_and_hash)?;
    let reference = "setting the same bits";
    let goal = Goal::AtLeast(0.5);
    let replayed = Question { what: "replay (mount without reading)", amount: amount(), unit: "op/s", reference, goal };
    // What mount does beside reading and hashing is replay.
    let alone = || Ok(ranges.len() as f64 / (mount()? - read_and_hash()?).max(1e-9));
    Ok(vec![mounted, compare(setting.rounds, replayed, alone, &mut bits)?])
}

/// A commit that writes a log of 100 000 ranges anew.
///
/// # Errors
/// Those of the file and of the store.
pub fn compress(setting: &Setting) -> Result<Vec<Row>> {
    let ranges: u64 = if setting.quick { 20_000 } else { 100_000 };
    let path = setting.scratch("store.img");
    let fresh = || {
        let _ = std::fs::remove_file(path.path());
        create_file(path.path(), (2 * ranges + ranges) << SIZE.shift())
    };
    fresh()?;
    let found = unflushed(path.path(), Shape::original(2), |store| {
        fragment(store, 2 * ranges)?;
        Ok(log_of(store, &File::open(path.path())?)?.1)
    })?;
    let rewrite = || {
        fresh()?;
        unflushed(path.path(), Shape::original(2), |store| {
            let time = fragment(store, 2 * ranges)?;
            let written = store.counters().commit.block_writes;
            // A piece of one block takes a word of a log block.
            ensure!(written * SIZE.len_u64() / 8 >= ranges, "the logs were not written anew: {written} blocks");
            Ok(time)
        })
    };
    let mut page = vec![0; SIZE.len_bytes()];
    let question = Question {
        what: "commit that rewrites the logs, no flush",
        amount: format!("{} ranges", found.len()),
        unit: "s",
        reference: "encoding and hashing",
        goal: Goal::AtMost(2.0),
    };
    Ok(vec![compare(setting.rounds, question, rewrite, || encode(&found, &mut page))?])
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

/// One changed block: blocks written, flushes, and the time to the acknowledgement on a device with a clock of its
/// own.
///
/// # Errors
/// Those of the store.
pub fn one_block(setting: &Setting) -> Result<Vec<Row>> {
    let mut rows = Vec::new();
    for arenas in [8, 256] {
        let memory: Box<crate::volume::ManyMemory> = boxed_memory();
        let len_bytes = 256 << 20;
        let disk = Arc::new(arenite_shim::disk::Disk::zeroed(len_bytes));
        let device = TimedDevice::new(MemDevice::new(disk, MemOptions::default()));
        let options = FormatOptions { block_size: SIZE, arenas, force: true };
        let resources = memory.take().context("taken")?;
        let store = Store::format(resources, &device, &HOST, options).map_err(|failed| failed.error);
        let store = store.map_err(failed("format"))?;
        let (mut writes, mut flushes, mut clock) = (Vec::new(), Vec::new(), Vec::new());
        for _ in 0..setting.rounds {
            let before = (store.counters(), device.now());
            let mut block = store.allocate(Allocate::data()).map_err(failed("allocate"))?;
            block.bytes_mut().fill(1);
            store.enqueue(block).map_err(failed("enqueue"))?;
            store.commit(store.roots()).map_err(failed("commit"))?;
            clock.push((device.now() - before.1) as f64);
            store.settle().map_err(failed("settle"))?;
            let after = store.counters();
            let queued = after.queued_block_writes - before.0.queued_block_writes;
            writes.push((after.commit.block_writes - before.0.commit.block_writes) as f64 + f64::from(queued));
            flushes.push((after.commit.flushes - before.0.commit.flushes) as f64);
        }
        let amount = || format!("1 block, {arenas} arenas");
        let mut add = |what, unit, found: &[f64], most: f64, reference| {
            let goal = Goal::AtMost(1.0);
            let question = Question { what, amount: amount(), unit, reference, goal };
            rows.push(row(question, found, &vec![most; found.len()]));
        };
        add("commit: block writes", "", &writes, 6.0, "bound");
        add("commit: flushes", "", &flushes, 3.0, "bound");
        // Data, log, header, superblock; a flush behind the first three and one behind the superblock.
        let bound = 4 * TimedDevice::WRITE_TICKS + 2 * TimedDevice::FLUSH_TICKS;
        add("commit: ticks to the acknowledgement", "ticks", &clock, bound as f64, "4 writes + 2 flushes");
    }
    Ok(rows)
}

/// Nanoseconds of one operation each, on a volume that is filled so far.
struct Costs {
    allocate: f64,
    read: f64,
    commit: f64,
}

fn costs(store: &Store<'_, '_>, each: u64) -> Result<Costs> {
    let free = |addr| store.free(BlockPtr { addr, hash: 0, gen: 0 }).map_err(failed("free"));
    let pair = || allocate_logged(store, 0).map_err(failed("allocate")).and_then(free);
    let allocate = seconds(|| (0..each).try_for_each(|_| pair()))? * 1e9 / each as f64;
    let block = || {
        let mut block = store.allocate(Allocate::data())?;
        block.bytes_mut().fill(7);
        store.enqueue(block).map(|block| block.ptr())
    };
    let ptrs = (0..64).map(|_| block()).collect::<Result<Vec<_>, _>>().map_err(failed("write"))?;
    store.commit(store.roots()).map_err(failed("commit"))?;
    let read = || ptrs.iter().try_for_each(|ptr| store.read(*ptr).map(drop)).map_err(failed("read"));
    let read = seconds(|| (0..each / 64).try_for_each(|_| read()))? * 1e9 / each as f64;
    let mut times = Vec::new();
    for ptr in ptrs {
        store.free(ptr).map_err(failed("free"))?;
        times.push(seconds(|| store.commit(store.roots()).map(drop).map_err(failed("commit")))? * 1e9);
        store.settle().map_err(failed("settle"))?;
    }
    Ok(Costs { allocate, read, commit: median(&times) })
}

/// Costs at 1 %, 50 % and 99 % full, on volumes of 1 GiB, 64 GiB and 1 TiB; each compared with the first.
///
/// # Errors
/// Those of the file and of the store.
pub fn growth(setting: &Setting) -> Result<Vec<Row>> {
    let mut found = Vec::new();
    let gib: u64 = 1 << 30;
    let volumes: &[(&str, u64)] = match setting.quick {
        true => &[("1 GiB", 1), ("64 GiB", 64)],
        false => &[("1 GiB", 1), ("64 GiB", 64), ("1 TiB", 1024)],
    };
    for (name, size) in volumes {
        let path = setting.scratch("sparse.img");
        create_file(path.path(), size * gib)?;
        fill_and_measure(path.path(), setting, |percent, costs| {
            found.push((format!("{name}, {percent} % full"), costs))
        })?;
    }
    let mut rows = Vec::new();
    for (what, cost) in [
        ("allocate + free", (|costs: &Costs| costs.allocate) as fn(&Costs) -> f64),
        ("cached read", |costs| costs.read),
        ("commit of one change, no flush", |costs| costs.commit),
    ] {
        let Some((_, first)) = found.first() else { break };
        let reference: Vec<f64> = first.iter().map(cost).collect();
        for (where_, costs) in &found[1..] {
            let ours: Vec<f64> = costs.iter().map(cost).collect();
            let goal = Goal::AtMost(1.5);
            let reference_name = "1 GiB, 1 % full";
            let question = Question { what, amount: where_.clone(), unit: "ns", reference: reference_name, goal };
            rows.push(row(question, &ours, &reference));
        }
    }
    Ok(rows)
}

fn fill_and_measure(path: &Path, setting: &Setting, mut note: impl FnMut(u64, Vec<Costs>)) -> Result<()> {
    let each = if setting.quick { 50_000 } else { 200_000 };
    unflushed(path, Shape::original(16), |store| {
        let total = store.room_blocks(arenite_core::Class::Normal);
        let mut taken = 0;
        for percent in [1, 50, 99] {
            while taken < total / 100 * percent {
                allocate_logged(store, 0).map_err(failed("allocate"))?;
                taken += 1;
            }
            store.commit(store.roots()).map_err(failed("commit"))?;
            store.settle().map_err(failed("settle"))?;
            note(percent, (0..setting.rounds).map(|_| costs(store, each)).collect::<Result<_>>()?);
        }
        Ok(())
    })
}
