//! Threads that allocate, write, read and free, and one that commits, on a small cache and a disk in no hurry. Every
//! few commits all pause, and content and space must be exact.
#![cfg(not(any(loom, feature = "shuttle")))]

mod sim;

use arenite_core::memory::{map_words, pages_for};
use arenite_core::{Allocate, Class, Error, Memory, MountOptions, NoInterrupts, Roots, Store};
use sim::{check, hinted, options, put_as, Contents, Disk, Media, Rng, BLOCK};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, RwLock};
use std::time::{Duration, Instant};

/// Beside the one that commits.
const WORKERS: usize = 3;
const RUN: Duration = Duration::from_secs(5);
/// What must have happened, however busy the machine is.
const MIN_OPERATIONS: u64 = 20_000;
const MIN_CHECKS: u64 = 20;

/// 14 buffers, most of which are for the commit and the class reclaim.
type Tiny = Memory<{ pages_for(14, BLOCK) }, 14, { map_words(2048, 3) }, 3, 8>;

struct Shared<'a, 'd, 'm> {
    store: &'a Store<'d, 'm>,
    stop: AtomicBool,
    /// Held for reading during a round of work, for writing while all pause.
    gate: RwLock<()>,
    contents: [Mutex<Contents>; WORKERS],
    operations: AtomicU64,
    full: AtomicU64,
    no_buffer: AtomicU64,
}

impl Shared<'_, '_, '_> {
    fn all(&self) -> Contents {
        self.contents.iter().flat_map(|contents| contents.lock().unwrap().clone()).collect()
    }

    fn note(&self, error: Error) {
        let count = match error {
            Error::Full { .. } => &self.full,
            Error::NoBuffer => &self.no_buffer,
            other => panic!("{other}"),
        };
        count.fetch_add(1, Ordering::Relaxed);
    }

    /// One thread's work, on blocks of its own, to its end.
    fn work(&self, number: usize) {
        let mut rng = Rng(number as u64 + 99);
        while !self.stop.load(Ordering::Relaxed) {
            let gate = self.gate.read().unwrap();
            self.operate(&mut rng, &mut self.contents[number].lock().unwrap());
            drop(gate);
            self.operations.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn operate(&self, rng: &mut Rng, contents: &mut Contents) {
        match rng.below(5) {
            0 | 1 => {
                let fill = rng.next() as u8;
                let class = if rng.below(3) == 0 { Class::Reclaim } else { Class::Normal };
                match put_as(self.store, fill, hinted(rng.below(9) as u32, class)) {
                    Ok(ptr) => contents.push((ptr, fill)),
                    Err(error) => {
                        self.note(error);
                        let half = contents.len() / 2;
                        contents.drain(half..).for_each(|(ptr, _)| self.store.free(ptr).unwrap());
                    }
                }
            }
            2 => {
                if let Some((ptr, _)) = rng.take(contents) {
                    self.store.free(ptr).unwrap();
                }
            }
            3 => {
                let index = rng.below(contents.len() as u64) as usize;
                let Some((ptr, fill)) = contents.get(index) else { return };
                match self.store.read(*ptr) {
                    Ok(block) => assert!(block.iter().all(|byte| byte == fill), "{ptr:?}"),
                    Err(error) => self.note(error),
                }
            }
            _ => drop(self.store.allocate(Allocate::data().hint(rng.below(9) as u32))),
        }
    }

    /// Commits while the others work, or, when they pause, checks everything.
    fn commit(&self, number: u64) -> bool {
        let pause = number.is_multiple_of(4).then(|| self.gate.write().unwrap());
        self.store.commit(Roots { next_qid: number, ..self.store.roots() }).unwrap();
        if pause.is_some() {
            self.store.settle().unwrap();
            check(self.store, &self.all()).unwrap();
            let space = self.store.space();
            assert_eq!((space.reserved_blocks, space.pending_blocks), (0, 0), "{space:?}");
            assert_eq!(space.free_blocks, space.avail_blocks);
        }
        pause.is_some()
    }
}

#[test]
fn four_threads_keep_content_and_space_exact() {
    let memories: [Box<Tiny>; 2] = [Box::new(Memory::new()), Box::new(Memory::new())];
    let disk = Disk::new(Media::blank(2 << 20), 3);
    let store = Store::format(memories[0].take().unwrap(), &disk, &NoInterrupts, options(3)).unwrap();
    let shared = Shared {
        store: &store,
        stop: AtomicBool::new(false),
        gate: RwLock::new(()),
        contents: Default::default(),
        operations: AtomicU64::new(0),
        full: AtomicU64::new(0),
        no_buffer: AtomicU64::new(0),
    };
    let (mut commits, mut checks) = (0, 0);
    std::thread::scope(|scope| {
        for number in 0..WORKERS {
            let shared = &shared;
            scope.spawn(move || shared.work(number));
        }
        let begun = Instant::now();
        while begun.elapsed() < RUN || shared.operations.load(Ordering::Relaxed) < MIN_OPERATIONS || checks < MIN_CHECKS
        {
            commits += 1;
            checks += u64::from(shared.commit(commits));
        }
        shared.stop.store(true, Ordering::Relaxed);
    });
    store.commit(Roots { next_qid: 0, ..store.roots() }).unwrap();
    let all = shared.all();
    println!(
        "{:?} operations, {commits} commits, {checks} checks; full {:?} times, no buffer {:?} times; {} blocks",
        shared.operations,
        shared.full,
        shared.no_buffer,
        all.len()
    );
    store.unmount().unwrap();
    let memory = memories[1].take().unwrap();
    check(&Store::mount(memory, &disk, &NoInterrupts, MountOptions::default()).unwrap(), &all).unwrap();
}
