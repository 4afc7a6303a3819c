#![forbid(unsafe_code)]
//! The timer interrupt of each CPU, and critical sections that keep it out.
//!
//! An interrupt handler must not call the store: the CPU may have been interrupted in the middle of anything. So the
//! handler does what `docs/EMBEDDING.md` allows, it counts and leaves a note, and the idle loop calls `Store::step` when it
//! finds the note. The store's locks are taken with interrupts off. That this is so is counted, on every CPU:
//!
//! * `intruded`: ticks inside a critical section. There must be none.
//! * `deferred`: ticks that came while the CPU was in one, and were delivered at its very end.

use core::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};

use crate::stacks::{self, MAX_CPUS};
use crate::{apic, cpu};

/// What one CPU counts. Written by itself alone, the handler included, so that loads and stores are enough.
#[repr(align(64))]
struct Counts {
    ticks: AtomicU64,
    deferred: AtomicU64,
    intruded: AtomicU64,
    /// Critical sections that the CPU is in, one inside the other.
    depth: AtomicU32,
    /// The last section has just ended, and interrupts are about to be let in.
    is_leaving: AtomicBool,
    /// The handler's note.
    step_is_due: AtomicBool,
}

static COUNTS: [Counts; MAX_CPUS] = [const {
    let [ticks, deferred, intruded] = [const { AtomicU64::new(0) }; 3];
    let [is_leaving, step_is_due] = [const { AtomicBool::new(false) }; 2];
    Counts { ticks, deferred, intruded, depth: AtomicU32::new(0), is_leaving, step_is_due }
}; MAX_CPUS];

fn here() -> &'static Counts {
    &COUNTS[stacks::current_cpu()]
}

fn add(counter: &AtomicU64, amount: u64) {
    counter.store(counter.load(Ordering::Relaxed) + amount, Ordering::Relaxed);
}

/// Starts the timer of this CPU, and lets interrupts in.
pub fn start() {
    if apic::timer_runs() {
        apic::start_timer();
    }
    cpu::interrupts_on();
}

/// The handler of the timer.
pub fn on_timer() {
    let counts = here();
    add(&counts.ticks, 1);
    add(&counts.intruded, u64::from(counts.depth.load(Ordering::Relaxed) > 0));
    add(&counts.deferred, u64::from(counts.is_leaving.load(Ordering::Relaxed)));
    counts.step_is_due.store(true, Ordering::Relaxed);
    apic::end_of_interrupt();
}

/// Takes the handler's note away, if there is one.
pub fn take_step_due() -> bool {
    let due = &here().step_is_due;
    due.load(Ordering::Relaxed) && due.swap(false, Ordering::Relaxed)
}

/// Begins a critical section. Returns what [`leave_critical`] wants.
pub fn enter_critical() -> u64 {
    let flags = cpu::interrupts_off();
    let depth = &here().depth;
    depth.store(depth.load(Ordering::Relaxed) + 1, Ordering::Relaxed);
    flags
}

/// Ends the section that [`enter_critical`] began.
pub fn leave_critical(flags: u64) {
    let counts = here();
    counts.depth.store(counts.depth.load(Ordering::Relaxed) - 1, Ordering::Relaxed);
    counts.is_leaving.store(true, Ordering::Relaxed);
    cpu::interrupts_restore(flags);
    counts.is_leaving.store(false, Ordering::Relaxed);
}

/// What the timer has counted on one CPU.
#[derive(Clone, Copy, Debug)]
pub struct Ticks {
    /// All.
    pub all: u64,
    /// Those that waited for the end of a critical section.
    pub deferred: u64,
    /// Those that came inside one.
    pub intruded: u64,
}

/// What the timer has counted on CPU `cpu`.
pub fn ticks(cpu: usize) -> Ticks {
    let [all, deferred, intruded] =
        [&COUNTS[cpu].ticks, &COUNTS[cpu].deferred, &COUNTS[cpu].intruded].map(|count| count.load(Ordering::Relaxed));
    Ticks { all, deferred, intruded }
}
