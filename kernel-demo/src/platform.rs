#![forbid(unsafe_code)]
//! What the store needs from the kernel: critical sections and a clock.
//!
//! Sections are real: a timer interrupts every CPU a thousand times a second, and `interrupts` counts what it meets.

use arenite_core::Platform;

use crate::{interrupts, stacks, time};

/// The platform of this kernel.
pub struct KernelPlatform;

/// The one value of it.
pub static PLATFORM: KernelPlatform = KernelPlatform;

impl Platform for KernelPlatform {
    fn relax(&self) {
        interrupts::relax();
    }

    fn enter_critical(&self) -> usize {
        interrupts::enter_critical() as usize
    }

    fn leave_critical(&self, saved: usize) {
        interrupts::leave_critical(saved as u64);
    }

    fn cpu(&self) -> usize {
        stacks::current_cpu()
    }

    fn ticks(&self) -> Option<u64> {
        Some(time::ticks())
    }
}
