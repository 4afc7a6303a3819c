//! The way from the hypervisor to Rust: PVH entry point, first page tables, long mode.
//!
//! QEMU finds an ELF note (name "Xen", type 18) and jumps to the address in it: 32-bit protected mode, flat segments,
//! paging off, interrupts off, `ebx` = physical address of the start information. The code below
//!
//! 1. builds an identity map of the first 4 GiB out of 2 MiB pages, uncached from 0xB000_0000 up, where q35 has its
//!    PCI configuration window and device memory and never RAM;
//! 2. enters long mode with write protection and no-execute available;
//! 3. zeroes the stacks and `.bss`. The loader has done so too, but firmware runs between the loader and us and uses
//!    memory near the top of RAM as scratch, which a large `.bss` may reach;
//! 4. makes sure that RAM reaches to the end of the image;
//! 5. calls [`kernel_entry`](crate::kernel_entry) on the first CPU's stack with the address from `ebx`.
//!
//! Step 1 leaves every page writable and executable; `paging::init` tightens that. Interrupts stay off until
//! `interrupts` lets those of the timer in. How the other CPUs come is in `ap.rs`.

use core::arch::global_asm;

use crate::outcome::Outcome;
use crate::paging::{FIRST_UNCACHED, PDPT, PDS, PML4, UNCACHED_BITS};
use crate::stacks::{AREA, BOOT_TOP_OFFSET};

/// Selector of the 64-bit code segment; `traps.rs` keeps it when it loads the final descriptor table.
pub const CODE_SELECTOR: u16 = 0x08;
/// Selector of the data segment.
pub const DATA_SELECTOR: u16 = 0x10;
/// Descriptor of a 64-bit, ring 0 code segment.
pub const CODE_DESCRIPTOR: u64 = 0x00AF_9A00_0000_FFFF;
/// Descriptor of a flat, ring 0 data segment.
pub const DATA_DESCRIPTOR: u64 = 0x00CF_9200_0000_FFFF;

/// From 32-bit protected mode to the brink of long mode, which the far jump that follows enters: the same on each CPU.
/// Wants the operand `pml4`; takes `eax`, `ecx` and `edx`.
macro_rules! long_mode_on {
    () => {
        r#"
    movl %cr4, %eax
    orl $0x620, %eax                    // PAE, OSFXSR, OSXMMEXCPT
    movl %eax, %cr4
    movl ${pml4}, %eax
    movl %eax, %cr3
    movl $0xC0000080, %ecx              // EFER: long mode, no-execute
    rdmsr
    orl $0x900, %eax
    wrmsr
    movl %cr0, %eax
    andl $0x9FFFFFFB, %eax              // caches on, no x87 emulation
    orl $0x80010003, %eax               // PG, WP, MP, PE
    movl %eax, %cr0
        "#
    };
}
pub(crate) use long_mode_on;

global_asm!(
    r#"
    .section .note.pvh, "a", @note
    .balign 4
    .long 4                             // bytes of the name, with its zero
    .long 8                             // bytes of the descriptor
    .long 18                            // XEN_ELFNOTE_PHYS32_ENTRY
    .asciz "Xen"
    .quad pvh_start

    .section .boot.text, "ax"
    .code32
    .global pvh_start
pvh_start:
    cli
    cld
    movl %ebx, %ebp                     // the start information survives in ebp

    // All six tables lie in one section: zero them, then link PML4[0] -> PDPT -> four directories.
    movl $__tables_start, %edi
    movl $__tables_end, %ecx
    subl %edi, %ecx
    shrl $2, %ecx
    xorl %eax, %eax
    rep stosl

    movl ${pdpt}, %eax
    orl $3, %eax
    movl %eax, {pml4}
    movl ${pds}, %eax
    orl $3, %eax
    movl ${pdpt}, %edi
    movl $4, %ecx
1:  movl %eax, (%edi)
    addl $0x1000, %eax
    addl $8, %edi
    loop 1b

    movl ${pds}, %edi
    movl $0x83, %eax                    // present, writable, 2 MiB page
    movl $2048, %ecx
2:  cmpl ${first_uncached}, %eax
    jb 3f
    orl ${uncached}, %eax
3:  movl %eax, (%edi)
    addl $0x200000, %eax
    addl $8, %edi
    loop 2b

    "#,
    long_mode_on!(),
    r#"
    lgdt boot_gdt_pointer
    ljmp ${code}, $long_mode

    .code64
long_mode:
    movw ${data}, %ax
    movw %ax, %ds
    movw %ax, %es
    movw %ax, %ss
    xorl %eax, %eax
    movw %ax, %fs
    movw %ax, %gs
    movabsq $__zero_start, %rdi
    movabsq $__image_end, %rcx
    subq %rdi, %rcx
    shrq $6, %rcx                       // both ends are page aligned
4:  movq %rax, (%rdi)                   // eight stores a turn: emulators repeat string instructions slowly
    movq %rax, 8(%rdi)
    movq %rax, 16(%rdi)
    movq %rax, 24(%rdi)
    movq %rax, 32(%rdi)
    movq %rax, 40(%rdi)
    movq %rax, 48(%rdi)
    movq %rax, 56(%rdi)
    addq $64, %rdi
    decq %rcx
    jnz 4b

    // Is there memory up to the end of the image? Without it, nothing in .bss can be relied on, not even the means to
    // report an error, so this is said from here.
    movabsq $__image_end - 8, %rdi
    movq %rdi, (%rdi)
    movq (%rdi), %rcx
    movq %rax, (%rdi)
    cmpq %rdi, %rcx
    jne too_little_memory

    movabsq ${stacks} + {boot_top}, %rsp
    movl %ebp, %edi                     // zero-extends: the address is below 4 GiB
    xorl %ebp, %ebp
    call {entry}
    ud2

too_little_memory:
    movabsq $too_little_memory_text, %rsi
    movl $too_little_memory_end - too_little_memory_text, %ecx
    movw $0x3F8, %dx                    // the first serial port, as firmware left it
    rep outsb
    movl ${machine}, %eax
    movw $0xF4, %dx                     // isa-debug-exit
    outl %eax, %dx
5:  hlt
    jmp 5b

    .section .rodata.boot_text, "a", @progbits
too_little_memory_text:
    .ascii "kernel-demo: error: too little memory for the kernel image\n"
    .ascii "kernel-demo: outcome {machine} (unsuitable machine)\n"
too_little_memory_end:

    .section .rodata.boot_gdt, "a", @progbits
    .balign 8
boot_gdt:
    .quad 0
    .quad {code_descriptor}
    .quad {data_descriptor}
boot_gdt_pointer:
    .word . - boot_gdt - 1
    .long boot_gdt
    .text
    "#,
    pml4 = sym PML4,
    pdpt = sym PDPT,
    pds = sym PDS,
    first_uncached = const FIRST_UNCACHED,
    uncached = const UNCACHED_BITS,
    code = const CODE_SELECTOR,
    data = const DATA_SELECTOR,
    code_descriptor = const CODE_DESCRIPTOR,
    data_descriptor = const DATA_DESCRIPTOR,
    stacks = sym AREA,
    boot_top = const BOOT_TOP_OFFSET,
    entry = sym crate::kernel_entry,
    machine = const Outcome::Machine as u8,
    options(att_syntax),
);
