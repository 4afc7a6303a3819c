#![forbid(unsafe_code)]
//! The timer interrupt of each CPU, and critical sections that keep it out.
//!
//! An interrupt handler must not call the store: the CPU may have been interrupted in the middle of anything. So the
//! handler does what `docs/EMBEDDING.md` allows: it counts, and leaves a note for a CPU that waits or idles, which then
//! calls `Store::step` outside the interrupt. The store's locks are taken with interrupts off. That this is so is
//! counted, on every CPU:
//!
//! * `intruded`: ticks inside a critical section. There must be none.
//! * `deferred`: ticks that came while the CPU was in one, and were delivered at its very end.

use core::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};

use crate::stacks::{self, MAX_CPUS};
use crate::{apic, cpu};

/// Turns of waiting in one period of the timer before a CPU sleeps for the rest of it.
const TURNS_BEFORE_SLEEP: u32 = 200;

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
    /// Turns of waiting since the last tick; the handler's note is a zero.
    turns: AtomicU32,
}

static COUNTS: [Counts; MAX_CPUS] = [const {
    let [ticks, deferred, intruded] = [const { AtomicU64::new(0) }; 3];
    let [depth, turns] = [const { AtomicU32::new(0) }; 2];
    Counts { ticks, deferred, intruded, depth, is_leaving: AtomicBool::new(false), turns }
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
    counts.turns.store(0, Ordering::Relaxed);
    apic::end_of_interrupt();
}

/// One turn of waiting for a device or another CPU. After many of them the CPU sleeps until its next tick: it may be a
/// virtual one, and keep the device that it waits for from a real one.
pub fn relax() {
    let counts = here();
    let turns = counts.turns.load(Ordering::Relaxed) + 1;
    counts.turns.store(turns, Ordering::Relaxed);
    if turns > TURNS_BEFORE_SLEEP && apic::timer_runs() && cpu::interrupts_are_on() {
        cpu::wait_for_interrupt();
    } else {
        core::hint::spin_loop();
    }
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
