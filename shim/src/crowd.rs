//! Several threads on one store: some change and read blocks, one commits, one only steps.
//!
//! What is recorded is what the device saw, in the order in which it saw it; no two runs are the same. Every offence
//! (wrong content, content of a block that somebody else got, an error that must not be) is a panic.
#![forbid(unsafe_code)]

use crate::client::{write_node, Shape, Slots, Version, FAN};
use crate::disk::Disk;
use crate::faulty::Faulty;
use crate::mem::{MemDevice, MemOptions};
use crate::memory_box::{boxed_memory, SmallMemory};
use crate::platform::HostPlatform;
use crate::record::{Recorder, Tape};
use crate::rng::Rng;
use crate::threads::with_syncers;
use crate::trace::Mark;
use crate::tree::{Recording, Snapshot};
use crate::workload::format;
use arenite_core::format::BlockSize;
use arenite_core::{Allocate, BlockPtr, Error, MountOptions, Roots, Store};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, RwLock};

/// Slots that each thread uses of its node.
const SLOTS: usize = 40;

type List = Vec<(Version, Option<BlockPtr>)>;

struct Shared<'a, 'd, 'm> {
    store: &'a Store<'d, 'm>,
    /// One list a thread; its lock is held for one change, store calls included.
    lists: Vec<Mutex<List>>,
    /// Held for reading during each change and for writing while a commit is begun (the rule of use). Before `lists`.
    gate: RwLock<()>,
    stop: AtomicBool,
    /// Changes that the threads may still make before the next commit.
    budget: AtomicU64,
    changes_per_commit: u64,
    next_version: AtomicU64,
    /// Changes made, reads that gave content, reads of what was freed meanwhile.
    counts: [AtomicU64; 3],
}

impl Shared<'_, '_, '_> {
    fn count(&self, what: usize) {
        self.counts[what].fetch_add(1, Ordering::Relaxed);
    }

    fn work(&self, thread: usize, seed: u64) {
        let mut rng = Rng::new(seed);
        while !self.stop.load(Ordering::Relaxed) {
            let gate = self.gate.read().unwrap();
            let slot = rng.below(SLOTS as u64) as usize;
            let spend = |left: u64| left.checked_sub(1);
            let may_change = self.budget.fetch_update(Ordering::Relaxed, Ordering::Relaxed, spend).is_ok();
            match rng.below(10) {
                0..=4 if !may_change => self.read_own(thread, slot),
                0..=3 => self.put(thread, slot),
                4 => self.delete(thread, slot),
                5..=7 => self.read_own(thread, slot),
                _ => self.read_other(rng.below(self.lists.len() as u64) as usize, slot, rng.chance(1, 2)),
            }
            drop(gate);
        }
    }

    fn put(&self, thread: usize, slot: usize) {
        let version = Version::new(self.next_version.fetch_add(1, Ordering::Relaxed), false);
        let mut list = self.lists[thread].lock().unwrap();
        let mut filling = match self.store.allocate(Allocate::data().hint(thread as u32)) {
            Err(Error::Full { .. }) => return,
            result => result.unwrap(),
        };
        version.write(thread * FAN + slot, filling.bytes_mut());
        let ptr = self.store.enqueue(filling).unwrap().ptr();
        let (_, old) = std::mem::replace(&mut list[slot], (version, Some(ptr)));
        old.map_or(Ok(()), |old| self.store.free(old)).unwrap();
        self.count(0);
    }

    fn delete(&self, thread: usize, slot: usize) {
        let mut list = self.lists[thread].lock().unwrap();
        let (_, old) = std::mem::take(&mut list[slot]);
        old.map_or(Ok(()), |old| self.store.free(old)).unwrap();
        self.count(0);
    }

    fn read_own(&self, thread: usize, slot: usize) {
        let (version, ptr) = self.lists[thread].lock().unwrap()[slot];
        let Some(ptr) = ptr else { return };
        let block = self.store.read(ptr).unwrap();
        assert_eq!(Version::read(thread * FAN + slot, &block), Some(version));
        self.count(1);
    }

    /// The owner may free the block meanwhile, and somebody may get it: then there is an error, and never other
    /// content. Inside an epoch, nobody gets it.
    fn read_other(&self, thread: usize, slot: usize, inside: bool) {
        let _worker = inside.then(|| self.store.enter(thread as u32).unwrap());
        // Whoever is inside must not wait for somebody who may wait for limbo.
        let Ok(list) = self.lists[thread].try_lock() else { return };
        let (version, ptr) = list[slot];
        drop(list);
        let Some(ptr) = ptr else { return };
        std::thread::yield_now();
        match self.store.read(ptr) {
            Ok(block) => {
                assert_eq!(Version::read(thread * FAN + slot, &block), Some(version));
                self.count(1);
            }
            Err(Error::Corrupt { .. }) if !inside => self.count(2),
            Err(error) => panic!("{error}"),
        }
    }
}

/// Commits `count` times while the others work; returns what each commit holds.
fn commit(shared: &Shared<'_, '_, '_>, tape: &Tape, count: usize) -> Vec<Snapshot<Vec<Version>>> {
    let threads = shared.lists.len();
    let empty = vec![Version::NONE; threads * FAN];
    let mut model = vec![Snapshot { roots: Roots::EMPTY, generation: None, content: empty }];
    let mut nodes: Vec<Option<BlockPtr>> = vec![None; threads];
    let mut root = None;
    for number in 1..=count {
        std::thread::sleep(std::time::Duration::from_millis(2));
        let gate = shared.gate.write().unwrap();
        let mut versions = Vec::new();
        for (node, list) in nodes.iter_mut().zip(&shared.lists) {
            let list = list.lock().unwrap();
            let ptrs: Vec<_> = list.iter().map(|(_, ptr)| *ptr).collect();
            let new = write_node(shared.store, &ptrs).unwrap();
            node.replace(new).map_or(Ok(()), |old| shared.store.free(old)).unwrap();
            versions.extend(list.iter().map(|(version, _)| *version));
            versions.resize(versions.len().next_multiple_of(FAN), Version::NONE);
        }
        let new = write_node(shared.store, &nodes).unwrap();
        root.replace(new).map_or(Ok(()), |old| shared.store.free(old)).unwrap();
        let roots = Roots { next_qid: number as u64, ..Roots::EMPTY.with_root(root, 2) };
        tape.mark(Mark::Begun(number));
        let ticket = loop {
            // Until the second copies of the commit before are written.
            match shared.store.commit_start(roots) {
                Err(Error::CommitInFlight) => drop(shared.store.step()),
                result => break result.unwrap(),
            }
        };
        shared.budget.store(shared.changes_per_commit, Ordering::Relaxed);
        drop(gate);
        let generation = loop {
            match shared.store.commit_poll(&ticket) {
                Some(result) => break result.unwrap(),
                None => drop(shared.store.step()),
            }
        };
        tape.mark(Mark::Acknowledged(number));
        model.push(Snapshot { roots, generation: Some(generation), content: versions });
    }
    model
}

/// What a run is like.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    /// Threads that change and read.
    pub threads: usize,
    /// Commits.
    pub commits: usize,
    /// Changes before each commit, all threads together.
    pub changes_per_commit: u64,
    /// Completions come in any order.
    pub reorder: bool,
    /// For what each thread does; when it does it, the host decides.
    pub seed: u64,
}

/// Runs the threads; returns what was recorded, and the disk. Panics if a thread meets what must not be.
pub fn run(plan: &Plan, recorded: bool) -> (Recording<Slots>, Arc<Disk>) {
    let disk = Arc::new(Disk::zeroed(512 * 2048));
    format(&disk, 4).unwrap();
    let base = disk.snapshot();
    let tape = Tape::new();
    let memory: Box<SmallMemory> = boxed_memory();
    let device = Faulty::new(MemDevice::new(Arc::clone(&disk), MemOptions::default()), Vec::new());
    if plan.reorder {
        device.reorder(17 ^ plan.seed);
    }
    let device = if recorded { Recorder::new(device, Arc::clone(&tape)) } else { Recorder::off(device) };
    let resources = memory.take().unwrap();
    let store = Store::mount(resources, &device, &HostPlatform, MountOptions::default()).unwrap();
    let changes_per_commit = plan.changes_per_commit;
    let shared = Shared {
        store: &store,
        lists: (0..plan.threads).map(|_| Mutex::new(vec![(Version::NONE, None); SLOTS])).collect(),
        gate: RwLock::new(()),
        stop: AtomicBool::new(false),
        budget: AtomicU64::new(changes_per_commit),
        changes_per_commit,
        next_version: AtomicU64::new(1),
        counts: Default::default(),
    };
    let model = with_syncers(&store, 1, || {
        std::thread::scope(|scope| {
            let shared = &shared;
            for thread in 0..plan.threads {
                scope.spawn(move || shared.work(thread, thread as u64 ^ plan.seed << 8));
            }
            let model = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| commit(shared, &tape, plan.commits)));
            shared.stop.store(true, Ordering::Relaxed);
            model.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    });
    let [changes, reads, _] = shared.counts.each_ref().map(|count| count.load(Ordering::Relaxed));
    assert!(changes > plan.commits as u64 && reads > 0, "{changes} changes, {reads} reads");
    store.unmount().unwrap();
    let shape = Shape { slots: plan.threads * FAN, levels: 2 };
    (Recording { shape, block_size: BlockSize::MIN, trace: tape.trace(base), model }, disk)
}
