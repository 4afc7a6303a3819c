//! The processor instructions that Rust has no words for, each behind the narrowest function that does the job.

use core::arch::asm;

/// Reads the time stamp counter.
#[inline]
pub fn time_stamp() -> u64 {
    // SAFETY: RDTSC exists on every x86_64 processor and only reads.
    unsafe { core::arch::x86_64::_rdtsc() }
}

/// Stops this CPU for good.
pub fn halt_forever() -> ! {
    loop {
        // SAFETY: interrupts are off for good and nothing waits for this CPU any more; no memory is touched.
        unsafe { asm!("cli", "hlt", options(nomem, nostack)) };
    }
}

/// The address that the last page fault tripped over (CR2).
pub fn fault_address() -> u64 {
    let addr: u64;
    // SAFETY: reading CR2 in ring 0 has no side effect.
    unsafe { asm!("mov {}, cr2", out(reg) addr, options(nomem, nostack, preserves_flags)) };
    addr
}

/// Reloads CR3 with the value that it has, so that changed page table entries take effect on this CPU.
pub fn flush_tlb() {
    // SAFETY: the same tables stay in force; the caller-visible memory map changes only as `paging` wrote it. Not
    // marked `nomem`, so that the compiler keeps earlier table writes in front of it.
    unsafe { asm!("mov {tmp}, cr3", "mov cr3, {tmp}", tmp = out(reg) _, options(nostack, preserves_flags)) };
}
