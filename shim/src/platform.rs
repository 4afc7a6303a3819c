//! The host as a platform: threads instead of CPUs, no interrupts, a clock.
//!
//! A host thread can be preempted while it holds a spin lock of the store, because user space cannot switch preemption
//! off. Sections are short, so the others only wait a little longer; they yield while they wait for I/O.
#![forbid(unsafe_code)]

use arenite_core::Platform;
use std::cell::Cell;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::OnceLock;
use std::time::Instant;

/// Spins before the processor is given to another thread.
const SPINS: u32 = 64;

std::thread_local! {
    static RELAXED: Cell<u32> = const { Cell::new(0) };
    /// Of this thread, from 1 on; 0 before it was asked for.
    static NUMBER: Cell<usize> = const { Cell::new(0) };
}

#[cold]
fn number_this_thread() -> usize {
    static NUMBERS: AtomicUsize = AtomicUsize::new(1);
    NUMBER.set(NUMBERS.fetch_add(1, Ordering::Relaxed));
    NUMBER.get()
}

/// The platform of ordinary host threads. Ticks are nanoseconds since the first call, and threads are the CPUs.
#[derive(Clone, Copy, Debug, Default)]
pub struct HostPlatform;

impl Platform for HostPlatform {
    fn relax(&self) {
        let turn = RELAXED.get().wrapping_add(1);
        RELAXED.set(turn);
        if turn.is_multiple_of(SPINS) {
            std::thread::yield_now();
        } else {
            std::hint::spin_loop();
        }
    }

    fn enter_critical(&self) -> usize {
        0
    }

    fn leave_critical(&self, _saved: usize) {}

    fn cpu(&self) -> usize {
        match NUMBER.get() {
            0 => number_this_thread(),
            number => number,
        }
    }

    fn ticks(&self) -> Option<u64> {
        static START: OnceLock<Instant> = OnceLock::new();
        u64::try_from(START.get_or_init(Instant::now).elapsed().as_nanos()).ok()
    }
}

/// A platform for tests with a bound on waiting: it panics when one thread has waited `LIMIT` times in a row without
/// [`reset_patience`], so that a store that makes no progress fails a test instead of hanging it.
#[derive(Clone, Copy, Debug, Default)]
pub struct ImpatientPlatform;

/// Waits that [`ImpatientPlatform`] allows a thread between two calls of [`reset_patience`].
pub const PATIENCE: u32 = 4_000_000;

std::thread_local! {
    static WAITED: Cell<u32> = const { Cell::new(0) };
}

/// Starts counting the waits of this thread anew.
pub fn reset_patience() {
    WAITED.set(0);
}

impl Platform for ImpatientPlatform {
    fn relax(&self) {
        let waited = WAITED.get() + 1;
        WAITED.set(waited);
        assert!(waited < PATIENCE, "the store waits for ever");
        HostPlatform.relax();
    }

    fn enter_critical(&self) -> usize {
        0
    }

    fn leave_critical(&self, _saved: usize) {}

    fn cpu(&self) -> usize {
        HostPlatform.cpu()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ticks_ascend() {
        let first = HostPlatform.ticks();
        for _ in 0..1000 {
            HostPlatform.relax();
        }
        assert!(first.is_some());
        assert!(HostPlatform.ticks() > first);
    }

    #[test]
    #[should_panic(expected = "waits for ever")]
    fn patience_ends() {
        reset_patience();
        for _ in 0..PATIENCE {
            ImpatientPlatform.relax();
        }
    }
}
