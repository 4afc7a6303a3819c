#![forbid(unsafe_code)]
//! What the run tells the host about itself: lines that begin with `@`, see `qemu/src/events.rs`.

use crate::device::Traffic;
use crate::failure::Failure;
use crate::interrupts::Ticks;
use crate::outcome::Outcome;
use crate::volume::Volume;
use crate::{crew, interrupts, println, time};

/// How often progress is shown.
const PROGRESS_INTERVAL_US: u64 = 200_000;

/// Shows how far a run has come.
pub struct Progress {
    /// What was done before this pass.
    base: u64,
    total: u64,
    next_us: u64,
}

impl Progress {
    /// A pass over `total_bytes - base_bytes` or less; `base_bytes` of the whole are behind it.
    pub fn new(base_bytes: u64, total_bytes: u64) -> Self {
        Self { base: base_bytes, total: total_bytes, next_us: 0 }
    }

    /// So many bytes of this pass are done.
    pub fn at(&mut self, done_bytes: u64) {
        let now = time::micros();
        if now >= self.next_us {
            self.next_us = now + PROGRESS_INTERVAL_US;
            println!("@progress {} {}", self.base + done_bytes, self.total);
        }
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
    pub fn finish(self, phase: &str, tally: Tally) {
        let micros = time::micros() - self.began_us;
        let (before, now) = (self.traffic, self.volume.device.traffic());
        let Tally { files, links, bytes, blocks } = tally;
        println!(
            "@result phase={phase} files={files} links={links} bytes={bytes} blocks={blocks} commits={} flushes={} \
             micros={micros} read_bytes={} write_bytes={}",
            self.volume.store.counters().commit.commits - self.commits,
            now.flushes - before.flushes,
            now.read_bytes - before.read_bytes,
            now.write_bytes - before.write_bytes
        );
    }
}

/// Prints what the timer of each CPU has counted.
///
/// # Errors
/// A timer did not run, or came into a critical section.
pub fn cpus() -> Result<(), Failure> {
    for cpu in crew::members() {
        let Ticks { all, deferred, intruded } = interrupts::ticks(cpu);
        println!("@cpu number={cpu} ticks={all} deferred={deferred} intruded={intruded}");
        if all == 0 || intruded > 0 {
            let what = format_args!("CPU {cpu}: {all} timer interrupts, {intruded} of them in critical sections");
            return Err(Failure::new(Outcome::Mismatch, what));
        }
    }
    Ok(())
}
