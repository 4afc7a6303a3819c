//! Guarantees that no crash state shows: a lost write of a log is noticed, what a reader may reach stays, and what the
//! original left behind when it was killed is neither lost nor comes alive. Each says what is wrong, if anything is.
#![forbid(unsafe_code)]

use crate::check::{RawVolume, Rule};
use crate::client::{Client, Slots, Version};
use crate::disk::Disk;
use crate::explore::without_panic;
use crate::foreign::make_killed;
use crate::image::ReadAt;
use crate::mem::{MemDevice, MemOptions};
use crate::memory_box::{boxed_memory, SmallMemory};
use crate::oracle::{mount, Judge};
use crate::rng::Rng;
use crate::tree::{Script, Snapshot, Tree};
use crate::workload::{format as format_disk, prepare, record, Config, Prelude};
use arenite_core::format::{BlockSize, LogBlock, LogEntry, LogWriter, NONE};
use arenite_core::{Allocate, Class, Error, Store};
use std::sync::Arc;

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
    if mount(resources, &device).is_ok() {
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

/// A volume of ours to which the original had added when it was killed. It shows what was committed; and a commit cuts
/// its logs back even if it changes nothing, so that the original can read them.
pub fn interrupted_original() -> Result<(), String> {
    let (disk, run) = prepare(&Config::interrupted(0)).map_err(|error| format!("{error:?}"))?;
    let model = &run.log().model;
    let mut judge: Judge<Slots> = Judge::new(*run.shape(), BlockSize::MIN, disk.len_bytes());
    judge.disk().rebase(&disk.snapshot());
    judge.judge(model, false, |_| false)?;
    {
        let memory: Box<SmallMemory> = boxed_memory();
        let device = MemDevice::new(Arc::clone(&disk), MemOptions::default());
        let store = mount(memory.take().ok_or("memory is taken")?, &device)?;
        store.commit(store.roots()).and_then(|_| store.settle()).map_err(|error| error.to_string())?;
        store.unmount().map_err(|error| error.to_string())?;
    }
    let read = |rule| RawVolume::read(&*disk, rule).map_err(|error| error.to_string());
    if read(Rule::Sealed)?.arenas != read(Rule::Bare)?.arenas {
        return Err("a commit without changes left logs that the original reads in another way".into());
    }
    judge.disk().rebase(&disk.snapshot());
    judge.judge(model, false, |_| false).map(drop)
}

/// A volume of the original, killed while it wrote over a log: what it had freed behind the last barrier may be part of
/// the committed state, and is not handed out.
pub fn killed_original() -> Result<(), String> {
    let config = Config { prelude: Prelude::Filled, ..Config::foreign(0) };
    let (disk, run) = prepare(&config).map_err(|error| format!("{error:?}"))?;
    let shown = run.log().model.first().ok_or("nothing was committed")?.clone();
    let memory: Box<SmallMemory> = boxed_memory();
    let addr = {
        let device = MemDevice::new(Arc::clone(&disk), MemOptions::default());
        let store = mount(memory.take().ok_or("memory is taken")?, &device)?;
        let slots = Slots::open(run.shape(), &store)?;
        slots.ptr(1).ok_or("nothing in that slot")?.addr
    };
    make_killed(&disk, addr).map_err(|error| error.to_string())?;
    let model;
    {
        let memory: Box<SmallMemory> = boxed_memory();
        let device = MemDevice::new(Arc::clone(&disk), MemOptions::default());
        let store = mount(memory.take().ok_or("memory is taken")?, &device)?;
        if store.is_free(addr) != Ok(false) || store.report().doubtful_blocks != 1 {
            return Err("a block that may be in use counts as free".into());
        }
        let mut slots = Slots::open(run.shape(), &store)?;
        if slots.content() != shown.content {
            return Err("the content is not that of the commit".into());
        }
        Tree::change(&mut slots, &store, &mut Rng::new(1)).map_err(|error| error.to_string())?;
        let roots = Tree::prepare(&mut slots, &store).map_err(|error| error.to_string())?;
        let generation = Some(store.commit(roots).map_err(|error| error.to_string())?);
        model = vec![Snapshot { roots, generation, content: slots.content() }];
        store.unmount().map_err(|error| error.to_string())?;
    }
    let mut judge: Judge<Slots> = Judge::new(*run.shape(), BlockSize::MIN, disk.len_bytes());
    judge.disk().rebase(&disk.snapshot());
    judge.judge(&model, false, |_| false).map(drop)
}

/// A volume on which callers took every block that they were given, and then freed every other one: the commit finds
/// room for a log of several blocks.
pub fn full_volume() -> Result<(), String> {
    let disk = Arc::new(Disk::zeroed(640 * 2048));
    format_disk(&disk, 1).map_err(|error| error.to_string())?;
    let memory: Box<SmallMemory> = boxed_memory();
    let device = MemDevice::new(disk, MemOptions::default());
    let store = mount(memory.take().ok_or("memory is taken")?, &device)?;
    let mut ptrs = Vec::new();
    loop {
        match store.allocate(Allocate::data().class(Class::Reclaim)) {
            Ok(filling) => ptrs.push(store.enqueue(filling).map_err(|error| error.to_string())?.ptr()),
            Err(Error::Full { .. }) => break,
            Err(error) => return Err(error.to_string()),
        }
    }
    let mut roots = store.roots();
    for freed in [0, 2] {
        ptrs.iter()
            .skip(1)
            .step_by(2)
            .take(freed * ptrs.len())
            .try_for_each(|ptr| store.free(*ptr))
            .map_err(|error| error.to_string())?;
        roots.next_qid += 1;
        store.commit(roots).map_err(|error| format!("a commit of a full volume: {error}"))?;
    }
    store.unmount().map_err(|error| error.to_string())
}

/// All of these.
pub fn all() -> Result<(), String> {
    for probe in [lost_log_write, interrupted_original, killed_original, full_volume] {
        without_panic(probe)?;
    }
    [true, false].into_iter().try_for_each(|written| without_panic(|| grace(written)))
}

/// Somebody inside an epoch reads what others free meanwhile: a block that no commit had yet, and one that a commit
/// had. Both must stay as they are until that reader has left, however much the others allocate. The former is on the
/// device already if `written`, and only in the cache otherwise.
pub fn grace(written: bool) -> Result<(), String> {
    let disk = Arc::new(Disk::zeroed(64 * 2048));
    format_disk(&disk, 1).map_err(|error| error.to_string())?;
    let memory: Box<SmallMemory> = boxed_memory();
    let device = MemDevice::new(disk, MemOptions::default());
    let store = mount(memory.take().ok_or("memory is taken")?, &device)?;
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
