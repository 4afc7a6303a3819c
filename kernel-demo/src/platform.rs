#![forbid(unsafe_code)]
//! What the store needs from the kernel: critical sections and a clock.
//!
//! Interrupts are off for the life of this kernel, so that a critical section changes nothing here; it is real all the
//! same, as it would have to be in a kernel whose interrupt handlers use the store.

use arenite_core::Platform;

use crate::{cpu, time};

/// The platform of this kernel.
pub struct KernelPlatform;

/// The one value of it.
pub static PLATFORM: KernelPlatform = KernelPlatform;

impl Platform for KernelPlatform {
    fn enter_critical(&self) -> usize {
        cpu::interrupts_off() as usize
    }

    fn leave_critical(&self, saved: usize) {
        cpu::interrupts_restore(saved as u64);
    }

    fn ticks(&self) -> Option<u64> {
        Some(time::ticks())
    }
}
