//! Where the stacks are.
//!
//! Each CPU has one main stack and one stack for each kind of fatal trap, so that a trap can be reported even when the
//! main stack is what broke; and one for the timer's interrupts, so that they take nothing of what they interrupt. Below each stack lies a guard page, which `paging::init` unmaps: an overflow is a page
//! fault and never silent damage.
//!
//! ```text
//! | guard | main stack | guard | trap stack 0 | guard | trap stack 1 | ...      one such row per CPU
//! ```
//!
//! The bytes belong to the CPUs. Rust only ever takes addresses here, so nothing in this module is unsafe but the claim
//! that the area may be shared.

use core::cell::UnsafeCell;
use core::ops::Range;

use crate::cpu;

/// Bytes of a page, and of the guard below each stack.
pub const PAGE_BYTES: usize = 4096;
/// CPUs that have stacks and descriptor tables set aside.
pub const MAX_CPUS: usize = 8;
/// Bytes of the stack that a CPU runs on.
pub const MAIN_BYTES: usize = 128 * 1024;
/// Bytes of each stack that a trap switches to.
pub const TRAP_BYTES: usize = 16 * 1024;
/// Stacks for traps that each CPU has.
pub const TRAP_STACKS: usize = 6;

const TRAP_ROW_BYTES: usize = PAGE_BYTES + TRAP_BYTES;
const CPU_ROW_BYTES: usize = PAGE_BYTES + MAIN_BYTES + TRAP_STACKS * TRAP_ROW_BYTES;

/// Offset from the start of the area to the top of the first CPU's main stack, for the entry code.
pub const BOOT_TOP_OFFSET: usize = PAGE_BYTES + MAIN_BYTES;

/// The memory of all stacks.
#[repr(C, align(4096))]
pub struct Area(UnsafeCell<[u8; MAX_CPUS * CPU_ROW_BYTES]>);

// SAFETY: no reference to the bytes is ever made, here or elsewhere; each stack is used by its own CPU alone.
unsafe impl Sync for Area {}

/// The stacks themselves. The section keeps them out of `.bss` proper, in the part of the image with 4 KiB pages.
#[link_section = ".bss.boot.stacks"]
pub static AREA: Area = Area(UnsafeCell::new([0; MAX_CPUS * CPU_ROW_BYTES]));

fn row(cpu: usize) -> usize {
    assert!(cpu < MAX_CPUS, "CPU {cpu} has no stacks");
    AREA.0.get() as usize + cpu * CPU_ROW_BYTES
}

/// The addresses of the main stack of `cpu`; it grows down from the end.
///
/// # Panics
/// If `cpu` is not below [`MAX_CPUS`].
pub fn main(cpu: usize) -> Range<usize> {
    let start = row(cpu) + PAGE_BYTES;
    start..start + MAIN_BYTES
}

/// The CPU that runs this, whichever of its stacks it is on.
///
/// # Panics
/// If it is on none of them.
#[inline]
pub fn current_cpu() -> usize {
    let cpu = cpu::stack_pointer().wrapping_sub(AREA.0.get() as usize) / CPU_ROW_BYTES;
    assert!(cpu < MAX_CPUS, "the stack pointer is nowhere");
    cpu
}

/// The addresses of trap stack `index` of `cpu`.
///
/// # Panics
/// If `cpu` or `index` is out of range.
pub fn trap(cpu: usize, index: usize) -> Range<usize> {
    assert!(index < TRAP_STACKS, "no trap stack {index}");
    let start = row(cpu) + PAGE_BYTES + MAIN_BYTES + index * TRAP_ROW_BYTES + PAGE_BYTES;
    start..start + TRAP_BYTES
}

/// The addresses of all guard pages.
pub fn guards() -> impl Iterator<Item = usize> {
    (0..MAX_CPUS).flat_map(|cpu| {
        let mains = core::iter::once(main(cpu).start);
        mains.chain((0..TRAP_STACKS).map(move |index| trap(cpu, index).start)).map(|start| start - PAGE_BYTES)
    })
}
