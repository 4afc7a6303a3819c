//! Commits: what one changed block costs, and how costs grow.
#![forbid(unsafe_code)]

use crate::measure::{median, row, seconds, Goal, Question, Row};
use crate::timed::TimedDevice;
use crate::volume::{failed, unflushed, Shape, HOST};
use crate::Setting;
use anyhow::{Context, Result};
use arenite_core::bench::allocate_logged;
use arenite_core::format::BlockSize;
use arenite_core::{Allocate, BlockPtr, FormatOptions, Store};
use arenite_shim::file::create_file;
use arenite_shim::{boxed_memory, MemDevice, MemOptions};
use std::path::Path;
use std::sync::Arc;

const SIZE: BlockSize = BlockSize::ORIGINAL;

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
