# From QEMU to Rust. The machine is in 32-bit mode, flat, without paging, interrupts off.
#
# The first 4 GiB are mapped to themselves in pages of 2 MiB, uncached from 3 GiB up, where devices are.

    .section .note.pvh, "a", @note
    .long 4, 8, 18                      # lengths of name and address; "the entry point"
    .asciz "Xen"
    .quad pvh_start

    .text
    .code32
    .global pvh_start
pvh_start:
    cld
    xor %eax, %eax
    mov $0x100000, %edi                 # pages for devices, up to the image, begin as zeroes
    mov $0x40000, %ecx
    rep stosl
    mov $bss_start, %edi                # and so do tables, stack and statics
    mov $bss_end, %ecx
    sub %edi, %ecx
    rep stosb

    movl $pdpt + 3, pml4
    mov $pdpt, %edi
    mov $directories + 3, %eax
1:  mov %eax, (%edi)
    add $8, %edi
    add $4096, %eax
    cmp $directories + 3 + 4 * 4096, %eax
    jne 1b

    mov $directories, %edi
    mov $0x83, %eax                     # present, writable, 2 MiB
2:  cmp $0xC0000000, %eax
    jb 3f
    or $0x18, %eax                      # uncached
3:  mov %eax, (%edi)
    add $8, %edi
    add $0x200000, %eax
    jnc 2b

    mov $pml4, %eax
    mov %eax, %cr3
    mov %cr4, %eax
    or $0x620, %eax                     # long page tables; SSE
    mov %eax, %cr4
    mov $0xC0000080, %ecx
    rdmsr
    or $0x100, %eax                     # long mode
    wrmsr
    mov %cr0, %eax
    and $0x9FFFFFFB, %eax               # caches on, no emulation
    or $0x80000003, %eax                # paging
    mov %eax, %cr0
    lgdt gdt_pointer
    ljmp $8, $long_mode

    .code64
long_mode:
    mov $16, %eax
    mov %eax, %ds
    mov %eax, %es
    mov %eax, %ss
    lea stack_end(%rip), %rsp
    call kernel
    ud2

    .section .rodata
    .balign 8
gdt:
    .quad 0, 0x00AF9A000000FFFF, 0x00CF92000000FFFF
gdt_pointer:
    .word . - gdt - 1
    .long gdt

    .bss
    .balign 4096
pml4:
    .skip 4096
pdpt:
    .skip 4096
directories:
    .skip 4 * 4096
    .skip 64 * 1024
stack_end:
