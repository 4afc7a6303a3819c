//! Moving blocks: writes with their commit, and cold reads, against raw transfers of the same bytes on the same file
//! system.
#![forbid(unsafe_code)]

use crate::measure::{compare, row, seconds, Goal, Question, Row};
use crate::raw::{self, Way};
use crate::space::queue_beside;
use crate::volume::{failed, in_file, Shape};
use crate::Setting;
use anyhow::{bail, Context, Result};
use arenite_core::{Allocate, BlockPtr, Error, Platform, ReadOptions, Reading, Store};
use arenite_shim::rng::Rng;
use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

const BLOCK_LEN_BYTES: u64 = 16 << 10;
/// Reads under way at once.
const READ_DEPTH: usize = 16;
/// Ways of the raw side to keep as many reads under way.
const READ_WAYS: [(usize, bool); 4] = [(4, false), (8, false), (READ_DEPTH, false), (READ_DEPTH, true)];

/// Fills, queues and commits `blocks` blocks with so many workers; returns the pointers.
fn write_blocks(store: &Store<'_, '_>, blocks: u64, workers: u32, content: &[u8]) -> Result<Vec<BlockPtr>> {
    let left = AtomicU64::new(blocks);
    let work = |worker: u32| -> Result<Vec<BlockPtr>, Error> {
        let mut written = Vec::new();
        while left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1)).is_ok() {
            let mut block = store.allocate(Allocate::data().hint(worker).unzeroed())?;
            block.bytes_mut().copy_from_slice(content);
            written.push(store.enqueue(block)?.ptr());
        }
        Ok(written)
    };
    let mut written = Vec::new();
    std::thread::scope(|scope| -> Result<()> {
        let threads: Vec<_> = (1..workers).map(|worker| scope.spawn(move || work(worker))).collect();
        written = work(0).map_err(failed("write"))?;
        for thread in threads {
            match thread.join() {
                Ok(result) => written.extend(result.map_err(failed("write"))?),
                Err(_) => bail!("a worker has failed"),
            }
        }
        Ok(())
    })?;
    store.commit(store.roots()).map_err(failed("commit"))?;
    Ok(written)
}

/// Frees the blocks and commits, so that the next round finds the volume as the first one did.
fn free_blocks(store: &Store<'_, '_>, blocks: &[BlockPtr]) -> Result<()> {
    blocks.iter().try_for_each(|ptr| store.free(*ptr)).map_err(failed("free"))?;
    store.commit(store.roots()).map_err(failed("commit"))?;
    store.settle().map_err(failed("settle"))?;
    Ok(())
}

/// Bytes a second of one round of writing.
fn write_rate(store: &Store<'_, '_>, setting: &Setting, workers: u32, content: &[u8]) -> Result<f64> {
    let blocks = setting.len_bytes / BLOCK_LEN_BYTES;
    let mut written = Vec::new();
    let time = seconds(|| {
        written = write_blocks(store, blocks, workers, content)?;
        Ok(())
    })?;
    free_blocks(store, &written)?;
    Ok(setting.len_bytes as f64 / time)
}

/// Write and commit, with one and two workers, past the page cache or through it.
///
/// # Errors
/// Those of the files and of the store.
pub fn write(setting: &Setting, direct: bool) -> Result<Vec<Row>> {
    let store_path = setting.scratch("store.img");
    let raw_path = setting.scratch("raw.img");
    raw::lay_out(store_path.path(), setting.len_bytes + setting.len_bytes / 4 + (64 << 20))?;
    raw::lay_out(raw_path.path(), setting.len_bytes)?;
    let raw = raw::open(raw_path.path(), direct)?;
    let content: Vec<u8> = (0..BLOCK_LEN_BYTES).map(|at| (at >> 2) as u8).collect();
    let best = raw::best_write(&raw, setting.len_bytes, &content)?;
    let theirs = || raw::write(&raw, setting.len_bytes, best, Some(&content));
    let (name, goal) = if direct { ("write + commit, direct", 0.95) } else { ("write + commit, page cache", 0.90) };
    in_file(store_path.path(), direct, Shape::original(8), |store, _| {
        let mut rows = Vec::new();
        if direct {
            let question = Question {
                what: "raw write + flush",
                amount: setting.amount(),
                unit: "B/s",
                reference: "dd oflag=direct",
                goal: Goal::AtLeast(0.95),
            };
            let dd = || raw::dd_write(raw_path.path(), setting.len_bytes);
            rows.push(compare(setting.rounds, question, theirs, dd)?);
            let question = Question {
                what: "raw write + flush, filled",
                amount: setting.amount(),
                unit: "B/s",
                reference: "the same, never filled",
                goal: Goal::None,
            };
            let unfilled = || raw::write(&raw, setting.len_bytes, best, None);
            rows.push(compare(setting.rounds, question, theirs, unfilled)?);
        }
        for workers in [1, 2] {
            let question = Question {
                what: &format!("{name}, {workers} worker{}", if workers == 1 { "" } else { "s" }),
                amount: setting.amount(),
                unit: "B/s",
                reference: &format!("raw, {best}"),
                goal: Goal::AtLeast(goal),
            };
            let ours = || write_rate(store, setting, workers, &content);
            rows.push(compare(setting.rounds, question, ours, theirs)?);
        }
        let question = Question {
            what: &format!("{name}: 2 workers"),
            amount: setting.amount(),
            unit: "B/s",
            reference: "1 worker",
            goal: Goal::AtLeast(1.0),
        };
        let two = || write_rate(store, setting, 2, &content);
        let one = || write_rate(store, setting, 1, &content);
        rows.push(compare(setting.rounds, question, two, one)?);
        if direct {
            let block_ns = || Ok(BLOCK_LEN_BYTES as f64 * 1e9 / one()?);
            rows.push(queue_beside(setting, block_ns)?);
        }
        Ok(rows)
    })
}

/// Reads all blocks past the cache, so many at once; every one is verified. Whichever is here makes room for the next,
/// as on the raw side.
fn read_blocks(store: &Store<'_, '_>, platform: &dyn Platform, blocks: &[BlockPtr]) -> Result<()> {
    let options = ReadOptions { past_cache: true, ..ReadOptions::default() };
    let start = |ptr: &BlockPtr| store.start_read_with(*ptr, options).map_err(failed("read"));
    let mut next = blocks.iter();
    let mut waiting = next.by_ref().take(READ_DEPTH).map(start).collect::<Result<Vec<Reading<'_>>>>()?;
    while !waiting.is_empty() {
        let mut at = 0;
        while let Some(reading) = waiting.get(at) {
            let Some(result) = reading.poll() else {
                at += 1;
                continue;
            };
            result.map_err(failed("read"))?;
            waiting.swap_remove(at);
            waiting.extend(next.next().map(start).transpose()?);
        }
        if !waiting.is_empty() && !store.step() {
            platform.relax();
        }
    }
    Ok(())
}

/// Cold reads by pointer, in the order of addresses and in random order.
///
/// # Errors
/// Those of the file and of the store.
pub fn read(setting: &Setting) -> Result<Vec<Row>> {
    let path = setting.scratch("store.img");
    raw::lay_out(path.path(), setting.len_bytes + setting.len_bytes / 4 + (64 << 20))?;
    let content: Vec<u8> = (0..BLOCK_LEN_BYTES).map(|at| (at >> 3) as u8).collect();
    in_file(path.path(), true, Shape::original(8), |store, platform| {
        let mut blocks = write_blocks(store, setting.len_bytes / BLOCK_LEN_BYTES, 1, &content)?;
        // A file is locked once per opening, and this one is read only.
        let raw = raw::open(path.path(), true)?;
        let mut rows = Vec::new();
        for order in ["sequential", "random"] {
            match order {
                "random" => shuffle(&mut blocks),
                _ => blocks.sort_by_key(|ptr| ptr.addr),
            }
            let addrs: Vec<u64> = blocks.iter().map(|ptr| ptr.addr).collect();
            let ways = READ_WAYS.iter().filter(|(_, ring)| !ring || raw::has_ring());
            let ways = ways.map(|&(depth, ring)| Way { request_len_bytes: 16 << 10, depth, ring });
            let best = raw::best(ways, |way| raw::read(&raw, &addrs, way, |_| ()))?;
            let question = Question {
                what: &format!("cold read, {order}, depth {READ_DEPTH}"),
                amount: setting.amount(),
                unit: "B/s",
                reference: &format!("raw, {best}"),
                goal: Goal::AtLeast(0.95),
            };
            let ours = || Ok(setting.len_bytes as f64 / seconds(|| read_blocks(store, platform, &blocks))?);
            rows.push(compare(setting.rounds, question, ours, || raw::read(&raw, &addrs, best, |_| ()))?);
        }
        Ok(rows)
    })
}

fn shuffle(blocks: &mut [BlockPtr]) {
    let mut rng = Rng::new(42);
    for last in (1..blocks.len()).rev() {
        let other = rng.below(last as u64 + 1) as usize;
        blocks.swap(last, other);
    }
}

/// How long a commit takes while two workers write: median, and what 99.9 % stay below.
///
/// # Errors
/// Those of the file and of the store.
pub fn commit_latency(setting: &Setting) -> Result<Vec<Row>> {
    let path = setting.scratch("store.img");
    raw::lay_out(path.path(), 512 << 20)?;
    let content = vec![0x33; BLOCK_LEN_BYTES as usize];
    let commits = if setting.quick { 100 } else { 1500 };
    let times = in_file(path.path(), true, Shape::original(8), |store, _| {
        let stop = AtomicBool::new(false);
        std::thread::scope(|scope| -> Result<Vec<f64>> {
            let (stop, content) = (&stop, &content);
            let workers: Vec<_> =
                (1..=2).map(|worker| scope.spawn(move || churn(store, worker, content, stop))).collect();
            let timed = (0..commits).map(|_| one_commit(store)).collect::<Result<Vec<f64>>>();
            stop.store(true, Ordering::Release);
            for worker in workers {
                worker.join().ok().context("a worker has failed")?.map_err(failed("write"))?;
            }
            timed
        })
    })?;
    let pair = |part: f64, what: &str| {
        let question = Question {
            what,
            amount: format!("{commits} commits"),
            unit: "s",
            reference: "its own median",
            goal: Goal::None,
        };
        row(question, &[crate::measure::quantile(&times, part)], &[crate::measure::median(&times)])
    };
    Ok(vec![pair(0.5, "commit under load, median"), pair(0.999, "commit under load, 99.9 %")])
}

/// Seconds of a commit in which at least one block is new.
fn one_commit(store: &Store<'_, '_>) -> Result<f64> {
    let block = store.allocate(Allocate::data()).map_err(failed("allocate"))?;
    let ptr = store.enqueue(block).map_err(failed("enqueue"))?.ptr();
    let time = seconds(|| store.commit(store.roots()).map(drop).map_err(failed("commit")))?;
    store.free(ptr).map_err(failed("free"))?;
    Ok(time)
}

/// Writes blocks and frees them again, a hundred at a time.
fn churn(store: &Store<'_, '_>, worker: u32, content: &[u8], stop: &AtomicBool) -> Result<(), Error> {
    let mut mine = VecDeque::new();
    while !stop.load(Ordering::Acquire) {
        let mut block = store.allocate(Allocate::data().hint(worker).unzeroed())?;
        block.bytes_mut().copy_from_slice(content);
        mine.push_back(store.enqueue(block)?.ptr());
        if mine.len() > 100 {
            if let Some(ptr) = mine.pop_front() {
                store.free(ptr)?;
            }
        }
    }
    mine.into_iter().try_for_each(|ptr| store.free(ptr))
}
