//! The processor instructions that Rust has no words for, each behind the narrowest function that does the job.

use core::arch::asm;

/// The flag that lets interrupts in.
const INTERRUPTS_ON: u64 = 1 << 9;

/// Reads the time stamp counter.
#[inline]
pub fn time_stamp() -> u64 {
    // SAFETY: RDTSC exists on every x86_64 processor and only reads.
    unsafe { core::arch::x86_64::_rdtsc() }
}

/// Runs a loop of two instructions so many times.
pub fn turn(turns: u64) {
    // SAFETY: counts a register down to zero and does nothing else.
    unsafe { asm!("2:", "dec {turns}", "jnz 2b", turns = inout(reg) turns.max(1) => _, options(nomem, nostack)) };
}

/// Stops this CPU for good.
pub fn halt_forever() -> ! {
    loop {
        // SAFETY: interrupts are off for good and nothing waits for this CPU any more; no memory is touched.
        unsafe { asm!("cli", "hlt", options(nomem, nostack)) };
    }
}

/// Waits for the next interrupt, which must be on its way: with interrupts off this is for ever.
pub fn wait_for_interrupt() {
    // SAFETY: the CPU goes on behind the instruction when a handler has run. Not `nomem`: others may change memory.
    unsafe { asm!("hlt", options(nostack, preserves_flags)) };
}

/// The stack pointer.
#[inline(always)]
pub fn stack_pointer() -> usize {
    let addr: usize;
    // SAFETY: copies a register.
    unsafe { asm!("mov {}, rsp", out(reg) addr, options(nomem, nostack, preserves_flags)) };
    addr
}

/// Whether the interrupt controller has an x2APIC mode.
pub fn has_x2apic() -> bool {
    core::arch::x86_64::__cpuid(1).ecx & 1 << 21 != 0
}

/// Whether interrupts are let in on this CPU.
pub fn interrupts_are_on() -> bool {
    let flags: u64;
    // SAFETY: copies the flags by way of the stack, which is left as it was.
    unsafe { asm!("pushfq", "pop {flags}", flags = out(reg) flags, options(preserves_flags)) };
    flags & INTERRUPTS_ON != 0
}

/// Lets interrupts in on this CPU.
pub fn interrupts_on() {
    // SAFETY: the caller has set up descriptor tables, without which this kernel does not come here; handlers change
    // nothing but counters of their own. Not `nomem`, so that earlier writes stay in front.
    unsafe { asm!("sti", options(nostack)) };
}

/// Turns interrupts off on this CPU, and returns its flags as they were before.
pub fn interrupts_off() -> u64 {
    let flags: u64;
    // SAFETY: in ring 0, and whatever an interrupt handler would do can wait. The stack is used and left as it was. Not
    // marked `nomem`, so that the compiler keeps accesses to memory behind it.
    unsafe { asm!("pushfq", "pop {flags}", "cli", flags = out(reg) flags) };
    flags
}

/// Turns interrupts on again if they were on in these flags, which [`interrupts_off`] returned.
pub fn interrupts_restore(flags: u64) {
    if flags & INTERRUPTS_ON != 0 {
        // SAFETY: they were on before, so the kernel can take them. Not marked `nomem`, so that the compiler keeps
        // accesses to memory in front of it. STI takes effect behind the instruction that follows it.
        unsafe { asm!("sti", "nop", options(nostack)) };
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
