#![forbid(unsafe_code)]
//! What the run tells the host about itself: lines that begin with `@`, see `qemu/src/events.rs`.

use core::fmt;
use core::ops::AddAssign;
use core::sync::atomic::{AtomicU64, Ordering};

use crate::failure::Failure;
use crate::interrupts::Ticks;
use crate::outcome::Outcome;
use crate::stacks::{self, MAX_CPUS};
use crate::store_disk::Traffic;
use crate::volume::Volume;
use crate::{crew, interrupts, println, time};

/// How often progress is shown.
const PROGRESS_INTERVAL_US: u64 = 200_000;

/// Shows how far a run has come, whichever CPUs are at it.
pub struct Progress {
    done: AtomicU64,
    total: u64,
    next_us: AtomicU64,
}

impl Progress {
    /// A pass over `total_bytes - base_bytes` or less; `base_bytes` of the whole are behind it.
    pub fn new(base_bytes: u64, total_bytes: u64) -> Self {
        Self { done: AtomicU64::new(base_bytes), total: total_bytes, next_us: AtomicU64::new(0) }
    }

    /// So many more bytes are done.
    pub fn add(&self, bytes: u64) {
        let done = self.done.fetch_add(bytes, Ordering::Relaxed) + bytes;
        let (now, next) = (time::micros(), self.next_us.load(Ordering::Relaxed));
        // Whoever puts the next time off prints.
        let is_mine =
            || self.next_us.compare_exchange(next, now + PROGRESS_INTERVAL_US, Ordering::Relaxed, Ordering::Relaxed);
        if now >= next && is_mine().is_ok() {
            println!("@progress {done} {}", self.total);
        }
    }
}

/// How many files each CPU has worked on.
pub struct Shares([AtomicU64; MAX_CPUS]);

impl Shares {
    /// None yet.
    pub fn new() -> Self {
        Self([const { AtomicU64::new(0) }; MAX_CPUS])
    }

    /// CPU `cpu` is through with another one.
    pub fn count(&self, cpu: usize) {
        self.0[cpu].fetch_add(1, Ordering::Relaxed);
    }
}

impl fmt::Display for Shares {
    /// The numbers of the CPUs that take part, with slashes between.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        crew::members().enumerate().try_for_each(|(index, cpu)| {
            let slash = if index > 0 { "/" } else { "" };
            write!(f, "{slash}{}", self.0[cpu].load(Ordering::Relaxed))
        })
    }
}

/// What a phase has worked through.
#[derive(Clone, Copy, Debug, Default)]
pub struct Tally {
    /// Regular files.
    pub files: u64,
    /// Symbolic links.
    pub links: u64,
    /// Bytes in the regular files.
    pub bytes: u64,
    /// Blocks.
    pub blocks: u64,
}

impl Tally {
    /// Counts a file with so many bytes.
    pub fn file(bytes: u64) -> Self {
        Self { files: 1, bytes, ..Self::default() }
    }

    /// Counts a symbolic link.
    pub fn link() -> Self {
        Self { links: 1, ..Self::default() }
    }
}

impl AddAssign for Tally {
    fn add_assign(&mut self, other: Self) {
        self.files += other.files;
        self.links += other.links;
        self.bytes += other.bytes;
        self.blocks += other.blocks;
    }
}

/// Measures a phase.
pub struct Meter<'v> {
    volume: &'v Volume,
    began_us: u64,
    commits: u64,
    traffic: Traffic,
}

impl<'v> Meter<'v> {
    /// Begins.
    pub fn start(volume: &'v Volume) -> Self {
        let commits = volume.store.counters().commit.commits;
        Self { volume, began_us: time::micros(), commits, traffic: volume.device.traffic() }
    }

    /// Ends, and prints the figures.
    pub fn finish(self, phase: &str, tally: Tally, shares: &Shares) {
        let micros = time::micros() - self.began_us;
        let (before, now) = (self.traffic, self.volume.device.traffic());
        let Tally { files, links, bytes, blocks } = tally;
        println!(
            "@result phase={phase} files={files} links={links} bytes={bytes} blocks={blocks} commits={} flushes={} \
             micros={micros} read_bytes={} write_bytes={} shares={shares}",
            self.volume.store.counters().commit.commits - self.commits,
            now.flushes - before.flushes,
            now.read_bytes - before.read_bytes,
            now.write_bytes - before.write_bytes
        );
    }
}

/// Prints what the timer of each CPU has counted, and how deep its stack was.
///
/// # Errors
/// A timer did not run, or came into a critical section.
pub fn cpus() -> Result<(), Failure> {
    for cpu in crew::members() {
        let Ticks { all, deferred, intruded } = interrupts::ticks(cpu);
        let stack = stacks::deepest(cpu);
        println!("@cpu number={cpu} ticks={all} deferred={deferred} intruded={intruded} stack={stack}");
        if all == 0 || intruded > 0 {
            let what = format_args!("CPU {cpu}: {all} timer interrupts, {intruded} of them in critical sections");
            return Err(Failure::new(Outcome::Mismatch, what));
        }
    }
    Ok(())
}
