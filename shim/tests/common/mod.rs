//! Campaigns that more than one test file runs. Each says what is wrong, if anything is.

// Every test file uses a part of it.
#![allow(dead_code)]

use arenite_core::format::{LogBlock, LogEntry, LogWriter, NONE};
use arenite_core::{Allocate, Error, MountOptions, Store};
use arenite_shim::check::{RawVolume, Rule};
use arenite_shim::client::{Client, Version};
use arenite_shim::crash::Limits;
use arenite_shim::explore::{panic_text, Explorer, Options};
use arenite_shim::faulty::{Effect, Fault, Faulty, Op};
use arenite_shim::mem::{MemDevice, MemOptions};
use arenite_shim::memory_box::{boxed_memory, SmallMemory};
use arenite_shim::oracle::Judge;
use arenite_shim::platform::ImpatientPlatform;
use arenite_shim::record::{Recorder, Tape};
use arenite_shim::workload::{format as format_disk, prepare, record, record_from, Config, Recording, Run, RunError};
use arenite_shim::{Disk, ReadAt};
use std::panic::{catch_unwind, AssertUnwindSafe};
use std::sync::Arc;

/// Turns a panic into a message.
pub fn without_panic<T>(body: impl FnOnce() -> Result<T, String>) -> Result<T, String> {
    catch_unwind(AssertUnwindSafe(body)).unwrap_or_else(|panic| Err(format!("panic: {}", panic_text(&*panic))))
}

/// Prepares a volume, calls `arm`, records a run and explores its crash states.
pub fn crash_campaign(config: &Config, options: Options, arm: impl FnOnce()) -> Result<(), String> {
    let (disk, run) = prepare(config).map_err(|error| format!("preparation: {error:?}"))?;
    arm();
    let recording = without_panic(|| record_from(&disk, &run).map_err(|error| format!("run: {error:?}")))?;
    let mut explorer = Explorer::new(options);
    explorer.explore(&recording);
    let Some(failure) = explorer.failures().first() else { return Ok(()) };
    assert!(Explorer::replay(&recording, &failure.replay).is_err(), "{failure}: not when it is tried again");
    Err(format!("seed {}, {failure}", config.seed))
}

/// A volume to begin with and a run on it, prepared once for many faults.
pub struct FaultBench {
    config: Config,
    base: Arc<[u8]>,
    run: Run,
}

/// The device of a run with faults.
type FaultyDevice<'m> = Recorder<Faulty<'m, MemDevice<'m>>>;

impl FaultBench {
    pub fn new(config: Config) -> Self {
        let (disk, run) = prepare(&config).expect("a run without faults");
        Self { config, base: disk.snapshot(), run }
    }

    /// Runs one life with one fault; then looks at what is left, mounted again at once and after a power cut. `false` if
    /// the run has fewer calls of that kind.
    pub fn run(&self, fault: Fault) -> Result<bool, String> {
        let tape = Tape::new();
        let disk = Arc::new(Disk::over(Arc::clone(&self.base)));
        let mut run = self.run.on_tape(&tape);
        let reached = without_panic(|| self.live(&mut run, &disk, &tape, fault))?;
        let begun_or_acknowledged = [run.acknowledged, run.begun];
        let mut judge = Judge::new(disk.len_bytes(), self.config.levels);
        judge.disk().rebase(&disk.snapshot());
        let verdict = without_panic(|| judge.judge(&run.model, false, |_| false));
        let shown = verdict.map_err(|what| format!("mounted again: {what}"))?.shown;
        if !begun_or_acknowledged.contains(&shown) {
            return Err(format!("mounted again: shows {shown}, not one of {begun_or_acknowledged:?}"));
        }
        let trace = tape.trace(Arc::clone(&self.base));
        let recording = Recording { levels: self.config.levels, trace, model: run.model };
        let limits = Limits { exhaustive_states: 1 << 10, ..Limits::DEFAULT };
        let mut explorer = Explorer::new(Options { limits, max_failures: 1, ..Options::DEFAULT });
        explorer.explore_last(&recording, 2);
        match explorer.failures().first() {
            None => Ok(reached),
            Some(failure) => Err(format!("after a power cut: {failure}")),
        }
    }

    fn live(&self, run: &mut Run, disk: &Arc<Disk>, tape: &Arc<Tape>, fault: Fault) -> Result<bool, String> {
        let memory: Box<SmallMemory> = boxed_memory();
        let discard = self.config.discard;
        let device = MemDevice::new(Arc::clone(disk), MemOptions { max_segments: 1, discard, ..MemOptions::default() });
        let device = Recorder::new(Faulty::new(device, vec![fault]), Arc::clone(tape));
        let resources = memory.take().ok_or("memory is taken")?;
        let options = MountOptions { discard, ..MountOptions::default() };
        let store = Store::mount(resources, &device, &ImpatientPlatform, options);
        let mut noticed = None;
        match store {
            Err(failed) => noticed = Some(RunError::Store(failed.error)),
            Ok(store) => {
                if let Err(error) = run.live(&store, None) {
                    noticed = Some(error);
                }
                if !store.is_read_only() && noticed.is_none() {
                    noticed = store.settle().err().map(RunError::Store);
                }
                let failed = store.is_read_only();
                if failed {
                    check_failed_store(&self.config, &store, &device, run)?;
                }
                let unmounted = store.unmount();
                if failed && unmounted.is_ok() {
                    return Err("a store that failed was unmounted as if nothing were".into());
                }
            }
        }
        let reached = device.inner().calls(fault.op) > fault.index;
        let failing = matches!(fault.effect, Effect::Refuse(_) | Effect::FailLate(_));
        let must_be_noticed = failing && matches!(fault.op, Op::Write | Op::Flush);
        match noticed {
            Some(RunError::Content) => Err("wrong content was taken for right".into()),
            None if reached && must_be_noticed => Err("nobody noticed".into()),
            Some(error) if fault.op == Op::Discard => Err(format!("a discard that failed is no error: {error:?}")),
            _ => Ok(reached),
        }
    }
}

/// What holds for a store that gave up writing: it stays so, and what was committed can be read.
fn check_failed_store(
    config: &Config,
    store: &Store<'_, '_>,
    device: &FaultyDevice<'_>,
    run: &Run,
) -> Result<(), String> {
    device.inner().set_faults(Vec::new());
    if store.failure().is_none() {
        return Err("read-only without a reason".into());
    }
    // Let everything end that is on its way.
    for _ in 0..200 {
        store.step();
    }
    let generation = store.generation();
    let refusals = [store.allocate(Allocate::data()).err(), store.commit_start(store.roots()).err()];
    if refusals != [Some(Error::ReadOnly); 2] {
        return Err(format!("a failed store does not refuse to write: {refusals:?}"));
    }
    for _ in 0..200 {
        store.step();
    }
    if store.generation() != generation || !store.is_read_only() {
        return Err("a failed store went on".into());
    }
    let shown = store.roots().next_qid as usize;
    let client = Client::load(store, config.slots, config.levels).map_err(|error| format!("reading on: {error:?}"))?;
    if ![run.acknowledged, run.begun].contains(&shown) || run.model[shown].versions != client.versions() {
        return Err(format!("a failed store shows {shown}, wrongly"));
    }
    Ok(())
}

/// Runs a fault at every index of one kind of call; returns how many there are.
pub fn fault_campaign(bench: &FaultBench, op: Op, sticky: bool, effect: Effect) -> Result<u64, String> {
    for index in 0.. {
        let fault = Fault { op, index, sticky, effect };
        match bench.run(fault) {
            Ok(true) => {}
            Ok(false) => return Ok(index),
            Err(what) => return Err(format!("{fault:?}: {what}")),
        }
    }
    Ok(0)
}

/// A log write that the device lost: the block holds a log that is valid in itself, but not the one that was written.
/// Mount must not take it.
pub fn lost_log_write() -> Result<(), String> {
    let config = Config { lives: 1, ..Config::small(1) };
    let recording = record(&config).map_err(|error| format!("{error:?}"))?;
    let epochs = recording.trace.epochs(0);
    let disk = Arc::new(Disk::over(Arc::clone(&epochs.last().ok_or("no epochs")?.base)));
    let raw = RawVolume::read(&*disk, Rule::Sealed).map_err(|error| error.to_string())?;
    let addr = raw.arenas[0].log[0];
    let mut page = vec![0; raw.size.len_bytes()];
    disk.read_at(addr, &mut page).map_err(|error| error.to_string())?;
    let stale = without_first_range(&page, &raw).ok_or("the log has no two ranges")?;
    disk.write_at(addr, &stale).map_err(|error| error.to_string())?;
    let memory: Box<SmallMemory> = boxed_memory();
    let device = MemDevice::new(disk, MemOptions::default());
    let resources = memory.take().ok_or("memory is taken")?;
    let mounted = Store::mount(resources, &device, &ImpatientPlatform, MountOptions::default()).is_ok();
    if mounted {
        return Err("a log that is not the one that was written was taken for it".into());
    }
    Ok(())
}

fn without_first_range(page: &[u8], raw: &RawVolume) -> Option<Vec<u8>> {
    let block = LogBlock::decode(page, raw.size).ok()?;
    let mut entries: Vec<LogEntry> = block.entries().collect::<Result<_, _>>().ok()?;
    if entries.len() < 3 {
        return None;
    }
    entries.remove(0);
    let mut stale = vec![0; raw.size.len_bytes()];
    let mut log = LogWriter::new(&mut stale, raw.size).ok()?;
    entries.into_iter().try_for_each(|entry| log.push(entry)).ok()?;
    log.finish(NONE).ok()?;
    Some(stale)
}

/// Somebody inside an epoch reads what others free meanwhile: a block that no commit had yet, and one that a commit had. Both
/// must stay as they are until that reader has left, however much the others allocate. The former is on the device
/// already if `written`, and only in the cache otherwise.
pub fn grace(written: bool) -> Result<(), String> {
    let disk = Arc::new(Disk::zeroed(64 * 2048));
    format_disk(&disk, 1).map_err(|error| error.to_string())?;
    let memory: Box<SmallMemory> = boxed_memory();
    let device = MemDevice::new(disk, MemOptions::default());
    let resources = memory.take().ok_or("memory is taken")?;
    let store = Store::mount(resources, &device, &ImpatientPlatform, MountOptions::default());
    let store = store.map_err(|failed| failed.error.to_string())?;
    let mut client = Client::load(&store, 79, 1).map_err(|error| format!("{error:?}"))?;
    let result = read_what_is_freed(&store, &mut client, written).and_then(|()| {
        // Nobody is inside any more: what was freed comes back.
        store.settle().map_err(|error| error.to_string())?;
        client.put(3, Version::new(1 << 20, true)).map_err(|error| format!("after the reader has left: {error}"))
    });
    drop(client);
    store.unmount().map_err(|error| error.to_string())?;
    result
}

fn read_what_is_freed(store: &Store<'_, '_>, client: &mut Client<'_, '_, '_>, written: bool) -> Result<(), String> {
    let text = |error: Error| error.to_string();
    let versions = [Version::new(1, true), Version::new(2, true)];
    client.put(0, versions[0]).map_err(text)?;
    store.commit(client.prepare().map_err(text)?).map_err(text)?;
    store.settle().map_err(text)?;
    client.put(1, versions[1]).map_err(text)?;
    if written {
        store.settle().map_err(text)?;
    }
    let ptrs = [client.ptr(0), client.ptr(1)].map(|ptr| ptr.ok_or("nothing was put"));
    let worker = store.enter(7).map_err(text)?;
    client.delete(0).map_err(text)?;
    client.delete(1).map_err(text)?;
    let ticket = store.commit_start(client.prepare().map_err(text)?).map_err(text)?;
    for _ in 0..500 {
        store.step();
    }
    if !matches!(store.commit_poll(&ticket), Some(Ok(_))) {
        return Err("a reader holds up a commit".into());
    }
    // Everything that can be had, in any order that it comes.
    let mut number = 10;
    while client.put(2 + number as usize % 20, Version::new(number, true)).is_ok() && number < 300 {
        number += 1;
    }
    for _ in 0..500 {
        store.step();
    }
    for (slot, (ptr, version)) in ptrs.into_iter().zip(versions).enumerate() {
        let block = store.read(ptr?).map_err(|error| format!("slot {slot} under a reader: {error}"))?;
        if Version::read(slot, &block) != Some(version) {
            return Err(format!("slot {slot} changed under a reader"));
        }
    }
    drop(worker);
    Ok(())
}
