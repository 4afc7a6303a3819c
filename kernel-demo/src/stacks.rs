//! Where the stacks are.
//!
//! Each CPU has one main stack and one stack for each kind of fatal trap, so that a trap can be reported even when the
//! main stack is what broke; and one for the timer's interrupts, so that they take nothing of what they interrupt.
//! Below each stack lies a guard page, which `paging::init` unmaps: an overflow is a page fault and never silent
//! damage.
//!
//! ```text
//! | guard | main stack | guard | trap stack 0 | guard | trap stack 1 | ...      one such row per CPU
//! ```
//!
//! The bytes belong to the CPUs. Nobody makes references to them.
//!
//! How deep a stack has been is seen from paint: words of a pattern, put where the stack has not been yet. [`paint`]
//! does so for the rest of the CPU's main stack, and [`deepest`] looks how much of it is left; [`measure`] does both
//! around one call. Interrupts and traps have stacks of their own and leave no trace.

use core::arch::asm;
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

/// What untouched words of a main stack hold after [`paint`].
const PAINT: u64 = 0x5AFE_57AC_5AFE_57AC;
/// Bytes below the stack pointer that [`measure`] paints: more than any call of interest takes.
const MEASURED_BYTES: usize = 32 << 10;

/// Paints the bytes of this CPU's main stack from `start` to the stack pointer; returns the latter.
#[inline(never)]
fn paint_from(start: usize) -> usize {
    let end: usize;
    // SAFETY: `start` lies on the main stack that this CPU runs on, above its guard page and below the stack pointer,
    // and nothing below the stack pointer is in use: there is no red zone, interrupts have other stacks, and nothing is
    // pushed in between.
    unsafe {
        asm!(
            "mov {end}, rsp",
            "2:",
            "cmp {at}, {end}",
            "jae 3f",
            "mov [{at}], {paint}",
            "add {at}, 8",
            "jmp 2b",
            "3:",
            at = inout(reg) start => _,
            end = out(reg) end,
            paint = in(reg) PAINT,
            options(nostack)
        );
    }
    end
}

/// The first word between the two addresses that is not painted.
fn first_used(range: Range<usize>) -> usize {
    // SAFETY: the addresses are aligned words of a main stack, which always holds something. Another CPU may be writing
    // to it; a volatile read of one word then sees the old or the new one.
    let is_painted = |addr: &usize| unsafe { core::ptr::read_volatile(*addr as *const u64) } == PAINT;
    let words = range.clone().step_by(8);
    words.take_while(is_painted).last().map_or(range.start, |addr| addr + 8)
}

fn main_below_pointer(cpu: usize) -> Range<usize> {
    let (main, pointer) = (main(cpu), cpu::stack_pointer());
    assert!(main.contains(&pointer), "CPU {cpu} is not on its main stack");
    main.start..pointer
}

/// Paints what this CPU has not used yet of its main stack, which it must be on.
///
/// # Panics
/// If it is on another one.
pub fn paint() {
    paint_from(main_below_pointer(current_cpu()).start);
}

/// The most bytes that the main stack of `cpu` has held since it was painted.
pub fn deepest(cpu: usize) -> usize {
    let main = main(cpu);
    main.end - first_used(main.clone())
}

/// Calls `body` and measures how many bytes of the stack it takes, those of the call included.
///
/// # Panics
/// If the CPU is not on its main stack, or has too little of it left.
#[inline(never)]
pub fn measure<R>(body: impl FnOnce() -> R) -> (R, usize) {
    let end = cpu::stack_pointer();
    let below = main_below_pointer(current_cpu());
    assert!(below.len() > 2 * MEASURED_BYTES, "too little stack is left to measure on");
    let start = (end - MEASURED_BYTES) & !7;
    paint_from(start);
    let result = body();
    (result, end - first_used(start..end & !7))
}

/// The addresses of all guard pages.
pub fn guards() -> impl Iterator<Item = usize> {
    (0..MAX_CPUS).flat_map(|cpu| {
        let mains = core::iter::once(main(cpu).start);
        mains.chain((0..TRAP_STACKS).map(move |index| trap(cpu, index).start)).map(|start| start - PAGE_BYTES)
    })
}
