//! Starting the other CPUs.
//!
//! A CPU that is told to start begins in real mode, in a page of the first megabyte. The code there loads a descriptor
//! table and leaves for the image, where the way is that of the first CPU: page tables, long mode, a stack. Stacks are
//! given out one at a time: the first CPU puts the top of one into [`MAILBOX`] and sends the message; whoever comes
//! takes it out. A CPU that comes too late finds nothing there and stops for good, so one that does not answer in time
//! can be left out without danger.
//!
//! ```text
//!   first CPU   MAILBOX = stack; INIT; wait; STARTUP (twice if need be) ... taken ... up
//!   other CPU                    real mode -> protected mode -> long mode; takes the stack; tables, timer; up; idle
//! ```

use core::arch::global_asm;
use core::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use crate::acpi::Cpus;
use crate::boot::{long_mode_on, CODE_DESCRIPTOR, CODE_SELECTOR, DATA_DESCRIPTOR, DATA_SELECTOR};
use crate::paging::PML4;
use crate::stacks::{self, MAX_CPUS, PAGE_BYTES};
use crate::start_info::Region;
use crate::{apic, crew, interrupts, println, time, traps};

/// Pages of the first megabyte that firmware leaves alone once it is through.
const TRAMPOLINE_PAGES: core::ops::Range<u8> = 0x08..0x80;
/// How long a CPU gets to answer. Emulated ones may have to wait for a real one.
const PATIENCE_US: u64 = 3_000_000;
const RESET_US: u64 = 10_000;
const REPEAT_US: u64 = 20_000;

/// The top of the stack for the next CPU that comes; 0 if none is expected.
static MAILBOX: AtomicU64 = AtomicU64::new(0);
static IS_UP: [AtomicBool; MAX_CPUS] = [const { AtomicBool::new(false) }; MAX_CPUS];

global_asm!(
    r#"
    .section .rodata.ap_trampoline, "a", @progbits
    .balign 16
    .code16
ap_trampoline:
    cli
    cld
    movw %cs, %ax
    movw %ax, %ds
    lgdtl (ap_gdt_pointer - ap_trampoline)
    movl %cr0, %eax
    orl $1, %eax                        // PE
    movl %eax, %cr0
    ljmpl ${code32}, $ap_protected
    .balign 8
ap_gdt_pointer:
    .word ap_gdt_end - ap_gdt - 1
    .long ap_gdt
ap_trampoline_end:

    .balign 8
ap_gdt:
    .quad 0
    .quad {code_descriptor}
    .quad {data_descriptor}
    .quad 0x00CF9A000000FFFF            // code, 32 bits
ap_gdt_end:

    .section .boot.text, "ax"
    .code32
ap_protected:
    movw ${data}, %ax
    movw %ax, %ds
    "#,
    long_mode_on!(),
    r#"
    ljmp ${code}, $ap_long_mode

    .code64
ap_long_mode:
    movw ${data}, %ax
    movw %ax, %ds
    movw %ax, %es
    movw %ax, %ss
    xorl %eax, %eax
    movw %ax, %fs
    movw %ax, %gs
    movabsq ${mailbox}, %rdx
    xchgq %rax, (%rdx)
    testq %rax, %rax
    jz 1f
    movq %rax, %rsp
    xorl %ebp, %ebp
    call {entry}
1:  cli
    hlt
    jmp 1b
    .text
    "#,
    code32 = const 0x18,
    code = const CODE_SELECTOR,
    data = const DATA_SELECTOR,
    code_descriptor = const CODE_DESCRIPTOR,
    data_descriptor = const DATA_DESCRIPTOR,
    pml4 = sym PML4,
    mailbox = sym MAILBOX,
    entry = sym ap_entry,
    options(att_syntax),
);

extern "C" {
    static ap_trampoline: u8;
    static ap_trampoline_end: u8;
}

/// Where another CPU arrives, on its own stack.
extern "C" fn ap_entry() -> ! {
    stacks::paint();
    let cpu = stacks::current_cpu();
    traps::init(cpu);
    apic::init(false);
    interrupts::start();
    IS_UP[cpu].store(true, Ordering::Release);
    crew::serve(cpu)
}

/// Starts all CPUs that there are stacks for, and has them wait for work. To be called once, on the first CPU, when
/// its interrupt controller runs.
pub fn start_all(cpus: Option<&Cpus>, regions: &[Region]) {
    let Some(cpus) = cpus else {
        println!("cpus: the firmware does not say how many there are; one is used");
        return;
    };
    let me = apic::id();
    if cpus.count > MAX_CPUS {
        println!("cpus: {} there, of which {MAX_CPUS} are used", cpus.count);
    }
    let others = cpus.apic_ids().iter().copied().filter(|&id| id != me);
    let Some(page) = TRAMPOLINE_PAGES.into_iter().find(|&page| is_ram(regions, page)) else {
        println!("cpus: no memory below 1 MiB to start others from; one is used");
        return;
    };
    if cpus.count > 1 {
        write_trampoline(page);
    }
    for (cpu, apic_id) in (1..MAX_CPUS).zip(others) {
        if start(cpu, apic_id, page) {
            crew::admit(cpu);
        } else {
            println!("cpus: CPU {cpu} (APIC id {apic_id}) does not answer and is left out");
        }
    }
    println!("cpus: {} of {} at work, {}, timer at {} Hz", crew::size(), cpus.count, apic::mode_name(), apic::TIMER_HZ);
}

fn is_ram(regions: &[Region], page: u8) -> bool {
    let start = u64::from(page) * PAGE_BYTES as u64;
    let end = start + PAGE_BYTES as u64;
    let mut overlapping = regions.iter().filter(|region| region.start < end && start < region.end).peekable();
    overlapping.peek().is_some()
        && overlapping.all(|region| region.is_ram() && region.start <= start && end <= region.end)
}

fn write_trampoline(page: u8) {
    let (from, end) = (&raw const ap_trampoline, (&raw const ap_trampoline_end) as usize);
    let len = end - from as usize;
    assert!(len <= PAGE_BYTES, "the trampoline is one page");
    let to = (usize::from(page) * PAGE_BYTES) as *mut u8;
    // SAFETY: the source is `len` bytes of constants. The target is a page of RAM below the image, mapped and writable,
    // of which `memory` hands out nothing and to which nothing else refers.
    unsafe { core::ptr::copy_nonoverlapping(from, to, len) };
}

/// Starts one CPU; whether it is up.
fn start(cpu: usize, apic_id: u32, page: u8) -> bool {
    let is_taken = || MAILBOX.load(Ordering::Acquire) == 0;
    MAILBOX.store(stacks::main(cpu).end as u64, Ordering::Release);
    apic::send_init(apic_id);
    time::wait_us(RESET_US);
    apic::send_startup(apic_id, page);
    if !wait_for(REPEAT_US, is_taken) {
        apic::send_startup(apic_id, page);
    }
    if !wait_for(PATIENCE_US, is_taken) && MAILBOX.swap(0, Ordering::AcqRel) != 0 {
        return false;
    }
    wait_for(PATIENCE_US, || IS_UP[cpu].load(Ordering::Acquire))
}

fn wait_for(patience_us: u64, is_so: impl Fn() -> bool) -> bool {
    let end_us = time::micros() + patience_us;
    while !is_so() {
        if time::micros() > end_us {
            return is_so();
        }
        core::hint::spin_loop();
    }
    true
}
