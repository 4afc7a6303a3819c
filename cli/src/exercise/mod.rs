//! `arenite exercise`: uses a volume hard, and leaves it as it was.
//!
//! ```text
//!   worker threads   allocate, fill, enqueue / read back, compare / free; every so many operations one of them commits
//!   syncer thread    steps the store          device threads   carry out its requests
//!   at the end       commit; read back all that is left; free it; commit until the space is what it was
//! ```
//!
//! Every commit names the roots that were there before, so what they lead to stays as it is: the blocks that are
//! written here hang from nothing. If the process is killed, those that were part of the last commit stay in use.
//!
//! Each block is a change of its own, so any interleaving of calls with a commit keeps the rule that all calls of one
//! change come on one side of it.

mod worker;

use crate::failure::{Failure, EXIT_FAILURE, EXIT_INTERRUPTED};
use crate::interrupt::Interrupt;
use crate::memory::{with_memory, Job};
use crate::open::Locked;
use crate::place::Place;
use crate::progress::{Progress, Unit};
use crate::volume;
use arenite_core::{Class, Counters, Device, MountOptions, Resources, Roots, Store};
use arenite_shim::threads::{with_syncers, with_workers};
use arenite_shim::HostPlatform;
use std::fmt::Write;
use std::time::Instant;
use worker::{Common, Counts};

/// Threads that carry out the device's requests.
const DEVICE_THREADS: usize = 2;
/// Blocks that a thread has at a time, if nothing else is said: in all more than fit the cache, so that blocks are read
/// back from the device.
const USUAL_BLOCKS: u64 = 1024;
/// Commits after which the space must be what it was.
const LAST_COMMITS: u32 = 4;

/// What the user asks for.
#[derive(Clone, Copy)]
pub(crate) struct Request {
    pub(crate) operations: u64,
    pub(crate) seed: u64,
    pub(crate) threads: u32,
    pub(crate) commit_every: u64,
    pub(crate) fill_percent: Option<u8>,
    pub(crate) quiet: bool,
}

/// What came of it.
pub(crate) struct Outcome {
    pub(crate) text: String,
    /// What went wrong, one line each.
    pub(crate) errors: Vec<String>,
    pub(crate) code: u8,
}

/// Free bytes, and bytes of logs. Their sum is what all other blocks leave, however fragmented that is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Room {
    free_bytes: u64,
    log_bytes: u64,
}

impl Room {
    fn of(store: &Store<'_, '_>) -> Self {
        let (space, shift) = (store.space(), store.block_size().shift());
        Self { free_bytes: space.free_blocks << shift, log_bytes: space.log_blocks << shift }
    }

    fn sum(&self) -> u64 {
        self.free_bytes + self.log_bytes
    }
}

/// A finished run, before its volume is looked at once more.
struct Done {
    counts: Counts,
    errors: Vec<String>,
    before: (Room, Roots, u64),
    counters: Counters,
    target_blocks: u64,
    doubtful_blocks: u32,
    interrupted: bool,
    seconds: f64,
}

/// Exercises; fails only if nothing was begun.
pub(crate) fn run(place: &Place, request: &Request) -> Result<Outcome, Failure> {
    let known = volume::read(place).map_err(|error| Failure::no_volume(error.to_string()))?;
    let interrupt = Interrupt::new()?;
    let progress = Progress::new(request.quiet, Unit::Operations, request.operations);
    let blocks = known.len_bytes / known.block_size;
    let mut job = Exercise { place, request, interrupt: &interrupt, progress: &progress };
    let mut done = with_memory(blocks, &mut job)?;
    drop(progress);
    let after = volume::read(place);
    let text = report(request, &done, &after);
    match after {
        Err(error) => done.errors.push(format!("afterwards the volume cannot be read: {error}")),
        Ok(after) => compare(&mut done, &after),
    }
    let code = match (done.errors.is_empty(), done.interrupted) {
        (false, _) => EXIT_FAILURE,
        (true, true) => EXIT_INTERRUPTED,
        (true, false) => 0,
    };
    Ok(Outcome { text, errors: done.errors, code })
}

fn room_on_disk(volume: &volume::Volume) -> Room {
    let log_blocks: u64 = volume.arenas.iter().map(|arena| u64::from(arena.log_blocks)).sum();
    Room { free_bytes: volume.free_bytes(), log_bytes: log_blocks * volume.block_size }
}

/// What the volume says now must be what it said before.
fn compare(done: &mut Done, after: &volume::Volume) {
    let (before, roots, _) = done.before;
    if after.roots != roots {
        done.errors.push("the root is not what it was".to_owned());
    }
    let now = room_on_disk(after);
    if now.sum() != before.sum() {
        let (was, is) = (before.sum(), now.sum());
        done.errors.push(format!("free bytes and logs were {was} bytes together, and are {is}"));
    }
}

struct Exercise<'a> {
    place: &'a Place,
    request: &'a Request,
    interrupt: &'a Interrupt,
    progress: &'a Progress,
}

impl Job for Exercise<'_> {
    type Output = Done;
    type Error = Failure;

    fn run(&mut self, memory: Resources<'_>) -> Result<Self::Output, Self::Error> {
        let locked = Locked::open(self.place)?;
        let device = locked.device()?;
        let window = locked.window(&device)?;
        let part: &dyn Device<'_> = window.as_ref().map_or(&device, |window| window);
        let mounted = Store::mount(memory, part, &HostPlatform, MountOptions::default());
        let store = mounted.map_err(|failed| Failure::mount(failed.error))?;
        if device.geometry().read_only {
            return Err(Failure::new("the device is write-protected"));
        }
        let mut done = with_workers(&device, DEVICE_THREADS, || with_syncers(&store, 1, || self.exercise(&store)));
        if let Err(error) = store.unmount() {
            let text = error.to_string();
            // Mostly it is what has ended the run.
            if !done.errors.contains(&text) {
                done.errors.push(text);
            }
        }
        Ok(done)
    }
}

impl Exercise<'_> {
    /// Blocks that all threads together are to have at a time.
    fn target(&self, store: &Store<'_, '_>) -> u64 {
        let room = store.room_blocks(Class::Normal);
        match self.request.fill_percent {
            Some(percent) => (u128::from(room) * u128::from(percent) / 100) as u64,
            None => (USUAL_BLOCKS * u64::from(self.request.threads)).min(room / 2),
        }
    }

    fn exercise(&self, store: &Store<'_, '_>) -> Done {
        let started = Instant::now();
        let before = (Room::of(store), store.roots(), store.generation());
        let target_blocks = self.target(store);
        let common = Common::new(store, self, target_blocks);
        let threads = 0..self.request.threads;
        std::thread::scope(|scope| {
            let common = &common;
            let running: Vec<_> = threads.map(|number| scope.spawn(move || common.work(number))).collect();
            let kept: Vec<_> = running.into_iter().filter_map(|thread| thread.join().ok()).collect();
            common.commit();
            for blocks in kept {
                scope.spawn(move || common.give_back(blocks));
            }
        });
        for _ in 0..LAST_COMMITS {
            common.commit();
            if let Err(error) = store.settle() {
                common.fail(error);
            }
            if common.has_failed() || Room::of(store).sum() == before.0.sum() {
                break;
            }
        }
        let (counts, errors) = common.finish();
        Done {
            counts,
            errors,
            before,
            counters: store.counters(),
            target_blocks,
            doubtful_blocks: store.report().doubtful_blocks,
            interrupted: self.interrupt.came(),
            seconds: started.elapsed().as_secs_f64(),
        }
    }
}

/// The counts, as lines of a name and a value.
fn report(request: &Request, done: &Done, after: &Result<volume::Volume, volume::ReadError>) -> String {
    let (counts, counters) = (&done.counts, &done.counters);
    let mut out = String::new();
    let mut row = |name: &str, value: String| {
        // Writing to a string does not fail.
        let _ = writeln!(out, "{name:<12} {value}");
    };
    let operations = counts.allocated + counts.read_back + counts.freed + counts.refused;
    let ended = if done.interrupted { ", interrupted" } else { "" };
    row("operations", format!("{operations} with seed {}, {} threads{ended}", request.seed, request.threads));
    row("seconds", format!("{:.1}", done.seconds));
    row("allocated", format!("{} blocks, at most {} at a time", counts.allocated, done.target_blocks));
    row("refused", format!("{} allocations for want of room", counts.refused));
    row("read back", format!("{} blocks, {} more at the end", counts.read_back, counts.last_read_back));
    row("freed", format!("{} blocks, {} more at the end", counts.freed, counts.last_freed));
    let hits = u64::from(counters.cache_hits);
    row("cache", format!("{hits} of {} lookups hit", counters.cache_lookups));
    row("written", format!("{} blocks in {} requests", counters.queued_block_writes, counters.queued_requests));
    let commit = &counters.commit;
    row("commits", format!("{}, {} blocks, {} flushes", commit.commits, commit.block_writes, commit.flushes));
    row("repairs", format!("{}", commit.repairs));
    row("errors", format!("{}", done.errors.len()));
    if done.doubtful_blocks > 0 {
        row("in doubt", format!("{} blocks, counted as in use", done.doubtful_blocks));
    }
    let line = |room: Room, root: &Roots, generation| {
        let Room { free_bytes, log_bytes } = room;
        let (addr, sum) = (root.root.addr, room.sum());
        let root = if root.root_ptr().is_some() { format!("{addr:#x}") } else { "none".to_owned() };
        format!("root {root}, generation {generation}, {free_bytes} free + {log_bytes} log = {sum} bytes")
    };
    let (room, roots, generation) = &done.before;
    row("before", line(*room, roots, *generation));
    if let Ok(after) = after {
        row("after", line(room_on_disk(after), &after.roots, after.qgen));
    }
    out
}
