//! Several threads on one store: some change and read blocks, one commits, one only steps. Afterwards the volume must hold
//! what the last commit held, and so must the crash states of the whole time.

mod common;

use arenite_core::{Allocate, BlockPtr, Error, MountOptions, Roots, Store};
use arenite_shim::client::{write_node, Version, FAN};
use arenite_shim::crash::Limits;
use arenite_shim::explore::{Explorer, Options};
use arenite_shim::faulty::Faulty;
use arenite_shim::mem::{MemDevice, MemOptions};
use arenite_shim::memory_box::{boxed_memory, SmallMemory};
use arenite_shim::oracle::Judge;
use arenite_shim::record::{Recorder, Tape};
use arenite_shim::rng::Rng;
use arenite_shim::threads::with_syncers;
use arenite_shim::trace::Mark;
use arenite_shim::workload::{format, Recording, Snapshot};
use arenite_shim::{Disk, HostPlatform, ReadAt};
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

    /// The owner may free the block meanwhile, and somebody may get it: then there is an error, and never other content.
    /// Inside an epoch, nobody gets it.
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
fn commit(shared: &Shared<'_, '_, '_>, tape: &Tape, count: usize) -> Vec<Snapshot> {
    let threads = shared.lists.len();
    let empty = vec![Version::NONE; threads * FAN];
    let mut model = vec![Snapshot { roots: Roots::EMPTY, generation: None, versions: empty }];
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
        model.push(Snapshot { roots, generation: Some(generation), versions });
    }
    model
}

/// What a run is like.
struct Plan {
    threads: usize,
    commits: usize,
    changes_per_commit: u64,
    /// Completions come in any order.
    reorder: bool,
}

/// Runs the threads; returns what was recorded, and the disk.
fn run(plan: &Plan, recorded: bool) -> (Recording, Arc<Disk>) {
    let disk = Arc::new(Disk::zeroed(512 * 2048));
    format(&disk, 4).unwrap();
    let base = disk.snapshot();
    let tape = Tape::new();
    let memory: Box<SmallMemory> = boxed_memory();
    let device = Faulty::new(MemDevice::new(Arc::clone(&disk), MemOptions::default()), Vec::new());
    if plan.reorder {
        device.reorder(17);
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
                scope.spawn(move || shared.work(thread, thread as u64));
            }
            let model = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| commit(shared, &tape, plan.commits)));
            shared.stop.store(true, Ordering::Relaxed);
            model.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    });
    let [changes, reads, late] = shared.counts.each_ref().map(|count| count.load(Ordering::Relaxed));
    println!("{} threads: {changes} changes, {reads} reads, {late} too late", plan.threads);
    assert!(changes > plan.commits as u64 * 4 && reads > 1000, "{changes} changes, {reads} reads");
    store.unmount().unwrap();
    (Recording { levels: 2, trace: tape.trace(base), model }, disk)
}

/// Few changes for each commit, and all crash states of the whole time.
fn crash_states(plan: &Plan) {
    let (recording, _) = run(plan, true);
    let limits = Limits { exhaustive_states: 1 << 8, samples: 16, ..Limits::DEFAULT };
    let mut explorer = Explorer::new(Options { limits, ..Options::DEFAULT });
    explorer.explore(&recording);
    println!("{}", explorer.counts());
    assert!(explorer.failures().is_empty(), "{:#?}", explorer.failures());
    assert!(explorer.counts().mount_images > plan.commits as u64 * 3, "{}", explorer.counts());
}

#[test]
fn crash_states_of_two_threads() {
    crash_states(&Plan { threads: 2, commits: 40, changes_per_commit: 24, reorder: false });
}

#[test]
fn crash_states_of_four_threads_and_completions_in_any_order() {
    crash_states(&Plan { threads: 4, commits: 25, changes_per_commit: 24, reorder: true });
}

#[test]
fn what_a_reader_may_reach_stays_until_it_has_left() {
    common::grace(true).unwrap();
    common::grace(false).unwrap();
}

#[test]
fn four_threads_at_full_speed() {
    for reorder in [false, true] {
        let plan = Plan { threads: 4, commits: 100, changes_per_commit: u64::MAX, reorder };
        let (recording, disk) = run(&plan, false);
        let mut judge = Judge::new(disk.len_bytes(), 2);
        judge.disk().rebase(&disk.snapshot());
        assert_eq!(judge.judge(&recording.model, false, |_| false).unwrap().shown, plan.commits);
    }
}
