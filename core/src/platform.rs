//! What the store needs from the kernel around it: three small hooks.
//!
//! The store has no threads and no scheduler. Where it has to wait it calls [`Platform::relax`] between two bounded
//! steps of work; where it takes a spin lock it first enters the platform's critical section, so that neither an
//! interrupt handler nor a preempting task on the same CPU can find the lock held by somebody who cannot run.

/// Hooks of the platform. All methods may be called from any CPU, at any time, and must not call the store.
pub trait Platform: Sync {
    /// Called between two steps while waiting for a device or another CPU.
    ///
    /// A kernel with one CPU and no scheduler leaves the default (a spin hint). A kernel whose scheduler has strict
    /// priorities must let lower tasks run here, because one of them may be about to submit the awaited request.
    fn relax(&self) {
        core::hint::spin_loop();
    }

    /// Turns interrupts and preemption off on this CPU and returns what [`Platform::leave_critical`] needs to restore
    /// the former state. Sections nest, and each is short and bounded.
    fn enter_critical(&self) -> usize;

    /// Ends the section begun by the matching [`Platform::enter_critical`].
    fn leave_critical(&self, saved: usize);

    /// A small number that tells this CPU from others: its index, say. Only for speed: any answer is right, also one
    /// that has become another CPU's meanwhile. CPUs whose numbers differ in their two lowest bits read the same cached
    /// block without writing to the same cache line; with the default, all CPUs write to the same.
    fn cpu(&self) -> usize {
        0
    }

    /// Monotonic ticks of any unit, or `None` where there is no clock. Used for diagnostics only.
    fn ticks(&self) -> Option<u64> {
        None
    }
}

/// A platform without interrupts or preemption: host threads, or a kernel that runs the store with both switched off.
#[derive(Debug, Default, Clone, Copy)]
pub struct NoInterrupts;

impl Platform for NoInterrupts {
    fn enter_critical(&self) -> usize {
        0
    }
    fn leave_critical(&self, _saved: usize) {}
}
