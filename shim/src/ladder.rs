//! Rungs: many recordings, explored by several threads, summed up in one row of a table.
//!
//! ```text
//!   Source   a name, and how to make the recording of a seed     "arenas16" + 7  ->  Recording
//!   explore  (source, seed) pairs, in parallel, until done or late
//!   Row      what came of it; a failure is named  seed:trace:epoch:mask:tear
//! ```
//!
//! Every pair has an exploration of its own, so that what is found does not depend on the number of threads.
#![forbid(unsafe_code)]

use crate::crash::{Contract, Limits};
use crate::explore::{without_panic, Explorer, Failure, Options};
use crate::tree::{Recording, Tree};
use arenite_core::format::BlockSize;
use rustix::time::{clock_gettime, ClockId};
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Makes the recording of a seed.
pub type Recorder<T> = Arc<dyn Fn(u64) -> Result<Recording<T>, String> + Send + Sync>;

/// Recordings of one kind.
pub struct Source<T: Tree> {
    /// Second part of the names of its states. No colons.
    pub name: String,
    /// How far the enumeration of its epochs goes.
    pub limits: Limits,
    /// Every so many further commits, one is explored too; 0 for never.
    pub deep_every: u64,
    /// How many crashes one after the other.
    pub max_crashes: u32,
    /// Makes the recording of a seed.
    pub record: Recorder<T>,
}

/// How rungs are climbed.
#[derive(Clone, Copy, Debug)]
pub struct Setup {
    /// Threads that explore.
    pub threads: usize,
    /// What the device promises; a rung whose blocks are smaller than the atomic length uses the block.
    pub contract: Contract,
    /// Blocks are written whole or not at all.
    pub atomic_blocks: bool,
    /// When to stop.
    pub deadline: Option<Instant>,
    /// Failures after which a rung gives up.
    pub max_failures: usize,
}

impl Default for Setup {
    /// The weakest device, as many threads as there are processors, no deadline.
    fn default() -> Self {
        let threads = std::thread::available_parallelism().map_or(1, usize::from);
        Self { threads, contract: Contract::WEAKEST, atomic_blocks: false, deadline: None, max_failures: 5 }
    }
}

impl Setup {
    /// Limits under what the device promises.
    pub fn limits(&self, limits: Limits, block_size: BlockSize) -> Limits {
        let block_len_bytes = block_size.len_bytes();
        let atomic = if self.atomic_blocks { block_len_bytes } else { self.contract.atomic_len_bytes };
        let contract = Contract { atomic_len_bytes: atomic.min(block_len_bytes), ..self.contract };
        Limits { contract, ..limits }
    }
}

/// One row of the table.
#[derive(Clone, Debug, Default)]
pub struct Row {
    /// Number of the rung.
    pub rung: u32,
    /// What was tried.
    pub what: String,
    /// Recordings, faults, switches: what the rung is made of.
    pub cases: u64,
    /// Flush epochs.
    pub epochs: u64,
    /// Crash states enumerated.
    pub states: u64,
    /// Of these, the ones that differ in what the oracle reads.
    pub distinct: u64,
    /// Of these, the ones that differ in what mount alone reads.
    pub mount_images: u64,
    /// Recoveries of which every crash state was enumerated in turn.
    pub second_crashes: u64,
    /// What was wrong.
    pub failures: Vec<Failure>,
    /// Time.
    pub elapsed: Duration,
    /// Time of processors, those of other programs that the rung started included.
    pub cpu: Duration,
    /// Why nothing was tried at all, if so: the row then says nothing about the store.
    pub not_tried: Option<String>,
    /// Whether it was stopped before the end.
    pub cut_short: bool,
    /// By source.
    pub parts: BTreeMap<String, Part>,
    /// What else is to be said, a line each.
    pub notes: Vec<String>,
}

/// What one source gave.
#[derive(Clone, Copy, Debug, Default)]
pub struct Part {
    /// Recordings.
    pub cases: u64,
    /// Crash states enumerated.
    pub states: u64,
    /// Of these, the ones that differ in what the oracle reads.
    pub distinct: u64,
    /// Of these, the ones that differ in what mount alone reads.
    pub mount_images: u64,
    /// Time of a processor, recording and judging.
    pub cpu: Duration,
    /// The seed that took most of it, and how much that was.
    pub slowest: (u64, Duration),
}

impl Part {
    /// Adds up; the slowest of both stays.
    pub fn add(&mut self, other: &Self) {
        self.cases += other.cases;
        self.states += other.states;
        self.distinct += other.distinct;
        self.mount_images += other.mount_images;
        self.cpu += other.cpu;
        if other.slowest.1 > self.slowest.1 {
            self.slowest = other.slowest;
        }
    }
}

/// Time that this thread has been on a processor.
pub fn thread_cpu() -> Duration {
    Duration::try_from(clock_gettime(ClockId::ThreadCPUTime)).unwrap_or_default()
}

impl<T: Tree> Source<T> {
    /// A source whose second crashes are explored for every tenth further commit.
    pub fn new(
        name: impl Into<String>,
        limits: Limits,
        record: impl Fn(u64) -> Result<Recording<T>, String> + Send + Sync + 'static,
    ) -> Self {
        Self { name: name.into(), limits, deep_every: 10, max_crashes: 2, record: Arc::new(record) }
    }

    fn explore(&self, seed: u64, setup: &Setup) -> Explorer {
        let options = Options { deep_every: self.deep_every, max_crashes: self.max_crashes, ..Options::DEFAULT };
        let options = Options { seed, deadline: setup.deadline, max_failures: setup.max_failures, ..options };
        match without_panic(|| (self.record)(seed)) {
            Err(what) => {
                let mut explorer = Explorer::new(options);
                explorer.fail(Failure { replay: format!("{seed}:{}", self.name), what: format!("the run: {what}") });
                explorer
            }
            Ok(recording) => {
                let limits = setup.limits(self.limits, recording.block_size);
                let mut explorer = Explorer::new(Options { limits, ..options });
                explorer.explore(&recording);
                explorer.name_failures(&format!("{seed}:{}:", self.name));
                explorer
            }
        }
    }

    /// Judges one state again; `name` is `epoch:mask:tear`. Without it, everything that the seed gives.
    pub fn replay(&self, seed: u64, name: &str, setup: &Setup) -> Result<String, String> {
        if name.is_empty() {
            let explorer = self.explore(seed, setup);
            return explorer
                .failures()
                .first()
                .map_or(Ok(explorer.counts().to_string()), |failure| Err(failure.to_string()));
        }
        let recording = (self.record)(seed)?;
        Explorer::replay(&recording, setup.limits(self.limits, recording.block_size), name)
    }
}

/// Explores recordings, several at once.
pub fn explore<T: Tree>(jobs: &[(&Source<T>, u64)], setup: &Setup, row: &mut Row) {
    let start = Instant::now();
    let done = Mutex::new((Explorer::new(Options::DEFAULT), BTreeMap::<String, Part>::new(), 0));
    parallel(jobs, setup, |(source, seed)| {
        let begun = thread_cpu();
        let explorer = source.explore(*seed, setup);
        let cpu = thread_cpu().saturating_sub(begun);
        let counts = explorer.counts();
        let mut done = done.lock().unwrap_or_else(PoisonError::into_inner);
        done.1.entry(source.name.clone()).or_default().add(&Part {
            cases: 1,
            states: counts.states,
            distinct: counts.images,
            mount_images: counts.mount_images,
            cpu,
            slowest: (*seed, cpu),
        });
        done.0.absorb(explorer);
        done.2 += 1;
        done.0.failures().len() < setup.max_failures
    });
    let (explorer, parts, cases) = done.into_inner().unwrap_or_else(PoisonError::into_inner);
    let counts = explorer.counts();
    row.cases += cases;
    row.epochs += counts.epochs;
    row.states += counts.states;
    row.distinct += counts.images;
    row.mount_images += counts.mount_images;
    row.second_crashes += counts.deep;
    row.cut_short |= explorer.is_cut_short() || cases < jobs.len() as u64;
    row.failures.extend(explorer.failures().iter().cloned());
    row.elapsed += start.elapsed();
    for (name, part) in parts {
        row.parts.entry(name).or_default().add(&part);
    }
}

/// Calls `body` for every job, on several threads, until it says `false`, or until it is late.
pub fn parallel<J: Sync>(jobs: &[J], setup: &Setup, body: impl Fn(&J) -> bool + Sync) {
    let next = AtomicUsize::new(0);
    let work = || {
        while let Some(job) = jobs.get(next.fetch_add(1, Ordering::Relaxed)) {
            let late = setup.deadline.is_some_and(|deadline| Instant::now() > deadline);
            if late || !body(job) {
                next.store(jobs.len(), Ordering::Relaxed);
            }
        }
    };
    std::thread::scope(|scope| {
        for _ in 1..setup.threads.max(1) {
            scope.spawn(work);
        }
        work();
    });
}

impl<T: Tree> std::fmt::Debug for Source<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Source").field("name", &self.name).field("limits", &self.limits).finish_non_exhaustive()
    }
}
