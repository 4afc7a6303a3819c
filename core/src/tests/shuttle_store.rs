//! The whole store under the model checker shuttle.

use super::shuttle_world::{
    check, check_space, explore, memory, mount, once_in, read_tree, remount, write, write_as, write_root, Child, Disk,
    Volume,
};
use crate::{Allocate, BlockPtr, Class, Error, Store};
use shuttle::rand::{thread_rng, Rng};
use shuttle::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use shuttle::sync::{Mutex, RwLock};
use shuttle::thread;
use std::collections::BTreeMap;
use std::vec::Vec;

/// A tree of one root and its children, changed by several threads.
struct Tree<'s, 'd, 'm> {
    store: &'s Store<'d, 'm>,
    /// Held shared while a change is under way, and alone where a commit begins: the rule of use in [`crate::store`].
    gate: RwLock<BlockPtr>,
    children: Mutex<Vec<Child>>,
    ids: AtomicU64,
    /// The newest acknowledged generation and what it holds.
    acknowledged: Mutex<(u64, BlockPtr, Vec<Child>)>,
    busy: AtomicU32,
}

impl<'s, 'd, 'm> Tree<'s, 'd, 'm> {
    fn new(store: &'s Store<'d, 'm>, volume: &Volume, busy: u32) -> Self {
        let root = volume.root.unwrap();
        Self {
            store,
            gate: RwLock::new(root),
            children: Mutex::new(volume.children.clone()),
            ids: AtomicU64::new(1000),
            acknowledged: Mutex::new((store.generation(), root, volume.children.clone())),
            busy: AtomicU32::new(busy),
        }
    }

    fn take_child(&self) -> Option<Child> {
        let mut children = self.children.lock().unwrap();
        let index = thread_rng().gen_range(0..children.len().max(1));
        (index < children.len()).then(|| children.swap_remove(index))
    }

    /// Writes a child, frees one, reads one, or gives up one that was being filled.
    fn change(&self) -> Result<(), Error> {
        let _shared = self.gate.read().unwrap();
        match thread_rng().gen_range(0..6) {
            0 => drop(self.store.allocate(Allocate::data().class(Class::Reclaim))),
            1 => {
                if let Some(child) = self.take_child() {
                    self.store.free(child.ptr)?;
                }
            }
            2 => {
                if let Some(child) = self.take_child() {
                    check(self.store, child);
                    self.children.lock().unwrap().push(child);
                }
            }
            _ => {
                let id = self.ids.fetch_add(1, Ordering::Relaxed);
                match write_as(self.store, id, Class::Reclaim) {
                    Err(Error::Full { .. }) => {}
                    written => self.children.lock().unwrap().push(written?),
                }
            }
        }
        Ok(())
    }

    /// Commits the tree as it is and waits for that outside the gate; `false` if a commit is under way, or no room.
    fn commit(&self) -> Result<bool, Error> {
        let mut root = self.gate.write().unwrap();
        if self.store.settled_generation().is_none() {
            return Ok(false);
        }
        let children = self.children.lock().unwrap().clone();
        let new = match write_root(self.store, &children) {
            Err(Error::Full { .. }) => return Ok(false),
            new => new?,
        };
        self.store.free(*root)?;
        let ticket = self.store.commit_start(self.store.roots().with_root(Some(new), 1))?;
        *root = new;
        drop(root);
        let generation = loop {
            if let Some(result) = self.store.commit_poll(&ticket) {
                break result?;
            }
            if !self.store.step() {
                thread::yield_now();
            }
        };
        let mut acknowledged = self.acknowledged.lock().unwrap();
        if acknowledged.0 < generation {
            *acknowledged = (generation, new, children);
        }
        Ok(true)
    }

    fn work(&self, rounds: u32) -> Result<(), Error> {
        let result = (0..rounds).try_for_each(|_| if once_in(4) { self.commit().map(drop) } else { self.change() });
        self.busy.fetch_sub(1, Ordering::Relaxed);
        result
    }

    fn drive(&self) {
        while self.busy.load(Ordering::Relaxed) != 0 {
            if !self.store.step() {
                thread::yield_now();
            }
        }
    }

    /// A remounted store shows what was acknowledged last, and nothing else is in use.
    fn check_image(&self, image: Vec<u8>) {
        let (generation, root, children) = self.acknowledged.lock().unwrap().clone();
        remount(image, |store| {
            let (found_root, found) = read_tree(store);
            assert_eq!((store.generation(), found_root.addr, found_root.hash), (generation, root.addr, root.hash));
            assert_eq!(found.iter().map(|child| child.id).collect::<Vec<_>>(), ids(&children));
            check_space(store, children.len() + 1);
        });
    }
}

fn ids(children: &[Child]) -> Vec<u64> {
    children.iter().map(|child| child.id).collect()
}

/// Blocks that are in use in the committed state or live now, each once.
fn held(tree: &Tree<'_, '_, '_>) -> u64 {
    let (_, root, children) = tree.acknowledged.lock().unwrap().clone();
    let live = tree.children.lock().unwrap().clone();
    let addrs = children.iter().chain(&live).map(|child| child.ptr.addr);
    addrs.chain([root.addr]).collect::<std::collections::BTreeSet<_>>().len() as u64
}

/// Two threads change, read and commit, one steps. Everything is waited for at the end, and counted.
#[test]
fn shuttle_the_whole_store() {
    // Nearly full, so that what is freed is soon handed out again.
    let volume = Volume::new(26);
    explore("whole store", 1000, 1000, move || {
        let memory = memory::<4>();
        let disk = Disk::new(volume.bytes.clone(), 2);
        let store = mount(&memory, &disk);
        let tree = Tree::new(&store, &volume, 2);
        thread::scope(|scope| {
            let workers = [0, 1].map(|_| scope.spawn(|| tree.work(10)));
            scope.spawn(|| tree.drive());
            for worker in workers {
                assert_eq!(worker.join().unwrap(), Ok(()));
            }
        });
        tree.check_image(disk.crash());
        store.settle().unwrap();
        check_space(&store, tree.acknowledged.lock().unwrap().2.len() + 1);
        let space = store.space();
        assert_eq!(space.reserved_blocks, 0);
        let spares = 2 * u64::from(store.report().arenas);
        assert_eq!(space.avail_blocks + space.log_blocks + spares + held(&tree), space.total_blocks, "{space:?}");
        tree.check_image(disk.crash());
        if tree.commit().unwrap() {
            store.settle().unwrap();
            let space = store.space();
            assert_eq!((space.reserved_blocks, space.pending_blocks), (0, 0));
            assert_eq!(space.free_blocks, space.avail_blocks);
        }
        tree.check_image(disk.crash());
    });
}

/// One change that races with a commit.
struct Change {
    child: Child,
    freed: bool,
    /// It was over when the commit began, so it has to be part of it.
    before: bool,
    /// It began after the commit had begun, so it must not be.
    after: bool,
}

/// When a commit begins: 0 before the call, 1 inside, 2 behind.
struct Moment(AtomicU32);

impl Moment {
    fn note(&self, child: Child, freed: bool, change: impl FnOnce() -> Child) -> Change {
        let after = self.0.load(Ordering::Relaxed) == 2;
        let done = change();
        let before = self.0.load(Ordering::Relaxed) == 0;
        Change { child: if freed { child } else { done }, freed, before, after }
    }
}

fn racing_changes(store: &Store<'_, '_>, moment: &Moment, mine: &[Child], first_id: u64) -> Vec<Change> {
    let mut changes = Vec::new();
    for (round, child) in mine.iter().enumerate() {
        changes.push(moment.note(*child, true, || {
            store.free(child.ptr).unwrap();
            *child
        }));
        changes.push(moment.note(*child, false, || write(store, first_id + round as u64).unwrap()));
    }
    changes
}

/// What was enqueued and freed before a commit began is in it, what came after is not, and the space is exact whatever
/// a crash right after the acknowledgement leaves.
#[test]
fn shuttle_a_commit_races_with_changes() {
    let volume = Volume::new(4);
    explore("commit against changes", 2000, 2000, move || {
        let memory = memory::<4>();
        let disk = Disk::new(volume.bytes.clone(), 2);
        let store = mount(&memory, &disk);
        let moment = Moment(AtomicU32::new(0));
        let mut roots = store.roots();
        roots.next_gen += 1;
        let (mut changes, image) = thread::scope(|scope| {
            let (store, moment, children) = (&store, &moment, &volume.children);
            let first = scope.spawn(move || racing_changes(store, moment, &children[..2], 100));
            let second = scope.spawn(move || racing_changes(store, moment, &children[2..], 200));
            moment.0.store(1, Ordering::Relaxed);
            let ticket = store.commit_start(roots).unwrap();
            moment.0.store(2, Ordering::Relaxed);
            while store.commit_poll(&ticket).is_none() {
                if !store.step() {
                    thread::yield_now();
                }
            }
            let image = disk.crash();
            let mut changes = first.join().unwrap();
            changes.extend(second.join().unwrap());
            (changes, image)
        });
        changes.sort_by_key(|change| !change.freed);
        remount(image, |store| check_racing(store, &changes, roots.next_gen, volume.root.unwrap()));
    });
}

fn check_racing(store: &Store<'_, '_>, changes: &[Change], next_gen: u64, root: BlockPtr) {
    assert_eq!((store.roots().next_gen, store.roots().root.addr), (next_gen, root.addr));
    store.read(root).unwrap();
    let mut used = BTreeMap::new();
    for Change { child, freed, before, after } in changes {
        let free = store.is_free(child.ptr.addr).unwrap();
        assert!(!before || free == *freed, "{child:?} is not part of the commit");
        assert!(!after || free != *freed, "{child:?} is part of the commit");
        // An address that was freed and handed out again is free in this image.
        used.insert(child.ptr.addr, !free);
        if !free {
            check(store, *child);
        }
    }
    check_space(store, 1 + used.values().filter(|used| **used).count());
}

/// With a queue of two and a device that takes one request at a time, whoever enqueues has to help.
#[test]
fn shuttle_a_full_queue_is_drained_by_those_who_fill_it() {
    static WAITED: std::sync::atomic::AtomicU32 = std::sync::atomic::AtomicU32::new(0);
    let volume = Volume::new(0);
    explore("full queue", 2000, 2000, move || {
        let memory = memory::<2>();
        let disk = Disk::new(volume.bytes.clone(), 1);
        let store = mount(&memory, &disk);
        let children = thread::scope(|scope| {
            let store = &store;
            let fill = move |first| {
                let written = (first..first + 3).map(|id| {
                    let child = write(store, id).unwrap();
                    // Two wait in the queue, one is with the device: a fourth waits for room.
                    let waited = u32::from(store.counters().pending_blocks > 3);
                    WAITED.fetch_add(waited, std::sync::atomic::Ordering::Relaxed);
                    child
                });
                written.collect::<Vec<_>>()
            };
            let threads = [100, 200, 300].map(|first| scope.spawn(move || fill(first)));
            threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect::<Vec<_>>()
        });
        let root = write_root(&store, &children).unwrap();
        store.free(volume.root.unwrap()).unwrap();
        store.commit(store.roots().with_root(Some(root), 1)).unwrap();
        remount(disk.crash(), |store| {
            assert_eq!(ids(&read_tree(store).1), ids(&children));
            check_space(store, children.len() + 1);
        });
        store.settle().unwrap();
        assert_eq!(store.counters().pending_blocks, 0);
    });
    assert!(WAITED.load(std::sync::atomic::Ordering::Relaxed) > 0, "the queue was never full");
}

/// A write or flush fails while others enqueue, commit and step: everybody comes to an end and is told, and the volume
/// shows the last commit that was acknowledged, or the one after it.
#[test]
fn shuttle_a_failed_write_is_told_to_everybody() {
    static FAILED: std::sync::atomic::AtomicU32 = std::sync::atomic::AtomicU32::new(0);
    let volume = Volume::new(2);
    explore("failed write", 2000, 2000, move || {
        let memory = memory::<4>();
        let disk = Disk::new(volume.bytes.clone(), 2);
        let store = mount(&memory, &disk);
        let tree = Tree::new(&store, &volume, 2);
        disk.fail_write(thread_rng().gen_range(0..14), once_in(2));
        let results = thread::scope(|scope| {
            let workers = [0, 1].map(|_| scope.spawn(|| tree.work(5)));
            scope.spawn(|| tree.drive());
            workers.map(|worker| worker.join().unwrap())
        });
        let last = store.commit(store.roots().with_root(None, 0));
        let settled = store.settle();
        if let Some(failure) = store.failure() {
            FAILED.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
            assert!(matches!(failure, Error::Device { .. }), "{failure}");
            let told = [Ok(()), Err(failure), Err(Error::ReadOnly)];
            assert!(results.iter().chain([&last.map(drop)]).all(|result| told.contains(result)), "{results:?}");
            assert_eq!(settled, Err(failure));
            assert_eq!(store.allocate(Allocate::data()).unwrap_err(), Error::ReadOnly);
            assert!(store.commit(store.roots()).is_err());
            assert!(tree.acknowledged.lock().unwrap().0 <= store.generation());
        } else {
            assert_eq!(disk.failures(), 0, "a failure was swallowed");
            assert_eq!((results, settled), ([Ok(()); 2], Ok(())));
        }
        let acknowledged = tree.acknowledged.lock().unwrap().0.max(last.unwrap_or(0));
        check_after_failure(&tree, acknowledged, disk.crash());
    });
    assert!(FAILED.load(std::sync::atomic::Ordering::Relaxed) > 500, "too few schedules met the failure");
}

fn check_after_failure(tree: &Tree<'_, '_, '_>, acknowledged: u64, image: Vec<u8>) {
    let (_, root, children) = tree.acknowledged.lock().unwrap().clone();
    remount(image, |store| {
        let generation = store.generation();
        assert!(generation == acknowledged || generation == acknowledged + 1, "{generation}, told {acknowledged}");
        if store.roots().root_ptr().is_none() {
            return;
        }
        let (found_root, found) = read_tree(store);
        if generation == tree.acknowledged.lock().unwrap().0 {
            assert_eq!((found_root.addr, ids(&found)), (root.addr, ids(&children)));
        }
        check_space(store, found.len() + 1);
    });
}

/// The write of one block fails once, and everything after it goes well: whoever notes that first, the commit with that
/// block does not happen.
#[test]
fn shuttle_a_failed_write_holds_its_commit_back() {
    let volume = Volume::new(0);
    explore("failed write, short", 2000, 4000, move || {
        let memory = memory::<4>();
        let disk = Disk::new(volume.bytes.clone(), 2);
        let store = mount(&memory, &disk);
        let before = store.generation();
        // Written before the commit begins, so it is the first write of all.
        let root = write(&store, 7).unwrap();
        disk.fail_write(0, false);
        assert!(store.step());
        let done = AtomicU32::new(0);
        thread::scope(|scope| {
            scope.spawn(|| {
                while done.load(Ordering::Relaxed) == 0 {
                    if !store.step() {
                        thread::yield_now();
                    }
                }
            });
            let result = store.commit(store.roots().with_root(Some(root.ptr), 1));
            done.store(1, Ordering::Relaxed);
            assert!(matches!(result, Err(Error::Device { .. } | Error::ReadOnly)), "{result:?}");
        });
        assert_eq!(disk.failures(), 1);
        remount(disk.crash(), |store| {
            assert_eq!(
                (store.generation(), store.roots().root_ptr().map(|ptr| ptr.addr)),
                (before, volume.root.map(|ptr| ptr.addr))
            );
        });
    });
}
